"""Activations: each is an entry with a value, a derivative and its twin in `fastmlp.kernels.reference`.

The rest of the engine knows an activation by its code and by its ``makes_zeros``.
"""

from typing import Any, NamedTuple

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.launch import kernel, span
from fastmlp.kernels.compiled.runtime import body


class Activation(NamedTuple):
    """An activation of hidden layers.

    Attributes
    ----------
    code : int
        Its number in the layer table.
    makes_zeros : bool
        Whether many of its values are zero, and its derivative is zero there: then lists of the other values, and
        gradients over the other samples, save time.
    """

    code: int
    makes_zeros: bool


_RELU = 0
ACTIVATIONS = {"relu": Activation(_RELU, makes_zeros=True)}


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
def activate(code, row):
    """Replace the elements of a row by their activation."""
    if code == _RELU:
        for c in range(len(row)):
            row[c] = _relu(row[c])


@body
def activate_rows(code, m, length, count):
    """Replace ``count`` elements of each of ``length`` rows by their activation."""
    vector.noinline()
    for s in range(length):
        activate(code, vector.row(m, s, count))


@body
def multiply_derivative(code, delta, values, length, count):
    """Multiply ``length`` rows of ``count`` elements by the derivative where the activation has these values.

    The derivative follows from the value, as it does from the argument.
    """
    vector.noinline()
    zero, one = vector.number(delta, 0), vector.number(delta, 1)
    for s in range(length):
        row, value = vector.row(delta, s, count), vector.row(values, s, count)
        if code == _RELU:
            for c in range(count):
                # A product, not a selection: NaN and infinity survive a closed gate, as in the formulas.
                row[c] *= one if value[c] > 0 else zero
