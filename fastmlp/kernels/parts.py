"""Parts of the samples: whole leaves of the summation tree, which are packed and summed by themselves; and batches."""

from typing import Any, NamedTuple


class Drawn(NamedTuple):
    """Batches that are drawn once: all orders consist of them.

    Attributes
    ----------
    order : ndarray of int32, shape (m,)
        The samples, batch after batch.
    size : int
        Samples of each batch but the last one.
    """

    order: Any
    size: int


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
