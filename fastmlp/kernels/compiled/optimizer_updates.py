"""The updates of optimizers, elementwise: the formulas are those of `fastmlp.kernels.rules`."""

import math

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.rules import ADAM


@body
def _adam(run, numbers, p, m, v, g, l2):
    """Update so many parameters p, whose gradient is g without the penalty; return whether all are finite."""
    first, second, rest, other, eps = (
        run.constants[0], run.constants[1], run.constants[2], run.constants[3], run.constants[4]
    )  # fmt: skip
    step, scale, keep, finite = numbers[0], numbers[1], numbers[2], True
    for c in range(len(p)):
        slope = g[c] + l2 * p[c]
        mean = first * m[c] + rest * slope
        square = second * v[c] + other * (slope * slope)
        updated = keep * p[c] - step * (mean / (scale * math.sqrt(square) + eps))
        m[c], v[c], p[c] = mean, square, updated
        finite &= updated - updated == 0
    return finite


@body
def _momentum(run, numbers, p, m, g, l2):
    """Do as `_adam` for descent with momentum."""
    first, step, scale, keep, finite = run.constants[0], numbers[0], numbers[1], numbers[2], True
    for c in range(len(p)):
        slope = scale * (g[c] + l2 * p[c])
        moved = first * m[c] + slope
        direction = moved
        if run.nesterov > 0:
            direction = slope + first * moved
        updated = keep * p[c] - step * direction
        m[c], p[c] = moved, updated
        finite &= updated - updated == 0
    return finite


@body
def _descent(numbers, p, g, l2):
    """Do as `_adam` for plain descent."""
    step, keep, finite = numbers[0], numbers[2], True
    for c in range(len(p)):
        updated = keep * p[c] - step * (g[c] + l2 * p[c])
        p[c] = updated
        finite &= updated - updated == 0
    return finite


@body
def update_packed(work, update, at, count, gradient, l2):
    """Update ``count`` packed parameters from ``at`` on; note if one is not finite."""
    vector.noinline()
    model, run = work.model, work.run
    numbers = vector.row_of(run.numbers, update, 0, 3)
    p, g = vector.part(work.parameters, at, count), vector.part(gradient, 0, count)
    if run.kind == ADAM:
        finite = _adam(run, numbers, p, vector.part(model.m, at, count), vector.part(model.v, at, count), g, l2)
    elif run.momentum > 0:
        finite = _momentum(run, numbers, p, vector.part(model.m, at, count), g, l2)
    else:
        finite = _descent(numbers, p, g, l2)
    if not finite:
        run.faults[update] = 1
