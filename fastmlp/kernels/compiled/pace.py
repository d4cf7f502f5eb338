"""The choice between one thread and a team, by the time that updates have taken with either."""

import time
from collections.abc import Callable

from fastmlp.kernels.compiled import tuning


class Pace:
    """Chooses the number of threads of each run of updates.

    A team is slower than one thread where other processes have the cores, which nobody can tell before. The slower of
    the two is tried again, at first soon: a team's first runs are short, and may wait for threads that sleep or share a
    core, so they say little. Each trial that changes nothing doubles the runs until the next one, up to RUNS_PER_TRIAL.
    No bit depends on the choice.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # for an update, when last measured
        self._faster = 0
        self._pause = self._left = 1

    def threads(self, most: int) -> int:
        """Return ``most`` or 1, whichever was faster; now and then the other one, because that may have changed."""
        for count in (most, 1):
            if count not in self._seconds:
                return count
        faster = min((most, 1), key=self._seconds.__getitem__)
        if faster != self._faster:
            self._faster, self._pause, self._left = faster, 1, 1
        if self._left > 0:
            self._left -= 1
            return faster
        self._pause = self._left = min(2 * self._pause, tuning.RUNS_PER_TRIAL)
        return most + 1 - faster

    def timed(self, threads: int, updates: int, run: Callable[[], None]) -> None:
        """Make a run of so many updates, and note its time."""
        start = time.perf_counter()
        run()
        self._seconds[threads] = (time.perf_counter() - start) / updates
