"""Checkpoints: files that hold the state of a training run, to resume it from."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

from fastmlp import storage
from fastmlp.history import History
from fastmlp.methods import PLAIN, Method, State
from fastmlp.stopping import EarlyStopping
from fastmlp.teams import Team

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_Result = TypeVar("_Result")


class Checkpoint:
    """A file that holds the state of a training run.

    Its layers are the model that training would return at that point. With early stopping these are the best
    parameters, and the current ones are in ``training.parameters``. The history is in ``training.loss`` and so on, and
    so are the vectors of an optimizer, and for a point within an epoch the sums over its batches.

    Parameters
    ----------
    path : str or path-like
        The file.
    every : float
        Seconds from the end of one write to the next.
    record : storage.Record
        The model, whose ``parameters`` are the vector that is trained. Its ``facts``, digests of the data and the
        identity of the method, must agree with those of a file to resume from.
    """

    def __init__(self, path: storage.PathName, every: float, record: storage.Record) -> None:
        self._path, self._every, self._record = path, every, record
        self._written = time.monotonic()
        self._failed = False
        storage.check_place(path)

    def resume(self, method: Method, stopping: EarlyStopping | None, team: Team) -> History:
        """Restore parameters, the method and early stopping from the file; return its history.

        Without a file, training starts afresh. A file that does not fit leaves everything untouched. The first process
        of the team reads it.
        """
        found = team.from_first(self._read)
        if found is None:
            return History(loss_name=self._record.loss)
        state = self._understood(_State, found)
        self._check_fit(found)
        self._understood(method.restore, len(state.history), State(found.facts, found.arrays))
        np.copyto(self._record.parameters, state.parameters)
        if stopping is not None:
            state.restore(stopping)
        return state.history

    def _read(self) -> storage.Record | None:
        try:
            return storage.load(self._path)
        except FileNotFoundError:
            return None

    def is_due(self, *, within_epoch: bool) -> bool:
        """Return whether the last attempt to write was long enough ago; if ``every`` is 0, only between epochs."""
        if within_epoch and self._every == 0:
            return False
        return time.monotonic() - self._written >= self._every

    def write(self, history: History, state: State, stopping: EarlyStopping | None) -> str:
        """Write the file now. Return a warning if the write failed and the previous one did not, else an empty text."""
        record = self._content(history, state, stopping)
        try:
            storage.save(self._path, record)
        except (OSError, MemoryError) as error:
            warned, self._failed = self._failed, True
            return "" if warned else f"the checkpoint cannot be written, and training continues without it: {error}"
        finally:
            self._written = time.monotonic()
        self._failed = False
        return ""

    def _content(self, history: History, state: State, stopping: EarlyStopping | None) -> storage.Record:
        """Return the content of the file: the model that training would return, and the state of the run."""
        best = current = self._record.parameters
        arrays = {name: np.asarray(column, np.float64) for name, column in history.to_dict().items()} | state.arrays
        facts = {"epoch": str(len(history))} | state.facts
        if stopping is not None:
            facts |= {"best_epoch": str(stopping.epoch), "best_loss": repr(stopping.loss)}
            if stopping.epoch > 0:
                best, arrays["parameters"] = stopping.best, current
        return replace(self._record, parameters=best, arrays=arrays, facts=self._record.facts | facts)

    def _understood(self, function: Callable[..., _Result], *args: Any) -> _Result:
        """Call a function that reads the state of a run; refuse the file if it cannot."""
        try:
            return function(*args)
        except (KeyError, ValueError) as error:
            raise storage.refusal(self._path, f"a file without the state of a training run ({error})") from None

    def _check_fit(self, found: storage.Record) -> None:
        mine = self._record
        pairs = {
            "layer sizes": (found.layer_sizes, mine.layer_sizes),
            "dtype": (found.parameters.dtype.name, mine.parameters.dtype.name),
            "seed": (found.seed, mine.seed),
            "init": (found.init, mine.init),
            "activation": (found.activation, mine.activation),
            "loss": (found.loss, mine.loss),
            **{name: (found.facts.get(name, plain), mine.facts[name]) for name, plain in PLAIN.items()},
        }
        for name, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise storage.refusal(self._path, f"{name} {theirs} in the file but {ours} here")
        for name, data in (("data", "data"), ("validation", "validation data")):
            if found.facts.get(name) != mine.facts[name]:
                raise storage.refusal(self._path, f"a run that was trained on other {data}")


class _State:
    """The state of a run, from the facts and arrays of a checkpoint.

    Raises ValueError or KeyError if they do not fit together.
    """

    def __init__(self, found: storage.Record) -> None:
        self.history = _history(found, int(found.facts["epoch"]))
        self.parameters = found.arrays.get("parameters", found.parameters)
        if (self.parameters.shape, self.parameters.dtype) != (found.parameters.shape, found.parameters.dtype):
            raise ValueError(f"parameters of shape {self.parameters.shape}")
        self._best = found.parameters
        self._best_epoch = int(found.facts["best_epoch"]) if "best_epoch" in found.facts else None
        self._best_loss = float(found.facts.get("best_loss", math.inf))

    def restore(self, stopping: EarlyStopping) -> None:
        """Restore early stopping; if the run had none, patience begins here."""
        if self._best_epoch is not None:
            stopping.epoch, stopping.loss = self._best_epoch, self._best_loss
            np.copyto(stopping.best, self._best)
        elif self.history.validation_loss:
            stopping.see(len(self.history), self.history.validation_loss[-1])


def _history(found: storage.Record, epochs: int) -> History:
    """Return the history that the arrays of a checkpoint hold, one column each; ValueError if they do not."""
    history = History(loss_name=found.loss)
    for name in history.names():
        column = found.arrays.get(name)
        optional = name.startswith("validation") or epochs == 0
        if column is None and not optional:
            raise ValueError(f"no {name}")
        if column is not None and (column.shape != (epochs,) or column.dtype != np.float64):
            raise ValueError(f"{name} of shape {column.shape} for {epochs} epochs")
        if column is not None:
            setattr(history, name, column.tolist())
    history.epoch = list(range(1, epochs + 1))
    return history
