"""The first phase of an update: forward, loss and back for some samples of a batch."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.activations import activate, multiply_derivative
from fastmlp.kernels.compiled.batch import add_product, layer_inputs, of_layer
from fastmlp.kernels.compiled.batch_lists import add_listed, page_stop, prefetch_lists
from fastmlp.kernels.compiled.losses import Logits, loss_rows
from fastmlp.kernels.compiled.memory import copy
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.runtime import body


@body
def _set_biases(work, layer, out, count):
    for s in range(count):
        copy(vector.row(out, s, 1), vector.address(work.parameters, layer.at_bias), layer.columns)


@body
def _add_samples(work, layer, out, order, count, room):
    """Add to rows of out the products of samples order[0:] with the weights of the first layer, without zeros."""
    x, part = work.x, np.int64(0)
    weights = vector.matrix(work.parameters, layer.at, layer.columns)
    prefetch_lists(x, order, count)
    # Some blocks of features at a time: their weights stay near for all samples of the piece.
    while part < x.parts:
        stop = min(part + work.model.together, page_stop(x, part))
        add_listed(x, order, count, (part, stop), room, out, weights, layer.columns)
        part = stop


@body
def _copy_inputs(work, layer, order, lo, count):
    """Copy the rows of a dense input to where the batch has them; codes are decoded."""
    x, n = work.x, layer.n_in
    to = vector.matrix(work.memory.inputs, lo * layer.rows, layer.rows)
    for s in range(count):
        if x.coded > 0:
            row, codes = vector.row(to, s, n), vector.part(x.code, order[s] * n, n)
            for k in range(n):
                row[k] = x.table[codes[k]]
        else:
            copy(vector.row(to, s, 1), vector.address(x.value, order[s] * n), n)


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
            _add_samples(work, layer, out, order, count, room)
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
