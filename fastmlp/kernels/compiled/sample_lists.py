"""The input as batches read it: for each sample a list of its non-zero features, or dense rows.

Batches take samples in any order, so nothing is shared between neighbours, as it is in `packing`.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.lists import decode
from fastmlp.kernels.compiled.memory import copy, fill_zeros, round_up
from fastmlp.kernels.compiled.operands import Packed
from fastmlp.kernels.compiled.plan import no_input
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import tiling

_COUNT, _FILL, _DECODE = 0, 1, 2


class SampleLists(NamedTuple):
    """Samples of n features.

    Attributes
    ----------
    start : int64 (m parts + 1)
        List ``j parts + p`` has the non-zero entries of sample j in block p of features, of ``part`` each; it ends
        where the next one begins.
    index : int32
        The feature of each entry.
    value : float
    rows : float (m, n)
        The samples themselves if they are not ``listed``.
    listed, part, parts : int
    together : int
        Blocks whose features meet the weights of a layer at once.
    """

    start: Any
    index: Any
    value: Any
    rows: Any
    listed: int
    part: int
    parts: int
    together: int


class _Source(NamedTuple):
    """The samples: packed in tiles, or ``plain`` rows (m, n)."""

    x: Packed
    rows: Any
    plain: int
    tile_start: Any
    tiles: int
    features: int


class _Buffers(NamedTuple):
    """Rows of each worker: a group of samples, and the lists of one sample."""

    group: Any
    start: Any
    index: Any
    value: Any


@body
def _group_of(source, group, tile, s):
    """Return the address of sample s of a tile, and the elements from a feature to the next and to the next sample."""
    vector.noinline()
    n, begin = source.features, source.tile_start[tile] + s
    if source.plain > 0:
        return vector.address(source.rows.start, begin * n), np.int64(1), n
    if source.x.dense_start[tile] >= 0:
        ld = source.x.dense_ld
        return vector.address(source.x.dense, source.x.dense_start[tile] + s * ld), np.int64(1), ld
    fill_zeros(group, 0, n * vector.GROUP)
    parts = -(-n // source.x.part)
    for part in range(parts):
        decode(group, source.x.forward, begin // vector.GROUP * parts + part)
    return vector.address(group, 0), np.int64(vector.GROUP), np.int64(1)


@body
def _list_sample(listed, there, n, part):
    """List the non-zero features of a sample, block by block; return how many there are."""
    entry, at = np.int64(0), np.int64(0)
    for k in range(0, n, part):
        listed.start[at] = entry
        at += 1
        block = vector.factors(there.start, k * there.step, there.step, 0)
        entry = vector.list_nonzero(1, listed, entry, block, k, min(part, n - k))
    listed.start[at] = entry
    return entry


@body
def _keep(lists, counts, listed, there, sample, mode):
    """Count or copy the lists of a sample, or copy its row."""
    n = lists.rows.columns
    if mode == _DECODE:
        row = vector.row_of(lists.rows, sample, 0, n)
        for k in range(n):
            row[k] = there.start[k * there.step]
        return
    entries, first = _list_sample(listed, there, n, lists.part), sample * lists.parts
    if mode == _COUNT:
        for part in range(lists.parts):
            counts[first + part] = listed.start[part + 1] - listed.start[part]
        return
    copy(vector.address(lists.index, lists.start[first]), listed.index, entries)
    copy(vector.address(lists.value, lists.start[first]), listed.value, entries)


@kernel()
def _list_samples(value, lists, counts, source, buffers, mode, worker, workers):
    group = vector.address(buffers.group.start, worker * buffers.group.columns)
    listed = vector.Entries(
        vector.address(buffers.start.start, worker * buffers.start.columns),
        vector.address(buffers.index.start, worker * buffers.index.columns),
        vector.address(buffers.value.start, worker * buffers.value.columns),
    )
    for tile in range(source.tiles * worker // workers, source.tiles * (worker + 1) // workers):
        begin, stop = source.tile_start[tile], source.tile_start[tile + 1]
        for s in range(0, stop - begin, vector.GROUP):
            start, step, row = _group_of(source, group, tile, s)
            for g in range(min(vector.GROUP, stop - begin - s)):
                sample = begin + s + g
                if source.plain == 0:
                    sample = np.int64(source.x.order[sample])
                _keep(lists, counts, listed, vector.factors(start, g * row, step, 0), sample, mode)


def sample_lists(x: Any, sizes: tuple[int, ...], dtype: Any) -> SampleLists:
    """Return the samples of a packed matrix, or rows (m, n), as batches read them; for n features and h outputs."""
    n, h = sizes
    plain = isinstance(x, np.ndarray)
    m = len(x) if plain else len(x.order)
    part = -(-n // -(-n // tuning.BATCH_FEATURES))
    parts, none, longs = -(-n // part), np.empty(0, dtype), np.empty(0, np.int64)
    together = max(1, tuning.BATCH_WEIGHT_BYTES // (part * round_up(h * dtype.itemsize, vector.VECTOR_BYTES)))
    lists = SampleLists(longs, np.empty(0, np.int32), none, np.empty((0, n), dtype), 1, part, parts, together)
    source = _Source(
        no_input(dtype, n) if plain else x, x if plain else np.empty((0, n), dtype), int(plain), tiling(m).start,
        len(tiling(m).start) - 1, n,
    )  # fmt: skip
    workers, group = min(usable_threads(), source.tiles), vector.GROUP
    buffers = _Buffers(
        np.empty((workers, n * group), dtype), np.empty((workers, parts + 1), np.int64),
        np.empty((workers, n + 1), np.int32), np.empty((workers, n + 1), dtype),
    )  # fmt: skip
    counts = np.empty(m * parts, np.int64)
    _list_samples.launch(workers, none, lists, counts, source, buffers, _COUNT)
    start = np.concatenate(([0], np.cumsum(counts)))
    if start[-1] > tuning.BATCH_DENSE_SHARE * m * n:
        rows = x
        if not plain:
            rows = np.empty((m, n), dtype)
            _list_samples.launch(workers, none, lists._replace(rows=rows), counts, source, buffers, _DECODE)
        return lists._replace(rows=rows, listed=0)
    filled = lists._replace(start=start, index=np.empty(start[-1], np.int32), value=np.empty(start[-1], dtype))
    _list_samples.launch(workers, none, filled, counts, source, buffers, _FILL)
    return filled
