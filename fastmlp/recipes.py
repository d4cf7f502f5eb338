"""Recipes: how ``fastmlp train`` trains, from the number of samples and the options.

An option replaces its part of the recipe; the other parts stay. Gradient descent ("gd") is the notebook's training.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from fastmlp.optimizers import LBFGS, SGD, Adam, AdamW
from fastmlp.schedules import Schedule, constant, cosine, linear, one_cycle

SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "one-cycle": one_cycle,
}

_PREPOSITIONS = {"constant": "at", "linear": "from", "cosine": "from", "one-cycle": "to"}

#: The highest learning rate of each optimizer that takes minibatches.
RATES = {"sgd": 0.1, "adam": 8e-3, "adamw": 8e-3}

_ALPHA = 0.5
_MOMENTUM = 0.9
_BETA2 = 0.99  # 0.999 averages over 1000 updates, more than half of a run

# The test accuracy of the digits and of MNIST hardly rises with more updates. Tables of a few hundred samples lose
# accuracy after 40 epochs: breast cancer falls from 98 % to 96.5 % at 1800 updates.
_UPDATES = 1800
_SMALLEST_BATCH, _LARGEST_BATCH = 32, 128
_FEWEST_EPOCHS, _MOST_EPOCHS = 4, 40

_EPOCHS_OF_FULL_BATCHES = 100
_EPOCHS_OF_DIGITS = 500  # of gradient descent


class Recipe(NamedTuple):
    """How to train.

    Attributes
    ----------
    optimizer : {"gd", "sgd", "adam", "adamw", "lbfgs"}
        The optimizer; gd is gradient descent as in the notebook.
    epochs : int
        Number of epochs; of lbfgs, of iterations.
    dtype : {"float32", "float64"}
        The dtype of the model.
    batch_size : int or None
        Number of samples of an update; None for all.
    learning_rate : float or None
        The highest learning rate; None for gd and lbfgs.
    schedule : {"constant", "linear", "cosine", "one-cycle"} or None
        The schedule of the learning rate; None for gd and lbfgs.
    alpha : float or None
        The step size of gd; None for the others.
    l2 : float
        The penalty on the weights.
    """

    optimizer: str
    epochs: int
    dtype: str
    batch_size: int | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    alpha: float | None = None
    l2: float = 0.0

    def arguments(self, shuffle: str = "batches") -> dict[str, Any]:
        """Return the arguments of `MLP.fit` that the recipe sets; minibatches are shuffled as this argument says."""
        found: dict[str, Any] = {"epochs": self.epochs, "l2": self.l2}
        if self.optimizer == "gd":
            return found | {"alpha": self.alpha}
        if self.batch_size is not None:
            found |= {"batch_size": self.batch_size, "shuffle": shuffle}
        return found | {"optimizer": self._optimizer()}

    def _optimizer(self) -> SGD | Adam | LBFGS:
        if self.learning_rate is None or self.schedule is None:
            return LBFGS()
        rate = SCHEDULES[self.schedule](self.learning_rate)
        if self.optimizer == "sgd":
            return SGD(rate, momentum=_MOMENTUM, nesterov=True)
        return {"adam": Adam, "adamw": AdamW}[self.optimizer](rate, beta2=_BETA2)

    def facts(self) -> dict[str, Any]:
        """Return the recipe for ``--json``, without epochs and dtype; ``alpha`` only of gd."""
        names = ["optimizer", "batch_size", "learning_rate", "schedule", "l2"]
        names += ["alpha"] if self.optimizer == "gd" else []
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        """Return the recipe in words, as in "adam, batches of 128, one-cycle to 0.008, 4 epochs"."""
        words = [self.optimizer, "full batch" if self.batch_size is None else f"batches of {self.batch_size}"]
        if self.alpha is not None:
            words.append(f"alpha {self.alpha:g}")
        if self.learning_rate is not None:
            words.append(f"{self.schedule} {_PREPOSITIONS[str(self.schedule)]} {self.learning_rate:g}")
        if self.l2:
            words.append(f"l2 {self.l2:g}")
        return ", ".join([*words, f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'}"])


def recipe(m: int) -> Recipe:
    """Return the recipe that learns fastest from ``m`` samples.

    It is Adam on minibatches, with a learning rate that rises and falls once. The size of a batch is the power of two
    below the root of m, but from 32 to 128, and at most m. The number of epochs gives about 1800 updates, but is from
    4 to 40.

    Parameters
    ----------
    m : int
        Number of training samples, at least 1.

    Returns
    -------
    Recipe
        Its parts.

    Examples
    --------
    >>> from fastmlp.recipes import recipe
    >>> print(recipe(60000))
    adam, batches of 128, one-cycle to 0.008, 4 epochs
    >>> print(recipe(1433))
    adam, batches of 32, one-cycle to 0.008, 40 epochs
    """
    below_root = 1 << (math.isqrt(m).bit_length() - 1)
    batch_size = min(m, _LARGEST_BATCH, max(_SMALLEST_BATCH, below_root))
    epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(_UPDATES / math.ceil(m / batch_size))))
    return Recipe("adam", epochs, "float32", batch_size, RATES["adam"], "one-cycle")


def optimizer(options: argparse.Namespace) -> str:
    """Return the name of the optimizer that the options of ``fastmlp train`` choose."""
    if options.optimizer is None:
        return "adam" if options.alpha is None else "gd"
    return str(options.optimizer)


def chosen(options: argparse.Namespace, m: int) -> Recipe:
    """Return the recipe for the checked options of ``fastmlp train`` and for ``m`` training samples."""
    name = optimizer(options)
    if name in RATES:
        found = recipe(m)._replace(optimizer=name, learning_rate=RATES[name])
    else:
        digits = name == "gd" and options.data == "digits"
        epochs = _EPOCHS_OF_DIGITS if digits else _EPOCHS_OF_FULL_BATCHES
        found = Recipe(name, epochs, "float64", alpha=_ALPHA if name == "gd" else None)
    given = {part: getattr(options, part) for part in Recipe._fields if part != "optimizer"}
    found = found._replace(**{part: value for part, value in given.items() if value is not None})
    return found if found.batch_size is None else found._replace(batch_size=min(found.batch_size, m))
