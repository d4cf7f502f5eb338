"""The updates of a run by an optimizer: the rule, and the numbers of each update."""

from typing import Any, TypeAlias

import numpy as np

from fastmlp.interrupts import Caller
from fastmlp.methods.rates import Rates
from fastmlp.optimizers import SGD, Adam
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Updates:
    """The updates of a run.

    Parameters
    ----------
    optimizer : SGD or Adam
        Its rule.
    rates : Rates
        Its step sizes.
    l2 : float
        The loss has the penalty l2 / 2 times the sum of the squares of all weights.
    clip : float
        The largest norm of a gradient, or 0 for any.

    Attributes
    ----------
    rule : kernels.rules.Rule
        The constants, as kernels take them.
    l2 : float
        As given.
    state_names : tuple of str
        The names of the vectors that are the state of the optimizer.
    rate_name : str
        The argument that sets the step sizes.
    are_users : bool
        Whether a function of the user may be asked for them.
    """

    def __init__(self, optimizer: SGD | Adam, rates: Rates, l2: float, clip: float) -> None:
        self._optimizer, self._rates, self.l2 = optimizer, rates, l2
        self.rule, self.state_names = optimizer.rule(clip), optimizer.state_names
        self.rate_name, self.are_users = rates.name, rates.is_users

    def ask(self, caller: Caller, epoch: int, updates: range) -> tuple[list[float], Array]:
        """Return the step sizes (u,) of updates of an epoch, or of the first few, and their numbers (u, 4) float64."""
        rates = self._rates.ask(caller, epoch, updates)
        numbers = quietly(self._optimizer.numbers, updates[: len(rates)], rates)._replace(l2=self.l2)
        table = np.empty((len(rates), len(numbers)))
        for column, values in zip(table.T, numbers, strict=True):
            column[:] = values
        return rates, table
