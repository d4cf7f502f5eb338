"""The choice between one thread and a team, by the time that updates have taken with either."""

import time
from collections.abc import Callable

from fastmlp.kernels.compiled import tuning


class Pace:
    """Chooses the number of threads of each run of updates.

    A team is slower than one thread where other processes have the cores, which nobody can tell before. No bit depends
    on the choice.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._runs = 0

    def threads(self, most: int) -> int:
        """Return ``most`` or 1, whichever was faster; now and then the other one, because that may have changed."""
        self._runs += 1
        for count in (most, 1):
            if count not in self._seconds:
                return count
        faster = min((most, 1), key=self._seconds.__getitem__)
        tries = self._runs % tuning.RUNS_PER_TRIAL == 0
        return most + 1 - faster if tries else faster

    def timed(self, threads: int, updates: int, run: Callable[[], None]) -> None:
        """Make a run of so many updates, and note its time."""
        start = time.perf_counter()
        run()
        seconds = (time.perf_counter() - start) / updates
        if self._runs > 1:  # the first run may have waited for the compiler, or for sleeping threads
            self._seconds[threads] = (self._seconds.get(threads, seconds) + seconds) / 2
