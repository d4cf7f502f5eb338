"""Initial weights: their formulas and bits, and the record of the initialisation in models, copies and files."""

import copy
import itertools
import math
import pickle
import random

import numpy as np
import pytest
from compare import assert_close, assert_same_bits

import fastmlp
from fastmlp import options, parameters

SIZES = (30, 50, 20, 4)
LIMITS = {
    "glorot": lambda n_in, n_out: math.sqrt(6) / math.sqrt(n_in + n_out),
    "he": lambda n_in, n_out: math.sqrt(3) * math.sqrt(2 / n_in),
    "notebook": lambda n_in, n_out: 0.5,
}


with_zero_biases = pytest.mark.parametrize("init", sorted(LIMITS))


@pytest.fixture(params=parameters.INITIALISATIONS)
def init(request):
    return request.param


@with_zero_biases
def test_weights_are_uniform_within_their_limits_in_the_order_of_the_layers(dtype, init):
    model = fastmlp.MLP(SIZES, dtype=dtype.name, seed=7, init=init)
    np.random.seed(7)  # noqa: NPY002
    for weight, bias in zip(model.weights, model.biases, strict=True):
        n_out, n_in = weight.shape
        limit = LIMITS[init](n_in, n_out)
        expected = np.random.uniform(-limit, limit, (n_out, n_in))  # noqa: NPY002
        assert_close(weight, expected.astype(dtype), "product", dtype)
        assert 0.9 * limit < np.abs(weight).max() <= limit
        assert not bias.any()


@with_zero_biases
def test_bits_are_those_of_python_s_own_generator(init):
    """One stream and one multiplication per weight give the same bits on every machine and NumPy version."""
    _, key, at, *_ = np.random.RandomState(5).get_state()
    python = random.Random()
    python.setstate((3, (*key.tolist(), at), None))
    for weight in fastmlp.MLP(SIZES, seed=5, init=init).weights:
        n_out, n_in = weight.shape
        limit = {"glorot": math.sqrt(6 / (n_in + n_out)), "he": math.sqrt(6 / n_in), "notebook": 0.5}[init]
        expected = [[(python.random() - 0.5) * (2 * limit) for _ in range(n_in)] for _ in range(n_out)]
        assert_same_bits(weight, np.array(expected))


def drawn_like_sklearn(dtype, seed, factor):
    """Return the layers that scikit-learn draws: weights (n_in, n_out), then biases, as its ``_init_coef`` does."""
    np.random.seed(seed)  # noqa: NPY002
    layers = []
    for n_in, n_out in itertools.pairwise(SIZES):
        limit = np.sqrt(factor / (n_in + n_out))
        for shape in ((n_in, n_out), (n_out,)):
            layers.append(np.random.uniform(-limit, limit, shape).astype(dtype))  # noqa: NPY002
    return layers


def flat(layers):
    """Return the vector of weights, transposed to (n_out, n_in), and biases."""
    return np.concatenate([layer.T.ravel() for layer in layers])


def test_the_draws_of_sklearn_are_weights_as_inputs_by_units_and_then_biases(dtype):
    model = fastmlp.MLP(SIZES, dtype=dtype.name, seed=7, init="sklearn")
    assert_same_bits(model.parameters, flat(drawn_like_sklearn(dtype, 7, factor=6)))
    assert all(bias.any() for bias in model.biases)
    logistic = parameters.draw(SIZES, dtype, 7, "sklearn", "logistic")
    assert_same_bits(logistic, flat(drawn_like_sklearn(dtype, 7, factor=2)))


@pytest.mark.parametrize("activation", ["relu", "tanh", "identity", "logistic"])
@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
def test_the_draws_are_those_of_sklearn_bit_for_bit(dtype, kind, activation):
    sklearn = pytest.importorskip("sklearn.neural_network")
    n, *hidden, outputs = SIZES
    x, y = np.ones((2 * outputs, n), dtype), np.arange(2 * outputs) % outputs
    targets = y if kind == "MLPClassifier" else np.eye(outputs, dtype=dtype)[y]
    # scikit-learn refuses a learning rate of 0; with this one, an update is too small to change a parameter.
    constants = {"solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 1, "random_state": 11}
    theirs = getattr(sklearn, kind)(hidden_layer_sizes=hidden, activation=activation, **constants).fit(x, targets)
    layers = [one for layer in zip(theirs.coefs_, theirs.intercepts_, strict=True) for one in layer]
    assert {layer.dtype for layer in layers} == {dtype}
    assert_same_bits(parameters.draw(SIZES, dtype, 11, "sklearn", activation), flat(layers))
    model = fastmlp.MLP(SIZES, dtype=dtype.name, seed=11, init="sklearn", activation=activation)
    assert_same_bits(model.parameters, flat(layers))


def test_the_command_line_offers_them_all(init):
    assert options.parse(["train", "--init", init]).init == init


def test_float32_is_float64_rounded(init):
    single, double = (fastmlp.MLP(SIZES, dtype=dtype, init=init).parameters for dtype in ("float32", "float64"))
    assert_same_bits(single, double.astype(np.float32))


def test_glorot_is_the_default():
    assert fastmlp.MLP((3, 2)).init == "glorot"
    assert repr(fastmlp.MLP((3, 2))) == "MLP((3, 2), dtype='float64')"
    assert repr(fastmlp.MLP((3, 2), init="he")) == "MLP((3, 2), dtype='float64', init='he')"
    assert_same_bits(fastmlp.MLP(SIZES).parameters, fastmlp.MLP(SIZES, init="glorot").parameters)


@pytest.mark.parametrize("wrong", ["xavier", "Glorot", None, 1])
def test_an_unknown_initialisation_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^init: got .*, expected one of 'glorot', 'he', 'notebook', 'sklearn';"):
        fastmlp.MLP((3, 2), init=wrong)


def through_a_file(model, tmp_path):
    model.save(tmp_path / "model")
    return fastmlp.MLP.load(tmp_path / "model")


def through_a_checkpoint(model, tmp_path):
    model.fit(np.ones((30, 1)), [0], epochs=1, checkpoint=tmp_path / "run")
    return fastmlp.MLP.load(tmp_path / "run")


@pytest.mark.parametrize(
    "passed_on",
    [
        lambda model, _: copy.copy(model),
        lambda model, _: copy.deepcopy(model),
        lambda model, _: pickle.loads(pickle.dumps(model)),
        through_a_file,
        through_a_checkpoint,
    ],
    ids=["copy", "deepcopy", "pickle", "file", "checkpoint"],
)
def test_a_model_that_is_passed_on_keeps_it(tmp_path, init, passed_on):
    model = fastmlp.MLP(SIZES, seed=4, init=init)
    again = passed_on(model, tmp_path)
    assert (again.init, repr(again)) == (init, repr(model))
    assert_same_bits(again.parameters, model.parameters)


def test_the_change_of_the_first_layer_is_from_its_own_initial_weights(init):
    """For the figures of ``fastmlp train --plot``."""
    pytest.importorskip("matplotlib")
    from fastmlp import keeping, preprocessing

    model = fastmlp.MLP((64, 12, 10), seed=4, init=init)
    rng = np.random.default_rng(0)
    x, y = rng.random((20, 8, 8)), rng.integers(10, size=20)
    seen = preprocessing.Inputs((8, 8), 1.0, tuple("0123456789"), None)
    p = model.predict_proba(x.reshape(20, -1).T)
    drawn = dict(keeping.drawings(model, seen, keeping.Evaluated("data", x, y, p, {}), None))
    image = drawn["first-layer-change"].axes[0].images[0].get_array()
    assert not np.ma.getdata(image).any()


@pytest.mark.parametrize("init", ["glorot", "he", "sklearn"])
def test_a_deep_net_learns(backend, init):
    """With the notebook's initial weights, its ReLUs die."""
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=200)
    x = rng.standard_normal((20, 4))[:, y] + rng.standard_normal((20, 200)) / 2
    model = fastmlp.MLP((20, 64, 64, 64, 4), init=init)
    history = model.fit(x, y, epochs=60, alpha=0.1)
    assert history.loss[0] < 4
    assert history.accuracy[-1] > 0.95
