"""The register tile: a few rows of up to PANEL vectors, to which a product is added."""

import itertools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import (
    add_listed_row,
    call_for_shape,
    list_number,
    load,
    multiply_add,
    splat,
    store,
    sum_entries,
    vector_type,
)
from fastmlp.kernels.vector.operands import Codes
from fastmlp.kernels.vector.target import DENSE_GROUP, GROUP, NARROW_GROUPS, PANEL


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
    # One chain of additions for each sum, though two would be ready sooner in small tiles: entries that are zero for a
    # row, which depend on how rows are grouped, then show in no bit.
    _, [sums] = sum_entries(builder, i64(0), count, [zeros], 1, grow)
    is_fresh = builder.icmp_signed("!=", fresh, i64(0))
    for (g, v), total in zip(cells, sums, strict=True):
        pointer = builder.gep(out, [builder.add(builder.mul(o_row, i64(g)), i64(v * lanes))])
        before = builder.select(is_fresh, zeros[0], load(builder, pointer, vector, element))
        store(builder, builder.fadd(before, total), pointer, element)
    builder.ret_void()


def _column_body(builder, arguments, group, element, load_factors):
    """Emit the register tile of ``group`` rows of one column, whose factors make a vector, and return."""
    out, o_row, index, b, b_row, count, fresh, *rest = arguments
    i64, i32 = ir.IntType(64), ir.IntType(32)
    kind = ir.VectorType(vector_type(element)[0].element, group)

    def grow(k, sums):
        value = builder.load(builder.gep(b, [builder.mul(list_number(builder, index, k), b_row)]))
        factors = ir.Constant(kind, ir.Undefined)
        for g, factor in enumerate(load_factors(builder, group, k, *rest)):
            factors = builder.insert_element(factors, factor, i32(g))
        return [multiply_add(builder, factors, splat(builder, value, kind), sums[0])]

    _, [[total]] = sum_entries(builder, i64(0), count, [[kind(0.0)]], 1, grow)
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


_EVERY_SHAPE = {*itertools.product((1, 2, GROUP, DENSE_GROUP), range(1, PANEL + 1)), (GROUP, 0)}
_EVERY_SHAPE |= {(group, vectors) for vectors, group in enumerate(NARROW_GROUPS)}
_CODED_SHAPES = {(GROUP, vectors) for vectors in range(PANEL + 1)}


@intrinsic
def tile(typingctx, group, vectors, out, factors, rows, count, fresh):
    """out[g, c] += sum_k factors[k, g] rows[k, c], k < count, g < group: a `Matrix`, `Factors` or `Codes`, and `Rows`.

    ``group`` is 1, 2, GROUP, DENSE_GROUP or ``NARROW_GROUPS[vectors]``, with `Codes` GROUP. Neither it nor an entry
    whose factors are 0 shows in a bit. c runs over ``vectors`` <= PANEL vectors; with 0 of them there is one column,
    and a group of GROUP or ``NARROW_GROUPS[0]``. With the numbers 0, 1, 2, ... as the list of rows it is a dense
    product. Unless ``fresh`` is 0, out is set, whatever it holds.
    """
    long = types.int64
    signature = types.void(long, long, out, factors, rows, long, long)
    element = out.types[0].dtype
    coded = issubclass(factors.instance_class, Codes)

    def codegen(context, builder, sig, args):
        group, vectors, *tuples, count, fresh = args
        (start, o_row), given, (index, b, b_row) = (
            cgutils.unpack_tuple(builder, value, len(kind.types))
            for value, kind in zip(tuples, sig.args[2:5], strict=True)
        )
        arguments = [group, vectors, start, o_row, index, b, b_row, count, fresh, *given]
        name = f"fastmlp_{'coded_' if coded else ''}tile_{element}"
        shapes, emit = (_CODED_SHAPES, _coded_factors) if coded else (_EVERY_SHAPE, _plain_factors)
        call_for_shape(builder, name, arguments, shapes, _tile_body, element, emit)
        return context.get_dummy_value()

    return signature, codegen
