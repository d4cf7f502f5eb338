"""Predictions on the command line: unreadable pictures, and the scale of readable ones."""

import csv
import json
import re

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
    pixels, *_ = images.read([folder / "b good.png"], frame)
    _, printed, _ = predict("--json", folder / "b good.png", folder / "idx")
    answers = np.array([one["probabilities"] for one in json.loads(printed)["predictions"]])
    assert_close(answers[:1], model.predict_proba(pixels.reshape(1, 64).T / 255).T, "product")
    assert_close(answers[1:], model.predict_proba(x.reshape(2, 64).T / 16).T, "product")


# ---- Answers as CSV


def test_answers_are_written_as_csv_with_the_runner_up(predict, folder, tmp_path):
    out = tmp_path / "answers.csv"
    status, printed, _ = predict(folder / "b good.png", folder / "d good.png", "--output", out)
    assert (status, printed) == (0, f"written: {out}\n")
    found = json.loads(predict("--json", folder / "b good.png", folder / "d good.png")[1])["predictions"]
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [str(folder / "b good.png"), str(folder / "d good.png")]
    for row, one in zip(rows, found, strict=True):
        p = one["probabilities"]
        best, second = sorted(range(3), key=lambda i: -p[i])[:2]
        assert (row["class"], row["runner_up"]) == ("abc"[best], "abc"[second])
        assert (float(row["probability"]), float(row["runner_up_probability"])) == (p[best], p[second])
    status, printed, _ = predict(folder / "b good.png", folder / "d good.png", "--output", "-")
    assert printed.splitlines() == out.read_text().splitlines()


def test_a_place_for_answers_that_does_not_exist_is_refused(predict, folder, tmp_path):
    status, printed, error = predict(folder / "b good.png", "--output", tmp_path / "nowhere" / "a.csv")
    assert (status, printed) == (2, "")
    assert error.startswith("fastmlp: ")
    assert "no such folder" in error


def test_answers_do_not_replace_what_they_are_made_from(predict, folder, tmp_path):
    picture = folder / "b good.png"
    before = picture.read_bytes()
    status, printed, error = predict(picture, "--output", picture)
    assert (status, printed) == (2, "")
    assert "--output: got the file of an input" in error
    assert picture.read_bytes() == before
    older, bad = tmp_path / "older.csv", tmp_path / "bad.png"
    older.write_text("kept")
    bad.write_text("no picture")
    assert predict(bad, "--output", older)[0] == 2
    assert older.read_text() == "kept"


def test_an_answer_names_the_runner_up(predict, folder):
    line = predict(folder / "b good.png")[1]
    assert re.match(r".*b good\.png: [abc], [\d.]+%, else [abc], [\d.]+%  \(", line)


# ---- Deep pictures and folders in folders


def test_folders_in_folders_are_read_but_not_hidden_ones_nor_links(predict, folder, tmp_path):
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / ".hidden").mkdir()
    data = (folder / "b good.png").read_bytes()
    for place in (inner / "x.png", inner.parent / "y.png", inner.parent / ".hidden" / "z.png"):
        place.write_bytes(data)
    (inner / "loop").symlink_to(inner.parent, target_is_directory=True)
    assert images.find(inner.parent) == [inner / "x.png", inner.parent / "y.png"]
    assert len(predict(inner.parent)[1].splitlines()) == 2


@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_pictures_of_8_12_and_16_bits_read_alike(tmp_path, white):
    page = np.full((60, 80), 1.0)
    page[10:50, 30:40] = 0.1
    pillow.fromarray(np.rint(page * 255).astype(np.uint8)).save(tmp_path / "a.png")
    pillow.fromarray(np.rint(page * white).astype(np.uint16)).save(tmp_path / "b.png")
    one, other = (images.read([tmp_path / f"{name}.png"]).pixels.astype(int) for name in "ab")
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_tiff_of_floats_reads_as_integers(tmp_path, white):
    page = np.full((60, 80), 1.0)
    page[10:50, 30:40] = 0.1
    pillow.fromarray(np.rint(page * 255).astype(np.uint8)).save(tmp_path / "a.png")
    pillow.fromarray((page * white).astype(np.float32)).save(tmp_path / "b.tiff")
    one, other = (images.read([tmp_path / name]).pixels.astype(int) for name in ("a.png", "b.tiff"))
    assert np.abs(one - other).max() <= 1


def test_tiff_of_floats_that_are_not_finite_is_refused(tmp_path):
    page = np.ones((60, 80), np.float32)
    page[3, 4] = np.nan
    pillow.fromarray(page).save(tmp_path / "b.tiff")
    with pytest.raises(ValueError, match="not a finite number"):
        images.read([tmp_path / "b.tiff"])


# ---- Several shapes in a picture


def bars(*columns, page=(200, 300)):
    """Return a page with dark bars, each 100 rows high, that begin at these columns, and their number."""
    grey = np.full(page, 255, np.uint8)
    for first in columns:
        grey[50:150, first : first + 20] = 0
    return grey


def bitten(grey):
    """Return a page with a gap of 8 rows in the first bar, less than the width of its stroke, and with specks."""
    grey[80:88, :100] = 255
    grey[5:9, 5:9] = grey[190:194, 280:284] = 0
    return grey


@pytest.mark.parametrize(
    ("grey", "shapes"),
    [(bars(60), 1), (bars(60, 140), 2), (bars(60, 140, 220), 3), (bitten(bars(60)), 1), (bitten(bars(60, 140)), 2)],
)
def test_separate_shapes_are_counted_without_specks_and_gaps_in_strokes(tmp_path, grey, shapes):
    for name, page in (("dark", grey), ("light", 255 - grey)):
        pillow.fromarray(page).save(tmp_path / f"{name}.png")
    assert images.read([tmp_path / "dark.png", tmp_path / "light.png"]).shapes == (shapes, shapes)


def test_digits_of_mnist_are_one_shape_and_pairs_of_them_are_two(tmp_path, mnist_data):
    pages = []
    for i, digit in enumerate(mnist_data[1][0][:40]):
        page = pillow.new("L", (600, 300), 255)
        page.paste(pillow.fromarray(255 - digit).resize((196, 196), pillow.Resampling.BICUBIC), (60, 50))
        page.save(tmp_path / f"{i}.png")
        page.paste(page.crop((60, 50, 256, 246)), (300, 50))
        page.save(tmp_path / f"{i} twice.png")
        pages.append([tmp_path / f"{i}.png", tmp_path / f"{i} twice.png"])
    single, twice = (images.read(column).shapes for column in zip(*pages, strict=True))
    assert np.mean(np.array(single) == 1) >= 0.95
    assert np.mean(np.array(twice) == 2) >= 0.95


def test_several_shapes_are_said_once_on_each_way_out(predict, tmp_path):
    pillow.fromarray(bars(60, 140)).save(tmp_path / "two.png")
    pillow.fromarray(bars(60)).save(tmp_path / "one.png")
    said = "2 separate shapes, taken together as one; crop the picture to a single shape"
    status, printed, error = predict(tmp_path / "one.png", tmp_path / "two.png")
    assert (status, len(printed.splitlines())) == (0, 2)
    assert error == f"fastmlp: warning: {tmp_path}/two.png: {said}\n"
    found = json.loads(predict("--json", tmp_path / "one.png", tmp_path / "two.png")[1])
    assert [one.get("warning") for one in found["predictions"]] == [None, said]
    assert found["warnings"] == [f"{tmp_path}/two.png: {said}"]
    rows = csv.DictReader(predict("--output", "-", tmp_path / "one.png", tmp_path / "two.png")[1].splitlines())
    assert [row["warning"] for row in rows] == ["", said]


# ---- Arrays


def test_arrays_of_numpy_predict_as_idx_files_do(predict, tmp_path, rng):
    x = rng.integers(0, 17, (5, 8, 8)).astype(np.uint8)
    (tmp_path / "idx").write_bytes(idx(x))
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "rows.npy", x.reshape(5, 64).astype(">f4"))
    np.save(tmp_path / "one.npy", x[0])
    np.savez(tmp_path / "only.npz", pictures=np.asfortranarray(x))
    np.savez_compressed(tmp_path / "keras.npz", x_train=x[:1], y_train=[0], x_test=x, y_test=[0] * 5)
    np.savez(tmp_path / "first.npz", x_test=x[:1], X=x)

    def answers(name):
        found = json.loads(predict("--json", tmp_path / name)[1])["predictions"]
        assert [one["source"] for one in found] == [f"{tmp_path / name}[{i}]" for i in range(len(found))]
        return np.array([one["probabilities"] for one in found])

    expected = answers("idx")
    assert expected.shape == (5, 3)
    for name in ("a.npy", "rows.npy", "only.npz", "keras.npz", "first.npz"):
        np.testing.assert_array_equal(answers(name), expected, name)
    assert_close(answers("one.npy"), expected[:1], "product")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros((2, 64)), "b": np.zeros((2, 64))}, "expected one array, or one named x, X or x_test"),
        ({"x": np.zeros((2, 63))}, "samples of 63 values, expected 64"),
        ({"x": np.full((2, 64), np.nan)}, "NaN or infinity"),
        ({"x": np.array([["text"]])}, "x: got dtype <U4, expected real numbers"),
        ({"x": np.array([None])}, "pickled objects"),
        ({}, "entries [], expected one array"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(predict, tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    status, printed, error = predict(tmp_path / "a.npz")
    assert (status, printed) == (2, "")
    assert f"fastmlp: {tmp_path}/a.npz" in error
    assert words in error


def test_an_array_for_a_model_of_a_table(run, tmp_path):
    rows = [f"{i % 7},{i * i % 11},{'ab'[i % 2]},{i % 3}" for i in range(60)]
    x = np.array([[i % 7, i * i % 11] for i in range(60)], float)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "t.csv").write_text("\n".join(["p,q,text,label", *rows]))
    for name, words in (("numbers", "--ignore text"), ("text", "")):
        train = f"train --label label --quiet --epochs 2 --backend numpy {words} --save"
        assert run(train, tmp_path / name, tmp_path / "t.csv")[0] == 0
    ours, table = (
        json.loads(run("predict --json", tmp_path / "numbers", tmp_path / name)[1]) for name in ("x.npy", "t.csv")
    )
    assert [one["probabilities"] for one in ours["predictions"]] == [
        one["probabilities"] for one in table["predictions"]
    ]
    np.save(tmp_path / "y.npy", np.zeros((2, 3)))
    status, _, error = run("predict", tmp_path / "text", tmp_path / "y.npy")
    assert status == 2
    assert "got an array of numbers, expected a table (.csv, .tsv or .txt), as in the model's training" in error
