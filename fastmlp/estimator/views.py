"""Coefficients and intercepts in scikit-learn's shapes, as views of one flat vector."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from fastmlp import arrays, parameters

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Views:
    """Views of a flat vector.

    Attributes
    ----------
    sizes : tuple of int
        Widths from input to output.
    vector : ndarray, shape (k,)
        The flat vector W1, b1, W2, b2, ..., with W (n_out, n_in).
    coefs : list of ndarray, shape (n_in, n_out)
        Views of the transposed weights.
    intercepts : list of ndarray, shape (n_out,)
        Views of the biases.
    """

    def __init__(self, sizes: tuple[int, ...], vector: Array) -> None:
        layers = list(parameters.layers(vector, sizes))
        self.sizes, self.vector = sizes, vector
        self.coefs, self.intercepts = [weight.T for weight, _ in layers], [bias for _, bias in layers]

    def are(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> bool:
        """Return whether these are the views themselves, and not arrays that a user has put in their place."""
        ours, theirs = (*self.coefs, *self.intercepts), (*coefs, *intercepts)
        return len(ours) == len(theirs) and all(one is other for one, other in zip(ours, theirs, strict=True))

    def set_all(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> None:
        """Copy coefficients and intercepts into the vector."""
        for to, source in zip((*self.coefs, *self.intercepts), (*coefs, *intercepts), strict=True):
            if np.shape(source) != to.shape:  # which NumPy might stretch
                got = f"shape {np.shape(source)}, expected {to.shape}"
                raise ValueError(f"coefs_ and intercepts_ do not fit one another: got {got}.")
            to[...] = source

    def unpack(self, packed: Array) -> None:
        """Take parameters in scikit-learn's order, all coefficients and then all intercepts."""
        at = 0
        for to in (*self.coefs, *self.intercepts):
            to[...] = packed[at : at + to.size].reshape(to.shape)
            at += to.size


def joined(coefs: Sequence[Any], intercepts: Sequence[Any]) -> Views:
    """Return views of a new vector with these coefficients and intercepts."""
    weights = [np.asarray(one) for one in coefs]
    sizes = (weights[0].shape[0], *(one.shape[1] for one in weights))
    dtype = arrays.result_dtype(*weights, *(np.asarray(one) for one in intercepts))
    views = Views(sizes, np.empty(parameters.size(sizes), dtype))
    views.set_all(weights, intercepts)
    return views
