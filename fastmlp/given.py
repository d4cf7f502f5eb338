"""The data that a command is given, by a name or from files."""

import argparse
import contextlib
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import arrays, checks, datasets, preprocessing, refusals, units
from fastmlp.datasets import bounded, files, tables
from fastmlp.preprocessing import Inputs

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NAMED = ("digits", "fashion_mnist", "mnist")


class Data(NamedTuple):
    """A data set.

    Attributes
    ----------
    name : str
        As it was given.
    parts : Dataset
        Its samples.
    names : tuple of str or None
        The names of the classes, if they are not their labels.
    """

    name: str
    parts: datasets.Dataset
    names: tuple[str, ...] | None


def roles(options: argparse.Namespace) -> tables.Roles:
    """Return what the options say about the columns of a table."""
    several = (tuple(getattr(options, name, None) or ()) for name in ("category", "ignore"))
    return tables.Roles(options.label, getattr(options, "target", None), *several)


def load(what: str, roles: tables.Roles, known: tables.Known | None = None) -> Data:
    """Load a data set by its name or from files; the columns of a table are those of the roles, or else as known."""
    name = bounded.shown(what)
    with contextlib.ExitStack() as stack:
        for argument in ("label", "target", "category", "ignore"):
            stack.enter_context(refusals.speaking_of(f"--{argument}", argument))
        if what in NAMED:
            files.check_roles(roles, what)
            return _named(what)
        refusals.check_data(what, NAMED)
        if known is not None and files.is_rows(Path(what)):
            roles = _roles_of_model(roles, known)
        return Data(name, files.load_as(what, roles, known), None)


def _roles_of_model(roles: tables.Roles, known: tables.Known) -> tables.Roles:
    """Return the roles with the label or target of the model's training, unless another one is given."""
    ours, other = ("target", "label") if known.is_regression else ("label", "target")
    given = getattr(roles, other)
    if given is not None:
        expected = "the target of a regression" if known.is_regression else "the label of classes"
        remedy = f"name it by --{ours}, or choose another model"
        raise ValueError(checks.message(f"--{other}", bounded.brief(repr(given)), expected, remedy))
    usual = known.label or None
    if known.is_regression:
        return roles._replace(target=roles.target or usual)
    return roles._replace(label=usual) if roles.label is None else roles


def _named(name: str) -> Data:
    module: Any = getattr(datasets, name)
    (x_train, y_train), (x_test, y_test) = module.load_data()
    labels = tuple(map(str, range(1 + int(y_train.max()))))
    parts = datasets.Dataset(x_train, y_train, x_test, y_test, float(module.MAX_VALUE), False, labels)
    return Data(name, parts, getattr(module, "CLASSES", None))


def inputs(data: Data, x: Array, y: Array, dtype: str, loss: str = "squared_error") -> Inputs:
    """Return the preprocessing for training samples (m, ...) and labels or targets (m,) of a model of this dtype.

    ``loss`` is that of a regression.
    """
    found = preprocessing.from_dataset(data.parts._replace(x_train=x, y_train=y), data.names)
    if data.parts.names:
        _check_classes(data, y)
        return found
    if loss == "poisson":
        units.check_counts(data.name, data.parts.y_train, data.parts.y_test)
    return found._replace(unit=units.of(data.name, y, dtype, loss))


def _check_classes(data: Data, y: Array) -> None:
    """Raise ValueError if all training samples have the same class."""
    if (y == y[0]).all():
        got = f"only class {bounded.brief(data.parts.names[y[0]])} in {len(y)} training samples"
        remedy = "add samples of other classes, or choose another label column of a table: --label first, last or NAME"
        raise ValueError(checks.message(data.name, got, "at least two classes", remedy))


def placed(data: Data, x: Array, inputs: Inputs) -> Array:
    """Return samples (m, ...) whose categories are places in those of the model."""
    return preprocessing.placed(data.name, x, data.parts.words, inputs)


def part(parts: datasets.Dataset, part: str) -> tuple[Array, Array]:
    """Return samples and labels or targets of a part: "train", "test" or "all"."""
    x, y = {"train": (parts.x_train, parts.y_train), "test": (parts.x_test, parts.y_test)}.get(part, (None, None))
    if x is None or y is None:
        return _joined(parts.x_train, parts.x_test), np.concatenate([parts.y_train, parts.y_test])
    return x, y


def _joined(one: Any, other: Any) -> Any:
    if not arrays.is_sparse(one):
        return np.concatenate([one, other])
    from scipy import sparse

    return sparse.vstack([one, other], format="csr")


def set_aside(parts: datasets.Dataset) -> str:
    """Return which samples became the test part, in words; an empty text if the files have one."""
    if not parts.held_out:
        return ""
    return f" (set aside: every fifth{' of each class' if parts.names else ''})"
