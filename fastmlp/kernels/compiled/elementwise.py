"""Elementwise kernels: one-hot encoding, the delta of the outputs, the update, and a look at all numbers."""

from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, span, usable_threads
from fastmlp.kernels.compiled.runtime import body


@kernel()
def _one_hot(out, labels, worker, workers):
    # In blocks, the labels stay in the L1 cache from one class to the next.
    lo, hi = span(out.columns, worker, workers)
    for first in range(lo, hi, tuning.COLUMN_BLOCK):
        count = min(tuning.COLUMN_BLOCK, hi - first)
        chosen = vector.part(labels, first, count)
        for c in range(out.rows):
            row = vector.row_of(out, c, first, count)
            for i in range(count):
                row[i] = chosen[i] == c


def one_hot(out: Any, labels: Any) -> None:
    """Set ``out`` (C, m) to 1 in row ``labels[i]`` of column i, else 0."""
    _one_hot(out, labels)


@kernel()
def _subtract(out, a, y, size, worker, workers):
    lo, hi = span(size, worker, workers)
    to, left, right = vector.part(out, lo, hi - lo), vector.part(a, lo, hi - lo), vector.part(y, lo, hi - lo)
    for i in range(hi - lo):
        to[i] = left[i] - right[i]


def output_delta(dz: Any, a: Any, y: Any) -> None:
    """Set ``dz`` (C, m) to a - y."""
    _subtract(dz.reshape(-1), a.reshape(-1), y.reshape(-1), dz.size)


@kernel()
def _update(out, w, dw, alpha, size, worker, workers):
    lo, hi = span(size, worker, workers)
    to, old, step = vector.part(out, lo, hi - lo), vector.part(w, lo, hi - lo), vector.part(dw, lo, hi - lo)
    for i in range(hi - lo):
        to[i] = old[i] - alpha * step[i]


def update(out: Any, w: Any, dw: Any, alpha: Any) -> None:
    """Set ``out`` (k,) to w - alpha dw."""
    _update(out, w, dw, alpha, w.size)


@body
def _look(x, at, count):
    """Return how many of some numbers are not zero, and how many are NaN or infinite."""
    part = vector.part(x, at, count)
    used, odd = np.int64(0), np.int64(0)
    for k in range(count):
        used += np.int64(part[k] != 0)
        odd += np.int64(part[k] - part[k] != 0)
    return used, odd


@kernel()
def _survey(x, rows, length, found, worker, workers):
    lo, hi = rows * worker // workers * length, rows * (worker + 1) // workers * length
    used, odd = _look(x, lo, hi - lo)
    found.start[worker * found.columns], found.start[worker * found.columns + 1] = used, odd


def survey(x: Any) -> tuple[Any, bool]:
    """Return how many numbers are not zero, int64 (k,), and whether all are finite.

    The numbers, floats or uint8, are those of a matrix (n, m) or of a vector. If they are to be listed, `list_samples`
    takes the counts: they are of k ranges of samples, as even as may be, or k is 1.
    """
    if not (x.flags.forc and x.flags.aligned and x.dtype.isnative):
        return np.array([np.count_nonzero(x)]), bool(np.isfinite(x).all())
    by_samples = x.ndim == 2 and x.flags.f_contiguous
    rows = x.shape[-1] if by_samples else x.size
    workers = max(min(usable_threads(), rows), 1) if x.size >= tuning.PARALLEL_SIZE else 1
    found = np.empty((workers, vector.LINE_BYTES // 8), np.int64)
    _survey.launch(workers, x.ravel(order="K"), rows, len(x) if by_samples else 1, found)
    counts = found[:, 0].copy() if by_samples else found[:, 0].sum(keepdims=True)
    return counts, not found[:, 1].any()
