"""Transposing blocks of vectors."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import data_pointer, load, shuffle, store, vector_type


@intrinsic
def transpose(typingctx, out, o, o_row, x, at, x_row):
    """out[o + j o_row + i] = x[at + i x_row + j], i and j below the lanes of a vector; flat arrays of one type."""
    long, element = types.int64, out.dtype

    def codegen(context, builder, sig, args):
        to, source = (data_pointer(context, builder, sig.args[k], args[k]) for k in (0, 3))
        _, o, o_row, _, at, x_row = args
        vector, lanes = vector_type(element)

        def rows_of(base, first, row):
            numbers = (builder.mul(row, ir.IntType(64)(i)) for i in range(lanes))
            return [builder.gep(base, [builder.add(first, number)]) for number in numbers]

        rows = [load(builder, pointer, vector, element) for pointer in rows_of(source, at, x_row)]
        for s in (2**k for k in range(lanes.bit_length() - 1)):
            # Of each two rows that are s apart, one takes the first of each two runs of s lanes, the other the second.
            for i in (i for i in range(lanes) if not i & s):
                pair = rows[i], rows[i + s]
                rows[i] = shuffle(builder, *pair, [k + lanes - s if k & s else k for k in range(lanes)])
                rows[i + s] = shuffle(builder, *pair, [k + lanes if k & s else k + s for k in range(lanes)])
        for value, pointer in zip(rows, rows_of(to, o, o_row), strict=True):
            store(builder, value, pointer, element)
        return context.get_dummy_value()

    return types.void(out, long, long, x, long, long), codegen
