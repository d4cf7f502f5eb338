"""The tile of inner products."""

import functools
import itertools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import (
    add_outer_product,
    call_for_shape,
    load,
    shuffle,
    store,
    sum_entries,
    vector_type,
)
from fastmlp.kernels.vector.target import CHAINS, DOT_COLUMNS, DOT_ROWS


def _dot_body(builder, arguments, rows, columns, element):
    """Emit the tile of ``rows`` x ``columns`` inner products, and return from the function."""
    vector, lanes = vector_type(element)
    out, o_row, a, a_row, b, b_row, count = arguments
    i64, i32 = ir.IntType(64), ir.IntType(32)
    cells = [(r, c) for r in range(rows) for c in range(columns)]

    def starts(base, row, number):
        return [builder.gep(base, [builder.mul(row, i64(one))]) for one in range(number)]

    at_a, at_b = starts(a, a_row, rows), starts(b, b_row, columns)

    def grow_vectors(k, sums):
        offset = builder.mul(k, i64(lanes))
        of_a = [load(builder, builder.gep(at, [offset]), vector, element) for at in at_a]
        of_b = (load(builder, builder.gep(at, [offset]), vector, element) for at in at_b)
        return add_outer_product(builder, of_a, of_b, sums)

    def grow(k, sums):
        of_a, of_b = ([builder.load(builder.gep(at, [k])) for at in some] for some in (at_a, at_b))
        products = [builder.fmul(of_a[r], of_b[c]) for r, c in cells]
        return [builder.fadd(product, total) for product, total in zip(products, sums, strict=True)]

    def add_to_row(r, sums):
        pointer = builder.gep(out, [builder.mul(o_row, i64(r))])
        store(builder, builder.fadd(load(builder, pointer, sums.type, element), sums), pointer, element)

    zeros = [ir.Constant(vector, [0.0] * lanes)] * len(cells)
    at_once = -(-CHAINS // len(cells))
    whole = builder.sdiv(count, i64(lanes))
    k, sums = sum_entries(builder, i64(0), whole, [zeros] * at_once, at_once, grow_vectors)
    if at_once > 1:
        _, sums[:1] = sum_entries(builder, k, whole, sums[:1], 1, grow_vectors)
    totals = [functools.reduce(builder.fadd, parts) for parts in zip(*sums, strict=True)]
    for r in range(rows):
        add_to_row(r, _sums_of_lanes(builder, totals[r * columns : (r + 1) * columns]))
    first = builder.mul(whole, i64(lanes))
    with builder.if_then(builder.icmp_signed("<", first, count)):
        zero = ir.Constant(vector.element, 0.0)
        _, [totals] = sum_entries(builder, first, count, [[zero] * len(cells)], 1, grow)
        several = ir.VectorType(vector.element, columns)
        for r in range(rows):
            sums = ir.Constant(several, ir.Undefined)
            for c, total in enumerate(totals[r * columns : (r + 1) * columns]):
                sums = builder.insert_element(sums, total, i32(c))
            add_to_row(r, sums)
    builder.ret_void()


def _sums_of_lanes(builder, vectors):
    """Return a vector of the sums over the lanes of each of 1, 2, 4, ... vectors."""
    count, lanes = len(vectors), vectors[0].type.count
    length = lanes  # how many lanes of a vector are still to be added for each sum
    while length > 1:
        lower = [first + lane for first in range(0, 2 * lanes, length) for lane in range(length // 2)]
        upper = [lane + length // 2 for lane in lower]
        pairs = zip(vectors[::2], vectors[1::2], strict=True) if len(vectors) > 1 else [(vectors[0], vectors[0])]
        vectors = [builder.fadd(shuffle(builder, a, b, lower), shuffle(builder, a, b, upper)) for a, b in pairs]
        length //= 2
    while len(vectors) > 1:
        vectors = [
            shuffle(builder, a, b, range(2 * a.type.count)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return shuffle(builder, vectors[0], vectors[0], range(count))


@intrinsic
def dot_tile(typingctx, rows, columns, out, a, b, count):
    """out[r, c] += sum_k a[r, k] b[c, k], k < count, r < rows, c < columns; `Matrix` out, a and b.

    rows is 1 or DOT_ROWS, columns is 1, 2 or DOT_COLUMNS.
    """
    long = types.int64
    signature = types.void(long, long, out, a, b, long)
    element = out.types[0].dtype

    def codegen(context, builder, sig, args):
        rows, columns, *matrices, count = args
        pairs = [number for one in matrices for number in cgutils.unpack_tuple(builder, one, 2)]
        shapes = list(itertools.product({1, DOT_ROWS}, {1, 2, DOT_COLUMNS}))
        arguments = [rows, columns, *pairs, count]
        call_for_shape(builder, f"fastmlp_dot_{element}", arguments, shapes, _dot_body, element)
        return context.get_dummy_value()

    return signature, codegen
