"""The notebook's functions, one by one: the plain formulas, both backends, and their ratios."""

import functools

import numpy as np

from benchmarks import problems, suite
from benchmarks.timing import ratio
from fastmlp import formulas

FUNCTIONS = ["one_hot", "ReLU", "Softmax", "Forwardprop", "compute_cost", "backward_prop", "update_params"]


def arguments(function, m, dtype):
    """Return the arguments that the notebook passes to a function in its first iteration."""
    if function == "one_hot":
        return (suite.codes_and_labels(m)[1],)
    x, y = suite.arrays(m, dtype)
    w1, b1, w2, b2 = problems.parameters(suite.SIZES, dtype)
    if function == "Forwardprop":
        return x, w1, w2, b1, b2
    a1, z1, a2, z2 = formulas.Forwardprop(x, w1, w2, b1, b2)
    if function == "update_params":
        return w1, b1, w2, b2, *formulas.backward_prop(z1, a1, z2, a2, w1, w2, x, y)
    return {
        "ReLU": (z1,),
        "Softmax": (z2,),
        "compute_cost": (a2, y),
        "backward_prop": (z1, a1, z2, a2, w1, w2, x, y),
    }[function]


class _Functions(suite.Suite):
    param_names = ("implementation", "function", "dtype", "m")

    def prepare(self, implementation, function, dtype, m):
        if function == "one_hot" and dtype == "float32":
            raise NotImplementedError("one_hot always returns float64")
        given = arguments(function, m, dtype)
        self.plain = functools.partial(getattr(formulas, function), *given)
        self.call = functools.partial(getattr(suite.functions(implementation), function), *given)
        problems.check(self.call(), self.plain(), dtype, function)


class Functions(_Functions):
    params = (["plain", "numpy", "numba"], FUNCTIONS, suite.DTYPES, suite.sample_counts(10, 1000, 60_000))

    def time_call(self, *cell):
        self.call()


class FunctionsAgainstPlain(_Functions):
    """Lower is better for both figures, as asv expects."""

    params = (["numpy", "numba"], FUNCTIONS, suite.DTYPES, suite.sample_counts(1000, 60_000))

    def track_largest_difference(self, implementation, function, dtype, m):
        return problems.difference(self.call(), self.plain()) / float(np.finfo(dtype).eps)

    track_largest_difference.unit = "eps of the largest entry"

    def track_time_ratio(self, *cell):
        return 1 / ratio(self.plain, self.call, suite.ROUNDS)

    track_time_ratio.unit = "of the plain formulas' time"
