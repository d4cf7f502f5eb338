"""Methods of training, for tests in this process and in others, and a naive version of each."""

import naive
import numpy as np

from fastmlp.optimizers import LBFGS, SGD, Adam, AdamW

OPTIMIZERS = {
    "descent": None,
    "SGD": SGD(0.05),
    "momentum": SGD(0.05, momentum=0.9),
    "Nesterov": SGD(0.05, momentum=0.8, nesterov=True),
    "Adam": Adam(0.02),
    "AdamW": AdamW(0.02, weight_decay=0.1),
    "L-BFGS": LBFGS(),
}
ON_BATCHES = [name for name in OPTIMIZERS if name != "L-BFGS"]
SHUFFLES = ["samples", "batches", False]

# The options of `fit` for each optimizer on the full batch, and on batches in each order.
METHODS = {name: {"optimizer": optimizer} for name, optimizer in OPTIMIZERS.items()} | {
    f"{name}, {shuffle}": {"optimizer": OPTIMIZERS[name], "batch_size": 64, "shuffle": shuffle}
    for name in ON_BATCHES
    for shuffle in SHUFFLES
}


class NaiveTraining:
    """Training on batches, update by update, in extended precision."""

    def __init__(self, net, x, y, *, weight=None, l2=0.0, clip=None):
        self.sizes, self.x, self.y, self.l2, self.clip = net.layer_sizes, x, y, l2, clip
        self.weight = np.ones(y.shape[1]) if weight is None else weight
        self.p = net.parameters.astype(naive.WIDE)
        self.m, self.v, self.t = np.zeros_like(self.p), np.zeros_like(self.p), 0
        self.is_weight = np.concatenate(
            [[True] * w.size + [False] * b.size for w, b in zip(net.weights, net.biases, strict=True)]
        )

    def update(self, batch, optimizer, rate=None):
        """Update on the samples of a batch; return their loss and weight."""
        self.t += 1
        weight = self.weight[batch]
        if weight.sum() == 0:
            return 0.0, 0.0
        loss, g = naive.loss_and_grad(self.p, self.sizes, self.x[:, batch], self.y[:, batch], weight)
        g = g + self.l2 * self.p * self.is_weight
        norm = np.sqrt((g * g).sum())
        if self.clip is not None and norm > self.clip:
            g = g * (self.clip / norm)
        rate = optimizer.learning_rate if rate is None else rate
        if isinstance(optimizer, Adam):
            self._adam(g, optimizer, rate)
        elif optimizer is not None:
            self.v = optimizer.momentum * self.v + g
            self.p = self.p - rate * (g + optimizer.momentum * self.v if optimizer.nesterov else self.v)
        else:
            self.p = self.p - rate * g
        return float(loss), float(weight.sum())

    def _adam(self, g, optimizer, rate):
        b1, b2 = optimizer.beta1, optimizer.beta2
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        m, v = self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)
        if isinstance(optimizer, AdamW):
            self.p = self.p * (1 - rate * optimizer.weight_decay)
        self.p = self.p - rate * m / (np.sqrt(v) + optimizer.epsilon)


def naive_epoch(m, batch_size, shuffle, seed, number):
    """Return the batches of an epoch as lists of samples."""
    size = m if batch_size is None else batch_size
    order = list(range(m))
    if batch_size is not None and shuffle:
        order = np.random.RandomState([seed, number if shuffle == "samples" else 0]).permutation(m).tolist()
    batches = [order[first : first + size] for first in range(0, m, size)]
    if batch_size is not None and shuffle == "batches":
        batches = [batches[i] for i in np.random.RandomState([seed, number]).permutation(len(batches))]
    return batches
