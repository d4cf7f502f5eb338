"""Data sets: bundled digits, real MNIST, and all kinds of files that `load` accepts."""

import gzip

import numpy as np
import pytest
from hostile_corpus import idx

from fastmlp.datasets import bounded, digits, load
from fastmlp.datasets.files import held_out
from fastmlp.datasets.idx import mapped
from fastmlp.datasets.idx import read as read_idx


def test_digits_are_split_once_for_all_and_stratified():
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    assert len(x_train) + len(x_test) == len(bundled.target)
    assert x_train.dtype == x_test.dtype == y_train.dtype == y_test.dtype == np.uint8
    assert max(x_train.max(), x_test.max()) == digits.MAX_VALUE
    shares = np.bincount(y_test) / np.bincount(bundled.target)
    np.testing.assert_allclose(shares, 0.2, atol=0.005)
    every = np.concatenate([x_train, x_test]).reshape(1797, -1)
    np.testing.assert_array_equal(
        np.sort(every.view("S64").ravel()), np.sort(bundled.data.astype(np.uint8).view("S64").ravel())
    )
    np.testing.assert_array_equal(digits.load_data()[1][0], x_test)


def test_digits_without_scikit_learn_names_the_extra(run_python):
    code = """
import sys
sys.modules["sklearn"] = None
from fastmlp.datasets import digits
try:
    digits.load_data()
except ImportError as error:
    assert 'pip install ".[cli]" in a clone' in str(error)
else:
    raise AssertionError
"""
    run_python(code)


def test_data_sets_are_imported_when_they_are_first_used(run_python):
    code = """
import sys
from fastmlp import datasets
heavy = {f"fastmlp.datasets.{name}" for name in ("files", "digits", "mnist", "fashion_mnist")}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert dir(datasets) == sorted(datasets.__all__)
assert datasets.fashion_mnist.MAX_VALUE == 255
assert datasets.load.__module__ == "fastmlp.datasets.files"
assert not {"fastmlp.datasets.digits", "fastmlp.datasets.mnist"} & set(sys.modules)
from fastmlp.datasets import digits, mnist
assert datasets.digits is digits
try:
    datasets.cifar
except AttributeError as error:
    assert "cifar" in str(error)
else:
    raise AssertionError
"""
    run_python(code)


def test_mnist(mnist_data):
    (x_train, y_train), (x_test, y_test) = mnist_data
    assert x_train.shape == (60000, 28, 28)
    assert x_test.shape == (10000, 28, 28)
    assert y_train.shape == (60000,)
    assert y_test.shape == (10000,)
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert np.mean(x_train != 0) == pytest.approx(0.1912, abs=5e-5)
    assert list(y_train[:5]) == [5, 0, 4, 1, 9]


def test_arrays_can_be_written_to_as_those_of_keras(mnist_data):
    for part in mnist_data:
        for array in part:
            assert array.flags.writeable
            assert array.flags.carray


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files(tmp_path, rng, compressed):
    for shape in [(5,), (3, 4), (2, 3, 4)]:
        array = rng.integers(256, size=shape).astype(np.uint8)
        path = tmp_path / ("x.gz" if compressed else "x")
        path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
        np.testing.assert_array_equal(read_idx(path), array)
        np.testing.assert_array_equal(mapped(path), array)
        assert isinstance(mapped(path), np.memmap) is not compressed
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match="header says|damaged content"):
            mapped(path)


def test_a_gzip_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(idx(np.arange(4))))
    np.testing.assert_array_equal(read_idx(str(path)), [0, 1, 2, 3])


@pytest.fixture
def parts(rng):
    """Return the four arrays of a data set with 3 classes."""
    return {
        "x_train": rng.integers(256, size=(30, 4, 5)).astype(np.uint8),
        "y_train": (np.arange(30) % 3).astype(np.uint8),
        "x_test": rng.integers(256, size=(6, 4, 5)).astype(np.uint8),
        "y_test": (np.arange(6) % 3).astype(np.uint8),
    }


def assert_holds(data, parts):
    for name, expected in parts.items():
        np.testing.assert_array_equal(getattr(data, name), expected)
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert not data.held_out


@pytest.mark.parametrize(
    "train", ["train-images-idx3-ubyte", "emnist-digits-train-images-idx3-ubyte", "train-images.idx3-ubyte"]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_idx_files(tmp_path, parts, train, suffix):
    test = train.replace("train", "test" if "emnist" in train else "t10k")
    labels = [name.replace("images", "labels").replace("idx3", "idx1") for name in (train, test)]
    for name, array in zip((train, labels[0], test, labels[1]), parts.values(), strict=True):
        (tmp_path / (name + suffix)).write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    (tmp_path / "README.txt").write_text("not a part of it")
    data = load(tmp_path)
    assert_holds(data, parts)
    assert data.max_value == 255
    assert data.classes == 3
    assert data.x_train.dtype == np.uint8


def test_a_plain_idx_file_goes_before_its_archive(tmp_path, parts):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(parts["x_train"]))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not looked at")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(parts["y_train"]))
    data = load(tmp_path)
    assert data.held_out
    assert len(data.x_train) + len(data.x_test) == 30


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_as_keras_has_it(tmp_path, parts, save):
    save(tmp_path / "x.npz", other=np.array([object()]), **parts)
    data = load(tmp_path / "x.npz")
    assert_holds(data, parts)
    assert data.max_value == 255


@pytest.mark.parametrize(
    ("dtype", "order", "kept", "max_value"),
    [
        ("<f8", "C", np.float64, 4.5),
        (">f4", "F", np.float32, 4.5),
        ("<f2", "F", np.float16, 4.5),
        (">i8", "F", np.int64, 4),
        ("|b1", "C", np.uint8, 1),
    ],
)
def test_arrays_of_other_dtypes_and_orders(tmp_path, parts, dtype, order, kept, max_value):
    x = np.linspace(-4.5, 3.5, 600).reshape(30, 4, 5).astype(dtype, order=order)
    parts |= {"x_train": x, "y_train": parts["y_train"].reshape(30, 1).astype(">f4")}
    np.savez(tmp_path / "x.npz", **parts)
    data = load(tmp_path / "x.npz")
    np.testing.assert_array_equal(data.x_train, x.astype(kept))
    np.testing.assert_array_equal(data.y_train, parts["y_train"].ravel())
    assert data.x_train.dtype == np.dtype(kept)
    assert data.x_train.dtype.isnative
    assert data.max_value == max_value


def test_the_largest_value(tmp_path, parts):
    for largest, expected in [(255, 255), (128, 255), (127, 127), (16, 16), (0, 1)]:
        parts["x_train"] = np.full((30, 2, 10), largest)
        np.savez(tmp_path / "x.npz", **(parts | {"x_test": parts["x_train"][:6]}))
        data = load(tmp_path / "x.npz")
        assert data.max_value == expected
        assert data.x_train.dtype == np.uint8


@pytest.mark.parametrize("header", ["", "label,a,b\n", "\ufefflabel,a,b\n", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["x.csv", "x.CSV.gz"])
def test_a_table(tmp_path, header, newline, name):
    content = (header + "0,1,255\n1,2,0\n0,3,4\n1,5,6\n").replace("\n", newline).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    data = load(tmp_path / name)
    assert data.held_out
    assert data.x_train.dtype == np.uint8
    np.testing.assert_array_equal(data.x_test, [[1, 255], [2, 0]])
    np.testing.assert_array_equal(data.y_test, [0, 1])
    np.testing.assert_array_equal(data.x_train, [[3, 4], [5, 6]])
    np.testing.assert_array_equal(data.y_train, [0, 1])
    assert data.max_value == 6


def test_a_table_of_many_blocks(tmp_path, rng):
    x = rng.integers(256, size=(40_000, 20)).astype(np.float64)
    y = rng.integers(10, size=len(x))
    x[-1, 3] = 0.1 + 0.2  # only the last block does not fit into bytes
    lines = [f"{label},{','.join(map(repr, row))}" for label, row in zip(y.tolist(), x.tolist(), strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(lines))  # no newline at the end
    assert (tmp_path / "x.csv").stat().st_size > 3 * 2**20
    data = load(tmp_path / "x.csv")
    test = held_out(y)
    np.testing.assert_array_equal(data.x_train, x[~test])
    np.testing.assert_array_equal(data.x_test, x[test])
    np.testing.assert_array_equal(data.y_train, y[~test])


def test_held_out_is_every_fifth_of_each_class(rng):
    y = np.concatenate([rng.integers(7, size=500), [8, 9, 9]])
    expected = np.zeros(y.size, bool)
    for label in range(9):
        expected[np.flatnonzero(y == label)[::5]] = True
    expected[500:] = [False, True, False]
    np.testing.assert_array_equal(held_out(y), expected)


def test_a_file_of_one_byte_less_than_allowed_is_read(tmp_path):
    """The limit for small files is exact; sorted labels compress to almost nothing."""
    for length, fits in [(bounded.FREE, True), (bounded.FREE + 1, False)]:
        header = bytes([0, 0, 8, 1]) + length.to_bytes(4, "big")
        (tmp_path / "x.gz").write_bytes(gzip.compress(header + bytes(length), 1, mtime=0))
        if fits:
            assert read_idx(tmp_path / "x.gz").shape == (length,)
        else:
            with pytest.raises(ValueError, match=f"announces {length}, expected at most {bounded.FREE}"):
                read_idx(tmp_path / "x.gz")
