"""The layout of packed parameters, backward panels and scratch."""

import functools
from itertools import pairwise
from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import round_up, row_stride
from fastmlp.kernels.compiled.operands import LAYER, Packed


def part_size(n: int) -> int:
    """Return the features in a part: as few parts as may be, as even as may be."""
    return -(-n // -(-n // tuning.FEATURE_BLOCK))


def first_and_rest(parameters: Any, sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Return views of the first layer's weights and of all that is behind them, in a flat vector."""
    split = sizes[0] * sizes[1]
    return parameters[:split], parameters[split:]


@functools.lru_cache(maxsize=64)
def layer_plan(sizes: tuple[int, ...], itemsize: int, tile: int, dense: bool) -> tuple[Any, int, int, int, int]:
    """Return the layer table, and the elements of packed parameters, backward panels, scratch and `Problem.room`.

    ``dense`` says that no zero of the input is skipped.
    """
    lanes = vector.VECTOR_BYTES // itemsize
    line = vector.LINE_BYTES // itemsize
    layers = np.zeros(len(sizes) - 1, LAYER)
    packed = back = flat = 0
    rows = round_up(tile, vector.PADDING)
    scratch = widest = 0
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        # One unit is one column: of a vector it would be one lane.
        columns = 1 if n_out == 1 and layer == 0 else round_up(n_out, lanes)
        padded_rows = round_up(n_in, vector.PADDING)
        back_columns = round_up(n_in, lanes) if layer else 0
        ld = row_stride(max(columns, round_up(n_out, vector.PADDING)), itemsize)
        at_w = packed
        # Behind a ReLU gradients are zero where it is shut: those of a unit then make a row, not a column.
        gated = layer < len(sizes) - 2 and n_out >= tuning.SKIPPING_OUTPUTS and (layer > 0 or dense)
        # Rows without zeros to few units are narrow: weights and gradient lie in rows, whose vectors are full. Those of
        # columns are not where there are 10 classes: a step of 784-128-10 on a core of Zen 5 took 71 ms, so 69.
        narrow = layer == 0 and dense and n_out < tuning.SKIPPING_OUTPUTS and n_in >= tuning.WIDE_VECTORS * lanes
        if 0 < layer == len(sizes) - 2:
            narrow = n_in >= 8 * lanes and 8 * n_out * round_up(n_in, lanes) < 7 * n_in * round_up(n_out, lanes)
        by_unit = row_stride(n_in, itemsize) if gated or narrow else 0
        packed = round_up(at_w + max(padded_rows * columns, n_out * by_unit), line)
        layers[layer] = (n_in, n_out, columns, padded_rows, at_w, packed, back, back_columns, scratch, ld, flat,
                         part_size(n_in), by_unit, narrow)  # fmt: skip
        packed = round_up(packed + columns, line)
        back += n_out * back_columns
        flat += n_out * (n_in + 1)
        scratch += rows * ld
        widest = max(widest, ld)
    # Factors of a group with their zeros, then two buffers for the gradients by activations.
    scratch += vector.GROUP * max(sizes[0], tile) + 2 * rows * widest
    return layers, packed, max(back, 1), round_up(scratch, line), rows * widest


def no_input(dtype: Any, n: int) -> Packed:
    """Return a packed matrix of no samples."""
    ints, longs, codes, values = (np.empty(0, kind) for kind in (np.int32, np.int64, np.uint8, dtype))
    return Packed(ints, longs, ints, codes, values, longs, longs, ints, codes, values, False, values, values, longs,
                  row_stride(n, values.itemsize), part_size(n))  # fmt: skip
