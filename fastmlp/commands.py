"""The commands. Each prints its report and returns an exit status and the facts for ``--json``."""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import activations, backend, bench, checks, datasets, preprocessing, recipes, refusals, runs
from fastmlp.console import Console
from fastmlp.datasets import bounded, files, images, tables
from fastmlp.model import MLP
from fastmlp.packing import PackedMatrix
from fastmlp.preprocessing import FULL_INK, Inputs, check_width, pack_samples
from fastmlp.recipes import Recipe

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Say: TypeAlias = Callable[..., None]
Outcome: TypeAlias = tuple[int, dict[str, Any]]

_NAMED = ("digits", "fashion_mnist", "mnist")


class _Data(NamedTuple):
    name: str
    parts: datasets.Dataset
    names: tuple[str, ...] | None  # class names


def train(options: argparse.Namespace, say: Console) -> Outcome:
    """Train a network, save it, test it and draw figures; a failed step does not stop the others."""
    start = time.perf_counter()
    refusals.check_train(options)
    refusals.check_data(options.data, _NAMED)
    refusals.check_plot(options.plot)
    _set_backend(options)
    backend.begin_loading()
    data = _load(options.data, options.label)
    x, y, validation = _split(options, data.parts)
    _check_classes(data, y)
    inputs = preprocessing.from_dataset(data.parts._replace(x_train=x, y_train=y), data.names)
    sizes = math.prod(x.shape[1:]), *options.hidden, data.parts.classes
    plan = recipes.chosen(options, len(y))
    model = MLP(sizes, plan.dtype, options.seed, options.init, activations.read(options.activation))
    model.notes = preprocessing.to_notes(data.name, inputs, data.parts.label)
    _say_data(say, data, inputs)
    _say_start(options, say, data, model, plan, len(y))
    history, problem = runs.fit(options, say, model, inputs, plan, (x, y), validation)
    if problem is None and not len(history):
        say.tell("stopped before the end of the first epoch")
        return 130, {"stopped": "interrupt", "epochs": 0}
    result = runs.Result(say, {"data": data.name, "samples": len(y), **runs.told(plan, model, history)})
    if problem is not None:
        result.fail(problem)
    runs.say_stopped(options, say, history)
    if options.save is not None:
        runs.save(options, result, model, history)
    try:
        say.interrupts.release()
        if problem is None:
            result.attempt(runs.test, options, result, model, inputs, data.parts, history)
            result.facts["seconds"] = time.perf_counter() - start
    except KeyboardInterrupt:
        say.interrupts.hold()
        say.tell("stopped by Ctrl-C before the test and the figures")
        return 130, result.facts
    return result.status or (130 if history.stopped == "interrupt" else 0), result.facts


def evaluate(options: argparse.Namespace, say: Console) -> Outcome:
    """Report the accuracy of a trained network on data, and on each of its classes."""
    refusals.check_data(options.data, _NAMED)
    refusals.check_plot(options.plot)
    _set_backend(options)
    model = MLP.load(options.model)
    inputs = preprocessing.from_model(model)
    data = _load(options.data, options.label, model.notes.get("label"))
    x, y = _part(data.parts, options.part)
    check_width(data.name, x.shape[1:], model)
    y = preprocessing.class_indices(data.name, data.parts, data.names, inputs)[y]
    X = pack_samples(x, inputs, model)
    scores = model.evaluate(X, y)
    probabilities = model.predict_proba(X)
    classes = _by_class(y, probabilities.argmax(axis=0), inputs.names)
    part = "all samples" if options.part == "all" else f"the {options.part} part"
    _say_data(say, data, inputs)
    say(f"{data.name}, {part}{_set_aside(data.parts)}: {len(y)} samples")
    for row in classes:
        say(f"  {row['name']:12} {row['right'] / row['samples']:7.2%} of {row['samples']}{_mostly(row)}")
    say(f"accuracy {scores['accuracy']:.2%}, cost {scores['loss']:.4f}")
    facts = {"model": options.model, "data": data.name, "part": options.part, "samples": len(y), **scores}
    result = runs.Result(say, {**facts, "classes": classes, "pictures": []})
    result.attempt(runs.draw, options.plot, result, model, inputs, x, y, probabilities, None)
    return result.status, result.facts


def predict(options: argparse.Namespace, say: Console) -> Outcome:
    """Classify pictures, and report how they were prepared."""
    _set_backend(options)
    model = MLP.load(options.model)
    inputs = preprocessing.from_model(model)
    if not model.notes:
        say(f"{options.model} does not describe its training data: its inputs are taken to be images like MNIST's")
    answers: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    for what in options.what:
        for read in _pictures(Path(what), inputs, model):
            if isinstance(read, _Unread):
                failures.append({"source": bounded.shown(read.source), "error": str(read.error)})
                say.complain(str(read.error))
                continue
            p = model.predict_proba(read.packed)
            for source, sentence, column in zip(read.sources, read.done, p.T, strict=True):
                answers.append(_answer(source, sentence, column, inputs.names))
                say(_spoken(answers[-1]))
    if failures:
        say.complain(f"answers: {len(answers)}, unreadable inputs: {len(failures)}")
    return (2 if failures else 0), {"model": options.model, "predictions": answers, "failures": failures}


def compare(options: argparse.Namespace, say: Say) -> Outcome:
    """Compare fastmlp with the notebook's formulas on one training step."""
    checks.positive("--seconds", options.seconds, "give a number of seconds such as 20")
    checks.layer_sizes("--hidden", (1, options.hidden, 1))
    refusals.check_data(options.data, _NAMED)
    _set_backend(options)
    data = _load(options.data, options.label)
    x = data.parts.x_train
    found = bench.compare(
        x.reshape(len(x), -1).T, data.parts.y_train, 1 / data.parts.max_value, options.hidden, options.dtype,
        options.seconds,
    )  # fmt: skip
    say(found)
    return 0, {"data": data.name, **json.loads(found.to_json())}


def info(options: argparse.Namespace, say: Say) -> Outcome:
    """Show the backend, the machine, and the contents of a model file."""
    _set_backend(options)
    facts: dict[str, Any] = dict(backend.show_config(mode="dicts") or {})
    if options.model is not None:
        model = MLP.load(options.model)
        net = "-".join(map(str, model.layer_sizes))
        facts["model"] = f"{options.model}: {net}, {model.dtype}, {_start(model)}, seed {model.seed}"
        facts |= {f"model {name}": note for name, note in sorted(model.notes.items())}
    for key, value in facts.items():
        say(f"{key + ':':17}{bounded.brief(value) if key.startswith('model ') else value}")
    return 0, facts


def finite(value: Any) -> Any:
    """Return ``value`` as JSON can express it: a non-finite number becomes None."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _set_backend(options: argparse.Namespace) -> None:
    if options.backend is not None:
        backend.set_backend(options.backend)
    refusals.check_threads(options.threads)
    if options.threads is not None:
        with refusals.speaking_of("--threads", "n"):
            backend.set_num_threads(options.threads)


def _load(what: str, label: str | None = None, usual: str | None = None) -> _Data:
    """Load a data set by its name or from files; a table's label is in column ``label``, by default in ``usual``."""
    name = bounded.shown(what)
    if what in _NAMED:
        if label is not None:
            got, expected = f"{bounded.brief(repr(label))} for {what}", "a table, such as a .csv file"
            raise ValueError(checks.message("--label", got, expected, "omit it"))
        module: Any = getattr(datasets, what)
        (x_train, y_train), (x_test, y_test) = module.load_data()
        labels = tuple(map(str, range(1 + int(y_train.max()))))
        parts = datasets.Dataset(x_train, y_train, x_test, y_test, float(module.MAX_VALUE), False, labels)
        return _Data(name, parts, getattr(module, "CLASSES", None))
    refusals.check_data(what, _NAMED)
    chosen = usual if label is None and tables.is_table(Path(what)) else label
    with refusals.speaking_of("--label", "label"):
        return _Data(name, datasets.load(what, chosen), None)


def _check_classes(data: _Data, y: Array) -> None:
    """Raise ValueError if all training samples have the same class."""
    if (y == y[0]).all():
        got = f"only class {bounded.brief(data.parts.names[y[0]])} in {len(y)} training samples"
        remedy = "add samples of other classes, or choose another label column of a table: --label first, last or NAME"
        raise ValueError(checks.message(data.name, got, "at least two classes", remedy))


def _say_data(say: Say, data: _Data, inputs: Inputs) -> None:
    for remark in data.parts.remarks:
        say(remark)
    if inputs.columns is not None:
        say("each column is standardised by the mean and standard deviation of the training samples")
    elif len(inputs.shape) == 1:
        say(f"more than {preprocessing.MOST_COLUMNS} columns: all are divided by one number instead of standardised")


def _split(options: argparse.Namespace, parts: datasets.Dataset) -> tuple[Array, Array, tuple[Array, Array] | None]:
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


def _part(parts: datasets.Dataset, part: str) -> tuple[Array, Array]:
    x, y = {"train": (parts.x_train, parts.y_train), "test": (parts.x_test, parts.y_test)}.get(part, (None, None))
    if x is None or y is None:
        return np.concatenate([parts.x_train, parts.x_test]), np.concatenate([parts.y_train, parts.y_test])
    return x, y


def _say_start(options: argparse.Namespace, say: Console, data: _Data, model: MLP, plan: Recipe, m: int) -> None:
    aside = len(data.parts.y_train) - m
    watched = f", {aside} validation" if aside else ""
    say(f"{data.name}: {m} training{watched} and {len(data.parts.y_test)} test samples{_set_aside(data.parts)}")
    say(
        f"network {'-'.join(map(str, model.layer_sizes))}, {plan.dtype}, {_start(model)}, "
        f"{backend.get_backend()} backend, threads: {backend.get_num_threads()}"
    )
    unasked = options.optimizer is None and options.alpha is None
    say(f"{plan} (--optimizer gd is the notebook's training)" if unasked else plan)
    if options.resume:
        say(runs.resumption(options.checkpoint, plan.epochs))


def _start(model: MLP) -> str:
    """Return the initialisation in words, and the activation unless it is the usual one."""
    activation = activations.written(model.activation)
    return f"init {model.init}" + ("" if activation == activations.DEFAULT else f", activation {activation}")


def _set_aside(parts: datasets.Dataset) -> str:
    return " (set aside: every fifth of each class)" if parts.held_out else ""


def _by_class(y: Array, predictions: Array, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return for each class in ``y`` its number of samples, of right predictions and of each wrong prediction."""
    # Only pairs that occur: a full table of many classes would be larger than the data.
    pairs, numbers = np.unique(np.stack([y, predictions]), axis=1, return_counts=True)
    counts: dict[int, dict[int, int]] = {}
    for (i, k), number in zip(pairs.T.tolist(), numbers.tolist(), strict=True):
        counts.setdefault(i, {})[k] = number
    return [
        {
            "name": names[i],
            "samples": sum(row.values()),
            "right": row.get(i, 0),
            "taken_for": {names[k]: row[k] for k in sorted(row, key=lambda k: -row[k]) if k != i},
        }
        for i, row in counts.items()
    ]


def _mostly(row: dict[str, Any]) -> str:
    for name, count in row["taken_for"].items():
        return f", most often taken for {name} ({count})"
    return ""


class _Read(NamedTuple):
    sources: list[str]
    packed: PackedMatrix
    done: list[str]  # how each was prepared


class _Unread(NamedTuple):
    source: str
    error: ValueError | OSError


def _pictures(path: Path, inputs: Inputs, model: MLP) -> Iterator[_Read | _Unread]:
    """Yield the pictures of a file or folder; for a picture that cannot be read, the reason.

    Raises
    ------
    ValueError
        If the model does not take square pictures.
    """
    try:
        if path.is_file() and files.is_idx(path):
            yield _idx_images(path, inputs, model)
            return
        found = images.find(path)
    except (ValueError, OSError) as error:
        yield _Unread(str(path), error)
        return
    if inputs.frame is None:
        kind = "a table" if len(inputs.shape) == 1 else "images"
        got = f"a model for {kind} with {model.layer_sizes[0]} values per sample"
        remedy = "use `fastmlp evaluate` for its accuracy on a table, or call MLP.predict in Python"
        raise ValueError(checks.message("MODEL", got, "a model for square pictures", remedy))
    for picture in found:
        try:
            pixels, done = images.read([picture], inputs.frame)
        except (ValueError, OSError) as error:
            yield _Unread(str(picture), error)
        else:
            packed = pack_samples(pixels, inputs._replace(max_value=FULL_INK), model)
            yield _Read([str(picture)], packed, list(done))


def _idx_images(path: Path, inputs: Inputs, model: MLP) -> _Read:
    x = files.read_idx(path)
    check_width(bounded.shown(path), x.shape[1:], model)
    names = [f"{path}[{i}]" for i in range(len(x))]
    return _Read(names, pack_samples(x, inputs, model), ["used unchanged"] * len(x))


def _answer(source: str, done: str, p: Array, names: tuple[str, ...]) -> dict[str, Any]:
    best = int(p.argmax())
    return {
        "source": source,
        "class": best,
        "name": names[best],
        "probability": float(p[best]),
        "probabilities": list(map(float, p)),
        "done": done,
    }


def _spoken(answer: dict[str, Any]) -> str:
    done = "" if answer["done"] == "used unchanged" else f"  ({answer['done']})"
    return f"{answer['source']}: {answer['name']}, {answer['probability']:.1%}{done}"
