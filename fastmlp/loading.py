"""The lock for work that is done once in a process: importing modules, compiling and loading kernels.

Without it, threads that call at the same time at the start of a program would see half of that work. A fork also waits
for the lock: the child would wait forever for locks of a thread that imports or compiles in the parent only.
"""

from __future__ import annotations

import os
from _thread import RLock

TYPE_CHECKING = False  # not from `typing`, as in `fastmlp`
if TYPE_CHECKING:
    from typing import Any

lock = RLock()

# More locks to hold during a fork, as context managers: acquired after `lock`, always in this order.
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
