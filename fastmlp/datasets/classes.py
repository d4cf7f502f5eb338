"""Encode labels, which may be any integers or texts, as classes from 0."""

import math
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MOST = 2**16  #: Largest number of classes: a column with more values holds prices, identifiers or pixels, not labels.

_EXACT = 2.0**53  # from which on floats stand for several integers each

_REMEDY = "give each class an integer or a name"


def of_integers(name: str, *parts: Array) -> tuple[list[Array], tuple[str, ...]]:
    """Encode integer labels as classes in numerical order.

    Parameters
    ----------
    name : str
        The place of the labels, for messages.
    *parts : ndarray of real numbers, shapes (m,)
        The labels of each part of a data set.

    Returns
    -------
    codes : list of ndarray of int64, shapes (m,)
        The class of each sample, counted from 0.
    names : tuple of str
        The label of each class, in ascending order.
    """
    whole = [_integers(name, part) for part in parts]
    labels = np.unique(np.concatenate([np.unique(part) for part in whole]))
    _check_number(name, labels.size)
    return [np.searchsorted(labels, part).astype(np.int64) for part in whole], tuple(map(str, labels.tolist()))


def of_texts(name: str, codes: Array, texts: tuple[str, ...]) -> tuple[Array, tuple[str, ...]]:
    """Renumber classes (m,) of texts, numbered in order of appearance, so that their names ascend."""
    _check_number(name, len(texts))
    order = sorted(range(len(texts)), key=texts.__getitem__)
    return np.argsort(order)[codes], tuple(texts[i] for i in order)


def number_in(cell: str) -> float | None:
    """Return the number in a cell, or None; underscores, which only Python accepts, are not allowed."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def spelled(cell: str) -> str:
    """Return a word as it is, and a number in one spelling: 1, 1.0 and 01 are the same category."""
    number = number_in(cell)
    if number is None or not math.isfinite(number) or abs(number) >= _EXACT:
        return cell
    return str(int(number)) if number == int(number) else repr(number)


def _integers(name: str, y: Array) -> Array:
    if y.dtype.kind not in "biuf":
        raise ValueError(checks.message(name, f"dtype {y.dtype}", "integer labels", _REMEDY))
    # Each larger float stands for several integers.
    bits = np.finfo(y.dtype).nmant + 1 if y.dtype.kind == "f" else 63
    fits = (y >= -(2.0**bits)) & (y < 2.0**bits) & (np.floor(y) == y)
    if not fits.all():
        bad = int(np.flatnonzero(~fits)[0])
        got, expected = f"label {y[bad]} in sample {bad}", "64-bit integers"
        if 2.0**bits <= abs(y[bad]) < 2.0**63:
            expected = f"integers below 2**{bits}, beyond which those of {y.dtype} are rounded"
        raise ValueError(checks.message(name, got, expected, _REMEDY))
    return y.astype(np.int64)


def _check_number(name: str, classes: int) -> None:
    if classes > MOST:
        raise ValueError(checks.message(name, f"{classes} different labels", f"at most {MOST} classes", _REMEDY))
