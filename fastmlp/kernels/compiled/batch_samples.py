"""The phases of an update that samples share: the products of the first layer; then forward, loss and back."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.activations import activate, has_slopes, multiply_derivative
from fastmlp.kernels.compiled.batch import add_product, layer_inputs, of_layer, panel_of, weights_of
from fastmlp.kernels.compiled.batch_lists import add_listed, page_stop, prefetch_lists
from fastmlp.kernels.compiled.losses import Logits, loss_rows
from fastmlp.kernels.compiled.memory import copy
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.runtime import body


@body
def _set_biases(work, layer, panel, out, count):
    for s in range(count):
        copy(vector.row(out, s, 1), vector.address(work.parameters, layer.at_bias + panel.first), panel.width)


@body
def _add_samples(work, layer, panel, out, order, count, room):
    """Add to rows of out the products of samples order[0:] with a panel of the first layer, without zeros."""
    x, part, weights = work.x, np.int64(0), weights_of(work, layer, panel)
    prefetch_lists(x, order, count)
    # Some blocks of features at a time: their weights stay near for all samples of the piece.
    while part < x.parts:
        stop = min(part + work.model.together, page_stop(x, part))
        add_listed(x, order, count, (part, stop), room, out, weights, panel.width)
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
def _add_products(work, number, out, lo, count):
    """Add to rows of out the product of the dense inputs of a layer with its weights."""
    layer = work.model.layers[number]
    a, weights = vector.block(layer_inputs(work, number), lo, 0), weights_of(work, layer, panel_of(layer, np.int64(0)))
    factors, shape = vector.factors(a.start, 0, 1, a.ld), Shape(count, layer.columns, layer.n_in)
    add_product(out, factors, weights, shape, work.memory.identity, np.int64(0))


@body
def chunks_of(work, batch):
    """Return how many chunks of samples a batch has."""
    return -(-batch.count // work.run.piece)


@body
def pass_first(work, batch, piece, room):
    """Do a piece of the first layer: the outputs of a panel, before activation, for a chunk of samples."""
    vector.noinline()
    # Panel by panel, so that the pieces of a thread's share are of few panels.
    layer, chunks = work.model.layers[0], chunks_of(work, batch)
    panel, lo = panel_of(layer, piece // chunks), piece % chunks * work.run.piece
    count = min(work.run.piece, batch.count - lo)
    order = vector.address(work.run.order, batch.begin + lo)
    out = vector.block(of_layer(work, work.memory.values, layer, lo), 0, panel.first)
    _set_biases(work, layer, panel, out, count)
    if work.x.listed > 0:
        _add_samples(work, layer, panel, out, order, count, room)
    else:
        _copy_inputs(work, layer, order, lo, count)
        _add_products(work, 0, out, lo, count)


@body
def _forward(work, lo, count):
    """Set the outputs of all layers for samples from ``lo`` on, of which the first layer has made its products."""
    vector.noinline()
    layers = work.model.layers
    for number in range(len(layers)):
        layer = layers[number]
        out = of_layer(work, work.memory.values, layer, lo)
        if number > 0:
            _set_biases(work, layer, panel_of(layer, np.int64(0)), out, count)
            _add_products(work, number, out, lo, count)
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
    """Do a chunk of samples: forward from the activation of the first layer on, loss, and back."""
    run, memory, layers = work.run, work.memory, work.model.layers
    lo = chunk * run.piece
    count = min(run.piece, batch.count - lo)
    order, last = vector.address(run.order, batch.begin + lo), layers[len(layers) - 1]
    _forward(work, lo, count)
    outputs, delta = of_layer(work, memory.values, last, lo), of_layer(work, memory.deltas, last, lo)
    logits = Logits(outputs.start, last.columns, last.n_out, np.int64(1))
    losses = vector.matrix(memory.losses.start, lo, memory.losses.columns)
    loss_rows(losses, delta, logits, run.targets, order, count, room.loss)
    # The mean is taken here, where the elements are few.
    row, share = vector.part(delta.start, 0, count * last.columns), run.share[batch.update]
    for k in range(count * last.columns):
        row[k] *= share
    _backward(work, lo, count)
