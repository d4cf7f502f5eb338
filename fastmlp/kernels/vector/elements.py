"""Functions of every element of a row, vector by vector."""

from llvmlite import ir
from numba.core import cgutils

from fastmlp.kernels.vector.ir import load, store, vector_type
from fastmlp.kernels.vector.operands import address_in, element_of


def each_vector(builder, count, element, act):
    """Emit ``act(j, kind)`` for each vector of elements, which begins at j, and then for each number of the rest."""
    i64 = ir.IntType(64)
    vector, lanes = vector_type(element)
    whole = builder.mul(builder.sdiv(count, i64(lanes)), i64(lanes))
    for kind, step, begin, stop in ((vector, lanes, i64(0), whole), (vector.element, 1, whole, count)):
        with cgutils.for_range_slice(builder, begin, stop, i64(step)) as (j, _):
            act(j, kind)


def in_place(emit):
    """Return the code of an intrinsic that stores the results of ``emit`` into its arrays, the last one its input."""

    def codegen(context, builder, sig, args):
        element, zero = element_of(sig.args[0]), ir.IntType(64)(0)
        *bases, count = args
        starts = [address_in(context, builder, kind, base, zero) for kind, base in zip(sig.args, bases, strict=False)]

        def act(j, kind):
            x = load(builder, builder.gep(starts[-1], [j]), kind, element)
            # The value last: where an array is given twice, it is the result that stays.
            for start, result in zip(starts, reversed(emit(builder, x, element)), strict=True):
                store(builder, result, builder.gep(start, [j]), element)

        each_vector(builder, count, element, act)
        return context.get_dummy_value()

    return codegen
