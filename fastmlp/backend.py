"""The active backend, its thread count, and calls of its kernels: the one module that imports a kernel package.

``fastmlp.set_backend`` and ``fastmlp.set_num_threads`` set the choice of the process, ``use_backend`` and
``use_threads`` that of the current context (`contextvars`), and the environment variables ``FASTMLP_BACKEND`` and
``FASTMLP_NUM_THREADS`` the default (`fastmlp.settings`). A kernel package is imported when it is first needed.
"""

import contextlib
import functools
import importlib
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from fastmlp import checks, companion, interrupts, loading, notices, quiet, settings, threads
from fastmlp.version import __version__

_MODULES = {"numba": "fastmlp.kernels.compiled", "numpy": "fastmlp.kernels.reference"}
_imported: dict[str, ModuleType] = {}  # and connected with this module
_SERVICES = {"compiling": notices.compiling, "missed": companion.missed, "helped": companion.helped}
_INSTALL = 'install it with: python -m pip install "numba>=0.62"'


def set_backend(name: str) -> None:
    """Choose the backend for the process.

    Parameters
    ----------
    name : {"auto", "numba", "numpy"}
        ``"auto"`` chooses Numba if it can be imported, else NumPy with one `RuntimeWarning`.

    Raises
    ------
    ValueError
        If the name is unknown.
    ImportError
        If ``"numba"`` is requested and cannot be imported.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.set_backend("numpy")
    >>> fastmlp.get_backend()
    'numpy'
    >>> fastmlp.set_backend("auto")
    """
    _resolve(checks.choice("name", name, settings.CHOICES))
    settings.process.backend = name


def get_backend() -> str:
    """Return the active backend.

    Returns
    -------
    str
        ``"numba"`` or ``"numpy"``, never ``"auto"``.

    Examples
    --------
    >>> import fastmlp
    >>> with fastmlp.use_backend("numpy"):
    ...     fastmlp.get_backend()
    'numpy'
    """
    return _resolve(settings.requested_backend()[0])


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend for a ``with`` block, in the current context only.

    Parameters
    ----------
    name : {"auto", "numba", "numpy"}
        As in `set_backend`.

    Raises
    ------
    ValueError
        If the name is unknown.
    ImportError
        If ``"numba"`` is requested and cannot be imported.

    Examples
    --------
    >>> import fastmlp
    >>> with fastmlp.use_backend("numpy"):
    ...     fastmlp.ReLU([-1.0, 2.0])
    array([0., 2.])
    """
    _resolve(checks.choice("name", name, settings.CHOICES))
    token = settings.context_backend.set(name)
    try:
        yield
    finally:
        settings.context_backend.reset(token)


def set_num_threads(n: int) -> None:
    """Choose the number of threads for the process, including those of BLAS.

    The count is set for the duration of each fastmlp call and restored after it.

    Parameters
    ----------
    n : int
        At least 1; with the Numba backend at most the number that the process can launch (``NUMBA_NUM_THREADS``).

    Raises
    ------
    TypeError
        If ``n`` is not an integer.
    ValueError
        If ``n`` is below 1 or more than the process can launch.

    Examples
    --------
    >>> import fastmlp
    >>> before = fastmlp.get_num_threads()
    >>> fastmlp.set_num_threads(1)
    >>> fastmlp.get_num_threads()
    1
    >>> fastmlp.set_num_threads(before)
    """
    settings.process.threads = launchable("n", n)


def get_num_threads() -> int:
    """Return the number of threads that fastmlp computes on.

    Returns
    -------
    int
        The requested number, else Numba's, else the number of cores that this process may use.

    Examples
    --------
    >>> import fastmlp
    >>> with fastmlp.use_threads(1):
    ...     fastmlp.get_num_threads()
    1
    """
    requested = settings.requested_threads()
    if requested is not None:
        return launchable("FASTMLP_NUM_THREADS", requested)
    return _kernels(get_backend()).max_threads() or threads.usable_cores()


@contextlib.contextmanager
def use_threads(n: int) -> Iterator[None]:
    """Choose the number of threads for a ``with`` block, in the current context only.

    Parameters
    ----------
    n : int
        As in `set_num_threads`.

    Raises
    ------
    TypeError
        If ``n`` is not an integer.
    ValueError
        If ``n`` is below 1 or more than the process can launch.

    Examples
    --------
    >>> import fastmlp
    >>> with fastmlp.use_threads(1):
    ...     fastmlp.Softmax([0.0, 0.0])
    array([0.5, 0.5])
    """
    token = settings.context_threads.set(launchable("n", n))
    try:
        yield
    finally:
        settings.context_threads.reset(token)


def warmup(dtype: str = "float64") -> None:
    """Compile every kernel for ``dtype`` now, or load it from the compile cache.

    Afterwards no public call of that dtype compiles anything. The NumPy backend has nothing to compile.

    Parameters
    ----------
    dtype : {"float64", "float32"}
        The dtype of the computations.

    Raises
    ------
    ValueError
        If the dtype is not one of these.

    Examples
    --------
    >>> import fastmlp
    >>> with fastmlp.use_backend("numpy"):
    ...     fastmlp.warmup("float32")
    """
    wanted = checks.float_dtype("dtype", dtype)
    kernels, context = _kernels(get_backend()), quiet.context()
    context.run(settings.context_threads.set, 1)
    interrupts.detached(context.run, kernels.warmup, wanted)


def show_config(mode: str = "stdout") -> dict[str, str] | None:
    """Show the active backend and why it was chosen, threads, BLAS, CPU, vector width, compile cache and versions.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print, or return a dict.

    Returns
    -------
    dict of str to str, or None
        The lines, with ``mode="dicts"``.

    Raises
    ------
    ValueError
        If the mode is unknown.

    Examples
    --------
    >>> import fastmlp
    >>> with fastmlp.use_backend("numpy"):
    ...     fastmlp.show_config(mode="dicts")["backend"]
    'numpy'
    """
    checks.choice("mode", mode, ("stdout", "dicts"))

    name = get_backend()
    lines = {
        "fastmlp": __version__,
        "backend": name,
        "why": _reason(),
        "threads": f"{get_num_threads()} of {threads.usable_cores()} usable cores",
        "BLAS": ", ".join(map(_describe_blas, threads.blas().info())) or "not recognised: its threads are not governed",
        "CPU": platform.processor() or platform.machine(),
        **_kernels(name).describe(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    if mode == "dicts":
        return lines
    for key, value in lines.items():
        print(f"{key + ':':17}{value}")  # noqa: T201
    return None


def kernels() -> "_Calls":
    """Return the kernels of the active backend.

    Each runs on the requested number of threads and without NumPy's floating-point warnings. Both settings end with the
    kernel, and are made in a thread that no signal handler can interrupt.
    """
    return _calls(get_backend())


class _Calls:
    """The functions of a kernel module, as `call` calls them."""

    def __init__(self, kernels: ModuleType) -> None:
        self._kernels = kernels

    def __getattr__(self, name: str) -> Callable[..., Any]:
        bound = functools.partial(call, getattr(self._kernels, name))
        setattr(self, name, bound)
        return bound


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function on the requested number of threads, without floating-point warnings."""
    requested = settings.requested_threads()
    context = quiet.context()
    if requested is None:
        return context.run(function, *args, **kwargs)
    requested = launchable("FASTMLP_NUM_THREADS", requested)
    context.run(settings.context_threads.set, requested)
    name = get_backend()
    if name == "numpy":  # the only backend that calls BLAS
        limit = threads.limited_blas(requested)
    elif _kernels(name).limits_threads(requested):
        limit = _kernels(name).limited_threads(requested)
    else:
        return context.run(function, *args, **kwargs)
    return interrupts.shielded(context.run, _call_within, limit, function, *args, **kwargs)


def call_with_blas(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that calls BLAS itself, on the requested number of threads."""
    requested = settings.requested_threads()
    if requested is None:
        return function(*args)
    return interrupts.shielded(_call_within, threads.limited_blas(requested), function, *args)


def _call_within(limit: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with limit:
        return function(*args, **kwargs)


def preparation() -> tuple[float, float]:
    """Return the seconds spent on compiling and loading kernels so far, and those of the compilation in progress."""
    spent, since = _kernels(get_backend()).preparation()
    return spent, time.perf_counter() - since if since else 0.0


def launchable(name: str, n: int) -> int:
    """Return a number of threads; raise TypeError or ValueError, in the words of the argument, if it cannot be."""
    count, limit = checks.threads(name, n), _kernels(get_backend()).max_threads()
    if limit is not None and count > limit:
        remedy = f"set NUMBA_NUM_THREADS={count} in the environment before Numba is imported"
        raise ValueError(checks.message(name, count, f"at most the {limit} threads that Numba can launch", remedy))
    return count


def _resolve(name: str) -> str:
    """Turn a legal name into "numba" or "numpy"; raise or warn if Numba is needed and cannot be imported."""
    if name == "numpy":
        return name
    problem = _numba_problem()
    if problem is None:
        return "numba"
    if name == "numba":
        got = f"numba, which cannot be imported ({problem})"
        raise ImportError(checks.message("backend", got, "an installed backend", f"{_INSTALL}, or choose 'numpy'"))
    _warn_once(problem)
    return "numpy"


@functools.cache
def _numba_problem() -> str | None:
    """Import the Numba backend; return why that failed, or None."""
    try:
        _kernels("numba")
    except (ImportError, OSError) as error:
        return str(error)
    return None


@functools.cache
def _warn_once(problem: str) -> None:
    text = f"fastmlp runs on its NumPy backend, which is slower: numba cannot be imported ({problem}); {_INSTALL}"
    warnings.warn(text, RuntimeWarning, stacklevel=2)


@functools.cache
def _calls(name: str) -> _Calls:
    return _Calls(_kernels(name))


def begin_loading() -> None:
    """Import the active backend in a thread of its own, while the caller reads data; errors are left to later calls."""
    if settings.requested_backend()[0] != "numpy":
        interrupts.start(_numba_problem)


@functools.cache
def _kernels(name: str) -> ModuleType:
    return interrupts.detached(_import, _MODULES[name])


def _import(name: str) -> ModuleType:
    with loading.lock:
        if name not in _imported:
            kernels = _imported[name] = importlib.import_module(name)
            kernels.attach(threads=settings.requested_threads, prepare=_prepare, **_SERVICES)
            loading.also_held += kernels.compiler_locks()
        return _imported[name]


def _prepare(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that compiles or loads a kernel; Ctrl-C is raised at once, but the function runs to its end."""
    return interrupts.detached(_call_alone, function, *args, **kwargs)


def _call_alone(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with loading.lock:
        return function(*args, **kwargs)


def _describe_blas(library: dict[str, Any]) -> str:
    architecture = library.get("architecture", "unknown architecture")
    return f"{library['internal_api']} {library['version']} ({architecture}, {library['num_threads']} threads)"


def _reason() -> str:
    name, who = settings.requested_backend()
    if name != "auto":
        return f"{who} asks for {name!r}"
    problem = _numba_problem()
    return f"auto ({who}): " + ("numba can be imported" if problem is None else f"numba cannot be imported ({problem})")
