"""Tables: columns of numbers, and one column of labels, which may be integers or text.

No guess about a table is silent: `Table.remarks` says which column holds the labels, and why. A column that cannot hold
labels is refused.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded, classes, delimited

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SUFFIXES = (".csv", ".tsv", ".txt")  #: Each plain, or with ``.gz``.

_LABEL_NAMES = ("label", "labels", "class", "target")
_NAMED = 8  # largest number of classes named in a remark
_CHOOSE = 'name the label\'s column: --label first, last or NAME (in Python label="last")'


class Table(NamedTuple):
    """The contents of a table.

    Attributes
    ----------
    features : ndarray, shape (m, n_features)
        uint8 if all are integers from 0 to 255, else float64; all finite.
    labels : ndarray of int64, shape (m,)
        The class of each line, counted from 0 in the order of ``names``.
    names : tuple of str
        The label of each class, in numerical or alphabetical order.
    label : str
        The label's column, as `read` accepts it.
    remarks : tuple of str
        How the table was interpreted.
    """

    features: Array
    labels: Array
    names: tuple[str, ...]
    label: str
    remarks: tuple[str, ...]


def read(path: Path, label: str | None = None) -> Table:
    """Read a table, plain or gzip-compressed, with labels in one column and numbers in all others.

    Parameters
    ----------
    path : Path
        The file. Columns are separated by the first of tab, semicolon and comma that occurs in its first line. Cells
        may be quoted. The first line may name the columns. Empty lines are skipped, and so is a first column without
        a name, which is the index that pandas and R write.
    label : str, optional
        The label's column: ``"first"``, ``"last"`` or a name from the first line. By default, it is the column named
        label, class or target; else the only column of text; else the first column, if it holds integers that repeat.

    Returns
    -------
    Table
        ``features, labels, names, label, remarks``.

    Raises
    ------
    ValueError
        If lines have different numbers of cells, a value is missing, a feature is not a number, the label's column
        does not hold labels, or the file is damaged.
    OSError
        If the file cannot be read.
    """
    content = bounded.source(path)
    bounded.refuse_page(content.name, bounded.head(content, 64))
    layout = delimited.layout_of(content)
    chosen, why = _chosen(layout, label)
    texts: dict[str, int] = {}
    try:
        cells = delimited.read(content, layout, None, texts)
    except delimited.TextError as cell:
        found = cell.column if chosen is None else chosen
        cells = _read_with_text(content, layout, found, texts, cell)
        if chosen is None and any(delimited.number_in(text) is not None for text in texts):
            raise _refusal(layout, cell, "a number, as in other lines", f"correct it, or {_CHOOSE}") from None
        chosen, why = (found, "the only column of text") if chosen is None else (chosen, why)
    if chosen is None:
        chosen, why = _first_or_refuse(layout, cells)
    labels, names = _encoded(layout, chosen, cells[:, chosen], tuple(texts))
    if label is None and len(names) > len(cells) / 2:
        where, got = f"{layout.file}, {layout.name(chosen)}", _repeats(len(names), len(cells))
        raise ValueError(checks.message(where, got, "labels that repeat", _CHOOSE))
    remarks = _remarks(layout, chosen, why, names)
    return Table(_features(layout, cells, chosen), labels, names, _spelled(layout, chosen), remarks)


def is_table(path: Path) -> bool:
    """Return whether a file's name has a suffix of tables."""
    return path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _chosen(layout: delimited.Layout, label: str | None) -> tuple[int | None, str]:
    """Return the label's column if the argument or the header decides it, else None; and the reason."""
    if label is None:
        named = [i for i, name in enumerate(layout.header) if name.casefold() in _LABEL_NAMES]
        return (named[0], "by its name") if len(named) == 1 else (None, "")
    if label in layout.header:
        return layout.header.index(label), ""
    if label not in ("first", "last"):
        got = f"{bounded.brief(repr(label))} for {layout.file}"
        names = f" or one of: {bounded.brief(', '.join(layout.header))}" if layout.header else ": no line names columns"
        raise ValueError(checks.message("label", got, f"first, last{names}", "check its spelling"))
    return (layout.first if label == "first" else layout.columns - 1), ""


def _read_with_text(
    content: bounded.Source, layout: delimited.Layout, label: int, texts: dict[str, int], cell: delimited.TextError
) -> Array:
    """Read the table again after a cell turned out to be text, which is allowed in the label's column only."""
    try:
        if cell.column == label:
            return delimited.read(content, layout, label, texts)
    except delimited.TextError as other:
        cell = other
    expected = f"a number, because only the label ({layout.name(label)}) may be text"
    raise _refusal(layout, cell, expected, f"replace the text of this column by numbers, or {_CHOOSE}")


def _refusal(layout: delimited.Layout, cell: delimited.TextError, expected: str, remedy: str) -> ValueError:
    where = f"{layout.file}, line {cell.line}, {layout.name(cell.column)}"
    return ValueError(checks.message(where, bounded.brief(repr(cell.cell)), expected, remedy))


def _first_or_refuse(layout: delimited.Layout, cells: Array) -> tuple[int, str]:
    """Return the first column and the reason, or raise ValueError if it does not look like labels."""
    first, last = cells[:, layout.first], cells[:, -1]
    other = layout.columns > layout.first + 2 and _looks_like_labels(last)
    if _looks_like_labels(first):
        return layout.first, f"the first column{'; the last looks like labels too: --label last' if other else ''}"
    hint = "the last column looks like labels: --label last" if other else _CHOOSE
    expected = "labels in the first column: integers or text that repeat"
    raise ValueError(checks.message(f"{layout.file}, {layout.name(layout.first)}", _doubt(first), expected, hint))


def _looks_like_labels(column: Array) -> bool:
    return bool((column == np.floor(column)).all()) and 2 <= np.unique(column).size <= column.size / 2


def _doubt(column: Array) -> str:
    """Say why a column does not look like labels."""
    fractions = column[column != np.floor(column)]
    if fractions.size:
        return str(fractions[0])
    if (column == column[0]).all():
        return f"only {column[0]:.0f}"
    return _repeats(np.unique(column).size, column.size)


def _repeats(values: int, lines: int) -> str:
    return f"{values} different values in {lines} lines" if lines > 1 else "one line"


def _features(layout: delimited.Layout, cells: Array, label: int) -> Array:
    features = np.delete(cells, [*range(layout.first), label], axis=1)
    if not features.shape[1]:
        got, remedy = "only labels", "add columns of features"
        raise ValueError(checks.message(layout.file, got, delimited.TABLE, remedy))
    return delimited.compact(features)


def _encoded(
    layout: delimited.Layout, column: int, values: Array, texts: tuple[str, ...]
) -> tuple[Array, tuple[str, ...]]:
    """Return the class of each line and the names of the classes."""
    where = f"{layout.file}, {layout.name(column)}"
    if texts:
        return classes.of_texts(where, values.astype(np.int64), texts)
    (codes,), names = classes.of_integers(where, values)
    return codes, names


def _spelled(layout: delimited.Layout, column: int) -> str:
    if layout.header:
        return layout.header[column]
    return {layout.first: "first", layout.columns - 1: "last"}.get(column, "")


def _remarks(layout: delimited.Layout, column: int, why: str, names: tuple[str, ...]) -> tuple[str, ...]:
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    remarks = [f"label: {layout.name(column)}{f' ({why})' if why else ''}, {len(names)} classes: {shown}"]
    if layout.first:
        remarks.append("the first column has no name: treated as an index and ignored")
    if layout.header and any(delimited.number_in(name) is not None for name in layout.header):
        remarks.append("the first line numbers the columns: treated as their names")
    return tuple(remarks)
