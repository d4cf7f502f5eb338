"""Losses: each is an entry with a value and a gradient with respect to the logits, and a twin in the reference.

Here are the cross-entropy, and the choice of a loss; those that are sums over outputs are in `output_losses`.
Logits are taken by columns, class by class, so that the loops become vectors. The statistics of a column are its shift,
the sum of its exponentials, the row of its largest logit, the logarithm of the sum, and weight over sum.
"""

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, span, usable_threads
from fastmlp.kernels.compiled.memory import aligned, fill_zeros, round_up
from fastmlp.kernels.compiled.output_losses import (
    ABSOLUTE_ERROR,
    CROSS_ENTROPY,
    HUBER,
    LOGISTIC,
    POISSON,
    SQUARED_ERROR,
    LossKind,
    columns_at,
    output_loss_columns,
    set_output_gradient,
)
from fastmlp.kernels.compiled.runtime import body, called_address, compile_cached
from fastmlp.kernels.scores import without_residuals

_STATISTICS = 5


class Loss(NamedTuple):
    """A loss, by its number in `LossKind`."""

    code: int

    def kind(self, dtype: Any, scales: Any, most: float = math.inf) -> LossKind:
        """Return it with its scales (classes + 1,) for kernels."""
        return LossKind(self.code, scales, most, 0 if self.code == CROSS_ENTROPY else columns_at(dtype))


LOSSES = {
    "cross_entropy": Loss(CROSS_ENTROPY),
    "logistic": Loss(LOGISTIC),
    "squared_error": Loss(SQUARED_ERROR),
    "absolute_error": Loss(ABSOLUTE_ERROR),
    "huber": Loss(HUBER),
    "poisson": Loss(POISSON),
}


class Targets(NamedTuple):
    """Targets of all samples, in the caller's order: labels (m,) where ``labelled``, else rows (m, C); weight (m,).

    ``at`` is the address of the code that `loss_rows` calls.
    """

    labels: Any
    rows: Any
    weight: Any
    labelled: int
    loss: LossKind
    at: int


class Logits(NamedTuple):
    """Logits by rows of samples; if ``whole``, rows are whole vectors, and there is room for whole vectors of them."""

    start: Any
    ld: int
    classes: int
    whole: int


@kernel()
def _softmax(out, z, worker, workers):
    lo, hi = span(z.columns, worker, workers)
    to, source = vector.matrix(out.start, lo, out.columns), vector.matrix(z.start, lo, z.columns)
    vector.softmax_columns(to, source, z.rows, hi - lo)


def softmax_columns(out: Any, z: Any) -> None:
    """Set ``out`` (C, m) to the softmax of the columns of ``z`` (C, m)."""
    _softmax(out, z)


@body
def _exponentials(dz, z, statistics, weight, classes, width):
    """Set ``width`` columns of dz to exp(z - shift), and all statistics."""
    vector.noinline()
    vector.exp_columns(dz, z, statistics, classes, width)
    total, best = vector.row(statistics, 1, width), vector.row(statistics, 2, width)
    log_total, scale = vector.row(statistics, 3, width), vector.row(statistics, 4, width)
    w = vector.part(weight, 0, width)
    for j in range(width):
        log_total[j] = vector.log(total[j])
        scale[j] = w[j] / total[j]
    for j in range(width):
        if total[j] != total[j]:
            # The first NaN counts as the largest: as np.argmax.
            for i in range(classes - 1, -1, -1):
                value = vector.row(z, i, width)[j]
                if value != value:
                    best[j] = i


@body
def _loss_columns(dz, losses, z, y, statistics, weight, classes, width):
    """Set losses, hits and the gradient with respect to the logits for ``width`` columns of targets y."""
    vector.noinline()
    _exponentials(dz, z, statistics, weight, classes, width)
    shift, mass, chosen = (
        vector.row(statistics, 0, width),
        vector.row(statistics, 1, width),
        vector.row(statistics, 2, width),
    )
    log_total, scale = vector.row(statistics, 3, width), vector.row(statistics, 4, width)
    zero = vector.number(z, 0)
    w, cost, right = vector.part(weight, 0, width), vector.row(losses, 0, width), vector.row(losses, 1, width)
    for j in range(width):
        chosen[j] = vector.row(y, np.int64(chosen[j]), width)[j]
        mass[j], cost[j], right[j] = zero, zero, w[j]
    for i in range(classes):
        row, target = vector.row(z, i, width), vector.row(y, i, width)
        for j in range(width):
            term = target[j] * (log_total[j] - (row[j] - shift[j]))
            cost[j] += term if target[j] != 0 else zero
        for j in range(width):
            mass[j] += target[j]
            right[j] = vector.select(target[j] <= chosen[j], right[j], zero)  # false where either is NaN
    for j in range(width):
        cost[j] *= w[j]
        scale[j] *= mass[j]
    for i in range(classes):
        to, target = vector.row(dz, i, width), vector.row(y, i, width)
        for j in range(width):
            to[j] = to[j] * scale[j] - target[j] * w[j]


@kernel()
def _cross_entropy_gradient(dz, losses, z, y, weight, scratch, worker, workers):
    m, width = z.columns, tuning.COLUMN_BLOCK
    lo, hi = span(m, worker, workers)
    statistics = vector.matrix(scratch, worker * _STATISTICS * width, width)
    for first in range(lo, hi, width):
        _loss_columns(
            vector.matrix(dz.start, first, m), vector.matrix(losses.start, first, m),
            vector.matrix(z.start, first, m), vector.matrix(y.start, first, m), statistics,
            vector.address(weight, first), z.rows, min(width, hi - first)
        )  # fmt: skip


def softmax_cross_entropy_grad(dz: Any, loss: Any, hit: Any, z: Any, y: Any, weight: Any) -> None:
    """Fuse softmax, cross-entropy and their gradient with respect to the logits, for each column."""
    losses = np.empty((2, z.shape[1]), z.dtype)
    scratch = aligned(usable_threads() * _STATISTICS * tuning.COLUMN_BLOCK, z.dtype)
    _cross_entropy_gradient(dz, losses, z, y, weight, scratch)
    loss[...], hit[...] = losses


def loss_gradient(dz: Any, loss: Any, hit: Any, z: Any, y: Any, weight: Any, name: str) -> None:
    """Set the gradient of a loss with respect to the logits, the losses, and the hits, which a regression has not."""
    if name == "cross_entropy":
        softmax_cross_entropy_grad(dz, loss, hit, z, y, weight)
        return
    losses = np.empty((2, z.shape[1]), z.dtype)
    kind = LOSSES[name].kind(z.dtype, without_residuals(name, len(z), z.dtype))
    set_output_gradient(dz, losses, z, y, weight, kind)
    loss[...], hit[...] = losses


@body
def _transpose(out, x, rows, columns, whole):
    """out[j, i] = x[i, j], i < rows, j < columns.

    If ``whole``, vector by vector, also for those beyond that make vectors whole: there must be room for them.
    """
    vector.noinline()
    if whole > 0:
        lanes = vector.lanes(x)
        for i in range(0, rows, lanes):
            for j in range(0, columns, lanes):
                vector.transpose(vector.block(out, j, i), vector.block(x, i, j))
        return
    for i in range(rows):
        row = vector.row(x, i, columns)
        for j in range(columns):
            vector.row(out, j, rows)[i] = row[j]


def loss_scratch(classes: int, length: int, itemsize: int) -> int:
    """Return the elements of the scratch of `loss_rows`, whole vectors or not."""
    lanes = vector.VECTOR_BYTES // itemsize
    block, padded = round_up(min(tuning.LOSS_BLOCK, length), lanes), round_up(classes, lanes)
    return block * (_STATISTICS + 2 + 3 * padded)


@body
def _label_losses(losses, gradient, logits, statistics, weight, labels, classes, width):
    """Do what `_loss_columns` does where one target is 1 and all others are 0, with the same bits."""
    _exponentials(gradient, logits, statistics, weight, classes, width)
    shift, best = vector.row(statistics, 0, width), vector.row(statistics, 2, width)
    log_total, scale = vector.row(statistics, 3, width), vector.row(statistics, 4, width)
    w, label = vector.part(weight, 0, width), vector.part(labels, 0, width)
    loss, hit = vector.row(losses, 0, width), vector.row(losses, 1, width)
    zero = vector.number(logits, 0)
    for s in range(width):
        loss[s] = w[s] * (log_total[s] - (vector.row(logits, np.int64(label[s]), width)[s] - shift[s]))
        hit[s] = w[s] if best[s] == label[s] else zero
    for c in range(classes):
        row = vector.row(gradient, c, width)
        for s in range(width):
            row[s] *= scale[s]
    for s in range(width):
        vector.row(gradient, np.int64(label[s]), width)[s] -= w[s]


@body
def _limit(lost, weight, most):
    """Let the loss of a sample, which has been multiplied by its weight, count as no more than ``most``."""
    for s in range(len(lost)):
        bound = most * weight[s]
        lost[s] = vector.select(lost[s] > bound, bound, lost[s])  # NaN stays, also where 0 times infinity is the bound


def _set_losses(losses, delta, logits, targets, order, length, scratch):
    classes, whole, lanes = logits.classes, logits.whole, vector.lanes(logits)
    zero = vector.number(logits, 0)
    block, padded = min(tuning.LOSS_BLOCK, length), classes
    if whole > 0:
        block, padded = -(-block // lanes) * lanes, -(-classes // lanes) * lanes
    turned = vector.matrix(scratch, 0, block)
    gradient = vector.block(turned, padded, 0)
    y = vector.block(gradient, padded, 0)
    statistics = vector.block(y, classes, 0)
    weight, labels = vector.row(statistics, _STATISTICS, block), vector.row(statistics, _STATISTICS + 1, block)
    fill_zeros(vector.block(gradient, classes, 0).start, 0, (padded - classes) * block)
    for begin in range(0, length, block):
        width = min(block, length - begin)
        for s in range(width):
            j = order[begin + s]
            weight[s] = targets.weight[j]
            if targets.labelled > 0:
                labels[s] = targets.labels[j]
            else:
                target = vector.row_of(targets.rows, j, 0, classes)
                for c in range(classes):
                    vector.row(y, c, block)[s] = target[c]
        source = vector.matrix(logits.start, begin * logits.ld, logits.ld)
        _transpose(turned, source, width, classes, whole)
        here, at_weight = vector.block(losses, 0, begin), vector.address(weight, 0)
        if targets.labelled > 0:
            at_labels = vector.address(labels, 0)
            _label_losses(here, gradient, turned, statistics, at_weight, at_labels, classes, width)
        elif targets.loss.code == CROSS_ENTROPY:
            _loss_columns(gradient, here, turned, y, statistics, at_weight, classes, width)
        else:
            output_loss_columns(gradient, here, turned, y, at_weight, targets.loss, classes, width)
        if targets.loss.code == CROSS_ENTROPY:
            _limit(vector.row(here, 0, width), weight, type(zero)(targets.loss.most))
        _transpose(vector.block(delta, begin, 0), gradient, padded, width, whole)


# Code of its own for all passes: each would take a second longer to compile, and they are compiled side by side.
_LOSSES = compile_cached(_set_losses, by_address=True)


@body
def loss_rows(losses, delta, logits, targets, order, length, scratch):
    """Set delta to the gradient with respect to the logits of samples order[0:], and row 0 of losses and row 1, hits.

    Where logits are ``whole``, so are the rows of delta; zeros fill their columns from the number of classes on.
    """
    vector.call(_LOSSES, targets.at, (losses, delta, logits, targets, order, length, scratch))


@functools.lru_cache(maxsize=4)
def no_targets(dtype: Any) -> Targets:
    """Return targets of no samples, whose loss is never taken."""
    labels, rows = np.empty(0, np.int64), np.empty((0, 0), dtype)
    return Targets(labels, rows, np.empty(0, dtype), 0, LossKind(CROSS_ENTROPY, np.empty(0, dtype)), 0)


@functools.cache
def losses_at(dtype: Any) -> int:
    """Compile what `loss_rows` calls for targets of a dtype, or load it; return its address."""
    none = no_targets(dtype)
    targets, element = vector.opened(numba.typeof(none)), numba.typeof(none.weight).dtype
    matrix, logits = vector.operand_type(vector.Matrix, element), vector.operand_type(Logits, element)
    order, scratch = vector.pointer_to(types.int32), vector.pointer_to(element)
    return called_address(_LOSSES, (matrix, matrix, logits, targets, order, types.int64, scratch))
