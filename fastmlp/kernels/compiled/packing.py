"""Packing a matrix of samples."""

from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import large_kernel, usable_threads
from fastmlp.kernels.compiled.lists import copy_rows, list_backward, list_buffers, list_forward
from fastmlp.kernels.compiled.memory import aligned, canonical, copy_to, fill_zeros, row_batches, sample_rows
from fastmlp.kernels.compiled.operands import Packed
from fastmlp.kernels.compiled.plan import no_input
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import tiling


# ---- Packing ----
@body
def _bits(row, lo, hi):
    """Return a bit for each of the 64 runs ``lo`` to ``hi`` of 128 into which the features fall: any is not zero."""
    n = len(row)
    key = np.uint64(0)
    for b in range(lo, hi):
        some = 0
        for k in range(b * n // 128, (b + 1) * n // 128):
            some |= row[k] != 0
        key = (key << np.uint64(1)) | np.uint64(some)
    return key


@body
def _chain(order, at, keys, window, count):
    """Set order[at : at + count] so that samples of like keys stand together: after each the nearest of a window.

    A group of 4 images of MNIST then shares 0.28 of the features; as stored 0.39.
    """
    vector.outline()
    filled = min(tuning.ORDER_WINDOW, count)
    for i in range(filled):
        window[i] = i
    following, nearest = filled, 0
    for position in range(at, at + count):
        sample = window[nearest]
        order[position] = at + sample
        if following < count:
            window[nearest] = following
            following += 1
        else:
            filled -= 1
            window[nearest] = window[filled]
        least = np.int64(129)
        for i in range(filled):
            other = window[i]
            distance = np.int64(vector.population_count(keys[other, 0] ^ keys[sample, 0]))
            distance += np.int64(vector.population_count(keys[other, 1] ^ keys[sample, 1]))
            if distance < least:
                least, nearest = distance, i


@body
def _order_leaf(order, keys, window, rows, first, stop, base):
    for s in range(first, stop):
        for half in range(2):
            keys[s - first, half] = _bits(rows[s], 64 * half, 64 * (half + 1))
    _chain(order, base + first, keys, window, stop - first)


@body
def _fill_tile(x, forward_value, backward_value, counts, lists, worker, rows, tile, begin, end, base):
    """Count the entries of a tile's lists, or, where ``counts`` are empty, fill in the lists or the dense rows."""
    forward, backward = counts
    n, group = rows.shape[1], vector.GROUP
    buffer, starts, stops = lists.rows[worker], lists.forward_start[worker], lists.backward_stop[worker]
    index, value = lists.forward_index[worker], lists.forward_value[worker]
    back_index, back_value = lists.backward_index[worker], lists.backward_value[worker]
    ld = len(buffer) // tuning.COPIED_ROWS
    parts = -(-n // x.part)
    entry = np.int64(0)
    copy_to(stops, lists.backward_start)
    dense = len(forward) == 0 and x.dense_start[tile] >= 0
    for s in range(0, end - begin, tuning.COPIED_ROWS):
        count = min(tuning.COPIED_ROWS, end - begin - s)
        copy_rows(buffer, ld, rows, x.order, begin + s, count, base)
        if dense:
            for i in range(count):
                at_row = x.dense_start[tile] + (s + i) * x.dense_ld
                row = x.dense[at_row : at_row + x.dense_ld]
                copy_to(row[:n], buffer[i * ld : i * ld + n])
                fill_zeros(row, n, len(row) - n)
        else:
            entry = list_forward(index, value, starts, s // group * parts, entry, buffer, np.int64(0), ld, count, n,
                                  x.part)  # fmt: skip
            list_backward(back_index, back_value, stops, buffer, np.int64(0), ld, s, count, n)
    if dense:
        return
    at, at_back = begin // group * parts, tile * len(stops)
    if len(forward) > 0:
        for k in range(-(-(end - begin) // group) * parts):
            forward[at + k] = starts[k + 1] - starts[k]
        for f in range(len(stops)):
            backward[at_back + f] = stops[f] - lists.backward_start[f]
        return
    to = x.forward_start[at]
    copy_to(x.forward_index[to : to + entry], index)
    copy_to(forward_value[to * group : (to + entry) * group], value)
    for f in range(len(stops)):
        start, stop = lists.backward_start[f], stops[f]
        to = x.backward_start[at_back + f]
        copy_to(x.backward_index[to : to + stop - start], back_index[start:stop])
        copy_to(backward_value[to * group : (to + stop - start) * group], back_value[start * group : stop * group])


def _fill_of(forward_value, backward_value, x, counts, lists, room, rows, base, tile_start, leaf, leaf_tiles, worker,
             workers):  # fmt: skip
    keys, windows = room
    leaves = -(-len(rows) // leaf)
    for one in range(leaves * worker // workers, leaves * (worker + 1) // workers):
        first, stop = one * leaf, min((one + 1) * leaf, len(rows))
        if len(keys) > 0:
            _order_leaf(x.order, keys[worker], windows[worker], rows, first, stop, base)
        before = (base // leaf + one) * leaf_tiles
        for tile in range(before, min(before + leaf_tiles, len(tile_start) - 1)):
            _fill_tile(x, forward_value, backward_value, counts, lists, worker, rows, tile, tile_start[tile],
                       tile_start[tile + 1], base)  # fmt: skip


@large_kernel(_fill_of)
def _fill(
    launcher, address, forward_value, backward_value, x, counts, lists, room, rows, base, tile_start, leaf, leaf_tiles,
    workers
):  # fmt: skip
    """Count or fill, tile by tile, what is packed of ``rows``, those of whole leaves, whose first sample is ``base``.

    Where there is ``room`` for it, put the samples of each leaf in order before.
    """
    vector.spread(launcher, address, (forward_value, backward_value, x, counts, lists, room, rows, base, tile_start,
                  leaf, leaf_tiles), workers)  # fmt: skip


def pack(matrix: Any) -> Any:
    """Return ``matrix`` (n, m), uint8, float32 or float64 in any layout, packed: see `Packed`; of few samples, rows."""
    n, m = matrix.shape
    if m <= tuning.FEW_SAMPLES:
        return sample_rows(matrix)
    rows, dtype = matrix.T, matrix.dtype
    group, groups = vector.GROUP, -(-m // vector.GROUP)
    tile_start, tile, leaf_tiles, leaf = tiling(m)
    tiles = len(tile_start) - 1
    empty = no_input(dtype, n)
    feature_groups, parts = -(-n // group), -(-n // empty.part)
    workers = min(usable_threads(), -(-m // leaf))
    lists = list_buffers(workers, n, tile, dtype, -(-tile // tuning.COPIED_ROWS))
    forward, backward = np.zeros(groups * parts, np.int64), np.zeros(tiles * feature_groups, np.int64)
    packed = empty._replace(order=np.empty(m, np.int32))
    room = np.empty((workers, leaf, 2), np.uint64), np.empty((workers, tuning.ORDER_WINDOW), np.int64)
    for first, some in row_batches(rows, dtype, leaf):
        _fill.launch(workers, empty.forward_value, empty.forward_value, packed, (forward, backward), lists, room, some,
                     first, tile_start, leaf, leaf_tiles)  # fmt: skip

    per_tile = np.add.reduceat(forward, tile_start[:-1] // group * parts)
    groups_per_tile = -(-np.diff(tile_start) // group)
    dense = (per_tile > tuning.DENSE_SHARE * n * groups_per_tile) & (dtype != np.uint8)
    if m <= tuning.FEW_DENSE_SAMPLES and dense.all():
        return sample_rows(matrix)
    forward.reshape(groups, parts)[np.repeat(dense, groups_per_tile)] = 0
    backward.reshape(tiles, feature_groups)[dense] = 0
    forward_value, backward_value = (aligned(int(one.sum()) * group, dtype) for one in (forward, backward))
    ends = np.concatenate(([0], np.cumsum(backward)))
    # A register tile may read a whole group of rows where the last has fewer.
    dense_rows = int(dense.sum()) * tile + vector.PADDING if dense.any() else 0
    packed = packed._replace(
        forward_start=np.concatenate(([0], np.cumsum(forward))),
        forward_index=np.empty(forward.sum(), np.int32),
        backward_start=ends[:-1],
        backward_stop=ends[1:],
        backward_index=np.empty(backward.sum(), np.int32),
        dense=aligned(dense_rows * empty.dense_ld, dtype),
        dense_start=np.where(dense, (np.cumsum(dense) - 1) * (tile * empty.dense_ld), -1),
    )
    if dense.any():
        packed.dense[-vector.PADDING * empty.dense_ld :] = 0
    none, no_room = np.empty(0, np.int64), tuple(one[:0] for one in room)
    for first, some in row_batches(rows, dtype, leaf):
        _fill.launch(workers, forward_value, backward_value, packed, (none, none), lists, no_room, some, first,
                     tile_start, leaf, leaf_tiles)  # fmt: skip
    if dtype == np.uint8:
        return packed._replace(forward_code=forward_value, backward_code=backward_value, coded=True)
    return packed._replace(forward_value=forward_value, backward_value=backward_value)


def operands(x: Any, table: Any) -> Any:
    """Return what computes with a packed matrix in the dtype of ``table`` (256,): few samples of uint8 are decoded."""
    if isinstance(x, Packed) and x.coded:
        none = np.empty(0, table.dtype)
        return x._replace(table=canonical(table, table.dtype), dense=none, forward_value=none, backward_value=none)
    return sample_rows(table[x].T) if isinstance(x, np.ndarray) and x.dtype == np.uint8 else x


def unpack(x: Any, n: int, table: Any) -> Any:
    """Return the packed matrix as a plain one (n, m), decoded by ``table`` (256,) if it holds uint8."""
    if isinstance(x, np.ndarray):
        return x.T.copy()
    group, m = vector.GROUP, len(x.order)
    values = table[x.forward_code] if x.coded else x.forward_value
    rows = np.zeros((m, n), values.dtype)
    starts = x.forward_start[:: -(-n // x.part)]
    group_of_entry = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    for g in range(group):
        position = group_of_entry * group + g
        there = position < m
        rows[x.order[position[there]], x.forward_index[there]] = values[g::group][there]
    tile_start = tiling(m).start
    for t in np.flatnonzero(x.dense_start >= 0):
        samples = x.order[tile_start[t] : tile_start[t + 1]]
        first = x.dense_start[t]
        rows[samples] = x.dense[first : first + len(samples) * x.dense_ld].reshape(-1, x.dense_ld)[:, :n]
    return rows.T


def packed_facts(x: Any, n: int) -> tuple[str, int]:
    """Return the form ("dense", "sparse" or "mixed") and the bytes."""
    if isinstance(x, np.ndarray):
        return "dense", x.nbytes
    dense_tiles = np.count_nonzero(x.dense_start >= 0)
    kind = "sparse" if dense_tiles == 0 else "dense" if dense_tiles == len(x.dense_start) else "mixed"
    shared = x.backward_stop.nbytes  # in the memory of backward_start
    return kind, sum(a.nbytes for a in x if isinstance(a, np.ndarray)) - shared
