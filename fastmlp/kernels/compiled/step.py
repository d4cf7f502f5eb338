"""The fused pass over tiles of samples: forward, loss, backward, fold, mean."""

from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.activations import apply_gate, relu_rows, relu_value
from fastmlp.kernels.compiled.launch import large_kernel, read_only, usable_threads
from fastmlp.kernels.compiled.lists import (
    backward_lists,
    copy_rows,
    forward_lists,
    list_and_add,
    list_backward,
    lists_of,
)
from fastmlp.kernels.compiled.losses import loss_rows
from fastmlp.kernels.compiled.memory import aligned, aligned_parts, copy_to, fill_zeros, identity_index, row_batches
from fastmlp.kernels.compiled.operands import Packed, Problem
from fastmlp.kernels.compiled.plan import layer_plan, no_input
from fastmlp.kernels.compiled.products import (
    add_by_unit,
    backward_narrow,
    backward_rows,
    decode_all,
    forward_rows,
    panel_width,
    set_rows,
)
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import add_rows, add_top, fold_own, fold_subtrees, tiling, worker_shares
from fastmlp.kernels.compiled.weights import pack_parameters


@body
def _forward_input(z, at_z, ld, tile, first, length, x, packed, layer, finite, identity, factors, at_f):
    """Compute z (length, h) = x W1^T + bias of the samples of one tile, from lists or dense rows."""
    vector.outline()
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // z.itemsize
    part = x.part
    n, columns, rows = layer.n_in, layer.columns, layer.rows
    dense = x.dense_start[tile]
    if dense >= 0:
        forward_rows(z, at_z, ld, length, x.dense, dense, x.dense_ld, packed, layer, identity)
        return
    set_rows(z, at_z, ld, length, packed, layer.at_b, columns)
    parts = -(-n // part)
    q0 = first // group
    if finite:
        forward_lists(z, at_z, ld, length, x.forward_start, q0 * parts, parts, x.forward_index, x.forward_code,
                       x.forward_value, x.coded, x.table, packed, layer.at_w, rows, columns)  # fmt: skip
        return
    # No zero may be skipped: it could meet infinity.
    for q in range(-(-length // group)):
        start, stop = x.forward_start[(q0 + q) * parts], x.forward_start[(q0 + q + 1) * parts]
        decode_all(factors, at_f, x.forward_code, x.forward_value, x.coded, x.table, x.forward_index,
                    start, stop, n)  # fmt: skip
        c = 0
        while c < columns:
            width = panel_width(columns, c, lanes)
            vector.tile(group, width // lanes, z, at_z + q * group * ld + c, ld, factors, at_f, group, 1,
                  identity, 0, packed, layer.at_w + c * rows, width, n, 0)  # fmt: skip
            c += width


@body
def _backward_input(grad, d, at_d, ld, tile, length, finite, x, layer, identity, factors, at_f):
    """Add x^T d of one tile to the packed gradient of W1."""
    vector.outline()
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // d.itemsize
    n, columns, rows = layer.n_in, layer.columns, layer.rows
    groups = -(-n // group)
    t0 = tile * groups
    dense = x.dense_start[tile]
    if dense >= 0:
        if layer.narrow > 0:
            backward_narrow(grad, d, at_d, ld, length, x.dense, dense, x.dense_ld, layer, identity)
        elif layer.by_unit > 0:
            add_by_unit(grad, layer.at_w, layer.by_unit, d, at_d, ld, layer.n_out, x.dense, dense, x.dense_ld, length,
                         np.int64(0), -(-n // lanes) * lanes, False)  # fmt: skip
        else:
            backward_rows(grad, d, at_d, ld, length, x.dense, dense, x.dense_ld, layer, identity)
        return
    if finite:
        backward_lists(grad, d, at_d, ld, x.backward_start, x.backward_stop, t0, groups, x.backward_index,
                        x.backward_code, x.backward_value, x.coded, x.table, layer)  # fmt: skip
        return
    # No zero may be skipped: it could meet infinity.
    for f in range(groups):
        decode_all(factors, at_f, x.backward_code, x.backward_value, x.coded, x.table, x.backward_index,
                    x.backward_start[t0 + f], x.backward_stop[t0 + f], length)  # fmt: skip
        c = 0
        while c < columns:
            width = panel_width(columns, c, lanes)
            vector.tile(group, width // lanes, grad, layer.at_w + c * rows + f * group * width, width,
                  factors, at_f, group, 1, identity, 0, d, at_d + c, ld, length, 0)  # fmt: skip
            c += width


@body
def _backward_hidden(grad, e, at_e, d, at_d, ld, length, scratch, lists, worker, number, x, p):
    """Add a^T d to the gradient, and set e (length, n_in) = d W; a are the activations of the layer before."""
    lanes, layer = vector.VECTOR_BYTES // d.itemsize, p.layers[number]
    before = p.layers[number - 1]
    at_a, a_ld = before.at_z, before.ld
    if layer.narrow > 0:
        backward_narrow(grad, d, at_d, ld, length, scratch, at_a, a_ld, layer, p.identity)
    elif layer.by_unit > 0:
        add_by_unit(grad, layer.at_w, layer.by_unit, d, at_d, ld, layer.n_out, scratch, at_a, a_ld, length,
                     np.int64(0), -(-layer.n_in // lanes) * lanes, False)  # fmt: skip
    else:
        backward_rows(grad, d, at_d, ld, length, scratch, at_a, a_ld, layer, p.identity)
    # A gradient by the activations of a hidden layer is zero where they are; one by the logits has no zeros.
    n_out, columns = layer.n_out, layer.back_columns
    if p.finite and number < len(p.layers) - 1 and columns >= tuning.WIDE_VECTORS * lanes:
        for s in range(-(-length // vector.PADDING) * vector.PADDING):
            fill_zeros(e, at_e + s * a_ld, columns)
        list_and_add(e, at_e, a_ld, length, d, at_d, ld, n_out, p.layers[number + 1].part, p.back, layer.at_back,
                      n_out, columns, lists, worker, x)  # fmt: skip
        return
    group = vector.DENSE_GROUP
    c = 0
    while c < columns:
        width = panel_width(columns, c, lanes)
        for s in range(0, length, group):
            vector.tile(group, width // lanes, e, at_e + s * a_ld + c, a_ld, d, at_d + s * ld, 1, ld,
                  p.identity, 0, p.back, layer.at_back + c * n_out, width, n_out, 1)  # fmt: skip
        c += width


@body
def _at_factors(layers, tile):
    """Return where in the scratch the factors begin: behind the activations of the last layer."""
    last = layers[-1]
    return last.at_z + -(-tile // vector.PADDING) * vector.PADDING * last.ld


@body
def _forward_plain(scratch, first, length, lists, worker, x, p):
    """Compute the first layer of a tile of plain rows, block by block."""
    buffer, layer, zero = lists.rows[worker], p.layers[0], np.int64(0)  # a literal has a type of its own
    at_z, ld, n, columns = layer.at_z, layer.ld, layer.n_in, layer.columns
    row_ld = len(buffer) // tuning.COPIED_ROWS
    for s in range(0, length, tuning.COPIED_ROWS):
        count = min(tuning.COPIED_ROWS, length - s)
        copy_rows(buffer, row_ld, p.rows, p.identity, zero, count, p.base - first - s)
        if p.finite:
            set_rows(scratch, at_z + s * ld, ld, count, p.packed, layer.at_b, columns)
            list_and_add(scratch, at_z + s * ld, ld, count, buffer, zero, row_ld, n, layer.part, p.packed,
                          layer.at_w, layer.rows, columns, lists, worker, x)  # fmt: skip
        else:
            forward_rows(scratch, at_z + s * ld, ld, count, buffer, zero, row_ld, p.packed, layer, p.identity)


@body
def _backward_plain(grad, d, at_d, ld, first, length, finite, lists, worker, x, p):
    """Add x^T d of a tile of plain rows to the packed gradient of W1."""
    buffer, stops, layer, zero = lists.rows[worker], lists.backward_stop[worker], p.layers[0], np.int64(0)
    index, value = lists.backward_index[worker], lists.backward_value[worker]
    n = layer.n_in
    row_ld = len(buffer) // tuning.COPIED_ROWS
    copy_to(stops, lists.backward_start)
    for s in range(0, length, tuning.COPIED_ROWS):
        count = min(tuning.COPIED_ROWS, length - s)
        copy_rows(buffer, row_ld, p.rows, p.identity, zero, count, p.base - first - s)
        if finite:
            list_backward(index, value, stops, buffer, zero, row_ld, s, count, n)
        else:
            backward_rows(grad, d, at_d + s * ld, ld, count, buffer, zero, row_ld, layer, p.identity)
    if finite:
        backward_lists(grad, d, at_d, ld, lists.backward_start, stops, zero, -(-n // vector.GROUP), index,
                        x.backward_code, value, len(index) < 0, x.table, layer)  # fmt: skip


@body
def _forward(scratch, tile, first, length, lists, worker, x, p):
    """Leave in ``scratch`` the first hidden layer, before its ReLU, of a tile, which begins at ``first``."""
    vector.outline()
    if len(p.rows) > 0:
        _forward_plain(scratch, first, length, lists, worker, x, p)
    else:
        layer = p.layers[0]
        _forward_input(scratch, layer.at_z, layer.ld, tile, first, length, x, p.packed, layer, p.finite,
                       p.identity, scratch, _at_factors(p.layers, p.tile))  # fmt: skip


@body
def _forward_hidden(scratch, length, lists, worker, x, p):
    """Leave in ``scratch`` the activations of the hidden layers and the logits."""
    vector.outline()
    layers, lanes = p.layers, vector.VECTOR_BYTES // scratch.itemsize
    for number in range(1, len(layers)):
        layer, before = layers[number], layers[number - 1]
        at_a, a_ld = before.at_z, before.ld
        at_z, ld, n_in, columns = layer.at_z, layer.ld, layer.n_in, layer.columns
        relu_rows(scratch, at_a, a_ld, length, n_in)
        # About half of the activations are zero, and those of samples that stand together are so together.
        if p.finite and columns >= tuning.WIDE_VECTORS * lanes:
            set_rows(scratch, at_z, ld, length, p.packed, layer.at_b, columns)
            list_and_add(scratch, at_z, ld, length, scratch, at_a, a_ld, n_in, layer.part, p.packed, layer.at_w,
                          layer.rows, columns, lists, worker, x)  # fmt: skip
        else:
            forward_rows(scratch, at_z, ld, length, scratch, at_a, a_ld, p.packed, layer, p.identity)


@body
def _load_given(scratch, d, first, length, p):
    """Copy a tile of the activations and of the gradient by the logits into the scratch."""
    hidden, output = p.layers[0], p.layers[1]
    h, classes = hidden.n_out, output.n_out
    for s in range(length):
        at = hidden.at_z + s * hidden.ld
        copy_to(scratch[at : at + h], p.a[(first + s) * h : (first + s + 1) * h])
        at = d + s * output.ld
        for c in range(output.columns):
            scratch[at + c] = p.targets[first + s, c] if c < classes else 0


@body
def _leaf(grad, sums, leaf, scratch, lists, worker, x, p):
    """Add the sums over the samples of one leaf to ``sums`` and to the packed gradient."""
    layers = p.layers
    last = len(layers) - 1
    plain, given = len(p.rows) > 0, len(p.a) > 0
    for tile in range(leaf * p.leaf_tiles, min((leaf + 1) * p.leaf_tiles, len(p.tile_start) - 1)):
        first = p.tile_start[tile]
        length = p.tile_start[tile + 1] - first
        e = len(scratch) - p.room
        d = e - p.room
        if given:
            _load_given(scratch, d, first, length, p)
        else:
            _forward(scratch, tile, first, length, lists, worker, x, p)
            _forward_hidden(scratch, length, lists, worker, x, p)
            loss, hit, top = np.empty(length, scratch.dtype), np.empty(length, scratch.dtype), layers[last]
            loss_rows(loss, hit, scratch, d, scratch, top.at_z, top.ld, top.n_out,
                       p.labels, p.targets, p.weight, x.order, first, length, top.columns > 1)  # fmt: skip
            cost, right, weight = sums[leaf, 0], sums[leaf, 1], sums[leaf, 2]
            for s in range(length):
                cost += loss[s]
                right += hit[s]
                weight += p.weight[x.order[first + s]]
            sums[leaf, 0], sums[leaf, 1], sums[leaf, 2] = cost, right, weight
        for number in range(last, -1, -1):
            layer = layers[number]
            ld, n_in = layer.ld, layer.n_in
            finite = add_rows(grad[layer.at_b : layer.at_b + layer.n_out], scratch, d, ld, length)
            if number > 0:
                before = layers[number - 1]
                _backward_hidden(grad, scratch, e, scratch, d, ld, length, scratch, lists, worker, number, x,
                                 p)  # fmt: skip
                if given:
                    apply_gate(scratch, e, before.ld, length, n_in, p.z, first * n_in, n_in)
                else:
                    apply_gate(scratch, e, before.ld, length, n_in, scratch, before.at_z, before.ld)
                d, e = e, d
            elif plain:
                _backward_plain(grad, scratch, d, ld, first, length, finite, lists, worker, x, p)
            else:
                _backward_input(grad, scratch, d, ld, tile, length, finite, x, layer, p.identity,
                                scratch, _at_factors(layers, p.tile))  # fmt: skip


def _units_of(grads, folded, sums, stacks, scratches, shares, lists, x, p, worker, workers):
    """Fold the leaves of one subtree after the other into ``grads``, with a buffer for each level above the leaves.

    ``shares[worker]`` begins with the next subtree of its share and the end of that.
    """
    size = len(p.packed)
    stack, scratch = stacks[worker], scratches[worker]
    # Its own share first: what its cache holds of x and of gradients from the step before, it finds there. Then what
    # others have left, so that none waits for a worker whose core is slow or busy with something else.
    for turn in range(workers):
        share = shares[(worker + turn) % workers]
        unit = vector.take(share)
        while unit < share[1]:
            lo = unit * p.unit_leaves
            hi = min(lo + p.unit_leaves, -(-p.m // p.leaf))
            top = np.int64(-1)  # buffers on the stack; the first leaf needs none
            for leaf in range(lo, hi):
                top += 1
                buffer, at = (stack, (top - 1) * size) if top > 0 else (grads, unit * size)
                fill_zeros(buffer, at, size)
                _leaf(buffer[at:], sums, leaf, scratch, lists, worker, x, p)
                done = leaf - lo + 1
                while done % 2 == 0:
                    add_top(grads, unit, stack, top, size)
                    top -= 1
                    done //= 2
            for level in range(top, 0, -1):
                add_top(grads, unit, stack, level, size)
            fold_own(grads, folded, unit, worker, size)
            unit = vector.take(share)


@large_kernel(_units_of)
def _units(launcher, address, grads, folded, sums, stacks, scratches, shares, lists, x, p, workers):
    vector.spread(launcher, address, (grads, folded, sums, stacks, scratches, shares, lists, x, p), workers)


def _mean_of(flat, grads, folded, size, layers, total, worker, workers):
    lanes = vector.VECTOR_BYTES // grads.itemsize
    inverse = flat.dtype.type(1) / total  # a division takes eight times as long as a product
    number = 0
    for layer in layers:
        n_in, n_out, columns, by_unit = layer.n_in, layer.n_out, layer.columns, layer.by_unit
        first = 0
        while first < columns:
            width = panel_width(columns, first, lanes)
            stop = min(first + width, n_out)
            if number % workers == worker:
                at, count, step = layer.at_w + first * layer.rows, n_in * width, width
                if by_unit > 0:
                    at, count, step = layer.at_w + first * by_unit, (stop - first) * by_unit, 1
                fold_subtrees(grads, folded, size, at, count)
                fold_subtrees(grads, folded, size, layer.at_b + first, width)
                for c in range(stop - first):
                    begin = at + c * (by_unit if by_unit > 0 else 1)
                    row = flat[layer.at_flat + (first + c) * n_in : layer.at_flat + (first + c + 1) * n_in]
                    for k in range(n_in):
                        row[k] = grads[begin + k * step] * inverse
                    flat[layer.at_flat + n_out * n_in + first + c] = grads[layer.at_b + first + c] * inverse
            first += width
            number += 1


@large_kernel(_mean_of)
def _mean(launcher, address, flat, grads, folded, size, layers, total, workers):
    """Set the flat vector to the sum of the units' packed gradients divided by ``total``; workers share the panels."""
    vector.spread(launcher, address, (flat, grads, folded, size, layers, total), workers)


def _outputs_of(out, z, a, scratches, lists, x, p, worker, workers):
    plain, hidden, last = len(p.rows) > 0, p.layers[0], p.layers[-1]
    # Plain rows are those of whole leaves.
    before, stop = p.base // p.leaf * p.leaf_tiles, p.base + len(p.rows) if plain else p.m
    tiles = min(-(-stop // p.leaf) * p.leaf_tiles, len(p.tile_start) - 1) - before
    scratch, h = scratches[worker], hidden.n_out
    for tile in range(before + tiles * worker // workers, before + tiles * (worker + 1) // workers):
        first = p.tile_start[tile]
        length = p.tile_start[tile + 1] - first
        _forward(scratch, tile, first, length, lists, worker, x, p)
        if len(z) > 0:
            for s in range(length):
                at = hidden.at_z + s * hidden.ld
                j = first + s if plain else x.order[first + s]
                row, z_row, a_row = scratch[at : at + h], z[j], a[j]
                for c in range(h):
                    z_row[c] = row[c]
                    a_row[c] = relu_value(row[c])
        _forward_hidden(scratch, length, lists, worker, x, p)
        for s in range(length):
            j = first + s if plain else x.order[first + s]
            for c in range(last.n_out):
                out[c, j] = scratch[last.at_z + s * last.ld + c]


@large_kernel(_outputs_of)
def _outputs(launcher, address, out, z, a, scratches, lists, x, p, workers):
    """Set ``out`` (C, m) to the logits, and z and a (m, h), unless they are empty, to the hidden layer."""
    vector.spread(launcher, address, (out, z, a, scratches, lists, x, p), workers)


# ---- What the engine does for a network ----
def make_problem(parameters: Any, sizes: tuple[int, ...], m: int, x: Any, first_layer: int = 0) -> tuple[Problem, int]:
    """Return a problem with the packed parameters from a layer on, and the elements of a worker's scratch."""
    dense = isinstance(x, Packed) and len(x.dense) > 0 and bool((x.dense_start >= 0).all())
    dtype = parameters.dtype
    tiles = tiling(m)
    layers, packed_size, back_size, scratch_size, room = layer_plan(sizes, dtype.itemsize, tiles.most, dense)
    packed, back = aligned_parts(dtype, packed_size, back_size)
    finite = bool(pack_parameters(packed, back, read_only(parameters), layers, first_layer))
    identity = identity_index(max(*sizes, tiles.most))
    none = np.empty(0, dtype)
    matrix = none.reshape(0, 1)
    return Problem(
        packed, back, layers, finite, m, *tiles, 1, room, identity, np.empty(0, np.int64), matrix, none, matrix, 0,
        none, none,
    ), scratch_size  # fmt: skip


def packed_and_plain(x: Any, dtype: Any, n: int) -> tuple[Packed, Any]:
    """Return a packed input that computes in ``dtype``, and plain rows; one of the two is empty."""
    return (x, None) if isinstance(x, Packed) else (no_input(dtype, n), x)


def set_gradient(
    gradient: Any, sizes: tuple[int, ...], problem: Problem, scratch_size: int, x: Packed, rows: Any, **given: Any
) -> tuple[float, float, float]:
    """Set the flat vector to the mean gradient; return the sums of loss, weight of right answers, weight.

    Targets and weight, or a forward pass, are ``given`` as members of the problem.
    """
    dtype, size = problem.packed.dtype, len(problem.packed)
    leaves = -(-problem.m // problem.leaf)
    sums = np.zeros((leaves, tuning.LINE_NUMBERS))
    threads = usable_threads()
    workers = min(threads, leaves)
    # Subtrees of the one tree: how many there are changes who adds, not what is added to what.
    unit_leaves = 1
    while leaves > 8 * workers * unit_leaves:
        unit_leaves *= 2
    units = -(-leaves // unit_leaves)
    buffers = unit_leaves.bit_length() - 1
    grads, *rooms = aligned_parts(dtype, units * size, workers * buffers * size, workers * scratch_size)
    stacks, scratches = (one.reshape(workers, -1) for one in rooms)
    folded = np.zeros((units, tuning.LINE_NUMBERS), np.int64)
    problem = problem._replace(unit_leaves=unit_leaves, **given)
    lists = lists_of(workers, sizes, problem.tile, dtype, plain=rows is not None)
    if rows is None:
        shares = worker_shares(0, units, workers).copy()
        _units.launch(workers, grads, folded, sums, stacks, scratches, shares, lists, x, problem)
    else:
        unit = problem.leaf * unit_leaves
        for first, some in row_batches(rows, dtype, unit):
            here = problem._replace(rows=some, base=first)
            shares = worker_shares(first // unit, -(-(first + len(some)) // unit), workers).copy()
            _units.launch(workers, grads, folded, sums, stacks, scratches, shares, lists, x, here)
    loss, hit, total = np.add.reduce(sums[:, :3], axis=0)
    if len(problem.a) > 0:  # the forward pass is given, and no weight
        total = problem.m
    workers = 1 if len(grads) < tuning.PARALLEL_SIZE else threads
    _mean.launch(workers, gradient, grads, folded, size, problem.layers, dtype.type(total))
    return float(loss), float(hit), float(total)


def network_outputs(out: Any, z: Any, a: Any, parameters: Any, sizes: tuple[int, ...], x: Any, m: int) -> None:
    dtype = parameters.dtype
    problem, scratch_size = make_problem(parameters, sizes, m, x)
    x, rows = packed_and_plain(x, dtype, sizes[0])
    workers = min(usable_threads(), -(-m // problem.tile))
    scratches = aligned(workers * scratch_size, dtype).reshape(workers, scratch_size)
    lists = lists_of(workers, sizes, 1, dtype, plain=rows is not None)
    if rows is None:
        _outputs.launch(workers, out, z, a, scratches, lists, x, problem)
        return
    for first, some in row_batches(rows, dtype, problem.leaf):
        _outputs.launch(workers, out, z, a, scratches, lists, x, problem._replace(rows=some, base=first))
