"""Activations: each is an entry with a value, a derivative and its twin in `fastmlp.kernels.reference`.

The rest of the engine knows an activation by its code and by the facts of its entry.
"""

from typing import Any, NamedTuple

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.launch import kernel, span
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.nets import LEAK


class Activation(NamedTuple):
    """An activation of hidden layers.

    Attributes
    ----------
    code : int
        Its number in the layer table.
    makes_zeros : bool
        Whether many of its values are zero, and its derivative is zero there: then lists of the other values, and
        gradients over the other samples, save time.
    has_slopes : bool
        Whether its derivative does not follow from its value: `activate` then stores it, which takes a second buffer.
    """

    code: int
    makes_zeros: bool = False
    has_slopes: bool = False


_RELU, _IDENTITY, _LOGISTIC, _TANH, _LEAKY_RELU, _GELU = range(6)
ACTIVATIONS = {
    "identity": Activation(_IDENTITY),
    "logistic": Activation(_LOGISTIC),
    "tanh": Activation(_TANH),
    "relu": Activation(_RELU, makes_zeros=True),
    "leaky_relu": Activation(_LEAKY_RELU),
    "gelu": Activation(_GELU, has_slopes=True),
}


def any_slopes(names: tuple[str, ...]) -> bool:
    """Return whether one of these activations has slopes."""
    return any(ACTIVATIONS[name].has_slopes for name in names)


@body
def has_slopes(code):
    """Return whether the derivative is in the slopes that `activate` stores, and not in the values."""
    return code == _GELU


@body
def _relu(x):
    # Not max(): a comparison keeps NaN and -0.0 as np.maximum(0, x) does.
    return vector.select(x < 0, type(x)(0), x)


@kernel()
def _relu_elements(out, x, size, worker, workers):
    lo, hi = span(size, worker, workers)
    to, source = vector.part(out, lo, hi - lo), vector.part(x, lo, hi - lo)
    for i in range(hi - lo):
        to[i] = _relu(source[i])


def relu(out: Any, x: Any) -> None:
    """Set ``out`` (k,) to max(0, x)."""
    _relu_elements(out, x, x.size)


@body
def _activate_smoothly(code, row, slopes):
    """Do `activate` for all others than ReLU, apart: a kernel that calls it in many places has it once."""
    vector.noinline()
    count = len(row)
    if code == _LOGISTIC:
        vector.logistic_elements(row, count)
    elif code == _TANH:
        vector.tanh_elements(row, count)
    elif code == _GELU:
        vector.gelu_elements(slopes, row, count)
    elif code == _LEAKY_RELU:
        for c in range(count):
            x = row[c]
            row[c] = vector.select(x > 0, x, type(x)(LEAK) * x)


@body
def activate(code, row, slopes):
    """Replace the elements of a row by their activation, and set their ``slopes``, if the activation has any.

    Slopes that are not wanted may be the row itself.
    """
    if code == _RELU:
        for c in range(len(row)):
            row[c] = _relu(row[c])
    elif code != _IDENTITY:
        _activate_smoothly(code, row, slopes)


@body
def activate_rows(code, m, slopes, length, count):
    """Do `activate` for ``count`` elements of each of ``length`` rows."""
    vector.noinline()
    for s in range(length):
        activate(code, vector.row(m, s, count), vector.row(slopes, s, count))


@body
def multiply_derivative(code, delta, values, length, count):
    """Multiply ``length`` rows of ``count`` elements by the derivative where the activation has these values.

    The derivative follows from the value, as it does from the argument. If the activation has slopes, ``values`` are
    the slopes.
    """
    vector.noinline()
    zero, one = vector.number(delta, 0), vector.number(delta, 1)
    for s in range(length):
        row, value = vector.row(delta, s, count), vector.row(values, s, count)
        if code == _RELU:
            for c in range(count):
                # A product, not a selection: NaN and infinity survive a closed gate, as in the formulas.
                row[c] *= one if value[c] > 0 else zero
        elif code == _LEAKY_RELU:
            leak = type(one)(LEAK)
            for c in range(count):
                row[c] *= one if value[c] > 0 else leak
        elif code == _LOGISTIC:
            for c in range(count):
                row[c] *= value[c] * (one - value[c])
        elif code == _TANH:
            for c in range(count):
                row[c] *= one - value[c] * value[c]
        elif code == _GELU:
            for c in range(count):
                row[c] *= value[c]
