"""The lock for everything that is done once in a process: modules imported, kernels compiled and loaded.

Threads that call at once at the start of a program would otherwise see half of it. And a process that forks waits for
the lock: a child would wait for ever for the locks of a thread that imports or compiles, and that it does not have.
"""

from __future__ import annotations

import os
from _thread import RLock

TYPE_CHECKING = False  # as in `fastmlp`
if TYPE_CHECKING:
    from typing import Any

lock = RLock()

# Other locks that a fork holds, as context managers: taken after `lock`, always in this order.
also_held: list[Any] = []
_taken: list[Any] = []


def _take() -> None:
    lock.acquire()
    for one in also_held:
        one.__enter__()
        _taken.append(one)


def _give_back() -> None:
    while _taken:
        _taken.pop().__exit__(None, None, None)
    lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_give_back, after_in_child=_give_back)
