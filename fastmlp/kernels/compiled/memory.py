"""Buffers that begin on a cache line, copies, and rows of samples."""

import functools
from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.runtime import body


def aligned(count: int, dtype: Any) -> Any:
    """Return a flat array that begins on a cache line: NumPy's may straddle one with every vector."""
    return aligned_parts(dtype, count)[0]


def aligned_parts(dtype: Any, *counts: int) -> list[Any]:
    """Return flat arrays that begin on a cache line, of one piece of memory: asking for each address takes long."""
    line = vector.LINE_BYTES // np.dtype(dtype).itemsize
    raw = np.empty(sum(counts) + line * len(counts), dtype)
    start = -raw.ctypes.data % vector.LINE_BYTES // raw.itemsize
    parts = []
    for count in counts:
        parts.append(raw[start : start + count])
        start += round_up(count, line)
    return parts


def may_be_kept(*held: Any) -> bool:
    """Return whether the arrays among these take so little memory that a thread may keep them for its next step."""
    return sum(one.nbytes for one in held if isinstance(one, np.ndarray)) <= tuning.KEPT_BYTES


def round_up(count: int, multiple: int) -> int:
    """Return the smallest multiple that is not below ``count``."""
    return -(-count // multiple) * multiple


def row_stride(columns: int, itemsize: int) -> int:
    """Return the elements between rows: whole cache lines, an odd number of them.

    A power of two would put every row into the same few sets of a cache.
    """
    line = vector.LINE_BYTES // itemsize
    stride = round_up(columns, line)
    return stride + line * (stride // line % 2 == 0)


@functools.lru_cache(maxsize=64)
def identity_index(count: int) -> Any:
    """Return 0, 1, 2, ..., with which the product over a list is one over everything; kernels only read it."""
    return np.arange(count, dtype=np.int32)


def contiguous(x: Any, dtype: Any) -> Any:
    """Return ``x`` in a dtype, C-contiguous and aligned; a copy if need be."""
    flags = x.flags
    if x.dtype == dtype and flags.c_contiguous and flags.aligned:
        return x
    return np.require(x, dtype, ["C", "A"])


def sample_rows(matrix: Any) -> Any:
    """Return the samples of ``matrix`` (n, m) as rows, a copy that begins on a cache line."""
    rows = aligned(matrix.size, matrix.dtype).reshape(matrix.shape[::-1])
    rows[:] = matrix.T
    return rows


@body
def fill_zeros(base, at, count):
    """Set ``count`` elements from ``at`` on to zero."""
    # A loop: the assignment of a scalar to a slice takes Numba long to compile wherever it is used.
    vector.noinline()
    to = vector.part(base, at, count)
    for k in range(count):
        to[k] = 0


@body
def copy(out, x, count):
    """Set ``count`` elements at an address to those at another one."""
    vector.noinline()
    to, source = vector.part(out, 0, count), vector.part(x, 0, count)
    for k in range(count):
        to[k] = source[k]


@body
def add(out, x, count):
    """Add ``count`` elements at an address to those at another one."""
    vector.noinline()
    to, source = vector.part(out, 0, count), vector.part(x, 0, count)
    for k in range(count):
        to[k] += source[k]
