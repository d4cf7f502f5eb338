"""Schedules: learning rates that change from update to update.

A schedule is a callable ``schedule(update, updates)`` that returns the learning rate of an update; ``update`` counts
from 1, and ``updates`` is their number in the whole run. Any function of these two arguments will do. The schedules of
this module can also be compared and pickled. Their rates depend on the share of the run that is over before an update,
(update - 1) / updates. The first update therefore has the first rate, and the last update has not quite reached the
final rate.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fastmlp import checks, constants

Schedule: TypeAlias = Callable[[int, int], float]


@dataclass(frozen=True)
class constant:
    """The same learning rate for all updates.

    Parameters
    ----------
    rate : float
        The learning rate, at least 0.

    Raises
    ------
    ValueError
        If the rate is negative, infinite or NaN.
    TypeError
        If it is not a number.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedules.constant(0.1)(update=7, updates=10)
    0.1
    """

    rate: float

    def __post_init__(self) -> None:
        constants.set_fields(self, rate=constants.rate("rate", self.rate))

    def __call__(self, update: int, updates: int) -> float:
        """Return the learning rate of an update."""
        return self.rate


@dataclass(frozen=True)
class linear:
    """A straight line from ``rate`` to ``final``.

    The last update still has the rate ``final + (rate - final) / updates``.

    Parameters
    ----------
    rate : float
        The learning rate of the first update, at least 0.
    final : float
        The learning rate at the end, at least 0.

    Raises
    ------
    ValueError
        If a rate is negative, infinite or NaN.
    TypeError
        If it is not a number.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedule = schedules.linear(1.0)
    >>> [schedule(update, 4) for update in (1, 2, 3, 4)]
    [1.0, 0.75, 0.5, 0.25]
    """

    rate: float
    final: float = 0.0

    def __post_init__(self) -> None:
        constants.set_fields(self, rate=constants.rate("rate", self.rate), final=constants.rate("final", self.final))

    def __call__(self, update: int, updates: int) -> float:
        """Return the learning rate of an update."""
        return self.rate + (self.final - self.rate) * _share_done(update, updates)


@dataclass(frozen=True)
class cosine:
    """Half a period of a cosine from ``rate`` to ``final``.

    With x, the share of the run that is over, the learning rate is ``final + (rate - final) (1 + cos(pi x)) / 2`` [1]_.

    Parameters
    ----------
    rate : float
        The learning rate of the first update, at least 0.
    final : float
        The learning rate at the end, at least 0.

    Raises
    ------
    ValueError
        If a rate is negative, infinite or NaN.
    TypeError
        If it is not a number.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedule = schedules.cosine(1.0)
    >>> [round(schedule(update, 4), 3) for update in (1, 2, 3, 4)]
    [1.0, 0.854, 0.5, 0.146]
    """

    rate: float
    final: float = 0.0

    def __post_init__(self) -> None:
        constants.set_fields(self, rate=constants.rate("rate", self.rate), final=constants.rate("final", self.final))

    def __call__(self, update: int, updates: int) -> float:
        """Return the learning rate of an update."""
        return self.final + (self.rate - self.final) * (1 + math.cos(math.pi * _share_done(update, updates))) / 2


@dataclass(frozen=True)
class one_cycle:
    """A linear rise to ``peak``, then a linear fall towards zero.

    The last update has the rate ``peak / ((1 - warmup) updates)``, which is not zero. With a warm-up of 1, there is
    only the rise.

    Parameters
    ----------
    peak : float
        The highest learning rate, at least 0.
    warmup : float
        The share of the updates in which the rate rises, from 0 to 1.
    start : float
        The learning rate of the first update as a share of ``peak``, from 0 to 1; unused if
        ``warmup`` is 0.

    Raises
    ------
    ValueError
        If the peak is negative, infinite or NaN, or another number is not in its range.
    TypeError
        If an argument is not a number.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedule = schedules.one_cycle(1.0, warmup=0.4, start=0.5)
    >>> [round(schedule(update, 5), 3) for update in (1, 2, 3, 4, 5)]
    [0.5, 0.75, 1.0, 0.667, 0.333]
    """

    peak: float
    warmup: float = 0.1
    start: float = 1 / 25

    def __post_init__(self) -> None:
        start = constants.share("start", self.start, "pass a share of the peak, such as 0.04")
        peak, warmup = constants.rate("peak", self.peak), constants.share("warmup", self.warmup)
        constants.set_fields(self, peak=peak, warmup=warmup, start=start)

    def __call__(self, update: int, updates: int) -> float:
        """Return the learning rate of an update."""
        done = _share_done(update, updates)
        if done < self.warmup:
            return self.peak * (self.start + (1 - self.start) * done / self.warmup)
        return self.peak * (1 - done) / (1 - self.warmup)


@dataclass(frozen=True)
class step:
    """A staircase: the learning rate is multiplied by ``factor`` again and again.

    Parameters
    ----------
    rate : float
        The first learning rate, at least 0.
    factor : float
        The ratio of a learning rate to the one before, from 0 to 1.
    every : float
        The share of the updates with the same rate, above 0 and at most 1: 1/3 for three rates.

    Raises
    ------
    ValueError
        If the rate is negative, infinite or NaN, or another number is not in its range.
    TypeError
        If an argument is not a number.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedule = schedules.step(1.0, factor=0.5, every=1/3)
    >>> [schedule(update, 6) for update in (1, 2, 3, 4, 5, 6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    rate: float
    factor: float
    every: float

    def __post_init__(self) -> None:
        remedy = "pass a share of the updates, such as 1/3"
        constants.set_fields(
            self,
            rate=constants.rate("rate", self.rate),
            factor=constants.share("factor", self.factor, "pass the ratio of two rates, such as 0.1"),
            every=constants.share("every", checks.positive("every", self.every, remedy), remedy),
        )

    def __call__(self, update: int, updates: int) -> float:
        """Return the learning rate of an update."""
        # Both shares are rounded, and 0.3 / 0.1 is below 3.
        steps = math.floor(_share_done(update, updates) / self.every * (1 + 1e-12))
        return self.rate * self.factor**steps


@dataclass(frozen=True)
class exponential:
    """A learning rate whose logarithm changes linearly, from ``rate`` to ``factor * rate``.

    The learning rates of two successive updates always have the same ratio, ``factor ** (1 / updates)``.

    Parameters
    ----------
    rate : float
        The learning rate of the first update, at least 0.
    factor : float
        The ratio of the learning rate at the end to the first one, above 0. With a factor above 1 the rate rises, as in
        a search for the largest useful rate.

    Raises
    ------
    ValueError
        If the rate is negative, or the factor not positive, or either is infinite or NaN.
    TypeError
        If an argument is not a number.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedule = schedules.exponential(1.0, factor=1/16)
    >>> [schedule(update, 4) for update in (1, 2, 3, 4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    rate: float
    factor: float

    def __post_init__(self) -> None:
        factor = checks.positive("factor", self.factor, "pass the ratio of the last rate to the first, such as 0.01")
        constants.set_fields(self, rate=constants.rate("rate", self.rate), factor=factor)

    def __call__(self, update: int, updates: int) -> float:
        """Return the learning rate of an update."""
        return self.rate * math.pow(self.factor, _share_done(update, updates))


@dataclass(frozen=True)
class warm_up:
    """A linear rise to the first learning rate of another schedule, which then runs over the rest of the updates.

    In a warm-up of w updates, update t has t / (w + 1) of that rate. At least the last update belongs to the other
    schedule.

    Parameters
    ----------
    schedule : float or callable
        A learning rate, at least 0, or a schedule. It is called as ``schedule(update - w, updates - w)``.
    share : float
        The share of the updates in which the rate rises, from 0 to 1, rounded to whole updates.

    Raises
    ------
    ValueError
        If the rate is negative, infinite or NaN, or the share is not in its range.
    TypeError
        If an argument is not a number.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedule = schedules.warm_up(schedules.linear(1.0), 0.5)
    >>> [schedule(update, 6) for update in (1, 2, 3, 4, 5, 6)]
    [0.25, 0.5, 0.75, 1.0, 0.6666666666666667, 0.33333333333333337]
    """

    schedule: Schedule | float
    share: float

    def __post_init__(self) -> None:
        schedule = constants.rate_or_schedule("schedule", self.schedule)
        constants.set_fields(self, schedule=schedule, share=constants.share("share", self.share))

    def __call__(self, update: int, updates: int) -> float:
        """Return the learning rate of an update."""
        rising = min(round(self.share * updates), updates - 1)
        first = max(update - rising, 1)
        return rate_at(self.schedule, first, updates - rising) * min(update / (rising + 1), 1.0)


def rate_at(learning_rate: Schedule | float, update: int, updates: int) -> float:
    """Return the learning rate of an update.

    Parameters
    ----------
    learning_rate : float or callable
        A checked learning rate, or a schedule.
    update : int
        The update, from 1.
    updates : int
        The number of updates of the run.

    Raises
    ------
    ValueError
        If the schedule returns a number that is negative, infinite or NaN.
    TypeError
        If it returns something else.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedules.rate_at(lambda update, updates: 1 / update, 4, 10)
    0.25
    """
    if not callable(learning_rate):
        return learning_rate
    rate = learning_rate(update, updates)
    if type(rate) is float and 0 <= rate < math.inf:  # at each update: the message below takes as long as a schedule
        return rate
    return constants.rate(f"learning_rate({update}, {updates})", rate)


def is_users(learning_rate: Schedule | float) -> bool:
    """Return whether a learning rate, or a part of it, is a function of the user's.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> schedules.is_users(schedules.linear(0.1)), schedules.is_users(lambda update, updates: 0.1)
    (False, True)
    """
    if isinstance(learning_rate, warm_up):
        return type(learning_rate) is not warm_up or is_users(learning_rate.schedule)
    return callable(learning_rate) and type(learning_rate) not in _OURS


def _share_done(update: int, updates: int) -> float:
    return (update - 1) / updates


_OURS = (constant, linear, cosine, one_cycle, step, exponential)
