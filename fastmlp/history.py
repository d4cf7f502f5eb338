"""The record of a training run: columns with one entry per epoch, as text, HTML, a dict or CSV."""

import csv
import os
from dataclasses import dataclass, field
from typing import Any

from fastmlp import losses

_SHOWN = 20  # rows of a printed history


class TrainingWarning(UserWarning):
    """A training run that does not learn, or whose checkpoint cannot be written; the text names the remedy."""


@dataclass(repr=False)
class History:
    """The record of a training run, as columns with one entry per epoch; prints as a table, also in a notebook.

    Loss and score of an epoch belong to the parameters before its update, validation loss and score to those after it.
    With minibatches, the former are weighted means over the batches, each at the parameters before its update. The
    score is the accuracy of a classification, and R^2 of a regression; the columns of the other one are empty.

    Attributes
    ----------
    epoch : list of int
        1, 2, ...
    loss, accuracy : list of float
        Mean loss and share of right answers on the training set.
    validation_loss, validation_accuracy : list of float
        The same on the validation set; empty if there is none.
    seconds : list of float
        Wall-clock time of the epoch in seconds, without validation and callback; of an epoch that was resumed half-way,
        the time since then.
    stopped : str
        Why training ended: ``"epochs"``, ``"patience"``, ``"callback"`` or ``"interrupt"``; after L-BFGS also
        ``"converged"``, or ``"line search"`` if it found no lower loss.
    r2, validation_r2 : list of float
        The coefficient of determination, the mean over the outputs. On the training set, an output with constant
        targets counts 0.
    loss_name : str
        The loss of the model.

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
    r2: list[float] = field(default_factory=list)
    validation_r2: list[float] = field(default_factory=list)
    loss_name: str = losses.DEFAULT

    @property
    def score(self) -> str:
        """The score that belongs to the loss: ``"accuracy"`` or ``"r2"``."""
        return losses.score_name(self.loss_name)

    @property
    def scores(self) -> list[float]:
        """The column of the score on the training set."""
        column: list[float] = getattr(self, self.score)
        return column

    @property
    def validation_scores(self) -> list[float]:
        """The column of the score on the validation set."""
        column: list[float] = getattr(self, f"validation_{self.score}")
        return column

    def __len__(self) -> int:
        return len(self.epoch)

    def __repr__(self) -> str:
        rows = self._text()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, f"stopped: {self.stopped}"])

    def _repr_html_(self) -> str:
        head, *body = ("".join(f"<{tag}>{cell}</{tag}>" for cell in row) for tag, row in self._tagged())
        rows = "".join(f"<tr>{row}</tr>" for row in body)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>stopped: {self.stopped}</p>"

    def names(self) -> list[str]:
        """Return the names of the columns of this loss.

        Returns
        -------
        list of str
            In the order of a table.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.History(loss_name="huber").names()
        ['epoch', 'loss', 'r2', 'validation_loss', 'validation_r2', 'seconds']
        """
        return ["epoch", "loss", self.score, "validation_loss", f"validation_{self.score}", "seconds"]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the columns by name, without those that the run did not record, such as those of a validation.

        Returns
        -------
        dict of str to list
            Copies of equal length, as ``pandas.DataFrame`` takes them.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.History([1], [0.5], [0.25], seconds=[0.125]).to_dict()
        {'epoch': [1], 'loss': [0.5], 'accuracy': [0.25], 'seconds': [0.125]}
        """
        columns = {name: list(getattr(self, name)) for name in self.names()}
        return {
            name: column
            for name, column in columns.items()
            if column or not (self.epoch or name.startswith("validation"))
        }

    def to_frame(self) -> Any:
        """Return the columns of `to_dict` as a data frame of pandas, a row for each epoch.

        Returns
        -------
        pandas.DataFrame
            Integer epochs and floats.

        Raises
        ------
        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> import fastmlp
        >>> frame = fastmlp.History([1, 2], [0.9, 0.5], [0.6, 0.8], seconds=[0.1, 0.1]).to_frame()
        >>> frame.shape, float(frame["loss"].min())
        ((2, 4), 0.5)
        """
        try:
            import pandas as pd
        except ImportError as error:
            text = 'to_frame needs pandas; install it with: python -m pip install "pandas"'
            raise ImportError(text) from error
        return pd.DataFrame(self.to_dict())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_dict` as CSV, names first and floats with all their digits.

        Parameters
        ----------
        path : str or path-like
            The file to write or overwrite.

        Raises
        ------
        OSError
            If it cannot be written.

        Examples
        --------
        >>> import os, fastmlp
        >>> fastmlp.History([1], [0.5], [0.25], seconds=[0.125]).to_csv(os.devnull)
        """
        columns = self.to_dict()
        with open(path, "w", newline="", encoding="ascii") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    def plot(self) -> Any:
        """Draw loss and score by epoch, and the score by time, as `fastmlp.plots.learning_curves` does.

        Returns
        -------
        matplotlib.figure.Figure
            It shows itself in a notebook; ``figure.savefig(path)`` writes it.

        Raises
        ------
        ValueError
            If there is no epoch.
        ImportError
            If matplotlib, part of the extra ``cli``, is not installed.

        Examples
        --------
        >>> import fastmlp
        >>> figure = fastmlp.History([1, 2], [0.9, 0.5], [0.6, 0.8], seconds=[0.1, 0.1]).plot()
        >>> [ax.get_ylabel() for ax in figure.axes]
        ['Loss (mean cross-entropy)', 'Accuracy', 'Accuracy']
        """
        from fastmlp import plots

        return plots.learning_curves(self)

    def _text(self) -> list[tuple[str, ...]]:
        """Return names and rows as text; of many rows only the first and the last."""
        columns = self.to_dict()
        form = {"epoch": "d", "seconds": ".4f"}
        rows = [
            tuple(format(column[i], form.get(name, ".6f")) for name, column in columns.items())
            for i in _first_and_last(len(self))
        ]
        if len(rows) < len(self):
            rows.insert(_SHOWN // 2, ("...",) * len(columns))
        return [tuple(columns), *rows]

    def _tagged(self) -> list[tuple[str, tuple[str, ...]]]:
        return [("th" if i == 0 else "td", row) for i, row in enumerate(self._text())]


def _first_and_last(count: int) -> list[int]:
    half = _SHOWN // 2
    return list(range(count)) if count <= _SHOWN else [*range(half), *range(count - half, count)]
