"""The private and undocumented names of Numba and llvmlite: no other part of fastmlp uses any.

Each is looked for, and replaced where it is missing: a Numba that nobody has tried costs speed, never a wrong result
and never an import. `missing` holds the names that were not found, and `fastmlp.show_config` prints them.
"""

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import llvmlite.binding
import numba
from numba import config

missing: list[str] = []


def private(module: str, *names: str) -> ModuleType | None:
    """Import a module that has these names; else report the first name that is missing, and return None."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        missing.append(module)
        return None
    for name in names:
        if not hasattr(found, name):
            missing.append(name)
            return None
    return found


NOTHING = SimpleNamespace()  # has no names: an AttributeError for each
_registry = private("numba.core.registry", "cpu_target")
_parallel = private("numba.np.ufunc.parallel", "_is_initialized")
_event = private("numba.core.event", "Listener", "register")

# Told by Numba when a compilation begins and ends; without that, nobody is told, and no time is counted.
Listener: Any = object if _event is None else _event.Listener
register: Any = (lambda kind, listener: None) if _event is None else _event.register

# The oldest and the newest Numba that the tests run with: with these, kernels do not begin with a trial.
TRIED = ("0.62.", "0.68.")


def _magic_tuple() -> tuple[str, str, str]:
    """Return triple, processor and features of the code that Numba makes, which need not be those of the host."""
    try:
        target = (_registry or NOTHING).cpu_target
        triple, processor, features = target.target_context.codegen().magic_tuple()
    except Exception:
        missing.append("codegen.magic_tuple")
        return llvmlite.binding.get_process_triple(), "unknown", ""
    return str(triple), str(processor), str(features)


TRIPLE, PROCESSOR, _features = _magic_tuple()
FEATURES = frozenset(name[1:] for name in _features.split(",") if name.startswith("+"))

# Flags that change machine code, but neither Numba's cache key nor its file names.
CODE_FLAGS = tuple(
    (name, str(getattr(config, name, None)))
    for name in ("BOUNDSCHECK", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT")
)
CHECKS_BOUNDS = bool(getattr(config, "BOUNDSCHECK", None))
JIT_DISABLED = bool(getattr(config, "DISABLE_JIT", False))
LARGEST_THREAD_COUNT = int(getattr(config, "NUMBA_NUM_THREADS", 1))
REQUESTED_LAYER = str(getattr(config, "THREADING_LAYER", "default"))


def threading_layer() -> str | None:
    """Return the threading layer, or None before the first parallel launch."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def threads_started() -> bool:
    """Return whether Numba's threads run: asking for their number starts them, a launch too."""
    return threading_layer() is not None if _parallel is None else bool(_parallel._is_initialized)


def thread_count() -> int:
    """Return Numba's thread count for this Python thread.

    `numba.get_num_threads` takes a lock of the process in Python code at each call: a signal in the middle of it would
    lock all later calls out. The function below it does not, once threads have been started.
    """
    count = getattr(_parallel, "_get_num_threads", None)
    if count is None:
        if threads_started() and "_get_num_threads" not in missing:
            missing.append("_get_num_threads")
        count = numba.get_num_threads
    return int(count())


def compiler_locks() -> list[Any]:
    """Return the locks that a fork must hold: llvmlite's, which freeing a module takes at any time."""
    lock = getattr(getattr(llvmlite.binding.ffi, "lib", None), "_lock", None)
    if hasattr(lock, "__enter__"):
        return [lock]
    missing.append("ffi.lib._lock")
    return []


def _compiled(dispatcher: Any, arguments: tuple[Any, ...]) -> Any:
    """Compile a function that returns nothing for types of arguments; return the result."""
    dispatcher.compile(arguments)
    return dispatcher.get_compile_result(numba.types.void(*arguments))


def machine_address(dispatcher: Any, arguments: tuple[Any, ...]) -> int | None:
    """Compile for types of arguments; return the address of the function, or None where this Numba does not say."""
    result = _compiled(dispatcher, arguments)
    try:
        return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
    except (AttributeError, TypeError):
        missing.append("library.get_pointer_to_function")
        return None


def entry_point(dispatcher: Any, arguments: tuple[Any, ...]) -> Any:
    """Compile for types of arguments; return a callable for such arguments, which does not look at their types again.

    It is the dispatcher itself where this Numba has no such thing.
    """
    entry = getattr(_compiled(dispatcher, arguments), "entry_point", None)
    if callable(entry):
        return entry
    missing.append("entry_point")
    return dispatcher


def wrap_compilation(dispatcher: Any, wrapper: Any) -> None:
    """Let ``wrapper(compile, *args)`` call the function by which Numba compiles for types that it has not seen."""
    compile_for = getattr(dispatcher, "_compile_for_args", None)
    if compile_for is not None:
        dispatcher._compile_for_args = lambda *args, **kws: wrapper(compile_for, *args, **kws)
