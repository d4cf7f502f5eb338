"""The flat parameter vector W1, b1, W2, b2, ...: its length, its views and its initial values."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_SKLEARN = "sklearn"

# The weights of a layer are drawn from U[-limit(n_in, n_out), limit(n_in, n_out)).
_LIMITS: dict[str, Callable[[int, int], float]] = {
    "glorot": lambda n_in, n_out: math.sqrt(6 / (n_in + n_out)),
    "he": lambda n_in, _: math.sqrt(6 / n_in),
    "notebook": lambda *_: 0.5,
}
INITIALISATIONS = (*_LIMITS, _SKLEARN)


def size(sizes: tuple[int, ...]) -> int:
    """Return the number of parameters of a net with these layer sizes."""
    return sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))


def layers(vector: Array, sizes: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
    """Yield views (n_out, n_in) and (n_out,) of the weights and biases of each layer in the flat ``vector`` (k,)."""
    at = 0
    for n_in, n_out in pairwise(sizes):
        bias = at + n_out * n_in
        yield vector[at:bias].reshape(n_out, n_in), vector[bias : bias + n_out]
        at = bias + n_out


def draw(sizes: tuple[int, ...], dtype: np.dtype[Any], seed: int | None, init: str, activation: str = "relu") -> Array:
    """Return initial parameters: uniform weights within the limits that ``init`` names, and zero or uniform biases.

    Parameters
    ----------
    sizes : tuple of int
        Widths from input to output.
    dtype : numpy.dtype
        The dtype of the vector; numbers are drawn in float64 and then rounded.
    seed : int or None
        The seed of `numpy.random.RandomState`, whose stream never changes. Each weight is one uniform number times a
        constant, which has the same bits on all machines; numbers of a normal distribution have not. With "sklearn",
        the bits are those of scikit-learn on the same machine.
    init : {"glorot", "he", "notebook", "sklearn"}
        The limits, as in `MLP`. With "sklearn", the weights of a layer are drawn as a matrix (n_in, n_out), then its
        biases within the same limits, as scikit-learn's MLPs do [1]_.
    activation : str
        The activation of all hidden layers. With "sklearn", the limits of "logistic" are sqrt(2 / (n_in + n_out)), of
        any other, or of different ones, sqrt(6 / (n_in + n_out)).

    Returns
    -------
    ndarray, shape (k,)
        The flat vector.

    References
    ----------
    .. [1] scikit-learn, sklearn/neural_network/_multilayer_perceptron.py, ``_init_coef``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import parameters
    >>> np.random.seed(0)
    >>> drawn = parameters.draw((2, 1), np.dtype(float), seed=0, init="notebook")
    >>> bool((drawn[:2] == np.random.rand(2) - 0.5).all()), drawn[2]
    (True, np.float64(0.0))
    """
    vector = np.zeros(size(sizes), dtype)
    # Quietly, because seeding sets NumPy's error state for a moment, and a signal could keep it from being restored.
    generator = quietly(np.random.RandomState, seed)
    for weight, bias in layers(vector, sizes):
        if init == _SKLEARN:
            _draw_as_sklearn(generator, weight, bias, activation)
            continue
        n_out, n_in = weight.shape
        drawn = generator.random_sample(weight.shape)
        drawn -= 0.5
        drawn *= 2 * _LIMITS[init](n_in, n_out)
        weight[...] = drawn
    return vector


def _draw_as_sklearn(generator: np.random.RandomState, weight: Array, bias: Array, activation: str) -> None:
    """Draw ``weight`` (n_out, n_in), as its transpose, and ``bias`` (n_out,) of a layer."""
    n_out, n_in = weight.shape
    limit = math.sqrt((2 if activation == "logistic" else 6) / (n_in + n_out))
    # The same function as scikit-learn's: it adds a product to the lower limit, which rounds unlike a product alone.
    weight[...] = generator.uniform(-limit, limit, (n_in, n_out)).T
    bias[...] = generator.uniform(-limit, limit, n_out)
