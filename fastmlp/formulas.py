"""The notebook's formulas in plain NumPy, written to be read and to compare fastmlp with.

X is (n, m), Y one-hot (C, m), W1 (h, n), b1 (h, 1), W2 (C, h), b2 (C, 1);
columns are samples.
"""

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def one_hot(Y: Array, C: int = 10) -> Array:
    """Return (C, m) with a 1 in row ``Y[i]`` of column i."""
    encoded = np.zeros((Y.size, C))
    encoded[np.arange(Y.size), Y] = 1
    return encoded.T


def ReLU(X: Array) -> Array:
    """Return max(0, x), elementwise."""
    return np.maximum(0, X)


def Softmax(X: Array) -> Array:
    """Return the softmax over axis 0."""
    exp = np.exp(X)
    softmax: Array = exp / np.sum(exp, axis=0)
    return softmax


def Forwardprop(
    X: Array, W_i_to_h: Array, W_h_to_o: Array, biases_i_to_h: Array, biases_h_to_o: Array
) -> tuple[Array, Array, Array, Array]:
    """Return A1 (h, m), Z1 (h, m), A2 (C, m), Z2 (C, m)."""
    Z1 = np.dot(W_i_to_h, X) + biases_i_to_h
    A1 = ReLU(Z1)
    Z2 = np.dot(W_h_to_o, A1) + biases_h_to_o
    A2 = Softmax(Z2)
    return A1, Z1, A2, Z2


def compute_cost(A2: Array, Y: Array) -> Any:
    """Return the mean over the samples of -sum(Y log A2)."""
    return -np.sum(Y * np.log(A2)) / Y.shape[1]


def backward_prop(
    Z1: Array, A1: Array, Z2: Array, A2: Array, W1: Array, W2: Array, X: Array, Y: Array
) -> tuple[Array, Array, Array, Array]:
    """Return dW1 (h, n), db1 (h, 1), dW2 (C, h), db2 (C, 1)."""
    m = X.shape[1]
    dZ2 = A2 - Y
    dW2 = np.dot(dZ2, A1.T) / m
    db2 = np.sum(dZ2, axis=1, keepdims=True) / m
    dZ1 = np.dot(W2.T, dZ2) * (Z1 > 0)
    dW1 = np.dot(dZ1, X.T) / m
    db1 = np.sum(dZ1, axis=1, keepdims=True) / m
    return dW1, db1, dW2, db2


def update_params(
    W1: Array, b1: Array, W2: Array, b2: Array, dW1: Array, db1: Array, dW2: Array, db2: Array, alpha: float = 0.1
) -> tuple[Array, Array, Array, Array]:
    """Return the parameters after one step of gradient descent."""
    return W1 - alpha * dW1, b1 - alpha * db1, W2 - alpha * dW2, b2 - alpha * db2
