"""Lists of the entries that are not zero."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import load
from fastmlp.kernels.vector.operands import address_in


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
    bits = ir.IntType(element.bitwidth)

    def codegen(context, builder, sig, args):
        i64 = ir.IntType(64)
        _, entries, entry, factors, first, count = args
        _, indices, values = cgutils.unpack_tuple(builder, entries, 3)
        source, step, row = cgutils.unpack_tuple(builder, factors, 3)
        values, source = (builder.bitcast(pointer, bits.as_pointer()) for pointer in (values, source))
        end = cgutils.alloca_once_value(builder, entry)
        with cgutils.for_range(builder, count) as loop:
            now = builder.load(end)
            there = builder.gep(source, [builder.mul(loop.index, step)])
            numbers = [builder.load(builder.gep(there, [builder.mul(row, i64(g))])) for g in members]
            some = numbers[0]
            for number in numbers[1:]:
                some = builder.or_(some, number)
            if element != types.uint8:
                some = builder.shl(some, bits(1))  # the sign does not count
            kept = builder.zext(builder.icmp_unsigned("!=", some, bits(0)), i64)
            number_of_entry = builder.trunc(builder.add(first, loop.index), ir.IntType(32))
            builder.store(number_of_entry, builder.gep(indices, [now]))
            to = builder.gep(values, [builder.mul(now, i64(len(members)))])
            for g, number in enumerate(numbers):
                builder.store(number, builder.gep(to, [i64(g)]))
            builder.store(builder.add(now, kept), end)
        return builder.load(end)

    return signature, codegen


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
