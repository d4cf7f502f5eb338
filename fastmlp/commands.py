"""What each command does; each returns an exit status and what a machine is told, and says the rest to people."""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import backend, bench, checks, datasets, plots, preprocessing, storage
from fastmlp.datasets import bounded, files, images, tables
from fastmlp.model import MLP
from fastmlp.packing import PackedMatrix
from fastmlp.preprocessing import FULL_INK, Inputs, check_width, pack_samples
from fastmlp.training import Callback, History

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Say: TypeAlias = Callable[..., None]
Outcome: TypeAlias = tuple[int, dict[str, Any]]

_NAMED = ("digits", "fashion_mnist", "mnist")
_EPOCHS = {"digits": 500}  # what trains it well from the notebook's initial weights; 100 for any other
_LINES = 20  # progress lines of a training


class _Data(NamedTuple):
    name: str
    parts: datasets.Dataset
    names: tuple[str, ...] | None  # of the classes


def train(options: argparse.Namespace, say: Say) -> Outcome:
    """Train a network, save it, draw what came of it, and evaluate it on the test part."""
    start = time.perf_counter()
    _check_train(options)
    _set_backend(options)
    data = _load(options.data, options.label)
    x, y, validation = _split(options, data.parts)
    _check_classes(data, y)
    inputs = preprocessing.from_dataset(data.parts._replace(x_train=x, y_train=y), data.names)
    model = MLP((math.prod(x.shape[1:]), *options.hidden, data.parts.classes), options.dtype, options.seed)
    model.notes = preprocessing.to_notes(data.name, inputs, data.parts.label)
    _say_data(say, data, inputs)
    _say_start(options, say, data, model, len(y))
    history = _fit(options, say, model, inputs, (x, y), validation)
    if not len(history):
        say("stopped before the first epoch was done")
        return 130, {"stopped": "interrupt", "epochs": 0}
    if options.save is not None:
        model.save(options.save)
    X_test, labels = pack_samples(data.parts.x_test, inputs, model), data.parts.y_test
    drawn = _draw(options.plot, model, inputs, data.parts.x_test, labels, model.predict_proba(X_test), history)
    found = {
        "data": data.name,
        "samples": len(y),
        **_told(options, model, history),
        "test": {"samples": len(labels), **model.evaluate(X_test, labels)},
        "pictures": drawn,
        "seconds": time.perf_counter() - start,
    }
    _say_end(options, say, found)
    return 130 if history.stopped == "interrupt" else 0, found


def evaluate(options: argparse.Namespace, say: Say) -> Outcome:
    """Say how well a trained network does on data, and on each of its classes."""
    _check_plot(options.plot)
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
    drawn = _draw(options.plot, model, inputs, x, y, probabilities, None)
    classes = _by_class(y, probabilities.argmax(axis=0), inputs.names)
    part = "all" if options.part == "all" else f"the {options.part} part"
    _say_data(say, data, inputs)
    say(f"{data.name}, {part}{_set_aside(data.parts)}: {len(y)} samples")
    for one in classes:
        say(f"  {one['name']:12} {one['right'] / one['samples']:7.2%} of {one['samples']}{_mostly(one)}")
    say(f"accuracy {scores['accuracy']:.2%}, cost {scores['loss']:.4f}")
    for path in drawn:
        say(f"drawn: {path}")
    return 0, {
        "model": options.model,
        "data": data.name,
        "part": options.part,
        "samples": len(y),
        **scores,
        "classes": classes,
        "pictures": drawn,
    }


def predict(options: argparse.Namespace, say: Say) -> Outcome:
    """Say what is in pictures, and what was done to them."""
    _set_backend(options)
    model = MLP.load(options.model)
    inputs = preprocessing.from_model(model)
    if not model.notes:
        say(f"{options.model} does not say what it was trained on: taken as pictures like MNIST's")
    answers: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    for what in options.what:
        for read in _pictures(Path(what), inputs, model):
            if isinstance(read, _Unread):
                failures.append({"source": bounded.shown(read.source), "error": str(read.error)})
                _complain(f"fastmlp: {read.error}")
                continue
            p = model.predict_proba(read.packed)
            for source, sentence, column in zip(read.sources, read.done, p.T, strict=True):
                answers.append(_answer(source, sentence, column, inputs.names))
                say(_spoken(answers[-1]))
    if failures:
        _complain(f"fastmlp: {len(failures)} could not be read, {len(answers)} answered")
    return (2 if failures else 0), {"model": options.model, "predictions": answers, "failures": failures}


def compare(options: argparse.Namespace, say: Say) -> Outcome:
    """Compare fastmlp with the notebook's formulas on one training step."""
    _set_backend(options)
    data = _load(options.data)
    x = data.parts.x_train
    found = bench.compare(
        x.reshape(len(x), -1).T, data.parts.y_train, 1 / data.parts.max_value, options.hidden, options.dtype,
        options.seconds,
    )  # fmt: skip
    say(found)
    return 0, {"data": data.name, **json.loads(found.to_json())}


def info(options: argparse.Namespace, say: Say) -> Outcome:
    """Show what computes, and what a model file holds."""
    _set_backend(options)
    facts: dict[str, Any] = dict(backend.show_config(mode="dicts") or {})
    if options.model is not None:
        model = MLP.load(options.model)
        net = "-".join(map(str, model.layer_sizes))
        facts["model"] = f"{options.model}: {net}, {model.dtype}, seed {model.seed}"
        facts |= {f"model {name}": note for name, note in sorted(model.notes.items())}
    for key, value in facts.items():
        say(f"{key + ':':17}{value}")
    return 0, facts


def finite(value: Any) -> Any:
    """Return what JSON can say of ``value``: a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _set_backend(options: argparse.Namespace) -> None:
    if options.backend is not None:
        backend.set_backend(options.backend)
    if options.threads is not None:
        backend.set_num_threads(options.threads)


def _check_train(options: argparse.Namespace) -> None:
    """Raise at once what would otherwise be found after the training."""
    if options.patience is not None and options.validation is None:
        expected = "--validation SHARE with it"
        raise ValueError(checks.message("--patience", "no --validation", expected, "add --validation 0.1"))
    if options.resume and options.checkpoint is None:
        raise ValueError(checks.message("--resume", "no --checkpoint", "--checkpoint FILE with it", "name the file"))
    if options.checkpoint is not None and not options.resume and Path(options.checkpoint).exists():
        expected, remedy = "a name that is free", "add --resume to go on from it, or remove it to train anew"
        raise ValueError(checks.message("--checkpoint", f"a file that exists: {options.checkpoint}", expected, remedy))
    if options.save is not None:
        storage.check_place(options.save)
    _check_plot(options.plot)


def _check_plot(folder: str | None) -> None:
    if folder is not None:
        plots.require()
        Path(folder).mkdir(parents=True, exist_ok=True)


def _load(what: str, label: str | None = None, usual: str | None = None) -> _Data:
    """Return a data set by its name, or from files; a table's label is in column ``label``, by default in ``usual``."""
    name = bounded.shown(what)
    if what in _NAMED:
        if label is not None:
            got, expected = f"{bounded.brief(repr(label))} for {what}", "a table with it, such as a .csv file"
            raise ValueError(checks.message("--label", got, expected, "leave it out"))
        module: Any = getattr(datasets, what)
        (x_train, y_train), (x_test, y_test) = module.load_data()
        labels = tuple(map(str, range(1 + int(y_train.max()))))
        parts = datasets.Dataset(x_train, y_train, x_test, y_test, float(module.MAX_VALUE), False, labels)
        return _Data(name, parts, getattr(module, "CLASSES", None))
    if not Path(what).exists():
        expected = f"{', '.join(_NAMED)}, or a path that exists"
        raise ValueError(checks.message("DATA", name, expected, "check its spelling"))
    chosen = usual if label is None and tables.is_table(Path(what)) else label
    return _Data(name, datasets.load(what, chosen), None)


def _check_classes(data: _Data, y: Array) -> None:
    """Raise ValueError if there is nothing to tell apart."""
    if (y == y[0]).all():
        got = f"the one class {bounded.brief(data.parts.names[y[0]])} in {len(y)} training samples"
        remedy = "add samples of others, or name another column of a table: --label first, last or NAME"
        raise ValueError(checks.message(data.name, got, "two classes at least", remedy))


def _say_data(say: Say, data: _Data, inputs: Inputs) -> None:
    for remark in data.parts.remarks:
        say(remark)
    if inputs.columns is not None:
        say("each column is standardised: less its mean, by its standard deviation, both of the training samples")
    elif len(inputs.shape) == 1:
        say(f"more than {preprocessing.MOST_COLUMNS} columns, so none is standardised: all are divided by one number")


def _split(options: argparse.Namespace, parts: datasets.Dataset) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Return training samples and labels, and those that are set aside for validation, chosen by the seed."""
    share, m = options.validation, len(parts.y_train)
    if share is None:
        return parts.x_train, parts.y_train, None
    count = round(share * m) if math.isfinite(share) else 0
    if not 1 <= count < m:
        got, expected = f"{share} of {m} samples", "a share that leaves samples to both sides, such as 0.1"
        raise ValueError(checks.message("--validation", got, expected, "give such a share"))
    aside = np.zeros(m, np.bool_)
    aside[np.random.default_rng(checks.seed("seed", options.seed)).permutation(m)[:count]] = True
    x, y = parts.x_train, parts.y_train
    return x[~aside], y[~aside], (x[aside], y[aside])


def _part(parts: datasets.Dataset, part: str) -> tuple[Array, Array]:
    x, y = {"train": (parts.x_train, parts.y_train), "test": (parts.x_test, parts.y_test)}.get(part, (None, None))
    if x is None or y is None:
        return np.concatenate([parts.x_train, parts.x_test]), np.concatenate([parts.y_train, parts.y_test])
    return x, y


def _say_start(options: argparse.Namespace, say: Say, data: _Data, model: MLP, m: int) -> None:
    aside = len(data.parts.y_train) - m
    watched = f", {aside} validation" if aside else ""
    say(f"{data.name}: {m} training{watched} and {len(data.parts.y_test)} test samples{_set_aside(data.parts)}")
    say(
        f"network {'-'.join(map(str, model.layer_sizes))}, {options.dtype}, alpha {options.alpha}, "
        f"{backend.get_backend()} backend, threads: {backend.get_num_threads()}"
    )
    if options.resume:
        found = Path(options.checkpoint).exists()
        say(f"goes on from {options.checkpoint}" if found else f"no {options.checkpoint} yet: begins anew")


def _fit(
    options: argparse.Namespace,
    say: Say,
    model: MLP,
    inputs: Inputs,
    samples: tuple[Array, Array],
    validation: tuple[Array, Array] | None,
) -> History:
    epochs = _EPOCHS.get(options.data, 100) if options.epochs is None else options.epochs
    return model.fit(
        pack_samples(samples[0], inputs, model),
        samples[1],
        epochs=epochs,
        alpha=options.alpha,
        validation=None if validation is None else (pack_samples(validation[0], inputs, model), validation[1]),
        patience=options.patience,
        min_delta=options.min_delta,
        callback=None if options.quiet else _progress(say, epochs),
        checkpoint=options.checkpoint,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        progress=False,
    )


def _told(options: argparse.Namespace, model: MLP, history: History) -> dict[str, Any]:
    """Return what a machine is told of a training."""
    return {
        "network": list(model.layer_sizes),
        "dtype": options.dtype,
        "alpha": options.alpha,
        "backend": backend.get_backend(),
        "threads": backend.get_num_threads(),
        "epochs": len(history),
        "stopped": history.stopped,
        "seconds_per_epoch": statistics.median(history.seconds),
        "saved": options.save,
        "history": history.to_dict(),
    }


def _set_aside(parts: datasets.Dataset) -> str:
    return " (set aside: every fifth of each class)" if parts.held_out else ""


def _progress(say: Say, epochs: int) -> Callback:
    every = max(1, epochs // _LINES)

    def show(epoch: int, history: History) -> bool:
        if epoch % every and epoch not in (1, epochs):
            return False
        line = f"epoch {epoch:{len(str(epochs))}}  cost {history.loss[-1]:.4f}  accuracy {history.accuracy[-1]:.2%}"
        if history.validation_loss:
            line += f"  validation {history.validation_loss[-1]:.4f}  {history.validation_accuracy[-1]:.2%}"
        try:
            say(line)
        except BrokenPipeError:
            return True  # nobody reads on: stop here, so that what was learnt can be saved
        return False

    return show


def _say_end(options: argparse.Namespace, say: Say, found: dict[str, Any]) -> None:
    scores = found["test"]
    say(
        f"test accuracy {scores['accuracy']:.2%}, cost {scores['loss']:.4f} after {found['epochs']} epochs; "
        f"time per epoch {1e3 * found['seconds_per_epoch']:.1f} ms (median), {found['seconds']:.1f} s in all"
    )
    if found["stopped"] == "patience":
        say(f"stopped early: {options.patience} epochs without a better validation loss; the best parameters are kept")
    if found["stopped"] == "interrupt":
        say("stopped by Ctrl-C" + (f"; --resume goes on from {options.checkpoint}" if options.checkpoint else ""))
    if options.save is not None:
        say(f"saved: {options.save}")
    for path in found["pictures"]:
        say(f"drawn: {path}")


def _draw(
    folder: str | None, model: MLP, inputs: Inputs, x: Array, y: Array, p: Array, history: History | None
) -> list[str]:
    """Draw into the folder, if there is one, and return the files."""
    if folder is None:
        return []
    written = []
    for name, axes in _drawings(model, inputs, x, y, p, history):
        path = Path(folder, f"{name}.png")
        np.ravel(axes)[0].figure.savefig(path, dpi=150)
        written.append(str(path))
    return written


def _drawings(
    model: MLP, inputs: Inputs, x: Array, y: Array, p: Array, history: History | None
) -> Iterator[tuple[str, Any]]:
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
        initial = MLP(model.layer_sizes, model.dtype.name, model.seed).weights[0]
        yield "first-layer-change", plots.first_layer(weight - initial, shape, label="Change of weight")


def _by_class(y: Array, predictions: Array, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return for each class that occurs its samples, those right, and how often it was taken for each other."""
    # Pairs that occur, not a table of all: 65536 classes would take 32 GiB.
    pairs, counts = np.unique(np.stack([y, predictions]), axis=1, return_counts=True)
    found: dict[int, dict[int, int]] = {}
    for label, prediction, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        found.setdefault(label, {})[prediction] = count
    return [
        {
            "name": names[label],
            "samples": sum(row.values()),
            "right": row.get(label, 0),
            "taken_for": {names[k]: row[k] for k in sorted(row, key=lambda k: -row[k]) if k != label},
        }
        for label, row in found.items()
    ]


def _mostly(one: dict[str, Any]) -> str:
    for name, count in one["taken_for"].items():
        return f", most often taken for {name} ({count})"
    return ""


class _Read(NamedTuple):
    sources: list[str]
    packed: PackedMatrix
    done: list[str]  # to each


class _Unread(NamedTuple):
    source: str
    error: ValueError | OSError


def _pictures(path: Path, inputs: Inputs, model: MLP) -> Iterator[_Read | _Unread]:
    """Yield the pictures of a file or folder, or why one cannot be read.

    Raises
    ------
    ValueError
        If the model cannot take pictures at all.
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
        got = f"a model of {kind} with {model.layer_sizes[0]} values a sample"
        remedy = "ask `fastmlp evaluate` how well it does on a table, or call MLP.predict in Python"
        raise ValueError(checks.message("MODEL", got, "one of square pictures, which predict reads", remedy))
    for one in found:
        try:
            pixels, done = images.read([one], inputs.frame)
        except (ValueError, OSError) as error:
            yield _Unread(str(one), error)
        else:
            yield _Read([str(one)], pack_samples(pixels, inputs._replace(max_value=FULL_INK), model), list(done))


def _idx_images(path: Path, inputs: Inputs, model: MLP) -> _Read:
    x = files.read_idx(path)
    check_width(bounded.shown(path), x.shape[1:], model)
    names = [f"{path}[{i}]" for i in range(len(x))]
    return _Read(names, pack_samples(x, inputs, model), ["taken as it is"] * len(x))


def _complain(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{' '.join(text.split())}\n")


def _answer(source: str, done: str, p: Array, names: tuple[str, ...]) -> dict[str, Any]:
    best = int(p.argmax())
    return {
        "source": source,
        "class": best,
        "name": names[best],
        "probability": float(p[best]),
        "probabilities": [float(one) for one in p],
        "done": done,
    }


def _spoken(answer: dict[str, Any]) -> str:
    done = "" if answer["done"] == "taken as it is" else f"  ({answer['done']})"
    return f"{answer['source']}: {answer['name']}, {answer['probability']:.1%}{done}"
