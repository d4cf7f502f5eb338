"""The command line, called as a user calls it."""

import contextlib
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from compare import assert_same_bits
from conftest import BLOCK_NUMBA

import fastmlp
from fastmlp import cli, optimizers, options, refusals, schedules, storage
from fastmlp.console import Console
from fastmlp.datasets import digits, mnist

pytest.importorskip("sklearn")

RUN = [sys.executable, "-c", "from fastmlp import cli; raise SystemExit(cli.main())"]
posix = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
PICTURES = {"confusion-matrix.png", "worst-mistakes.png", "first-layer.png", "first-layer-change.png"}


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Return the file of a model trained on the digits."""
    path = tmp_path_factory.mktemp("digits") / "model.safetensors"
    assert silently("train --hidden 32 --epochs 60 --quiet --save", path)[0] == 0
    return path


def silently(words, *paths):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        status = cli.main([*words.split(), *map(str, paths)])
    return status, out.getvalue()


def accuracy(printed):
    return float(re.search(r"test accuracy ([\d.]+)%", printed)[1])


def start(*words, **options):
    return subprocess.Popen(
        [*RUN, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for_an_epoch(stream):
    for line in stream:
        if line.startswith("epoch"):
            return
    raise AssertionError("no epoch")


def test_train_learns_the_digits(run):
    status, printed, _ = run("train")
    assert status == 0
    assert "1433 training and 364 test samples" in printed
    assert "network 64-128-10, float32" in printed
    recipe = "adam, batches of 32, one-cycle to 0.008, 40 epochs"
    assert f"\n{recipe} (--optimizer gd is the notebook's training)\n" in printed
    lines = re.findall(r"^epoch +(\d+)  cost \d+\.\d+  accuracy [\d.]+%  \d+\.\d+ s$", printed, re.MULTILINE)
    assert (lines[0], lines[-1]) == ("1", "40")
    assert "time per epoch" in printed
    assert accuracy(printed) >= 97


@pytest.mark.numba
def test_the_readme_shows_what_is_printed(run, monkeypatch, mnist_data):
    monkeypatch.setattr(mnist, "load_data", lambda: mnist_data)
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    shown, printed = re.search(r"```text\n(.*?)```", readme, re.DOTALL)[1], run("train mnist")[1]
    number = r"\d+\.\d+|(?<=threads: )\d+"
    assert re.sub(number, "N", shown) == re.sub(number, "N", printed)


@pytest.mark.parametrize(("epochs", "lines"), [(1, 1), (4, 4), (19, 19), (20, 11), (38, 20), (39, 14), (500, 20)])
def test_at_most_twenty_epochs_are_printed(run, epochs, lines):
    words = f"train --backend numpy --hidden --optimizer gd --epochs {epochs}"
    assert len(re.findall(r"^epoch", run(words)[1], re.MULTILINE)) == lines


@pytest.mark.parametrize(
    ("words", "alpha"), [("--optimizer gd", 0.5), ("--alpha 0.25", 0.25), ("--optimizer gd --alpha 0.25", 0.25)]
)
def test_gradient_descent_is_that_of_the_notebook(run, tmp_path, words, alpha):
    status, printed, _ = run(f"train {words} --epochs 5 --json --save", tmp_path / "model")
    found = json.loads(printed)
    assert (status, found["optimizer"], found["alpha"], found["dtype"]) == (0, "gd", alpha, "float64")
    assert [found[name] for name in ("batch_size", "learning_rate", "schedule", "l2")] == [None, None, None, 0]
    (x, y), _ = digits.load_data()
    model = fastmlp.MLP((64, 128, 10), "float64", seed=0)
    history = model.fit(fastmlp.pack(x.reshape(len(x), -1).T, scale=1 / 16), y, 5, alpha)
    assert found["history"]["loss"] == history.loss
    assert_same_bits(fastmlp.MLP.load(tmp_path / "model").parameters, model.parameters)


def test_the_options_of_an_optimizer(run, tmp_path):
    words = (
        "train --optimizer adamw --batch-size 100 --learning-rate 0.01 --schedule cosine --l2 0.001 --epochs 5 --json "
        "--save"
    )
    _, printed, error = run(words, tmp_path / "model")
    found = json.loads(printed)
    assert "\nadamw, batches of 100, cosine from 0.01, l2 0.001, 5 epochs\n" in error
    names = "optimizer", "batch_size", "learning_rate", "schedule", "l2", "epochs", "dtype"
    assert [found[name] for name in names] == ["adamw", 100, 0.01, "cosine", 0.001, 5, "float32"]
    assert "alpha" not in found
    (x, y), _ = digits.load_data()
    model = fastmlp.MLP((64, 128, 10), "float32", seed=0)
    optimizer = optimizers.AdamW(schedules.cosine(0.01), beta2=0.99)
    pixels = fastmlp.pack(x.reshape(len(x), -1).T, scale=1 / 16, dtype="float32")
    model.fit(pixels, y, 5, optimizer=optimizer, batch_size=100, shuffle="batches", l2=0.001)
    assert_same_bits(fastmlp.MLP.load(tmp_path / "model").parameters, model.parameters)


def test_every_option(run, tmp_path):
    words = (
        "train digits --hidden 20 10 --epochs 3 --alpha 0.1 --threads 1 --dtype float32 --seed 7 --init he "
        "--activation tanh,gelu --backend numpy --validation 0.25 --patience 2 --min-delta 0.001 "
        "--checkpoint-every 0 --checkpoint"
    )
    status, printed, _ = run(words, tmp_path / "run.ckpt", "--save", tmp_path / "model")
    assert status == 0
    assert "1075 training, 358 validation and 364 test samples" in printed
    assert "network 64-20-10-10, float32, init he, activation tanh,gelu, numpy backend, threads: 1\n" in printed
    assert "\ngd, full batch, alpha 0.1, 3 epochs\n" in printed
    assert len(re.findall(r"validation \d+\.\d+  [\d.]+%  \d+\.\d+ s$", printed, re.MULTILINE)) == 3
    assert "after 3 epochs" in printed
    assert f"saved: {tmp_path / 'model'}" in printed
    saved, checkpoint = storage.load(tmp_path / "model"), storage.load(tmp_path / "run.ckpt")
    assert (saved.seed, saved.init, saved.activation) == (7, "he", "tanh,gelu")
    assert checkpoint.facts["epoch"] == "3"
    assert saved.notes == checkpoint.notes | {"trained": saved.notes["trained"]}
    assert saved.notes["trained"].startswith("gd, full batch, alpha 0.1, 3 epochs; ended after 3 epochs (epochs)")


def test_the_activation_is_shown_unless_it_is_the_usual_one(run, tmp_path):
    shown = []
    for word in ("", "--activation tanh"):
        status, printed, _ = run(f"train --hidden 4 --epochs 1 --json {word} --save", tmp_path / "model")
        assert status == 0
        shown.append((json.loads(printed)["activation"], ", activation tanh," in run("info", tmp_path / "model")[1]))
    assert shown == [("relu", False), ("tanh", True)]


def test_quiet(run):
    _, printed, error = run("train --epochs 3 --quiet")
    assert "accuracy" not in printed.partition("test accuracy")[0]
    assert "test accuracy" in printed
    assert error == ""


def test_a_net_without_hidden_layers(run):
    status, printed, _ = run("train --hidden --epochs 2")
    assert status == 0
    assert "network 64-10," in printed


def test_patience_ends_a_training_and_keeps_the_best(run, tmp_path):
    words = "train --epochs 3000 --validation 0.2 --patience 1 --min-delta 0.05 --json --save"
    _, printed, _ = run(words, tmp_path / "model")
    found = json.loads(printed)
    assert (found["stopped"], found["epochs"] < 3000) == ("patience", True)
    assert found["seconds_per_epoch"] == statistics.median(found["history"]["seconds"])
    losses = found["history"]["validation_loss"]
    share = np.zeros(1433, bool)
    share[np.random.default_rng(0).permutation(1433)[: round(0.2 * 1433)]] = True
    (x, y), _ = digits.load_data()
    kept = fastmlp.MLP.load(tmp_path / "model").evaluate(x[share].reshape(-1, 64).T / 16, y[share])["loss"]
    assert kept == losses[-2]


def test_train_learns_mnist(mnist_training):
    """The notebook's net reaches at least 97.5 % on the test images."""
    _, found = mnist_training
    assert found["test"]["accuracy"] >= 0.975
    assert (found["samples"], found["test"]["samples"], found["network"]) == (60000, 10000, [784, 128, 10])
    assert (found["optimizer"], found["batch_size"]) == ("adam", 128)
    assert len(found["history"]["loss"]) == found["epochs"] == 4


def test_the_pictures_are_written(mnist_training, run, tmp_path, model):
    folder, found = mnist_training
    for path in found["pictures"]:
        assert (folder / path).read_bytes().startswith(b"\x89PNG")
    assert {Path(path).name for path in found["pictures"]} == PICTURES | {"learning-curves.png"}
    assert set(os.listdir(folder / "pictures")) == PICTURES | {"learning-curves.png"}
    assert run("evaluate", model, "digits", "--plot", tmp_path / "new" / "folder")[0] == 0
    assert set(os.listdir(tmp_path / "new" / "folder")) == PICTURES


def test_pictures_of_what_is_none(run, tmp_path):
    """For a table of 3 columns, only the figures without images are drawn."""
    pytest.importorskip("matplotlib")
    table(tmp_path / "a.csv", 3)
    assert run("train --epochs 2 --plot", tmp_path / "pictures", tmp_path / "a.csv")[0] == 0
    assert set(os.listdir(tmp_path / "pictures")) == {"confusion-matrix.png", "learning-curves.png"}


def table(path, columns, rows=40):
    values = np.random.default_rng(0).integers(0, 50, (rows, columns)) / 4
    lines = [f"{int(row.sum() > 6 * columns)},{','.join(map(str, row))}" for row in values]
    path.write_text("\n".join(lines))


def test_evaluate_says_what_train_said(mnist_training, run):
    folder, found = mnist_training
    status, printed, _ = run("evaluate --json", folder / "digits.safetensors", "mnist")
    evaluated = json.loads(printed)
    assert status == evaluated["status"] == 0
    assert (evaluated["loss"], evaluated["accuracy"]) == (found["test"]["loss"], found["test"]["accuracy"])
    assert sum(one["samples"] for one in evaluated["classes"]) == evaluated["samples"] == 10000
    assert sum(one["right"] for one in evaluated["classes"]) == round(10000 * evaluated["accuracy"])


def test_classes_are_counted_by_their_true_label(run, model):
    _, _, error = run("evaluate", model, "digits", "--part", "all", "--json")
    found = json.loads(run("evaluate", model, "digits", "--part", "all", "--json")[1])
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    x, y = np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])
    guesses = fastmlp.MLP.load(model).predict(fastmlp.pack(x.reshape(len(x), -1).T, scale=1 / 16))
    for label, one in enumerate(found["classes"]):
        taken = [int(np.sum((y == label) & (guesses == other))) for other in range(10)]
        assert (one["name"], one["samples"], one["right"]) == (str(label), int(np.sum(y == label)), taken[label])
        assert one["taken_for"] == {str(k): count for k, count in enumerate(taken) if count and k != label}
        most = max(one["taken_for"].values(), default=0)
        if most:
            name = next(iter(one["taken_for"]))
            assert one["taken_for"][name] == most
            assert f", most often taken for {name} ({most})" in error


def test_parts_of_the_data(run, model):
    right = {}
    for part, samples in (("train", 1433), ("test", 364), ("all", 1797)):
        status, printed, _ = run(f"evaluate {model} digits --part {part}")
        assert status == 0
        assert f"{samples} samples" in printed
        right[part] = samples * float(re.search(r"^accuracy ([\d.]+)%", printed, re.MULTILINE)[1]) / 100
    assert right["train"] + right["test"] == pytest.approx(right["all"], abs=0.5)


def test_a_table_is_evaluated_on_the_scale_of_its_training(run, tmp_path):
    """Other data are scaled as in training, although their largest value differs."""
    table(tmp_path / "a.csv", 4)
    assert run("train --epochs 2 --quiet --save", tmp_path / "model", tmp_path / "a.csv")[0] == 0
    lines = (tmp_path / "a.csv").read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([*lines, "0,99,99,99,99", "1,99,99,99,99"]))
    a, b = (
        json.loads(run("evaluate --json --part all", tmp_path / "model", tmp_path / name)[1])
        for name in ("a.csv", "b.csv")
    )
    added = [one["right"] - other["right"] for one, other in zip(b["classes"], a["classes"], strict=True)]
    assert sorted(added) == [0, 1]


def test_predict_reads_pictures_of_mnist_digits(mnist_training, mnist_data, run, tmp_path):
    """Large digits, dark on white, anywhere on the page, as PNG and JPEG, rotated by EXIF, and transparent."""
    pillow = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    x, y = mnist_data[1][0][:100], mnist_data[1][1][:100]
    for i, digit in enumerate(x):
        page = pillow.new("L", (800, 700), 255)
        ink = pillow.fromarray(255 - digit).resize((392, 392), pillow.Resampling.BICUBIC)
        page.paste(ink, tuple(map(int, rng.integers(0, 300, 2))))
        if i % 4 == 0:
            page.save(tmp_path / f"{i:03}.jpg")
        elif i % 4 == 1:
            exif = pillow.Exif()
            exif[0x0112] = 6
            page.transpose(pillow.Transpose.ROTATE_90).save(tmp_path / f"{i:03}.jpg", exif=exif)
        elif i % 4 == 2:
            black = pillow.new("L", page.size, 0)
            pillow.merge("RGBA", [black, black, black, page.point(lambda v: 255 - v)]).save(tmp_path / f"{i:03}.png")
        else:
            page.save(tmp_path / f"{i:03}.png")
    status, printed, _ = run("predict --json", mnist_training[0] / "digits.safetensors", tmp_path)
    predictions = json.loads(printed)["predictions"]
    assert status == 0
    assert [Path(one["source"]).stem for one in predictions] == [f"{i:03}" for i in range(100)]
    assert np.mean([one["class"] for one in predictions] == y) >= 0.85
    for one in predictions:
        assert one["probability"] == max(one["probabilities"])
        assert sum(one["probabilities"]) == pytest.approx(1)
        assert "cropped to" in one["done"]
    assert "rotated as its EXIF data says" in predictions[1]["done"]


def second(p):
    runner_up = np.argsort(p)[-2]
    return f"{runner_up}, {p[runner_up]:.1%}"


def test_predict_reads_idx_files(mnist_training, mnist_data, run):
    path = Path(os.environ["FASTMLP_DATA"], "mnist", "t10k-images-idx3-ubyte.gz")
    status, printed, _ = run("predict", mnist_training[0] / "digits.safetensors", path)
    lines = printed.splitlines()
    assert (status, len(lines)) == (0, 10000)
    model = fastmlp.MLP.load(mnist_training[0] / "digits.safetensors")
    p = model.predict_proba(fastmlp.pack(mnist_data[1][0][:5].reshape(5, -1).T, scale=1 / 255))
    assert lines[:5] == [
        f"{path}[{i}]: {p[:, i].argmax()}, {p[:, i].max():.1%}, else {second(p[:, i])}" for i in range(5)
    ]


def test_predict_says_what_it_did(run, tmp_path, model):
    pillow = pytest.importorskip("PIL.Image")
    page = np.full((60, 80), 255, np.uint8)
    page[10:50, 30:40] = 0
    pillow.fromarray(page).save(tmp_path / "one.png")
    small = np.minimum(255, digits.load_data()[1][0][0] * 16).astype(np.uint8)
    pillow.fromarray(small).save(tmp_path / "exact.png")
    _, printed, _ = run("predict", model, tmp_path / "one.png", tmp_path / "exact.png")
    assert re.search(
        r"one.png: \d, [\d.]+%, else \d, [\d.]+%  \(80x60, dark on light: inverted, cropped to 10x40, resized to 2x8, "
        r"centred by its outline in 8x8\)\n.*exact.png: \d, [\d.]+%, else \d, [\d.]+%  \(8x8, used unchanged\)",
        printed,
    )


def test_a_model_without_notes_is_taken_for_one_of_mnist(run, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    fastmlp.MLP((784, 10)).save(tmp_path / "model")
    pillow.fromarray(np.eye(28, dtype=np.uint8) * 255).save(tmp_path / "a.png")
    status, printed, _ = run("predict", tmp_path / "model", tmp_path / "a.png")
    assert status == 0
    assert "does not describe its training data" in printed
    assert "a.png: " in printed


@pytest.mark.parametrize(
    "words",
    ["train --epochs 2", "evaluate {model} digits", "bench --hidden 4 --seconds 0.01", "info", "info {model}"],
)
def test_json_is_one_object_and_alone(run, words, model):
    status, printed, _ = run(words.format(model=model) + " --json")
    found = json.loads(printed, parse_constant=pytest.fail)
    assert status == found["status"] == 0
    assert printed.count("\n") == 1
    assert run(words.format(model=model))[1].count("\n") > 1


def test_bench_compares(run):
    words = "bench --hidden 4 --seconds 0.01 --dtype float32"
    status, printed, _ = run(words)
    assert status == 0
    assert printed.startswith(
        "digits: compares results, then measures for about 0.01 s\n64-4-10, float32, 1433 samples"
    )
    found = json.loads(run(words + " --json")[1])
    assert (found["data"], found["net"], found["samples"]) == ("digits", "64-4-10", 1433)
    formulas, *rows = found["rows"]
    assert (formulas["difference"], formulas["speedup"]) == (0, 1)
    assert all(f"{row['name']} " in printed and row["difference"] < 1e-4 for row in rows)


def test_info(run, model):
    found = json.loads(run("info --json --backend numpy --threads 1", model)[1])
    config = fastmlp.show_config(mode="dicts")
    assert {key: found[key] for key in config} == config
    assert (found["backend"], found["threads"].split()[0]) == ("numpy", "1")
    assert found["model"].startswith(f"{model}: 64-32-10, float32, ")
    assert found["model"].endswith("seed 0")
    assert json.loads(found["model inputs"]) == [8, 8]
    printed = run("info", model)[1]
    assert all(f"{key + ':':17}{found[key]}" in printed for key in ("fastmlp", "model", "model data"))
    assert "\n".join(fastmlp.MLP.load(model).summary().splitlines()[1:]) in printed
    assert re.match(r"adam, .*; ended after \d+ epochs \(epochs\): loss \d.*, accuracy ", found["model trained"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --epochs -5", "--epochs: got -5"),
        ("train --alpha nan", "--alpha: got nan"),
        ("train --batch-size 0", "--batch-size: got 0"),
        ("train --learning-rate -1", "--learning-rate: got -1.0"),
        ("train --l2 inf", "--l2: got inf"),
        ("train --alpha 1 --optimizer sgd", "--alpha: got 1.0 beside --optimizer sgd, expected --optimizer gd; give"),
        ("train --alpha 1 --optimizer lbfgs", "--alpha: got 1.0 beside --optimizer lbfgs, expected --optimizer gd; o"),
        ("train --learning-rate 1 --alpha 1", "--learning-rate: got 1.0 beside --alpha, expected --optimizer sgd, a"),
        ("train --learning-rate 1 --optimizer gd", "--learning-rate: got 1.0 beside --optimizer gd, expected"),
        ("train --learning-rate 1 --optimizer lbfgs", "--learning-rate: got 1.0 beside --optimizer lbfgs, expected"),
        ("train --schedule linear --optimizer gd", "--schedule: got linear beside --optimizer gd, expected"),
        ("train --schedule linear --optimizer lbfgs", "--schedule: got linear beside --optimizer lbfgs, expected"),
        ("train --batch-size 8 --alpha 1", "--batch-size: got 8 beside --alpha, expected --optimizer sgd, a"),
        ("train --batch-size 8 --optimizer gd", "--batch-size: got 8 beside --optimizer gd, expected"),
        ("train --batch-size 8 --optimizer lbfgs", "--batch-size: got 8 beside --optimizer lbfgs, expected"),
        ("train --threads 0", "--threads: got 0"),
        ("train --threads 10000", "--threads: got 10000"),
        ("train --threads 10000 --backend numpy", "--threads: got 10000, expected at most the"),
        ("evaluate {model} digits --threads 0", "--threads: got 0"),
        ("train --hidden 0", "--hidden: got 0"),
        ("train --hidden 8 -1", "--hidden: got -1"),
        ("train --seed -1", "--seed: got -1"),
        ("train --min-delta inf", "--min-delta: got inf"),
        ("train --checkpoint-every -1", "--checkpoint-every: got -1"),
        ("train --validation 1", "--validation: got 1.0"),
        ("train --validation nan", "--validation: got nan"),
        ("train --patience 0 --validation 0.1", "--patience: got 0"),
        ("train --patience 3", "--patience: got no --validation"),
        ("train --save {tmp}/nowhere/model", "--save: got no such folder on writing"),
        ("train --save {tmp}", "--save: got a folder or a device"),
        ("train --checkpoint {tmp}/nowhere/c", "--checkpoint: got no such folder on writing"),
        ("train --checkpoint {model} --resume", "--checkpoint: got a file without the state of a training"),
        ("train --save {tmp}/same --checkpoint {tmp}/../{name}/same", "--checkpoint: got the file of --save"),
        ("train --save {tmp}/link --checkpoint {tmp}/same", "--checkpoint: got the file of --save"),
        ("train {tmp}/data.csv --save {tmp}/data.csv", "--save: got the file of DATA"),
        ("train --plot {model}", "--plot: got {model} (File exists)"),
        ("train minst", "DATA: got minst, expected digits, fashion_mnist, mnist, or an existing path; did you mean"),
        ("train MNIST", "did you mean mnist"),
        ("evaluate {model} fashion-mnist", "did you mean fashion_mnist"),
        ("train cifar", "check its spelling"),
        ("bench --seconds 0", "--seconds: got 0.0, expected a"),
        ("bench --seconds inf", "--seconds: got inf"),
        ("bench --hidden 0", "--hidden: got 0"),
        ("bench digitz", "did you mean digits"),
    ],
)  # fmt: skip
def test_a_message_speaks_of_the_option_and_comes_before_data_is_loaded(run, tmp_path, model, monkeypatch, words, said):
    (tmp_path / "link").symlink_to(tmp_path / "same")
    (tmp_path / "data.csv").write_text("0,1\n1,2\n")
    names = {"tmp": tmp_path, "model": model, "name": tmp_path.name}
    if "--resume" not in words:  # the checkpoint is compared with the data
        monkeypatch.setattr(digits, "load_data", lambda: pytest.fail("data was loaded"))
    status, printed, error = run(words.format(**names))
    assert (status, "samples" in printed and "--resume" not in words) == (2, False)
    assert said.format(**names) in error
    assert "Errno" not in error


@pytest.mark.parametrize(
    "words",
    [
        "train --epochs 0",
        "train --alpha -1",
        "train --alpha nan",
        "train --alpha 0.5 --optimizer adam",
        "train --batch-size 8 --optimizer lbfgs",
        "train --threads 0",
        "train --hidden 0",
        "train --hidden 99999999999",
        "train --seed -1",
        "train --min-delta -1 --validation 0.1 --patience 3",
        "train --patience 3",
        "train --patience 0 --validation 0.1",
        "train --validation 0",
        "train --validation 1",
        "train --validation nan",
        "train --resume",
        "train --checkpoint {tmp}/nowhere/run.ckpt",
        "train --checkpoint {model}",
        "train --checkpoint {model} --resume",
        "train --checkpoint-every -1 --checkpoint {tmp}/run.ckpt",
        "train --save {tmp}/nowhere/model",
        "train --save {tmp}",
        "train --plot {model}",
        "train cifar",
        "train {tmp}",
        "train {tmp}/text.csv",
        "train {model}",
        "evaluate nowhere digits",
        "evaluate {tmp}/text.csv digits",
        "evaluate {tmp}/damaged digits",
        "evaluate {tmp} digits",
        "evaluate {model} nowhere",
        "evaluate {model} {tmp}/table.csv",
        "evaluate {tmp}/lying digits",
        "predict {tmp}/lying {tmp}/a.png",
        "bench --seconds 0",
        "bench nowhere",
        "info nowhere",
        "info {tmp}/damaged",
        "train --activation swish",
        "train --hidden 8 8 --activation tanh,relu,gelu",
        "train --activation tanh,",
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, tmp_path, model, words):
    (tmp_path / "text.csv").write_text("once upon a time")
    table(tmp_path / "table.csv", 3)
    content = bytearray(model.read_bytes())
    content[-5] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    lying = fastmlp.MLP((64, 10))
    lying.notes = {"inputs": "[-8, -8]", "max_value": "16.0", "classes": json.dumps(list("0123456789"))}
    lying.save(tmp_path / "lying")
    status, printed, error = run(words.format(tmp=tmp_path, model=model))
    assert status == 2
    assert "\nepoch" not in printed
    assert error.startswith("fastmlp: ")
    assert not error.startswith("fastmlp: path: ")
    assert error.count("\n") == 1
    status, printed, _ = run(words.format(tmp=tmp_path, model=model) + " --json")
    text = error.removeprefix("fastmlp: ").rstrip("\n")
    assert json.loads(printed) == {"status": status, "error": text, "warnings": []}


@pytest.mark.parametrize(
    ("words", "usage", "said"),
    [
        (
            "",
            "fastmlp",
            "no COMMAND, expected train, evaluate, predict, export, pack, bench or info; see fastmlp --help",
        ),
        ("trian", "fastmlp", "unknown command 'trian'; did you mean train?"),
        ("INFO", "fastmlp", "unknown command 'INFO'; did you mean info?"),
        ("walk", "fastmlp", "unknown command 'walk'\n"),
        ("train --epcohs 3", "fastmlp train", "unknown option --epcohs; did you mean --epochs?"),
        ("train --Min_Delta=3", "fastmlp train", "unknown option --Min_Delta=3; did you mean --min-delta?"),
        ("evaluate m digits --parts all --xyzzy", "fastmlp evaluate", "unknown option --parts; did you mean --part?"),
        ("bench --xyzzy", "fastmlp bench", "unknown option --xyzzy\n"),
        ("train digits mnist", "fastmlp train", "unexpected argument: 'mnist'"),
        ("train --dtype float16", "fastmlp train", "float16"),
        ("train --epochs many", "fastmlp train", "many"),
        ("train --optimizer adagrad", "fastmlp train", "adagrad"),
        ("train --schedule step", "fastmlp train", "step"),
        ("train --batchsize 8", "fastmlp train", "unknown option --batchsize; did you mean --batch-size?"),
        ("train --hidden 1.5", "fastmlp train", "--hidden: got '1.5', expected whole numbers"),
        ("train --hidden wide 64", "fastmlp train", "--hidden: got 'wide'"),
        ("train digits --hidden 64 mnist", "fastmlp train", "--hidden: got 'mnist'"),
        ("predict", "fastmlp predict", "MODEL"),
        ("evaluate m", "fastmlp evaluate", "DATA"),
    ],
)
def test_wrong_words_are_status_2_and_get_the_usage_of_their_command(run, words, usage, said):
    status, printed, error = run(words)
    assert (status, printed) == (2, "")
    assert error.startswith(f"usage: {usage} [-h]")
    assert error.splitlines()[-1].startswith(f"{usage}: error: ")
    assert said in error
    status, printed, again = run(words + " --json")
    assert again == error
    text = error.splitlines()[-1].partition(" error: ")[2]
    assert json.loads(printed) == {"status": 2, "error": text, "warnings": []}


@pytest.mark.parametrize(
    ("words", "sizes", "data"),
    [
        ("", [128], "digits"),
        ("--hidden", [], "digits"),
        ("--hidden 64 32", [64, 32], "digits"),
        ("--hidden 64,32 mnist", [64, 32], "mnist"),
        ("--hidden 64, 32 mnist --epochs 3", [64, 32], "mnist"),
        ("--hidden mnist", [], "mnist"),
        ("mnist --hidden 64", [64], "mnist"),
        ("--hidden 64 -- 7", [64], "7"),
        ("--hidden 64 2024.csv", [64], "2024.csv"),
    ],
)
def test_widths_may_be_written_as_a_list_and_data_may_follow_them(words, sizes, data):
    found = options.parse(["train", *words.split()])
    assert (found.hidden, found.data) == (sizes, data)


@pytest.mark.parametrize(
    ("module", "words"), [("PIL", "predict {model} {tmp}/a.png"), ("matplotlib", "train --plot {tmp}/pictures")]
)
def test_a_missing_library_names_the_extra(run_python, tmp_path, model, module, words):
    """The error comes at once, not after an hour of training."""
    (tmp_path / "a.png").write_bytes(b"")
    code = f"""
import sys
sys.modules[{module!r}] = None
from fastmlp import cli
raise SystemExit(cli.main({words.format(tmp=tmp_path, model=model).split()!r}))
"""
    result = run_python(code, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert 'pip install ".[cli]" in a clone' in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_data_is_status_2(run, monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("FASTMLP_DATA", str(tmp_path))
    status, _, error = run("train mnist")
    assert status == 2
    assert "train-images-idx3-ubyte" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--alpha 1e308", r" with alpha 1e\+308; .*: continue with a smaller --alpha$"),
        # The rate of the schedule, not the one that was typed.
        ("--learning-rate 1e30", r" with learning rate 4\.5\d+e\+28; .*: continue with a smaller --learning-rate$"),
    ],
)
def test_divergence_is_status_1_and_names_the_option(run, words, said):
    status, printed, error = run(f"train {words} --json")
    found = json.loads(printed)
    assert status == found["status"] == 1
    assert re.search(said, error, re.MULTILINE)
    assert re.search(said, found["error"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--alpha 0 --epochs 60", "; take another --alpha or more --epochs"),
        (
            "--learning-rate 50 --schedule constant --optimizer sgd --epochs 60",
            "; begin with another --init, or another --seed, or take another --learning-rate or more --epochs",
        ),
    ],
)
def test_advice_on_training_names_the_options(run, words, said):
    _, printed, error = run(f"train {words} --quiet --json")
    (warning,) = json.loads(printed)["warnings"]
    assert warning.endswith(said)
    assert f"fastmlp: warning: {warning}\n" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batch-size 64", "--batch-size 32 in the file but 64 here"),
        ("--l2 0.5", "--l2 0.0 in the file but 0.5 here"),
        ("--seed 3", "--seed 0 in the file but 3 here"),
        ("--init he", "--init glorot in the file but he here"),
        ("--activation tanh", "--activation relu in the file but tanh here"),
        ("--dtype float64", "--dtype float32 in the file but float64 here"),
        ("--optimizer lbfgs --dtype float32", "--optimizer Adam("),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_option(run, tmp_path, words, said):
    path = tmp_path / "alpha, l2 and learning_rate"
    assert run("train --epochs 1 --quiet --checkpoint", path)[0] == 0
    status, _, error = run(f"train --epochs 2 --quiet --resume {words} --checkpoint", path)
    assert status == 2
    assert f"fastmlp: --checkpoint: got {said}" in error
    assert f": {path}, expected" in error


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("learning_rate(1, 9): got inf, expected", "--learning-rate(1, 9): got inf, expected"),
        ("path: got batch_size 8 in the file: l2, alpha", "path: got --batch-size 8 in the file: l2, alpha"),
        ("take more epochs", "take more --epochs"),
        ("not finite in epoch 2 of 3 epochs", None),
        ("No space left on device: 'with alpha'", None),
        ("got alpha.ckpt, another seed-7 and my/l2 run", None),
    ],
)
def test_only_arguments_become_options(text, typed):
    assert refusals.as_typed(text) == (typed or text)


def test_only_a_training_run_speaks_of_options():
    before = warnings.showwarning
    with pytest.raises(FloatingPointError, match="^a smaller --alpha$"), refusals.speaking_of_options():
        raise FloatingPointError("a smaller alpha")
    assert warnings.showwarning is before


@pytest.mark.parametrize("command", ["", "train", "evaluate", "predict", "bench", "info"])
def test_help_teaches_by_examples_that_parse(run, command):
    status, text, _ = run(f"{command} --help")
    assert status == 0
    for code in ("0    success", "1    training diverged", "2    wrong usage", "130  stopped", "141  "):
        assert code in text
    examples = re.findall(r"^  fastmlp (.*)$", text, re.MULTILINE)
    assert examples
    for example in examples:
        words = re.split(r"\s{2,}| [|>] ", example)[0].split()
        if "--help" not in words:
            assert options.parse(words).run


@posix
def test_ctrl_c_saves_and_evaluates_what_was_learned(tmp_path):
    words = ["train", "--epochs", 10**7, "--json", "--save", tmp_path / "model", "--checkpoint", tmp_path / "run.ckpt"]
    with start(*words) as process:
        wait_for_an_epoch(process.stderr)
        process.send_signal(signal.SIGINT)
        printed, error = process.communicate(timeout=60)
    found = json.loads(printed)
    assert process.returncode == found["status"] == 130, error
    assert found["stopped"] == "interrupt"
    assert "test accuracy" in error
    assert "Traceback" not in error
    model = fastmlp.MLP.load(tmp_path / "model")
    assert storage.load(tmp_path / "run.ckpt").facts["epoch"] == str(found["epochs"])
    (_, _), (x, y) = digits.load_data()
    assert model.evaluate(fastmlp.pack(x.reshape(len(x), -1).T, scale=1 / 16), y)["loss"] == found["test"]["loss"]


@posix
def test_ctrl_c_before_the_training_is_status_130_as_well():
    code = (
        "import os, signal, threading\nfrom fastmlp import cli\n"
        "import fastmlp.datasets.digits as source\nload = source.load_data\n"
        "def struck():\n    os.kill(os.getpid(), signal.SIGINT)\n    return load()\n"
        "source.load_data = struck\nraise SystemExit(cli.main(['train']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "fastmlp: stopped\n")


@posix
@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("method", ["--optimizer gd", "--schedule constant"])
def test_a_training_resumed_after_a_kill_ends_with_the_same_bits(tmp_path, run, backend, method):
    if backend == "numba":
        pytest.importorskip("numba")
    words = f"train --backend {backend} --hidden 16 --validation 0.2 --patience 9000 {method}"
    checkpoint = ["--resume", "--checkpoint", tmp_path / "run.ckpt", "--checkpoint-every"]
    with start(*words.split(), *checkpoint, 0, "--epochs", 10**6) as process:
        wait_for_an_epoch(process.stdout)
        process.kill()
    done = int(storage.load(tmp_path / "run.ckpt").facts["epoch"])
    words += f" --epochs {done + 20} --save"
    assert run(words, tmp_path / "whole")[0] == 0
    status, printed, _ = run(words, tmp_path / "resumed", *checkpoint, 10)
    assert status == 0
    assert f"continues from {tmp_path / 'run.ckpt'}, after epoch {done}" in printed
    resumed, whole = storage.load(tmp_path / "resumed"), storage.load(tmp_path / "whole")
    assert_same_bits(resumed.parameters, whole.parameters)
    assert (resumed.seed, resumed.notes) == (whole.seed, whole.notes)


@posix
def test_batches_resumed_within_their_schedule_end_with_the_same_bits(tmp_path, run, monkeypatch):
    """With the same number of epochs as before Ctrl-C, the recipe's schedule continues where it was."""
    words = "train --hidden 16 --epochs 12 --save"
    assert run(words, tmp_path / "whole")[0] == 0
    resumable = ["--resume", "--checkpoint", tmp_path / "run.ckpt"]
    tell, waiting = Console.tell, ["epoch  5"]

    def told(self, text):
        tell(self, text)
        if waiting and str(text).startswith(waiting[0]):
            waiting.pop()
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Console, "tell", told)
    assert run(words, tmp_path / "begun", *resumable)[0] == 130
    assert int(storage.load(tmp_path / "run.ckpt").facts["epoch"]) < 12
    status, printed, _ = run(words, tmp_path / "resumed", *resumable)
    assert (status, f"continues from {tmp_path / 'run.ckpt'}, after epoch" in printed) == (0, True)
    resumed, whole = storage.load(tmp_path / "resumed"), storage.load(tmp_path / "whole")
    assert_same_bits(resumed.parameters, whole.parameters)


def test_more_epochs_continue_with_the_schedule_of_the_new_total(tmp_path, run):
    words = ["train --hidden 16 --resume --checkpoint", tmp_path / "run.ckpt", "--save", tmp_path / "model", "--epochs"]
    assert run(*words, 3)[0] == run(*words, 8)[0] == 0
    (x, y), _ = digits.load_data()
    model, cycle = fastmlp.MLP((64, 16, 10), "float32", seed=0), schedules.one_cycle(0.008)

    def rate(update, _):
        return cycle(update, (3 if update <= 3 * 45 else 8) * 45)  # 45 batches of at most 32 of 1433 samples

    pixels = fastmlp.pack(x.reshape(len(x), -1).T, scale=1 / 16, dtype="float32")
    model.fit(pixels, y, 8, optimizer=optimizers.Adam(rate, beta2=0.99), batch_size=32, shuffle="batches")
    assert_same_bits(fastmlp.MLP.load(tmp_path / "model").parameters, model.parameters)


def test_what_resume_finds_is_said(run, tmp_path):
    words = "train --backend numpy --hidden 4 --epochs 3 --resume --checkpoint"
    path = tmp_path / "run.ckpt"
    assert f"no {path} yet: starts anew" in run(words, path)[1]
    status, printed, _ = run(words, path)
    assert status == 0
    assert f"{path} is already at epoch 3: nothing to train; give more --epochs to continue" in printed
    assert "after 3 epochs" in printed
    table(tmp_path / "a.csv", 64)
    status, _, error = run(words, path, "--seed", "1")
    assert (status, "--checkpoint: got --seed 0 in the file but 1 here" in error) == (2, True)
    status, _, error = run(words, path, "--optimizer", "sgd")
    assert (status, "--checkpoint: got --optimizer Adam(" in error) == (2, True)
    status, _, error = run(words, path, "--validation", "0.5")
    assert status == 2
    assert f"--checkpoint: got a run that was trained on other data: {path}, expected" in error
    assert not re.search("[0-9a-f]{32}", error)


def test_a_checkpoint_predicts_as_a_model_does(run, tmp_path):
    files = tmp_path / "run.ckpt", tmp_path / "model"
    assert run("train --epochs 2 --quiet --checkpoint", files[0], "--save", files[1])[0] == 0
    checkpoint, model = (json.loads(run("evaluate", path, "digits", "--json")[1]) for path in files)
    assert checkpoint.pop("model") != model.pop("model")
    assert checkpoint == model


@posix
@pytest.mark.parametrize("words", ["train --backend numpy --hidden 4 --epochs 2000 --save {tmp}/saved", "info"])
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path, words):
    with start(*words.format(tmp=tmp_path).split()) as process:
        if "train" in words:
            wait_for_an_epoch(process.stdout)
        process.stdout.close()
        process.wait(timeout=60)
        assert process.stderr.read() == ""
    assert process.returncode == 141
    if "train" in words:
        assert fastmlp.MLP.load(tmp_path / "saved").layer_sizes == (64, 4, 10)


WARNED = """
import warnings
from fastmlp import cli, commands
info = commands.info
def warned(options, say):
    warnings.warn("a warning\\n  of two lines", UserWarning)
    warnings.warn_explicit("for developers", DeprecationWarning, "library.py", 1, module="library")
    return info(options, say)
commands.info = warned
raise SystemExit(cli.main())
"""


def test_a_warning_is_one_line_without_a_path(run_python):
    result = run_python("import sys; sys.argv = ['fastmlp', 'info', '--json']" + WARNED)
    assert "a warning of two lines" in result.stderr
    first, *others = result.stderr.splitlines()
    assert first == "fastmlp: warning: a warning of two lines"
    assert json.loads(result.stdout)["warnings"] == ["a warning of two lines"]
    assert all(line in others for line in [f"{'backend:':17}{json.loads(result.stdout)['backend']}"])


def test_without_numba_one_line_says_so(run_python):
    words = ["train", "--epochs", "2", "--hidden", "4"]
    code = f"{BLOCK_NUMBA}\nsys.argv = ['fastmlp', *{words}]\nfrom fastmlp.cli import main; raise SystemExit(main())"
    result = run_python(code)
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("fastmlp: warning: fastmlp runs on its NumPy backend")
    assert "numpy backend" in result.stdout


def test_a_data_file_whose_name_is_no_text(run, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")
    try:
        Path(path).write_text("")
    except OSError:
        pytest.skip("this file system accepts only text as names")
    table(Path(path), 4)
    status, _, _ = run("train --epochs 2 --save", tmp_path / "model", path)
    assert status == 0
    assert "caf" in fastmlp.MLP.load(tmp_path / "model").notes["data"]
