"""Encoding of table columns, saved with a model: numbers are standardised, categories become columns of 0 and 1."""

import json
import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks, frames
from fastmlp.datasets import bounded
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Words: TypeAlias = dict[int, tuple[str, ...]]
Categories: TypeAlias = dict[int, tuple[str | None, ...]]

NOTES = ("columns", "features", "categories")  #: The names of an encoder's notes.
MOST_CATEGORIES = 100  #: Columns of 0 and 1 for a column of categories; rare categories share the last one.


class Encoder(NamedTuple):
    """How the columns of a table become the inputs of a model.

    A number x becomes ``(x - mean) / scale``. A category becomes a 1 among zeros. The inputs are those of the columns
    of numbers, then those of the columns of categories, both in the order of the table, as scikit-learn's
    ``ColumnTransformer`` arranges them. A category that did not occur in training becomes zeros only, or, if rare
    categories share an input, a 1 there.

    Attributes
    ----------
    names : tuple of str
        The names of the columns; empty if they have none.
    mean, scale : tuple of float
        Mean and standard deviation of each column in training; 1 instead of the latter if the column is constant. 0 and
        1 for a column of categories.
    categories : dict of int to tuple of str
        The categories of each column that has some, one for each input; None at the end for all other categories.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    categories: Categories

    @property
    def width(self) -> int:
        """The number of inputs."""
        return len(self.mean) - len(self.categories) + sum(map(len, self.categories.values()))

    def encode(self, x: Array) -> Array:
        """Return rows (m, n) whose categories are places in ``categories``, or -1, as inputs (m, width)."""
        plain = [column for column in range(len(self.mean)) if column not in self.categories]
        mean, scale = np.array(self.mean), np.array(self.scale)
        if not self.categories:
            return standardised(x, mean, scale)
        out = np.zeros((len(x), self.width))
        out[:, : len(plain)] = standardised(x[:, plain], mean[plain], scale[plain])
        first = len(plain)
        for column, known in sorted(self.categories.items()):
            rows = np.flatnonzero(x[:, column] >= 0)
            out[rows, first + x[rows, column].astype(np.intp)] = 1
            first += len(known)
        return out

    def scaled(self, x: Any) -> Any:
        """Return a CSR matrix (m, n) of SciPy with its columns scaled.

        Raises
        ------
        ValueError
            If a column has a mean to subtract, or holds categories: no zero would remain.
        """
        if self.categories or any(self.mean):
            expected, remedy = "a table (.csv, .tsv or .txt), as in the model's training", "write it as such a table"
            raise ValueError(checks.message("data", "a sparse matrix", expected, remedy))
        values = standardised(x.data, np.zeros(1), np.array(self.scale)[x.indices])
        return type(x)((values, x.indices, x.indptr), shape=x.shape)

    def places(self, name: str, x: Array, words: Words) -> Array:
        """Return rows (m, n) whose categories are places in ``words`` with places in ``categories``; warn of new ones.

        Parameters
        ----------
        name : str
            The argument or file, for the warning.
        x : ndarray, shape (m, n)
            The rows.
        words : dict of int to tuple of str
            Their categories.
        """
        if not self.categories:
            return x
        found = x.astype(np.float64)
        for column, known in sorted(self.categories.items()):
            others = len(known) - 1 if known[-1] is None else -1
            place = {word: at for at, word in enumerate(known)}
            new = [word for word in words[column] if word not in place]
            if new and others < 0:
                self._warn(name, column, new)
            found[:, column] = np.array([place.get(word, others) for word in words[column]])[
                x[:, column].astype(np.intp)
            ]
        return found

    def _warn(self, name: str, column: int, new: list[str]) -> None:
        which = f"column {self.names[column]!r}" if self.names else f"column {column + 1}"
        got = bounded.brief(f"{name}, {which}: {', '.join(map(repr, new))} did not occur in training")
        warnings.warn(f"{got}: encoded as none of its categories", UserWarning, stacklevel=2)

    def notes(self) -> dict[str, str]:
        """Return the encoder as notes of a model: JSON by name."""
        found = {"columns": json.dumps([self.mean, self.scale])}
        found |= named(self.names)
        return found | ({"categories": json.dumps(self.categories)} if self.categories else {})


def fit(x: Array, words: Words, names: tuple[str, ...] = ()) -> Encoder:
    """Determine the encoder of the rows of a table.

    Parameters
    ----------
    x : ndarray, shape (m, n)
        The rows; a category is its place in ``words``.
    words : dict of int to tuple of str
        The categories of each column that has some.
    names : tuple of str
        The names of the columns, if they have any.

    Raises
    ------
    ImportError
        If there are categories and scikit-learn is not installed.

    Notes
    -----
    Numbers are standardised without scikit-learn, so that tables of numbers do not need it, and because its
    ``StandardScaler`` overflows for values beyond 1e154; the results agree elsewhere. Its ``OneHotEncoder`` chooses and
    orders categories. `Encoder.encode` applies both, without it.
    """
    numbers = x.astype(np.float64)
    numbers[:, list(words)] = 0
    mean, scale = moments(numbers)
    return Encoder(names, mean, scale, _categories(x, words) if words else {})


def fit_sparse(x: Any) -> Encoder:
    """Return the encoder that divides each column of a CSR matrix (m, n) by its largest magnitude, and keeps zeros."""
    largest = np.zeros(x.shape[1])
    np.maximum.at(largest, x.indices, np.abs(x.data))
    return Encoder((), (0.0,) * x.shape[1], tuple(np.where(largest > 0, largest, 1.0).tolist()), {})


def read(notes: Mapping[str, str]) -> Encoder | None:
    """Return the encoder in the notes of a model, or None; its numbers are not checked against the model.

    Raises
    ------
    ValueError, TypeError
        If the notes are not those of an encoder.
    """
    if "columns" not in notes:
        return None
    mean, scale = map(tuple, json.loads(notes["columns"]))
    texts = json.loads(notes.get("categories", "{}"))
    if not isinstance(texts, dict):
        raise TypeError("categories that are not a JSON object")
    categories = {int(column): tuple(known) for column, known in texts.items()}
    return Encoder(names(notes), mean, scale, categories)


def of_model(notes: Mapping[str, str], width: int) -> Encoder | None:
    """Return the encoder in the notes of a model of this input width, or None.

    Raises
    ------
    ValueError
        If the notes cannot be read, or do not fit.
    """
    try:
        encoder, _ = read(notes), names(notes)
        proper = encoder is None or is_proper(encoder, len(encoder.mean), width)
    except (ValueError, TypeError, RecursionError):
        proper = False
    if not proper:
        expected = "those of `fastmlp.preprocessing.fit`"
        raise ValueError(checks.message("notes", "an encoder that does not fit the model", expected, "assign encoder"))
    return encoder


def names(notes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of a model's features in its notes; none if it has none."""
    return tuple(map(str, json.loads(notes.get("features", "[]"))))


def named(features: tuple[str, ...]) -> dict[str, str]:
    """Return the names of features as notes of a model."""
    return {"features": json.dumps(features)} if features else {}


def is_proper(encoder: Encoder, columns: int, width: int) -> bool:
    """Return whether an encoder, read from notes, is one of so many columns for a model of this input width."""
    mean, scale, categories = encoder.mean, encoder.scale, encoder.categories
    proper = len(mean) == len(scale) == columns and len(encoder.names) in (0, columns)
    proper = proper and all(map(math.isfinite, mean)) and all(0 < one < math.inf for one in scale)
    proper = proper and all(0 <= column < columns and _are_categories(one) for column, one in categories.items())
    return proper and encoder.width == width


def _are_categories(known: tuple[object, ...]) -> bool:
    texts = known[:-1] if known and known[-1] is None else known
    return bool(known) and all(isinstance(one, str) for one in texts) and len(set(texts)) == len(texts)


def columns(name: str, frame: frames.Frame, notes: Mapping[str, str], width: int) -> Array:
    """Return the rows of a frame as columns (width, m), encoded if the notes of the model hold an encoder."""
    encoder = of_model(notes, width)
    wanted = names(notes) if encoder is None else encoder.names
    frames.check_names(name, frames.names(frame), wanted)
    if encoder is None:
        x = frames.numbers(name, frame)
        # A very wide table, or pictures, that the command line learnt from: see `preprocessing.to_notes`.
        return x / float(notes["max_value"]) if "inputs" in notes else x
    if frame.shape[1] != len(encoder.mean):
        got, expected = f"a frame of {frame.shape[1]} columns", f"{len(encoder.mean)}, as in training"
        raise ValueError(checks.message(name, got, expected, "pass the columns of the training data"))
    x, words = frames.raw(name, frame, encoder.categories)
    return encoder.encode(encoder.places(name, x, words)).T


def standardised(x: Array, mean: Array, scale: Array) -> Array:
    """Return ``(x - mean) / scale``; a model refuses infinite results."""
    result: Array = quietly(lambda: (x - mean) / scale)
    return result


def moments(x: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of columns (m, n), also if their squares would overflow or underflow."""
    largest = np.abs(x).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    u = x / unit
    mean, scale = u.mean(axis=0), u.std(axis=0) * unit
    constant = (np.ptp(u, axis=0) == 0) | (scale == 0)
    mean = np.where(constant, x[0], mean * unit)
    return tuple(mean.tolist()), tuple(np.where(constant, 1.0, scale).tolist())


def _categories(x: Array, words: Words) -> Categories:
    """Return the categories that occur in the columns of words, as scikit-learn chooses and orders them."""
    try:
        from sklearn.preprocessing import OneHotEncoder
    except ImportError as error:
        raise checks.extra(
            "categories are encoded by scikit-learn", error, "sklearn", "leave text columns out"
        ) from None
    columns = sorted(words)
    settings: dict[str, Any] = {"handle_unknown": "infrequent_if_exist", "max_categories": MOST_CATEGORIES}
    encoder = OneHotEncoder(**settings).fit(x[:, columns].astype(np.int64))  # places are in alphabetical order
    found: Categories = {}
    for column, all_of, rare in zip(columns, encoder.categories_, encoder.infrequent_categories_, strict=True):
        left_out = set() if rare is None else set(rare.tolist())
        kept = [words[column][place] for place in all_of.tolist() if place not in left_out]
        found[column] = (*kept, None) if left_out else tuple(kept)
    return found
