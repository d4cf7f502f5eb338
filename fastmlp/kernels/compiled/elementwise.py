"""Elementwise kernels: one-hot encoding, the output delta, bias sums and the update."""

from numba import prange

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, span
from fastmlp.kernels.compiled.runtime import body


@body
def _one_hot(out, labels, lo, hi):
    # In blocks, the labels stay in the first-level cache from one class to the next: 60 us become 42.
    for first in range(lo, hi, tuning.COLUMN_BLOCK):
        some = labels[first : min(first + tuning.COLUMN_BLOCK, hi)]
        for c in range(out.shape[0]):
            row = out[c, first : first + len(some)]
            for i in range(len(some)):
                row[i] = some[i] == c


@kernel(outputs=1)
def one_hot(out, labels, workers):
    for worker in prange(workers):
        lo, hi = span(labels.size, worker, workers)
        _one_hot(out, labels, lo, hi)


@body
def _output_delta(dz, a, y, lo, hi):
    m = dz.shape[1]
    for i in range(lo // m, -(-hi // m)):
        first, stop = max(lo - i * m, 0), min(hi - i * m, m)
        row, a_row, y_row = dz[i, first:stop], a[i, first:stop], y[i, first:stop]
        for j in range(len(row)):
            row[j] = a_row[j] - y_row[j]


@kernel(outputs=1)
def output_delta(dz, a, y, workers):
    for worker in prange(workers):
        lo, hi = span(dz.size, worker, workers)
        _output_delta(dz, a, y, lo, hi)


@body
def _bias_sum(out, dz, lo, hi):
    m = dz.shape[1]
    for i in range(lo, hi):
        # float64 also for float32: the rows of a gradient cancel, and single precision would show it.
        total = 0.0
        for start in range(0, m, tuning.SUM_BLOCK):
            total += sum_of(dz[i, start : min(start + tuning.SUM_BLOCK, m)])
        out[i, 0] = total


@body
def sum_of(x):
    vector.outline()
    # Four sums, because one would wait for each addition before the next.
    s0 = s1 = s2 = s3 = 0.0
    fours = len(x) // 4 * 4
    for j in range(0, fours, 4):
        s0 += x[j]
        s1 += x[j + 1]
        s2 += x[j + 2]
        s3 += x[j + 3]
    for j in range(fours, len(x)):
        s0 += x[j]
    return (s0 + s1) + (s2 + s3)


@kernel(outputs=1)
def bias_sum(out, dz, workers):
    rows = dz.shape[0]
    for worker in prange(workers):
        _bias_sum(out, dz, rows * worker // workers, rows * (worker + 1) // workers)


@body
def _update(out, w, dw, alpha, lo, hi):
    to, old, step = out[lo:hi], w[lo:hi], dw[lo:hi]
    for i in range(len(to)):
        to[i] = old[i] - alpha * step[i]


@kernel(outputs=1)
def update(out, w, dw, alpha, workers):
    for worker in prange(workers):
        lo, hi = span(w.size, worker, workers)
        _update(out, w, dw, alpha, lo, hi)
