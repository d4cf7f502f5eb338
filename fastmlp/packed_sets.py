"""Data sets in packed files, with labels and preprocessing: ``fastmlp pack`` writes them, other commands read them."""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks, given, preprocessing, units
from fastmlp.datasets import bounded, classes, files, idx
from fastmlp.packs import MappedMatrix, open_pack
from fastmlp.packwriter import Beside, Progress, Writing
from fastmlp.preprocessing import Inputs
from fastmlp.sources import map_npy, source

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Content(NamedTuple):
    """Samples to pack.

    Attributes
    ----------
    x : ndarray or CSR matrix, shape (m, ...)
        The samples, as they were read or mapped.
    y : ndarray, shape (m,), or None
        Classes, as in ``inputs``, or targets.
    inputs : Inputs
        Their preprocessing.
    label : str
        The column of a table that the labels come from.
    remarks : tuple of str
        How the data were interpreted.
    """

    x: Any
    y: Array | None
    inputs: Inputs
    label: str = ""
    remarks: tuple[str, ...] = ()


def content(options: argparse.Namespace) -> Content:
    """Return the samples that the options of ``fastmlp pack`` choose.

    Arrays in .npy files and in folders of plain IDX files are mapped; other data are read.
    """
    path = Path(options.data)
    is_npy = path.suffix.lower() == ".npy"
    if options.labels is not None and not is_npy:
        expected = "DATA to be a .npy file: other data have their labels"
        raise ValueError(checks.message("--labels", bounded.shown(options.labels), expected, "omit it"))
    if options.data in given.NAMED or not (is_npy or path.is_dir()):
        found = _of_data(options)
    else:
        files.check_roles(given.roles(options), bounded.shown(path))
        x, y = _of_npy(options) if is_npy else _of_folder(path, options.part or "train")
        found = _of_arrays(bounded.shown(path), x, y, options.dtype)
    if options.scale is None:
        return found
    if found.inputs.columns is not None:
        expected, remedy = "samples that are divided by one number", "omit it: the columns of a table are scaled each"
        raise ValueError(checks.message("--scale", options.scale, expected, remedy))
    return found._replace(inputs=found.inputs._replace(max_value=1 / options.scale))


def write(options: argparse.Namespace, found: Content, progress: Progress) -> MappedMatrix:
    """Write the file of ``--to``, and open it."""
    X, scale = preprocessing.columns(found.x, found.inputs)
    y = found.y
    if y is not None and found.inputs.unit is None:
        y = y.astype(np.min_scalar_type(len(found.inputs.names)))
    notes = preprocessing.to_notes(options.data, found.inputs, found.label)
    samples = source("DATA", X, os.path.dirname(os.path.realpath(options.to)), rows=False)
    Writing(samples, scale, np.dtype(options.dtype), Beside(y, notes)).write(options.to, progress)
    return open_pack(options.to)


class PackedSet(NamedTuple):
    """A data set in a packed file.

    Attributes
    ----------
    name : str
        The file.
    x : MappedMatrix, shape (n_features, m)
        The samples, prepared.
    y : ndarray, shape (m,)
        Classes, as in ``inputs``, or targets.
    inputs : Inputs
        How the samples were prepared.
    notes : dict of str to str
        The same as texts, for a model.
    """

    name: str
    x: MappedMatrix
    y: Array
    inputs: Inputs
    notes: dict[str, str]


def read(path: str) -> PackedSet:
    """Open the data set in a packed file.

    Raises
    ------
    ValueError
        If the file is damaged, or has no labels, or several targets for each sample.
    """
    name, x = bounded.shown(path), open_pack(path)
    y = x.labels
    if y is None or y.ndim != 1:
        got = "a packed file without labels" if y is None else f"a packed file with labels of shape {y.shape}"
        remedy = "pack it again, with --labels FILE.npy, or in Python with Y"
        raise ValueError(checks.message(name, got, "one with a label or target for each sample", remedy))
    notes = x.notes or preprocessing.to_notes(name, _guessed(name, x, y))
    return PackedSet(name, x, y, preprocessing.from_notes(notes), notes)


def described(path: str) -> dict[str, str]:
    """Return what is in a packed file, in words by topic."""
    x = open_pack(path)
    (n, m), kind = x.shape, x.labels
    labels = "no labels" if kind is None else f"labels {kind.dtype.name} {kind.shape}"
    facts = {"packed file": f"{path}: {m} samples of {n} features, {x.dtype}, {x.kind}, {labels}"}
    facts["size"] = f"{x.nbytes / 1e6:.1f} MB, density {x.density:.3f}, largest value {x.largest:g}"
    return facts | {f"data {name}": bounded.brief(note) for name, note in sorted(x.notes.items())}


def check_prepared(found: PackedSet, inputs: Inputs) -> None:
    """Raise ValueError unless the samples were prepared as those that a model learnt from."""
    mine = found.inputs
    if (mine.shape, mine.max_value, mine.columns) != (inputs.shape, inputs.max_value, inputs.columns):
        got, expected = "samples that were scaled or encoded otherwise", "those of the model's training"
        remedy = "pack both parts of the same data, with the same --scale"
        raise ValueError(checks.message(found.name, got, expected, remedy))


def _of_data(options: argparse.Namespace) -> Content:
    """Return a part of a data set, prepared as its training part is."""
    data = given.load(options.data, given.roles(options))
    inputs = given.inputs(data, data.parts.x_train, data.parts.y_train, options.dtype)
    x, y = given.part(data.parts, options.part or "train")
    part = "all samples" if options.part == "all" else f"the {options.part or 'train'} part"
    remarks = (*data.parts.remarks, f"{data.name}, {part}{given.set_aside(data.parts)}")
    return Content(given.placed(data, x, inputs), y, inputs, data.parts.label, remarks)


def _of_npy(options: argparse.Namespace) -> tuple[Array, Array | None]:
    if options.part is not None:
        expected = "data in two parts"
        raise ValueError(checks.message("--part", f"{options.part} of a .npy file", expected, "omit it"))
    x = map_npy("DATA", options.data)
    return x, None if options.labels is None else map_npy("--labels", options.labels)


def _of_folder(path: Path, part: str) -> tuple[Array, Array]:
    parts = idx.read_folder(path, idx.mapped)
    pairs = {name: (parts[f"x_{name}"], parts[f"y_{name}"]) for name in ("train", "test") if f"x_{name}" in parts}
    if part == "all":
        x, y = (np.concatenate(one) for one in zip(*pairs.values(), strict=True))
        return x, y
    if part not in pairs:
        expected = "a part that the folder has: train"
        raise ValueError(checks.message("--part", part, expected, "pack all samples, and divide them yourself"))
    return pairs[part]


def _of_arrays(name: str, x: Array, y: Array | None, dtype: str) -> Content:
    if x.ndim < 2 or not len(x):
        raise ValueError(checks.message(name, f"shape {x.shape}", "samples (m, ...)", "give each sample its features"))
    if y is not None and y.shape != (len(x),):
        got, expected = f"{len(x)} samples and labels of shape {y.shape}", f"labels ({len(x)},)"
        raise ValueError(checks.message(name, got, expected, "save one label or target for each sample"))
    inputs = preprocessing.from_array(x, files.max_value(x) if x.dtype == np.uint8 else 1.0)
    if y is None:
        return Content(x, None, inputs)
    if y.dtype.kind == "f":
        return Content(x, np.asarray(y, np.float64), inputs._replace(unit=units.of(name, y, dtype, "squared_error")))
    (codes,), names = classes.of_integers(f"{name}: labels", y)
    return Content(x, codes, inputs._replace(names=names))


def _guessed(name: str, x: MappedMatrix, y: Array) -> Inputs:
    """Return the preprocessing of a file that was packed in Python."""
    inputs = Inputs((x.shape[0],), 1.0, (), None)
    if y.dtype.kind == "f":
        return inputs._replace(unit=units.of(name, y, "float32", "squared_error"))
    if y.min() < 0:
        raise ValueError(checks.message(name, f"the label {y.min()}", "labels from 0", "pack it again"))
    return inputs._replace(names=tuple(map(str, range(int(y.max()) + 1))))
