"""The training loop and what accompanies it: early stopping, checkpoints, progress, Ctrl-C.

The loop knows a model only by its flat parameter vector and by a function that writes a gradient: full-batch gradient
descent, the notebook's loop exactly. It runs where no signal handler can interrupt it (`fastmlp.interrupts`), so that
parameters, history and checkpoint always belong to one epoch; functions of the user's are called in the user's thread.
"""

import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import backend, checks, interrupts, notices, quiet, storage
from fastmlp.history import History, TrainingWarning

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "History", "Schedule", "TrainingWarning", "descend"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Epochs from which on a run is judged, and from which on it should have learnt something, even if its loss still falls.
# It has where the loss is below this share of that of guessing; the loss is flat if above this share of that half-way.
_EPOCHS_TO_JUDGE, _EPOCHS_TO_LEARN, _NO_BETTER = 10, 50, 0.995

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

    def write(self, history: History, alpha: float, stopping: EarlyStopping | None) -> str:
        """Write the file now. Return what to say if that failed, unless it was said before, else nothing."""
        parameters = self._record.parameters
        arrays = {name: np.asarray(column, np.float64) for name, column in history.to_dict().items()}
        facts = {"epoch": str(len(history)), "alpha": repr(alpha)}
        best = parameters
        if stopping is not None:
            facts |= {"best_epoch": str(stopping.epoch), "best_loss": repr(stopping.loss)}
            if stopping.epoch > 0:
                best, arrays["parameters"] = stopping.best, parameters
        record = replace(self._record, parameters=best, arrays=arrays, facts=self._record.facts | facts)
        try:
            storage.save(self._path, record)
        except (OSError, MemoryError) as error:
            said, self._failed = self._failed, True
            return "" if said else f"the checkpoint cannot be written, and training continues without it: {error}"
        finally:
            self._written = time.monotonic()
        self._failed = False
        return ""

    def write_if_due(self, history: History, alpha: float, stopping: EarlyStopping | None) -> str:
        """Write the file if the last attempt was long enough ago; return as `write`."""
        if time.monotonic() - self._written >= self._every:
            return self.write(history, alpha, stopping)
        return ""

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


class _Step:
    """One epoch's update of the parameters, or none: a FloatingPointError leaves the last finite ones.

    ``epoch`` is that of the last update, ``gradient`` (k,) the one it followed.
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


def progress_bar(wanted: bool | None, total: int, done: int) -> Any | None:
    """Return a tqdm bar, or None where none is wanted, or none was asked for and tqdm or a terminal is missing."""
    if wanted is False or (wanted is None and not _is_watched()):
        return None
    tqdm = _tqdm(wanted)
    return None if tqdm is None else tqdm(total=total, initial=done, unit="epoch", file=sys.stdout)


def _tqdm(wanted: bool | None) -> Any | None:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        if wanted is None:
            return None
        raise checks.extra("the progress bar is drawn by tqdm", error) from error
    return tqdm


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
    run = _Run(parameters, loss_and_grad, epochs, alpha, validate, callback, stopping, checkpoint, resume)
    loop = _Loop(run)
    with _Watch(progress, loop) as watch:
        history, struck = interrupts.converse(loop, watch, "after this epoch, and once kernels are compiled")
    if isinstance(struck, KeyboardInterrupt):
        history.stopped = "interrupt"
    elif struck is not None:
        raise struck
    return history


class _Run(NamedTuple):
    """The arguments of `descend`."""

    parameters: Array
    loss_and_grad: Callable[[Array], tuple[float, float]]
    epochs: int
    alpha: float | Schedule
    validate: Callable[[], dict[str, float]] | None
    callback: Callback | None
    stopping: EarlyStopping | None
    checkpoint: Checkpoint | None
    resume: bool


class _Loop:
    """The epochs of a training run. It runs in a thread of its own; others read ``history`` and ``notices``."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.history = History()
        self.notices: list[str] = []

    def __call__(self, caller: interrupts.Caller) -> History:
        run, rate = self.run, 0.0
        if run.checkpoint is not None and run.resume:
            self.history, rate = run.checkpoint.resume(run.stopping)
        step = _Step(run.parameters, run.loss_and_grad, len(self.history))
        try:
            for epoch in range(len(self.history) + 1, run.epochs + 1):
                self.history.stopped = self._reason_to_stop(caller, epoch)
                if self.history.stopped != "epochs":
                    break
                asked = _step_size(caller, run.alpha, epoch)
                _run_epoch(self.history, epoch, step, asked, run.validate, run.stopping)
                rate = asked
                self._write(rate, due=True)
                if run.callback is not None and caller.ask(run.callback, epoch, self.history):
                    self.history.stopped = "callback"
                    break
        except KeyboardInterrupt:
            self.history.stopped = "interrupt"
        finally:
            # A validation that raised has left parameters that no row of the history speaks of.
            if step.epoch == len(self.history):
                self._write(rate, due=False)
        if run.stopping is not None:
            run.stopping.restore()
        return self.history

    def _reason_to_stop(self, caller: interrupts.Caller, epoch: int) -> str:
        if self.run.stopping is not None and self.run.stopping.exhausted(epoch - 1):
            return "patience"
        return "interrupt" if caller.leaving else "epochs"

    def _write(self, rate: float, *, due: bool) -> None:
        if self.run.checkpoint is not None:
            write = self.run.checkpoint.write_if_due if due else self.run.checkpoint.write
            notice = write(self.history, rate, self.run.stopping)
            if notice:
                self.notices.append(notice)


class _Watch:
    """What the waiting thread shows: the compiler's time, warnings, and the bar once the first epoch is done.

    So the compiler's time is not in the bar's estimate.
    """

    def __init__(self, progress: bool | None, loop: _Loop) -> None:
        self._progress, self._loop, self._bar = progress, loop, None
        self._wanted = progress is not False

    def __enter__(self) -> "_Watch":
        if self._progress:
            _tqdm(self._progress)  # a missing tqdm is said before the training
        return self

    def __exit__(self, *_: object) -> None:
        notices.end()
        self()
        if self._bar is not None:
            self._bar.close()

    def __call__(self) -> None:
        while self._loop.notices:
            warnings.warn(self._loop.notices.pop(0), TrainingWarning, stacklevel=_stacklevel())
        if self._wanted:
            self._show()
        _, compiling = backend.preparation()
        if compiling:
            notices.still_compiling(compiling)

    def _show(self) -> None:
        history, done = self._loop.history, len(self._loop.history)
        if done == 0:
            return
        if self._bar is None:
            self._bar = progress_bar(self._progress, self._loop.run.epochs, done)
            self._wanted = self._bar is not None
        else:
            self._bar.update(done - self._bar.n)
        if self._bar is not None:
            text = f"loss {history.loss[done - 1]:.4f}, accuracy {history.accuracy[done - 1]:.4f}"
            self._bar.set_postfix_str(text)


def _stacklevel() -> int:
    """Return the level at which a warning names the line of the user's that called fastmlp."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fastmlp":
        level, frame = level + 1, frame.f_back
    return level


def advice(
    history: History,
    *,
    chance: Callable[[], float],
    dead: Callable[[], bool],
    unscaled: float | None,
    classes: int,
) -> str:
    """Return why a training run did not learn and what to do about it, in one sentence; nothing if it did learn.

    Parameters
    ----------
    history : History
        The record of the run.
    chance : callable
        Returns the least loss that can be had without looking at the samples.
    dead : callable
        Returns whether no sample activates a unit of some hidden layer.
    unscaled : float or None
        The largest input, if inputs look unscaled.
    classes : int
        Number of output units.
    """
    if classes == 1:
        return "a single output unit always has probability 1: there is nothing to learn; take two, for labels 0 and 1"
    reasons, remedies = [], []
    if len(history) >= _EPOCHS_TO_JUDGE:
        first, last, guessed = history.loss[0], history.loss[-1], chance()
        if last > first:
            reasons.append(f"the loss rose from {first:.4g} to {last:.4g}")
        elif last >= _NO_BETTER * guessed > 0 and (len(history) >= _EPOCHS_TO_LEARN or _is_flat(history)):
            reasons.append(
                f"the loss ended at {last:.4g}, where guessing without looking at the inputs gives {guessed:.4g}"
            )
        if reasons and dead():
            reasons.append("no sample activates any hidden unit")
            remedies.append("begin with another init, or another seed")
        if reasons:
            remedies.append("take a smaller alpha" if last > first else "take another alpha or more epochs")
    learns = "the model does not learn: " if reasons else ""
    if unscaled is not None:
        reasons.append(f"the inputs look unscaled, they reach {unscaled:.4g}")
        remedies.insert(0, "scale them to about 1, as pack(X, scale=1/255) does for pixels")
    return f"{learns}{', and '.join(reasons)}; {', or '.join(remedies)}" if reasons else ""


def _is_flat(history: History) -> bool:
    return history.loss[-1] >= _NO_BETTER * history.loss[len(history) // 2]


def _step_size(caller: interrupts.Caller, alpha: float | Schedule, epoch: int) -> float:
    if not callable(alpha):
        return alpha
    return float(checks.learning_rate(f"alpha({epoch})", caller.ask(alpha, epoch), negative=False))


def _run_epoch(
    history: History,
    epoch: int,
    step: _Step,
    alpha: float,
    validate: Callable[[], dict[str, float]] | None,
    stopping: EarlyStopping | None,
) -> None:
    """Update the parameters, and add a row to the history once all of it is known."""
    start, before = time.perf_counter(), backend.preparation()[0]
    loss, accuracy = step(epoch, alpha)
    # Less what went into compiling and loading kernels: it belongs to no epoch.
    seconds = time.perf_counter() - start - (backend.preparation()[0] - before)
    if validate is not None:
        scores = validate()
        history.validation_loss.append(scores["loss"])
        history.validation_accuracy.append(scores["accuracy"])
        if stopping is not None:
            stopping.see(epoch, scores["loss"])
    history.loss.append(loss)
    history.accuracy.append(accuracy)
    history.seconds.append(seconds)
    notices.end()
    history.epoch.append(epoch)  # last: the waiting thread counts by it
