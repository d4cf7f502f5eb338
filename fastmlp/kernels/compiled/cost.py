"""The notebook's cost, from probabilities."""

from typing import Any

import numpy as np
from numba import prange

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.elementwise import sum_of
from fastmlp.kernels.compiled.launch import kernel
from fastmlp.kernels.compiled.runtime import body


@body
def _cost(sums, a, a_class, a_sample, y, y_class, y_sample, m, lo, hi):
    classes = len(a) // m
    # Nine of ten logarithms need not be taken: listed is what has a target, up to one class for each sample.
    loss, sample = np.empty(tuning.COST_BLOCK, a.dtype), np.empty(tuning.COST_BLOCK + tuning.TARGETS_AT_ONCE, np.int64)
    p, target = np.empty(tuning.COST_BLOCK, a.dtype), np.empty(tuning.COST_BLOCK, a.dtype)
    for block in range(lo, hi):
        first = block * tuning.COST_BLOCK
        to = loss[: min(tuning.COST_BLOCK, m - first)]
        count = np.int64(-1)
        if _is_finite(a, a_class, a_sample, classes, first, len(to)):
            count = _with_target(sample, p, target, a, a_class, a_sample, y, y_class, y_sample,
                                 classes, first, len(to))  # fmt: skip
        if count < 0:
            _cost_of_all(to, a, a_class, a_sample, y, y_class, y_sample, classes, first)
        else:
            _cost_of_some(to, sample, p[:count], target)
        sums[block] = sum_of(to)


@body
def _is_finite(a, a_class, a_sample, classes, first, width):
    """Return whether the probabilities of the samples are finite: one that is not counts also without a target."""
    vector.outline()
    # Rows of what lies side by side: classes, or all at once.
    rows, start, step, length = classes, first, a_class, width
    if a_class == 1:
        rows, start, step, length = 1, first * a_sample, 0, classes * width
    finite = True
    for i in range(rows):
        row = a[start + i * step : start + i * step + length]
        for k in range(length):
            finite &= row[k] - row[k] == 0
    return finite


@body
def _with_target(sample, p, target, a, a_class, a_sample, y, y_class, y_sample, classes, first, width):
    """List the targets that are not zero, with their sample's number from ``first`` on and probability; return the end.

    Or -1, where there are more of them than samples.
    """
    vector.outline()
    count = np.int64(0)
    if y_class == 1:
        start = first * classes
        count = _list(sample, np.int64(0), y, start, classes * width, width)
        s = begin = np.int64(0)  # a sample, and where its targets begin
        for e in range(min(count, width)):
            k = sample[e]
            while k - begin >= classes:
                begin += classes
                s += 1
            sample[e], p[e], target[e] = s, a[(k - begin) * a_class + (first + s) * a_sample], y[start + k]
        return count if count <= width else np.int64(-1)
    for i in range(classes):
        before, count = count, _list(sample, count, y, i * y_class + first, width, width)
        if count > width:
            return np.int64(-1)
        for e in range(before, count):
            s = first + sample[e]
            p[e], target[e] = a[i * a_class + s * a_sample], y[i * y_class + s]
    return count


@body
def _list(at, entry, x, start, count, most):
    """Append each k < count for which x[start + k] is not zero, until there are more than ``most``; return the end."""
    vector.outline()
    whole = count // tuning.TARGETS_AT_ONCE * tuning.TARGETS_AT_ONCE
    for k in range(0, whole, tuning.TARGETS_AT_ONCE):
        bits = vector.nonzero_bits(x, start + k)
        while bits != 0:
            below = bits - np.uint64(1)
            at[entry] = k + np.int64(vector.population_count(~bits & below))
            entry += 1
            bits &= below
        if entry > most:
            return entry
    for k in range(whole, count):
        at[entry] = k
        entry += x[start + k] != 0
        if entry > most:
            return entry
    return entry


@body
def _cost_of_some(loss, sample, p, target):
    """Set the losses by the listed targets; ``p`` is used up."""
    vector.outline()
    floor = vector.smallest_normal(p)
    for e in range(len(p)):
        p[e] = target[e] * vector.log(floor if p[e] < floor else p[e])
    # By sample, so that the sum does not depend on the order of the list, which is that of the memory.
    for j in range(len(loss)):
        loss[j] = 0
    for e in range(len(p)):
        loss[sample[e]] -= p[e]


@body
def _cost_of_all(loss, a, a_class, a_sample, y, y_class, y_sample, classes, first):
    """Set the losses, by every logarithm, of the samples from ``first`` on."""
    vector.outline()
    floor = vector.smallest_normal(a)
    for j in range(len(loss)):
        loss[j] = 0
    for i in range(classes):
        for j in range(len(loss)):
            p = a[i * a_class + (first + j) * a_sample]
            target = y[i * y_class + (first + j) * y_sample]
            loss[j] -= target * vector.log(floor if p < floor else p)


@kernel(outputs=1)
def _costs(sums, a, a_class, a_sample, y, y_class, y_sample, m, workers):
    blocks = len(sums)
    for worker in prange(workers):
        lo, hi = blocks * worker // workers, blocks * (worker + 1) // workers
        _cost(sums, a, a_class, a_sample, y, y_class, y_sample, m, lo, hi)


def cross_entropy(a: Any, y: Any) -> float:
    """Return the mean of -sum_k y_k log(max(a_k, tiny)) over the columns of a, y (C, m), C- or F-contiguous."""
    m = a.shape[1]
    sums = np.empty(-(-m // tuning.COST_BLOCK))
    _costs(sums, *_flat_and_steps(a), *_flat_and_steps(y), m)
    return float(np.add.reduce(sums) / m)


def _flat_and_steps(x: Any) -> tuple[Any, int, int]:
    """Return a contiguous matrix as a flat array, and the elements from one row, and from one column, to the next."""
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return x.T.reshape(-1), 1, x.shape[0]
    return x.reshape(-1), x.shape[1], 1
