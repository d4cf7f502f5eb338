"""What ``fastmlp predict`` reads, rows of tables and pictures, and what it answers."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks, preprocessing
from fastmlp.datasets import bounded, files, idx, images, npz
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
    warning: str = ""  # about a picture


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
        if path.is_file() and (_is_numpy(path) or idx.is_idx(path)):
            yield _arrays(path, inputs, model)
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
            pixels, done, (shapes,) = images.read([picture], inputs.frame)
        except (ValueError, OSError) as error:
            yield Unread(str(picture), error)
        else:
            packed = pack_samples(pixels, inputs._replace(max_value=FULL_INK), model)
            yield Read([str(picture)], packed, list(done), _doubt(shapes))


def _doubt(shapes: int) -> str:
    if shapes == 1:
        return ""
    return f"{shapes} separate shapes, taken together as one; crop the picture to a single shape"


def _rows(path: Path, inputs: Inputs, model: MLP) -> Read:
    table = files.read_features(path, preprocessing.known(inputs, model.notes.get("label", "")))
    name = bounded.shown(path)
    x = preprocessing.placed(name, table.features, table.words, inputs)
    names = [f"{path}[{i}]" for i in range(x.shape[0])]
    return Read(names, pack_samples(x, inputs, model), [_UNCHANGED] * x.shape[0])


def _is_numpy(path: Path) -> bool:
    return path.name.lower().endswith((".npy", ".npz"))


def _arrays(path: Path, inputs: Inputs, model: MLP) -> Read:
    """Return the samples of an IDX, .npy or .npz file, or its only one."""
    name = bounded.shown(path)
    x = npz.read_samples(path) if _is_numpy(path) else idx.read(path)
    x = x[None] if x.shape == inputs.shape else x
    check_width(name, x.shape[1:], inputs)
    if inputs.columns is not None and inputs.columns.categories:
        expected, remedy = "a table (.csv, .tsv or .txt), as in the model's training", "write it as such a table"
        raise ValueError(checks.message(name, "an array of numbers", expected, remedy))
    if not np.isfinite(x).all():
        raise ValueError(checks.message(name, "NaN or infinity", "finite numbers", "fill in missing values"))
    names = [f"{path}[{i}]" for i in range(len(x))]
    return Read(names, pack_samples(x, inputs, model), [_UNCHANGED] * len(x))


def described(read: Read, found: Array, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the answer for each sample as an entry of ``--json``, from probabilities or predicted targets (k, m)."""
    for source, done, column in zip(read.sources, read.done, found.T, strict=True):
        yield _answer(source, done, column, names) | ({"warning": read.warning} if read.warning else {})


def _answer(source: str, done: str, p: Array, names: tuple[str, ...]) -> dict[str, Any]:
    if not names:
        values = list(map(float, p))
        return {"source": source, "value": values[0] if len(values) == 1 else values, "done": done}
    best, *others = np.argsort(-p, kind="stable").tolist()
    second = {"runner_up": names[others[0]], "runner_up_probability": float(p[others[0]])} if others else {}
    return {
        "source": source,
        "class": best,
        "name": names[best],
        "probability": float(p[best]),
        **second,
        "probabilities": list(map(float, p)),
        "done": done,
    }


def spoken(given: dict[str, Any]) -> str:
    """Return an answer as a line for people."""
    if "value" in given:
        values = np.atleast_1d(given["value"]).tolist()
        return f"{given['source']}: {', '.join(f'{value:.6g}' for value in values)}"
    done = "" if given["done"] == _UNCHANGED else f"  ({given['done']})"
    second = f", else {given['runner_up']}, {given['runner_up_probability']:.1%}" if "runner_up" in given else ""
    return f"{given['source']}: {given['name']}, {given['probability']:.1%}{second}{done}"


def as_csv(given: list[dict[str, Any]]) -> str:
    r"""Return answers as CSV, names first and numbers with all their digits.

    The columns are source, class, probability, runner_up, runner_up_probability and warning, or of a regression source
    and value, or value_0, value_1, ... of several.

    Examples
    --------
    >>> from fastmlp.answers import as_csv
    >>> as_csv([{"source": "new.csv[0]", "value": 2.5, "done": ""}])
    'source,value\nnew.csv[0],2.5\n'
    """
    rows = [_row(one) for one in given]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["source"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(given: dict[str, Any]) -> dict[str, Any]:
    if "value" not in given:
        row = {"source": given["source"], "class": given["name"], "probability": given["probability"]}
        row |= {name: given[name] for name in ("runner_up", "runner_up_probability") if name in given}
        return row | {"warning": given.get("warning", "")}
    if not isinstance(given["value"], list):
        return {"source": given["source"], "value": given["value"]}
    return {"source": given["source"]} | {f"value_{i}": value for i, value in enumerate(given["value"])}
