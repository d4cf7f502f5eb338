"""Losses that are sums over independent outputs, the twins of those in `fastmlp.kernels.reference_losses`.

As in `losses`, logits are taken by columns, output by output. Each function of a row replaces its derivatives
``slope`` and adds to the costs and to the hits of its samples, before their weights.
"""

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from fastmlp.kernels import nets, vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, span
from fastmlp.kernels.compiled.runtime import body, called_address, compile_cached

CROSS_ENTROPY, LOGISTIC, SQUARED_ERROR, ABSOLUTE_ERROR, HUBER, POISSON = range(6)

_BOUND = nets.HUBER


class LossKind(NamedTuple):
    """A loss, by its number, the scales of its hits (classes + 1,), and `Net.most`: see `fastmlp.kernels.scores`.

    ``at`` is the address of the code that `output_loss_columns` calls, for losses that need it.
    """

    code: int
    scales: Any
    most: float = math.inf
    at: int = 0


@body
def _logistic(slope, cost, right, z, y, most):
    """Add log(1 + exp(z)) - y z, or ``most``, to the costs; a sample that is on the wrong side has no hit."""
    vector.noinline()
    width, zero, one = len(z), vector.number(z, 0), vector.number(z, 1)
    half = one / type(one)(2)
    for j in range(width):
        slope[j] = -abs(z[j])
    vector.exp_elements(slope, width)
    for j in range(width):
        e, size = slope[j], abs(z[j])
        wrong = vector.select(z[j] < 0, y[j], one - y[j])
        # 0 times an infinite logit counts as 0; and log(1 + e) has the digits that 1 + e drops.
        total = one + e
        dropped = (e - (total - one)) / total
        lost = vector.select(wrong == 0, zero, wrong * size) + (vector.log(total) + dropped)
        cost[j] += vector.select(lost > most, most, lost)
    for j in range(width):
        e, target = slope[j], y[j]
        above, below = vector.select(z[j] < 0, e, one), vector.select(z[j] < 0, one, e)
        slope[j] = (above * (one - target) - below * target) / (one + e)
    for j in range(width):
        same = (z[j] > 0) == (y[j] > half)
        right[j] = vector.select(same & (z[j] == z[j]) & (y[j] == y[j]), right[j], zero)


@body
def _squared_error(slope, cost, right, z, y, scale):
    vector.noinline()
    half = vector.number(z, 1) / type(scale)(2)
    for j in range(len(z)):
        r = z[j] - y[j]
        square = r * r
        cost[j] += half * square
        right[j] += scale * square
        slope[j] = r


@body
def _absolute_error(slope, cost, right, z, y, scale):
    vector.noinline()
    one = vector.number(z, 1)
    for j in range(len(z)):
        r = z[j] - y[j]
        cost[j] += abs(r)
        right[j] += scale * (r * r)
        slope[j] = vector.select(r > 0, one, vector.select(r < 0, -one, r))  # 0 and NaN are their own signs


@body
def _huber(slope, cost, right, z, y, scale):
    vector.noinline()
    bound, half = type(scale)(_BOUND), vector.number(z, 1) / type(scale)(2)
    for j in range(len(z)):
        r = z[j] - y[j]
        size = abs(r)
        cost[j] += vector.select(size <= bound, half * (r * r), bound * (size - half * bound))
        right[j] += scale * (r * r)
        slope[j] = vector.select(r > bound, bound, vector.select(r < -bound, -bound, r))


@body
def _poisson(slope, cost, right, z, y, scale):
    vector.noinline()
    width, zero = len(z), vector.number(z, 0)
    for j in range(width):
        slope[j] = z[j]
    vector.exp_elements(slope, width)
    for j in range(width):
        r = slope[j] - y[j]
        # 0 log 0 counts as 0, also beside an infinite logit.
        cost[j] += r - vector.select(y[j] == 0, zero, y[j] * (z[j] - vector.log(y[j])))
        right[j] += scale * (r * r)
        slope[j] = r


def _set_columns(dz, losses, z, y, weight, kind, outputs, width):
    code, zero = kind.code, vector.number(z, 0)
    w, cost, right = vector.part(weight, 0, width), vector.row(losses, 0, width), vector.row(losses, 1, width)
    for j in range(width):
        cost[j], right[j] = zero, kind.scales[outputs]
    for i in range(outputs):
        slope, logit, target = vector.row(dz, i, width), vector.row(z, i, width), vector.row(y, i, width)
        scale = kind.scales[i]
        if code == LOGISTIC:
            _logistic(slope, cost, right, logit, target, type(scale)(kind.most))
        elif code == SQUARED_ERROR:
            _squared_error(slope, cost, right, logit, target, scale)
        elif code == ABSOLUTE_ERROR:
            _absolute_error(slope, cost, right, logit, target, scale)
        elif code == HUBER:
            _huber(slope, cost, right, logit, target, scale)
        elif code == POISSON:
            _poisson(slope, cost, right, logit, target, scale)
        for j in range(width):
            slope[j] *= w[j]
    for j in range(width):
        cost[j] *= w[j]
        right[j] *= w[j]


# Code of its own, because most trainings do without it.
_COLUMNS = compile_cached(_set_columns, by_address=True)


@functools.cache
def columns_at(dtype: Any) -> int:
    """Compile what `output_loss_columns` calls for a dtype, or load it; return its address."""
    none = np.empty(0, dtype)
    kind, element = vector.opened(numba.typeof(LossKind(LOGISTIC, none))), numba.typeof(none).dtype
    matrix, weight = vector.operand_type(vector.Matrix, element), vector.pointer_to(element)
    return called_address(_COLUMNS, (*[matrix] * 4, weight, kind, types.int64, types.int64))


@body
def output_loss_columns(dz, losses, z, y, weight, kind, outputs, width):
    """Set losses, hits and the gradient with respect to the logits for ``width`` columns of targets y."""
    vector.call(_COLUMNS, kind.at, (dz, losses, z, y, weight, kind, outputs, width))


@kernel()
def _output_gradient(dz, losses, z, y, weight, kind, worker, workers):
    m, width = z.columns, tuning.COLUMN_BLOCK
    lo, hi = span(m, worker, workers)
    for first in range(lo, hi, width):
        output_loss_columns(
            vector.matrix(dz.start, first, m), vector.matrix(losses.start, first, m),
            vector.matrix(z.start, first, m), vector.matrix(y.start, first, m), vector.address(weight, first), kind,
            z.rows, min(width, hi - first)
        )  # fmt: skip


def set_output_gradient(dz: Any, losses: Any, z: Any, y: Any, weight: Any, kind: LossKind) -> None:
    """Set dz (C, m) to the gradient with respect to the logits z, and losses (2, m) to losses and hits."""
    _output_gradient(dz, losses, z, y, weight, kind)
