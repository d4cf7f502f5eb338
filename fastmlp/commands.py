"""The commands. Each prints its report and returns an exit status and the facts for ``--json``."""

import argparse
import contextlib
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import (
    activations,
    arrays,
    atomic,
    backend,
    bench,
    checks,
    datasets,
    keeping,
    losses,
    preprocessing,
    recipes,
    refusals,
    runs,
    units,
)
from fastmlp.answers import Unread, as_csv, described, prepared, spoken
from fastmlp.console import Console, failure
from fastmlp.datasets import bounded, files, tables
from fastmlp.interchange import export as onnx_file
from fastmlp.launch import Crew
from fastmlp.model import MLP
from fastmlp.preprocessing import Inputs, check_width, pack_samples
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
    crew = Crew()
    with crew:
        data, inputs, model, plan, samples, m = _prepared_run(options, say, crew)
    history, problem = runs.fit(options, say, crew, model, plan, samples)
    if crew.rank > 0:  # the first process does the rest
        return (130 if history.stopped == "interrupt" else 0) if problem is None else failure(problem)[0], {}
    inputs = preprocessing.restored(model, inputs)
    if problem is None and not len(history):
        say.tell("stopped before the end of the first epoch")
        return 130, {"stopped": "interrupt", "epochs": 0}
    model.notes = model.notes | {"trained": runs.in_words(plan, history)}
    result = runs.Result(say, {"data": data.name, "samples": m, **runs.told(plan, model, history)})
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
        say.tell("stopped by Ctrl-C before the test and the figures were complete")
        return 130, result.facts
    return result.status or (130 if history.stopped == "interrupt" else 0), result.facts


def _prepared_run(
    options: argparse.Namespace, say: Console, crew: Crew
) -> tuple[_Data, Inputs, MLP, Recipe, runs.Ready, int]:
    """Check the options, load the data and make the model; the last number is that of all training samples."""
    refusals.check_train(options)
    refusals.check_data(options.data, _NAMED)
    refusals.check_plot(options.plot)
    _set_backend(options)
    backend.begin_loading()
    data = _load(options.data, _roles(options))
    x, y, validation = runs.split(options, data.parts)
    plan = recipes.chosen(options, len(y))
    inputs = _inputs(data, x, y, plan)
    x, *others = (_placed(data, one, inputs) for one in (x, data.parts.x_test, *(validation or ())[:1]))
    data = data._replace(parts=data.parts._replace(x_test=others[0]))
    validation = None if validation is None else (others[1], validation[1])
    model = _model(options, inputs, plan)
    model.notes = preprocessing.to_notes(data.name, inputs, data.parts.label)
    _say_data(say, data, inputs)
    _say_start(options, say, data, model, plan, len(y))
    return data, inputs, model, plan, runs.ready(crew, model, inputs, plan, (x, y), validation), len(y)


def evaluate(options: argparse.Namespace, say: Console) -> Outcome:
    """Report the accuracy of a trained network on data, and on each of its classes; or the R^2 of a regression."""
    refusals.check_data(options.data, _NAMED)
    refusals.check_plot(options.plot)
    _set_backend(options)
    model, inputs = _opened(options.model)
    data = _load(options.data, _roles(options), preprocessing.known(inputs, model.notes.get("label", "")))
    x, y = _part(data.parts, options.part)
    check_width(data.name, x.shape[1:], inputs)
    x = _placed(data, x, inputs)
    if inputs.unit is None:
        y = preprocessing.class_indices(data.name, data.parts, data.names, inputs)[y]
    X = pack_samples(x, inputs, model)
    scores = runs.scores(model, inputs, X, y)
    answers = preprocessing.outputs(model, X)
    classes = _by_class(y, answers.argmax(axis=0), inputs.names) if inputs.unit is None else []
    part = "all samples" if options.part == "all" else f"the {options.part} part"
    _say_data(say, data, inputs)
    say(f"{data.name}, {part}{_set_aside(data.parts)}: {len(y)} samples")
    for row in classes:
        say(f"  {row['name']:12} {row['right'] / row['samples']:7.2%} of {row['samples']}{_mostly(row)}")
    say(runs.scores_in_words(scores))
    facts = {"model": options.model, "data": data.name, "part": options.part, "samples": len(y), **scores}
    result = runs.Result(say, {**facts, "classes": classes, "pictures": []})
    evaluated = keeping.Evaluated(data.name, x, y, answers, scores)
    result.attempt(runs.draw, options.plot, result, model, inputs, evaluated, None)
    return result.status, result.facts


def predict(options: argparse.Namespace, say: Console) -> Outcome:
    """Predict for rows of tables and for pictures, and report how pictures were prepared."""
    if options.output not in (None, "-"):
        with refusals.speaking_of("--output"):
            atomic.check_place(options.output)
    _set_backend(options)
    model, inputs = _opened(options.model)
    if not model.notes:
        told = say.complain if options.output == "-" else say
        told(f"{options.model} does not describe its training data: its inputs are taken to be images like MNIST's")
    predictions: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    for what in options.what:
        for read in prepared(Path(what), inputs, model):
            if isinstance(read, Unread):
                failures.append({"source": bounded.shown(read.source), "error": str(read.error)})
                say.complain(str(read.error))
                continue
            if read.warning:
                warnings.warn(f"{bounded.shown(read.sources[0])}: {read.warning}", UserWarning, stacklevel=1)
            for given in described(read, preprocessing.outputs(model, read.packed), inputs.names):
                predictions.append(given)
                if not options.output:
                    say(spoken(given))
    if options.output == "-":
        (say.tell if options.json else say.answer)(as_csv(predictions).rstrip("\r\n"))
    elif options.output:
        with refusals.speaking_of("--output"):
            atomic.replace(options.output, [as_csv(predictions).encode("utf-8", "backslashreplace")])
        say(f"written: {options.output}")
    if failures:
        say.complain(f"answers: {len(predictions)}, unreadable inputs: {len(failures)}")
    return (2 if failures else 0), {"model": options.model, "predictions": predictions, "failures": failures}


def export(options: argparse.Namespace, say: Console) -> Outcome:
    """Write a trained network, with the preparation of its inputs, as an ONNX file."""
    refusals.check_export(options.model, options.to)
    _set_backend(options)
    model, inputs = _opened(options.model)
    if not model.notes:
        say(f"{options.model} does not describe its training data: its inputs are taken as they are")
    with refusals.speaking_of("--to"):
        taken, given = onnx_file.write(model, options.to)
    for word, ports in (("inputs", taken), ("outputs", given)):
        say(f"{word}: {', '.join(map(str, ports))}")
    say(f"exported to {options.to}")
    facts = {word: [port.facts() for port in ports] for word, ports in (("inputs", taken), ("outputs", given))}
    return 0, {"model": options.model, "file": options.to, **facts, "classes": list(inputs.names)}


def compare(options: argparse.Namespace, say: Say) -> Outcome:
    """Compare fastmlp with the notebook's formulas on one training step."""
    checks.positive("--seconds", options.seconds, "give a number of seconds such as 20")
    checks.layer_sizes("--hidden", (1, options.hidden, 1))
    refusals.check_data(options.data, _NAMED)
    _set_backend(options)
    data = _load(options.data, _roles(options))
    x = data.parts.x_train
    if arrays.is_sparse(x):
        raise ValueError(checks.message("DATA", data.name, "dense data", "bench measures the notebook's formulas"))
    say(f"{data.name}: compares results, then measures for about {options.seconds:g} s")
    found = bench.compare(
        x.reshape(len(x), -1).T, data.parts.y_train, 1 / data.parts.max_value, options.hidden, options.dtype,
        options.seconds,
    )  # fmt: skip
    say(found)
    return 0, {"data": data.name, **json.loads(found.to_json())}


def info(options: argparse.Namespace, say: Say) -> Outcome:
    """Show the backend, the machine, and the contents of a model file."""
    _set_backend(options)
    table: list[str] = []
    facts: dict[str, Any] = dict(backend.show_config(mode="dicts") or {})
    if options.model is not None:
        with refusals.speaking_of("MODEL"):
            model = MLP.load(options.model)
        net = "-".join(map(str, model.layer_sizes))
        facts["model"] = f"{options.model}: {net}, {model.dtype}, {_start(model)}, seed {model.seed}"
        table = model.summary().splitlines()[1:]
        facts |= {f"model {name}": note for name, note in sorted(model.notes.items())}
    for key, value in facts.items():
        say(f"{key + ':':17}{bounded.brief(value) if key.startswith('model ') else value}")
    for line in table:
        say(line)
    return 0, facts


def finite(value: Any) -> Any:
    """Return ``value`` as JSON can express it: a non-finite number becomes None."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _opened(path: str) -> tuple[MLP, Inputs]:
    with refusals.speaking_of("MODEL"):
        return preprocessing.load(path)


def _set_backend(options: argparse.Namespace) -> None:
    if options.backend is not None:
        backend.set_backend(options.backend)
    refusals.check_threads(options.threads)
    if options.threads is not None:
        with refusals.speaking_of("--threads", "n"):
            backend.set_num_threads(options.threads)


def _roles(options: argparse.Namespace) -> tables.Roles:
    """Return what the options say about the columns of a table."""
    several = (tuple(getattr(options, name, None) or ()) for name in ("category", "ignore"))
    return tables.Roles(options.label, getattr(options, "target", None), *several)


def _load(what: str, roles: tables.Roles, known: tables.Known | None = None) -> _Data:
    """Load a data set by its name or from files; the columns of a table are those of the roles, or else as known."""
    name = bounded.shown(what)
    with contextlib.ExitStack() as stack:
        for argument in ("label", "target", "category", "ignore"):
            stack.enter_context(refusals.speaking_of(f"--{argument}", argument))
        if what in _NAMED:
            files.check_roles(roles, what)
            return _named(what)
        refusals.check_data(what, _NAMED)
        if known is not None and files.is_rows(Path(what)):
            roles = _roles_of_model(roles, known)
        return _Data(name, files.load_as(what, roles, known), None)


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


def _inputs(data: _Data, x: Array, y: Array, plan: Recipe) -> Inputs:
    """Return the preprocessing for training samples (m, ...) and their labels or targets (m,)."""
    found = preprocessing.from_dataset(data.parts._replace(x_train=x, y_train=y), data.names)
    if data.parts.names:
        _check_classes(data, y)
        return found
    return found._replace(unit=units.of(data.name, y, plan.dtype))


def _model(options: argparse.Namespace, inputs: Inputs, plan: Recipe) -> MLP:
    loss, outputs = ("cross_entropy", len(inputs.names)) if inputs.unit is None else ("squared_error", 1)
    sizes = preprocessing.width(inputs), *options.hidden, outputs
    activation = activations.read(options.activation)
    return MLP(sizes, plan.dtype, options.seed, options.init, activation, loss)


def _named(name: str) -> _Data:
    module: Any = getattr(datasets, name)
    (x_train, y_train), (x_test, y_test) = module.load_data()
    labels = tuple(map(str, range(1 + int(y_train.max()))))
    parts = datasets.Dataset(x_train, y_train, x_test, y_test, float(module.MAX_VALUE), False, labels)
    return _Data(name, parts, getattr(module, "CLASSES", None))


def _placed(data: _Data, x: Array, inputs: Inputs) -> Array:
    return preprocessing.placed(data.name, x, data.parts.words, inputs)


def _check_classes(data: _Data, y: Array) -> None:
    """Raise ValueError if all training samples have the same class."""
    if (y == y[0]).all():
        got = f"only class {bounded.brief(data.parts.names[y[0]])} in {len(y)} training samples"
        remedy = "add samples of other classes, or choose another label column of a table: --label first, last or NAME"
        raise ValueError(checks.message(data.name, got, "at least two classes", remedy))


def _say_data(say: Say, data: _Data, inputs: Inputs) -> None:
    for remark in data.parts.remarks:
        say(remark)
    if inputs.first_index is not None:
        by = "one number" if inputs.columns is None else "its largest value in the training samples"
        say(f"each feature is divided by {by}; zeros stay zeros")
    elif inputs.columns is not None:
        which = "each column of numbers" if inputs.columns.categories else "each column"
        also = "" if inputs.unit is None else ", and so is the target"
        say(f"{which} is standardised by the mean and standard deviation of the training samples{also}")
    elif len(inputs.shape) == 1:
        say(f"more than {preprocessing.MOST_COLUMNS} columns: all are divided by one number instead of standardised")


def _part(parts: datasets.Dataset, part: str) -> tuple[Array, Array]:
    x, y = {"train": (parts.x_train, parts.y_train), "test": (parts.x_test, parts.y_test)}.get(part, (None, None))
    if x is None or y is None:
        return _joined(parts.x_train, parts.x_test), np.concatenate([parts.y_train, parts.y_test])
    return x, y


def _joined(one: Any, other: Any) -> Any:
    if not arrays.is_sparse(one):
        return np.concatenate([one, other])
    from scipy import sparse

    return sparse.vstack([one, other], format="csr")


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
    """Return the initialisation in words, and the activation and the loss unless they are the usual ones."""
    activation = activations.written(model.activation)
    words = [f"init {model.init}"]
    words += [f"activation {activation}"] if activation != activations.DEFAULT else []
    words += [f"loss {model.loss}"] if model.loss != losses.DEFAULT else []
    return ", ".join(words)


def _set_aside(parts: datasets.Dataset) -> str:
    if not parts.held_out:
        return ""
    return f" (set aside: every fifth{' of each class' if parts.names else ''})"


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
