"""The training loop."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from compare import F8, TOLERANCE, assert_same_bits, relative_difference

import fastmlp
from fastmlp import formulas, methods

# Random labels: some runs do no better than guessing, and warn of it.
pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::fastmlp.TrainingWarning")]


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
        model.fit(np.full((12, 1), 1e308), [0], epochs=10)
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
        ({"validation": 3}, TypeError),
        ({"validation": ([[1.0]],)}, TypeError),
        ({"class_weight": [1.0, 2.0]}, ValueError),
        ({"class_weight": {4: 1.0}}, ValueError),
        ({"class_weight": {0: -1.0}}, ValueError),
        ({"class_weight": {0: np.nan}}, ValueError),
        ({"class_weight": [0.0] * 4}, ValueError),
        ({"class_weight": {"zero": 1.0}}, TypeError),
        ({"patience": 5}, ValueError),
        ({"patience": 0, "validation": ([[1.0]] * 12, [0])}, ValueError),
        ({"patience": 1.5, "validation": ([[1.0]] * 12, [0])}, TypeError),
        ({"min_delta": -1}, ValueError),
        ({"min_delta": np.nan}, ValueError),
        ({"min_delta": "0"}, TypeError),
        ({"checkpoint_every": -1}, ValueError),
        ({"checkpoint_every": None}, TypeError),
        ({"resume": True}, ValueError),
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


def early_stopping_by_hand(losses, patience, min_delta):
    """Return the epoch at which patience ends, and the best epoch."""
    best_epoch, best = 0, np.inf
    for epoch, loss in enumerate(losses, 1):
        if loss < best - min_delta:
            best_epoch, best = epoch, loss
        if epoch - best_epoch == patience:
            return epoch, best_epoch
    return len(losses), best_epoch


@pytest.mark.parametrize(("patience", "min_delta"), [(1, 0.0), (5, 0.0), (3, 1e-3), (2, 0.05), (10**6, 0.0)])
def test_early_stopping_ends_with_the_best_parameters(backend, data, patience, min_delta):
    held_out = data[0][:, ::5], (data[1][::5] + 1) % 4
    kept = []
    undisturbed = fastmlp.MLP((12, 9, 4), seed=3)
    losses = undisturbed.fit(
        *data, epochs=60, alpha=0.5, validation=held_out, callback=lambda *_: kept.append(undisturbed.parameters.copy())
    ).validation_loss
    model = fastmlp.MLP((12, 9, 4), seed=3)
    history = model.fit(*data, epochs=60, alpha=0.5, validation=held_out, patience=patience, min_delta=min_delta)
    end, best = early_stopping_by_hand(losses, patience, min_delta)
    assert (len(history), history.stopped) == (end, "patience" if end < 60 else "epochs")
    assert history.validation_loss == losses[:end]
    assert_same_bits(model.parameters, kept[best - 1])


def test_the_best_parameters_stand_also_after_a_callback_s_stop(data):
    held_out = data[0], (data[1] + 1) % 4
    model, first = fastmlp.MLP((12, 4)), fastmlp.MLP((12, 4))
    options = {"alpha": 2.0, "validation": held_out, "patience": 9}
    losses = model.fit(*data, epochs=8, callback=lambda epoch, _: epoch == 4, **options).validation_loss
    first.fit(*data, epochs=1 + int(np.argmin(losses)), alpha=2.0)
    assert_same_bits(model.parameters, first.parameters)


def test_an_equal_validation_loss_is_no_improvement(data):
    history = fastmlp.MLP((12, 4)).fit(*data, epochs=9, alpha=0, validation=data, patience=2)
    assert (len(history), history.stopped) == (3, "patience")


def test_where_no_validation_loss_is_finite_the_last_parameters_stay(data, monkeypatch):
    endless = lambda *_: methods.Scores(np.inf, 0.0)  # noqa: E731
    monkeypatch.setattr(fastmlp.MLP, "_evaluate", endless)
    model, plain = fastmlp.MLP((12, 4)), fastmlp.MLP((12, 4))
    model.fit(*data, epochs=3, validation=data, patience=5)
    plain.fit(*data, epochs=3)
    assert_same_bits(model.parameters, plain.parameters)


def test_seconds_are_those_of_the_step_alone(data, monkeypatch):
    evaluate = fastmlp.MLP._evaluate

    def slow(*arguments):
        time.sleep(0.2)
        return evaluate(*arguments)

    model = fastmlp.MLP((12, 4))
    model.fit(*data, epochs=1, validation=data)
    monkeypatch.setattr(fastmlp.MLP, "_evaluate", slow)
    start = time.perf_counter()
    history = model.fit(*data, epochs=3, validation=data, callback=lambda *_: time.sleep(0.1))
    assert time.perf_counter() - start - sum(history.seconds) >= 0.9


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal to itself")
def test_ctrl_c_in_the_last_epoch_is_said(data):
    model = fastmlp.MLP((12, 4))

    def last(epoch, history):
        if epoch == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    assert model.fit(*data, epochs=3, callback=last).stopped == "interrupt"


def test_functions_of_the_user_s_run_in_the_user_s_thread(data):
    threads = set()

    def note(*_):
        threads.add(threading.current_thread())
        return 0.1

    fastmlp.MLP((12, 4)).fit(*data, epochs=3, alpha=note, callback=lambda *_: note() and None)
    assert threads == {threading.main_thread()}


def test_alpha_may_follow_a_schedule(backend, data):
    model, pieces, seen = fastmlp.MLP((12, 9, 4)), fastmlp.MLP((12, 9, 4)), []

    def alpha(epoch):
        seen.append(epoch)
        return np.float32(1 / epoch)

    model.fit(*data, epochs=5, alpha=alpha)
    for epoch in range(1, 6):
        pieces.fit(*data, epochs=1, alpha=float(np.float32(1 / epoch)))
    assert_same_bits(model.parameters, pieces.parameters)
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("bad", "error"), [(np.nan, ValueError), (-0.1, ValueError), (np.inf, ValueError), ("1", TypeError)]
)
def test_a_schedule_is_checked_at_each_epoch(data, bad, error):
    model, other = fastmlp.MLP((12, 4)), fastmlp.MLP((12, 4))
    with pytest.raises(error, match=r"^alpha\(3\): got .*expected .*;"):
        model.fit(*data, epochs=5, alpha=lambda epoch: bad if epoch == 3 else 0.1)
    other.fit(*data, epochs=2)
    assert_same_bits(model.parameters, other.parameters)


def test_class_weights_multiply_sample_weights(backend, data):
    x, labels = data
    weight = np.linspace(0.5, 2, 300)
    by_class = np.array([1.0, 4.0, 0.0, 1.0])
    soft = np.full((4, 300), 0.25)
    cases = [
        (labels, {1: 4, 2: 0}, weight * by_class[labels]),
        (labels, by_class, weight * by_class[labels]),
        (labels, by_class.tolist(), weight * by_class[labels]),
        (formulas.one_hot(labels, 4), {1: 4, 2: 0}, weight * by_class[labels]),
        (soft, by_class, weight * by_class.mean()),
        (labels, {}, weight),
    ]
    for y, class_weight, product in cases:
        weighted, expected = fastmlp.MLP((12, 9, 4)), fastmlp.MLP((12, 9, 4))
        weighted.fit(x, y, epochs=4, sample_weight=weight, class_weight=class_weight)
        expected.fit(x, y, epochs=4, sample_weight=product)
        assert_same_bits(weighted.parameters, expected.parameters)


@pytest.fixture
def history():
    return fastmlp.History([1, 2], [0.5, 1 / 3], [0.25, 0.5], seconds=[0.125, 2.0], stopped="callback")


def test_a_history_prints_as_a_table(history):
    assert str(history).splitlines() == [
        "epoch      loss  accuracy  seconds",
        "    1  0.500000  0.250000   0.1250",
        "    2  0.333333  0.500000   2.0000",
        "stopped: callback",
    ]
    assert repr(history) == str(history)
    assert str(fastmlp.History()).splitlines() == ["epoch  loss  accuracy  seconds", "stopped: epochs"]


def test_a_long_history_is_abbreviated_in_the_middle(data):
    history = fastmlp.MLP((12, 4)).fit(*data, epochs=100, validation=data)
    lines = str(history).splitlines()
    assert lines[0].split() == list(history.to_dict())
    assert [line.split()[0] for line in lines[1:-1]] == [*map(str, range(1, 11)), "...", *map(str, range(91, 101))]
    assert len(set(map(len, lines[:-1]))) == 1


def test_a_history_shows_as_a_table_in_a_notebook(history):
    page = ElementTree.fromstring(f"<div>{history._repr_html_()}</div>")
    assert [cell.text for cell in page.iter("th")] == ["epoch", "loss", "accuracy", "seconds"]
    assert [[cell.text for cell in row] for row in page.find("table/tbody")] == [
        ["1", "0.500000", "0.250000", "0.1250"],
        ["2", "0.333333", "0.500000", "2.0000"],
    ]
    assert page.find("p").text == "stopped: callback"


def test_a_history_writes_every_digit_as_csv(history, tmp_path):
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        names, *rows = csv.reader(file)
    assert names == ["epoch", "loss", "accuracy", "seconds"]
    columns = [list(map(float, column)) for column in zip(*rows, strict=True)]
    assert dict(zip(names, columns, strict=True)) == history.to_dict()
    history.to_dict()["loss"].clear()
    assert len(history.loss) == 2


FIT = """
import fastmlp
fastmlp.MLP((2, 2)).fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=30{more})
"""
BLOCK_TQDM = "import sys\nsys.modules['tqdm'] = sys.modules['tqdm.auto'] = None\n"


def test_no_progress_where_output_is_no_terminal(run_python):
    result = run_python(FIT.format(more=""), env={"FASTMLP_BACKEND": "numpy"})
    assert (result.stdout, result.stderr) == ("", "")


def test_progress_without_tqdm(run_python):
    run_python(BLOCK_TQDM + FIT.format(more=", progress=None"), env={"FASTMLP_BACKEND": "numpy"})
    result = run_python(BLOCK_TQDM + FIT.format(more=", progress=True"), env={"FASTMLP_BACKEND": "numpy"}, check=False)
    assert result.stderr.splitlines()[-1].startswith("ImportError: the progress bar is drawn by tqdm")
    assert ".[cli]" in result.stderr


def test_progress_asked_for(run_python):
    pytest.importorskip("tqdm")
    result = run_python(FIT.format(more=", progress=True"), env={"FASTMLP_BACKEND": "numpy"})
    assert "30/30" in result.stdout
    assert "loss 0." in result.stdout


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudoterminal")
@pytest.mark.parametrize("more", ["", ", progress=False"])
def test_progress_on_a_terminal(more):
    pytest.importorskip("tqdm")
    import pty
    import termios

    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    environment = {**os.environ, "FASTMLP_BACKEND": "numpy", "PYTHONPATH": str(Path(fastmlp.__file__).parents[1])}
    code = FIT.format(more=more)
    subprocess.run([sys.executable, "-c", code + "print('end')"], stdout=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(controller, 100_000).decode()
    os.close(controller)
    assert ("30/30" in shown) == (not more)
    assert "end" in shown
