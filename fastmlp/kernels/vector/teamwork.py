"""The thread: atomics by which several share the phases of a computation, and how its core treats tiny numbers."""

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
_YIELD, _THREAD = "fastmlp_yield", "fastmlp_thread"


def _yielding() -> int | None:
    """Return the address of the function of the system that gives the core to another thread."""
    if sys.platform == "win32":
        return ctypes.cast(ctypes.WinDLL("kernel32").SwitchToThread, ctypes.c_void_p).value
    return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value


llvmlite.binding.add_symbol(_YIELD, _yielding())
# Elsewhere than on Linux nobody asks for threads, and the symbol must only be there: machine code is cached.
_gettid = None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "gettid", None)
llvmlite.binding.add_symbol(_THREAD, ctypes.cast(_gettid, ctypes.c_void_p).value if _gettid else _yielding())

NUMBERS_THREADS = _gettid is not None  # whether `note_thread` may be called with a list


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


@intrinsic
def note_thread(typingctx, noted, worker):
    """Enter the calling thread in a list, at address ``noted``, as that of a worker; 0 is no list.

    The list begins with an int64 that is set to 1 if this changes an entry; entry k, int64, is the system's number of
    the thread that was worker k.
    """

    def codegen(context, builder, sig, args):
        noted, worker = args
        with builder.if_then(builder.icmp_signed("!=", noted, _I64(0))):
            kind = ir.FunctionType(ir.IntType(32), [])
            thread = builder.call(cgutils.get_or_insert_function(builder.module, kind, _THREAD), [])
            thread, start = builder.zext(thread, _I64), builder.inttoptr(noted, _I64.as_pointer())
            entry = builder.gep(start, [builder.add(worker, _I64(1))])
            with builder.if_then(builder.icmp_signed("!=", builder.load(entry), thread)):
                builder.store(thread, entry)
                builder.store_atomic(_I64(1), start, "release", 8)
        return context.get_dummy_value()

    return types.void(_LONG, _LONG), codegen


_FLUSH = 0x8040  # results and operands that are subnormal count as zero


@intrinsic
def flush_subnormals(typingctx):
    """Let this thread count subnormal numbers as zero; return what `restore_subnormals` needs.

    Moments of gradients that stay zero decay to subnormal numbers, with which x86 computes a hundred times more
    slowly. Other processors do not, and are left alone.
    """

    def codegen(context, builder, sig, args):
        before = builder.zext(_control(builder), _I64)
        _set_control(builder, builder.or_(before, _I64(_FLUSH)))
        return before

    return _LONG(), codegen


@intrinsic
def restore_subnormals(typingctx, before):
    """Let this thread treat subnormal numbers as it did before `flush_subnormals`."""

    def codegen(context, builder, sig, args):
        _set_control(builder, args[0])
        return context.get_dummy_value()

    return types.void(_LONG), codegen


def _control(builder):
    """Emit the control word of the vector units."""
    place = cgutils.alloca_once_value(builder, ir.IntType(32)(0))
    _call_with_place(builder, "llvm.x86.sse.stmxcsr", place)
    return builder.load(place)


def _set_control(builder, word):
    place = cgutils.alloca_once(builder, ir.IntType(32))
    builder.store(builder.trunc(word, ir.IntType(32)), place)
    _call_with_place(builder, "llvm.x86.sse.ldmxcsr", place)


def _call_with_place(builder, name, place):
    if TRIPLE.startswith("x86_64"):
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [builder.bitcast(place, pointer)])
