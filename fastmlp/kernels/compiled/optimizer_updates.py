"""The updates of optimizers on packed parameters: the formulas are those of `fastmlp.kernels.rules`."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.rules import ADAM


@body
def update_packed(work, span, gradient, penalized):
    """Make updates of ``count`` packed parameters from ``at`` on; return whether none passes the run's limit.

    ``span`` is (at, count, first, stop): the updates, as the run's numbers count them, are ``first`` to below ``stop``.
    The gradient is that of the first one; the others have none. The penalty acts if ``penalized``.
    """
    vector.noinline()
    model, run = work.model, work.run
    at, count, first, stop = span
    p, g = vector.address(work.parameters, at), vector.address(gradient, 0)
    m = v = p  # where the optimizer has none, and nobody looks
    if run.kind == ADAM or run.momentum > 0:
        m = vector.address(model.m, at)
    if run.kind == ADAM:
        v = vector.address(model.v, at)
    state = vector.State(p, m, v, g)
    updates = vector.Updates(run.numbers.start, vector.address(run.share, 0), first, stop)
    constants, limit = vector.address(run.constants, 0), run.constants[6]
    if run.kind == ADAM:
        return vector.adam_updates(state, count, updates, constants, penalized, limit)
    if run.momentum == 0:
        return vector.descent_updates(state, count, updates, constants, penalized, limit)
    if run.nesterov > 0:
        return vector.nesterov_updates(state, count, updates, constants, penalized, limit)
    return vector.momentum_updates(state, count, updates, constants, penalized, limit)


@body
def update_once(work, update, at, count, gradient, penalized):
    """Make an update of ``count`` packed parameters from ``at`` on; note if one passes the limit."""
    number = np.int64(work.run.past + update)
    span = np.int64(at), np.int64(count), number, number + 1
    if not update_packed(work, span, gradient, np.int64(penalized)):
        work.run.faults[update] = 1
