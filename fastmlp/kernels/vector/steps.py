"""Updates of optimizers, several in a row: the parameters stay in registers from one to the next.

The formulas are those of `fastmlp.kernels.rules`, element by element, in that order and without contraction.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.ir import by_lanes, load, multiply_add, splat, store, vector_type

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


class RowUpdate(NamedTuple):
    """Addresses of an update by Adam: rows of its state, its numbers, its constants, and an int64 for a fault."""

    p: Any
    m: Any
    v: Any
    numbers: Any
    constants: Any
    fault: Any


class _Numbers(NamedTuple):
    """The numbers of an update; ``keep`` and ``l2`` are None where they are known to be 1 and 0."""

    step: Any
    scale: Any
    keep: Any
    l2: Any


def splat_constants(builder, constants, count, vector, element):
    """Emit the load of the first ones of a rule's constants, as vectors."""
    places = [builder.gep(constants, [_I64(k)]) for k in range(count)]
    return [splat(builder, load(builder, place, vector.element, element), vector) for place in places]


def numbers_at(builder, at, penalized, vector, element):
    """Emit the numbers of an update at an address, as vectors; that of a penalty if it acts."""
    loaded = [load(builder, builder.gep(at, [_I64(k)]), vector.element, element) for k in range(NUMBERS)]
    loaded[3] = builder.select(penalized, loaded[3], vector.element(0.0))
    return _Numbers(*(splat(builder, one, vector) for one in loaded))


def bare(numbers):
    """Return the numbers of an update as those of one without a penalty and decay."""
    return numbers._replace(keep=None, l2=None)


def _numbers_of(builder, updates, update, penalized, vector, element):
    at = builder.gep(updates.numbers, [builder.mul(update, _I64(NUMBERS))])
    return numbers_at(builder, at, penalized, vector, element)


def _penalized(builder, numbers, g, p):
    """Emit the gradient with that of the penalty, if there is one."""
    return g if numbers.l2 is None else builder.fadd(g, builder.fmul(numbers.l2, p))


def _kept(builder, numbers, p):
    """Emit what the decay of weights leaves of p."""
    return p if numbers.keep is None else builder.fmul(numbers.keep, p)


def emit_adam(builder, constants, numbers, state, g):
    """Emit an update by Adam: the state after it, and by how much the parameters moved."""
    first, second, rest, other, eps = constants
    p, m, v = state
    slope = _penalized(builder, numbers, g, p)
    mean = builder.fadd(builder.fmul(first, m), builder.fmul(rest, slope))
    square = builder.fadd(builder.fmul(second, v), builder.fmul(other, builder.fmul(slope, slope)))
    root = builder.fadd(builder.fmul(numbers.scale, by_lanes(builder, "sqrt", square)), eps)
    moved = builder.fmul(numbers.step, builder.fdiv(mean, root))
    return (builder.fsub(_kept(builder, numbers, p), moved), mean, square), moved


def _emit_momentum(builder, constants, numbers, state, g):
    first, *_ = constants
    p, m = state
    slope = builder.fmul(numbers.scale, _penalized(builder, numbers, g, p))
    moved = builder.fadd(builder.fmul(first, m), slope)
    change = builder.fmul(numbers.step, moved)
    return (builder.fsub(_kept(builder, numbers, p), change), moved), change


def _emit_nesterov(builder, constants, numbers, state, g):
    first, *_ = constants
    p, m = state
    slope = builder.fmul(numbers.scale, _penalized(builder, numbers, g, p))
    moved = builder.fadd(builder.fmul(first, m), slope)
    direction = builder.fadd(slope, builder.fmul(first, moved))
    change = builder.fmul(numbers.step, direction)
    return (builder.fsub(_kept(builder, numbers, p), change), moved), change


def _emit_descent(builder, constants, numbers, state, g):
    (p,) = state
    change = builder.fmul(numbers.step, _penalized(builder, numbers, g, p))
    return (builder.fsub(_kept(builder, numbers, p), change),), change


# The vectors of each optimizer's state, parameters included; of Adam the size of the moments needs no limit.
_RULES = {
    "adam": (emit_adam, 3, 1),
    "momentum": (_emit_momentum, 2, 2),
    "nesterov": (_emit_nesterov, 2, 2),
    "descent": (_emit_descent, 1, 1),
}


def _emit_decay(builder, constants, state):
    """Emit what is left of an update of Adam that changes no parameter, where there is no gradient."""
    first, second, *_ = constants
    p, m, v = state
    zero = p.type(0.0)
    return p, builder.fadd(builder.fmul(first, m), zero), builder.fadd(builder.fmul(second, v), zero)


def _all_lanes(builder, condition):
    bits = ir.IntType(condition.type.count)
    return builder.icmp_unsigned("==", builder.bitcast(condition, bits), bits(2**bits.width - 1))


def _is_small(builder, moved, p, tiny):
    """Emit whether all lanes moved by no more than a tiny share of p."""
    most = builder.fmul(tiny, by_lanes(builder, "fabs", p))
    return _all_lanes(builder, builder.fcmp_ordered("<=", by_lanes(builder, "fabs", moved), most))


def _emit_later(builder, updates, make, before, decay):
    """Emit the updates behind the first one, without a gradient; return the state after them.

    ``make(builder, update, state)`` returns the state and whether it is settled: then ``decay`` makes the others.
    """
    places = [cgutils.alloca_once_value(builder, one) for one in before]
    settled = cgutils.alloca_once(builder, ir.IntType(1))
    for place, one in zip(places, before, strict=True):
        builder.store(one, place)
    builder.store(settled.type.pointee(0), settled)

    def keep(state):
        for place, one in zip(places, state, strict=True):
            builder.store(one, place)

    with cgutils.for_range_slice(builder, builder.add(updates.first, _I64(1)), updates.stop, _I64(1)) as (update, _):
        share = builder.load(builder.gep(updates.share, [update]))
        is_made, is_settled = builder.fcmp_ordered("!=", share, share.type(0.0)), builder.load(settled)
        with builder.if_then(builder.and_(is_made, is_settled)):
            keep(decay(builder, [builder.load(place) for place in places]))
        with builder.if_then(builder.and_(is_made, builder.not_(is_settled))):
            after, small = make(builder, update, [builder.load(place) for place in places])
            keep(after)
            builder.store(small, settled)
    return [builder.load(place) for place in places]


def is_bare(builder, numbers):
    """Emit whether an update has neither a penalty nor decay."""
    keep, l2 = (builder.extract_element(one, ir.IntType(32)(0)) for one in (numbers.keep, numbers.l2))
    return builder.and_(builder.fcmp_ordered("==", keep, keep.type(1.0)), builder.fcmp_ordered("==", l2, l2.type(0.0)))


def _is_plain(builder, updates, numbers, limit, element):
    """Emit whether there is one update, without a penalty or decay, whose results need only be finite."""
    alone = builder.icmp_signed("==", builder.add(updates.first, _I64(1)), updates.stop)
    most = builder.fcmp_ordered("==", limit, limit.type(float(np.finfo(str(element)).max)))
    return functools.reduce(builder.and_, [alone, is_bare(builder, numbers), most])


def add_zeros(builder, summed, state):
    """Emit the addition of zero times each vector of the state to ``summed``: NaN from the first non-finite one on."""
    zero = state[0].type(0.0)
    for one in state:
        builder.store(multiply_add(builder, one, zero, builder.load(summed)), summed)


def is_zero(builder, summed):
    """Emit whether what `add_zeros` summed is zero."""
    total = builder.load(summed)
    return _all_lanes(builder, builder.fcmp_ordered("==", total, total.type(0.0)))


def _emit_rows(builder, name, arguments, element):
    """Emit the function that makes updates of whole vectors; it returns whether no element passes the limit."""
    emit, vectors, limited = _RULES[name]
    decay = _emit_decay if name == "adam" else lambda builder, fixed, state: state
    vector, lanes = vector_type(element)
    *places, g, count, numbers, share, first, stop, constants, penalized, limit = arguments
    updates = Updates(numbers, share, first, stop)
    penalized = builder.icmp_signed(">", penalized, _I64(0))
    *fixed, tiny = splat_constants(builder, constants, 6, vector, element)
    zero, most = vector(0.0), splat(builder, limit, vector)
    numbers_of_first = _numbers_of(builder, updates, first, penalized, vector, element)
    within = cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * lanes))

    def make(builder, update, state):
        numbers = _numbers_of(builder, updates, update, penalized, vector, element)
        after, moved = emit(builder, fixed, numbers, state, zero)
        small = _is_small(builder, moved, after[0], tiny) if name == "adam" else ir.IntType(1)(0)
        return after, small

    def update_rows(numbers, finish):
        """Emit the loop over all vectors: the first update, and what is to follow for a vector of the state."""
        with cgutils.for_range_slice(builder, _I64(0), count, _I64(lanes)) as (c, _):
            pointers = [builder.gep(place, [c]) for place in places[:vectors]]
            state = [load(builder, pointer, vector, element) for pointer in pointers]
            slope = load(builder, builder.gep(g, [c]), vector, element)
            state = finish(emit(builder, fixed, numbers, state, slope)[0])
            for pointer, one in zip(pointers, state, strict=True):
                store(builder, one, pointer, element)

    def check(state):
        for one in state[:limited]:
            small = builder.fcmp_ordered("<=", by_lanes(builder, "fabs", one), most)
            builder.store(builder.and_(builder.load(within), small), within)
        return state

    # The units that compute are what an update waits for, not those that load: most updates get by with fewer steps.
    with builder.if_then(_is_plain(builder, updates, numbers_of_first, limit, element)):
        summed = cgutils.alloca_once_value(builder, zero)

        def sum_up(state):
            add_zeros(builder, summed, state[:limited])
            return state

        update_rows(bare(numbers_of_first), sum_up)
        builder.ret(is_zero(builder, summed))
    later = lambda builder, one: decay(builder, fixed, one)  # noqa: E731
    update_rows(numbers_of_first, lambda state: check(_emit_later(builder, updates, make, state, later)))
    builder.ret(_all_lanes(builder, builder.load(within)))


def _updating(name):
    """Return the code of an intrinsic that makes updates by this rule."""

    def codegen(context, builder, sig, args):
        state, count, updates, constants, penalized, limit = args
        element = sig.args[0].types[0].dtype
        places, table = (cgutils.unpack_tuple(builder, one, 4) for one in (state, updates))
        arguments = [*places, count, *table, constants, penalized, limit]
        kind = ir.FunctionType(ir.IntType(1), [one.type for one in arguments])
        function = cgutils.get_or_insert_function(builder.module, kind, f"fastmlp_updates_{name}_{element}")
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            _emit_rows(ir.IRBuilder(function.append_basic_block("entry")), name, function.args, element)
        return builder.call(function, arguments)

    return codegen


def _signature(state, updates, constants):
    return types.boolean(state, types.int64, updates, constants, types.int64, state.types[0].dtype)


@intrinsic
def adam_updates(typingctx, state, count, updates, constants, penalized, limit):
    """Make `Updates` of ``count`` parameters, of a `State`, whole vectors; only the first one has a gradient.

    ``constants`` is the address of first, second, 1 - first, 1 - second, eps, and the share of a parameter below which
    its moves are so small that it does not change by this update or a later one. The penalty acts if ``penalized``.
    Returns whether no parameter, and no momentum, is larger than the limit, or NaN.
    """
    return _signature(state, updates, constants), _updating("adam")


@intrinsic
def momentum_updates(typingctx, state, count, updates, constants, penalized, limit):
    """Do as `adam_updates` for descent with momentum."""
    return _signature(state, updates, constants), _updating("momentum")


@intrinsic
def nesterov_updates(typingctx, state, count, updates, constants, penalized, limit):
    """Do as `adam_updates` for descent with Nesterov's momentum."""
    return _signature(state, updates, constants), _updating("nesterov")


@intrinsic
def descent_updates(typingctx, state, count, updates, constants, penalized, limit):
    """Do as `adam_updates` for plain descent."""
    return _signature(state, updates, constants), _updating("descent")
