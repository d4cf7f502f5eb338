"""Full-batch gradient descent, the notebook's loop exactly."""

import numpy as np

from fastmlp import backend, quiet
from fastmlp.interrupts import Caller
from fastmlp.methods.method import Method, Problem, Scores, State, diverged
from fastmlp.methods.rates import Alpha


class Descent(Method):
    """One update for each epoch, by a step size times the gradient over all samples."""

    def __init__(self, problem: Problem, alpha: Alpha) -> None:
        self._problem, self._alpha, self._rate = problem, alpha, 0.0
        self._gradient, self._stepped = np.empty_like(problem.parameters), np.empty_like(problem.parameters)

    def advance(self, caller: Caller) -> Scores:
        """Update the parameters once; a FloatingPointError leaves them unchanged."""
        epoch, parameters = self.epoch + 1, self._problem.parameters
        alpha = self._alpha.of(caller, epoch)
        loss, score = self._problem.loss_and_grad(self._gradient)
        rate = quiet.quietly(parameters.dtype.type, alpha)
        kernels = backend.kernels()
        kernels.update(self._stepped, parameters, self._gradient, rate)
        if not (np.isfinite(loss) and np.isfinite(self._stepped).all()):
            raise diverged(f"epoch {epoch}", self._alpha.name, alpha)
        np.copyto(parameters, self._stepped)
        self.epoch, self._rate = epoch, alpha
        return Scores(loss, score)

    def state(self) -> State:
        """Return the last step size, for the record: a resumed run takes its own."""
        return State({"alpha": repr(self._rate)}, {})

    def restore(self, epoch: int, state: State) -> None:
        """Continue after ``epoch`` epochs."""
        self._rate = float(state.facts["alpha"])
        self.epoch = epoch
