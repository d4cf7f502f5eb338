"""The later phases of an update: the gradient of some parameters over all samples of a batch, and their update.

The first layer skips the zeros of its input: a feature meets the deltas of the samples in which it is not zero.
"""

import math
from typing import NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.batch import Panel, add_product, layer_inputs, of_layer, panel_of
from fastmlp.kernels.compiled.batch_lists import scatter_listed
from fastmlp.kernels.compiled.memory import fill_zeros
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.optimizer_updates import update_packed
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import add_rows


@body
def _turn(work, layer, first, stop):
    """Copy rows of the weights to their transpose, vector by vector."""
    lanes = vector.lanes(work.parameters)
    weights = vector.matrix(work.parameters, layer.at, layer.columns)
    turned = vector.matrix(work.model.turned, layer.at_turned, layer.rows)
    for k in range(first, stop, lanes):
        for c in range(0, layer.columns, lanes):
            vector.transpose(vector.block(turned, c, k), vector.block(weights, k, c))


class _Piece(NamedTuple):
    """Rows of a panel of a layer, and where their packed parameters begin."""

    number: int
    panel: Panel
    block: int
    first: int
    stop: int
    at: int


@body
def _piece_of(layers, piece):
    """Return a piece of the parameters by its number."""
    number = len(layers) - 1
    while piece < layers[number].first_piece:
        number -= 1
    layer = layers[number]
    place = piece - layer.first_piece
    panel, block = panel_of(layer, place // layer.blocks), place % layer.blocks
    first = block * layer.height
    at = layer.at + panel.first * layer.rows + first * panel.width
    return _Piece(number, panel, block, first, min(first + layer.height, layer.n_in), at)


@body
def _deltas_of(work, layer, panel):
    """Return the deltas of a panel for all samples of the batch."""
    return vector.block(of_layer(work, work.memory.deltas, layer, np.int64(0)), 0, panel.first)


@body
def _set_gradient(work, batch, piece, gradient, room):
    """Set the gradient of a piece."""
    vector.noinline()
    layer, width, height = work.model.layers[piece.number], piece.panel.width, piece.stop - piece.first
    deltas = _deltas_of(work, layer, piece.panel)
    if piece.number == 0 and work.x.listed > 0:
        fill_zeros(gradient.start, 0, height * width)
        order = vector.address(work.run.order, batch.begin)
        scatter_listed(work.x, order, batch.count, piece.block, room, gradient, deltas, width)
        return
    a = layer_inputs(work, piece.number)
    factors, shape = vector.factors(a.start, piece.first, a.ld, 1), Shape(height, width, batch.count)
    add_product(gradient, factors, deltas, shape, work.memory.identity, np.int64(1))


@body
def _set_bias_gradient(work, batch, layer, panel, gradient):
    fill_zeros(gradient, 0, panel.width)
    add_rows(gradient, _deltas_of(work, layer, panel), panel.width, batch.count)


@body
def _finish_rows(work, update, at, gradient, count, l2):
    """Update packed parameters from ``at`` on, or, where the gradient is to be clipped, keep it; return its square."""
    if work.run.clip == 0:
        update_packed(work, update, at, count, gradient, l2)
        return 0.0
    p, g = vector.part(work.parameters, at, count), vector.part(gradient, 0, count)
    kept = vector.part(work.memory.gradient, at, count)
    square = 0.0
    for c in range(count):
        slope = g[c] + l2 * p[c]
        kept[c] = slope
        square += np.float64(slope) * np.float64(slope)
    return square


@body
def pass_parameters(work, batch, number, room):
    """Do a piece of the parameters: rows of a panel, and behind its last ones the biases."""
    piece = _piece_of(work.model.layers, number)
    layer, panel = work.model.layers[piece.number], piece.panel
    gradient, count = vector.matrix(room.gradient, 0, panel.width), (piece.stop - piece.first) * panel.width
    _set_gradient(work, batch, piece, gradient, room)
    l2, none = work.run.constants[5], vector.number(gradient, 0)
    square = _finish_rows(work, batch.update, piece.at, gradient.start, count, l2)
    if piece.stop == layer.n_in:
        _set_bias_gradient(work, batch, layer, panel, gradient.start)
        at = layer.at_bias + panel.first
        square += _finish_rows(work, batch.update, at, gradient.start, panel.width, none)
    work.memory.squares[number] = square
    if piece.number > 0 and work.run.clip == 0:
        _turn(work, layer, piece.first, piece.stop)


@body
def set_clipping(work, pieces):
    """Leave behind the squares of all pieces the factor by which the gradient is to be scaled."""
    total = 0.0
    for piece in range(pieces):
        total += work.memory.squares[piece]
    norm = math.sqrt(total)
    work.memory.squares[pieces] = work.run.clip / norm if norm > work.run.clip else 1.0


@body
def _scale(work, at, count, pieces):
    kept = vector.part(work.memory.gradient, at, count)
    factor = type(kept[0])(work.memory.squares[pieces])
    for c in range(count):
        kept[c] *= factor


@body
def _update_clipped(work, update, at, count, pieces):
    _scale(work, at, count, pieces)
    zero = vector.number(work.parameters, 0)
    update_packed(work, update, at, count, vector.address(work.memory.gradient, at), zero)


@body
def pass_clipped(work, batch, number, pieces):
    """Update a piece of the parameters with the gradient that was kept."""
    piece = _piece_of(work.model.layers, number)
    layer, panel = work.model.layers[piece.number], piece.panel
    _update_clipped(work, batch.update, piece.at, (piece.stop - piece.first) * panel.width, pieces)
    if piece.stop == layer.n_in:
        _update_clipped(work, batch.update, layer.at_bias + panel.first, panel.width, pieces)
    if piece.number > 0:
        _turn(work, layer, piece.first, piece.stop)
