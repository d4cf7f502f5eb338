"""The NumPy backend: every kernel in plain NumPy, with few temporaries.

Same names and signatures as :mod:`fastmlp.kernels.compiled`. Outputs come first, then inputs, then scalars. Kernels
neither check nor raise: shapes, dtypes and labels have been checked before.
Shapes: n features, h units of a layer, C classes, m samples; columns are samples.
"""

import contextlib
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def one_hot(out: Array, labels: Array) -> None:
    """Set ``out`` (C, m) to 1 in row ``labels[i]`` of column i, else 0."""
    out.fill(0)
    out[labels, np.arange(labels.size)] = 1


def relu(out: Array, x: Array) -> None:
    """Set ``out`` (k,) to max(0, x)."""
    np.maximum(0, x, out=out)


def relu_mask(z: Array, a: Array, mask: Array, bias: Array) -> None:
    """Add the bias to ``z`` in place, set ``a`` = max(0, z) and ``mask`` = z > 0.

    z, a (h, m), bias (h, 1), mask (h, m) bool. ``a`` may be ``z``.
    """
    np.add(z, bias, out=z)
    np.greater(z, 0, out=mask)
    np.maximum(0, z, out=a)


def softmax_columns(out: Array, z: Array) -> None:
    """Set ``out`` (C, m) to the softmax of the columns of ``z`` (C, m)."""
    np.subtract(z, _shift(z), out=out)
    np.exp(out, out=out)
    np.divide(out, _sum_rows(out), out=out)


def softmax_cross_entropy_grad(dz: Array, loss: Array, hit: Array, z: Array, y: Array, weight: Array) -> None:
    """Fuse softmax, cross-entropy and their gradient by the logits, for each column.

    dz (C, m) = w (p sum(y) - y), loss (m,) = w sum_k y_k (logsumexp(z) - z_k), hit (m,) = w where the largest logit
    stands on a largest target, else 0; z, y (C, m), weight (m,). Where sum(y) is 1, dz is the notebook's p - y.
    """
    np.subtract(z, _shift(z), out=dz)
    # y and the shifted logit are multiplied only where y is not zero: 0 times an infinite loss counts as 0.
    loss[...] = -_sum_rows(np.multiply(y, dz, out=np.zeros_like(dz), where=y != 0))
    np.exp(dz, out=dz)
    total = _sum_rows(dz)
    mass = _sum_rows(y)
    loss += np.multiply(mass, np.log(total), out=np.zeros_like(loss), where=mass != 0)
    np.divide(dz, total, out=dz)
    np.multiply(dz, mass, out=dz)
    np.subtract(dz, y, out=dz)
    np.multiply(dz, weight, out=dz)
    np.multiply(loss, weight, out=loss)
    predicted = np.argmax(z, axis=0)
    np.multiply(weight, y[predicted, np.arange(y.shape[1])] == y.max(axis=0), out=hit)


def output_delta(dz: Array, a: Array, y: Array) -> None:
    """Set ``dz`` (C, m) to a - y: the logit gradient of softmax and cross-entropy, not yet divided by m."""
    np.subtract(a, y, out=dz)


def bias_sum(out: Array, dz: Array) -> None:
    """Set ``out`` (h, 1) to the sum over the columns of ``dz`` (h, m)."""
    out[...] = np.sum(dz, axis=1, keepdims=True, dtype=np.float64)  # the rows of a gradient cancel


def cross_entropy(a: Array, y: Array) -> float:
    """Return the mean of -sum_k y_k log(max(a_k, tiny)) over the columns of a, y (C, m)."""
    floor = np.finfo(a.dtype).tiny
    return -float(np.mean(_sum_rows(y * np.log(np.maximum(a, floor))), dtype=np.float64))


def update(out: Array, w: Array, dw: Array, alpha: Any) -> None:
    """Set ``out`` (k,) to w - alpha dw; ``out`` may be ``w``."""
    np.subtract(w, alpha * dw, out=out)


# Samples that a step takes at once: bounds the memory for activations and for the decoded input.
_CHUNK = 4096


def pack(matrix: Array) -> Array:
    """Return a copy of ``matrix`` (n, m), uint8, float32 or float64, as rows (m, n): samples are contiguous."""
    return np.array(matrix.T, order="C")


def operands(x: Array, table: Array) -> Array:
    """Return what computes with a packed matrix in the dtype of ``table`` (256,): uint8 is decoded chunk by chunk."""
    return x


def unpack(x: Array, n: int, table: Array) -> Array:
    """Return the packed matrix as a plain one (n, m), decoded by ``table`` (256,) if it holds uint8."""
    return _decode(x, table).T.copy()


def packed_facts(x: Array, n: int) -> tuple[str, int]:
    """Return the form and the bytes of a packed matrix."""
    return "dense", x.nbytes


def network_step(
    gradient: Array, parameters: Array, sizes: tuple[int, ...], x: Array, table: Array, y: Array, weight: Array
) -> tuple[float, float, float]:
    """Set ``gradient`` to the weighted mean gradient; return the sums of loss, weight of right answers, weight.

    parameters and gradient (k,) flat, y labels (m,) int64 or targets (C, m), weight (m,).
    """
    gradient.fill(0)
    layers, part = _layers(parameters, sizes), np.empty_like(gradient)
    sums = np.zeros(3)
    for first in range(0, len(x), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        a, w = _decode(x[chunk], table).T, weight[chunk]
        activations, masks, logits = _forward(layers, a)
        targets = y[:, chunk] if y.ndim == 2 else np.empty_like(logits)
        if y.ndim == 1:
            one_hot(targets, y[chunk])
        dz, loss, hit = np.empty_like(logits), np.empty_like(w), np.empty_like(w)
        softmax_cross_entropy_grad(dz, loss, hit, logits, targets, w)
        for layer, (dweight, dbias) in reversed(list(enumerate(_layers(part, sizes)))):
            np.matmul(dz, activations[layer].T, out=dweight)
            bias_sum(dbias, dz)
            if layer > 0:
                # A product and not a selection: NaN and infinity survive a closed gate, as in the formulas.
                dz = (layers[layer][0].T @ dz) * masks[layer - 1]
        gradient += part
        sums += [np.sum(one, dtype=np.float64) for one in (loss, hit, w)]
    np.divide(gradient, parameters.dtype.type(sums[2]), out=gradient)
    return float(sums[0]), float(sums[1]), float(sums[2])


def network_logits(out: Array, parameters: Array, sizes: tuple[int, ...], x: Array, table: Array) -> None:
    """Set ``out`` (C, m) to the logits."""
    layers = _layers(parameters, sizes)
    for first in range(0, len(x), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        _, _, out[:, chunk] = _forward(layers, _decode(x[chunk], table).T)


def forward(w1: Array, b1: Array, w2: Array, b2: Array, x: Array, table: Array | None) -> tuple[Array, Array, Array]:
    """Return z, a (h, m) and the logits (C, m) of a net of one hidden layer.

    x rows (m, n), plain or, where there is a ``table``, packed.
    """
    z = np.empty((len(w1), len(x)), w1.dtype)
    for chunk in _chunks(x):
        z[:, chunk] = w1 @ _decode(x[chunk], table).T
    a, mask = np.empty_like(z), np.empty(z.shape, np.bool_)
    relu_mask(z, a, mask, b1)
    return z, a, w2 @ a + b2


def backward(
    n: int, w2: Array, x: Array, table: Array | None, z: Array, a: Array, delta: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the mean gradient by W1, b1, W2, b2 of a net of one hidden layer whose forward pass is given.

    x (m, n) as in `forward`; z, a (h, m); delta (C, m) the gradient by the logits.
    """
    m = delta.dtype.type(len(x))
    dz = (w2.T @ delta) * (z > 0)
    dw1 = np.zeros((len(z), n), delta.dtype)
    for chunk in _chunks(x):
        dw1 += dz[:, chunk] @ _decode(x[chunk], table)
    db1, db2 = np.empty((len(z), 1), delta.dtype), np.empty((len(delta), 1), delta.dtype)
    bias_sum(db1, dz)
    bias_sum(db2, delta)
    return dw1 / m, db1 / m, delta @ a.T / m, db2 / m


def _chunks(x: Array) -> list[slice]:
    """Return the slices to take at once: chunks where uint8 will be decoded, else everything."""
    step = _CHUNK if x.dtype == np.uint8 else len(x)
    return [slice(first, first + step) for first in range(0, len(x), step)]


def _decode(rows: Array, table: Array | None) -> Array:
    return table[rows] if table is not None and rows.dtype == np.uint8 else rows


def _layers(vector: Array, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Return views (W, b) of each layer of the flat vector."""
    layers, at = [], 0
    for n_in, n_out in pairwise(sizes):
        weight = vector[at : at + n_out * n_in].reshape(n_out, n_in)
        at += n_out * n_in
        layers.append((weight, vector[at : at + n_out].reshape(n_out, 1)))
        at += n_out
    return layers


def _forward(layers: list[tuple[Array, Array]], x: Array) -> tuple[list[Array], list[Array], Array]:
    """Return the inputs of each layer, the masks of the hidden ones and the logits (C, m)."""
    activations, masks = [x], []
    for weight, bias in layers[:-1]:
        z = weight @ activations[-1]
        mask = np.empty(z.shape, np.bool_)
        relu_mask(z, z, mask, bias)
        activations.append(z)
        masks.append(mask)
    weight, bias = layers[-1]
    return activations, masks, weight @ activations[-1] + bias


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
    """Return what `fastmlp.show_config` says about this backend."""
    return {"threading layer": "none but that of BLAS"}


def _shift(z: Array) -> Array:
    """Return the largest logit of each column, or 0 where it is not finite.

    Unshifted, NaN and infinity come out where the formula puts them.
    """
    largest = z.max(axis=0)
    shift: Array = np.where(np.isfinite(largest), largest, z.dtype.type(0))
    return shift


def _sum_rows(rows: Array) -> Array:
    """Sum (k, m) over axis 0, pairwise: NumPy adds along that axis one by one, which loses k eps."""
    while len(rows) > 8:
        half = len(rows) // 2
        folded = rows[:half] + rows[half : 2 * half]
        rows = folded if len(rows) % 2 == 0 else np.concatenate((folded, rows[-1:]))
    total: Array = rows.sum(axis=0)
    return total
