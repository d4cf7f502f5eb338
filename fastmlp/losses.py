"""The losses of a model, as arguments and in files, and the predictions and scores that belong to each."""

from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.kernels.nets import LOSSES
from fastmlp.kernels.scores import CLASSIFICATIONS, target_variances
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

DEFAULT = "cross_entropy"

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


def predictions(loss: str, z: Array) -> Array:
    """Return the predictions that belong to logits z (K, m).

    Those of "cross_entropy" are labels (m,) int64. Those of the others are (m,) if K is 1, else (K, m): labels 0 and 1,
    int64, of "logistic", and numbers of a regression.
    """
    if loss == "cross_entropy":
        labels: Array = np.argmax(z, axis=0).astype(np.int64)
        return labels
    return in_short((z > 0).astype(np.int64) if loss == "logistic" else values(loss, z))


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
