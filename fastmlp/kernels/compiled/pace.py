"""The choice between one thread and a team, by the time that updates have taken with either."""

import time
from collections.abc import Callable

from fastmlp.kernels.compiled import tuning


class Pace:
    """Chooses the number of threads of each run of updates.

    A team is slower than one thread where other processes have the cores, which nobody can tell before. The slower of
    the two is tried again. For a team that is at once, and then after 1, 2, 4, ... runs, up to RUNS_PER_TRIAL: its
    first runs are short, and may wait for threads that sleep or share a core, so they say little. What one thread takes
    is certain sooner: it is tried again when that costs no more than TRIAL_SHARE of the time since the last trial.
    No bit depends on the choice.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # for an update, when last measured
        self._faster, self._pause, self._left, self._spent = 0, 1, 0, 0.0

    def threads(self, most: int, updates: int) -> int:
        """Return ``most`` or 1 for a run of so many updates: whichever was faster, or now and then the other one."""
        for count in (most, 1):
            if count not in self._seconds:
                return count
        of_team, of_one = self._seconds[most], self._seconds[1]
        faster = most if of_team <= of_one else 1
        if faster != self._faster:
            self._faster, self._pause, self._left = faster, 1, 0
        if faster > 1:
            tries = updates * (of_one - of_team) <= tuning.TRIAL_SHARE * self._spent
            self._spent = 0.0 if tries else self._spent
            return 1 if tries else most
        self._left -= 1
        if self._left >= 0:
            return 1
        self._left, self._pause = self._pause, min(2 * self._pause, tuning.RUNS_PER_TRIAL)
        return most

    def timed(self, threads: int, updates: int, run: Callable[[], None]) -> None:
        """Make a run of so many updates, and note its time."""
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        self._spent += seconds
        self._seconds[threads] = seconds / updates
