"""Compiler options, and how bodies and the functions that Python calls are compiled and cached."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import njit

from fastmlp.kernels import internals, vector
from fastmlp.kernels.compiled.host import DISPATCHERS, HOST, PREPARATION
from fastmlp.kernels.internals import bodies, cache, convention

if internals.JIT_DISABLED:
    raise ImportError("NUMBA_DISABLE_JIT is set: Numba would run the kernels as slow Python loops")

# The one place for compiler options. No fastmath: it breaks NaN and infinity, and reassociation would let the vector
# width choose the bits. Kernels release the GIL, and divide as NumPy does: by zero without an exception.
OPTIONS = {"nogil": True, "error_model": "numpy"}

# In bodies, inner loops run from 0 over views: an index that may be negative is tested for it, which keeps a loop from
# becoming vectors.
body = njit(**bodies.BODY, **OPTIONS)


def _cache_stamp() -> str:
    """Return a digest of the inputs that Numba's cache key leaves out: every kernel source, and the compiler."""
    digest = hashlib.sha256(llvmlite.__version__.encode())
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


STAMP = _cache_stamp()


def _variant(*, parallel: bool) -> str:
    """Return the part of a file's name for settings that change the code but not Numba's cache key."""
    flags = (*internals.CODE_FLAGS, convention.known())
    return f"{'parallel' if parallel else 'serial'}-{hashlib.sha256(repr(flags).encode()).hexdigest()[:8]}"


def compile_cached(function: Callable[..., Any], *, parallel: bool = False, by_address: bool = False) -> Any:
    """Return a dispatcher whose code is cached; Python must not call one that is made ``by_address``."""
    wrappers = bodies.WITHOUT_WRAPPERS if by_address else {"no_cfunc_wrapper": True}
    dispatcher = njit(parallel=parallel, **wrappers, **OPTIONS)(function)
    DISPATCHERS.add(dispatcher)
    # A signal in the middle of a compilation would leave half a library behind.
    internals.wrap_compilation(dispatcher, _prepare)
    cache.enable(dispatcher, STAMP, _variant(parallel=parallel), PREPARATION)
    return dispatcher


def _prepare(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return HOST.prepare(function, *args, **kwargs)


def address_of(dispatcher: Any, types: tuple[Any, ...]) -> int | None:
    """Compile for these types; return the address of the function, or None where this Numba does not say."""
    address: int | None = HOST.prepare(internals.machine_address, dispatcher, types)
    return address


def called_address(dispatcher: Any, types: tuple[Any, ...]) -> int:
    """Do as `address_of` for code that bodies call: where this Numba does not say, they must not, and it is 0."""
    if not convention.known():  # it is part of its callers then
        return 0
    address = address_of(dispatcher, types)
    if address is None:
        convention.give_up()
    return address or 0


@body
def _tested_body(out, worker, workers):
    out[worker] = workers


def _tested_worker(out, worker, workers):
    _tested_body(out, worker, workers)


def _tested_shell(address, out, workers):
    vector.call_workers(0, address, (out,), workers, 0)


def _tested_serially(out, workers):
    opened = vector.open_arguments((out,))
    for worker in range(workers):
        _tested_body(opened[0], worker, workers)


def _bodies_are_linked() -> bool:
    return _fills(njit(**OPTIONS)(_tested_serially))


def _calls_by_address_work() -> bool:
    types = (vector.opened(numba.typeof(np.empty(1, np.int64))), numba.int64, numba.int64)
    worker = njit(**bodies.WITHOUT_WRAPPERS, **OPTIONS)(_tested_worker)
    address = internals.machine_address(worker, types)
    return _fills(functools.partial(njit(**OPTIONS)(_tested_shell), address))


def _fills(function: Callable[..., None]) -> bool:
    out = np.zeros(2, np.int64)
    function(out, 2)
    return out.tolist() == [2, 2]


@functools.cache
def verify() -> None:
    """Try, once in a process that compiles, the two ways in which kernels depend on Numba's internals.

    A body that is not linked into its caller, or a call by another convention, would give no error. What fails its test
    is given up: kernels then run serially, and are compiled more slowly.
    """
    if numba.__version__.startswith(internals.TRIED) or not convention.known():
        return
    if _holds(_calls_by_address_work):  # which call a linked body
        return
    if not _holds(_bodies_are_linked):
        bodies.give_up()
    if not _holds(_calls_by_address_work):
        convention.give_up()


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except Exception:
        return False


HOST.verify = verify
