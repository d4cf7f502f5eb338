"""Sources of samples that need not fit into memory: read a range of samples at a time, as columns."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from fastmlp import arrays, checks, frames, sparse

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class RowSource(Protocol):
    """Samples as rows: a dataset of h5py, an array of zarr, a ``lightgbm.Sequence``, and the like."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: slice, /) -> Any:
        """Return the samples of a slice as rows."""


class Source(NamedTuple):
    """Samples, of which ``read(first, stop)`` returns some as columns (n_features, stop - first)."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    read: Callable[[int, int], Array]


def source(name: str, X: Any, folder: str, *, rows: bool) -> Source:
    """Return the samples of X, which may be anything that `fastmlp.pack` takes with a path.

    Parameters
    ----------
    name : str
        The argument, for messages.
    X : object
        Columns are samples, or, with ``rows``, rows.
    folder : str
        Where the rows of an iterator are stored meanwhile, in a file that has no name and vanishes with the process.
    rows : bool
        Whether samples are rows. They are in any case in an iterator and in a frame.
    """
    if isinstance(X, (str, os.PathLike)):
        X = map_npy(name, X)
    elif frames.is_frame(X):
        X, rows = frames.numbers(name, X), False
    elif isinstance(X, Iterator):
        X, rows = _spooled(name, X, folder), True
    if rows:
        return _of_rows(name, X)
    if arrays.is_sparse(X):
        sparse.packable(name, X)
        csc = X.tocsc()
        return _checked(name, csc.shape, lambda first, stop: np.asarray(csc[:, first:stop].toarray()))
    x = checks.packable(name, X)
    return _checked(name, x.shape, lambda first, stop: x[:, first:stop])


def _of_rows(name: str, X: RowSource) -> Source:
    # Arrays of zarr have a shape, but no length.
    shape = getattr(X, "shape", None)
    if not hasattr(X, "__getitem__") or not (shape or hasattr(X, "__len__")):
        expected, remedy = "an object with a length or shape, and slices", "pass an iterator of blocks of rows instead"
        raise TypeError(checks.message(name, f"a {type(X).__name__}", expected, remedy))

    def read(first: int, stop: int) -> Array:
        if arrays.is_sparse(X):
            return np.asarray(X[first:stop].toarray()).T  # type: ignore[index]
        return np.asarray(X[first:stop]).T

    m = int(shape[0]) if shape else len(X)
    width = read(0, min(m, 1))
    if width.ndim != 2:
        raise ValueError(
            checks.message(name, f"rows of shape {width.shape[::-1]}", "a matrix (m, n_features)", "reshape")
        )
    return _checked(name, (width.shape[0], m), read)


def _checked(name: str, shape: tuple[int, int], read: Callable[[int, int], Array]) -> Source:
    """Return a source whose samples are checked as they are read."""

    def checked(first: int, stop: int) -> Array:
        got = checks.packable(name, read(first, stop))
        if got.shape != (shape[0], stop - first):
            expected = f"{stop - first} samples of {shape[0]} features"
            raise ValueError(checks.message(name, f"{got.shape[1]} of {got.shape[0]}", expected, "repair the source"))
        return got

    return Source(shape, checked(0, min(shape[1], 1) or 1).dtype, checked)


def map_npy(name: str, path: str | os.PathLike[str]) -> Array:
    """Map a .npy file, which the argument ``name`` names."""
    try:
        x: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        got, expected = f"{os.fspath(path)}, which cannot be mapped ({error})", "a .npy file of numbers"
        raise ValueError(checks.message(name, got, expected, "write it with numpy.save")) from error
    if not isinstance(x, np.ndarray):
        raise ValueError(checks.message(name, f"{os.fspath(path)}, an archive", "a .npy file", "load an array of it"))
    return x


def _spooled(name: str, blocks: Iterable[Any], folder: str) -> Array:
    """Write blocks of rows to a file, because their number is not known, and map it."""
    width, dtype = -1, np.dtype(np.uint8)
    # The mapping keeps the content after the file is closed; it has no name on systems that allow that.
    with tempfile.TemporaryFile(dir=folder, prefix=".fastmlp.") as file:
        for block in blocks:
            rows = checks.packable(name, np.asarray(block))
            if width < 0:
                width, dtype = rows.shape[1], rows.dtype
            if rows.shape[1] != width or rows.dtype != dtype:
                got, expected = f"a block of {rows.shape[1]} features, {rows.dtype}", f"{width}, {dtype}, as the first"
                raise ValueError(checks.message(name, got, expected, "yield blocks of one width and dtype"))
            file.write(np.ascontiguousarray(rows).data)
        file.flush()
        if width < 0:
            raise ValueError(checks.message(name, "no blocks", "at least one sample", "yield blocks of rows"))
        return np.memmap(file, dtype, "r").reshape(-1, width)
