"""The results of a run, model file and pictures, saved even if a disk is full or a name is taken."""

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import figures, plots
from fastmlp.console import failure
from fastmlp.history import History
from fastmlp.model import MLP
from fastmlp.preprocessing import Inputs

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LONGEST_STEM, _LONGEST_SUFFIX = 100, 20  # characters of a file name that every file system accepts


class Kept(NamedTuple):
    """Where a model was saved.

    Attributes
    ----------
    path : Path or None
        The file; None if the model could not be saved anywhere.
    problem : str or None
        Why it is not in the requested place.
    """

    path: Path | None
    problem: str | None


def save(model: MLP, asked: Path, unfinished: str | None) -> Kept:
    """Save a model to the requested file, or else in the current folder or the folder for temporary files.

    Parameters
    ----------
    model : MLP
        The model.
    asked : Path
        The file of ``--save``.
    unfinished : str or None
        For an unfinished run, one word with the reason: an existing file, which may hold a better model, is then not
        overwritten, and the word becomes part of the name of a new file next to it.
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
            return Kept(place, f"--save: {reason}; saved instead: {place}")
    return Kept(None, f"--save: {reason}; the model could not be saved anywhere else either")


class Evaluated(NamedTuple):
    """Samples, and what a model predicts for them.

    Attributes
    ----------
    data : str
        The name of the data.
    x, y : ndarray, shapes (m, ...) and (m,)
        Samples and their labels or targets.
    p : ndarray, shape (n_classes, m) or (1, m)
        The model's probabilities for the samples, or predictions of their targets.
    scores : dict of str to float
        The result of `MLP.evaluate`.
    """

    data: str
    x: Array
    y: Array
    p: Array
    scores: dict[str, float]


def draw(
    folder: Path, model: MLP, inputs: Inputs, evaluated: Evaluated, history: History | None
) -> Iterator[tuple[Path, OSError | None]]:
    """Draw the figures into a folder; yield each file, with the error if it could not be written."""
    for name, figure in drawings(model, inputs, evaluated, history):
        path = folder / f"{name}.png"
        # Drawn into memory first, so that an error while writing is an error of the file and names it.
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=150)
        try:
            path.write_bytes(image.getvalue())
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()  # may be incomplete
            yield path, OSError(error.errno or errno.EIO, error.strerror, str(path))
        else:
            yield path, None


def drawings(
    model: MLP, inputs: Inputs, evaluated: Evaluated, history: History | None
) -> Iterator[tuple[str, plots.Figure]]:
    """Yield the names and figures of ``--plot``, with titles that name data, net and recipe.

    Parameters
    ----------
    model : MLP
        The model.
    inputs : Inputs
        The preprocessing of its inputs.
    evaluated : Evaluated
        The samples that it was evaluated on.
    history : History or None
        The history of the run, if the model was just trained.
    """
    title = f"{evaluated.data}, {'-'.join(map(str, model.layer_sizes))}"
    recipe = model.notes.get("trained", "").partition(";")[0]
    for name, figure in _untitled(model, inputs, evaluated, history):
        figures.add_title(figure, f"{title}, {recipe}" if recipe else title)
        yield name, figure


def _untitled(
    model: MLP, inputs: Inputs, evaluated: Evaluated, history: History | None
) -> Iterator[tuple[str, plots.Figure]]:
    x, y, p = evaluated.x, evaluated.y, evaluated.p
    # Names that are just the class numbers need no legend.
    names = None if inputs.names == tuple(map(str, range(len(inputs.names)))) else inputs.names
    if history is not None:
        # The loss of a regression was standardised in training, and has the square of the target's unit here.
        test = {name: value for name, value in evaluated.scores.items() if inputs.unit is None or name == "r2"}
        yield "learning-curves", plots.learning_curves(history, test=test)
    if inputs.unit is not None:
        yield "predicted-against-true", plots.predicted_against_true(y, p[0])
        return
    yield "confusion-matrix", plots.confusion_matrix(y, p.argmax(axis=0), names)
    if len(inputs.shape) != 2:
        return
    shape = inputs.shape[0], inputs.shape[1]
    yield "worst-mistakes", plots.worst_mistakes(x.reshape(-1, *shape), y, p, names)
    weight = model.weights[0]
    yield "first-layer", plots.first_layer(weight, shape)
    if model.seed is not None:
        initial = MLP(model.layer_sizes, model.dtype.name, model.seed, model.init, model.activation).weights[0]
        yield "first-layer-change", plots.first_layer(weight - initial, shape, label="Change of weight")


def _free(folder: Path, stem: str, suffix: str) -> Path:
    """Return an unused path in the folder: with this name, or with a number added to it."""
    path, count = folder / f"{stem}{suffix}", 1
    while os.path.lexists(path):
        count += 1
        path = folder / f"{stem}-{count}{suffix}"
    return path
