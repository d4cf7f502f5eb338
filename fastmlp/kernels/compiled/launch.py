"""Launching kernels: a body, the arguments of a call, and a number of workers.

A body is compiled once, on its own, and called by its address. One serial shell hands the arguments of any kernel over,
one parallel shell calls the workers of any kernel: in a shell of its own, Numba would compile each body once more in
the serial and three times more in the parallel form.
"""

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numba
import numpy as np
from numba import prange

from fastmlp.kernels import internals, vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.helpers import prepared_helpers
from fastmlp.kernels.compiled.host import HOST
from fastmlp.kernels.compiled.runtime import OPTIONS, address_of, body, compile_cached
from fastmlp.kernels.internals import convention

Key: TypeAlias = int | Callable[[tuple[Any, ...]], Any]

KERNELS: dict[str, "Kernel"] = {}
# Held during a parallel launch unless the threading layer is known to be thread-safe.
_layer_lock = threading.Lock()
_forked_after_launch = False


def _after_fork_in_child() -> None:
    """Use serial kernels in a forked child: the parent's worker threads do not exist there.

    On the omp layer a parallel launch would end the child; on workqueue it would wait for ever.
    """
    global _forked_after_launch, _layer_lock  # noqa: PLW0603
    _layer_lock = threading.Lock()
    _forked_after_launch = _forked_after_launch or internals.threads_started()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _shell(launcher, address, arguments, workers, noted):
    vector.call_workers(launcher, address, arguments, workers, noted)


def _parallel_shell(address, arguments, workers, noted):
    for worker in prange(workers):
        vector.note_thread(noted, np.int64(worker))
        vector.call_worker(address, arguments, np.int64(worker), workers)


SHELL = compile_cached(_shell)
PARALLEL_SHELL = compile_cached(_parallel_shell, parallel=True, by_address=True)


@functools.cache
def launcher() -> int:
    """Return the address of the loop that calls workers in parallel."""
    return address_of(PARALLEL_SHELL, (numba.int64,) * 4) or 0


class Kernel:
    """A body that is called once for each worker, with its arguments, its number and the number of workers.

    Serial and parallel launches give the same bits: the choice depends on sizes and on what is safe, never on a
    measurement. The dtype of argument ``key`` decides the types of all, or what ``key`` returns for the arguments, and
    all arrays are contiguous: shells are called without another look at types, which would take longer than a small
    kernel.
    """

    def __init__(self, function: Callable[..., Any], key: Key) -> None:
        self.body = compile_cached(function, by_address=True)
        self._key = key if callable(key) else lambda args: args[key].dtype
        self._ready: dict[Any, tuple[Any, int]] = {}
        self.__name__ = function.__name__
        signature = inspect.signature(function)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[:-2])

    def __call__(self, *args: Any) -> None:
        """Run on as many workers as the largest array is worth."""
        # Not max() of a generator: with small arrays it would take longer than the kernel.
        size = 0
        for argument in args:
            if isinstance(argument, np.ndarray) and argument.size > size:
                size = argument.size
        self.launch(1 if size < tuning.PARALLEL_SIZE else usable_threads(), *args)

    def launch(self, workers: int, *args: Any) -> None:
        """Run for ``workers`` workers: in parallel where that is safe now, else one after the other."""
        key = self._key(args)
        ready = self._ready.get(key)
        if ready is None:
            ready = self._ready[key] = self._compile(args)
        shell, address = ready
        if workers == 1 or _forked_after_launch:
            shell(0, address, args, workers, 0)
        elif _layer_is_threadsafe():
            shell(launcher(), address, args, workers, prepared_helpers(workers))
        elif _layer_lock.acquire(blocking=False):
            try:
                shell(launcher(), address, args, workers, 0)
            finally:
                _layer_lock.release()
        else:
            shell(0, address, args, workers, 0)

    def _compile(self, args: tuple[Any, ...]) -> tuple[Any, int]:
        """Return the shell for arguments of these types, and the address of the body."""
        # Under the lock that a fork waits for: Numba, and NumPy for it, import modules when they are first asked.
        types = HOST.prepare(numba.typeof, args)
        # While another process compiles the body, which takes longest, this one has time for the shell.
        shell = _shell_of(types) if HOST.helped() else None
        address = address_of(self.body, (*map(vector.opened, types.types), numba.int64, numba.int64))
        if address is None or not convention.known():
            return _serial_shell(self.body), 0
        return shell or _shell_of(types), address

    def dispatchers(self) -> list[Any]:
        """Return the dispatchers that Numba compiles for this kernel alone."""
        return [self.body]


def _shell_of(types: Any) -> Any:
    """Compile the shell for a tuple of arguments of these types, if it can be called; return what calls it."""
    number = numba.int64
    signature = number, number, types, number, number
    return HOST.prepare(internals.entry_point, SHELL, signature) if convention.known() else None


@functools.cache
def _serial_shell(inner: Any) -> Any:
    """Return a shell that calls workers one after the other and depends on no internals of Numba; it is not cached."""

    def shell(launcher, address, arguments, workers, noted):
        opened = vector.open_arguments(arguments)
        for worker in range(workers):
            inner(*(opened + (worker, workers)))  # noqa: RUF005

    return numba.njit(**OPTIONS)(shell)


def kernel(key: Key = 0) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a kernel of a body."""

    def decorate(function: Callable[..., Any]) -> Kernel:
        made = KERNELS[function.__name__] = Kernel(function, key)
        return made

    return decorate


def usable_threads() -> int:
    """Return how many workers a launch may use now; asking Numba starts its threads, which a forked child must not."""
    if _forked_after_launch:
        return 1
    return HOST.threads() or _numba_threads()


def _numba_threads() -> int:
    if not internals.threads_started():
        HOST.prepare(numba.get_num_threads)
    return internals.thread_count()


def _layer_is_threadsafe() -> bool:
    # Before the first launch the layer is not known: None counts as unsafe.
    return internals.threading_layer() in ("omp", "tbb")


@body
def span(total, worker, workers):
    """Return [lo, hi): the worker's aligned share of ``total`` elements."""
    share = -(-total // workers)
    share += -share % tuning.ALIGNMENT
    return min(worker * share, total), min((worker + 1) * share, total)


def max_threads() -> int | None:
    """Return how many threads Numba can launch in this process."""
    return internals.LARGEST_THREAD_COUNT


def limits_threads(n: int) -> bool:
    """Return whether kernels on ``n`` threads need `limited_threads`: one thread runs the serial shell."""
    return n > 1 and not _forked_after_launch and n != _numba_threads()


@contextlib.contextmanager
def limited_threads(n: int) -> Iterator[None]:
    """Let no more than ``n`` of Numba's threads wake when this Python thread launches a kernel."""
    previous = int(numba.get_num_threads())
    numba.set_num_threads(n)
    try:
        yield
    finally:
        numba.set_num_threads(previous)
