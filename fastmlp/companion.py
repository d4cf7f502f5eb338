"""A second process that compiles kernels into the cache, while this one compiles those that it needs first.

Numba compiles one function at a time in a process, and a first training needs several that take seconds each. When the
first of them has to be compiled, a companion is started on another core, for the kernels that come next. It tells what
it compiles; this process waits for a kernel only while the companion is at it, and then loads it from the cache. So a
companion that fails, or that a user kills, costs nothing but the time saved.
"""

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fastmlp import threads

# Kernels that come first: packing begins training on the full batch, updates that on batches, and one-hot labels are
# what the notebook computes first. Small ones are compiled sooner than a companion can start.
FIRST = "_fill", "_accumulate", "run_updates", "_one_hot"

_BEGUN, _SAVED = "begun", "saved"  # what a companion tells of a kernel

# Seconds after which a companion that is at a kernel is given up: many times what any kernel takes.
_PATIENCE = 120.0

_CODE = """
import sys
sys.path.insert(0, {folder!r})
from fastmlp import companion
companion.work({first!r}, {dtype!r}, {settings!r})
"""


class _Companion:
    """The companion of this process: none yet, at work, or ended."""

    def __init__(self) -> None:
        self.dtype = "float64"
        self.wanted = True
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._begun: set[str] = set()
        self._saved: set[str] = set()
        self._ended = False
        self._started = False

    @property
    def is_at_work(self) -> bool:
        """Whether it has been started, and has not ended as far as is known."""
        return self._started and not self._ended

    def missed(self, name: str, key: str, dtype: str | None) -> bool:
        """Note that a kernel is not in the cache; return whether it may be by now."""
        if self.wanted and name in FIRST:
            self.wanted = False
            self._start(name, dtype or self.dtype)
            return False
        self._read()
        if key in self._begun and key not in self._saved and not self._ended:
            self._meanwhile(name, dtype)
        end = time.monotonic() + _PATIENCE
        while key in self._begun and key not in self._saved and not self._ended and time.monotonic() < end:
            with contextlib.suppress(Empty):
                self._take(self._lines.get(timeout=0.1))
        return key in self._saved

    def _meanwhile(self, name: str, dtype: str | None) -> None:
        """Compile what comes after a kernel that the companion is at."""
        from fastmlp.kernels.compiled import ahead

        ahead.work_meanwhile(name, dtype or self.dtype)

    def _start(self, first: str, dtype: str) -> None:
        if threads.usable_cores() < 2 or not sys.executable:
            return
        from fastmlp.kernels.compiled import ahead

        folder = str(Path(__file__).parents[1])
        code = _CODE.format(folder=folder, first=first, dtype=dtype, settings=ahead.settings())
        none = subprocess.DEVNULL
        with contextlib.suppress(OSError):
            process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=none, stdout=subprocess.PIPE, stderr=none, text=True
            )
            threading.Thread(target=self._listen, args=(process,), daemon=True).start()
            self._started = True

    def _listen(self, process: Any) -> None:
        with process:
            for line in process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def _read(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._take(self._lines.get_nowait())

    def _take(self, line: str) -> None:
        said, _, key = line.strip().partition(" ")
        self._ended = self._ended or not said
        {_BEGUN: self._begun, _SAVED: self._saved}.get(said, set()).add(key)


_companion = _Companion()


def _after_fork_in_child() -> None:
    """Forget the companion of the parent: the thread that hears what it tells does not exist in a forked child."""
    global _companion
    parents, _companion = _companion, _Companion()
    _companion.dtype, _companion.wanted = parents.dtype, parents.wanted


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def expect(dtype: str) -> None:
    """Say in which dtype the next model computes."""
    _companion.dtype = dtype


def missed(name: str, key: str, dtype: str | None) -> bool:
    """Return whether a kernel that was not in the cache may be there by now, for Numba's backend.

    ``name`` is that of its function, ``key`` names its types too, ``dtype`` is that in which it computes, if it tells.
    """
    return _companion.missed(name, key, dtype)


def helped() -> bool:
    """Return whether a companion compiles for this process."""
    return _companion.is_at_work


def work(first: str, dtype: str, settings: str) -> None:
    """Compile what comes after the kernel ``first``, and tell about it on standard output: the companion's main.

    It does nothing where its ``settings`` are others than those of the process that started it.
    """
    gc.disable()  # the compiler leaves few cycles; to look for them would take a tenth of the time
    import numpy as np

    from fastmlp.kernels.compiled import ahead, attach

    def tell(said: str, key: str) -> None:
        sys.stdout.write(f"{said} {key}\n")
        sys.stdout.flush()

    def begin(name: str, key: str, dtype: str | None) -> bool:
        tell(_BEGUN, key)
        return False

    attach(threads=lambda: 1, missed=begin, saved=lambda key: tell(_SAVED, key))
    if settings == ahead.settings():
        ahead.work_ahead(first, np.dtype(dtype))
