"""The losses of a model, as arguments and in files, and the predictions and scores that belong to each."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.kernels.nets import LOSSES
from fastmlp.kernels.scores import CLASSIFICATIONS, target_variances
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

DEFAULT = "cross_entropy"

# Columns of logits from which rows are compared as a whole. NumPy looks at one column at a time: of 3 (10) outputs it
# takes 5.5 (9.3) us for 1000 columns and 1200 (2700) for 100 000, and the comparison 3.8 (12.5) and 600 (1200).
_MANY_COLUMNS = 10_000

_NAMES = {
    "cross_entropy": "cross-entropy",
    "logistic": "logistic loss",
    "squared_error": "half squared error",
    "absolute_error": "absolute error",
    "huber": "Huber loss",
    "poisson": "half Poisson deviance",
}


def check(name: str, value: Any) -> str:
    """Return ``value`` if it is the name of a loss."""
    return checks.choice(name, value, LOSSES)


def is_legal(name: str) -> bool:
    """Return whether this is the name of a loss."""
    return name in LOSSES


def is_regression(loss: str) -> bool:
    """Return whether a loss is one of numbers, and not of classes."""
    return loss not in CLASSIFICATIONS


def in_words(loss: str) -> str:
    """Return a loss in words, for the mean over samples.

    Examples
    --------
    >>> from fastmlp import losses
    >>> losses.in_words("poisson")
    'half Poisson deviance'
    """
    return _NAMES[loss]


def score_name(loss: str) -> str:
    """Return the score that is reported beside a loss: "accuracy" or "r2"."""
    return "r2" if is_regression(loss) else "accuracy"


def spoken(scores: Mapping[str, float]) -> str:
    """Return the score of ``MLP.evaluate``, or of an epoch, in words.

    Examples
    --------
    >>> from fastmlp import losses
    >>> losses.spoken({"loss": 0.1, "accuracy": 0.975}), losses.spoken({"loss": 0.1, "r2": 0.975})
    ('accuracy 97.50%', 'R2 0.9750')
    """
    return f"R2 {scores['r2']:.4f}" if "r2" in scores else f"accuracy {scores['accuracy']:.2%}"


def predictions(loss: str, z: Array) -> Array:
    """Return the predictions that belong to logits z (K, m).

    Those of "cross_entropy" are labels (m,) int64. Those of the others are (m,) if K is 1, else (K, m): labels 0 and 1,
    int64, of "logistic", and numbers of a regression.
    """
    if loss == "cross_entropy":
        return labels(z)
    return in_short((z > 0).astype(np.int64) if loss == "logistic" else values(loss, z))


def labels(z: Array) -> Array:
    """Return the row of the largest number in each column of z (K, m), int64 (m,), as ``np.argmax`` chooses it."""
    largest = z.max(axis=0) if z.shape[1] > _MANY_COLUMNS else None
    if largest is None or np.isnan(largest).any():
        found: Array = np.argmax(z, axis=0).astype(np.int64, copy=False)
        return found
    found = np.zeros(z.shape[1], np.int64)
    for k in range(len(z) - 1, -1, -1):
        np.putmask(found, z[k] == largest, k)
    return found


def values(loss: str, z: Array) -> Array:
    """Return the predictions (K, m) of a regression with logits z (K, m)."""
    return quietly(np.exp, z) if loss == "poisson" else z


def chances(z: Array) -> Array:
    """Return the probabilities 1 / (1 + exp(-z)) of logits z (K, m), as `in_short`."""
    return in_short(quietly(_logistic, z))


def in_short(of_outputs: Array) -> Array:
    """Return numbers (m,) if there is one output, else (K, m)."""
    return of_outputs[0] if len(of_outputs) == 1 else of_outputs


def r2(predicted: Array, y: Array, w: Array) -> float:
    """Return the coefficient of determination of predictions for targets y (K, m) with weights w (m,).

    It is the mean over the outputs of 1 - sum w (y - p)^2 / sum w (y - mean y)^2. As in scikit-learn, an output with
    constant targets counts 1 if all of its predictions are right, else 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import losses
    >>> losses.r2(np.array([[1.0, 3.0, 3.0]]), np.array([[1.0, 2.0, 3.0]]), np.ones(3))
    0.5
    """
    return float(quietly(_r2, predicted, y, w))


def _r2(predicted: Array, y: Array, w: Array) -> Any:
    residual = np.subtract(predicted, y, dtype=np.float64)
    missed = np.sum(residual * residual * w, axis=1) / np.sum(w, dtype=np.float64)
    variance = target_variances(y, w)
    of_constant = np.where(missed == 0, 1.0, 0.0)
    return np.mean(np.where(variance == 0, of_constant, 1 - missed / variance))


def _logistic(z: Array) -> Array:
    e = np.exp(-np.abs(z))  # which cannot overflow
    probabilities: Array = np.where(z < 0, e, z.dtype.type(1)) / (1 + e)
    return probabilities
