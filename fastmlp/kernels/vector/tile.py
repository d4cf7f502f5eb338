"""The register tile of a product."""

import functools
import itertools

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import (
    add_listed_row,
    call_for_shape,
    data_pointer,
    load,
    multiply_add,
    splat,
    store,
    sum_entries,
    vector_type,
)
from fastmlp.kernels.vector.target import CHAINS, DENSE_GROUP, GROUP, PANEL


def _tile_body(builder, arguments, group, vectors, element, load_factors):
    """Emit the register tile of ``group`` rows of ``vectors`` vectors, and return from the function.

    ``load_factors(builder, group, k, *rest)`` emits the loads of the factors of entry k.
    """
    if vectors == 0:
        _column_body(builder, arguments, group, element, load_factors)
        return
    vector, lanes = vector_type(element)
    out, o_row, index, b, b_row, count, fresh, *rest = arguments
    i64 = ir.IntType(64)
    cells = [(g, v) for g in range(group) for v in range(vectors)]

    def grow(k, sums):
        return add_listed_row(builder, k, index, b, b_row, load_factors(builder, group, k, *rest), sums, element)

    # The sums begin at zero, and out is added last: the first multiplications need not wait for it.
    zeros = [ir.Constant(vector, [0.0] * lanes)] * len(cells)
    # As many chains whatever the group: how rows fall into groups must not show in a bit.
    at_once = -(-CHAINS // (GROUP * vectors))
    k, sums = sum_entries(builder, i64(0), count, [zeros] * at_once, at_once, grow)
    if at_once > 1:
        _, sums[:1] = sum_entries(builder, k, count, sums[:1], 1, grow)
    is_fresh = builder.icmp_signed("!=", fresh, i64(0))
    for (g, v), *parts in zip(cells, *sums, strict=True):
        pointer = builder.gep(out, [builder.add(builder.mul(o_row, i64(g)), i64(v * lanes))])
        before = builder.select(is_fresh, zeros[0], load(builder, pointer, vector, element))
        store(builder, builder.fadd(before, functools.reduce(builder.fadd, parts)), pointer, element)
    builder.ret_void()


def _column_body(builder, arguments, group, element, load_factors):
    """Emit the register tile of ``group`` rows of one column, whose factors make a vector, and return."""
    out, o_row, index, b, b_row, count, fresh, *rest = arguments
    i64, i32 = ir.IntType(64), ir.IntType(32)
    kind = ir.VectorType(vector_type(element)[0].element, group)

    def grow(k, sums):
        row = builder.sext(builder.load(builder.gep(index, [k])), i64)
        value = builder.load(builder.gep(b, [builder.mul(row, b_row)]))
        factors = ir.Constant(kind, ir.Undefined)
        for g, factor in enumerate(load_factors(builder, group, k, *rest)):
            factors = builder.insert_element(factors, factor, i32(g))
        return [multiply_add(builder, factors, splat(builder, value, kind), sums[0])]

    zero = kind(0.0)
    k, sums = sum_entries(builder, i64(0), count, [[zero]] * CHAINS, CHAINS, grow)
    _, sums[:1] = sum_entries(builder, k, count, sums[:1], 1, grow)
    total = functools.reduce(builder.fadd, [one for [one] in sums])
    is_fresh = builder.icmp_signed("!=", fresh, i64(0))
    for g in range(group):
        pointer = builder.gep(out, [builder.mul(o_row, i64(g))])
        before = builder.select(is_fresh, kind.element(0.0), builder.load(pointer))
        builder.store(builder.fadd(before, builder.extract_element(total, i32(g))), pointer)
    builder.ret_void()


def _plain_factors(builder, group, k, a, a_k, a_g):
    at_a = builder.gep(a, [builder.mul(k, a_k)])
    return [builder.load(builder.gep(at_a, [builder.mul(a_g, ir.IntType(64)(g))])) for g in range(group)]


def _coded_factors(builder, group, k, codes, table):
    i64 = ir.IntType(64)
    at = builder.mul(k, i64(group))
    numbers = [builder.load(builder.gep(codes, [builder.add(at, i64(g))])) for g in range(group)]
    return [builder.load(builder.gep(table, [builder.zext(number, i64)])) for number in numbers]


@intrinsic
def tile(typingctx, group, vectors, out, o, o_row, a, at, a_k, a_g, index, i, b, p, b_row, count, fresh):
    """out[o + g o_row + c] += sum_k a[at + k a_k + g a_g] b[p + index[i + k] b_row + c], k < count, g < group.

    group is 1, 2, GROUP or DENSE_GROUP, and does not show in a bit; c runs over ``vectors`` <= PANEL vectors. With 0
    of them there is one column, and a group of GROUP or DENSE_GROUP. out, a and b are flat arrays of one float type,
    index of int32; the rest are offsets and strides in elements. With the numbers 0, 1, 2, ... as index it is a dense
    product. Unless ``fresh`` is 0, out is set, whatever it holds.
    """
    long = types.int64
    signature = types.void(long, long, out, long, long, a, long, long, long, index, long, b, long, long, long, long)
    element = out.dtype

    def codegen(context, builder, sig, args):
        outs, factors, indices, rows = (data_pointer(context, builder, sig.args[k], args[k]) for k in (2, 5, 9, 11))
        group, vectors, _, o, o_row, _, at, a_k, a_g, _, i, _, p, b_row, count, fresh = args
        begin = [builder.gep(base, [first]) for base, first in ((outs, o), (indices, i), (rows, p))]
        plain = [builder.gep(factors, [at]), a_k, a_g]
        arguments = [group, vectors, begin[0], o_row, *begin[1:], b_row, count, fresh, *plain]
        shapes = {*itertools.product((1, 2, GROUP, DENSE_GROUP), range(1, PANEL + 1)), (GROUP, 0), (DENSE_GROUP, 0)}
        name = f"fastmlp_tile_{element}"
        call_for_shape(builder, name, arguments, shapes, _tile_body, element, _plain_factors)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def coded_tile(typingctx, vectors, out, o, o_row, codes, at, table, index, i, b, p, b_row, count):
    """Do as `tile` with the factors table[codes[at + k GROUP + g]], codes of uint8: no decoded copy exists."""
    long = types.int64
    signature = types.void(long, out, long, long, codes, long, table, index, long, b, long, long, long)
    element = out.dtype

    def codegen(context, builder, sig, args):
        outs, numbers, decoded, indices, rows = (
            data_pointer(context, builder, sig.args[k], args[k]) for k in (1, 4, 6, 7, 9)
        )
        vectors, _, o, o_row, _, at, _, _, i, _, p, b_row, count = args
        begin = [builder.gep(base, [first]) for base, first in ((outs, o), (indices, i), (rows, p))]
        group, adding = ir.IntType(64)(GROUP), ir.IntType(64)(0)
        coded = [builder.gep(numbers, [at]), decoded]
        arguments = [group, vectors, begin[0], o_row, *begin[1:], b_row, count, adding, *coded]
        shapes = [(GROUP, count) for count in range(PANEL + 1)]
        name = f"fastmlp_coded_tile_{element}"
        call_for_shape(builder, name, arguments, shapes, _tile_body, element, _coded_factors)
        return context.get_dummy_value()

    return signature, codegen
