"""The training loop and what accompanies it: early stopping, checkpoints, progress, Ctrl-C.

The loop knows a model only by its flat parameter vector and by a function that writes a gradient: full-batch gradient
descent, the notebook's loop exactly.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from types import FrameType
from typing import Any, TypeAlias

import numpy as np

from fastmlp import backend, checks, storage
from fastmlp.history import History

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "History", "Schedule", "descend"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Callback: TypeAlias = Callable[[int, History], bool | None]
Schedule: TypeAlias = Callable[[int], float]


class EarlyStopping:
    """Keep the parameters of the lowest validation loss; say when it has not fallen for ``patience`` epochs.

    Parameters
    ----------
    patience : int
        Epochs in a row that may pass without an improvement.
    min_delta : float
        What the loss must fall by, more than that, to count as improved.
    parameters : ndarray, shape (k,)
        The flat vector that is trained.
    """

    def __init__(self, patience: int, min_delta: float, parameters: Array) -> None:
        self._patience, self._min_delta, self._parameters = patience, min_delta, parameters
        self.epoch, self.loss, self.best = 0, math.inf, parameters.copy()

    def see(self, epoch: int, loss: float) -> None:
        """Take the validation loss of the current parameters."""
        if loss < self.loss - self._min_delta:
            self.epoch, self.loss = epoch, loss
            np.copyto(self.best, self._parameters)

    def exhausted(self, epoch: int) -> bool:
        """Return whether patience has ended after this epoch."""
        return epoch - self.epoch >= self._patience

    def restore(self) -> None:
        """Set the parameters to the best, if any loss was ever below infinity."""
        if self.epoch > 0:
            np.copyto(self._parameters, self.best)


class Checkpoint:
    """A file that holds where a training stands.

    Its layers are the model as the training would return it there: with early stopping the best parameters, and then
    the current ones are in ``training.parameters``. The history is in ``training.loss`` and so on.

    Parameters
    ----------
    path : str or path-like
        The file.
    every : float
        Seconds from the end of one write to the next.
    record : storage.Record
        The model, whose ``parameters`` are the vector that is trained; ``facts`` must agree with those of a file to
        resume from: digests of the data.
    """

    def __init__(self, path: storage.PathName, every: float, record: storage.Record) -> None:
        self._path, self._every, self._record = path, every, record
        self._written = time.monotonic()
        self._failed = False
        storage.check_place(path)

    def resume(self, stopping: EarlyStopping | None) -> tuple[History, float]:
        """Set parameters and early stopping to what the file holds; return its history and last step size.

        Without a file that is a fresh start.
        """
        try:
            found = storage.load(self._path)
        except FileNotFoundError:
            return History(), 0.0
        try:
            state = _State(found)
        except (KeyError, ValueError) as error:
            raise storage.refusal(self._path, f"a file without the state of a training ({error})") from None
        self._check_fit(found)
        np.copyto(self._record.parameters, state.parameters)
        if stopping is not None:
            state.restore(stopping)
        return state.history, state.alpha

    def write(self, history: History, alpha: float, stopping: EarlyStopping | None) -> None:
        """Write the file now."""
        parameters = self._record.parameters
        arrays = {name: np.asarray(column, np.float64) for name, column in history.to_dict().items()}
        facts = {"epoch": str(len(history)), "alpha": repr(alpha)}
        best = parameters
        if stopping is not None:
            facts |= {"best_epoch": str(stopping.epoch), "best_loss": repr(stopping.loss)}
            if stopping.epoch > 0:
                best, arrays["parameters"] = stopping.best, parameters
        self._failed = True
        storage.save(
            self._path, replace(self._record, parameters=best, arrays=arrays, facts=self._record.facts | facts)
        )
        self._failed = False
        self._written = time.monotonic()

    def close(self, history: History, alpha: float, stopping: EarlyStopping | None) -> None:
        """Write the file for the last time, unless the training ended because it could not be written."""
        if not self._failed:
            self.write(history, alpha, stopping)

    def write_if_due(self, history: History, alpha: float, stopping: EarlyStopping | None) -> None:
        """Write the file if the last write was long enough ago."""
        if time.monotonic() - self._written >= self._every:
            self.write(history, alpha, stopping)

    def _check_fit(self, found: storage.Record) -> None:
        mine = self._record
        pairs = {
            "layer sizes": (found.layer_sizes, mine.layer_sizes),
            "dtype": (found.parameters.dtype.name, mine.parameters.dtype.name),
            "seed": (found.seed, mine.seed),
            "initialisation": (found.init, mine.init),
            **{f"digest of the {name}": (found.facts.get(name), fact) for name, fact in mine.facts.items()},
        }
        for name, (theirs, ours) in pairs.items():
            if theirs != ours:
                got = f"{name} {theirs} in the file but {ours} here"
                if name.startswith("digest"):  # which tells people no more than that it differs
                    got = f"a run that was trained on other {'data' if name.endswith('data') else 'validation data'}"
                raise storage.refusal(self._path, got)


class _State:
    """What the facts and arrays of a checkpoint say; ValueError or KeyError where they do not fit together."""

    def __init__(self, found: storage.Record) -> None:
        columns = {one.name: found.arrays.get(one.name) for one in fields(History) if one.name != "stopped"}
        epochs = int(found.facts["epoch"])
        for name, column in columns.items():
            optional = name.startswith("validation") or epochs == 0
            if column is None and not optional:
                raise ValueError(f"no {name}")
            if column is not None and (column.shape != (epochs,) or column.dtype != np.float64):
                raise ValueError(f"{name} of shape {column.shape} for {epochs} epochs")
        self.history = History(**{name: column.tolist() for name, column in columns.items() if column is not None})
        self.history.epoch = list(range(1, epochs + 1))
        self.parameters = found.arrays.get("parameters", found.parameters)
        if (self.parameters.shape, self.parameters.dtype) != (found.parameters.shape, found.parameters.dtype):
            raise ValueError(f"parameters of shape {self.parameters.shape}")
        self.alpha = float(found.facts["alpha"])
        self._best = found.parameters
        self._best_epoch = int(found.facts["best_epoch"]) if "best_epoch" in found.facts else None
        self._best_loss = float(found.facts.get("best_loss", math.inf))

    def restore(self, stopping: EarlyStopping) -> None:
        """Set early stopping to where it stood; without it in the file, patience begins here."""
        if self._best_epoch is not None:
            stopping.epoch, stopping.loss = self._best_epoch, self._best_loss
            np.copyto(stopping.best, self._best)
        elif self.history.validation_loss:
            stopping.see(len(self.history), self.history.validation_loss[-1])


class _Interrupts:
    """Ctrl-C, held back while a training changes its own state, so that it never tears parameters from history.

    Between `release` and `hold` it does what it did before. After the first that ended the training, further ones are
    only remembered: the last checkpoint is written whole.
    """

    def __init__(self) -> None:
        self.pending = False
        self._held = True
        self._previous: Any = None

    def __enter__(self) -> "_Interrupts":
        previous = signal.getsignal(signal.SIGINT)
        # A handler must be a function to be called, and only the main thread can have one, or be interrupted.
        if callable(previous) and threading.current_thread() is threading.main_thread():
            self._previous = previous
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def hold(self) -> None:
        """Hold back what comes from here on."""
        self._held = True

    def release(self) -> None:
        """Let through what comes from here on, and what came meanwhile."""
        self._held = False
        if self.pending:
            self.pending = False
            self._handle(signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self.pending = True
            return
        try:
            self._previous(number, frame)
        except KeyboardInterrupt:
            self._held = True
            raise


class _Step:
    """One epoch's update of the parameters, or none: a FloatingPointError leaves the last finite ones.

    ``epoch`` is that of the last update.
    """

    def __init__(self, parameters: Array, loss_and_grad: Callable[[Array], tuple[float, float]], epoch: int) -> None:
        self._parameters, self._loss_and_grad, self.epoch = parameters, loss_and_grad, epoch
        self._gradient, self._stepped = np.empty_like(parameters), np.empty_like(parameters)

    def __call__(self, epoch: int, alpha: float) -> tuple[float, float]:
        loss, accuracy = self._loss_and_grad(self._gradient)
        with backend.Session() as kernels:
            kernels.update(self._stepped, self._parameters, self._gradient, self._parameters.dtype.type(alpha))
        if not (np.isfinite(loss) and np.isfinite(self._stepped).all()):
            raise FloatingPointError(
                f"the loss or the parameters stopped being finite in epoch {epoch} with alpha {alpha}; "
                "the model holds the last finite parameters: go on with a smaller alpha"
            )
        np.copyto(self._parameters, self._stepped)
        self.epoch = epoch
        return loss, accuracy


def progress_bar(wanted: bool | None, total: int, done: int) -> Any | None:
    """Return a tqdm bar, or None where none is wanted, or none was asked for and tqdm or a terminal is missing."""
    if wanted is False or (wanted is None and not _is_watched()):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        if wanted is None:
            return None
        text = f'progress comes with tqdm, which does not import ({error}); python -m pip install "fastmlp[cli]"'
        raise ImportError(text) from error
    return tqdm(total=total, initial=done, unit="epoch", file=sys.stdout)


def _show(bar: Any | None, history: History) -> None:
    if bar is not None:
        bar.set_postfix_str(f"loss {history.loss[-1]:.4f}, accuracy {history.accuracy[-1]:.4f}", refresh=False)
        bar.update()


def _is_watched() -> bool:
    """Return whether standard output is a terminal or a notebook."""
    return sys.stdout is not None and (sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel."))


def descend(
    parameters: Array,
    loss_and_grad: Callable[[Array], tuple[float, float]],
    *,
    epochs: int,
    alpha: float | Schedule,
    validate: Callable[[], dict[str, float]] | None = None,
    callback: Callback | None = None,
    stopping: EarlyStopping | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    progress: bool | None = False,
) -> History:
    """Run full-batch gradient descent on ``parameters`` in place.

    Parameters
    ----------
    parameters : ndarray, shape (k,)
        The flat parameter vector.
    loss_and_grad : callable
        Writes the gradient at the current parameters into its argument (k,); returns loss and accuracy there.
    epochs : int
        Number of steps, those before a resumption counted.
    alpha : float or callable
        Step size, or a function of the epoch, from 1, that returns it.
    validate : callable, optional
        Returns ``{"loss": ..., "accuracy": ...}`` at the current parameters.
    callback : callable, optional
        Called as ``callback(epoch, history)`` after each epoch; a true answer ends the training.
    stopping : EarlyStopping, optional
        Sees each validation loss; at the end its best parameters are put in place.
    checkpoint : Checkpoint, optional
        Written when it is due, and at the end, however that comes.
    resume : bool
        Go on from the checkpoint.
    progress : bool or None
        Whether to show a bar; None where standard output is a terminal or a notebook.

    Returns
    -------
    History
        The record. Ctrl-C ends the training between two epochs, with ``stopped="interrupt"``.

    Raises
    ------
    FloatingPointError
        If the loss or the parameters stop being finite; the last finite parameters stay in place.
    ValueError
        If ``alpha`` returns a step size that is negative or not finite, or the checkpoint does not fit.
    OSError
        If the checkpoint cannot be written.
    """
    history, rate = checkpoint.resume(stopping) if checkpoint is not None and resume else (History(), 0.0)
    step = _Step(parameters, loss_and_grad, len(history))
    bar = progress_bar(progress, epochs, len(history))
    with _Interrupts() as interrupts:
        try:
            for epoch in range(len(history) + 1, epochs + 1):
                if stopping is not None and stopping.exhausted(epoch - 1):
                    history.stopped = "patience"
                    break
                interrupts.release()
                asked = _step_size(alpha, epoch)
                interrupts.hold()
                _run_epoch(history, epoch, step, asked, validate, stopping)
                rate = asked
                _show(bar, history)
                if checkpoint is not None:
                    checkpoint.write_if_due(history, rate, stopping)
                interrupts.release()
                enough = callback is not None and callback(epoch, history)
                interrupts.hold()
                if enough:
                    history.stopped = "callback"
                    break
        except KeyboardInterrupt:
            history.stopped = "interrupt"
        finally:
            interrupts.hold()
            if bar is not None:
                bar.close()
            # A validation that raised has left parameters that no row of the history speaks of.
            if checkpoint is not None and step.epoch == len(history):
                checkpoint.close(history, rate, stopping)
        if stopping is not None:
            stopping.restore()
    if interrupts.pending:
        history.stopped = "interrupt"
    return history


def _step_size(alpha: float | Schedule, epoch: int) -> float:
    if not callable(alpha):
        return alpha
    return float(checks.learning_rate(f"alpha({epoch})", alpha(epoch), negative=False))


def _run_epoch(
    history: History,
    epoch: int,
    step: _Step,
    alpha: float,
    validate: Callable[[], dict[str, float]] | None,
    stopping: EarlyStopping | None,
) -> None:
    """Update the parameters, and add a row to the history once all of it is known."""
    start = time.perf_counter()
    loss, accuracy = step(epoch, alpha)
    seconds = time.perf_counter() - start
    if validate is not None:
        scores = validate()
        history.validation_loss.append(scores["loss"])
        history.validation_accuracy.append(scores["accuracy"])
        if stopping is not None:
            stopping.see(epoch, scores["loss"])
    history.epoch.append(epoch)
    history.loss.append(loss)
    history.accuracy.append(accuracy)
    history.seconds.append(seconds)
