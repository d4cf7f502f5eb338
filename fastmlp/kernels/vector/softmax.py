"""Exponentials and softmax of columns."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.exp import EXP, emit_exp
from fastmlp.kernels.vector.ir import data_pointer, load, splat, store, vector_type
from fastmlp.kernels.vector.target import FEW_ROWS


def _column(builder, kind, rows, at_z, z_row, at_out, out_row, element):
    """Emit `exp_columns` for one column, or a vector of them; return what is subtracted, the sum, and the row."""
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


def _each_column(context, builder, sig, args, emit):
    """Emit ``emit(j, kind, rows, at_z, z_row, at_out, out_row)`` for the columns of out and z, two vectors at a time.

    The first two arguments are out and z, the last two the first column and their number; j counts from 0. An
    exponential waits for itself: with one vector at a time Softmax takes a tenth longer.
    """
    i64 = ir.IntType(64)
    outs, zs = (context.make_array(sig.args[k])(context, builder, args[k]) for k in (0, 1))
    first, width = args[-2:]
    rows, out_row = cgutils.unpack_tuple(builder, outs.shape, 2)
    _, z_row = cgutils.unpack_tuple(builder, zs.shape, 2)
    vector, lanes = vector_type(sig.args[0].dtype)
    begin = i64(0)
    for kind, step in ((ir.VectorType(vector.element, 2 * lanes), 2 * lanes), (vector, lanes), (vector.element, 1)):
        stop = builder.mul(builder.sdiv(width, i64(step)), i64(step))
        with cgutils.for_range_slice(builder, begin, stop, i64(step)) as (j, _):
            at = builder.add(first, j)
            emit(j, kind, rows, builder.gep(zs.data, [at]), z_row, builder.gep(outs.data, [at]), out_row)
        begin = stop
    return context.get_dummy_value()


@intrinsic
def exp_columns(typingctx, out, z, shift, total, best, first, width):
    """Set columns ``first`` to below ``first + width`` of out to exp(z - shift), shift the largest entry of a column.

    out and z (C, m) are C-contiguous; shift, total, the sums of the columns, and best, the first row with the largest
    entry where none is NaN, (width,). All is done on the way of a vector of columns through its rows: what is found of
    a column stays in registers.
    """
    element = out.dtype

    def codegen(context, builder, sig, args):
        to = [data_pointer(context, builder, sig.args[k], args[k]) for k in (2, 3, 4)]

        def emit(j, kind, rows, at_z, z_row, at_out, out_row):
            results = _column(builder, kind, rows, at_z, z_row, at_out, out_row, element)
            for result, pointer in zip(results, to, strict=True):
                store(builder, result, builder.gep(pointer, [j]), element)

        return _each_column(context, builder, sig, args, emit)

    return types.void(out, z, shift, total, best, types.int64, types.int64), codegen


@intrinsic
def softmax_columns(typingctx, out, z, first, width):
    """Do as `exp_columns`, and divide each column by its sum."""
    element = out.dtype

    def codegen(context, builder, sig, args):
        def emit(j, kind, rows, at_z, z_row, at_out, out_row):
            _, total, _ = _column(builder, kind, rows, at_z, z_row, at_out, out_row, element)
            inverse = builder.fdiv(kind(1.0), total)
            with cgutils.for_range(builder, rows) as loop:
                pointer = builder.gep(at_out, [builder.mul(loop.index, out_row)])
                store(builder, builder.fmul(load(builder, pointer, kind, element), inverse), pointer, element)

        return _each_column(context, builder, sig, args, emit)

    return types.void(out, z, types.int64, types.int64), codegen
