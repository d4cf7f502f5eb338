"""Numba's calling convention: how machine code calls a compiled function whose address it is given."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.kernels import internals

_METHODS = ("get_function_type", "call_function", "return_status_propagate", "_get_return_status")


def _exception_type() -> Any:
    try:
        from numba.core.callconv import excinfo_t
        from numba.core.codegen import JITCodeLibrary
        from numba.core.registry import cpu_target

        for name in _METHODS:
            getattr(cpu_target.target_context.call_conv, name)
        JITCodeLibrary.get_pointer_to_function  # noqa: B018
    except (ImportError, AttributeError):
        internals.missing.append("call_conv")
        return None
    return ir.PointerType(excinfo_t)


_EXCEPTION = _exception_type()
_state = {"known": _EXCEPTION is not None}


def known() -> bool:
    """Return whether functions may be called by their address."""
    return _state["known"]


def give_up() -> None:
    """Call no function by its address from now on."""
    internals.missing.append("call_conv")
    _state["known"] = False


class Convention:
    """Calls of functions of a signature that return nothing."""

    exception_type = _EXCEPTION

    def __init__(self, context: Any, arguments: Any) -> None:
        self._convention, self._arguments = context.call_conv, arguments

    def call(self, builder: Any, address: Any, values: list[Any]) -> Any:
        """Emit the call of the function at an address, an integer; return its status."""
        kind = self._convention.get_function_type(types.none, self._arguments).as_pointer()
        function = builder.inttoptr(address, kind)
        status, _ = self._convention.call_function(builder, function, types.none, self._arguments, values)
        return status

    def raise_status(self, builder: Any, code: Any, exception: Any) -> None:
        """Emit the return from the calling function where a stored status is an error."""
        status = self._convention._get_return_status(builder, code, exception)
        with cgutils.if_unlikely(builder, status.is_error):
            self._convention.return_status_propagate(builder, status)
