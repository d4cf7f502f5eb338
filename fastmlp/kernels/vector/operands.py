"""The operands of micro-kernels: NamedTuples of addresses, strides and counts.

Numba passes one as a few scalars, and counts no references to memory that all workers share. Constructors are
intrinsics, so that a literal number does not make another type.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.target import LINE_BYTES, VECTOR_BYTES

_LONG = types.int64


class Matrix(NamedTuple):
    """Rows of numbers: element (r, c) is ``start[r * ld + c]``."""

    start: Any
    ld: int


class Plane(NamedTuple):
    """A C-contiguous matrix: element (r, c) is ``start[r * columns + c]``."""

    start: Any
    rows: int
    columns: int


class Factors(NamedTuple):
    """Factors of a product: the one of entry k for row g of the result is ``start[k * step + g * row]``."""

    start: Any
    step: int
    row: int


class Codes(NamedTuple):
    """Factors stored as uint8: ``table[start[k * GROUP + g]]``."""

    start: Any
    table: Any


class Rows(NamedTuple):
    """Rows chosen by a list: the one of entry k begins at ``start[index[k] * ld]``."""

    index: Any
    start: Any
    ld: int


class Entries(NamedTuple):
    """Lists of rows: list r holds the entries ``start[r]`` to below ``start[r + 1]`` of ``index`` and ``value``."""

    start: Any
    index: Any
    value: Any


class RowLists(NamedTuple):
    """Lists of rows, each with its own end: list r holds the entries ``start[r]`` to below ``stop[r]``."""

    start: Any
    stop: Any
    index: Any
    value: Any


class CodedLists(NamedTuple):
    """Do as `RowLists`, with one word for each entry.

    The lower half of its bits is the index, the upper half a code below 256: the value is ``table[code]``.
    """

    start: Any
    stop: Any
    word: Any
    table: Any


class Share(NamedTuple):
    """The number of a worker, and how many share the work."""

    worker: int
    workers: int


def pointer_to(kind: Any) -> Any:
    """Return the type of an address of such numbers."""
    return types.CPointer(kind)


def operand_type(cls: Any, element: Any) -> Any:
    """Return the type of an operand that is an address of such numbers, and integers."""
    return types.NamedTuple((pointer_to(element), *[_LONG] * (len(cls._fields) - 1)), cls)


def element_of(base: Any) -> Any:
    """Return the type of the numbers of an array, at an address, or of an operand."""
    return element_of(base.types[0]) if isinstance(base, types.BaseNamedTuple) else base.dtype


def address_in(context: Any, builder: Any, kind: Any, base: Any, at: Any) -> Any:
    """Emit the address of the element ``at`` of an array or behind an address."""
    start = context.make_array(kind)(context, builder, base).data if isinstance(kind, types.Array) else base
    return builder.gep(start, [at])


@intrinsic
def address(typingctx, base, at):
    """Return the address of element ``at`` of a flat array, or behind an address."""

    def codegen(context, builder, sig, args):
        return address_in(context, builder, sig.args[0], *args)

    return pointer_to(element_of(base))(base, _LONG), codegen


def _tuple_of(cls, *kinds):
    return types.NamedTuple(kinds, cls)


@intrinsic
def matrix(typingctx, base, at, ld):
    """Return the `Matrix` that begins at element ``at`` of a flat array or behind an address."""
    result = _tuple_of(Matrix, pointer_to(element_of(base)), _LONG)

    def codegen(context, builder, sig, args):
        start = address_in(context, builder, sig.args[0], args[0], args[1])
        return context.make_tuple(builder, sig.return_type, [start, args[2]])

    return result(base, _LONG, _LONG), codegen


@intrinsic
def factors(typingctx, base, at, step, row):
    """Return the `Factors` that begin at element ``at`` of a flat array or behind an address."""
    result = _tuple_of(Factors, pointer_to(element_of(base)), _LONG, _LONG)

    def codegen(context, builder, sig, args):
        start = address_in(context, builder, sig.args[0], args[0], args[1])
        return context.make_tuple(builder, sig.return_type, [start, *args[2:]])

    return result(base, _LONG, _LONG, _LONG), codegen


@intrinsic
def codes(typingctx, base, at, table):
    """Return the `Codes` that begin at element ``at``."""
    result = _tuple_of(Codes, pointer_to(types.uint8), pointer_to(element_of(table)))

    def codegen(context, builder, sig, args):
        start = address_in(context, builder, sig.args[0], args[0], args[1])
        decoded = address_in(context, builder, sig.args[2], args[2], ir.IntType(64)(0))
        return context.make_tuple(builder, sig.return_type, [start, decoded])

    return result(base, _LONG, table), codegen


@intrinsic
def chosen(typingctx, index, first, m):
    """Return the `Rows` of a matrix that a list names from its entry ``first`` on."""
    result = _tuple_of(Rows, pointer_to(types.int32), m.types[0], _LONG)

    def codegen(context, builder, sig, args):
        listed = address_in(context, builder, sig.args[0], args[0], args[1])
        start, ld = cgutils.unpack_tuple(builder, args[2], 2)
        return context.make_tuple(builder, sig.return_type, [listed, start, ld])

    return result(index, _LONG, m), codegen


@intrinsic
def block(typingctx, m, r, c):
    """Return the `Matrix` that begins at element (r, c) of another one."""

    def codegen(context, builder, sig, args):
        start, ld = cgutils.unpack_tuple(builder, args[0], 2)
        at = builder.add(builder.mul(args[1], ld), args[2])
        return context.make_tuple(builder, sig.return_type, [builder.gep(start, [at]), ld])

    return m(m, _LONG, _LONG), codegen


def _view(context, builder, kind, start, count):
    """Emit an array of one dimension that owns nothing."""
    array, i64 = context.make_array(kind)(context, builder), ir.IntType(64)
    for owner in ("meminfo", "parent"):
        setattr(array, owner, cgutils.get_null_value(getattr(array, owner).type))
    array.data, array.nitems, array.itemsize = start, count, i64(kind.dtype.bitwidth // 8)
    array.shape, array.strides = (cgutils.pack_array(builder, [one]) for one in (count, array.itemsize))
    return array._getvalue()


@intrinsic
def part(typingctx, base, at, count):
    """Return ``count`` elements from ``at`` on, as an array that owns nothing."""
    kind = types.Array(element_of(base), 1, "C")

    def codegen(context, builder, sig, args):
        return _view(context, builder, kind, address_in(context, builder, sig.args[0], args[0], args[1]), args[2])

    return kind(base, _LONG, _LONG), codegen


@intrinsic
def copy_elements(typingctx, out, x, count):
    """Set ``count`` elements of a flat array or at an address to those of another one, which lie elsewhere.

    By the system's memcpy: for a few dozen bytes it takes half of the time of a loop.
    """

    def codegen(context, builder, sig, args):
        zero = ir.IntType(64)(0)
        to, source = (address_in(context, builder, sig.args[one], args[one], zero) for one in range(2))
        cgutils.raw_memcpy(builder, to, source, args[2], element_of(sig.args[0]).bitwidth // 8)
        return context.get_dummy_value()

    return types.void(out, x, _LONG), codegen


@intrinsic
def row(typingctx, m, r, count):
    """Return ``count`` elements of row r of a `Matrix`, as an array that owns nothing."""
    kind = types.Array(m.types[0].dtype, 1, "C")

    def codegen(context, builder, sig, args):
        start, ld = cgutils.unpack_tuple(builder, args[0], 2)
        return _view(context, builder, kind, builder.gep(start, [builder.mul(args[1], ld)]), args[2])

    return kind(m, _LONG, _LONG), codegen


@intrinsic
def row_of(typingctx, plane, r, first, count):
    """Return elements (r, first) to below (r, first + count) of a `Plane`, as an array that owns nothing."""
    kind = types.Array(plane.types[0].dtype, 1, "C")

    def codegen(context, builder, sig, args):
        start, _, columns = cgutils.unpack_tuple(builder, args[0], 3)
        at = builder.add(builder.mul(args[1], columns), args[2])
        return _view(context, builder, kind, builder.gep(start, [at]), args[3])

    return kind(plane, _LONG, _LONG, _LONG), codegen


@intrinsic
def lanes(typingctx, base):
    """Return how many numbers of an array, an address or an operand make a vector."""
    count = VECTOR_BYTES * 8 // element_of(base).bitwidth
    return _LONG(base), lambda context, builder, sig, args: ir.IntType(64)(count)


@intrinsic
def line_of(typingctx, base):
    """Return how many numbers of an array, an address or an operand make a cache line."""
    count = LINE_BYTES * 8 // element_of(base).bitwidth
    return _LONG(base), lambda context, builder, sig, args: ir.IntType(64)(count)


@intrinsic
def number(typingctx, base, value):
    """Return an integer in the type of the numbers of an array, an address or an operand."""
    element = element_of(base)

    def codegen(context, builder, sig, args):
        return builder.sitofp(args[1], context.get_value_type(element))

    return element(base, _LONG), codegen
