"""The layout of packed parameters and scratch, and the form of each product, decided once for a net and a tile.

Samples are taken in *leaves*, aligned chunks by global index; a leaf in *tiles*, whose activations fit the cache; a
tile in *groups* of GROUP samples, the rows of a register tile. Parameters and gradients are *packed*: for each layer
the columns of the transposed weights in panels of PANEL vectors, panel after panel, each (rows, width), then the
biases. A micro-kernel adds to GROUP rows: of Z in the forward pass, a group of samples over its list of active
features; of the gradient in the backward pass, a group of features over its list of the tile's active samples.

The lists come from a packed matrix, or are made on the way, tile by tile, from the rows of a plain one. Those of a
hidden layer are made on the way as well: about half of its activations are zero, and neighbouring samples share zeros.

Behind a ReLU about half of the gradient with respect to the outputs of a hidden layer is zero too. Where nothing is
gained by zeros of its input, the gradient with respect to its weights is made output by output over the samples that
count, and is stored in rows, one for each output, not in panels.
"""

import functools
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import gradients, losses, products, tuning
from fastmlp.kernels.compiled.activations import ACTIVATIONS
from fastmlp.kernels.compiled.memory import identity_index, round_up, row_stride
from fastmlp.kernels.compiled.operands import Lists, Packed, Scratch, Shape
from fastmlp.kernels.nets import Net

# Forms of a product. Forward and below: register tiles on dense rows, inner products, lists of non-zero entries.
# Of a gradient: panels of register tiles, rows of outputs over their non-zero deltas, rows of few outputs.
ROWS, INNER, LISTS = 0, 1, 2
PANELS, BY_OUTPUT, FEW_OUTPUTS = 0, 1, 2

# A row of the layer table, of records: a field takes Numba much less code than an element of an array.
# Sizes of the layer; columns and rows of its panels; offsets of weights, biases and backward panels, and the columns of
# these; offset and row stride of its outputs in the scratch, and offset of what its derivative is made from, slopes or
# these outputs; offset in the flat vector; features in a block; row stride of a gradient that is stored by outputs;
# forms of the three products; the activation's code.
LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "n_in", "n_out", "columns", "rows", "at_w", "at_b", "at_back", "back_columns", "at_z", "ld", "at_slopes",
            "at_flat", "part", "gradient_ld", "forward", "gradient", "below", "activation",
        )
    ]
)  # fmt: skip


class Plan(NamedTuple):
    """The layer table, and the elements of packed parameters, backward panels and a worker's scratch."""

    layers: Any
    parameters: int
    panels: int
    scratch: int
    at: Scratch


def part_size(n: int) -> int:
    """Return the features in a block: as few blocks as possible, as even as possible."""
    return -(-n // -(-n // tuning.FEATURE_BLOCK))


def first_and_rest(parameters: Any, sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Return views of the first layer's weights and of all that is behind them, in a flat vector."""
    split = sizes[0] * sizes[1]
    return parameters[:split], parameters[split:]


def no_input(dtype: Any, n: int, whole: int = 0) -> Packed:
    """Return a packed matrix of no samples out of ``whole``."""
    ints, longs, codes, values = (np.empty(0, kind) for kind in (np.int32, np.int64, np.uint8, dtype))
    empty = Lists(longs, longs, ints, codes, values, 0, values)
    return Packed(
        ints, empty, empty, identity_index(n), values, longs, row_stride(n, values.itemsize), part_size(n), n, whole
    )


def all_dense(x: Packed) -> bool:
    """Return whether all tiles of a packed matrix are dense, as `layer_plan` is to be told of all of its parts."""
    return len(x.dense) > 0 and bool((x.dense_start >= 0).all())


class _Forms(NamedTuple):
    forward: int
    gradient: int
    below: int


def _forms(number: int, net: Net, lanes: int, *, dense: bool) -> _Forms:
    """Return the forms of a layer's products; ``dense`` says that no zero of the input is skipped.

    A form that skips zeros is taken only where all of the other factors are finite, else `ROWS`.
    """
    last, wide = len(net.sizes) - 2, tuning.WIDE_VECTORS * lanes
    n_in, n_out = net.sizes[number : number + 2]
    zeros_in, zeros_out = _makes_zeros(net, number - 1), _makes_zeros(net, number)
    columns, back_columns = round_up(n_out, lanes), round_up(n_in, lanes)
    # Dense rows to few outputs: weights and gradient in rows have full vectors, in columns they would not.
    few = number == 0 and dense and n_out < tuning.SKIPPING_OUTPUTS and n_in >= wide
    if 0 < number == last:
        few = n_in >= tuning.ROWS_VECTORS * lanes and n_out * back_columns < tuning.ROWS_SHARE * (n_in * columns)
    forward = INNER if few else LISTS if zeros_in and columns >= wide else ROWS
    skips = zeros_out and n_out >= tuning.SKIPPING_OUTPUTS and (number > 0 or dense)
    gradient = FEW_OUTPUTS if few else BY_OUTPUT if skips else PANELS
    # The gradient with respect to the logits has no zeros.
    below = LISTS if zeros_out and back_columns >= wide else ROWS
    return _Forms(forward, gradient, below)


def _makes_zeros(net: Net, number: int) -> bool:
    """Return whether a layer is a hidden one whose activation makes zeros."""
    return 0 <= number < len(net.activations) and ACTIVATIONS[net.activations[number]].makes_zeros


def _copies(sizes: tuple[int, ...], tile: int, itemsize: int) -> int:
    """Return the copies of the products of a tile."""
    inner = max(
        products.inner_scratch(Shape(tile, n_out, n_in), n_in * itemsize, itemsize) for n_in, n_out in pairwise(sizes)
    )
    return max(vector.DENSE_SAMPLES * tuning.DENSE_FEATURES, gradients.skipping_scratch(tile, itemsize), inner)


@functools.lru_cache(maxsize=64)
def layer_plan(net: Net, itemsize: int, tile: int, dense: bool, plain: bool) -> Plan:
    """Return the plan of a net for tiles of ``tile`` samples.

    ``dense`` says that no zero of the input is skipped, ``plain`` that it is not packed.
    """
    lanes, line = vector.VECTOR_BYTES // itemsize, vector.LINE_BYTES // itemsize
    sizes, activations = net.sizes, [ACTIVATIONS[name] for name in (*net.activations, "identity")]
    layers = np.zeros(len(sizes) - 1, LAYER)
    packed = panels = flat = scratch = widest = 0
    rows = round_up(tile, vector.PADDING)
    for number, (n_in, n_out) in enumerate(pairwise(sizes)):
        # One output is one column: of a vector it would be one lane.
        columns = 1 if n_out == 1 and number == 0 else round_up(n_out, lanes)
        padded_rows = round_up(n_in, vector.PADDING)
        back_columns = round_up(n_in, lanes) if number else 0
        ld = row_stride(max(columns, round_up(n_out, vector.PADDING)), itemsize)
        forms = _forms(number, net, lanes, dense=dense)
        gradient_ld = 0 if forms.gradient == PANELS else row_stride(n_in, itemsize)
        at_w, packed = packed, round_up(packed + max(padded_rows * columns, n_out * gradient_ld), line)
        activation, at_z = activations[number], scratch
        scratch += rows * ld
        at_slopes = scratch if activation.has_slopes else at_z
        scratch += rows * ld if activation.has_slopes else 0
        layers[number] = (n_in, n_out, columns, padded_rows, at_w, packed, panels, back_columns, at_z, ld, at_slopes,
                          flat, part_size(n_in), gradient_ld, *forms, activation.code)  # fmt: skip
        packed = round_up(packed + columns, line)
        panels += n_out * back_columns
        flat += n_out * (n_in + 1)
        widest = max(widest, ld)
    # Behind the outputs of the layers: factors of a group with their zeros, two buffers for the gradients with respect
    # to outputs, losses and hits of a tile, the scratch of the loss, copies, and rows of a plain input.
    rows_ld = row_stride(round_up(sizes[0], vector.PADDING), itemsize) if plain else 0
    rows_at_once = tuning.COPIED_COLUMN_BYTES // itemsize
    if rows_at_once * rows_ld * itemsize > tuning.COPIED_BYTES:
        rows_at_once = tuning.COPIED_ROWS
    counts = (
        vector.GROUP * max(sizes[0], tile), rows * widest, rows * widest, 2 * tile,
        losses.loss_scratch(sizes[-1], tile, itemsize), _copies(sizes, tile, itemsize),
        rows_at_once * rows_ld,
    )  # fmt: skip
    ends = np.cumsum([round_up(scratch, line), *(round_up(count, line) for count in counts)]).tolist()
    return Plan(layers, packed, max(panels, 1), ends[-1], Scratch._make([*ends[:-1], rows_ld, rows_at_once]))
