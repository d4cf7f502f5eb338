"""Parts of the samples: whole leaves of the summation tree, which are packed and summed by themselves."""

from typing import Any, NamedTuple


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
