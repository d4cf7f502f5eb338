"""The threads that help with a launch are kept off the core of the thread that launches.

Where processors are virtual, Linux takes one that has nothing to do for one that the host has taken away, and wakes a
helper on the core of the thread that wakes it. Both then share that core until the scheduler balances its load, which
takes 8 to 10 ms: longer than most kernels. So helpers may run on any core but that one. Where the launching thread has
moved since the last launch, the helpers are told before they wake.

This is for Linux and for the threading layer omp, each of whose helpers has a single thread that launches.
"""

import contextlib
import ctypes
import os
import threading

from fastmlp.kernels import internals, vector


class _Helpers(threading.local):
    """The helpers of this Python thread, and the core that they keep off."""

    def __init__(self) -> None:
        self.noted = (ctypes.c_int64 * (1 + internals.LARGEST_THREAD_COUNT))()  # see `vector.note_thread`
        self.address = ctypes.addressof(self.noted)
        self.core = -1
        self._given: set[int] = set()

    def keep_off(self, core: int, workers: int) -> None:
        """Let the helpers that are known run on any core but this one."""
        self.noted[0], self.core = 0, core
        own = os.sched_getaffinity(0)
        rest = own - {core}
        if workers > len(own) or not rest:
            return
        for thread in {*self.noted[1 : 1 + workers]} - {0, threading.get_native_id()}:
            # A thread may have ended, and who has bound threads to cores is not overruled.
            with contextlib.suppress(OSError):
                if os.path.exists(f"/proc/self/task/{thread}") and os.sched_getaffinity(thread) in (own, self._given):
                    os.sched_setaffinity(thread, rest)
        self._given = rest


_helpers = _Helpers()
# Without releasing the interpreter's lock, which takes longer than the call.
_core = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None


def prepared_helpers(workers: int) -> int:
    """Prepare the helpers of a launch of so many workers; return the list for `vector.note_thread`, or 0."""
    if _core is None or not vector.NUMBERS_THREADS or internals.threading_layer() != "omp":
        return 0
    if workers > internals.LARGEST_THREAD_COUNT:  # for whom there is no room in the list
        return 0
    core = _core()
    if core != _helpers.core or _helpers.noted[0]:
        _helpers.keep_off(core, workers)
    return _helpers.address
