"""The training loop: full-batch gradient descent, the notebook's loop exactly.

The loop knows a model only by its flat parameter vector and by a function that writes a gradient. It runs where no
signal handler can interrupt it (`fastmlp.interrupts`), so that parameters, history and checkpoint always belong to the
same epoch; the user's functions are called in the user's thread.
"""

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fastmlp import backend, checks, interrupts, notices, quiet
from fastmlp.checkpoint import Checkpoint
from fastmlp.history import History, TrainingWarning
from fastmlp.progress import Bar
from fastmlp.stopping import EarlyStopping

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Callback: TypeAlias = Callable[[int, History], bool | None]
Schedule: TypeAlias = Callable[[int], float]


@dataclass(frozen=True)
class Run:
    """A training run: the parameters, their gradient, and what happens in and between the epochs.

    Attributes
    ----------
    parameters : ndarray, shape (k,)
        The flat parameter vector, trained in place.
    loss_and_grad : callable
        Writes the gradient at the current parameters into its argument (k,); returns loss and accuracy there.
    epochs : int
        Number of steps, including those before a resumption.
    alpha : float or callable
        Step size, or a function of the epoch, from 1, that returns it.
    validate : callable, optional
        Returns ``{"loss": ..., "accuracy": ...}`` at the current parameters.
    callback : callable, optional
        Called as ``callback(epoch, history)`` after each epoch; training ends if it returns a true value.
    stopping : EarlyStopping, optional
        Records each validation loss; at the end its best parameters are restored.
    checkpoint : Checkpoint, optional
        Written when it is due, and at the end, also after an error.
    resume : bool
        Whether to continue from the checkpoint.
    """

    parameters: Array
    loss_and_grad: Callable[[Array], tuple[float, float]]
    epochs: int
    alpha: float | Schedule
    validate: Callable[[], dict[str, float]] | None = None
    callback: Callback | None = None
    stopping: EarlyStopping | None = None
    checkpoint: Checkpoint | None = None
    resume: bool = False


def descend(run: Run, progress: bool | None = False) -> History:
    """Train by full-batch gradient descent.

    Parameters
    ----------
    run : Run
        What to train, and how.
    progress : bool or None
        Whether to show a bar; None shows it if standard output is a terminal or a notebook.

    Returns
    -------
    History
        The record. Ctrl-C ends training between two epochs, with ``stopped="interrupt"``.

    Raises
    ------
    FloatingPointError
        If the loss or the parameters stop being finite; the parameters are then the last finite ones.
    ValueError
        If ``alpha`` returns a step size that is negative or not finite, or the checkpoint does not fit.
    OSError
        If the checkpoint cannot be written.
    """
    loop = _Loop(run)
    with _Watch(loop, Bar(progress, run.epochs)) as watch:
        history, struck = interrupts.converse(loop, watch, "after this epoch, and once kernels are compiled")
    if isinstance(struck, KeyboardInterrupt):
        history.stopped = "interrupt"
    elif struck is not None:
        raise struck
    return history


class _Step:
    """One epoch's update of the parameters; a FloatingPointError leaves the last finite ones unchanged.

    ``epoch`` is that of the last update, and ``gradient`` (k,) the gradient that it used.
    """

    def __init__(self, parameters: Array, loss_and_grad: Callable[[Array], tuple[float, float]], epoch: int) -> None:
        self._parameters, self._loss_and_grad, self.epoch = parameters, loss_and_grad, epoch
        self.gradient, self._stepped = np.empty_like(parameters), np.empty_like(parameters)

    def __call__(self, epoch: int, alpha: float) -> tuple[float, float]:
        loss, accuracy = self._loss_and_grad(self.gradient)
        rate = quiet.quietly(self._parameters.dtype.type, alpha)
        kernels = backend.kernels()
        kernels.update(self._stepped, self._parameters, self.gradient, rate)
        if not (np.isfinite(loss) and np.isfinite(self._stepped).all()):
            raise FloatingPointError(
                f"the loss or the parameters stopped being finite in epoch {epoch} with alpha {alpha}; "
                "the model holds the last finite parameters: continue with a smaller alpha"
            )
        np.copyto(self._parameters, self._stepped)
        self.epoch = epoch
        return loss, accuracy


class _Loop:
    """The epochs of a run, in a thread of their own; the waiting thread reads ``history`` and ``notices``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.history = History()
        self.notices: list[str] = []
        self._rate = 0.0

    def __call__(self, caller: interrupts.Caller) -> History:
        run = self.run
        if run.checkpoint is not None and run.resume:
            self.history, self._rate = run.checkpoint.resume(run.stopping)
        step = _Step(run.parameters, run.loss_and_grad, len(self.history))
        try:
            self.history.stopped = self._descend(caller, step)
        except KeyboardInterrupt:
            self.history.stopped = "interrupt"
        finally:
            # If validation raised, the parameters are newer than the history: do not write a checkpoint.
            if step.epoch == len(self.history):
                self._write(due=False)
        if run.stopping is not None:
            run.stopping.restore()
        return self.history

    def _descend(self, caller: interrupts.Caller, step: _Step) -> str:
        """Run the epochs; return why they ended."""
        run = self.run
        for epoch in range(len(self.history) + 1, run.epochs + 1):
            if run.stopping is not None and run.stopping.exhausted(epoch - 1):
                return "patience"
            if caller.leaving:
                return "interrupt"
            rate = _step_size(caller, run.alpha, epoch)
            self._run_epoch(epoch, step, rate)
            self._rate = rate
            self._write(due=True)
            if run.callback is not None and caller.ask(run.callback, epoch, self.history):
                return "callback"
        return "epochs"

    def _run_epoch(self, epoch: int, step: _Step, rate: float) -> None:
        """Update the parameters, and add a row to the history once it is complete."""
        run, history = self.run, self.history
        start, before = time.perf_counter(), backend.preparation()[0]
        loss, accuracy = step(epoch, rate)
        # Without the time to compile and load kernels, which belongs to no epoch.
        seconds = time.perf_counter() - start - (backend.preparation()[0] - before)
        if run.validate is not None:
            scores = run.validate()
            history.validation_loss.append(scores["loss"])
            history.validation_accuracy.append(scores["accuracy"])
            if run.stopping is not None:
                run.stopping.see(epoch, scores["loss"])
        history.loss.append(loss)
        history.accuracy.append(accuracy)
        history.seconds.append(seconds)
        notices.end()
        history.epoch.append(epoch)  # last, because the waiting thread counts epochs by it

    def _write(self, *, due: bool) -> None:
        if self.run.checkpoint is not None:
            write = self.run.checkpoint.write_if_due if due else self.run.checkpoint.write
            notice = write(self.history, self._rate, self.run.stopping)
            if notice:
                self.notices.append(notice)


class _Watch:
    """What the waiting thread shows: compile time, warnings and the progress bar."""

    def __init__(self, loop: _Loop, bar: Bar) -> None:
        self._loop, self._bar = loop, bar

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        notices.end()
        self()
        self._bar.close()

    def __call__(self) -> None:
        while self._loop.notices:
            warnings.warn(self._loop.notices.pop(0), TrainingWarning, stacklevel=_stacklevel())
        self._bar.show(self._loop.history)
        _, compiling = backend.preparation()
        if compiling:
            notices.still_compiling(compiling)


def _stacklevel() -> int:
    """Return the level at which a warning names the user's line that called fastmlp."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fastmlp":
        level, frame = level + 1, frame.f_back
    return level


def _step_size(caller: interrupts.Caller, alpha: float | Schedule, epoch: int) -> float:
    if not callable(alpha):
        return alpha
    return float(checks.learning_rate(f"alpha({epoch})", caller.ask(alpha, epoch), negative=False))
