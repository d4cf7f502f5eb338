"""The phases of an update that samples share: the products of the first layer; then forward, loss and back."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.activations import activate, has_slopes, multiply_derivative
from fastmlp.kernels.compiled.batch import add_product, layer_inputs, of_layer, partial_outputs, range_of
from fastmlp.kernels.compiled.batch_lists import add_listed, prefetch_lists
from fastmlp.kernels.compiled.losses import Logits, loss_rows
from fastmlp.kernels.compiled.memory import add, copy, fill_zeros
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.runtime import body


@body
def _set_biases(work, layer, out, count):
    for s in range(count):
        copy(vector.row(out, s, 1), vector.address(work.parameters, layer.at_bias), layer.columns)


@body
def _group_stop(group, block, end):
    """Return the end of the group that begins with a block."""
    stop = block + 1
    while stop < end and group[stop] == group[block]:
        stop += 1
    return stop


@body
def _add_samples(work, out, order, count, blocks, room):
    """Add to rows of out the products of samples order[0:] with the weights of blocks of features, without zeros."""
    layer, (part, end) = work.model.layers[0], blocks
    weights = vector.matrix(work.parameters, layer.at, layer.columns)
    prefetch_lists(work.x, order, count, blocks)
    while part < end:
        stop = _group_stop(work.model.group, part, end)
        add_listed(work.x, order, count, (part, stop), room, out, weights, layer.columns)
        part = stop


@body
def _prefetch_row(x, at, features):
    """Ask for features of a dense row, which lies anywhere in the memory."""
    if x.coded > 0:
        for k in range(at, at + features, vector.LINE_BYTES):
            vector.prefetch(x.code, k)
    else:
        for k in range(at, at + features, vector.line_of(x.value)):
            vector.prefetch(x.value, k)


@body
def _copy_inputs(work, to, order, count, first, features):
    """Copy features of the rows of samples order[0:] to where the batch has them; codes are decoded."""
    x = work.x
    for s in range(count):
        at = order[s] * x.features + first
        if s + tuning.SAMPLES_AHEAD < count:
            _prefetch_row(x, order[s + tuning.SAMPLES_AHEAD] * x.features + first, features)
        if x.coded > 0:
            row, codes = vector.row(to, s, features), vector.part(x.code, at, features)
            for k in range(features):
                row[k] = x.table[codes[k]]
        else:
            copy(vector.row(to, s, 1), vector.address(x.value, at), features)


@body
def _add_rows(work, out, order, lo, count, blocks):
    """Do as `_add_samples` for dense rows, which are copied for the gradient too."""
    layer = work.model.layers[0]
    first, stop = blocks[0] * layer.height, min(blocks[1] * layer.height, layer.n_in)
    a = vector.matrix(work.memory.inputs, lo * layer.rows + first, layer.rows)
    _copy_inputs(work, a, order, count, first, stop - first)
    weights = vector.matrix(work.parameters, layer.at + first * layer.columns, layer.columns)
    factors, shape = vector.factors(a.start, 0, 1, a.ld), Shape(count, layer.columns, stop - first)
    add_product(out, factors, weights, shape, work.memory.identity, np.int64(0))


@body
def chunks_of(work, batch):
    """Return how many chunks of samples a batch has."""
    return -(-batch.count // work.run.piece)


@body
def pass_first(work, batch, piece, room):
    """Do a piece of the first layer: its outputs over a range of features, for a chunk of samples."""
    vector.noinline()
    # Range by range, so that the pieces of a thread's share are of few ranges.
    layer, chunks = work.model.layers[0], chunks_of(work, batch)
    number, lo = piece // chunks, piece % chunks * work.run.piece
    count = min(work.run.piece, batch.count - lo)
    order, blocks = vector.address(work.run.order, batch.begin + lo), range_of(work, number)
    out = partial_outputs(work, number, lo)
    if number == 0:
        _set_biases(work, layer, out, count)
    else:
        fill_zeros(out.start, 0, count * layer.columns)
    if work.x.listed > 0:
        _add_samples(work, out, order, count, blocks, room)
    else:
        _add_rows(work, out, order, lo, count, blocks)


@body
def _forward(work, lo, count):
    """Set the outputs of all layers for samples from ``lo`` on, from those of the first layer over its ranges."""
    vector.noinline()
    layers = work.model.layers
    for number in range(len(layers)):
        layer = layers[number]
        out = of_layer(work, work.memory.values, layer, lo)
        if number == 0:
            for one in range(1, work.model.ranges):
                add(out.start, partial_outputs(work, one, lo).start, count * layer.columns)
        else:
            _set_biases(work, layer, out, count)
            a = vector.block(layer_inputs(work, number), lo, 0)
            weights = vector.matrix(work.parameters, layer.at, layer.columns)
            factors, shape = vector.factors(a.start, 0, 1, a.ld), Shape(count, layer.columns, layer.n_in)
            add_product(out, factors, weights, shape, work.memory.identity, np.int64(0))
        if number < len(layers) - 1:
            row = vector.part(out.start, 0, count * layer.columns)
            slopes = row
            if has_slopes(layer.activation):
                to = of_layer(work, work.memory.slopes, layer, lo)
                slopes = vector.part(to.start, 0, count * layer.columns)
            activate(layer.activation, row, slopes)


@body
def _backward(work, lo, count):
    """Set the deltas of the hidden layers from those of the last one."""
    vector.noinline()
    layers, deltas = work.model.layers, work.memory.deltas
    for number in range(len(layers) - 1, 0, -1):
        layer, below = layers[number], layers[number - 1]
        out = of_layer(work, deltas, below, lo)
        factors = vector.factors(of_layer(work, deltas, layer, lo).start, 0, 1, layer.columns)
        weights = vector.matrix(work.model.turned, layer.at_turned, layer.rows)
        shape = Shape(count, below.columns, layer.n_out)
        add_product(out, factors, weights, shape, work.memory.identity, np.int64(1))
        values = of_layer(work, work.memory.values, below, lo)
        if has_slopes(below.activation):
            values = of_layer(work, work.memory.slopes, below, lo)
        multiply_derivative(below.activation, out, values, count, below.columns)


@body
def pass_samples(work, batch, chunk, room):
    """Do a chunk of samples: forward from the outputs of the first layer on, loss, and back."""
    run, memory, layers = work.run, work.memory, work.model.layers
    lo = chunk * run.piece
    count = min(run.piece, batch.count - lo)
    order, last = vector.address(run.order, batch.begin + lo), layers[len(layers) - 1]
    _forward(work, lo, count)
    outputs, delta = of_layer(work, memory.values, last, lo), of_layer(work, memory.deltas, last, lo)
    logits = Logits(outputs.start, last.columns, last.n_out, np.int64(1))
    losses = vector.matrix(memory.losses.start, lo, memory.losses.columns)
    loss_rows(losses, delta, logits, run.targets, order, count, vector.address(room.loss, 0))
    # The mean is taken here, where the elements are few.
    row, share = vector.part(delta.start, 0, count * last.columns), run.share[run.past + batch.update]
    for k in range(count * last.columns):
        row[k] *= share
    _backward(work, lo, count)
