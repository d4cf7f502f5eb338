"""Atomics with which several threads share the phases of a computation: see `fastmlp.kernels.compiled.team`."""

import ctypes
import sys

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.internals import TRIPLE
from fastmlp.kernels.vector.operands import address_in

_LONG = types.int64
_I64 = ir.IntType(64)
_YIELD = "fastmlp_yield"


def _yielding() -> int | None:
    """Return the address of the function of the system that gives the core to another thread."""
    system = ctypes.WinDLL("kernel32").SwitchToThread if sys.platform == "win32" else ctypes.CDLL(None).sched_yield
    return ctypes.cast(system, ctypes.c_void_p).value


llvmlite.binding.add_symbol(_YIELD, _yielding())


@intrinsic
def observe(typingctx, base, at):
    """Return base[at], an int64 that another thread may `publish`, and see all that it wrote before."""

    def codegen(context, builder, sig, args):
        pointer = address_in(context, builder, sig.args[0], *args)
        return builder.load_atomic(pointer, "acquire", 8)

    return _LONG(base, _LONG), codegen


@intrinsic
def publish(typingctx, base, at, value):
    """Set base[at], an int64, for threads that `observe` it, after all that this one wrote before."""

    def codegen(context, builder, sig, args):
        pointer = address_in(context, builder, sig.args[0], *args[:2])
        builder.store_atomic(args[2], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(base, _LONG, _LONG), codegen


@intrinsic
def add_and_publish(typingctx, base, at):
    """Add one to base[at], an int64, for threads that `observe` it; return what it was."""

    def codegen(context, builder, sig, args):
        pointer = address_in(context, builder, sig.args[0], *args)
        return builder.atomic_rmw("add", pointer, _I64(1), "acq_rel")

    return _LONG(base, _LONG), codegen


@intrinsic
def exchange(typingctx, base, at, expected, value):
    """Set base[at], an int64, to a value if it is as expected; return whether it was."""

    def codegen(context, builder, sig, args):
        base, at, expected, value = args
        pointer = address_in(context, builder, sig.args[0], base, at)
        result = builder.cmpxchg(pointer, expected, value, "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(base, _LONG, _LONG, _LONG), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this thread waits in a loop: one that shares the core's units then runs faster."""

    def codegen(context, builder, sig, args):
        if TRIPLE.startswith("x86_64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def give_way(typingctx):
    """Let another thread run on this core, if one is ready."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, _YIELD), [])
        return context.get_dummy_value()

    return types.void(), codegen
