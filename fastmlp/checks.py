"""Every rule on shapes, dtypes and labels, and every message.

A message names the argument, the value that came, the expected one, and the remedy. Checks come before any kernel,
because a kernel would write out of bounds for a wrong shape or label.
"""

import itertools
import json
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastmlp import arrays
from fastmlp.arrays import FLOAT_DTYPES, Array, DType

_MOST_WIDTHS = 10_001
_LONGEST_NOTES = 1_000_000

_INT64: DType = np.dtype(np.int64)


def message(name: str, got: object, expected: str, remedy: str) -> str:
    """Return an error message in the form that all of them have."""
    return f"{name}: got {got}, expected {expected}; {remedy}"


def extra(use: str, error: ImportError, name: str = "cli", instead: str = "") -> ImportError:
    """Return the error for an optional library that cannot be imported, with a command that works in a clone.

    Parameters
    ----------
    use : str
        The use of the library, as in ``"pictures are read by Pillow"``.
    error : ImportError
        The error that its import raised.
    name : str
        The extra of ``pyproject.toml`` that installs it.
    instead : str
        A way to do without it, as in ``"put the files there"``.
    """
    remedy = f'python -m pip install ".[{name}]" in a clone of fastmlp' + (f", or {instead}" if instead else "")
    return ImportError(f"{use}, which cannot be imported ({error}); {remedy}")


def array(
    name: str,
    value: object,
    *,
    shape: tuple[int | None, ...] | None = None,
    axes: str = "",
    remedy: str = "make its shape fit the other arguments",
) -> Array:
    """Return ``value`` as an array of real numbers that is not empty and fits ``shape``.

    Parameters
    ----------
    name : str
        The argument, as the caller spells it.
    value : array_like
        The value that came.
    shape : tuple of (int or None), optional
        Expected shape; None for any length. Without it, any shape of at least one dimension is allowed.
    axes : str
        The meaning of ``shape``, as in ``"(n_hidden, n_features)"``.
    remedy : str
        Given if neither a transpose nor a reshape gives the expected shape.
    """
    x = _as_array(name, value)
    if x.dtype.kind not in "biuf":
        expected = "real numbers (bool, integer or floating point)"
        raise TypeError(message(name, f"dtype {x.dtype}", expected, _remedy_of_dtype(x)))
    if shape is None and x.ndim == 0:
        raise ValueError(message(name, "a scalar", "one dimension or more", "wrap it with np.atleast_1d"))
    if shape is not None and x.shape != shape and not _fits(x.shape, shape):
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        expected = f"shape {axes} = ({lengths}{',' if len(shape) == 1 else ''})"
        raise ValueError(message(name, f"shape {x.shape}", expected, _remedy_of_shape(x, shape) or remedy))
    if x.size == 0:
        raise ValueError(message(name, f"shape {x.shape}", "at least one element", "pass at least one sample"))
    return x


def packable(name: str, value: object) -> Array:
    """Return ``value`` as a matrix (n_features, m) whose indices fit into 32 bits."""
    x = array(name, value, shape=(None, None), axes="(n_features, m)")
    if max(x.shape) >= 2**31:
        raise ValueError(message(name, f"shape {x.shape}", "less than 2**31 features and samples", "split it"))
    return x


def positive(name: str, value: Any, remedy: str) -> float:
    """Return ``value`` as a positive, finite float."""
    return float(_number(name, value, "a finite number > 0", remedy, lambda number: 0 < number < math.inf))


def input_width(name: str, packed: Any, width: int, dtype: DType) -> None:
    """Check that a packed matrix fits a model's input width and dtype."""
    if packed.shape[0] != width:
        got, expected = f"a packed matrix of shape {packed.shape}", f"shape (n_features, m) = ({width}, any)"
        transposed = packed.shape[1] == width
        remedy = "columns are samples: pack the transpose" if transposed else "pack samples of as many features"
        raise ValueError(message(name, got, expected, remedy))
    packed_dtype(name, packed, dtype)


def packed_dtype(name: str, packed: Any, dtype: DType) -> None:
    """Check that a packed matrix holds uint8 or the dtype of the computation."""
    if packed.dtype not in (np.uint8, dtype):
        got, expected = f"a packed matrix of dtype {packed.dtype}", f"{dtype}, the dtype of the computation, or uint8"
        raise ValueError(message(name, got, expected, f"pack it with dtype='{dtype}'"))


def n_classes(name: str, value: object) -> int:
    """Return ``value`` as a number of classes, at least 1."""
    return _integer(name, value, 1, "a number of classes of at least 1")


def labels(name: str, value: object, classes: int, m: int | None = None) -> Array:
    """Return ``value`` as int64 labels (m,), each in [0, classes)."""
    y = _as_array(name, value)
    if y.dtype.kind in "OSU":
        got, expected = f"dtype {y.dtype}", "real numbers, integral labels"
        remedy = "number the classes: names, labels = np.unique(labels, return_inverse=True)"
        raise TypeError(message(name, got, expected, remedy))
    y = array(name, y, shape=(m,), axes="(m,)", remedy="pass one label for each sample")
    if y.dtype.kind == "f":
        fractional = ~(np.isfinite(y) & (np.floor(y) == y))
        if fractional.any():
            where = int(np.argmax(fractional))
            got = f"label {y[where]} at index {where}"
            raise ValueError(message(name, got, "integral labels", "round them, or pass class numbers"))
        y = y.astype(np.float64)  # a narrower dtype may round the number of classes
    # Viewed as unsigned, negative labels are too large: one pass instead of two.
    whole = y.view(np.uint64) if y.dtype == _INT64 else y
    # The ufunc itself, because ndarray.max goes through Python.
    if y.dtype.kind != "b" and (np.maximum.reduce(whole) >= classes or (whole is y and y.min() < 0)):
        where = int(np.flatnonzero((y < 0) | (y >= classes))[0])
        got = f"label {y[where]} at index {where}"
        raise ValueError(message(name, got, f"labels from 0 to {classes - 1}", "renumber them or add classes"))
    if y.dtype.kind == "b" and classes == 1 and y.any():
        raise ValueError(message(name, "label True", "labels from 0 to 0", "raise the class count"))
    return arrays.contiguous(_INT64, y)[0]


def targets(name: str, value: object, classes: int, m: int) -> Array:
    """Return ``value`` as labels (m,) int64, or as one-hot or soft targets (classes, m) of real numbers."""
    y = _as_array(name, value)
    if y.ndim == 1:
        return labels(name, y, classes, m)
    remedy = "pass one row for each class, one column for each sample"
    return array(name, y, shape=(classes, m), axes="(n_classes, m), or labels (m,)", remedy=remedy)


def proper_targets(name: str, y: Array) -> None:
    """Check that no target of ``y``, labels (m,) or targets (n_classes, m), is negative, infinite or NaN."""
    proper = (y >= 0) & (y < math.inf)
    if not proper.all():
        got = arrays.first_entry(y, ~proper)
        raise ValueError(message(name, got, "finite targets >= 0", "pass probabilities, or labels"))


def sample_weight(name: str, value: object, m: int) -> Array:
    """Return ``value`` as finite weights (m,) >= 0 whose sum is positive, in any dtype.

    Only their ratios count. Very large or small ones are therefore scaled by a power of two: in float32 they, or their
    sum, would be infinite or zero.
    """
    w = array(name, value, shape=(m,), axes="(m,)", remedy=f"pass one weight for each of the {m} samples")
    return _scaled_weights(name, w, "drop samples by weight 0, not by NaN or a negative weight")


def class_weight(name: str, value: Any, classes: int) -> Array:
    """Return weights for classes, a sequence or a mapping from labels (1 for missing ones), as float64 (classes,)."""
    if isinstance(value, str):
        got, expected = repr(value), "a weight for each class, or a mapping from labels to weights"
        remedy = "compute balanced ones: len(labels) / (n_classes * np.bincount(labels))"
        raise TypeError(message(name, got, expected, remedy))
    if isinstance(value, Mapping):
        weights = np.ones(classes)
        if value:
            at = labels(name, list(value), classes)
            weights[at] = array(name, list(value.values()), shape=(at.size,), axes="(labels,)")
        value = weights
    remedy = f"pass one weight for each of the {classes} classes, or a mapping from labels to weights"
    w = array(name, value, shape=(classes,), axes="(n_classes,)", remedy=remedy)
    return _scaled_weights(name, w, "drop a class by weight 0, not by NaN or a negative weight").astype(np.float64)


def weight_product(name: str, w: Array) -> Array:
    """Return the product of sample and class weights (m,) as `sample_weight` returns weights."""
    return _scaled_weights(name, w, "give a positive weight to a sample whose class has one")


def _scaled_weights(name: str, w: Array, remedy: str) -> Array:
    proper = (w >= 0) & (w < math.inf)
    if not (proper.all() and w.any()):
        got = "only zeros" if proper.all() else f"weight {arrays.first_entry(w, ~proper)}"
        raise ValueError(message(name, got, "finite weights >= 0, one of them positive", remedy))
    return arrays.rescaled(w)


def gradient_buffer(name: str, value: object, like: Array) -> Array:
    """Return ``value`` if it can take a gradient: it has the shape and dtype of ``like``, but not its memory."""
    if not isinstance(value, np.ndarray):
        raise TypeError(message(name, type(value).__name__, "a NumPy array", "pass np.empty_like(model.parameters)"))
    fits = value.shape == like.shape and value.dtype == like.dtype
    if not (fits and value.flags.c_contiguous and value.flags.writeable and value.flags.aligned):
        got = f"shape {value.shape}, dtype {value.dtype}"
        expected = f"shape {like.shape}, dtype {like.dtype}, contiguous and writeable"
        raise ValueError(message(name, got, expected, "pass np.empty_like(model.parameters)"))
    if np.may_share_memory(value, like):
        raise ValueError(message(name, "the parameters", "memory of its own", "pass np.empty_like(model.parameters)"))
    return value


def learning_rate(name: str, value: Any, *, negative: bool = True) -> Any:
    """Return ``value``, a finite real scalar, as Python float, or unchanged if it is a NumPy scalar."""
    if negative:
        return _number(name, value, "a finite number", "pass a step size such as 0.1", math.isfinite)
    remedy = "descent takes positive step sizes, such as 0.1"
    return _number(name, value, "a finite number >= 0", remedy, lambda number: 0 <= number < math.inf)


def nonnegative(name: str, value: Any, remedy: str) -> float:
    """Return ``value`` as a finite float >= 0."""
    return float(_number(name, value, "a finite number >= 0", remedy, lambda number: 0 <= number < math.inf))


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return ``value``, a pair (X, Y), as a tuple."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(message(name, type(value).__name__, "a pair (X, Y)", "pass samples and their labels"))
    return value[0], value[1]


def count_or_none(name: str, value: object) -> int:
    """Return ``value``, which is not None, as an integer of at least 1; the message says that None is legal."""
    return _integer(name, value, 1, "an integer of at least 1, or None")


def epochs(name: str, value: object) -> int:
    """Return ``value`` as a number of epochs, at least 1."""
    return _integer(name, value, 1, "an integer of at least 1")


def threads(name: str, value: object) -> int:
    """Return ``value`` as a number of threads, at least 1."""
    return _integer(name, value, 1, "an integer of at least 1")


def layer_sizes(name: str, value: object) -> tuple[int, ...]:
    """Return ``value`` as the widths of at least an input and an output layer, each at least 1."""
    if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)):
        got = f"{type(value).__name__} {value!r}"
        raise TypeError(message(name, got, "a sequence of integers", "pass a tuple such as (784, 128, 10)"))
    # The same bounds as in files: a model that could not be saved and loaded is refused at once.
    if not 2 <= len(value) <= _MOST_WIDTHS:
        got, expected = f"{len(value)} widths", f"from 2 to {_MOST_WIDTHS} widths"
        raise ValueError(message(name, got, expected, "pass a tuple such as (784, 128, 10)"))
    sizes = tuple(_integer(name, size, 1, "widths of at least 1") for size in value)
    if max(sizes) >= 2**31:
        raise ValueError(message(name, max(sizes), "widths below 2**31", "pass a tuple such as (784, 128, 10)"))
    return sizes


def float_dtype(name: str, value: Any) -> DType:
    """Return ``value``, the name or type of float32 or float64, as a dtype."""
    try:
        known = np.dtype(value).name if value is not None else None
    except TypeError:
        known = None
    if known not in FLOAT_DTYPES:
        raise ValueError(message(name, repr(value), "'float32' or 'float64'", "pass one of the two names"))
    return FLOAT_DTYPES[known]


def seed(name: str, value: object) -> int | None:
    """Return ``value`` as a seed in [0, 2**32), or None for a fresh one."""
    if value is None:
        return None
    number = _integer(name, value, 0, "an integer from 0 to 2**32 - 1, or None")
    if number >= 2**32:
        raise ValueError(message(name, value, "an integer from 0 to 2**32 - 1, or None", "pass a smaller seed"))
    return number


def notes(name: str, value: object) -> dict[str, str]:
    """Return ``value`` as a dict of str to str of at most a million bytes in a file."""
    remedy = "pass a dict, and convert other values with json.dumps"
    if not isinstance(value, Mapping):
        raise TypeError(message(name, type(value).__name__, "a mapping of str to str", remedy))
    for text in itertools.chain.from_iterable(value.items()):
        if not isinstance(text, str):
            got = f"the {type(text).__name__} {text!r:.40}"
            raise TypeError(message(name, got, "a mapping of str to str", remedy))
        if not _is_unicode(text):
            remedy = "escape it: text.encode(errors='backslashreplace').decode()"
            raise ValueError(message(name, f"{text!a:.40}", "text that can be written as UTF-8", remedy))
    # The header of a file is bounded: longer notes could be written but not read.
    length = len(json.dumps(dict(value), ensure_ascii=False).encode())
    if length > _LONGEST_NOTES:
        got, expected = f"{length} bytes", f"at most {_LONGEST_NOTES} bytes of JSON"
        raise ValueError(message(name, got, expected, "keep them in a separate file"))
    return dict(value)


def choice(name: str, value: object, legal: Sequence[str]) -> str:
    """Return ``value`` if it is one of the ``legal`` names."""
    if not isinstance(value, str) or value not in legal:
        names = ", ".join(repr(one) for one in legal)
        raise ValueError(message(name, repr(value), f"one of {names}", "pass one of these names"))
    return value


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    if len(shape) != len(expected):
        return False
    # Not all() of a generator, which is slow enough to matter for small batches.
    return list(shape) == [length if one is None else one for length, one in zip(shape, expected, strict=True)]


def _remedy_of_shape(x: Array, expected: tuple[int | None, ...]) -> str | None:
    """Return how to fix a shape if a transpose or a reshape is sure to; else None."""
    if x.ndim == 2 and _fits(x.T.shape, expected):
        return "columns are samples: transpose it" if None in expected else "transpose it"
    if x.ndim == 1 and len(expected) == 2:
        for shape in ((x.size, 1), (1, x.size)):
            if _fits(shape, expected):
                return f"give it two dimensions: .reshape{shape}"
    if len(expected) == 1 and x.ndim > 1 and _fits((x.size,), expected) and x.size == max(x.shape):
        return "give it one dimension: .ravel()"
    return None


def _remedy_of_dtype(x: Array) -> str:
    if x.dtype.kind in "SU":
        return "convert numbers written as text with .astype(float), and encode other text as numbers"
    if x.dtype.kind == "c":
        return "pass its .real, or its absolute values"
    return "convert it with .astype(float) if it holds numbers"


def _number(name: str, value: Any, expected: str, remedy: str, fits: Callable[[Any], bool]) -> Any:
    """Return ``value``, a real scalar that ``fits``, as Python float, or unchanged if it is a NumPy scalar."""
    if type(value) is float and fits(value):  # a schedule gives thousands, for updates of some microseconds
        return value
    scalar = _as_array(name, value)
    if scalar.ndim != 0 or scalar.dtype.kind not in "biuf":
        raise TypeError(message(name, f"{type(value).__name__} {value!r}", expected, remedy))
    if not fits(value):
        raise ValueError(message(name, value, expected, remedy))
    return value if isinstance(value, np.floating) else float(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_array(name: str, value: object) -> Array:
    if type(value) is np.ndarray:
        return value
    if arrays.is_sparse(value):
        got = f"a sparse {type(value).__name__}"
        raise TypeError(message(name, got, "a dense array", "convert it with .toarray()"))
    # No masked array exists unless numpy.ma is loaded, and np.ma would load it, which takes time. While another thread
    # imports it, the module exists without the name.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if masked is not None and isinstance(value, masked):
        expected = "an array without a mask"
        raise TypeError(message(name, "a masked array", expected, "replace its hidden entries with .filled(value)"))
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        expected = "an array of real numbers"
        raise type(error)(
            message(name, f"a value that NumPy cannot convert ({error})", expected, "pass an array")
        ) from None


def _integer(name: str, value: Any, smallest: int, expected: str) -> int:
    remedy = "pass a Python or NumPy integer"
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(message(name, repr(value), expected, remedy))
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(message(name, f"{type(value).__name__} {value!r}", expected, remedy)) from None
    if number < smallest:
        raise ValueError(message(name, number, expected, "pass a larger number"))
    return number
