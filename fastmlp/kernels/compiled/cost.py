"""The notebook's cost, from probabilities and targets."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import contiguous, fill_zeros
from fastmlp.kernels.compiled.runtime import body


class _Table(NamedTuple):
    """A contiguous matrix in either order: element (i, j) is ``data[i * next_class + j * next_sample]``."""

    data: Any
    next_class: int
    next_sample: int
    classes: int


class _Listed(NamedTuple):
    """Targets that are not zero: the sample of each, counted from the first of its block, probability, and target."""

    sample: Any
    p: Any
    target: Any


@body
def _sum(base, count):
    vector.noinline()
    x = vector.part(base, 0, count)
    # Four sums, because one would wait for each addition before the next.
    s0 = s1 = s2 = s3 = 0.0
    fours = count // 4 * 4
    for j in range(0, fours, 4):
        s0 += x[j]
        s1 += x[j + 1]
        s2 += x[j + 2]
        s3 += x[j + 3]
    for j in range(fours, count):
        s0 += x[j]
    return (s0 + s1) + (s2 + s3)


@body
def _is_finite(a, classes, first, width):
    """Return whether the probabilities of the samples are finite: one that is not counts also without a target."""
    vector.noinline()
    # The elements that are stored together: a row of a class, or all of them.
    rows, start, step, length = classes, first, a.next_class, width
    if a.next_class == 1:
        rows, start, step, length = 1, first * a.next_sample, 0, classes * width
    finite = True
    for i in range(rows):
        row = vector.part(a.data, start + i * step, length)
        for k in range(length):
            finite &= row[k] - row[k] == 0
    return finite


@body
def _list_targets(listed, a, y, classes, first, width):
    """List the targets that are not zero; return their number, or -1 where there are more of them than samples."""
    vector.noinline()
    count = np.int64(0)
    if y.next_class == 1:
        start = first * classes
        count = _list_nonzero(listed.sample, count, vector.address(y.data, start), classes * width, width)
        s = begin = np.int64(0)  # a sample, and where its targets begin
        for e in range(min(count, width)):
            k = listed.sample[e]
            while k - begin >= classes:
                begin += classes
                s += 1
            listed.p[e] = a.data[(k - begin) * a.next_class + (first + s) * a.next_sample]
            listed.sample[e], listed.target[e] = s, y.data[start + k]
        return count if count <= width else np.int64(-1)
    for i in range(classes):
        row = vector.address(y.data, i * y.next_class + first)
        before, count = count, _list_nonzero(listed.sample, count, row, width, width)
        if count > width:
            return np.int64(-1)
        for e in range(before, count):
            s = listed.sample[e]
            listed.p[e], listed.target[e] = a.data[i * a.next_class + (first + s) * a.next_sample], row[s]
    return count


@body
def _list_nonzero(at, entry, x, count, most):
    """Append each k < count for which x[k] is not zero, until there are more than ``most``; return the end."""
    vector.noinline()
    whole = count // tuning.TARGETS_AT_ONCE * tuning.TARGETS_AT_ONCE
    for k in range(0, whole, tuning.TARGETS_AT_ONCE):
        bits = vector.nonzero_bits(x, k)
        while bits != 0:
            below = bits - np.uint64(1)
            at[entry] = k + np.int64(vector.population_count(~bits & below))
            entry += 1
            bits &= below
        if entry > most:
            return entry
    for k in range(whole, count):
        at[entry] = k
        entry += x[k] != 0
        if entry > most:
            return entry
    return entry


@body
def _cost_of_listed(loss, listed, count, width):
    """Set the losses by the listed targets; their probabilities are overwritten."""
    vector.noinline()
    p, target = vector.part(listed.p, 0, count), vector.part(listed.target, 0, count)
    floor = vector.smallest_normal(vector.number(listed.p, 0))
    for e in range(count):
        p[e] = target[e] * vector.log(floor if p[e] < floor else p[e])
    # By sample, so that the sum does not depend on the order of the list, which is that of the memory.
    fill_zeros(loss, 0, width)
    for e in range(count):
        loss[listed.sample[e]] -= p[e]


@body
def _cost_of_all(loss, a, y, classes, first, width):
    """Set the losses of the samples from ``first`` on, by every logarithm."""
    vector.noinline()
    floor = vector.smallest_normal(vector.number(a.data, 0))
    fill_zeros(loss, 0, width)
    for i in range(classes):
        for j in range(width):
            p = a.data[i * a.next_class + (first + j) * a.next_sample]
            target = y.data[i * y.next_class + (first + j) * y.next_sample]
            loss[j] -= target * vector.log(floor if p < floor else p)


@kernel(key=1)
def _costs(sums, numbers, samples, a, y, m, worker, workers):
    """Set the sum of each block of COST_BLOCK samples; ``numbers`` and ``samples`` are scratch of each worker."""
    blocks, width, classes = -(-m // tuning.COST_BLOCK), tuning.COST_BLOCK, a.classes
    scratch = vector.row_of(numbers, worker, 0, 3 * width)
    loss = vector.address(scratch, 0)
    listed = _Listed(
        vector.address(vector.row_of(samples, worker, 0, width), 0),
        vector.address(scratch, width),
        vector.address(scratch, 2 * width),
    )
    for block in range(blocks * worker // workers, blocks * (worker + 1) // workers):
        first = block * width
        count = np.int64(-1)
        length = min(width, m - first)
        if _is_finite(a, classes, first, length):
            count = _list_targets(listed, a, y, classes, first, length)
        if count < 0:
            _cost_of_all(loss, a, y, classes, first, length)
        else:
            _cost_of_listed(loss, listed, count, length)
        sums[block] = _sum(loss, length)


def cross_entropy(a: Any, y: Any) -> float:
    """Return the mean of -sum_k y_k log(max(a_k, tiny)) over the columns of a, y (C, m), C- or F-contiguous."""
    m, width = a.shape[1], tuning.COST_BLOCK
    workers = 1 if a.size < tuning.PARALLEL_SIZE else usable_threads()
    sums, numbers = np.empty(-(-m // width)), np.empty((workers, 3 * width), a.dtype)
    samples = np.empty((workers, width + tuning.TARGETS_AT_ONCE), np.int64)
    _costs.launch(workers, sums, numbers, samples, _table(a), _table(y), m)
    return float(np.add.reduce(sums) / m)


def _table(x: Any) -> _Table:
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return _Table(contiguous(x.T, x.dtype).reshape(-1), 1, x.shape[0], x.shape[0])
    return _Table(contiguous(x, x.dtype).reshape(-1), x.shape[1], 1, x.shape[0])
