"""Calling a compiled function for each worker."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.callconv import excinfo_t
from numba.extending import intrinsic


def _borrow(context, builder, kind, value):
    """Return an argument whose arrays, also those in tuples, name no owner."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        for owner in ("meminfo", "parent"):
            setattr(array, owner, cgutils.get_null_value(getattr(array, owner).type))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        items = zip(kind.types, cgutils.unpack_tuple(builder, value, len(kind.types)), strict=True)
        return context.make_tuple(builder, kind, [_borrow(context, builder, *item) for item in items])
    return value


@intrinsic
def spread(typingctx, launcher, address, arguments, workers):
    """Call the compiled function at ``address`` for each of the workers: the items of a tuple, its number, ``workers``.

    It returns nothing; what it raises for a worker is raised when all are done. One after the other if ``launcher`` is
    0, else by the function there, which does `work` in parallel. An address is data: the caller neither contains a
    function nor compiles it again, and the arguments pass through memory, so that one launcher serves all of them.

    The function borrows its arrays from the caller. If it knew their owners it would count references to them, with
    atomic operations on what all workers share: they took a third of the time of 1000 samples of 784-1-10 where two
    cores share no cache.
    """
    i64, number = ir.IntType(64), types.int64
    items = (*arguments.types, number, number)

    def codegen(context, builder, sig, args):
        launcher, address, arguments, workers = args
        convention = context.call_conv
        values = cgutils.unpack_tuple(builder, _borrow(context, builder, sig.args[2], arguments), len(items) - 2)
        at_code, at_exception, at_address, at_values = range(4)
        kinds = [ir.IntType(32), ir.PointerType(excinfo_t), address.type, *(value.type for value in values)]
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
        body_type = convention.get_function_type(types.none, items).as_pointer()
        body = inner.inttoptr(inner.load(places[at_address]), body_type)
        status, _ = convention.call_function(inner, body, types.none, items, [*loaded, *worker.args[1:]])
        with cgutils.if_unlikely(inner, status.is_error):
            # Not raised here: what is raised inside of `prange` is lost. Of several one is as good as another.
            inner.store(status.excinfoptr, places[at_exception])
            inner.store(status.code, places[at_code])
        inner.ret_void()

        with builder.if_else(builder.icmp_signed("==", launcher, i64(0))) as (serially, in_parallel):
            with serially, cgutils.for_range(builder, workers) as loop:
                builder.call(worker, [builder.ptrtoint(stored, i64), loop.index, workers])
            with in_parallel:
                numbers = [builder.ptrtoint(pointer, i64) for pointer in (worker, stored)]
                kind = convention.get_function_type(types.none, [number] * 3)
                function = builder.inttoptr(launcher, kind.as_pointer())
                convention.call_function(builder, function, types.none, [number] * 3, [*numbers, workers])
        code, exception = (
            builder.load(cgutils.gep_inbounds(builder, stored, 0, place)) for place in (at_code, at_exception)
        )
        status = convention._get_return_status(builder, code, exception)
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(number, number, arguments, number), codegen


@intrinsic
def work(typingctx, address, arguments, worker, workers):
    """Do a worker's part of `spread`: call the function at ``address`` with the address of the arguments."""
    i64 = ir.IntType(64)

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [i64] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen
