"""Data sets: bundled digits, MNIST from IDX files, and files that are not what they say."""

import gzip

import numpy as np
import pytest

from fastmlp.datasets import digits, mnist
from fastmlp.datasets.files import read_idx


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


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
    assert "fastmlp[cli]" in str(error)
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


def test_mnist_without_a_folder_says_what_to_set(monkeypatch):
    monkeypatch.delenv("FASTMLP_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"^FASTMLP_DATA: got no folder, expected .*train-images-idx3-ubyte"):
        mnist.load_data()


def test_mnist_with_a_missing_file_says_which(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMLP_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte or .*\.gz"):
        mnist.load_data()


def test_mnist_of_other_content_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMLP_DATA", str(tmp_path))
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((1, 28, 28))))
    with pytest.raises(ValueError, match="sha256"):
        mnist.load_data()


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files(tmp_path, rng, compressed):
    for shape in [(5,), (3, 4), (2, 3, 4)]:
        array = rng.integers(256, size=shape).astype(np.uint8)
        path = tmp_path / ("x.gz" if compressed else "x")
        path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
        np.testing.assert_array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins"),
        (b"\x00\x00", "begins"),
        (b"PK\x03\x04" + bytes(40), "begins"),
        (b"\x00\x00\x0d\x01" + bytes(40), "begins 00000d01"),
        (b"\x00\x00\x08\x03" + bytes(4), "begins"),
        (b"\x00\x00\x08\x00", "begins"),
        (idx(np.zeros((4, 4)))[:-1], "got 15 bytes, expected 16"),
        (idx(np.zeros((4, 4))) + b"\x00", "got 17 bytes, expected 16"),
        (b"\x00\x00\x08\x02" + b"\xff" * 8, "got 0 bytes"),
    ],
)
def test_damaged_idx_files(tmp_path, content, reason):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_idx(path)


def test_damaged_gzip(tmp_path):
    path = tmp_path / "x.gz"
    whole = gzip.compress(idx(np.arange(256)))
    for content in (whole[:-5], whole[: len(whole) // 2], b"<html>", whole[:20] + b"\x00\x00\x00" + whole[23:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.gz: got damaged gzip"):
            read_idx(path)
