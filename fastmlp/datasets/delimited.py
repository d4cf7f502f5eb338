"""Read tables of numbers and words separated by commas, semicolons or tabs.

They are read in blocks of whole lines, each parsed by `numpy.loadtxt`, so that memory grows with the bytes read.
"""

import csv
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded, classes

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

TABLE = "lines of numbers and a label, separated by commas, semicolons or tabs"
CATEGORY = "--category NAME"
SAVE = "save it as a CSV file in UTF-8, separated by commas"

# A number takes up to 8 bytes in each of three copies, and at least 2 bytes as text: a table needs up to 12 times the
# memory of its text. Compressed text is therefore bounded more tightly than a compressed array.
_FREE = 2**23  # bytes (8 MiB) of text that any compressed table may expand to
_RATIO = 20  # largest expansion beyond that, relative to the file's size; MNIST as CSV needs less than half of it

_LINE = 2**22  # largest length of a line in bytes (4 MiB): a picture of 512x512 in double precision
_SEPARATORS = ("\t", ";", ",")  # in this order: a table with semicolons may have commas in its numbers
_MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-")
_LONGEST_NAME = 100  # characters of a label or category: a model's notes hold all of them
_COLUMN_NUMBERS = 5  # this many consecutive integers in the first line are column names, as pandas writes by default


class Layout(NamedTuple):
    """The layout of a table, found in its first line.

    Attributes
    ----------
    file : str
        The name of the file in messages.
    separator : str
        The character between two cells.
    header : tuple of str
        The names of the columns; empty if the first line is data.
    columns : int
        The number of columns.
    ignored : frozenset of int
        Columns that are not read, besides an index.
    """

    file: str
    separator: str
    header: tuple[str, ...]
    columns: int
    ignored: frozenset[int] = frozenset()

    @property
    def first(self) -> int:
        """The first column after the index without a name that pandas and R write."""
        return int(bool(self.header) and self.header[0] in ("", "Unnamed: 0"))

    @property
    def used(self) -> list[int]:
        """The columns that are read."""
        columns = range(self.first, self.columns)
        return [column for column in columns if column not in self.ignored] if self.ignored else list(columns)

    def name(self, column: int) -> str:
        """Return the name of a column in messages."""
        return f"column {bounded.brief(repr(self.header[column])) if self.header else column + 1}"


class Words(NamedTuple):
    """The words of a column, and which cells count as words.

    Attributes
    ----------
    kind : {"label", "chosen", "found"}
        The label's column: any word. Categories that the user chose: numbers too, but no missing values. Categories
        that were found: no numbers either.
    codes : dict of str to int
        The number of each word, in order of appearance; `read` extends it.
    """

    kind: str
    codes: dict[str, int]

    def accept(self, cell: str) -> bool:
        """Return whether a cell may be a word."""
        if not _is_name(cell) or (self.kind != "label" and is_missing(cell)):
            return False
        return self.kind != "found" or classes.number_in(cell) is None

    def code(self, cell: str) -> int:
        """Return the number of a word, which may be new."""
        word = classes.spelled(cell) if self.kind == "chosen" else cell
        return self.codes.setdefault(word, len(self.codes))


class TextError(Exception):
    """A cell that should be a number is text."""

    def __init__(self, line: int, column: int, cell: str):
        self.line, self.column, self.cell = line, column, cell


def layout_of(content: bounded.Source) -> Layout:
    """Find separator, column names and number of columns in the first non-empty line."""
    for before, lines in _blocks(content):
        for number, line in enumerate(lines, before + 1):
            if not line.strip():
                continue
            unquoted = re.sub('"[^"]*"', "", line)
            separator = next((candidate for candidate in _SEPARATORS if candidate in unquoted), None)
            if separator is None:
                got, remedy = "a line without a comma, semicolon or tab", "separate the columns by commas"
                raise ValueError(checks.message(content.name, got, TABLE, remedy))
            cells = _cells(line, separator, f"{content.name}, line {number}")
            return Layout(content.name, separator, tuple(cells) if _is_header(cells) else (), len(cells))
    raise ValueError(checks.message(content.name, "no line of numbers", TABLE, SAVE))


def _is_header(cells: list[str]) -> bool:
    """Whether a first line names the columns, by text only or by their numbers, as pandas does by default."""
    numbers = [cell for cell in cells if classes.number_in(cell) is not None]
    if not numbers:
        return any(cells)
    enough = len(numbers) >= max(_COLUMN_NUMBERS, len(cells) - 2)
    first = numbers[0] == "1"
    return enough and all(cell == str(i) for i, cell in enumerate(numbers, first))


def first_row(content: bounded.Source, layout: Layout) -> list[str]:
    """Return the cells of the first line of data; empty if there is none, or its length is wrong."""
    for _, lines in _body(content, layout):
        for line in filter(str.strip, lines):
            try:
                cells = _cells(line, layout.separator)
            except ValueError:
                return []
            return cells if len(cells) == layout.columns else []
    return []


def read(content: bounded.Source, layout: Layout, words: dict[int, Words]) -> Array:
    """Return the cells (m, columns).

    Parameters
    ----------
    content : bounded.Source
        The file.
    layout : Layout
        Its layout; ignored columns, and the index, are returned as zeros.
    words : dict of int to Words
        The columns of words, in which the numbers of the words stand for them.

    Raises
    ------
    TextError
        For a word in another column.
    ValueError
        For any other fault.
    """
    blocks = [compact(_block(layout, before, lines, words)) for before, lines in _body(content, layout)]
    if not any(map(len, blocks)):
        raise ValueError(checks.message(content.name, "no line of numbers", TABLE, SAVE))
    return np.concatenate([block for block in blocks if len(block)])


def compact(cells: Array) -> Array:
    """Return cells as uint8 if all are integers from 0 to 255, else as float64."""
    bytes_only = bool(((cells >= 0) & (cells <= 255) & (cells == np.floor(cells))).all())
    return cells.astype(np.uint8 if bytes_only else np.float64, copy=False)


def _block(layout: Layout, before: int, lines: list[str], words: dict[int, Words]) -> Array:
    """Return the cells (rows, columns) of a block of lines; ``before`` is the number of lines before it."""
    rows = [line for line in lines if line.strip()]
    if not rows:
        return np.empty((0, layout.columns))
    try:
        plain = not words and not layout.first and not layout.ignored
        cells = _numbers(layout, rows) if plain else _numbers_beside(layout, rows, words)
    except ValueError:
        _refuse(layout, before, lines, words)
    proper = all(one.accept(word) for one in words.values() for word in one.codes)
    if not (cells.shape[1] == layout.columns and np.isfinite(cells).all() and proper):
        _refuse(layout, before, lines, words)
    return cells


def _numbers(layout: Layout, rows: list[str], columns: list[int] | None = None) -> Array:
    return np.loadtxt(rows, delimiter=layout.separator, comments=None, quotechar='"', ndmin=2, usecols=columns)


def _numbers_beside(layout: Layout, rows: list[str], words: dict[int, Words]) -> Array:
    """Return the cells of a table with columns of words or columns to ignore, which are returned as zeros."""
    split = [_cells(line, layout.separator) for line in rows]
    if {len(row) for row in split} != {layout.columns}:  # loadtxt with usecols does not check the number of columns
        raise ValueError("lines of different length")
    cells = np.zeros((len(rows), layout.columns))
    if columns := [column for column in layout.used if column not in words]:
        cells[:, columns] = _numbers(layout, rows, columns)
    for column, one in words.items():
        cells[:, column] = [one.code(row[column]) for row in split]
    return cells


def _refuse(layout: Layout, before: int, lines: list[str], words: dict[int, Words]) -> NoReturn:
    """Raise ValueError or TextError for the first wrong line or cell."""
    for number, line in enumerate(lines, before + 1):
        if not line.strip():
            continue
        where = f"{layout.file}, line {number}"
        cells = _cells(line, layout.separator, where)
        if len(cells) != layout.columns:
            got, expected = f"{len(cells)} cells", f"{layout.columns}, as in the first line"
            raise ValueError(checks.message(where, got, expected, SAVE))
        for column in layout.used:
            _check_cell(layout, number, column, cells[column], words.get(column))
    where = f"{layout.file}, lines {before + 1} to {before + len(lines)}"
    raise ValueError(checks.message(where, "cells that NumPy cannot read as numbers", TABLE, SAVE))


def _check_cell(layout: Layout, line: int, column: int, cell: str, words: Words | None) -> None:
    number = classes.number_in(cell)
    if words.accept(cell) if words is not None else number is not None and math.isfinite(number):
        return
    where, got = f"{layout.file}, line {line}, {layout.name(column)}", bounded.brief(repr(cell))
    if is_missing(cell) if words is None or words.kind != "label" else not cell:
        raise ValueError(checks.message(where, f"no value ({got})", "a value", "fill it in, or remove the line"))
    if not _is_name(cell):
        expected = f"a number, or a label of at most {_LONGEST_NAME} printable characters"
        raise ValueError(checks.message(where, got, expected, SAVE))
    if words is not None:
        remedy = f"correct it, or name a column in which numbers are categories: {CATEGORY}"
        raise ValueError(checks.message(where, got, "a word, as in other lines", remedy))
    if number is None and _has_comma(cell):
        raise ValueError(checks.message(where, got, "a decimal point", "save the numbers with decimal points"))
    if number is None:
        raise TextError(line, column, cell)
    raise ValueError(checks.message(where, got, "a finite number", "remove the line"))


def is_missing(cell: str) -> bool:
    """Return whether a cell says that it has no value."""
    return cell.casefold() in _MISSING


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable()


def is_word(cell: str) -> bool:
    """Return whether a cell is neither a number, also not one with a decimal comma, nor without a value."""
    return classes.number_in(cell) is None and _is_name(cell) and not is_missing(cell) and not _has_comma(cell)


def _has_comma(cell: str) -> bool:
    return re.fullmatch(r"[-+]?\d*,\d+", cell) is not None


def _cells(line: str, separator: str, where: str = "") -> list[str]:
    """Return the cells of a line without their quotes; messages begin with ``where``."""
    cells = line.split(separator)
    if '"' in line:
        try:
            cells = next(csv.reader([line], delimiter=separator))
        except csv.Error as error:
            raise ValueError(checks.message(where, f"quotes that cannot be read ({error})", TABLE, SAVE)) from None
    return [cell.strip() for cell in cells]


def _body(content: bounded.Source, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield the blocks of the content, with an empty line in place of the header."""
    header = bool(layout.header)
    for before, lines in _blocks(content):
        if header and any(map(str.strip, lines)):
            lines[next(i for i, line in enumerate(lines) if line.strip())] = ""
            header = False
        yield before, lines


def _blocks(content: bounded.Source) -> Iterator[tuple[int, list[str]]]:
    """Yield blocks of whole lines, each with the number of lines before it."""
    before, rest = 0, b""
    for chunk in _chunks(content):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if len(rest) > _LINE:
            raise ValueError(checks.message(content.name, f"a line of more than {_LINE} bytes", TABLE, SAVE))
        yield before, _decoded(content.name, before, whole + newline)
        before += whole.count(b"\n") + len(newline)
    yield before, _decoded(content.name, before, rest)


def _chunks(content: bounded.Source) -> Iterator[bytes]:
    """Yield the content in chunks; raise ValueError if a compressed file expands too much."""
    most = max(_FREE, _RATIO * content.size)
    left = most
    for chunk in bounded.chunks(content, most + 1):
        left -= len(chunk)
        if left < 0:
            got = f"{content.size} bytes that expand to more"
            expected = f"a table of at most {most} bytes from a compressed file of this size"
            raise ValueError(checks.message(content.name, got, expected, "decompress it first, if you trust it"))
        yield chunk


def _decoded(name: str, before: int, block: bytes) -> list[str]:
    """Return the lines of a block without a byte order mark, or an empty list if all lines are empty."""
    if not block.strip():
        return []
    try:
        text = block.decode()
        bad = text.find("\x00")
    except UnicodeDecodeError as error:
        bad, text = error.start, ""
    if bad >= 0:
        where = f"{name}, line {before + 1 + block[:bad].count(10)}"
        raise ValueError(checks.message(where, "bytes that are not text in UTF-8", TABLE, SAVE))
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
