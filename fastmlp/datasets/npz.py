"""Read untrusted ``.npz`` and ``.npy`` files: nothing is unpickled, no announced size is trusted.

`numpy.load` allocates as much as a header claims and decompresses whole entries. This reader uses `zipfile` for the
archive, `numpy.lib.format` for the headers, and `bounded` for the bytes.
"""

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib import format as npy

from fastmlp import checks
from fastmlp.datasets import bounded

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NAMES = ("x_train", "y_train", "x_test", "y_test")

_SAMPLES = ("x", "X", "x_test")  # the arrays of samples alone, as `read_samples` prefers them
_HEADER = 2**14  # NumPy itself refuses headers of more than 10 000 characters
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # NumPy's methods; LZMA may need gigabytes for its dictionary
_SAVE = "save it again with np.savez_compressed(path, x_train=..., y_train=..., x_test=..., y_test=...)"


class _Header(NamedTuple):
    start: int  # of the data
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


class _Archive(io.FileIO):
    """A file that refuses very large reads, which a forged zip directory could cause."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > bounded.CHUNK:
            raise zipfile.BadZipFile(f"{size} bytes of directory, more than {bounded.CHUNK}")
        return super().read(size)


def read(path: Path) -> dict[str, Array]:
    """Read the arrays of a Keras-style archive.

    Parameters
    ----------
    path : Path
        A ``.npz`` file with x_train and y_train, and optionally x_test and y_test. Other entries are ignored.

    Returns
    -------
    dict of str to ndarray
        The arrays by name, in native byte order: integers, bool as uint8, or floating point up to float64.

    Raises
    ------
    ValueError
        If the archive or one of these arrays is damaged, forged, encrypted, pickled or not of real numbers.
    OSError
        If the file cannot be read.
    """
    name = bounded.shown(path)
    with _opened(path) as (archive, size):
        entries = {key: entry for key, entry in _entries(name, archive).items() if key in NAMES}
        if not {"x_train", "y_train"} <= entries.keys():
            raise ValueError(checks.message(name, _names(archive), f"arrays {', '.join(NAMES)}", _SAVE))
        return {key: _entry(f"{name}: {key}", archive, entry, size) for key, entry in entries.items()}


def read_samples(path: Path) -> Array:
    """Read the samples in a ``.npy`` file or in an archive.

    Parameters
    ----------
    path : Path
        A ``.npy`` file; or a ``.npz`` file, of which the array x, X or x_test is read, or else its only array.

    Returns
    -------
    ndarray
        As `read` returns its arrays.

    Raises
    ------
    ValueError, OSError
        As `read`; also if it is not clear which array holds the samples.
    """
    name = bounded.shown(path)
    if not path.name.lower().endswith(".npz"):
        return _array(bounded.source(path))
    with _opened(path) as (archive, size):
        entries = _entries(name, archive)
        keys = [key for key in _SAMPLES if key in entries] or list(entries)
        if not keys or (len(entries) > 1 and keys[0] not in _SAMPLES):
            remedy = "save the samples alone: np.savez_compressed(path, x=...)"
            expected = f"one array, or one named {', '.join(_SAMPLES[:-1])} or {_SAMPLES[-1]}"
            raise ValueError(checks.message(name, _names(archive), expected, remedy))
        return _entry(f"{name}: {keys[0]}", archive, entries[keys[0]], size)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """Open an archive; yield it with the size of its file."""
    bounded.regular(path).close()
    with contextlib.ExitStack() as stack:
        with bounded.damage(bounded.shown(path)):
            file = stack.enter_context(_Archive(path))
            archive = stack.enter_context(zipfile.ZipFile(file))
        yield archive, os.fstat(file.fileno()).st_size


def _entries(name: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by the names of their arrays."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        key = entry.filename.removesuffix(".npy")
        if key in found and key in (*NAMES, *_SAMPLES):
            raise ValueError(checks.message(name, f"two arrays {key}", "one", _SAVE))
        found[key] = entry
    return found


def _names(archive: zipfile.ZipFile) -> str:
    return bounded.brief(f"entries {[entry.filename for entry in archive.infolist()[:8]]}")


def _entry(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int) -> Array:
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS:
        got = "an encrypted entry" if entry.flag_bits & _ENCRYPTED else f"compression method {entry.compress_type}"
        raise ValueError(checks.message(name, got, "a stored or deflated entry", _SAVE))
    return _array(bounded.Source(name, min(size, entry.compress_size), lambda: archive.open(entry)))


def _array(content: bounded.Source) -> Array:
    name = content.name
    header = _header(name, bounded.head(content, _HEADER))
    _check(name, header)
    data = bounded.exactly(content, header.start, math.prod(header.shape) * header.dtype.itemsize)
    dtype = np.dtype(np.uint8) if header.dtype.kind == "b" else header.dtype
    flat = np.frombuffer(data, dtype, offset=header.start)
    native = flat.astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(header.shape[::-1]).T if header.fortran else native.reshape(header.shape)


def _header(name: str, beginning: bytes) -> _Header:
    file = io.BytesIO(beginning)
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = npy.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version}")
    except Exception as error:  # NumPy parses headers as Python, and forged headers raise undocumented errors
        got = f"a header that NumPy cannot read ({bounded.brief(error)})"
        raise ValueError(checks.message(name, got, "an array in NumPy's format 1.0 or 2.0", _SAVE)) from error
    return _Header(file.tell(), shape, fortran, dtype)


def _check(name: str, header: _Header) -> None:
    if header.dtype.hasobject:
        expected = "an array of numbers"
        raise ValueError(checks.message(name, "pickled objects, which may run any code", expected, _SAVE))
    if header.dtype.kind not in "buif" or header.dtype.itemsize > 8:
        expected = "real numbers (bool, integer or floating point up to float64)"
        raise ValueError(checks.message(name, bounded.brief(f"dtype {header.dtype}"), expected, _SAVE))
    bounded.check_shape(name, header.shape)
