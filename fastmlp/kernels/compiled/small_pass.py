"""Passes over few samples: nothing is packed, because one pass over the parameters takes as long as the step.

Outputs of a layer are stored sample by sample, as the rows of x are. Then nothing needs to be transposed: forward,
outputs are inner products of two rows; backward, sums of rows. Workers share the samples in one phase, and in the next
one the inputs of a layer, whose gradients sum over all samples, so bits do not depend on the number of workers. Where
samples are fewer than workers can share, the outputs of the first layer are shared in a phase before. Where parameters
are fewer than the outputs of all samples, each block of samples makes a gradient in the first phase, and the next one
adds these: data that one core has written is slow to reach another one with which it shares no cache.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.activations import activate, has_slopes, multiply_derivative
from fastmlp.kernels.compiled.gradients import add_by_output
from fastmlp.kernels.compiled.launch import kernel
from fastmlp.kernels.compiled.losses import Logits, Targets, loss_rows
from fastmlp.kernels.compiled.memory import add, copy, fill_zeros
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.products import add_products, inner_products, multiply
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import add_rows

FIRST_LAYER, SAMPLES, PARAMETERS = 1, 2, 4


class Wanted(NamedTuple):
    """The wanted parts of a pass; arrays of the others are empty.

    The forward pass, unless it is given; the first layer's outputs before the activation in ``z``; the loss, unless the
    gradient with respect to the logits is given; and the gradient.
    """

    forward: int
    z: int
    loss: int
    gradient: int


class BatchRoom(NamedTuple):
    """Memory of each worker, a row for each: copies, the scratch of the loss, lists."""

    copies: Any
    loss: Any
    start: Any
    index: Any
    value: Any


class Results(NamedTuple):
    """The results of a pass.

    Attributes
    ----------
    deltas : float
        Gradients with respect to the outputs of all layers, layer after layer.
    first, rest : float
        The gradient with respect to the first layer's weights (h n), and to all parameters behind them.
    losses : float (2, m)
        Loss and hits of each sample.
    sums : float64 (blocks, LINE_NUMBERS)
        Of loss, hits and weight.
    z : float (m h)
    slopes : float
        Derivatives of the activations that have slopes, each where its value is in the outputs; empty if none has.
    parts : float
        The gradients of blocks of samples.
    """

    deltas: Any
    first: Any
    rest: Any
    losses: Any
    sums: Any
    z: Any
    slopes: Any
    parts: Any


class Batch(NamedTuple):
    """The problem of a pass.

    Attributes
    ----------
    x : float (m n)
        The samples, row by row.
    m, depth : int
        Samples, and layers.
    layers : int64 (4, depth + 1)
        The sizes; the elements from one row of a layer's deltas to the next; the codes of the activations, and whether
        zeros of their derivatives are skipped.
    first, rest : float
        The first layer's weights (h n), and all parameters behind them.
    targets : losses.Targets
    identity : int32
    at_logits, at_top, end : int
        Where the logits begin in the outputs, their deltas in the deltas, and the end of ``rest``.
    part : int
        Samples in a block that makes a gradient of its own, or 0.
    wanted : Wanted
    """

    x: Any
    m: int
    depth: int
    layers: Any
    first: Any
    rest: Any
    targets: Targets
    identity: Any
    at_logits: int
    at_top: int
    end: int
    part: int
    wanted: Wanted


@body
def _size(b, layer):
    return b.layers.start[layer]


@body
def _stride(b, layer):
    return b.layers.start[b.layers.columns + layer]


@body
def _activation(b, layer):
    return b.layers.start[2 * b.layers.columns + layer]


@body
def _skips(b, layer):
    return b.layers.start[3 * b.layers.columns + layer] > 0


@body
def _layer(out, a, weights, bias, shape, part, copies):
    """Set the outputs of some samples and units, before their activation."""
    vector.noinline()
    given = vector.part(bias, 0, shape.columns)
    for s in range(shape.rows):
        row = vector.row(out, s, shape.columns)
        for c in range(shape.columns):
            row[c] = given[c]
    inner_products(out, a, weights, shape, part, copies)


@body
def _bytes_at_once(out, n_in, n_out):
    """Return how many bytes of a row `inner_products` takes at a time."""
    # Where one tile has all outputs, a row of a is used once: whole rows stream better from afar.
    return tuning.DOT_BYTES if n_out > vector.DOT_COLUMNS else n_in * (vector.VECTOR_BYTES // vector.lanes(out))


@body
def _forward(b, outputs, results, lo, hi, ready, copies):
    """Set the outputs of every layer for samples lo to below hi, slopes, and z, the first's before the activation.

    The first layer is ``ready`` where workers have shared its outputs.
    """
    vector.noinline()
    a, o, flat = vector.matrix(b.x, lo * _size(b, 0), _size(b, 0)), np.int64(0), np.int64(0)
    for layer in range(b.depth):
        n_in, n_out = _size(b, layer), _size(b, layer + 1)
        weights = vector.matrix(b.first, 0, n_in)
        if layer > 0:
            weights = vector.matrix(b.rest, flat, n_in)
            flat += n_out * n_in
        out = vector.matrix(outputs, o + lo * n_out, n_out)
        if layer > 0 or not ready:
            shape, part = Shape(hi - lo, n_out, n_in), _bytes_at_once(out, n_in, n_out)
            _layer(out, a, weights, vector.address(b.rest, flat), shape, part, copies)
        flat += n_out
        if layer == 0 and b.wanted.z > 0:
            copy(vector.address(results.z, lo * n_out), out.start, (hi - lo) * n_out)
        if layer < b.depth - 1:
            code, row = _activation(b, layer + 1), vector.part(out.start, 0, (hi - lo) * n_out)
            slopes = row
            if has_slopes(code) and b.wanted.gradient > 0:
                slopes = vector.part(results.slopes, o + lo * n_out, (hi - lo) * n_out)
            activate(code, row, slopes)
        a = out
        o += b.m * n_out


@body
def _loss(b, outputs, results, total, lo, hi, scratch):
    """Set the losses and the gradient of the weighted mean with respect to the logits for samples lo to below hi."""
    vector.noinline()
    classes, count = _size(b, b.depth), hi - lo
    delta = vector.matrix(results.deltas, b.at_top + lo * classes, classes)
    logits = Logits(vector.address(outputs, b.at_logits + lo * classes), classes, classes, np.int64(0))
    here = vector.matrix(results.losses.start, lo, b.m)
    loss_rows(here, delta, logits, b.targets, vector.address(b.identity, lo), count, scratch)
    # The mean is taken here, where the elements are few.
    scale, row = 1 / total, vector.part(delta.start, 0, count * classes)
    for k in range(count * classes):
        row[k] *= scale


@body
def _add_sums(sums, losses, weight, lo, hi):
    cost = right = total = 0.0
    for s in range(lo, hi):
        cost += losses.start[s]
        right += losses.start[losses.columns + s]
        total += weight[s]
    sums[0], sums[1], sums[2] = cost, right, total


@body
def _backward(b, results, values, lo, hi, copies):
    """Set the gradients with respect to the outputs of the hidden layers, from that with respect to the logits."""
    vector.noinline()
    deltas, d, o, flat = results.deltas, b.at_top, np.int64(0), b.end
    for layer in range(1, b.depth):
        o += b.m * _size(b, layer)
    for layer in range(b.depth - 1, 0, -1):
        n_in, n_out, ld, below = _size(b, layer), _size(b, layer + 1), _stride(b, layer + 1), _stride(b, layer)
        e = d - b.m * below
        o -= b.m * n_in
        flat -= n_out * (n_in + 1)
        to, delta = vector.matrix(deltas, e + lo * below, below), vector.factors(deltas, d + lo * ld, 1, ld)
        shape, alone = Shape(hi - lo, n_in, n_out), vector.Share(np.int64(0), np.int64(1))
        multiply(to, delta, vector.matrix(b.rest, flat, n_in), shape, b.identity, copies, alone)
        code, made_from = _activation(b, layer), values
        if has_slopes(code):
            made_from = vector.address(results.slopes, 0)
        multiply_derivative(code, to, vector.matrix(made_from, o + lo * n_in, n_in), hi - lo, n_in)
        d = e


@body
def _gradient(b, to, outputs, deltas, samples, room, share):
    """Set the gradient over some samples by a worker's share of the parameters: some inputs of each layer.

    ``to`` are the gradients of the first layer's weights and of the rest, ``samples`` the first and the end.
    """
    vector.noinline()
    (first, rest), (lo, hi) = to, samples
    last, count, d, o, flat = share.worker == share.workers - 1, hi - lo, np.int64(0), np.int64(0), np.int64(0)
    a = vector.matrix(b.x, lo * _size(b, 0), _size(b, 0))
    for layer in range(b.depth):
        n_in, n_out, ld = _size(b, layer), _size(b, layer + 1), _stride(b, layer + 1)
        gradient, delta = vector.matrix(first, 0, n_in), vector.matrix(deltas, d + lo * ld, ld)
        if layer > 0:
            gradient = vector.matrix(rest, flat, n_in)
            flat += n_out * n_in
        if n_out >= tuning.SKIPPING_OUTPUTS and _skips(b, layer + 1):
            _skipping_gradient(gradient, delta, a, Shape(n_out, n_in, count), room, share)
        else:
            factors, (copies, _) = vector.factors(delta.start, 0, ld, 1), room
            multiply(gradient, factors, a, Shape(n_out, n_in, count), b.identity, copies, share)
        if last:
            fill_zeros(rest, flat, n_out)
            add_rows(vector.address(rest, flat), delta, n_out, count)
        flat += n_out
        a = vector.matrix(outputs, o + lo * n_out, n_out)
        o += b.m * n_out
        d += b.m * ld


@body
def _skipping_gradient(gradient, delta, a, shape, room, share):
    """Set the gradient of a layer by a worker's share of its inputs, over the samples of non-zero delta."""
    lanes, n_in, (copies, listed) = vector.lanes(delta), shape.columns, room
    # Workers share whole strips: every sum is made in the same way for any number of them.
    strip, whole = vector.STRIPS[0] * lanes, n_in // lanes * lanes
    strips = -(-whole // strip)
    begin, stop = strips * share.worker // share.workers * strip, strips * (share.worker + 1) // share.workers * strip
    columns = Shape(shape.rows, min(stop, whole) - begin, shape.terms)
    add_by_output(
        vector.block(gradient, 0, begin), delta, vector.block(a, 0, begin), columns, np.int64(1), copies, listed
    )
    if share.worker == share.workers - 1 and whole < n_in:
        rest = Shape(shape.rows, n_in - whole, shape.terms)
        left, right = vector.factors(delta.start, 0, delta.ld, 1), vector.factors(a.start, whole, a.ld, 1)
        add_products(vector.block(gradient, 0, whole), left, right, rest, np.int64(1))


@body
def _add_parts(gradient, parts, blocks, size, count, share):
    """Set a worker's share of a gradient to the sum of the gradients of all blocks."""
    lo, hi = count * share.worker // share.workers, count * (share.worker + 1) // share.workers
    copy(vector.address(gradient, lo), vector.address(parts, lo), hi - lo)
    for block in range(1, blocks):
        add(vector.address(gradient, lo), vector.address(parts, block * size + lo), hi - lo)


@body
def _pass_samples(b, outputs, results, room, ready, share):
    """Do the samples of a worker: forward, loss and back, and, block by block, their gradients."""
    copies, scratch, listed = room
    total, first_size = vector.number(b.rest, 0), _size(b, 0) * _size(b, 1)
    if b.wanted.loss > 0:
        for s in range(b.m):
            total += b.targets.weight[s]
    # Whole rows of tiles of inner products; other products do not show how rows are grouped.
    samples = b.part if b.part > 0 else -(-b.m // (share.workers * vector.DOT_ROWS)) * vector.DOT_ROWS
    count, size = -(-b.m // samples), first_size + b.end
    for number in range(count * share.worker // share.workers, count * (share.worker + 1) // share.workers):
        lo, hi = number * samples, min((number + 1) * samples, b.m)
        if b.wanted.forward > 0:
            _forward(b, outputs, results, lo, hi, ready, copies)
        if b.wanted.loss > 0:
            _loss(b, outputs, results, total, lo, hi, scratch)
        if b.wanted.gradient > 0:
            values = vector.address(outputs, 0)
            if b.wanted.forward == 0:
                values = vector.address(results.z, 0)
            _backward(b, results, values, lo, hi, copies)
        if b.part > 0:
            at, alone = number * size, vector.Share(np.int64(0), np.int64(1))
            to = (vector.address(results.parts, at), vector.address(results.parts, at + first_size))
            _gradient(b, to, outputs, results.deltas, (lo, hi), (copies, listed), alone)
            sums = vector.address(results.sums.start, number * results.sums.columns)
            _add_sums(sums, results.losses, b.targets.weight, lo, hi)


@body
def _pass_parameters(b, outputs, results, room, share):
    """Do the parameters of a worker: add the gradients of blocks, or make them over all samples."""
    copies, _, listed = room
    first_size, zero = _size(b, 0) * _size(b, 1), np.int64(0)
    if b.part > 0:
        blocks, size = -(-b.m // b.part), first_size + b.end
        _add_parts(results.first, vector.address(results.parts, 0), blocks, size, first_size, share)
        _add_parts(results.rest, vector.address(results.parts, first_size), blocks, size, b.end, share)
        return
    to = (vector.address(results.first, 0), vector.address(results.rest, 0))
    _gradient(b, to, outputs, results.deltas, (zero, b.m), (copies, listed), share)
    if share.worker == 0 and b.wanted.loss > 0:
        _add_sums(results.sums.start, results.losses, b.targets.weight, zero, b.m)


@kernel()
def run_phases(outputs, results, b, rooms, phase, worker, workers):
    """Do the phases of a pass: the first layer by outputs, samples forward and back, then the parameters."""
    listed = vector.Entries(
        vector.address(rooms.start.start, worker * rooms.start.columns),
        vector.address(rooms.index.start, worker * rooms.index.columns),
        vector.address(rooms.value.start, worker * rooms.value.columns),
    )
    copies = vector.address(rooms.copies.start, worker * rooms.copies.columns)
    room = (copies, vector.address(rooms.loss.start, worker * rooms.loss.columns), listed)
    share = vector.Share(worker, workers)
    if phase == FIRST_LAYER:
        # Whole tiles of inner products: every sum is made in the same way for any number of workers.
        n, h = _size(b, 0), _size(b, 1)
        units = -(-h // (workers * vector.DOT_COLUMNS)) * vector.DOT_COLUMNS
        begin, stop = min(worker * units, h), min((worker + 1) * units, h)
        out, weights = vector.matrix(outputs, begin, h), vector.matrix(b.first, begin * n, n)
        shape, part = Shape(b.m, stop - begin, n), _bytes_at_once(out, n, h)
        _layer(out, vector.matrix(b.x, 0, n), weights, vector.address(b.rest, begin), shape, part, copies)
    if phase & SAMPLES:
        _pass_samples(b, outputs, results, room, phase & FIRST_LAYER == 0, share)
    if phase & PARAMETERS and b.wanted.gradient > 0:
        _pass_parameters(b, outputs, results, room, share)
