"""Minibatches: an epoch of Adam by the size of its batches, and the update of each optimizer."""

import fastmlp
from benchmarks import problems, recipes, suite
from benchmarks.steps import flat
from fastmlp import optimizers

IMPLEMENTATIONS = ["plain", "numpy", "numba"]
OPTIMIZERS = {
    "SGD": optimizers.SGD(0.1),
    "momentum": optimizers.SGD(0.1, momentum=0.9),
    "Nesterov": optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": optimizers.Adam(1e-3),
    "AdamW": optimizers.AdamW(1e-3),
}
CHECKED = 4  # batches on which the parameters must be those of the plain formulas


def training_of(implementation, recipe, m):
    """Return a function that trains for an epoch on m samples, in float32; it returns the parameters (k,)."""
    codes, labels = suite.codes_and_labels(m)
    if implementation == "plain":
        task = recipes.Task(codes, labels, codes[:, :1], labels[:1], 1 / 255, suite.SIZES)
        return lambda: flat(recipes.train_plainly(task, recipe, 1, 0))
    suite.choose_backend(implementation)
    packed = fastmlp.pack(codes, scale=1 / 255, minibatches=True)

    def train():
        model = fastmlp.MLP(suite.SIZES, dtype="float32", seed=0)
        model.fit(packed, labels, epochs=1, progress=False, **recipe._asdict())
        return model.parameters

    return train


class _Minibatches(suite.Suite):
    def learn(self, implementation, recipe, m):
        """Check some updates in the given order, then train once, so that all is compiled."""
        plainly, ours = (
            training_of(kind, recipe._replace(shuffle=False), CHECKED * recipe.batch_size)
            for kind in ("plain", implementation)
        )
        problems.check(ours(), plainly(), "float32", "the training")
        self.train = training_of(implementation, recipe, m)
        self.train()


class Epoch(_Minibatches):
    params = (IMPLEMENTATIONS, list(recipes.EPOCH), suite.sample_counts(60_000))
    param_names = ("implementation", "batch", "m")

    def prepare(self, implementation, batch, m):
        if batch > m:
            raise NotImplementedError(f"{m} samples do not fill a batch of {batch}")
        self.learn(implementation, recipes.EPOCH[batch], m)

    def time_epoch(self, *cell):
        self.train()


class Update(_Minibatches):
    """Batches of 8 samples, so that an epoch consists of little but its 125 updates."""

    params = (IMPLEMENTATIONS, list(OPTIMIZERS))
    param_names = ("implementation", "optimizer")

    def prepare(self, implementation, optimizer):
        self.learn(implementation, recipes.Recipe(8, OPTIMIZERS[optimizer]), 1000)

    def time_updates(self, *cell):
        self.train()
