"""One training run of the command line: watched while it learns, and what it leaves is kept, whatever else fails."""

import argparse
import dataclasses
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastmlp import backend, keeping, refusals, storage
from fastmlp.console import FAILURES, Console, failure
from fastmlp.datasets import Dataset
from fastmlp.history import History
from fastmlp.model import MLP
from fastmlp.preprocessing import Inputs, pack_samples

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_EPOCHS = {"digits": 500}  # 0.6 s, to 97 %; 100 for any other
_LINES = 20  # progress lines of a run
_UNFINISHED = {"interrupt": "interrupted", "callback": "interrupted", "diverged": "diverged", "error": "interrupted"}


class Result:
    """What a command has found, for a machine; an attempt that fails is said and leaves the others to be made."""

    def __init__(self, say: Console, facts: dict[str, Any]) -> None:
        self.say, self.facts, self.status = say, facts, 0

    def attempt(self, act: Callable[..., object], *arguments: Any) -> None:
        """Call ``act``; an error that a command may end with becomes a line."""
        try:
            act(*arguments)
        except FAILURES as error:
            self.fail(error)

    def fail(self, error: Exception | str) -> None:
        """Say what went wrong, and let the exit status tell of it."""
        status, text = (2, error) if isinstance(error, str) else failure(error)
        self.status = max(self.status, status)
        self.say.complain(text)
        self.facts["error"] = "; ".join(filter(None, (self.facts.get("error"), text)))


class _Watch:
    """The callback of a run: prints how it learns, and knows its history if it ends with an error."""

    def __init__(self, say: Console, epochs: int, quiet: bool) -> None:
        self._say, self._epochs, self._quiet = say, epochs, quiet
        self._every = max(1, epochs // _LINES)
        self.history = History()

    def __call__(self, epoch: int, history: History) -> bool:
        self.history = history
        if self._quiet or (epoch % self._every and epoch not in (1, self._epochs)):
            return False
        width = len(str(self._epochs))
        line = f"epoch {epoch:{width}}  cost {history.loss[-1]:.4f}  accuracy {history.accuracy[-1]:.2%}"
        if history.validation_loss:
            line += f"  validation {history.validation_loss[-1]:.4f}  {history.validation_accuracy[-1]:.2%}"
        self._say.tell(line)
        return self._say.gone  # nobody reads on: stop here, so that what was learnt can be saved


def epochs(options: argparse.Namespace) -> int:
    """Return the number of epochs to train."""
    return int(_EPOCHS.get(options.data, 100) if options.epochs is None else options.epochs)


def resumption(checkpoint: str, epochs: int) -> str:
    """Return what --resume finds."""
    if not os.path.exists(checkpoint):
        return f"no {checkpoint} yet: begins anew"
    with refusals.speaking_of("--checkpoint"):
        done = storage.load(checkpoint).facts.get("epoch", "")
    if not done.isdecimal():
        return f"goes on from {checkpoint}"  # which will be refused, in the words of whoever knows why
    if int(done) < epochs:
        return f"goes on from {checkpoint}, after epoch {done}"
    return f"{checkpoint} is already at epoch {done}: nothing is left to train; give more --epochs to go on"


def fit(
    options: argparse.Namespace,
    say: Console,
    model: MLP,
    inputs: Inputs,
    samples: tuple[Array, Array],
    validation: tuple[Array, Array] | None,
) -> tuple[History, Exception | None]:
    """Train; return the history and the error that ended the run early. Ctrl-C then waits until it is released."""
    watch = _Watch(say, epochs(options), options.quiet)
    try:
        with refusals.speaking_of("--checkpoint"):
            history = model.fit(
                pack_samples(samples[0], inputs, model),
                samples[1],
                epochs=epochs(options),
                alpha=options.alpha,
                validation=(
                    None if validation is None else (pack_samples(validation[0], inputs, model), validation[1])
                ),
                patience=options.patience,
                min_delta=options.min_delta,
                callback=watch,
                checkpoint=options.checkpoint,
                checkpoint_every=options.checkpoint_every,
                resume=options.resume,
                progress=False,
            )
        say.interrupts.hold()
    except KeyboardInterrupt:
        say.interrupts.hold()
        return dataclasses.replace(watch.history, stopped="interrupt"), None
    except FAILURES as error:
        if not isinstance(error, FloatingPointError) and not len(watch.history):
            raise  # nothing was learnt
        say.interrupts.hold()
        stopped = "diverged" if isinstance(error, FloatingPointError) else "error"
        return dataclasses.replace(watch.history, stopped=stopped), error
    return history, None


def told(options: argparse.Namespace, model: MLP, history: History) -> dict[str, Any]:
    """Return what a machine is told of a run, before its result is kept."""
    return {
        "network": list(model.layer_sizes),
        "dtype": options.dtype,
        "init": options.init,
        "alpha": options.alpha,
        "backend": backend.get_backend(),
        "threads": backend.get_num_threads(),
        "epochs": len(history),
        "stopped": history.stopped,
        "seconds_per_epoch": statistics.median(history.seconds) if history.seconds else None,
        "saved": None,
        "test": None,
        "pictures": [],
        "history": history.to_dict(),
    }


def save(options: argparse.Namespace, result: Result, model: MLP, history: History) -> None:
    """Save the model where --save asks, or where a better one or a full disk leaves room, and say where that is."""
    kept = keeping.save(model, Path(options.save), _UNFINISHED.get(history.stopped))
    result.facts["saved"] = None if kept.path is None else str(kept.path)
    if kept.problem is not None:
        result.fail(kept.problem)
    elif kept.path == Path(options.save):
        result.say.tell(f"saved: {kept.path}")
    else:
        result.say.tell(f"saved: {kept.path}; {options.save} is left as it was")


def test(
    options: argparse.Namespace, result: Result, model: MLP, inputs: Inputs, parts: Dataset, history: History
) -> None:
    """Evaluate on the test part, and draw."""
    x, y = parts.x_test, parts.y_test
    X = pack_samples(x, inputs, model)
    scores = model.evaluate(X, y)
    result.facts["test"] = {"samples": len(y), **scores}
    result.say.tell(
        f"test accuracy {scores['accuracy']:.2%}, cost {scores['loss']:.4f} after {len(history)} epochs; "
        f"time per epoch {1e3 * result.facts['seconds_per_epoch']:.1f} ms (median)"
    )
    draw(options.plot, result, model, inputs, x, y, model.predict_proba(X), history)


def draw(
    folder: str | None,
    result: Result,
    model: MLP,
    inputs: Inputs,
    x: Array,
    y: Array,
    p: Array,
    history: History | None,
) -> None:
    """Draw into the folder, if there is one."""
    if folder is None:
        return
    for path, problem in keeping.draw(Path(folder), model, inputs, x, y, p, history):
        if problem is not None:
            result.fail(problem)
            continue
        result.facts["pictures"].append(str(path))
        result.say.tell(f"drawn: {path}")


def say_stopped(options: argparse.Namespace, say: Console, history: History) -> None:
    """Say why a run ended before its last epoch."""
    if history.stopped == "patience":
        say.tell(
            f"stopped early: {options.patience} epochs without a better validation loss; the best parameters are kept"
        )
    if history.stopped == "interrupt":
        say.tell("stopped by Ctrl-C" + (f"; --resume goes on from {options.checkpoint}" if options.checkpoint else ""))
