"""Predictions on the command line: unreadable pictures, and the scale of readable ones."""

import json

import numpy as np
import pytest
from compare import assert_close
from hostile_corpus import idx

import fastmlp
from fastmlp import cli, preprocessing
from fastmlp.datasets import Dataset, images

pillow = pytest.importorskip("PIL.Image")

ONE = "got a file of another kind, expected a picture"


@pytest.fixture
def predict(capsys, tmp_path, rng):
    """Return a function that predicts with a model of 8x8 images with values up to 16: status, output, errors."""
    x = rng.integers(0, 17, (40, 8, 8)).astype(np.uint8)
    y = np.arange(40) % 3
    inputs = preprocessing.from_dataset(Dataset(x, y, x, y, 16.0, False, ("a", "b", "c")))
    model = fastmlp.MLP((64, 5, 3))
    model.notes = preprocessing.to_notes("x", inputs)
    model.save(tmp_path / "model")

    def call(*words):
        capsys.readouterr()
        status = cli.main(["predict", "--backend", "numpy", str(tmp_path / "model"), *map(str, words)])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture
def folder(tmp_path):
    """Return a folder of two pictures and of files that are not pictures, one of which is the first by name."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    page = np.full((60, 80), 255, np.uint8)
    pillow.fromarray(page).save(folder / "a blank.png")
    page[10:50, 30:40] = 0
    pillow.fromarray(page).save(folder / "b good.png")
    (folder / "c text.png").write_text("not a picture")
    pillow.fromarray(255 - page).save(folder / "d good.png")
    (folder / "e cut.png").write_bytes((folder / "b good.png").read_bytes()[:-30])
    return folder


def test_a_folder_is_read_past_what_is_no_picture(predict, folder):
    status, printed, error = predict(folder)
    assert status == 2
    assert [line.partition(": ")[0] for line in printed.splitlines()] == [f"{folder}/{name} good.png" for name in "bd"]
    *errors, last = error.splitlines()
    for line, (name, words) in zip(
        errors, [("a blank", "a blank picture"), ("c text", ONE), ("e cut", "cannot be decoded")], strict=True
    ):
        assert line.startswith(f"fastmlp: {folder}/{name}.png: ")
        assert words in line
    assert last == "fastmlp: answers: 2, unreadable inputs: 3"


def test_json_holds_answers_and_failures(predict, folder):
    status, printed, error = predict("--json", folder, folder / "nowhere.png")
    found = json.loads(printed)
    assert status == found["status"] == 2
    assert [one["source"] for one in found["predictions"]] == [f"{folder}/{name} good.png" for name in "bd"]
    names = ["a blank", "c text", "e cut", "nowhere"]
    assert [one["source"] for one in found["failures"]] == [f"{folder}/{name}.png" for name in names]
    for one in found["failures"]:
        assert f"fastmlp: {one['error']}" in error
    status, printed, _ = predict("--json", folder / "b good.png")
    assert status == 0
    assert json.loads(printed)["failures"] == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nowhere.png", None, "no such file"),
        ("empty", "folder", "a folder without pictures"),
        ("text.md", b"0,1\n", ONE),
        ("text.csv", b"0,1\n", "got 2 columns, expected 64, as in the model's training"),
        ("text.svm", b"1 65:1\n", "got the index 65, expected indices up to 64, as in the model's training"),
        ("labels-idx1-ubyte", idx(np.arange(2)), "samples of 1 values, expected 64"),
        ("cut-idx3-ubyte", idx(np.zeros((2, 8, 8)))[:-1], "127 bytes after the header"),
        ("cut.gz", b"\x1f\x8b\x08", "damaged content"),
    ],
)
def test_whatever_cannot_be_read_is_status_2(predict, folder, name, content, words):
    path = folder.parent / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    status, printed, error = predict(path, folder / "b good.png")
    assert status == 2
    assert printed.startswith(f"{folder}/b good.png: ")
    first, last = error.splitlines()
    assert first.startswith("fastmlp: ")
    assert words in first
    assert last == "fastmlp: answers: 1, unreadable inputs: 1"


def test_pictures_are_divided_by_full_ink_and_idx_files_as_in_training(predict, folder, rng):
    """The model's images have values up to 16, but pictures always have values up to 255."""
    x = rng.integers(0, 17, (2, 8, 8)).astype(np.uint8)
    (folder / "idx").write_bytes(idx(x))
    model = fastmlp.MLP.load(folder.parent / "model")
    frame = preprocessing.from_model(model).frame
    pixels, _ = images.read([folder / "b good.png"], frame)
    _, printed, _ = predict("--json", folder / "b good.png", folder / "idx")
    answers = np.array([one["probabilities"] for one in json.loads(printed)["predictions"]])
    assert_close(answers[:1], model.predict_proba(pixels.reshape(1, 64).T / 255).T, "product")
    assert_close(answers[1:], model.predict_proba(x.reshape(2, 64).T / 16).T, "product")
