"""Optimizers on the full batch."""

import numpy as np

from fastmlp import backend
from fastmlp.interrupts import Caller
from fastmlp.kernels import rules
from fastmlp.methods.method import Method, Problem, Scores, State, diverged, vectors
from fastmlp.methods.updates import Updates


class FullBatch(Method):
    """One update of an optimizer for each epoch, by the gradient over all samples."""

    def __init__(self, problem: Problem, updates: Updates, identity: dict[str, str]) -> None:
        self.identity = identity
        self._problem, self._updates = problem, updates
        self._gradient = np.empty_like(problem.parameters)
        self._weights = np.empty(0, problem.parameters.dtype)
        if updates.l2 > 0:
            self._weights = rules.weight_mask(problem.parameters, problem.net.sizes)
        self._state = [np.zeros_like(problem.parameters) for _ in updates.state_names]

    def advance(self, caller: Caller) -> Scores:
        """Update the parameters once; a FloatingPointError leaves them unchanged."""
        epoch = self.epoch + 1
        (rate,), numbers = self._updates.ask(caller, epoch, range(epoch, epoch + 1))
        loss, score = self._problem.loss_and_grad(self._gradient)
        stepped, *state = (one.copy() for one in (self._problem.parameters, *self._state))
        kernels = backend.kernels()
        kernels.apply(stepped, state, self._gradient, self._weights, self._updates.rule, numbers[0])
        if not (np.isfinite(loss) and np.isfinite(stepped).all()):
            raise diverged(f"epoch {epoch}", self._updates.rate_name, rate)
        np.copyto(self._problem.parameters, stepped)
        self.epoch, self._state = epoch, state
        return Scores(loss, score)

    def state(self) -> State:
        """Return the vectors of the optimizer."""
        return State({}, dict(zip(self._updates.state_names, self._state, strict=True)))

    def restore(self, epoch: int, state: State) -> None:
        """Continue after ``epoch`` epochs with the vectors of the optimizer."""
        self._state = vectors(state, self._updates.state_names, self._problem.parameters)
        self.epoch = epoch
