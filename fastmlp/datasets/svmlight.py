"""Read files of SVMlight and LIBSVM, such as ``1 3:0.5 7:1``, as sparse matrices, by scikit-learn."""

import math
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SUFFIXES = (".svm", ".svmlight", ".libsvm")  #: Each plain, or with ``.gz``.

_LINES = "lines such as 1 3:0.5 7:1 with increasing indices"


class Samples(NamedTuple):
    """The contents of a file.

    Attributes
    ----------
    features : scipy.sparse CSR matrix, shape (m, n_features)
        The samples, all finite.
    labels : ndarray of float64, shape (m,)
        Labels or targets, all finite.
    first_index : {0, 1}
        The index of the first feature in the file.
    """

    features: Any
    labels: Array
    first_index: int


def is_svmlight(path: Path) -> bool:
    """Return whether a file's name has a suffix of these files."""
    return path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def read(path: Path, width: int | None = None, first_index: int | None = None) -> Samples:
    """Read a file, plain or gzip-compressed.

    Parameters
    ----------
    path : Path
        The file.
    width : int, optional
        The number of features of a model; by default the largest one in the file.
    first_index : {0, 1}, optional
        The index of the first feature. By default it is found as scikit-learn finds it: 0 if it occurs, else 1.

    Raises
    ------
    ValueError
        If the file is damaged or of another kind, a number is not finite, or the model has fewer features.
    OSError
        If the file cannot be read.
    ImportError
        If scikit-learn is not installed.
    """
    content = bounded.source(path)
    bounded.refuse_page(content.name, bounded.head(content, 64))
    _check_size(content)
    x, y = _parsed(content)
    if not x.shape[0]:
        raise ValueError(checks.message(content.name, "no sample", _LINES, bounded.SAVE_AGAIN))
    _check_finite(content.name, x, y)
    lowest, highest = (int(x.indices.min()), int(x.indices.max())) if x.nnz else (1, 1)
    first = first_index if first_index is not None else min(lowest, 1)
    if lowest < first:
        got, expected = f"the index {lowest}", f"indices from {first}, as in the model's training"
        raise ValueError(checks.message(content.name, got, expected, "save it with the indices of the training data"))
    if width is not None and highest + 1 - first > width:
        got, expected = f"the index {highest}", f"indices up to {width - 1 + first}, as in the model's training"
        raise ValueError(checks.message(content.name, got, expected, "leave out features that the model does not know"))
    shape = x.shape[0], highest + 1 - first if width is None else width
    x.indices -= first
    return Samples(type(x)((x.data, x.indices, x.indptr), shape=shape), y, first)


def _check_size(content: bounded.Source) -> None:
    """Raise ValueError if a compressed file is damaged, or expands to more than any file of its size may."""
    most = bounded.allowance(content)
    if content.size < most and sum(map(len, bounded.chunks(content, most + 1))) > most:
        got, expected = f"{content.size} bytes that expand to more", f"at most {most} bytes from a file of this size"
        raise ValueError(checks.message(content.name, got, expected, "decompress it first, if you trust it"))


def _parsed(content: bounded.Source) -> tuple[Any, Array]:
    """Return the matrix, whose indices are those of the file, and the labels."""
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError as error:
        raise checks.extra("svmlight files are read by scikit-learn", error, "sklearn") from None
    try:
        with content.open() as stream:
            x, y = load_svmlight_file(stream, zero_based=True)
    except (ValueError, OverflowError, IndexError) as error:
        got = f"a line that cannot be read ({bounded.brief(error)})"
        raise ValueError(checks.message(content.name, got, _LINES, bounded.SAVE_AGAIN)) from None
    return x, y


def _check_finite(name: str, x: Any, y: Array) -> None:
    if not np.isfinite(y).all():
        sample = int(np.argmin(np.isfinite(y)))
        raise ValueError(
            checks.message(name, f"label {y[sample]} in sample {sample}", "finite labels", "clean the data")
        )
    if x.nnz and not math.isfinite(float(np.abs(x.data).max())):
        at = int(np.argmin(np.isfinite(x.data)))
        sample = int(np.searchsorted(x.indptr, at, "right")) - 1
        got = f"the value {x.data[at]} of feature {x.indices[at]} in sample {sample}"
        raise ValueError(checks.message(name, got, "finite numbers", "clean the data"))
