"""Models of PyTorch: tensors of linear layers by name, as in a state dict or a safetensors file."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.interchange import layers
from fastmlp.interchange.layers import Layers, Model
from fastmlp.kernels.nets import LEAK

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_NUMBERED = re.compile(r"(.*?)(\d+)")
_WEIGHT = "weight (n_out, n_in) and bias (n_out,) of Linear layers only"
_FOLD = "leave out what does not belong to the net, and fold BatchNorm and the like into the Linear layer before"


def read(state: Any, activation: str | Sequence[str], loss: str) -> Layers:
    """Return the layers in a state dict, or in a file of safetensors, as `MLP.from_torch`."""
    if isinstance(state, (str, os.PathLike)):
        tensors = _in_order(_of_file(os.fspath(state)))
    elif isinstance(state, Mapping):
        tensors = dict(state)
    else:
        remedy = "pass model.state_dict()" if hasattr(state, "state_dict") else "pass a dict of tensors by name"
        raise TypeError(checks.message("state", type(state).__name__, "a state dict, or the path of a file", remedy))
    weights: dict[str, Array] = {}
    biases: dict[str, Array] = {}
    for name, tensor in tensors.items():
        layer, _, kind = str(name).rpartition(".")
        if kind not in ("weight", "bias"):
            raise ValueError(checks.message("state", f"the tensor {name!r}", _WEIGHT, _FOLD))
        found = _numbers(name, tensor)
        if found.ndim != (2 if kind == "weight" else 1):
            raise ValueError(checks.message("state", f"the tensor {name!r} of shape {found.shape}", _WEIGHT, _FOLD))
        (weights if kind == "weight" else biases)[layer] = found
    for layer in biases.keys() - weights.keys():
        got, remedy = f"a bias but no weight of {layer!r}", "pass the state dict of the whole net"
        raise ValueError(checks.message("state", got, _WEIGHT, remedy))
    found_biases = [biases.get(layer, np.zeros(len(weight), weight.dtype)) for layer, weight in weights.items()]
    layers.check("state", list(weights), list(weights.values()), found_biases)
    return Layers(list(weights.values()), found_biases, activation, loss)


def sequential(model: Model) -> Any:
    """Return a model as a Sequential of PyTorch, as `MLP.to_torch`."""
    try:
        import torch
        from torch import nn
    except ImportError as error:
        raise checks.extra("models of PyTorch are made by torch", error, "torch") from error
    activations: dict[str, Any] = {
        "identity": nn.Identity,
        "logistic": nn.Sigmoid,
        "tanh": nn.Tanh,
        "relu": nn.ReLU,
        "leaky_relu": lambda: nn.LeakyReLU(LEAK),
        "gelu": nn.GELU,  # by default the exact one
    }
    net, modules = layers.of(model), []
    for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        # Not initialised: it would take random numbers from the generator of the process.
        linear = nn.utils.skip_init(nn.Linear, *weight.T.shape, dtype=getattr(torch, model.dtype.name))
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weight))
            linear.bias.copy_(torch.tensor(bias))
        modules += [linear, activations[net.activations[i]]()] if i < len(net.activations) else [linear]
    return nn.Sequential(*modules)


def _of_file(path: str) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise checks.extra("files of other programs are read by safetensors", error, "torch") from error
    with open(path, "rb"):  # for Python's own error if there is no such file
        pass
    try:
        tensors: dict[str, Any] = load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:
        expected, remedy = "a file of safetensors, of floating-point numbers", "name another file, or pass a state dict"
        got = f"a file that cannot be read ({error!s:.80}): {path}"
        raise ValueError(checks.message("state", got, expected, remedy)) from None
    return tensors


def _in_order(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a file, which has no order, in that of the numbers in their names."""
    keys: dict[str, int] = {}
    stems = set()
    for name in tensors:
        layer = name.rpartition(".")[0]
        numbered = _NUMBERED.fullmatch(layer)
        stems.add(numbered[1] if numbered else layer)
        keys[name] = int(numbered[2]) if numbered else 0
    if len(stems) > 1:
        got, expected = (
            f"layers named {', '.join(sorted(stems))}",
            "names that differ by a number only, as in '0.weight'",
        )
        raise ValueError(checks.message("state", got, expected, "pass a dict of tensors in the order of the layers"))
    return {name: tensors[name] for name in sorted(tensors, key=lambda name: keys[name])}


def _numbers(name: str, tensor: Any) -> Array:
    """Return a tensor as an array of float32 or float64."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        # NumPy has no bfloat16.
        tensor = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return layers.numbers("state", name, tensor)
