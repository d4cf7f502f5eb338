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
from fastmlp.kernels.compiled.losses import Targets, no_targets
from fastmlp.kernels.compiled.memory import aligned_parts, contiguous, identity_index, may_be_kept, round_up, row_stride
from fastmlp.kernels.compiled.operands import Shape
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

_STEP, _LOGITS, _HIDDEN, _GRADIENT = Wanted(1, 0, 1, 1), Wanted(1, 0, 0, 0), Wanted(1, 1, 0, 0), Wanted(0, 0, 0, 1)
_KINDS = {_STEP: "step", _LOGITS: "logits", _HIDDEN: "hidden", _GRADIENT: "gradient"}


class _Plan(NamedTuple):
    """What follows from net and samples: the layers of `Batch`, the work of a pass, elements, and places.

    There are ``parts`` blocks of ``part`` samples each, which make gradients of their own, or none (0).
    """

    layers: Any
    identity: Any
    work: int
    outputs: int
    deltas: int
    parameters: int
    part: int
    parts: int


@functools.lru_cache(maxsize=64)
def _plan(net: Net, m: int) -> _Plan:
    sizes, entries = net.sizes, [ACTIVATIONS[name] for name in ("identity", *net.activations, "identity")]
    # Deltas of an output are read one after the other: with a power of two all would fall into one set of a cache.
    strides = [n if n < tuning.STRIDED_OUTPUTS else row_stride(n, 8) for n in sizes[:-1]] + [sizes[-1]]
    # What reading takes counts as multiply-adds: of x for few outputs, of the weights for few samples.
    weights = sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    work = max(m * tuning.READING_WORK * sizes[0], max(m, tuning.READING_SAMPLES) * weights)
    outputs, parameters = m * sum(sizes[1:]), sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))
    # An even number of blocks, which two workers share equally; of whole rows of tiles of inner products.
    part = round_up(-(-m // round_up(-(-m // tuning.SAMPLE_BLOCK), 2)), vector.DOT_ROWS)
    parts = -(-m // part)
    if m <= tuning.FEW_SAMPLES or parts * parameters > tuning.GRADIENTS_PER_OUTPUT * outputs:
        part = parts = 0
    codes, skips = [one.code for one in entries], [one.makes_zeros for one in entries]
    layers = np.array([sizes, strides, codes, skips])
    return _Plan(layers, identity_index(max(*sizes, m)), work, outputs, m * sum(strides[1:]), parameters, part, parts)


def _rooms(workers: int, sizes: tuple[int, ...], m: int, dtype: Any) -> BatchRoom:
    """Return memory for each worker's copies, for its scratch of the loss, and for its lists."""
    copies, lists = [1], (1, 1)
    for number, (n_in, n_out) in enumerate(pairwise(sizes)):
        part = tuning.DOT_BYTES if n_out > vector.DOT_COLUMNS else n_in * dtype.itemsize
        copies.append(products.inner_scratch(Shape(m, n_out, n_in), part, dtype.itemsize))
        copies.append(products.multiply_scratch(Shape(m, n_in, n_out), dtype.itemsize))
        copies.append(products.multiply_scratch(Shape(n_out, n_in, m), dtype.itemsize))
        if number < len(sizes) - 2 and n_out >= tuning.SKIPPING_OUTPUTS:
            copies.append(gradients.skipping_scratch(m, dtype.itemsize))
            needed = gradients.skipping_lists(m, n_out, dtype.itemsize)
            lists = (max(lists[0], needed[0]), max(lists[1], needed[1]))
    line, loss = vector.LINE_BYTES // dtype.itemsize, max(losses.loss_scratch(sizes[-1], m, dtype.itemsize), 1)
    counts = [workers * round_up(count, line) for count in (max(copies), loss, lists[1])]
    copied, lost, value = (one.reshape(workers, -1) for one in aligned_parts(dtype, *counts))
    start, index = np.empty((workers, lists[0]), np.int64), np.empty((workers, value.shape[1]), np.int32)
    return BatchRoom(copied, lost, start, index, value)


class _Pass(NamedTuple):
    """A pass that is ready to run: its plan, phases and memory.

    Attributes
    ----------
    key : tuple
        What it is for.
    plan : _Plan
    phases : list of (int, int)
        Those of each launch, and its workers.
    outputs : float
        Of all layers.
    results : Results
        Those that the pass itself needs, and empty ones.
    rooms : BatchRoom
    small : bool
        Whether it takes so little memory that a thread may keep it.
    """

    key: tuple[Any, ...]
    plan: _Plan
    phases: list[tuple[int, int]]
    outputs: Any
    results: Results
    rooms: BatchRoom
    small: bool


def _phases(m: int, workers: int, wanted: Wanted, elements: int) -> list[tuple[int, int]]:
    """Return the phases of each launch, and its workers, where blocks of samples make gradients of so many elements."""
    if workers == 1:
        return [(FIRST_LAYER | SAMPLES | PARAMETERS, 1)]
    # Where there are too few samples for all workers, they share the outputs of the layer with the most weights.
    shared = wanted.forward and m < workers * vector.PADDING
    phases = [(FIRST_LAYER, workers), (SAMPLES, workers)] if shared else [(FIRST_LAYER | SAMPLES, workers)]
    last = [(PARAMETERS, 1 if 0 < elements < tuning.PARALLEL_SIZE else workers)]
    return phases + last if wanted.gradient else phases


def _make_pass(key: tuple[Any, ...], plan: _Plan) -> _Pass:
    net, m, dtype, wanted, workers = key
    parts = plan.parts * plan.parameters if wanted.gradient else 0
    slopes = plan.outputs if wanted.gradient and any_slopes(net.activations) else 0
    none, lost = np.empty(0, dtype), m if wanted.loss else 0
    results = Results(
        np.empty(plan.deltas if wanted.gradient else 0, dtype), none, none, np.empty((2, lost), dtype),
        np.zeros((max(plan.parts, 1), tuning.LINE_NUMBERS)), none, np.empty(slopes, dtype), np.empty(parts, dtype),
    )  # fmt: skip
    rooms, outputs = _rooms(workers, net.sizes, m, dtype), np.empty(plan.outputs, dtype)
    small = may_be_kept(outputs, *results, *rooms)
    return _Pass(key, plan, _phases(m, workers, wanted, parts), outputs, results, rooms, small)


_kept = threading.local()


def _take(net: Net, m: int, dtype: Any, wanted: Wanted) -> _Pass:
    """Return a pass; if this Python thread has kept its last one of the kind, that one, which it then no longer keeps.

    A signal handler may run a pass of its own in the middle of one.
    """
    plan = _plan(net, m)
    key = (net, m, dtype, wanted, 1 if plan.work < tuning.PARALLEL_WORK else usable_threads())
    last: _Pass | None = _kept.__dict__.pop(_KINDS[wanted], None)
    return last if last is not None and last.key == key else _make_pass(key, plan)


def _keep(ready: _Pass) -> None:
    if ready.small:
        _kept.__dict__[_KINDS[ready.key[3]]] = ready


def _run(
    ready: _Pass, parameters: tuple[Any, Any], x: Any, targets: Targets | None = None,
    outputs: Any = None, **given: Any,
) -> None:  # fmt: skip
    """Run a pass over samples x (m, n) with the outputs of all layers and the results that are ``given``."""
    net, m, dtype, wanted, _ = ready.key
    (first, rest), plan = parameters, ready.plan
    classes = net.sizes[-1]
    batch = Batch(
        contiguous(x, dtype).reshape(-1), m, len(net.sizes) - 1, plan.layers, contiguous(first, dtype),
        contiguous(rest, dtype), no_targets(dtype) if targets is None else targets, plan.identity,
        plan.outputs - m * classes, plan.deltas - m * classes, len(rest), plan.part if wanted.gradient else 0, wanted,
    )  # fmt: skip
    outputs, results = ready.outputs if outputs is None else outputs, ready.results._replace(**given)
    for phase, workers in ready.phases:
        run_phases.launch(workers, outputs, results, batch, ready.rooms, phase)


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
        first, rest = first_and_rest(gradient, net.sizes)
        ready = _take(net, len(x), parameters.dtype, _STEP)
        _run(ready, first_and_rest(parameters, net.sizes), x, targets, first=first, rest=rest)
        sums = ready.results.sums
        loss, hit, total = (np.add.reduce(sums, axis=0) if len(sums) > 1 else sums[0]).tolist()[:3]
        _keep(ready)
        return loss, hit, total


def logits(out: Any, parameters: Any, net: Net, x: Any) -> None:
    """Set ``out`` (C, m) to the logits."""
    m, ready = len(x), _take(net, len(x), parameters.dtype, _LOGITS)
    _run(ready, first_and_rest(parameters, net.sizes), x)
    out[:] = ready.outputs[-m * net.sizes[-1] :].reshape(m, -1).T
    _keep(ready)


def hidden(net: Net, parameters: tuple[Any, Any], x: Any) -> tuple[Any, Any, Any]:
    """Return the first layer's outputs z, their activations a (m, h) and the logits (m, C)."""
    m, h, dtype = len(x), net.sizes[1], parameters[1].dtype
    z, ready = np.empty(m * h, dtype), _take(net, m, dtype, _HIDDEN)
    outputs = np.empty(ready.plan.outputs, dtype)
    _run(ready, parameters, x, outputs=outputs, z=z)
    _keep(ready)
    return z.reshape(m, h), outputs[: m * h].reshape(m, h), outputs[m * h :].reshape(m, -1)


def gradient(net: Net, rest: Any, x: Any, forward: tuple[Any, Any, Any]) -> Any:
    """Return the mean gradient of a net of one hidden layer, whose forward pass is given.

    z, a (h, m), and the gradient (C, m) with respect to the logits; x rows (m, n); ``rest`` the parameters behind the
    first layer's weights.
    """
    z, a, delta = forward
    (n, h, classes), m, dtype = net.sizes, len(x), rest.dtype
    result, ready = np.empty(h * n + len(rest), dtype), _take(net, m, dtype, _GRADIENT)
    deltas = ready.results.deltas
    np.divide(delta.T, dtype.type(m), out=deltas[len(deltas) - m * classes :].reshape(m, classes))
    of_first, of_rest = first_and_rest(result, net.sizes)
    _run(ready, (np.empty(0, dtype), rest), x, outputs=np.array(a.T, dtype, order="C").reshape(-1),
         z=np.ascontiguousarray(z.T, dtype).reshape(-1), first=of_first, rest=of_rest)  # fmt: skip
    _keep(ready)
    return result
