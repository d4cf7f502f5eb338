"""What is wrong with options: found before data is loaded, and said in the names of options.

A check of the library speaks of the argument that it got; `speaking_of` turns that into the option.
"""

import argparse
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastmlp import backend, checks, storage, threads
from fastmlp.datasets import bounded
from fastmlp.options import did_you_mean


@contextlib.contextmanager
def speaking_of(option: str, argument: str = "path") -> Iterator[None]:
    """Let an error within the block that begins with the argument's name begin with the option's."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        text = (isinstance(error, OSError) and error.strerror) or str(error)
        if not text.startswith(f"{argument}: "):
            raise
        text = option + text.removeprefix(argument)
        raise (OSError(error.errno, text) if isinstance(error, OSError) else type(error)(text)) from None


def check_threads(count: int | None) -> None:
    """Raise ValueError for less than one thread, or for more than there are cores where BLAS would take any number."""
    if count is None:
        return
    with speaking_of("--threads", "n"):
        checks.threads("n", count)
    cores = threads.usable_cores()
    if backend.get_backend() == "numpy" and count > cores:
        expected = f"at most the {cores} cores that this process may use"
        raise ValueError(checks.message("--threads", count, expected, "leave it out to take them all"))


def check_data(data: str, named: Iterable[str]) -> None:
    """Raise ValueError where DATA is neither a name nor a path that exists."""
    names = list(named)
    if data not in names and not os.path.exists(data):
        expected = f"{', '.join(names)}, or a path that exists"
        remedy = did_you_mean(data, names).removeprefix("; ") or "check its spelling"
        raise ValueError(checks.message("DATA", bounded.shown(data), expected, remedy))


def check_train(options: argparse.Namespace) -> None:
    """Raise for what would otherwise be found after the data was loaded, or after the training."""
    checks.layer_sizes("--hidden", (1, *options.hidden, 1))
    checks.learning_rate("--alpha", options.alpha, negative=False)
    checks.seed("--seed", options.seed)
    checks.nonnegative("--min-delta", options.min_delta, "give one such as 0.001")
    checks.nonnegative("--checkpoint-every", options.checkpoint_every, "give seconds such as 10")
    if options.epochs is not None:
        checks.epochs("--epochs", options.epochs)
    if options.validation is not None and not 0 < options.validation < 1:
        expected = "a share of the training data between 0 and 1"
        raise ValueError(checks.message("--validation", options.validation, expected, "give one such as 0.1"))
    if options.patience is not None:
        checks.patience("--patience", options.patience)
        if options.validation is None:
            expected = "--validation SHARE with it"
            raise ValueError(checks.message("--patience", "no --validation", expected, "add --validation 0.1"))
    _check_files(options)


def _check_files(options: argparse.Namespace) -> None:
    if options.resume and options.checkpoint is None:
        raise ValueError(checks.message("--resume", "no --checkpoint", "--checkpoint FILE with it", "name the file"))
    if options.checkpoint is not None and not options.resume and os.path.exists(options.checkpoint):
        expected, remedy = "a name that is free", "add --resume to go on from it, or remove it to train anew"
        raise ValueError(checks.message("--checkpoint", f"a file that exists: {options.checkpoint}", expected, remedy))
    files = {"--save": options.save, "--checkpoint": options.checkpoint}
    for option, path in files.items():
        if path is not None:
            with speaking_of(option):
                storage.check_place(path)
    taken = {"DATA": options.data}
    for option, path in files.items():
        for other, name in taken.items():
            if path is not None and name is not None and _same_file(path, name):
                got = f"the file of {other}: {bounded.shown(path)}"
                raise ValueError(checks.message(option, got, "a file of its own", "give it another name"))
        taken[option] = path


def _same_file(one: str, other: str) -> bool:
    """Return whether two paths lead to one file, through links and whether or not it exists yet."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return os.path.realpath(one) == os.path.realpath(other)


def check_plot(folder: str | None) -> None:
    """Raise where no picture can be drawn or written; make the folder."""
    if folder is None:
        return
    from fastmlp import plots

    plots.require()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write there")
    except OSError as error:
        got = f"{bounded.shown(folder)} ({error.strerror or error})"
        raise ValueError(checks.message("--plot", got, "a folder that takes files", "name another folder")) from None
