"""The services that kernels ask of their host, and the time spent on compiling and loading them."""

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastmlp.kernels import internals


class _Host:
    """Members that the caller of the kernels may set by `attach`; by default they do nothing.

    Attributes
    ----------
    threads : callable
        Returns how many threads a kernel may use now, or None for Numba's count.
    prepare : callable
        Calls a function that compiles or loads a kernel where no signal can tear it.
    compiling : callable
        Called before a kernel is compiled.
    verify : callable
        Tries this Numba before the first kernel is compiled.
    missed : callable
        Called with the name, the key and the dtype of a kernel that is not in the cache; returns whether to look again.
    saved : callable
        Called with the key of a kernel that is in the cache now.
    helped : callable
        Returns whether another process compiles for this one.
    """

    threads: Callable[[], int | None] = staticmethod(lambda: None)
    prepare: Callable[..., Any] = staticmethod(lambda function, *args: function(*args))
    compiling: Callable[[], None] = staticmethod(lambda: None)
    verify: Callable[[], None] = staticmethod(lambda: None)
    missed: Callable[[str, str, str | None], bool] = staticmethod(lambda name, key, dtype: False)
    saved: Callable[[str], None] = staticmethod(lambda key: None)
    helped: Callable[[], bool] = staticmethod(lambda: False)


class _Preparation(internals.Listener):  # type: ignore[misc]
    """The time that goes into compiling and loading kernels, and the call that says that it begins.

    Attributes
    ----------
    seconds : float
        Time spent so far. One thread at a time compiles: Numba holds a lock meanwhile.
    compiling_since : float
        When the compilation in progress began, by `time.perf_counter`, or 0.
    """

    def __init__(self) -> None:
        self.seconds, self.compiling_since, self._pauses_collector = 0.0, 0.0, False

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def missed(self, name: str, key: str, dtype: str | None) -> bool:
        """Return whether to look into the cache again for a kernel that was not there."""
        return HOST.missed(name, key, dtype)

    def saved(self, key: str) -> None:
        """Note a new entry of the cache."""
        HOST.saved(key)

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] in DISPATCHERS:
            HOST.compiling()
            HOST.verify()
            self.compiling_since = time.perf_counter()
            # The collector would search the compiler's objects again and again, of which almost all stay.
            self._pauses_collector = gc.isenabled()
            gc.disable()

    def on_end(self, event: Any) -> None:
        if event.data["dispatcher"] in DISPATCHERS:
            self.resume_collector()
            self.seconds += time.perf_counter() - self.compiling_since
            self.compiling_since = 0.0

    def resume_collector(self) -> None:
        """Let Python collect garbage again; a child that was forked in the middle of a compilation needs it."""
        if self._pauses_collector:
            self._pauses_collector = False
            gc.enable()


HOST = _Host()
PREPARATION = _Preparation()
DISPATCHERS: set[Any] = set()
internals.register("numba:compile", PREPARATION)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PREPARATION.resume_collector)


def attach(**host: Any) -> None:
    """Set members of the host, by name."""
    for name, function in host.items():
        setattr(HOST, name, function)


def compiler_locks() -> list[Any]:
    """Return the locks that a fork must hold."""
    return internals.compiler_locks()


def preparation() -> tuple[float, float]:
    """Return the seconds spent so far on compiling and loading kernels, and when the compilation in progress began."""
    return PREPARATION.seconds, PREPARATION.compiling_since
