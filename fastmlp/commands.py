"""The commands. Each prints its report and returns an exit status and the facts for ``--json``."""

import argparse
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
    given,
    keeping,
    losses,
    packed_sets,
    preprocessing,
    recipes,
    refusals,
    runs,
)
from fastmlp.answers import Unread, as_csv, described, prepared, spoken
from fastmlp.console import Console, failure
from fastmlp.datasets import bounded
from fastmlp.interchange import export as onnx_file
from fastmlp.launch import Crew
from fastmlp.model import MLP
from fastmlp.packfile import is_pack
from fastmlp.packing import PackedMatrix
from fastmlp.preprocessing import Inputs, check_width, pack_samples
from fastmlp.progress import Samples
from fastmlp.recipes import Recipe

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Say: TypeAlias = Callable[..., None]
Outcome: TypeAlias = tuple[int, dict[str, Any]]


class _Prepared(NamedTuple):
    name: str
    parts: datasets.Dataset | None  # None of a packed file
    inputs: Inputs
    model: MLP
    plan: Recipe
    samples: runs.Ready
    m: int  # training samples of all processes


def train(options: argparse.Namespace, say: Console) -> Outcome:
    """Train a network, save it, test it and draw figures; a failed step does not stop the others."""
    start = time.perf_counter()
    crew = Crew()
    with crew:
        prepare = _prepared_pack if is_pack(options.data) else _prepared_run
        name, parts, inputs, model, plan, samples, m = prepare(options, say, crew)
    history, problem = runs.fit(options, say, crew, model, plan, samples)
    if crew.rank > 0:  # the first process does the rest
        return (130 if history.stopped == "interrupt" else 0) if problem is None else failure(problem)[0], {}
    inputs = preprocessing.restored(model, inputs)
    if problem is None and not len(history):
        say.tell("stopped before the end of the first epoch")
        return 130, {"stopped": "interrupt", "epochs": 0}
    model.notes = model.notes | {"trained": runs.in_words(plan, history)}
    result = runs.Result(say, {"data": name, "samples": m, **runs.told(plan, model, history)})
    if problem is not None:
        result.fail(problem)
    runs.say_stopped(options, say, history)
    if options.save is not None:
        runs.save(options, result, model, history)
    try:
        say.interrupts.release()
        if problem is None:
            if parts is not None:
                result.attempt(runs.test, options, result, model, inputs, parts, history)
            result.facts["seconds"] = time.perf_counter() - start
    except KeyboardInterrupt:
        say.interrupts.hold()
        say.tell("stopped by Ctrl-C before the test and the figures were complete")
        return 130, result.facts
    return result.status or (130 if history.stopped == "interrupt" else 0), result.facts


def _prepared_run(options: argparse.Namespace, say: Console, crew: Crew) -> _Prepared:
    """Check the options, load the data and make the model."""
    refusals.check_train(options)
    refusals.check_data(options.data, given.NAMED)
    refusals.check_plot(options.plot)
    _set_backend(options)
    backend.begin_loading()
    data = given.load(options.data, given.roles(options))
    x, y, validation = runs.split(options, data.parts)
    plan = recipes.chosen(options, len(y))
    loss = options.loss or "squared_error"
    inputs = given.inputs(data, x, y, plan.dtype, loss)
    x, *others = (given.placed(data, one, inputs) for one in (x, data.parts.x_test, *(validation or ())[:1]))
    data = data._replace(parts=data.parts._replace(x_test=others[0]))
    validation = None if validation is None else (others[1], validation[1])
    model = _model(options, inputs, plan, loss if inputs.unit is not None else losses.DEFAULT)
    model.notes = preprocessing.to_notes(data.name, inputs, data.parts.label)
    _say_data(say, data, inputs, model.loss)
    aside = len(data.parts.y_train) - len(y)
    watched = f", {aside} validation" if aside else ""
    tested = f"{len(data.parts.y_test)} test samples{given.set_aside(data.parts)}"
    say(f"{data.name}: {len(y)} training{watched} and {tested}")
    _say_start(options, say, model, plan)
    ready = runs.ready(crew, model, inputs, plan, (x, y), validation)
    return _Prepared(data.name, data.parts, inputs, model, plan, ready, len(y))


def _prepared_pack(options: argparse.Namespace, say: Console, _: Crew) -> _Prepared:
    """Do as `_prepared_run` for a packed file, which has no test part; processes share it by themselves."""
    refusals.check_train(options)
    refusals.check_pack_options(options, ("validation", "plot"))
    _set_backend(options)
    backend.begin_loading()
    found = packed_sets.read(options.data)
    if options.dtype is None and found.x.dtype != np.uint8:
        options.dtype = found.x.dtype.name
    plan, loss = recipes.chosen(options, len(found.y)), losses.DEFAULT if found.inputs.unit is None else "squared_error"
    model = _model(options, found.inputs, plan, loss)
    model.notes = found.notes
    say(f"{found.name}: {len(found.y)} training samples, packed; fastmlp evaluate MODEL FILE tests it on others")
    _say_start(options, say, model, plan)
    ready = runs.Ready((found.x, found.inputs.targets(found.y)), None, "blocks")
    return _Prepared(found.name, None, found.inputs, model, plan, ready, len(found.y))


def evaluate(options: argparse.Namespace, say: Console) -> Outcome:
    """Report the accuracy of a trained network on data, and on each of its classes; or the R^2 of a regression."""
    refusals.check_data(options.data, given.NAMED)
    refusals.check_plot(options.plot)
    _set_backend(options)
    model, inputs = _opened(options.model)
    subject = (_packed_subject if is_pack(options.data) else _subject)(options, say, model, inputs)
    X, y = subject.packed, subject.y
    scores = runs.scores(model, inputs, X, y)
    answers = preprocessing.outputs(model, X)
    classes = _by_class(y, answers.argmax(axis=0), inputs.names) if inputs.unit is None else []
    say(f"{subject.described}: {len(y)} samples")
    for row in classes:
        say(f"  {row['name']:12} {row['right'] / row['samples']:7.2%} of {row['samples']}{_mostly(row)}")
    say(runs.scores_in_words(scores))
    facts = {"model": options.model, "data": subject.name, "part": options.part, "samples": len(y), **scores}
    result = runs.Result(say, {**facts, "classes": classes, "pictures": []})
    if subject.x is not None:
        evaluated = keeping.Evaluated(subject.name, subject.x, y, answers, scores)
        result.attempt(runs.draw, options.plot, result, model, inputs, evaluated, None)
    return result.status, result.facts


class _Subject(NamedTuple):
    """Samples to evaluate a model on: as they were read, None of a packed file, and packed; classes or targets."""

    name: str
    described: str
    x: Any
    packed: PackedMatrix
    y: Array


def _subject(options: argparse.Namespace, say: Say, model: MLP, inputs: Inputs) -> _Subject:
    data = given.load(options.data, given.roles(options), preprocessing.known(inputs, model.notes.get("label", "")))
    options.part = options.part or "test"
    x, y = given.part(data.parts, options.part)
    check_width(data.name, x.shape[1:], inputs)
    x = given.placed(data, x, inputs)
    if inputs.unit is None:
        y = preprocessing.class_indices(data.name, data.parts.names, data.names, inputs)[y]
    part = "all samples" if options.part == "all" else f"the {options.part} part"
    _say_data(say, data, inputs, model.loss)
    described = f"{data.name}, {part}{given.set_aside(data.parts)}"
    return _Subject(data.name, described, x, pack_samples(x, inputs, model), y)


def _packed_subject(options: argparse.Namespace, _: Say, model: MLP, inputs: Inputs) -> _Subject:
    refusals.check_pack_options(options, ("plot", "part"))
    found = packed_sets.read(options.data)
    checks.input_width(found.name, found.x, model.layer_sizes[0], model.dtype)
    packed_sets.check_prepared(found, inputs)
    y, theirs = found.y, found.inputs
    if inputs.unit is None:
        y = preprocessing.class_indices(found.name, theirs.labels or theirs.names, theirs.names, inputs)[y]
    options.part = "all"
    return _Subject(found.name, f"{found.name}, all samples", None, found.x, y)


def pack(options: argparse.Namespace, say: Console) -> Outcome:
    """Write a data set as a packed file, which training reads a part at a time."""
    refusals.check_pack(options, given.NAMED)
    _set_backend(options)
    found = packed_sets.content(options)
    for remark in found.remarks:
        say(remark)
    with refusals.speaking_of("--to"), Samples(wanted=not options.json) as bar:
        packed = packed_sets.write(options, found, bar)
    n, m = packed.shape
    labels = "none" if found.y is None else "targets" if found.inputs.unit else f"{len(found.inputs.names)} classes"
    say(f"{m} samples of {n} features, {packed.dtype}, {packed.kind}, labels: {labels}")
    say(f"packed: {options.to}, {packed.nbytes / 1e6:.1f} MB")
    facts = {"data": bounded.shown(options.data), "file": options.to, "samples": m, "features": n}
    return 0, {**facts, "dtype": packed.dtype.name, "bytes": packed.nbytes, "labels": labels}


def predict(options: argparse.Namespace, say: Console) -> Outcome:
    """Predict for rows of tables and for pictures, and report how pictures were prepared."""
    if options.output not in (None, "-"):
        refusals.check_other_file(
            "--output", options.output, [("MODEL", options.model), *(("an input", one) for one in options.what)]
        )
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
            for found in described(read, preprocessing.outputs(model, read.packed), inputs.names):
                predictions.append(found)
                if not options.output:
                    say(spoken(found))
    if options.output == "-":
        (say.tell if options.json else say.answer)(as_csv(predictions).rstrip("\r\n"))
    elif options.output and (predictions or not failures):  # an older file is worth more than no answers
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
    refusals.check_data(options.data, given.NAMED)
    _set_backend(options)
    data = given.load(options.data, given.roles(options))
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
    if options.model is not None and is_pack(options.model):
        facts |= packed_sets.described(options.model)
    elif options.model is not None:
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


def _model(options: argparse.Namespace, inputs: Inputs, plan: Recipe, loss: str) -> MLP:
    sizes = preprocessing.width(inputs), *options.hidden, len(inputs.names) or 1
    activation = activations.read(options.activation)
    return MLP(sizes, plan.dtype, options.seed, options.init, activation, loss)


def _say_data(say: Say, data: given.Data, inputs: Inputs, loss: str) -> None:
    for remark in data.parts.remarks:
        say(remark)
    if inputs.first_index is not None:
        by = "one number" if inputs.columns is None else "its largest value in the training samples"
        say(f"each feature is divided by {by}; zeros stay zeros")
    elif inputs.columns is not None:
        which = "each column of numbers" if inputs.columns.categories else "each column"
        of_target = "; the target is divided by its mean" if loss == "poisson" else ", and so is the target"
        also = "" if inputs.unit is None else of_target
        say(f"{which} is standardised by the mean and standard deviation of the training samples{also}")
    elif len(inputs.shape) == 1:
        say(f"more than {preprocessing.MOST_COLUMNS} columns: all are divided by one number instead of standardised")


def _say_start(options: argparse.Namespace, say: Console, model: MLP, plan: Recipe) -> None:
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
