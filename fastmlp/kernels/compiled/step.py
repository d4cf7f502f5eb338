"""The pass of one worker over tiles of samples: forward, loss, backward. Sums are added to a packed gradient."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.activations import activate, activate_rows, multiply_derivative
from fastmlp.kernels.compiled.columns import copy_columns
from fastmlp.kernels.compiled.gradients import add_by_output, backward_few, backward_rows
from fastmlp.kernels.compiled.lists import (
    backward_lists,
    copy_rows,
    decode,
    forward_lists,
    list_and_add,
    list_by_feature,
    list_neighbours,
    pad,
)
from fastmlp.kernels.compiled.losses import Logits, loss_rows
from fastmlp.kernels.compiled.memory import copy, fill_zeros
from fastmlp.kernels.compiled.operands import LISTED, Panels, Shape, Work
from fastmlp.kernels.compiled.panels import add_tile, panel, panel_count, set_rows
from fastmlp.kernels.compiled.plan import BY_OUTPUT, FEW_OUTPUTS, INNER, LISTS
from fastmlp.kernels.compiled.products import forward_rows, inner_products, product_rows
from fastmlp.kernels.compiled.rooms import open_room
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import add_rows


@body
def open_work(step, x, rooms, worker):
    """Return a worker's view of a pass."""
    return Work(step, x, open_room(x, rooms, worker))


@body
def _outputs(work, layer):
    """Return the outputs of a layer in the scratch."""
    return vector.matrix(work.room.scratch, layer.at_z, layer.ld)


@body
def _slopes(work, layer):
    """Return what the derivative of a layer's activation is made from: the slopes, or the outputs themselves."""
    return vector.matrix(work.room.scratch, layer.at_slopes, layer.ld)


@body
def _weights(work, layer):
    """Return the panels of a layer's weights."""
    return Panels(vector.address(work.step.weights, layer.at_w), layer.rows, layer.columns)


@body
def _gradient(gradient, layer):
    """Return the panels of the gradient with respect to a layer's weights."""
    return Panels(vector.address(gradient, layer.at_w), layer.rows, layer.columns)


# ---- Forward ----


@body
def _forward_dense(work, layer, z, length, a):
    """Set the outputs of a layer from dense rows a."""
    step, weights = work.step, _weights(work, layer)
    set_rows(z, length, vector.address(step.weights, layer.at_b), layer.columns)
    if layer.forward == INNER:
        part = layer.n_in * (vector.VECTOR_BYTES // vector.lanes(z))
        copies = vector.address(work.room.scratch, step.at.copies)
        b = vector.matrix(weights.start, 0, layer.n_in)
        inner_products(z, a, b, Shape(length, layer.n_out, layer.n_in), part, copies)
    else:
        forward_rows(z, length, a, weights, layer.n_in, step.identity)


@body
def forward_first_packed(work, tile, first, length):
    """Set the first layer's outputs, before the activation, of a tile of packed samples."""
    vector.noinline()
    step, x = work.step, work.x
    layer = step.layers[0]
    z, dense = _outputs(work, layer), x.dense_start[tile]
    if dense >= 0:
        _forward_dense(work, layer, z, length, vector.matrix(x.dense, dense, x.dense_ld))
        return
    set_rows(z, length, vector.address(step.weights, layer.at_b), layer.columns)
    parts, group = -(-layer.n_in // x.part), first // vector.GROUP
    if step.finite > 0:
        forward_lists(z, length, x.forward, group * parts, parts, _weights(work, layer))
    else:
        _forward_decoded(work, layer, z, length, group * parts, parts)


@body
def _forward_decoded(work, layer, z, length, first, parts):
    """Add the products of lists with the zeros between their entries: these could meet infinity."""
    n, lanes, group = layer.n_in, vector.lanes(z), vector.GROUP
    weights, to = _weights(work, layer), vector.address(work.room.scratch, work.step.at.factors)
    for q in range(-(-length // group)):
        fill_zeros(to, 0, n * group)
        for r in range(parts):
            decode(to, work.x.forward, first + q * parts + r)
        for number in range(panel_count(weights.columns, lanes)):
            c, width = panel(weights.columns, number, lanes)
            rows = vector.chosen(work.step.identity, 0, vector.matrix(weights.start, c * weights.rows, width))
            factors = vector.factors(to, 0, group, 1)
            add_tile(group, width // lanes, vector.block(z, q * group, c), factors, rows, n)


@body
def _forward_plain(work, first, length):
    """Set the first layer's outputs of a tile of plain rows, block by block."""
    step = work.step
    layer, n = step.layers[0], step.layers[0].n_in
    for s in range(0, length, tuning.COPIED_ROWS):
        count, z = min(tuning.COPIED_ROWS, length - s), vector.block(_outputs(work, layer), s, 0)
        rows = vector.matrix(step.rows.start, (first + s - step.base) * n, n)
        if step.across > 0 or count < tuning.COPIED_ROWS:  # whole groups need no padding
            rows = _copied_rows(work, first, s, length)
        if step.finite > 0 and step.plain == LISTED:
            set_rows(z, count, vector.address(step.weights, layer.at_b), layer.columns)
            list_and_add(z, count, rows, layer.n_in, layer.part, _weights(work, layer), work)
        else:
            _forward_dense(work, layer, z, count, rows)


@body
def _copied_rows(work, first, s, length):
    """Return up to COPIED_ROWS plain rows of a tile, from sample s of it on, in whole groups, copied in that order."""
    step, n = work.step, work.step.layers[0].n_in
    buffer = vector.matrix(work.room.scratch, step.at.rows, step.at.rows_ld)
    if step.across == 0:
        count = min(tuning.COPIED_ROWS, length - s)
        copy_rows(buffer, step.rows, step.identity, first + s - step.base, count, (np.int64(0), n))
        return buffer
    at = s % step.at.rows_at_once
    if at == 0:
        columns = vector.matrix(step.rows.start, first + s - step.base, step.across)
        count = min(step.at.rows_at_once, length - s)
        copy_columns(buffer, columns, count, n, tuning.FEATURES_AHEAD)
        pad(buffer, count, n)
    return vector.block(buffer, at, 0)


@body
def forward_first(work, tile, first, length):
    """Set the first layer's outputs, before the activation, of a tile, which begins at ``first``."""
    if work.step.plain > 0:
        _forward_plain(work, first, length)
    else:
        forward_first_packed(work, tile, first, length)


@body
def forward_hidden(work, length):
    """Set the activations of the hidden layers, and the logits."""
    vector.noinline()
    layers = work.step.layers
    for number in range(1, len(layers)):
        layer, before = layers[number], layers[number - 1]
        a, z = _outputs(work, before), _outputs(work, layer)
        activate_rows(before.activation, a, _slopes(work, before), length, layer.n_in)
        if before.columns == 1 and layer.gradient == BY_OUTPUT:  # which reads whole vectors: what is behind the column
            for s in range(length):
                fill_zeros(a.start, s * a.ld + 1, vector.lanes(a) - 1)
        if layer.forward == LISTS and work.step.finite > 0:
            set_rows(z, length, vector.address(work.step.weights, layer.at_b), layer.columns)
            list_and_add(z, length, a, layer.n_in, layer.part, _weights(work, layer), work)
        else:
            _forward_dense(work, layer, z, length, a)


# ---- Backward ----


@body
def _backward_dense(work, gradient, layer, delta, a, length):
    """Add the gradient with respect to a layer's weights, from its dense inputs a."""
    shape, identity = Shape(layer.n_out, layer.n_in, length), work.step.identity
    rows = vector.matrix(gradient, layer.at_w, layer.gradient_ld)
    copies = vector.address(work.room.scratch, work.step.at.copies)
    if layer.gradient == FEW_OUTPUTS:
        backward_few(rows, delta, a, shape, identity)
    elif layer.gradient == BY_OUTPUT:
        lanes = vector.lanes(delta)
        whole = Shape(layer.n_out, -(-layer.n_in // lanes) * lanes, length)
        add_by_output(rows, delta, a, whole, np.int64(0), copies, work.room.listed)
    else:
        backward_rows(_gradient(gradient, layer), delta, a, Shape(layer.n_in, layer.n_out, length), identity, copies)


@body
def _backward_packed(work, gradient, delta, tile, length, finite):
    """Add the gradient with respect to the first layer's weights, over a tile of packed samples."""
    step, x = work.step, work.x
    layer, dense = step.layers[0], x.dense_start[tile]
    if dense >= 0:
        _backward_dense(work, gradient, layer, delta, vector.matrix(x.dense, dense, x.dense_ld), length)
        return
    groups = -(-layer.n_in // vector.GROUP)
    if finite:
        backward_lists(_gradient(gradient, layer), delta, x.backward, tile * groups, groups)
    else:
        _backward_decoded(work, gradient, delta, tile * groups, length)


@body
def _backward_decoded(work, gradient, delta, first, length):
    """Do as `backward_lists` with the zeros between the entries: these could meet infinity."""
    layer, group, lanes = work.step.layers[0], vector.GROUP, vector.lanes(delta)
    to, panels = vector.address(work.room.scratch, work.step.at.factors), _gradient(gradient, layer)
    for f in range(-(-layer.n_in // group)):
        fill_zeros(to, 0, length * group)
        decode(to, work.x.backward, first + f)
        for number in range(panel_count(panels.columns, lanes)):
            c, width = panel(panels.columns, number, lanes)
            out = vector.matrix(panels.start, c * panels.rows + f * group * width, width)
            rows, factors = (
                vector.chosen(work.step.identity, 0, vector.block(delta, 0, c)),
                vector.factors(to, 0, group, 1),
            )
            add_tile(group, width // lanes, out, factors, rows, length)


@body
def _backward_plain(work, gradient, delta, first, length, finite):
    """Add the gradient with respect to the first layer's weights, over a tile of plain rows."""
    step, back = work.step, work.room.back
    layer = step.layers[0]
    groups = -(-layer.n_in // vector.GROUP)
    if not finite:
        for s in range(0, length, tuning.COPIED_ROWS):
            count, rows = min(tuning.COPIED_ROWS, length - s), _copied_rows(work, first, s, length)
            _backward_dense(work, gradient, layer, vector.block(delta, s, 0), rows, count)
        return
    copy(back.stop, back.start, groups)
    room = vector.address(work.room.scratch, step.at.factors)
    if step.across > 0:
        columns = vector.matrix(step.rows.start, first - step.base, step.across)
        list_by_feature(back, columns, length, layer.n_in, room)
    else:
        for s in range(0, length, tuning.COPIED_ROWS):
            at = (first + s - step.base) * layer.n_in
            rows = vector.matrix(step.rows.start, at, layer.n_in)
            list_neighbours(back, rows, s, min(tuning.COPIED_ROWS, length - s), layer.n_in, room)
    backward_lists(_gradient(gradient, layer), delta, back, np.int64(0), groups)


@body
def _backward_below(work, number, delta, below, length):
    """Set ``below`` to the gradient with respect to the inputs of a layer, delta times its weights."""
    step = work.step
    layer = step.layers[number]
    panels = Panels(vector.address(step.panels, layer.at_back), layer.n_out, layer.back_columns)
    if layer.below == LISTS and step.finite > 0:
        for s in range(-(-length // vector.PADDING) * vector.PADDING):
            fill_zeros(below.start, s * below.ld, layer.back_columns)
        part = step.layers[number + 1].part
        list_and_add(below, length, delta, layer.n_out, part, panels, work)
    else:
        product_rows(below, length, delta, panels, layer.n_out, step.identity)


@body
def _backward_layer(work, gradient, number, delta, below, values, length):
    """Add the gradient of a layer behind a hidden one, and set ``below`` to that with respect to its inputs.

    ``values`` are those of `multiply_derivative`.
    """
    layer, before = work.step.layers[number], work.step.layers[number - 1]
    add_rows(vector.address(gradient, layer.at_b), delta, layer.n_out, length)
    _backward_dense(work, gradient, layer, delta, _outputs(work, before), length)
    _backward_below(work, number, delta, below, length)
    multiply_derivative(before.activation, below, values, length, layer.n_in)


@body
def _backward(work, gradient, length):
    """Add the gradients of all layers but the first over a tile; return the delta of the first."""
    layers, scratch = work.step.layers, work.room.scratch
    at_delta, at_below = work.step.at.delta, work.step.at.below
    for number in range(len(layers) - 1, 0, -1):
        before = layers[number - 1]
        delta = vector.matrix(scratch, at_delta, layers[number].ld)
        below = vector.matrix(scratch, at_below, before.ld)
        _backward_layer(work, gradient, number, delta, below, _slopes(work, before), length)
        at_delta, at_below = at_below, at_delta
    return vector.matrix(scratch, at_delta, layers[0].ld)


# ---- A leaf ----


@body
def _loss(work, sums, first, length):
    """Set the gradient with respect to the logits, and add loss, hits and weight of a tile to ``sums``."""
    step, order = work.step, vector.address(work.x.order, first)
    top = step.layers[len(step.layers) - 1]
    z, losses = _outputs(work, top), vector.matrix(work.room.scratch, step.at.losses, step.tile)
    logits = Logits(z.start, z.ld, top.n_out, np.int64(top.columns > 1))
    delta = vector.matrix(work.room.scratch, step.at.delta, top.ld)
    loss_rows(losses, delta, logits, step.targets, order, length, vector.address(work.room.scratch, step.at.loss))
    loss, hits = vector.row(losses, 0, length), vector.row(losses, 1, length)
    cost, right, weight = sums[0], sums[1], sums[2]
    for s in range(length):
        cost += loss[s]
        right += hits[s]
        weight += step.targets.weight[order[s]]
    sums[0], sums[1], sums[2] = cost, right, weight


@body
def add_leaf(work, gradient, sums, leaf):
    """Add the sums over the samples of a leaf of a packed X to ``sums`` and to a packed gradient."""
    step = work.step
    layer = step.layers[0]
    for tile in range(leaf * step.leaf_tiles, min((leaf + 1) * step.leaf_tiles, step.tiles)):
        first = step.tile_start[tile]
        length = step.tile_start[tile + 1] - first
        forward_first_packed(work, tile, first, length)
        forward_hidden(work, length)
        _loss(work, sums, first, length)
        delta = _backward(work, gradient, length)
        finite = add_rows(vector.address(gradient, layer.at_b), delta, layer.n_out, length)
        _backward_packed(work, gradient, delta, tile, length, finite)


@body
def _load_given(work, first, length):
    """Copy a tile of given activations, and of the gradient with respect to the logits, into the scratch."""
    step = work.step
    hidden, output = step.layers[0], step.layers[1]
    h, classes = hidden.n_out, output.n_out
    delta = vector.matrix(work.room.scratch, step.at.delta, output.ld)
    for s in range(length):
        copy(vector.address(work.room.scratch, hidden.at_z + s * hidden.ld), vector.address(step.a, (first + s) * h), h)
        fill_zeros(delta.start, s * delta.ld, output.columns)
        given = vector.row_of(step.targets.rows, first + s, 0, classes)
        copy(vector.address(delta.start, s * delta.ld), vector.address(given, 0), classes)


@body
def add_given_leaf(work, gradient, leaf):
    """Add the gradient over the samples of a leaf, whose forward pass through one hidden layer is given."""
    step = work.step
    hidden, output = step.layers[0], step.layers[1]
    h = hidden.n_out
    for tile in range(leaf * step.leaf_tiles, min((leaf + 1) * step.leaf_tiles, step.tiles)):
        first = step.tile_start[tile]
        length = step.tile_start[tile + 1] - first
        _load_given(work, first, length)
        delta = vector.matrix(work.room.scratch, step.at.delta, output.ld)
        below = vector.matrix(work.room.scratch, step.at.below, hidden.ld)
        _backward_layer(work, gradient, 1, delta, below, vector.matrix(step.z, first * h, h), length)
        finite = add_rows(vector.address(gradient, hidden.at_b), below, h, length)
        if step.plain > 0:
            _backward_plain(work, gradient, below, first, length, finite)
        else:
            _backward_packed(work, gradient, below, tile, length, finite)


@body
def copy_hidden(work, z, a, j, s):
    """Copy the first layer's outputs of the s-th sample of a tile, and their activations, to row j of z and of a."""
    layer = work.step.layers[0]
    h = layer.n_out
    source = vector.address(work.room.scratch, layer.at_z + s * layer.ld)
    to = vector.row_of(a, j, 0, h)
    copy(vector.address(vector.row_of(z, j, 0, h), 0), source, h)
    copy(vector.address(to, 0), source, h)
    activate(layer.activation, to, to)
