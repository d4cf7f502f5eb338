"""The elementwise kernels of a step, on whole arrays: plain NumPy expressions, and the kernels of both backends."""

import importlib

import numpy as np

from benchmarks import problems, suite
from fastmlp import formulas

H, C = suite.SIZES[1:]


def relu(rng, m, dtype):
    z = rng(H * m)
    return lambda: (np.maximum(0, z),), (np.empty_like(z),), (z,)


def softmax_columns(rng, m, dtype):
    z = rng((C, m))
    return lambda: (formulas.Softmax(z),), (np.empty_like(z),), (z,)


def softmax_cross_entropy_grad(rng, m, dtype):
    z, weight = rng((C, m)), np.ones(m, dtype)
    y = formulas.one_hot(np.arange(m) % C).astype(dtype)

    def plain():
        p = formulas.Softmax(z)
        return p - y, -np.sum(y * np.log(p), axis=0), (np.argmax(p, axis=0) == np.argmax(y, axis=0)).astype(dtype)

    return plain, (np.empty_like(z), np.empty_like(weight), np.empty_like(weight)), (z, np.ascontiguousarray(y), weight)


def output_delta(rng, m, dtype):
    a, y = rng((C, m)), rng((C, m))
    return lambda: (a - y,), (np.empty_like(a),), (a, y)


def update(rng, m, dtype):
    w, dw, alpha = rng(H * m), rng(H * m), np.dtype(dtype).type(0.1)
    return lambda: (w - alpha * dw,), (np.empty_like(w),), (w, dw, alpha)


KERNELS = {make.__name__: make for make in (relu, softmax_columns, softmax_cross_entropy_grad, output_delta, update)}
MODULES = {"numpy": "fastmlp.kernels.reference", "numba": "fastmlp.kernels.compiled"}


class Kernels(suite.Suite):
    """`relu` and `update` are given as many elements as the hidden layer has activations."""

    params = (["plain", *MODULES], list(KERNELS), suite.DTYPES, suite.sample_counts(100, 1000, 60_000))
    param_names = ("implementation", "kernel", "dtype", "m")

    def prepare(self, implementation, kernel, dtype, m):
        generator = np.random.default_rng(0)
        self.call, outputs, inputs = KERNELS[kernel](
            lambda shape: generator.standard_normal(shape).astype(dtype), m, dtype
        )
        if implementation == "plain":
            return
        expected = self.call()
        suite.choose_backend(implementation)
        function = getattr(importlib.import_module(MODULES[implementation]), kernel)
        function(*outputs, *inputs)
        problems.check(outputs, expected, dtype, kernel)
        self.call = lambda: function(*outputs, *inputs)

    def time_call(self, *cell):
        self.call()
