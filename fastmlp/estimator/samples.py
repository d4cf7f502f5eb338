"""Samples in rows, with targets and weights, as kernels take them; logits, losses and gradients of them."""

import functools
from typing import Any, TypeAlias

import numpy as np
from sklearn.utils.validation import validate_data

from fastmlp import arrays, backend
from fastmlp.kernels.nets import Net
from fastmlp.packing import packed
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


_MOST_SAMPLES = 2**31 - 1  # orders are int32
_MANY_NUMBERS = 1 << 18  # from which it pays that other threads wake to look for NaN


def packed_rows(X: Any, dtype: np.dtype[Any], *, minibatches: bool = False) -> Any:
    """Return the operand of samples in rows X (m, n), an array or CSR or CSC, for kernels that compute in ``dtype``."""
    if minibatches or arrays.is_sparse(X):
        return packed("X", X.T, 1.0, dtype, minibatches=minibatches).operands(dtype, minibatches=minibatches)
    # Without the facts that a `PackedMatrix` collects: they take longer than the predictions for a few samples.
    kernels = backend.kernels()
    return kernels.operands(kernels.pack(arrays.native(dtype, X.T)), _table(dtype))


@functools.cache
def _table(dtype: np.dtype[Any]) -> Array:
    """Return a table (256,) for samples that are not codes, which nothing reads."""
    return np.zeros(256, dtype)


def validated(estimator: Any, X: Any) -> Any:
    """Return samples X (m, n) of a fitted estimator as scikit-learn's `validate_data` does."""
    # One thread of it would look at the numbers of many samples for a fifth of the time of their predictions.
    alone = isinstance(X, np.ndarray) and X.size >= _MANY_NUMBERS and X.dtype in (np.float32, np.float64)
    X = validate_data(estimator, X, accept_sparse=["csr", "csc"], reset=False, ensure_all_finite=not alone)
    if alone and not backend.kernels().survey(X.T)[1]:
        X = validate_data(estimator, X, reset=False)  # which says what it found
    return X


def logits(parameters: Array, net: Net, X: Any) -> Array:
    """Return the logits (K, m) of samples in rows X (m, n)."""
    z, kernels = np.empty((net.sizes[-1], X.shape[0]), parameters.dtype), backend.kernels()
    if arrays.is_sparse(X):
        x = packed_rows(X, parameters.dtype)
    else:  # to pack it takes longer than to read it once
        x = kernels.plain_operand(arrays.native(parameters.dtype, X))
    kernels.network_logits(z, parameters, net, x)
    return z


class Samples:
    """Samples with their targets and weights.

    Parameters
    ----------
    net : Net
        The net that is trained on them.
    X : array or sparse matrix, shape (m, n)
        Samples in rows.
    y : ndarray, shape (m, K)
        Targets; one-hot and boolean for classes.
    weight : ndarray, shape (m,), optional
    dtype : numpy.dtype
        The dtype of the computation.
    minibatches : bool
        Whether `train` is to read the samples, in minibatches.
    """

    def __init__(
        self, net: Net, X: Any, y: Array, weight: Array | None, dtype: np.dtype[Any], *, minibatches: bool = False
    ) -> None:
        _check_shapes(net, X, y)
        self.net, self.dtype = net, dtype
        self.x = packed_rows(X, dtype, minibatches=minibatches)
        self.w = np.ones(len(y), dtype) if weight is None else np.ascontiguousarray(weight, dtype)
        self.total = float(len(y)) if weight is None else float(np.sum(weight, dtype=np.float64))
        self.y = _labels(y) if net.loss == "cross_entropy" else _targets(y, dtype)

    def loss_and_grad(self, gradient: Array, parameters: Array) -> float:
        """Set the gradient (k,) of the weighted mean loss; return that loss."""
        kernels = backend.kernels()
        loss, _, total = kernels.network_step(gradient, parameters, self.net, self.x, self.y, self.w)
        return float(loss / total) / divisor(self.net)

    def train(self, vectors: list[Array]) -> Any:
        """Return a trainer that begins with parameters (k,) and the state of a solver."""
        return backend.kernels().begin_training(vectors, self.net, self.x, self.y, self.w)


class HeldOut:
    """Samples to validate on: rows X (m, n), targets y (m, K) as of `Samples`, and weights (m,) or None."""

    def __init__(self, net: Net, X: Any, y: Array, weight: Array | None, dtype: np.dtype[Any]) -> None:
        _check_shapes(net, X, y)
        self._net, self._x = net, packed_rows(X, dtype)
        self._y = _targets(y, dtype)
        self._w = np.ones(len(y), dtype) if weight is None else np.ascontiguousarray(weight, dtype)

    def loss(self, parameters: Array) -> float:
        """Return the weighted mean loss."""
        z, loss, kernels = np.empty_like(self._y), np.empty_like(self._w), backend.kernels()
        kernels.network_logits(z, parameters, self._net, self._x)
        kernels.loss_gradient(np.empty_like(z), loss, np.empty_like(loss), z, self._y, self._w, self._net.loss)
        total = quietly(np.sum, loss, dtype=np.float64) / np.sum(self._w, dtype=np.float64)
        return float(total) / divisor(self._net)


class Validation:
    """Samples X, y and weights for scores, and the same for losses."""

    def __init__(self, X: Any, y: Array, weight: Array | None, held_out: HeldOut) -> None:
        self.X, self.y, self.weight, self.held_out = X, y, weight, held_out


def checked_weight(name: str, weight: Array | None) -> Array | None:
    """Return the weights of samples, the argument of this name; raise ValueError unless they are usable."""
    if weight is not None and (weight < 0).any():
        raise ValueError(f"Negative values in data passed to `{name}`")
    if weight is not None and not (weight > 0).any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weight


def check_depth(sizes: list[int], coefs: list[Array]) -> None:
    """Raise ValueError unless a fitted model has as many layers as these widths, which are now asked for."""
    if len(sizes) - 1 != len(coefs):
        raise ValueError(
            f"hidden_layer_sizes has {len(sizes) - 2} layers, but the model was fitted with {len(coefs) - 1}. "
            "Fit a new model, or without warm_start."
        )


def check_count(X: Any) -> None:
    """Raise ValueError if there are too many samples for the solvers sgd and adam."""
    if X.shape[0] > _MOST_SAMPLES:
        raise ValueError(f"X has {X.shape[0]} samples, but the solvers sgd and adam take at most {_MOST_SAMPLES}.")


def divisor(net: Net) -> int:
    """Return the number by which scikit-learn divides the sum of a loss over the outputs, but not its gradient."""
    return net.sizes[-1] if net.loss in ("squared_error", "absolute_error", "huber") else 1


def check_width(sizes: tuple[int, ...], X: Any) -> None:
    """Raise ValueError unless rows X (m, n) fit coefficients of these widths, which a user may have assigned."""
    if X.shape[1] != sizes[0]:
        raise ValueError(f"X has {X.shape[1]} features, but coefs_[0] has {sizes[0]} rows.")


def _check_shapes(net: Net, X: Any, y: Array) -> None:
    check_width(net.sizes, X)
    if y.shape[1] != net.sizes[-1]:
        raise ValueError(
            f"y has {y.shape[1]} outputs, but the model was fitted to {net.sizes[-1]}. Fit a new model, or without "
            "warm_start."
        )


def _labels(y: Array) -> Array:
    labels: Array = y.argmax(axis=1).astype(np.int64, copy=False)
    return labels


def _targets(y: Array, dtype: np.dtype[Any]) -> Array:
    return np.ascontiguousarray(y.T, dtype)
