"""Preprocessing of samples: the scaling and the class names that are saved with a model, in its notes."""

import json
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks, storage
from fastmlp.datasets import bounded, images
from fastmlp.datasets.files import Dataset
from fastmlp.model import MLP
from fastmlp.packing import PackedMatrix, pack
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

FULL_INK = 255.0  #: Largest value of a picture that was read from a file.
MOST_COLUMNS = 10_000  #: A wider table has a single scale, because a model's notes hold at most a million bytes.

_SMALLEST_PICTURE = 5  # rows; a table with a smaller square number of columns is not taken for pictures


class Columns(NamedTuple):
    """How the columns of a table are standardised: ``(x - mean) / scale``.

    Attributes
    ----------
    mean : tuple of float
        Mean of each column in the training part.
    scale : tuple of float
        Standard deviation of each column there; 1 if the column is constant.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Inputs(NamedTuple):
    """The form of a model's inputs, and the names of its outputs.

    Attributes
    ----------
    shape : tuple of int
        Shape of one sample.
    max_value : float
        Divisor of samples if ``columns`` is None.
    names : tuple of str
        Names of the classes.
    frame : images.Framing or None
        Position and size of the ink in square pictures; None for other samples.
    columns : Columns or None
        How the columns of a table are standardised; None for pictures.
    labels : tuple of str
        Labels of the classes in files if they differ from ``names``; else empty.
    """

    shape: tuple[int, ...]
    max_value: float
    names: tuple[str, ...]
    frame: images.Framing | None
    columns: Columns | None = None
    labels: tuple[str, ...] = ()


def from_dataset(parts: Dataset, names: tuple[str, ...] | None = None) -> Inputs:
    """Determine the preprocessing for a model that is trained on ``parts``.

    Pictures keep their scale: samples of several dimensions, and rows of a square number of bytes or of numbers from 0
    to 1. Other rows are those of a table, whose columns are standardised separately.

    Parameters
    ----------
    parts : Dataset
        The data set; only its training part counts.
    names : tuple of str, optional
        Names of the classes; their labels if not given.

    Returns
    -------
    Inputs
        The preprocessing, for `to_notes` and `pack_samples`.
    """
    x, labels = parts.x_train, () if names is None else parts.names
    could_be_picture = x.dtype == np.uint8 or (x.min() >= 0 and x.max() <= 1)
    shape = _shape(x.shape[1:]) if could_be_picture else x.shape[1:]
    inputs = Inputs(shape, parts.max_value, names or parts.names, None, None, labels)
    if len(shape) == 1:
        return inputs._replace(columns=_standardising(x) if shape[0] <= MOST_COLUMNS else None)
    square = len(shape) == 2 and shape[0] == shape[1]
    return inputs._replace(frame=images.framing(x.reshape(-1, *shape)) if square else None)


def to_notes(name: str, inputs: Inputs, label: str = "") -> dict[str, str]:
    """Return ``inputs``, with the printable names of the data and of its label column, as `MLP.notes`."""
    texts = {"data": bounded.shown(name)} | ({"label": bounded.shown(label)} if label else {})
    texts |= {"inputs": json.dumps(inputs.shape), "max_value": repr(inputs.max_value)}
    texts["classes"] = json.dumps(inputs.names)
    optional = {"frame": inputs.frame, "columns": inputs.columns, "labels": inputs.labels}
    return texts | {key: json.dumps(value) for key, value in optional.items() if value}


def from_model(model: MLP) -> Inputs:
    """Return the preprocessing from the notes of a model; without notes, that of pictures like MNIST's.

    Raises
    ------
    ValueError
        If the notes cannot be read, or do not fit the model's layers.
    """
    texts = model.notes
    if not texts:
        return _guessed(model)
    try:
        frame = images.Framing(*json.loads(texts["frame"])) if "frame" in texts else None
        columns = Columns(*map(tuple, json.loads(texts["columns"]))) if "columns" in texts else None
        names, labels = (tuple(map(str, json.loads(texts.get(key, "[]")))) for key in ("classes", "labels"))
        shape = tuple(json.loads(texts["inputs"]))
        inputs = Inputs(shape, float(texts["max_value"]), names, frame, columns, labels)
        fits = _fits(inputs, model)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise storage.refusal("MODEL", f"notes that cannot be read ({bounded.brief(error)})") from None
    if not fits:
        raise storage.refusal("MODEL", "notes that do not fit its layers")
    return inputs


def pack_samples(x: Array, inputs: Inputs, model: MLP, *, minibatches: bool = False) -> PackedMatrix:
    """Return samples (m, ...), scaled or standardised according to ``inputs``, as packed columns for the model."""
    rows = x.reshape(len(x), -1)
    if inputs.columns is None:
        dtype = None if x.dtype == np.uint8 else model.dtype.name
        return pack(rows.T, scale=1 / inputs.max_value, dtype=dtype, minibatches=minibatches)
    mean, scale = map(np.array, inputs.columns)
    standardised: Array = quietly(lambda: (rows - mean) / scale)  # the model refuses infinite results
    return pack(standardised.T, dtype=model.dtype.name, minibatches=minibatches)


def class_indices(name: str, parts: Dataset, names: tuple[str, ...] | None, inputs: Inputs) -> Array:
    """Return the model's class for each class of a data set, which may have fewer classes or another order.

    Parameters
    ----------
    name : str
        Name of the data, for messages.
    parts : Dataset
        The data set, whose ``names`` are the labels.
    names : tuple of str, optional
        Names of its classes, if they are not the labels.
    inputs : Inputs
        The model's preprocessing, whose ``names`` are the model's classes.

    Returns
    -------
    ndarray of int64, shape (parts.classes,)
        Indices into ``inputs.names``.

    Raises
    ------
    ValueError
        If the model does not know a class.
    """
    known = {label: i for texts in (inputs.labels, inputs.names) for i, label in enumerate(texts)}
    for called in (names or parts.names, parts.names):
        if known.keys() >= set(called):
            return np.array([known[one] for one in called], np.int64)
    got = bounded.brief(f"class {', '.join(one for one in parts.names if one not in known)}")
    expected = bounded.brief(f"the model's classes {', '.join(inputs.names)}")
    remedy = "leave those samples out, or name another column: --label first, last or NAME"
    raise ValueError(checks.message(name, got, expected, remedy))


def check_width(name: str, shape: tuple[int, ...], model: MLP) -> None:
    """Raise ValueError unless samples of this shape have as many values as the model's input."""
    if math.prod(shape) != model.layer_sizes[0]:
        got, expected = f"samples of {math.prod(shape)} values", f"{model.layer_sizes[0]}, as in the model's training"
        raise ValueError(checks.message(name, got, expected, "choose other data, or another model"))


def _standardising(x: Array) -> Columns:
    """Return mean and standard deviation of columns (m, n), also if their squares would overflow or underflow."""
    largest = np.abs(x.astype(np.float64)).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    u = x / unit
    mean, scale = u.mean(axis=0), u.std(axis=0) * unit
    constant = (np.ptp(u, axis=0) == 0) | (scale == 0)
    mean = np.where(constant, x[0], mean * unit)
    return Columns(tuple(mean.tolist()), tuple(np.where(constant, 1.0, scale).tolist()))


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a sample; a flat one of a square length becomes a square picture."""
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
    whole = whole and len(inputs.labels) in (0, len(inputs.names))
    widths = math.prod(inputs.shape), len(inputs.names)
    frame = inputs.frame
    framed = frame is None or (
        inputs.shape == (frame.side, frame.side) and 1 <= frame.box <= frame.side and 0 <= frame.middle <= frame.side
    )
    scaled = 0 < inputs.max_value < math.inf and _standardises(inputs.columns, math.prod(inputs.shape))
    return whole and scaled and framed and widths == (model.layer_sizes[0], model.layer_sizes[-1])


def _standardises(columns: Columns | None, width: int) -> bool:
    """Return whether each column has a finite mean and a positive, finite scale."""
    if columns is None:
        return True
    mean, scale = columns
    return (
        len(mean) == len(scale) == width and all(map(math.isfinite, mean)) and all(0 < one < math.inf for one in scale)
    )
