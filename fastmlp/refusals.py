"""Checks of the options, made before any data is loaded; their messages name the options.

The library's messages name the arguments of functions. `speaking_of` replaces one of them by the name of an option, and
`speaking_of_options` all those of a training run.
"""

import argparse
import contextlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fastmlp import activations, backend, checks, recipes, storage, threads
from fastmlp.datasets import bounded
from fastmlp.options import did_you_mean

# The arguments that options of train set, and the words before them in the messages of a training run. Elsewhere, these
# names may be part of a file's name.
_ARGUMENT = re.compile(
    "(^|(?:another|got|more|smaller|with) )"
    "(activation|alpha|batch_size|dtype|epochs|init|l2|learning_rate|optimizer|seed)"
    r"(?=[\s(;,:]|$)"
)


@contextlib.contextmanager
def speaking_of(option: str, argument: str = "path") -> Iterator[None]:
    """In an error message raised within the block, replace the argument's name at the beginning by the option's."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        text = (isinstance(error, OSError) and error.strerror) or str(error)
        if not text.startswith(f"{argument}: "):
            raise
        text = option + text.removeprefix(argument)
        raise (OSError(error.errno, text) if isinstance(error, OSError) else type(error)(text)) from None


@contextlib.contextmanager
def speaking_of_options() -> Iterator[None]:
    """In the errors and warnings of a training run within the block, replace the names of arguments by the options'."""
    show = warnings.showwarning

    def show_as_typed(message: Warning | str, *facts: Any, **more: Any) -> None:
        show(as_typed(str(message)), *facts, **more)

    warnings.showwarning = show_as_typed
    try:
        with speaking_of("--checkpoint"):
            yield
    except (ValueError, FloatingPointError) as error:
        text = as_typed(str(error))
        if text == str(error):
            raise
        raise type(error)(text) from None
    finally:
        warnings.showwarning = show


def as_typed(text: str) -> str:
    """Return a message of a training run with options instead of the arguments that they set.

    The step size at which a run diverged is in plain words: with a schedule, it is not the one that was typed.

    Examples
    --------
    >>> from fastmlp import refusals
    >>> refusals.as_typed("not finite in epoch 2 with learning_rate 0.4: continue with a smaller learning_rate")
    'not finite in epoch 2 with learning rate 0.4: continue with a smaller --learning-rate'
    """
    return _ARGUMENT.sub(_as_typed, text)


def _as_typed(found: re.Match[str]) -> str:
    before, argument = found.groups()
    return before + (argument.replace("_", " ") if before == "with " else f"--{argument.replace('_', '-')}")


def check_threads(count: int | None) -> None:
    """Raise ValueError for fewer than one thread, or on the NumPy backend for more threads than cores."""
    if count is None:
        return
    with speaking_of("--threads", "n"):
        checks.threads("n", count)
    cores = threads.usable_cores()
    if backend.get_backend() == "numpy" and count > cores:
        expected = f"at most the {cores} cores that this process may use"
        raise ValueError(checks.message("--threads", count, expected, "omit the option to use all of them"))


def check_data(data: str, named: Iterable[str]) -> None:
    """Raise ValueError if DATA is neither the name of a data set nor an existing path."""
    names = list(named)
    if data not in names and not os.path.exists(data):
        expected = f"{', '.join(names)}, or an existing path"
        remedy = did_you_mean(data, names).removeprefix("; ") or "check its spelling"
        raise ValueError(checks.message("DATA", bounded.shown(data), expected, remedy))


def check_train(options: argparse.Namespace) -> None:
    """Raise ValueError or TypeError for wrong options, which would otherwise fail only after loading or training."""
    checks.layer_sizes("--hidden", (1, *options.hidden, 1))
    activations.check("--activation", activations.read(options.activation), len(options.hidden))
    checks.seed("--seed", options.seed)
    checks.nonnegative("--min-delta", options.min_delta, "give a number such as 0.001")
    checks.nonnegative("--checkpoint-every", options.checkpoint_every, "give a number of seconds such as 10")
    if options.epochs is not None:
        checks.epochs("--epochs", options.epochs)
    _check_optimizer(options)
    if options.validation is not None and not 0 < options.validation < 1:
        expected = "a share of the training data between 0 and 1"
        raise ValueError(checks.message("--validation", options.validation, expected, "give a number such as 0.1"))
    if options.loss is not None and options.target is None:
        expected = "--target COLUMN as well"
        raise ValueError(checks.message("--loss", f"{options.loss} without --target", expected, "name the column"))
    if options.patience is not None:
        checks.count_or_none("--patience", options.patience)
        if options.validation is None:
            expected = "--validation SHARE as well"
            raise ValueError(checks.message("--patience", "no --validation", expected, "add --validation 0.1"))
    _check_files(options)


def _check_optimizer(options: argparse.Namespace) -> None:
    if options.alpha is not None:
        checks.learning_rate("--alpha", options.alpha, negative=False)
    if options.batch_size is not None:
        checks.epochs("--batch-size", options.batch_size)
    if options.learning_rate is not None:
        checks.nonnegative("--learning-rate", options.learning_rate, "give a number such as 0.001")
    checks.nonnegative("--l2", options.l2, "give a small number such as 0.0001")
    name = recipes.optimizer(options)
    if options.alpha is not None and name != "gd":
        remedy = "omit it: lbfgs finds its step sizes itself" if name == "lbfgs" else "give --learning-rate instead"
        raise ValueError(
            checks.message("--alpha", f"{options.alpha} beside --optimizer {name}", "--optimizer gd", remedy)
        )
    if name not in recipes.RATES:
        _check_without_batches(options, name)


def _check_without_batches(options: argparse.Namespace, name: str) -> None:
    """Raise ValueError for an option that neither gd nor lbfgs uses."""
    expected = "--optimizer sgd, adam or adamw"
    beside = "--alpha" if options.optimizer is None else f"--optimizer {name}"
    remedies = {"batch_size": f"omit it: {name} takes all samples at once"}
    if name == "lbfgs":
        remedies |= dict.fromkeys(("learning_rate", "schedule"), "omit it: lbfgs finds its step sizes itself")
    else:
        remedies |= {"learning_rate": "give only --alpha", "schedule": "omit it: gd takes steps of one size, --alpha"}
    for part, remedy in remedies.items():
        value = getattr(options, part)
        if value is not None:
            option = f"--{part.replace('_', '-')}"
            raise ValueError(checks.message(option, f"{value} beside {beside}", expected, remedy))


def _check_files(options: argparse.Namespace) -> None:
    if options.resume and options.checkpoint is None:
        raise ValueError(checks.message("--resume", "no --checkpoint", "--checkpoint FILE as well", "name the file"))
    if options.checkpoint is not None and not options.resume and os.path.exists(options.checkpoint):
        expected, remedy = "a new file", "add --resume to continue from it, or delete it to start anew"
        raise ValueError(checks.message("--checkpoint", f"an existing file: {options.checkpoint}", expected, remedy))
    files = {"--save": options.save, "--checkpoint": options.checkpoint}
    for option, path in files.items():
        if path is not None:
            with speaking_of(option):
                storage.check_place(path)
    taken = {"DATA": options.data}
    for option, path in files.items():
        if path is not None:
            check_other_file(option, path, taken.items())
        taken[option] = path


def check_export(model: str, path: str) -> None:
    """Raise unless an ONNX file can be written to the path of ``--to``."""
    if not path.lower().endswith(".onnx"):
        remedy = "other formats cannot be written"
        raise ValueError(checks.message("--to", bounded.shown(path), "a file whose name ends in .onnx", remedy))
    if _same_file(model, path):
        raise ValueError(checks.message("--to", "the file of MODEL", "a different file", "give it another name"))
    with speaking_of("--to"):
        storage.check_place(path)


def check_pack(options: argparse.Namespace, named: Iterable[str]) -> None:
    """Raise ValueError or OSError for wrong options of ``fastmlp pack``."""
    check_data(options.data, named)
    if options.scale is not None:
        checks.positive("--scale", options.scale, "give a factor such as 1/255")
    check_other_file("--to", options.to, (("DATA", options.data), ("--labels", options.labels)))
    with speaking_of("--to"):
        storage.check_place(options.to)


def check_pack_options(options: argparse.Namespace, names: Iterable[str]) -> None:
    """Raise ValueError for options that a packed file as DATA does not allow."""
    for name in (*names, "label", "target", "category", "ignore"):
        value = getattr(options, name, None)
        if value is not None:
            expected, remedy = "other data than a packed file", "omit it; fastmlp pack chooses labels and parts"
            raise ValueError(checks.message(f"--{name}", bounded.brief(value), expected, remedy))


def check_other_file(option: str, path: str, given: Iterable[tuple[str, str | None]]) -> None:
    """Raise ValueError if a file to write is one of those that are read, given as arguments of these names."""
    for argument, other in given:
        if other is not None and _same_file(path, other):
            got = f"the file of {argument}: {bounded.shown(other)}"
            raise ValueError(checks.message(option, got, "a different file", "give it another name"))


def _same_file(one: str, other: str) -> bool:
    """Return whether two paths lead to the same file, also through links or before it exists."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return os.path.realpath(one) == os.path.realpath(other)


def check_plot(folder: str | None) -> None:
    """Create the folder of ``--plot``; raise ImportError or ValueError if figures cannot be drawn or written there."""
    if folder is None:
        return
    from fastmlp import plots

    plots.require()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        got = f"{bounded.shown(folder)} ({error.strerror or error})"
        raise ValueError(checks.message("--plot", got, "a writable folder", "name another folder")) from None
