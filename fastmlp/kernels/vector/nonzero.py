"""Lists of entries that are not zero."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import data_pointer, load


@intrinsic(prefer_literal=True)
def list_nonzero(typingctx, group, index, value, entry, a, at, a_k, a_g, first, count):
    """Append to a list each k < count for which any of a[at + k a_k + g a_g], g < group, is not zero; return its end.

    The entry holds ``first + k`` in index[entry] and the numbers in value[entry group + g]. -0.0 counts as zero, NaN
    does not. Without branches, so an entry that is not kept is written too: there must be room for one more. The group
    is a constant.
    """
    long = types.int64
    signature = long(group, index, value, long, a, long, long, long, long, long)
    element, members = a.dtype, range(group.literal_value)
    bits = ir.IntType(element.bitwidth)

    def codegen(context, builder, sig, args):
        i64 = ir.IntType(64)
        indices, values, source = (data_pointer(context, builder, sig.args[k], args[k]) for k in (1, 2, 4))
        values, source = (builder.bitcast(pointer, bits.as_pointer()) for pointer in (values, source))
        _, _, _, entry, _, at, a_k, a_g, first, count = args
        end = cgutils.alloca_once_value(builder, entry)
        with cgutils.for_range(builder, count) as loop:
            now = builder.load(end)
            from_a = builder.gep(source, [builder.add(at, builder.mul(loop.index, a_k))])
            numbers = [builder.load(builder.gep(from_a, [builder.mul(a_g, i64(g))])) for g in members]
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
def nonzero_bits(typingctx, x, at):
    """Return a uint64 whose bit k says that x[at + k] is not zero. -0.0 counts as zero, NaN does not."""
    element = x.dtype

    def codegen(context, builder, sig, args):
        scalar = ir.DoubleType() if element == types.float64 else ir.FloatType()
        kind = ir.VectorType(scalar, 64)
        pointer = builder.gep(data_pointer(context, builder, sig.args[0], args[0]), [args[1]])
        numbers = load(builder, pointer, kind, element)
        return builder.bitcast(builder.fcmp_unordered("!=", numbers, kind([0.0] * 64)), ir.IntType(64))

    return types.uint64(x, types.int64), codegen
