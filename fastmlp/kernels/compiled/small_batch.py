"""Steps and predictions for few samples: the plan, the memory and the launches of `small_pass`."""

import functools
import threading
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import gradients, losses, products, tuning
from fastmlp.kernels.compiled.activations import ACTIVATIONS, any_slopes
from fastmlp.kernels.compiled.launch import usable_threads
from fastmlp.kernels.compiled.losses import Targets
from fastmlp.kernels.compiled.memory import aligned_parts, contiguous, identity_index, round_up, row_stride
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.output_losses import LossKind
from fastmlp.kernels.compiled.plan import first_and_rest
from fastmlp.kernels.compiled.small_pass import (
    FIRST_LAYER,
    PARAMETERS,
    SAMPLES,
    Batch,
    BatchRoom,
    Results,
    Wanted,
    run_phases,
)
from fastmlp.kernels.nets import Net


def _phases(m: int, workers: int, wanted: Wanted) -> tuple[int, ...]:
    """Return the phases of each launch."""
    if workers == 1:
        return (FIRST_LAYER | SAMPLES | PARAMETERS,)
    # Where there are too few samples for all workers, they share the outputs of the layer with the most weights.
    shared = wanted.forward and m < workers * vector.PADDING
    phases = (FIRST_LAYER, SAMPLES) if shared else (FIRST_LAYER | SAMPLES,)
    return (*phases, PARAMETERS) if wanted.gradient else phases


class _Plan(NamedTuple):
    """What follows from net and samples: the layers of `Batch`, the work of a forward pass, and elements.

    There are ``parts`` blocks of ``part`` samples each, which make gradients of their own, or none (0).
    """

    layers: Any
    identity: Any
    multiply_adds: int
    outputs: int
    deltas: int
    part: int
    parts: int


@functools.lru_cache(maxsize=64)
def _plan(net: Net, m: int) -> _Plan:
    sizes, entries = net.sizes, [ACTIVATIONS[name] for name in ("identity", *net.activations, "identity")]
    # Deltas of an output are read one after the other: with a power of two all would fall into one set of a cache.
    strides = [n if n < tuning.STRIDED_OUTPUTS else row_stride(n, 8) for n in sizes[:-1]] + [sizes[-1]]
    work = m * sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    outputs, parameters = m * sum(sizes[1:]), sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))
    # An even number of blocks, which two workers share equally; of whole rows of tiles of inner products.
    part = round_up(-(-m // round_up(-(-m // tuning.SAMPLE_BLOCK), 2)), vector.DOT_ROWS)
    parts = -(-m // part)
    if m <= tuning.FEW_SAMPLES or parts * parameters > tuning.GRADIENTS_PER_OUTPUT * outputs:
        part = parts = 0
    codes, skips = [one.code for one in entries], [one.makes_zeros for one in entries]
    layers = np.array([sizes, strides, codes, skips])
    return _Plan(layers, identity_index(max(*sizes, m)), work, outputs, m * sum(strides[1:]), part, parts)


@functools.lru_cache(maxsize=64)
def _room_sizes(sizes: tuple[int, ...], m: int, itemsize: int) -> tuple[int, int, int, int]:
    """Return the elements of a worker's copies, of its scratch of the loss, and of its lists."""
    copies, lists = [0], (1, 1)
    for number, (n_in, n_out) in enumerate(pairwise(sizes)):
        part = tuning.DOT_BYTES if n_out > vector.DOT_COLUMNS else n_in * itemsize
        copies.append(products.inner_scratch(Shape(m, n_out, n_in), part, itemsize))
        copies.append(products.multiply_scratch(Shape(m, n_in, n_out), itemsize))
        copies.append(products.multiply_scratch(Shape(n_out, n_in, m), itemsize))
        if number < len(sizes) - 2 and n_out >= tuning.SKIPPING_OUTPUTS:
            copies.append(gradients.skipping_scratch(m, itemsize))
            needed = gradients.skipping_lists(m, n_out, itemsize)
            lists = (max(lists[0], needed[0]), max(lists[1], needed[1]))
    return max(copies), losses.loss_scratch(sizes[-1], m, itemsize), *lists


_reused = threading.local()


def _rooms(workers: int, sizes: tuple[int, ...], m: int, dtype: Any) -> BatchRoom:
    """Return rooms of each worker: those of this Python thread's last pass, if they are of the same sizes."""
    copies, loss, lists, entries = needed = _room_sizes(sizes, m, dtype.itemsize)
    key = (workers, dtype, needed)
    if getattr(_reused, "key", None) != key:
        line = vector.LINE_BYTES // dtype.itemsize
        counts = [round_up(max(count, 1), line) for count in (copies, loss, entries)]
        floats = aligned_parts(dtype, *(workers * count for count in counts))
        copied, lost, value = (one.reshape(workers, -1) for one in floats)
        start, index = np.empty((workers, lists), np.int64), np.empty((workers, entries), np.int32)
        _reused.key, _reused.rooms = key, BatchRoom(copied, lost, start, index, value)
    rooms: BatchRoom = _reused.rooms
    return rooms


@functools.lru_cache(maxsize=4)
def _nothing(dtype: Any) -> tuple[Results, Targets]:
    """Return results that are not wanted, and targets that are not there."""
    none, matrix = np.empty(0, dtype), np.empty((0, 0), dtype)
    results = Results(none, none, none, matrix, np.empty((0, 0)), none, none, none)
    labels, rows, weight = (contiguous(one, one.dtype) for one in (np.empty(0, np.int64), matrix, none))
    return results, Targets(labels, rows, weight, 0, LossKind(0, none))


def run(
    net: Net, parameters: tuple[Any, Any], x: Any, wanted: Wanted, targets: Targets | None = None,
    **given: Any,
) -> Any:  # fmt: skip
    """Run a pass over samples x (m, n) with the results that are ``given``; return the outputs of all layers."""
    first, rest = (contiguous(one, one.dtype) for one in parameters)
    sizes, dtype, m, plan = net.sizes, rest.dtype, len(x), _plan(net, len(x))
    results, no_targets = _nothing(dtype)
    outputs = given.pop("outputs", None)
    if outputs is None:
        outputs = np.empty(plan.outputs, dtype)
    # Layers of few outputs are bound by reading x, which counts as multiply-adds: see `tuning.READING_WORK`.
    workers = 1 if max(plan.multiply_adds, tuning.READING_WORK * x.size) < tuning.PARALLEL_WORK else usable_threads()
    part, elements = plan.part if wanted.gradient else 0, 0
    if wanted.gradient and any_slopes(net.activations):
        given["slopes"] = np.empty(plan.outputs, dtype)
    if part:
        elements = plan.parts * (given["first"].size + given["rest"].size)
        given["parts"] = np.empty(elements, dtype)
    results = results._replace(**given)
    classes = sizes[-1]
    batch = Batch(
        contiguous(x, dtype).reshape(-1), m, len(sizes) - 1, plan.layers, first, rest,
        no_targets if targets is None else targets, plan.identity, plan.outputs - m * classes,
        plan.deltas - m * classes, len(rest), part, wanted,
    )  # fmt: skip
    rooms = _rooms(workers, sizes, m, dtype)
    for phase in _phases(m, workers, wanted):
        few = phase == PARAMETERS and 0 < elements < tuning.PARALLEL_SIZE
        run_phases.launch(1 if few else workers, outputs, results, batch, rooms, phase)
    return outputs


class SmallSums:
    """The sums of a step over few samples, which are one leaf, computed where its gradient is to be."""

    leaves = 1

    def __init__(self, parameters: Any, net: Net, x: Any, targets: Targets) -> None:
        self._problem, self._added = (parameters, net, x, targets), False

    def add(self, first: int, stop: int) -> None:
        """Add the only leaf."""
        self._added = True

    def finish(self, gradient: Any) -> tuple[float, float, float]:
        """Set the flat vector to the mean gradient; return the sums of loss, weight of hits, weight."""
        if not self._added:
            raise ValueError("not all leaves have been added")
        parameters, net, x, targets = self._problem
        dtype, m, plan = parameters.dtype, len(x), _plan(net, len(x))
        first_gradient, rest_gradient = first_and_rest(gradient, net.sizes)
        sums = np.zeros((max(plan.parts, 1), tuning.LINE_NUMBERS))
        run(net, first_and_rest(parameters, net.sizes), x, Wanted(1, 0, 1, 1), targets,
            deltas=np.empty(plan.deltas, dtype), losses=np.empty((2, m), dtype), sums=sums,
            first=first_gradient, rest=rest_gradient)  # fmt: skip
        loss, hit, total = (np.add.reduce(sums, axis=0) if len(sums) > 1 else sums[0]).tolist()[:3]
        return loss, hit, total


def logits(parameters: Any, net: Net, x: Any) -> Any:
    """Return the logits (m, C)."""
    computed, classes = run(net, first_and_rest(parameters, net.sizes), x, Wanted(1, 0, 0, 0)), net.sizes[-1]
    return computed[len(computed) - len(x) * classes :].reshape(-1, classes)


def hidden(net: Net, parameters: tuple[Any, Any], x: Any) -> tuple[Any, Any, Any]:
    """Return the first layer's outputs z, their activations a (m, h) and the logits (m, C)."""
    m, h = len(x), net.sizes[1]
    z = np.empty(m * h, parameters[1].dtype)
    computed = run(net, parameters, x, Wanted(1, 1, 0, 0), z=z)
    return z.reshape(m, h), computed[: m * h].reshape(m, h), computed[m * h :].reshape(m, -1)


def gradient(net: Net, rest: Any, x: Any, forward: tuple[Any, Any, Any]) -> Any:
    """Return the mean gradient of a net of one hidden layer, whose forward pass is given.

    z, a (h, m), and the gradient (C, m) with respect to the logits; x rows (m, n); ``rest`` the parameters behind the
    first layer's weights.
    """
    z, a, delta = forward
    (n, h, classes), m, dtype = net.sizes, len(x), rest.dtype
    result = np.empty(h * n + len(rest), dtype)
    deltas = np.empty(_plan(net, m).deltas, dtype)
    np.divide(delta.T, dtype.type(m), out=deltas[len(deltas) - m * classes :].reshape(m, classes))
    first_gradient, rest_gradient = first_and_rest(result, net.sizes)
    run(net, (np.empty(0, dtype), rest), x, Wanted(0, 0, 0, 1), z=np.ascontiguousarray(z.T, dtype).reshape(-1),
        outputs=np.array(a.T, dtype, order="C").reshape(-1), deltas=deltas, first=first_gradient,
        rest=rest_gradient)  # fmt: skip
    return result
