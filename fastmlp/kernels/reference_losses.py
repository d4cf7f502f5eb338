"""The losses of the NumPy backend, the twins of `fastmlp.kernels.compiled.losses` and `output_losses`.

Shapes: C outputs, m samples; columns are samples. Formulas: see `fastmlp.kernels.nets.Net`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp.kernels.nets import HUBER
from fastmlp.kernels.scores import without_residuals

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def softmax_columns(out: Array, z: Array) -> None:
    """Set ``out`` (C, m) to the softmax of the columns of ``z`` (C, m)."""
    np.subtract(z, _shift(z), out=out)
    np.exp(out, out=out)
    np.divide(out, sum_rows(out), out=out)


def softmax_cross_entropy_grad(dz: Array, loss: Array, hit: Array, z: Array, y: Array, weight: Array) -> None:
    """Fuse softmax, cross-entropy and their gradient with respect to the logits, for each column.

    dz (C, m) = w (p sum(y) - y), loss (m,) = w sum_k y_k (logsumexp(z) - z_k), hit (m,) = w where the class of the
    largest logit has a largest target, else 0; z, y (C, m), weight (m,). Where sum(y) is 1, dz is the notebook's p - y.
    """
    np.subtract(z, _shift(z), out=dz)
    # y and the shifted logit are multiplied only where y is not zero: 0 times an infinite loss counts as 0.
    loss[...] = -sum_rows(np.multiply(y, dz, out=np.zeros_like(dz), where=y != 0))
    np.exp(dz, out=dz)
    total = sum_rows(dz)
    mass = sum_rows(y)
    loss += np.multiply(mass, np.log(total), out=np.zeros_like(loss), where=mass != 0)
    np.divide(dz, total, out=dz)
    np.multiply(dz, mass, out=dz)
    np.subtract(dz, y, out=dz)
    np.multiply(dz, weight, out=dz)
    np.multiply(loss, weight, out=loss)
    predicted = np.argmax(z, axis=0)
    np.multiply(weight, y[predicted, np.arange(y.shape[1])] == y.max(axis=0), out=hit)


class Loss(NamedTuple):
    """A loss.

    Attributes
    ----------
    gradient : callable
        Sets dz (C, m), loss (m,) and hit (m,) from z, y (C, m), weight (m,), scales (C + 1,) and `Net.most`:
        see `softmax_cross_entropy_grad` and `fastmlp.kernels.scores`.
    """

    gradient: Callable[..., None]


def loss_gradient(dz: Array, loss: Array, hit: Array, z: Array, y: Array, weight: Array, name: str) -> None:
    """Set the gradient of a loss with respect to the logits, the losses, and the hits, which a regression has not.

    dz (C, m), loss, hit (m,), both weighted; z, y (C, m), weight (m,); the name of the loss.
    """
    LOSSES[name].gradient(dz, loss, hit, z, y, weight, without_residuals(name, len(z), z.dtype), math.inf)


def _cross_entropy(
    dz: Array, loss: Array, hit: Array, z: Array, y: Array, weight: Array, scales: Array, most: float
) -> None:
    softmax_cross_entropy_grad(dz, loss, hit, z, y, weight)
    bound = weight.dtype.type(most) * weight
    np.copyto(loss, bound, where=loss > bound)  # NaN stays, also where 0 times infinity is the bound


def _logistic(
    dz: Array, loss: Array, hit: Array, z: Array, y: Array, weight: Array, scales: Array, most: float
) -> None:
    below, e, one = z < 0, np.exp(-np.abs(z)), z.dtype.type(1)  # the exponential cannot overflow
    wrong = np.where(below, y, 1 - y)
    # 0 times an infinite logit counts as 0, as it does for `cross_entropy`.
    cost = np.multiply(wrong, np.abs(z), out=np.zeros_like(z), where=wrong != 0) + np.log1p(e)
    # p - y = p (1 - y) - (1 - p) y, which loses no digits where p is near 1.
    np.divide(np.where(below, e, one) * (1 - y) - np.where(below, one, e) * y, 1 + e, out=dz)
    right = ((z > 0) & (y > 0.5)) | ((z <= 0) & (y <= 0.5))
    np.multiply(weight, right.all(axis=0), out=hit)
    _weigh(dz, loss, np.minimum(cost, z.dtype.type(most)), weight)


def _regression(
    predict: Callable[[Array], Array], cost: Callable[..., Array], slope: Callable[[Array], Array]
) -> Callable[..., None]:
    """Return the gradient of a loss ``cost(r, z, y)`` of the residual r = predict(z) - y, with derivative slope(r)."""

    def gradient(
        dz: Array, loss: Array, hit: Array, z: Array, y: Array, weight: Array, scales: Array, most: float
    ) -> None:
        r = predict(z) - y
        np.multiply(sum_rows(scales[:-1, None] * r * r) + scales[-1], weight, out=hit)
        dz[...] = slope(r)
        _weigh(dz, loss, cost(r, z, y), weight)

    return gradient


def _weigh(dz: Array, loss: Array, cost: Array, weight: Array) -> None:
    np.multiply(dz, weight, out=dz)
    np.multiply(sum_rows(cost), weight, out=loss)


def _huber(r: Array, z: Array, y: Array) -> Array:
    size = np.abs(r)
    cost: Array = np.where(size <= HUBER, r * r / 2, HUBER * (size - HUBER / 2))
    return cost


def _poisson(r: Array, z: Array, y: Array) -> Array:
    # 0 log 0 counts as 0, also beside an infinite logit.
    cost: Array = r - np.multiply(y, z - np.log(y), out=np.zeros_like(z), where=y != 0)
    return cost


def _same(z: Array) -> Array:
    return z


LOSSES = {
    "cross_entropy": Loss(_cross_entropy),
    "logistic": Loss(_logistic),
    "squared_error": Loss(_regression(_same, lambda r, z, y: r * r / 2, _same)),
    "absolute_error": Loss(_regression(_same, lambda r, z, y: np.abs(r), np.sign)),
    "huber": Loss(_regression(_same, _huber, lambda r: np.clip(r, -HUBER, HUBER))),
    "poisson": Loss(_regression(np.exp, _poisson, _same)),
}


def _shift(z: Array) -> Array:
    """Return the largest logit of each column, or 0 where it is not finite.

    Unshifted, NaN and infinity come out where the formula puts them.
    """
    largest = z.max(axis=0)
    shift: Array = np.where(np.isfinite(largest), largest, z.dtype.type(0))
    return shift


def sum_rows(rows: Array) -> Array:
    """Sum (k, m) over axis 0, pairwise: NumPy adds along that axis one by one, which loses k eps."""
    while len(rows) > 8:
        half = len(rows) // 2
        folded = rows[:half] + rows[half : 2 * half]
        rows = folded if len(rows) % 2 == 0 else np.concatenate((folded, rows[-1:]))
    total: Array = rows.sum(axis=0)
    return total
