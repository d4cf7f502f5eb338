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
    shape : tuple of int
        (n_features, m).
    dtype : numpy.dtype
        That of the stored numbers.
    rows : callable
        Reads a block by its number into rows (k, n), as they are stored; the last one may have fewer.
    ahead : callable
        Begins to read a block, and returns at once.
    operand : callable
        Returns the operand of minibatches for rows (k, n).
    """

    block: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    rows: Callable[[int, Array], object]
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
        n, m = store.shape
        self._slots: dict[int, int] = {}  # of the blocks in memory, the one that was used last at the end
        self._held = np.empty((min(-(-m // store.block), BUFFER), store.block, n), store.dtype)
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
        blocks, slots = order // self._store.block, len(self._held)
        met = blocks[np.sort(np.unique(blocks, return_index=True)[1])].tolist()
        rows = self._held.reshape(-1, self._held.shape[2])
        if len(met) <= slots:
            return np.take(rows, self._places(order, blocks, met), 0)
        drawn = np.empty((len(order), rows.shape[1]), rows.dtype)
        for at in range(0, len(met), slots):
            some = met[at : at + slots]
            here = np.flatnonzero(np.isin(blocks, some))
            drawn[here] = rows[self._places(order[here], blocks[here], some)]
        return drawn

    def _places(self, order: Array, blocks: Array, some: list[int]) -> Array:
        """Return where samples are in memory, once it holds their blocks, which are ``some``."""
        for number in [*(one for one in some if one in self._slots), *(one for one in some if one not in self._slots)]:
            self._slots[number] = self._slots.pop(number) if number in self._slots else self._load(number)
        begin = np.empty(max(some) + 1, np.int64)
        begin[some] = [self._store.block * (self._slots[number] - number) for number in some]
        return begin[blocks] + order

    def _load(self, number: int) -> int:
        """Read a block in the place of the one that has not been used for longest; return its slot."""
        # Not as many as there are blocks: after an error in here, a slot before others is free.
        free = set(range(len(self._held))) - set(self._slots.values())
        slot = min(free) if free else self._slots.pop(next(iter(self._slots)))
        turn = int(self._turn[number])
        for later in self._sequence[turn + 1 : turn + 1 + BUFFER]:
            self._store.ahead(int(later))
        self._store.rows(number, self._held[slot])
        return slot
