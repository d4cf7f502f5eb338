"""The stochastic solvers: scikit-learn's schedules and messages, and the rules and numbers that kernels take."""

from typing import Any, TypeAlias

import numpy as np
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from fastmlp.kernels import rules

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class _Solver:
    """What both solvers have beside scikit-learn's learning rates; the updates and their state are the kernels'."""

    _state: list[Array] | None = None

    def rule(self, clip: float) -> rules.Rule:
        """Return the constants of the updates; gradients are scaled down to the norm ``clip``, unless it is 0."""
        raise NotImplementedError

    def numbers(self, l2: Array) -> Array:
        """Return the numbers (u, 4) of the next updates, whose penalties are ``l2`` (u,): see `rules.Numbers`."""
        raise NotImplementedError

    def advance(self, updates: int) -> None:
        """Note that updates have been made."""

    def state(self, parameters: Array) -> list[Array]:
        """Return the state for these parameters (k,): that of the last update, or zeros before the first."""
        if self._state is None:
            return [np.zeros_like(parameters) for _ in range(rules.state_vectors(self.rule(0)))]
        return self._state

    def keep(self, state: list[Array]) -> None:
        """Keep the state after the last update."""
        self._state = state


class Descent(_Solver, SGDOptimizer):  # type: ignore[misc]
    """Gradient descent with momentum."""

    def rule(self, clip: float) -> rules.Rule:
        """Return the constants, as `_Solver.rule`."""
        return rules.Rule(rules.SGD, self.momentum, nesterov=int(self.nesterov), clip=clip, squares=1)

    def numbers(self, l2: Array) -> Array:
        """Return the numbers, as `_Solver.numbers`."""
        # The learning rate acts on the new gradient, and not on the whole step: it changes between epochs.
        rate, has_momentum = self.learning_rate, self.momentum > 0
        numbers = rules.Numbers(1.0, scale=rate) if has_momentum else rules.Numbers(rate)
        made = np.tile(np.array(numbers, np.float64), (len(l2), 1))
        made[:, 3] = l2
        return made


class Adam(_Solver, AdamOptimizer):  # type: ignore[misc]
    """Adam, with epsilon where scikit-learn has it."""

    def rule(self, clip: float) -> rules.Rule:
        """Return the constants, as `_Solver.rule`."""
        return rules.Rule(rules.ADAM, self.beta_1, self.beta_2, self.epsilon, clip=clip, squares=1)

    def numbers(self, l2: Array) -> Array:
        """Return the numbers, as `_Solver.numbers`."""
        made = np.ones((len(l2), 4))
        made[:, 0], made[:, 3] = self._rates(np.arange(self.t + 1, self.t + len(l2) + 1)), l2
        return made

    def advance(self, updates: int) -> None:
        """Note updates, as scikit-learn's optimizer counts them."""
        self.t += updates
        if updates > 0:
            self.learning_rate = float(self._rates(self.t))

    def _rates(self, update: Any) -> Any:
        return self.learning_rate_init * np.sqrt(1 - self.beta_2**update) / (1 - self.beta_1**update)


def solver(estimator: Any) -> Descent | Adam:
    """Return the solver of an estimator, by the names of its arguments."""
    if estimator.solver == "adam":
        return Adam([], estimator.learning_rate_init, estimator.beta_1, estimator.beta_2, estimator.epsilon)
    return Descent(
        [],
        estimator.learning_rate_init,
        estimator.learning_rate,
        estimator.momentum,
        estimator.nesterovs_momentum,
        estimator.power_t,
    )
