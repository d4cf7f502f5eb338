"""What all libraries know of a net: weights, biases and activations, layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from fastmlp import activations, arrays, checks
from fastmlp.activations import Activation
from fastmlp.encoding import Encoder

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Made = TypeVar("Made")

_LINEAR = "pass dense layers only, or fold this one into the dense layer next to it"


class Model(Protocol):
    """What is read of an `MLP`."""

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """The widths from input to output."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters."""

    @property
    def weights(self) -> tuple[Array, ...]:
        """The weights, (n_out, n_in) for each layer."""

    @property
    def biases(self) -> tuple[Array, ...]:
        """The biases, (n_out, 1) for each layer."""

    @property
    def activation(self) -> Activation:
        """The activation of all hidden layers, or one for each."""

    @property
    def loss(self) -> str:
        """The name of the loss."""

    @property
    def notes(self) -> Mapping[str, str]:
        """The texts that are saved with the model."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the columns of a frame."""

    @property
    def encoder(self) -> Encoder | None:
        """What encodes the rows of frames."""


class Layers(NamedTuple):
    """The layers of a net.

    Attributes
    ----------
    weights : sequence of ndarray, shape (n_out, n_in)
        The weights, from input to output.
    biases : sequence of ndarray, shape (n_out,)
        The biases.
    activation : str or sequence of str
        The activation of all hidden layers, or one for each.
    loss : str
        The loss.
    """

    weights: Sequence[Array]
    biases: Sequence[Array]
    activation: str | Sequence[str]
    loss: str

    @property
    def activations(self) -> tuple[str, ...]:
        """The activation of each hidden layer."""
        hidden = len(self.weights) - 1
        return (self.activation,) * hidden if isinstance(self.activation, str) else tuple(self.activation)


def of(model: Model) -> Layers:
    """Return views of the layers of a model."""
    return Layers(model.weights, [bias[:, 0] for bias in model.biases], model.activation, model.loss)


def build(make: Callable[..., Made], layers: Layers, dtype: str | None = None) -> Made:
    """Return the model with these layers.

    Parameters
    ----------
    make : callable
        The class of the model, `MLP`.
    layers : Layers
        Its layers, of shapes that `check` accepts.
    dtype : str, optional
        Its dtype; by default float64 if an array is float64, else float32.
    """
    sizes = (layers.weights[0].shape[1], *(len(bias) for bias in layers.biases))
    if dtype is None:
        dtype = arrays.result_dtype(*layers.weights, *layers.biases).name
    # The seed is None, because no seed draws these weights.
    made: Any = make(sizes, dtype=dtype, seed=None, activation=layers.activation, loss=layers.loss)
    made.parameters = np.concatenate(
        [one.ravel() for pair in zip(layers.weights, layers.biases, strict=True) for one in pair]
    )
    model: Made = made
    return model


def check(argument: str, names: Sequence[str], weights: Sequence[Array], biases: Sequence[Array]) -> None:
    """Check that named layers are dense, and that each takes what the one before it returns.

    Raises
    ------
    ValueError
        If there is no layer, or a shape does not fit.
    """
    if not names:
        raise ValueError(checks.message(argument, "no layers", "at least one dense layer", "pass a net of such layers"))
    before: int | None = None
    for name, weight, bias in zip(names, weights, biases, strict=True):
        if weight.ndim != 2 or not weight.size:
            got, expected = f"the weight of {name!r} of shape {weight.shape}", "shape (n_out, n_in) of a dense layer"
            raise ValueError(checks.message(argument, got, expected, _LINEAR))
        n_out, n_in = weight.shape
        if bias.shape != (n_out,):
            got, expected = f"the bias of {name!r} of shape {bias.shape}", f"shape ({n_out},), as its weight has rows"
            raise ValueError(checks.message(argument, got, expected, _LINEAR))
        if before not in (None, n_in):
            got, expected = f"the layer {name!r} of {n_in} inputs", f"{before}, the outputs of the layer before it"
            raise ValueError(checks.message(argument, got, expected, "pass the layers in their order"))
        before = n_out


def numbers(argument: str, name: str, value: Any) -> Array:
    """Return the weights or biases called ``name`` as an array of float32 or float64; halves become float32.

    Raises
    ------
    TypeError
        If they are not floating-point numbers.
    """
    found = np.asarray(value)
    if found.dtype.name in ("float16", "bfloat16"):
        return found.astype(np.float32)
    if found.dtype.name not in ("float32", "float64"):
        got, expected = f"{name!r} of dtype {found.dtype}", "floating-point numbers"
        raise TypeError(checks.message(argument, got, expected, "convert it to float32"))
    return found


def check_activation(argument: str, got: object, name: str, legal: Mapping[str, str]) -> str:
    """Return our name of another library's activation of the layer ``name``; ``legal`` maps theirs to ours."""
    if not isinstance(got, str) or got not in legal:
        what, expected = f"the activation {got!r:.80} of {name!r}", f"one of {', '.join(legal)}"
        raise ValueError(checks.message(argument, what, expected, "fastmlp has no other activations"))
    return legal[got]


def short(names: Sequence[str]) -> Activation:
    """Return activations of hidden layers as one name if they are all the same.

    Examples
    --------
    >>> from fastmlp.interchange import layers
    >>> layers.short(["tanh", "tanh"]), layers.short(["tanh", "relu"])
    ('tanh', ('tanh', 'relu'))
    """
    return activations.check("activation", list(names), len(names))
