"""Packing a matrix of samples: an order within each leaf, and lists or dense rows for each tile."""

import math
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import sample_lists, tuning
from fastmlp.kernels.compiled.columns import copy_columns
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.listed_samples import copy_listed, group_listed, turn_listed
from fastmlp.kernels.compiled.lists import copy_rows, list_backward, list_forward
from fastmlp.kernels.compiled.memory import (
    aligned,
    contiguous,
    copy,
    fill_zeros,
    round_up,
    row_stride,
    sample_rows,
)
from fastmlp.kernels.compiled.operands import Packed
from fastmlp.kernels.compiled.ordering import (
    Features,
    Ordering,
    group_features,
    make_ordering,
    natural_features,
    order_leaf,
)
from fastmlp.kernels.compiled.plain_rows import row_batches
from fastmlp.kernels.compiled.plan import no_input, part_size
from fastmlp.kernels.compiled.rooms import make_rooms, open_room
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import SampleLists, no_samples, rows_of, types_of
from fastmlp.kernels.compiled.tree import leaf_starts, tiling

# Bytes, about, of a worker's room for the features of a tile that are listed at a time: enough that 784 features, or a
# few thousand, are listed at once, and little beside the matrix where they are so many that they are not.
_ROOM_BYTES = 1 << 24


class _Filling(NamedTuple):
    """Where the entries of lists go, or, if ``counting``, their numbers; and how samples fall into tiles and leaves.

    The samples are ``listed``, or else rows from sample ``base`` on; ``span`` features are listed at a time, which are
    whole blocks and groups. ``marks`` has a bit for each of these, for each worker, and all are zero. Features are in
    an order of their own in ``groups`` only if all are listed at once.
    """

    forward_value: Any
    backward_value: Any
    forward_count: Any
    backward_count: Any
    counting: int
    listed: SampleLists
    base: int
    samples: int
    features: int
    span: int
    groups: Features
    marks: Any
    tile_start: Any
    tiles: int
    leaf: int
    leaf_tiles: int
    at_once: int
    ld: int
    turned_ld: int


@body
def _copy_samples(buffer, fill, rows, order, count, features):
    """Copy some features of samples order[0:] into the buffer."""
    if fill.listed.listed > 0:
        copy_listed(buffer, fill.listed, order, count, features)
    else:
        copy_rows(buffer, rows, order, -fill.base, count, features)


@body
def _turn(turned, buffer, count, n):
    """Set the rows of ``turned`` to the columns of the buffer, filled up with zeros to whole vectors; return those."""
    lanes = vector.lanes(buffer)
    features, samples = -(-n // vector.GROUP) * vector.GROUP, -(-count // lanes) * lanes
    for s in range(count, samples):
        fill_zeros(buffer.start, s * buffer.ld, features)
    copy_columns(turned, buffer, features, samples, np.int64(0))  # which are in the cache
    return samples


class _Span(NamedTuple):
    """The tile, and the first of the features to list and how many."""

    tile: int
    first: int
    n: int


@body
def _list_entries(fill, x, room, span, marks):
    """List a span of features of a tile of listed samples."""
    begin, stop = fill.tile_start[span.tile], fill.tile_start[span.tile + 1]
    order, features, group = vector.address(x.order, begin), (span.first, span.n), vector.GROUP
    parts, entry = -(-span.n // x.part), np.int64(0)
    fill_zeros(room.scratch, 0, span.n * group)
    for q in range(-(-(stop - begin) // group)):
        members, there = min(group, stop - begin - q * group), vector.address(order, q * group)
        own = room.scratch, marks, x.part, q * parts
        entry = group_listed(room.listed, entry, fill.listed, there, members, features, own)
    turn_listed(room.back, fill.listed, order, stop - begin, features, fill.groups.places)


@body
def _list_rows_of_tile(fill, x, room, rows, span, dense):
    """List a span of features of a tile of samples by way of dense rows, or, where the tile is dense, copy these."""
    begin, stop = fill.tile_start[span.tile], fill.tile_start[span.tile + 1]
    length, n, group = stop - begin, span.n, vector.GROUP
    buffer, entry, parts = vector.matrix(room.scratch, 0, fill.ld), np.int64(0), -(-n // x.part)
    turned = vector.matrix(room.scratch, fill.at_once * fill.ld, fill.turned_ld)
    for s in range(0, length, fill.at_once):
        count = min(fill.at_once, length - s)
        _copy_samples(buffer, fill, rows, vector.address(x.order, begin + s), count, (span.first, n))
        if dense:
            for i in range(count):
                at_row = x.dense_start[span.tile] + (s + i) * x.dense_ld + span.first
                copy(vector.address(x.dense, at_row), vector.address(buffer.start, i * fill.ld), n)
                fill_zeros(x.dense, at_row + n, x.dense_ld - span.first - n)
        else:
            entry = list_forward(room.listed, s // group * parts, entry, buffer, count, n, x.part)
            list_backward(room.back, turned, s, _turn(turned, buffer, count, n), n, fill.groups.names)


@body
def _fill_span(fill, x, room, rows, span, marks):
    """Count the entries of a tile's lists, or fill in the lists or the dense rows, for a span of features."""
    length = fill.tile_start[span.tile + 1] - fill.tile_start[span.tile]
    copy(room.back.stop, room.back.start, -(-span.n // vector.GROUP))
    dense = fill.counting == 0 and x.dense_start[span.tile] >= 0
    if fill.listed.listed > 0 and not dense:
        _list_entries(fill, x, room, span, marks)
    else:
        _list_rows_of_tile(fill, x, room, rows, span, dense)
    if fill.counting > 0:
        _count_lists(fill, x, room, span, length)
    elif not dense:
        _copy_lists(fill, x, room, span, length)


@body
def _list_numbers(fill, x, span):
    """Return the numbers of a span's first forward and first backward list, and how many lists each group has."""
    parts, groups = -(-fill.features // x.part), -(-fill.features // vector.GROUP)
    forward = fill.tile_start[span.tile] // vector.GROUP * parts + span.first // x.part
    return forward, span.tile * groups + span.first // vector.GROUP, parts


@body
def _count_lists(fill, x, room, span, length):
    """Set how many entries the lists of a span have."""
    forward, backward, apart = _list_numbers(fill, x, span)
    parts = -(-span.n // x.part)
    for q in range(-(-length // vector.GROUP)):
        for p in range(parts):
            k = q * parts + p
            fill.forward_count[forward + q * apart + p] = room.listed.start[k + 1] - room.listed.start[k]
    for f in range(-(-span.n // vector.GROUP)):
        fill.backward_count[backward + f] = room.back.stop[f] - room.back.start[f]


@body
def _copy_lists(fill, x, room, span, length):
    """Copy the lists of a span to where they belong."""
    forward, backward, apart = _list_numbers(fill, x, span)
    parts, back = -(-span.n // x.part), room.back
    for q in range(-(-length // vector.GROUP)):
        entries = room.listed.start[q * parts], room.listed.start[(q + 1) * parts]
        _copy_list(x.forward, fill.forward_value, forward + q * apart, room.listed, entries, span.first)
    for f in range(-(-span.n // vector.GROUP)):
        listed, entries = vector.Entries(back.start, back.index, back.value), (back.start[f], back.stop[f])
        _copy_list(x.backward, fill.backward_value, backward + f, listed, entries, np.int64(0))


@body
def _copy_list(lists, value, number, listed, entries, shift):
    """Copy entries to where a list begins; their indices grow by ``shift``."""
    vector.noinline()
    start, to, group = entries[0], lists.start[number], vector.GROUP
    count = entries[1] - start
    index, source = vector.part(lists.index, to, count), vector.part(listed.index, start, count)
    for k in range(count):
        index[k] = source[k] + shift
    copy(vector.address(value, to * group), vector.address(listed.value, start * group), count * group)


@kernel(lambda args: (args[0].dtype, types_of(args[1].listed)))
def _fill(rows, fill, x, rooms, ordering, worker, workers):
    """Count or fill, tile by tile, the lists of samples, those of whole leaves, from the base on.

    Where it is ``wanted``, put the samples of each leaf in order before.
    """
    room, marks = open_room(x, rooms, worker), vector.address(fill.marks.start, worker * fill.marks.columns)
    leaves = -(-fill.samples // fill.leaf)
    for leaf in range(leaves * worker // workers, leaves * (worker + 1) // workers):
        first, stop = leaf * fill.leaf, min((leaf + 1) * fill.leaf, fill.samples)
        if ordering.wanted > 0:
            order_leaf(x.order, fill.base, rows, fill.listed, fill.features, ordering, worker, (first, stop))
        before = (fill.base // fill.leaf + leaf) * fill.leaf_tiles
        for tile in range(before, min(before + fill.leaf_tiles, fill.tiles)):
            for at in range(0, fill.features, fill.span):
                _fill_span(fill, x, room, rows, _Span(tile, at, min(fill.span, fill.features - at)), marks)


def pack(matrix: Any, whole: int = 0, features: Features | None = None) -> Any:
    """Return ``matrix`` (n, m), uint8, float32 or float64 in any layout, packed: see `Packed`; of few samples, rows.

    If ``whole`` is given, the samples are those of whole leaves of so many: see `leaf_size`. Gradients of these parts
    are added, so that all of them must have the same order of ``features``: that of `order_features`, or by default
    their own.
    """
    (n, m), all_of, rows = matrix.shape, whole or matrix.shape[1], matrix.T
    if all_of <= tuning.FEW_SAMPLES:
        return sample_rows(matrix)
    if not whole:
        features = _grouped(rows, no_samples(matrix.dtype), (m, n), m)
    packed = _pack(_Packer(rows, no_samples(matrix.dtype), (m, n), all_of, features))
    return sample_rows(matrix) if packed is None else packed


def order_features(matrix: Any, whole: int) -> Features | None:
    """Return an order of features, by some of ``whole`` samples, in which their lists are short; None for their own."""
    # Parts of uint8 only: dense tiles, which others may have, need features in their own order.
    if matrix.dtype != np.uint8 or whole <= tuning.FEW_SAMPLES:
        return None
    return _grouped(matrix.T, no_samples(matrix.dtype), matrix.shape[::-1], whole)


def _grouped(rows: Any, listed: SampleLists, shape: tuple[int, int], whole: int) -> Features | None:
    """Return an order of features by samples, rows or listed, of ``whole``; None if it would not pay."""
    m, n = shape
    if whole < tuning.GROUPED_SAMPLES or _span(n, whole, rows.dtype.itemsize) < n:
        return None
    return group_features(rows, listed, m, n)


def pack_samples(x: SampleLists) -> Any:
    """Return what `pack` returns for the same samples, stored for batches."""
    if not x.listed:
        return pack(rows_of(x).T)
    dtype, m = x.value.dtype, (len(x.start) - 1) // x.parts
    none = np.empty((0, x.features), dtype)
    if m <= tuning.FEW_SAMPLES:
        return _rows(x, m, dtype)
    shape = m, x.features
    packed = _pack(_Packer(none, x, shape, m, _grouped(none, x, shape, m)))
    return _rows(x, m, dtype) if packed is None else packed


def _rows(x: SampleLists, m: int, dtype: Any) -> Any:
    """Return listed samples as rows."""
    rows = aligned(m * x.features, dtype).reshape(m, x.features)
    for first, some in sample_lists.unpack(x):
        rows[first : first + some.shape[1]] = some.rows()
    return rows


def _pack(packer: "_Packer") -> Any:
    """Return the packed matrix, or None if rows serve better."""
    m, n, dtype = *packer.shape, packer.packed.dense.dtype
    forward, backward = packer.count()
    tiles = tiling(m, packer.packed.whole)
    groups_per_tile, parts = -(-np.diff(tiles.start) // vector.GROUP), -(-n // packer.packed.part)
    per_tile = np.add.reduceat(forward, tiles.start[:-1] // vector.GROUP * parts)
    dense = (per_tile > tuning.DENSE_SHARE * n * groups_per_tile) & (dtype != np.uint8)
    if packer.packed.whole <= tuning.FEW_DENSE_SAMPLES and dense.all():
        return None
    if dense.any():
        # Rows of the gradient have one order, which in dense tiles is that of the features.
        backward = packer.count_ungrouped(backward)
    forward.reshape(-1, parts)[np.repeat(dense, groups_per_tile)] = 0
    backward.reshape(len(dense), -1)[dense] = 0
    return packer.fill(forward, backward, dense)


def _span(n: int, whole: int, itemsize: int) -> int:
    """Return the features to list at a time: all, or so many whole blocks and groups as there is room for."""
    multiple = math.lcm(part_size(n), vector.GROUP)
    most = _ROOM_BYTES // (tiling(whole, whole).most * (2 * itemsize + 4))
    return min(n, max(most // multiple, 1) * multiple)


class _Packer:
    """Two passes over samples, rows (m, n) or listed: one orders them and counts entries, the other fills these in."""

    def __init__(
        self, rows: Any, listed: SampleLists, shape: tuple[int, int], whole: int, features: Features | None
    ) -> None:
        m, n = self.shape = shape
        self._rows, self._tiles = rows, tiling(m, whole)
        dtype, tile = rows.dtype, self._tiles.most
        self.packed = no_input(dtype, n, whole)._replace(order=np.empty(m, np.int32))
        self._workers = min(usable_threads(), -(-m // self._tiles.leaf))
        span = _span(n, whole, dtype.itemsize)
        ld = row_stride(round_up(span, vector.PADDING), dtype.itemsize)
        lanes = vector.VECTOR_BYTES // dtype.itemsize
        at_once = round_up(tuning.COPIED_ROWS, math.lcm(vector.GROUP, lanes))
        turned_ld = row_stride(at_once, dtype.itemsize)
        groups = round_up(tile, at_once) // vector.GROUP
        lists = groups * -(-span // self.packed.part) + 1
        scratch, back = at_once * ld + round_up(span, vector.GROUP) * turned_ld, (span, round_up(tile, lanes))
        self._rooms = make_rooms(self._workers, dtype, scratch, [(groups, span)], back, (lists, 1))
        none, marks = np.empty(0, dtype), np.zeros((self._workers, -(-span // sample_lists.BITS)), np.uint64)
        self._filling = _Filling(
            none, none, np.empty(0, np.int64), np.empty(0, np.int64), 0, listed, 0, m, n, span,
            natural_features(n) if features is None else features, marks,
            self._tiles.start, len(self._tiles.start) - 1, self._tiles.leaf, self._tiles.per_leaf,
            at_once, ld, turned_ld,
        )  # fmt: skip

    def count(self, *, order: bool = True) -> tuple[Any, Any]:
        """Put samples in order, and return how many entries each forward and each backward list has."""
        (m, n), group = self.shape, vector.GROUP
        forward = np.zeros(-(-m // group) * -(-n // self.packed.part), np.int64)
        backward = np.zeros(self._filling.tiles * -(-n // group), np.int64)
        counting = self._filling._replace(forward_count=forward, backward_count=backward, counting=1)
        self._launch(counting, self.packed, make_ordering(self._workers, self._tiles.leaf, n, wanted=order))
        return forward, backward

    def count_ungrouped(self, backward: Any) -> Any:
        """Return how many entries each backward list has with features in their own order, which they then have."""
        natural = natural_features(self.shape[1])
        if self._filling.groups.places is natural.places:
            return backward
        self._filling = self._filling._replace(groups=natural)
        return self.count(order=False)[1]

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
            places=self._filling.groups.places,
        )
        # What is behind the samples of a tile shows in no result, but a file must not hold what the memory held before.
        packed.dense[max(dense_rows - vector.PADDING, 0) * ld :] = 0
        for t in np.flatnonzero(dense & (np.diff(self._tiles.start) < tile)):
            begin = packed.dense_start[t]
            packed.dense[begin + (self._tiles.start[t + 1] - self._tiles.start[t]) * ld : begin + tile * ld] = 0
        filling = self._filling._replace(forward_value=values[0], backward_value=values[1])
        self._launch(filling, packed, make_ordering(self._workers, self._tiles.leaf, self.shape[1], wanted=False))
        name = "code" if dtype == np.uint8 else "value"
        coded = int(dtype == np.uint8)
        return packed._replace(
            forward=packed.forward._replace(**{name: values[0]}, coded=coded),
            backward=packed.backward._replace(**{name: values[1]}, coded=coded),
        )

    def _launch(self, filling: _Filling, packed: Packed, ordering: Ordering) -> None:
        if filling.listed.listed:
            _fill.launch(self._workers, self._rows, filling, packed, self._rooms, ordering)
            return
        starts = leaf_starts(self.shape[0], self.packed.whole)
        for k, _, rows in row_batches(self._rows, self._rows.dtype, starts):
            here = filling._replace(base=int(starts[k]), samples=len(rows))
            _fill.launch(self._workers, rows, here, packed, self._rooms, ordering)


def operands(x: Any, table: Any) -> Any:
    """Return the operand for the dtype of ``table`` (256,): few samples of uint8 are decoded."""
    if isinstance(x, Packed) and x.forward.coded:
        decoder, none = contiguous(table, table.dtype), np.empty(0, table.dtype)
        forward, backward = (one._replace(table=decoder, value=none) for one in (x.forward, x.backward))
        return x._replace(dense=none, forward=forward, backward=backward)
    return sample_rows(table[x].T) if isinstance(x, np.ndarray) and x.dtype == np.uint8 else x


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
