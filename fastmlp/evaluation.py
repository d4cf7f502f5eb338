"""Loss and score of a model's logits."""

from typing import Any, TypeAlias

import numpy as np

from fastmlp import backend, losses
from fastmlp.kernels.scores import of_sums
from fastmlp.methods import Scores
from fastmlp.quiet import quietly
from fastmlp.samples import Samples

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Logits that are evaluated at once. Bounds the memory for targets and gradients, each as large as the logits.
_EVALUATED_ENTRIES = 1 << 21


def scores(name: str, logits: Array, samples: Samples) -> Scores:
    """Return the mean loss of that name and the score, accuracy or R^2, of logits (C, m) of samples."""
    _, y, w = samples
    loss, hit = np.empty_like(w), np.empty_like(w)
    step = max(1, _EVALUATED_ENTRIES // len(logits))
    for first in range(0, w.size, step):
        part = slice(first, first + step)
        z = np.ascontiguousarray(logits[:, part])
        _measure(name, loss[part], hit[part], z, y[..., part], w[part])
    mean, score = of_sums(name, *(float(quietly(np.sum, one, dtype=np.float64)) for one in (loss, hit, w)))
    if losses.is_regression(name):
        score = losses.r2(losses.values(name, logits), y, w)
    return Scores(mean, score)


def _measure(name: str, loss: Array, hit: Array, z: Array, y: Array, w: Array) -> None:
    """Set ``loss`` (m,) and ``hit`` (m,) to each sample's weighted loss, and to its weight if the prediction is right.

    z (C, m) logits, y labels (m,) or targets (C, m), w (m,).
    """
    kernels = backend.kernels()
    if y.ndim == 1:
        wanted = np.empty_like(z)
        kernels.one_hot(wanted, y)
    else:
        wanted = np.ascontiguousarray(y)
    kernels.loss_gradient(np.empty_like(z), loss, hit, z, wanted, w, name)
