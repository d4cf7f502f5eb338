"""Transposing blocks of vectors."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import load, shuffle, store
from fastmlp.kernels.vector.target import VECTOR_BYTES

# Rows and columns of a block at most: those of bytes would be 64, which need more registers than there are.
_MOST = 16


def _block_size(element):
    return min(8 * VECTOR_BYTES // element.bitwidth, _MOST)


@intrinsic
def block_size(typingctx, matrix):
    """Return how many rows and columns `transpose` takes of a `Matrix`."""
    size = _block_size(matrix.types[0].dtype)
    return types.int64(matrix), lambda context, builder, sig, args: ir.IntType(64)(size)


@intrinsic
def transpose(typingctx, out, x):
    """out[j, i] = x[i, j], i and j below the `block_size`; `Matrix` out and x."""
    element = out.types[0].dtype

    def codegen(context, builder, sig, args):
        lanes = _block_size(element)
        vector = ir.VectorType(ir.IntType(element.bitwidth), lanes)

        def rows_of(m):
            start, ld = cgutils.unpack_tuple(builder, m, 2)
            return [builder.gep(start, [builder.mul(ld, ir.IntType(64)(i))]) for i in range(lanes)]

        rows = [load(builder, pointer, vector, element) for pointer in rows_of(args[1])]
        for s in (2**k for k in range(lanes.bit_length() - 1)):
            # Of each two rows that are s apart, one takes the first of each two runs of s lanes, the other the second.
            for i in (i for i in range(lanes) if not i & s):
                pair = rows[i], rows[i + s]
                rows[i] = shuffle(builder, *pair, [k + lanes - s if k & s else k for k in range(lanes)])
                rows[i + s] = shuffle(builder, *pair, [k + lanes if k & s else k + s for k in range(lanes)])
        for value, pointer in zip(rows, rows_of(args[0]), strict=True):
            store(builder, value, pointer, element)
        return context.get_dummy_value()

    return types.void(out, x), codegen
