"""The oracle: the formulas again, independent of fastmlp, in extended precision and without BLAS."""

from itertools import pairwise

import numpy as np

WIDE = np.longdouble


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


def activations_and_logits(layers, x):
    """Return the input of each layer and the logits (C, m)."""
    activations = [np.asarray(x, WIDE)]
    for w, b in layers[:-1]:
        activations.append(relu(product(w, activations[-1]) + b))
    return activations, product(layers[-1][0], activations[-1]) + layers[-1][1]


def loss_and_grad(vector, sizes, x, y, weight=None):
    """Return the weighted mean cross-entropy and the flat gradient of a net of any depth; y is (C, m)."""
    layers = unflatten(np.asarray(vector, WIDE), sizes)
    y = np.asarray(y, WIDE)
    weight = np.ones(y.shape[1], WIDE) if weight is None else np.asarray(weight, WIDE)
    activations, z = activations_and_logits(layers, x)
    peak = shift(z)
    lse = peak + np.log(np.exp(z - peak).sum(axis=0))
    loss = (weight * np.where(y != 0, y * (lse - z), 0).sum(axis=0)).sum() / weight.sum()
    delta = (softmax(z) * y.sum(axis=0) - y) * weight / weight.sum()
    parts = [product(delta, activations[-1].T).ravel(), delta.sum(axis=1)]
    for (w, _), a, below in zip(layers[:0:-1], activations[:0:-1], activations[-2::-1], strict=True):
        delta = product(w.T, delta) * (a > 0)
        parts = [product(delta, below.T).ravel(), delta.sum(axis=1), *parts]
    return loss, np.concatenate(parts)
