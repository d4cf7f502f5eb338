"""Pieces of LLVM IR that the micro-kernels share."""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.kernels.vector.target import HAS_FMA, VECTOR_BYTES


def vector_type(element):
    """Return the LLVM vector of a Numba float type, and its number of elements."""
    lanes = VECTOR_BYTES * 8 // element.bitwidth
    scalar = ir.DoubleType() if element == types.float64 else ir.FloatType()
    return ir.VectorType(scalar, lanes), lanes


def load(builder, pointer, vector, element):
    """Emit the load of a vector, or a number, of elements of a Numba type; it need not be aligned to more than one."""
    address = builder.bitcast(pointer, vector.as_pointer())
    return builder.load(address, align=element.bitwidth // 8)


def store(builder, value, pointer, element):
    """Emit the store of a vector, or a number, of elements of a Numba type."""
    address = builder.bitcast(pointer, value.type.as_pointer())
    builder.store(value, address, align=element.bitwidth // 8)


def shuffle(builder, a, b, lanes):
    """Return the vector of these lanes of a and b, whose lanes are numbered on from those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def splat(builder, scalar, vector):
    """Return a vector of equal lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return shuffle(builder, single, undefined, [0] * vector.count)


def multiply_add(builder, a, b, c):
    """Return a * b + c of scalars or vectors."""
    if not HAS_FMA:
        return builder.fadd(builder.fmul(a, b), c)
    return by_lanes(builder, "fma", a, b, c)


def by_lanes(builder, name, *arguments):
    """Return an intrinsic of LLVM of scalars or vectors, which llvmlite has for scalars only."""
    kind = arguments[0].type
    lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    suffix = "f64" if getattr(kind, "element", kind) == ir.DoubleType() else "f32"
    signature = ir.FunctionType(kind, [kind] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{lanes}{suffix}")
    return builder.call(function, arguments)


def horner(builder, polynomial, x):
    """Return the value of a polynomial, its lowest coefficient first, of scalars or vectors."""
    value = x.type(polynomial[-1])
    for coefficient in reversed(polynomial[:-1]):
        value = multiply_add(builder, value, x, x.type(coefficient))
    return value


def sum_entries(builder, k, stop, sums, at_once, grow):
    """Emit the loop that adds the entries from k on, ``at_once`` in each turn, while all of a turn are below ``stop``.

    ``sums`` are ``at_once`` lists of values, ``grow(k, sums)`` returns one of them with entry k added. Return the entry
    at which to continue, and the sums.
    """
    i64 = ir.IntType(64)
    entry = builder.basic_block
    loop, end = builder.append_basic_block("loop"), builder.append_basic_block("end")

    def more(k):
        return builder.icmp_signed("<=", builder.add(k, i64(at_once)), stop)

    def phis(incoming):
        return [[builder.phi(one.type) for one in some] for some in incoming]

    def connect(phis, values, block):
        for some, others in zip(phis, values, strict=True):
            for phi, value in zip(some, others, strict=True):
                phi.add_incoming(value, block)

    builder.cbranch(more(k), loop, end)
    builder.position_at_end(loop)
    [[now], *before] = looping = phis([[k], *sums])
    after = [grow(builder.add(now, i64(one)), some) for one, some in enumerate(before)]
    following = builder.add(now, i64(at_once))
    builder.cbranch(more(following), loop, end)
    connect(looping, [[k], *sums], entry)
    connect(looping, [[following], *after], loop)
    builder.position_at_end(end)
    [[done], *results] = ending = phis([[k], *sums])
    connect(ending, [[k], *sums], entry)
    connect(ending, [[following], *after], loop)
    return done, results


def add_outer_product(builder, left, right, sums):
    """Return the sums, row by row, each with left[r] right[c] added.

    ``right`` is an iterator that emits the load of one value at a time: with 16 registers there is room for no more.
    """
    grown, columns = list(sums), len(sums) // len(left)
    for c, value in enumerate(right):
        for r, factor in enumerate(left):
            cell = r * columns + c
            grown[cell] = multiply_add(builder, factor, value, sums[cell])
    return grown


def list_number(builder, index, k):
    """Emit entry k of a list of rows, int32, uint16 or uint8, as an int64."""
    number = builder.load(builder.gep(index, [k]))
    extend = builder.sext if number.type.width == 32 else builder.zext
    return extend(number, ir.IntType(64))


def add_listed_row(builder, k, index, b, b_row, scalars, sums, element):
    """Return the sums, row by row, each with its scalar times the vectors of row index[k] of b added."""
    return add_row(builder, list_number(builder, index, k), b, b_row, scalars, sums, element)


def add_row(builder, number, b, b_row, scalars, sums, element):
    """Return the sums, row by row, each with its scalar times the vectors of a row of b added."""
    vector, lanes = vector_type(element)
    i64 = ir.IntType(64)
    at_b = builder.gep(b, [builder.mul(number, b_row)])
    factors = [splat(builder, scalar, vector) for scalar in scalars]
    vectors = range(len(sums) // len(factors))
    of_b = (load(builder, builder.gep(at_b, [i64(v * lanes)]), vector, element) for v in vectors)
    return add_outer_product(builder, factors, of_b, sums)


def call_for_shape(builder, name, arguments, shapes, emit, *options):
    """Call a function that does ``emit(builder, arguments[2:], *shape, *options)`` for the shape in its first two.

    A function of its own, never inlined: the step calls it from many places, and compiling each shape in each of them
    takes far longer.
    """
    i64 = ir.IntType(64)
    signature = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    if function.is_declaration:
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        first, second, *rest = function.args
        impossible = function.append_basic_block("impossible")
        branch = inner.switch(inner.add(inner.shl(first, i64(8)), second), impossible)
        ir.IRBuilder(impossible).unreachable()
        for shape in sorted(shapes):
            block = function.append_basic_block("shape_{}_{}".format(*shape))
            branch.add_case(i64((shape[0] << 8) + shape[1]), block)
            emit(ir.IRBuilder(block), rest, *shape, *options)
    builder.call(function, arguments)
