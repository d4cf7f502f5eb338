"""Small intrinsics: selection, atomics, alignment."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import data_pointer
from fastmlp.kernels.vector.log import LOG
from fastmlp.kernels.vector.target import LINE_BYTES


@intrinsic
def outline(typingctx):
    """Keep the function that calls this from being inlined: LLVM then compiles its loops once, not once per caller."""

    def codegen(context, builder, sig, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def choose(typingctx, condition, a, b):
    """Return a where the condition holds, else b, for floats.

    Where one of them is what lies at the place of the result, LLVM would make a masked store of the choice, which is
    slow on AMD's cores before AVX-512: the ReLU of a step on MNIST took 3.7 ms, so it takes 1.7. ``canonicalize``, a
    product with 1, stands between.
    """

    def codegen(context, builder, sig, args):
        kind = args[1].type
        name = f"llvm.canonicalize.{'f64' if kind == ir.DoubleType() else 'f32'}"
        same = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(same, [builder.select(*args)])

    return a(types.boolean, a, a), codegen


@intrinsic
def smallest_normal(typingctx, x):
    """Return the smallest positive normal number of the dtype of x.

    Not ``np.finfo``: what is compiled with that imports SciPy, where it is installed, when it comes from the cache.
    """
    tiny = LOG[x.dtype].tiny
    return x.dtype(x), lambda context, builder, sig, args: context.get_constant(sig.return_type, tiny)


@intrinsic
def line_start(typingctx, x):
    """Return the first element of a flat array that begins on a cache line."""
    size = x.dtype.bitwidth // 8

    def codegen(context, builder, sig, args):
        i64 = ir.IntType(64)
        address = builder.ptrtoint(data_pointer(context, builder, sig.args[0], args[0]), i64)
        return builder.udiv(builder.and_(builder.neg(address), i64(LINE_BYTES - 1)), i64(size))

    return types.int64(x), codegen


@intrinsic
def take(typingctx, counter):
    """Return counter[0], an int64, and add one to it: of several threads each gets another number."""

    def codegen(context, builder, sig, args):
        pointer = data_pointer(context, builder, sig.args[0], args[0])
        return builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), codegen


@intrinsic
def population_count(typingctx, number):
    """Return how many bits of a uint64 are set."""
    return types.uint64(types.uint64), lambda context, builder, sig, args: builder.ctpop(args[0])
