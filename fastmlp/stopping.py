"""Early stopping: the parameters of the lowest validation loss, and when to stop waiting for a lower one."""

import math
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class EarlyStopping:
    """Keep the parameters of the lowest validation loss; tell when it has not fallen for ``patience`` epochs.

    Parameters
    ----------
    patience : int
        Number of epochs in a row that may pass without an improvement.
    min_delta : float
        The loss must fall by more than this to count as improved.
    parameters : ndarray, shape (k,)
        The flat vector that is trained.
    """

    def __init__(self, patience: int, min_delta: float, parameters: Array) -> None:
        self._patience, self._min_delta, self._parameters = patience, min_delta, parameters
        self.epoch, self.loss, self.best = 0, math.inf, parameters.copy()

    def see(self, epoch: int, loss: float) -> None:
        """Record the validation loss of the current parameters."""
        if loss < self.loss - self._min_delta:
            self.epoch, self.loss = epoch, loss
            np.copyto(self.best, self._parameters)

    def exhausted(self, epoch: int) -> bool:
        """Return whether patience has ended after this epoch."""
        return epoch - self.epoch >= self._patience

    def restore(self) -> None:
        """Set the parameters to the best ones, if any loss was finite."""
        if self.epoch > 0:
            np.copyto(self._parameters, self.best)
