"""Minibatches: which samples an update takes, and in which order.

Of samples that are not in memory, ``"blocks"`` is a shuffle that reads each block of a packed file once in an epoch, as
a whole: the blocks in a random order, divided into groups of up to `BUFFER` blocks, and the samples of each group in a
random order. A block has up to 24 MiB, so that a group has up to 192 MiB, or 245,000 pictures of MNIST. A batch is thus
a random choice from `BUFFER` blocks, others in each epoch. It teaches as much as one from all samples, as long as such
a group resembles the whole: a source that is sorted, for example by class, should be shuffled before it is packed.
"""

from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.kernels.parts import Drawn, samples_of
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

BUFFER = 8  #: Blocks whose samples are shuffled together: it decides on the bits of a run.

_MOST_SAMPLES = 2**31 - 1  # orders are int32


class Batches:
    """The batches of each epoch; the last one of an epoch that is not divisible is smaller.

    An epoch is a function of the seed and its number alone, so that a run can be resumed without the state of a
    generator.

    Parameters
    ----------
    m : int
        Number of samples.
    batch_size : int
        Samples in a batch, at least 1.
    shuffle : {"samples", "batches", "blocks", False}
        A new order of the samples in each epoch; or batches that are drawn once, and a new order of these in each
        epoch; or a new order of the blocks, and of the samples in each group of them; or the given order.
    seed : int
        From 0 to 2**32 - 1.
    block : int
        Samples of a block.

    Raises
    ------
    ValueError
        If there are 2**31 samples or more.

    Examples
    --------
    >>> from fastmlp.batches import Batches
    >>> order, ends = Batches(5, batch_size=2, shuffle="samples", seed=0).epoch(1)
    >>> sorted(order.tolist()), ends
    ([0, 1, 2, 3, 4], array([2, 4, 5]))
    """

    def __init__(self, m: int, batch_size: int, shuffle: str | bool, seed: int, block: int = 1) -> None:
        if m > _MOST_SAMPLES:
            got, expected = f"{m} samples", f"at most {_MOST_SAMPLES} for minibatches"
            raise ValueError(checks.message("X", got, expected, "train on parts of the data, one after the other"))
        self.shuffle, self.seed = shuffle, seed
        self.per_epoch = -(-m // batch_size)
        self._m, self._batch_size, self._block = m, batch_size, block
        self._drawn: Drawn | None = None
        self._ends = np.minimum(np.arange(1, self.per_epoch + 1, dtype=np.int64) * batch_size, m)
        self._sizes = np.diff(self._ends, prepend=0)

    def epoch(self, number: int) -> tuple[Array, Array]:
        """Return the samples of an epoch and the ends of its batches.

        Parameters
        ----------
        number : int
            The epoch, from 1.

        Returns
        -------
        order : ndarray of int32, shape (m,)
            Each sample once.
        ends : ndarray of int64, shape (per_epoch,)
            Batch i is ``order[ends[i - 1]:ends[i]]``, the first one ``order[:ends[0]]``.
        """
        if self.shuffle == "samples":
            return self._permutation(number, self._m), self._ends
        if self.shuffle == "batches":
            return self._in_turn(self._permutation(number, self.per_epoch))
        if self.shuffle == "blocks":
            return self._by_blocks(number), self._ends
        return np.arange(self._m, dtype=np.int32), self._ends

    def drawn(self) -> Drawn | None:
        """Return the batches of which all epochs consist, or None if each epoch has its own."""
        if self.shuffle not in ("batches", False):
            return None
        if self._drawn is None:
            # There is no epoch 0: its permutation belongs to no other use.
            order = self._permutation(0, self._m) if self.shuffle else np.arange(self._m, dtype=np.int32)
            self._drawn = Drawn(order, self._batch_size)
        return self._drawn

    def reseed(self, seed: int) -> None:
        """Continue with the epochs of another seed."""
        self.seed, self._drawn = seed, None

    def _in_turn(self, batches: Array) -> tuple[Array, Array]:
        """Return the epoch that takes the batches, which are those of all epochs, in this order (per_epoch,)."""
        drawn = self.drawn()
        assert drawn is not None
        return samples_of(drawn, batches), np.cumsum(self._sizes[batches])

    def _by_blocks(self, number: int) -> Array:
        """Return the samples (m,) of an epoch, those of a group of blocks after those of another."""
        generator, block = self._generator(number), self._block
        blocks = generator.permutation(-(-self._m // block))
        order = []
        for group in np.array_split(blocks, -(-len(blocks) // BUFFER)):
            samples = (group[:, None] * block + np.arange(block)).reshape(-1)
            order.append(generator.permutation(samples[samples < self._m]).astype(np.int32))
        return np.concatenate(order)

    def _permutation(self, number: int, length: int) -> Array:
        return self._generator(number).permutation(length).astype(np.int32)

    def _generator(self, number: int) -> np.random.RandomState:
        # The stream of RandomState never changes. Quietly, because seeding sets NumPy's error state for a moment.
        return quietly(np.random.RandomState, [self.seed, number])
