"""Readers for untrusted files: regular files only, bounded expansion, one clear error for damage.

All readers in this package take their bytes from here. Sizes announced by a header or an archive's directory are
checked against the size of the file before anything is read, and memory grows only with the bytes actually read.
"""

import contextlib
import functools
import gzip
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from fastmlp import checks

CHUNK = 2**20  #: Bytes per read.
FREE = 2**26  #: Bytes (64 MiB) that any file may expand to, however small it is: sorted labels compress very well.
RATIO = 100  #: Largest expansion beyond `FREE`, relative to the file's size: deflate exceeds it only on constant data.
LARGEST = 2**34  #: Bytes (16 GiB) of one array or table, which must fit into memory together with its packed copy.

SAVE_AGAIN = "save it again from its source"

# Errors that the standard library raises for damaged bytes, besides ValueError and OSError, which numbers out of range
# in a forged archive cause.
_DAMAGE = (EOFError, zlib.error, zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, OverflowError)


class Source(NamedTuple):
    """Content that can be read from its beginning any number of times."""

    name: str  #: Its name in messages.
    size: int  #: Its bytes on disk, before decompression.
    open: Callable[[], AbstractContextManager[IO[bytes]]]  #: Opens the decompressed content.


def shown(path: Path | str) -> str:
    """Return a path or text for a message, escaped if it contains unprintable characters."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def brief(value: object) -> str:
    """Return the first line of an error's text or the like, printable and shortened: it may quote a whole file."""
    lines = str(value).strip().splitlines()
    text = lines[0] if lines else type(value).__name__
    return shown(text if len(text) <= 160 else f"{text[:160]}...")


def status(path: Path) -> os.stat_result:
    """Return the result of ``path.stat()``.

    Raises
    ------
    OSError
        If nothing can be reached under this name; the class is that of the operating system's error.
    ValueError
        If the path is not a valid name.
    """
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise _unreachable(path, error) from error


def regular(path: Path) -> IO[bytes]:
    """Open ``path``, which must be a regular file, because a pipe or a device may block or never end."""
    mode = status(path).st_mode
    if not stat.S_ISREG(mode):
        got = "a folder" if stat.S_ISDIR(mode) else "a pipe, device or socket"
        raise ValueError(checks.message(shown(path), got, "a regular file", "name a file"))
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreachable(path, error) from error


def source(path: Path) -> Source:
    """Return the content of a file, decompressed if it begins with gzip's magic bytes."""
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    opened = _decompressed if is_compressed(path) else regular
    return Source(shown(path), size, functools.partial(opened, path))


def is_compressed(path: Path) -> bool:
    """Return whether a regular file begins with gzip's magic bytes."""
    with regular(path) as file:
        return file.read(2) == b"\x1f\x8b"


def allowance(content: Source) -> int:
    """Return the largest number of bytes that the content may have."""
    return min(LARGEST, max(FREE, RATIO * content.size))


def head(content: Source, length: int) -> bytes:
    """Return the first ``length`` bytes of the content, or all of it if it is shorter."""
    return b"".join(chunks(content, length))


def chunks(content: Source, most: int) -> Iterator[bytes]:
    """Yield the first ``most`` bytes of the content in chunks.

    Raises
    ------
    ValueError
        If the content cannot be decompressed, or its checksum is wrong.
    """
    with damage(content.name), content.open() as stream:
        while most > 0 and (chunk := stream.read(min(most, CHUNK))):
            most -= len(chunk)
            yield chunk


def exactly(content: Source, start: int, length: int) -> bytearray:
    """Return the whole content: a header of ``start`` bytes and the ``length`` bytes that it announces.

    Content of more than `FREE` bytes is read once without keeping it, so that a damaged file takes no memory.

    Raises
    ------
    ValueError
        If the header announces more bytes than allowed for the file's size, or the content is shorter, longer or
        damaged.
    """
    if length > allowance(content):
        got = f"{content.size} bytes whose header announces {length}"
        expected = f"at most {allowance(content)} from a file of this size"
        raise ValueError(checks.message(content.name, got, expected, SAVE_AGAIN))
    if length > FREE:
        _check_length(content, sum(map(len, chunks(content, start + length + 1))) - start, length)
    data = bytearray()
    for chunk in chunks(content, start + length + 1):
        data += chunk
    _check_length(content, len(data) - start, length)
    return data


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a header's shape is that of a non-empty array."""
    # NumPy accepts True as a length in a header, but cannot reshape to it.
    if not 1 <= len(shape) <= 8 or {*map(type, shape)} != {int} or min(shape) < 1 or max(shape) >= 2**63:
        got, expected = brief(f"shape {shape}"), "1 to 8 dimensions of at least 1 and less than 2**63"
        raise ValueError(checks.message(name, got, expected, SAVE_AGAIN))


@contextlib.contextmanager
def damage(name: str) -> Iterator[None]:
    """Turn the standard library's errors for damaged content into ValueError."""
    try:
        yield
    except (*_DAMAGE, OSError, ValueError) as error:
        raise ValueError(
            checks.message(name, f"damaged content ({brief(error)})", "a complete file", SAVE_AGAIN)
        ) from error


def refuse_twins(where: str, columns: list[Any]) -> None:
    """Raise ValueError if two columns have the same name: only one of them would be found by it."""
    counts = Counter(columns)
    twice = next((name for name in columns if counts[name] > 1), None)
    if twice is not None:
        got = f"two columns {brief(repr(twice))}"
        raise ValueError(checks.message(where, got, "different names", "rename one of them"))


def refuse_page(name: str, beginning: bytes) -> None:
    """Raise ValueError if a file begins like an HTML page, which servers send instead of a missing file."""
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        expected, remedy = "data", "the server sent a web page: download the file itself"
        raise ValueError(checks.message(name, "an HTML page", expected, remedy))


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
