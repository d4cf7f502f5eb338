"""The full step (loss, gradient and update) for few and many samples, and for different numbers of threads."""

import numpy as np
from threadpoolctl import threadpool_limits

import fastmlp
from benchmarks import problems, suite
from benchmarks.timing import ratio

IMPLEMENTATIONS = ["plain", "numpy", "numba", "packed"]


def flat(layers):
    """Return the layers as one vector."""
    return np.concatenate([layer.ravel() for layer in layers])


def step_of(implementation, m, dtype):
    """Return a function that takes a step with the notebook's functions or, if "packed", the model; it returns layers.

    The layers come as one vector.
    """
    if implementation == "packed":
        suite.choose_backend("numba")
        codes, labels = suite.codes_and_labels(m)
        model = fastmlp.MLP(suite.SIZES, dtype=dtype, seed=0)
        return problems.packed_step(model, fastmlp.pack(codes, scale=1 / 255), labels)
    functions, layers = suite.functions(implementation), problems.parameters(suite.SIZES, dtype)
    x, y = suite.arrays(m, dtype)
    return lambda: flat(problems.notebook_turn(functions, layers, x, y)[1])


class _Steps(suite.Suite):
    def prepare(self, implementation, dtype, m):
        self.plain = step_of("plain", m, dtype)
        self.step = step_of(implementation, m, dtype)
        problems.check(self.step(), self.plain(), dtype, "the step")


class Step(_Steps):
    params = (IMPLEMENTATIONS, suite.DTYPES, suite.sample_counts(1, 10, 100, 1000, 10_000, 60_000))
    param_names = ("implementation", "dtype", "m")

    def time_step(self, *cell):
        self.step()


class StepAgainstPlain(_Steps):
    """Lower is better for both figures, as asv expects."""

    params = (IMPLEMENTATIONS[1:], suite.DTYPES, suite.sample_counts(1, 100, 60_000))
    param_names = ("implementation", "dtype", "m")

    def track_largest_difference(self, implementation, dtype, m):
        return problems.difference(self.step(), self.plain()) / float(np.finfo(dtype).eps)

    track_largest_difference.unit = "eps of the largest entry"

    def track_time_ratio(self, *cell):
        return 1 / ratio(self.plain, self.step, suite.ROUNDS)

    track_time_ratio.unit = "of the plain formulas' time"


class Threads(_Steps):
    params = (
        IMPLEMENTATIONS,
        suite.DTYPES,
        [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= suite.CORES],
        suite.sample_counts(60_000),
    )
    param_names = ("implementation", "dtype", "threads", "m")

    def prepare(self, implementation, dtype, threads, m):
        fastmlp.set_num_threads(threads)  # before the first call, which compiles the serial or the parallel kernel
        threadpool_limits(threads, user_api="blas")  # for the plain formulas, which fastmlp does not control
        super().prepare(implementation, dtype, m)

    def time_step(self, *cell):
        self.step()
