"""Exponentials and softmax of columns."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.exp import EXP, emit_exp
from fastmlp.kernels.vector.ir import load, splat, store, vector_type
from fastmlp.kernels.vector.target import FEW_ROWS


def _column(builder, kind, rows, at_z, z_row, at_out, out_row, element):
    """Emit `exp_columns` for one column or a vector of them; return shift, sum and the row of the largest entry."""
    i64 = ir.IntType(64)
    zero = kind(0.0)

    def row(base, i, stride):
        return builder.gep(base, [builder.mul(i, stride)])

    largest = cgutils.alloca_once_value(builder, load(builder, at_z, kind, element))
    best = cgutils.alloca_once_value(builder, zero)
    with cgutils.for_range(builder, rows) as loop:
        x, most = load(builder, row(at_z, loop.index, z_row), kind, element), builder.load(largest)
        number = builder.sitofp(loop.index, getattr(kind, "element", kind))
        if isinstance(kind, ir.VectorType):
            number = splat(builder, number, kind)
        # NaN is never larger: the sum will be NaN whatever is subtracted.
        larger = builder.fcmp_ordered(">", x, most)
        builder.store(builder.select(larger, x, most), largest)
        builder.store(builder.select(larger, number, builder.load(best)), best)
    shift = builder.load(largest)
    # No largest logit to shift by: unshifted, infinity and NaN come out where the formula puts them.
    shift = builder.select(builder.fcmp_ordered("==", builder.fsub(shift, shift), zero), shift, zero)
    total, lost = (cgutils.alloca_once_value(builder, zero) for _ in range(2))

    def add(e):
        builder.store(builder.fadd(builder.load(total), e), total)

    def add_with_compensation(e):
        before = builder.load(total)
        term = builder.fsub(e, builder.load(lost))
        grown = builder.fadd(before, term)
        rest = builder.fsub(builder.fsub(grown, before), term)
        finite = builder.fcmp_ordered("==", builder.fsub(grown, grown), zero)  # infinity must stay
        builder.store(builder.select(finite, rest, zero), lost)
        builder.store(grown, total)

    def sum_rows(add):
        with cgutils.for_range(builder, rows) as loop:
            x = load(builder, row(at_z, loop.index, z_row), kind, element)
            e = emit_exp(builder, builder.fsub(x, shift), EXP[element])
            store(builder, e, row(at_out, loop.index, out_row), element)
            add(e)

    with builder.if_else(builder.icmp_signed("<=", rows, i64(FEW_ROWS))) as (few, many):
        with few:
            sum_rows(add)
        with many:
            sum_rows(add_with_compensation)
    return shift, builder.load(total), builder.load(best)


def _each_column(builder, out, z, rows, width, element, emit):
    """Emit ``emit(j, kind, rows, at_z, z_row, at_out, out_row)`` for column j of two matrices, two vectors at once.

    The steps of an exponential depend on each other: with one vector at a time Softmax is slower.
    """
    i64 = ir.IntType(64)
    (to, out_row), (source, z_row) = (cgutils.unpack_tuple(builder, one, 2) for one in (out, z))
    vector, lanes = vector_type(element)
    begin = i64(0)
    for kind, step in ((ir.VectorType(vector.element, 2 * lanes), 2 * lanes), (vector, lanes), (vector.element, 1)):
        stop = builder.mul(builder.sdiv(width, i64(step)), i64(step))
        with cgutils.for_range_slice(builder, begin, stop, i64(step)) as (j, _):
            emit(j, kind, rows, builder.gep(source, [j]), z_row, builder.gep(to, [j]), out_row)
        begin = stop


@intrinsic
def exp_columns(typingctx, out, z, statistics, rows, width):
    """Set ``width`` columns of ``rows`` elements of out to exp(z - shift), shift the largest entry of a column.

    Rows 0, 1 and 2 of ``statistics`` become the shifts, the sums of the columns, and the first row with the largest
    entry where none is NaN. A vector of columns passes once through its rows, and its statistics stay in registers.
    """
    element = out.types[0].dtype

    def codegen(context, builder, sig, args):
        start, ld = cgutils.unpack_tuple(builder, args[2], 2)
        to = [builder.gep(start, [builder.mul(ld, ir.IntType(64)(k))]) for k in range(3)]

        def emit(j, kind, rows, at_z, z_row, at_out, out_row):
            results = _column(builder, kind, rows, at_z, z_row, at_out, out_row, element)
            for result, pointer in zip(results, to, strict=True):
                store(builder, result, builder.gep(pointer, [j]), element)

        _each_column(builder, args[0], args[1], args[3], args[4], element, emit)
        return context.get_dummy_value()

    return types.void(out, z, statistics, types.int64, types.int64), codegen


@intrinsic
def softmax_columns(typingctx, out, z, rows, width):
    """Do as `exp_columns`, and divide each column by its sum."""
    element = out.types[0].dtype

    def codegen(context, builder, sig, args):
        def emit(j, kind, rows, at_z, z_row, at_out, out_row):
            _, total, _ = _column(builder, kind, rows, at_z, z_row, at_out, out_row, element)
            inverse = builder.fdiv(kind(1.0), total)
            with cgutils.for_range(builder, rows) as loop:
                pointer = builder.gep(at_out, [builder.mul(loop.index, out_row)])
                store(builder, builder.fmul(load(builder, pointer, kind, element), inverse), pointer, element)

        _each_column(builder, args[0], args[1], args[2], args[3], element, emit)
        return context.get_dummy_value()

    return types.void(out, z, types.int64, types.int64), codegen
