"""MLP: parameters and views, loss, gradient, predictions."""

import copy
import multiprocessing
import pickle
import tracemalloc

import naive
import numpy as np
import pytest
from compare import F8, TOLERANCE, assert_close, assert_same_bits, assert_softmax

import fastmlp

pytestmark = pytest.mark.kernels

SIZES = [(7, 3), (7, 5, 3), (7, 6, 5, 4, 3), (1, 1), (3, 1, 2)]


def problem(rng, sizes, m=23, dtype=np.float64):
    x = rng.standard_normal((sizes[0], m)).astype(dtype)
    labels = rng.integers(sizes[-1], size=m)
    model = fastmlp.MLP(sizes, dtype=np.dtype(dtype).name, seed=1)
    model.parameters = rng.standard_normal(model.parameters.shape)
    return model, x, labels


@pytest.mark.parametrize("sizes", SIZES)
def test_loss_and_grad(backend, rng, dtype, sizes):
    model, x, labels = problem(rng, sizes, dtype=dtype)
    y = naive.one_hot(labels, sizes[-1])
    weight = rng.integers(0, 4, size=23).astype(float)
    soft = naive.softmax(rng.standard_normal(y.shape)).astype(dtype)
    for target, dense, w in ((labels, y, None), (y, y, weight), (soft, soft, weight), (labels, y, weight)):
        loss, grad = model.loss_and_grad(x, target, sample_weight=w)
        wanted_loss, wanted_grad = naive.loss_and_grad(model.parameters, sizes, x, dense, w)
        assert type(loss) is float
        assert loss == pytest.approx(float(wanted_loss), rel=TOLERANCE["product", dtype], abs=1e-30)
        if np.max(np.abs(wanted_grad)) > 1e-12:
            assert_close(grad, wanted_grad, "product", dtype)


def test_out(backend, rng):
    model, x, labels = problem(rng, (7, 5, 3))
    _, expected = model.loss_and_grad(x, labels)
    buffer = np.full_like(model.parameters, np.nan)
    _, grad = model.loss_and_grad(x, labels, out=buffer)
    assert grad is buffer
    assert_same_bits(buffer, expected)


def unaligned(count):
    return np.empty(8 * count + 1, np.uint8)[1:].view(np.float64)


@pytest.mark.parametrize(
    "bad",
    [
        np.empty(38),
        np.empty((37, 1)),
        np.empty(37, np.float32),
        np.empty(37, ">f8"),
        np.empty(74)[::2],
        unaligned(37),
        np.frombuffer(bytes(37 * 8)),
        [0.0] * 37,
    ],
    ids=["longer", "a column", "float32", "byte-swapped", "strided", "unaligned", "read-only", "a list"],
)
def test_a_bad_out_is_refused(backend, rng, bad):
    model, x, labels = problem(rng, (7, 4, 1))
    assert model.parameters.size == 37
    labels[:] = 0
    good = np.empty(37)
    assert model.loss_and_grad(x, labels, out=good)[1] is good
    with pytest.raises((ValueError, TypeError), match=r"^out: got .*np\.empty_like"):
        model.loss_and_grad(x, labels, out=bad)


def test_out_may_not_be_the_parameters(backend, rng):
    model, x, labels = problem(rng, (7, 5, 3))
    with pytest.raises(ValueError, match="^out: got the parameters"):
        model.loss_and_grad(x, labels, out=model.parameters)


def test_draws_as_the_notebook_does(dtype):
    np.random.seed(3)  # noqa: NPY002
    w1, w2 = np.random.rand(5, 4) - 0.5, np.random.rand(2, 5) - 0.5  # noqa: NPY002
    model = fastmlp.MLP((4, 5, 2), dtype=dtype.name, seed=3, init="notebook")
    assert_same_bits(model.weights[0], w1.astype(dtype))
    assert_same_bits(model.weights[1], w2.astype(dtype))
    assert not any(b.any() for b in model.biases)
    assert model.dtype == dtype
    assert model.layer_sizes == (4, 5, 2)
    assert repr(model) == f"MLP((4, 5, 2), dtype='{dtype}', init='notebook')"


def test_no_seed_draws_afresh():
    assert (fastmlp.MLP((4, 2), seed=None).parameters != fastmlp.MLP((4, 2), seed=None).parameters).any()


def test_views_are_the_vector_in_the_order_of_the_layers():
    model = fastmlp.MLP((3, 2, 2))
    model.parameters = np.arange(14)
    w1, w2 = model.weights
    b1, b2 = model.biases
    np.testing.assert_array_equal(np.concatenate([w1.ravel(), b1.ravel(), w2.ravel(), b2.ravel()]), np.arange(14))
    assert b1.shape == (2, 1)
    w1[1, 2] = 99
    b2[0] = 77
    assert model.parameters[5] == 99
    assert model.parameters[12] == 77
    vector = model.parameters
    model.parameters = np.zeros(14)
    assert model.parameters is vector
    assert not w1.any()


def test_assigned_parameters_must_fit():
    model = fastmlp.MLP((3, 2))
    with pytest.raises(ValueError, match=r"^parameters: got shape \(3,\), expected shape \(n_parameters,\) = \(8,\)"):
        model.parameters = [1.0, 2.0, 3.0]


def views_follow(model):
    model.parameters = np.arange(model.parameters.size)
    return (
        all(np.shares_memory(v, model.parameters) for v in (*model.weights, *model.biases))
        and model.weights[0][0, 1] == 1
    )


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_views_follow_a_copy(clone):
    model = fastmlp.MLP((3, 2, 2), dtype="float32", seed=5)
    other = clone(model)
    assert_same_bits(other.parameters, model.parameters)
    assert views_follow(other)
    assert views_follow(model)


def test_views_follow_in_a_spawned_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(views_follow, (fastmlp.MLP((3, 2, 2)),))


def test_predictions(backend, rng, dtype):
    model, x, labels = problem(rng, (7, 5, 3), dtype=dtype)
    w, b = model.weights, model.biases
    a2, z2 = naive.forward(x, w[0], w[1], b[0], b[1])[2:]
    probabilities = model.predict_proba(x)
    assert probabilities.dtype == dtype
    assert np.max(np.abs(probabilities - a2)) < 10 * TOLERANCE["product", dtype]
    predicted = model.predict(x)
    assert_same_bits(predicted, z2.argmax(axis=0).astype(np.int64))
    scores = model.evaluate(x, labels)
    assert scores["accuracy"] == pytest.approx((predicted == labels).mean())
    assert scores["loss"] == pytest.approx(model.loss_and_grad(x, labels)[0])
    logistic = fastmlp.MLP((7, 3))
    z = naive.product(logistic.weights[0], x)
    assert_softmax(logistic.predict_proba(x.astype(F8)), z.astype(F8), naive.softmax(z.astype(F8)))


def test_scores_do_not_depend_on_how_many_samples_are_evaluated_at_once(backend, rng, dtype, monkeypatch):
    model, x, labels = problem(rng, (7, 5, 3), m=301, dtype=dtype)
    soft = naive.softmax(rng.standard_normal((3, 301)))
    whole = [model.evaluate(x, target) for target in (labels, soft)]
    for entries in (1, 3 * 17, 3 * 300, 3 * 301):
        monkeypatch.setattr("fastmlp.evaluation._EVALUATED_ENTRIES", entries)
        assert [model.evaluate(x, target) for target in (labels, soft)] == whole


def test_many_classes_take_the_memory_of_their_logits(backend):
    """And not as much again for one-hot targets, and for a gradient that nobody asked for."""
    model, x, labels = fastmlp.MLP((1, 1000), dtype="float32"), np.ones((1, 16_000)), np.full(16_000, 999)
    model.evaluate(x[:, :10], labels[:10])
    tracemalloc.start()
    try:
        model.evaluate(x, labels)
        assert tracemalloc.get_traced_memory()[1] < 2.3 * 4 * 1000 * 16_000
    finally:
        tracemalloc.stop()


def test_soft_targets_are_right_where_they_are_largest(backend):
    model = fastmlp.MLP((1, 3))
    model.parameters = [0, 0, 0, 0, 2, 1]
    soft = [[0.2, 0.5, 0.4], [0.6, 0.25, 0.4], [0.2, 0.25, 0.2]]
    assert model.evaluate(np.zeros((1, 3)), soft)["accuracy"] == pytest.approx(2 / 3)


def test_inputs_of_any_layout_are_left_alone(backend, rng):
    model, x, labels = problem(rng, (7, 5, 3))
    expected = model.loss_and_grad(x, labels)
    for odd in (
        np.asfortranarray(x),
        x[:, ::-1].copy()[:, ::-1],
        x.astype(">f8"),
        np.repeat(x, 2, 1)[:, ::2],
        x.tolist(),
    ):
        before = np.array(odd).tobytes()
        loss, grad = model.loss_and_grad(odd, labels)
        assert loss == pytest.approx(expected[0], rel=1e-14)
        assert_close(grad, expected[1], "product")
        assert np.array(odd).tobytes() == before
    integers = (x > 0).astype(np.uint8)
    assert_close(
        model.loss_and_grad(integers, labels)[1], model.loss_and_grad(integers.astype(float), labels)[1], "product"
    )


def test_what_float32_cannot_hold_is_infinite_without_a_warning(backend):
    x, labels = np.array([[1e308, 1.0]]), [0, 1]
    model = fastmlp.MLP((1, 2), dtype="float32")
    loss, grad = model.loss_and_grad(x, labels)
    assert np.isnan(loss)
    assert np.isnan(grad).all()
    for refuse in (model.predict, model.predict_proba, lambda x: model.evaluate(x, labels)):
        with pytest.raises(ValueError, match="^X: got inf at row 0, column 0, expected numbers .* finite in float32;"):
            refuse(x)
    model.parameters = [1e308, 0, 0, 0]
    assert model.parameters[0] == np.inf
    double = fastmlp.MLP((1, 2))
    double.parameters = [1e308, 0, 0, 0]
    assert double.evaluate([[1.0, 1.0]], [1, 1])["loss"] == np.inf
    stepped = fastmlp.update_params(*[np.ones(2, np.float32)] * 8, 1e300)
    assert (stepped[0] == -np.inf).all()
    assert fastmlp.ReLU(np.array([np.finfo(np.longdouble).max]))[0] >= np.finfo(float).max


def test_only_the_ratios_of_weights_count(backend, rng, dtype):
    """Also where float32 can hold neither the weights nor their sum."""
    model, x, labels = problem(rng, (7, 5, 3), dtype=dtype)
    weight = rng.integers(1, 4, size=23).astype(float)
    loss, grad = model.loss_and_grad(x, labels, weight)
    for factor in (5e-324, 2.0**-1000, 2.0**-150, 2.0**127, 2.0**1021):
        again = model.loss_and_grad(x, labels, weight * factor)
        assert again[0] == loss
        assert_same_bits(again[1], grad)
    by_class = fastmlp.MLP((7, 3)).fit(x, labels, epochs=1, class_weight=[2.0**1000, 2.0**1001, 2.0**1000]).loss
    assert by_class == fastmlp.MLP((7, 3)).fit(x, labels, epochs=1, class_weight=[1, 2, 1]).loss


def test_the_loss_is_exact_where_probabilities_underflow(backend, dtype):
    model = fastmlp.MLP((1, 2), dtype=dtype.name)
    model.parameters = [1000.0, 0.0, 0.0, 0.0]
    loss, grad = model.loss_and_grad([[2.0]], [1])
    assert loss == 2000
    np.testing.assert_array_equal(grad, [2, -2, 1, -1])


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ((3,), ValueError),
        ((3, 0), ValueError),
        ((3, 2.0), TypeError),
        ("34", TypeError),
        (7, TypeError),
        ((3, True), TypeError),
        ((3, 2**31), ValueError),
        ((1,) * 10_002, ValueError),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_layer_sizes(sizes, error):
    """Too wide and too deep are widths that a file could not hold."""
    with pytest.raises(error, match="^layer_sizes: got .{0,60}expected"):
        fastmlp.MLP(sizes)


@pytest.mark.parametrize("name", ["f", "f4", "float32", np.float32, np.dtype("f4")])
def test_names_of_float32(name):
    assert fastmlp.MLP((2, 2), dtype=name).dtype == np.float32


@pytest.mark.parametrize("name", ["float16", "double precision", "int64", None, complex])
def test_bad_dtype_names(name):
    with pytest.raises(ValueError, match=r"^dtype: got .*'float32' or 'float64'"):
        fastmlp.MLP((2, 2), dtype=name)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**32, ValueError), (1.5, TypeError), ("0", TypeError)])
def test_bad_seeds(seed, error):
    with pytest.raises(error, match="^seed: got "):
        fastmlp.MLP((2, 2), seed=seed)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"X": np.ones((6, 23))}, "X"),
        ({"X": np.ones(7)}, "X"),
        ({"X": np.ones((7, 0))}, "X"),
        ({"Y": [0] * 22}, "Y"),
        ({"Y": [3] * 23}, "Y"),
        ({"Y": np.ones((2, 23))}, "Y"),
        ({"sample_weight": [1.0] * 22}, "sample_weight"),
        ({"sample_weight": [0.0] * 23}, "sample_weight"),
        ({"sample_weight": [-1.0] + [1.0] * 22}, "sample_weight"),
        ({"sample_weight": [np.nan] + [1.0] * 22}, "sample_weight"),
        ({"sample_weight": [np.inf] + [1.0] * 22}, "sample_weight"),
    ],
)
def test_bad_samples(backend, rng, change, argument):
    model, x, labels = problem(rng, (7, 5, 3))
    with pytest.raises(ValueError, match=rf"^{argument}: got .*expected .*;"):
        model.loss_and_grad(**{"X": x, "Y": labels, **change})
