"""Aligned buffers, copies and rows of samples."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.runtime import body


def aligned(count: int, dtype: Any) -> Any:
    """Return a flat array that begins on a cache line: NumPy's may straddle one with every vector."""
    return aligned_parts(dtype, count)[0]


def aligned_parts(dtype: Any, *counts: int) -> list[Any]:
    """Return flat arrays that begin on a cache line, of one piece of memory: asking where each lies takes 1 us."""
    line = vector.LINE_BYTES // np.dtype(dtype).itemsize
    raw = np.empty(sum(counts) + line * len(counts), dtype)
    start = -raw.ctypes.data % vector.LINE_BYTES // raw.itemsize
    parts = []
    for count in counts:
        parts.append(raw[start : start + count])
        start += round_up(count, line)
    return parts


@body
def aligned_room(count, like):
    """Return a flat array of the dtype of ``like`` that begins on a cache line; memory made in a kernel may not.

    Where all rows of vectors lay askew, a dense step of 784-128-10 took 230 ms on a core of Zen 5, else 190.
    """
    raw = np.empty(count + vector.LINE_BYTES // like.itemsize, like.dtype)
    start = vector.line_start(raw)
    return raw[start : start + count]


def round_up(count: int, multiple: int) -> int:
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


@body
def fill_zeros(x, at, count):
    # A loop: the assignment of a scalar to a slice takes Numba a second to compile wherever it stands.
    vector.outline()
    part = x[at : at + count]
    for k in range(count):
        part[k] = 0


@body
def copy_to(to, what):
    vector.outline()
    for k in range(len(to)):
        to[k] = what[k]


def row_batches(rows: Any, dtype: Any, multiple: int) -> Iterator[tuple[int, Any]]:
    """Yield (first sample, rows in one piece of memory): all at once where they are so, else copies of some."""
    ready = rows.dtype == dtype and rows.flags.carray
    step = len(rows) if ready else multiple * max(1, tuning.ROW_BATCH // multiple)
    for first in range(0, len(rows), step):
        yield first, canonical(rows[first : first + step], dtype)


def canonical(x: Any, dtype: Any) -> Any:
    """Return ``x`` as arrays in tuples must be: C-contiguous, aligned, writeable, a copy if need be.

    Numba forgets in a parallel shell that an array in a tuple is read-only, and compiles every body a second time.
    """
    return x if x.dtype == dtype and x.flags.carray else np.require(x, dtype, ["C", "A", "W"])


def sample_rows(matrix: Any) -> Any:
    """Return the samples of ``matrix`` (n, m) as rows, a copy that begins on a cache line."""
    rows = aligned(matrix.size, matrix.dtype).reshape(matrix.shape[::-1])
    rows[:] = matrix.T
    return rows
