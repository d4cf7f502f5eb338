"""The first phase of an update: forward, loss and back for some samples of a batch."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.activations import activate, multiply_derivative
from fastmlp.kernels.compiled.batch import add_product, block_lists, layer_inputs, of_layer
from fastmlp.kernels.compiled.gradients import strip_vectors
from fastmlp.kernels.compiled.losses import Logits, loss_rows
from fastmlp.kernels.compiled.memory import copy
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.runtime import body


@body
def _set_biases(work, layer, out, count):
    for s in range(count):
        copy(vector.row(out, s, 1), vector.address(work.parameters, layer.at_bias), layer.columns)


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
    weights = vector.matrix(work.parameters, layer.at, layer.columns)
    _prefetch_lists(x, order, count)
    # Some blocks of features at a time: their weights stay near for all samples of the piece.
    for part in range(0, x.parts, x.together):
        lists = block_lists(work, order, count, part, min(part + x.together, x.parts), room)
        c = np.int64(0)
        while c < layer.columns:
            vectors = strip_vectors((layer.columns - c) // lanes)
            to, rows = vector.block(out, 0, c), vector.block(weights, 0, c)
            vector.sparse_rows(vectors, 0, count, to, lists, room.stop, rows)
            c += vectors * lanes


@body
def _copy_inputs(work, layer, order, lo, count):
    """Copy the rows of a dense input to where the batch has them."""
    to = vector.matrix(work.memory.inputs, lo * layer.rows, layer.rows)
    for s in range(count):
        source = vector.address(work.x.rows.start, order[s] * layer.n_in)
        copy(vector.row(to, s, 1), source, layer.n_in)


@body
def _forward(work, order, lo, count, room):
    """Set the outputs of all layers for the samples order[0:], which are ``lo`` and following in the batch."""
    vector.noinline()
    layers = work.model.layers
    for number in range(len(layers)):
        layer = layers[number]
        out = of_layer(work, work.memory.values, layer, lo)
        _set_biases(work, layer, out, count)
        if number == 0 and work.x.listed > 0:
            _add_listed(work, layer, out, order, count, room)
        else:
            if number == 0:
                _copy_inputs(work, layer, order, lo, count)
            a = vector.block(layer_inputs(work, number), lo, 0)
            weights = vector.matrix(work.parameters, layer.at, layer.columns)
            factors, shape = vector.factors(a.start, 0, 1, a.ld), Shape(count, layer.columns, layer.n_in)
            add_product(out, factors, weights, shape, work.memory.identity, np.int64(0))
        if number < len(layers) - 1:
            activate(layer.activation, vector.part(out.start, 0, count * layer.columns))


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
        multiply_derivative(below.activation, out, values, count, below.columns)


@body
def pass_samples(work, batch, piece, room):
    """Do a piece of the first phase: forward, loss and back for some samples."""
    run, memory, layers = work.run, work.memory, work.model.layers
    lo = piece * run.piece
    count = min(run.piece, batch.count - lo)
    order, last = vector.address(run.order, batch.begin + lo), layers[len(layers) - 1]
    _forward(work, order, lo, count, room)
    outputs, delta = of_layer(work, memory.values, last, lo), of_layer(work, memory.deltas, last, lo)
    logits = Logits(outputs.start, last.columns, last.n_out, np.int64(1))
    losses = vector.matrix(memory.losses.start, lo, memory.losses.columns)
    loss_rows(losses, delta, logits, run.targets, order, count, room.loss)
    # The mean is taken here, where the elements are few.
    row, share = vector.part(delta.start, 0, count * last.columns), run.share[batch.update]
    for k in range(count * last.columns):
        row[k] *= share
    _backward(work, lo, count)
