"""The kernels below the public functions: twins, shells, bits, compiled signatures."""

import ast
import inspect
import os
import sys
import textwrap

import naive
import numpy as np
import pytest
from compare import assert_close, assert_same_bits, assert_softmax

import fastmlp

pytestmark = pytest.mark.kernels

CARD = ["relu_mask", "softmax_columns", "softmax_cross_entropy_grad", "bias_sum"]


def kernel_arguments(rng, dtype, h=9, m=133):
    """Return {kernel: [outputs and inputs]} with outputs full of garbage."""

    def garbage(*shape):
        return np.full(shape, np.nan, dtype)

    z = rng.standard_normal((h, m)).astype(dtype)
    y = naive.one_hot(rng.integers(h, size=m), h).astype(dtype)
    bias = rng.standard_normal((h, 1)).astype(dtype)
    weight = rng.random(m).astype(dtype)
    p = naive.softmax(z).astype(dtype)
    return {
        "one_hot": [garbage(h, m), rng.integers(h, size=m)],
        "relu": [garbage(h * m), z.ravel()],
        "relu_mask": [z.copy(), garbage(h, m), np.ones((h, m), bool), bias],
        "softmax_columns": [garbage(h, m), z],
        "softmax_cross_entropy_grad": [garbage(h, m), garbage(m), garbage(m), z, y, weight],
        "output_delta": [garbage(h, m), p, y],
        "bias_sum": [garbage(h, 1), z],
        "_costs": [np.empty(0), p.ravel(), m, 1, y.ravel(), m, 1, m],
        "update": [garbage(h * m), z.ravel(), p.ravel(), dtype.type(0.1)],
    }


NAMES = list(kernel_arguments(np.random.default_rng(), np.dtype(float)))


def copies(args):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in args]


@pytest.fixture(params=["compiled", "reference"])
def kernels(request):
    return request.getfixturevalue(request.param)


def public(module):
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "").startswith("fastmlp")
    }


@pytest.mark.numba
def test_both_backends_have_the_same_names_and_signatures(compiled, reference):
    ours = {
        n: v
        for n, v in public(compiled).items()
        if n not in ("Kernel", "LargeKernel", "Lists", "Packed", "Problem", "cache_statistics")
    }
    assert set(ours) == set(public(reference))
    assert set(CARD) <= set(ours)
    for name, function in ours.items():
        twin = getattr(reference, name)
        assert list(inspect.signature(function).parameters) == list(inspect.signature(twin).parameters), name


@pytest.mark.numba
def test_kernels_never_raise_or_assert(compiled):
    """Whatever Numba compiles: kernels, the bodies that are given to large ones, and what these call."""
    modules = [module for name, module in sys.modules.items() if name.startswith("fastmlp.kernels.")]
    dispatchers = [one for module in modules for one in vars(module).values()]
    dispatchers += [one for kernel in compiled.launch.KERNELS.values() for one in kernel.dispatchers()]
    dispatchers += compiled.runtime.SINGLE.values()
    functions = {one.py_func for one in dispatchers if isinstance(one, compiled.numba.core.dispatcher.Dispatcher)}
    names = {one.__name__ for one in functions}
    assert {"_units_of", "_mean_of", "_outputs_of", "_fill_of", "_few_of", "forward_lists", "_leaf"} <= names
    for function in functions:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            assert not isinstance(node, ast.Raise | ast.Assert | ast.Try | ast.Dict | ast.List), function.__name__


@pytest.mark.numba
@pytest.mark.parametrize("parallel", [False, True])
def test_what_one_worker_of_a_large_kernel_raises_is_raised_when_all_are_done(compiled, parallel):
    numba = compiled.numba

    def body(out, worker, workers):
        out[worker] = workers
        if worker == 1:
            raise ZeroDivisionError("in one worker")

    @numba.njit
    def shell(launcher, address, out, workers):
        compiled.vector.spread(launcher, address, (out,), workers)

    out = np.zeros(3, np.int64)
    address = compiled.runtime.address_of(numba.njit(body), (numba.typeof(out), numba.int64, numba.int64))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="in one worker"):
            shell(compiled.launch._launcher() if parallel else 0, address, out, 3)
        assert out.tolist() == [3, 3, 3]
    shell(compiled.launch._launcher() if parallel else 0, address, out[:1], 1)
    assert out.tolist() == [1, 3, 3]


@pytest.mark.numba
def test_a_large_kernel_counts_no_references_to_what_its_workers_share(compiled):
    numba = compiled.numba

    @numba.extending.intrinsic
    def owner(typingctx, array):
        def codegen(context, builder, sig, args):
            found = context.make_array(sig.args[0])(context, builder, args[0]).meminfo
            return builder.ptrtoint(found, context.get_value_type(sig.return_type))

        return numba.int64(array), codegen

    @numba.njit
    def body(out, nested, worker, workers):
        out[:] = (owner(out), owner(nested[0]), owner(nested[1][0]))

    @numba.njit
    def shell(address, out, nested):
        compiled.vector.spread(0, address, (out, nested), 1)
        return owner(out)

    out, nested = np.ones(3, np.int64), (np.ones((2, 2)), (np.ones(1), 1))
    types = (*map(numba.typeof, (out, nested)), numba.int64, numba.int64)
    assert shell(compiled.runtime.address_of(body, types), out, nested) != 0
    assert out.tolist() == [0, 0, 0]


@pytest.mark.numba
@pytest.mark.skipif(bool(os.environ.get("NUMBA_BOUNDSCHECK")), reason="an IndexError inside prange is swallowed")
@pytest.mark.parametrize("name", NAMES)
def test_parallel_and_serial_shells_give_the_same_bits(compiled, rng, dtype, name):
    for m in (1, 64, 133, 2000):
        args = kernel_arguments(rng, dtype, m=m)[name]
        kernel = compiled.launch.KERNELS[name]
        if name == "_costs":  # float64 for either dtype, one for each block of samples
            args[0] = np.full(-(-m // compiled.tuning.COST_BLOCK), np.nan)
        expected = copies(args)
        kernel.serial(*expected, 1)
        for workers in (1, 2, 3, 8):
            actual = copies(args)
            kernel.parallel(*actual, workers)
            for one, other in zip(actual[: kernel.outputs], expected[: kernel.outputs], strict=True):
                assert_same_bits(one, other)


@pytest.mark.parametrize("m", [1, 3, 64, 133])
def test_relu_mask(kernels, rng, dtype, m):
    z, a, mask, bias = kernel_arguments(rng, dtype, m=m)["relu_mask"]
    z[0, 0] = -bias[0, 0]  # a tie: zero is not above zero
    expected = z + bias
    kernels.relu_mask(z, a, mask, bias)
    assert_same_bits(z, expected)
    assert_same_bits(a, np.maximum(0, expected))
    assert_same_bits(mask, expected > 0)
    z -= bias
    shifted = z + bias
    kernels.relu_mask(z, z, mask, bias)  # in place, as the NumPy backend does
    assert_same_bits(z, np.maximum(0, shifted))


@pytest.mark.parametrize("h", [1, 2, 10, 1000])
def test_softmax_columns(kernels, rng, dtype, h):
    out, z = kernel_arguments(rng, dtype, h=h, m=5)["softmax_columns"]
    kernels.softmax_columns(out, z)
    assert_softmax(out, z, naive.softmax(z))


@pytest.mark.parametrize("h", [1, 2, 10, 1000])
def test_softmax_cross_entropy_grad(kernels, rng, dtype, h):
    dz, loss, hit, z, y, weight = kernel_arguments(rng, dtype, h=h, m=21)["softmax_cross_entropy_grad"]
    soft = naive.softmax(rng.standard_normal(y.shape)).astype(dtype) * dtype.type(0.75)
    for target in (y, soft):
        kernels.softmax_cross_entropy_grad(dz, loss, hit, z, target, weight)
        wide, p = target.astype(naive.WIDE), naive.softmax(z)
        assert_close(dz, (p * wide.sum(axis=0) - wide) * weight, "product", dtype)
        assert_close(loss, weight * -(wide * np.log(p)).sum(axis=0), "product", dtype)
        right = target[z.argmax(axis=0), np.arange(21)] == target.max(axis=0)
        assert_same_bits(hit, (weight * right).astype(dtype))


def test_softmax_cross_entropy_grad_where_probabilities_underflow(kernels, dtype):
    z = np.array([[0.0, 5000.0], [3000.0, 0.0]], dtype)
    y = np.array([[1.0, 1.0], [0.0, 0.0]], dtype)
    dz, loss, hit = np.empty_like(z), np.empty(2, dtype), np.empty(2, dtype)
    kernels.softmax_cross_entropy_grad(dz, loss, hit, z, y, np.ones(2, dtype))
    np.testing.assert_array_equal(loss, [3000, 0])
    np.testing.assert_array_equal(dz, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(hit, [0, 1])


def test_the_first_nan_counts_as_the_largest_logit(kernels, rng, dtype):
    """As np.argmax says: a target is hit where it is the first of two."""
    z = rng.standard_normal((5, 4)).astype(dtype)
    z[1], z[3] = np.nan, (np.nan, np.nan, np.inf, np.nan)
    y = naive.one_hot([1, 3, 1, 0], 5).astype(dtype)
    hit = np.empty(4, dtype)
    kernels.softmax_cross_entropy_grad(np.empty_like(z), np.empty(4, dtype), hit, z, y, np.ones(4, dtype))
    np.testing.assert_array_equal(hit, [1, 0, 1, 0])


def test_an_infinite_loss_counts_only_where_there_is_a_target(kernels, rng, dtype):
    z = rng.standard_normal((4, 3)).astype(dtype)
    z[2] = -np.inf
    y = np.array([[1, 0.5, 0], [0, 0.5, 0], [0, 0, 0.5], [0, 0, 0.5]], dtype)
    dz, loss, hit = np.empty_like(z), np.empty(3, dtype), np.empty(3, dtype)
    kernels.softmax_cross_entropy_grad(dz, loss, hit, z, y, np.ones(3, dtype))
    p, there = naive.softmax(z), [0, 1, 3]
    assert_close(loss[:2], -(y[there, :2] * np.log(p[there, :2])).sum(axis=0), "product", dtype)
    assert loss[2] == np.inf
    assert_close(dz, p - y, "product", dtype)


@pytest.mark.parametrize("m", [1, 2, 511, 512, 513, 5000])
def test_bias_sum(kernels, rng, dtype, m):
    out, dz = kernel_arguments(rng, dtype, m=m)["bias_sum"]
    kernels.bias_sum(out, dz)
    assert_close(out, dz.astype(naive.WIDE).sum(axis=1, keepdims=True), "product", dtype)


def test_bias_sum_of_a_row_that_cancels(kernels, rng, dtype):
    """The gradient of a bias is such a sum; single precision would leave nothing of it."""
    dz = (np.array([1, 1, -1, -1] * 1250) * 1e3 + rng.random((3, 5000))).astype(dtype)
    out = np.empty((3, 1), dtype)
    kernels.bias_sum(out, dz)
    assert_close(out, dz.astype(naive.WIDE).sum(axis=1, keepdims=True), "sum", dtype)


def test_the_last_chunk_of_a_step_may_be_one_sample(backend, reference, rng, dtype):
    m, sizes = reference._CHUNK + 1, (3, 2)
    model = fastmlp.MLP(sizes, dtype=dtype.name)
    x, labels = rng.standard_normal((3, m)).astype(dtype), rng.integers(2, size=m)
    weight = np.ones(m)
    weight[-1] = m  # as much as all others together
    loss, grad = model.loss_and_grad(x, labels, weight)
    wanted_loss, wanted = naive.loss_and_grad(model.parameters, sizes, x, naive.one_hot(labels, 2), weight)
    assert_close(np.asarray(loss, dtype), wanted_loss, "product", dtype)
    assert_close(grad, wanted, "product", dtype)


@pytest.mark.numba
def test_an_exception_leaves_a_layer_that_is_not_thread_safe_free(compiled, monkeypatch):
    def fail(workers):
        raise KeyboardInterrupt

    calls = []
    monkeypatch.setattr(compiled.launch, "_layer_is_threadsafe", lambda: False)
    with pytest.raises(KeyboardInterrupt):
        compiled.launch._launch(fail, fail, 2, ())
    compiled.launch._launch(lambda workers: calls.append("serial"), lambda workers: calls.append("parallel"), 2, ())
    assert calls == ["parallel"]
