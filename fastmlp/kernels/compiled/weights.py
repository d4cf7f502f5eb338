"""Packing the flat parameter vector into panels."""

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.products import copy_panel, panel_width
from fastmlp.kernels.compiled.runtime import body, serial


@body
def _pack_weights(packed, flat, layer):
    """Copy a layer's weights into panels of the transpose, those of few units as they are; return if all are finite."""
    lanes = vector.VECTOR_BYTES // packed.itemsize
    n_in, n_out = layer.n_in, layer.n_out
    if layer.narrow > 0:
        return copy_panel(packed[layer.at_w :], flat, layer.at_flat, n_in, n_out, n_in)
    bad = 0
    first = 0
    while first < layer.columns:
        width = panel_width(layer.columns, first, lanes)
        at = layer.at_w + first * layer.rows
        for c in range(width):
            if first + c < n_out:
                row = layer.at_flat + (first + c) * n_in
                for k in range(n_in):
                    packed[at + k * width + c] = flat[row + k]
                    bad |= flat[row + k] - flat[row + k] != 0
            else:
                for k in range(n_in):
                    packed[at + k * width + c] = 0
        first += width
    return bad == 0


@serial
def pack_parameters(packed, back, flat, layers, first_layer):
    """Copy the flat vector into panels of the transposed weights, and of the weights; return whether all are finite."""
    lanes = vector.VECTOR_BYTES // packed.itemsize
    finite = True
    for number in range(first_layer, len(layers)):
        layer = layers[number]
        n_in, n_out, columns, at_flat = layer.n_in, layer.n_out, layer.columns, layer.at_flat
        finite &= _pack_weights(packed, flat, layer)
        for c in range(columns):
            packed[layer.at_b + c] = flat[at_flat + n_out * n_in + c] if c < n_out else 0
        first = 0
        while first < layer.back_columns:
            width = panel_width(layer.back_columns, first, lanes)
            at = layer.at_back + first * n_out
            for k in range(n_out):
                row = at_flat + k * n_in + first
                for c in range(width):
                    back[at + k * width + c] = flat[row + c] if first + c < n_in else 0
            first += width
    return finite
