"""Reading data files that nobody vouches for: IDX (the format of MNIST), Keras-style ``.npz``, CSV."""

import hashlib
import math
import re
import stat
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded, npz, tables

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

CLASSES = 2**16  #: More classes are no classes: such a column holds prices, identifiers or pixels.

_UNSIGNED_BYTES = b"\x00\x00\x08"  # IDX magic: two zeros, then the code of uint8
_LONGEST_HEADER = 4 + 4 * 255
_TEST_EVERY = 5
_FULL_INK = 255
# As MNIST and EMNIST spell them, or with a dot: emnist-letters-test-images-idx3-ubyte, train-images.idx3-ubyte
_IDX_NAME = re.compile(r"(?P<part>train|t10k|test)[-_.]?(?P<kind>images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?$")
_IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"


class Dataset(NamedTuple):
    """A data set that was read from files.

    Attributes
    ----------
    x_train, x_test : ndarray, shapes (m, ...) and (m_test, ...)
        Samples along the first axis, of equal shapes; uint8 or other real numbers, all finite.
    y_train, y_test : ndarray of int64, shapes (m,) and (m_test,)
        Labels from 0.
    max_value : float
        What to divide the samples by, so that they lie within [-1, 1]: 255 for uint8, or else the largest magnitude in
        ``x_train``. uint8 whose largest value in ``x_train`` is below 128 is no picture in full ink (the digits of
        scikit-learn count to 16) and goes by its largest value too.
    held_out : bool
        True if the files hold no test part, and one was set aside as `held_out` says.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    max_value: float
    held_out: bool

    @property
    def classes(self) -> int:
        """Number of classes: one more than the largest label."""
        return 1 + int(max(self.y_train.max(), self.y_test.max()))


def load(path: str | Path) -> Dataset:
    r"""Load a data set from a folder of IDX files, a Keras-style ``.npz``, or a CSV table.

    Files are taken as hostile until proven: nothing is unpickled, memory follows the bytes that are there and not what
    a header claims, and whatever is wrong raises one error that names the file.

    Parameters
    ----------
    path : str or Path
        One of

        - a folder that holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
          ``t10k-labels-idx1-ubyte``, each plain or with ``.gz``; ``test`` may stand for ``t10k``, anything before it;
        - a ``.npz`` file with the arrays x_train, y_train, x_test and y_test;
        - a ``.csv`` or ``.csv.gz`` file with the label in the first column, with or without a header line.

        Where there is no test part, as in a CSV table, every fifth sample of each class, in the order of the file and
        from the first one on, becomes a test sample. A class of one sample stays in the training part.

    Returns
    -------
    Dataset
        ``x_train, y_train, x_test, y_test, max_value, held_out``.

    Raises
    ------
    ValueError
        If a file is damaged or forged, holds something else, or its parts do not fit each other.
    OSError
        If there is no such file, or it cannot be read; a `FileNotFoundError` or the like.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastmlp import datasets
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "points.csv")
    ...     _ = path.write_text("label,a,b\n0,0.5,1\n1,-2,0\n1,1,1\n0,0,0\n")
    ...     data = datasets.load(path)
    >>> data.x_train.shape, data.x_test.shape, data.classes, data.max_value
    ((2, 2), (2, 2), 2, 1.0)
    """
    path = Path(path)
    if stat.S_ISDIR(bounded.status(path).st_mode):
        return _dataset(bounded.shown(path), _idx_folder(path))
    name = path.name.lower()
    if name.endswith(".npz"):
        return _dataset(bounded.shown(path), npz.read(path))
    if name.endswith((".csv", ".csv.gz")):
        return _dataset(bounded.shown(path), tables.read(path))
    expected = "a folder of IDX files, a .npz or a .csv file"
    remedy = "give the folder that holds it, if it is an IDX file, or rename it"
    raise ValueError(checks.message(bounded.shown(path), "a file of another name", expected, remedy))


def read_idx(path: str | Path, sha256: str | None = None) -> Array:
    """Read one IDX file of unsigned bytes.

    Parameters
    ----------
    path : str or Path
        The file; it is decompressed if its first bytes are those of gzip, whatever its name.
    sha256 : str, optional
        Digest that the decompressed content must have.

    Returns
    -------
    ndarray of uint8
        Of the shape that the file's header gives, which is checked against the bytes that are there.

    Raises
    ------
    ValueError
        If the file is damaged, or is not IDX of unsigned bytes.
    OSError
        If there is no such file, or it cannot be read.
    """
    content = bounded.source(Path(path))
    beginning = bounded.head(content, _LONGEST_HEADER)
    bounded.refuse_page(content.name, beginning)
    start = 4 + 4 * beginning[3] if len(beginning) > 3 else 4
    if beginning[:3] != _UNSIGNED_BYTES or len(beginning) < start:
        got, expected = f"a file that begins {beginning[:4].hex() or 'and ends at once'}", "IDX of unsigned bytes"
        raise ValueError(checks.message(content.name, got, expected, bounded.SAVE_AGAIN))
    shape = tuple(int.from_bytes(beginning[at : at + 4], "big") for at in range(4, start, 4))
    bounded.check_shape(content.name, shape)
    data = bounded.exactly(content, start, math.prod(shape))
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(checks.message(content.name, f"content with sha256 {found}", sha256, bounded.SAVE_AGAIN))
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def is_idx(path: str | Path) -> bool:
    """Return whether a file begins, decompressed where it is compressed, as IDX of unsigned bytes.

    Parameters
    ----------
    path : str or Path
        The file.

    Raises
    ------
    ValueError
        If it cannot be decompressed.
    OSError
        If there is no such file, or it cannot be read.
    """
    return bounded.head(bounded.source(Path(path)), len(_UNSIGNED_BYTES)) == _UNSIGNED_BYTES


def held_out(labels: Array) -> Array:
    """Choose test samples: every fifth of each class in the order given, from the first on.

    Parameters
    ----------
    labels : ndarray of integers from 0, shape (m,)
        The classes.

    Returns
    -------
    ndarray of bool, shape (m,)
        True for a test sample. A class of one sample has none.
    """
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    ordered = labels[order]
    rank = np.arange(labels.size) - (np.cumsum(counts) - counts)[ordered]
    test = np.empty(labels.size, np.bool_)
    test[order] = (rank % _TEST_EVERY == 0) & (counts[ordered] > 1)
    return test


def _idx_folder(folder: Path) -> dict[str, Array]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        got = (error.strerror or str(error)).lower()
        expected = "a folder that can be listed"
        raise type(error)(checks.message(bounded.shown(folder), got, expected, "check its permissions")) from error
    found: dict[str, str] = {}
    for match in filter(None, map(_IDX_NAME.search, names)):
        key = f"{'x' if match['kind'] == 'images' else 'y'}_{'train' if match['part'] == 'train' else 'test'}"
        taken = found.setdefault(key, match.string)  # the plain file, if both are there: it sorts first
        if match.string not in (taken, f"{taken}.gz"):
            got = f"both {taken} and {match.string}"
            raise ValueError(checks.message(bounded.shown(folder), bounded.brief(got), "one", "take one of them away"))
    if not {"x_train", "y_train"} <= found.keys():
        got, expected = f"a folder with {len(names)} names, not those of IDX files", f"{_IDX_FILES}, each plain or .gz"
        raise FileNotFoundError(checks.message(bounded.shown(folder), got, expected, "put them there"))
    return {key: read_idx(folder / name) for key, name in found.items()}


def _dataset(name: str, parts: dict[str, Array]) -> Dataset:
    if ("x_test" in parts) != ("y_test" in parts):
        got, expected = f"only {', '.join(sorted(parts))}", "x_test and y_test, or neither"
        raise ValueError(checks.message(name, got, expected, "add the one that lacks"))
    x_train, y_train = _pair(name, "train", parts)
    if "x_test" in parts:
        x_test, y_test = _pair(name, "test", parts)
        if x_test.shape[1:] != x_train.shape[1:]:
            got, expected = f"test samples of shape {x_test.shape[1:]}", f"{x_train.shape[1:]}, as in training"
            raise ValueError(checks.message(name, got, expected, "save both parts of one data set"))
        return Dataset(x_train, y_train, x_test, y_test, _max_value(x_train), False)
    test = held_out(y_train)
    if not test.any():
        expected = "two samples of one class at least, to hold out one of them as a test"
        raise ValueError(checks.message(name, f"{y_train.size} samples", expected, "add samples"))
    x, y = x_train[~test], y_train[~test]
    return Dataset(x, y, x_train[test], y_train[test], _max_value(x), True)


def _pair(name: str, part: str, parts: dict[str, Array]) -> tuple[Array, Array]:
    """Return samples (m, ...) and labels (m,) int64 of one part, checked against each other."""
    x, y = parts[f"x_{part}"], parts[f"y_{part}"]
    if x.ndim < 2:
        got = f"shape {x.shape}"
        raise ValueError(checks.message(f"{name}: x_{part}", got, "samples (m, ...)", "give each sample its features"))
    if y.shape not in {(len(x),), (len(x), 1)}:
        got, expected = f"{len(x)} samples and labels of shape {y.shape}", f"labels ({len(x)},)"
        remedy = "save one class number for each sample (of one-hot labels their argmax)"
        raise ValueError(checks.message(f"{name}: y_{part}", got, expected, remedy))
    lowest, highest = x.min(), x.max()
    if not np.isfinite([lowest, highest]).all():
        raise ValueError(checks.message(f"{name}: x_{part}", "NaN or infinity", "finite numbers", "clean the data"))
    if x.dtype.kind in "iu" and lowest >= 0 and highest <= _FULL_INK:
        x = x.astype(np.uint8, copy=False)
    return x, checks.labels(f"{name}: y_{part}", y.ravel(), CLASSES)


def _max_value(x: Array) -> float:
    largest = max(abs(float(x.min())), abs(float(x.max())))
    if x.dtype == np.uint8 and largest > _FULL_INK // 2:
        return float(_FULL_INK)
    return largest or 1.0
