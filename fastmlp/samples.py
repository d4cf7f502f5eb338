"""Samples with their targets and weights, checked and ready for kernels."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, checks, sparse
from fastmlp.packing import Input, PackedMatrix, packed
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Samples(NamedTuple):
    """Samples to train on or to evaluate.

    Attributes
    ----------
    x : PackedMatrix, shape (n_features, m)
        The input.
    y : ndarray of int64, shape (m,), or of the model's dtype, shape (n_outputs, m)
        Labels, or targets of each output.
    w : ndarray of the model's dtype, shape (m,)
        Weights.
    """

    x: PackedMatrix
    y: Array
    w: Array

    def times_weight(self, name: str, weights: Array) -> Samples:
        """Return the samples with their weights multiplied by ``weights`` (m,), which the argument ``name`` gave."""
        product = checks.weight_product(name, quietly(np.multiply, self.w, weights))
        return self._replace(w=arrays.contiguous(self.w.dtype, product)[0])

    def digest(self) -> str:
        """Return a digest of samples, targets and weights: the same for plain and packed X, on either backend."""
        shapes = np.array([*self.x.shape, *self.y.shape])
        return self.x.digest(shapes, self.y, self.w)


def check_input(
    name: str,
    X: Input,
    width: int,
    dtype: np.dtype[Any],
    batch_size: int | None = None,
    *,
    finite: bool = True,
) -> PackedMatrix:
    """Return X (width, m) packed; a plain array or a sparse matrix is packed in ``dtype``.

    Parameters
    ----------
    name : str
        The argument, for messages.
    X : array_like of float, sparse matrix or PackedMatrix, shape (width, m)
        Samples as columns.
    width : int
        The model's input width.
    dtype : numpy.dtype
        The model's dtype.
    batch_size : int, optional
        A plain array is packed for minibatches if it has more samples than this.
    finite : bool
        Whether to refuse values that are not finite in that dtype.
    """
    if isinstance(X, PackedMatrix):
        samples = X
        checks.input_width(name, samples, width, dtype)
    else:
        remedy = "pass samples of as many features, as columns"
        given: Any = sparse.stand_in(X) if arrays.is_sparse(X) else X
        x = checks.array(name, given, shape=(width, None), axes="(n_features, m)", remedy=remedy)
        minibatches = batch_size is not None and batch_size < x.shape[1]
        samples = packed(name, X if arrays.is_sparse(X) else x, 1.0, dtype, minibatches=minibatches)
    bad = samples.not_finite(dtype) if finite else None
    if bad is not None:
        remedy = "fill in missing values, scale values that are too large, or drop the sample"
        raise ValueError(checks.message(name, bad, f"numbers that are finite in {dtype}", remedy))
    return samples


def check_weight(name: str, weight: ArrayLike | None, m: int, dtype: np.dtype[Any]) -> Array:
    """Return weights (m,) in ``dtype``; equal ones if ``weight`` is None."""
    if weight is None:
        return _ones(m, dtype)
    return arrays.contiguous(dtype, checks.sample_weight(name, weight, m))[0]


@functools.lru_cache(maxsize=4)
def _ones(m: int, dtype: np.dtype[Any]) -> Array:
    """Return equal weights, which kernels only read."""
    return np.ones(m, dtype)
