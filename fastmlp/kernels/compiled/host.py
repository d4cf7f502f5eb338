"""The services that kernels ask of their host, and the time spent on compiling and loading them."""

import contextlib
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
    """

    threads: Callable[[], int | None] = staticmethod(lambda: None)
    prepare: Callable[..., Any] = staticmethod(lambda function, *args: function(*args))
    compiling: Callable[[], None] = staticmethod(lambda: None)
    verify: Callable[[], None] = staticmethod(lambda: None)


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
        self.seconds, self.compiling_since = 0.0, 0.0

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] in DISPATCHERS:
            HOST.compiling()
            HOST.verify()
            self.compiling_since = time.perf_counter()

    def on_end(self, event: Any) -> None:
        if event.data["dispatcher"] in DISPATCHERS:
            self.seconds += time.perf_counter() - self.compiling_since
            self.compiling_since = 0.0


HOST = _Host()
PREPARATION = _Preparation()
DISPATCHERS: set[Any] = set()
internals.register("numba:compile", PREPARATION)


def attach(**host: Callable[..., Any]) -> None:
    """Set members of the host, by name."""
    for name, function in host.items():
        setattr(HOST, name, function)


def compiler_locks() -> list[Any]:
    """Return the locks that a fork must hold."""
    return internals.compiler_locks()


def preparation() -> tuple[float, float]:
    """Return the seconds spent so far on compiling and loading kernels, and when the compilation in progress began."""
    return PREPARATION.seconds, PREPARATION.compiling_since
