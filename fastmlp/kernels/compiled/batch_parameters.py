"""The later phases of an update: the gradient of some parameters over all samples of a batch, and their update.

The first layer skips the zeros of its input: a feature meets the deltas of the samples in which it is not zero.
"""

import math

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.batch import FeatureLists, add_product, layer_inputs, of_layer
from fastmlp.kernels.compiled.batch_lists import gather_lists, scatter_listed, turn_lists, update_lists
from fastmlp.kernels.compiled.batch_rows import pass_met
from fastmlp.kernels.compiled.drawn import chunks_in, keep_lists
from fastmlp.kernels.compiled.memory import fill_zeros
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.optimizer_updates import update_once
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import add_rows
from fastmlp.kernels.rules import ADAM


@body
def _is_at_once(work):
    """Return whether rows of the first layer are updated as soon as their gradient is known: by Adam, the usual one.

    Each optimizer more is code to compile, and takes less of the time of an update.
    """
    return work.run.chunk > 0 and work.run.clip == 0 and work.run.kind == ADAM


@body
def _entries_before(x, order, count, block):
    """Return how many entries samples order[0:] have in the blocks of features before this one."""
    entries = np.int64(0)
    for s in range(count):
        at = order[s] * x.parts
        entries += x.start[at + block] - x.start[at]
    return entries


@body
def _feature_lists(work, batch, block, first, room):
    """Return the `FeatureLists` of a block for a chunk of a batch, which begins with this sample."""
    x, run, kept = work.x, work.run, work.run.drawn
    chunk = at = np.int64(0)
    if kept.size > 0:
        chunk = run.numbered[batch.update] * chunks_in(kept) + first // run.chunk
        at = chunk * x.features + block * x.part
        if kept.made[run.numbered[batch.update]] > 0:
            start, stop = vector.address(kept.start, at), vector.address(kept.start, at + 1)
            return FeatureLists(start, stop, vector.address(kept.index, 0), vector.address(kept.value, 0))
    order, count = vector.address(run.order, batch.begin + first), min(run.chunk, batch.count - first)
    lists = turn_lists(x, order, count, block, room)
    if kept.size > 0:
        entry, features = kept.first[chunk] + _entries_before(x, order, count, block), x.features - block * x.part
        keep_lists(kept, x.coded, at, min(x.part, features), entry, lists)
    return lists


@body
def _pass_block(work, batch, block, gradient, room, height):
    """Set rows of the gradient of the first layer, for a block of features, or update the rows at once."""
    vector.noinline()
    layer, run, model = work.model.layers[0], work.run, work.model
    at, number = layer.at + block * work.x.part * layer.columns, run.past + batch.update
    update = vector.RowUpdate(
        vector.address(work.parameters, at), vector.address(model.m, at), vector.address(model.v, at),
        vector.address(run.numbers.start, number * run.numbers.columns), vector.address(run.constants, 0),
        vector.address(run.faults, batch.update),
    )  # fmt: skip
    deltas = of_layer(work, work.memory.deltas, layer, np.int64(0))
    for first in range(0, batch.count, run.chunk):
        lists, there = _feature_lists(work, batch, block, first, room), vector.block(deltas, first, 0)
        fresh = np.int64(first == 0)
        if _is_at_once(work) and first + run.chunk >= batch.count:
            update_lists(work.x, lists, height, fresh, gradient, there, layer.columns, update)
        else:
            gather_lists(work.x, lists, height, fresh, gradient, there, layer.columns)


@body
def _turn(work, layer, first, stop):
    """Copy rows of the weights to their transpose, vector by vector."""
    lanes = vector.lanes(work.parameters)
    weights = vector.matrix(work.parameters, layer.at, layer.columns)
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
    """Set rows of the gradient of a layer, or update them at once."""
    layer, (first, stop) = work.model.layers[number], rows
    deltas = of_layer(work, work.memory.deltas, layer, np.int64(0))
    if number == 0 and work.run.chunk > 0:
        _pass_block(work, batch, first // work.x.part, gradient, room, stop - first)
    elif number == 0 and work.x.listed > 0:
        fill_zeros(gradient.start, 0, (stop - first) * layer.columns)
        order = vector.address(work.run.order, batch.begin)
        scatter_listed(work.x, order, batch.count, first // work.x.part, room, gradient, deltas, layer.columns)
    else:
        a = layer_inputs(work, number)
        factors, shape = vector.factors(a.start, first, a.ld, 1), Shape(stop - first, layer.columns, batch.count)
        add_product(gradient, factors, deltas, shape, work.memory.identity, np.int64(1))


@body
def _set_bias_gradient(work, batch, layer, gradient):
    fill_zeros(gradient, 0, layer.columns)
    add_rows(gradient, of_layer(work, work.memory.deltas, layer, np.int64(0)), layer.columns, batch.count)


@body
def _finish_rows(work, update, at, gradient, count, penalized):
    """Update packed parameters from ``at`` on, or, where the gradient is to be clipped, keep it; return its square."""
    if work.run.clip == 0:
        update_once(work, update, at, count, gradient, penalized)
        return 0.0
    p, g = vector.part(work.parameters, at, count), vector.part(gradient, 0, count)
    kept, l2 = vector.part(work.memory.gradient, at, count), vector.number(gradient, 0)
    if penalized > 0:
        l2 = vector.row_of(work.run.numbers, work.run.past + update, 3, 1)[0]
    square = 0.0
    for c in range(count):
        slope = g[c] + l2 * p[c]
        kept[c] = slope
        square += np.float64(slope) * np.float64(slope)
    return square


@body
def _add_up_squares(work, piece, at, count, total):
    """Leave behind the sum of the squares of the weights of a piece; ``total`` is a number of scratch memory."""
    total.start[0] = 0
    weights = vector.matrix(work.parameters, at, count)
    vector.dot_tile(1, 1, total, weights, weights, count)
    work.memory.weights[piece] = total.start[0]


@body
def pass_parameters(work, batch, piece, room):
    """Do a piece of the third phase: some rows of a layer, and behind its last ones the biases."""
    layers, update = work.model.layers, batch.update
    number = _layer_of(layers, piece)
    layer = layers[number]
    first, stop = _rows_of(layer, piece)
    gradient, count = vector.matrix(room.gradient, 0, layer.columns), (stop - first) * layer.columns
    at, square = layer.at + first * layer.columns, 0.0
    if number == 0 and work.met.waits > 0:
        pass_met(work, batch, piece, room)
    else:
        if work.run.squares > 0:
            _add_up_squares(work, piece, at, count, gradient)
        _set_gradient(work, batch, number, gradient, (first, stop), room)
        if number > 0 or not _is_at_once(work):
            square += _finish_rows(work, update, at, gradient.start, count, 1)
    if stop == layer.n_in:
        _set_bias_gradient(work, batch, layer, gradient.start)
        square += _finish_rows(work, update, layer.at_bias, gradient.start, layer.columns, 0)
    work.memory.squares[piece] = square
    if number > 0 and work.run.clip == 0:
        _turn(work, layer, first, stop)


@body
def piece_total(work):
    """Return how many pieces the parameters of all layers have."""
    last = work.model.layers[len(work.model.layers) - 1]
    return last.first_piece + last.pieces


@body
def _turns_of(work, layer):
    """Return how many pieces of a layer each thread has, at most."""
    return -(-layer.pieces // work.run.team.threads)


@body
def turn_total(work):
    """Return the turns of all threads: each has as many, one behind the other, in which it does a piece or nothing.

    So a thread has its share of each layer. Of the first one it is that of the ranges, whose weights are in its cache;
    of the others, which may have a single piece, the first threads have more: the later ranges are larger.
    """
    turns = np.int64(0)
    for number in range(len(work.model.layers)):
        turns += _turns_of(work, work.model.layers[number])
    return turns * work.run.team.threads


@body
def piece_of(work, turn):
    """Return the piece of a turn, or -1 if it has none."""
    layers, threads = work.model.layers, work.run.team.threads
    each = turn_total(work) // threads
    thread, place = turn // each, turn % each
    for number in range(len(layers)):
        layer = layers[number]
        if place < _turns_of(work, layer):
            more = threads - 1 if number > 0 else 0  # rounds up
            first, stop = (layer.pieces * thread + more) // threads, (layer.pieces * (thread + 1) + more) // threads
            return layer.first_piece + first + place if first + place < stop else np.int64(-1)
        place -= _turns_of(work, layer)
    return np.int64(-1)


@body
def set_clipping(work):
    """Leave behind the squares of all pieces the factor by which the gradient is to be scaled."""
    total, pieces = 0.0, piece_total(work)
    for piece in range(pieces):
        total += work.memory.squares[piece]
    norm = math.sqrt(total)
    work.memory.squares[pieces] = work.run.clip / norm if norm > work.run.clip else 1.0


@body
def _scale(work, at, count):
    kept = vector.part(work.memory.gradient, at, count)
    factor = type(kept[0])(work.memory.squares[piece_total(work)])
    for c in range(count):
        kept[c] *= factor


@body
def pass_clipped(work, batch, piece):
    """Do a piece of the fourth phase: update with the gradient that was kept."""
    layers, kept = work.model.layers, work.memory.gradient
    number = _layer_of(layers, piece)
    layer = layers[number]
    first, stop = _rows_of(layer, piece)
    at, count = layer.at + first * layer.columns, (stop - first) * layer.columns
    _scale(work, at, count)
    update_once(work, batch.update, at, count, vector.address(kept, at), 0)
    if stop == layer.n_in:
        _scale(work, layer.at_bias, layer.columns)
        update_once(work, batch.update, layer.at_bias, layer.columns, vector.address(kept, layer.at_bias), 0)
    if number > 0:
        _turn(work, layer, first, stop)
