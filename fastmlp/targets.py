"""Targets, by the loss that measures them: their checks, their class weights, and the best constant guess."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, checks, losses
from fastmlp.kernels.nets import HUBER
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_HALVINGS = 50  # of an interval that holds a constant: what is left is far below the precision of a loss


def check(name: str, Y: ArrayLike, loss: str, outputs: int, m: int, dtype: np.dtype[Any], *, finite: bool) -> Array:
    """Return targets of a loss for m samples: labels (m,) int64, or targets (outputs, m) in ``dtype``.

    Values other than labels are checked only if they are to be ``finite``.
    """
    if loss == losses.DEFAULT:
        y = checks.targets(name, Y, outputs, m)
        if y.ndim == 1:
            return y
        (y,) = arrays.contiguous(dtype, y)
        if finite:
            checks.proper_targets(name, y)
        return y
    (y,) = arrays.contiguous(dtype, _shaped(name, Y, loss, outputs, m))
    if finite:
        _check_values(name, y, loss)
    return y.reshape(outputs, m)


def _shaped(name: str, Y: ArrayLike, loss: str, outputs: int, m: int) -> Array:
    """Return targets (m,), if there is one output, or (outputs, m)."""
    y = checks.array(name, Y)
    if outputs == 1 and y.ndim == 1:
        return checks.array(name, y, shape=(m,), axes="(m,)", remedy="pass one target for each sample")
    axes, remedy = "(n_outputs, m)", "pass one row for each output, one column for each sample"
    if outputs == 1:
        axes = "(1, m), or targets (m,)"
    elif loss == "logistic":
        remedy = f"pass a row of 0 and 1 for each output, as one_hot(labels, {outputs}) returns for labels"
    return checks.array(name, y, shape=(outputs, m), axes=axes, remedy=remedy)


def _check_values(name: str, y: Array, loss: str) -> None:
    """Check that targets (m,) or (outputs, m) are numbers that a loss can measure."""
    if loss == "logistic":
        proper, expected, remedy = (y >= 0) & (y <= 1), "targets from 0 to 1", "pass labels 0 and 1, or probabilities"
    elif loss == "poisson":
        proper, expected = (y >= 0) & (y < math.inf), "finite counts >= 0"
        remedy = "the Poisson loss is for counts or rates: drop the sample, or take another loss"
    else:
        proper, expected = np.isfinite(y), f"targets that are finite in {y.dtype}"
        remedy = "fill in missing targets, scale targets that are too large, or drop the sample"
    if not proper.all():
        raise ValueError(checks.message(name, arrays.first_entry(y, ~proper), expected, remedy))


def class_weights(name: str, value: Any, loss: str, outputs: int, y: Array) -> Array:
    """Return the weight (m,) that each sample has by the weights of classes, of which soft targets take the mean."""
    if losses.is_regression(loss) or (loss == "logistic" and outputs > 1):
        kind = f"loss {loss!r}" + (f" with {outputs} outputs" if loss == "logistic" else "")
        remedy = "give each sample its weight with sample_weight"
        raise ValueError(checks.message(name, f"weights of classes beside {kind}", "a loss of classes", remedy))
    if loss == "logistic":
        absent, present = checks.class_weight(name, value, 2)
        weights: Array = (1 - y[0]) * absent + y[0] * present
        return weights
    by_class = checks.class_weight(name, value, outputs)
    # An overflow is refused by the caller.
    return by_class[y] if y.ndim == 1 else quietly(np.matmul, by_class, y)


def loss_of_guessing(loss: str, outputs: int, y: Array, w: Array) -> float:
    """Return the lowest loss of a model that predicts the same for every sample, from checked targets."""
    if loss == "cross_entropy":
        mass = np.bincount(y, w, outputs) if y.ndim == 1 else y @ w
        share = mass[mass > 0].astype(np.float64) / np.sum(w, dtype=np.float64)
        return float(-(share * np.log(share / share.sum())).sum())
    return sum(_OF_A_CONSTANT[loss](row.astype(np.float64), w / np.sum(w, dtype=np.float64)) for row in y)


def _of_logistic(y: Array, share: Array) -> float:
    p = min(float(np.sum(y * share)), 1.0)
    return -_x_log_x(p) - _x_log_x(1 - p)


def _of_squared_error(y: Array, share: Array) -> float:
    r = y - np.sum(y * share)
    return float(np.sum(r * r * share)) / 2


def _of_absolute_error(y: Array, share: Array) -> float:
    r = y - _root(lambda c: float(np.sum(np.sign(y - c) * share)), y)
    return float(np.sum(np.abs(r) * share))


def _of_huber(y: Array, share: Array) -> float:
    size = np.abs(y - _root(lambda c: float(np.sum(np.clip(y - c, -HUBER, HUBER) * share)), y))
    return float(np.sum(np.where(size <= HUBER, size * size / 2, HUBER * (size - HUBER / 2)) * share))


def _of_poisson(y: Array, share: Array) -> float:
    counted = y > 0
    entropy = np.multiply(y, np.log(y, out=np.zeros_like(y), where=counted))
    return float(np.sum(entropy * share)) - _x_log_x(float(np.sum(y * share)))


def _root(slope: Any, y: Array) -> float:
    """Return where a falling function changes its sign between the smallest and the largest target."""
    low, high = float(y.min()), float(y.max())
    for _ in range(_HALVINGS):
        middle = low + (high - low) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return high


def _x_log_x(x: float) -> float:
    return x * math.log(x) if x > 0 else 0.0


_OF_A_CONSTANT = {
    "logistic": _of_logistic,
    "squared_error": _of_squared_error,
    "absolute_error": _of_absolute_error,
    "huber": _of_huber,
    "poisson": _of_poisson,
}
