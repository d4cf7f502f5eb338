"""The summation tree: leaves, tiles, and how gradients are added in a fixed order."""

import functools
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import round_up
from fastmlp.kernels.compiled.runtime import body


def _leaf_size(m: int) -> int:
    """Return the samples in a leaf of the summation tree over m samples: a function of m and of nothing else."""
    size = tuning.LEAF_STEP
    if m > tuning.MOST_LEAVES * tuning.LEAF_STEP:
        size = min(round_up(-(-m // tuning.MOST_LEAVES), tuning.SAMPLE_TILE), tuning.FULL_LEAF)
    leaves = -(-m // size)
    leaves -= leaves % 2 if leaves > 1 else 0  # an even number, as even in size as may be: two workers share them alike
    return round_up(-(-m // leaves), tuning.LEAF_MULTIPLE)


class _Tiles(NamedTuple):
    """How m samples fall into tiles and these into leaves: tile t begins at sample ``start[t]``, the last ends at m.

    A leaf has ``per_leaf`` tiles and ``leaf`` samples, the last of them may have less; a tile has ``most`` samples, the
    last of a leaf may have less.
    """

    start: Any
    most: int
    per_leaf: int
    leaf: int


@functools.lru_cache(maxsize=64)
def tiling(m: int) -> _Tiles:
    """Return the tiles of m samples; kernels only read the array."""
    leaf = _leaf_size(m)
    most = round_up(-(-leaf // max(1, round(leaf / tuning.SAMPLE_TILE))), tuning.LEAF_MULTIPLE)
    within = np.arange(0, leaf, most)
    start = np.add.outer(np.arange(0, m, leaf), within).reshape(-1)
    return _Tiles(np.append(start[start < m], m), most, len(within), leaf)


@body
def add_rows(total, x, at, ld, length):
    """Add rows to ``total``; return whether it is finite, which it is only where all of them are."""
    vector.outline()
    width = len(total)
    fours = length // 4 * 4
    for s in range(0, fours, 4):
        # Four rows at once: the totals wait for one another a fourth as often.
        first = at + s * ld
        r0, r1 = x[first : first + width], x[first + ld : first + ld + width]
        r2, r3 = x[first + 2 * ld : first + 2 * ld + width], x[first + 3 * ld : first + 3 * ld + width]
        for c in range(width):
            total[c] += (r0[c] + r1[c]) + (r2[c] + r3[c])
    for s in range(fours, length):
        row = x[at + s * ld : at + s * ld + width]
        for c in range(width):
            total[c] += row[c]
    finite = True
    for c in range(len(total)):
        finite &= total[c] - total[c] == 0
    return finite


@body
def add_to(left, right):
    vector.outline()
    for k in range(len(left)):
        left[k] += right[k]


@body
def add_top(grads, unit, stack, top, size):
    """Add the uppermost of ``top`` buffers on the stack to the one below, which of the first is the unit's gradient."""
    right = stack[(top - 1) * size : top * size]
    if top > 1:
        add_to(stack[(top - 2) * size : (top - 1) * size], right)
    else:
        add_to(grads[unit * size : (unit + 1) * size], right)


@body
def fold_own(grads, folded, unit, worker, size):
    """Add the unit's gradient, as a right half of the tree, to left ones as far as the same worker made them.

    ``folded[u, 0]`` says how many units the u-th gradient sums up, and who did it: see `tuning.FOLDED`.
    """
    count = 1
    folded[unit, 0] = tuning.FOLDED + worker
    while unit // count % 2 == 1 and folded[unit - count, 0] == count * tuning.FOLDED + worker:
        unit -= count
        add_to(grads[unit * size : (unit + 1) * size], grads[(unit + count) * size : (unit + count + 1) * size])
        count *= 2
        folded[unit, 0] = count * tuning.FOLDED + worker


@body
def fold_subtrees(grads, folded, size, at, count):
    """Add ``count`` elements of the units' gradients in the tree's order; the sums are left in the first."""
    vector.outline()
    units = len(folded)
    stride = 1
    while stride < units:
        for left in range(0, units - stride, 2 * stride):
            if folded[left, 0] < 2 * stride * tuning.FOLDED:
                add_to(grads[left * size + at : left * size + at + count],
                     grads[(left + stride) * size + at : (left + stride) * size + at + count])  # fmt: skip
        stride *= 2


@functools.lru_cache(maxsize=64)
def worker_shares(first: int, stop: int, workers: int) -> Any:
    """Return the first of each worker's share of the subtrees and its end, in rows of a cache line."""
    shares = np.zeros((workers, tuning.LINE_NUMBERS), np.int64)
    ends = first + (stop - first) * np.arange(workers + 1) // workers
    shares[:, 0], shares[:, 1] = ends[:-1], ends[1:]
    return shares
