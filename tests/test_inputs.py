"""What a model's notes say about its inputs, and what is made of notes that lie."""

import json

import numpy as np
import pytest

import fastmlp
from fastmlp import inputs, storage
from fastmlp.datasets import Dataset, images

GOOD = {"inputs": "[8, 8]", "max_value": "16.0", "classes": '["a", "b"]', "frame": "[8, 8, false, 4.0]"}


def parts(shape, classes=3, dtype=np.uint8, seed=0):
    x = np.random.default_rng(seed).integers(0, 100, (30, *shape)).astype(dtype)
    y = np.arange(30) % classes
    return Dataset(x, y, x, y, 100.0, False)


@pytest.mark.parametrize("shape", [(8, 8), (64,), (5, 4), (7,), (4,), (2, 3, 3)])
@pytest.mark.parametrize("names", [None, ("x", "y", "ü")])
def test_notes_come_back_from_a_file(tmp_path, shape, names):
    expected = inputs.of(parts(shape), names)
    model = fastmlp.MLP((int(np.prod(shape)), 3))
    model.notes = inputs.notes("some data", expected)
    model.save(tmp_path / "model")
    loaded = fastmlp.MLP.load(tmp_path / "model")
    assert inputs.noted(loaded) == expected
    assert loaded.notes["data"] == "some data"
    assert storage.load(tmp_path / "model").facts == {}
    assert expected.names == (names or ("0", "1", "2"))


def test_flat_pictures_are_square_and_tables_are_not():
    assert inputs.of(parts((64,)), None).shape == (8, 8)
    assert inputs.of(parts((64,)), None).frame == images.framing(parts((64,)).x_train.reshape(30, 8, 8))
    assert inputs.of(parts((4,)), None) == inputs.Inputs((4,), 100.0, ("0", "1", "2"), None)
    assert inputs.of(parts((5, 4)), None).frame is None


def test_without_notes_a_model_is_taken_for_one_of_mnist():
    assert inputs.noted(fastmlp.MLP((784, 10))).frame == images.MNIST
    assert inputs.noted(fastmlp.MLP((196, 10))).frame == images.Framing(14, 10, True, 7.25)
    assert inputs.noted(fastmlp.MLP((7, 2))) == inputs.Inputs((7,), 255.0, ("0", "1"), None)


@pytest.mark.parametrize(
    "lie",
    [
        {"inputs": "[-8, -8]"},
        {"inputs": "[8.0, 8.0]"},
        {"inputs": "[8, 9]"},
        {"inputs": "8"},
        {"inputs": "[" * 100_000},
        {"inputs": None},
        {"max_value": "0"},
        {"max_value": "nan"},
        {"max_value": "inf"},
        {"max_value": "sixteen"},
        {"classes": '["a"]'},
        {"classes": "7"},
        {"frame": "[9, 8, false, 4.0]"},
        {"frame": "[8, 9, false, 4.0]"},
        {"frame": "[8, 0, false, 4.0]"},
        {"frame": "[8, 8, false, NaN]"},
        {"frame": "[8, 8]"},
        {"frame": '[8, "8", false, 4.0]'},
        {"frame": "{}"},
    ],
    ids=lambda lie: json.dumps(lie)[:40],
)
def test_notes_that_lie_are_refused(lie):
    model = fastmlp.MLP((64, 2))
    model.notes = GOOD
    assert inputs.noted(model).max_value == 16
    model.notes = {name: note for name, note in (GOOD | lie).items() if note is not None}
    with pytest.raises(ValueError, match="notes that"):
        inputs.noted(model)


def test_notes_are_copies_of_texts():
    model = fastmlp.MLP((2, 2))
    given = {"a": "b"}
    model.notes = given
    given["a"] = model.notes["a"] = "changed"
    assert model.notes == {"a": "b"}
    for wrong in ({"a": 1}, {1: "a"}, ["a"], "a", None):
        with pytest.raises(TypeError, match="notes: got .* a mapping of str to str"):
            model.notes = wrong
    for longest in ({"a": "b" * 999_991}, {"a": "\x01" * 166_665}, {"\u00e9": "b" * 999_990}):
        model.notes = longest
        with pytest.raises(ValueError, match=r"^notes: got 10000\d\d bytes, expected at most 1000000 bytes of JSON;"):
            model.notes = longest | {"": "12345"}


def test_notes_that_no_file_can_hold_are_refused_at_once():
    """Such as the name of a file whose bytes are not UTF-8."""
    model = fastmlp.MLP((2, 2))
    for wrong in ({"a": "\udcff"}, {"\udcff": "a"}):
        with pytest.raises(ValueError, match=r"^notes: got '.udcff', expected text that can be written as UTF-8;"):
            model.notes = wrong
    model.notes = {"a": "\udcff".encode(errors="backslashreplace").decode()}


def test_packed_samples_are_divided_by_the_largest_value():
    model = fastmlp.MLP((4, 2), dtype="float32")
    for dtype in (np.uint8, np.float64, np.int64):
        x = np.arange(12).reshape(3, 2, 2).astype(dtype)
        packed = inputs.packed(x, 11.0, model)
        np.testing.assert_allclose(packed.to_dense(), x.reshape(3, 4).T / 11, rtol=1e-6)
        model.predict(packed)
