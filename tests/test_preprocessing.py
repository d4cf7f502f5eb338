"""Preprocessing: measured on the training part, written into notes, read back; wrong notes are refused."""

import json
import math

import numpy as np
import pytest
from compare import assert_close

import fastmlp
from fastmlp import preprocessing, storage
from fastmlp.datasets import Dataset, fashion_mnist, images
from fastmlp.preprocessing import Inputs

GOOD = {"inputs": "[8, 8]", "max_value": "16.0", "classes": '["a", "b"]', "frame": "[8, 8, false, 4.0]"}


def parts(shape, classes=3, dtype=np.uint8, seed=0):
    x = np.random.default_rng(seed).integers(0, 100, (30, *shape)).astype(dtype)
    y = np.arange(30) % classes
    return Dataset(x, y, x, y, 100.0, False, tuple(map(str, range(classes))))


def table(x):
    y = np.arange(len(x)) % 2
    return Dataset(x, y, x + 1, y, 100.0, False, ("no", "yes"))


@pytest.mark.parametrize("shape", [(8, 8), (64,), (5, 4), (7,), (4,), (2, 3, 3)])
@pytest.mark.parametrize("names", [None, ("x", "y", "ü")])
def test_notes_come_back_from_a_file(tmp_path, shape, names):
    expected = preprocessing.from_dataset(parts(shape), names)
    model = fastmlp.MLP((int(np.prod(shape)), 3))
    model.notes = preprocessing.to_notes("some data", expected, "a column")
    model.save(tmp_path / "model")
    loaded = fastmlp.MLP.load(tmp_path / "model")
    assert preprocessing.from_model(loaded) == expected
    assert (loaded.notes["data"], loaded.notes["label"]) == ("some data", "a column")
    assert storage.load(tmp_path / "model").facts == {}
    assert expected.names == (names or ("0", "1", "2"))


def test_flat_pictures_are_square_and_tables_are_not():
    flat = preprocessing.from_dataset(parts((64,)))
    assert (flat.shape, flat.columns) == ((8, 8), None)
    assert flat.frame == images.framing(parts((64,)).x_train.reshape(30, 8, 8))
    scaled = preprocessing.from_dataset(parts((64,), dtype=np.float64)._replace(x_train=parts((64,)).x_train / 255))
    assert (scaled.shape, scaled.columns) == ((8, 8), None)
    for shape, dtype in (((4,), np.uint8), ((63,), np.uint8), ((64,), np.float64)):
        inputs = preprocessing.from_dataset(parts(shape, dtype=dtype))
        assert (inputs.shape, inputs.frame, len(inputs.columns.mean)) == (shape, None, shape[0])
    images_of_other_shapes = preprocessing.from_dataset(parts((5, 4)))
    assert images_of_other_shapes == Inputs((5, 4), 100.0, ("0", "1", "2"), None, None)


def test_without_notes_a_model_is_taken_for_one_of_mnist():
    assert preprocessing.from_model(fastmlp.MLP((784, 10))).frame == images.MNIST
    assert preprocessing.from_model(fastmlp.MLP((196, 10))).frame == images.Framing(14, 10, True, 7.25)
    assert preprocessing.from_model(fastmlp.MLP((7, 2))) == Inputs((7,), 255.0, ("0", "1"), None)


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
        {"columns": "[[1.0], [1.0]]"},
        {"columns": "[1.0, 1.0]"},
        {"columns": json.dumps([[0.0] * 64] * 2)},
        {"columns": json.dumps([[math.nan] * 64, [1.0] * 64])},
        {"columns": json.dumps([[0.0] * 64, [math.inf] * 64])},
        {"columns": json.dumps([[0.0] * 64, ["1"] * 64])},
        {"labels": '["a"]'},
    ],
    ids=lambda lie: json.dumps(lie)[:40],
)
def test_notes_that_lie_are_refused(lie):
    model = fastmlp.MLP((64, 2))
    model.notes = GOOD
    assert preprocessing.from_model(model).max_value == 16
    model.notes = {name: note for name, note in (GOOD | lie).items() if note is not None}
    with pytest.raises(ValueError, match="notes that"):
        preprocessing.from_model(model)


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
    """For example the name of a file whose bytes are not UTF-8."""
    model = fastmlp.MLP((2, 2))
    for wrong in ({"a": "\udcff"}, {"\udcff": "a"}):
        with pytest.raises(ValueError, match=r"^notes: got '.udcff', expected text that can be written as UTF-8;"):
            model.notes = wrong
    model.notes = {"a": "\udcff".encode(errors="backslashreplace").decode()}


def test_samples_are_divided_by_the_largest_value():
    model = fastmlp.MLP((4, 2), dtype="float32")
    inputs = Inputs((2, 2), 11.0, ("0", "1"), None)
    for dtype in (np.uint8, np.float64, np.int64):
        x = np.arange(12).reshape(3, 2, 2).astype(dtype)
        packed = preprocessing.pack_samples(x, inputs, model)
        assert_close(packed.to_dense().astype(np.float32), np.float32(x.reshape(3, 4).T / 11), "product")
        model.predict(packed)


def test_columns_are_standardised_as_scikit_learn_does(rng):
    preprocess = pytest.importorskip("sklearn.preprocessing")
    x = rng.normal([-3e7, 0, 5e-9], [1e3, 1, 1e-12], (50, 3))
    x = np.column_stack([x, np.full(50, 0.1), np.zeros(50)])
    inputs = preprocessing.from_dataset(table(x))
    packed = preprocessing.pack_samples(x, inputs, fastmlp.MLP((5, 2)))
    assert_close(packed.to_dense(), preprocess.StandardScaler().fit_transform(x).T, "trajectory")
    assert inputs.columns.scale[3:] == (1.0, 1.0)
    assert not packed.to_dense()[3:].any()


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e308])
def test_columns_whose_squares_are_no_numbers_are_standardised(rng, scale):
    x = rng.uniform(-1, 1, (40, 1)) * scale
    dense = preprocessing.pack_samples(x, preprocessing.from_dataset(table(x)), fastmlp.MLP((1, 2))).to_dense()
    assert_close(np.array([dense.mean() + 1, dense.std()]), np.ones(2), "central difference")


def test_values_far_from_those_of_the_training_are_refused_without_a_warning():
    model = fastmlp.MLP((1, 2))
    inputs = preprocessing.from_dataset(table(np.array([[1e-300], [2e-300]])))
    with pytest.raises(ValueError, match="X: got inf"):
        model.predict(preprocessing.pack_samples(np.array([[1e300]]), inputs, model))


def test_only_the_training_part_is_measured(rng):
    parts = table(rng.normal(size=(20, 3)))
    other = parts._replace(x_test=parts.x_test * 1000)
    assert preprocessing.from_dataset(parts) == preprocessing.from_dataset(other)


def test_a_very_wide_table_keeps_one_scale():
    wide = preprocessing.from_dataset(table(np.random.default_rng(0).normal(size=(4, 10_001))))
    assert wide.columns is None
    widest = preprocessing.from_dataset(table(np.random.default_rng(0).normal(size=(4, 10_000)) * 1e-200))
    model = fastmlp.MLP((10_000, 2))
    model.notes = preprocessing.to_notes("x", widest)  # less than a million characters
    assert preprocessing.from_model(model).columns == widest.columns


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path):
    """Python stores the byte 0xFF of a file name as a surrogate, which a model file cannot contain."""
    model = fastmlp.MLP((4, 3))
    model.notes = preprocessing.to_notes("a\udcff.csv", preprocessing.from_dataset(parts((4,))), "b\udcff")
    model.save(tmp_path / "model")
    assert fastmlp.MLP.load(tmp_path / "model").notes["data"] == r"'a\udcff.csv'"


def test_classes_are_those_of_the_model_in_its_order():
    model = Inputs((4,), 1.0, ("a", "b", "c"), None)
    data = parts((4,), 2)._replace(names=("a", "c"))
    np.testing.assert_array_equal(preprocessing.class_indices("x", data.names, None, model), [0, 2])
    with pytest.raises(ValueError, match=r"^x: got class d, z, expected the model's classes a, b, c; leave"):
        preprocessing.class_indices("x", ("a", "d", "z"), None, model)


def test_classes_with_names_are_known_by_their_labels_too():
    """Fashion-MNIST has class names if loaded by name, but numbers if loaded from a folder of IDX files."""
    data = parts((4,), 10)
    by_name = preprocessing.from_dataset(data, fashion_mnist.CLASSES)
    by_number = preprocessing.from_dataset(data)
    for names in (None, fashion_mnist.CLASSES):
        for inputs in (by_name, by_number):
            np.testing.assert_array_equal(preprocessing.class_indices("x", data.names, names, inputs), np.arange(10))
    with pytest.raises(ValueError, match="got class 0, "):
        preprocessing.class_indices("x", data.names, None, by_name._replace(labels=()))
