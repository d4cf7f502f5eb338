"""Products of single rows over lists of their own, which name rows of the other factor or of the result."""

import functools
import itertools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import (
    add_listed_row,
    call_for_shape,
    load,
    multiply_add,
    splat,
    store,
    sum_entries,
    vector_type,
)
from fastmlp.kernels.vector.target import CHAINS, STRIPS


def _sparse_rows_body(builder, arguments, vectors, fresh, element):
    """Emit `sparse_rows` for so many vectors, and return from the function."""
    vector, lanes = vector_type(element)
    rows, out, o_row, value, index, starts, stops, b, b_row = arguments
    i64 = ir.IntType(64)

    def grow(k, sums):
        return add_listed_row(builder, k, index, b, b_row, [builder.load(builder.gep(value, [k]))], sums, element)

    zeros = [ir.Constant(vector, [0.0] * lanes)] * vectors
    at_once = -(-CHAINS // vectors)
    with cgutils.for_range(builder, rows) as loop:
        start, stop = (builder.load(builder.gep(one, [loop.index])) for one in (starts, stops))
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
def sparse_rows(typingctx, vectors, fresh, count, out, entries, stops, m):
    """out[r, c] += sum_e value[e] m[index[e], c], r < count, e over list r of the `Entries`; `Matrix` out and m.

    List r ends before ``stops[r]``, an address, so lists need not be one behind the other. c runs over ``vectors``, one
    of STRIPS. With ``fresh``, 1 and not 0, out is set.
    """
    long = types.int64
    signature = types.void(long, long, long, out, entries, stops, m)
    element = out.types[0].dtype

    def codegen(context, builder, sig, args):
        vectors, fresh, count, out, entries, stops, m = args
        start, o_row = cgutils.unpack_tuple(builder, out, 2)
        starts, index, value = cgutils.unpack_tuple(builder, entries, 3)
        b, b_row = cgutils.unpack_tuple(builder, m, 2)
        arguments = [vectors, fresh, count, start, o_row, value, index, starts, stops, b, b_row]
        shapes, name = itertools.product(STRIPS, (0, 1)), f"fastmlp_sparse_rows_{element}"
        call_for_shape(builder, name, arguments, shapes, _sparse_rows_body, element)
        return context.get_dummy_value()

    return signature, codegen


def _scatter_rows_body(builder, arguments, vectors, _, element):
    """Emit `scatter_rows` for so many vectors, and return from the function."""
    vector, lanes = vector_type(element)
    rows, out, o_row, value, index, starts, stops, b, b_row = arguments
    places = [ir.IntType(64)(v * lanes) for v in range(vectors)]
    with cgutils.for_range(builder, rows) as loop:
        start, stop = (builder.load(builder.gep(one, [loop.index])) for one in (starts, stops))
        at_b = builder.gep(b, [builder.mul(b_row, loop.index)])
        row = [load(builder, builder.gep(at_b, [place]), vector, element) for place in places]
        with cgutils.for_range(builder, stop, start) as entries:
            factor = splat(builder, builder.load(builder.gep(value, [entries.index])), vector)
            number = builder.sext(builder.load(builder.gep(index, [entries.index])), ir.IntType(64))
            to = builder.gep(out, [builder.mul(number, o_row)])
            for place, one in zip(places, row, strict=True):
                pointer = builder.gep(to, [place])
                total = multiply_add(builder, factor, one, load(builder, pointer, vector, element))
                store(builder, total, pointer, element)
    builder.ret_void()


@intrinsic
def scatter_rows(typingctx, vectors, count, out, entries, stops, m):
    """out[index[e], c] += value[e] m[r, c], r < count, e over list r of the `Entries`, which ends before ``stops[r]``.

    It is the product with the transpose of what `sparse_rows` multiplies by, and needs no lists of its own: where the
    rows of out stay in the L1 cache, it takes less time than to make these. c runs over ``vectors``, one of STRIPS.
    """
    long = types.int64
    signature = types.void(long, long, out, entries, stops, m)
    element = out.types[0].dtype

    def codegen(context, builder, sig, args):
        vectors, count, out, entries, stops, m = args
        start, o_row = cgutils.unpack_tuple(builder, out, 2)
        starts, index, value = cgutils.unpack_tuple(builder, entries, 3)
        b, b_row = cgutils.unpack_tuple(builder, m, 2)
        arguments = [vectors, ir.IntType(64)(0), count, start, o_row, value, index, starts, stops, b, b_row]
        name = f"fastmlp_scatter_rows_{element}"
        call_for_shape(builder, name, arguments, itertools.product(STRIPS, (0,)), _scatter_rows_body, element)
        return context.get_dummy_value()

    return signature, codegen
