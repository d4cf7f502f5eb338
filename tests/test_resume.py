"""Checkpoints: a training run that was interrupted anywhere ends with the bits of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from compare import assert_same_bits, assert_same_end
from small import X, Y, held_out, model, schedule

import fastmlp
from fastmlp import storage

# Thirty epochs on random labels: some nets do no better than guessing, and warn of it.
pytestmark = pytest.mark.filterwarnings("ignore::fastmlp.TrainingWarning")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

HERE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import fastmlp
from small import X, Y, held_out, model, schedule
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def trained(stops=(), *, epochs=30, sizes=(12, 9, 4), dtype="float64", **options):
    """Train in pieces: each piece ends at a stop, and a new model resumes, as in a new process."""
    for stop in (*stops, None):
        net = fastmlp.MLP(sizes, dtype=dtype, seed=2)
        history = net.fit(X, Y, epochs=epochs, callback=lambda epoch, _, stop=stop: epoch == stop, **options)
    return net, history


@pytest.mark.parametrize("sizes", [(12, 4), (12, 9, 4), (12, 7, 5, 4)])
@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.3},
        {"alpha": schedule, "validation": held_out, "class_weight": {1: 2.5}},
        {"alpha": 0.3, "validation": held_out, "patience": 40},
        {"alpha": 0.3, "validation": held_out, "patience": 3, "min_delta": 1e-3},
        {"alpha": 0.3, "validation": held_out, "patience": 2, "min_delta": 10.0},
    ],
    ids=["plain", "schedule", "patience that lasts", "patience that ends", "patience without improvement"],
)
def test_resumed_equals_uninterrupted(backend, dtype, path, sizes, options):
    whole = trained(sizes=sizes, dtype=dtype.name, **options)
    pieces = trained((1, 4, 5, 17), sizes=sizes, dtype=dtype.name, checkpoint=path, resume=True, **options)
    assert_same_end(pieces, whole)
    again = trained(sizes=sizes, dtype=dtype.name, checkpoint=path, resume=True, **options)
    assert_same_end(again, whole)
    assert_same_bits(fastmlp.MLP.load(path).parameters, whole[0].parameters)


def test_more_epochs_go_on_from_the_end(backend, path):
    options = {"validation": held_out, "patience": 1000}
    trained(epochs=10, checkpoint=path, **options)
    assert_same_end(trained(epochs=30, checkpoint=path, resume=True, **options), trained(epochs=30, **options))


def test_patience_may_begin_with_a_resumption(path):
    options = {"alpha": 0.3, "validation": held_out, "checkpoint": path, "resume": True}
    trained(epochs=20, **options)
    net, history = trained(epochs=25, patience=2, min_delta=10.0, **options)
    assert (len(history), history.stopped) == (22, "patience")
    assert_same_bits(net.parameters, trained(epochs=20, alpha=0.3)[0].parameters)


def test_without_a_file_resume_starts_afresh_and_without_resume_a_file_is_replaced(backend, path):
    assert_same_end(trained(checkpoint=path, resume=True), trained())
    history = trained(epochs=3, checkpoint=path)[1]
    assert history.epoch == [1, 2, 3]
    assert storage.load(path).facts["epoch"] == "3"


def test_the_file_says_where_the_training_stands(path):
    net, history = trained(epochs=5, alpha=schedule, validation=held_out, checkpoint=path)
    record = storage.load(path)
    assert (record.facts["epoch"], record.facts["alpha"], record.seed) == ("5", repr(schedule(5)), 2)
    assert {"data", "validation"} <= set(record.facts)
    assert record.arrays["validation_loss"].tolist() == history.validation_loss
    assert_same_bits(record.parameters, net.parameters)


def test_written_when_due(path, monkeypatch):
    seen = []

    def callback(epoch, history):
        seen.append(storage.load(path).facts["epoch"] if path.exists() else None)

    model().fit(X, Y, epochs=3, checkpoint=path, checkpoint_every=0, callback=callback)
    assert seen == ["1", "2", "3"]
    path.unlink()
    seen.clear()
    model().fit(X, Y, epochs=3, checkpoint=path, checkpoint_every=1e6, callback=callback)
    assert seen == [None] * 3
    assert storage.load(path).facts["epoch"] == "3"


def test_divergence_leaves_the_last_finite_parameters_in_the_file(backend, path):
    net = fastmlp.MLP((12, 9, 4), seed=2, dtype="float32")
    with pytest.raises(FloatingPointError, match="epoch 4 "):
        net.fit(X, Y, epochs=9, alpha=lambda epoch: 0.1 if epoch < 4 else 1e308, checkpoint=path, checkpoint_every=1e6)
    assert_same_bits(storage.load(path).parameters, net.parameters)
    options = {"epochs": 9, "alpha": 0.1, "dtype": "float32"}
    assert_same_end(trained(checkpoint=path, resume=True, **options), trained(**options))


def test_a_callback_that_raises_leaves_a_file_to_resume_from(path):
    def callback(epoch, history):
        if epoch == 3:
            raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        model().fit(X, Y, epochs=9, checkpoint=path, callback=callback)
    assert_same_end(trained(epochs=9, checkpoint=path, resume=True), trained(epochs=9))


def test_a_checkpoint_that_cannot_be_written_says_so_before_the_training(tmp_path):
    for bad, error in ((tmp_path / "none" / "file", OSError), (tmp_path, ValueError)):
        net = model()
        with pytest.raises(error, match="^(.Errno 2. )?path: got "):
            net.fit(X, Y, checkpoint=bad, callback=lambda *_: pytest.fail("trained"))


IMAGES = (X * 255).astype(np.uint8)
FLOATS = {
    "plain": lambda: IMAGES / 255.0,
    "Fortran": lambda: np.asfortranarray(IMAGES / 255.0),
    "packed": lambda: fastmlp.pack(IMAGES / 255.0),
    "minus zero": lambda: np.where(IMAGES == 0, -0.0, IMAGES / 255.0),
}
CODES = {
    "packed": lambda: fastmlp.pack(IMAGES),
    "packed from Fortran": lambda: fastmlp.pack(np.asfortranarray(IMAGES)),
    "plain": lambda: IMAGES,
}


def test_a_checkpoint_that_cannot_be_written_is_said_once_and_training_continues(path, monkeypatch):
    """A later checkpoint is written as soon as that is possible again."""
    save, failures = storage.save, [True] * 3 + [False] * 10
    monkeypatch.setattr(storage, "save", lambda *a: save(*a) if not failures.pop(0) else full())

    def full():
        raise OSError(28, "No space left on device", str(path))

    net = model()
    with pytest.warns(fastmlp.TrainingWarning, match="the checkpoint cannot be written") as caught:
        history = net.fit(X, Y, epochs=6, checkpoint=path, checkpoint_every=0)
    assert len(caught) == 1
    assert len(history) == 6
    assert storage.load(path).facts["epoch"] == "6"
    assert_same_bits(storage.load(path).parameters, net.parameters)


def test_a_validation_that_raises_leaves_a_file_to_resume_from(path, monkeypatch):
    options = {"epochs": 6, "validation": held_out, "checkpoint": path, "checkpoint_every": 0}
    evaluate, calls = fastmlp.MLP._evaluate, []

    def third_raises(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("the validation's")
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fastmlp.MLP, "_evaluate", third_raises)
        with pytest.raises(MemoryError, match="the validation's"):
            model().fit(X, Y, **options)
    assert storage.load(path).facts["epoch"] == "2"
    assert_same_end(trained(resume=True, **options), trained(epochs=6, validation=held_out))


def test_every_so_many_seconds_counts_from_the_last_write(path, monkeypatch):
    from fastmlp import checkpoint

    now, written = [0.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    save = storage.save
    monkeypatch.setattr(
        storage, "save", lambda place, record: written.append(record.facts["epoch"]) or save(place, record)
    )

    def second_passes(epoch, history):
        now[0] += 1.0

    model().fit(X, Y, epochs=9, checkpoint=path, checkpoint_every=3.0, callback=second_passes)
    assert written == ["4", "7", "9"]


@pytest.mark.parametrize("forms", [FLOATS, CODES], ids=["floating point", "uint8"])
def test_plain_packed_and_either_backend_are_the_same_data(path, forms):
    epochs = 0
    for name in ("numba", "numpy"):
        try:
            with fastmlp.use_backend(name):
                for form in forms.values():
                    epochs += 1
                    history = model().fit(form(), Y, epochs=epochs, checkpoint=path, resume=True)
                    assert history.epoch == list(range(1, epochs + 1))
        except ImportError:
            continue
    assert epochs >= len(forms)


def test_uint8_and_floating_point_are_not_the_same_data(backend, path):
    """Dense samples are stored in another form, with which training may give other bits."""
    model().fit(fastmlp.pack(IMAGES, scale=1 / 255), Y, epochs=2, checkpoint=path)
    with pytest.raises(ValueError, match="a run that was trained on other data: "):
        model().fit(IMAGES / 255.0, Y, epochs=3, checkpoint=path, resume=True)


def changed(array, index):
    other = np.array(array, copy=True)
    other[index] += 1
    return other


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"X": changed(X, (11, 299))}, "trained on other data"),
        ({"X": X[:, ::-1]}, "trained on other data"),
        ({"Y": (Y + 1) % 4}, "trained on other data"),
        ({"sample_weight": np.arange(1.0, 301.0)}, "trained on other data"),
        ({"class_weight": {0: 3.0}}, "trained on other data"),
        ({"validation": (held_out[0], held_out[1][::-1])}, "trained on other validation data"),
        ({"validation": None}, "trained on other validation data"),
        ({"net": fastmlp.MLP((12, 8, 4), seed=2)}, "layer sizes"),
        ({"net": fastmlp.MLP((12, 9, 4), seed=2, dtype="float32")}, "dtype"),
        ({"net": fastmlp.MLP((12, 9, 4), seed=3)}, "seed"),
        ({"net": fastmlp.MLP((12, 9, 4), seed=2, init="he")}, "init glorot"),
    ],
)
def test_what_does_not_fit_is_refused(path, change, word):
    options = {"X": X, "Y": Y, "validation": held_out, "checkpoint": path}
    model().fit(**options, epochs=2)
    before = path.read_bytes()
    net = change.pop("net", model())
    parameters = net.parameters.copy()
    with pytest.raises(ValueError, match=f"^path: got .*{word}.*: .*run.safetensors, expected"):
        net.fit(**{**options, **change}, epochs=3, resume=True)
    assert_same_bits(net.parameters, parameters)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda facts, arrays: facts.pop("epoch"),
        lambda facts, arrays: facts.update(epoch="many"),
        lambda facts, arrays: facts.update(epoch="7"),
        lambda facts, arrays: facts.update(epoch="9" * 30),
        lambda facts, arrays: facts.pop("alpha"),
        lambda facts, arrays: facts.update(best_loss="low"),
        lambda facts, arrays: arrays.pop("loss"),
        lambda facts, arrays: arrays.update(loss=np.zeros((2, 1))),
        lambda facts, arrays: arrays.update(loss=np.zeros(2, np.float32)),
        lambda facts, arrays: arrays.update(parameters=np.zeros(3)),
        lambda facts, arrays: (facts.clear(), arrays.clear()),
    ],
)
def test_a_state_that_does_not_fit_together_is_refused(path, change):
    model().fit(X, Y, epochs=2, checkpoint=path)
    record = storage.load(path)
    digest = record.facts["data"]
    change(record.facts, record.arrays)
    record.facts.setdefault("data", digest)
    storage.save(path, record)
    net = model()
    with pytest.raises(ValueError, match="^path: got a file without the state of a training run"):
        net.fit(X, Y, epochs=3, checkpoint=path, resume=True)
    assert_same_bits(net.parameters, model().parameters)


def test_a_damaged_file_is_refused(path):
    model().fit(X, Y, epochs=2, checkpoint=path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="^path: got a file whose checksum"):
        model().fit(X, Y, epochs=3, checkpoint=path, resume=True)


@posix
def test_killed_trainings_resume_to_the_same_bits(backend, path, request):
    """A process that writes a checkpoint after each epoch is killed at random moments until it finishes."""
    code = f"""{HERE}
import sys
with fastmlp.use_backend({backend!r}):
    model().fit(X, Y, epochs=400, alpha=schedule, validation=held_out, patience=1000, checkpoint={str(path)!r},
                checkpoint_every=0, resume=True, callback=lambda *_: print(flush=True))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastmlp.__file__).parents[1])}
    rng, kills = np.random.default_rng(1), 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        assert 1 <= int(storage.load(path).facts["epoch"]) <= 400
    assert kills > 0
    options = {"alpha": schedule, "validation": held_out, "patience": 1000, "epochs": 400}
    assert_same_end(trained(checkpoint=path, resume=True, **options), trained(**options))


@posix
@pytest.mark.parametrize("where", ["anywhere", "callback"])
def test_ctrl_c_at_random_moments_never_tears_parameters_from_history(run_python, backend, path, where):
    """Each time, parameters, history and file are those of some epoch of the undisturbed run."""
    code = f"""{HERE}
import os, random, signal, threading, time
from fastmlp import storage
path, rng = {str(path)!r}, random.Random(0)
options = dict(alpha=schedule, validation=held_out)
undisturbed = []
def fit(net, **more):
    return net.fit(X, Y, **options, **more)
def busy(epoch, history):
    if {where!r} == "callback":
        time.sleep(0.004)
def settle(thread):
    try:
        thread.join()
        time.sleep(0.001)
    except KeyboardInterrupt:
        settle(thread)
with fastmlp.use_backend({backend!r}):
    keep = model()
    # With a checkpoint, so that all kernels are compiled: a trial that waits for the compiler would end there.
    fit(keep, epochs=3000, checkpoint=path, callback=lambda *_: undisturbed.append(keep.parameters.copy()))
    seen = set()
    for trial in range(25):
        def strike(first=rng.uniform(0.01, 0.2), again=rng.uniform(0, 0.003)):
            time.sleep(first)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(again)
            os.kill(os.getpid(), signal.SIGINT)
        net, thread, history = model(), threading.Thread(target=strike), None
        thread.start()
        try:
            history = fit(net, epochs=10**9, callback=busy, checkpoint=path, checkpoint_every=trial % 2 * 0.01)
            settle(thread)
        except KeyboardInterrupt:  # the second signal came after the end of fit, or the first before its start
            settle(thread)
        if history is None:
            continue
        assert history.stopped == "interrupt"
        done, record = len(history), storage.load(path)
        seen.add(done)
        assert {{len(column) for column in history.to_dict().values()}} == {{done}}
        if done <= len(undisturbed):
            expected = undisturbed[done - 1] if done else model().parameters
            assert net.parameters.tobytes() == expected.tobytes(), done
        assert record.facts["epoch"] == str(done) and record.parameters.tobytes() == net.parameters.tobytes()
        if done + 2 <= len(undisturbed):
            other = model()
            assert len(fit(other, epochs=done + 2, checkpoint=path, resume=True)) == done + 2
            assert other.parameters.tobytes() == undisturbed[done + 1].tobytes()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(seen) > 3, seen  # epochs are slow on a busy machine
    print(sorted(seen))
"""
    print(run_python(code).stdout)  # noqa: T201
