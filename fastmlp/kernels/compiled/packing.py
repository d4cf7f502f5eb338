"""Packing a matrix of samples: an order within each leaf, and lists or dense rows for each tile."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.lists import copy_rows, list_backward, list_forward
from fastmlp.kernels.compiled.memory import (
    aligned,
    contiguous,
    copy,
    fill_zeros,
    round_up,
    row_batches,
    row_stride,
    sample_rows,
)
from fastmlp.kernels.compiled.operands import Packed
from fastmlp.kernels.compiled.plan import no_input
from fastmlp.kernels.compiled.rooms import make_rooms, open_room
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import leaf_starts, tiling


class _Filling(NamedTuple):
    """Where the entries of lists go, or, if ``counting``, their numbers; and how samples fall into tiles and leaves."""

    forward_value: Any
    backward_value: Any
    forward_count: Any
    backward_count: Any
    counting: int
    base: int
    tile_start: Any
    tiles: int
    leaf: int
    leaf_tiles: int
    ld: int


class _Ordering(NamedTuple):
    """Room of each worker for the keys of the samples of a leaf, and for those among which the next one is chosen."""

    keys: Any
    windows: Any
    wanted: int


@body
def _bits(row, n, lo, hi):
    """Return a bit for each of the 64 runs ``lo`` to ``hi`` of 128 into which the features fall: any is not zero."""
    key = np.uint64(0)
    for b in range(lo, hi):
        some = 0
        for k in range(b * n // 128, (b + 1) * n // 128):
            some |= row[k] != 0
        key = (key << np.uint64(1)) | np.uint64(some)
    return key


@body
def _chain(order, at, keys, window, count):
    """Set order[at : at + count] so that similar samples are neighbours: after each the nearest of a window.

    A group of samples then shares more zeros.
    """
    vector.noinline()
    filled = min(tuning.ORDER_WINDOW, count)
    for i in range(filled):
        window[i] = i
    following, nearest = filled, np.int64(0)
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
            distance = np.int64(vector.population_count(keys[2 * other] ^ keys[2 * sample]))
            distance += np.int64(vector.population_count(keys[2 * other + 1] ^ keys[2 * sample + 1]))
            if distance < least:
                least, nearest = distance, i


@body
def _order_leaf(order, rows, ordering, worker, first, stop, base):
    """Put the rows ``first`` to below ``stop`` in order; they are samples from ``base`` on."""
    keys = vector.address(ordering.keys.start, worker * ordering.keys.columns)
    window = vector.address(ordering.windows.start, worker * ordering.windows.columns)
    n = rows.columns
    for s in range(first, stop):
        row = vector.row_of(rows, s, 0, n)
        for half in range(2):
            keys[2 * (s - first) + half] = _bits(row, n, 64 * half, 64 * (half + 1))
    _chain(order, base + first, keys, window, stop - first)


@body
def _fill_tile(fill, x, room, rows, tile):
    """Count the entries of a tile's lists, or fill in the lists or the dense rows."""
    begin, length = fill.tile_start[tile], fill.tile_start[tile + 1] - fill.tile_start[tile]
    n, group, zero = rows.columns, vector.GROUP, np.int64(0)
    buffer, back, entry = vector.matrix(room.scratch, 0, fill.ld), room.back, np.int64(0)
    groups, parts = -(-n // group), -(-n // x.part)
    copy(back.stop, back.start, groups)
    dense = fill.counting == 0 and x.dense_start[tile] >= 0
    for s in range(0, length, tuning.COPIED_ROWS):
        count = min(tuning.COPIED_ROWS, length - s)
        copy_rows(buffer, rows, vector.address(x.order, begin + s), -fill.base, count)
        if dense:
            for i in range(count):
                at_row = x.dense_start[tile] + (s + i) * x.dense_ld
                copy(vector.address(x.dense, at_row), vector.address(buffer.start, i * fill.ld), n)
                fill_zeros(x.dense, at_row + n, x.dense_ld - n)
        else:
            entry = list_forward(room.listed, s // group * parts, entry, buffer, count, n, x.part)
            list_backward(back, buffer, s, count, n)
    if dense:
        return
    at, at_back = begin // group * parts, tile * groups
    if fill.counting > 0:
        for k in range(-(-length // group) * parts):
            fill.forward_count[at + k] = room.listed.start[k + 1] - room.listed.start[k]
        for f in range(groups):
            fill.backward_count[at_back + f] = back.stop[f] - back.start[f]
        return
    _copy_list(x.forward, fill.forward_value, at, room.listed, zero, entry)
    for f in range(groups):
        listed = vector.Entries(back.start, back.index, back.value)
        _copy_list(x.backward, fill.backward_value, at_back + f, listed, back.start[f], back.stop[f])


@body
def _copy_list(lists, value, number, listed, start, stop):
    """Copy the entries ``start`` to below ``stop`` to where a list begins."""
    to, count, group = lists.start[number], stop - start, vector.GROUP
    copy(vector.address(lists.index, to), vector.address(listed.index, start), count)
    copy(vector.address(value, to * group), vector.address(listed.value, start * group), count * group)


@kernel()
def _fill(rows, fill, x, rooms, ordering, worker, workers):
    """Count or fill, tile by tile, the lists of ``rows``, those of whole leaves, whose first sample is ``base``.

    Where it is ``wanted``, put the samples of each leaf in order before.
    """
    room = open_room(x, rooms, worker)
    leaves = -(-rows.rows // fill.leaf)
    for leaf in range(leaves * worker // workers, leaves * (worker + 1) // workers):
        first, stop = leaf * fill.leaf, min((leaf + 1) * fill.leaf, rows.rows)
        if ordering.wanted > 0:
            _order_leaf(x.order, rows, ordering, worker, first, stop, fill.base)
        before = (fill.base // fill.leaf + leaf) * fill.leaf_tiles
        for tile in range(before, min(before + fill.leaf_tiles, fill.tiles)):
            _fill_tile(fill, x, room, rows, tile)


def pack(matrix: Any) -> Any:
    """Return ``matrix`` (n, m), uint8, float32 or float64 in any layout, packed: see `Packed`; of few samples, rows."""
    n, m = matrix.shape
    if m <= tuning.FEW_SAMPLES:
        return sample_rows(matrix)
    dtype = matrix.dtype
    packer = _Packer(matrix.T)
    forward, backward = packer.count()
    tiles = tiling(m)
    groups_per_tile, parts = -(-np.diff(tiles.start) // vector.GROUP), -(-n // packer.packed.part)
    per_tile = np.add.reduceat(forward, tiles.start[:-1] // vector.GROUP * parts)
    dense = (per_tile > tuning.DENSE_SHARE * n * groups_per_tile) & (dtype != np.uint8)
    if m <= tuning.FEW_DENSE_SAMPLES and dense.all():
        return sample_rows(matrix)
    forward.reshape(-1, parts)[np.repeat(dense, groups_per_tile)] = 0
    backward.reshape(len(dense), -1)[dense] = 0
    return packer.fill(forward, backward, dense)


class _Packer:
    """Two passes over rows (m, n): one orders samples and counts entries, the other fills them in."""

    def __init__(self, rows: Any) -> None:
        m, n = rows.shape
        self._rows, self._tiles = rows, tiling(m)
        dtype, tile = rows.dtype, self._tiles.most
        self.packed = no_input(dtype, n)._replace(order=np.empty(m, np.int32))
        self._workers = min(usable_threads(), -(-m // self._tiles.leaf))
        ld = row_stride(round_up(n, vector.PADDING), dtype.itemsize)
        groups = [(-(-tile // tuning.COPIED_ROWS) * tuning.COPIED_ROWS // vector.GROUP, n)]
        self._rooms = make_rooms(self._workers, dtype, tuning.COPIED_ROWS * ld, groups, (n, tile))
        none = np.empty(0, dtype)
        self._filling = _Filling(
            none, none, np.empty(0, np.int64), np.empty(0, np.int64), 0, 0, self._tiles.start,
            len(self._tiles.start) - 1, self._tiles.leaf, self._tiles.per_leaf, ld,
        )  # fmt: skip

    def count(self) -> tuple[Any, Any]:
        """Put samples in order, and return how many entries each forward and each backward list has."""
        (m, n), group = self._rows.shape, vector.GROUP
        forward = np.zeros(-(-m // group) * -(-n // self.packed.part), np.int64)
        backward = np.zeros(self._filling.tiles * -(-n // group), np.int64)
        keys = np.empty((self._workers, 2 * self._tiles.leaf), np.uint64)
        windows = np.empty((self._workers, tuning.ORDER_WINDOW), np.int64)
        counting = self._filling._replace(forward_count=forward, backward_count=backward, counting=1)
        self._launch(counting, self.packed, _Ordering(keys, windows, 1))
        return forward, backward

    def fill(self, forward: Any, backward: Any, dense: Any) -> Packed:
        """Return the packed matrix with lists of these numbers of entries, and with dense tiles."""
        dtype, ld, tile = self._rows.dtype, self.packed.dense_ld, self._tiles.most
        # A register tile may read a whole group of rows where the last has fewer.
        dense_rows = int(dense.sum()) * tile + vector.PADDING if dense.any() else 0
        values = [aligned(int(counts.sum()) * vector.GROUP, dtype) for counts in (forward, backward)]
        lists = []
        for counts, old in ((forward, self.packed.forward), (backward, self.packed.backward)):
            ends = np.concatenate(([0], np.cumsum(counts)))
            lists.append(old._replace(start=ends[:-1], stop=ends[1:], index=np.empty(ends[-1], np.int32)))
        packed = self.packed._replace(
            forward=lists[0],
            backward=lists[1],
            dense=aligned(dense_rows * ld, dtype),
            dense_start=np.where(dense, (np.cumsum(dense) - 1) * (tile * ld), -1),
        )
        if dense.any():
            packed.dense[-vector.PADDING * ld :] = 0
        filling = self._filling._replace(forward_value=values[0], backward_value=values[1])
        self._launch(filling, packed, _Ordering(np.empty((0, 0), np.uint64), np.empty((0, 0), np.int64), 0))
        name = "code" if dtype == np.uint8 else "value"
        coded = int(dtype == np.uint8)
        return packed._replace(
            forward=packed.forward._replace(**{name: values[0]}, coded=coded),
            backward=packed.backward._replace(**{name: values[1]}, coded=coded),
        )

    def _launch(self, filling: _Filling, packed: Packed, ordering: _Ordering) -> None:
        starts = leaf_starts(len(self._rows))
        for k, _, rows in row_batches(self._rows, self._rows.dtype, starts):
            here = filling._replace(base=int(starts[k]))
            _fill.launch(self._workers, rows, here, packed, self._rooms, ordering)


def operands(x: Any, table: Any) -> Any:
    """Return the operand for the dtype of ``table`` (256,): few samples of uint8 are decoded."""
    if isinstance(x, Packed) and x.forward.coded:
        decoder, none = contiguous(table, table.dtype), np.empty(0, table.dtype)
        forward, backward = (one._replace(table=decoder, value=none) for one in (x.forward, x.backward))
        return x._replace(dense=none, forward=forward, backward=backward)
    return sample_rows(table[x].T) if isinstance(x, np.ndarray) and x.dtype == np.uint8 else x


class _Unpacking(NamedTuple):
    """What is unpacked: features from the first on, of which each group of samples has ``parts`` lists."""

    x: Packed
    tile_start: Any
    tiles: int
    parts: int
    first: int


@body
def _unpack_group(out, source, group):
    """Set the non-zero elements of the rows of a group of samples."""
    x, features = source.x, out.columns
    lists, size, at = x.forward, vector.GROUP, group * source.parts
    members, last = min(size, out.rows - group * size), source.first + features - 1
    for number in range(at + source.first // x.part, at + last // x.part + 1):
        for entry in range(lists.start[number], lists.stop[number]):
            feature = np.int64(lists.index[entry]) - source.first
            if feature < 0 or feature >= features:
                continue
            for g in range(members):
                to = x.order[group * size + g] * features + feature
                if lists.coded > 0:
                    out.start[to] = lists.code[entry * size + g]
                else:
                    out.start[to] = lists.value[entry * size + g]


@kernel()
def _unpack(out, source, worker, workers):
    """Set the non-zero elements of rows of samples, tile by tile."""
    x, features = source.x, out.columns
    for tile in range(source.tiles * worker // workers, source.tiles * (worker + 1) // workers):
        begin, stop = source.tile_start[tile], source.tile_start[tile + 1]
        if x.dense_start[tile] < 0:
            for group in range(begin // vector.GROUP, -(-stop // vector.GROUP)):
                _unpack_group(out, source, group)
            continue
        for position in range(begin, stop):
            at = x.dense_start[tile] + (position - begin) * x.dense_ld + source.first
            copy(vector.address(out.start, x.order[position] * features), vector.address(x.dense, at), features)


def unpack(x: Any, first: int, stop: int) -> Any:
    """Return the features ``first`` to below ``stop`` as they are stored, rows (m, stop - first)."""
    if isinstance(x, np.ndarray):
        return x[:, first:stop]
    m = len(x.order)
    starts = tiling(m).start
    parts = len(x.forward.start) // -(-m // vector.GROUP)
    rows = np.zeros((m, stop - first), np.uint8 if x.forward.coded else x.forward.value.dtype)
    source = _Unpacking(x, starts, len(starts) - 1, parts, first)
    _unpack.launch(min(usable_threads(), source.tiles), rows, source)
    return rows


def facts(x: Any) -> tuple[str, int]:
    """Return the form ("dense", "sparse" or "mixed") and the bytes."""
    if isinstance(x, np.ndarray):
        return "dense", x.nbytes
    dense_tiles = np.count_nonzero(x.dense_start >= 0)
    kind = "sparse" if dense_tiles == 0 else "dense" if dense_tiles == len(x.dense_start) else "mixed"
    own = [x.order, x.dense, x.dense_start]
    for lists in (x.forward, x.backward):  # the stops are in the memory of the starts
        own += [lists.start, lists.index, lists.code, lists.value]
    return kind, sum(one.nbytes for one in own)
