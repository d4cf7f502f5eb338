"""A stochastic training run: epochs of minibatches, each in a few calls of a kernel."""

import time
from typing import Any, TypeAlias

import numpy as np

from fastmlp import backend
from fastmlp.estimator.samples import Samples, divisor
from fastmlp.estimator.solvers import Adam, Descent
from fastmlp.estimator.views import Views, joined
from fastmlp.interrupts import Caller

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Seconds of one call of the kernel: long enough that its overhead does not count, short enough that Ctrl-C does not
# wait.
_CALL_SECONDS = 0.05


class Run:
    """Trains parameters epoch by epoch.

    Parameters
    ----------
    views : Views
        The parameters; they change in `settle`.
    samples : Samples
        What they are trained on.
    solver : Descent or Adam
        Makes the rule and the numbers of the updates, and keeps their state.
    batch_size : int
    alpha : float
        The penalty is alpha / 2 times the sum of the squares of all weights, divided by the weight of the batch.
    clip : float
        The largest norm of a gradient, or 0 for any.

    Attributes
    ----------
    diverged : bool
        Whether an update would have made the loss or a parameter infinite or NaN. Neither it nor a later one is made.
    """

    def __init__(
        self, views: Views, samples: Samples, solver: Descent | Adam, batch_size: int, alpha: float, clip: float
    ) -> None:
        self.diverged = False
        self._views, self._samples, self._solver = views, samples, solver
        self._batch_size, self._alpha, self._rule = batch_size, alpha, solver.rule(clip)
        self._settled, self._trainer = views.vector.copy(), self._begun()
        self._updates = 1  # in the next call of the kernel

    def epoch(self, order: Array, caller: Caller) -> float:
        """Update on all batches of samples in this order (m,); return the mean of the batches' losses with penalty.

        Raises KeyboardInterrupt between two calls of the kernel if the caller wants to leave.
        """
        ends = np.append(np.arange(self._batch_size, len(order), self._batch_size), len(order))
        starts = np.append(0, ends[:-1])
        weight = np.add.reduceat(self._samples.w[order], starts, dtype=np.float64)
        # The kernels skip a batch of weight 0.
        share = np.divide(1, weight, out=np.zeros_like(weight), where=weight > 0)
        sums = self._train(order.astype(np.int32, copy=False), ends, self._solver.numbers(self._alpha * share), caller)
        self.diverged = len(sums) < len(ends)
        if self.diverged:
            return float("nan")
        loss = (sums[:, 0] / divisor(self._samples.net) + 0.5 * self._alpha * sums[:, 3]) * share
        return float(np.dot(loss, ends - starts) / len(order))

    def settle(self) -> None:
        """Set the parameters, and the solver's state, to those after the last update; to NaN after a divergence."""
        vector, *state = backend.kernels().training_vectors(self._trainer)
        self._views.vector[...] = self._settled = np.full_like(vector, np.nan) if self.diverged else vector
        self._solver.keep(state)

    def taken_up(self, coefs: list[Array], intercepts: list[Array]) -> tuple[list[Array], list[Array]]:
        """Go on with coefficients and intercepts that may have been changed since `settle`; return views of them."""
        views, before = self._views, self._views.vector
        if not views.are(coefs, intercepts):
            given = joined(coefs, intercepts)
            if given.sizes != views.sizes:
                raise ValueError(f"coefs_ have the widths {given.sizes}, but the model has {views.sizes}.")
            before[...] = given.vector
            coefs, intercepts = list(views.coefs), list(views.intercepts)
        if not np.array_equal(before, self._settled):
            self._settled, self._trainer = before.copy(), self._begun()
        return coefs, intercepts

    def _begun(self) -> Any:
        """Return a trainer that begins with the parameters and the state of the solver."""
        vector = self._views.vector
        return self._samples.train([vector, *self._solver.state(vector)])

    def _train(self, order: Array, ends: Array, numbers: Array, caller: Caller) -> Array:
        """Make the updates of an epoch in several calls; return the sums of those that were made."""
        kernels, made, first = backend.kernels(), [], 0
        while first < len(ends):
            if caller.leaving:
                raise KeyboardInterrupt
            start, stop = int(ends[first - 1]) if first > 0 else 0, min(first + self._updates, len(ends))
            began = time.perf_counter()
            some = numbers[first:stop]
            sums = kernels.train(
                self._trainer, order[start : ends[stop - 1]], ends[first:stop] - start, self._rule, some
            )
            self._adapt(stop - first, time.perf_counter() - began)
            self._solver.advance(len(sums))
            made.append(sums)
            if len(sums) < stop - first:
                break
            first = stop
        return np.concatenate(made)

    def _adapt(self, updates: int, seconds: float) -> None:
        """Choose how many updates the next call makes by the time that these have taken."""
        wanted = round(updates * _CALL_SECONDS / seconds) if seconds > 0 else 2 * updates
        self._updates = max(1, min(wanted, 8 * self._updates))
