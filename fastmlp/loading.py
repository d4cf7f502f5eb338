"""The lock for everything that is done once in a process: modules imported, kernels compiled and loaded.

Threads that call at once at the start of a program would otherwise see half of it. And a process that forks waits for
the lock: a child would wait for ever for the locks of a thread that imports or compiles, and that it does not have.
"""

import os
from _thread import RLock

lock = RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
