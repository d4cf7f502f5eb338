"""Which process holds which samples and folds which slice: arithmetic that all processes do alike, without messages."""

import itertools
from typing import NamedTuple

from fastmlp.kernels import tree


def cuts(count: int, size: int) -> list[int]:
    """Return where ``size`` near equal ranges of ``count`` things begin, and the end.

    Examples
    --------
    >>> cuts(10, 4)
    [0, 2, 5, 7, 10]
    """
    return [count * rank // size for rank in range(size + 1)]


def sample_cuts(m: int, leaf: int, size: int) -> list[int]:
    """Return the first sample of each process, and m; shares are whole leaves, and one leaf is that of the first.

    Examples
    --------
    >>> sample_cuts(95, 10, 3), sample_cuts(95, 95, 3)
    ([0, 30, 60, 95], [0, 95, 95, 95])
    """
    if leaf >= m:
        return [0, *[m] * size]
    return [min(first * leaf, m) for first in cuts(-(-m // leaf), size)]


class Move(NamedTuple):
    """Samples ``first`` to below ``stop``, by global number, which ``source`` holds and ``target`` is to hold."""

    source: int
    target: int
    first: int
    stop: int


def moves(held: list[int], wanted: list[int]) -> list[Move]:
    """Return what each process gets from which: all samples, in order; both lists are cuts.

    Examples
    --------
    >>> moves([0, 5, 5, 9], [0, 3, 6, 9])
    [Move(source=0, target=0, first=0, stop=3), Move(source=0, target=1, first=3, stop=5), \
Move(source=2, target=1, first=5, stop=6), Move(source=2, target=2, first=6, stop=9)]
    """
    found = []
    for target, (begin, end) in enumerate(itertools.pairwise(wanted)):
        for source, (first, stop) in enumerate(itertools.pairwise(held)):
            if max(first, begin) < min(stop, end):
                found.append(Move(source, target, max(first, begin), min(stop, end)))
    return found


def nodes_of(first: int, stop: int, leaves: int) -> list[tree.Node]:
    """Return the nodes of the tree that the leaves ``first`` to below ``stop`` make up.

    Examples
    --------
    >>> nodes_of(1, 5, 5)
    [(1, 1), (2, 2), (4, 4)]
    """
    return tree.folds([(leaf, 1) for leaf in range(first, stop)], leaves)[1]
