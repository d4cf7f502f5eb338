"""How a trained model takes its inputs: what the command line writes into a model's notes, and reads from them."""

import json
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks, storage
from fastmlp.datasets import Dataset, bounded, images
from fastmlp.model import MLP
from fastmlp.packing import PackedMatrix, pack

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

FULL_INK = 255.0  #: Of a picture that was read.

_SMALLEST_PICTURE = 5  # rows; a table with a square number of columns is not yet one of pictures


class Inputs(NamedTuple):
    """How a model takes its inputs, and what its outputs are called.

    Attributes
    ----------
    shape : tuple of int
        Of one sample.
    max_value : float
        What samples were divided by.
    names : tuple of str
        What the classes are called.
    frame : images.Framing or None
        How pictures lie in their square; None where samples are no square pictures.
    """

    shape: tuple[int, ...]
    max_value: float
    names: tuple[str, ...]
    frame: images.Framing | None


def of(parts: Dataset, names: tuple[str, ...] | None) -> Inputs:
    """Return what a model that is trained on ``parts`` will have to know; classes without names get their numbers."""
    shape = _shape(parts.x_train.shape[1:])
    square = len(shape) == 2 and shape[0] == shape[1]
    frame = images.framing(parts.x_train.reshape(-1, *shape)) if square else None
    return Inputs(shape, parts.max_value, names or _numbers(parts.classes), frame)


def notes(name: str, inputs: Inputs) -> dict[str, str]:
    """Return ``inputs``, and the name of the data, as `MLP.notes`."""
    texts = {"data": name, "inputs": json.dumps(inputs.shape), "max_value": repr(inputs.max_value)}
    texts["classes"] = json.dumps(inputs.names)
    return texts if inputs.frame is None else texts | {"frame": json.dumps(inputs.frame)}


def noted(model: MLP) -> Inputs:
    """Return what the notes of a model say; without any, that it was trained on pictures like MNIST's.

    Raises
    ------
    ValueError
        If they say something else, or what does not fit the model's layers.
    """
    texts = model.notes
    if not texts:
        return _guessed(model)
    try:
        frame = images.Framing(*json.loads(texts["frame"])) if "frame" in texts else None
        shape, names = tuple(json.loads(texts["inputs"])), tuple(map(str, json.loads(texts["classes"])))
        inputs = Inputs(shape, float(texts["max_value"]), names, frame)
        fits = _fits(inputs, model)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise storage.refusal("MODEL", f"notes that cannot be read ({bounded.brief(error)})") from None
    if not fits:
        raise storage.refusal("MODEL", "notes that do not fit its layers")
    return inputs


def packed(x: Array, max_value: float, model: MLP) -> PackedMatrix:
    """Return samples (m, ...) divided by ``max_value``, as packed columns for the model."""
    return pack(x.reshape(len(x), -1).T, scale=1 / max_value, dtype=None if x.dtype == np.uint8 else model.dtype.name)


def check_width(name: str, shape: tuple[int, ...], model: MLP) -> None:
    """Raise ValueError unless samples of this shape have as many values as the model's input."""
    if math.prod(shape) != model.layer_sizes[0]:
        got, expected = f"samples of {math.prod(shape)} values", f"{model.layer_sizes[0]}, as in the model's training"
        raise ValueError(checks.message(name, got, expected, "take other data, or another model"))


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a sample; that of a square picture for one that could be a flat one."""
    side = math.isqrt(math.prod(shape))
    flat_picture = len(shape) == 1 and side**2 == shape[0] and side >= _SMALLEST_PICTURE
    return (side, side) if flat_picture else shape


def _numbers(classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(classes)))


def _guessed(model: MLP) -> Inputs:
    shape = _shape(model.layer_sizes[:1])
    scale = shape[0] / images.MNIST.side
    frame = images.MNIST._replace(
        side=shape[0], box=max(1, round(images.MNIST.box * scale)), middle=images.MNIST.middle * scale
    )
    return Inputs(shape, FULL_INK, _numbers(model.layer_sizes[-1]), frame if len(shape) == 2 else None)


def _fits(inputs: Inputs, model: MLP) -> bool:
    whole = all(isinstance(length, int) and length > 0 for length in inputs.shape)
    widths = math.prod(inputs.shape), len(inputs.names)
    frame = inputs.frame
    framed = frame is None or (
        inputs.shape == (frame.side, frame.side) and 1 <= frame.box <= frame.side and 0 <= frame.middle <= frame.side
    )
    scaled = 0 < inputs.max_value < math.inf
    return whole and scaled and framed and widths == (model.layer_sizes[0], model.layer_sizes[-1])
