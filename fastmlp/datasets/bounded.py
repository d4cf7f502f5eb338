"""Readers for untrusted files: regular files only, bounded in what they expand to, damage named.

Every reader of this folder takes its bytes from here. What is announced, by a header or an archive's directory, is
compared with what can be there before anything is read, and memory grows with the bytes that really come.
"""

import contextlib
import functools
import gzip
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, NamedTuple, cast

from fastmlp import checks

CHUNK = 2**20  #: Bytes that are read at once.
FREE = 2**26  #: Bytes (64 MiB) that any file may expand to, however small it is: labels in order take 1/500.
RATIO = (
    100  #: Above that, at most so many times the file's size: deflate reaches 1032, but only on a constant; MNIST 5.
)
LARGEST = 2**34  #: Bytes (16 GiB) of one array or table, which has to fit in memory beside its packed copy.

SAVE_AGAIN = "save it again from its source"

# What the standard library raises where bytes are not what they should be, besides the ValueError and OSError of a
# number out of range in a forged archive.
_DAMAGE = (EOFError, zlib.error, zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, OverflowError)


class Source(NamedTuple):
    """Content that can be read from its beginning as often as needed."""

    name: str  #: As messages call it.
    size: int  #: Bytes on disk that it comes from.
    open: Callable[[], AbstractContextManager[IO[bytes]]]  #: Opens the content, decompressed.


def shown(path: Path | str) -> str:
    """Return a path or text as messages show it: escaped where it holds what a terminal would not print."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def brief(value: object) -> str:
    """Return the first line of the text of an error or the like, cut and printable: it may quote a whole file."""
    lines = str(value).strip().splitlines()
    text = lines[0] if lines else type(value).__name__
    return shown(text if len(text) <= 160 else f"{text[:160]}...")


def status(path: Path) -> os.stat_result:
    """Return what the file system knows of ``path``.

    Raises
    ------
    OSError
        If there is nothing to be reached under that name; of the class that the operating system's reason has.
    ValueError
        If that is no name at all.
    """
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise _unreachable(path, error) from error


def regular(path: Path) -> IO[bytes]:
    """Open ``path``, which must be a regular file: a pipe or a device may block, or never end."""
    mode = status(path).st_mode
    if not stat.S_ISREG(mode):
        got = "a folder" if stat.S_ISDIR(mode) else "a pipe, device or socket"
        raise ValueError(checks.message(shown(path), got, "a regular file", "name a file"))
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreachable(path, error) from error


def source(path: Path) -> Source:
    """Return the content of a file, which is decompressed if its first bytes are those of gzip."""
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        compressed = file.read(2) == b"\x1f\x8b"

    return Source(shown(path), size, functools.partial(_decompressed if compressed else regular, path))


def allowance(content: Source) -> int:
    """Return the number of bytes that the content may have."""
    return min(LARGEST, max(FREE, RATIO * content.size))


def head(content: Source, length: int) -> bytes:
    """Return the first ``length`` bytes of the content, or all of a shorter one."""
    return b"".join(chunks(content, length))


def chunks(content: Source, most: int) -> Iterator[bytes]:
    """Yield the first ``most`` bytes of the content, piece by piece.

    Raises
    ------
    ValueError
        If it cannot be decompressed, or a checksum at its end is wrong.
    """
    with damage(content.name), content.open() as stream:
        while most > 0 and (chunk := stream.read(min(most, CHUNK))):
            most -= len(chunk)
            yield chunk


def exactly(content: Source, start: int, length: int) -> bytearray:
    """Return the whole content: a header of ``start`` bytes and the ``length`` bytes that it announces.

    More than `FREE` bytes are run through once before any of them is kept, so that damage costs no memory.

    Raises
    ------
    ValueError
        If it announces more than so small a file can hold, or the content is shorter, longer or damaged.
    """
    if length > allowance(content):
        got = f"{content.size} bytes that announce {length}"
        expected = f"at most {allowance(content)} from a file of that size"
        raise ValueError(checks.message(content.name, got, expected, SAVE_AGAIN))
    if length > FREE:
        _check_length(content, sum(map(len, chunks(content, start + length + 1))) - start, length)
    data = bytearray()
    for chunk in chunks(content, start + length + 1):
        data += chunk
    _check_length(content, len(data) - start, length)
    return data


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a header's shape is one of an array that holds something."""
    # NumPy takes True for a length in a header, but not to reshape by.
    if not 1 <= len(shape) <= 8 or {*map(type, shape)} != {int} or min(shape) < 1 or max(shape) >= 2**63:
        got, expected = brief(f"shape {shape}"), "1 to 8 dimensions of at least 1 and less than 2**63"
        raise ValueError(checks.message(name, got, expected, SAVE_AGAIN))


@contextlib.contextmanager
def damage(name: str) -> Iterator[None]:
    """Turn whatever the standard library raises for damaged content into one kind of error."""
    try:
        yield
    except (*_DAMAGE, OSError, ValueError) as error:
        raise ValueError(
            checks.message(name, f"damaged content ({brief(error)})", "a whole file", SAVE_AGAIN)
        ) from error


def refuse_page(name: str, beginning: bytes) -> None:
    """Raise ValueError if a file begins as a page of HTML does, which servers send in place of what they lack."""
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        expected, remedy = "data", "its server answered with a page: download the file itself"
        raise ValueError(checks.message(name, "a page of HTML", expected, remedy))


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    with regular(path) as file, gzip.GzipFile(fileobj=file) as stream:
        yield cast(IO[bytes], stream)


def _check_length(content: Source, got: int, length: int) -> None:
    if got != length:
        found = f"{got if got < length else f'more than {length}'} bytes after the header"
        raise ValueError(checks.message(content.name, found, f"{length}, as its header says", SAVE_AGAIN))


def _unreachable(path: Path, error: OSError | ValueError) -> OSError | ValueError:
    kind = type(error) if isinstance(error, OSError) else ValueError
    reason = getattr(error, "strerror", None) or brief(error)
    return kind(
        checks.message(shown(path), reason.lower(), "a file that can be read", "check its name and permissions")
    )
