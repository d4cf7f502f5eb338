"""The benchmarks' data, and training steps of the plain formulas and of fastmlp on it."""

import os
from pathlib import Path

import numpy as np

import fastmlp
from fastmlp import formulas
from fastmlp.datasets import mnist

# Largest allowed difference from the plain formulas, relative to their largest entry; beyond it nothing is timed.
TOLERANCE = {"float64": 1e-10, "float32": 1e-3}


def mnist_codes():
    """Return MNIST's training images as the notebook has them, (784, 60000) uint8 Fortran-ordered, and labels."""
    (x, y), _ = mnist.load_data()
    return x.reshape(len(x), -1).T, y.astype(np.int64)


def mnist_test_codes():
    """Return MNIST's test images (784, 10000) uint8, and their labels."""
    _, (x, y) = mnist.load_data()
    return x.reshape(len(x), -1).T, y.astype(np.int64)


def half_codes():
    """Return MNIST with strokes widened until about half of the pixels are non-zero, as in pictures of clothing."""
    codes, y = mnist_codes()
    images = codes.T.reshape(-1, 28, 28)
    for axis in (1, 2):
        images = np.max([np.roll(images, shift, axis) for shift in (-2, -1, 0, 1, 2)], axis=0)
    return images.reshape(len(images), -1).T, y


def synthetic_codes(m):
    """Return a substitute for MNIST with the same features, density and classes: images (784, m) uint8, and labels.

    An image is its class's template plus noise, both blurred and faded towards the border; its brightest 19.1 % of
    pixels are its strokes.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=m)
    templates = rng.standard_normal((10, 28, 28), np.float32)
    images = templates[labels] + rng.standard_normal((m, 28, 28), np.float32)
    for axis in (1, 2, 1, 2):
        images = sum(np.roll(images, shift, axis) for shift in (-2, -1, 0, 1, 2))
    from_middle = (np.arange(28, dtype=np.float32) - 13.5) ** 2
    images -= (from_middle[:, None] + from_middle) / 70 * images.std()
    rows = images.reshape(m, -1)
    dark = round(0.809 * 784)
    rows -= np.partition(rows, dark, axis=1)[:, dark - 1 : dark]
    np.maximum(rows, 0, out=rows)
    rows *= 175 * (784 - dark) / rows.sum(axis=1, keepdims=True)
    return np.minimum(np.ceil(rows), 255).astype(np.uint8).T, labels


def image_codes(m):
    """Return the first m images of MNIST if FASTMLP_DATA is set, else synthetic images; their labels; the name."""
    if os.environ.get("FASTMLP_DATA"):
        codes, labels = mnist_codes()
        return codes[:, :m], labels[:m], "MNIST"
    return *synthetic_codes(m), "synthetic images"


def image_sets(m):
    """Return images and labels to train on, those to test, at most a sixth as many, and their name; else as above."""
    count = -(-m // 6)
    if os.environ.get("FASTMLP_DATA"):
        codes, labels = mnist_test_codes()
        (*train, name), test = image_codes(m), (codes[:, :count], labels[:count])
        return train, test, name
    codes, labels = synthetic_codes(m + count)
    return (codes[:, :m], labels[:m]), (codes[:, m:], labels[m:]), "synthetic images"


def normal(n, m, dtype=np.float64, classes=10):
    """Return a standard normal X (n, m), Fortran-ordered and without zeros, and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((m, n)).astype(dtype).T, rng.integers(classes, size=m)


def parameters(sizes, dtype, seed=0):
    """Return the initial [W1, b1, W2, b2, ...] of a model, in ``dtype``."""
    model = fastmlp.MLP(sizes, dtype=np.dtype(dtype).name, seed=seed)
    return [p.copy() for both in zip(model.weights, model.biases, strict=True) for p in both]


def difference(actual, expected):
    """Return the largest max|actual - expected| / max|expected| of two arrays or of the arrays in two tuples."""
    if not isinstance(expected, (tuple, list)):
        actual, expected = [actual], [expected]
    return max(
        float(np.max(np.abs(np.subtract(a, e, dtype=np.float64)))) / (float(np.max(np.abs(e))) or 1.0)
        for a, e in zip(actual, expected, strict=True)
    )


def check(actual, expected, dtype, what="the result"):
    """Raise AssertionError with the difference if a result is NaN or differs from the plain formulas'."""
    found = difference(actual, expected)
    if not found <= TOLERANCE[np.dtype(dtype).name]:
        raise AssertionError(f"{what} differs from the plain formulas by {found:.1e}: not timed")


def available_bytes():
    """Return the memory that this process may still allocate, or None if the system does not tell."""
    free = []
    try:
        words = Path("/proc/meminfo").read_text().split()
        free.append(int(words[words.index("MemAvailable:") + 1]) * 1024)
        used, limit = (Path("/sys/fs/cgroup", name).read_text() for name in ("memory.current", "memory.max"))
        free.append(int(limit) - int(used))
    except (OSError, ValueError):  # not Linux, or a control group without a limit
        pass
    return min(free, default=None)


def plain_step(layers, x, y, alpha=0.1):
    """Return a function that takes one step of the notebook's formulas, for layers [W1, b1, W2, b2, ...]."""
    weights, biases = layers[::2], layers[1::2]

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
    """Return a function that takes one step of the model: loss, gradient and update."""
    grad = np.empty_like(model.parameters)

    def step():
        model.loss_and_grad(packed, labels, out=grad)
        return model.parameters - model.dtype.type(alpha) * grad

    return step


def pair(sizes, x, labels, packed, dtype=np.float64):
    """Return the plain and the packed step of one net on the same data, after checking that they agree."""
    model = fastmlp.MLP(sizes, dtype=np.dtype(dtype).name, seed=0)
    y = formulas.one_hot(labels, sizes[-1]).astype(dtype)
    plain, ours = plain_step(parameters(sizes, dtype), x, y), packed_step(model, packed, labels)
    expected, actual = np.concatenate([p.ravel() for p in plain()]), ours()
    check(actual, expected, dtype, f"the step of {sizes}")
    return plain, ours


def notebook_turn(functions, layers, x, y, alpha=0.1):
    """Run one iteration of the notebook's loop with a module of functions; return the cost and the new layers."""
    w1, b1, w2, b2 = layers
    a1, z1, a2, z2 = functions.Forwardprop(x, w1, w2, b1, b2)
    cost = functions.compute_cost(a2, y)
    gradients = functions.backward_prop(z1, a1, z2, a2, w1, w2, x, y)
    return float(cost), functions.update_params(w1, b1, w2, b2, *gradients, alpha)


def notebook_training(functions, layers, x, y, epochs):
    """Return the costs of ``epochs`` iterations of the notebook's loop."""
    costs = []
    for _ in range(epochs):
        cost, layers = notebook_turn(functions, layers, x, y)
        costs.append(cost)
    return costs


def notebook_loop(functions, x, y, sizes=(784, 128, 10)):
    """Return a function that runs the first iteration of the notebook's loop with a module of functions."""
    layers = parameters(sizes, np.float64)
    return lambda: notebook_turn(functions, layers, x, y)[1]
