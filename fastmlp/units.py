"""The unit of a regression's target: training takes standardised numbers, the trained model returns the unit."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks, encoding

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NOTE = "target"  #: The name of the unit among a model's notes.


class Unit(NamedTuple):
    """How targets are standardised: ``(y - mean) / scale``.

    Attributes
    ----------
    mean, scale : float
        Mean and standard deviation of the targets in training.
    """

    mean: float = 0.0
    scale: float = 1.0

    def standardise(self, y: Array) -> Array:
        """Return targets (m,) as training takes them."""
        return encoding.standardised(y, np.array(self.mean), np.array(self.scale))

    def is_proper(self) -> bool:
        """Return whether these are numbers that a target can be standardised with."""
        return math.isfinite(self.mean) and 0 < self.scale < math.inf


def read(notes: Mapping[str, str]) -> Unit | None:
    """Return the unit in the notes of a model, or None."""
    if NOTE not in notes:
        return None
    mean, scale = json.loads(notes[NOTE])
    return Unit(mean, scale)


def check_counts(name: str, *parts: Array) -> None:
    """Raise ValueError if a target (m,) of a part of the data is negative."""
    lowest = min(float(y.min(initial=0)) for y in parts)
    if lowest < 0:
        remedy = "choose another --loss, or another --target"
        raise ValueError(checks.message(name, f"the target {lowest:g}", "counts, at least 0, for poisson", remedy))


def of(name: str, y: Array, dtype: str, loss: str) -> Unit:
    """Return the unit of training targets (m,). Those of "poisson" are only scaled: they stay positive.

    Raises
    ------
    ValueError
        If all are equal, or a model of this dtype cannot return them.
    """
    largest = float(np.abs(y).max())
    if largest > float(np.finfo(dtype).max):  # else a cast to float32 overflows, with a warning
        remedy = "give them in a larger unit, or train with --dtype float64"
        raise ValueError(checks.message(name, f"the target {largest:g}", f"targets that are finite in {dtype}", remedy))
    if np.ptp(y) == 0:
        got, remedy = f"only the target {y[0]:g} in {len(y)} training samples", "add samples, or name another --target"
        raise ValueError(checks.message(name, got, "at least two different targets", remedy))
    (mean,), (scale,) = encoding.moments(y.reshape(-1, 1))
    return Unit(scale=mean) if loss == "poisson" else Unit(mean, scale)
