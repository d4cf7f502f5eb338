"""A packed file that all processes of a run opened, and that is larger than they may keep in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastmlp.distributed.divided import Divided, Facts
from fastmlp.distributed.messages import Array, Messages
from fastmlp.kernels import rules
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Drawn
from fastmlp.packs import MappedMatrix, Piece


class Shared(Divided):
    """A matrix in a file of several blocks: each process passes over its blocks, and reads all for minibatches.

    All make the same updates on minibatches, so that samples that each reads by itself need not be exchanged.
    """

    def __init__(self, messages: Messages, facts: Facts, matrix: MappedMatrix) -> None:
        blocks = np.linspace(0, matrix.blocks, messages.size + 1).astype(int)
        cuts = np.minimum(blocks * matrix.block, facts.shape[1]).tolist()
        super().__init__(messages, facts, np.empty((0, facts.shape[0]), facts.dtype), cuts, minibatches=True)
        self._matrix, self._some = matrix, range(*blocks[messages.rank : messages.rank + 2])
        self._is_dense, self._is_packed = matrix.all_dense, True

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        return self._matrix.pieces(dtype, self._some)

    def digest(self, shapes: Array, y: Array, weight: Array) -> str:
        """Return the digest of one process that has all samples: see `fastmlp.samples.Samples.digest`."""
        return self._matrix.digest(shapes, y, weight)

    def check_shuffle(self, shuffle: str | bool) -> None:
        """Raise ValueError unless the file can be read in this order."""
        self._matrix.check_shuffle(shuffle)

    def begin_training(
        self, vectors: list[Array], net: Net, y: Array, weight: Array, drawn: Drawn | None = None
    ) -> Any:
        """Do as `PackedMatrix.begin_training`."""
        return self._matrix.begin_training(vectors, net, y, weight, drawn)

    def begin_epoch(self, trainer: Any, order: Array) -> None:
        """Take note of the order in which blocks are to be read."""
        self._matrix.begin_epoch(trainer, order)

    def train(self, trainer: Any, order: Array, ends: Array, rule: rules.Rule, numbers: Array) -> Array:
        """Do as `PackedMatrix.train`."""
        return self._matrix.train(trainer, order, ends, rule, numbers)

    def vectors(self, trainer: Any) -> list[Array]:
        """Do as `PackedMatrix.vectors`."""
        return self._matrix.vectors(trainer)
