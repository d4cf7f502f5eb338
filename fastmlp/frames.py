"""Data frames of pandas and polars, which are not imported: their columns as arrays, with errors that name a cell.

A frame holds samples as rows, whereas arrays of fastmlp hold them as columns.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from typing import Any, NoReturn, Protocol, TypeAlias, TypeGuard

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded, classes

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_ENCODE = "correct it, or encode the column with fastmlp.preprocessing.fit, or leave it out"


class Frame(Protocol):
    """A data frame of pandas or polars."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""

    @property
    def columns(self) -> Any:
        """The names of the columns."""

    def to_numpy(self) -> Array:
        """Return the rows as an array."""


def is_frame(x: object, argument: str = "X") -> TypeGuard[Frame]:
    """Return whether ``x`` is a data frame.

    Raises
    ------
    TypeError
        If it is a lazy frame of polars.
    """
    kind: Any = type(x)  # its attributes: those of a lazy frame would begin to compute
    if _has(kind, "collect_schema", "collect"):
        got, remedy = f"a {kind.__name__}", "call its .collect()"
        raise TypeError(checks.message(argument, got, "a frame with its rows", remedy))
    return _has(kind, "columns", "dtypes", "to_numpy")


@functools.lru_cache(maxsize=64)
def _has(kind: Any, *attributes: str) -> bool:
    return all(hasattr(kind, name) for name in attributes)


def names(frame: Frame) -> tuple[str, ...]:
    """Return the names of the columns; none unless all are text, as pandas numbers columns that have no names."""
    found = tuple(frame.columns)
    return found if all(isinstance(name, str) for name in found) else ()


def numbers(argument: str, frame: Frame) -> Array:
    """Return the columns of a frame as the rows of an array (n_features, m), all in one dtype.

    Raises
    ------
    TypeError
        If a column holds text, dates or other objects; the message names the column and the row.
    ValueError
        If a value is missing, likewise; if two columns have the same name, or there are none.
    """
    columns = [_numbers(argument, frame, *one) for one in _columns(argument, frame)]
    return np.stack(columns) if columns[0].size else np.empty((len(columns), 0))


def text_columns(argument: str, frame: Frame) -> list[int]:
    """Return the columns of text, and those declared to hold categories, by their places."""
    return [at for at, (_, column) in enumerate(_columns(argument, frame)) if _is_text(column)]


def raw(argument: str, frame: Frame, categories: Collection[int]) -> tuple[Array, dict[int, tuple[str, ...]]]:
    """Return the rows of a frame, with categories as numbers, and the categories of each column that has some.

    Parameters
    ----------
    argument : str
        The argument, for messages.
    frame : Frame
        The frame, m rows of n columns.
    categories : collection of int
        The columns that hold categories, by their places.

    Returns
    -------
    x : ndarray of float64, shape (m, n)
        The values; a category is its place in ``words``.
    words : dict of int to tuple of str
        The categories of each column, in alphabetical order.
    """
    x, words = np.empty(frame.shape), {}
    for at, (name, column) in enumerate(_columns(argument, frame)):
        if at in categories:
            cells = _words(argument, frame, name, column)
            words[at] = tuple(sorted(set(cells)))
            place = {word: i for i, word in enumerate(words[at])}
            x[:, at] = [place[cell] for cell in cells]
        else:
            x[:, at] = _numbers(argument, frame, name, column)
    return x, words


def targets(argument: str, y: Any) -> Any:
    """Return labels or targets as an array with samples as columns if they are a frame or its column, else as given."""
    if is_frame(y, argument):
        found = numbers(argument, y)
        return found[0] if len(found) == 1 else found
    if not isinstance(y, np.ndarray) and hasattr(y, "dtype") and hasattr(y, "to_numpy") and len(y):
        values = np.asarray(y)
        if values.dtype.kind not in "biu" and not _is_text(y):
            return _numbers(argument, y, getattr(y, "name", None), y)
    return y


def check_names(argument: str, given: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Raise ValueError unless a frame has the columns of another one, in their order; frames without names do."""
    if not given or not wanted or given == wanted:
        return
    missing, strange = (
        [one for one in these if one not in others] for these, others in ((wanted, given), (given, wanted))
    )
    parts = [f"no column {_listed(missing)}"] if missing else []
    parts += [f"the unknown column {_listed(strange)}"] if strange else []
    got = " and ".join(parts) or f"the columns {_listed(given)}"
    expected = f"{'' if missing or strange else 'them in the order '}{_listed(wanted)}, as in training"
    raise ValueError(checks.message(argument, got, expected, "select them by name: X[list(model.features)]"))


def _listed(names: Iterable[str]) -> str:
    return bounded.brief(", ".join(map(repr, names)))


def _columns(argument: str, frame: Frame) -> list[tuple[Any, Any]]:
    """Return names and columns, all of which have different names."""
    labels = list(frame.columns)
    bounded.refuse_twins(argument, labels)
    if not labels:
        raise ValueError(checks.message(argument, "a frame without columns", "at least one", "pass features"))
    source: Any = frame
    return [(name, source[name]) for name in labels]


def _numbers(argument: str, frame: Any, name: Any, column: Any) -> Array:
    """Return a column of numbers (m,), none of which is missing."""
    values = np.asarray(column)
    if values.dtype.kind in "biu":
        return values
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        if missing.any():
            _refuse_missing(argument, frame, name, int(np.argmax(missing)))
        return values
    if values.dtype.kind != "O":
        values = values.astype(object) if values.dtype.kind in "TU" else values
    if values.dtype.kind != "O":
        remedy = "convert it to numbers, such as days since some date, or leave the column out"
        raise TypeError(checks.message(_place(argument, name), f"dtype {values.dtype}", "numbers", remedy))
    return np.array([_number(argument, frame, name, row, cell) for row, cell in enumerate(values.tolist())], np.float64)


def _number(argument: str, frame: Any, name: Any, row: int, cell: Any) -> float:
    if _is_missing(cell):
        _refuse_missing(argument, frame, name, row)
    try:
        if not isinstance(cell, (str, bytes)):
            return float(cell)
    except (TypeError, ValueError):
        pass
    where, got = _place(argument, name, frame, row), f"{type(cell).__name__} {bounded.brief(repr(cell))}"
    raise TypeError(checks.message(where, got, "a number", _ENCODE))


def _words(argument: str, frame: Any, name: Any, column: Any) -> list[str]:
    """Return the cells of a column of categories as words; numbers have one spelling."""
    cells = np.asarray(column).tolist()
    missing = next((row for row, cell in enumerate(cells) if _is_missing(cell)), None)
    if missing is not None:
        _refuse_missing(argument, frame, name, missing)
    return [cell if isinstance(cell, str) else classes.spelled(str(cell)) for cell in cells]


def _is_text(column: Any) -> bool:
    """Return whether a column holds words, or is declared to hold categories."""
    if str(column.dtype).lower().startswith(("cat", "enum")):
        return True
    values = np.asarray(column)
    return values.dtype.kind in "OTU" and any(isinstance(cell, str) for cell in values.tolist())


def _is_missing(cell: Any) -> bool:
    # pandas.NA is neither equal nor unequal to anything.
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and cell != cell)


def _refuse_missing(argument: str, frame: Any, name: Any, row: int) -> NoReturn:
    remedy = "fill it in, as with frame.fillna or fill_null, or drop the row"
    raise ValueError(checks.message(_place(argument, name, frame, row), "no value", "a value", remedy))


def _place(argument: str, name: Any, frame: Any = None, row: int | None = None) -> str:
    """Return the place of a column or a cell in words; rows have the labels of pandas, or else are counted from 0."""
    column = "" if name is None else f", column {bounded.brief(repr(name))}"
    if row is None:
        return argument + column
    index = getattr(frame, "index", None)
    label = row if index is None or callable(index) else index[row]
    shown = repr(label) if isinstance(label, str) else str(label)
    return f"{argument}{column}, row {bounded.brief(shown)}"
