"""The training loop."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from compare import F8, TOLERANCE, assert_same_bits, relative_difference

import fastmlp
from fastmlp import formulas

pytestmark = pytest.mark.kernels


@pytest.fixture
def data(rng):
    return rng.random((12, 300)) * (rng.random((12, 300)) < 0.4), rng.integers(4, size=300)


def test_fit_is_the_notebook_s_loop(backend, data):
    x, labels = data
    y = formulas.one_hot(labels, 4)
    model = fastmlp.MLP((12, 9, 4), seed=2)
    w1, w2 = (w.copy() for w in model.weights)
    b1, b2 = (b.copy() for b in model.biases)
    costs, accuracies = [], []
    for _ in range(200):
        a1, z1, a2, z2 = formulas.Forwardprop(x, w1, w2, b1, b2)
        costs.append(formulas.compute_cost(a2, y))
        accuracies.append(np.mean(a2.argmax(axis=0) == labels))
        grads = formulas.backward_prop(z1, a1, z2, a2, w1, w2, x, y)
        w1, b1, w2, b2 = formulas.update_params(w1, b1, w2, b2, *grads, alpha=0.3)
    history = model.fit(x, labels, epochs=200, alpha=0.3)
    plain = np.concatenate([p.ravel() for p in (w1, b1, w2, b2)])
    assert relative_difference(model.parameters, plain) <= TOLERANCE["trajectory", F8]
    assert relative_difference(history.loss, costs) <= TOLERANCE["trajectory", F8]
    np.testing.assert_allclose(history.accuracy, accuracies)
    assert history.epoch == list(range(1, 201))
    assert len(history) == len(history.seconds) == 200


def test_a_second_fit_goes_on_from_the_first(backend, data, dtype):
    once, twice = (fastmlp.MLP((12, 9, 4), dtype=dtype.name) for _ in range(2))
    once.fit(*data, epochs=7)
    twice.fit(*data, epochs=3)
    twice.fit(*data, epochs=4)
    assert_same_bits(once.parameters, twice.parameters)


def test_the_same_training_twice_gives_the_same_bits(backend, data):
    first, second = fastmlp.MLP((12, 9, 4)), fastmlp.MLP((12, 9, 4))
    one, other = first.fit(*data, epochs=20), second.fit(*data, epochs=20)
    assert_same_bits(first.parameters, second.parameters)
    assert one.loss == other.loss


def test_validation_belongs_to_the_parameters_after_the_update(backend, data):
    model = fastmlp.MLP((12, 9, 4))
    history = model.fit(*data, epochs=3, validation=data)
    assert history.validation_loss[:2] == pytest.approx(history.loss[1:], rel=1e-13)
    assert history.validation_loss[-1] == pytest.approx(model.evaluate(*data)["loss"])
    assert len(history.validation_accuracy) == 3


def test_a_callback_sees_each_epoch_and_stops(backend, data):
    seen = []

    def callback(epoch, history):
        seen.append((epoch, len(history)))
        return epoch == 3

    history = fastmlp.MLP((12, 4)).fit(*data, epochs=10, callback=callback)
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert history.stopped == "callback"


def test_divergence_is_loud_and_leaves_the_last_finite_parameters(backend, data):
    model = fastmlp.MLP((12, 9, 4))
    with pytest.raises(FloatingPointError, match=r"epoch \d+ with alpha 1e\+308"):
        model.fit(*data, epochs=10, alpha=1e308)
    assert np.isfinite(model.parameters).all()
    with pytest.raises(FloatingPointError, match="epoch 1 "):
        model.fit(np.full((12, 1), np.nan), [0], epochs=10)
    assert np.isfinite(model.parameters).all()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"epochs": 0}, ValueError),
        ({"epochs": -1}, ValueError),
        ({"epochs": 1.5}, TypeError),
        ({"alpha": -0.1}, ValueError),
        ({"alpha": np.nan}, ValueError),
        ({"alpha": np.inf}, ValueError),
        ({"alpha": "0.1"}, TypeError),
    ],
)
def test_bad_arguments(backend, data, arguments, error):
    model = fastmlp.MLP((12, 4))
    before = model.parameters.copy()
    with pytest.raises(error, match=rf"^{next(iter(arguments))}: got .*expected .*;"):
        model.fit(*data, **arguments)
    assert_same_bits(model.parameters, before)


def test_bad_validation_names_itself(backend, data):
    with pytest.raises(ValueError, match="^validation Y: got "):
        fastmlp.MLP((12, 4)).fit(*data, validation=(data[0], [7] * 300))


def test_alpha_zero_leaves_every_bit(backend, data):
    model = fastmlp.MLP((12, 4))
    before = model.parameters.copy()
    model.fit(*data, epochs=2, alpha=0)
    assert_same_bits(model.parameters, before)


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal to itself")
def test_ctrl_c_ends_training_within_an_epoch_and_leaves_a_usable_model(backend, data):
    model = fastmlp.MLP((12, 9, 4))
    model.fit(*data, epochs=1)

    def interrupt():
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    history = model.fit(*data, epochs=10**9)
    thread.join()
    assert history.stopped == "interrupt"
    assert len(history) > 0
    assert np.isfinite(model.evaluate(*data)["loss"])
    model.fit(*data, epochs=1)
