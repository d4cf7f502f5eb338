"""How many threads: the cores that this process may use, and the thread count of BLAS."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any


def usable_cores() -> int:
    """Return the number of cores this process may use: those of its affinity mask, not of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def blas() -> Any:
    """Return the controller of the BLAS libraries that are loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def limited_blas(n: int) -> Iterator[None]:
    """Let BLAS use ``n`` threads; to be entered only in a thread that no signal handler can interrupt."""
    limits = _limits()
    limits.enter(n)
    try:
        yield
    finally:
        limits.leave()


class _Limits:
    """The thread count of BLAS. It is the process', so of calls that overlap, the last to end restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._found: Any = None

    def enter(self, n: int) -> None:
        """Set the count, and remember the one that was found unless it is that of another call."""
        with self._lock:
            found = blas().limit(limits=n)
            self._found = self._found if self._open else found
            self._open += 1

    def leave(self) -> None:
        """Set the count that was found, once no call is left."""
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._found.restore_original_limits()
            # From the first count that a thread sets until its ``with`` ends, threadpoolctl ignores all other threads.
            with blas().limit(limits=None):
                pass


@functools.cache
def _limits() -> _Limits:
    # A forked child begins anew: the calls of other threads, and a lock that one of them held, are not its own.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_limits.cache_clear)
    return _Limits()
