"""Elementwise kernels: one-hot encoding, the delta of the outputs and the update."""

from typing import Any

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, span


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
