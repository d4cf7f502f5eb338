"""Calls without NumPy's floating-point warnings: NaN and infinity are results like any other, on both backends."""

from collections.abc import Callable
from contextvars import Context
from typing import ParamSpec, TypeVar

import numpy as np

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# NumPy keeps its error state in a context variable. The interpreter itself enters and leaves a context of our own, so
# that no exception of a signal handler can leave the caller's error state changed. Copying it is also much faster than
# np.errstate.
_QUIET = Context()
_QUIET.run(lambda: np.seterr(all="ignore"))


def context() -> Context:
    """Return a fresh context without floating-point warnings, and without the caller's context variables."""
    return _QUIET.copy()


def quietly(function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
    """Call ``function`` without floating-point warnings."""
    return context().run(function, *args, **kwargs)
