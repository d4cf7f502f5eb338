"""Unpacking samples that were packed in tiles: see `packing`."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import copy
from fastmlp.kernels.compiled.operands import Packed
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import tiling


class _Unpacking(NamedTuple):
    """What is unpacked: tiles of a packed matrix, of which each group of samples has ``parts`` lists.

    ``base`` is the first sample of the first tile.
    """

    x: Packed
    tile_start: Any
    first: int
    tiles: int
    parts: int
    base: int


@body
def _unpack_group(out, source, group):
    """Set the non-zero elements of the rows of a group of samples."""
    x, features = source.x, out.columns
    lists, size, at = x.forward, vector.GROUP, group * source.parts
    members = min(size, source.base + out.rows - group * size)
    for entry in range(lists.start[at], lists.stop[at + source.parts - 1]):
        feature = np.int64(lists.index[entry])
        for g in range(members):
            to = (x.order[group * size + g] - source.base) * features + feature
            if lists.coded > 0:
                out.start[to] = lists.code[entry * size + g]
            else:
                out.start[to] = lists.value[entry * size + g]


@kernel()
def _unpack(out, source, worker, workers):
    """Set the non-zero elements of rows of samples, tile by tile."""
    x, features = source.x, out.columns
    for k in range(source.tiles * worker // workers, source.tiles * (worker + 1) // workers):
        tile = source.first + k
        begin, stop = source.tile_start[tile], source.tile_start[tile + 1]
        if x.dense_start[tile] < 0:
            for group in range(begin // vector.GROUP, -(-stop // vector.GROUP)):
                _unpack_group(out, source, group)
            continue
        for position in range(begin, stop):
            at, to = x.dense_start[tile] + (position - begin) * x.dense_ld, x.order[position] - source.base
            copy(vector.address(out.start, to * features), vector.address(x.dense, at), features)


def stored(x: Any) -> tuple[tuple[int, int], Any]:
    """Return the shape (m, n) and the dtype of packed samples as they are stored."""
    if isinstance(x, np.ndarray):
        return x.shape, x.dtype
    return (len(x.order), x.features), np.dtype(np.uint8) if x.forward.coded else x.forward.value.dtype


def unpack(x: Any) -> Iterator[tuple[int, Any]]:
    """Yield the samples as they are stored, a few at a time: the first one, and rows (m, n)."""
    (m, n), dtype = stored(x)
    if isinstance(x, np.ndarray):
        yield 0, x
        return
    tiles, parts = tiling(m, x.whole), len(x.forward.start) // -(-m // vector.GROUP)
    at_once = max(tuning.ROW_BATCH // tiles.leaf, 1) * tiles.per_leaf
    for tile in range(0, len(tiles.start) - 1, at_once):
        stop = min(tile + at_once, len(tiles.start) - 1)
        base = int(tiles.start[tile])
        rows = np.zeros((tiles.start[stop] - base, n), dtype)
        source = _Unpacking(x, tiles.start, tile, stop - tile, parts, base)
        _unpack.launch(min(usable_threads(), source.tiles), rows, source)
        yield base, rows
