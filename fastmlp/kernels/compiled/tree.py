"""How samples fall into leaves and tiles, and how workers add the gradients of leaves in the order of the tree."""

import functools
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import add, round_up
from fastmlp.kernels.compiled.runtime import body


def _leaf_size(m: int) -> int:
    """Return the samples in a leaf of the summation tree over m samples: a function of m and of nothing else."""
    size = tuning.LEAF_STEP
    if m > tuning.MOST_LEAVES * tuning.LEAF_STEP:
        size = min(round_up(-(-m // tuning.MOST_LEAVES), tuning.SAMPLE_TILE), tuning.FULL_LEAF)
    leaves = -(-m // size)
    leaves -= leaves % 2 if leaves > 1 else 0  # an even number of nearly equal leaves: two workers get equal shares
    return round_up(-(-m // leaves), tuning.LEAF_MULTIPLE)


class Tiles(NamedTuple):
    """How m samples fall into tiles and these into leaves: tile t begins at sample ``start[t]``, the last ends at m.

    A leaf has ``per_leaf`` tiles and ``leaf`` samples, the last leaf may have fewer; a tile has at most ``most``.
    """

    start: Any
    most: int
    per_leaf: int
    leaf: int


@functools.lru_cache(maxsize=64)
def tiling(m: int, whole: int) -> Tiles:
    """Return the tiles of m samples, from the beginning of a leaf on, out of ``whole``; kernels only read the array."""
    leaf = _leaf_size(whole)
    most = round_up(-(-leaf // max(1, round(leaf / tuning.SAMPLE_TILE))), tuning.LEAF_MULTIPLE)
    within = np.arange(0, leaf, most)
    start = np.add.outer(np.arange(0, m, leaf), within).reshape(-1)
    return Tiles(np.append(start[start < m], m), most, len(within), leaf)


def leaf_size(m: int, n: int) -> int:
    """Return the samples of a leaf of m samples of n features; m, if they are so few that they must stay together."""
    return m if m <= max(tuning.FEW_SAMPLES, tuning.FEW_DENSE_SAMPLES) else tiling(m, m).leaf


def leaf_starts(m: int, whole: int) -> Any:
    """Return the first sample of each leaf of `tiling`, and m."""
    return np.append(np.arange(0, m, tiling(m, whole).leaf), m)


@functools.lru_cache(maxsize=64)
def worker_shares(first: int, stop: int, workers: int) -> Any:
    """Return the first of each worker's share of some nodes and its end, in rows of a cache line."""
    shares = np.zeros((workers, tuning.LINE_NUMBERS), np.int64)
    ends = first + (stop - first) * np.arange(workers + 1) // workers
    shares[:, 0], shares[:, 1] = ends[:-1], ends[1:]
    return shares


@body
def add_top(bottom, stack, top, size):
    """Add the uppermost of ``top`` gradients on the stack to the one below, which for the first is ``bottom``."""
    below = vector.address(stack, (top - 2) * size)
    if top == 1:
        below = bottom
    add(below, vector.address(stack, (top - 1) * size), size)


@body
def fold_own(gradients, folded, bounds, node, size, worker):
    """Add a node's gradient, as a right half of the tree, to its left sibling as long as the same worker made that.

    ``folded`` counts the leaves of the subtree that each gradient sums, and names the worker: see `tuning.FOLDED`.
    """
    first, count = bounds.start[node * bounds.columns], bounds.start[node * bounds.columns + 1]
    folded.start[node * folded.columns] = count * tuning.FOLDED + worker
    while first // count % 2 == 1:
        left = node
        while left > 0 and bounds.start[left * bounds.columns] > first - count:
            left -= 1
        begins = bounds.start[left * bounds.columns] == first - count
        if not begins or folded.start[left * folded.columns] != count * tuning.FOLDED + worker:
            return
        add(vector.address(gradients, left * size), vector.address(gradients, node * size), size)
        node, first, count = left, first - count, 2 * count
        folded.start[node * folded.columns] = count * tuning.FOLDED + worker


@body
def fold_pairs(gradients, pairs, size, at, count):
    """Add ``count`` elements of pairs of gradients, the second of each to the first."""
    vector.noinline()
    for k in range(pairs.rows):
        left, right = pairs.start[k * pairs.columns], pairs.start[k * pairs.columns + 1]
        add(vector.address(gradients, left * size + at), vector.address(gradients, right * size + at), count)


@body
def add_rows(total, m, count, length):
    """Add ``length`` rows of ``count`` elements to ``total``; return whether it is finite, as it is if all rows are."""
    vector.noinline()
    to = vector.part(total, 0, count)
    fours = length // 4 * 4
    for s in range(0, fours, 4):
        # Four rows at once: the totals wait for one another a fourth as often.
        r0, r1 = vector.row(m, s, count), vector.row(m, s + 1, count)
        r2, r3 = vector.row(m, s + 2, count), vector.row(m, s + 3, count)
        for c in range(count):
            to[c] += (r0[c] + r1[c]) + (r2[c] + r3[c])
    for s in range(fours, length):
        row = vector.row(m, s, count)
        for c in range(count):
            to[c] += row[c]
    finite = True
    for c in range(count):
        finite &= to[c] - to[c] == 0
    return finite
