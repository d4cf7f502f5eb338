"""The description of a net, as kernels of both backends take it."""

from typing import NamedTuple

ACTIVATIONS = ("identity", "logistic", "tanh", "relu", "leaky_relu", "gelu")
LEAK = 0.01  # what leaky_relu leaves of a negative number, as in torch


class Net(NamedTuple):
    """What the parameters of a net mean.

    Attributes
    ----------
    sizes : tuple of int
        Widths from input to output.
    activations : tuple of str
        Of each hidden layer, names of `ACTIVATIONS`.
    """

    sizes: tuple[int, ...]
    activations: tuple[str, ...]


def relu_net(sizes: tuple[int, ...]) -> Net:
    """Return the notebook's net of these widths: all of its hidden layers have ReLUs."""
    return Net(sizes, ("relu",) * (len(sizes) - 2))
