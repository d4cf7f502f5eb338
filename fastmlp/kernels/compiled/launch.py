"""How kernels are launched: serially or in parallel, on how many threads, and what a fork changes."""

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
from numba import config, prange
from numba.np.ufunc import parallel as numba_parallel

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.host import HOST
from fastmlp.kernels.compiled.runtime import SINGLE, address_of, body, compile_cached

KERNELS: dict[str, "Kernel | LargeKernel"] = {}

# Held while a parallel kernel runs on a layer of which it is not known that two Python threads may enter it.
_layer_lock = threading.Lock()
_forked_after_launch = False


def _after_fork_in_child() -> None:
    """Keep to serial shells in a child of a process whose workers run: they did not survive the fork.

    On the omp layer a parallel launch would end the child; on workqueue it would wait for ever.
    """
    global _forked_after_launch, _layer_lock  # noqa: PLW0603
    _layer_lock = threading.Lock()
    _forked_after_launch = _forked_after_launch or numba_parallel._is_initialized


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class Kernel:
    """A shell over a serial body, compiled with ``parallel=True`` and without; a call chooses between the two.

    The choice depends on sizes and on what is safe, never on a measurement, and both give the same bits.
    """

    def __init__(self, shell: Callable[..., Any], outputs: int) -> None:
        self.parallel = compile_cached(shell, parallel=True)
        self.serial = compile_cached(shell, parallel=False)
        self.outputs = outputs
        self.__name__ = shell.__name__
        self.__doc__ = shell.__doc__
        signature = inspect.signature(shell)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[:-1])

    def __call__(self, *args: Any) -> None:
        # Not max() of a generator: with small arrays it would take longer than the kernel.
        ready, size = list(args), 0
        for k, one in enumerate(args):
            if isinstance(one, np.ndarray):
                size = max(size, one.size)
                if k >= self.outputs:
                    ready[k] = read_only(one)
        if size < tuning.PARALLEL_SIZE:
            self.serial(*ready, 1)
        else:
            self.launch(usable_threads(), *ready)

    def launch(self, workers: int, *args: Any) -> None:
        """Run for ``workers`` workers: in parallel where that is safe now, else one after the other."""
        _launch(self.serial, self.parallel, workers, args)

    def warmup(self) -> None:
        """Compile the parallel shell for all types that the serial one knows."""
        for types in self.serial.signatures:
            HOST.prepare(self.parallel.compile, types)

    def dispatchers(self) -> list[Any]:
        """Return what Numba compiles for this kernel."""
        return [self.parallel, self.serial]


class LargeKernel:
    """A body that is compiled once, on its own, and a shell that hands it its arguments: in parallel by `_workers`.

    As part of a shell, Numba would compile the body once more in the serial and three times more in the parallel one;
    and a parallel shell that takes tuples of arrays costs two seconds.
    """

    def __init__(self, shell: Callable[..., Any], body: Callable[..., Any]) -> None:
        self.shell = compile_cached(shell, parallel=False)
        self.body = compile_cached(body, parallel=False, by_address=True)
        self._addresses: dict[Any, int] = {}
        self.__doc__ = shell.__doc__

    def launch(self, workers: int, *args: Any) -> None:
        """Run for ``workers`` workers: in parallel where that is safe now, else one after the other."""
        key = args[0].dtype  # it decides the types of all
        if key not in self._addresses:
            types = (*map(numba.typeof, args), numba.int64, numba.int64)
            self._addresses[key] = address_of(self.body, types)
        _launch(self._serial, self._parallel, workers, (self._addresses[key], *args))

    def _serial(self, *args: Any) -> None:
        self.shell(0, *args)

    def _parallel(self, *args: Any) -> None:
        self.shell(_launcher(), *args)

    def warmup(self) -> None:
        """Compile what is not compiled by a launch for one worker."""
        _launcher()

    def dispatchers(self) -> list[Any]:
        """Return what Numba compiles for this kernel."""
        return [self.shell, self.body]


def _launch(serial: Callable[..., None], parallel: Callable[..., None], workers: int, args: tuple[Any, ...]) -> None:
    if workers == 1 or _forked_after_launch:
        serial(*args, workers)
    elif _layer_is_threadsafe():
        parallel(*args, workers)
    elif _layer_lock.acquire(blocking=False):
        try:
            parallel(*args, workers)
        finally:
            _layer_lock.release()
    else:
        serial(*args, workers)


def usable_threads() -> int:
    """Return how many workers a launch may use now; asking Numba starts its threads, which a forked child must not."""
    if _forked_after_launch:
        return 1
    return HOST.threads() or _numba_threads()


def _numba_threads() -> int:
    """Return Numba's thread count for this Python thread.

    `numba.get_num_threads` takes a lock of the process in Python code at each call: a signal in the middle of it would
    lock all later calls out.
    """
    if not numba_parallel._is_initialized:
        HOST.prepare(numba.get_num_threads)
    count = getattr(numba_parallel, "_get_num_threads", numba.get_num_threads)
    return int(count())


def read_only(x: Any) -> Any:
    """Return an array as a read-only view: one type for Numba, and no kernel can write to it."""
    view = x.view()
    view.setflags(write=False)  # in a third of the time of flags.writeable
    return view


def _layer_is_threadsafe() -> bool:
    # Before the first launch the layer is not known: None counts as unsafe.
    return numba_parallel._threading_layer in ("omp", "tbb")


def kernel(outputs: int) -> Callable[[Callable[..., Any]], Kernel]:
    def decorate(shell: Callable[..., Any]) -> Kernel:
        kernel = KERNELS[shell.__name__] = Kernel(shell, outputs)
        return kernel

    return decorate


def large_kernel(body: Callable[..., Any]) -> Callable[[Callable[..., Any]], LargeKernel]:
    def decorate(shell: Callable[..., Any]) -> LargeKernel:
        kernel = KERNELS[shell.__name__] = LargeKernel(shell, body)
        return kernel

    return decorate


def _workers(address, arguments, workers):
    for worker in prange(workers):
        vector.work(address, arguments, np.int64(worker), workers)


SINGLE["_workers"] = compile_cached(_workers, parallel=True, by_address=True)


@functools.cache
def _launcher() -> int:
    """Return where the loop is that runs large kernels in parallel."""
    return address_of(SINGLE["_workers"], (numba.int64,) * 3)


@body
def span(total, worker, workers):
    """Return [lo, hi): the worker's aligned share of ``total`` elements."""
    share = -(-total // workers)
    share += -share % tuning.ALIGNMENT
    return min(worker * share, total), min((worker + 1) * share, total)


def max_threads() -> int | None:
    """Return how many threads Numba can launch in this process."""
    return int(config.NUMBA_NUM_THREADS)


def limits_threads(n: int) -> bool:
    """Return whether kernels on ``n`` threads need `limited_threads`: one thread runs the serial shells."""
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
