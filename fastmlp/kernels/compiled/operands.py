"""The operands of kernels: NamedTuples of arrays, which bodies receive as addresses."""

from typing import Any, NamedTuple


class Lists(NamedTuple):
    """Lists of the non-zero entries of groups of rows.

    Attributes
    ----------
    start, stop : int64
        List q holds the entries ``start[q]`` to below ``stop[q]``.
    index : int32
        Of each entry.
    code, value : uint8, float
        The numbers of an entry, GROUP of them: codes, which ``table`` (256,) decodes, if ``coded``, else values.
    """

    start: Any
    stop: Any
    index: Any
    code: Any
    value: Any
    coded: int
    table: Any


class Packed(NamedTuple):
    """A packed input matrix of m samples and n features.

    Attributes
    ----------
    order : int32 (m,)
        The sample at each position.
    forward : Lists
        For group q of samples and block r of features, of ``part`` each, list ``q n_parts + r`` has the features in
        which any of the samples is not zero.
    backward : Lists
        For tile t and group f of features, list ``t n_feature_groups + f`` has the samples of the tile in which any of
        the features is not zero. The gradient with respect to the first layer's weights has their order of features.
    places : int32 (n,)
        The place of each feature in that order.
    dense, dense_start, dense_ld
        ``dense_start[t]`` is -1, or where the rows of a dense tile begin in ``dense``, each of ``dense_ld`` elements.
    part, features : int
    whole : int
        Of so many samples the matrix holds some whole leaves; m, if it holds all.
    """

    order: Any
    forward: Lists
    backward: Lists
    places: Any
    dense: Any
    dense_start: Any
    dense_ld: int
    part: int
    features: int
    whole: int


class Scratch(NamedTuple):
    """Offsets into a worker's scratch; those of the outputs of layers are in the layer table.

    ``rows`` are ``rows_at_once`` of a plain input, which are copied at a time, of ``rows_ld`` elements.
    """

    factors: int
    delta: int
    below: int
    losses: int
    loss: int
    copies: int
    rows: int
    rows_ld: int
    rows_at_once: int


# Plain rows: their non-zero entries are listed on the way, or they are multiplied as they are. The bits are the same.
LISTED, UNLISTED = 1, 2


class Step(NamedTuple):
    """The problem of a pass besides the packed X.

    Attributes
    ----------
    layers : records (L,)
        The layer table: see `plan`.
    weights, panels : float
        Packed parameters, and the weights laid out for the backward product.
    identity : int32
        0, 1, 2, ..., the list of a dense product.
    finite : int
        Whether all parameters are finite, so that zeros of the input may be skipped.
    tile_start, tiles, tile, leaf_tiles, leaf, m
        As in `tree.Tiles`; the number of tiles, and of samples.
    first : int
        The number of the first leaf in the tree.
    targets : losses.Targets
    rows, base, plain
        If ``plain``, which is LISTED or UNLISTED, the input: samples from ``base`` on, as rows.
    across
        If not 0, all samples are columns, and ``rows`` is the memory in which the rows of features begin every so many
        elements.
    z, a, given
        If ``given``, the forward pass of the one hidden layer (m, h); the targets are then the gradient with respect
        to the logits.
    at : Scratch
    """

    layers: Any
    weights: Any
    panels: Any
    identity: Any
    finite: int
    tile_start: Any
    tiles: int
    tile: int
    leaf_tiles: int
    leaf: int
    m: int
    first: int
    targets: Any
    rows: Any
    base: int
    plain: int
    across: int
    z: Any
    a: Any
    given: int
    at: Scratch


class Rooms(NamedTuple):
    """Memory of each worker, a row for each: scratch, and lists that are made on the way.

    Attributes
    ----------
    scratch : float (workers, k)
        Activations, gradients and copies.
    start, index, value
        Lists of groups of rows: room for ``lists`` of them with ``entries`` entries in all.
    back_start, back_stop, back_index, back_value
        Lists of groups of features over a tile, all of the same length.
    """

    scratch: Any
    start: Any
    index: Any
    value: Any
    lists: int
    entries: int
    back_start: Any
    back_stop: Any
    back_index: Any
    back_value: Any


class Room(NamedTuple):
    """The rooms of one worker, as addresses, and how many lists and entries they hold."""

    scratch: Any
    listed: Any
    back: Lists
    lists: int
    entries: int


class Work(NamedTuple):
    """A worker's view of a pass: the problem, the packed X, and its own rooms."""

    step: Step
    x: Packed
    room: Room


class Shape(NamedTuple):
    """A product: ``rows`` x ``columns`` results, each a sum of so many ``terms``."""

    rows: int
    columns: int
    terms: int


class Panels(NamedTuple):
    """A matrix of ``rows`` x ``columns``, panel after panel of up to PANEL vectors, each stored row by row."""

    start: Any
    rows: int
    columns: int
