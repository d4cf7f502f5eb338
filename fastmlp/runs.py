"""One training run of the command line: its progress, its results, and what is saved if a part of it fails."""

import argparse
import dataclasses
import math
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import activations, backend, checks, keeping, losses, refusals, storage
from fastmlp.console import FAILURES, Console, failure
from fastmlp.datasets import Dataset
from fastmlp.history import History
from fastmlp.launch import Crew
from fastmlp.model import MLP
from fastmlp.packing import PackedMatrix
from fastmlp.preprocessing import Inputs, outputs, pack_samples
from fastmlp.recipes import Recipe

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LINES = 20  # progress lines per run
_UNFINISHED = {"interrupt": "interrupted", "callback": "interrupted", "diverged": "diverged", "error": "interrupted"}


class Result:
    """The facts for ``--json`` and the exit status; a failed attempt is reported and does not stop the others."""

    def __init__(self, say: Console, facts: dict[str, Any]) -> None:
        self.say, self.facts, self.status = say, facts, 0

    def attempt(self, act: Callable[..., object], *arguments: Any) -> None:
        """Call ``act``; report an error in `FAILURES` as one line."""
        try:
            act(*arguments)
        except FAILURES as error:
            self.fail(error)

    def fail(self, error: Exception | str) -> None:
        """Report an error, and set the exit status."""
        status, text = (2, error) if isinstance(error, str) else failure(error)
        self.status = max(self.status, status)
        self.say.complain(text)
        self.facts["error"] = "; ".join(filter(None, (self.facts.get("error"), text)))


class _Watch:
    """The callback of a run: prints its progress, and keeps the history in case the run ends with an error."""

    def __init__(self, say: Console, epochs: int, quiet: bool) -> None:
        self._say, self._epochs, self._quiet = say, epochs, quiet
        self._every = math.ceil(epochs / (_LINES - 1))  # and the first epoch
        self.history = History()

    def __call__(self, epoch: int, history: History) -> bool:
        self.history = history
        if self._quiet or (epoch % self._every and epoch not in (1, self._epochs)):
            return False
        width = len(str(self._epochs))
        line = (
            f"epoch {epoch:{width}}  cost {history.loss[-1]:.4f}  {losses.spoken({history.score: history.scores[-1]})}"
        )
        if history.validation_loss:
            score = losses.spoken({history.score: history.validation_scores[-1]}).rpartition(" ")[2]
            line += f"  validation {history.validation_loss[-1]:.4f}  {score}"
        self._say.tell(f"{line}  {history.seconds[-1]:.4f} s")
        return self._say.gone  # if the reader closed the pipe: stop here, so that the model can be saved


def resumption(checkpoint: str, epochs: int) -> str:
    """Return a sentence about the checkpoint that --resume continues from."""
    if not os.path.exists(checkpoint):
        return f"no {checkpoint} yet: starts anew"
    with refusals.speaking_of("--checkpoint"):
        done = storage.load(checkpoint).facts.get("epoch", "")
    if not done.isdecimal():
        return f"continues from {checkpoint}"  # `MLP.fit` will refuse it with the reason
    if int(done) < epochs:
        return f"continues from {checkpoint}, after epoch {done}"
    return f"{checkpoint} is already at epoch {done}: nothing to train; give more --epochs to continue"


class Ready(NamedTuple):
    """The samples of a run, packed.

    Attributes
    ----------
    training, validation : tuple of a PackedMatrix and an ndarray
        Samples and targets. Of several processes, the share of this one: None and no targets if that is empty.
        Validation is None without a part set aside.
    shuffle : str
        How minibatches are shuffled.
    """

    training: tuple[Any, Array]
    validation: tuple[Any, Array] | None
    shuffle: str = "batches"


def split(options: argparse.Namespace, parts: Dataset) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Return training samples and labels, and a random choice of samples and labels set aside for validation."""
    share, m = options.validation, len(parts.y_train)
    if share is None:
        return parts.x_train, parts.y_train, None
    count = round(share * m) if math.isfinite(share) else 0
    if not 1 <= count < m:
        got, expected = f"{share} of {m} samples", "a share that leaves samples for training and for validation"
        raise ValueError(checks.message("--validation", got, expected, "give a larger or smaller share, such as 0.1"))
    aside = np.zeros(m, np.bool_)
    aside[np.random.default_rng(checks.seed("seed", options.seed)).permutation(m)[:count]] = True
    x, y = parts.x_train, parts.y_train
    return x[~aside], y[~aside], (x[aside], y[aside])


def ready(
    crew: Crew,
    model: MLP,
    inputs: Inputs,
    plan: Recipe,
    samples: tuple[Array, Array],
    validation: tuple[Array, Array] | None,
) -> Ready:
    """Return this process's share of training and validation samples (m, ...), packed."""
    minibatches = plan.batch_size is not None and plan.batch_size < len(samples[1])

    def share(x: Array, y: Array, *, minibatches: bool = False) -> tuple[Any, Array]:
        if crew.comm is not None:
            some = crew.share(len(y), model.layer_sizes[0])
            x, y = x[some], y[some]
        packed = pack_samples(x, inputs, model, minibatches=minibatches) if len(y) else None
        return packed, inputs.targets(y)

    return Ready(share(*samples, minibatches=minibatches), None if validation is None else share(*validation))


def fit(
    options: argparse.Namespace, say: Console, crew: Crew, model: MLP, plan: Recipe, samples: Ready
) -> tuple[History, Exception | None]:
    """Train; return the history, and the error if one ended the run. Ctrl-C is held from then on."""
    watch = _Watch(say, plan.epochs, options.quiet)
    try:
        with refusals.speaking_of_options():
            history = model.fit(
                *samples.training,
                validation=samples.validation,
                patience=options.patience,
                min_delta=options.min_delta,
                callback=watch,
                checkpoint=options.checkpoint,
                checkpoint_every=options.checkpoint_every,
                resume=options.resume,
                progress=False,
                comm=crew.comm,
                **plan.arguments(samples.shuffle),
            )
        say.interrupts.hold()
    except KeyboardInterrupt:
        say.interrupts.hold()
        return dataclasses.replace(watch.history, stopped="interrupt"), None
    except FAILURES as error:
        if not isinstance(error, FloatingPointError) and not len(watch.history):
            raise  # before the first epoch: there is nothing to save
        say.interrupts.hold()
        stopped = "diverged" if isinstance(error, FloatingPointError) else "error"
        return dataclasses.replace(watch.history, stopped=stopped), error
    return history, None


def told(plan: Recipe, model: MLP, history: History) -> dict[str, Any]:
    """Return the facts of a run for ``--json``, before its results are saved."""
    return {
        "network": list(model.layer_sizes),
        "dtype": model.dtype.name,
        "init": model.init,
        "activation": activations.written(model.activation),
        "loss": model.loss,
        **plan.facts(),
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


def in_words(plan: Recipe, history: History) -> str:
    """Return how a model was trained, for its notes."""
    if not len(history):
        return f"{plan}; ended within the first epoch ({history.stopped})"
    found = f"loss {history.loss[-1]:.4f}, {losses.spoken({history.score: history.scores[-1]})}"
    return f"{plan}; ended after {_epochs(len(history))} ({history.stopped}): {found}"


def save(options: argparse.Namespace, result: Result, model: MLP, history: History) -> None:
    """Save the model to the file of --save, or to another file if need be, and report where."""
    kept = keeping.save(model, Path(options.save), _UNFINISHED.get(history.stopped))
    result.facts["saved"] = None if kept.path is None else str(kept.path)
    if kept.problem is not None:
        result.fail(kept.problem)
    elif kept.path == Path(options.save):
        result.say.tell(f"saved: {kept.path}")
    else:
        result.say.tell(f"saved: {kept.path}; {options.save} was not changed")


def test(
    options: argparse.Namespace, result: Result, model: MLP, inputs: Inputs, parts: Dataset, history: History
) -> None:
    """Evaluate the model on the test part and draw figures."""
    x, y = parts.x_test, parts.y_test
    X = pack_samples(x, inputs, model)
    found = scores(model, inputs, X, y)
    result.facts["test"] = {"samples": len(y), **found}
    result.say.tell(
        f"test {scores_in_words(found)} after {_epochs(len(history))}; "
        f"time per epoch {1e3 * result.facts['seconds_per_epoch']:.1f} ms (median)"
    )
    evaluated = keeping.Evaluated(result.facts["data"], x, y, outputs(model, X), found)
    draw(options.plot, result, model, inputs, evaluated, history)


def scores(model: MLP, inputs: Inputs, X: PackedMatrix, y: Array) -> dict[str, float]:
    """Return loss and score of a model on samples; of a regression also the root mean square error, in its unit."""
    found = model.evaluate(X, y)
    if inputs.unit is None:
        return found
    residual = outputs(model, X).astype(np.float64) - y
    return found | {"rmse": math.sqrt(np.mean(residual**2))}


def scores_in_words(found: dict[str, float]) -> str:
    """Return the result of `scores` in words."""
    more = f"typical error {found['rmse']:.4g} (root mean square)" if "rmse" in found else f"cost {found['loss']:.4f}"
    return f"{losses.spoken(found)}, {more}"


def draw(
    folder: str | None,
    result: Result,
    model: MLP,
    inputs: Inputs,
    evaluated: keeping.Evaluated,
    history: History | None,
) -> None:
    """Draw figures into the folder, unless it is None."""
    if folder is None:
        return
    for path, problem in keeping.draw(Path(folder), model, inputs, evaluated, history):
        if problem is not None:
            result.fail(problem)
            continue
        result.facts["pictures"].append(str(path))
        result.say.tell(f"drawn: {path}")


def say_stopped(options: argparse.Namespace, say: Console, history: History) -> None:
    """Report why a run ended before its last epoch."""
    if history.stopped == "patience":
        say.tell(
            f"stopped early: {options.patience} epochs without a better validation loss; the best parameters are kept"
        )
    if history.stopped == "interrupt":
        say.tell(
            "stopped by Ctrl-C" + (f"; --resume continues from {options.checkpoint}" if options.checkpoint else "")
        )


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"
