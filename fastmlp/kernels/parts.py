"""Parts of the samples: whole leaves of the summation tree, which are packed and summed by themselves; and batches."""

from typing import Any, NamedTuple

import numpy as np


class Drawn(NamedTuple):
    """Batches that are drawn once: all orders consist of them.

    Attributes
    ----------
    order : ndarray of int32, shape (m,)
        The samples, batch after batch.
    size : int
        Samples of each batch but the last one.
    kept : list, optional
        Where a backend may leave what it made for these batches, for the next training on the same samples.
    """

    order: Any
    size: int
    kept: list[Any] | None = None


def samples_of(drawn: Drawn, batches: Any) -> Any:
    """Return the samples of batches of these numbers, one batch after the other."""
    whole = len(drawn.order) // drawn.size
    rows, rest = drawn.order[: whole * drawn.size].reshape(whole, drawn.size), drawn.order[whole * drawn.size :]
    found, begin = [], 0
    for place in np.flatnonzero(batches == whole).tolist():  # where the last batch is, which has fewer samples
        found += [rows[batches[begin:place]].reshape(-1), rest]
        begin = place + 1
    return np.concatenate([*found, rows[batches[begin:]].reshape(-1)])


class Part(NamedTuple):
    """What belongs to the samples of a part.

    Attributes
    ----------
    first : int
        The number of its first leaf in the tree over all samples.
    y : ndarray of int64, shape (m,), or float, shape (C, m)
        Labels or targets of its samples.
    weight : ndarray of float, shape (m,)
    scales : ndarray of float, shape (K + 1,)
        `scores.hit_scales` of the targets and weights of all samples.
    """

    first: int
    y: Any
    weight: Any
    scales: Any
