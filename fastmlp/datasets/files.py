"""Data sets from untrusted files: IDX (the format of MNIST), ``.npz`` as in Keras, and tables."""

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded, classes, idx, npz, svmlight, tables

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_TEST_EVERY = 5
_FULL_INK = 255


class Dataset(NamedTuple):
    """A data set read from files.

    Attributes
    ----------
    x_train, x_test : ndarray, shapes (m, ...) and (m_test, ...)
        Samples along the first axis, all of the same shape; uint8 or other real numbers, all finite.
    y_train, y_test : ndarray of int64 or float64, shapes (m,) and (m_test,)
        Classes, counted from 0 in the order of ``names``; or the numbers of a target.
    max_value : float
        The divisor that scales ``x_train`` to [-1, 1]: 255 for uint8 pictures, otherwise the largest magnitude in
        ``x_train``. uint8 data with no value above 127 in ``x_train``, such as scikit-learn's digits with values up to
        16, are not treated as pictures.
    held_out : bool
        True if the files have no test part, and one was chosen by `held_out`.
    names : tuple of str
        The label of each class in the files, in numerical or alphabetical order; empty for a target.
    label : str
        The label's or target's column of a table, as `load` accepts it; empty if the column has no name.
    remarks : tuple of str
        How a table was interpreted, in sentences for people.
    columns : tuple of str
        The names of the columns of a table that are features; empty if it names none.
    words : dict of int to tuple of str
        The categories of each column of features that has some; in ``x_train`` and ``x_test``, a category is its place
        there.
    first_index : int or None
        The index of the first feature in an svmlight file, whose samples are CSR matrices of SciPy; None for others.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    max_value: float
    held_out: bool
    names: tuple[str, ...]
    label: str = ""
    remarks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    words: dict[int, tuple[str, ...]] = {}  # noqa: RUF012 - never changed
    first_index: int | None = None

    @property
    def classes(self) -> int:
        """Number of classes; 0 for a target."""
        return len(self.names)


def load(
    path: str | Path,
    label: str | None = None,
    target: str | None = None,
    categories: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> Dataset:
    r"""Load a data set from a folder of IDX files, a ``.npz`` file as in Keras, or a table such as CSV.

    Files are not trusted: nothing is unpickled, memory grows with the bytes read and not with the size in a header, and
    any damage raises one error that names the file.

    Parameters
    ----------
    path : str or Path
        One of

        - a folder with the files ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``
          and ``t10k-labels-idx1-ubyte``, each plain or with ``.gz``; ``test`` may replace ``t10k``, and names may have
          a prefix;
        - a ``.npz`` file with the arrays x_train, y_train, x_test and y_test;
        - a ``.csv``, ``.tsv`` or ``.txt`` file, plain or with ``.gz``: a table with labels in one column and numbers or
          categories in the others, separated by commas, semicolons or tabs, with or without a header line;
        - a ``.svm``, ``.svmlight`` or ``.libsvm`` file, plain or with ``.gz``, as SVMlight and LIBSVM have it, which
          scikit-learn reads as a sparse matrix. Its first feature has the index 0 if that occurs, else 1.

    label : str, optional
        The column of a table that holds the labels: ``"first"``, ``"last"``, or a name from the header line. By
        default, it is the column named label, class or target; else the only column of text; else the first column, if
        it holds integers that repeat. ``remarks`` says which column was chosen. Other tables are refused.
    target : str, optional
        The column of a table that holds numbers to predict, instead of a label.
    categories : iterable of str, optional
        Columns of a table whose numbers stand for categories. Columns of text always do.
    ignore : iterable of str, optional
        Columns of a table that are not read.

    In an svmlight file, the first number of each line is the label, or with ``target="first"`` the target.

    Returns
    -------
    Dataset
        ``x_train, y_train, x_test, y_test, max_value, held_out, names, label, remarks``.

    Raises
    ------
    ValueError
        If a file is damaged, forged or of another kind, or its parts do not match.
    OSError
        If the file does not exist or cannot be read; for example a `FileNotFoundError`.

    Notes
    -----
    Labels may be any integers, and in a table also text; they are encoded as classes from 0. If there is no test part,
    as in a table, the first and then every fifth sample of each class, in the order of the file, becomes a test sample.
    A class with only one sample stays in the training part. With a target, it is every fifth sample.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastmlp import datasets
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "points.csv")
    ...     _ = path.write_text("a,b,kind\n0.5,1,yes\n-2,0,no\n1,1,no\n0,0,yes\n")
    ...     data = datasets.load(path)
    >>> data.x_train.shape, data.y_train, data.names
    ((2, 2), array([0, 1]), ('no', 'yes'))
    >>> data.remarks
    ("label: column 'kind' (the only column of text), 2 classes: no, yes",)
    """
    return load_as(path, tables.Roles(label, target, tuple(categories), tuple(ignore)))


def load_as(path: str | Path, roles: tables.Roles, known: tables.Known | None = None) -> Dataset:
    """Load as `load` does, but find the features of a table as a model knows them."""
    path = Path(path)
    name = bounded.shown(path)
    is_folder = stat.S_ISDIR(bounded.status(path).st_mode)
    if tables.is_table(path) and not is_folder:
        check_roles(roles)
        return _table(name, tables.read(path, roles, known))
    if svmlight.is_svmlight(path) and not is_folder:
        return _sparse(name, path, roles, known)
    check_roles(roles, name)
    if is_folder:
        return _dataset(name, idx.read_folder(path))
    if path.name.lower().endswith(".npz"):
        return _dataset(name, npz.read(path))
    expected = "a folder of IDX files, a .npz file or a table (.csv, .tsv, .txt)"
    remedy = "rename it, or for IDX files give their folder"
    if path.name.lower().endswith(".npy"):
        remedy = "save samples and labels together: np.savez(path, x_train=..., y_train=...)"
    raise ValueError(checks.message(name, "a file with another suffix", expected, remedy))


def held_out(labels: Array) -> Array:
    """Choose test samples: the first and then every fifth sample of each class, in the given order.

    Parameters
    ----------
    labels : ndarray of integers from 0, shape (m,)
        The class of each sample.

    Returns
    -------
    ndarray of bool, shape (m,)
        True for a test sample. A class with only one sample has no test sample.
    """
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    ordered = labels[order]
    rank = np.arange(labels.size) - (np.cumsum(counts) - counts)[ordered]
    test = np.empty(labels.size, np.bool_)
    test[order] = (rank % _TEST_EVERY == 0) & (counts[ordered] > 1)
    return test


def read_features(path: Path, known: tables.Known) -> tables.Table:
    """Read the features that a model takes from a table or an svmlight file, with or without labels."""
    if svmlight.is_svmlight(path):
        return tables.Table(svmlight.read(path, known.width, known.first_index).features, np.empty(0), (), "", ())
    return tables.read_features(path, known)


def is_rows(path: Path) -> bool:
    """Return whether a file's name has a suffix of tables or of svmlight files."""
    return tables.is_table(path) or svmlight.is_svmlight(path)


def check_roles(roles: tables.Roles, other: str | None = None) -> None:
    """Raise ValueError for roles of columns that contradict each other, or come with ``other``, which is no table."""
    if roles.label is not None and roles.target is not None:
        got, expected = f"{bounded.brief(repr(roles.target))} beside a label", "one of both"
        raise ValueError(checks.message("target", got, expected, "predict classes by a label, numbers by a target"))
    if other is None:
        return
    given = dict(zip(("label", "target", "category", "ignore"), roles, strict=True))
    for argument, value in given.items():
        if value:
            shown = ", ".join(map(repr, (value,) if isinstance(value, str) else value))
            got, expected = f"{bounded.brief(shown)} for {other}", "a table, such as a .csv file"
            raise ValueError(checks.message(argument, got, expected, "omit it"))


def _table(name: str, table: tables.Table) -> Dataset:
    if table.names:
        found = _dataset(name, {"x_train": table.features, "y_train": table.labels})._replace(names=table.names)
    else:
        found = _held_out(name, table.features, table.labels, ())
    return found._replace(label=table.label, remarks=table.remarks, columns=table.columns, words=table.words)


def _sparse(name: str, path: Path, roles: tables.Roles, known: tables.Known | None) -> Dataset:
    """Return the samples of an svmlight file in two parts."""
    check_roles(roles)
    label, target = (None if one == "first" else one for one in (roles.label, roles.target))
    check_roles(roles._replace(label=label, target=target), f"{name}, whose first number is the label or target")
    found = svmlight.read(path) if known is None else svmlight.read(path, known.width, known.first_index)
    x, y = found.features, found.labels
    if roles.target is not None:
        parts, what = _held_out(name, x, y, ()), "target"
    else:
        _check_labels(name, y, roles.label is None)
        (codes,), names = classes.of_integers(f"{name}: labels", y)
        parts, what = _held_out(name, x, codes, names), "label"
    density = x.nnz / max(1, x.shape[0] * x.shape[1])
    remark = f"{what}: the first number of each line; {x.shape[1]} features from index {found.first_index}"
    remark += f", {density:.2%} of the values are not zero"
    return parts._replace(label="first", remarks=(remark,), first_index=found.first_index)


def _check_labels(name: str, y: Array, guessed: bool) -> None:
    """Raise ValueError for labels (m,) that are fractions, or, unless they are known to be labels, hardly repeat."""
    fractions, different = y[y != np.floor(y)], np.unique(y).size
    remedy = "predict numbers: --target first (in Python target='first')"
    if fractions.size:
        raise ValueError(checks.message(f"{name}: labels", str(fractions[0]), "integers, one for each class", remedy))
    if guessed and different > y.size / 2:
        got = f"{different} different values in {y.size} lines"
        remedy += "; or say that they are labels: --label first"
        raise ValueError(checks.message(f"{name}: labels", got, "labels that repeat", remedy))


def _dataset(name: str, parts: dict[str, Array]) -> Dataset:
    if ("x_test" in parts) != ("y_test" in parts):
        got, expected = f"only {', '.join(sorted(parts))}", "x_test and y_test, or neither"
        raise ValueError(checks.message(name, got, expected, "add the missing array, or remove the other"))
    x_train, y_train = _pair(name, "train", parts)
    if "x_test" in parts:
        x_test, y_test = _pair(name, "test", parts)
        if x_test.shape[1:] != x_train.shape[1:]:
            got, expected = f"test samples of shape {x_test.shape[1:]}", f"{x_train.shape[1:]}, as in training"
            raise ValueError(checks.message(name, got, expected, "save both parts of the same data set"))
        (y_train, y_test), names = classes.of_integers(f"{name}: labels", y_train, y_test)
        return Dataset(x_train, y_train, x_test, y_test, max_value(x_train), False, names)
    (y_train,), names = classes.of_integers(f"{name}: labels", y_train)
    return _held_out(name, x_train, y_train, names)


def _held_out(name: str, x: Array, y: Array, names: tuple[str, ...]) -> Dataset:
    """Return samples (m, ...) and labels or targets (m,) in two parts."""
    test = held_out(y if names else np.zeros(len(y), np.int64))
    if not test.any():
        expected = f"at least two samples{' of some class' if names else ''}, one of them for the test part"
        raise ValueError(checks.message(name, f"{y.size} samples", expected, "add samples"))
    return Dataset(x[~test], y[~test], x[test], y[test], max_value(x[~test]), True, names)


def _pair(name: str, part: str, parts: dict[str, Array]) -> tuple[Array, Array]:
    """Return the samples (m, ...) and labels (m,) of one part, after checking that they match."""
    x, y = parts[f"x_{part}"], parts[f"y_{part}"]
    if x.ndim < 2:
        got = f"shape {x.shape}"
        raise ValueError(checks.message(f"{name}: x_{part}", got, "samples (m, ...)", "give each sample its features"))
    if y.shape not in {(len(x),), (len(x), 1)}:
        got, expected = f"{len(x)} samples and labels of shape {y.shape}", f"labels ({len(x)},)"
        remedy = "save one class number for each sample (the argmax of one-hot labels)"
        raise ValueError(checks.message(f"{name}: y_{part}", got, expected, remedy))
    lowest, highest = x.min(), x.max()
    if not np.isfinite([lowest, highest]).all():
        raise ValueError(checks.message(f"{name}: x_{part}", "NaN or infinity", "finite numbers", "clean the data"))
    if lowest >= 0 and highest <= _FULL_INK and (x.dtype.kind in "iu" or (x == np.floor(x)).all()):
        x = x.astype(np.uint8, copy=False)
    return x, y.ravel()


def max_value(x: Array) -> float:
    """Return the divisor that scales samples to [-1, 1]: see `Dataset`."""
    lowest, highest = (
        (x.min(), x.max()) if isinstance(x, np.ndarray) else (x.data.min(initial=0), x.data.max(initial=0))
    )
    largest = max(abs(float(lowest)), abs(float(highest)))
    if x.dtype == np.uint8 and largest > _FULL_INK // 2:
        return float(_FULL_INK)
    return largest or 1.0
