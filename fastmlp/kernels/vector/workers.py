"""Calling a compiled function for each worker, with arguments that pass through memory."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels import internals
from fastmlp.kernels.internals.convention import Convention, known
from fastmlp.kernels.vector.operands import Plane, pointer_to


def opened(kind):
    """Return the type in which a body receives an argument of this type.

    A flat array is an address there, a matrix a `Plane`: the body counts no references to memory that all workers
    share, and a tuple of arrays is a few scalars. Where Numba checks bounds, flat arrays stay arrays without an owner.
    """
    if isinstance(kind, types.Array):
        if isinstance(kind.dtype, types.Record) or (kind.ndim == 1 and internals.CHECKS_BOUNDS):
            return types.Array(kind.dtype, kind.ndim, "C")
        if kind.layout != "C":
            raise TypeError("a kernel takes contiguous arrays")
        start = pointer_to(kind.dtype)
        return start if kind.ndim == 1 else types.NamedTuple((start, types.int64, types.int64), Plane)
    if isinstance(kind, types.BaseNamedTuple):
        return types.NamedTuple([opened(item) for item in kind.types], kind.instance_class)
    if isinstance(kind, types.BaseTuple):
        return types.Tuple([opened(item) for item in kind.types])
    return kind


def _open(context, builder, kind, value):
    """Emit an argument as `opened` describes it."""
    result = opened(kind)
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        if isinstance(result, types.Array):
            for owner in ("meminfo", "parent"):
                setattr(array, owner, cgutils.get_null_value(getattr(array, owner).type))
            return array._getvalue()
        if kind.ndim == 1:
            return array.data
        return context.make_tuple(builder, result, [array.data, *cgutils.unpack_tuple(builder, array.shape, 2)])
    if isinstance(kind, types.BaseTuple):
        items = zip(kind.types, cgutils.unpack_tuple(builder, value, len(kind.types)), strict=True)
        return context.make_tuple(builder, result, [_open(context, builder, *item) for item in items])
    return value


@intrinsic
def open_arguments(typingctx, arguments):
    """Return a tuple of arguments as a body receives them."""

    def codegen(context, builder, sig, args):
        return _open(context, builder, sig.args[0], args[0])

    return opened(arguments)(arguments), codegen


@intrinsic
def call_workers(typingctx, launcher, address, arguments, workers, noted):
    """Call the compiled function at ``address`` for each worker: the items of a tuple, its number, ``workers``.

    It returns nothing; an exception of a worker is raised when all are done. The calls follow one another if
    ``launcher`` is 0; else the function at that address makes them in parallel by `call_worker`. An address is data:
    the caller neither contains the function nor compiles it again, and as the arguments pass through memory, one
    launcher serves all functions. It enters its threads in a list: see `note_thread`.
    """
    i64, number = ir.IntType(64), types.int64
    items = (*opened(arguments).types, number, number)

    def codegen(context, builder, sig, args):
        launcher, address, arguments, workers, noted = args
        convention = Convention(context, items)
        arguments = _open(context, builder, sig.args[2], arguments)
        values = cgutils.unpack_tuple(builder, arguments, len(items) - 2)
        at_code, at_exception, at_address, at_values = range(4)
        kinds = [ir.IntType(32), convention.exception_type, address.type, *(value.type for value in values)]
        stored = cgutils.alloca_once(builder, ir.LiteralStructType(kinds), zfill=True)
        for place, value in enumerate((address, *values), at_address):
            builder.store(value, cgutils.gep_inbounds(builder, stored, 0, place))

        name = f"{builder.function.name}.worker"
        worker = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [i64] * 3), name)
        worker.linkage = "internal"
        inner = ir.IRBuilder(worker.append_basic_block("entry"))
        there = inner.inttoptr(worker.args[0], stored.type)
        places = [cgutils.gep_inbounds(inner, there, 0, place) for place in range(len(kinds))]
        loaded = [inner.load(pointer) for pointer in places[at_values:]]
        status = convention.call(inner, inner.load(places[at_address]), [*loaded, *worker.args[1:]])
        with cgutils.if_unlikely(inner, status.is_error):
            # Not raised here: an exception inside of `prange` is lost. Of several, any one is reported.
            inner.store(status.excinfoptr, places[at_exception])
            inner.store(status.code, places[at_code])
        inner.ret_void()

        with builder.if_else(builder.icmp_signed("==", launcher, i64(0))) as (serially, in_parallel):
            with serially, cgutils.for_range(builder, workers) as loop:
                builder.call(worker, [builder.ptrtoint(stored, i64), loop.index, workers])
            with in_parallel:
                numbers = [builder.ptrtoint(pointer, i64) for pointer in (worker, stored)]
                Convention(context, [number] * 4).call(builder, launcher, [*numbers, workers, noted])
        code, exception = (
            builder.load(cgutils.gep_inbounds(builder, stored, 0, place)) for place in (at_code, at_exception)
        )
        convention.raise_status(builder, code, exception)
        return context.get_dummy_value()

    return types.void(number, number, arguments, number, number), codegen


@intrinsic
def call(typingctx, function, address, arguments):
    """Call the code at ``address`` that was compiled from a body for the items of a tuple of these very types.

    It returns nothing; an exception is raised in the caller. A caller neither contains the code nor compiles it again.
    Where this Numba's convention is not known, the address is not used, and the body is part of the caller.
    """
    signature = types.void(function, types.int64, arguments)

    def codegen(context, builder, sig, args):
        items = sig.args[2].types
        values = cgutils.unpack_tuple(builder, args[2], len(items))
        if known():
            status = Convention(context, items).call(builder, args[1], values)
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
        else:
            context.compile_internal(builder, sig.args[0].dispatcher.py_func, types.void(*items), values)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def call_worker(typingctx, address, arguments, worker, workers):
    """Do a worker's part of `call_workers`: call the function at ``address`` with the address of the arguments."""
    i64 = ir.IntType(64)

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [i64] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen
