"""Updates on batches: whole runs of them inside of one kernel, in phases that a team shares.

An update has two phases. In the first, threads share the samples of the batch: forward, loss and back, which leaves the
outputs and the deltas of all layers. In the second they share the parameters: each piece, some rows of a layer, gets
its gradient over all samples of the batch and is updated at once, so that no gradient is stored. Every sum is made by
one thread, so bits do not depend on how many there are. Clipping needs the norm of the gradient first: then the second
phase stores it, and a third one updates.

Parameters are packed: for each layer a row for each input with the weights to all outputs, padded to whole vectors, and
the biases. The first layer skips the zeros of its input: forward a sample meets the rows of its non-zero features,
back a feature meets the deltas of the samples in which it is not zero.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.activations import activate, multiply_derivative
from fastmlp.kernels.compiled.gradients import strip_vectors
from fastmlp.kernels.compiled.launch import kernel
from fastmlp.kernels.compiled.losses import Logits, Targets, loss_rows
from fastmlp.kernels.compiled.memory import copy, fill_zeros
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.panels import add_tile, panel, panel_count, set_tile, tile_height
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import SampleLists
from fastmlp.kernels.compiled.team import (
    CLOSED,
    arrive,
    await_phase,
    close_phase,
    dismiss,
    finish_piece,
    next_piece,
    open_phase,
)
from fastmlp.kernels.compiled.tree import add_rows
from fastmlp.kernels.rules import ADAM

_SAMPLES, _PARAMETERS, _CLIPPED, _PHASES = 0, 1, 2, 3

# A row of the layer table: sizes; columns and rows, both padded to whole vectors; offsets of weights, biases and
# transposed weights in the packed vectors; columns of all layers before; pieces of the second phase, the rows of each
# and the number of the first; the activation's code.
BATCH_LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "n_in", "n_out", "columns", "rows", "at", "at_bias", "at_turned", "before", "height", "first_piece",
            "pieces", "activation",
        )
    ]
)  # fmt: skip


class Model(NamedTuple):
    """The packed vectors of a model, and of the state of its optimizer; ``m`` and ``v`` are empty where it has none.

    Attributes
    ----------
    layers : records (L,)
    parameters, m, v : float
    turned : float
        The transposed weights of all layers but the first, (columns, rows) each, for the way back.
    """

    layers: Any
    parameters: Any
    m: Any
    v: Any
    turned: Any


class BatchMemory(NamedTuple):
    """What the phases of an update hand on.

    Attributes
    ----------
    inputs : float
        The rows of a dense input.
    values, deltas : float
        The outputs of all layers, and the gradients with respect to them.
    losses : float (2, samples)
        Loss and hits of each sample.
    gradient : float
        The packed gradient, where it is to be clipped, and empty elsewhere.
    squares : float64
        The sum of its squares in each piece.
    identity : int32
        0, 1, 2, ..., the list of a dense product.
    samples : int
        There is room for so many, a multiple of the lanes of a vector.
    """

    inputs: Any
    values: Any
    deltas: Any
    losses: Any
    gradient: Any
    squares: Any
    identity: Any
    samples: int


class BatchRooms(NamedTuple):
    """Memory of each thread, a row for each: a gradient, the scratch of the loss, and lists of samples by feature."""

    gradient: Any
    loss: Any
    start: Any
    stop: Any
    index: Any
    value: Any


class _Room(NamedTuple):
    """The memory of one thread, as addresses: see `BatchRooms`."""

    gradient: Any
    loss: Any
    start: Any
    stop: Any
    index: Any
    value: Any


class Updates(NamedTuple):
    """A run of updates.

    Attributes
    ----------
    order : int32
        Samples, batch after batch; batch i ends before ``ends[i]``, int64.
    share : float (updates,)
        One over the weight of each batch, or 0 where that is 0.
    numbers : float (updates, 3)
        See `rules.Numbers`.
    targets : losses.Targets
    constants : float (6,)
        Of the rule: first, second, 1 - first, 1 - second, eps, l2.
    kind, nesterov, momentum : int
        The kind of the rule, and whether it has momentum.
    clip : float64
    updates : int
    piece : int
        Samples in a piece of the first phase, a multiple of the lanes of a vector.
    sums : float64 (updates, LINE_NUMBERS)
        Of loss and hits.
    faults : int64 (updates,)
        Whether the update made a parameter infinite or NaN.
    done : int64 (1,)
        Updates that were made.
    """

    order: Any
    ends: Any
    share: Any
    numbers: Any
    targets: Targets
    constants: Any
    kind: int
    nesterov: int
    momentum: int
    clip: float
    updates: int
    piece: int
    sums: Any
    faults: Any
    done: Any


class _Work(NamedTuple):
    """A thread's view of a run of updates."""

    model: Model
    memory: BatchMemory
    x: SampleLists
    run: Updates


class _Batch(NamedTuple):
    """The batch of an update: its number, its first place in the order, and how many samples it has."""

    update: int
    begin: int
    count: int


@body
def _batch(run, update):
    begin = np.int64(0)
    if update > 0:
        begin = run.ends[update - 1]
    return _Batch(update, begin, run.ends[update] - begin)


@body
def _add_product(out, a, b, shape, identity, fresh):
    """out[r, c] += sum_k a(k, r) b[k, c], `Factors` and a `Matrix`; overwrites if ``fresh``. Columns: whole vectors."""
    vector.noinline()
    lanes = vector.lanes(out)
    for number in range(panel_count(shape.columns, lanes)):
        first, width = panel(shape.columns, number, lanes)
        rows = vector.chosen(identity, 0, vector.block(b, 0, first))
        r = np.int64(0)
        while r < shape.rows:
            group = tile_height(shape.rows - r)
            to, factors = vector.block(out, r, first), vector.factors(a.start, r * a.row, a.step, a.row)
            if fresh > 0:
                set_tile(group, width // lanes, to, factors, rows, shape.terms)
            else:
                add_tile(group, width // lanes, to, factors, rows, shape.terms)
            r += group


@body
def _of_layer(work, base, layer, lo):
    """Return the outputs, or their deltas, of a layer from sample ``lo`` of the batch on."""
    at = layer.before * work.memory.samples + lo * layer.columns
    return vector.matrix(base, at, layer.columns)


@body
def _set_biases(work, layer, out, count):
    for s in range(count):
        copy(vector.row(out, s, 1), vector.address(work.model.parameters, layer.at_bias), layer.columns)


@body
def _prefetch_lists(x, order, count):
    """Ask for the lists of samples, which are far apart in memory."""
    line = vector.LINE_BYTES // 4  # entries of an index, and no fewer of a value than half of that
    for s in range(count):
        first = order[s] * x.parts
        for entry in range(x.start[first], x.start[first + x.parts], line):
            vector.prefetch(x.index, entry)
            vector.prefetch(x.value, entry)


@body
def _add_listed(work, layer, out, order, count, room):
    """Add to rows of out the products of samples order[0:] with the weights of the first layer, without zeros."""
    vector.noinline()
    x, lanes = work.x, vector.lanes(out)
    weights = vector.matrix(work.model.parameters, layer.at, layer.columns)
    lists = vector.Entries(room.start, vector.address(x.index, 0), vector.address(x.value, 0))
    _prefetch_lists(x, order, count)
    # A block of features at a time: their rows of weights stay in the L1 cache for all samples of the piece.
    for part in range(x.parts):
        for s in range(count):
            number = order[s] * x.parts + part
            room.start[s], room.stop[s] = x.start[number], x.start[number + 1]
        c = np.int64(0)
        while c < layer.columns:
            vectors = strip_vectors((layer.columns - c) // lanes)
            vector.sparse_rows(
                vectors, 0, count, vector.block(out, 0, c), lists, room.stop, vector.block(weights, 0, c)
            )
            c += vectors * lanes


@body
def _copy_inputs(work, layer, order, lo, count):
    """Copy the rows of a dense input to where the batch has them."""
    to = vector.matrix(work.memory.inputs, lo * layer.rows, layer.rows)
    for s in range(count):
        source = vector.address(work.x.rows.start, order[s] * layer.n_in)
        copy(vector.row(to, s, 1), source, layer.n_in)


@body
def _inputs(work, number):
    """Return the inputs of a layer, as a `Matrix` of the samples of the batch; not for listed samples."""
    layers = work.model.layers
    if number == 0:
        return vector.matrix(work.memory.inputs, 0, layers[0].rows)
    below = layers[number - 1]
    return _of_layer(work, work.memory.values, below, np.int64(0))


@body
def _forward(work, order, lo, count, room):
    """Set the outputs of all layers for the samples order[0:], which are ``lo`` and following in the batch."""
    vector.noinline()
    layers = work.model.layers
    for number in range(len(layers)):
        layer = layers[number]
        out = _of_layer(work, work.memory.values, layer, lo)
        _set_biases(work, layer, out, count)
        if number == 0 and work.x.listed > 0:
            _add_listed(work, layer, out, order, count, room)
        else:
            if number == 0:
                _copy_inputs(work, layer, order, lo, count)
            a = vector.block(_inputs(work, number), lo, 0)
            weights = vector.matrix(work.model.parameters, layer.at, layer.columns)
            factors, shape = vector.factors(a.start, 0, 1, a.ld), Shape(count, layer.columns, layer.n_in)
            _add_product(out, factors, weights, shape, work.memory.identity, np.int64(0))
        if number < len(layers) - 1:
            activate(layer.activation, vector.part(out.start, 0, count * layer.columns))


@body
def _backward(work, lo, count):
    """Set the deltas of the hidden layers from those of the last one."""
    vector.noinline()
    layers, deltas = work.model.layers, work.memory.deltas
    for number in range(len(layers) - 1, 0, -1):
        layer, below = layers[number], layers[number - 1]
        out = _of_layer(work, deltas, below, lo)
        factors = vector.factors(_of_layer(work, deltas, layer, lo).start, 0, 1, layer.columns)
        weights = vector.matrix(work.model.turned, layer.at_turned, layer.rows)
        shape = Shape(count, below.columns, layer.n_out)
        _add_product(out, factors, weights, shape, work.memory.identity, np.int64(1))
        values = _of_layer(work, work.memory.values, below, lo)
        multiply_derivative(below.activation, out, values, count, below.columns)


@body
def _pass_samples(work, batch, piece, room):
    """Do a piece of the first phase: forward, loss and back for some samples."""
    run, memory, layers = work.run, work.memory, work.model.layers
    lo = piece * run.piece
    count = min(run.piece, batch.count - lo)
    order, last = vector.address(run.order, batch.begin + lo), layers[len(layers) - 1]
    _forward(work, order, lo, count, room)
    outputs, delta = _of_layer(work, memory.values, last, lo), _of_layer(work, memory.deltas, last, lo)
    logits = Logits(outputs.start, last.columns, last.n_out, np.int64(1))
    losses = vector.matrix(memory.losses.start, lo, memory.losses.columns)
    loss_rows(losses, delta, logits, run.targets, order, count, room.loss)
    # The mean is taken here, where the elements are few.
    row, share = vector.part(delta.start, 0, count * last.columns), run.share[batch.update]
    for k in range(count * last.columns):
        row[k] *= share
    _backward(work, lo, count)


@body
def _list_features(work, batch, part, room, height):
    """List, for each feature of a block, the samples of the batch in which it is not zero."""
    vector.noinline()
    x, first = work.x, part * work.x.part
    # Each list has room for all samples: counting entries first would take as long as the lists.
    for f in range(height):
        room.start[f] = room.stop[f] = f * batch.count
    for s in range(batch.count):
        number = work.run.order[batch.begin + s] * x.parts + part
        for entry in range(x.start[number], x.start[number + 1]):
            f = x.index[entry] - first
            to = room.stop[f]
            room.index[to], room.value[to] = s, x.value[entry]
            room.stop[f] = to + 1


@body
def _listed_gradient(work, batch, layer, gradient, part, room, height):
    """Set rows of the gradient of the first layer, for a block of features, over the samples that are not zero."""
    vector.noinline()
    lanes, lists = vector.lanes(gradient), vector.Entries(room.start, room.index, room.value)
    _list_features(work, batch, part, room, height)
    deltas, c = _of_layer(work, work.memory.deltas, layer, np.int64(0)), np.int64(0)
    while c < layer.columns:
        vectors = strip_vectors((layer.columns - c) // lanes)
        to = vector.block(gradient, 0, c)
        vector.sparse_rows(vectors, 1, height, to, lists, room.stop, vector.block(deltas, 0, c))
        c += vectors * lanes


@body
def _adam(run, numbers, p, m, v, g, l2):
    """Update so many parameters p, whose gradient is g without the penalty; return whether one is not finite."""
    first, second, rest, other, eps = (
        run.constants[0], run.constants[1], run.constants[2], run.constants[3], run.constants[4]
    )  # fmt: skip
    step, scale, keep, bad = numbers[0], numbers[1], numbers[2], 0
    for c in range(len(p)):
        slope = g[c] + l2 * p[c]
        mean = first * m[c] + rest * slope
        square = second * v[c] + other * (slope * slope)
        updated = keep * p[c] - step * (mean / (scale * math.sqrt(square) + eps))
        m[c], v[c], p[c] = mean, square, updated
        bad |= updated - updated != 0
    return bad


@body
def _momentum(run, numbers, p, m, g, l2):
    """Do as `_adam` for descent with momentum."""
    first, step, keep, bad = run.constants[0], numbers[0], numbers[2], 0
    for c in range(len(p)):
        slope = g[c] + l2 * p[c]
        moved = first * m[c] + slope
        direction = moved
        if run.nesterov > 0:
            direction = slope + first * moved
        updated = keep * p[c] - step * direction
        m[c], p[c] = moved, updated
        bad |= updated - updated != 0
    return bad


@body
def _descent(numbers, p, g, l2):
    """Do as `_adam` for plain descent."""
    step, keep, bad = numbers[0], numbers[2], 0
    for c in range(len(p)):
        updated = keep * p[c] - step * (g[c] + l2 * p[c])
        p[c] = updated
        bad |= updated - updated != 0
    return bad


@body
def _update(work, update, at, count, gradient, l2):
    """Update ``count`` packed parameters from ``at`` on; note if one is not finite."""
    vector.noinline()
    model, run = work.model, work.run
    numbers = vector.row_of(run.numbers, update, 0, 3)
    p, g = vector.part(model.parameters, at, count), vector.part(gradient, 0, count)
    if run.kind == ADAM:
        bad = _adam(run, numbers, p, vector.part(model.m, at, count), vector.part(model.v, at, count), g, l2)
    elif run.momentum > 0:
        bad = _momentum(run, numbers, p, vector.part(model.m, at, count), g, l2)
    else:
        bad = _descent(numbers, p, g, l2)
    if bad:
        run.faults[update] = 1


@body
def _turn(work, layer, first, stop):
    """Copy rows of the weights to their transpose, vector by vector."""
    lanes = vector.lanes(work.model.parameters)
    weights = vector.matrix(work.model.parameters, layer.at, layer.columns)
    turned = vector.matrix(work.model.turned, layer.at_turned, layer.rows)
    for k in range(first, stop, lanes):
        for c in range(0, layer.columns, lanes):
            vector.transpose(vector.block(turned, c, k), vector.block(weights, k, c))


@body
def _layer_of(layers, piece):
    """Return the layer to which a piece of the second phase belongs."""
    number = len(layers) - 1
    while piece < layers[number].first_piece:
        number -= 1
    return number


@body
def _rows_of(layer, piece):
    """Return the first row of a piece and the end."""
    first = (piece - layer.first_piece) * layer.height
    return first, min(first + layer.height, layer.n_in)


@body
def _set_gradient(work, batch, number, gradient, rows, room):
    """Set rows of the gradient of a layer."""
    layer, (first, stop) = work.model.layers[number], rows
    if number == 0 and work.x.listed > 0:
        _listed_gradient(work, batch, layer, gradient, first // work.x.part, room, stop - first)
        return
    a = _inputs(work, number)
    deltas = _of_layer(work, work.memory.deltas, layer, np.int64(0))
    factors, shape = vector.factors(a.start, first, a.ld, 1), Shape(stop - first, layer.columns, batch.count)
    _add_product(gradient, factors, deltas, shape, work.memory.identity, np.int64(1))


@body
def _set_bias_gradient(work, batch, layer, gradient):
    fill_zeros(gradient, 0, layer.columns)
    add_rows(gradient, _of_layer(work, work.memory.deltas, layer, np.int64(0)), layer.columns, batch.count)


@body
def _finish_rows(work, update, at, gradient, count, l2):
    """Update packed parameters from ``at`` on, or, where the gradient is to be clipped, keep it; return its square."""
    if work.run.clip == 0:
        _update(work, update, at, count, gradient, l2)
        return 0.0
    p, g = vector.part(work.model.parameters, at, count), vector.part(gradient, 0, count)
    kept = vector.part(work.memory.gradient, at, count)
    square = 0.0
    for c in range(count):
        slope = g[c] + l2 * p[c]
        kept[c] = slope
        square += np.float64(slope) * np.float64(slope)
    return square


@body
def _pass_parameters(work, batch, piece, room):
    """Do a piece of the second phase: some rows of a layer, and behind its last ones the biases."""
    layers = work.model.layers
    number = _layer_of(layers, piece)
    layer = layers[number]
    first, stop = _rows_of(layer, piece)
    gradient, count = vector.matrix(room.gradient, 0, layer.columns), (stop - first) * layer.columns
    _set_gradient(work, batch, number, gradient, (first, stop), room)
    at, l2 = layer.at + first * layer.columns, work.run.constants[5]
    square = _finish_rows(work, batch.update, at, gradient.start, count, l2)
    if stop == layer.n_in:
        _set_bias_gradient(work, batch, layer, gradient.start)
        square += _finish_rows(
            work, batch.update, layer.at_bias, gradient.start, layer.columns, vector.number(gradient, 0)
        )
    work.memory.squares[piece] = square
    if number > 0 and work.run.clip == 0:
        _turn(work, layer, first, stop)


@body
def _clip(work, pieces):
    """Leave behind the squares of all pieces the factor by which the gradient is to be scaled."""
    total = 0.0
    for piece in range(pieces):
        total += work.memory.squares[piece]
    norm = math.sqrt(total)
    work.memory.squares[pieces] = work.run.clip / norm if norm > work.run.clip else 1.0


@body
def _pass_clipped(work, batch, piece, pieces):
    """Do a piece of the third phase: update with the gradient that was kept."""
    layers, zero = work.model.layers, vector.number(work.model.parameters, 0)
    number = _layer_of(layers, piece)
    layer = layers[number]
    first, stop = _rows_of(layer, piece)
    at, count = layer.at + first * layer.columns, (stop - first) * layer.columns
    _scale(work, at, count, pieces)
    _update(work, batch.update, at, count, vector.address(work.memory.gradient, at), zero)
    if stop == layer.n_in:
        _scale(work, layer.at_bias, layer.columns, pieces)
        kept = vector.address(work.memory.gradient, layer.at_bias)
        _update(work, batch.update, layer.at_bias, layer.columns, kept, zero)
    if number > 0:
        _turn(work, layer, first, stop)


@body
def _scale(work, at, count, pieces):
    kept = vector.part(work.memory.gradient, at, count)
    factor = type(kept[0])(work.memory.squares[pieces])
    for c in range(count):
        kept[c] *= factor


@body
def _pieces(work, batch, kind):
    """Return how many pieces a phase of an update has."""
    if kind == _SAMPLES:
        return -(-batch.count // work.run.piece)
    last = work.model.layers[len(work.model.layers) - 1]
    return last.first_piece + last.pieces


@body
def _do_pieces(work, phase, room, team, thread):
    """Do pieces of a phase until all are taken."""
    update, kind = (phase - 1) // _PHASES, (phase - 1) % _PHASES
    batch = _batch(work.run, update)
    pieces = _pieces(work, batch, kind)
    piece = next_piece(team, phase, pieces, thread)
    while piece >= 0:
        if kind == _SAMPLES:
            _pass_samples(work, batch, piece, room)
        elif kind == _PARAMETERS:
            _pass_parameters(work, batch, piece, room)
        else:
            _pass_clipped(work, batch, piece, pieces)
        finish_piece(team)
        piece = next_piece(team, phase, pieces, thread)


@body
def _do_phase(work, update, kind, room, team, thread):
    """Open a phase, work on it, and close it."""
    phase, pieces = update * _PHASES + kind + 1, _pieces(work, _batch(work.run, update), kind)
    open_phase(team, phase, pieces)
    _do_pieces(work, phase, room, team, thread)
    close_phase(team, pieces)
    return pieces


@body
def _add_losses(work, update):
    """Set the sums of loss and hits of an update; return whether they are finite."""
    losses, count = work.memory.losses, _batch(work.run, update).count
    cost = right = 0.0
    for s in range(count):
        cost += losses.start[s]
        right += losses.start[losses.columns + s]
    at = update * work.run.sums.columns
    work.run.sums.start[at], work.run.sums.start[at + 1] = cost, right
    return cost - cost == 0


@body
def _lead(work, room, team, thread):
    """Make one update after another, until one fails."""
    run = work.run
    for update in range(run.updates):
        if run.share[update] > 0:
            _do_phase(work, update, _SAMPLES, room, team, thread)
            finite = _add_losses(work, update)
            pieces = _do_phase(work, update, _PARAMETERS, room, team, thread)
            if run.clip > 0:
                _clip(work, pieces)
                _do_phase(work, update, _CLIPPED, room, team, thread)
            if not finite or run.faults[update] > 0:
                break
        run.done[0] = update + 1
    dismiss(team)


@body
def _help(work, room, team, thread):
    """Work on one phase after another, until the leader dismisses the team."""
    phase = await_phase(team, np.int64(0))
    while phase != CLOSED:
        _do_pieces(work, phase, room, team, thread)
        phase = await_phase(team, phase)


@kernel()
def run_updates(parameters, model, memory, x, run, rooms, team, worker, workers):
    """Make the updates of a run, as a team."""
    work = _Work(model, memory, x, run)
    room = _Room(
        vector.address(rooms.gradient.start, worker * rooms.gradient.columns),
        vector.address(rooms.loss.start, worker * rooms.loss.columns),
        vector.address(rooms.start.start, worker * rooms.start.columns),
        vector.address(rooms.stop.start, worker * rooms.stop.columns),
        vector.address(rooms.index.start, worker * rooms.index.columns),
        vector.address(rooms.value.start, worker * rooms.value.columns),
    )
    before = vector.flush_subnormals()
    if arrive(team):
        _lead(work, room, team, worker)
    else:
        _help(work, room, team, worker)
    vector.restore_subnormals(before)
