"""Updates of optimizers, several in a row: the parameters stay in registers from one to the next.

The formulas are those of `fastmlp.kernels.rules`, element by element, in that order and without contraction.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.dot import sums_of_lanes
from fastmlp.kernels.vector.ir import by_lanes, load, multiply_add, splat, store, vector_type
from fastmlp.kernels.vector.operands import address_in, element_of

NUMBERS = 4  # those of an update: see `rules.Numbers`
_I64 = ir.IntType(64)


class Updates(NamedTuple):
    """Updates ``first`` to below ``stop`` of a table of `NUMBERS` for each; those whose ``share`` is 0 are not made."""

    numbers: Any
    share: Any
    first: int
    stop: int


class State(NamedTuple):
    """The addresses of parameters, of the state of their optimizer, and of the gradient of the first update."""

    p: Any
    m: Any
    v: Any
    g: Any


class Squares(NamedTuple):
    """Where the sum of the squares of the parameters before update u goes, if it is ``wanted``: ``start[u * stride]``.

    ``lanes`` has room for a vector for each update.
    """

    start: Any
    stride: int
    lanes: Any
    wanted: int


class _Numbers(NamedTuple):
    step: Any
    scale: Any
    keep: Any
    l2: Any


def _numbers_of(builder, updates, update, penalized, vector, element):
    """Emit the numbers of an update, as vectors."""
    at = builder.gep(updates.numbers, [builder.mul(update, _I64(NUMBERS))])
    loaded = [load(builder, builder.gep(at, [_I64(k)]), vector.element, element) for k in range(NUMBERS)]
    loaded[3] = builder.select(penalized, loaded[3], vector.element(0.0))
    return _Numbers(*(splat(builder, one, vector) for one in loaded))


def _emit_adam(builder, constants, numbers, state, g):
    first, second, rest, other, eps = constants
    p, m, v = state
    slope = builder.fadd(g, builder.fmul(numbers.l2, p))
    mean = builder.fadd(builder.fmul(first, m), builder.fmul(rest, slope))
    square = builder.fadd(builder.fmul(second, v), builder.fmul(other, builder.fmul(slope, slope)))
    root = builder.fadd(builder.fmul(numbers.scale, by_lanes(builder, "sqrt", square)), eps)
    moved = builder.fmul(numbers.step, builder.fdiv(mean, root))
    return builder.fsub(builder.fmul(numbers.keep, p), moved), mean, square


def _emit_momentum(builder, constants, numbers, state, g):
    first, *_ = constants
    p, m = state
    slope = builder.fmul(numbers.scale, builder.fadd(g, builder.fmul(numbers.l2, p)))
    moved = builder.fadd(builder.fmul(first, m), slope)
    return builder.fsub(builder.fmul(numbers.keep, p), builder.fmul(numbers.step, moved)), moved


def _emit_nesterov(builder, constants, numbers, state, g):
    first, *_ = constants
    p, m = state
    slope = builder.fmul(numbers.scale, builder.fadd(g, builder.fmul(numbers.l2, p)))
    moved = builder.fadd(builder.fmul(first, m), slope)
    direction = builder.fadd(slope, builder.fmul(first, moved))
    return builder.fsub(builder.fmul(numbers.keep, p), builder.fmul(numbers.step, direction)), moved


def _emit_descent(builder, constants, numbers, state, g):
    (p,) = state
    slope = builder.fadd(g, builder.fmul(numbers.l2, p))
    return (builder.fsub(builder.fmul(numbers.keep, p), builder.fmul(numbers.step, slope)),)


# The vectors of each optimizer's state, parameters included; of Adam the size of the moments needs no limit.
_RULES = {
    "adam": (_emit_adam, 3, 1),
    "momentum": (_emit_momentum, 2, 2),
    "nesterov": (_emit_nesterov, 2, 2),
    "descent": (_emit_descent, 1, 1),
}


def _phis(builder, incoming, block):
    made = [builder.phi(one.type) for one in incoming]
    for phi, one in zip(made, incoming, strict=True):
        phi.add_incoming(one, block)
    return made


def _emit_later(builder, updates, make, before):
    """Emit the updates behind the first one, without a gradient; return the state after them."""
    entry = builder.basic_block
    head, made, following, end = (builder.append_basic_block(name) for name in ("head", "made", "following", "end"))
    second = builder.add(updates.first, _I64(1))
    builder.branch(head)
    builder.position_at_end(head)
    update, *state = phis = _phis(builder, [second, *before], entry)
    builder.cbranch(builder.icmp_signed("<", update, updates.stop), made, end)
    builder.position_at_end(made)
    share = builder.load(builder.gep(updates.share, [update]))
    skipped = builder.fcmp_ordered("==", share, share.type(0.0))
    wanted = builder.append_basic_block("wanted")
    builder.cbranch(skipped, following, wanted)
    builder.position_at_end(wanted)
    after = make(builder, update, state)
    last = builder.basic_block
    builder.branch(following)
    builder.position_at_end(following)
    results = _phis(builder, state, made)
    for phi, one in zip(results, after, strict=True):
        phi.add_incoming(one, last)
    grown = builder.add(update, _I64(1))
    builder.branch(head)
    for phi, one in zip(phis, [grown, *results], strict=True):
        phi.add_incoming(one, following)
    builder.position_at_end(end)
    return state


def _add_square(builder, p, at, fresh, element):
    """Emit the addition of the squares of a vector to the lanes of a sum."""
    before = builder.select(fresh, p.type(0.0), load(builder, at, p.type, element))
    store(builder, multiply_add(builder, p, p, before), at, element)


def _sum_of_lanes(builder, lanes):
    total = builder.extract_element(sums_of_lanes(builder, [lanes]), ir.IntType(32)(0))
    return total if total.type == ir.DoubleType() else builder.fpext(total, ir.DoubleType())


def _store_squares(builder, updates, squares, vector, element):
    """Emit the sums of the lanes of each update that was made."""
    with cgutils.for_range_slice(builder, updates.first, updates.stop, _I64(1)) as (update, _):
        share = builder.load(builder.gep(updates.share, [update]))
        with builder.if_then(builder.fcmp_ordered("!=", share, share.type(0.0))):
            lanes = builder.gep(squares.lanes, [builder.mul(builder.sub(update, updates.first), _I64(vector.count))])
            total = _sum_of_lanes(builder, load(builder, lanes, vector, element))
            builder.store(total, builder.gep(squares.start, [builder.mul(update, squares.stride)]))


def _emit_rows(builder, name, arguments, element):
    """Emit the function that makes updates of whole vectors; it returns whether no element passes the limit."""
    emit, vectors, limited = _RULES[name]
    vector, lanes = vector_type(element)
    *places, g, count, numbers, share, first, stop, constants, penalized, limit, start, stride, room, wanted = arguments
    updates, squares = Updates(numbers, share, first, stop), Squares(start, stride, room, wanted)
    wanted = builder.icmp_signed(">", wanted, _I64(0))
    penalized = builder.icmp_signed(">", penalized, _I64(0))
    fixed = [
        splat(builder, load(builder, builder.gep(constants, [_I64(k)]), vector.element, element), vector)
        for k in range(5)
    ]
    zero, most = vector(0.0), splat(builder, limit, vector)
    numbers_of_first = _numbers_of(builder, updates, first, penalized, vector, element)
    within = cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * lanes))

    def add_square(update, p, c):
        with builder.if_then(wanted):
            at = builder.gep(room, [builder.mul(builder.sub(update, first), _I64(lanes))])
            _add_square(builder, p, at, builder.icmp_signed("==", c, _I64(0)), element)

    with cgutils.for_range_slice(builder, _I64(0), count, _I64(lanes)) as (c, _):

        def make(builder, update, state):
            add_square(update, state[0], c)
            return emit(builder, fixed, _numbers_of(builder, updates, update, penalized, vector, element), state, zero)

        pointers = [builder.gep(place, [c]) for place in places[:vectors]]
        state = [load(builder, pointer, vector, element) for pointer in pointers]
        slope = load(builder, builder.gep(g, [c]), vector, element)
        add_square(first, state[0], c)
        state = _emit_later(builder, updates, make, emit(builder, fixed, numbers_of_first, state, slope))
        for pointer, one in zip(pointers, state, strict=True):
            store(builder, one, pointer, element)
        for one in state[:limited]:
            small = builder.fcmp_ordered("<=", by_lanes(builder, "fabs", one), most)
            builder.store(builder.and_(builder.load(within), small), within)
    with builder.if_then(wanted):
        _store_squares(builder, updates, squares, vector, element)
    all_bits = ir.IntType(lanes)
    builder.ret(builder.icmp_unsigned("==", builder.bitcast(builder.load(within), all_bits), all_bits(2**lanes - 1)))


def _updating(name):
    """Return the code of an intrinsic that makes updates by this rule."""

    def codegen(context, builder, sig, args):
        state, count, updates, constants, penalized, limit, squares = args
        element = sig.args[0].types[0].dtype
        places, table, sums = (cgutils.unpack_tuple(builder, one, 4) for one in (state, updates, squares))
        arguments = [*places, count, *table, constants, penalized, limit, *sums]
        kind = ir.FunctionType(ir.IntType(1), [one.type for one in arguments])
        function = cgutils.get_or_insert_function(builder.module, kind, f"fastmlp_updates_{name}_{element}")
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            _emit_rows(ir.IRBuilder(function.append_basic_block("entry")), name, function.args, element)
        return builder.call(function, arguments)

    return codegen


def _signature(state, updates, constants, squares):
    return types.boolean(state, types.int64, updates, constants, types.int64, state.types[0].dtype, squares)


@intrinsic
def adam_updates(typingctx, state, count, updates, constants, penalized, limit, squares):
    """Make `Updates` of ``count`` parameters, of a `State`, whole vectors; only the first one has a gradient.

    ``constants`` is the address of first, second, 1 - first, 1 - second and eps; the penalty acts if ``penalized``.
    Returns whether no parameter, and no momentum, is larger than the limit, or NaN.
    """
    return _signature(state, updates, constants, squares), _updating("adam")


@intrinsic
def momentum_updates(typingctx, state, count, updates, constants, penalized, limit, squares):
    """Do as `adam_updates` for descent with momentum."""
    return _signature(state, updates, constants, squares), _updating("momentum")


@intrinsic
def nesterov_updates(typingctx, state, count, updates, constants, penalized, limit, squares):
    """Do as `adam_updates` for descent with Nesterov's momentum."""
    return _signature(state, updates, constants, squares), _updating("nesterov")


@intrinsic
def descent_updates(typingctx, state, count, updates, constants, penalized, limit, squares):
    """Do as `adam_updates` for plain descent."""
    return _signature(state, updates, constants, squares), _updating("descent")


@intrinsic
def squares_of_row(typingctx, base, at, count):
    """Return the sum of the squares of ``count`` elements from ``at`` on, whole vectors, as the updates add it up."""
    element = element_of(base)

    def codegen(context, builder, sig, args):
        vector, lanes = vector_type(element)
        start, total = address_in(context, builder, sig.args[0], *args[:2]), cgutils.alloca_once_value(builder, vector(0.0))
        with cgutils.for_range_slice(builder, _I64(0), args[2], _I64(lanes)) as (c, _):
            one = load(builder, builder.gep(start, [c]), vector, element)
            builder.store(multiply_add(builder, one, one, builder.load(total)), total)
        return _sum_of_lanes(builder, builder.load(total))

    return types.float64(base, types.int64, types.int64), codegen
