"""The notebook's seven functions: check, call the backend, return.

Names, argument names and their order, defaults and return order are the notebook's. Columns are samples: n features,
h hidden units, C classes, m samples. Results are float32 if NumPy's result type of all arguments is float32, else
float64; no argument is ever changed, and nothing is kept between calls.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, backend, checks
from fastmlp.kernels import recycled
from fastmlp.packing import PackedMatrix
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Arrays4: TypeAlias = tuple[Array, Array, Array, Array]


def one_hot(Y: ArrayLike, C: int = 10) -> Array:
    """Encode labels as columns of zeros with a single 1.

    Parameters
    ----------
    Y : array_like of int, shape (m,)
        Labels from 0 to C - 1. Integral floating-point numbers count as integers.
    C : int
        Number of classes.

    Returns
    -------
    ndarray of float64, shape (C, m)
        1 in row ``Y[i]`` of column i, else 0.

    Raises
    ------
    ValueError
        If a label is negative, not integral or not below C; if Y is empty or not one-dimensional.
    TypeError
        If Y does not hold real numbers, or C is not an integer.

    Examples
    --------
    >>> from fastmlp import one_hot
    >>> one_hot([0, 2], C=3)
    array([[1., 0.],
           [0., 0.],
           [0., 1.]])
    """
    classes = checks.n_classes("C", C)
    labels = checks.labels("Y", Y, classes)
    out = recycled.empty((classes, labels.size), np.float64)
    kernels = backend.kernels()
    kernels.one_hot(out, labels)
    return out


def ReLU(X: ArrayLike) -> Array:
    """Compute the rectified linear unit, max(0, x), elementwise.

    Parameters
    ----------
    X : array_like of float
        Any shape of at least one dimension.

    Returns
    -------
    ndarray of float32 or float64, shape of X
        The bits of ``np.maximum(0, X)``: NaN stays.

    Raises
    ------
    ValueError
        If X is a scalar or empty.
    TypeError
        If X does not hold real numbers.

    Examples
    --------
    >>> from fastmlp import ReLU
    >>> ReLU([[-1.0, 2.0]])
    array([[0., 2.]])
    """
    checked = checks.array("X", X)
    (x,) = arrays.contiguous(arrays.result_dtype(checked), checked)
    out = recycled.empty(x.shape, x.dtype)
    kernels = backend.kernels()
    kernels.relu(out.reshape(-1), x.reshape(-1))
    return out


def Softmax(X: ArrayLike) -> Array:
    """Compute the softmax over axis 0, exp(x) / sum(exp(x)).

    The maximum over axis 0 is subtracted first, so nothing overflows. The relative error is at most
    (8 + max|x - max x|) eps.

    Values that are not finite reach the result as they do in NumPy.

    Parameters
    ----------
    X : array_like of float, shape (C, ...)
        Logits, of at least one dimension.

    Returns
    -------
    ndarray of float32 or float64, shape of X
        Non-negative, with sums of 1 over axis 0.

    Raises
    ------
    ValueError
        If X is a scalar or empty.
    TypeError
        If X does not hold real numbers.

    Examples
    --------
    >>> from fastmlp import Softmax
    >>> Softmax([[0.0, 1000.0], [0.0, 1000.0]])
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    checked = checks.array("X", X)
    (x,) = arrays.contiguous(arrays.result_dtype(checked), checked)
    out = recycled.empty(x.shape, x.dtype)
    kernels = backend.kernels()
    kernels.softmax_columns(out.reshape(len(x), -1), x.reshape(len(x), -1))
    return out


def Forwardprop(
    X: ArrayLike | PackedMatrix,
    W_i_to_h: ArrayLike,
    W_h_to_o: ArrayLike,
    biases_i_to_h: ArrayLike,
    biases_h_to_o: ArrayLike,
) -> Arrays4:
    """Propagate samples through the network: Z1 = W1 X + b1, A1 = ReLU(Z1), Z2 = W2 A1 + b2, A2 = Softmax(Z2).

    Values that are not finite reach the result as they do in NumPy.

    Parameters
    ----------
    X : array_like of float or PackedMatrix, shape (n, m)
        Samples as columns.
    W_i_to_h : array_like of float, shape (h, n)
        Weights from input to hidden layer, W1.
    W_h_to_o : array_like of float, shape (C, h)
        Weights from hidden to output layer, W2.
    biases_i_to_h : array_like of float, shape (h, 1)
        Biases of the hidden layer, b1.
    biases_h_to_o : array_like of float, shape (C, 1)
        Biases of the output layer, b2.

    Returns
    -------
    A1, Z1 : ndarray of float32 or float64, shape (h, m)
        Activations and pre-activations of the hidden layer.
    A2, Z2 : ndarray of float32 or float64, shape (C, m)
        Probabilities and logits.

    Raises
    ------
    ValueError
        If shapes do not fit together or an array is empty.
    TypeError
        If an array does not hold real numbers.

    Examples
    --------
    >>> from fastmlp import Forwardprop
    >>> A1, Z1, A2, Z2 = Forwardprop([[1.0]], [[2.0], [-2.0]], [[1.0, 1.0]], [[0.0], [0.0]], [[0.5]])
    >>> A1.T, Z1.T, A2, Z2
    (array([[2., 0.]]), array([[ 2., -2.]]), array([[1.]]), array([[2.5]]))
    """
    x = _samples(X)
    n = x.shape[0]
    w1 = checks.array("W_i_to_h", W_i_to_h, shape=(None, n), axes="(n_hidden, n_features)")
    b1 = checks.array("biases_i_to_h", biases_i_to_h, shape=(len(w1), 1), axes="(n_hidden, 1)")
    w2 = checks.array("W_h_to_o", W_h_to_o, shape=(None, len(w1)), axes="(n_classes, n_hidden)")
    b2 = checks.array("biases_h_to_o", biases_h_to_o, shape=(len(w2), 1), axes="(n_classes, 1)")
    dtype = _result_dtype(x, w1, w2, b1, b2)
    kernels = backend.kernels()
    z1, a1, z2 = kernels.forward(*arrays.contiguous(dtype, w1, b1, w2, b2), _operand(x, dtype))
    a2 = np.empty_like(z2)
    kernels.softmax_columns(a2, z2)
    return a1, z1, a2, z2


def compute_cost(A2: ArrayLike, Y: ArrayLike) -> Any:
    """Compute the cross-entropy, the mean over the samples of -sum(Y log A2).

    0 log 0 counts as 0. Probabilities are raised to at least the smallest normal number before the logarithm, so that
    the cost stays finite if a probability underflowed to 0.

    Values that are not finite reach the result as they do in NumPy.

    Parameters
    ----------
    A2 : array_like of float, shape (C, m)
        Probabilities.
    Y : array_like of float, shape (C, m)
        One-hot or soft targets.

    Returns
    -------
    numpy.float32 or numpy.float64
        The mean cost.

    Raises
    ------
    ValueError
        If the shapes differ, are not two-dimensional or are empty.
    TypeError
        If an array does not hold real numbers.

    Examples
    --------
    >>> from fastmlp import compute_cost
    >>> float(compute_cost([[1.0, 0.0], [0.0, 1.0]], [[1, 0], [0, 1]]))
    0.0
    """
    checked = checks.array("A2", A2, shape=(None, None), axes="(n_classes, m)")
    target = checks.array("Y", Y, shape=checked.shape, axes="(n_classes, m)")
    dtype = arrays.result_dtype(checked, target)
    a2, y = arrays.in_one_piece(dtype, checked), arrays.in_one_piece(dtype, target)
    kernels = backend.kernels()
    return dtype.type(kernels.cross_entropy(a2, y))


def backward_prop(
    Z1: ArrayLike, A1: ArrayLike, Z2: ArrayLike, A2: ArrayLike, W1: ArrayLike, W2: ArrayLike, X: ArrayLike, Y: ArrayLike
) -> Arrays4:
    """Compute the gradient of the cost with respect to weights and biases.

    dZ2 = A2 - Y, dW2 = dZ2 A1ᵀ / m, db2 = mean of dZ2 over the samples, dZ1 = (W2ᵀ dZ2) (Z1 > 0), dW1 = dZ1 Xᵀ / m,
    db1 = mean of dZ1.

    Values that are not finite reach the result as they do in NumPy.

    Parameters
    ----------
    Z1, A1 : array_like of float, shape (h, m)
        Pre-activations and activations of the hidden layer, from `Forwardprop`.
    Z2, A2 : array_like of float, shape (C, m)
        Logits and probabilities. The values of Z2 are not used.
    W1 : array_like of float, shape (h, n)
        Weights from input to hidden layer; the values are not used.
    W2 : array_like of float, shape (C, h)
        Weights from hidden to output layer.
    X : array_like of float or PackedMatrix, shape (n, m)
        Samples as columns.
    Y : array_like of float, shape (C, m)
        One-hot or soft targets.

    Returns
    -------
    dW1, db1, dW2, db2 : ndarray of float32 or float64, shapes (h, n), (h, 1), (C, h), (C, 1)
        The gradients, as means over the samples.

    Raises
    ------
    ValueError
        If shapes do not fit together or an array is empty.
    TypeError
        If an array does not hold real numbers.

    Examples
    --------
    >>> from fastmlp import backward_prop
    >>> dW1, db1, dW2, db2 = backward_prop([[1.0]], [[1.0]], [[0.0]], [[0.5]], [[1.0]], [[2.0]], [[3.0]], [[1.0]])
    >>> dW1, db1, dW2, db2
    (array([[-3.]]), array([[-1.]]), array([[-0.5]]), array([[-0.5]]))
    """
    x = _samples(X)
    n, m = x.shape
    z1 = checks.array("Z1", Z1, shape=(None, m), axes="(n_hidden, m)")
    a1 = checks.array("A1", A1, shape=z1.shape, axes="(n_hidden, m)")
    z2 = checks.array("Z2", Z2, shape=(None, m), axes="(n_classes, m)")
    a2 = checks.array("A2", A2, shape=z2.shape, axes="(n_classes, m)")
    w1 = checks.array("W1", W1, shape=(len(z1), n), axes="(n_hidden, n_features)")
    w2 = checks.array("W2", W2, shape=(len(z2), len(z1)), axes="(n_classes, n_hidden)")
    y = checks.array("Y", Y, shape=z2.shape, axes="(n_classes, m)")
    dtype = _result_dtype(x, z1, a1, z2, a2, w1, w2, y)
    delta = np.empty(z2.shape, dtype)
    kernels = backend.kernels()
    kernels.output_delta(delta, *arrays.contiguous(dtype, a2, y))
    z1, a1, (w2,) = arrays.native(dtype, z1), arrays.native(dtype, a1), arrays.contiguous(dtype, w2)
    gradients: Arrays4 = kernels.backward(n, w2, _operand(x, dtype), z1, a1, delta)
    return gradients


def update_params(
    W1: ArrayLike,
    b1: ArrayLike,
    W2: ArrayLike,
    b2: ArrayLike,
    dW1: ArrayLike,
    db1: ArrayLike,
    dW2: ArrayLike,
    db2: ArrayLike,
    alpha: float = 0.1,
) -> Arrays4:
    """Take one step of gradient descent, w - alpha dw, and return it in new arrays.

    Values that are not finite reach the result as they do in NumPy.

    Parameters
    ----------
    W1, b1, W2, b2 : array_like of float
        Parameters, of any shapes.
    dW1, db1, dW2, db2 : array_like of float
        Their gradients, of the same shapes.
    alpha : float
        Step size.

    Returns
    -------
    W1, b1, W2, b2 : ndarray of float32 or float64
        The parameters after the step; the arguments are not changed.

    Raises
    ------
    ValueError
        If a gradient does not have the shape of its parameter, an array is empty, or alpha is not finite.
    TypeError
        If an array does not hold real numbers, or alpha is not a real number.

    Examples
    --------
    >>> from fastmlp import update_params
    >>> update_params([1.0], [1.0], [1.0], [1.0], [2.0], [0.0], [4.0], [0.0], alpha=0.5)
    (array([0.]), array([1.]), array([-1.]), array([1.]))
    """
    step = checks.learning_rate("alpha", alpha)
    names = ("W1", "b1", "W2", "b2")
    parameters = [checks.array(name, w) for name, w in zip(names, (W1, b1, W2, b2), strict=True)]
    gradients = [
        checks.array(f"d{name}", dw, shape=w.shape, axes=f"of {name}")
        for name, w, dw in zip(names, parameters, (dW1, db1, dW2, db2), strict=True)
    ]
    dtype = arrays.result_dtype(*parameters, *gradients, step)
    stepped = []
    kernels = backend.kernels()
    rate = quietly(dtype.type, step)  # may overflow
    for w, dw in zip(*(arrays.contiguous(dtype, *group) for group in (parameters, gradients)), strict=True):
        out = np.empty_like(w)
        kernels.update(out.reshape(-1), w.reshape(-1), dw.reshape(-1), rate)
        stepped.append(out)
    return stepped[0], stepped[1], stepped[2], stepped[3]


def _samples(X: ArrayLike | PackedMatrix) -> Array | PackedMatrix:
    return X if isinstance(X, PackedMatrix) else checks.array("X", X, shape=(None, None), axes="(n_features, m)")


def _result_dtype(x: Array | PackedMatrix, *others: Array) -> np.dtype[Any]:
    """Return the dtype of the results; a packed matrix must hold that dtype or uint8."""
    if not isinstance(x, PackedMatrix):
        return arrays.result_dtype(x, *others)
    dtype = arrays.result_dtype(*others)
    checks.packed_dtype("X", x, dtype)
    return dtype


def _operand(x: Array | PackedMatrix, dtype: np.dtype[Any]) -> Any:
    """Return the input for kernels: rows of samples (m, n) in ``dtype``, or the operand of a packed matrix."""
    return x.operands(dtype) if isinstance(x, PackedMatrix) else arrays.native(dtype, x).T
