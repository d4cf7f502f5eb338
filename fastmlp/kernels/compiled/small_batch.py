"""Few samples: nothing is packed, because one pass over the parameters takes as long as the step."""

import functools
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.activations import apply_gate, relu_value
from fastmlp.kernels.compiled.launch import large_kernel, usable_threads
from fastmlp.kernels.compiled.losses import loss_rows
from fastmlp.kernels.compiled.memory import canonical, copy_to, fill_zeros, identity_index, round_up, row_stride
from fastmlp.kernels.compiled.plan import first_and_rest
from fastmlp.kernels.compiled.products import add_by_unit, add_products, inner_products, multiply
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.tree import add_rows, add_to

# ---- Few samples: nothing is packed, because one pass over the parameters takes as long as the step ----
#
# Outputs of a layer lie sample by sample, as the rows of x do. Then nothing needs to be transposed: forward, units are
# inner products of two rows; backward, sums of rows. Workers share the samples in one phase, and in the next one the
# inputs of a layer, whose gradients sum over all samples; so bits do not depend on how many they are. Where samples are
# fewer than workers can share, the units of the first layer are shared in a phase before. Where parameters are fewer
# than the outputs of all samples, each part of the samples makes a gradient in the first phase, and the next one adds
# these: what a core has written is slow to come to another one with which it shares no cache.
_FIRST_LAYER, _SAMPLES, _PARAMETERS = 1, 2, 4


@body
def _few_layer(outputs, o, n_out, a, at, n_in, weights, at_w, bias, lo, hi, begin, stop):
    """Set the outputs of units begin to below stop, before their ReLU, for samples lo to below hi."""
    vector.outline()
    for s in range(lo, hi):
        row, what = outputs[o + s * n_out + begin : o + s * n_out + stop], bias[begin:stop]
        for c in range(len(row)):
            row[c] = what[c]
    # Where one tile has all units, a row of a is used once: whole rows stream better from afar.
    part = tuning.DOT_BYTES if n_out > vector.DOT_COLUMNS else n_in * outputs.itemsize
    inner_products(outputs, o + lo * n_out + begin, n_out, a, at + lo * n_in, n_in, weights, at_w + begin * n_in, n_in,
                    hi - lo, stop - begin, n_in, part)  # fmt: skip


@body
def _few_forward(outputs, z, first_weights, rest, sizes, x, lo, hi, ready):
    """Set the outputs of every layer, hidden ones after their ReLU, for samples lo to below hi; z gets the first's.

    The first layer is ``ready`` where workers have shared its units.
    """
    vector.outline()
    m = len(x) // sizes[0]
    a, at, o, flat = x, np.int64(0), np.int64(0), np.int64(0)
    for layer in range(len(sizes) - 1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        weights, at_w = first_weights, np.int64(0)
        if layer > 0:
            weights, at_w = rest, flat
            flat += n_out * n_in
        if layer > 0 or not ready:
            _few_layer(outputs, o, n_out, a, at, n_in, weights, at_w, rest[flat : flat + n_out],
                       lo, hi, np.int64(0), n_out)  # fmt: skip
        flat += n_out
        rows = outputs[o + lo * n_out : o + hi * n_out]
        if layer == 0 and len(z) > 0:
            copy_to(z[lo * n_out : hi * n_out], rows)
        if layer < len(sizes) - 2:
            for k in range(len(rows)):
                rows[k] = relu_value(rows[k])
        a, at = outputs, o
        o += m * n_out


@body
def _few_loss(losses, deltas, outputs, labels, targets, weight, total, identity, m, classes, lo, hi):
    """Set the losses and the gradient of the weighted mean by the logits for samples lo to below hi."""
    vector.outline()
    at_z, at_d = len(outputs) - m * classes + lo * classes, len(deltas) - m * classes + lo * classes
    loss_rows(losses[0, lo:], losses[1, lo:], deltas, at_d, outputs, at_z, classes, classes,
               labels, targets, weight, identity, lo, hi - lo, False)  # fmt: skip
    # The mean is taken here, where the elements are few.
    scale = 1 / total
    for k in range(at_d, at_d + (hi - lo) * classes):
        deltas[k] *= scale


@body
def _few_sums(sums, row, losses, weight, lo, hi):
    cost = right = total = 0.0
    for s in range(lo, hi):
        cost += losses[0, s]
        right += losses[1, s]
        total += weight[s]
    sums[row, 0], sums[row, 1], sums[row, 2] = cost, right, total


@body
def _few_backward(deltas, gates, rest, layers, m, identity, lo, hi):
    """Set the gradients by what the hidden layers put out, from that by the logits, for samples lo to below hi."""
    vector.outline()
    sizes, strides = layers
    last = len(sizes) - 1
    d, o, flat = len(deltas) - m * strides[last], np.int64(0), len(rest)
    for layer in range(1, last):
        o += m * sizes[layer]
    for layer in range(last - 1, 0, -1):
        n_in, n_out, ld, below = sizes[layer], sizes[layer + 1], strides[layer + 1], strides[layer]
        e = d - m * below
        o -= m * n_in
        flat -= n_out * (n_in + 1)
        multiply(deltas, e + lo * below, below, deltas, d + lo * ld, ld, np.int64(1), rest, flat, n_in,
                  hi - lo, n_in, n_out, identity, np.int64(0), np.int64(1))  # fmt: skip
        apply_gate(deltas, e + lo * below, below, hi - lo, n_in, gates, o + lo * n_in, n_in)
        d = e


@body
def _few_gradient(first_gradient, rest_gradient, outputs, deltas, layers, x, lo, hi, identity, worker, workers):
    """Set the gradient over samples lo to below hi by a worker's share of the parameters: some inputs of each layer."""
    vector.outline()
    sizes, strides = layers
    m, lanes, count = len(x) // sizes[0], vector.VECTOR_BYTES // x.itemsize, hi - lo
    a, at, o, d, flat = x, lo * sizes[0], np.int64(0), np.int64(0), np.int64(0)
    for layer in range(len(sizes) - 1):
        n_in, n_out, ld = sizes[layer], sizes[layer + 1], strides[layer + 1]
        gradient, at_g, at_d = first_gradient, np.int64(0), d + lo * ld
        if layer > 0:
            gradient, at_g = rest_gradient, flat
            flat += n_out * n_in
        if layer < len(sizes) - 2 and n_out >= tuning.SKIPPING_OUTPUTS:
            # Workers share whole strips: every sum is made in the same way for any number of them.
            strip, whole = vector.STRIPS[0] * lanes, n_in // lanes * lanes
            strips = -(-whole // strip)
            begin, stop = strips * worker // workers * strip, strips * (worker + 1) // workers * strip
            add_by_unit(gradient, at_g, n_in, deltas, at_d, ld, n_out, a, at, n_in, count, begin, min(stop, whole),
                         True)  # fmt: skip
            if worker == workers - 1 and whole < n_in:
                add_products(gradient, at_g + whole, n_in, deltas, at_d, np.int64(1), ld, a, at + whole, np.int64(1),
                              n_in, n_out, n_in - whole, count, True)  # fmt: skip
        else:
            multiply(gradient, at_g, n_in, deltas, at_d, np.int64(1), ld, a, at, n_in,
                      n_out, n_in, count, identity, worker, workers)  # fmt: skip
        if worker == workers - 1:
            fill_zeros(rest_gradient, flat, n_out)
            add_rows(rest_gradient[flat : flat + n_out], deltas, at_d, ld, count)
        flat += n_out
        a, at = outputs, o + lo * n_out
        o += m * n_out
        d += m * ld


@body
def _add_parts(gradient, parts, size, begin, worker, workers):
    """Set a worker's share of the gradient to the sum of what begins at ``begin`` in each part of ``size`` elements."""
    lo, hi = len(gradient) * worker // workers, len(gradient) * (worker + 1) // workers
    to = gradient[lo:hi]
    copy_to(to, parts[begin + lo : begin + hi])
    for part in range(size, len(parts), size):
        add_to(to, parts[part + begin + lo : part + begin + hi])


def _few_of(outputs, deltas, first_gradient, rest_gradient, losses, sums, z, first_weights, rest, layers, x,
            labels, targets, weight, identity, parts, part, phase, worker, workers):  # fmt: skip
    sizes = layers[0]
    m, classes = len(x) // sizes[0], sizes[-1]
    given = len(z) > 0 and len(deltas) > 0
    if phase == _FIRST_LAYER:
        # Whole tiles of inner products: every sum is made in the same way for any number of workers.
        share = -(-sizes[1] // (workers * vector.DOT_COLUMNS)) * vector.DOT_COLUMNS
        begin, stop = min(worker * share, sizes[1]), min((worker + 1) * share, sizes[1])
        _few_layer(outputs, np.int64(0), sizes[1], x, np.int64(0), sizes[0], first_weights, np.int64(0), rest,
                   np.int64(0), m, begin, stop)  # fmt: skip
    size = len(first_gradient) + len(rest_gradient)
    if phase & _SAMPLES:
        total = weight.dtype.type(0)
        for s in range(len(weight)):
            total += weight[s]
        # Whole rows of tiles of inner products; other products do not show how rows are grouped.
        samples = part if part > 0 else -(-m // (workers * vector.DOT_ROWS)) * vector.DOT_ROWS
        count = -(-m // samples)
        for number in range(count * worker // workers, count * (worker + 1) // workers):
            lo, hi = number * samples, min((number + 1) * samples, m)
            if not given:
                _few_forward(outputs, z, first_weights, rest, sizes, x, lo, hi, not phase & _FIRST_LAYER)
            if len(weight) > 0:
                _few_loss(losses, deltas, outputs, labels, targets, weight, total, identity, m, classes, lo, hi)
            if len(deltas) > 0:
                _few_backward(deltas, z if given else outputs, rest, layers, m, identity, lo, hi)
            if part > 0:
                at = number * size
                _few_gradient(parts[at : at + len(first_gradient)], parts[at + len(first_gradient) : at + size],
                              outputs, deltas, layers, x, lo, hi, identity, np.int64(0), np.int64(1))  # fmt: skip
                _few_sums(sums, number, losses, weight, lo, hi)
    if phase & _PARAMETERS and len(deltas) > 0:
        if part > 0:
            _add_parts(first_gradient, parts, size, np.int64(0), worker, workers)
            _add_parts(rest_gradient, parts, size, len(first_gradient), worker, workers)
        else:
            _few_gradient(first_gradient, rest_gradient, outputs, deltas, layers, x, np.int64(0), m, identity,
                          worker, workers)  # fmt: skip
            if worker == 0 and len(weight) > 0:
                _few_sums(sums, np.int64(0), losses, weight, np.int64(0), m)


@large_kernel(_few_of)
def _few(launcher, address, outputs, deltas, first_gradient, rest_gradient, losses, sums, z, first_weights, rest,
         layers, x, labels, targets, weight, identity, parts, part, phase, workers):  # fmt: skip
    """Do the phases of a pass over few samples: a layer by units, samples forward and back, then the parameters.

    ``outputs`` (m units) of all layers, and ``deltas``, the gradient by them, layer after layer; ``layers`` holds the
    sizes, and the elements from one row of a layer's deltas to the next. ``first_gradient`` and ``first_weights``
    (h n), the others behind in ``rest_gradient`` and ``rest``; losses (2, m): loss and weight of a right answer, added
    up, and the weight, in rows of ``sums``. What is empty is not asked for, or not given. With a weight, labels (m,) or
    targets (m, C) give the gradient by the logits. Without, it is given in ``deltas``, and z, a (m h) of the one
    hidden layer in z and ``outputs``; or there are no deltas, and z is set. Where ``part`` is not 0, the gradients over
    so many samples each are made in ``parts``, and added.
    """
    vector.spread(launcher, address, (outputs, deltas, first_gradient, rest_gradient, losses, sums, z, first_weights,
                  rest, layers, x, labels, targets, weight, identity, parts, part, phase), workers)  # fmt: skip


def _phases(m: int, workers: int, *, forward: bool, backward: bool) -> tuple[int, ...]:
    """Return the phases of each launch of a ``forward`` pass, unless it is given, and a ``backward`` one."""
    if workers == 1:
        return (_FIRST_LAYER | _SAMPLES | _PARAMETERS,)
    # Samples that leave workers idle share out the units of the layer that holds most weights.
    shared = forward and m < workers * vector.PADDING
    phases = (_FIRST_LAYER, _SAMPLES) if shared else (_FIRST_LAYER | _SAMPLES,)
    return (*phases, _PARAMETERS) if backward else phases


class _FewPlan(NamedTuple):
    """What a pass over few samples computes with, and the elements of its outputs and of the gradient by them.

    There are ``parts`` of ``part`` samples each, which make gradients of their own, or none (0).
    """

    layers: Any
    identity: Any
    multiply_adds: int
    outputs: int
    deltas: int
    part: int
    parts: int


@functools.lru_cache(maxsize=64)
def few_plan(sizes: tuple[int, ...], m: int) -> _FewPlan:
    """Return sizes and strides as an array, the numbers 0, 1, 2, ..., the work of a forward pass, and what it takes."""
    strides = _strides(sizes)
    work = m * sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    outputs, parameters = m * sum(sizes[1:]), sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))
    # An even number of parts, which two workers share alike; of whole rows of tiles of inner products.
    part = round_up(-(-m // round_up(-(-m // tuning.SAMPLE_BLOCK), 2)), vector.DOT_ROWS)
    parts = -(-m // part)
    if m <= tuning.FEW_SAMPLES or parts * parameters > 2 * outputs:
        part = parts = 0
    return _FewPlan(
        np.array([sizes, strides]), identity_index(max(*sizes, m)), work, outputs, m * sum(strides[1:]), part, parts
    )


def _strides(sizes: tuple[int, ...]) -> list[int]:
    """Return the elements from one row of deltas to the next.

    Those of a unit are read one after the other: with a power of two all would fall into one set of a cache.
    """
    return [n if n < 64 else row_stride(n, 8) for n in sizes[:-1]] + [sizes[-1]]


@functools.lru_cache(maxsize=4)
def _few_nothing(dtype: Any) -> dict[str, Any]:
    """Return the arguments of `_few`, in order, for what is neither given nor asked for."""
    none, matrix = np.empty(0, dtype), np.empty((0, 0), dtype)
    return {
        "outputs": none, "deltas": none, "first_gradient": none, "rest_gradient": none, "losses": matrix,
        "sums": np.empty((0, 0)), "z": none, "first_weights": none, "rest": none, "layers": none, "x": none,
        "labels": np.empty(0, np.int64), "targets": matrix, "weight": none, "identity": none,
        "parts": none, "part": 0,
    }  # fmt: skip


def few_pass(sizes: tuple[int, ...], parameters: tuple[Any, Any], x: Any, **given: Any) -> Any:
    """Run `_few` with the arrays that are given, and return the outputs of all layers."""
    first_weights, rest = (canonical(one, one.dtype) for one in parameters)
    dtype, m = rest.dtype, len(x)
    rows = canonical(x, dtype).reshape(-1)
    plan = few_plan(sizes, m)
    if "outputs" not in given:
        given["outputs"] = np.empty(plan.outputs, dtype)
    given |= {"first_weights": first_weights, "rest": rest, "layers": plan.layers, "x": rows, "identity": plan.identity}
    # Narrow layers are bound by reading x: an element of it, read twice, then takes the time of eight multiply-adds.
    workers = 1 if max(plan.multiply_adds, 8 * rows.size) < tuning.PARALLEL_WORK else usable_threads()
    backward, elements = "deltas" in given, 0
    if backward and plan.parts > 0:
        elements = plan.parts * (given["first_gradient"].size + given["rest_gradient"].size)
        given |= {"parts": np.empty(elements, dtype), "part": plan.part}
    arguments = (_few_nothing(dtype) | given).values()
    for phase in _phases(m, workers, forward=not (backward and "z" in given), backward=backward):
        adds_parts = phase == _PARAMETERS and elements > 0
        _few.launch(1 if adds_parts and elements < tuning.PARALLEL_SIZE else workers, *arguments, phase)
    return given["outputs"]


def few_step(
    gradient: Any, parameters: Any, sizes: tuple[int, ...], x: Any, **target: Any
) -> tuple[float, float, float]:
    """Do `network_step` for few samples, rows (m, n); weight (m,) and labels (m,) or targets (m, C) by name."""
    dtype, m = parameters.dtype, len(x)
    plan = few_plan(sizes, m)
    deltas, losses = np.empty(plan.deltas, dtype), np.empty((2, m), dtype)
    sums = np.zeros((max(plan.parts, 1), tuning.LINE_NUMBERS))
    first_gradient, rest_gradient = first_and_rest(gradient, sizes)
    few_pass(sizes, first_and_rest(parameters, sizes), x, deltas=deltas, first_gradient=first_gradient,
              rest_gradient=rest_gradient, losses=losses, sums=sums, **target)  # fmt: skip
    loss, hit, total = (np.add.reduce(sums, axis=0) if len(sums) > 1 else sums[0]).tolist()[:3]
    return loss, hit, total
