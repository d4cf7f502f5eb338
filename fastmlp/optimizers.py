"""Optimizers: the constants of each, and the numbers of each update.

The updates themselves are in `fastmlp.kernels.rules`, for both backends. An optimizer holds no state and never changes:
it can be used for several training runs, compared and pickled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np

from fastmlp import checks, constants
from fastmlp.kernels import rules
from fastmlp.lbfgs import LossAndGrad, Minimizer
from fastmlp.schedules import Schedule

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

EPSILON_PLACEMENTS = ("after_correction", "before_correction")

_LOST = 2.0**-54  # 1 - x is 1 for smaller x

_MOMENTUM = "pass a momentum from 0 to below 1, such as 0.9"
_BETA = "pass the decay rate of a moving average, such as 0.9 or 0.999"


class _Described:
    """The description of an optimizer, made of its fields."""

    def describe(self) -> str:
        """Return a text that identifies the optimizer and its constants, for checkpoints.

        It leaves out the learning rate, which a resumed run may change, and which may be any function.
        """
        names = [one.name for one in fields(self) if one.name != "learning_rate"]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _corrections(beta: float, updates: range) -> Array:
    """Return 1 - beta**t for each update t."""
    # Powers of Python: those of NumPy have other bits on other processors. None is needed once they are lost in the 1.
    if updates and beta ** updates[0] < _LOST:
        return np.ones(len(updates))
    return 1 - np.array([beta**update for update in updates])


@dataclass(frozen=True)
class SGD(_Described):
    """Gradient descent, with or without momentum.

    With the gradient g, the momentum mu and the learning rate r: v <- mu v + g and p <- p - r v, or with Nesterov's
    momentum p <- p - r (g + mu v). A changed learning rate acts on the whole step, as in PyTorch.

    Parameters
    ----------
    learning_rate : float or callable
        The learning rate, at least 0, or a function of an update, from 1, and the number of updates: see
        `fastmlp.schedules`.
    momentum : float
        From 0 to below 1.
    nesterov : bool
        Whether the momentum is Nesterov's [1]_.

    Raises
    ------
    ValueError
        If a number is not in its range, or Nesterov's momentum is 0.
    TypeError
        If an argument has the wrong type.

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl, G. Hinton, On the importance of initialization and momentum in deep
       learning, ICML 2013.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    """

    learning_rate: float | Schedule = 0.1
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        constants.set_fields(
            self,
            learning_rate=constants.rate_or_schedule("learning_rate", self.learning_rate),
            momentum=constants.decay("momentum", self.momentum, _MOMENTUM),
            nesterov=constants.flag("nesterov", self.nesterov),
        )
        if self.nesterov and self.momentum == 0:
            got, expected = "True with a momentum of 0", "a positive momentum"
            raise ValueError(checks.message("nesterov", got, expected, "pass momentum=0.9, or nesterov=False"))

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the vectors that are the state, in the order in which the backends take them."""
        return ("momentum",) if self.momentum else ()

    def rule(self, clip: float = 0.0) -> rules.Rule:
        """Return the constants as the backends take them.

        Parameters
        ----------
        clip : float
            The largest norm of the gradient, or 0 for no limit.
        """
        return rules.Rule(rules.SGD, first=self.momentum, nesterov=int(self.nesterov), clip=clip)

    def numbers(self, updates: range, rates: Sequence[float]) -> rules.Numbers:
        """Return the numbers of updates, from 1, with these learning rates."""
        return rules.Numbers(np.array(rates))


@dataclass(frozen=True)
class Adam(_Described):
    """Adam: steps scaled by moving averages of the gradient and of its square [1]_.

    With the gradient g, the learning rate r and the update t: m <- beta1 m + (1 - beta1) g,
    v <- beta2 v + (1 - beta2) g², and with the corrections a = 1 - beta1^t and b = 1 - beta2^t:
    p <- p - r (m / a) / (sqrt(v / b) + epsilon).

    Parameters
    ----------
    learning_rate : float or callable
        The learning rate, at least 0, or a function of an update, from 1, and the number of updates: see
        `fastmlp.schedules`.
    beta1, beta2 : float
        Decay rates of both averages, from 0 to below 1.
    epsilon : float
        Positive; it bounds the step where the gradient is small.
    epsilon_placement : {"after_correction", "before_correction"}
        Whether epsilon is added to the corrected root, as in the formula above and in PyTorch, or to the root before
        its correction, p <- p - r (sqrt(b) / a) m / (sqrt(v) + epsilon), as in scikit-learn and Keras: its
        effect is then larger in the first updates.

    Raises
    ------
    ValueError
        If a number is not in its range, or the placement is unknown.
    TypeError
        If an argument has the wrong type.

    References
    ----------
    .. [1] D. Kingma, J. Ba, Adam: a method for stochastic optimization, ICLR 2015. The second placement is at the end
       of its section 2.

    Examples
    --------
    >>> import fastmlp
    >>> optimizer = fastmlp.optimizers.Adam(learning_rate=fastmlp.schedules.one_cycle(8e-3))
    >>> optimizer.beta1, optimizer.beta2, optimizer.state_names
    (0.9, 0.999, ('m', 'v'))
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_placement: str = "after_correction"

    state_names: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        constants.set_fields(
            self,
            learning_rate=constants.rate_or_schedule("learning_rate", self.learning_rate),
            beta1=constants.decay("beta1", self.beta1, _BETA),
            beta2=constants.decay("beta2", self.beta2, _BETA),
            epsilon=checks.positive("epsilon", self.epsilon, "pass a small number, such as 1e-8"),
        )
        checks.choice("epsilon_placement", self.epsilon_placement, EPSILON_PLACEMENTS)

    def rule(self, clip: float = 0.0) -> rules.Rule:
        """Return the constants as the backends take them, as in `SGD.rule`."""
        return rules.Rule(rules.ADAM, self.beta1, self.beta2, self.epsilon, clip=clip)

    def numbers(self, updates: range, rates: Sequence[float]) -> rules.Numbers:
        """Return the numbers of updates, from 1, with these learning rates."""
        first, second = (_corrections(beta, updates) for beta in (self.beta1, self.beta2))
        step, root = np.array(rates) / first, np.sqrt(second)
        if self.epsilon_placement == "before_correction":
            return rules.Numbers(step * root)
        return rules.Numbers(step, scale=1 / root)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay [1]_.

    Before each step of Adam, all parameters, biases included, are multiplied by 1 - learning_rate * weight_decay, as
    in PyTorch.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon, epsilon_placement
        As in `Adam`.
    weight_decay : float
        At least 0.

    Raises
    ------
    ValueError
        If a number is not in its range, or the placement is unknown.
    TypeError
        If an argument has the wrong type.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, Decoupled weight decay regularization, ICLR 2019.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.optimizers.AdamW(weight_decay=0.1).numbers(range(1, 3), rates=[0.5, 0.25]).keep
    array([0.95 , 0.975])
    """

    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "pass the share of a weight that decays at a learning rate of 1, such as 0.01"
        constants.set_fields(self, weight_decay=checks.nonnegative("weight_decay", self.weight_decay, remedy))

    def numbers(self, updates: range, rates: Sequence[float]) -> rules.Numbers:
        """Return the numbers of updates, from 1, with these learning rates."""
        return super().numbers(updates, rates)._replace(keep=1 - np.array(rates) * self.weight_decay)


@dataclass(frozen=True)
class LBFGS(_Described):
    """L-BFGS: a quasi-Newton method for the full batch [1]_.

    It finds the size of each step itself. Most iterations evaluate the loss and its gradient once.

    Parameters
    ----------
    history : int
        The number of previous iterations from which the curvature is estimated, at least 1. Each takes memory for two
        vectors as long as the parameters.
    tolerance : float
        The run has converged once no entry of the gradient is larger; at least 0.

    Raises
    ------
    ValueError
        If a number is not in its range.
    TypeError
        If an argument has the wrong type.

    References
    ----------
    .. [1] J. Nocedal, S. Wright, Numerical optimization, second edition, 2006: algorithms 7.4, 3.5 and 3.6.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.optimizers.LBFGS()
    LBFGS(history=10, tolerance=1e-07)
    """

    history: int = 10
    tolerance: float = 1e-7

    def __post_init__(self) -> None:
        constants.set_fields(
            self,
            history=checks.epochs("history", self.history),
            tolerance=checks.nonnegative("tolerance", self.tolerance, "pass a small number, such as 1e-7"),
        )

    def minimizer(self, loss_and_grad: LossAndGrad, parameters: Array) -> Minimizer:
        """Return the minimizer of a loss, from ``parameters`` (n,): see `fastmlp.lbfgs.Minimizer`."""
        return Minimizer(loss_and_grad, parameters, self.history, self.tolerance)
