"""The summation tree: which leaves are added to which, whatever the ranges in which they were computed.

The tree is the binary one over the leaves by number: a node of 2^k leaves begins at a multiple of 2^k, and the last one
of a level may lack leaves. It follows from the number of leaves alone, so sums do not depend on threads or on ranges.
"""

from typing import TypeAlias

Node: TypeAlias = tuple[int, int]
"""The first leaf, and the number of leaves, a power of two, of which those beyond the last leaf are missing."""


def nodes(first: int, stop: int, leaves: int, largest: int) -> list[Node]:
    """Return the fewest nodes of at most ``largest`` leaves that make up the leaves ``first`` to below ``stop``.

    Examples
    --------
    >>> nodes(3, 9, leaves=9, largest=4)
    [(3, 1), (4, 4), (8, 4)]
    """
    found = []
    while first < stop:
        count = 1
        while (
            count < leaves
            and 2 * count <= largest
            and first % (2 * count) == 0
            and (first + 2 * count <= stop or stop == leaves)
        ):
            count *= 2
        found.append((first, count))
        first += count
    return found


def folds(found: list[Node], leaves: int) -> tuple[list[tuple[int, int]], list[Node]]:
    """Return the additions, in order, that a set of nodes allows, as pairs of first leaves, and the nodes then left.

    The second of a pair is added to the first, and is gone.

    Examples
    --------
    >>> folds([(0, 1), (1, 1), (2, 1), (4, 1)], leaves=5)
    ([(0, 1)], [(0, 2), (2, 1), (4, 4)])
    """
    pairs: list[tuple[int, int]] = []
    stack: list[Node] = []
    for node in sorted(found):
        stack.append(node)
        while (parent := _parent(stack, leaves)) is not None:
            first, _ = stack.pop()
            if first != parent[0]:
                pairs.append((stack.pop()[0], first))
            stack.append(parent)
    return pairs, stack


def _parent(stack: list[Node], leaves: int) -> Node | None:
    """Return the node above the last one, where all of its leaves are there."""
    first, count = stack[-1]
    if first % (2 * count) == 0:
        return (first, 2 * count) if first + count >= leaves > count else None
    sibling = (first - count, count)
    return (first - count, 2 * count) if stack[-2:-1] == [sibling] else None
