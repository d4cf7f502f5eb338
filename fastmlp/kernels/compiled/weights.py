"""Packing the flat parameter vector into panels, and unpacking a gradient."""

from typing import Any, NamedTuple

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.launch import kernel
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.panels import copy_rows_finite, panel, panel_count
from fastmlp.kernels.compiled.plan import INNER, PANELS
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import fold_pairs


@body
def _pack_weights(packed, flat, layer):
    """Copy a layer's weights into panels of the transpose, or into rows; return whether all are finite."""
    lanes, n_in, n_out = vector.lanes(packed), layer.n_in, layer.n_out
    if layer.forward == INNER:
        weights = vector.matrix(flat, layer.at_flat, n_in)
        return copy_rows_finite(vector.address(packed, layer.at_w), weights, n_out, n_in)
    bad = 0
    for number in range(panel_count(layer.columns, lanes)):
        first, width = panel(layer.columns, number, lanes)
        to = vector.matrix(packed, layer.at_w + first * layer.rows, width)
        for c in range(width):
            if first + c < n_out:
                row = vector.part(flat, layer.at_flat + (first + c) * n_in, n_in)
                for k in range(n_in):
                    to.start[k * width + c] = row[k]
                    bad |= row[k] - row[k] != 0
            else:
                for k in range(n_in):
                    to.start[k * width + c] = 0
    return bad == 0


@body
def _pack_panels(panels, flat, layer):
    """Copy a layer's weights into panels for the backward product."""
    lanes, n_in, n_out = vector.lanes(panels), layer.n_in, layer.n_out
    for number in range(panel_count(layer.back_columns, lanes)):
        first, width = panel(layer.back_columns, number, lanes)
        to = vector.matrix(panels, layer.at_back + first * n_out, width)
        for k in range(n_out):
            row, given = vector.row(to, k, width), vector.part(flat, layer.at_flat + k * n_in + first, width)
            for c in range(width):
                row[c] = given[c] if first + c < n_in else 0


@kernel()
def pack_parameters(packed, panels, finite, flat, layers, first_layer, worker, workers):
    """Copy the flat vector into panels; ``finite[0]`` becomes whether all parameters are. One worker does it."""
    result = True
    for number in range(first_layer, len(layers)):
        layer = layers[number]
        n_out = layer.n_out
        result &= _pack_weights(packed, flat, layer)
        bias, given = (
            vector.part(packed, layer.at_b, layer.columns),
            vector.part(flat, layer.at_flat + n_out * layer.n_in, n_out),
        )
        for c in range(layer.columns):
            bias[c] = given[c] if c < n_out else 0
        _pack_panels(panels, flat, layer)
    finite[0] = result


class Gradients(NamedTuple):
    """Packed gradients, of which some are to be added.

    Attributes
    ----------
    start : float
        The gradients, each of ``size`` elements.
    pairs : int64 (k, 2)
        Numbers of gradients: the second of each pair is to be added to the first.
    places : int32 (n,)
        The rows of the inputs in the panels of the first layer; in another form, and behind it, rows have the order of
        the inputs.
    """

    start: Any
    size: int
    pairs: Any
    places: Any


@kernel()
def unpack_gradient(flat, gradients, layers, total, worker, workers):
    """Set the flat vector to the sum of the packed gradients divided by ``total``; workers share the panels."""
    lanes, (start, size, pairs, places) = vector.lanes(flat), gradients
    inverse = vector.number(flat, 1) / total  # a division takes eight times as long as a product
    turn = 0
    for layer in layers:
        for number in range(panel_count(layer.columns, lanes)):
            first, width = panel(layer.columns, number, lanes)
            if turn % workers == worker:
                count = min(first + width, layer.n_out) - first
                values = vector.factors(start, layer.at_w + first * layer.rows, width, 1)
                placed = layer.at_flat == 0
                at, elements = layer.at_w + first * layer.rows, layer.n_in * width
                if layer.gradient != PANELS:
                    at, elements = layer.at_w + first * layer.gradient_ld, count * layer.gradient_ld
                    values, placed = vector.factors(start, at, 1, layer.gradient_ld), False
                fold_pairs(start, pairs, size, at, elements)
                fold_pairs(start, pairs, size, layer.at_b + first, width)
                weights, shape = vector.address(flat, layer.at_flat + first * layer.n_in), Shape(count, layer.n_in, 1)
                if placed:
                    _copy_placed(weights, values, shape, inverse, places)
                else:
                    _copy_scaled(weights, values, shape, inverse)
                biases = vector.address(flat, layer.at_flat + layer.n_out * layer.n_in + first)
                _copy_scaled(biases, vector.factors(start, layer.at_b + first, 1, 0), Shape(1, count, 1), inverse)
            turn += 1


@body
def _copy_placed(to, values, shape, factor, places):
    """Do as `_copy_scaled` with columns of the result from other rows of the `Factors`."""
    for r in range(shape.rows):
        row = vector.part(to, r * shape.columns, shape.columns)
        for k in range(shape.columns):
            row[k] = values.start[r * values.row + places[k] * values.step] * factor


@body
def _copy_scaled(to, values, shape, factor):
    """Set rows, one behind the other, to the transposed `Factors` times ``factor``."""
    for r in range(shape.rows):
        row = vector.part(to, r * shape.columns, shape.columns)
        for k in range(shape.columns):
            row[k] = values.start[r * values.row + k * values.step] * factor
