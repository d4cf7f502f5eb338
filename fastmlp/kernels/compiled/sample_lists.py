"""The input as batches read it: for each sample a list of its non-zero features, or dense rows.

Batches take samples in any order, so nothing is shared between neighbours, as it is in `packing`.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import copy, round_up
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
    """The lists of one sample, a row for each worker, with room for one entry more."""

    start: Any
    index: Any
    value: Any


@body
def _number(lists, k):
    """Return a number of the entries of packed lists, and whether it is not zero."""
    if lists.coded > 0:
        code = lists.code[k]
        return lists.table[code], np.int64(code != 0)
    return lists.value[k], np.int64(lists.value[k] != 0)


@body
def _list_packed(listed, source, group, member, part):
    """List the entries of a member of a packed group, block by block."""
    vector.noinline()
    lists, blocks = source.x.forward, -(-source.features // source.x.part)
    at, entry, end = np.int64(0), np.int64(0), np.int64(0)
    for number in range(group * blocks, (group + 1) * blocks):
        for k in range(lists.start[number], lists.stop[number]):
            feature = np.int64(lists.index[k])
            while feature >= end:
                listed.start[at] = entry
                at, end = at + 1, end + part
            value, kept = _number(lists, k * vector.GROUP + member)
            listed.index[entry], listed.value[entry] = feature, value
            entry += kept
    while end < source.features:
        listed.start[at] = entry
        at, end = at + 1, end + part
    listed.start[at] = entry


@body
def _list_row(listed, row, n, part):
    """List the non-zero entries of a row, block by block."""
    vector.noinline()
    entry, at = np.int64(0), np.int64(0)
    for k in range(0, n, part):
        listed.start[at] = entry
        at += 1
        there = vector.factors(row, k, 1, 0)
        entry = vector.list_nonzero(1, listed, entry, there, k, min(part, n - k))
    listed.start[at] = entry


@body
def _keep(lists, counts, listed, sample, mode):
    """Count or copy the lists of a sample, or set its row."""
    first, entries = sample * lists.parts, listed.start[lists.parts]
    if mode == _COUNT:
        for part in range(lists.parts):
            counts[first + part] = listed.start[part + 1] - listed.start[part]
    elif mode == _FILL:
        copy(vector.address(lists.index, lists.start[first]), listed.index, entries)
        copy(vector.address(lists.value, lists.start[first]), listed.value, entries)
    else:
        row = vector.row_of(lists.rows, sample, 0, lists.rows.columns)
        for k in range(lists.rows.columns):
            row[k] = 0
        for entry in range(entries):
            row[listed.index[entry]] = listed.value[entry]


@body
def _list_sample(listed, source, tile, s, part):
    """List the non-zero entries of sample s of a tile."""
    n, position = source.features, source.tile_start[tile] + s
    if source.plain > 0:
        _list_row(listed, vector.address(source.rows.start, position * n), n, part)
    elif source.x.dense_start[tile] >= 0:
        at = source.x.dense_start[tile] + s * source.x.dense_ld
        _list_row(listed, vector.address(source.x.dense, at), n, part)
    else:
        _list_packed(listed, source, position // vector.GROUP, position % vector.GROUP, part)


@kernel()
def _list_samples(value, lists, counts, source, buffers, mode, worker, workers):
    listed = vector.Entries(
        vector.address(buffers.start.start, worker * buffers.start.columns),
        vector.address(buffers.index.start, worker * buffers.index.columns),
        vector.address(buffers.value.start, worker * buffers.value.columns),
    )
    for tile in range(source.tiles * worker // workers, source.tiles * (worker + 1) // workers):
        begin = source.tile_start[tile]
        for s in range(source.tile_start[tile + 1] - begin):
            sample = begin + s
            if source.plain == 0:
                sample = np.int64(source.x.order[sample])
            _list_sample(listed, source, tile, s, lists.part)
            _keep(lists, counts, listed, sample, mode)


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
    workers = min(usable_threads(), source.tiles)
    kinds = ((parts + 1, np.int64), (n + 1, np.int32), (n + 1, dtype))
    buffers = _Buffers(*(np.empty((workers, count), kind) for count, kind in kinds))
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
