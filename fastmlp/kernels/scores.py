"""Scores of samples, as kernels of both backends add them up beside the losses: the ``hit`` of each.

The hits of a classification are the weights of the samples that are classified as their targets say. Those of a
regression are squared residuals, scaled so that their weighted mean is 1 - R^2 at fixed parameters, R^2 averaged over
the outputs.
"""

import functools
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

CLASSIFICATIONS = "cross_entropy", "logistic"


@functools.lru_cache(maxsize=16)
def without_residuals(loss: str, outputs: int, dtype: Any) -> Array:
    """Return the scales of `hit_scales` that leave residuals out: the hits of a regression are then 0.

    They are only read, and the same array is returned again.
    """
    scales = np.zeros(outputs + 1, dtype)
    scales[-1] = loss in CLASSIFICATIONS
    return scales


def hit_scales(loss: str, y: Array, weight: Array) -> Array:
    """Return the scale of the squared residual of each output, and a number that each sample has in any case, (K + 1,).

    y are labels (m,) or targets (K, m), weight (m,). Outputs whose targets are constant count as if R^2 were 0, because
    the residuals of a model that is still trained are not. A classification has no residuals, and the number is 1.
    """
    if y.ndim == 1 or loss in CLASSIFICATIONS:
        return without_residuals(loss, 0 if y.ndim == 1 else len(y), weight.dtype)
    variances = target_variances(y, weight)
    varied = variances > 0
    scales = np.append(np.zeros(len(y)), np.mean(variances == 0))
    np.divide(1 / len(y), variances, out=scales[:-1], where=varied)
    return scales.clip(max=np.finfo(weight.dtype).max).astype(weight.dtype)


def of_sums(loss: str, cost: float, hits: float, weight: float) -> tuple[float, float]:
    """Return the mean loss and the score, accuracy or R^2, by the sums of losses, hits and weights."""
    share = hits / weight
    return cost / weight, share if loss in CLASSIFICATIONS else 1 - share


def target_variances(y: Array, weight: Array) -> Array:
    """Return the weighted variance of each row of targets (K, m), float64; exactly 0 for constant ones."""
    first = int(np.argmax(weight > 0))
    shifted = np.subtract(y, y[:, first : first + 1], dtype=np.float64)
    total = np.sum(weight, dtype=np.float64)
    shifted -= np.sum(shifted * weight, axis=1, keepdims=True) / total
    variances: Array = np.sum(shifted * shifted * weight, axis=1) / total
    return variances
