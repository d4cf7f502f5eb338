"""Small intrinsics: inlining, selection, atomics, bits."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.log import LOG
from fastmlp.kernels.vector.operands import address_in


@intrinsic
def bits_of(typingctx, number):
    """Return the bits of a number, as a uint64."""

    def codegen(context, builder, sig, args):
        (value,), kind = args, sig.args[0]
        if isinstance(kind, types.Float):
            value = builder.bitcast(value, ir.IntType(kind.bitwidth))
        return builder.zext(value, ir.IntType(64)) if kind.bitwidth < 64 else value

    return types.uint64(number), codegen


@intrinsic
def noinline(typingctx):
    """Keep the function that calls this from being inlined: LLVM then compiles its loops once, not once per caller."""

    def codegen(context, builder, sig, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def select(typingctx, condition, a, b):
    """Return a where the condition holds, else b, for floats.

    If one of the two is the value already stored at the destination, LLVM emits a masked store, which is slow on AMD
    cores without AVX-512. ``canonicalize``, a product with 1, separates them.
    """

    def codegen(context, builder, sig, args):
        kind = args[1].type
        name = f"llvm.canonicalize.{'f64' if kind == ir.DoubleType() else 'f32'}"
        same = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(same, [builder.select(*args)])

    return a(types.boolean, a, a), codegen


@intrinsic
def smallest_normal(typingctx, x):
    """Return the smallest positive normal number of the type of x.

    Not ``np.finfo``: code compiled with that imports SciPy, where it is installed, when it comes from the cache.
    """
    tiny = LOG[x].tiny
    return x(x), lambda context, builder, sig, args: context.get_constant(sig.return_type, tiny)


@intrinsic
def fetch_add(typingctx, base, at):
    """Return base[at], an int64, and add one to it: each of several threads gets another number."""

    def codegen(context, builder, sig, args):
        pointer = address_in(context, builder, sig.args[0], *args)
        return builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "monotonic")

    return types.int64(base, types.int64), codegen


@intrinsic
def population_count(typingctx, number):
    """Return how many bits of a uint64 are set."""
    return types.uint64(types.uint64), lambda context, builder, sig, args: builder.ctpop(args[0])


@intrinsic
def trailing_zeros(typingctx, number):
    """Return the place of the lowest bit that is set in a uint64 other than zero, counted from 0."""

    def codegen(context, builder, sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


@intrinsic
def prefetch(typingctx, base, at):
    """Ask for the cache line of base[at], which will be read soon."""

    def codegen(context, builder, sig, args):
        i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        place = builder.bitcast(address_in(context, builder, sig.args[0], *args), pointer)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, i32(0), i32(2), i32(1)])  # to read, into the L2 cache, data
        return context.get_dummy_value()

    return types.void(base, types.int64), codegen
