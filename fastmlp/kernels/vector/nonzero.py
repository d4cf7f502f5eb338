"""Lists of the entries that are not zero."""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import load, shuffle, splat, store
from fastmlp.kernels.vector.operands import address_in
from fastmlp.kernels.vector.target import PACKS_BYTES, PACKS_LANES, VECTOR_BYTES

_BITS = 64  # of a mask, and bytes of a vector


@intrinsic(prefer_literal=True)
def list_nonzero(typingctx, group, entries, entry, factors, first, count):
    """Append to a list each k < count for which any of the `Factors` (k, g), g < group, is not zero; return its end.

    ``entries.index[entry]`` holds ``first + k``, ``entries.value[entry group + g]`` the numbers. -0.0 counts as zero,
    NaN does not. Entries that are not kept are written too: there must be room for ``count`` of them, and one more.
    The group is a constant. It takes least where the numbers of a k, or those of a g, lie side by side.
    """
    long = types.int64
    signature = long(group, entries, long, factors, long, long)
    element, members = factors.types[0].dtype, range(group.literal_value)

    def codegen(context, builder, sig, args):
        _, entries, entry, factors, first, count = args
        source, step, row = cgutils.unpack_tuple(builder, factors, 3)
        starts = [builder.gep(source, [builder.mul(row, ir.IntType(64)(g))]) for g in members]
        end = cgutils.alloca_once_value(builder, entry)

        def emit(loop):
            builder.store(loop(builder, element, entries, entry, (starts, step), first, count), end)

        def otherwise(loops):
            if loops:
                stride, loop = loops[0]
                with builder.if_else(builder.icmp_signed("==", stride, stride.type(1))) as (fits, others):
                    with fits:
                        emit(loop)
                    with others:
                        otherwise(loops[1:])
            else:
                emit(_list)

        loops = []
        if _packs_lanes(element, len(members)):
            loops.append((step, _list_lanes))
        if len(members) in (2, 4):
            loops.append((row, _list_rows))
        otherwise(loops)
        return builder.load(end)

    return signature, codegen


@intrinsic(prefer_literal=True)
def list_nonzero_rows(typingctx, group, entries, entry, matrix, names, first, count):
    """Do as `list_nonzero` with the element (names[g], k) of a `Matrix` as the number (k, g); names are int32."""
    long = types.int64
    signature = long(group, entries, long, matrix, names, long, long)
    element, members = matrix.types[0].dtype, range(group.literal_value)

    def codegen(context, builder, sig, args):
        _, entries, entry, matrix, names, first, count = args
        (source, row), i64 = cgutils.unpack_tuple(builder, matrix, 2), ir.IntType(64)
        rows = [builder.load(address_in(context, builder, sig.args[4], names, i64(g))) for g in members]
        starts = [builder.gep(source, [builder.mul(builder.sext(one, i64), row)]) for one in rows]
        loop = _list_lanes if _packs_lanes(element, len(members)) else _list
        return loop(builder, element, entries, entry, (starts, i64(1)), first, count)

    return signature, codegen


def _list(builder, element, entries, entry, source, first, count):
    """Emit the loop of `list_nonzero`; ``source`` is where the numbers of each member begin, and their step."""
    i64, bits, (starts, step) = ir.IntType(64), ir.IntType(element.bitwidth), source
    _, indices, values = cgutils.unpack_tuple(builder, entries, 3)
    values, *starts = (builder.bitcast(pointer, bits.as_pointer()) for pointer in (values, *starts))
    end = cgutils.alloca_once_value(builder, entry)
    with cgutils.for_range(builder, count) as loop:
        now, offset = builder.load(end), builder.mul(loop.index, step)
        numbers = [builder.load(builder.gep(start, [offset])) for start in starts]
        some = numbers[0]
        for number in numbers[1:]:
            some = builder.or_(some, number)
        if element != types.uint8:
            some = builder.shl(some, bits(1))  # the sign does not count
        kept = builder.zext(builder.icmp_unsigned("!=", some, bits(0)), i64)
        number_of_entry = builder.trunc(builder.add(first, loop.index), ir.IntType(32))
        builder.store(number_of_entry, builder.gep(indices, [now]))
        to = builder.gep(values, [builder.mul(now, i64(len(numbers)))])
        for g, number in enumerate(numbers):
            builder.store(number, builder.gep(to, [i64(g)]))
        builder.store(builder.add(now, kept), end)
    return builder.load(end)


def _differ(builder, numbers, element):
    """Return for each lane whether its bits are those of a number other than zero."""
    if element != types.uint8:
        numbers = builder.shl(numbers, numbers.type([1] * numbers.type.count))  # the sign does not count
    return builder.icmp_unsigned("!=", numbers, ir.Constant(numbers.type, None))


def _list_rows(builder, element, entries, entry, source, first, count):
    """Do as `_list` where the numbers of a k lie side by side: they are loaded and stored at once."""
    i64, (starts, step) = ir.IntType(64), source
    _, indices, values = cgutils.unpack_tuple(builder, entries, 3)
    members = len(starts)
    kind = ir.VectorType(ir.IntType(element.bitwidth), members)
    end = cgutils.alloca_once_value(builder, entry)
    with cgutils.for_range(builder, count) as loop:
        now = builder.load(end)
        numbers = load(builder, builder.gep(starts[0], [builder.mul(loop.index, step)]), kind, element)
        some = builder.bitcast(_differ(builder, numbers, element), ir.IntType(members))
        kept = builder.zext(builder.icmp_unsigned("!=", some, some.type(0)), i64)
        number_of_entry = builder.trunc(builder.add(first, loop.index), ir.IntType(32))
        builder.store(number_of_entry, builder.gep(indices, [now]))
        store(builder, numbers, builder.gep(values, [builder.mul(now, i64(members))]), element)
        builder.store(builder.add(now, kept), end)
    return builder.load(end)


def _packs_lanes(element, members):
    """Return whether lanes of numbers, and of names for as many, can be packed side by side, and be interleaved."""
    if members & (members - 1):
        return False
    return PACKS_BYTES if element == types.uint8 else PACKS_LANES and element in (types.float32, types.float64)


def _list_lanes(builder, element, entries, entry, source, first, count):
    """Do as `_list` where the numbers of a g lie side by side: a vector of them at once, packed by an instruction."""
    i64, i32, (starts, step) = ir.IntType(64), ir.IntType(32), source
    _, indices, values = cgutils.unpack_tuple(builder, entries, 3)
    lanes, members = VECTOR_BYTES * 8 // element.bitwidth, len(starts)
    kind, places = ir.VectorType(ir.IntType(element.bitwidth), lanes), ir.VectorType(i32, lanes)
    # Names of lanes are packed as numbers of one vector: bytes for as many bytes.
    order = ir.Constant(ir.VectorType(ir.IntType(min(element.bitwidth, 32)), lanes), list(range(lanes)))
    end = cgutils.alloca_once_value(builder, entry)
    whole = builder.mul(builder.sdiv(count, i64(lanes)), i64(lanes))
    with cgutils.for_range_slice(builder, i64(0), whole, i64(lanes)) as (k, _):
        now = builder.load(end)
        numbers = [load(builder, builder.gep(start, [k]), kind, element) for start in starts]
        mask = _differ(builder, functools.reduce(builder.or_, numbers), element)
        begin = splat(builder, builder.trunc(builder.add(first, k), i32), places)
        packed = _packed(builder, order, mask)
        names = builder.add(begin, packed if packed.type == places else builder.zext(packed, places))
        store(builder, names, builder.gep(indices, [now]), types.int32)
        to = builder.gep(values, [builder.mul(now, i64(members))])
        for number, one in enumerate(_interleaved(builder, [_packed(builder, some, mask) for some in numbers])):
            store(builder, one, builder.gep(to, [i64(number * lanes)]), element)
        kept = builder.ctpop(builder.bitcast(mask, ir.IntType(lanes)))
        builder.store(builder.add(now, builder.zext(kept, i64)), end)
    rest, behind = [builder.gep(start, [whole]) for start in starts], builder.add(first, whole)
    return _list(builder, element, entries, builder.load(end), (rest, step), behind, builder.sub(count, whole))


def _packed(builder, vector, mask):
    """Return the chosen lanes of a vector side by side, and zeros behind them."""
    kind = vector.type
    signature = ir.FunctionType(kind, [kind, kind, mask.type])
    name = f"llvm.x86.avx512.mask.compress.v{kind.count}i{kind.element.width}"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, [vector, ir.Constant(kind, None), mask])


def _interleaved(builder, vectors):
    """Return vectors with the first lanes of all, then the second ones, and so on; there is a power of two of them."""
    if len(vectors) == 1:
        return vectors
    half, lanes = len(vectors) // 2, vectors[0].type.count
    found = []
    # Numbers 0, half, 1, half + 1, ... of both halves: first each half by itself.
    left, right = (_interleaved(builder, some) for some in (vectors[:half], vectors[half:]))
    for one, other in zip(left, right, strict=True):
        for begin in (0, lanes // 2):
            order = [
                at + part * lanes
                for first in range(begin, begin + lanes // 2, half)
                for part in (0, 1)
                for at in range(first, first + half)
            ]
            found.append(shuffle(builder, one, other, order))
    return found


@intrinsic
def nonzero_bits(typingctx, base, at):
    """Return a uint64 whose bit k says that base[at + k] is not zero. -0.0 counts as zero, NaN does not."""
    element = base.dtype

    def codegen(context, builder, sig, args):
        kind = ir.VectorType(context.get_data_type(element), 64)
        numbers = load(builder, address_in(context, builder, sig.args[0], *args), kind, element)
        differs = builder.icmp_unsigned if element == types.uint8 else builder.fcmp_unordered
        return builder.bitcast(differs("!=", numbers, ir.Constant(kind, None)), ir.IntType(64))

    return types.uint64(base, types.int64), codegen


@intrinsic
def list_words(typingctx, entries, entry, codes, at, mask, first):
    """Set ``entries[entry:]`` to words of codes[at + k] above ``first + k``, for each bit k of a mask of 64.

    Codes are uint8, words uint16; first + k is below 256. Words behind these, up to 64 in all, are written too, and
    all 64 codes are read. Return whether that can be done: not for other dtypes, nor without instructions for it, where
    a loop over the bits is as fast.
    """
    able = PACKS_BYTES and (entries.dtype, codes.dtype) == (types.uint16, types.uint8)

    def codegen(context, builder, sig, args):
        if not able:
            return context.get_constant(types.boolean, False)
        entries, entry, codes, at, mask, first = args
        byte, word = ir.VectorType(ir.IntType(8), _BITS), ir.VectorType(ir.IntType(16), _BITS)
        chosen = builder.bitcast(mask, ir.VectorType(ir.IntType(1), _BITS))

        def listed(numbers):
            return builder.zext(_packed(builder, numbers, chosen), word)

        places = listed(ir.Constant(byte, list(range(_BITS))))
        begin = splat(builder, builder.trunc(first, ir.IntType(16)), word)
        number = listed(load(builder, address_in(context, builder, sig.args[2], codes, at), byte, types.uint8))
        words = builder.or_(builder.add(places, begin), builder.shl(number, ir.Constant(word, [8] * _BITS)))
        store(builder, words, address_in(context, builder, sig.args[0], entries, entry), types.uint16)
        return context.get_constant(types.boolean, True)

    return types.boolean(entries, types.int64, codes, types.int64, types.uint64, types.int64), codegen
