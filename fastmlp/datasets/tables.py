"""Reading CSV tables without trusting them: block by block, each parsed by `numpy.loadtxt`, lines of bounded length."""

import bisect
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LINE = 2**22  #: Bytes (4 MiB) that a line may have: a picture of 512x512 in double precision.
_TABLE = "lines of numbers, a label and then the features, separated by commas"
_SAVE = "save it as a CSV file in UTF-8, with points in the numbers"


def read(path: Path) -> dict[str, Array]:
    """Read a CSV table, plain or gzip-compressed, whose first column is the label.

    Parameters
    ----------
    path : Path
        The file. Its first line may be a header: it is one if it does not hold numbers only. Empty lines are skipped.

    Returns
    -------
    dict of str to ndarray
        ``x_train``, shape (m, n_features), uint8 if all features are integers from 0 to 255, else float64; and
        ``y_train``, shape (m,), float64.

    Raises
    ------
    ValueError
        If a line holds something else than numbers, or not as many as the others, or the file is damaged.
    OSError
        If the file cannot be read.
    """
    content = bounded.source(path)
    bounded.refuse_page(content.name, bounded.head(content, 64))
    blocks = list(_parsed(content))
    if not blocks:
        raise ValueError(checks.message(content.name, "no line of numbers", _TABLE, _SAVE))
    x, y = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return {"x_train": x, "y_train": y}


def _parsed(content: bounded.Source) -> Iterator[tuple[Array, Array]]:
    """Yield features (rows, n_features) and labels (rows,) of each block."""
    before, columns = 0, 0
    for block in _blocks(content):
        lines = block.splitlines() if block.strip() else []
        if before == 0 and lines and _is_header(lines[0]):
            lines[0] = b""
        if any(lines):
            columns = columns or 1 + next(filter(None, lines)).count(b",")
            yield _columns(_table(content.name, before, lines, columns))
        before += block.count(b"\n")


def _blocks(content: bounded.Source) -> Iterator[bytes]:
    """Yield the content in blocks of whole lines, without the mark that some programs begin UTF-8 with."""
    left = bounded.allowance(content)
    rest = b""
    for chunk in bounded.chunks(content, left + 1):
        left -= len(chunk)
        if left < 0:
            expected = f"at most {bounded.allowance(content)} bytes of table from a file of that size"
            raise ValueError(checks.message(content.name, f"{content.size} bytes that expand to more", expected, _SAVE))
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if len(rest) > _LINE:
            raise ValueError(checks.message(content.name, f"a line of more than {_LINE} bytes", _TABLE, _SAVE))
        yield (whole + newline).removeprefix(b"\xef\xbb\xbf")
    yield rest.removeprefix(b"\xef\xbb\xbf")


def _table(name: str, before: int, lines: list[bytes], columns: int) -> Array:
    """Return the numbers (rows, columns) of lines, or name the first line that is at fault."""
    if columns < 2:
        raise ValueError(checks.message(name, "lines without a comma", _TABLE, _SAVE))
    with contextlib.suppress(ValueError):
        return _numbers(lines, columns)
    # NumPy counts rows, not lines: halving finds the first line with which the lines up to it fail.
    first = bisect.bisect_left(range(1, len(lines)), True, key=lambda n: bool(_fault(lines[:n], columns)))
    got = _fault(lines[first : first + 1], columns)
    raise ValueError(checks.message(f"{name}, line {before + first + 1}", got, f"{columns} numbers", _SAVE))


def _fault(lines: list[bytes], columns: int) -> str:
    try:
        _numbers(lines, columns)
    except ValueError as error:
        return bounded.brief(error).partition(" at row")[0]
    return ""


def _numbers(lines: list[bytes], columns: int) -> Array:
    rows = [line.decode() for line in lines if line]
    if not rows:
        return np.empty((0, columns))
    values = np.loadtxt(rows, delimiter=",", comments=None, ndmin=2)
    if values.shape[1] != columns:
        raise ValueError(f"{values.shape[1]} values")
    return values


def _is_header(line: bytes) -> bool:
    """Whether a first line is text and not numbers; what is no text at all is left to be named as a fault."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return bool(_fault([line], 1 + line.count(b",")))


def _columns(table: Array) -> tuple[Array, Array]:
    """Return features (rows, n_features), as uint8 if that holds them, and labels (rows,)."""
    x, y = table[:, 1:], table[:, 0]
    bytes_only = bool(((x >= 0) & (x <= 255) & (x == np.floor(x))).all())
    return x.astype(np.uint8 if bytes_only else np.float64), y.copy()
