"""The requested backend and thread count: of the current context, else of the process, else of the environment.

Nothing here imports a kernel or knows what is installed: `fastmlp.backend` turns a request into a backend.
"""

import functools
import os
from contextvars import ContextVar
from dataclasses import dataclass

from fastmlp import checks

CHOICES = ("auto", "numba", "numpy")


@dataclass
class Request:
    """The choices that ``set_backend`` and ``set_num_threads`` make for the process; None for no choice.

    Attributes
    ----------
    backend : str or None
        One of `CHOICES`.
    threads : int or None
        Number of threads, at least 1.
    """

    backend: str | None = None
    threads: int | None = None


process = Request()
context_backend: ContextVar[str | None] = ContextVar("fastmlp_backend", default=None)
context_threads: ContextVar[int | None] = ContextVar("fastmlp_threads", default=None)


def requested_backend() -> tuple[str, str]:
    """Return the requested name, one of `CHOICES`, and who requested it."""
    context = context_backend.get()
    if context is not None:
        return context, "use_backend"
    if process.backend is not None:
        return process.backend, "set_backend"
    environment = _environment_backend()
    return ("auto", "the default") if environment is None else (environment, "FASTMLP_BACKEND")


def requested_threads() -> int | None:
    """Return the requested number of threads, or None."""
    context = context_threads.get()
    if context is not None:
        return context
    return process.threads if process.threads is not None else _environment_threads()


@functools.cache
def _environment_backend() -> str | None:
    value = os.environ.get("FASTMLP_BACKEND")
    return None if value is None else checks.choice("FASTMLP_BACKEND", value, CHOICES)


@functools.cache
def _environment_threads() -> int | None:
    value = os.environ.get("FASTMLP_NUM_THREADS")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        expected = "an integer of at least 1"
        raise ValueError(
            checks.message("FASTMLP_NUM_THREADS", repr(value), expected, "set it to an integer, or unset it")
        )
    return checks.threads("FASTMLP_NUM_THREADS", int(value))
