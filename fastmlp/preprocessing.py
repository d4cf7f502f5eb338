"""Preprocessing of samples: the scaling and the class names that are saved with a model, in its notes."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import arrays, checks, encoding, frames, losses, storage, units
from fastmlp.datasets import bounded, images, tables
from fastmlp.datasets.files import Dataset
from fastmlp.encoding import Encoder
from fastmlp.model import MLP
from fastmlp.packing import PackedMatrix
from fastmlp.packs import pack
from fastmlp.units import Unit

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

FULL_INK = 255.0  #: Largest value of a picture that was read from a file.
MOST_COLUMNS = 10_000  #: A wider table has a single scale, because a model's notes hold at most a million bytes.

_SMALLEST_PICTURE = 5  # rows; a table with a smaller square number of columns is not taken for pictures


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
    columns : Encoder or None
        How the columns of a table are standardised, and its categories encoded; None for pictures.
    labels : tuple of str
        Labels of the classes in files if they differ from ``names``; else empty.
    unit : units.Unit or None
        The unit of a regression's target; None for classes.
    first_index : int or None
        The index of the first feature in svmlight files; None if the model learnt from another file.
    """

    shape: tuple[int, ...]
    max_value: float
    names: tuple[str, ...]
    frame: images.Framing | None
    columns: Encoder | None = None
    labels: tuple[str, ...] = ()
    unit: Unit | None = None
    first_index: int | None = None

    def targets(self, y: Array) -> Array:
        """Return labels (m,) as they are, and targets (m,) standardised."""
        return y if self.unit is None else self.unit.standardise(y)


def fit(frame: frames.Frame, categories: Iterable[str] = ()) -> Encoder:
    """Determine how to encode the rows of a data frame: numbers are standardised, categories become zeros and ones.

    Parameters
    ----------
    frame : data frame of pandas or polars, m rows of n columns
        The training data, without labels or targets. Columns of text, and those declared as categories, are encoded by
        scikit-learn's ``OneHotEncoder`` with at most 100 columns of zeros and ones each: rarer categories share the
        last one. All other columns must be numbers.
    categories : iterable of str, optional
        Further columns whose numbers stand for categories.

    Returns
    -------
    Encoder
        For `MLP.encoder`. Its ``width`` is the model's number of inputs.

    Raises
    ------
    ValueError
        If a value is missing or infinite, or there is no such column.
    TypeError
        If a column holds neither numbers nor text, or ``frame`` is not a data frame.
    ImportError
        If there are categories, and scikit-learn, the extra ``sklearn``, is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import fastmlp
    >>> class Table(dict):  # a data frame of pandas or polars in practice
    ...     columns, dtypes, shape = property(list), None, (3, 1)
    ...     def to_numpy(self): ...
    >>> encoder = fastmlp.preprocessing.fit(Table(age=np.array([20.0, 30.0, 40.0])))
    >>> encoder.names, encoder.mean, encoder.width
    (('age',), (30.0,), 1)
    >>> model = fastmlp.MLP((encoder.width, 8, 2))
    >>> model.encoder = encoder  # model.fit, model.predict and the like now take raw rows, also after MLP.load
    """
    if not frames.is_frame(frame, "frame"):
        expected = "a data frame of pandas or polars"
        raise TypeError(checks.message("frame", type(frame).__name__, expected, "pass one with named columns"))
    names, several = frames.names(frame), list(categories)
    for name in several:
        if name not in names:
            got, expected = bounded.brief(repr(name)), bounded.brief(f"one of: {', '.join(names)}")
            raise ValueError(checks.message("categories", got, expected, "check its spelling"))
    x, words = frames.raw("frame", frame, {*frames.text_columns("frame", frame), *map(names.index, several)})
    if not len(x):
        raise ValueError(checks.message("frame", "no rows", "at least one row", "pass the training data"))
    for row, column in np.argwhere(~np.isfinite(x))[:1]:
        got = f"{x[row, column]} in column {bounded.brief(repr(names[column]))}, row {row} (from 0)"
        raise ValueError(checks.message("frame", got, "finite numbers", "correct it, or drop the row"))
    return encoding.fit(x, words, names)


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
    if arrays.is_sparse(x):
        encoder = encoding.fit_sparse(x) if x.shape[1] <= MOST_COLUMNS else None
        inputs = Inputs(x.shape[1:], parts.max_value, names or parts.names, None, encoder, labels)
        return inputs._replace(first_index=parts.first_index)
    could_be_picture = not parts.words and (x.dtype == np.uint8 or (x.min() >= 0 and x.max() <= 1))
    shape = _shape(x.shape[1:]) if could_be_picture else x.shape[1:]
    inputs = Inputs(shape, parts.max_value, names or parts.names, None, None, labels)
    if len(shape) == 1:
        encoded = parts.words or shape[0] <= MOST_COLUMNS
        return inputs._replace(columns=encoding.fit(x, parts.words, parts.columns) if encoded else None)
    return inputs._replace(frame=_frame(x, shape))


def from_array(x: Array, max_value: float) -> Inputs:
    """Determine the preprocessing of samples (m, ...) that are divided by one number, without a pass over them."""
    shape = _shape(x.shape[1:]) if x.dtype == np.uint8 else x.shape[1:]
    return Inputs(shape, max_value, (), _frame(x, shape))


def _frame(x: Array, shape: tuple[int, ...]) -> images.Framing | None:
    square = len(shape) == 2 and shape[0] == shape[1]
    return images.framing(x.reshape(-1, *shape)) if square else None


def to_notes(name: str, inputs: Inputs, label: str = "") -> dict[str, str]:
    """Return ``inputs``, with the printable names of the data and of its label column, as `MLP.notes`."""
    texts = {"data": bounded.shown(name)} | ({"label": bounded.shown(label)} if label else {})
    texts |= {"inputs": json.dumps(inputs.shape), "max_value": repr(inputs.max_value)}
    texts["classes"] = json.dumps(inputs.names)
    optional = {"frame": inputs.frame, "labels": inputs.labels, units.NOTE: inputs.unit}
    texts |= {key: json.dumps(value) for key, value in optional.items() if value}
    texts |= {} if inputs.first_index is None else {"first_index": str(inputs.first_index)}
    return texts if inputs.columns is None else texts | inputs.columns.notes()


def load(path: str) -> tuple[MLP, Inputs]:
    """Return the model in a file, and its preprocessing; a regression returns the unit of its target."""
    model = MLP.load(path)
    inputs = from_model(model)
    return (model, inputs) if inputs.unit is None else (model, restored(model, inputs))


def restored(model: MLP, inputs: Inputs) -> Inputs:
    """Change a model of standardised targets into one of their unit; return its preprocessing from then on."""
    if inputs.unit is None:
        return inputs
    if inputs.unit != Unit():
        weight, bias = model.weights[-1], model.biases[-1]
        if model.loss == "poisson":  # predicts exp(z)
            bias += math.log(inputs.unit.scale)
        else:
            bias[...] = bias.astype(np.float64) * inputs.unit.scale + inputs.unit.mean
            weight[...] = weight.astype(np.float64) * inputs.unit.scale
        model.notes = model.notes | {units.NOTE: json.dumps(Unit())}
    return inputs._replace(unit=Unit())


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
    if "inputs" not in texts and texts.keys() & {"features", "columns"}:
        return _of_frames(model)
    try:
        inputs = from_notes(texts)
        fits = _fits(inputs, model)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise storage.refusal("MODEL", f"notes that cannot be read ({bounded.brief(error)})") from None
    if not fits:
        raise storage.refusal("MODEL", "notes that do not fit its layers")
    return inputs


def from_notes(texts: Mapping[str, str]) -> Inputs:
    """Return the preprocessing that `to_notes` described, without checks; KeyError, ValueError or TypeError if none."""
    frame = images.Framing(*json.loads(texts["frame"])) if "frame" in texts else None
    columns = encoding.read(texts)
    names, labels = (tuple(map(str, json.loads(texts.get(key, "[]")))) for key in ("classes", "labels"))
    shape = tuple(json.loads(texts["inputs"]))
    unit = units.read(texts)
    index = int(texts["first_index"]) if "first_index" in texts else None
    return Inputs(shape, float(texts["max_value"]), names, frame, columns, labels, unit, index)


def width(inputs: Inputs) -> int:
    """Return the number of a model's inputs."""
    return math.prod(inputs.shape) if inputs.columns is None else inputs.columns.width


def known(inputs: Inputs, label: str = "") -> tables.Known:
    """Return the columns of a table that a model takes, which learnt the column ``label``."""
    names: tuple[str, ...] = () if inputs.columns is None else inputs.columns.names
    categories = frozenset[int]() if inputs.columns is None else frozenset(inputs.columns.categories)
    return tables.Known(names, math.prod(inputs.shape), categories, label, inputs.unit is not None, inputs.first_index)


def placed(name: str, x: Array, words: encoding.Words, inputs: Inputs) -> Array:
    """Return samples (m, ...) whose categories are places in ``words`` with those of the model; warn of new ones."""
    return x if inputs.columns is None else inputs.columns.places(name, x, words)


def pack_samples(x: Array, inputs: Inputs, model: MLP, *, minibatches: bool = False) -> PackedMatrix:
    """Return samples (m, ...), scaled or encoded according to ``inputs``, as packed columns for the model."""
    X, scale = columns(x, inputs)
    return pack(X, scale, model.dtype.name, minibatches=minibatches)


def columns(x: Any, inputs: Inputs) -> tuple[Any, float]:
    """Return samples (m, ...), encoded, as columns, and the factor that scales them; a CSR matrix stays sparse."""
    rows: Any = x if arrays.is_sparse(x) else x.reshape(len(x), -1)
    if inputs.columns is None:
        return rows.T, 1 / inputs.max_value
    return (inputs.columns.scaled(rows) if arrays.is_sparse(x) else inputs.columns.encode(rows)).T, 1.0


def outputs(model: MLP, X: PackedMatrix) -> Array:
    """Return what the command line shows for samples: probabilities (n_classes, m), or the numbers (k, m) of targets.

    Raises
    ------
    ValueError
        If the model predicts several labels for each sample.
    """
    if losses.is_regression(model.loss):
        return np.atleast_2d(model.predict(X))
    p = model.predict_proba(X)
    if model.loss != "logistic":
        return p
    if p.ndim > 1:
        got, expected = "a model of several logistic outputs", "one that predicts one class for each sample"
        raise ValueError(checks.message("MODEL", got, expected, "call MLP.predict in Python"))
    return np.stack([1 - p, p])


def class_indices(name: str, labels: tuple[str, ...], names: tuple[str, ...] | None, inputs: Inputs) -> Array:
    """Return the model's class for each class of a data set, which may have fewer classes or another order.

    Parameters
    ----------
    name : str
        Name of the data, for messages.
    labels : tuple of str
        The labels of its classes.
    names : tuple of str, optional
        Names of its classes, if they are not the labels.
    inputs : Inputs
        The model's preprocessing, whose ``names`` are the model's classes.

    Returns
    -------
    ndarray of int64, shape (len(labels),)
        Indices into ``inputs.names``.

    Raises
    ------
    ValueError
        If the model does not know a class.
    """
    known = {label: i for texts in (inputs.labels, inputs.names) for i, label in enumerate(texts)}
    for called in (names or labels, labels):
        if known.keys() >= set(called):
            return np.array([known[one] for one in called], np.int64)
    got = bounded.brief(f"class {', '.join(one for one in labels if one not in known)}")
    expected = bounded.brief(f"the model's classes {', '.join(inputs.names)}")
    remedy = "leave those samples out, or name another column: --label first, last or NAME"
    raise ValueError(checks.message(name, got, expected, remedy))


def check_width(name: str, shape: tuple[int, ...], inputs: Inputs) -> None:
    """Raise ValueError unless samples of this shape have as many values as the model's inputs."""
    if math.prod(shape) != math.prod(inputs.shape):
        got = f"samples of {math.prod(shape)} values"
        expected = f"{math.prod(inputs.shape)}, as in the model's training"
        raise ValueError(checks.message(name, got, expected, "choose other data, or another model"))


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a sample; a flat one of a square length becomes a square picture."""
    side = math.isqrt(math.prod(shape))
    flat_picture = len(shape) == 1 and side**2 == shape[0] and side >= _SMALLEST_PICTURE
    return (side, side) if flat_picture else shape


def _outputs(model: MLP) -> tuple[str, ...]:
    """Return the names of the classes of a model that does not name them; none of a regression."""
    if losses.is_regression(model.loss):
        return ()
    return tuple(map(str, range(max(2, model.layer_sizes[-1]) if model.loss == "logistic" else model.layer_sizes[-1])))


def _unit(model: MLP) -> Unit | None:
    return Unit() if losses.is_regression(model.loss) else None


def _guessed(model: MLP) -> Inputs:
    shape = _shape(model.layer_sizes[:1])
    scale = shape[0] / images.MNIST.side
    frame = images.MNIST._replace(
        side=shape[0], box=max(1, round(images.MNIST.box * scale)), middle=images.MNIST.middle * scale
    )
    return Inputs(shape, FULL_INK, _outputs(model), frame if len(shape) == 2 else None, unit=_unit(model))


def _of_frames(model: MLP) -> Inputs:
    """Return the preprocessing of a model that learnt from data frames in Python."""
    columns, width = model.encoder, model.layer_sizes[0]
    if columns is None:
        columns = Encoder(model.features, (0.0,) * width, (1.0,) * width, {})
    return Inputs((len(columns.mean),), 1.0, _outputs(model), None, columns, (), _unit(model))


def _fits(inputs: Inputs, model: MLP) -> bool:
    whole = all(isinstance(length, int) and length > 0 for length in inputs.shape)
    whole = whole and len(inputs.labels) in (0, len(inputs.names))
    frame = inputs.frame
    framed = frame is None or (
        inputs.shape == (frame.side, frame.side) and 1 <= frame.box <= frame.side and 0 <= frame.middle <= frame.side
    )
    n, width = math.prod(inputs.shape), model.layer_sizes[0]
    scaled = 0 < inputs.max_value < math.inf and inputs.first_index in (None, 0, 1)
    taken = n == width if inputs.columns is None else encoding.is_proper(inputs.columns, n, width)
    return whole and scaled and framed and taken and _answers(inputs, model)


def _answers(inputs: Inputs, model: MLP) -> bool:
    """Return whether names or unit fit the outputs of a model."""
    if losses.is_regression(model.loss):
        return inputs.names == () and inputs.unit is not None and inputs.unit.is_proper() and model.layer_sizes[-1] == 1
    return inputs.unit is None and len(inputs.names) == len(_outputs(model))
