"""Rows of the samples of a plain matrix, which kernels read: as they are, or copied some at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.columns import copy_columns
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import aligned, contiguous
from fastmlp.kernels.compiled.operands import Step


class _Columns(NamedTuple):
    """Rows of floats that are the columns of a matrix: its ``memory`` (1, k), in which row after row begins."""

    memory: Any
    stride: int


def _columns_of(rows: Any, dtype: Any) -> _Columns | None:
    """Return rows as columns; None if they are none.

    They are, for example, in X = data.T[1:] / 255 of a table whose columns are stored one after the other, as pandas
    does.
    """
    (between, along), (samples, features), size = rows.strides, rows.shape, rows.itemsize
    if rows.dtype != dtype or rows.dtype.kind != "f" or not rows.flags.aligned or rows.flags.c_contiguous:
        return None
    if between != size or along % size != 0 or along <= 0:
        return None
    stride = along // size
    span = (features - 1) * stride + samples
    return _Columns(np.lib.stride_tricks.as_strided(rows, (1, span), (span * size, size)), stride)


def row_batches(rows: Any, dtype: Any, starts: Any) -> Iterator[tuple[int, int, Any]]:
    """Yield (k, l, rows of the chunks k to below l) as `contiguous` returns them: all at once where nothing is copied.

    Chunk k begins at ``starts[k]``, the last one ends at ``starts[-1]``; none is divided. Rows that are yielded are
    good until the next ones are.
    """
    ready = rows.dtype == dtype and rows.flags.c_contiguous and rows.flags.aligned
    k, last, room = 0, len(starts) - 1, None
    while k < last:
        stop = last
        if not ready:
            stop = max(k + 1, int(np.searchsorted(starts, starts[k] + tuning.ROW_BATCH, side="right")) - 1)
        some = rows[starts[k] : starts[stop]]
        columns = None if ready else _columns_of(some, dtype)
        if columns is not None:
            # One piece of memory for all: the system clears what is new, which takes as long as to copy.
            room = aligned(some.size, dtype) if room is None or len(room) < some.size else room
            some = _copied(columns, room[: some.size].reshape(some.shape))
        yield k, stop, contiguous(some, dtype)
        k = stop


def _copied(columns: _Columns, rows: Any) -> Any:
    """Return the rows, set by all threads."""
    workers = 1 if rows.size < tuning.PARALLEL_SIZE else usable_threads()
    _copy_columns.launch(workers, rows, columns.memory, columns.stride)
    return rows


@kernel()
def _copy_columns(rows, memory, stride, worker, workers):
    """Copy the samples of columns into rows; workers share them."""
    to, source = vector.matrix(rows.start, 0, rows.columns), vector.matrix(memory.start, 0, stride)
    strip, samples = tuning.COPIED_COLUMN_BYTES // vector.VECTOR_BYTES * vector.lanes(to), rows.rows
    strips = -(-samples // strip)
    for first in range(strips * worker // workers * strip, strips * (worker + 1) // workers * strip, strip):
        there, here = vector.block(to, first, 0), vector.block(source, 0, first)
        copy_columns(there, here, min(strip, samples - first), rows.columns, tuning.FEATURES_AHEAD)


def steps_of_rows(rows: Any, step: Step, starts: Any) -> Iterator[tuple[int, int, Step]]:
    """Yield (k, l, the step on the chunks k to below l of the rows): see `row_batches`."""
    columns = _columns_of(rows, step.weights.dtype)
    if columns is not None:  # those that a worker is about to use are copied in its own cache
        yield 0, len(starts) - 1, step._replace(rows=columns.memory, base=0, across=columns.stride)
        return
    for k, stop, some in row_batches(rows, step.weights.dtype, starts):
        yield k, stop, step._replace(rows=some, base=int(starts[k]))
