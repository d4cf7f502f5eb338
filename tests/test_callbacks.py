"""Callbacks: what is called when, and the ready ones."""

import csv
import sys
import time

import numpy as np
import pytest

import fastmlp
from fastmlp.callbacks import Callback, CSVLog, TensorBoard, TimeBudget

rng = np.random.default_rng(0)
X, Y = rng.random((6, 50)), rng.integers(0, 3, 50)


def fit(callback, epochs=6, **options):
    net = fastmlp.MLP((6, 4, 3), seed=0)
    return net, net.fit(X, Y, epochs=epochs, callback=callback, **options)


def rows(path):
    with open(path, newline="", encoding="ascii") as file:
        return list(csv.reader(file))


class Diary(Callback):
    def __init__(self, name, seen, stop=None):
        self.name, self.seen, self.stop = name, seen, stop

    def begin(self, epochs):
        self.seen.append((self.name, "begin", epochs))

    def __call__(self, epoch, history):
        self.seen.append((self.name, epoch, len(history)))
        return epoch == self.stop

    def end(self, history):
        self.seen.append((self.name, "end", history.stopped))


def test_all_of_a_sequence_are_called_in_order_also_after_one_has_asked_for_the_end():
    seen = []
    _, history = fit([Diary("a", seen, stop=2), lambda epoch, _: seen.append(("f", epoch)), Diary("b", seen)])
    assert history.stopped == "callback"
    assert seen == [
        ("a", "begin", 6), ("b", "begin", 6),
        ("a", 1, 1), ("f", 1), ("b", 1, 1),
        ("a", 2, 2), ("f", 2), ("b", 2, 2),
        ("b", "end", "callback"), ("a", "end", "callback"),
    ]  # fmt: skip


def test_an_error_loses_nothing_and_all_learn_of_the_end(tmp_path):
    seen = []

    def fail(epoch, history):
        if epoch == 3:
            raise OSError("full")

    kept = fastmlp.MLP((6, 4, 3), seed=0)
    kept.fit(X, Y, epochs=3)
    net = fastmlp.MLP((6, 4, 3), seed=0)
    path = tmp_path / "run.ckpt"
    with pytest.raises(OSError, match="full"):
        net.fit(X, Y, epochs=6, callback=(fail, Diary("a", seen)), checkpoint=path)
    np.testing.assert_array_equal(net.parameters, kept.parameters)
    np.testing.assert_array_equal(fastmlp.MLP.load(path).parameters, kept.parameters)
    assert [one[1] for one in seen] == ["begin", 1, 2, "end"]


def test_an_error_at_the_end_leaves_the_final_model():
    class Bad(Callback):
        def __call__(self, epoch, history):
            return None

        def end(self, history):
            raise OSError("full")

    seen = []
    net = fastmlp.MLP((6, 4, 3), seed=0)
    with pytest.raises(OSError, match="full"):
        net.fit(X, Y, epochs=6, callback=[Diary("a", seen), Bad()])
    np.testing.assert_array_equal(net.parameters, fit(None)[0].parameters)
    assert seen[-1] == ("a", "end", "epochs")


@pytest.mark.parametrize("value", [3, "log.csv", [None], [CSVLog], {}])
def test_what_is_no_callback_is_refused(value):
    with pytest.raises(TypeError, match=r"^callback: got .*, expected a callable, or a list or tuple of them; "):
        fit(value)


# ---- CSVLog


def test_a_csv_log_is_the_history_and_complete_after_each_epoch(tmp_path):
    path, lengths = tmp_path / "log.csv", []
    _, history = fit([CSVLog(path), lambda *_: lengths.append(len(rows(path)))], validation=(X, Y))
    history.to_csv(tmp_path / "expected.csv")
    assert rows(path) == rows(tmp_path / "expected.csv")
    assert lengths == [2, 3, 4, 5, 6, 7]


def test_a_csv_log_continues_after_a_resumption_without_epochs_twice(tmp_path):
    path, checkpoint = tmp_path / "log.csv", tmp_path / "run.ckpt"
    fit([CSVLog(path)], epochs=3, checkpoint=checkpoint)
    with open(path, "a", encoding="ascii") as file:
        file.write("4,1.0,0.5,0.1\r\n5,1.0")  # of a run that was killed after its checkpoint, and within a row
    _, history = fit([CSVLog(path)], epochs=6, checkpoint=checkpoint, resume=True)
    assert [row[0] for row in rows(path)] == ["epoch", "1", "2", "3", "4", "5", "6"]
    assert [float(row[1]) for row in rows(path)[1:]] == history.loss


def test_the_same_csv_log_serves_two_runs(tmp_path):
    log = CSVLog(tmp_path / "log.csv")
    fit(log, epochs=5)
    fit(log, epochs=2)
    assert [row[0] for row in rows(tmp_path / "log.csv")] == ["epoch", "1", "2"]


# ---- TensorBoard


def scalars(folder):
    """Return [(step, value)] of the loss, as TensorBoard's own reader gives them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("loss")]


@pytest.mark.parametrize("writer", ["torch.utils.tensorboard", "tensorboardX"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_tensorboard_reads_each_epoch_once_after_a_resumption(tmp_path, monkeypatch, writer):
    for module in ("tensorboard", writer):
        pytest.importorskip(module, exc_type=ImportError)
    if writer == "tensorboardX":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    folder, checkpoint = tmp_path / "runs", tmp_path / "run.ckpt"
    net = fastmlp.MLP((6, 4, 3), seed=0)
    net.fit(X, Y, epochs=3, checkpoint=checkpoint, callback=TensorBoard(folder))
    fit(TensorBoard(folder), epochs=4)  # went on to epoch 4, without a checkpoint
    time.sleep(1.1)  # event files are read in the order of their names, which have the second
    _, history = fit(TensorBoard(folder), epochs=6, checkpoint=checkpoint, resume=True)
    assert [step for step, _ in scalars(folder)] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([value for _, value in scalars(folder)], history.loss, rtol=1e-6)


def test_without_a_writer_the_error_names_the_packages(monkeypatch):
    for name in ("torch", "torch.utils", "torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match='python -m pip install "tensorboardX"'):
        TensorBoard("runs")


# ---- TimeBudget


def test_a_time_budget_stops_before_an_epoch_that_would_exceed_it(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    budget, history = TimeBudget(10.0), fastmlp.History()
    budget.begin(99)
    for epoch, took in enumerate([5.0, 1.0, 1.5, 1.0], 1):  # the first one has compiled kernels for 4 seconds
        clock[0] += took
        history.seconds.append(1.0)
        assert budget(epoch, history) is (epoch == 4)  # 8.5 s, and the next may take 1.5 s or a little more
        clock[0] += 0.25 if epoch == 3 else 0.0


@pytest.mark.parametrize("seconds", [0, -1, np.nan, "a"])
def test_a_time_budget_is_positive(seconds):
    with pytest.raises((ValueError, TypeError), match="seconds: got"):
        TimeBudget(seconds)
