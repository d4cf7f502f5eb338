"""Samples that are the columns of a matrix stored by rows, as the notebook has them after pandas: bits as of any X."""

import naive
import numpy as np
import pytest
from compare import assert_close, assert_same_bits

import fastmlp
from fastmlp import Forwardprop, backward_prop

# How X is stored: by rows, without or with other columns beside them, and in ways that are copied by NumPy.
STORED = {
    "by rows": np.ascontiguousarray,
    "columns of a larger one": lambda x: np.pad(x, ((0, 0), (3, 5)))[:, 3:-5],
    "rows of a larger one": lambda x: np.pad(x, ((2, 1), (0, 0)))[2:-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
}
READ_IN_PLACE = ("by rows", "columns of a larger one", "rows of a larger one")


def loop(x, y, parameters):
    w1, b1, w2, b2 = parameters
    a1, z1, a2, z2 = Forwardprop(x, w1, w2, b1, b2)
    return a1, z1, a2, z2, *backward_prop(z1, a1, z2, a2, w1, w2, x, y)


def problem(rng, dtype, n, m, density):
    x = np.asfortranarray(rng.standard_normal((n, m)) * (rng.random((n, m)) < density), dtype)
    y = naive.one_hot(rng.integers(4, size=m), 4).astype(dtype)
    return x, y, [rng.standard_normal(shape).astype(dtype) for shape in ((9, n), (9, 1), (4, 9), (4, 1))]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_the_notebooks_functions(compiled, rng, dtype, stored, density):
    # Around the blocks of vectors, and of what is copied at a time; those that NumPy copies need fewer.
    shapes = [(7, 2073), (33, 127), (1, 121), (2, 145), (101, 2161), (2001, 300)]
    for n, m in shapes if stored in READ_IN_PLACE else shapes[:2]:
        x, y, parameters = problem(rng, dtype, n, m, density)
        expected = loop(x, y, parameters)
        assert_close(expected[1], naive.forward(x, *(parameters[k] for k in (0, 2, 1, 3)))[1], "product")
        for threads in {1, fastmlp.get_num_threads()} if m > 2000 else {1}:
            with fastmlp.use_threads(threads):
                for one, other in zip(loop(STORED[stored](x), y, parameters), expected, strict=True):
                    assert_same_bits(one, other)


@pytest.mark.parametrize("where", [0, 2], ids=["hidden weights", "output weights"])
def test_weights_that_are_not_finite(compiled, rng, dtype, where):
    x, y, parameters = problem(rng, dtype, 33, 2161, 0.2)
    parameters[where][1, 2] = np.inf
    with np.errstate(invalid="ignore"):
        for one, other in zip(loop(x.copy("C"), y, parameters), loop(x, y, parameters), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("minibatches", [False, True])
def test_packing(compiled, rng, dtype, stored, minibatches):
    for density in (0.2, 1.0):
        x, y, _ = problem(rng, dtype, 33, 9011, density)
        found = []
        for given in (x, STORED[stored](x)):
            net = fastmlp.MLP((33, 9, 4), dtype=dtype.name, seed=1)
            batches = {"batch_size": 500, "optimizer": fastmlp.optimizers.Adam()} if minibatches else {}
            net.fit(fastmlp.pack(given, minibatches=minibatches), y, epochs=2, progress=False, **batches)
            found.append(net.parameters)
        assert_same_bits(*found)


def test_neither_function_copies_all_of_x(compiled, rng):
    """A copy would take as much memory as X, which the notebook's user has chosen to fill the machine."""
    tracemalloc = pytest.importorskip("tracemalloc")
    x, y, parameters = problem(rng, np.dtype(float), 400, 30_000, 0.2)
    x = np.ascontiguousarray(x)
    loop(x[:, :3000], y[:, :3000], parameters)
    tracemalloc.start()
    try:
        results = loop(x, y, parameters)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - sum(one.nbytes for one in results) < x.nbytes / 4
