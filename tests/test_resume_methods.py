"""Checkpoints of optimizers and minibatches: a run that is resumed, also within an epoch, ends with the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from compare import assert_same_bits, assert_same_end
from minibatch_cases import METHODS
from small import X, Y, held_out, model

import fastmlp
from fastmlp import storage
from fastmlp.methods import minibatches
from fastmlp.optimizers import LBFGS, SGD, Adam, AdamW

# Random labels: some runs do no better than guessing, and warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:the model does not learn")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

PER_EPOCH = 5  # batches of 64


class StopError(Exception):
    """An error of the user's."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def fitted(seed=2, dtype="float64", **options):
    net = fastmlp.MLP((12, 9, 4), seed=seed, dtype=dtype)
    return net, net.fit(X, Y, **{"epochs": 8, **options})


@pytest.mark.parametrize("name", METHODS)
def test_resumed_equals_uninterrupted(backend, dtype, path, name):
    options = {"dtype": dtype.name, "validation": held_out, **METHODS[name]}
    for stop in (1, 4, 5):
        fitted(callback=lambda epoch, _, stop=stop: epoch == stop, checkpoint=path, resume=True, **options)
    whole = fitted(**options)
    for _ in range(2):
        assert_same_end(fitted(checkpoint=path, resume=True, **options), whole)
    assert_same_bits(fastmlp.MLP.load(path).parameters, whole[0].parameters)


@pytest.mark.parametrize("patience", [2, 100])
@pytest.mark.parametrize("name", ["Adam", "Adam, samples", "L-BFGS"])
def test_with_patience(backend, path, name, patience):
    options = {"validation": held_out, "patience": patience, "l2": 0.01, **METHODS[name]}
    fitted(callback=lambda epoch, _: epoch == 2, checkpoint=path, **options)
    assert_same_end(fitted(checkpoint=path, resume=True, **options), fitted(**options))


@pytest.mark.parametrize(("epochs", "tolerance", "stopped"), [(3, 1e-7, "epochs"), (200, 0.03, "converged")])
def test_l_bfgs_that_has_ended(backend, path, epochs, tolerance, stopped):
    """It has no more rows after a resumption than before."""
    options = {"optimizer": LBFGS(tolerance=tolerance), "epochs": epochs}
    whole = fitted(checkpoint=path, **options)
    assert whole[1].stopped == stopped
    assert_same_end(fitted(checkpoint=path, resume=True, **options), whole)
    assert_same_end(fitted(**options | {"epochs": len(whole[1])}), whole)


class Stops:
    """A learning rate that raises at one update."""

    def __init__(self, at):
        self.at = at

    def __call__(self, update, updates):
        if update == self.at:
            raise StopError
        return 0.02 / update**0.5


KINDS = {
    "SGD": SGD,
    "Nesterov": lambda rate: SGD(rate, momentum=0.8, nesterov=True),
    "Adam": Adam,
    "AdamW": lambda rate: AdamW(rate, weight_decay=0.1),
}


@pytest.mark.parametrize("shuffle", ["samples", "batches", False])
@pytest.mark.parametrize("name", KINDS)
def test_within_an_epoch(backend, dtype, path, name, shuffle):
    options = {"dtype": dtype.name, "batch_size": 64, "shuffle": shuffle, "sample_weight": np.linspace(0, 1, Y.size)}
    for stop in (1, 4, 5, 6, 18, 19):
        net = fastmlp.MLP((12, 9, 4), seed=2, dtype=dtype.name)
        with pytest.raises(StopError):
            net.fit(
                X, Y, epochs=8, optimizer=KINDS[name](Stops(stop)), checkpoint=path, resume=True,
                **{key: value for key, value in options.items() if key != "dtype"},
            )  # fmt: skip
        record = storage.load(path)
        assert (int(record.facts["epoch"]), int(record.facts["update"])) == divmod(stop - 1, PER_EPOCH)
        assert_same_bits(record.parameters, net.parameters)
    whole = fitted(optimizer=KINDS[name](Stops(0)), **options)
    assert_same_end(fitted(optimizer=KINDS[name](Stops(0)), checkpoint=path, resume=True, **options), whole)


HERE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import fastmlp
from fastmlp import storage
from fastmlp.methods import minibatches
from minibatch_cases import METHODS
from small import X, Y, held_out, model
"""


@posix
def test_killed_runs_of_each_method_resume_to_the_same_bits(backend, tmp_path):
    """A process that writes a checkpoint after each update is killed at random moments."""
    code = f"""{HERE}
minibatches._CHUNK_SECONDS = 0  # one update in a call
with fastmlp.use_backend({backend!r}):
    model().fit(X, Y, epochs=1, optimizer=fastmlp.optimizers.Adam(), batch_size=64)  # loads the kernels
    print("training", flush=True)
    for number, method in sorted(enumerate(METHODS.values()), key=lambda one: "batch_size" not in one[1]):
        path = Path(f"{tmp_path}/{{number}}")
        if path.exists() and storage.load(path).facts["epoch"] == "8":
            continue  # on a slow machine, resuming runs that are complete would take all the time
        model().fit(X, Y, epochs=8, validation=held_out, checkpoint=path, checkpoint_every=1e-9, resume=True, **method)
print("done", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastmlp.__file__).parents[1])}
    options = ["-W", "ignore", "-c", code]
    rng, kills, within = np.random.default_rng(1), 0, 0
    files = [tmp_path / str(number) for number in range(len(METHODS))]
    for attempt in range(60):
        if attempt >= 8 and within > 0:
            break
        process = subprocess.Popen([sys.executable, *options], stdout=subprocess.PIPE, env=environment)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        ended = b"done" in process.stdout.read()
        process.stdout.close()
        if ended:  # all are complete: the next attempt begins anew
            for one in files:
                one.unlink()
        within += sum(one.exists() and storage.load(one).facts.get("update", "0") != "0" for one in files)
    assert kills > 0
    assert within > 0, "no file was left within an epoch"
    for number, method in enumerate(METHODS.values()):
        whole = fitted(validation=held_out, **method)
        assert_same_end(fitted(validation=held_out, checkpoint=tmp_path / str(number), resume=True, **method), whole)


def test_written_within_an_epoch_when_due(backend, path, monkeypatch):
    monkeypatch.setattr(minibatches, "_CHUNK_SECONDS", 0)
    written, parameters, save = [], [], storage.save

    def note(place, record):
        written.append((int(record.facts["epoch"]), int(record.facts["update"])))
        parameters.append(record.parameters.tobytes())
        save(place, record)

    monkeypatch.setattr(storage, "save", note)
    fitted(epochs=2, batch_size=100, checkpoint=path, checkpoint_every=1e-9)
    assert written == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 0)]
    assert len(set(parameters)) == 6
    written.clear()
    fitted(epochs=2, batch_size=100, checkpoint=path, checkpoint_every=0)
    assert written == [(1, 0), (2, 0), (2, 0)]
    written.clear()
    fitted(epochs=2, batch_size=100, checkpoint=path, checkpoint_every=1e6)
    assert written == [(2, 0)]


def test_the_file_says_how_the_run_is_trained(path):
    net, _ = fitted(optimizer=Adam(0.01, beta1=0.8), batch_size=64, shuffle="batches", l2=0.5, checkpoint=path)
    record = storage.load(path)
    assert record.facts["optimizer"] == Adam(0.01, beta1=0.8).describe()
    assert "beta1=0.8" in record.facts["optimizer"]
    facts = {"batch_size": "64", "shuffle": "batches", "l2": "0.5", "clip_norm": "None", "update": "0"}
    assert facts.items() <= record.facts.items()
    assert record.facts["shuffle_seed"] == "2"
    assert {"m", "v", "batch_sums"} <= set(record.arrays)
    assert record.arrays["m"].shape == net.parameters.shape


def test_a_model_without_a_seed_draws_that_of_its_batches_once(backend, path, monkeypatch):
    start = model().parameters

    def ended(drawn, **options):
        monkeypatch.setattr("secrets.randbits", lambda bits: drawn)
        net = fastmlp.MLP((12, 9, 4), seed=None)
        net.parameters = start
        return net, net.fit(X, Y, epochs=4, batch_size=64, **options)

    whole = ended(5)
    ended(5, checkpoint=path, callback=lambda epoch, _: epoch == 2)
    assert storage.load(path).facts["shuffle_seed"] == "5"
    assert_same_end(ended(9, checkpoint=path, resume=True), whole)


def test_a_resumed_run_may_have_another_learning_rate_and_more_epochs(backend, path):
    options = {"batch_size": 64, "checkpoint": path}
    fitted(optimizer=Adam(0.01), epochs=2, **options)
    net, history = fitted(optimizer=Adam(0.001), epochs=4, resume=True, **options)
    assert len(history) == 4
    assert not np.array_equal(net.parameters, fitted(optimizer=Adam(0.01), epochs=4, batch_size=64)[0].parameters)


@pytest.mark.parametrize(
    ("change", "theirs", "ours"),
    [
        ({"optimizer": SGD()}, "optimizer Adam(", "SGD("),
        ({"optimizer": AdamW()}, "optimizer Adam(", "AdamW("),
        ({"optimizer": Adam(beta1=0.8)}, "optimizer Adam(beta1=0.9", "beta1=0.8"),
        ({"optimizer": None}, "optimizer Adam(", "None here"),
        ({"batch_size": 32}, "batch_size 64", "32 here"),
        ({"batch_size": None}, "batch_size 64", "None here"),
        ({"shuffle": "batches"}, "shuffle samples", "batches here"),
        ({"shuffle": False}, "shuffle samples", "False here"),
        ({"l2": 0.1}, "l2 0.0", "0.1 here"),
        ({"clip_norm": 0.1}, "clip_norm None", "0.1 here"),
        ({"optimizer": LBFGS(), "batch_size": None}, "optimizer Adam(", "LBFGS("),
    ],
    ids=lambda one: str(one)[:40],
)
def test_another_method_is_refused(path, change, theirs, ours):
    options = {"optimizer": Adam(), "batch_size": 64, "shuffle": "samples", "checkpoint": path}
    fitted(epochs=2, **options)
    content, net = path.read_bytes(), model()
    with pytest.raises(
        ValueError, match="^path: got .* in the file but .* here: .*run.safetensors, expected"
    ) as caught:
        net.fit(X, Y, epochs=3, resume=True, **{**options, **change})
    assert theirs in str(caught.value)
    assert ours in str(caught.value)
    assert_same_bits(net.parameters, model().parameters)
    assert path.read_bytes() == content


def without_method(path):
    """Remove the facts about the method, which files of earlier versions lack."""
    record = storage.load(path)
    for name in ("optimizer", "batch_size", "shuffle", "l2", "clip_norm"):
        del record.facts[name]
    storage.save(path, record)


def test_files_of_earlier_versions_are_of_the_notebook_s_descent(backend, path):
    fitted(epochs=3, checkpoint=path)
    without_method(path)
    with pytest.raises(ValueError, match="batch_size None in the file but 64 here"):
        fitted(checkpoint=path, resume=True, batch_size=64)
    with pytest.raises(ValueError, match=r"optimizer None in the file but SGD\(.* here"):
        fitted(checkpoint=path, resume=True, optimizer=SGD())
    assert_same_end(fitted(checkpoint=path, resume=True), fitted())


DAMAGES = {
    "no update": lambda facts, arrays: facts.pop("update"),
    "update -1": lambda facts, arrays: facts.update(update="-1"),
    "update beyond the epoch": lambda facts, arrays: facts.update(update="5"),
    "update that is no number": lambda facts, arrays: facts.update(update="one"),
    "no seed": lambda facts, arrays: facts.pop("shuffle_seed"),
    "negative seed": lambda facts, arrays: facts.update(shuffle_seed="-1"),
    "large seed": lambda facts, arrays: facts.update(shuffle_seed=str(2**32)),
    "no vector": lambda facts, arrays: arrays.pop("v"),
    "short vector": lambda facts, arrays: arrays.update(v=np.zeros(3)),
    "float32 vector": lambda facts, arrays: arrays.update(v=arrays["v"].astype(np.float32)),
    "no sums": lambda facts, arrays: arrays.pop("batch_sums"),
    "two sums": lambda facts, arrays: arrays.update(batch_sums=np.zeros(2)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_state_that_does_not_fit_is_refused(path, name):
    options = {"optimizer": Adam(), "batch_size": 64, "checkpoint": path}
    fitted(epochs=2, **options)
    record = storage.load(path)
    DAMAGES[name](record.facts, record.arrays)
    storage.save(path, record)
    content, net = path.read_bytes(), model()
    with pytest.raises(ValueError, match="^path: got a file without the state of a training run"):
        net.fit(X, Y, epochs=3, resume=True, **options)
    assert_same_bits(net.parameters, model().parameters)
    assert path.read_bytes() == content


@pytest.mark.parametrize("array", ["s", "y", "gradient", "scores"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_state_of_l_bfgs_that_does_not_fit_is_refused(path, array, damage):
    options = {"optimizer": LBFGS(), "checkpoint": path}
    fitted(epochs=3, **options)
    record = storage.load(path)
    found = record.arrays.pop(array)
    if damage == "short":
        record.arrays[array] = found[..., :-1]
    storage.save(path, record)
    net = model()
    with pytest.raises(ValueError, match="^path: got a file without the state of a training run"):
        net.fit(X, Y, epochs=4, resume=True, **options)
    assert_same_bits(net.parameters, model().parameters)
