"""What kernels take: a problem, a packed matrix, lists, the layer table."""

from typing import Any, NamedTuple

import numpy as np

# A row of the layer table. Records, because Numba takes a tenth of the code for a field that it takes for an element.
LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "n_in", "n_out", "columns", "rows", "at_w", "at_b", "at_back", "back_columns", "at_z", "ld", "at_flat",
            "part", "by_unit", "narrow",
        )
    ]
)  # fmt: skip


class Problem(NamedTuple):
    """What a pass computes with, besides a packed X: packed parameters, their layout, the tree over m samples, targets.

    ``labels`` (m,) int64 or ``targets`` (m, C); the other is empty. ``weight`` (m,). ``tile_start``, ``tile``,
    ``leaf_tiles`` and ``leaf`` are those of `_Tiles`. ``room`` is the size of each of the two buffers at the end of the
    scratch, which hold the gradients by activations; ``identity`` is 0, 1, 2, ..., the index of a dense product.

    If ``rows`` is not empty, the input is plain: samples from ``base`` on. If ``a`` is not empty, the forward pass is
    given: ``z`` and ``a`` are those of the one hidden layer, flat, ``targets`` the gradient by the logits.
    """

    packed: Any
    back: Any
    layers: Any
    finite: bool
    m: int
    tile_start: Any
    tile: int
    leaf_tiles: int
    leaf: int
    unit_leaves: int
    room: int
    identity: Any
    labels: Any
    targets: Any
    weight: Any
    rows: Any
    base: int
    z: Any
    a: Any


class Packed(NamedTuple):
    """A packed input matrix of m samples and n features.

    ``order`` (m,) is the sample at each position. For group q of samples and part r of the features, of ``part`` each,
    entries ``forward_start[q n_parts + r]`` to the following start of ``forward_index`` are the features in which any
    of its samples is not zero; their values stand in ``forward_value``, GROUP to an entry, or as uint8 in
    ``forward_code`` if the matrix is ``coded``: ``table`` (256,) decodes them. For tile t and group f of features,
    ``backward_*`` at ``t n_feature_groups + f`` are the tile's samples in which any of its features is not zero.
    ``dense_start[t]`` is -1, or where the rows of a dense tile begin in ``dense``, each of ``dense_ld`` elements.
    """

    order: Any
    forward_start: Any
    forward_index: Any
    forward_code: Any
    forward_value: Any
    backward_start: Any
    backward_stop: Any
    backward_index: Any
    backward_code: Any
    backward_value: Any
    coded: bool
    table: Any
    dense: Any
    dense_start: Any
    dense_ld: int
    part: int


class Lists(NamedTuple):
    """Room, per worker, for the rows of a block of samples and for the lists of a tile."""

    rows: Any
    forward_start: Any
    forward_index: Any
    forward_value: Any
    backward_start: Any
    backward_stop: Any
    backward_index: Any
    backward_value: Any
