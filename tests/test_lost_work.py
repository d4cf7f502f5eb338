"""The result of a run is not lost, and does not overwrite a better result of an earlier run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import cli, console, keeping
from fastmlp.console import Console

pytest.importorskip("sklearn")

RUN = [sys.executable, "-m", "fastmlp"]
TRAIN = "train --backend numpy --hidden 4 --epochs 40"
LONG = f"{TRAIN} --epochs 400 --optimizer gd"  # one update for each epoch
posix = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Return a function that runs a command in its own folder, and returns status, object and standard error."""
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")

    def call(words, *paths):
        capsys.readouterr()
        status = cli.main([*words.split(), *map(str, paths), "--json"])
        printed, error = capsys.readouterr()
        found = json.loads(printed)
        assert found["status"] == status
        return status, found, error

    return call


@pytest.fixture
def better(tmp_path):
    """Return the file of a model and its bytes."""
    path = tmp_path / "good.safetensors"
    fastmlp.MLP((64, 4, 10), seed=9).save(path)
    return path, path.read_bytes()


def at(monkeypatch, beginning, act):
    """Call ``act`` once, when a line with this beginning is printed."""
    tell, waiting = Console.tell, [act]

    def told(self, text):
        tell(self, text)
        if str(text).startswith(beginning) and waiting:
            waiting.pop()()

    monkeypatch.setattr(Console, "tell", told)


def strike():
    signal.raise_signal(signal.SIGINT)


def fails(*numbers):
    """Return a function that raises OSError with each number in turn, and then calls the original."""
    waiting = list(numbers)

    def wrap(original):
        def wrapped(self, *arguments):
            if waiting:
                number = waiting.pop(0)
                raise OSError(number, os.strerror(number))
            return original(self, *arguments)

        return wrapped

    return wrap


@posix
def test_an_interrupted_run_is_saved_beside_a_better_model(run, better, monkeypatch):
    path, content = better
    for name in ("good.interrupted.safetensors", "good.interrupted-2.safetensors"):
        at(monkeypatch, "epoch", strike)
        status, found, error = run(f"{TRAIN} --save", path)
        assert (status, found["stopped"]) == (130, "interrupt")
        assert path.read_bytes() == content
        assert found["saved"] == str(path.with_name(name))
        assert f"saved: {path.with_name(name)}; {path} was not changed" in error
        assert fastmlp.MLP.load(path.with_name(name)).evaluate(*digits_test())["loss"] == found["test"]["loss"]


def digits_test():
    from fastmlp.datasets import digits

    _, (x, y) = digits.load_data()
    return fastmlp.pack(x.reshape(len(x), -1).T, scale=1 / 16), y


@posix
def test_an_interrupted_run_is_saved_where_there_is_nothing_yet(run, tmp_path, monkeypatch):
    at(monkeypatch, "epoch", strike)
    assert run(f"{TRAIN} --save", tmp_path / "new")[1]["saved"] == str(tmp_path / "new")
    assert fastmlp.MLP.load(tmp_path / "new").layer_sizes == (64, 4, 10)


def test_a_run_that_ends_by_itself_replaces_the_file(run, better):
    path, content = better
    assert run(f"{TRAIN} --save", path)[1]["saved"] == str(path)
    assert path.read_bytes() != content


@pytest.mark.parametrize("exists", [True, False])
def test_a_run_that_diverges_saves_its_last_finite_parameters(run, better, exists):
    path, content = better
    if not exists:
        path.unlink()
    status, found, error = run(f"{TRAIN} --alpha 1e300 --save", path)
    assert (status, found["stopped"]) == (1, "diverged")
    assert "smaller --alpha" in error
    assert "smaller --alpha" in found["error"]
    assert found["saved"] == str(path.with_name("good.diverged.safetensors") if exists else path)
    assert np.isfinite(fastmlp.MLP.load(found["saved"]).parameters).all()
    assert not exists or path.read_bytes() == content


@posix
def test_ctrl_c_waits_while_a_model_is_saved(run, tmp_path, monkeypatch):
    save = fastmlp.MLP.save

    def struck(self, path):
        strike()
        save(self, path)
        strike()

    monkeypatch.setattr(fastmlp.MLP, "save", struck)
    status, found, error = run(f"{TRAIN} --save", tmp_path / "model")
    assert (status, found["saved"], found["test"]) == (130, str(tmp_path / "model"), None)
    assert "stopped by Ctrl-C before the test and the figures" in error
    assert fastmlp.MLP.load(tmp_path / "model").layer_sizes == (64, 4, 10)


def test_a_folder_that_is_gone_at_the_end_costs_nothing(run, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    at(monkeypatch, "epoch", lambda: shutil.rmtree(tmp_path / "gone"))
    status, found, error = run(f"{TRAIN} --save", tmp_path / "gone" / "model.safetensors")
    assert (status, found["saved"]) == (2, str(tmp_path / "current" / "model.safetensors"))
    assert f"saved instead: {found['saved']}" in error
    assert found["test"]["accuracy"] == fastmlp.MLP.load(found["saved"]).evaluate(*digits_test())["accuracy"]


@pytest.mark.parametrize("length", [242, 255])
def test_a_name_that_is_too_long_costs_nothing(run, tmp_path, length):
    status, found, _ = run(f"{TRAIN} --save", tmp_path / f"{'n' * (length - 12)}.safetensors")
    assert (found["saved"] is not None, status in (0, 2)) == (True, True)
    assert fastmlp.MLP.load(found["saved"]).layer_sizes == (64, 4, 10)


def test_a_full_disk_costs_nothing_as_long_as_another_has_room(run, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "current" / "model").write_text("not mine")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for full, place in ((1, "current/model-2"), (2, "temporary/model")):
        monkeypatch.setattr(fastmlp.MLP, "save", fails(*[errno.ENOSPC] * full)(fastmlp.MLP.save))
        status, found, error = run(f"{TRAIN} --save", tmp_path / "model")
        assert (status, found["saved"]) == (2, str(tmp_path / place))
        assert f"--save: No space left on device; saved instead: {tmp_path / place}" in error
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path / "current")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert (tmp_path / "current" / "model").read_text() == "not mine"


def test_a_model_that_no_place_takes_does_not_cost_the_answer(run, tmp_path, monkeypatch):
    monkeypatch.setattr(fastmlp.MLP, "save", fails(*[errno.ENOSPC] * 3)(fastmlp.MLP.save))
    status, found, error = run(f"{TRAIN} --save", tmp_path / "model")
    assert (status, found["saved"], found["test"]["samples"]) == (2, None, 364)
    assert "the model could not be saved anywhere else either" in error


def test_a_picture_that_cannot_be_written_is_named_and_costs_no_other(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(Path, "write_bytes", fails(errno.ENOSPC)(Path.write_bytes))
    words = f"{TRAIN} --save {tmp_path / 'model'} --plot"
    status, found, error = run(words, tmp_path / "pictures")
    assert (status, found["saved"], found["test"]["samples"]) == (2, str(tmp_path / "model"), 364)
    assert f"fastmlp: {tmp_path / 'pictures' / 'learning-curves.png'}: No space left on device" in error
    assert f"saved: {tmp_path / 'model'}" in error
    names = {Path(one).name for one in found["pictures"]}
    assert names == set(os.listdir(tmp_path / "pictures")) >= {"confusion-matrix.png", "worst-mistakes.png"}


@pytest.mark.parametrize("error", [MemoryError(), ValueError("broken")])
def test_an_answer_that_cannot_be_had_does_not_cost_the_model(run, tmp_path, monkeypatch, error):
    def raises(*_):
        raise error

    monkeypatch.setattr(fastmlp.MLP, "evaluate", raises)
    status, found, said = run(f"{TRAIN} --save", tmp_path / "model")
    assert (status, found["saved"], found["test"]) == (2, str(tmp_path / "model"), None)
    assert f"saved: {tmp_path / 'model'}" in said
    assert found["error"] in said


def test_an_error_within_the_training_leaves_what_was_learnt(run, better, monkeypatch):
    """For any error that ends a run after an epoch: no memory, or no space for a checkpoint."""
    path, content = better

    def raises():
        raise MemoryError

    at(monkeypatch, "epoch", raises)
    status, found, _ = run(f"{TRAIN} --save", path)
    assert (status, found["stopped"], found["epochs"]) == (2, "error", 1)
    assert "not enough memory" in found["error"]
    assert found["saved"] == str(path.with_name("good.interrupted.safetensors"))
    assert path.read_bytes() == content


class Full:
    """A file on a disk with space for a few lines only."""

    encoding = "ascii"

    def __init__(self, lines, error):
        self.lines, self.error, self.text = lines, error, ""

    def write(self, text):
        self.text += text

    def flush(self):
        if self.text.count("\n") > self.lines:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "standard output: No space left on device"),
        (ValueError("I/O operation on closed file."), 2, "standard output: I/O operation on closed file."),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_output_that_is_lost_midway_does_not_cost_the_model(tmp_path, monkeypatch, capsys, error, status, said):
    monkeypatch.setattr(sys, "stdout", Full(4, error))
    assert cli.main([*LONG.split(), "--save", str(tmp_path / "model")]) == status
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == (1 if said else 0)
    assert fastmlp.MLP.load(tmp_path / "model").layer_sizes == (64, 4, 10)


def test_a_reader_that_went_away_ends_the_training(tmp_path, monkeypatch):
    epochs = []
    fit = fastmlp.MLP.fit

    def counted(*arguments, **settings):
        history = fit(*arguments, **settings)
        epochs.append(len(history))
        return history

    monkeypatch.setattr(fastmlp.MLP, "fit", counted)
    for error, count in (
        (BrokenPipeError(), 22),
        (OSError(errno.ENOSPC, "full"), 400),
    ):  # a full disk is not a reason to stop
        monkeypatch.setattr(sys, "stdout", Full(4, error))
        cli.main(LONG.split())
        assert epochs.pop() == count


@posix
def test_closed_standard_streams(tmp_path):
    """The next files to be opened get their numbers, and no output may be written into them."""
    words = f"{TRAIN} --plot pictures --save model"
    result = subprocess.run(
        ["sh", "-c", f'exec "$0" -m fastmlp {words} >&- 2>"$1"', sys.executable, str(tmp_path / "error")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(fastmlp.__file__).parents[1])},
        check=False,
        timeout=120,
    )
    assert (result.returncode, (tmp_path / "error").read_text()) == (0, "")
    assert fastmlp.MLP.load(tmp_path / "model").layer_sizes == (64, 4, 10)
    result = subprocess.run(["sh", "-c", 'exec "$0" -m fastmlp --help 0>&- >&- 2>&-', sys.executable], check=False)
    assert result.returncode == 0


STRUCK = """
import os, sys
class Struck:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r} and self in sys.meta_path:
            sys.meta_path.remove(self)
            for _ in range({times}):
                os.kill(os.getpid(), 2)
sys.meta_path.insert(0, Struck())
sys.argv = ["fastmlp", "info", *{words}]
from fastmlp.cli import main
sys.exit(main())
"""


@posix
@pytest.mark.parametrize(
    "name", ["signal", "threading", "fastmlp.options", "argparse", "numpy", "fastmlp.commands", "numba"]
)
def test_ctrl_c_while_modules_are_imported_is_one_line(run_python, name):
    if name == "numba":
        pytest.importorskip("numba")
    times = (
        1 if name in ("signal", "threading") else 3
    )  # without the handler, a second signal would interrupt the reaction to the first
    result = run_python(STRUCK.format(name=name, times=times, words=[]), check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "fastmlp: stopped\n")


@posix
def test_ctrl_c_while_modules_are_imported_is_one_object(run_python):
    result = run_python(STRUCK.format(name="numpy", times=1, words=["--json"]), check=False)
    assert json.loads(result.stdout) == {"status": 130, "error": "stopped", "warnings": []}
    assert (result.returncode, result.stderr) == (130, "fastmlp: stopped\n")


@posix
def test_ctrl_c_pressed_again_and_again(tmp_path):
    with subprocess.Popen(
        [*RUN, *TRAIN.split(), "--epochs", "10000000", "--save", tmp_path / "model"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.002)
        printed, error = process.stdout.read(), process.stderr.read()
    assert (process.returncode, error) == (130, "")
    assert f"saved: {tmp_path / 'model'}" in printed
    assert fastmlp.MLP.load(tmp_path / "model").layer_sizes == (64, 4, 10)


def test_a_free_name_is_not_taken_by_a_link_to_nothing(tmp_path):
    (tmp_path / "a.b").symlink_to(tmp_path / "nowhere")
    assert keeping._free(tmp_path, "a", ".b") == tmp_path / "a-2.b"


@posix
def test_ctrl_c_raises_again_only_after_a_moment_and_never_while_held(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGINT)
    interrupts = console.Interrupts(to_the_end=False)
    interrupts.begin()
    try:
        with pytest.raises(KeyboardInterrupt):
            strike()
        strike()
        now[0] += 1
        with pytest.raises(KeyboardInterrupt):
            strike()
        interrupts.hold()
        now[0] += 1
        strike()
        with pytest.raises(KeyboardInterrupt):
            interrupts.release()
    finally:
        interrupts.end()
    assert signal.getsignal(signal.SIGINT) is before
