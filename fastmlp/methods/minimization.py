"""L-BFGS on the full batch."""

import numpy as np

from fastmlp.interrupts import Caller
from fastmlp.kernels import rules
from fastmlp.methods.method import Array, Method, Problem, Scores, State
from fastmlp.optimizers import LBFGS

_ARRAYS = "s", "y", "gradient", "scores"  # the state of `fastmlp.lbfgs.Minimizer`


class Minimization(Method):
    """One iteration of L-BFGS for each epoch."""

    def __init__(self, problem: Problem, optimizer: LBFGS, l2: float, identity: dict[str, str]) -> None:
        self.identity = identity
        self._problem = problem
        self._penalties = np.empty(0, problem.parameters.dtype)
        if l2 > 0:
            self._penalties = l2 * rules.weight_mask(problem.parameters, problem.net.sizes)
        self._minimizer = optimizer.minimizer(self._loss_and_grad, problem.parameters)
        self._settled: Array | None = None

    def advance(self, caller: Caller) -> Scores:
        """Do an iteration."""
        # A callback may have changed the parameters: what is known of the loss is then of no use.
        if self._settled is not None and not np.array_equal(self._problem.parameters, self._settled):
            self._minimizer.restore({})
        penalty = self._penalty()
        loss, score = self._minimizer.iterate()
        if self._minimizer.stopped == "not finite":
            raise FloatingPointError(
                f"the loss or its gradient is not finite in epoch {self.epoch + 1}; the model holds the parameters "
                "before it: begin with other parameters, or scale the inputs"
            )
        self._settled = self._problem.parameters.copy()
        self.epoch, self.stopped = self.epoch + 1, self._minimizer.stopped
        return Scores(loss - penalty, score)

    def state(self) -> State:
        """Return what L-BFGS knows of the loss, and whether it has stopped."""
        return State({"stopped": self.stopped}, self._minimizer.state())

    def restore(self, epoch: int, state: State) -> None:
        """Continue after ``epoch`` iterations."""
        stopped = state.facts["stopped"]
        self._minimizer.restore({name: state.arrays[name] for name in (_ARRAYS if epoch > 0 else ())})
        self.epoch, self.stopped = epoch, stopped

    def _loss_and_grad(self, gradient: Array) -> tuple[float, float]:
        """Write the gradient of the loss with its penalty; return that loss, and the score."""
        loss, score = self._problem.loss_and_grad(gradient)
        if self._penalties.size:
            gradient += self._penalties * self._problem.parameters
        return loss + self._penalty(), score

    def _penalty(self) -> float:
        if not self._penalties.size:
            return 0.0
        squares = np.square(self._problem.parameters, dtype=np.float64)
        return float(np.sum(self._penalties * squares)) / 2
