"""The training loop: epochs, and what happens between them.

The loop knows a model only by its flat parameter vector and by the method that changes it (`fastmlp.methods`). It runs
where no signal handler can interrupt it (`fastmlp.interrupts`), so that parameters, history and checkpoint always
belong together; the user's functions are called in the user's thread.
"""

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from fastmlp import backend, interrupts, notices
from fastmlp.callbacks import Together
from fastmlp.checkpoint import Checkpoint
from fastmlp.history import History, TrainingWarning
from fastmlp.methods import Method, Scores
from fastmlp.progress import Bar
from fastmlp.stopping import EarlyStopping
from fastmlp.teams import Team

# Why a process wants to end after an epoch, besides that a callback said so, which is 1; the largest counts for all.
_INTERRUPT = 2


@dataclass(frozen=True)
class Run:
    """A training run: the method that changes the parameters, and what happens between the epochs.

    Attributes
    ----------
    method : Method
        Changes the parameters, which it knows.
    epochs : int
        Number of epochs, including those before a resumption.
    validate : callable, optional
        Returns the loss and the score, accuracy or R^2, at the current parameters.
    callbacks : Together
        Called as ``callbacks(epoch, history)`` after each epoch; training ends if it returns a true value.
    stopping : EarlyStopping, optional
        Records each validation loss; at the end its best parameters are restored.
    checkpoint : Checkpoint, optional
        Written when it is due, also within an epoch, and at the end, also after an error.
    resume : bool
        Whether to continue from the checkpoint.
    loss : str
        The loss, for the history.
    team : Team
        The processes that train together.
    """

    method: Method
    epochs: int
    validate: Callable[[], Scores] | None = None
    callbacks: Together = Together(())  # noqa: RUF009  # it has no state of its own
    stopping: EarlyStopping | None = None
    checkpoint: Checkpoint | None = None
    resume: bool = False
    loss: str = "cross_entropy"
    team: Team = field(default_factory=Team)


def train(run: Run, progress: bool | None = False) -> History:
    """Train.

    Parameters
    ----------
    run : Run
        What to train, and how.
    progress : bool or None
        Whether to show a bar; None shows it if standard output is a terminal or a notebook.

    Returns
    -------
    History
        The record of the complete epochs. Ctrl-C ends training between two updates, with ``stopped="interrupt"``.

    Raises
    ------
    FloatingPointError
        If the loss or the parameters stop being finite; the parameters are then the last finite ones.
    ValueError
        If a schedule returns a step size that is negative or not finite, or the checkpoint does not fit.
    OSError
        If the checkpoint cannot be written.
    """
    loop = _Loop(run)
    callbacks = run.callbacks.running(run.epochs, lambda: loop.history)
    with callbacks, _Watch(loop, Bar(progress, run.epochs)) as watch:
        history, struck = interrupts.converse(loop, watch, f"after {run.method.unit}, and once kernels are compiled")
        if struck is not None and not isinstance(struck, KeyboardInterrupt):
            raise struck
        # Ctrl-C may have come after the last update of its process.
        if run.team.most(struck is not None):
            history.stopped = "interrupt"
    return history


class _Loop:
    """The epochs of a run, in a thread of their own; the waiting thread reads ``history`` and ``notices``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.history = History(loss_name=run.loss)
        self.notices: list[str] = []

    def __call__(self, caller: interrupts.Caller) -> History:
        run = self.run
        if run.checkpoint is not None and run.resume:
            self.history = run.checkpoint.resume(run.method, run.stopping, run.team)
        try:
            self.history.stopped = self._train(caller)
        except KeyboardInterrupt as error:
            run.team.interrupted(error)
            self.history.stopped = "interrupt"
        finally:
            run.method.settle()
            # If validation raised, the parameters are newer than the history: do not write a checkpoint.
            if run.method.epoch == len(self.history):
                self._write()
        if run.stopping is not None:
            run.stopping.restore()
        return self.history

    def _train(self, caller: interrupts.Caller) -> str:
        """Run the epochs; return why they ended."""
        run = self.run
        if run.team.most(caller.leaving):
            return "interrupt"
        for epoch in range(len(self.history) + 1, run.epochs + 1):
            if run.stopping is not None and run.stopping.exhausted(epoch - 1):
                return "patience"
            if run.method.stopped:
                return run.method.stopped
            self._run_epoch(epoch, caller)
            self._write_if_due()
            wanted = bool(run.callbacks) and caller.ask(run.callbacks, epoch, self.history)
            # One question, because processes wait for one another to answer.
            end = run.team.most(_INTERRUPT if caller.leaving else bool(wanted))
            if end:
                return "interrupt" if end == _INTERRUPT else "callback"
        return run.method.stopped or "epochs"

    def _run_epoch(self, epoch: int, caller: interrupts.Caller) -> None:
        """Train for an epoch, and add a row to the history once it is complete."""
        run, history = self.run, self.history
        scores, seconds = self._advance(caller)
        while scores is None:
            if caller.leaving:
                raise KeyboardInterrupt
            self._write_if_due(within_epoch=True)
            scores, more = self._advance(caller)
            seconds += more
        if run.validate is not None or run.callbacks:
            run.method.settle()
        if run.validate is not None:
            validation = run.validate()
            history.validation_loss.append(validation.loss)
            history.validation_scores.append(validation.score)
            if run.stopping is not None:
                run.stopping.see(epoch, validation.loss)
        history.loss.append(scores.loss)
        history.scores.append(scores.score)
        history.seconds.append(seconds)
        notices.end()
        history.epoch.append(epoch)  # last, because the waiting thread counts epochs by it

    def _advance(self, caller: interrupts.Caller) -> tuple[Scores | None, float]:
        """Continue the epoch; return its scores if it is complete, and the seconds this took."""
        start, before = time.perf_counter(), backend.preparation()[0]
        scores = self.run.method.advance(caller)
        # Without the time to compile and load kernels, which belongs to no epoch.
        return scores, time.perf_counter() - start - (backend.preparation()[0] - before)

    def _write_if_due(self, *, within_epoch: bool = False) -> None:
        if self.run.checkpoint is not None and self.run.checkpoint.is_due(within_epoch=within_epoch):
            self.run.method.settle()
            self._write()

    def _write(self) -> None:
        if self.run.checkpoint is not None and self.run.team.rank == 0:
            notice = self.run.checkpoint.write(self.history, self.run.method.state(), self.run.stopping)
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
