"""What is measured: data, and the steps of the plain formulas and of fastmlp on it."""

import numpy as np

import fastmlp
from fastmlp import formulas
from fastmlp.datasets import mnist


def mnist_codes():
    """Return MNIST's training images as the notebook has them, (784, 60000) uint8 Fortran-ordered, and labels."""
    (x, y), _ = mnist.load_data()
    return x.reshape(len(x), -1).T, y.astype(np.int64)


def half_codes():
    """Return MNIST with strokes widened until about half of the pixels are not zero, as in pictures of clothing."""
    codes, y = mnist_codes()
    images = codes.T.reshape(-1, 28, 28)
    for axis in (1, 2):
        images = np.max([np.roll(images, shift, axis) for shift in (-2, -1, 0, 1, 2)], axis=0)
    return images.reshape(len(images), -1).T, y


def normal(n, m, dtype=np.float64, classes=10):
    """Return standard normal X (n, m), without zeros, Fortran-ordered, and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((m, n)).astype(dtype).T, rng.integers(classes, size=m)


def plain_step(parameters, x, y, alpha=0.1):
    """Return a function: one step of the notebook's formulas, of any depth; parameters [W1, b1, W2, b2, ...]."""
    weights, biases = parameters[::2], parameters[1::2]

    def step():
        m = x.shape[1]
        zs, activations = [], [x]
        for weight, bias in zip(weights, biases, strict=True):
            zs.append(np.dot(weight, activations[-1]) + bias)
            activations.append(formulas.ReLU(zs[-1]) if len(zs) < len(weights) else formulas.Softmax(zs[-1]))
        formulas.compute_cost(activations[-1], y)
        dz = activations[-1] - y
        stepped = []
        for layer in reversed(range(len(weights))):
            dweight, dbias = np.dot(dz, activations[layer].T) / m, np.sum(dz, axis=1, keepdims=True) / m
            stepped += [biases[layer] - alpha * dbias, weights[layer] - alpha * dweight]
            if layer:
                dz = np.dot(weights[layer].T, dz) * (zs[layer - 1] > 0)
        return stepped[::-1]

    return step


def packed_step(model, packed, labels, alpha=0.1):
    """Return a function: one step of the model, loss and gradient and update."""
    grad = np.empty_like(model.parameters)

    def step():
        model.loss_and_grad(packed, labels, out=grad)
        return model.parameters - model.dtype.type(alpha) * grad

    return step


def pair(sizes, x, labels, packed, dtype=np.float64):
    """Return the plain and the packed step of one net on the same data, after checking that they agree."""
    model = fastmlp.MLP(sizes, dtype=np.dtype(dtype).name, seed=0)
    y = formulas.one_hot(labels, sizes[-1]).astype(dtype)
    parameters = [p.copy() for both in zip(model.weights, model.biases, strict=True) for p in both]
    plain, ours = plain_step(parameters, x, y), packed_step(model, packed, labels)
    expected, actual = np.concatenate([p.ravel() for p in plain()]), ours()
    difference = np.max(np.abs(actual - expected)) / np.max(np.abs(expected))
    if not difference <= (1e-10 if dtype == np.float64 else 1e-3):
        raise AssertionError(f"the steps of {sizes} differ by {difference:.1e}: not timed")
    return plain, ours


def notebook_loop(functions, x, y, sizes=(784, 128, 10)):
    """Return a function: one turn of the notebook's loop with the given module of functions."""
    model = fastmlp.MLP(sizes, seed=0)
    (w1, w2), (b1, b2) = model.weights, model.biases

    def turn():
        a1, z1, a2, z2 = functions.Forwardprop(x, w1, w2, b1, b2)
        functions.compute_cost(a2, y)
        gradients = functions.backward_prop(z1, a1, z2, a2, w1, w2, x, y)
        return functions.update_params(w1, b1, w2, b2, *gradients)

    return turn
