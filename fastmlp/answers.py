"""What ``fastmlp predict`` reads, rows of tables and pictures, and what it answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks, preprocessing
from fastmlp.datasets import bounded, files, images
from fastmlp.model import MLP
from fastmlp.packing import PackedMatrix
from fastmlp.preprocessing import FULL_INK, Inputs, check_width, pack_samples

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_UNCHANGED = "used unchanged"


class Read(NamedTuple):
    """Samples, ready for the model."""

    sources: list[str]
    packed: PackedMatrix
    done: list[str]  # how each was prepared


class Unread(NamedTuple):
    """A file that cannot be read, and why."""

    source: str
    error: ValueError | OSError


def prepared(path: Path, inputs: Inputs, model: MLP) -> Iterator[Read | Unread]:
    """Yield the samples of a table, or the pictures of a file or folder; for one that cannot be read, the reason.

    Raises
    ------
    ValueError
        If the model does not take square pictures.
    """
    try:
        if files.is_rows(path) and not path.is_dir():
            yield _rows(path, inputs, model)
            return
        if path.is_file() and files.is_idx(path):
            yield _idx_images(path, inputs, model)
            return
        found = images.find(path)
    except (ValueError, OSError) as error:
        yield Unread(str(path), error)
        return
    if inputs.frame is None:
        kind = "a table" if len(inputs.shape) == 1 else "images"
        got = f"a model for {kind} with {model.layer_sizes[0]} values per sample"
        remedy = "name a table (.csv, .tsv or .txt) with its columns, or call MLP.predict in Python"
        raise ValueError(checks.message("MODEL", got, "a model for square pictures", remedy))
    for picture in found:
        try:
            pixels, done = images.read([picture], inputs.frame)
        except (ValueError, OSError) as error:
            yield Unread(str(picture), error)
        else:
            packed = pack_samples(pixels, inputs._replace(max_value=FULL_INK), model)
            yield Read([str(picture)], packed, list(done))


def _rows(path: Path, inputs: Inputs, model: MLP) -> Read:
    table = files.read_features(path, preprocessing.known(inputs, model.notes.get("label", "")))
    name = bounded.shown(path)
    x = preprocessing.placed(name, table.features, table.words, inputs)
    names = [f"{path}[{i}]" for i in range(x.shape[0])]
    return Read(names, pack_samples(x, inputs, model), [_UNCHANGED] * x.shape[0])


def _idx_images(path: Path, inputs: Inputs, model: MLP) -> Read:
    x = files.read_idx(path)
    check_width(bounded.shown(path), x.shape[1:], inputs)
    names = [f"{path}[{i}]" for i in range(len(x))]
    return Read(names, pack_samples(x, inputs, model), [_UNCHANGED] * len(x))


def answer(source: str, done: str, p: Array, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the answer for a sample as an entry of ``--json``, from its probabilities or predicted targets (k,)."""
    if not names:
        values = list(map(float, p))
        return {"source": source, "value": values[0] if len(values) == 1 else values, "done": done}
    best = int(p.argmax())
    return {
        "source": source,
        "class": best,
        "name": names[best],
        "probability": float(p[best]),
        "probabilities": list(map(float, p)),
        "done": done,
    }


def spoken(given: dict[str, Any]) -> str:
    """Return an answer as a line for people."""
    if "value" in given:
        values = np.atleast_1d(given["value"]).tolist()
        return f"{given['source']}: {', '.join(f'{value:.6g}' for value in values)}"
    done = "" if given["done"] == _UNCHANGED else f"  ({given['done']})"
    return f"{given['source']}: {given['name']}, {given['probability']:.1%}{done}"
