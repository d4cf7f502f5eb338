"""The explicit-vector micro-kernels, as LLVM IR through Numba's ``@intrinsic``.

Left to itself LLVM reaches a seventh of the peak in a matrix product: sums must live in vector registers, and only
explicit vectors do. There is one register tile, which adds a product to a few rows of up to PANEL vectors, in two
forms: `tile` takes its factors as they are, `coded_tile` through a table. `sparse_rows` does so for single rows, each
over a list of its own. `list_nonzero` makes the lists that they run over. Where both factors lie along the sum,
`dot_tile` takes inner products. `nonzero_bits` finds the targets of costs.

A kernel reads and writes the elements that its formula names and no others, for any number of entries; `list_nonzero`
alone writes one entry more. Rows are what the caller must round up: a register tile has a whole group of them, so
buffers hold rows up to a multiple of PADDING.

Everything that depends on the machine is decided here, once, from the features of Numba's target, which need not be
those of the host. A vector that the target does not have is legal IR all the same: LLVM splits it.
"""

import functools
import itertools
import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.callconv import excinfo_t
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_CODEGEN = cpu_target.target_context.codegen()
CPU_NAME = _CODEGEN._get_host_cpu_name()
_FEATURES = {name[1:] for name in _CODEGEN._get_host_cpu_features().split(",") if name.startswith("+")}
_IS_ARM = cpu_target.target_context.codegen()._llvm_module.triple.startswith(("aarch64", "arm64"))

# Without the instruction, llvm.fma is a library call per element: 1.7 GFLOP/s against 12.8 for multiply and add.
HAS_FMA = "fma" in _FEATURES or _IS_ARM

# GROUP rows of PANEL vectors are summed in registers, beside their GROUP factors and one vector of a row of b. 16
# registers hold 3 rows of 4 vectors as well as 4 of 3, and the lists of 3 samples are a twelfth shorter. A dense
# product takes as many rows as there are registers for, DENSE_GROUP: no zero is computed because a neighbour needs it.
# CACHE_BYTES is what the rows of b that a list meets may take, in the second level of cache; BLOCK how many groups use
# a panel before the next one: 1 MiB beside AVX-512 holds all panels, less of it the lists of all groups of a tile.
# DENSE_SAMPLES are those that a dense product sums at a time, so that a first level holds their rows of both factors;
# FACTOR_BYTES is what of a factor is used over and over by plain products.
# One core of Zen 3 took 239 ms for a step on MNIST in float64 with 4 rows of 3 vectors, CACHE_BYTES for the first level
# and a BLOCK of 8; 184 as it is here. Prefetching the rows of out, or rows of b in panels, gained nothing there.
if "avx512f" in _FEATURES:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 64, 4, 4, 6, 262_144
elif "avx" in _FEATURES:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 32, 4, 3, 3, 51_200
elif _IS_ARM:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 16, 4, 4, 4, 25_600
else:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 16, 2, 4, 4, 25_600
BLOCK, DENSE_SAMPLES, FACTOR_BYTES = (8, 240, 262_144) if VECTOR_BYTES == 64 else (80, 80, 200_000)

# Rows and columns of the tile of inner products, whose sums too must fit the registers.
DOT_ROWS, DOT_COLUMNS = (4, 4) if VECTOR_BYTES == 64 or _IS_ARM else (3, 4) if VECTOR_BYTES == 32 else (2, 4)

# How many vectors of a row `sparse_rows` takes at once, the most first; and the bytes of such rows that it meets, which
# lie in the first level of cache. It loads a vector for each multiply-add: 37 GFLOP/s where a tile reaches 48.
STRIPS, SPARSE_BYTES = ((8, 4, 2, 1) if VECTOR_BYTES == 64 else (12, 4, 2, 1)), 24_000

# A vector that straddles two cache lines counts as two: buffers begin on a line.
LINE_BYTES = 64

# Rows are padded to a multiple of this, so that a register tile may take whole groups of either kind.
PADDING = math.lcm(GROUP, DENSE_GROUP)

# Exponentials that are added without compensation: their sum is within 5 eps. A thousand would cost a thousand (Kahan's
# summation takes a sixth longer).
_FEW_ROWS = 10

# Chains of sums that a core can go on with at once: two multiply-adds a cycle, each ready after four.
_CHAINS = 8


def _vector_type(element):
    """Return the LLVM vector of a Numba float type, and its number of elements."""
    lanes = VECTOR_BYTES * 8 // element.bitwidth
    scalar = ir.DoubleType() if element == types.float64 else ir.FloatType()
    return ir.VectorType(scalar, lanes), lanes


def _pointer(context, builder, array_type, array):
    return context.make_array(array_type)(context, builder, array).data


def _load(builder, pointer, vector, element):
    address = builder.bitcast(pointer, vector.as_pointer())
    return builder.load(address, align=element.bitwidth // 8)


def _store(builder, value, pointer, element):
    address = builder.bitcast(pointer, value.type.as_pointer())
    builder.store(value, address, align=element.bitwidth // 8)


def _shuffle(builder, a, b, lanes):
    """Return the vector of these lanes of a and b, whose lanes are numbered on from those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, single, undefined, [0] * vector.count)


def _multiply_add(builder, a, b, c):
    """Return a * b + c of scalars or vectors."""
    if not HAS_FMA:
        return builder.fadd(builder.fmul(a, b), c)
    if not isinstance(a.type, ir.VectorType):
        return builder.fma(a, b, c)
    # llvmlite's own fma refuses vectors, so the intrinsic is declared by name.
    suffix = "f64" if a.type.element == ir.DoubleType() else "f32"
    signature = ir.FunctionType(a.type, [a.type] * 3)
    name = f"llvm.fma.v{a.type.count}{suffix}"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [a, b, c])


def _sum_entries(builder, k, stop, sums, at_once, grow):
    """Emit the loop that adds the entries from k on, ``at_once`` in each turn, while all of a turn are below ``stop``.

    ``sums`` are ``at_once`` lists of values, ``grow(k, sums)`` returns one of them with entry k added. Return the entry
    to go on with, and the sums.
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


def _add_outer_product(builder, left, right, sums):
    """Return the sums, row by row, each with left[r] right[c] added.

    ``right`` is an iterator that emits the load of one value at a time: with 16 registers there is room for no more.
    """
    grown, columns = list(sums), len(sums) // len(left)
    for c, value in enumerate(right):
        for r, factor in enumerate(left):
            cell = r * columns + c
            grown[cell] = _multiply_add(builder, factor, value, sums[cell])
    return grown


def _add_listed_row(builder, k, index, b, b_row, scalars, sums, element):
    """Return the sums, row by row, each with its scalar times the vectors of row index[k] of b added."""
    vector, lanes = _vector_type(element)
    i64 = ir.IntType(64)
    row = builder.sext(builder.load(builder.gep(index, [k])), i64)
    at_b = builder.gep(b, [builder.mul(row, b_row)])
    factors = [_splat(builder, scalar, vector) for scalar in scalars]
    vectors = range(len(sums) // len(factors))
    of_b = (_load(builder, builder.gep(at_b, [i64(v * lanes)]), vector, element) for v in vectors)
    return _add_outer_product(builder, factors, of_b, sums)


def _tile_body(builder, arguments, group, vectors, element, load_factors):
    """Emit the register tile of ``group`` rows of ``vectors`` vectors, and return from the function.

    ``load_factors(builder, group, k, *rest)`` emits the loads of the factors of entry k.
    """
    if vectors == 0:
        _column_body(builder, arguments, group, element, load_factors)
        return
    vector, lanes = _vector_type(element)
    out, o_row, index, b, b_row, count, fresh, *rest = arguments
    i64 = ir.IntType(64)
    cells = [(g, v) for g in range(group) for v in range(vectors)]

    def grow(k, sums):
        return _add_listed_row(builder, k, index, b, b_row, load_factors(builder, group, k, *rest), sums, element)

    # The sums begin at zero, and out is added last: the first multiplications need not wait for it.
    zeros = [ir.Constant(vector, [0.0] * lanes)] * len(cells)
    # As many chains whatever the group: how rows fall into groups must not show in a bit.
    at_once = -(-_CHAINS // (GROUP * vectors))
    k, sums = _sum_entries(builder, i64(0), count, [zeros] * at_once, at_once, grow)
    if at_once > 1:
        _, sums[:1] = _sum_entries(builder, k, count, sums[:1], 1, grow)
    is_fresh = builder.icmp_signed("!=", fresh, i64(0))
    for (g, v), *parts in zip(cells, *sums, strict=True):
        pointer = builder.gep(out, [builder.add(builder.mul(o_row, i64(g)), i64(v * lanes))])
        before = builder.select(is_fresh, zeros[0], _load(builder, pointer, vector, element))
        _store(builder, builder.fadd(before, functools.reduce(builder.fadd, parts)), pointer, element)
    builder.ret_void()


def _column_body(builder, arguments, group, element, load_factors):
    """Emit the register tile of ``group`` rows of one column, whose factors make a vector, and return."""
    out, o_row, index, b, b_row, count, fresh, *rest = arguments
    i64, i32 = ir.IntType(64), ir.IntType(32)
    kind = ir.VectorType(_vector_type(element)[0].element, group)

    def grow(k, sums):
        row = builder.sext(builder.load(builder.gep(index, [k])), i64)
        value = builder.load(builder.gep(b, [builder.mul(row, b_row)]))
        factors = ir.Constant(kind, ir.Undefined)
        for g, factor in enumerate(load_factors(builder, group, k, *rest)):
            factors = builder.insert_element(factors, factor, i32(g))
        return [_multiply_add(builder, factors, _splat(builder, value, kind), sums[0])]

    zero = kind(0.0)
    k, sums = _sum_entries(builder, i64(0), count, [[zero]] * _CHAINS, _CHAINS, grow)
    _, sums[:1] = _sum_entries(builder, k, count, sums[:1], 1, grow)
    total = functools.reduce(builder.fadd, [one for [one] in sums])
    is_fresh = builder.icmp_signed("!=", fresh, i64(0))
    for g in range(group):
        pointer = builder.gep(out, [builder.mul(o_row, i64(g))])
        before = builder.select(is_fresh, kind.element(0.0), builder.load(pointer))
        builder.store(builder.fadd(before, builder.extract_element(total, i32(g))), pointer)
    builder.ret_void()


def _plain_factors(builder, group, k, a, a_k, a_g):
    at_a = builder.gep(a, [builder.mul(k, a_k)])
    return [builder.load(builder.gep(at_a, [builder.mul(a_g, ir.IntType(64)(g))])) for g in range(group)]


def _coded_factors(builder, group, k, codes, table):
    i64 = ir.IntType(64)
    at = builder.mul(k, i64(group))
    numbers = [builder.load(builder.gep(codes, [builder.add(at, i64(g))])) for g in range(group)]
    return [builder.load(builder.gep(table, [builder.zext(number, i64)])) for number in numbers]


def _call_for_shape(builder, name, arguments, shapes, emit, *options):
    """Call a function that does ``emit(builder, arguments[2:], *shape, *options)`` for the shape in its first two.

    A function of its own, never inlined: the step calls it from many places, and compiling each shape in each of them
    took a minute.
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


@intrinsic
def tile(typingctx, group, vectors, out, o, o_row, a, at, a_k, a_g, index, i, b, p, b_row, count, fresh):
    """out[o + g o_row + c] += sum_k a[at + k a_k + g a_g] b[p + index[i + k] b_row + c], k < count, g < group.

    group is 1, 2, GROUP or DENSE_GROUP, and does not show in a bit; c runs over ``vectors`` <= PANEL vectors. With 0
    of them there is one column, and a group of GROUP or DENSE_GROUP. out, a and b are flat arrays of one float type,
    index of int32; the rest are offsets and strides in elements. With the numbers 0, 1, 2, ... as index it is a dense
    product. Unless ``fresh`` is 0, out is set, whatever it holds.
    """
    long = types.int64
    signature = types.void(long, long, out, long, long, a, long, long, long, index, long, b, long, long, long, long)
    element = out.dtype

    def codegen(context, builder, sig, args):
        outs, factors, indices, rows = (_pointer(context, builder, sig.args[k], args[k]) for k in (2, 5, 9, 11))
        group, vectors, _, o, o_row, _, at, a_k, a_g, _, i, _, p, b_row, count, fresh = args
        begin = [builder.gep(base, [first]) for base, first in ((outs, o), (indices, i), (rows, p))]
        plain = [builder.gep(factors, [at]), a_k, a_g]
        arguments = [group, vectors, begin[0], o_row, *begin[1:], b_row, count, fresh, *plain]
        shapes = {*itertools.product((1, 2, GROUP, DENSE_GROUP), range(1, PANEL + 1)), (GROUP, 0), (DENSE_GROUP, 0)}
        name = f"fastmlp_tile_{element}"
        _call_for_shape(builder, name, arguments, shapes, _tile_body, element, _plain_factors)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def coded_tile(typingctx, vectors, out, o, o_row, codes, at, table, index, i, b, p, b_row, count):
    """Do as `tile` with the factors table[codes[at + k GROUP + g]], codes of uint8: no decoded copy exists."""
    long = types.int64
    signature = types.void(long, out, long, long, codes, long, table, index, long, b, long, long, long)
    element = out.dtype

    def codegen(context, builder, sig, args):
        outs, numbers, decoded, indices, rows = (
            _pointer(context, builder, sig.args[k], args[k]) for k in (1, 4, 6, 7, 9)
        )
        vectors, _, o, o_row, _, at, _, _, i, _, p, b_row, count = args
        begin = [builder.gep(base, [first]) for base, first in ((outs, o), (indices, i), (rows, p))]
        group, adding = ir.IntType(64)(GROUP), ir.IntType(64)(0)
        coded = [builder.gep(numbers, [at]), decoded]
        arguments = [group, vectors, begin[0], o_row, *begin[1:], b_row, count, adding, *coded]
        shapes = [(GROUP, count) for count in range(PANEL + 1)]
        name = f"fastmlp_coded_tile_{element}"
        _call_for_shape(builder, name, arguments, shapes, _tile_body, element, _coded_factors)
        return context.get_dummy_value()

    return signature, codegen


def _sparse_rows_body(builder, arguments, vectors, fresh, element):
    """Emit `sparse_rows` for so many vectors, and return from the function."""
    vector, lanes = _vector_type(element)
    rows, out, o_row, value, index, starts, b, b_row = arguments
    i64 = ir.IntType(64)

    def grow(k, sums):
        return _add_listed_row(builder, k, index, b, b_row, [builder.load(builder.gep(value, [k]))], sums, element)

    zeros = [ir.Constant(vector, [0.0] * lanes)] * vectors
    at_once = -(-_CHAINS // vectors)
    with cgutils.for_range(builder, rows) as loop:
        at = builder.gep(starts, [loop.index])
        start, stop = builder.load(at), builder.load(builder.gep(at, [i64(1)]))
        k, sums = _sum_entries(builder, start, stop, [zeros] * at_once, at_once, grow)
        if at_once > 1:
            _, sums[:1] = _sum_entries(builder, k, stop, sums[:1], 1, grow)
        for v, parts in enumerate(zip(*sums, strict=True)):
            pointer = builder.gep(out, [builder.add(builder.mul(o_row, loop.index), i64(v * lanes))])
            total = functools.reduce(builder.fadd, parts)
            if not fresh:
                total = builder.fadd(_load(builder, pointer, vector, element), total)
            _store(builder, total, pointer, element)
    builder.ret_void()


@intrinsic
def sparse_rows(typingctx, vectors, fresh, rows, out, o, o_row, value, index, starts, s, b, p, b_row):
    """out[o + r o_row + c] += sum_e value[e] b[p + index[e] b_row + c], r < rows.

    starts[s + r] <= e < starts[s + r + 1]; c runs over ``vectors``, one of STRIPS. The arrays are as those of `tile`,
    starts of int64. With ``fresh``, 1 and not 0, out is set.
    """
    long = types.int64
    signature = types.void(long, long, long, out, long, long, value, index, starts, long, b, long, long)
    element = out.dtype

    def codegen(context, builder, sig, args):
        outs, values, indices, begins, rows_of_b = (
            _pointer(context, builder, sig.args[k], args[k]) for k in (3, 6, 7, 8, 10)
        )
        vectors, fresh, rows, _, o, o_row, _, _, _, s, _, p, b_row = args
        begin = [builder.gep(base, [first]) for base, first in ((outs, o), (begins, s), (rows_of_b, p))]
        arguments = [vectors, fresh, rows, begin[0], o_row, values, indices, *begin[1:], b_row]
        shapes, name = itertools.product(STRIPS, (0, 1)), f"fastmlp_sparse_rows_{element}"
        _call_for_shape(builder, name, arguments, shapes, _sparse_rows_body, element)
        return context.get_dummy_value()

    return signature, codegen


def _dot_body(builder, arguments, rows, columns, element):
    """Emit the tile of ``rows`` x ``columns`` inner products, and return from the function."""
    vector, lanes = _vector_type(element)
    out, o_row, a, a_row, b, b_row, count = arguments
    i64, i32 = ir.IntType(64), ir.IntType(32)
    cells = [(r, c) for r in range(rows) for c in range(columns)]

    def starts(base, row, number):
        return [builder.gep(base, [builder.mul(row, i64(one))]) for one in range(number)]

    at_a, at_b = starts(a, a_row, rows), starts(b, b_row, columns)

    def grow_vectors(k, sums):
        offset = builder.mul(k, i64(lanes))
        of_a = [_load(builder, builder.gep(at, [offset]), vector, element) for at in at_a]
        of_b = (_load(builder, builder.gep(at, [offset]), vector, element) for at in at_b)
        return _add_outer_product(builder, of_a, of_b, sums)

    def grow(k, sums):
        of_a, of_b = ([builder.load(builder.gep(at, [k])) for at in some] for some in (at_a, at_b))
        products = [builder.fmul(of_a[r], of_b[c]) for r, c in cells]
        return [builder.fadd(product, total) for product, total in zip(products, sums, strict=True)]

    def add_to_row(r, sums):
        pointer = builder.gep(out, [builder.mul(o_row, i64(r))])
        _store(builder, builder.fadd(_load(builder, pointer, sums.type, element), sums), pointer, element)

    zeros = [ir.Constant(vector, [0.0] * lanes)] * len(cells)
    at_once = -(-_CHAINS // len(cells))
    whole = builder.sdiv(count, i64(lanes))
    k, sums = _sum_entries(builder, i64(0), whole, [zeros] * at_once, at_once, grow_vectors)
    if at_once > 1:
        _, sums[:1] = _sum_entries(builder, k, whole, sums[:1], 1, grow_vectors)
    totals = [functools.reduce(builder.fadd, parts) for parts in zip(*sums, strict=True)]
    for r in range(rows):
        add_to_row(r, _sums_of_lanes(builder, totals[r * columns : (r + 1) * columns]))
    first = builder.mul(whole, i64(lanes))
    with builder.if_then(builder.icmp_signed("<", first, count)):
        zero = ir.Constant(vector.element, 0.0)
        _, [totals] = _sum_entries(builder, first, count, [[zero] * len(cells)], 1, grow)
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
        vectors = [builder.fadd(_shuffle(builder, a, b, lower), _shuffle(builder, a, b, upper)) for a, b in pairs]
        length //= 2
    while len(vectors) > 1:
        vectors = [
            _shuffle(builder, a, b, range(2 * a.type.count)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return _shuffle(builder, vectors[0], vectors[0], range(count))


@intrinsic
def dot_tile(typingctx, rows, columns, out, o, o_row, a, at, a_row, b, p, b_row, count):
    """out[o + r o_row + c] += sum_k a[at + r a_row + k] b[p + c b_row + k], k < count, r < rows, c < columns.

    rows is 1 or DOT_ROWS, columns is 1, 2 or DOT_COLUMNS; the arrays are as those of `tile`.
    """
    long = types.int64
    signature = types.void(long, long, out, long, long, a, long, long, b, long, long, long)
    element = out.dtype

    def codegen(context, builder, sig, args):
        outs, left, right = (_pointer(context, builder, sig.args[k], args[k]) for k in (2, 5, 8))
        rows, columns, _, o, o_row, _, at, a_row, _, p, b_row, count = args
        begin = [builder.gep(base, [first]) for base, first in ((outs, o), (left, at), (right, p))]
        arguments = [rows, columns, begin[0], o_row, begin[1], a_row, begin[2], b_row, count]
        shapes = list(itertools.product({1, DOT_ROWS}, {1, 2, DOT_COLUMNS}))
        _call_for_shape(builder, f"fastmlp_dot_{element}", arguments, shapes, _dot_body, element)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose(typingctx, out, o, o_row, x, at, x_row):
    """out[o + j o_row + i] = x[at + i x_row + j], i and j below the lanes of a vector; flat arrays of one type."""
    long, element = types.int64, out.dtype

    def codegen(context, builder, sig, args):
        to, source = (_pointer(context, builder, sig.args[k], args[k]) for k in (0, 3))
        _, o, o_row, _, at, x_row = args
        vector, lanes = _vector_type(element)

        def rows_of(base, first, row):
            numbers = (builder.mul(row, ir.IntType(64)(i)) for i in range(lanes))
            return [builder.gep(base, [builder.add(first, number)]) for number in numbers]

        rows = [_load(builder, pointer, vector, element) for pointer in rows_of(source, at, x_row)]
        for s in (2**k for k in range(lanes.bit_length() - 1)):
            # Of each two rows that are s apart, one takes the first of each two runs of s lanes, the other the second.
            for i in (i for i in range(lanes) if not i & s):
                pair = rows[i], rows[i + s]
                rows[i] = _shuffle(builder, *pair, [k + lanes - s if k & s else k for k in range(lanes)])
                rows[i + s] = _shuffle(builder, *pair, [k + lanes if k & s else k + s for k in range(lanes)])
        for value, pointer in zip(rows, rows_of(to, o, o_row), strict=True):
            _store(builder, value, pointer, element)
        return context.get_dummy_value()

    return types.void(out, long, long, x, long, long), codegen


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
        indices, values, source = (_pointer(context, builder, sig.args[k], args[k]) for k in (1, 2, 4))
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
        pointer = builder.gep(_pointer(context, builder, sig.args[0], args[0]), [args[1]])
        numbers = _load(builder, pointer, kind, element)
        return builder.bitcast(builder.fcmp_unordered("!=", numbers, kind([0.0] * 64)), ir.IntType(64))

    return types.uint64(x, types.int64), codegen


def _borrow(context, builder, kind, value):
    """Return an argument whose arrays, also those in tuples, name no owner."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        for owner in ("meminfo", "parent"):
            setattr(array, owner, cgutils.get_null_value(getattr(array, owner).type))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        items = zip(kind.types, cgutils.unpack_tuple(builder, value, len(kind.types)), strict=True)
        return context.make_tuple(builder, kind, [_borrow(context, builder, *item) for item in items])
    return value


@intrinsic
def spread(typingctx, launcher, address, arguments, workers):
    """Call the compiled function at ``address`` for each of the workers: the items of a tuple, its number, ``workers``.

    It returns nothing; what it raises for a worker is raised when all are done. One after the other if ``launcher`` is
    0, else by the function there, which does `work` in parallel. An address is data: the caller neither contains a
    function nor compiles it again, and the arguments pass through memory, so that one launcher serves all of them.

    The function borrows its arrays from the caller. If it knew their owners it would count references to them, with
    atomic operations on what all workers share: they took a third of the time of 1000 samples of 784-1-10 where two
    cores share no cache.
    """
    i64, number = ir.IntType(64), types.int64
    items = (*arguments.types, number, number)

    def codegen(context, builder, sig, args):
        launcher, address, arguments, workers = args
        convention = context.call_conv
        values = cgutils.unpack_tuple(builder, _borrow(context, builder, sig.args[2], arguments), len(items) - 2)
        at_code, at_exception, at_address, at_values = range(4)
        kinds = [ir.IntType(32), ir.PointerType(excinfo_t), address.type, *(value.type for value in values)]
        stored = cgutils.alloca_once(builder, ir.LiteralStructType(kinds), zfill=True)
        for place, value in enumerate((address, *values), at_address):
            builder.store(value, cgutils.gep_inbounds(builder, stored, 0, place))

        name = f"{builder.function.name}.worker"
        worker = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [i64] * 3), name)
        worker.linkage = "internal"
        inner = ir.IRBuilder(worker.append_basic_block("entry"))
        there = inner.inttoptr(worker.args[0], stored.type)
        places = [cgutils.gep_inbounds(inner, there, 0, place) for place in range(len(kinds))]
        loaded = [inner.load(pointer) for pointer in places[at_values:]]
        body_type = convention.get_function_type(types.none, items).as_pointer()
        body = inner.inttoptr(inner.load(places[at_address]), body_type)
        status, _ = convention.call_function(inner, body, types.none, items, [*loaded, *worker.args[1:]])
        with cgutils.if_unlikely(inner, status.is_error):
            # Not raised here: what is raised inside of `prange` is lost. Of several one is as good as another.
            inner.store(status.excinfoptr, places[at_exception])
            inner.store(status.code, places[at_code])
        inner.ret_void()

        with builder.if_else(builder.icmp_signed("==", launcher, i64(0))) as (serially, in_parallel):
            with serially, cgutils.for_range(builder, workers) as loop:
                builder.call(worker, [builder.ptrtoint(stored, i64), loop.index, workers])
            with in_parallel:
                numbers = [builder.ptrtoint(pointer, i64) for pointer in (worker, stored)]
                kind = convention.get_function_type(types.none, [number] * 3)
                function = builder.inttoptr(launcher, kind.as_pointer())
                convention.call_function(builder, function, types.none, [number] * 3, [*numbers, workers])
        code, exception = (
            builder.load(cgutils.gep_inbounds(builder, stored, 0, place)) for place in (at_code, at_exception)
        )
        status = convention._get_return_status(builder, code, exception)
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(number, number, arguments, number), codegen


@intrinsic
def work(typingctx, address, arguments, worker, workers):
    """Do a worker's part of `spread`: call the function at ``address`` with the address of the arguments."""
    i64 = ir.IntType(64)

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [i64] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def outline(typingctx):
    """Keep the function that calls this from being inlined: LLVM then compiles its loops once, not once per caller."""

    def codegen(context, builder, sig, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def choose(typingctx, condition, a, b):
    """Return a where the condition holds, else b, for floats.

    Where one of them is what lies at the place of the result, LLVM would make a masked store of the choice, which is
    slow on AMD's cores before AVX-512: the ReLU of a step on MNIST took 3.7 ms, so it takes 1.7. ``canonicalize``, a
    product with 1, stands between.
    """

    def codegen(context, builder, sig, args):
        kind = args[1].type
        name = f"llvm.canonicalize.{'f64' if kind == ir.DoubleType() else 'f32'}"
        same = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(same, [builder.select(*args)])

    return a(types.boolean, a, a), codegen


@intrinsic
def smallest_normal(typingctx, x):
    """Return the smallest positive normal number of the dtype of x.

    Not ``np.finfo``: what is compiled with that imports SciPy, where it is installed, when it comes from the cache.
    """
    tiny = _LOG[x.dtype].tiny
    return x.dtype(x), lambda context, builder, sig, args: context.get_constant(sig.return_type, tiny)


@intrinsic
def line_start(typingctx, x):
    """Return the first element of a flat array that begins on a cache line."""
    size = x.dtype.bitwidth // 8

    def codegen(context, builder, sig, args):
        i64 = ir.IntType(64)
        address = builder.ptrtoint(_pointer(context, builder, sig.args[0], args[0]), i64)
        return builder.udiv(builder.and_(builder.neg(address), i64(LINE_BYTES - 1)), i64(size))

    return types.int64(x), codegen


@intrinsic
def take(typingctx, counter):
    """Return counter[0], an int64, and add one to it: of several threads each gets another number."""

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0])
        return builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), codegen


@intrinsic
def population_count(typingctx, number):
    """Return how many bits of a uint64 are set."""
    return types.uint64(types.uint64), lambda context, builder, sig, args: builder.ctpop(args[0])


class _Exp:
    """Constants of exp(x) = 2^k exp(r), x = k ln 2 + r, and exp(r) = 1 + r + r^2 q(r).

    With k an integer |r| <= ln(2) / 2. AVX-512 holds the 16 powers 2^0, 2^(1/16), ... in two registers: there k is a
    multiple of 1/16, and ``short`` is q for |r| <= ln(2) / 32. q interpolates at Chebyshev's points, which leaves up to
    two degrees less than Taylor's polynomial; the error is below eps / 7. ln 2 is split (Cody and Waite) so that k
    times its upper part is exact. Without AVX-512, 2^k is applied in two factors, because k itself leaves the range of
    exponents where the result is subnormal.
    """

    def __init__(self, dtype):
        double = dtype == np.float64
        self.bits, self.mantissa, self.bias = (64, 52, 1023) if double else (32, 23, 127)
        self.lowest, self.highest = (-746.0, 710.0) if double else (-104.0, 89.0)
        self.ln2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10) if double else (0.693359375, -2.12194440e-4)
        self.round = 1.5 * 2.0**self.mantissa  # adding it rounds to an integer, which then stands in the low bits
        self.polynomial = (
            (1.0, 1.0, 0.5000000000000001, 0.16666666666666669, 0.04166666666662413, 0.008333333333330062,
             0.0013888888917213717, 0.00019841269863053618, 2.4801521295954376e-05, 2.7557268459997064e-06,
             2.7620088445409746e-07, 2.510038549551032e-08)
            if double
            else (1.0, 1.0, 0.5, 0.16666576989698775, 0.041666554617204574, 0.008363179052722578, 0.0013926183587713494)
        )  # fmt: skip
        self.short = (
            (0.5, 0.1666666666530169, 0.04166666666496045, 0.008333449701253456, 0.0013889034348599464)
            if double
            else (0.5000097749180301, 0.16666862164590476)
        )
        self.table = [2.0 ** (k / 16) for k in range(16)]


_EXP = {types.float64: _Exp(np.float64), types.float32: _Exp(np.float32)}


def _exp(builder, x, constants):
    """Emit exp of a scalar or a vector; both give the same bits."""
    if "avx512f" not in _FEATURES:
        return _exp_by_polynomial(builder, x, constants)
    lanes = 512 // constants.bits
    if not isinstance(x.type, ir.VectorType):
        every_lane = _splat(builder, x, ir.VectorType(x.type, lanes))
        return builder.extract_element(_exp_by_table(builder, every_lane, constants), ir.IntType(32)(0))
    parts = [
        _exp_by_table(builder, _shuffle(builder, x, x, range(first, first + lanes)), constants)
        for first in range(0, x.type.count, lanes)
    ]
    return functools.reduce(lambda a, b: _shuffle(builder, a, b, range(a.type.count + b.type.count)), parts)


def _reduce(builder, x, constants, round_by):
    """Return the sum whose low bits are k, k, and r = x - k ln 2; 1.5 * 2^e as ``round_by`` rounds to its last bit."""
    kind = x.type
    # Comparisons that are false for NaN, so that NaN passes.
    x = builder.select(builder.fcmp_ordered("<", x, kind(constants.lowest)), kind(constants.lowest), x)
    x = builder.select(builder.fcmp_ordered(">", x, kind(constants.highest)), kind(constants.highest), x)
    shifted = _multiply_add(builder, x, kind(1.4426950408889634), kind(round_by))
    k = builder.fsub(shifted, kind(round_by))
    r = _multiply_add(builder, k, kind(-constants.ln2[0]), x)
    return shifted, k, _multiply_add(builder, k, kind(-constants.ln2[1]), r)


def _horner(builder, polynomial, r):
    value = r.type(polynomial[-1])
    for coefficient in reversed(polynomial[:-1]):
        value = _multiply_add(builder, value, r, r.type(coefficient))
    return value


def _exp_by_polynomial(builder, x, constants):
    kind, whole = x.type, ir.IntType(constants.bits)
    if isinstance(kind, ir.VectorType):
        whole = ir.VectorType(whole, kind.count)
    shifted, _, r = _reduce(builder, x, constants, constants.round)
    p = _horner(builder, constants.polynomial, r)
    bits_of_round = int(np.array(constants.round, f"f{constants.bits // 8}").view(f"i{constants.bits // 8}"))
    k = builder.sub(builder.bitcast(shifted, whole), whole(bits_of_round))
    half = builder.ashr(k, whole(1))
    for exponent in (half, builder.sub(k, half)):
        power = builder.shl(builder.add(exponent, whole(constants.bias)), whole(constants.mantissa))
        p = builder.fmul(p, builder.bitcast(power, kind))
    return p


def _exp_by_table(builder, x, constants):
    """Emit exp of a vector of AVX-512: 12 multiplications or multiply-adds for float64, where a polynomial takes 15."""
    kind, whole = x.type, ir.VectorType(ir.IntType(constants.bits), x.type.count)
    shifted, k, r = _reduce(builder, x, constants, constants.round / 16)
    p = _multiply_add(builder, builder.fmul(r, r), _horner(builder, constants.short, r), r)
    # The instruction heeds no more of its index than the low bits, which say how many sixteenths k has.
    index, parts = builder.bitcast(shifted, whole), np.split(np.array(constants.table), 16 // kind.count)
    tables = [ir.Constant(kind, part.tolist()) for part in parts]
    if len(tables) == 1:
        name, arguments = "llvm.x86.avx512.permvar.sf.512", [tables[0], index]
    else:
        name, arguments = "llvm.x86.avx512.vpermi2var.pd.512", [tables[0], index, tables[1]]
    signature = ir.FunctionType(kind, [argument.type for argument in arguments])
    root = builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)
    return _scale(builder, _multiply_add(builder, root, p, root), k)


def _scale(builder, p, k):
    """Emit p 2^floor(k) by the one instruction of AVX-512 for it, which rounds a subnormal result once."""
    mask, mode = ir.IntType(p.type.count), ir.IntType(32)
    name = f"llvm.x86.avx512.mask.scalef.{'pd' if p.type.count == 8 else 'ps'}.512"
    signature = ir.FunctionType(p.type, [p.type, p.type, p.type, mask, mode])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    current_rounding = mode(4)
    return builder.call(function, [p, k, p, mask(-1), current_rounding])


@intrinsic
def exp(typingctx, x):
    """Return exp(x), within 1.25 ULP; within 2 where the target has no multiply-add.

    By the code, and with the bits, of the vectors of `exp_columns`.
    """
    constants = _EXP[x]
    return x(x), lambda context, builder, sig, args: _exp(builder, args[0], constants)


def _column(builder, kind, rows, at_z, z_row, at_out, out_row, element):
    """Emit `exp_columns` for one column, or a vector of them; return what is subtracted, the sum, and the row."""
    i64 = ir.IntType(64)
    zero = kind(0.0)

    def row(base, i, stride):
        return builder.gep(base, [builder.mul(i, stride)])

    largest = cgutils.alloca_once_value(builder, _load(builder, at_z, kind, element))
    best = cgutils.alloca_once_value(builder, zero)
    with cgutils.for_range(builder, rows) as loop:
        x, most = _load(builder, row(at_z, loop.index, z_row), kind, element), builder.load(largest)
        number = builder.sitofp(loop.index, getattr(kind, "element", kind))
        if isinstance(kind, ir.VectorType):
            number = _splat(builder, number, kind)
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
            x = _load(builder, row(at_z, loop.index, z_row), kind, element)
            e = _exp(builder, builder.fsub(x, shift), _EXP[element])
            _store(builder, e, row(at_out, loop.index, out_row), element)
            add(e)

    with builder.if_else(builder.icmp_signed("<=", rows, i64(_FEW_ROWS))) as (few, many):
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
    vector, lanes = _vector_type(sig.args[0].dtype)
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
        to = [_pointer(context, builder, sig.args[k], args[k]) for k in (2, 3, 4)]

        def emit(j, kind, rows, at_z, z_row, at_out, out_row):
            results = _column(builder, kind, rows, at_z, z_row, at_out, out_row, element)
            for result, pointer in zip(results, to, strict=True):
                _store(builder, result, builder.gep(pointer, [j]), element)

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
                _store(builder, builder.fmul(_load(builder, pointer, kind, element), inverse), pointer, element)

        return _each_column(context, builder, sig, args, emit)

    return types.void(out, z, types.int64, types.int64), codegen


class _Log:
    """Constants of log(x) = k ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)).

    log(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + R)), s = f / (2 + f), R a polynomial in s^2: the minimax polynomials of
    fdlibm's e_log.c and of FreeBSD's e_logf.c.
    """

    def __init__(self, dtype):
        double = dtype == np.float64
        self.bits, self.mantissa, self.bias = (64, 52, 1023) if double else (32, 23, 127)
        self.tiny = float(np.finfo(dtype).tiny)
        self.lift = 54 if double else 25  # 2^lift brings a subnormal number into the range of the normal ones
        self.ln2 = (
            (6.93147180369123816490e-01, 1.90821492927058770002e-10) if double else (6.9313812256e-01, 9.0580006145e-06)
        )
        self.polynomial = (
            (6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
             1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01)
            if double
            else (0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841)
        )  # fmt: skip
        # The bits of sqrt(1/2): what is taken from the bits of x before its exponent is read off.
        self.root = int(np.sqrt(dtype(0.5)).view(f"u{self.bits // 8}"))


_LOG = {types.float64: _Log(np.float64), types.float32: _Log(np.float32)}


def _log(builder, x, constants):
    scalar, whole = x.type, ir.IntType(constants.bits)
    subnormal = builder.fcmp_ordered("<", x, scalar(constants.tiny))
    lifted = builder.select(subnormal, builder.fmul(x, scalar(2.0**constants.lift)), x)
    number = builder.bitcast(lifted, whole)
    exponent = builder.ashr(builder.sub(number, whole(constants.root)), whole(constants.mantissa))
    reduced = builder.sub(number, builder.shl(exponent, whole(constants.mantissa)))
    f = builder.fsub(builder.bitcast(reduced, scalar), scalar(1.0))
    exponent = builder.sub(exponent, builder.select(subnormal, whole(constants.lift), whole(0)))
    # An integer of few bits becomes a float by the bits of 1.5 * 2^mantissa: no target lacks the instructions.
    shift = 1.5 * 2.0**constants.mantissa
    k = builder.bitcast(builder.add(exponent, builder.bitcast(scalar(shift), whole)), scalar)
    k = builder.fsub(k, scalar(shift))
    s = builder.fdiv(f, builder.fadd(scalar(2.0), f))
    z = builder.fmul(s, s)
    r = scalar(constants.polynomial[-1])
    for coefficient in reversed(constants.polynomial[:-1]):
        r = builder.fadd(builder.fmul(r, z), scalar(coefficient))
    r = builder.fmul(r, z)
    half = builder.fmul(scalar(0.5), builder.fmul(f, f))
    low = builder.fadd(builder.fmul(s, builder.fadd(half, r)), builder.fmul(k, scalar(constants.ln2[1])))
    high = builder.fsub(f, builder.fsub(half, low))
    result = builder.fadd(builder.fmul(k, scalar(constants.ln2[0])), high)
    # 0 gives -inf, infinity itself, below 0 NaN; NaN has passed.
    result = builder.select(builder.fcmp_ordered("==", x, scalar(float("inf"))), x, result)
    result = builder.select(builder.fcmp_ordered("==", x, scalar(0.0)), scalar(float("-inf")), result)
    return builder.select(builder.fcmp_unordered("<", x, scalar(0.0)), scalar(float("nan")), result)


@intrinsic
def log(typingctx, x):
    """Return log(x), within 1 ULP.

    Scalar IR without branches or calls: in a loop LLVM makes vectors of it, where one of ``math.log`` makes calls.
    """
    constants = _LOG[x]
    return x(x), lambda context, builder, sig, args: _log(builder, args[0], constants)
