"""The number of cores that this process may use, and the thread count of BLAS."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any


def usable_cores() -> int:
    """Return the number of cores in the affinity mask of this process, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def blas() -> Any:
    """Return a controller of the loaded BLAS libraries."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def limited_blas(n: int) -> Iterator[None]:
    """Let BLAS use ``n`` threads; enter it only in a thread that no signal handler can interrupt."""
    limits = _limits()
    limits.enter(n)
    try:
        yield
    finally:
        limits.leave()


class _Limits:
    """The thread count of BLAS. It belongs to the process: of overlapping calls, the last to end restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._found: Any = None

    def enter(self, n: int) -> None:
        """Set the count, and remember the previous one unless another call has set it."""
        with self._lock:
            found = blas().limit(limits=n)
            self._found = self._found if self._open else found
            self._open += 1

    def leave(self) -> None:
        """Restore the previous count once no call is left."""
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._found.restore_original_limits()
            # threadpoolctl ignores other threads from the first count that a thread sets until its ``with`` ends.
            with blas().limit(limits=None):
                pass


@functools.cache
def _limits() -> _Limits:
    # A forked child starts afresh: it has neither the calls of other threads nor a lock that one of them held.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_limits.cache_clear)
    return _Limits()
