"""The passes of a network: sums over ranges of samples, gradients and logits."""

import threading
from typing import Any

import numpy as np

from fastmlp.kernels import recycled, scores, tree
from fastmlp.kernels.compiled import small_batch, tuning
from fastmlp.kernels.compiled.memory import contiguous
from fastmlp.kernels.compiled.operands import Packed
from fastmlp.kernels.compiled.plan import no_input
from fastmlp.kernels.compiled.problem import make_problem, targets
from fastmlp.kernels.compiled.sums import Sums, outputs
from fastmlp.kernels.compiled.tree import leaf_starts as starts_of
from fastmlp.kernels.nets import Net, relu_net
from fastmlp.kernels.parts import Part

_kept = threading.local()  # the sums of the last step, their net and samples


def leaf_starts(x: Any) -> Any:
    """Return the first sample of each leaf of a packed matrix, and the number of samples."""
    return starts_of(len(x.order), x.whole) if isinstance(x, Packed) else np.array([0, len(x)])


def begin(parameters: Any, net: Net, x: Any, y: Any, weight: Any) -> Any:
    """Return sums over no samples yet; y labels (m,) int64 or targets (C, m), weight (m,)."""
    if isinstance(x, np.ndarray):
        return small_batch.SmallSums(parameters, net, x, targets(y, weight, parameters.dtype, net))
    sums = Sums(make_problem(parameters, net, len(x.order), x))
    enter(sums, net, x, Part(0, y, weight, scores.hit_scales(net.loss, y, weight)))
    return sums


def begin_parts(parameters: Any, net: Net, m: int, *, dense: bool) -> Sums:
    """Return sums over no samples yet of m, whose parts are to be entered; all of their tiles are ``dense``, or not."""
    none = no_input(parameters.dtype, net.sizes[0], m)
    return Sums(make_problem(parameters, net, 0, none, dense=dense))


def enter(sums: Sums, net: Net, x: Packed, part: Part) -> None:
    """Take the leaves that are added next from a part, packed as x."""
    dtype = part.weight.dtype
    sums.enter(x, targets(part.y, part.weight, dtype, net, part.scales), part.first)


def accumulate(sums: Any, first: int, stop: int) -> None:
    """Add loss, gradient, hits and weight over the leaves ``first`` to below ``stop``."""
    sums.add(first, stop)


def finish(gradient: Any, sums: Any) -> tuple[float, float, float]:
    """Set ``gradient`` (k,) to the weighted mean gradient; return the sums of loss, weight of hits, weight."""
    result: tuple[float, float, float] = sums.finish(gradient)
    return result


def backward(n: int, w2: Any, x: Any, z: Any, a: Any, delta: Any) -> tuple[Any, Any, Any, Any]:
    """Return the mean gradient with respect to W1, b1, W2, b2 of a net of one hidden layer, its forward pass given.

    x rows (m, n) or packed; z, a (h, m); delta (C, m) the gradient with respect to the logits.
    """
    dtype, (classes, h), m = w2.dtype, w2.shape, z.shape[1]
    net, split = relu_net((n, h, classes)), h * n
    if m <= tuning.FEW_SAMPLES:
        rest = np.concatenate((np.empty(h, dtype), w2.reshape(-1), np.empty(classes, dtype)))
        gradient = small_batch.gradient(net, rest, x, (z, a, delta))
    else:
        gradient = _large_gradient(net, w2, x, (z, a, delta))
    dw1, db1, dw2, db2 = np.split(gradient, (split, split + h, len(gradient) - classes))
    return dw1.reshape(h, n), db1.reshape(h, 1), dw2.reshape(classes, h), db2.reshape(classes, 1)


def _large_gradient(net: Net, w2: Any, x: Any, forward: tuple[Any, Any, Any]) -> Any:
    (n, h, classes), dtype, m = net.sizes, w2.dtype, forward[0].shape[1]
    parameters = np.empty(h * (n + 1) + classes * (h + 1), dtype)
    parameters[h * (n + 1) : -classes] = w2.reshape(-1)
    problem = make_problem(parameters, net, m, x, first_layer=1)
    given = (one.T if problem.rows is not None else one.T[x.order] for one in forward)
    z, a, delta = (contiguous(one, dtype) for one in given)
    wanted = problem.step.targets._replace(rows=delta)
    step = problem.step._replace(given=1, z=z.reshape(-1), a=a.reshape(-1), targets=wanted)
    sums, gradient = Sums(problem._replace(step=step)), np.empty_like(parameters)
    sums.add(0, sums.leaves)
    sums.finish(gradient)
    return gradient


def forward(w1: Any, b1: Any, w2: Any, b2: Any, x: Any) -> tuple[Any, Any, Any]:
    """Return z, a (h, m) and the logits (C, m) of a net of one hidden layer; x rows (m, n) or packed."""
    m = len(x.order) if isinstance(x, Packed) else len(x)
    dtype, (h, n), classes = w1.dtype, w1.shape, len(w2)
    net = relu_net((n, h, classes))
    rest = np.concatenate([one.reshape(-1) for one in (b1, w2, b2)])
    if m <= tuning.FEW_SAMPLES:
        z, a, out = small_batch.hidden(net, (w1.reshape(-1), rest), x)
        return z.T, a.T, np.ascontiguousarray(out.T)
    z, a = recycled.empty((2, m, h), dtype)
    out = np.empty((classes, m), dtype)
    outputs(make_problem(np.concatenate((w1.reshape(-1), rest)), net, m, x), out, z, a)
    return z.T, a.T, out


def network_step(gradient: Any, parameters: Any, net: Net, x: Any, y: Any, weight: Any) -> tuple[float, float, float]:
    """Do `begin`, `accumulate` over all leaves, and `finish`; the thread keeps small sums for its next step."""
    # Taken, not only read: a signal handler may do a step of its own in the middle of one.
    last_net, last_x, sums = _kept.__dict__.pop("last", (None, None, None))
    again = last_x is x and last_net == net
    if again:
        sums.restart(parameters, targets(y, weight, parameters.dtype, net))
    else:
        sums = begin(parameters, net, x, y, weight)
    accumulate(sums, 0, sums.leaves)
    result = finish(gradient, sums)
    if again or (isinstance(sums, Sums) and sums.small):
        _kept.last = net, x, sums
    return result


def nodes(sums: Sums) -> tuple[list[tuple[tree.Node, Any]], Any]:
    """Return the nodes of the tree that the leaves make up so far, each with its gradient, and float64 (leaves, 3).

    The gradients are in one form in all sums of a net over as many samples. The numbers are loss, weight of hits and
    weight of each leaf, 0 where it is missing.
    """
    return sums.nodes()


def complete(sums: Sums, gradient: Any, of_leaves: Any) -> None:
    """Take the gradient of the whole tree, in the form of `nodes`, and the sums of all leaves."""
    sums.complete(gradient, of_leaves)


def network_logits(out: Any, parameters: Any, net: Net, x: Any, *, dense: bool | None = None) -> None:
    """Set ``out`` (C, m) to the logits, samples in the caller's order; of a part, ``dense`` as in `begin_parts`."""
    if isinstance(x, np.ndarray) and len(x) <= tuning.FEW_DENSE_SAMPLES:
        small_batch.logits(out, parameters, net, x)
        return
    none = np.empty((0, 0), parameters.dtype)
    outputs(make_problem(parameters, net, out.shape[1], x, dense=dense), out, none, none)
