"""Tables: columns of numbers and of categories, and one column of labels or of a target.

No guess about a table is silent: `Table.remarks` says which column holds the labels, and why, and which columns hold
categories. A column that cannot hold labels is refused.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded, classes, delimited
from fastmlp.datasets.delimited import Layout, Words

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SUFFIXES = (".csv", ".tsv", ".txt")  #: Each plain, or with ``.gz``.

_LABEL_NAMES = ("label", "labels", "class", "target")
_NAMED = 8  # largest number of classes named in a remark
_CHOOSE = 'name the label\'s column: --label first, last or NAME (in Python label="last")'
_PREDICT = "or predict numbers: --target NAME (in Python target=NAME)"
_TEXT = "the only column of text"
_FEW_CATEGORIES = 10  # in a short table; more in half as many lines are taken for identifiers


class Roles(NamedTuple):
    """What the columns of a table are for, as far as it is given; ``"first"``, ``"last"`` or names.

    Attributes
    ----------
    label : str or None
        The column of labels.
    target : str or None
        The column of numbers to predict, instead of a label.
    categories : tuple of str
        Columns whose numbers stand for categories.
    ignored : tuple of str
        Columns that are not read.
    """

    label: str | None = None
    target: str | None = None
    categories: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class Known(NamedTuple):
    """The columns of features that a model takes.

    Attributes
    ----------
    names : tuple of str
        Their names; empty if the table that the model learnt from names no columns.
    width : int
        Their number.
    categories : frozenset of int
        Those that hold categories, by their place among the features.
    label : str
        The column of labels or of the target in the model's training.
    is_regression : bool
        Whether that column is a target.
    first_index : int or None
        The index of the first feature of an svmlight file in the model's training; None if it learnt from another one.
    """

    names: tuple[str, ...]
    width: int
    categories: frozenset[int]
    label: str = ""
    is_regression: bool = False
    first_index: int | None = None


class Table(NamedTuple):
    """The contents of a table.

    Attributes
    ----------
    features : ndarray, shape (m, n_features)
        uint8 if all are integers from 0 to 255 and no column holds categories, else float64; all finite. A category is
        its place in ``words``.
    labels : ndarray, shape (m,)
        int64, the class of each line, counted from 0 in the order of ``names``; or float64, the target of each line.
    names : tuple of str
        The label of each class, in numerical or alphabetical order; empty for a target.
    label : str
        The column of labels or of the target, as `read` accepts it.
    remarks : tuple of str
        How the table was interpreted.
    columns : tuple of str
        The names of the features; empty if the table names no columns.
    words : dict of int to tuple of str
        The categories of each feature that has some, in alphabetical order.
    """

    features: Array
    labels: Array
    names: tuple[str, ...]
    label: str
    remarks: tuple[str, ...]
    columns: tuple[str, ...] = ()
    words: dict[int, tuple[str, ...]] = {}  # noqa: RUF012 - never changed


def read(path: Path, roles: Roles | None = None, known: Known | None = None) -> Table:
    """Read a table, plain or gzip-compressed: labels or a target in one column, numbers and categories in the others.

    Parameters
    ----------
    path : Path
        The file. Columns are separated by the first of tab, semicolon and comma that occurs in its first line. Cells
        may be quoted. The first line may name the columns. Empty lines are skipped, and so is a first column without
        a name, which is the index that pandas and R write.
    roles : Roles, optional
        What columns are for. By default, the label's column is the one named label, class or target; else the only
        column of text; else the first column, if it holds integers that repeat. Other columns of text hold categories.
    known : Known, optional
        The features of a model, which are found by their names, in any order, or else by their places.

    Returns
    -------
    Table
        Its contents.

    Raises
    ------
    ValueError
        If lines have different numbers of cells, a value is missing, a column mixes numbers and words, the label's
        column does not hold labels, a column that the model takes is missing, or the file is damaged.
    OSError
        If the file cannot be read.
    """
    roles = roles or Roles()
    content, layout = _opened(path, roles)
    chosen, why = _chosen(layout, roles)
    features, kinds = None, _kinds(content, layout, roles, chosen)
    if chosen is None:
        chosen, why = _only_text(layout, kinds, () if known is None else known.names)
    if known is not None and (known.names or known.categories):
        features = _selected(layout, known, _given(layout, chosen))
        kinds = _kinds_of_model(features, known, {chosen: kinds[chosen]} if chosen in kinds else {})
        layout = _only(layout, features, chosen)
    decided = chosen is not None and why != _TEXT
    label = chosen if decided and roles.target is None else None
    cells, words = _cells(content, layout, kinds, label, _wanted(decided, features is not None))
    if chosen is None:
        chosen, why = _first_or_refuse(layout, cells, words)
    labels, names = _encoded(layout, chosen, cells[:, chosen], words.pop(chosen, None), roles.target is not None)
    if roles.label is None and len(names) > len(cells) / 2:
        where, got = f"{layout.file}, {layout.name(chosen)}", _repeats(len(names), len(cells))
        raise ValueError(checks.message(where, got, "labels that repeat", f"{_CHOOSE}; {_PREDICT}"))
    table = _features(layout, cells, [i for i in layout.used if i != chosen] if features is None else features, words)
    remarks = _remarks(layout, chosen, why, names), *_more_remarks(layout, words)
    return table._replace(labels=labels, names=names, label=_spelled(layout, chosen), remarks=remarks)


def read_features(path: Path, known: Known) -> Table:
    """Read the features that a model takes from a table with or without labels; other columns are ignored."""
    content, layout = _opened(path, Roles())
    features = _selected(layout, known, None)
    layout = _only(layout, features, None)
    cells, words = _cells(content, layout, _kinds_of_model(features, known, {}), None, _wanted(True, True))
    return _features(layout, cells, features, words)


def is_table(path: Path) -> bool:
    """Return whether a file's name has a suffix of tables."""
    return path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _opened(path: Path, roles: Roles) -> tuple[bounded.Source, Layout]:
    """Return a file and its layout, without the columns to ignore."""
    content = bounded.source(path)
    bounded.refuse_page(content.name, bounded.head(content, 64))
    layout = delimited.layout_of(content)
    ignored = frozenset(_column(layout, "ignore", name) for name in roles.ignored)
    layout = layout._replace(ignored=ignored)
    if layout.header:
        bounded.refuse_twins(layout.file, [layout.header[column] for column in layout.used])
    return content, layout


def _column(layout: Layout, argument: str, name: str) -> int:
    """Return the column of a name, or of ``first`` and ``last``."""
    columns = [layout.header[column] for column in layout.used] if layout.header else []
    if name in columns:
        return layout.used[columns.index(name)]
    if name not in ("first", "last"):
        got = f"{bounded.brief(repr(name))} for {layout.file}"
        names = f" or one of: {bounded.brief(', '.join(columns))}" if columns else ": no line names columns"
        raise ValueError(checks.message(argument, got, f"first, last{names}", "check its spelling"))
    return layout.used[0] if name == "first" else layout.used[-1]


def _chosen(layout: Layout, roles: Roles) -> tuple[int | None, str]:
    """Return the column of label or target if an argument or the header decides it, else None; and the reason."""
    if roles.target is not None:
        return _column(layout, "target", roles.target), ""
    if roles.label is not None:
        return _column(layout, "label", roles.label), ""
    named = [i for i in layout.used if layout.header and layout.header[i].casefold() in _LABEL_NAMES]
    return (named[0], "by its name") if len(named) == 1 else (None, "")


def _kinds(content: bounded.Source, layout: Layout, roles: Roles, chosen: int | None) -> dict[int, str]:
    """Return the kinds of the columns of words, found in the first line of data."""
    first = delimited.first_row(content, layout)
    kinds = {i: "found" for i in layout.used if first and delimited.is_word(first[i])}
    kinds |= dict.fromkeys((_column(layout, "category", name) for name in roles.categories), "chosen")
    if chosen is None or (chosen not in kinds):
        return kinds
    if roles.target is not None:
        where, got = f"{layout.file}, {layout.name(chosen)}", f"words, such as {bounded.brief(repr(first[chosen]))}"
        got = got if kinds[chosen] == "found" else "categories"
        remedy = "name a column of numbers, or predict classes: --label NAME (in Python label=NAME)"
        raise ValueError(checks.message(where, got, "numbers, because it is the target", remedy))
    return kinds | {chosen: "label"}


def _given(layout: Layout, chosen: int | None) -> int:
    """Return the column of the labels; raise ValueError if it is not known, or else it would count as a feature."""
    if chosen is None:
        raise ValueError(checks.message(layout.file, "no column that is known to hold labels", "one", _CHOOSE))
    return chosen


def _only_text(layout: Layout, kinds: dict[int, str], features: tuple[str, ...]) -> tuple[int | None, str]:
    """Return the only column of words besides ``features`` as that of the labels; raise ValueError if there are two."""
    found = [column for column, kind in kinds.items() if kind == "found"]
    found = [column for column in found if not (layout.header and layout.header[column] in features)]
    if len(found) > 1:
        names = bounded.brief(", ".join(map(layout.name, found)))
        remedy = f"{_CHOOSE}; the others become categories"
        raise ValueError(checks.message(layout.file, f"several columns of text: {names}", "one for the label", remedy))
    if not found:
        return None, ""
    kinds[found[0]] = "label"
    return found[0], _TEXT


def _selected(layout: Layout, known: Known, chosen: int | None) -> list[int]:
    """Return the columns of a model's features, in its order."""
    used = [column for column in layout.used if column != chosen]
    if known.names and layout.header:
        places = {layout.header[column]: column for column in layout.used}
        missing = [name for name in known.names if name not in places]
        if missing:
            got = f"no column {bounded.brief(', '.join(map(repr, missing)))}"
            expected = bounded.brief(f"the columns of the model's training: {', '.join(known.names)}")
            raise ValueError(checks.message(layout.file, got, expected, "add it, or rename a column"))
        return [places[name] for name in known.names]
    if chosen is None and len(used) == known.width + 1 and known.label in ("first", "last"):
        used = used[1:] if known.label == "first" else used[:-1]
    if chosen is None and len(used) != known.width:
        got, expected = f"{len(used)} columns", f"{known.width}, as in the model's training"
        remedy = "leave out other columns, also that of the label, or name the columns in the first line"
        raise ValueError(checks.message(layout.file, got, expected, remedy))
    return used


def _kinds_of_model(features: list[int], known: Known, label: dict[int, str]) -> dict[int, str]:
    return label | {column: "chosen" for place, column in enumerate(features) if place in known.categories}


def _only(layout: Layout, features: list[int], chosen: int | None) -> Layout:
    """Return the layout of a table of which only these columns are read."""
    return layout._replace(ignored=frozenset(range(layout.columns)) - {*features, chosen})


def _wanted(decided: bool, is_known: bool) -> tuple[str, str]:
    """Return what is expected instead of a word, and the remedy; the label may be ``decided``, the columns known."""
    if is_known:
        return "a number, as in the model's training", "correct it"
    remedy = f"correct it, or name its column: {delimited.CATEGORY}"
    return "a number, as in other lines", remedy if decided else f"{remedy}; or {_CHOOSE}"


def _cells(
    content: bounded.Source, layout: Layout, kinds: dict[int, str], label: int | None, wanted: tuple[str, str]
) -> tuple[Array, dict[int, Words]]:
    """Return the cells, and the words of the columns of words; column ``label`` may turn out to be one."""
    words = {column: Words(kind, {}) for column, kind in kinds.items()}
    try:
        return delimited.read(content, layout, words), words
    except delimited.TextError as cell:
        if cell.column == label and label not in kinds:
            return _cells(content, layout, kinds | {label: "label"}, label, wanted)
        where = f"{layout.file}, line {cell.line}, {layout.name(cell.column)}"
        raise ValueError(checks.message(where, bounded.brief(repr(cell.cell)), *wanted)) from None


def _first_or_refuse(layout: Layout, cells: Array, words: dict[int, Words]) -> tuple[int, str]:
    """Return the first column and the reason, or raise ValueError if it does not look like labels."""
    used = layout.used
    first, last = cells[:, used[0]], cells[:, used[-1]]
    other = len(used) > 2 and used[-1] not in words and _looks_like_labels(last)
    if used[0] not in words and _looks_like_labels(first):
        return used[0], f"the first column{'; the last looks like labels too: --label last' if other else ''}"
    hint = "the last column looks like labels: --label last" if other else _CHOOSE
    expected = "labels in the first column: integers or text that repeat"
    got = "categories" if used[0] in words else _doubt(first)
    raise ValueError(checks.message(f"{layout.file}, {layout.name(used[0])}", got, expected, hint))


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


def _features(layout: Layout, cells: Array, features: list[int], words: dict[int, Words]) -> Table:
    """Return the columns of features, without labels."""
    if not features:
        got, remedy = "only labels", "add columns of features"
        raise ValueError(checks.message(layout.file, got, delimited.TABLE, remedy))
    x = cells[:, features]
    names: dict[int, tuple[str, ...]] = {}
    for place, column in enumerate(features):
        if column in words:
            x = x.astype(np.float64, copy=False)
            x[:, place], names[place] = _categories(layout, column, x[:, place], words[column])
    columns = tuple(layout.header[column] for column in features) if layout.header else ()
    return Table(x if names else delimited.compact(x), np.empty(0), (), "", (), columns, names)


def _categories(layout: Layout, column: int, codes: Array, words: Words) -> tuple[Array, tuple[str, ...]]:
    """Return the category of each line, renumbered in alphabetical order, and the categories."""
    where, count = f"{layout.file}, {layout.name(column)}", len(words.codes)
    if words.kind == "found" and count > max(_FEW_CATEGORIES, len(codes) / 2):
        remedy = f"leave it out: --ignore NAME; or keep it: {delimited.CATEGORY}"
        raise ValueError(checks.message(where, _repeats(count, len(codes)), "categories that repeat", remedy))
    return classes.of_texts(where, codes.astype(np.int64), tuple(words.codes))


def _encoded(
    layout: Layout, column: int, values: Array, words: Words | None, is_target: bool
) -> tuple[Array, tuple[str, ...]]:
    """Return the class of each line and the names of the classes; or the targets."""
    where = f"{layout.file}, {layout.name(column)}"
    if is_target:
        return values.astype(np.float64), ()
    if words is not None:
        return classes.of_texts(where, values.astype(np.int64), tuple(words.codes))
    fractions = np.flatnonzero(values != np.floor(values))
    if fractions.size:
        got = f"label {values[fractions[0]]} in sample {fractions[0]}"
        raise ValueError(checks.message(where, got, "64-bit integers, or names of classes", f"round them; {_PREDICT}"))
    (codes,), names = classes.of_integers(where, values)
    return codes, names


def _spelled(layout: Layout, column: int) -> str:
    if layout.header:
        return layout.header[column]
    return {layout.used[0]: "first", layout.used[-1]: "last"}.get(column, "")


def _remarks(layout: Layout, column: int, why: str, names: tuple[str, ...]) -> str:
    if not names:
        return f"target: {layout.name(column)}"
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"label: {layout.name(column)}{f' ({why})' if why else ''}, {len(names)} classes: {shown}"


def _more_remarks(layout: Layout, words: dict[int, Words]) -> list[str]:
    remarks = []
    if words:
        found = (f"{layout.name(column)} ({len(one.codes)})" for column, one in sorted(words.items()))
        remarks.append(bounded.brief(f"categories: {', '.join(found)}"))
    if layout.first:
        remarks.append("the first column has no name: treated as an index and ignored")
    if layout.ignored - {0} if layout.first else layout.ignored:
        names = map(layout.name, sorted(layout.ignored - set(range(layout.first))))
        remarks.append(bounded.brief(f"ignored: {', '.join(names)}"))
    if layout.header and any(classes.number_in(name) is not None for name in layout.header):
        remarks.append("the first line numbers the columns: treated as their names")
    return remarks
