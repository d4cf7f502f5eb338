"""Rules of optimizers: how an update changes parameters and the state of an optimizer, for both backends.

The formulas are elementwise, in this order and without contraction, so that both backends give the same bits for the
same gradient. With the gradient g, to which the penalty adds ``l2`` times a weight, and numbers of each update:

- SGD: v <- first v + scale g; the direction d is v, with Nesterov's momentum scale g + first v, and without momentum g;
  p <- keep p - step d. A changed learning rate acts on the whole step as ``step``, on the new gradient as ``scale``.
- ADAM: m <- first m + (1 - first) g; v <- second v + (1 - second) g^2; p <- keep p - step m / (scale sqrt(v) + eps).
"""

from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SGD, ADAM = 0, 1


class Rule(NamedTuple):
    """The constants of an optimizer.

    Attributes
    ----------
    kind : int
        SGD or ADAM.
    first, second : float
        Momentum, or the decay rates of both moments.
    eps : float
        Positive.
    nesterov : int
        Whether the momentum is Nesterov's.
    clip : float
        The gradient is scaled down to this norm, unless it is 0.
    squares : int
        Whether `train` also returns the sum of the squares of all weights, without biases, before each update.
    """

    kind: int
    first: float = 0.0
    second: float = 0.0
    eps: float = 1e-8
    nesterov: int = 0
    clip: float = 0.0
    squares: int = 0


class Numbers(NamedTuple):
    """The numbers of an update, or of several, in the order in which both backends take them.

    The loss has the penalty l2 / 2 times the sum of the squares of all weights, without biases.
    """

    step: Any
    scale: Any = 1.0
    keep: Any = 1.0
    l2: Any = 0.0


def state_vectors(rule: Rule) -> int:
    """Return how many vectors as long as the parameters are the state of an optimizer."""
    return 2 if rule.kind == ADAM else int(rule.first != 0)


def weight_mask(parameters: Array, sizes: tuple[int, ...]) -> Array:
    """Return 1 for each weight and 0 for each bias, in the form of the parameters."""
    layers = [np.repeat([1, 0], [n_out * n_in, n_out]) for n_in, n_out in pairwise(sizes)]
    return np.concatenate(layers).astype(parameters.dtype)


def apply(parameters: Array, state: list[Array], gradient: Array, weights: Array, rule: Rule, numbers: Array) -> None:
    """Update parameters (k,) and the state in place, by the formulas above.

    The gradient (k,), which is overwritten, is that of the loss without its penalty. ``weights`` (k,) is 1 for each
    weight and 0 for each bias, or empty if there is no penalty. ``numbers`` (4,) are `Numbers`.
    """
    dtype = parameters.dtype.type
    step, scale, keep, l2 = (dtype(number) for number in numbers)
    first, second = dtype(rule.first), dtype(rule.second)
    if weights.size:
        gradient += (l2 * weights) * parameters
    if rule.clip > 0:
        norm = float(np.sqrt(np.sum(np.square(gradient, dtype=np.float64))))
        if norm > rule.clip:
            gradient *= dtype(rule.clip / norm)
    if rule.kind == ADAM:
        m, v = state
        m *= first
        m += dtype(1 - rule.first) * gradient
        v *= second
        v += dtype(1 - rule.second) * (gradient * gradient)
        direction = m / (scale * np.sqrt(v) + dtype(rule.eps))
    elif state:
        (v,) = state
        gradient *= scale
        v *= first
        v += gradient
        direction = gradient + first * v if rule.nesterov else v
    else:
        direction = gradient
    np.subtract(keep * parameters, step * direction, out=parameters)
