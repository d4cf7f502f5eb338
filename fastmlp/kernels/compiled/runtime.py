"""Compiler options, and how kernels and bodies are compiled."""

import contextlib
from collections.abc import Callable
from typing import Any

from numba import config, njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from fastmlp.kernels.compiled.cache import STAMP, KernelCache, cache_variant
from fastmlp.kernels.compiled.host import DISPATCHERS, HOST

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set: Numba would run the kernels as slow Python loops")

# The one place for compiler options. No fastmath: it breaks NaN and infinity, and reassociation would let the vector
# width choose the bits. Kernels release the GIL, and divide as NumPy does: by zero without an exception.
_OPTIONS = {"nogil": True, "error_model": "numpy"}


def compile_cached(shell: Callable[..., Any], *, parallel: bool, by_address: bool = False) -> Any:
    """Return the dispatcher, cached; one whose function is only called ``by_address`` must not be called itself."""
    dispatcher = njit(parallel=parallel, no_cpython_wrapper=by_address, no_cfunc_wrapper=True, **_OPTIONS)(shell)
    DISPATCHERS.add(dispatcher)
    # What Numba calls for types that it has not seen. A signal in the middle of it would leave half a library behind.
    compile_for = getattr(dispatcher, "_compile_for_args", None)
    if compile_for is not None:
        dispatcher._compile_for_args = lambda *args, **kws: HOST.prepare(compile_for, *args, **kws)
    # Where no folder is writeable, as in a read-only install without HOME, the kernel runs uncached.
    with contextlib.suppress(RuntimeError, OSError):
        dispatcher._cache = KernelCache(shell, STAMP, cache_variant(parallel=parallel))
    return dispatcher


SINGLE: dict[str, Any] = {}


def address_of(dispatcher: Any, types: tuple[Any, ...]) -> int:
    """Compile for these types, and return where the function is."""
    return int(HOST.prepare(_compiled_address, dispatcher, types))


def _compiled_address(dispatcher: Any, types: tuple[Any, ...]) -> int:
    dispatcher.compile(types)
    result = dispatcher.overloads[types]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


# In bodies, inner loops run from 0 over slices: an index that may be negative is tested for it, which keeps a loop from
# becoming vectors.
# Python never calls a body, so it needs no wrapper: those took a tenth of the compiler's time.
_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_OPTIONS}


class _NoEnvironment:
    """Stands for the code generator where the environment of a function is set that has no machine code of its own."""

    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        pass


class _BodyLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of a body: what is compiled is its copy in each kernel.

    Numba would also optimise it on its own, once more in each caller, and make machine code each time: a first step
    from an empty cache took 25.8 s where it takes 22.2.
    """

    codegen = _NoEnvironment

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _BodyCompiler(Compiler):  # type: ignore[misc]
    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, _BodyLibrary(target.codegen(), "body"), *rest)


body = njit(pipeline_class=_BodyCompiler, **_INNER)


def serial(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls and that is worth no threads; cached, as kernels are."""
    dispatcher = SINGLE[function.__name__] = compile_cached(function, parallel=False)
    return dispatcher
