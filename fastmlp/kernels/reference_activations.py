"""The activations of the NumPy backend, the twins of `fastmlp.kernels.compiled.activations`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp.kernels.nets import LEAK

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Activation(NamedTuple):
    """An activation of hidden layers.

    Attributes
    ----------
    value : callable
        Sets the second array to the activation of the first; they may be the same.
    derivative : callable
        Returns the derivative where the activation has these values, or, ``of_argument``, where it has these arguments.
    makes_zeros : bool
        Whether many values are zero, and the derivative is zero there.
    of_argument : bool
        Whether the derivative does not follow from the value.
    """

    value: Callable[[Array, Array], Any]
    derivative: Callable[[Array], Array]
    makes_zeros: bool = False
    of_argument: bool = False


def _logistic(z: Array, a: Array) -> None:
    e = np.exp(-np.abs(z))  # which cannot overflow
    np.divide(np.where(z < 0, e, z.dtype.type(1)), 1 + e, out=a)


def _leaky_relu(z: Array, a: Array) -> None:
    np.multiply(z, _leak(z), out=a)


def _leak(a: Array) -> Array:
    slope: Array = np.where(a > 0, a.dtype.type(1), a.dtype.type(LEAK))
    return slope


def _normal(z: Array) -> Array:
    """Return the probability that a standard normal variable is below z."""
    scale = -math.sqrt(0.5)
    return np.fromiter((math.erfc(scale * x) / 2 for x in z.ravel().tolist()), z.dtype, z.size).reshape(z.shape)


def _gelu(z: Array, a: Array) -> None:
    np.multiply(z, _normal(z), out=a)


def _gelu_derivative(z: Array) -> Array:
    slope: Array = _normal(z) + z * np.exp(z * z / -2) * z.dtype.type(1 / math.sqrt(2 * math.pi))
    return slope


ACTIVATIONS = {
    "identity": Activation(lambda z, a: np.copyto(a, z), np.ones_like),
    "logistic": Activation(_logistic, lambda a: a * (1 - a)),
    "tanh": Activation(lambda z, a: np.tanh(z, out=a), lambda a: 1 - a * a),
    "relu": Activation(lambda z, a: np.maximum(0, z, out=a), lambda a: a > 0, makes_zeros=True),
    "leaky_relu": Activation(_leaky_relu, _leak),
    "gelu": Activation(_gelu, _gelu_derivative, of_argument=True),
}
