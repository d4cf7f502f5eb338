"""A net as nodes of an ONNX graph: preparation of samples, layers, and answers."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fastmlp.encoding import Encoder
from fastmlp.interchange.graph import ML, FileGraph, Graph, Port
from fastmlp.interchange.layers import Layers
from fastmlp.interchange.preparation import Preparation
from fastmlp.kernels.nets import LEAK

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

LABEL, PROBABILITIES, NUMBERS = "label", "probabilities", "variable"  #: Names of outputs, those of skl2onnx.
_ROWS, _CATEGORIES = "X", "categories"  # names of inputs
_TEXT = np.dtype(object)

# log(erfc(u) exp(u^2) / t) for u >= 0 as a polynomial in x = 2t - 1, from the constant term, where t = 2 / (2 + u).
# The change of variable is that of W. H. Press et al., Numerical Recipes, 3rd edition, section 6.2.2; the coefficients
# are those of the polynomial that interpolates at 24 Chebyshev nodes, computed with 60 digits. In float64, z Phi(z) is
# then within 5e-16 of the exact value.
_LOG_ERFC = (
    -0.6717940840566905,
    0.6726432239776567,
    0.04734330684139575,
    -0.04689561023118345,
    -0.009872689342023714,
    0.008824938557318043,
    0.0017589330988850738,
    -0.0023458125029206384,
    -0.0001462423779783492,
    0.0006736787892286757,
    -9.376103922042785e-05,
    -0.0001743026777415729,
    7.149729347132242e-05,
    3.174303989125886e-05,
    -3.0424804196234133e-05,
    1.4671892565573574e-07,
    8.957141043157235e-06,
    -2.9712581178582877e-06,
    -1.7161931348241182e-06,
    1.2889414656295187e-06,
    1.611507277019833e-07,
    -2.918140093107583e-07,
    5.453996235874533e-10,
    3.020180971825513e-08,
)


def prepared(graph: FileGraph, preparation: Preparation, width: int) -> str:
    """Add inputs and the preparation of samples; return the inputs (n_samples, width) of the net."""
    encoder, names = preparation.encoder, preparation.features
    if encoder is not None and encoder.categories:
        return _encoded(graph, encoder)
    x = graph.input(Port(_ROWS, graph.dtype, width, names))
    if encoder is not None:
        return _standardised(graph, x, np.array(encoder.mean), np.array(encoder.scale))
    return x if preparation.divisor == 1 else graph.node("Div", x, graph.number(preparation.divisor))


def logits(graph: Graph, x: str, layers: Layers) -> str:
    """Add the layers of a net with inputs x (n_samples, n_features); return its logits (n_samples, n_outputs)."""
    for i, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        terms = [
            graph.constant(f"layers.{i}.{name}", one.astype(graph.dtype, copy=False))
            for name, one in (("weight", weight), ("bias", bias))
        ]
        x = graph.node("Gemm", x, *terms, transB=1)
        if i < len(layers.activations):
            x = _ACTIVATIONS[layers.activations[i]](graph, x)
    return x


def classified(graph: Graph, z: str, labels: Array | None, loss: str, called: tuple[str, str]) -> None:
    """Add labels and probabilities for logits z (n_samples, n_outputs).

    Parameters
    ----------
    graph : Graph
        The graph.
    z : str
        The logits.
    labels : ndarray of int64 or str, shape (n_classes,), or None
        The labels of the classes. None if the outputs are independent: their labels are 0 and 1.
    loss : str
        "cross_entropy", or "logistic". The latter with ``labels`` has one output, the logit of the second class.
    called : tuple of str
        The names of labels and probabilities.
    """
    label, probabilities = called
    if labels is None:
        graph.node("Sigmoid", z, called=probabilities)
        graph.cast(graph.node("Greater", z, graph.number(0)), np.int64, called=label)
        return
    if loss == "logistic":
        # The softmax of 0 and z. Sigmoid, and 1 - Sigmoid, lose the digits of small probabilities in onnxruntime.
        z = graph.node("Concat", graph.node("Mul", z, graph.number(0)), z, axis=1)
    graph.node("Softmax", z, axis=1, called=probabilities)
    places: dict[str, Any] = {"axis": 1, "keepdims": 0}  # the first of several that are largest
    if labels.dtype != object and (labels == np.arange(len(labels))).all():
        graph.node("ArgMax", z, called=label, **places)
    else:
        graph.node("Gather", graph.constant("labels", labels), graph.node("ArgMax", z, **places), called=label)


def measured(graph: Graph, z: str, preparation: Preparation, loss: str, called: str) -> None:
    """Add the numbers that a regression predicts by its logits z (n_samples, n_outputs)."""
    mean, scale = preparation.unit
    steps: list[tuple[str, tuple[float, ...]]] = [("Exp", ())] if loss == "poisson" else []
    steps += [("Mul", (scale,)), ("Add", (mean,))] if (mean, scale) != (0, 1) else []
    *before, last = steps or [("Identity", ())]
    for op, numbers in before:
        z = graph.node(op, z, *map(graph.number, numbers))
    graph.node(last[0], z, *map(graph.number, last[1]), called=called)


def _standardised(graph: Graph, x: str, mean: Array, scale: Array) -> str:
    """Add (x - mean) / scale, computed in float64 as in fastmlp: a mean may be much larger than the deviations."""
    if not mean.any() and (scale == 1).all():
        return x
    x = x if graph.dtype == np.float64 else graph.cast(x, np.float64)
    x = graph.node("Sub", x, graph.constant("mean", mean))
    x = graph.node("Div", x, graph.constant("scale", scale))
    return x if graph.dtype == np.float64 else graph.cast(x, graph.dtype)


def _encoded(graph: FileGraph, encoder: Encoder) -> str:
    """Add the inputs of a table with categories, and what encodes them as `Encoder.encode`."""
    several = sorted(encoder.categories)
    plain = [column for column in range(len(encoder.mean)) if column not in encoder.categories]
    rows, words = ([encoder.names[column] for column in some] if encoder.names else () for some in (plain, several))
    parts = []
    if plain:
        x = graph.input(Port(_ROWS, graph.dtype, len(plain), tuple(rows)))
        parts.append(_standardised(graph, x, np.array(encoder.mean)[plain], np.array(encoder.scale)[plain]))
    texts = graph.input(Port(_CATEGORIES, _TEXT, len(several), tuple(words)))
    for at, column in enumerate(several):
        one = graph.node("Gather", texts, graph.constant("column", np.array(at)), axis=1)
        parts.append(_one_hot(graph, one, encoder.categories[column]))
    return graph.node("Concat", *parts, axis=1)


def _one_hot(graph: Graph, words: str, known: tuple[str | None, ...]) -> str:
    """Add zeros and ones (n_samples, k) for words (n_samples,) and k categories, the last of which may be the rest."""
    kept = [word for word in known if word is not None]
    numbers = list(range(len(kept)))
    place = graph.node(
        "LabelEncoder", words, domain=ML, keys_strings=kept, values_int64s=numbers, default_int64=len(kept)
    )
    depth, values = (
        graph.constant("depth", np.array(len(known))),
        graph.constant("values", np.array([0, 1], np.float32)),
    )
    # A place beyond the depth becomes zeros only. onnxruntime has OneHot for float32, but not for float64.
    ones = graph.node("OneHot", place, depth, values, axis=-1)
    return ones if graph.dtype == np.float32 else graph.cast(ones, graph.dtype)


def _leaky_relu(graph: Graph, z: str) -> str:
    # Not the operator LeakyRelu, which onnxruntime lacks for float64.
    return graph.node("Max", z, graph.node("Mul", z, graph.number(LEAK)))


def _gelu(graph: Graph, z: str) -> str:
    if graph.dtype == np.float64:
        return graph.node("Mul", z, _normal(graph, z))
    erf = graph.node("Erf", graph.node("Mul", z, graph.number(math.sqrt(0.5))))
    return graph.node("Mul", z, graph.node("Mul", graph.node("Add", erf, graph.number(1)), graph.number(0.5)))


def _normal(graph: Graph, z: str) -> str:
    """Add Phi(z) in float64, for which onnxruntime has no Erf: the tail erfc(u) / 2, u = |z| / sqrt(2), or 1 - tail."""
    u = graph.node("Mul", graph.node("Abs", z), graph.number(math.sqrt(0.5)))
    denominator = graph.node("Add", u, graph.number(2))
    x = graph.node("Sub", graph.node("Div", graph.number(4), denominator), graph.number(1))
    *others, p = map(graph.number, _LOG_ERFC)
    for coefficient in reversed(others):
        p = graph.node("Add", graph.node("Mul", p, x), coefficient)
    exponent = graph.node("Sub", p, graph.node("Mul", u, u))
    tail = graph.node("Div", graph.node("Exp", exponent), denominator)
    rest = graph.node("Sub", graph.number(1), tail)
    return graph.node("Where", graph.node("Less", z, graph.number(0)), tail, rest)


_ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "identity": lambda _, z: z,
    "logistic": lambda graph, z: graph.node("Sigmoid", z),
    "tanh": lambda graph, z: graph.node("Tanh", z),
    "relu": lambda graph, z: graph.node("Relu", z),
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
}
