"""Minibatches of samples that are not in memory: a few blocks are, and each call of a kernel gets its samples."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import backend
from fastmlp.batches import BUFFER
from fastmlp.kernels import rules, scores
from fastmlp.kernels.nets import Net

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Store(NamedTuple):
    """Where samples come from.

    Attributes
    ----------
    block : int
        Samples of a block.
    rows : callable
        Reads a block by its number: rows (k, n) as they are stored.
    ahead : callable
        Begins to read a block, and returns at once.
    operand : callable
        Returns the operand of minibatches for rows (k, n).
    """

    block: int
    rows: Callable[[int], Array]
    ahead: Callable[[int], None]
    operand: Callable[[Array], Any]


class Feed:
    """A trainer, and the blocks that its next samples are in.

    Parameters
    ----------
    store : Store
        Where the samples come from.
    vectors : list of ndarray, shape (k,)
        The parameters and the state of the optimizer to begin with.
    net : Net
        What the parameters mean.
    y, weight : ndarray
        Targets and weights of all samples, of which only those of a batch are copied.
    """

    def __init__(self, store: Store, vectors: list[Array], net: Net, y: Array, weight: Array) -> None:
        self._store, self._vectors, self._net, self._y, self._weight = store, vectors, net, y, weight
        self._trainer: Any = None
        self._rows: dict[int, Array] = {}  # of up to BUFFER blocks, the one that was used last at the end
        self._sequence, self._turn = np.empty(0, np.int64), np.empty(0, np.int64)

    def begin_epoch(self, order: Array) -> None:
        """Take note of the order of the blocks, to read them ahead of use."""
        blocks = order // self._store.block
        first = np.empty(int(blocks.max()) + 1, np.int64)
        first[blocks[::-1]] = np.arange(len(order) - 1, -1, -1)  # the last assignment to an index stays
        self._sequence = np.argsort(first)
        self._turn = np.argsort(self._sequence)

    def train(self, order: Array, ends: Array, rule: rules.Rule, numbers: Array) -> Array:
        """Update on batch after batch, as the kernel ``train``; return the sums of each."""
        done: list[Array] = []
        first = 0
        while first < len(ends):
            start = int(ends[first - 1]) if first > 0 else 0
            # Not more samples than a quarter of a block, which bounds the memory for them.
            last = max(first + 1, int(np.searchsorted(ends, start + self._store.block // 4, "right")))
            stop = int(ends[last - 1])
            done.append(self._train(order[start:stop], ends[first:last] - start, rule, numbers[first:last]))
            if len(done[-1]) < last - first:
                break
            first = last
        return np.concatenate(done)

    def _train(self, order: Array, ends: Array, rule: rules.Rule, numbers: Array) -> Array:
        kernels = backend.kernels()
        x, y, weight = self._store.operand(self._drawn(order)), np.take(self._y, order, -1), self._weight[order]
        if self._trainer is None:
            every = scores.hit_scales(self._net.loss, self._y, self._weight)
            self._trainer = kernels.begin_training(self._vectors, self._net, x, y, weight, every)
        else:
            kernels.enter_training(self._trainer, x, y, weight)
        sums: Array = kernels.train(self._trainer, np.arange(len(order), dtype=np.int32), ends, rule, numbers)
        return sums

    def vectors(self) -> list[Array]:
        """Return the parameters (k,) and the state of the optimizer."""
        if self._trainer is None:
            return [one.copy() for one in self._vectors]
        vectors: list[Array] = backend.kernels().training_vectors(self._trainer)
        return vectors

    def _drawn(self, order: Array) -> Array:
        """Return samples (k, n) in this order; blocks are needed in the order in which they are first met."""
        blocks = order // self._store.block
        rows = self._block(int(blocks[0]))
        drawn = np.empty((len(order), rows.shape[1]), rows.dtype)
        for at in np.sort(np.unique(blocks, return_index=True)[1]):
            number = int(blocks[at])
            rows, places = self._block(number), np.flatnonzero(blocks == number)
            drawn[places] = rows[order[places] - number * self._store.block]
        return drawn

    def _block(self, number: int) -> Array:
        rows = self._rows.pop(number, None)
        if rows is None:
            if len(self._rows) == BUFFER:
                del self._rows[next(iter(self._rows))]
            turn = int(self._turn[number])
            for later in self._sequence[turn + 1 : turn + 1 + BUFFER]:
                self._store.ahead(int(later))
            rows = self._store.rows(number)
        self._rows[number] = rows
        return rows
