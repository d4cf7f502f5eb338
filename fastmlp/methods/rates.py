"""Step sizes of updates: a number, a function of the epoch, or a schedule over all updates."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from fastmlp import checks, schedules
from fastmlp.interrupts import Caller

Schedule: TypeAlias = Callable[[int], float]


class Rates(ABC):
    """The step sizes of a run's updates.

    Attributes
    ----------
    name : str
        The argument that sets them.
    is_users : bool
        Whether a function of the user may be asked.
    """

    name: str
    is_users = True

    @abstractmethod
    def ask(self, caller: Caller, epoch: int, updates: range) -> list[float]:
        """Return the step size of each update, or of the first few.

        All updates are in one epoch; they are numbered from 1 over the whole run.
        """


class Alpha(Rates):
    """One step size, or a function that returns it for the epoch, from 1."""

    name = "alpha"

    def __init__(self, alpha: float | Schedule) -> None:
        self._alpha = alpha
        self._epoch, self._rate = 0, 0.0

    def ask(self, caller: Caller, epoch: int, updates: range) -> list[float]:
        """Return the step size of each update, which is the same in an epoch: a function is called once."""
        return [self.of(caller, epoch)] * len(updates)

    def of(self, caller: Caller, epoch: int) -> float:
        """Return the step size of an epoch."""
        if not callable(self._alpha):
            return self._alpha
        if epoch != self._epoch:
            rate = checks.learning_rate(f"alpha({epoch})", caller.ask(self._alpha, epoch), negative=False)
            self._epoch, self._rate = epoch, float(rate)
        return self._rate


class LearningRate(Rates):
    """The learning rate of an optimizer, a number or a schedule over all ``updates`` of the run."""

    name = "learning_rate"

    def __init__(self, learning_rate: float | schedules.Schedule, updates: int) -> None:
        self._learning_rate, self._updates = learning_rate, updates
        self.is_users = schedules.is_users(learning_rate)

    def ask(self, caller: Caller, epoch: int, updates: range) -> list[float]:
        """Return the learning rate of each update, or of those before the first one for which a schedule fails.

        Raises the schedule's error if that is the first update: which updates are made before an error must not depend
        on how many are asked for at once.
        """
        if not callable(self._learning_rate):
            return [self._learning_rate] * len(updates)
        if not self.is_users:
            rates = [self._learning_rate(update, self._updates) for update in updates]
            if min(rates) >= 0 and max(rates) < math.inf:  # ours are never NaN
                return rates
            return self._as_far_as_possible(updates)
        # One question for all: each takes a change of threads, of a millisecond where all cores are busy.
        asked: list[float] = caller.ask(self._as_far_as_possible, updates)
        return asked

    def _as_far_as_possible(self, updates: range) -> list[float]:
        rates: list[float] = []
        try:
            for update in updates:
                rates.append(self._of(update))
        except Exception:
            if not rates:
                raise
        return rates

    def _of(self, update: int) -> float:
        return schedules.rate_at(self._learning_rate, update, self._updates)
