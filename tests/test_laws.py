"""Laws that need no oracle: equivalent inputs give the same results."""

import numpy as np
import pytest
from compare import TOLERANCE, assert_close, assert_same_bits, assert_softmax
from naive import softmax

import fastmlp
from fastmlp import Forwardprop, Softmax, backward_prop, compute_cost, one_hot, pack

pytestmark = pytest.mark.kernels

SIZES = (20, 9, 7, 5)
# Few samples, one tile with its leaves, several tiles with several leaves.
M = [5, 130, 1000, 2500]


@pytest.fixture(params=M)
def problem(request, rng, dtype, backend):
    """Return a model, samples with some zeros, labels and weights."""
    m = request.param
    model = fastmlp.MLP(SIZES, dtype=dtype.name)
    model.parameters = rng.standard_normal(model.parameters.size) / 3
    x = (rng.standard_normal((SIZES[0], m)) * (rng.random((SIZES[0], m)) < 0.4)).astype(dtype)
    return model, x, rng.integers(SIZES[-1], size=m), rng.integers(1, 4, size=m).astype(dtype)


def assert_same(one, other, dtype):
    """Compare (loss, gradient) pairs."""
    assert one[0] == pytest.approx(other[0], rel=TOLERANCE["product", dtype])
    assert_close(one[1], other[1], "product", dtype)


def test_permuted_samples(problem, rng, dtype):
    model, x, labels, weight = problem
    order = rng.permutation(x.shape[1])
    assert_same(
        model.loss_and_grad(x[:, order], labels[order], weight[order]), model.loss_and_grad(x, labels, weight), dtype
    )
    assert_close(model.predict_proba(x[:, order]), model.predict_proba(x)[:, order], "product", dtype)
    assert_close(model.predict_proba(pack(x[:, order])), model.predict_proba(pack(x))[:, order], "product", dtype)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_batch_is_the_weighted_mean_of_its_parts(problem, dtype, share):
    model, x, labels, weight = problem
    cut = min(max(1, int(share * x.shape[1])), x.shape[1] - 1)
    parts = [slice(None, cut), slice(cut, None)]
    share_of = [weight[part].sum() / weight.sum() for part in parts]
    losses, gradients = zip(*(model.loss_and_grad(x[:, p], labels[p], weight[p]) for p in parts), strict=True)
    mean = sum(s * one for s, one in zip(share_of, losses, strict=True))
    gradient = sum(s * one for s, one in zip(share_of, gradients, strict=True)).astype(dtype)
    assert_same(model.loss_and_grad(x, labels, weight), (mean, gradient), dtype)


def test_a_weight_counts_how_often_a_sample_is_there(problem, rng, dtype):
    """A repeated sample equals weight 2, and weight 0 equals no sample: in loss, gradient, accuracy and training."""
    model, x, labels, _ = problem
    weight = rng.integers(0, 3, size=x.shape[1])
    weight[0] = 2
    times = np.repeat(np.arange(x.shape[1]), weight)
    again = x[:, times], labels[times]
    assert_same(model.loss_and_grad(x, labels, weight), model.loss_and_grad(*again), dtype)
    twin = fastmlp.MLP(SIZES, dtype=dtype.name)
    twin.parameters = model.parameters
    one = model.fit(x, labels, epochs=3, alpha=0.1, sample_weight=weight)
    other = twin.fit(*again, epochs=3, alpha=0.1)
    assert one.loss == pytest.approx(other.loss, rel=TOLERANCE["product", dtype])
    assert one.accuracy == pytest.approx(other.accuracy, rel=TOLERANCE["product", dtype])
    assert_close(model.parameters, twin.parameters, "product", dtype)


def test_shifted_logits(problem, dtype):
    """Adding a number to all logits of a sample changes neither probabilities nor loss."""
    model, x, labels, weight = problem
    before, probabilities = model.loss_and_grad(x, labels, weight), model.predict_proba(x)
    model.biases[-1][...] += 3
    assert_same(model.loss_and_grad(x, labels, weight), before, dtype)
    assert_close(model.predict_proba(x), probabilities, "product", dtype)


def test_softmax_of_shifted_logits(backend, rng, dtype):
    """Shifts by whole numbers are exact, so the bits are the same for any shift."""
    z = rng.integers(-20, 20, size=(7, 300)).astype(dtype)
    for shift in (1, -300, 2.0**20):
        assert_same_bits(Softmax(z + dtype.type(shift)), Softmax(z))
    z = rng.standard_normal((7, 300)).astype(dtype)
    columns = rng.standard_normal(300).astype(dtype) * 100
    assert_softmax(Softmax(z + columns), z + columns, softmax(z + columns))


def test_permuted_classes(problem, rng, dtype):
    model, x, labels, weight = problem
    order = rng.permutation(SIZES[-1])
    twin = fastmlp.MLP(SIZES, dtype=dtype.name)
    twin.parameters = model.parameters
    twin.weights[-1][...], twin.biases[-1][...] = model.weights[-1][order], model.biases[-1][order]
    loss, _ = model.loss_and_grad(x, labels, weight)
    of_twin, gradient = twin.loss_and_grad(x, np.argsort(order)[labels], weight)
    assert of_twin == pytest.approx(loss, rel=TOLERANCE["product", dtype])
    assert_close(twin.predict_proba(x), model.predict_proba(x)[order], "product", dtype)
    np.testing.assert_array_equal(order[twin.predict(x)], model.predict(x))
    twin.parameters = gradient
    model.parameters = model.loss_and_grad(x, labels, weight)[1]
    assert_close(twin.weights[-1], model.weights[-1][order], "product", dtype)
    assert_close(twin.weights[0], model.weights[0], "product", dtype)


def test_permuted_features_and_units(problem, rng, dtype):
    model, x, labels, weight = problem
    features, units = rng.permutation(SIZES[0]), rng.permutation(SIZES[1])
    twin = fastmlp.MLP(SIZES, dtype=dtype.name)
    twin.parameters = model.parameters
    twin.weights[0][...] = model.weights[0][units][:, features]
    twin.biases[0][...], twin.weights[1][...] = model.biases[0][units], model.weights[1][:, units]
    loss, gradient = model.loss_and_grad(x, labels, weight)
    of_twin, other = twin.loss_and_grad(x[features], labels, weight)
    assert of_twin == pytest.approx(loss, rel=TOLERANCE["product", dtype])
    assert_close(np.sort(other), np.sort(gradient), "product", dtype)


def test_features_that_are_zero_count_for_nothing(problem, rng, dtype):
    """The gradient of their weights is exactly 0, and without them all results are the same."""
    model, x, labels, weight = problem
    zeros = rng.permutation(SIZES[0])[:6]
    x[zeros] = 0
    x[zeros[0], ::2] = -0.0
    kept = np.delete(np.arange(SIZES[0]), zeros)
    smaller = fastmlp.MLP((kept.size, *SIZES[1:]), dtype=dtype.name)
    smaller.parameters = np.concatenate([model.weights[0][:, kept].ravel(), model.parameters[SIZES[0] * SIZES[1] :]])
    loss, gradient = model.loss_and_grad(x, labels, weight)
    of_smaller, other = smaller.loss_and_grad(x[kept], labels, weight)
    assert loss == pytest.approx(of_smaller, rel=TOLERANCE["product", dtype])
    by_first = gradient[: SIZES[0] * SIZES[1]].reshape(SIZES[1], SIZES[0])
    assert not by_first[:, zeros].any()
    rest = gradient[SIZES[0] * SIZES[1] :]
    assert_close(np.concatenate([by_first[:, kept].ravel(), rest]), other, "product", dtype)


def test_samples_that_are_zero_see_the_biases_alone(problem, rng, dtype):
    model, x, labels, _ = problem
    zero = rng.random(x.shape[1]) < 0.5
    zero[0] = True
    x[:, zero] = 0
    first, biases = model.weights[0], model.biases[0]
    w2, b2 = rng.standard_normal((5, 9)).astype(dtype), rng.standard_normal((5, 1)).astype(dtype)
    for given in (x, np.asfortranarray(x), pack(x)):
        a1, z1, a2, z2 = Forwardprop(given, first, w2, biases, b2)
        assert_same_bits(np.ascontiguousarray(z1[:, zero]), np.repeat(biases, zero.sum(), axis=1))
        only = np.flatnonzero(zero)[:1]
        assert (z2[:, zero] == z2[:, only]).all()
        y = one_hot(labels, 5).astype(dtype)
        y[:, ~zero] = a2[:, ~zero]  # the other samples have no gradient
        assert not backward_prop(z1, a1, z2, a2, first, w2, given, y)[0].any()


def test_the_cost_is_the_mean_of_the_costs(problem, dtype):
    model, x, labels, _ = problem
    a2, y = model.predict_proba(x), one_hot(labels, SIZES[-1]).astype(dtype)
    each = [float(compute_cost(a2[:, i : i + 1], y[:, i : i + 1])) for i in range(min(x.shape[1], 130))]
    assert_close(compute_cost(a2[:, :130], y[:, :130]), np.asarray(np.mean(each)), "product", dtype)


def test_a_step_of_size_zero_leaves_every_bit(problem):
    model, x, labels, weight = problem
    before = model.parameters.copy()
    model.fit(x, labels, epochs=2, alpha=0, sample_weight=weight)
    assert_same_bits(model.parameters, before)
