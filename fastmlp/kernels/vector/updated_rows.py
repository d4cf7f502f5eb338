"""Products of single rows over lists, each a gradient that updates its row at once, while it is in registers.

In two passes, one behind the other, the gradient is stored and read in between, and no vector is divided while others
are loaded.
"""

import itertools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import add_row, load, store, sum_entries, vector_type
from fastmlp.kernels.vector.sparse_rows import WIDTHS, emit_lists, list_ends, list_entry
from fastmlp.kernels.vector.steps import (
    RowUpdate,
    add_zeros,
    bare,
    emit_adam,
    is_bare,
    is_zero,
    numbers_at,
    splat_constants,
)

_I64, _BIT = ir.IntType(64), ir.IntType(1)


def _adam_rows_body(builder, arguments, vectors, fresh, element, coded):
    """Emit `adam_rows` for so many vectors, and return from the function."""
    vector, lanes = vector_type(element)
    rows, out, o_row, b, b_row, starts, stops, index, values, *state, numbers, constants, fault = arguments
    fixed = splat_constants(builder, constants, 5, vector, element)
    update = numbers_at(builder, numbers, _BIT(1), vector, element)
    zero = ir.Constant(vector, [0.0] * lanes)
    summed = cgutils.alloca_once_value(builder, zero)

    def grow(k, sums):
        row, number = list_entry(builder, k, coded, index, values)
        return add_row(builder, row, b, b_row, [number], sums, element)

    def update_rows(update):
        with cgutils.for_range(builder, rows) as loop:
            at = builder.mul(o_row, loop.index)
            places = [builder.add(at, _I64(c * lanes)) for c in range(vectors)]
            begin = [zero if fresh else load(builder, builder.gep(out, [place]), vector, element) for place in places]
            k, end = list_ends(builder, loop.index, starts, stops)
            _, [gradient] = sum_entries(builder, k, end, [begin], 1, grow)
            for place, slope in zip(places, gradient, strict=True):
                pointers = [builder.gep(one, [place]) for one in state]
                before = [load(builder, pointer, vector, element) for pointer in pointers]
                after, _ = emit_adam(builder, fixed, update, before, slope)
                add_zeros(builder, summed, after[:1])
                for pointer, one in zip(pointers, after, strict=True):
                    store(builder, one, pointer, element)

    with builder.if_else(is_bare(builder, update)) as (then, otherwise):
        with then:
            update_rows(bare(update))
        with otherwise:
            update_rows(update)
    with builder.if_then(builder.not_(is_zero(builder, summed))):
        builder.store(fault.type.pointee(1), fault)
    builder.ret_void()


@intrinsic
def adam_rows(typingctx, vectors, fresh, count, out, lists, m, update):
    """Make a `RowUpdate` of ``count`` rows by Adam, with the gradients that `ordered_rows` would leave in out.

    These are stored nowhere; with ``fresh``, 0, their sums begin with what is there. The rows of the state are as far
    apart as those of out. The constants are those of `adam_updates`, and the penalty acts. The fault is set to 1 if a
    parameter is not finite, and is left alone otherwise.
    """
    long, shapes = types.int64, list(itertools.product(WIDTHS, (0, 1)))

    def codegen(context, builder, sig, args):
        *listed, update = args
        others = cgutils.unpack_tuple(builder, update, len(RowUpdate._fields))
        emit_lists(builder, "adam_rows", sig.args[:6], listed, shapes, _adam_rows_body, others)
        return context.get_dummy_value()

    return types.void(long, long, long, out, lists, m, update), codegen
