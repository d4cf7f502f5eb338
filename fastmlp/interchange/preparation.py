"""What happens to samples before a net and to its outputs after it, as the notes of a model say."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks, encoding, losses, units
from fastmlp.encoding import Encoder
from fastmlp.interchange.layers import Model
from fastmlp.units import Unit

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Preparation(NamedTuple):
    """The preparation of samples, and the meaning of outputs.

    Attributes
    ----------
    divisor : float
        Divides samples that no encoder encodes.
    encoder : Encoder or None
        What encodes rows of a table.
    names : tuple of str
        The names of the classes; empty if they are numbers from 0, or those of a regression.
    unit : Unit
        The unit of a regression's target.
    features : tuple of str
        The names of the columns, if they have any.
    """

    divisor: float = 1.0
    encoder: Encoder | None = None
    names: tuple[str, ...] = ()
    unit: Unit = Unit()
    features: tuple[str, ...] = ()


def of(model: Model) -> Preparation:
    """Return the preparation in the notes of a model; without notes, its inputs are taken as they are.

    Raises
    ------
    ValueError
        If the notes are not those of fastmlp's preprocessing, or do not fit the model.
    """
    notes, encoder = model.notes, model.encoder
    try:
        divisor = float(notes["max_value"]) if "inputs" in notes and encoder is None else 1.0
        names = tuple(map(str, json.loads(notes.get("classes", "[]")))) if "inputs" in notes else ()
        found = Preparation(divisor, encoder, names, units.read(notes) or Unit(), model.features)
        fits = 0 < divisor < math.inf and found.unit.is_proper() and len(names) in (0, classes(model))
    except (KeyError, ValueError, TypeError, RecursionError):
        fits = False
    if not fits:
        expected = "those of fastmlp's preprocessing"
        raise ValueError(checks.message("notes", "notes that do not fit the model", expected, "assign model.notes"))
    return found


def classes(model: Model) -> int:
    """Return the number of classes whose names a model may have: 0 if it is a regression, or has several labels."""
    outputs = model.layer_sizes[-1]
    if losses.is_regression(model.loss) or (model.loss == "logistic" and outputs > 1):
        return 0
    return max(2, outputs) if model.loss == "logistic" else outputs


def labels(names: tuple[str, ...], count: int) -> Array:
    """Return the labels (k,) of ``count`` classes: int64 if their names are whole numbers, else objects that are str.

    Examples
    --------
    >>> from fastmlp.interchange import preparation
    >>> preparation.labels(("3", "7"), 2), preparation.labels((), 2), preparation.labels(("a", "07"), 2)
    (array([3, 7]), array([0, 1]), array(['a', '07'], dtype=object))
    """
    if not names:
        return np.arange(count)
    if all(_is_whole(name) for name in names):
        return np.array(list(map(int, names)), np.int64)
    return np.array(names, object)


def notes(width: int, names: tuple[str, ...], features: tuple[str, ...]) -> dict[str, str]:
    """Return the notes of a model that takes its inputs as they are, and knows the names of classes or columns."""
    found: Mapping[str, str] = encoding.named(features)
    if not names:
        return dict(found)
    return {**found, "inputs": json.dumps([width]), "max_value": "1.0", "classes": json.dumps(names)}


def _is_whole(name: str) -> bool:
    try:
        number = int(name)
    except ValueError:
        return False
    return str(number) == name and -(2**63) <= number < 2**63
