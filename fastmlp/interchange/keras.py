"""Models of Keras: dense layers, one after the other."""

import os
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks, losses
from fastmlp.interchange import layers
from fastmlp.interchange.layers import Layers

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_HIDDEN = {
    "linear": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu", "gelu": "gelu",
}  # fmt: skip  # not leaky_relu, whose slope there is 0.2
_LAST = {
    "softmax": "cross_entropy", "sigmoid": "logistic", "linear": "squared_error", "exponential": "poisson",
}  # fmt: skip
_SKIPPED = ("InputLayer", "Dropout")  # they change nothing when a net predicts


def read(source: Any, loss: str | None) -> Layers:
    """Return the layers of a model of Keras, or of one in a file, as `MLP.from_keras`."""
    model = _of_file(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else source
    if not hasattr(model, "layers"):
        got, expected = type(model).__name__, "a model of Keras, or the path of a file"
        raise TypeError(checks.message("model", got, expected, "pass what keras.Sequential returns"))
    dense: list[Any] = []
    for layer in model.layers:
        kind = type(layer).__name__
        if kind != "Dense" and kind not in _SKIPPED and (kind != "Flatten" or dense):
            where = " after a Dense layer" if kind == "Flatten" else ""
            got, expected = f"the {kind} layer {layer.name!r}{where}", "Dense layers, Dropout, and Flatten at the start"
            remedy = "take out what can be done before the net, or fold it into a Dense layer"
            raise ValueError(checks.message("model", got, expected, remedy))
        dense += [layer] if kind == "Dense" else []
    if "Sequential" not in [one.__name__ for one in type(model).__mro__]:
        _check_chain(model)
    _check_ends(model, dense[:1])
    return _read_dense(dense, loss)


def _read_dense(dense: list[Any], loss: str | None) -> Layers:
    names = [layer.name for layer in dense]
    for layer in dense:
        if not layer.built:
            remedy = "begin it with keras.Input, or call its build"
            raise ValueError(
                checks.message("model", f"the layer {layer.name!r} without weights", "a built one", remedy)
            )
    arrays = [[layers.numbers("model", layer.name, one) for one in layer.get_weights()] for layer in dense]
    weights = [kernel.T for kernel, *_ in arrays]
    biases = [rest[0] if rest else np.zeros(len(weights[i]), kernel.dtype) for i, (kernel, *rest) in enumerate(arrays)]
    layers.check("model", names, weights, biases)
    activations = [layer.get_config()["activation"] for layer in dense]
    hidden = [
        layers.check_activation("model", got, name, _HIDDEN)
        for got, name in zip(activations[:-1], names[:-1], strict=True)
    ]
    return Layers(weights, biases, layers.short(hidden), _loss(activations[-1], names[-1], loss))


def _loss(last: Any, name: str, wanted: str | None) -> str:
    """Return the loss that belongs to the last activation, or the wanted one if it has the same predictions."""
    usual = layers.check_activation("model", last, name, _LAST)
    if wanted is None:
        return usual
    loss = losses.check("loss", wanted)
    # Linear outputs are numbers, or the logits of a net that was trained with from_logits=True.
    if last != "linear" and loss != usual:
        expected, remedy = f"{usual!r}, which belongs to {last}", "leave it out"
        raise ValueError(checks.message("loss", repr(loss), expected, remedy))
    return loss


def _check_chain(model: Any) -> None:
    """Check that each layer of a functional model takes the output of the one before it in the list."""
    for before, layer in pairwise(model.layers):
        if layer.input is not before.output:
            got, expected = f"the layer {layer.name!r}, which does not follow {before.name!r}", "layers in one chain"
            raise ValueError(checks.message("model", got, expected, "fastmlp has no branches"))


def _check_ends(model: Any, first: list[Any]) -> None:
    """Check that a model has one output, and that its ``first`` dense layer takes one row for each sample."""
    outputs = len(getattr(model, "outputs", None) or [None])
    if outputs != 1:
        remedy = "make a model of one of them"
        raise ValueError(checks.message("model", f"a model with {outputs} outputs", "one output", remedy))
    for layer in first:
        rank = len(layer.input.shape) if hasattr(layer, "input") else 2
        if rank != 2:
            got, expected = f"the layer {layer.name!r} on arrays of {rank} dimensions", "2: samples and features"
            raise ValueError(checks.message("model", got, expected, "put a Flatten layer before it"))


def _of_file(path: str) -> Any:
    try:
        import keras
    except ImportError as error:
        raise checks.extra("models of Keras are read by keras", error, "keras") from error
    with open(path, "rb"):  # for Python's own error if there is no such file
        pass
    # The training configuration is not needed, and may name losses that only the user's program has.
    return keras.saving.load_model(path, compile=False)
