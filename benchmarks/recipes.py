"""How minibatches are trained in the benchmarks: data, recipes, and a plain NumPy version of each recipe."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks import problems
from fastmlp import formulas, optimizers
from fastmlp.datasets import digits
from fastmlp.schedules import constant, one_cycle

EPSILON = 1e-8


class Task(NamedTuple):
    """Samples to train on and to test, as columns: x (n, m) uint8 or float32, labels (m,); and the layers' sizes.

    A net sees ``scale * x``.
    """

    x: Any
    labels: Any
    test_x: Any
    test_labels: Any
    scale: float
    sizes: tuple[int, ...]

    def layers(self, seed):
        """Return the initial [W1, b1, W2, b2] (Glorot's), float32."""
        return problems.parameters(self.sizes, np.float32, seed)

    def loss(self, layers):
        """Return the mean cross-entropy of the samples, computed in float64."""
        return float(formulas.compute_cost(_outputs(layers, self.x * self.scale), formulas.one_hot(self.labels)))

    def accuracy(self, layers):
        """Return the share of the test samples that are classified correctly."""
        logits = _outputs(layers, np.multiply(self.test_x, self.scale, dtype=np.float32))
        return float(np.mean(np.argmax(logits, axis=0) == self.test_labels))


def _outputs(layers, x):
    w1, b1, w2, b2 = layers
    return formulas.Forwardprop(x, w1, w2, b1, b2)[2]


class Recipe(NamedTuple):
    """The arguments of `MLP.fit`: batches are drawn once ("batches"), or are those of the given order (False)."""

    batch_size: int
    optimizer: Any
    shuffle: str | bool = "batches"

    def updates(self, m):
        """Return the number of updates in an epoch of m samples."""
        return -(-m // self.batch_size)

    def samples(self, m, seed):
        """Return the order of the samples (m,) from which the batches are cut."""
        return np.random.default_rng(seed).permutation(m) if self.shuffle else np.arange(m)

    def order(self, m, epoch, seed):
        """Return the order of the batches in an epoch, from 0."""
        count = self.updates(m)
        return np.random.default_rng([seed, epoch]).permutation(count) if self.shuffle else np.arange(count)

    def rates(self, m, epochs):
        """Return the learning rate of each update, float64 (epochs, updates)."""
        count = epochs * self.updates(m)
        rate = self.optimizer.learning_rate
        rates = [rate(update, count) if callable(rate) else rate for update in range(1, count + 1)]
        return np.reshape(rates, (epochs, -1))

    def numbers(self, m, epochs):
        """Return the rate and both decay rates to the power of the update, float32 (epochs, updates, 3)."""
        rates = self.rates(m, epochs)
        update = np.arange(1, rates.size + 1).reshape(rates.shape)
        powers = (beta**update for beta in (self.optimizer.beta1, self.optimizer.beta2))
        return np.stack([rates, *powers], axis=-1).astype(np.float32)

    def arranged(self, task, seed):
        """Return the batches: samples (u, b, n), labels (u, b), and each sample's share of its batch's loss (u, b).

        The last batch is filled up with samples that have no share, because compilers want batches of one size.
        """
        m, b = len(task.labels), self.batch_size
        cut = (self.updates(m), b)
        order = np.resize(self.samples(m, seed), cut)
        share = (np.arange(order.size) < m).reshape(cut) * np.float32(1)
        return task.x.T[order], task.labels[order], share / share.sum(axis=1, keepdims=True)


def adam(batch_size, peak, warmup):
    """Return Adam with a rate that rises to its peak and falls to zero, on batches that are drawn once."""
    return Recipe(batch_size, optimizers.Adam(one_cycle(peak, warmup), beta2=0.99))


# The recipes of shared measurements: 784-128-10 on MNIST in 2 to 3 epochs, 64-128-10 on the digits in 5 to 10.
EPOCH = {batch: adam(batch, 8e-3, 0.1) for batch in (32, 64, 128, 256, 1024)}
MNIST = {"batch 64, peak 0.006": adam(64, 6e-3, 0.2), "batch 128, peak 0.008": adam(128, 8e-3, 0.1)}
DIGITS = {"batch 32, peak 0.01": adam(32, 1e-2, 0.2), "batch 64, peak 0.015": adam(64, 1.5e-2, 0.2)}
PLAIN = Recipe(128, optimizers.Adam(constant(1e-3)), shuffle=False)


def images(samples):
    """Return the first samples of MNIST, or similar images if FASTMLP_DATA is not set."""
    train, test, _ = problems.image_sets(samples)
    return Task(*train, *test, 1 / 255, (784, 128, 10))


def dense(samples):
    """Return as many standard-normal samples, without zeros, as MNIST has."""
    x, labels = problems.normal(784, samples, np.float32)
    return Task(x, labels, x[:, :100], labels[:100], 1.0, (784, 128, 10))


def small_digits(samples):
    """Return the 8x8 digits of scikit-learn."""
    (x, y), (test_x, test_y) = digits.load_data()
    x, test_x = (np.ascontiguousarray(a.reshape(len(a), -1)).T for a in (x, test_x))
    return Task(x, y.astype(np.int64), test_x, test_y.astype(np.int64), 1 / digits.MAX_VALUE, (64, 128, 10))


def train_plainly(task, recipe, epochs, seed):
    """Return [W1, b1, W2, b2] after training with the formulas of the notebook and of the optimizer, in float64."""
    layers, m = [p.astype(np.float64) for p in task.layers(seed)], len(task.labels)
    samples, y, rates = recipe.samples(m, seed), formulas.one_hot(task.labels), recipe.rates(m, epochs).ravel()
    state = [[np.zeros_like(p), np.zeros_like(p)] for p in layers]
    step = _descend if isinstance(recipe.optimizer, optimizers.SGD) else _adapt
    batches = np.concatenate([recipe.order(m, epoch, seed) for epoch in range(epochs)])
    for update, (k, rate) in enumerate(zip(batches, rates, strict=True), start=1):
        batch = samples[k * recipe.batch_size : (k + 1) * recipe.batch_size]
        gradients = _gradients(layers, task.x[:, batch] * task.scale, y[:, batch])
        for p, both, g in zip(layers, state, gradients, strict=True):
            step(recipe.optimizer, p, both, g, rate, update)
    return layers


def _gradients(layers, x, y):
    w1, b1, w2, b2 = layers
    a1, z1, a2, z2 = formulas.Forwardprop(x, w1, w2, b1, b2)
    return formulas.backward_prop(z1, a1, z2, a2, w1, w2, x, y)


def _descend(optimizer, p, both, g, rate, update):
    velocity = both[0]
    velocity[...] = optimizer.momentum * velocity + g
    p -= rate * (g + optimizer.momentum * velocity if optimizer.nesterov else velocity)


def _adapt(optimizer, p, both, g, rate, update):
    first, second = both
    first[...] = optimizer.beta1 * first + (1 - optimizer.beta1) * g
    second[...] = optimizer.beta2 * second + (1 - optimizer.beta2) * g**2
    p *= 1 - rate * getattr(optimizer, "weight_decay", 0)
    root = np.sqrt(second / (1 - optimizer.beta2**update))
    p -= rate * first / (1 - optimizer.beta1**update) / (root + EPSILON)
