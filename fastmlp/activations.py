"""The activations of hidden layers, as arguments, in files and on the command line."""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

from fastmlp import checks
from fastmlp.kernels.nets import ACTIVATIONS, Net

DEFAULT = "relu"

#: One name for all hidden layers, or one for each.
Activation: TypeAlias = str | tuple[str, ...]


def check(name: str, value: Any, hidden: int) -> Activation:
    """Return ``value``, the name of an activation or a sequence of one for each of ``hidden`` layers, in short.

    Examples
    --------
    >>> from fastmlp import activations
    >>> activations.check("activation", ["tanh", "relu"], 2), activations.check("activation", ["tanh", "tanh"], 2)
    (('tanh', 'relu'), 'tanh')
    """
    if isinstance(value, str):
        return checks.choice(name, value, ACTIVATIONS)
    remedy = "pass a name such as 'tanh', or a tuple such as ('tanh', 'relu')"
    if not isinstance(value, Sequence):
        got, expected = f"{type(value).__name__} {value!r:.40}", "a name, or one for each hidden layer"
        raise TypeError(checks.message(name, got, expected, remedy))
    names = tuple(checks.choice(name, one, ACTIVATIONS) for one in value)
    if len(names) != hidden:
        got, expected = f"{len(names)} names", f"one for each of {hidden} hidden layers, or one name for all"
        raise ValueError(checks.message(name, got, expected, remedy))
    return names if len(set(names)) > 1 else (*names, DEFAULT)[0]


@functools.lru_cache(maxsize=64)
def net(sizes: tuple[int, ...], activation: Activation, loss: str = "cross_entropy") -> Net:
    """Return the net of these widths and this loss, whose hidden layers have these activations."""
    return Net(sizes, (activation,) * (len(sizes) - 2) if isinstance(activation, str) else activation, loss)


def written(activation: Activation) -> str:
    """Return activations as one word, with commas between them.

    Examples
    --------
    >>> from fastmlp import activations
    >>> activations.written(("tanh", "relu")), activations.read("tanh,relu"), activations.read("gelu")
    ('tanh,relu', ('tanh', 'relu'), 'gelu')
    """
    return activation if isinstance(activation, str) else ",".join(activation)


def read(word: str) -> Activation:
    """Return the activations that `written` wrote; the names are not checked."""
    return tuple(word.split(",")) if "," in word else word


def are_legal(word: str, hidden: int) -> bool:
    """Return whether `written` may have written a word for so many hidden layers."""
    names = word.split(",")
    return len(names) in (1, hidden) and all(name in ACTIVATIONS for name in names)
