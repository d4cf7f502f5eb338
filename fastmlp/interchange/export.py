"""Models as ONNX files."""

import warnings

import numpy as np

from fastmlp import atomic, losses
from fastmlp.atomic import PathName
from fastmlp.interchange import layers, nodes, preparation
from fastmlp.interchange.graph import FileGraph, Port
from fastmlp.interchange.layers import Model
from fastmlp.interchange.nodes import LABEL, NUMBERS, PROBABILITIES

_COARSE = 0.1  # standard deviations to which inputs of a file may be rounded without a word


def write(model: Model, path: PathName) -> tuple[list[Port], list[Port]]:
    """Write a model as an ONNX file, as `MLP.export_onnx`; return the inputs and outputs of its graph."""
    graph = drawn(model)
    _warn_of_rounding(model)
    atomic.replace(path, [graph.serialized()])
    return graph.inputs, graph.outputs


def _warn_of_rounding(model: Model) -> None:
    """Warn if inputs in the dtype of the model cannot hold the differences between values of a column."""
    encoder = preparation.of(model).encoder
    if encoder is None:
        return
    steps = np.abs(encoder.mean) * float(np.finfo(model.dtype).eps) / np.array(encoder.scale)
    worst = int(steps.argmax())
    if steps[worst] > _COARSE:
        which = repr(encoder.names[worst]) if encoder.names else str(worst + 1)
        warnings.warn(
            f"export: in {model.dtype}, the dtype of the model and of the file's inputs, values of column {which} are "
            f"rounded to steps of {steps[worst]:.2g} standard deviations; train with dtype float64",
            UserWarning,
            stacklevel=2,
        )


def drawn(model: Model) -> FileGraph:
    """Return the graph of a model, with the preparation of its samples."""
    of_notes, net = preparation.of(model), layers.of(model)
    graph = FileGraph(model.dtype)
    width, outputs = model.layer_sizes[0], model.layer_sizes[-1]
    z = nodes.logits(graph, nodes.prepared(graph, of_notes, width), net)
    if losses.is_regression(model.loss):
        nodes.measured(graph, z, of_notes, model.loss, NUMBERS)
        graph.outputs.append(Port(NUMBERS, model.dtype, outputs))
        return graph
    count = preparation.classes(model)
    labels = preparation.labels(of_notes.names, count) if count else None
    nodes.classified(graph, z, labels, model.loss, (LABEL, PROBABILITIES))
    text = labels is not None and labels.dtype == object
    graph.outputs.append(Port(LABEL, np.dtype(object if text else np.int64), None if count else outputs))
    graph.outputs.append(Port(PROBABILITIES, model.dtype, count or outputs))
    return graph
