"""Optimizers on minibatches."""

import time
from typing import Any, TypeAlias

import numpy as np

from fastmlp.batches import Batches
from fastmlp.interrupts import Caller
from fastmlp.kernels import scores
from fastmlp.methods.method import Method, Problem, Scores, State, diverged, vectors
from fastmlp.methods.updates import Updates

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Seconds of one call of the kernel: long enough that its overhead does not count, and that rows of very many features
# which a batch does not meet get several updates at once; short enough that Ctrl-C and a checkpoint that is due do not
# wait.
_CHUNK_SECONDS = 0.05
_LONGEST = 1.5  # the most chunks in a call that ends an epoch
_GROWTH = 8  # how many times as many updates the next call may make: the time of a few says little about that of many

# Epochs from which lists of batches that are the same in each epoch are kept: each epoch but the first one takes a
# seventh less.
_LEAST_EPOCHS = 2

_SUMS = "batch_sums"


class Minibatches(Method):
    """An update of an optimizer for each batch.

    A kernel makes many updates in one call, on parameters of its own; the bits do not depend on how many. `settle` sets
    the model's parameters.
    """

    unit = "a few updates"

    def __init__(
        self, problem: Problem, updates: Updates, batches: Batches, epochs: int, identity: dict[str, str]
    ) -> None:
        self.identity, self._epochs = identity, epochs
        self._problem, self._updates, self._batches = problem, updates, batches
        self._state = [np.zeros_like(problem.parameters) for _ in updates.state_names]
        self._trainer: Any = None
        self._settled = problem.parameters  # those that the trainer had when the model's were last set
        self._ahead = False  # whether it has made updates since then
        self._order, self._ends = np.empty(0, np.int32), np.empty(0, np.int64)  # of this epoch
        # Updates in this epoch, and their sums of loss, weight of hits and weight.
        self._done, self._sums = 0, np.zeros(3)
        self._chunk = 1  # updates to make in the next call of the kernel

    def advance(self, caller: Caller) -> Scores | None:
        """Make a few updates of the epoch."""
        if self._done == 0 or self._trainer is None:
            self._begin()
        first = self._done
        last = first + self._next(self._batches.per_epoch - first)
        before = self.epoch * self._batches.per_epoch + 1
        rates, numbers = self._updates.ask(caller, self.epoch + 1, range(before + first, before + last))
        # A schedule of the user may fail earlier on another process.
        count = self._problem.least(len(rates))
        rates, numbers = rates[:count], numbers[:count]
        self._train(numbers)
        made = self._done - first
        if made < len(rates):
            where = f"epoch {self.epoch + 1} at update {before + self._done}"
            raise diverged(where, self._updates.rate_name, rates[made])
        return self._end() if self._done == self._batches.per_epoch else None

    def settle(self) -> None:
        """Copy the parameters, and the state of the optimizer, from the kernel's trainer, unless no update was made."""
        # Otherwise the parameters are those of the trainer, or a callback has changed them.
        if self._ahead:
            self._settled, *self._state = self._problem.samples.x.vectors(self._trainer)
            np.copyto(self._problem.parameters, self._settled)
            self._ahead = False

    def state(self) -> State:
        """Return the vectors of the optimizer, the position in the epoch, and the sums up to there."""
        facts = {"update": str(self._done), "shuffle_seed": str(self._batches.seed)}
        return State(facts, {**dict(zip(self._updates.state_names, self._state, strict=True)), _SUMS: self._sums})

    def restore(self, epoch: int, state: State) -> None:
        """Continue after ``epoch`` epochs and the updates of the next one that were made."""
        done, seed, sums = int(state.facts["update"]), int(state.facts["shuffle_seed"]), state.arrays[_SUMS]
        if not (0 <= done < self._batches.per_epoch and 0 <= seed < 2**32):
            raise ValueError(f"update {done} of {self._batches.per_epoch}, shuffle seed {seed}")
        if sums.shape != (3,) or sums.dtype != np.float64:
            raise ValueError(f"{_SUMS} of shape {sums.shape}, dtype {sums.dtype}")
        self._state = vectors(state, self._updates.state_names, self._problem.parameters)
        self._batches.reseed(seed)
        self.epoch, self._done, self._sums = epoch, done, sums

    def _begin(self) -> None:
        """Begin an epoch, or continue it after a resumption."""
        parameters, samples = self._problem.parameters, self._problem.samples
        # A callback may have changed the parameters, once they were set.
        if self._trainer is None or not (self._ahead or np.array_equal(parameters, self._settled)):
            vectors = [parameters, *self._state]
            # If a callback changes the parameters, it may do so after each epoch.
            lasts = self._trainer is None and self._epochs - self.epoch >= _LEAST_EPOCHS
            net, drawn = self._problem.net, self._batches.drawn() if lasts else None
            self._trainer = samples.x.begin_training(vectors, net, samples.y, samples.w, drawn)
        self._order, self._ends = self._batches.epoch(self.epoch + 1)
        samples.x.begin_epoch(self._trainer, self._order)

    def _next(self, left: int) -> int:
        """Return how many of the updates that are left in the epoch the next call makes."""
        # A call for a few updates behind the last whole chunk would take longer than these updates.
        return left if left <= _LONGEST * self._chunk else self._chunk

    def _train(self, numbers: Array) -> None:
        """Make the next updates, and adapt how many are made next time to the time they take."""
        first, ends = self._done, self._ends
        start, last = ends[first - 1] if first > 0 else 0, first + len(numbers)
        order, batches = self._order[start : ends[last - 1]], ends[first:last] - start
        x, began = self._problem.samples.x, time.perf_counter()
        sums = x.train(self._trainer, order, batches, self._updates.rule, numbers)
        seconds = time.perf_counter() - began
        # One after the other, not pairwise: the bits must not depend on the number of updates in a call.
        self._sums = np.add.accumulate(np.vstack((self._sums, sums)))[-1]
        self._done += len(sums)
        self._ahead |= len(sums) > 0
        most = _GROWTH * len(numbers)
        wanted = round(len(numbers) * _CHUNK_SECONDS / seconds) if seconds > 0 else most
        self._chunk = self._problem.least(max(1, min(wanted, most)))

    def _end(self) -> Scores:
        """Complete the epoch; return its means."""
        means = scores.of_sums(self._problem.net.loss, *self._sums.tolist())
        if self._updates.are_users:  # which may look at the model
            self.settle()
        self.epoch, self._done, self._sums = self.epoch + 1, 0, np.zeros(3)
        return Scores(*means)
