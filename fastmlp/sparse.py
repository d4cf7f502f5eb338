"""Sparse matrices of SciPy, which is not imported: checked, and as kernels take them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from fastmlp import arrays, checks
from fastmlp.kernels.columns import Columns

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def packable(name: str, value: arrays.Sparse) -> Columns:
    """Return a sparse matrix (n_features, m) of SciPy, of any format, with the numbers as they are.

    The object is not changed. The arrays of one in CSC format are not copied, unless its indices are not sorted or some
    are repeated; other formats are converted by SciPy, which costs a copy of the entries.

    Parameters
    ----------
    name : str
        The argument, as the caller spells it.
    value : scipy.sparse matrix or array, shape (n_features, m)
        See `arrays.is_sparse`.

    Returns
    -------
    Columns
        Sorted, and with repeated entries added up; zeros may be among the entries.

    Raises
    ------
    ValueError
        If it is empty or not two-dimensional, too large, or its indices do not fit its shape.
    TypeError
        If it does not hold real numbers.
    """
    checks.packable(name, stand_in(value))
    x = value.tocsc()
    _check_indices(name, x)
    if not _is_sorted(x):
        x = x.copy()
        x.has_sorted_indices = x.has_canonical_format = False  # whatever the caller's object says
        x.sum_duplicates()
    entries = slice(int(x.indptr[-1]))
    start, feature = (one.astype(kind, copy=False) for one, kind in ((x.indptr, np.int64), (x.indices, np.int32)))
    return Columns(start, feature[entries], x.data[entries], x.shape[0])


def stand_in(value: arrays.Sparse) -> Array:
    """Return a dense array of the shape and dtype of a sparse matrix, all of one element, for `checks`."""
    return np.broadcast_to(np.zeros((), value.dtype), value.shape)


def without_zeros(x: Columns) -> Columns:
    """Return the matrix without the entries that are zero."""
    kept = x.value != 0
    if kept.all():
        return x
    start = np.append(0, np.cumsum(kept))[x.start]
    return Columns(start, x.feature[kept], x.value[kept], x.features)


def _check_indices(name: str, x: Any) -> None:
    """Check the arrays of a matrix in CSC format: kernels would read and write out of bounds."""
    (n, m), start, index = x.shape, x.indptr, x.indices
    proper = start.shape == (m + 1,) and start.dtype.kind == index.dtype.kind == "i" and start[0] == 0
    proper = proper and bool((np.diff(start) >= 0).all()) and start[-1] <= min(index.size, x.data.size)
    if proper and start[-1] > 0:
        used = index[: start[-1]]
        proper = used.min() >= 0 and used.max() < n
    if not proper:
        got = f"a sparse {type(x).__name__} whose indices do not fit its shape {x.shape}"
        remedy = "build it again from rows, columns and values, with scipy.sparse.coo_array"
        raise ValueError(checks.message(name, got, "indices of its own rows and columns", remedy))


def _is_sorted(x: Any) -> bool:
    """Return whether the row indices of each column rise."""
    index, start = x.indices[: x.indptr[-1]], x.indptr
    rises = np.diff(index) > 0
    begins = start[1:-1]
    rises[begins[(begins > 0) & (begins < index.size)] - 1] = True
    return bool(rises.all())
