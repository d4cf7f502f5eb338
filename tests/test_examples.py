"""Run every example in the help texts and check the result that the help promises."""

import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastmlp import bench, cli, options
from fastmlp.datasets import mnist

datasets = pytest.importorskip("sklearn.datasets")
load_iris, dump_svmlight_file = datasets.load_iris, datasets.dump_svmlight_file

PICTURES = {"learning-curves", "confusion-matrix", "worst-mistakes", "first-layer", "first-layer-change"}


def right_at_least(share):
    return lambda found: found["test"]["accuracy"] >= share


def sees(*digits):
    return lambda found: [one["name"] for one in found["predictions"]] == list(digits)


def drawn(*, after_training):
    names = PICTURES if after_training else PICTURES - {"learning-curves"}
    return lambda found: {Path(one).stem for one in found["pictures"]} == names


def compared(found):
    return (
        all(row["difference"] < 1e-3 and row["milliseconds"] > 0 for row in found["rows"]) and len(found["rows"]) == 3
    )


CONSTANT = "--schedule constant --learning-rate 0.002"
RESULTS = {
    "train": right_at_least(0.975),
    "train mnist --save digits.safetensors": right_at_least(0.975),
    "train mnist --hidden 256 128 --epochs 8": right_at_least(0.981),  # 98.40 % over 8 seeds, with a deviation of 0.08
    f"train {CONSTANT} --epochs 500 --validation 0.1 --patience 20 --plot pictures": lambda found: (
        found["stopped"] == "patience" and right_at_least(0.95)(found) and drawn(after_training=True)(found)
    ),
    "train --epochs 20 --checkpoint run.ckpt": right_at_least(0.97),
    "train --epochs 40 --checkpoint run.ckpt --resume": lambda found: (
        found["epochs"] == 40 and right_at_least(0.97)(found)
    ),
    "train --optimizer gd": lambda found: found["dtype"] == "float64" and right_at_least(0.965)(found),
    "train letters.csv --save letters.safetensors --json > letters.json": right_at_least(0.9),
    "train iris.csv --label species --save iris.safetensors": right_at_least(0.9),
    "train houses.csv --target price --save houses.safetensors --plot pictures": lambda found: (
        found["test"]["r2"] >= 0.98
        and {Path(one).stem for one in found["pictures"]} == {"learning-curves", "predicted-against-true"}
    ),
    "train rentals.csv --target bicycles --loss poisson": lambda found: found["test"]["r2"] >= 0.85,
    "train houses.csv --label town --category rooms --ignore price": right_at_least(0.5),
    "train news.svm": right_at_least(0.85),
    "evaluate houses.safetensors houses.csv": lambda found: found["r2"] >= 0.98,
    "predict houses.safetensors new.csv": lambda found: np.allclose(
        [one["value"] for one in found["predictions"]], [245_000, 185_000], atol=20_000
    ),
    "predict houses.safetensors new.csv --output prices.csv": lambda found: (
        len(found["predictions"]) == 2 and len(Path("prices.csv").read_text().splitlines()) == 3
    ),
    "export digits.safetensors --to digits.onnx": lambda found: Path("digits.onnx").stat().st_size > 0,
    "evaluate digits.safetensors mnist": lambda found: found["accuracy"] >= 0.975,
    "evaluate digits.safetensors mnist --plot pictures": drawn(after_training=False),
    "evaluate digits.safetensors mine.csv --part all --json": lambda found: (
        found["samples"] == 300 and found["accuracy"] >= 0.85
    ),
    "predict digits.safetensors photo.jpg": sees("7"),
    "predict digits.safetensors three.png": sees("3"),
    "predict digits.safetensors scans/": sees("7", "3"),
    "predict digits.safetensors t10k-images-idx3-ubyte.gz | head": lambda found: len(found["predictions"]) == 10000,
    "predict digits.safetensors a.jpg b.jpg --json": sees("7", "3"),
    "predict digits.safetensors pictures.npz": sees("7", "2"),
    "bench": compared,
    "bench mnist --dtype float32 --seconds 5": compared,
    "info": lambda found: found["backend"] in ("numba", "numpy"),
    "info digits.safetensors": lambda found: "784-128-10" in found["model"],
    "pack mnist --to mnist.pack": lambda found: (found["samples"], found["features"]) == (60000, 784),
    "pack mnist --part test --to test.pack": lambda found: found["samples"] == 10000,
    "pack houses.csv --target price --to houses.pack": lambda found: found["labels"] == "targets",
    "pack x.npy --labels y.npy --to own.pack": lambda found: found["labels"] == "3 classes",
    "train mnist.pack --save packed.safetensors": lambda found: found["history"]["accuracy"][-1] >= 0.98,
    "evaluate packed.safetensors test.pack": lambda found: found["accuracy"] >= 0.975,
    "info mnist.pack": lambda found: "60000 samples" in found["packed file"],
}


def examples():
    """Return the examples of all help texts, without `fastmlp` and without their explanations."""
    parser, commands = options._parsers()
    texts = [one.epilog for one in (parser, *commands.values())]
    found = [line for text in texts for line in re.findall(r"^  fastmlp (.*)$", text, re.MULTILINE)]
    return list(dict.fromkeys(re.split(r"\s{2,}", line)[0] for line in found if "--help" not in line))


def test_every_example_has_a_result():
    assert set(examples()) == set(RESULTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def furnished(folder, mnist_training, mnist_data):
    """Return a folder with the files of the examples: pictures of test digits, tables, an IDX file."""
    pillow = pytest.importorskip("PIL.Image")
    shutil.copy(mnist_training[0] / "digits.safetensors", folder)
    shutil.copy(Path(os.environ["FASTMLP_DATA"], "mnist", "t10k-images-idx3-ubyte.gz"), folder)
    (folder / "scans").mkdir()
    x, y = mnist_data[1]
    pages = {7: ("photo.jpg", "a.jpg", "scans/1.png"), 3: ("three.png", "b.jpg", "scans/2.jpg")}
    for digit, names in pages.items():
        page = pillow.new("L", (600, 500), 255)
        ink = pillow.fromarray(255 - x[np.flatnonzero(y == digit)[0]]).resize((280, 280), pillow.Resampling.BICUBIC)
        page.paste(ink, (120, 90))
        for name in names:
            page.save(folder / name)
    np.savez_compressed(folder / "pictures.npz", x=x[:2])
    rows = np.column_stack([y[:300], x[:300].reshape(300, -1)])
    np.savetxt(folder / "mine.csv", rows, fmt="%d", delimiter=",")
    return folder


def write_houses(rng):
    """Write a table of houses, whose areas tell something of the town, and one of new houses without prices."""
    town, area, rooms = np.arange(300) % 3, rng.uniform(20, 120, 300), rng.integers(1, 6, 300)
    area = area + 60 * town
    price = 2000 * area + 10_000 * rooms + 15_000 * town + rng.normal(0, 3000, 300)
    rows = zip(("Bern", "Oslo", "Rome") * 100, area, rooms, price, strict=True)
    lines = [f"{town},{area:.1f},{rooms},{price:.0f}" for town, area, rooms, price in rows]
    Path("houses.csv").write_text("\n".join(["town,area,rooms,price", *lines]))
    Path("new.csv").write_text("rooms,town,area\n3,Oslo,100\n2,Bern,82.5\n")


def write_tables():
    """Write tables of three separable classes: letters.csv, iris.csv with text as labels, and news.svm."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    values = rng.normal(size=(300, 6)) + 3 * np.eye(3, 6)[labels]
    np.savetxt("letters.csv", np.column_stack([labels, values]), fmt=["%d", *["%.6f"] * 6], delimiter=",")
    dump_svmlight_file(np.where(values > 2, values, 0), labels, "news.svm", zero_based=False)
    write_houses(rng)
    np.save("x.npy", values)
    np.save("y.npy", labels)
    warmth = rng.uniform(-5, 30, 400)
    counts = rng.poisson(np.exp(1 + warmth / 12))
    lines = [f"{one:.1f},{count}" for one, count in zip(warmth, counts, strict=True)]
    Path("rentals.csv").write_text("\n".join(["warmth,bicycles", *lines]))
    iris = load_iris()
    lines = [f"{','.join(map(str, row))},{iris.target_names[k]}" for row, k in zip(iris.data, iris.target, strict=True)]
    Path("iris.csv").write_text("\n".join(["a,b,c,d,species", *lines]))


def make_packed(example):
    """Make the packed files of MNIST, and the model that learnt from one, unless they are there or made now."""
    needed = {
        "mnist.pack": "pack mnist --to mnist.pack",
        "test.pack": "pack mnist --part test --to test.pack",
        "packed.safetensors": "train mnist.pack --save packed.safetensors --quiet",
    }
    for name, words in needed.items():
        if not Path(name).exists() and not re.search(f"(--to|--save) {name}", example):
            assert cli.main(words.split()) == 0


@pytest.mark.parametrize("example", examples())
def test_examples(request, folder, monkeypatch, capsys, example):
    if re.search(r"mnist|packed", example):
        data = request.getfixturevalue("mnist_data")
        if example.startswith("bench"):
            data = tuple((x[:2000], y[:2000]) for x, y in data)
        monkeypatch.setattr(mnist, "load_data", lambda: data)
    if "digits.safetensors" in example:
        request.getfixturevalue("furnished")
    if example.startswith("export"):
        pytest.importorskip("onnx")
    if "--plot" in example:
        pytest.importorskip("matplotlib")
    if example == "train mnist --save digits.safetensors":
        found = request.getfixturevalue("mnist_training")[1]  # has already run
    else:
        monkeypatch.chdir(folder)
        write_tables()
        if re.search(r"mnist\.pack|packed", example) and not example.startswith("pack"):
            make_packed(example)
            capsys.readouterr()
        if "houses.safetensors" in example and not example.startswith("train"):
            words = "train houses.csv --target price --save houses.safetensors --quiet"
            assert cli.main(words.split()) == 0
            capsys.readouterr()
        for name, value in (("_ROUNDS", (3, 3)), ("_AT_LEAST", 0.0), ("_settle", lambda: None)):
            monkeypatch.setattr(bench, name, value)  # everything is timed, but briefly
        words = re.split(r" [|>] ", example)[0].removesuffix(" --json").split()
        assert cli.main([*words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert RESULTS[example](found), {key: value for key, value in found.items() if key != "history"}
    if "history" in found:
        assert found["history"]["loss"][-1] < found["history"]["loss"][0] < math.inf
