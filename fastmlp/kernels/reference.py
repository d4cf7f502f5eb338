"""The NumPy backend: every kernel in plain NumPy, with few temporaries.

Same names and signatures as :mod:`fastmlp.kernels.compiled`. Outputs come first, then inputs, then scalars. Kernels
neither check nor raise: shapes, dtypes and labels have been checked before.
Shapes: n features, h units of a layer, C classes, m samples; columns are samples.
"""

import contextlib
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from fastmlp.kernels import reference_losses, rules, scores, tree
from fastmlp.kernels.inputs import (
    Rows,
    all_dense,  # noqa: F401
    from_arrays,  # noqa: F401
    layout,  # noqa: F401
    leaf_size,
    list_samples,  # noqa: F401
    operands,  # noqa: F401
    order_features,  # noqa: F401
    other_form,  # noqa: F401
    pack,  # noqa: F401
    packed_facts,  # noqa: F401
    plain_operand,  # noqa: F401
    to_arrays,  # noqa: F401
    unpack,  # noqa: F401
)
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Drawn, Part
from fastmlp.kernels.reference_activations import ACTIVATIONS
from fastmlp.kernels.reference_losses import (
    LOSSES,
    loss_gradient,  # noqa: F401
    softmax_columns,  # noqa: F401
    softmax_cross_entropy_grad,  # noqa: F401
)
from fastmlp.kernels.rules import apply, weight_mask

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def one_hot(out: Array, labels: Array) -> None:
    """Set ``out`` (C, m) to 1 in row ``labels[i]`` of column i, else 0."""
    out.fill(0)
    out[labels, np.arange(labels.size)] = 1


def relu(out: Array, x: Array) -> None:
    """Set ``out`` (k,) to max(0, x)."""
    np.maximum(0, x, out=out)


def output_delta(dz: Array, a: Array, y: Array) -> None:
    """Set ``dz`` (C, m) to a - y, the gradient of softmax and cross-entropy with respect to the logits, times m."""
    np.subtract(a, y, out=dz)


def survey(x: Array) -> tuple[Array, bool]:
    """Return how many numbers of a matrix or vector are not zero, (1,), and whether all are finite."""
    # One pass without a temporary array: a finite sum has only finite terms.
    total = np.add.reduce(x, axis=None)
    return np.array([np.count_nonzero(x)]), bool(np.isfinite(total) or np.isfinite(x).all())


def cross_entropy(a: Array, y: Array) -> float:
    """Return the mean of -sum_k y_k log(max(a_k, tiny)) over the columns of a, y (C, m)."""
    floor = np.finfo(a.dtype).tiny
    return -float(np.mean(reference_losses.sum_rows(y * np.log(np.maximum(a, floor))), dtype=np.float64))


def update(out: Array, w: Array, dw: Array, alpha: Any) -> None:
    """Set ``out`` (k,) to w - alpha dw; ``out`` may be ``w``."""
    np.subtract(w, alpha * dw, out=out)


_RELU = ACTIVATIONS["relu"]


class Sums:
    """Sums over some leaves of one step: gradients of nodes of the tree, and loss, hits and weight of each leaf."""

    def __init__(self, parameters: Array, net: Net, m: int) -> None:
        self._parameters, self._net = parameters, net
        self.leaves = -(-m // leaf_size(m, net.sizes[0]))
        self._of_leaves = np.zeros((self.leaves, 3))
        self._nodes: dict[int, tuple[int, Array]] = {}

    def enter(self, x: Rows, part: Part) -> None:
        """Take the leaves that are added next from x."""
        self._x, self._part, self._chunks = x, part, x.chunks()

    def add(self, first: int, stop: int) -> None:
        """Add the leaves ``first`` to below ``stop``, which x has, and which must not be there yet."""
        for leaf in range(first, stop):
            self._nodes[leaf] = 1, self._leaf(leaf)
            pairs, left = tree.folds([(one, count) for one, (count, _) in self._nodes.items()], self.leaves)
            gradients = {one: gradient for one, (_, gradient) in self._nodes.items()}
            for one, other in pairs:
                gradients[one] += gradients[other]
            self._nodes = {one: (count, gradients[one]) for one, count in left}

    def _leaf(self, leaf: int) -> Array:
        """Return the gradient of the sum over a leaf."""
        part = self._part
        chunk = self._chunks[leaf - part.first]
        layers, gradient = _layers(self._parameters, self._net.sizes), np.empty_like(self._parameters)
        w, y = part.weight[chunk], part.y[..., chunk]
        inputs, made_from, logits = _forward(self._net, layers, self._x.decoded(chunk).T)
        targets = y
        if y.ndim == 1:
            targets = np.empty_like(logits)
            one_hot(targets, y)
        dz, loss, hit = np.empty_like(logits), np.empty_like(w), np.empty_like(w)
        LOSSES[self._net.loss].gradient(dz, loss, hit, logits, targets, w, part.scales, self._net.most)
        for layer, (dweight, dbias) in reversed(list(enumerate(_layers(gradient, self._net.sizes)))):
            np.matmul(dz, inputs[layer].T, out=dweight)
            _sum_columns(dbias, dz)
            if layer > 0:
                # A product and not a selection: NaN and infinity survive a closed gate, as in the formulas.
                before = ACTIVATIONS[self._net.activations[layer - 1]]
                dz = (layers[layer][0].T @ dz) * before.derivative(made_from[layer - 1])
        self._of_leaves[leaf] = [np.sum(one, dtype=np.float64) for one in (loss, hit, w)]
        return gradient

    def nodes(self) -> tuple[list[tuple[tree.Node, Array]], Array]:
        """Return the nodes of the tree that the leaves make up so far, with their gradients, and sums of leaves."""
        return [((first, count), gradient) for first, (count, gradient) in self._nodes.items()], self._of_leaves

    def complete(self, gradient: Array, of_leaves: Array) -> None:
        """Take the gradient of the whole tree, and the sums of all leaves."""
        self._nodes, self._of_leaves = {0: (self.leaves, gradient)}, of_leaves

    def finish(self, gradient: Array) -> tuple[float, float, float]:
        """Set the flat vector to the mean gradient; return the sums of loss, weight of hits, weight of all leaves."""
        if list(self._nodes) != [0] or self._nodes[0][0] < self.leaves:
            raise ValueError("not all leaves have been added")
        loss, hit, total = np.add.reduce(self._of_leaves, axis=0)
        np.divide(self._nodes[0][1], gradient.dtype.type(total), out=gradient)
        return float(loss), float(hit), float(total)


def leaf_starts(x: Rows) -> Array:
    """Return the first sample of each leaf of a packed matrix, and the number of samples."""
    return np.array([*(chunk.start for chunk in x.chunks()), x.samples])


def begin(parameters: Array, net: Net, x: Rows, y: Array, weight: Array) -> Sums:
    """Return sums over no samples yet; y labels (m,) int64 or targets (C, m), weight (m,)."""
    return _entered(parameters, net, x, Part(0, y, weight, scores.hit_scales(net.loss, y, weight)))


def _entered(parameters: Array, net: Net, x: Rows, part: Part) -> Sums:
    sums = Sums(parameters, net, x.samples)
    sums.enter(x, part)
    return sums


def begin_parts(parameters: Array, net: Net, m: int, *, dense: bool) -> Sums:
    """Return sums over no samples yet of m, whose parts are to be entered."""
    return Sums(parameters, net, m)


def enter(sums: Sums, net: Net, x: Rows, part: Part) -> None:
    """Take the leaves that are added next from a part, packed as x."""
    sums.enter(x, part)


def nodes(sums: Sums) -> tuple[list[tuple[tree.Node, Array]], Array]:
    """Return the nodes of the tree that the leaves make up so far, each with its gradient, and float64 (leaves, 3).

    The numbers are loss, weight of hits and weight of each leaf, 0 where it is missing.
    """
    return sums.nodes()


def complete(sums: Sums, gradient: Array, of_leaves: Array) -> None:
    """Take the gradient of the whole tree, and the sums of all leaves."""
    sums.complete(gradient, of_leaves)


def accumulate(sums: Sums, first: int, stop: int) -> None:
    """Add loss, gradient, hits and weight over the leaves ``first`` to below ``stop``."""
    sums.add(first, stop)


def finish(gradient: Array, sums: Sums) -> tuple[float, float, float]:
    """Set ``gradient`` (k,) to the weighted mean gradient; return the sums of loss, weight of hits, weight."""
    return sums.finish(gradient)


def network_step(
    gradient: Array, parameters: Array, net: Net, x: Rows, y: Array, weight: Array
) -> tuple[float, float, float]:
    """Do `begin`, `accumulate` over all leaves, and `finish`."""
    sums = begin(parameters, net, x, y, weight)
    accumulate(sums, 0, sums.leaves)
    return finish(gradient, sums)


class Trainer:
    """Parameters and the state of an optimizer, which updates on batches of the samples x change."""

    def __init__(self, vectors: list[Array], net: Net, x: Rows, part: Part) -> None:
        self.vectors, self.net, self._scales = vectors, net, part.scales
        self.enter(x, part.y, part.weight)

    def enter(self, x: Rows, y: Array, weight: Array) -> None:
        """Go on with other samples."""
        self.x, self.y, self.weight = x, y, weight

    def sums(self, batch: Array) -> Sums:
        """Return the sums over a batch of samples, all leaves added."""
        y, weight = self.y[..., batch], self.weight[batch]
        sums = _entered(self.vectors[0], self.net, self.x.chosen(batch), Part(0, y, weight, self._scales))
        sums.add(0, sums.leaves)
        return sums


def begin_training(
    vectors: list[Array], net: Net, x: Rows, y: Array, weight: Array, scales: Array | None = None,
    drawn: Drawn | None = None,
) -> Trainer:  # fmt: skip
    """Return a trainer that begins with copies of these vectors: the parameters (k,) and the state of an optimizer.

    x, y and weight as in `begin`. If these are some of the samples only, ``scales`` are `scores.hit_scales` of all.
    If all batches are of those ``drawn`` once, updates may be faster.
    """
    every = scores.hit_scales(net.loss, y, weight) if scales is None else scales
    return Trainer([one.copy() for one in vectors], net, x, Part(0, y, weight, every))


def enter_training(trainer: Trainer, x: Rows, y: Array, weight: Array) -> None:
    """Go on with other samples, listed in the same blocks: with `list_samples` for the same density."""
    trainer.enter(x, y, weight)


def train(trainer: Trainer, order: Array, ends: Array, rule: rules.Rule, numbers: Array) -> Array:
    """Update on batch after batch; return the sums of loss, weight of hits and weight of each, float64 (done, 3).

    A fourth column is the sum of the squares of all weights before the update, if the rule asks for it.
    order int32 (k,) are samples, of which batch i ends before ``ends[i]``, int64 (u,); numbers float64 (u, 4) are those
    of each update: see `rules`. A batch of weight 0 changes nothing, and its sums are 0. The first update that would
    make the loss or a parameter infinite or NaN is not made, nor are those behind it.
    """
    net, gradient = trainer.net, np.empty_like(trainer.vectors[0])
    mask = weight_mask(gradient, net.sizes)
    weights = mask if numbers[:, 3].any() else mask[:0]
    sums = np.zeros((len(ends), 3 + rule.squares))
    for i, (first, stop) in enumerate(pairwise([0, *ends.tolist()])):
        batch = order[first:stop]
        before = [one.copy() for one in trainer.vectors]
        parameters, *state = trainer.vectors
        sums[i, :3] = trainer.sums(batch).finish(gradient)
        if sums[i, 2] == 0:
            sums[i] = 0
            continue
        if rule.squares:
            sums[i, 3] = np.sum(np.square(mask * parameters, dtype=np.float64))
        apply(parameters, state, gradient, weights, rule, numbers[i])
        if not (np.isfinite(sums[i, 0]) and np.isfinite(parameters).all()):
            trainer.vectors = before
            return sums[:i]
    return sums


def training_vectors(trainer: Trainer) -> list[Array]:
    """Return copies of the parameters (k,) and of the state of the optimizer."""
    return [one.copy() for one in trainer.vectors]


def network_logits(out: Array, parameters: Array, net: Net, x: Rows, *, dense: bool | None = None) -> None:
    """Set ``out`` (C, m) to the logits; of a part, ``dense`` as in `begin_parts`."""
    layers = _layers(parameters, net.sizes)
    for chunk in x.chunks():
        _, _, out[:, chunk] = _forward(net, layers, x.decoded(chunk).T)


def forward(w1: Array, b1: Array, w2: Array, b2: Array, x: Array | Rows) -> tuple[Array, Array, Array]:
    """Return z, a (h, m) and the logits (C, m) of a net of one hidden layer; x rows (m, n), plain or packed."""
    samples, chunks = _samples_and_chunks(x)
    z = np.empty((len(w1), samples), w1.dtype)
    for chunk in chunks:
        z[:, chunk] = w1 @ _decoded(x, chunk).T
    z += b1
    a = np.empty_like(z)
    _RELU.value(z, a)
    return z, a, w2 @ a + b2


def backward(n: int, w2: Array, x: Array | Rows, z: Array, a: Array, delta: Array) -> tuple[Array, Array, Array, Array]:
    """Return the mean gradient with respect to W1, b1, W2, b2 of a net of one hidden layer, its forward pass given.

    x rows (m, n), plain or packed; z, a (h, m); delta (C, m) the gradient with respect to the logits.
    """
    samples, chunks = _samples_and_chunks(x)
    m = delta.dtype.type(samples)
    dz = (w2.T @ delta) * _RELU.derivative(z)
    dw1 = np.zeros((len(z), n), delta.dtype)
    for chunk in chunks:
        dw1 += dz[:, chunk] @ _decoded(x, chunk)
    db1, db2 = np.empty((len(z), 1), delta.dtype), np.empty((len(delta), 1), delta.dtype)
    _sum_columns(db1, dz)
    _sum_columns(db2, delta)
    return dw1 / m, db1 / m, delta @ a.T / m, db2 / m


def _sum_columns(out: Array, dz: Array) -> None:
    out[...] = np.sum(dz, axis=1, keepdims=True, dtype=np.float64)  # the rows of a gradient cancel


def _samples_and_chunks(x: Array | Rows) -> tuple[int, list[slice]]:
    """Return the number of samples, and the slices to take at once: chunks where they are decoded, else everything."""
    if isinstance(x, Rows) and x.is_decoded():
        return x.samples, x.chunks()
    m = x.samples if isinstance(x, Rows) else len(x)
    return m, [slice(0, m)]


def _decoded(x: Array | Rows, chunk: slice) -> Array:
    return x.decoded(chunk) if isinstance(x, Rows) else x[chunk]


def _layers(vector: Array, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Return views (W, b) of each layer of the flat vector."""
    layers, at = [], 0
    for n_in, n_out in pairwise(sizes):
        weight = vector[at : at + n_out * n_in].reshape(n_out, n_in)
        at += n_out * n_in
        layers.append((weight, vector[at : at + n_out].reshape(n_out, 1)))
        at += n_out
    return layers


def _forward(net: Net, layers: list[tuple[Array, Array]], x: Array) -> tuple[list[Array], list[Array], Array]:
    """Return the inputs of each layer, the numbers that derivatives are made from, and the logits (C, m)."""
    inputs, made_from = [x], []
    for name, (weight, bias) in zip(net.activations, layers[:-1], strict=True):
        activation, z = ACTIVATIONS[name], weight @ inputs[-1]
        z += bias
        a = np.empty_like(z) if activation.of_argument else z
        activation.value(z, a)
        inputs.append(a)
        made_from.append(z)
    weight, bias = layers[-1]
    return inputs, made_from, weight @ inputs[-1] + bias


def warmup(dtype: Any) -> None:
    """Do nothing: NumPy compiles nothing."""


def max_threads() -> int | None:
    """Return None: this backend launches no threads of its own, so none limits it."""
    return None


def limits_threads(n: int) -> bool:
    """Return True: the threads of this backend are those of BLAS, whose count is the process'."""
    return True


def limited_threads(n: int) -> contextlib.AbstractContextManager[None]:
    """Do nothing: the caller governs BLAS."""
    return contextlib.nullcontext()


def attach(**host: Any) -> None:
    """Do nothing: this backend compiles nothing, and asks nothing of its host."""


def compiler_locks() -> list[Any]:
    """Return no locks: NumPy compiles nothing."""
    return []


def preparation() -> tuple[float, float]:
    """Return zeros: NumPy compiles nothing."""
    return 0.0, 0.0


def describe() -> dict[str, str]:
    """Return the lines of `fastmlp.show_config` about this backend."""
    return {"threading layer": "none but that of BLAS"}
