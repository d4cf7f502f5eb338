"""Training that does not learn warns once and names the remedy; training that learns does not warn."""

import warnings

import numpy as np
import pytest

import fastmlp
from fastmlp import methods
from fastmlp.advice import Findings, advise
from fastmlp.optimizers import LBFGS, SGD


@pytest.fixture
def data(rng):
    """Return samples of three classes that straight lines separate."""
    labels = rng.integers(3, size=200)
    x = rng.standard_normal((8, 200)) + 3 * np.eye(8)[:, labels]
    return x, labels


def advice(model, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*arguments, **options)
    assert {one.category for one in caught} <= {fastmlp.TrainingWarning}
    assert len(caught) <= 1
    if caught:
        assert caught[0].filename == __file__, "the line that called fit"
    return str(caught[0].message) if caught else ""


def test_what_learns_says_nothing(backend, data, dtype):
    model = fastmlp.MLP((8, 16, 3), dtype=dtype.name)
    assert advice(model, *data, epochs=60, alpha=0.3) == ""
    assert advice(model, *data, epochs=1) == ""


def test_a_loss_that_rises_asks_for_a_smaller_alpha(backend, data):
    text = advice(fastmlp.MLP((8, 16, 3)), *data, epochs=30, alpha=200)
    assert "the loss rose from" in text
    assert "smaller alpha" in text


def test_dead_units_are_named(backend, data):
    model = fastmlp.MLP((8, 16, 12, 3))
    model.biases[1][:] = -1e3
    text = advice(model, *data, epochs=200, alpha=0.3)
    assert "no sample activates any hidden unit" in text
    assert "where guessing without looking at the inputs gives" in text
    assert "another init" in text


@pytest.mark.parametrize("targets", ["labels", "one-hot", "weighted"])
def test_the_loss_of_guessing_is_the_entropy_of_the_labels(backend, rng, targets):
    """With inputs independent of the labels, the loss falls to the entropy, and the warning compares the two."""
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    share = np.array([0.5, 0.3, 0.2])
    options = {}
    if targets == "weighted":
        weight = np.where(labels == 0, 1.0, 2.0)
        options = {"sample_weight": weight}
        share = np.array([50, 60, 40]) / 150
    y = fastmlp.one_hot(labels, 3) if targets == "one-hot" else labels
    text = advice(fastmlp.MLP((2, 3)), np.zeros((2, 100)), y, epochs=300, alpha=1.0, **options)
    assert f"gives {-(share * np.log(share)).sum():.4g}" in text


@pytest.mark.parametrize("form", ["plain uint8", "packed uint8", "large floats"])
def test_unscaled_inputs_are_named(backend, data, form):
    x = np.clip(np.abs(data[0]) * 60, 0, 255).astype(np.uint8)
    samples = {"plain uint8": x, "packed uint8": fastmlp.pack(x), "large floats": x.astype(float)}[form]
    text = advice(fastmlp.MLP((8, 16, 3)), samples, data[1], epochs=2, alpha=1e-5)
    assert f"inputs look unscaled, they reach {x.max()}" in text
    assert "scale them to about 1" in text
    scaled = fastmlp.pack(x, scale=1 / 255)
    assert advice(fastmlp.MLP((8, 16, 3)), scaled, data[1], epochs=2, alpha=1e-5) == ""


def test_bits_are_no_unscaled_bytes(backend, data):
    assert advice(fastmlp.MLP((8, 16, 3)), (data[0] > 1).astype(np.uint8), data[1], epochs=2) == ""


def test_a_single_output_unit_has_nothing_to_learn(backend, data):
    assert "a single output unit always has probability 1" in advice(
        fastmlp.MLP((8, 4, 1)), data[0], np.zeros(200, int)
    )


@pytest.mark.parametrize(("epochs", "learns"), [(20, True), (60, False)])
def test_a_loss_that_only_comes_back_to_guessing_is_told_after_many_epochs(epochs, learns):
    history = fastmlp.History(list(range(epochs)), list(np.linspace(2.5, 2.3, epochs)), [0.1] * epochs)
    findings = Findings(chance=lambda: 2.302, dead=lambda: False, unscaled=None, lone_class=False)
    text = advise(history, findings)
    assert (text == "") == learns


@pytest.mark.parametrize("batch_size", [None, 50])
def test_advice_names_the_step_size_of_the_optimizer(backend, data, batch_size):
    text = advice(fastmlp.MLP((8, 3)), *data, epochs=60, optimizer=SGD(0.0), batch_size=batch_size)
    assert "take another learning_rate or more epochs" in text


def test_a_loss_that_differs_by_rounding_has_not_risen():
    """Batches in another order are added in another order."""
    findings = Findings(chance=lambda: 1.0, dead=lambda: False, unscaled=None, lone_class=False)
    for last, risen in ((1.2 + 1e-7, False), (1.2 + 1e-4, True)):
        history = fastmlp.History(list(range(1, 61)), [1.2] * 59 + [last], [0.5] * 60, seconds=[0.1] * 60)
        assert ("the loss rose" in advise(history, findings)) == risen


def test_a_loss_that_rises_with_an_optimizer(backend, data):
    text = advice(fastmlp.MLP((8, 16, 3)), *data, epochs=30, optimizer=SGD(200.0))
    assert "the loss rose from" in text
    assert "take a smaller learning_rate" in text


def test_l_bfgs_has_no_step_size_to_change():
    rate = methods.choose(None, LBFGS(), None, "samples", 0.0, None).rate
    findings = Findings(chance=lambda: 1.0, dead=lambda: False, unscaled=None, lone_class=False, rate=rate)
    history = fastmlp.History(list(range(1, 61)), [1.0] * 60, [0.5] * 60, seconds=[0.1] * 60)
    assert advise(history, findings).endswith("; take more epochs")
