"""The oracle: the formulas again, independent of fastmlp, in extended precision and without BLAS."""

import functools
from itertools import pairwise

import numpy as np

WIDE = np.longdouble
PI = WIDE("3.14159265358979323846264338327950288")


def product(a, b):
    return np.asarray(a, WIDE) @ np.asarray(b, WIDE)  # a plain loop in C, because BLAS has no long double


def one_hot(labels, classes):
    out = np.zeros((classes, len(labels)))
    for i, label in enumerate(labels):
        for c in range(classes):
            if c == label:
                out[c, i] = 1.0
    return out


def relu(x):
    x = np.asarray(x)
    return np.where(x < 0, x.dtype.type(0), x)


def softmax(z):
    z = np.asarray(z, WIDE)
    e = np.exp(z - shift(z))
    return e / e.sum(axis=0)


def shift(z):
    """Return the largest logit of each column, or 0 if it is not finite, which leaves the plain formula."""
    largest = z.max(axis=0)
    return np.where(np.isfinite(largest), largest, 0)


def forward(x, w1, w2, b1, b2):
    z1 = product(w1, x) + b1
    a1 = relu(z1)
    z2 = product(w2, a1) + b2
    return a1, z1, softmax(z2), z2


def cost(a2, y):
    total = WIDE(0)
    for p, t in zip(np.asarray(a2, WIDE).ravel(), np.asarray(y, WIDE).ravel(), strict=True):
        if t != 0:
            total -= t * np.log(p)
    return total / np.shape(y)[1]


def backward(z1, a1, a2, w2, x, y):
    m = np.shape(x)[1]
    dz2 = np.asarray(a2, WIDE) - y
    dz1 = product(np.transpose(w2), dz2) * (np.asarray(z1) > 0)
    dw1, dw2 = product(dz1, np.transpose(x)) / m, product(dz2, np.transpose(a1)) / m
    return dw1, dz1.sum(axis=1, keepdims=True) / m, dw2, dz2.sum(axis=1, keepdims=True) / m


def unflatten(vector, sizes):
    """Return [(W, b), ...] from the flat vector W1, b1, W2, b2, ..."""
    layers, at = [], 0
    for n_in, n_out in pairwise(sizes):
        weight = vector[at : at + n_out * n_in].reshape(n_out, n_in)
        at += n_out * n_in
        layers.append((weight, vector[at : at + n_out].reshape(n_out, 1)))
        at += n_out
    return layers


def density(z):
    return np.exp(-z * z / 2) / np.sqrt(2 * PI)


@functools.partial(np.vectorize, otypes=[WIDE])
def normal(x):
    """Return the probability that a standard normal variable is below x, in extended precision.

    By the series x + x^3 / 3 + x^5 / (3 5) + ... times the density, or far below 0 by Laplace's continued fraction.
    """
    x = WIDE(x)
    if abs(x) > 6:
        fraction = WIDE(0)
        for k in range(60, 0, -1):
            fraction = k / (abs(x) + fraction)
        tail = density(x) / (abs(x) + fraction)
        return tail if x < 0 else 1 - tail
    term, total, k = x, x, 1
    while abs(term) > 1e-22 * abs(total):
        k += 2
        term = term * x * x / k
        total = total + term
    return WIDE(0.5) + density(x) * total


# The value and the derivative of each activation for arguments in extended precision.
ACTIVATIONS = {
    "identity": (lambda z: z, np.ones_like),
    "logistic": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (relu, lambda z: z > 0),
    "leaky_relu": (lambda z: np.where(z > 0, z, z / 100), lambda z: np.where(z > 0, 1, WIDE(1) / 100)),
    "gelu": (lambda z: z * normal(z), lambda z: normal(z) + z * density(z)),
}


def activations_and_logits(layers, x, names=None):
    """Return the input of each layer, the sums of each hidden layer before its activation, and the logits (C, m)."""
    inputs, sums = [np.asarray(x, WIDE)], []
    for (w, b), name in zip(layers, names or ["relu"] * (len(layers) - 1), strict=False):
        sums.append(product(w, inputs[-1]) + b)
        inputs.append(ACTIVATIONS[name][0](sums[-1]))
    return inputs, sums, product(layers[-1][0], inputs[-1]) + layers[-1][1]


def loss_and_grad(vector, sizes, x, y, weight=None, names=None):
    """Return the weighted mean cross-entropy and the flat gradient of a net of any depth; y is (C, m).

    ``names`` are the activations of the hidden layers, ReLUs by default.
    """
    names = names or ["relu"] * (len(sizes) - 2)
    layers = unflatten(np.asarray(vector, WIDE), sizes)
    y = np.asarray(y, WIDE)
    weight = np.ones(y.shape[1], WIDE) if weight is None else np.asarray(weight, WIDE)
    inputs, sums, z = activations_and_logits(layers, x, names)
    peak = shift(z)
    lse = peak + np.log(np.exp(z - peak).sum(axis=0))
    loss = (weight * np.where(y != 0, y * (lse - z), 0).sum(axis=0)).sum() / weight.sum()
    delta = (softmax(z) * y.sum(axis=0) - y) * weight / weight.sum()
    parts = [product(delta, inputs[-1].T).ravel(), delta.sum(axis=1)]
    for (w, _), name, before, below in zip(layers[:0:-1], names[::-1], sums[::-1], inputs[-2::-1], strict=True):
        delta = product(w.T, delta) * ACTIVATIONS[name][1](before)
        parts = [product(delta, below.T).ravel(), delta.sum(axis=1), *parts]
    return loss, np.concatenate(parts)


def complex_normal(z):
    """Return the distribution function of the normal distribution by its series, for complex arguments."""
    term, total = z, z
    for k in range(3, 400, 2):
        term = term * z * z / k
        total = total + term
    return 0.5 + np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * total


# Of complex arguments whose imaginary part is a step; a kink is decided by the real part.
COMPLEX = {
    "identity": lambda z: z,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.where(z.real > 0, z, 0),
    "leaky_relu": lambda z: np.where(z.real > 0, z, 0.01 * z),
    "gelu": lambda z: z * complex_normal(z),
}
