"""Products of single rows over lists of their own."""

import functools
import itertools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import (
    add_listed_row,
    call_for_shape,
    data_pointer,
    load,
    store,
    sum_entries,
    vector_type,
)
from fastmlp.kernels.vector.target import CHAINS, STRIPS


def _sparse_rows_body(builder, arguments, vectors, fresh, element):
    """Emit `sparse_rows` for so many vectors, and return from the function."""
    vector, lanes = vector_type(element)
    rows, out, o_row, value, index, starts, b, b_row = arguments
    i64 = ir.IntType(64)

    def grow(k, sums):
        return add_listed_row(builder, k, index, b, b_row, [builder.load(builder.gep(value, [k]))], sums, element)

    zeros = [ir.Constant(vector, [0.0] * lanes)] * vectors
    at_once = -(-CHAINS // vectors)
    with cgutils.for_range(builder, rows) as loop:
        at = builder.gep(starts, [loop.index])
        start, stop = builder.load(at), builder.load(builder.gep(at, [i64(1)]))
        k, sums = sum_entries(builder, start, stop, [zeros] * at_once, at_once, grow)
        if at_once > 1:
            _, sums[:1] = sum_entries(builder, k, stop, sums[:1], 1, grow)
        for v, parts in enumerate(zip(*sums, strict=True)):
            pointer = builder.gep(out, [builder.add(builder.mul(o_row, loop.index), i64(v * lanes))])
            total = functools.reduce(builder.fadd, parts)
            if not fresh:
                total = builder.fadd(load(builder, pointer, vector, element), total)
            store(builder, total, pointer, element)
    builder.ret_void()


@intrinsic
def sparse_rows(typingctx, vectors, fresh, rows, out, o, o_row, value, index, starts, s, b, p, b_row):
    """out[o + r o_row + c] += sum_e value[e] b[p + index[e] b_row + c], r < rows.

    starts[s + r] <= e < starts[s + r + 1]; c runs over ``vectors``, one of STRIPS. The arrays are as those of `tile`,
    starts of int64. With ``fresh``, 1 and not 0, out is set.
    """
    long = types.int64
    signature = types.void(long, long, long, out, long, long, value, index, starts, long, b, long, long)
    element = out.dtype

    def codegen(context, builder, sig, args):
        outs, values, indices, begins, rows_of_b = (
            data_pointer(context, builder, sig.args[k], args[k]) for k in (3, 6, 7, 8, 10)
        )
        vectors, fresh, rows, _, o, o_row, _, _, _, s, _, p, b_row = args
        begin = [builder.gep(base, [first]) for base, first in ((outs, o), (begins, s), (rows_of_b, p))]
        arguments = [vectors, fresh, rows, begin[0], o_row, values, indices, *begin[1:], b_row]
        shapes, name = itertools.product(STRIPS, (0, 1)), f"fastmlp_sparse_rows_{element}"
        call_for_shape(builder, name, arguments, shapes, _sparse_rows_body, element)
        return context.get_dummy_value()

    return signature, codegen
