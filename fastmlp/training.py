"""The training loop and its record.

The loop knows a model only by its flat parameter vector and by a function that writes a gradient: full-batch gradient
descent, the notebook's loop exactly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from fastmlp import backend

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass
class History:
    """The record of a training, as columns with one entry per epoch.

    Loss and accuracy of an epoch belong to the parameters before its update, validation loss and accuracy to those
    after it.

    Attributes
    ----------
    epoch : list of int
        1, 2, ...
    loss, accuracy : list of float
        Mean cross-entropy and fraction of right answers on the training set.
    validation_loss, validation_accuracy : list of float
        The same on the validation set; empty without one.
    seconds : list of float
        Wall-clock time of the epoch in seconds, without validation and callback.
    stopped : str
        Why the training ended: ``"epochs"``, ``"callback"`` or ``"interrupt"``.

    Examples
    --------
    >>> import fastmlp
    >>> model = fastmlp.MLP((2, 2), seed=0)
    >>> history = model.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=3, alpha=1.0)
    >>> history.epoch, history.stopped
    ([1, 2, 3], 'epochs')
    """

    epoch: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: str = "epochs"

    def __len__(self) -> int:
        return len(self.epoch)


Callback: TypeAlias = Callable[[int, History], bool | None]


def descend(
    parameters: Array,
    loss_and_grad: Callable[[Array], tuple[float, float]],
    *,
    epochs: int,
    alpha: float,
    validate: Callable[[], dict[str, float]] | None = None,
    callback: Callback | None = None,
) -> History:
    """Run full-batch gradient descent on ``parameters`` in place.

    Parameters
    ----------
    parameters : ndarray, shape (k,)
        The flat parameter vector.
    loss_and_grad : callable
        Writes the gradient at the current parameters into its argument (k,); returns loss and accuracy there.
    epochs : int
        Number of steps.
    alpha : float
        Step size.
    validate : callable, optional
        Returns ``{"loss": ..., "accuracy": ...}`` at the current parameters.
    callback : callable, optional
        Called as ``callback(epoch, history)`` after each epoch; a true answer ends the training.

    Returns
    -------
    History
        The record. Ctrl-C ends the training between two updates, with ``stopped="interrupt"``.

    Raises
    ------
    FloatingPointError
        If the loss or the parameters stop being finite; the last finite parameters stay in place.
    """
    history = History()
    gradient, stepped = np.empty_like(parameters), np.empty_like(parameters)
    rate = parameters.dtype.type(alpha)
    try:
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            loss, accuracy = loss_and_grad(gradient)
            with backend.Session() as kernels:
                kernels.update(stepped, parameters, gradient, rate)
            if not (np.isfinite(loss) and np.isfinite(stepped).all()):
                raise FloatingPointError(
                    f"the loss or the parameters stopped being finite in epoch {epoch} with alpha {alpha}; "
                    "the model holds the last finite parameters: go on with a smaller alpha"
                )
            np.copyto(parameters, stepped)
            history.seconds.append(time.perf_counter() - start)
            history.epoch.append(epoch)
            history.loss.append(loss)
            history.accuracy.append(accuracy)
            if validate is not None:
                scores = validate()
                history.validation_loss.append(scores["loss"])
                history.validation_accuracy.append(scores["accuracy"])
            if callback is not None and callback(epoch, history):
                history.stopped = "callback"
                break
    except KeyboardInterrupt:
        history.stopped = "interrupt"
    return history
