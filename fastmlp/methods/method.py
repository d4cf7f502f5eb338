"""The interface of a method, as the training loop and the checkpoint see it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp.interrupts import Caller
from fastmlp.kernels.nets import Net
from fastmlp.samples import Samples

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# What decides on the bits of a run beside its data. A checkpoint without these facts is of the notebook's descent.
PLAIN = {"optimizer": "None", "batch_size": "None", "shuffle": "None", "l2": "0.0", "clip_norm": "None"}


class Problem(NamedTuple):
    """What a method trains.

    Attributes
    ----------
    parameters : ndarray, shape (k,)
        The flat parameter vector, trained in place.
    net : Net
        What the parameters mean.
    samples : Samples
        The samples, their targets and weights.
    loss_and_grad : callable
        Writes the gradient over all samples at the current parameters into its argument (k,); returns mean loss and
        score.
    least : callable
        Returns the smallest of the numbers that the processes of a run pass; of one process, its own.
    """

    parameters: Array
    net: Net
    samples: Samples
    loss_and_grad: Callable[[Array], tuple[float, float]]
    least: Callable[[int], int] = int


class Scores(NamedTuple):
    """Mean loss of an epoch, and accuracy or R^2, at the parameters before each of its updates."""

    loss: float
    score: float


class State(NamedTuple):
    """The state of a method in a checkpoint.

    Attributes
    ----------
    facts : dict of str to str
        Numbers and names.
    arrays : dict of str to ndarray
        Vectors.
    """

    facts: dict[str, str]
    arrays: dict[str, Array]


class Method(ABC):
    """Changes parameters epoch by epoch.

    Attributes
    ----------
    epoch : int
        Number of complete epochs.
    identity : dict of str to str
        The facts of `PLAIN` for this method, which must agree with those of a checkpoint to resume from.
    unit : str
        What ends before the training does after Ctrl-C, for a message.
    stopped : str
        In one or two words, why no later epoch would change the parameters; else empty.
    """

    epoch = 0
    stopped = ""
    identity: dict[str, str] = PLAIN
    unit = "this epoch"

    @abstractmethod
    def advance(self, caller: Caller) -> Scores | None:
        """Continue the epoch after the complete ones, for a few milliseconds or one update.

        Functions of the user are called through ``caller``. Returns the scores of the epoch if this completes it, else
        None. Raises FloatingPointError if an update would make the loss or a parameter infinite or NaN; neither that
        update nor a later one is then made.
        """

    def settle(self) -> None:  # noqa: B027  # most methods train the parameters in place
        """Set the parameters to those after the last update, if they are not there yet."""

    @abstractmethod
    def state(self) -> State:
        """Return all that another process needs to continue from the settled parameters."""

    @abstractmethod
    def restore(self, epoch: int, state: State) -> None:
        """Continue after ``epoch`` complete epochs from the state of a checkpoint.

        Changes no parameter. Raises ValueError or KeyError, and changes nothing, if the state does not fit.
        """


def diverged(where: str, rate: str, value: float) -> FloatingPointError:
    """Return the error for an update, for example in "epoch 2", with a step size, whose name is ``rate``."""
    return FloatingPointError(
        f"the loss or the parameters stopped being finite in {where} with {rate} {value}; "
        f"the model holds the last finite parameters: continue with a smaller {rate}"
    )


def vectors(state: State, names: tuple[str, ...], like: Array) -> list[Array]:
    """Return the arrays of these names; KeyError or ValueError unless all are there and fit ``like`` (k,)."""
    found = [state.arrays[name] for name in names]
    for name, one in zip(names, found, strict=True):
        if (one.shape, one.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{name} of shape {one.shape}, dtype {one.dtype}")
    return found
