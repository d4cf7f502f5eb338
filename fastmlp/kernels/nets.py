"""The description of a net, as kernels of both backends take it."""

import math
from typing import NamedTuple

ACTIVATIONS = ("identity", "logistic", "tanh", "relu", "leaky_relu", "gelu")
LEAK = 0.01  # what leaky_relu leaves of a negative number, as in torch

LOSSES = ("cross_entropy", "logistic", "squared_error", "absolute_error", "huber", "poisson")
HUBER = 1.0  # the residual from which on the Huber loss grows linearly, as in torch


class Net(NamedTuple):
    """What the parameters of a net mean.

    Attributes
    ----------
    sizes : tuple of int
        Widths from input to output.
    activations : tuple of str
        Of each hidden layer, names of `ACTIVATIONS`.
    loss : str
        A name of `LOSSES`. The loss of a sample with logits z and targets y is a sum over the outputs k:

        - cross_entropy: y_k (logsumexp(z) - z_k), for labels or for targets that sum to 1;
        - logistic: log(1 + exp(z_k)) - y_k z_k, for independent targets from 0 to 1;
        - squared_error: r_k^2 / 2 with the residual r = z - y;
        - absolute_error: abs(r_k);
        - huber: r_k^2 / 2 if abs(r_k) <= HUBER, else HUBER (abs(r_k) - HUBER / 2);
        - poisson: exp(z_k) - y_k z_k + y_k log y_k - y_k, half the deviance of counts y_k >= 0 whose mean is exp(z_k).
    most : float
        The largest loss that a sample of cross_entropy, or an output of logistic, counts with; its gradient stays.
    """

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    loss: str = "cross_entropy"
    most: float = math.inf


def relu_net(sizes: tuple[int, ...]) -> Net:
    """Return the notebook's net of these widths: all of its hidden layers have ReLUs."""
    return Net(sizes, ("relu",) * (len(sizes) - 2))
