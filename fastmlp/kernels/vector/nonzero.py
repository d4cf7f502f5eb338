"""Lists of the entries that are not zero."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import load, splat, store
from fastmlp.kernels.vector.operands import address_in
from fastmlp.kernels.vector.target import PACKS_BYTES

_BITS = 64  # of a mask, and bytes of a vector


@intrinsic(prefer_literal=True)
def list_nonzero(typingctx, group, entries, entry, factors, first, count):
    """Append to a list each k < count for which any of the `Factors` (k, g), g < group, is not zero; return its end.

    ``entries.index[entry]`` holds ``first + k``, ``entries.value[entry group + g]`` the numbers. -0.0 counts as zero,
    NaN does not. There are no branches, so an entry that is not kept is written too: there must be room for one more.
    The group is a constant.
    """
    long = types.int64
    signature = long(group, entries, long, factors, long, long)
    element, members = factors.types[0].dtype, range(group.literal_value)

    def codegen(context, builder, sig, args):
        _, entries, entry, factors, first, count = args
        source, step, row = cgutils.unpack_tuple(builder, factors, 3)
        starts = [builder.gep(source, [builder.mul(row, ir.IntType(64)(g))]) for g in members]
        return _list(builder, element, entries, entry, (starts, step), first, count)

    return signature, codegen


@intrinsic(prefer_literal=True)
def list_nonzero_columns(typingctx, group, entries, entry, matrix, names, first, count):
    """Do as `list_nonzero` with the element (k, names[g]) of a `Matrix` as the number (k, g); names are int32."""
    long = types.int64
    signature = long(group, entries, long, matrix, names, long, long)
    element, members = matrix.types[0].dtype, range(group.literal_value)

    def codegen(context, builder, sig, args):
        _, entries, entry, matrix, names, first, count = args
        source, step = cgutils.unpack_tuple(builder, matrix, 2)
        at = [address_in(context, builder, sig.args[4], names, ir.IntType(64)(g)) for g in members]
        starts = [builder.gep(source, [builder.sext(builder.load(name), ir.IntType(64))]) for name in at]
        return _list(builder, element, entries, entry, (starts, step), first, count)

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
        signature = ir.FunctionType(byte, [byte, byte, chosen.type])
        packed = cgutils.get_or_insert_function(builder.module, signature, "llvm.x86.avx512.mask.compress.v64i8")

        def listed(numbers):
            return builder.zext(builder.call(packed, [numbers, ir.Constant(byte, None), chosen]), word)

        places = listed(ir.Constant(byte, list(range(_BITS))))
        begin = splat(builder, builder.trunc(first, ir.IntType(16)), word)
        number = listed(load(builder, address_in(context, builder, sig.args[2], codes, at), byte, types.uint8))
        words = builder.or_(builder.add(places, begin), builder.shl(number, ir.Constant(word, [8] * _BITS)))
        store(builder, words, address_in(context, builder, sig.args[0], entries, entry), types.uint16)
        return context.get_constant(types.boolean, True)

    return types.boolean(entries, types.int64, codes, types.int64, types.uint64, types.int64), codegen
