"""Products of single rows over lists of their own, which name rows of the other factor or of the result."""

import functools
import itertools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import (
    add_row,
    call_for_shape,
    list_number,
    load,
    multiply_add,
    splat,
    store,
    sum_entries,
    vector_type,
)
from fastmlp.kernels.vector.operands import CodedLists
from fastmlp.kernels.vector.target import CHAINS, STRIPS, WIDEST_STRIP

# What `sparse_rows` does with its sums: it adds them to what is there, or puts them in its place. And where those of
# `ordered_rows` begin: with what is there, or with zeros.
_ADDING, _SETTING, _GROWING, _BEGINNING = range(4)
WIDTHS = range(1, WIDEST_STRIP + 1)


def list_ends(builder, r, starts, stops):
    """Emit the first entry of list r, and its end, int64; they are stored so, or as int32."""
    loaded = (builder.load(builder.gep(one, [r])) for one in (starts, stops))
    return [builder.sext(one, ir.IntType(64)) if one.type.width < 64 else one for one in loaded]


def list_entry(builder, k, coded, listed, values):
    """Emit the row that entry k names, and its number."""
    if not coded:
        return list_number(builder, listed, k), builder.load(builder.gep(values, [k]))
    # One load for both: units that load are what these products wait for.
    word = list_number(builder, listed, k)
    half = listed.type.pointee.width // 2
    code = builder.lshr(word, word.type(half))
    return builder.and_(word, word.type((1 << half) - 1)), builder.load(builder.gep(values, [code]))


def _sparse_rows_body(builder, arguments, vectors, form, element, coded):
    """Emit `sparse_rows` or `ordered_rows`, by the form, for so many vectors, and return from the function."""
    vector, lanes = vector_type(element)
    rows, out, o_row, b, b_row, starts, stops, *entries = arguments
    i64 = ir.IntType(64)

    def grow(k, sums):
        row, number = list_entry(builder, k, coded, *entries)
        return add_row(builder, row, b, b_row, [number], sums, element)

    zeros = [ir.Constant(vector, [0.0] * lanes)] * vectors
    at_once = 1 if form in (_GROWING, _BEGINNING) else -(-CHAINS // vectors)
    with cgutils.for_range(builder, rows) as loop:
        start, stop = list_ends(builder, loop.index, starts, stops)
        at_out = builder.mul(o_row, loop.index)
        places = [builder.gep(out, [builder.add(at_out, i64(v * lanes))]) for v in range(vectors)]
        first = [load(builder, place, vector, element) for place in places] if form == _GROWING else zeros
        k, sums = sum_entries(builder, start, stop, [first] * at_once, at_once, grow)
        if at_once > 1:
            _, sums[:1] = sum_entries(builder, k, stop, sums[:1], 1, grow)
        for pointer, parts in zip(places, zip(*sums, strict=True), strict=True):
            total = functools.reduce(builder.fadd, parts)
            if form == _ADDING:
                total = builder.fadd(load(builder, pointer, vector, element), total)
            store(builder, total, pointer, element)
    builder.ret_void()


def _scatter_rows_body(builder, arguments, vectors, _, element, coded):
    """Emit `scatter_rows` for so many vectors, and return from the function."""
    vector, lanes = vector_type(element)
    rows, out, o_row, b, b_row, starts, stops, *listed = arguments
    places = [ir.IntType(64)(v * lanes) for v in range(vectors)]
    with cgutils.for_range(builder, rows) as loop:
        start, stop = list_ends(builder, loop.index, starts, stops)
        at_b = builder.gep(b, [builder.mul(b_row, loop.index)])
        row = [load(builder, builder.gep(at_b, [place]), vector, element) for place in places]
        with cgutils.for_range(builder, stop, start) as entries:
            named, number = list_entry(builder, entries.index, coded, *listed)
            factor = splat(builder, number, vector)
            to = builder.gep(out, [builder.mul(named, o_row)])
            for place, one in zip(places, row, strict=True):
                pointer = builder.gep(to, [place])
                total = multiply_add(builder, factor, one, load(builder, pointer, vector, element))
                store(builder, total, pointer, element)
    builder.ret_void()


def emit_lists(builder, name, kinds, args, shapes, body, others=()):
    """Emit the call of a body, for the arguments (vectors, fresh, count, out, lists, m) of these types, and others."""
    vectors, fresh, count, *tuples = args
    _, _, _, out, lists, m = kinds
    (start, o_row), listed, (b, b_row) = (
        cgutils.unpack_tuple(builder, value, len(kind.types))
        for value, kind in zip(tuples, (out, lists, m), strict=True)
    )
    coded = issubclass(lists.instance_class, CodedLists)
    element, end, index = out.types[0].dtype, lists.types[0].dtype, lists.types[2].dtype
    arguments = [vectors, fresh, count, start, o_row, b, b_row, *listed, *others]
    name = f"fastmlp_{'coded_' if coded else ''}{name}_{end}_{index}_{element}"
    call_for_shape(builder, name, arguments, shapes, body, element, coded)


def _adding_rows(name, strips):
    """Return the code of an intrinsic that adds rows, or sets them, for these numbers of vectors."""
    shapes = list(itertools.product(strips, (_ADDING, _SETTING)))

    def codegen(context, builder, sig, args):
        emit_lists(builder, name, sig.args, args, shapes, _sparse_rows_body)
        return context.get_dummy_value()

    return codegen


@intrinsic
def sparse_rows(typingctx, vectors, fresh, count, out, lists, m):
    """out[r, c] += sum_e value[e] m[index[e], c], r < count, e over list r of `RowLists` or `CodedLists`.

    out and m are of `Matrix`; c runs over ``vectors``, one of STRIPS. With ``fresh``, 1 and not 0, out is set.
    """
    long = types.int64
    return types.void(long, long, long, out, lists, m), _adding_rows("sparse_rows", STRIPS)


@intrinsic
def listed_rows(typingctx, vectors, fresh, count, out, lists, m):
    """Do as `sparse_rows` for any number of vectors up to WIDEST_STRIP: there is more of it to compile."""
    long = types.int64
    return types.void(long, long, long, out, lists, m), _adding_rows("listed_rows", WIDTHS)


@intrinsic
def ordered_rows(typingctx, vectors, fresh, count, out, lists, m):
    """Do as `listed_rows`, entry after entry, as the lists have them: to the bits of `scatter_rows`.

    Where there are few vectors, additions wait for one another.
    """
    long, shapes = types.int64, list(itertools.product(WIDTHS, (_GROWING, _BEGINNING)))

    def codegen(context, builder, sig, args):
        vectors, fresh, *rest = args
        form = builder.add(fresh, ir.IntType(64)(_GROWING))
        emit_lists(builder, "ordered_rows", sig.args, [vectors, form, *rest], shapes, _sparse_rows_body)
        return context.get_dummy_value()

    return types.void(long, long, long, out, lists, m), codegen


@intrinsic
def scatter_rows(typingctx, vectors, count, out, lists, m):
    """out[index[e], c] += value[e] m[r, c], r < count, e over list r of `RowLists` or `CodedLists`.

    It is the product with the transpose of what `sparse_rows` multiplies by, and needs no lists of its own: where the
    rows of out stay in the L1 cache, it takes less time than to make these. c runs over up to WIDEST_STRIP vectors.
    """
    long, shapes = types.int64, list(itertools.product(WIDTHS, (_ADDING,)))

    def codegen(context, builder, sig, args):
        vectors, *rest = args
        there = sig.args
        form = ir.IntType(64)(_ADDING)
        emit_lists(
            builder, "scatter_rows", (there[0], long, *there[1:]), [vectors, form, *rest], shapes, _scatter_rows_body
        )
        return context.get_dummy_value()

    return types.void(long, long, out, lists, m), codegen
