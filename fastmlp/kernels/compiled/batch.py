"""What the updates on batches work on: a packed model, the memory of a batch, a run of updates; see `updates`.

Parameters are packed: for each layer a row for each input with the weights to all outputs, padded to whole vectors, and
the biases.

The outputs of the first layer are sums over ranges of features. A thread that has the same ranges in each update,
forward as well as back, finds their weights in its own cache; threads exchange the sums of samples, which are fewer.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.drawn import DrawnLists
from fastmlp.kernels.compiled.losses import Targets
from fastmlp.kernels.compiled.products import multiply_panels
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import SampleLists
from fastmlp.kernels.compiled.team import Team

# A row of the layer table: sizes; columns and rows, both padded to whole vectors; offsets of weights, biases and
# transposed weights in the packed vectors; columns of all layers before; pieces of the parameters, the rows of each and
# the number of the first; the activation's code.

BATCH_LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "n_in", "n_out", "columns", "rows", "at", "at_bias", "at_turned", "before", "height", "first_piece",
            "pieces", "activation",
        )
    ]
)  # fmt: skip


class Model(NamedTuple):
    """The packed state of an optimizer beside the parameters; ``m`` and ``v`` are empty where it has none.

    Attributes
    ----------
    layers : records (L,)
    m, v : float
    turned : float
        The transposed weights of all layers but the first, (columns, rows) each, for the way back.
    group : int64 (blocks,)
        Blocks of features of one number are read together: their weights stay near for all samples of a piece.
    ranges : int
        Ranges of features of the first layer, which are whole pieces of its parameters.
    """

    layers: Any
    m: Any
    v: Any
    turned: Any
    group: Any
    ranges: int


class BatchMemory(NamedTuple):
    """What the phases of an update hand on.

    Attributes
    ----------
    inputs : float
        The rows of a dense input.
    values, deltas : float
        The outputs of all layers, and the gradients with respect to them.
    partial : float
        The outputs of the first layer over each range of features but the first one, whose are in values.
    slopes : float
        Derivatives of the activations that have slopes, each where its value is in ``values``; empty if none has.
    losses : float (2, samples)
        Loss and hits of each sample.
    gradient : float
        The packed gradient, where it is to be clipped, and empty elsewhere.
    squares : float64
        The sum of its squares in each piece.
    weights : float64
        The sum of the squares of the weights in each piece, before their update.
    zeros : float
        A row of the first layer's gradient, where it is zero.
    identity : int32
        0, 1, 2, ..., the list of a dense product.
    samples : int
        There is room for so many, a multiple of the lanes of a vector.
    """

    inputs: Any
    values: Any
    deltas: Any
    partial: Any
    slopes: Any
    losses: Any
    gradient: Any
    squares: Any
    weights: Any
    zeros: Any
    identity: Any
    samples: int


class FeatureLists(NamedTuple):
    """For each feature of a block, the samples in which it is not zero, of some of a batch; arrays or addresses.

    Attributes
    ----------
    start, stop : int32
        Where the list of each feature begins and ends.
    index : uint16
    value : float
        As of `DrawnLists`.
    """

    start: Any
    stop: Any
    index: Any
    value: Any


class BatchRooms(NamedTuple):
    """Memory of each thread, a row for each.

    Attributes
    ----------
    gradient, loss : float
        A gradient, and the scratch of the loss.
    start, stop : int64
        Where lists begin and end.
    turned : FeatureLists
        The lists of a block, as a thread makes them of those of the samples. Each has room for all of them.
    following : int32
        For each feature of a block, the next update whose batch meets it.
    marks : uint64
        A bit for each feature of a block, which are zero again after use.
    """

    gradient: Any
    loss: Any
    start: Any
    stop: Any
    turned: FeatureLists
    following: Any
    marks: Any


class ThreadRoom(NamedTuple):
    """The memory of one thread, as addresses: see `BatchRooms`."""

    gradient: Any
    loss: Any
    start: Any
    stop: Any
    turned: FeatureLists
    following: Any
    marks: Any


class Meetings(NamedTuple):
    """The features that the batches of a run meet, and the updates that rows of the first layer wait for.

    Attributes
    ----------
    waits : int
        Whether rows wait that a batch does not meet: see `batch_rows`. If not, everything else is empty. A run of no
        updates makes those that rows wait for.
    idle : int
        Whether updates without a gradient change nothing.
    current : int32 (features,)
        How many updates each row has had, of those in the table of the run's numbers.
    start : int64 ((updates + 1) parts,)
        The meetings of update u in block p are those from ``start[(u + 1) parts + p]`` to below ``start[u parts + p]``.
    feature, until : int32
        The feature of each meeting, in order, and the next update of the run that meets it, or how many there are.
    """

    waits: int
    idle: int
    current: Any
    start: Any
    feature: Any
    until: Any


class Run(NamedTuple):
    """A run of updates.

    Attributes
    ----------
    order : int32
        Samples, batch after batch; batch i ends before ``ends[i]``, int64.
    past : int
        Updates of earlier runs, whose shares and numbers come first: rows may still wait for them.
    share : float (past + updates,)
        One over the weight of each batch, or 0 where that is 0.
    numbers : float (past + updates, 4)
        See `rules.Numbers`.
    targets : losses.Targets
    constants : float (7,)
        Of the rule: first, second, 1 - first, 1 - second, eps; and the share and the limit of parameters of `waiting`.
    kind, nesterov, momentum : int
        The kind of the rule, and whether it has momentum.
    clip : float64
    squares : int
        Whether to add up the squares of the weights.
    updates : int
    piece : int
        Samples in a piece of the first phase, a multiple of the lanes of a vector.
    chunk : int
        Samples whose entries are listed by feature at once, for the gradient of the first layer; 0 if they are not.
    sums : float64 (updates, LINE_NUMBERS)
        Of loss, hits, and the squares of the weights.
    faults : int64 (updates,)
        Whether the update took a parameter past the limit.
    done : int64 (1,)
        Run that were made.
    met : Meetings
    drawn : DrawnLists
        Of batches that are the same in each epoch, if all of the run are.
    numbered : int64 (updates,)
        The number of each batch in these lists.
    """

    order: Any
    ends: Any
    past: int
    share: Any
    numbers: Any
    targets: Targets
    constants: Any
    kind: int
    nesterov: int
    momentum: int
    clip: float
    squares: int
    updates: int
    piece: int
    chunk: int
    sums: Any
    faults: Any
    done: Any
    team: Team
    met: Any
    drawn: DrawnLists
    numbered: Any


class Work(NamedTuple):
    """A thread's view of a run of updates of the packed ``parameters``."""

    parameters: Any
    model: Model
    memory: BatchMemory
    x: SampleLists
    run: Run
    met: Meetings


class Minibatch(NamedTuple):
    """The batch of an update: its number, its first place in the order, and how many samples it has."""

    update: int
    begin: int
    count: int


@body
def minibatch(run, update):
    """Return the batch of an update."""
    begin = np.int64(0)
    if update > 0:
        begin = run.ends[update - 1]
    return Minibatch(update, begin, run.ends[update] - begin)


@body
def add_product(out, a, b, shape, identity, fresh):
    """out[r, c] += sum_k a(k, r) b[k, c], `Factors` and a `Matrix`; overwrites if ``fresh``. Columns: whole vectors."""
    none, alone = (out.start, np.int64(0), np.int64(0)), vector.Share(np.int64(0), np.int64(1))
    multiply_panels(out, a, b, shape, identity, none, alone, fresh)


@body
def of_layer(work, base, layer, lo):
    """Return the outputs, or their deltas, of a layer from sample ``lo`` of the batch on."""
    at = layer.before * work.memory.samples + lo * layer.columns
    return vector.matrix(base, at, layer.columns)


@body
def layer_inputs(work, number):
    """Return the inputs of a layer, as a `Matrix` of the samples of the batch; not for listed samples."""
    layers = work.model.layers
    if number == 0:
        return vector.matrix(work.memory.inputs, 0, layers[0].rows)
    below = layers[number - 1]
    return of_layer(work, work.memory.values, below, np.int64(0))


@body
def range_of(work, number):
    """Return the first piece of the first layer's parameters in a range of features, and the end."""
    pieces, ranges = work.model.layers[0].pieces, work.model.ranges
    return pieces * number // ranges, pieces * (number + 1) // ranges


@body
def partial_outputs(work, number, lo):
    """Return the outputs of the first layer over a range of features, from sample ``lo`` of the batch on."""
    layer = work.model.layers[0]
    if number == 0:
        return of_layer(work, work.memory.values, layer, lo)
    at = ((number - 1) * work.memory.samples + lo) * layer.columns
    return vector.matrix(work.memory.partial, at, layer.columns)
