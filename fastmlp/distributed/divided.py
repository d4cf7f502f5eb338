"""A matrix of samples of which each process holds whole leaves, and the passes over it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp import backend
from fastmlp.digests import Content, digest_of_samples
from fastmlp.distributed import plans
from fastmlp.distributed.messages import Array, Messages
from fastmlp.kernels import rules, scores, tree
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Drawn, Part
from fastmlp.packing import PackedMatrix, looks_unscaled, scaled
from fastmlp.packs import Piece

_UINT8 = np.dtype(np.uint8)


class Facts(NamedTuple):
    """What is known of all samples.

    Attributes
    ----------
    shape : tuple of int
        (n, m).
    dtype : numpy.dtype
        That of the stored numbers.
    scale : float
        That of uint8.
    density : float
        Share of the non-zero numbers.
    largest : float
        The largest absolute value, in about 1000 of the samples.
    block : int
        Samples of a block, for ``shuffle="blocks"``.
    shuffle : str
        How minibatches are shuffled by default.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    scale: float
    density: float
    largest: float
    block: int
    shuffle: str


class Batched(NamedTuple):
    """The targets and weights of all samples, while minibatches of them are drawn."""

    y: Array = np.empty(0)
    weight: Array = np.empty(0)


class Divided:
    """A matrix (n, m), used as a `PackedMatrix` is; all processes call each method, and get the same.

    Parameters
    ----------
    messages : Messages
        Between the processes.
    facts : Facts
        Of the whole matrix.
    rows : ndarray, shape (k, n)
        The samples of this process.
    cuts : list of int
        The first sample of each process, and m.
    minibatches : bool
        Whether it is for minibatches; the form for whole passes is then made when it is first needed.
    """

    def __init__(
        self, messages: Messages, facts: Facts, rows: Array, cuts: list[int], *, minibatches: bool = False
    ) -> None:
        self._messages, self._facts, self._cuts = messages, facts, cuts
        self.shape, self.dtype, self.density, self.largest = facts.shape, facts.dtype, facts.density, facts.largest
        self.block, self.shuffle = facts.block, facts.shuffle
        (n, m), self._kernels = self.shape, backend.kernels()
        leaf = self._kernels.leaf_size(m, n)
        self._leaf, self._leaves = leaf, -(-m // leaf)
        self._mine = slice(*cuts[messages.rank : messages.rank + 2])
        bounds = [-(-first // leaf) for first in cuts]
        self._nodes = [plans.nodes_of(first, stop, self._leaves) for first, stop in itertools.pairwise(bounds)]
        self._bounds, self._size = bounds, -1
        # Few samples are one leaf: the first process has them all, in the form that it would have alone.
        self._alone = leaf >= m
        self._whole: PackedMatrix | None = None
        self._form: Any = None
        self._operands: Any = None
        self._is_packed = self._is_dense = False
        self._rows, self._batches = rows, Batched()
        if not minibatches:
            self._pack()
            self._rows = rows[:0]  # the form has them all

    def _pack(self) -> None:
        """Make the form for whole passes, unless it is there."""
        if self._is_packed:
            return
        rows, self._is_packed = self._rows, True
        self._whole = PackedMatrix(rows.T, self._facts.scale) if self._alone and len(rows) else None
        self._form = self._kernels.pack(rows.T, self.shape[1]) if not self._alone and len(rows) else None
        self._is_dense = all(self._messages.gathered(self._form is None or self._kernels.all_dense(self._form)))

    def looks_unscaled(self) -> bool:
        """Return whether values are so large that a network hardly learns from them."""
        return looks_unscaled(self.dtype, self._facts.scale, self.largest)

    def step(self, gradient: Array, parameters: Array, net: Net, y: Array, weight: Array) -> tuple[float, float, float]:
        """Do as `PackedMatrix.step`: with the same bits."""
        self._pack()
        if not self._alone:
            return self._divided_step(gradient, parameters, net, y, weight)
        sums = np.empty(3)
        if self._whole is not None:
            sums[:] = self._whole.step(gradient, parameters, net, y, weight)
        self._messages.broadcast(gradient)
        self._messages.broadcast(sums)
        loss, hits, total = sums.tolist()
        return loss, hits, total

    def _divided_step(
        self, gradient: Array, parameters: Array, net: Net, y: Array, weight: Array
    ) -> tuple[float, float, float]:
        kernels, messages, (_, m) = self._kernels, self._messages, self.shape
        sums = kernels.begin_parts(parameters, net, m, dense=self._is_dense)
        first, stop = self._bounds[messages.rank : messages.rank + 2]
        scales = scores.hit_scales(net.loss, y, weight)
        for some, leaves, operand in self._pieces(parameters.dtype):
            mine_y, mine_weight = (np.ascontiguousarray(one[..., some]) for one in (y, weight))
            kernels.enter(sums, net, operand, Part(leaves[0], mine_y, mine_weight, scales))
            kernels.accumulate(sums, *leaves)
        nodes, of_leaves = kernels.nodes(sums)
        mine = np.ascontiguousarray(of_leaves[first:stop], np.float64).reshape(-1)
        ordered = [one for _, one in sorted(nodes, key=lambda pair: pair[0])]
        kernels.complete(sums, *self._folded(ordered, mine, parameters.dtype))
        result: tuple[float, float, float] = kernels.finish(gradient, sums)
        return result

    def _folded(self, gradients: list[Array], of_leaves: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Return the sum of all processes' nodes, each of which adds a slice in the tree's order, and of all leaves."""
        messages = self._messages
        if self._size < 0:
            self._size = max(messages.meet(max((len(one) for one in gradients), default=0)))
        ends = plans.cuts(self._size, messages.size)
        width = ends[messages.rank + 1] - ends[messages.rank]
        # The sums of leaves go along with each slice, bit by bit: an exchange of their own would cost a wait.
        own = of_leaves.view(dtype)
        sent = np.concatenate(
            [part for a, b in itertools.pairwise(ends) for part in (own, *(g[a:b] for g in gradients))]
        )
        scores = (np.diff(self._bounds) * (3 * of_leaves.itemsize // dtype.itemsize)).tolist()
        received = [width * len(nodes) + few for nodes, few in zip(self._nodes, scores, strict=True)]
        out = np.empty(sum(received), dtype)
        messages.exchanged(out, received, sent, np.diff(ends) * len(gradients) + len(own))
        rows: list[Array] = []
        sums = []
        for part, nodes, few in zip(np.split(out, np.cumsum(received)[:-1]), self._nodes, scores, strict=True):
            sums.append(part[:few].view(np.float64))
            rows.extend(part[few:].reshape(len(nodes), width))
        every = [node for nodes in self._nodes for node in nodes]
        at = {first: k for k, (first, _) in enumerate(every)}
        pairs, _ = tree.folds(every, self._leaves)
        for one, other in pairs:
            rows[at[one]] += rows[at[other]]
        return messages.joined(rows[at[0]], np.diff(ends)), np.concatenate(sums).reshape(-1, 3)

    def check_shuffle(self, shuffle: str | bool) -> None:
        """Do nothing: samples in memory may be taken in any order."""

    def begin_epoch(self, trainer: Any, order: Array) -> None:
        """Do nothing: the samples of the epoch are at hand."""

    def vectors(self, trainer: Any) -> list[Array]:
        """Return the parameters (k,) and the state of the optimizer of a trainer."""
        vectors: list[Array] = self._kernels.training_vectors(trainer)
        return vectors

    def begin_training(
        self, vectors: list[Array], net: Net, y: Array, weight: Array, drawn: Drawn | None = None
    ) -> Any:
        """Do as `PackedMatrix.begin_training`, for batches that come from all processes."""
        self._batches = Batched(y, weight)
        scales = scores.hit_scales(net.loss, y, weight)
        x, y, weight = self._drawn(np.zeros(1, np.int32), vectors[0].dtype)[1]  # a trainer has samples
        return self._kernels.begin_training(vectors, net, x, y, weight, scales)

    def train(self, trainer: Any, order: Array, ends: Array, rule: rules.Rule, numbers: Array) -> Array:
        """Do as `PackedMatrix.train`: the samples of these batches go to all processes, which make the same updates."""
        places, drawn = self._drawn(order, self._batches.weight.dtype)
        self._kernels.enter_training(trainer, *drawn)
        sums: Array = self._kernels.train(trainer, places, ends, rule, numbers)
        return sums

    def _drawn(self, order: Array, dtype: np.dtype[Any]) -> tuple[Array, tuple[Any, Array, Array]]:
        """Return samples (k,) with their targets and weights, in the order of the processes, and their places there."""
        messages, n = self._messages, self.shape[0]
        owner = np.searchsorted(self._cuts[1:], order, side="right")
        mine = np.ascontiguousarray(self._rows[order[owner == messages.rank] - self._mine.start])
        counts = n * np.bincount(owner, minlength=messages.size)
        rows = messages.joined(mine.reshape(-1), counts).reshape(-1, n)
        by_owner = np.argsort(owner, kind="stable")
        places = np.empty(len(order), np.int32)
        places[by_owner] = np.arange(len(order), dtype=np.int32)
        listed = self._kernels.list_samples(rows.T, self.density)
        some = order[by_owner]
        y, weight = (np.ascontiguousarray(one[..., some]) for one in self._batches)
        return places, (self._kernels.operands(listed, self._table(dtype)), y, weight)

    def logits(self, out: Array, parameters: Array, net: Net) -> None:
        """Do as `PackedMatrix.logits`."""
        self._pack()
        outputs, count = len(out), self._mine.stop - self._mine.start
        mine = np.empty((outputs, count), out.dtype)
        if self._whole is not None:
            self._whole.logits(mine, parameters, net)
        else:
            for some, _, x in self._pieces(parameters.dtype):
                part = np.empty((outputs, some.stop - some.start), out.dtype)
                self._kernels.network_logits(part, parameters, net, x, dense=self._is_dense)
                mine[:, some.start - self._mine.start : some.stop - self._mine.start] = part
        every = self._messages.joined(mine.T.reshape(-1), outputs * np.diff(self._cuts))
        out[...] = every.reshape(-1, outputs).T

    def digest(self, shapes: Array, y: Array, weight: Array) -> str:
        """Return the digest of one process that has all samples: see `fastmlp.samples.Samples.digest`."""
        self._pack()
        content = Content(self.shape, self.dtype, self._facts.scale)
        for rank in range(self._messages.size):
            mine = self._unpacked() if rank == self._messages.rank else iter(())
            while (piece := self._messages.gathered(next(mine, None))[rank]) is not None:
                content.update(piece)
        return digest_of_samples(content.hexdigest(), shapes, y, weight)

    def _unpacked(self) -> Iterator[Array]:
        form = next(iter(self._whole._forms.values())) if self._whole is not None else self._form
        for _, rows in () if form is None else self._kernels.unpack(form):
            yield rows

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        """Yield the operands of the samples of this process."""
        if self._form is None:
            return
        if self._operands is None:
            self._operands = self._kernels.operands(self._form, self._table(dtype))
        first, stop = self._bounds[self._messages.rank : self._messages.rank + 2]
        yield Piece(self._mine, (first, stop), self._operands)

    def _table(self, dtype: np.dtype[Any]) -> Array:
        return scaled(np.arange(256, dtype=dtype), self._facts.scale)
