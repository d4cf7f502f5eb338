"""Ten epochs from uint8 images: time, and peak memory of the process."""

import fastmlp
from benchmarks import problems, suite

EPOCHS = 10


def training_of(implementation, m, dtype):
    """Return a function that trains ten epochs from uint8 images, including packing or division; it returns the costs.

    Float copies of the images are made inside, because their memory is part of the figure.
    """
    codes, labels = suite.codes_and_labels(m)
    if implementation == "packed":
        suite.choose_backend("numba")

        def train():
            model = fastmlp.MLP(suite.SIZES, dtype=dtype, seed=0)
            return model.fit(fastmlp.pack(codes, scale=1 / 255), labels, epochs=EPOCHS).loss

    else:
        functions = suite.functions(implementation)

        def train():
            layers = problems.parameters(suite.SIZES, dtype)
            return problems.notebook_training(functions, layers, *suite.arrays(m, dtype), EPOCHS)

    return train


class TenEpochs(suite.Suite):
    params = (["plain", "numpy", "numba", "packed"], suite.DTYPES, suite.sample_counts(1000, 60_000))
    param_names = ("implementation", "dtype", "m")

    def setup_cache(self):
        """Also store the costs of the plain formulas: computing them later would raise the measured peak memory."""
        super().setup_cache()
        return {(dtype, m): training_of("plain", m, dtype)() for dtype in suite.DTYPES for m in self.params[2]}

    setup_cache.timeout = 600

    def prepare(self, expected, implementation, dtype, m):
        suite.need_memory(m, dtype)
        self.train = training_of(implementation, m, dtype)
        problems.check([self.train()], [expected[dtype, m]], dtype, "the costs of ten epochs")

    def time_fit(self, *cell):
        self.train()

    def peakmem_fit(self, *cell):
        self.train()
