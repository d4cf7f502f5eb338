"""What is left of a run: the model's file and the pictures, kept even where a disk or a name says no."""

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import plots
from fastmlp.console import failure
from fastmlp.history import History
from fastmlp.model import MLP
from fastmlp.preprocessing import Inputs

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LONGEST_STEM, _LONGEST_SUFFIX = 100, 20  # characters of a name that any folder takes


class Kept(NamedTuple):
    """Where a model was saved.

    Attributes
    ----------
    path : Path or None
        The file; None where no place took it.
    problem : str or None
        Why it is not where it was asked for.
    """

    path: Path | None
    problem: str | None


def save(model: MLP, asked: Path, unfinished: str | None) -> Kept:
    """Save a model where that was asked for, or else in the current folder or in that for temporary files.

    Parameters
    ----------
    model : MLP
        The model.
    asked : Path
        The file of ``--save``.
    unfinished : str or None
        One word for why the run did not come to its end: then a file that exists is left alone, as it may hold a
        better model, and the word becomes part of a name beside it.
    """
    beside = unfinished is not None and os.path.exists(asked)
    target = _free(asked.parent, f"{asked.stem}.{unfinished}", asked.suffix) if beside else asked
    try:
        model.save(target)
    except (OSError, ValueError, MemoryError) as error:
        reason = failure(error)[1].removeprefix("path: ")
    else:
        return Kept(target, None)
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError, ValueError, MemoryError):
            suffix = asked.suffix if len(asked.suffix) <= _LONGEST_SUFFIX else ""
            place = _free(folder(), asked.stem[:_LONGEST_STEM], suffix)
            model.save(place)
            return Kept(place, f"--save: {reason}; saved in its stead: {place}")
    return Kept(None, f"--save: {reason}; no other place took the model either")


def draw(
    folder: Path, model: MLP, inputs: Inputs, x: Array, y: Array, p: Array, history: History | None
) -> Iterator[tuple[Path, OSError | None]]:
    """Yield each picture's file, and what kept it from being written."""
    for name, figure in drawings(model, inputs, x, y, p, history):
        path = folder / f"{name}.png"
        # Drawn first and written then: an error of the file is the file's, and names it.
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=150)
        try:
            path.write_bytes(image.getvalue())
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()  # a part of it
            yield path, OSError(error.errno or errno.EIO, error.strerror, str(path))
        else:
            yield path, None


def drawings(
    model: MLP, inputs: Inputs, x: Array, y: Array, p: Array, history: History | None
) -> Iterator[tuple[str, plots.Figure]]:
    """Yield the names and figures of ``--plot``.

    Parameters
    ----------
    model : MLP
        The model.
    inputs : Inputs
        How it takes its inputs.
    x, y : ndarray, shapes (m, ...) and (m,)
        Samples and their labels.
    p : ndarray, shape (n_classes, m)
        The model's probabilities for them.
    history : History or None
        That of the training, if this is its end.
    """
    # Numbers stand for classes by themselves.
    names = None if inputs.names == tuple(map(str, range(len(inputs.names)))) else inputs.names
    if history is not None:
        yield "learning-curves", plots.learning_curves(history)
    yield "confusion-matrix", plots.confusion_matrix(y, p.argmax(axis=0), names)
    if len(inputs.shape) != 2:
        return
    shape = inputs.shape[0], inputs.shape[1]
    yield "worst-mistakes", plots.worst_mistakes(x.reshape(-1, *shape), y, p, names)
    weight = model.weights[0]
    yield "first-layer", plots.first_layer(weight, shape)
    if model.seed is not None:
        initial = MLP(model.layer_sizes, model.dtype.name, model.seed, model.init).weights[0]
        yield "first-layer-change", plots.first_layer(weight - initial, shape, label="Change of weight")


def _free(folder: Path, stem: str, suffix: str) -> Path:
    """Return a path in the folder at which there is nothing yet: with this name, or with a number in it."""
    path, count = folder / f"{stem}{suffix}", 1
    while os.path.lexists(path):
        count += 1
        path = folder / f"{stem}-{count}{suffix}"
    return path
