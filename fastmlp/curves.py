"""Learning curves: loss and score by epoch, and the score by time."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from fastmlp import checks, figures, losses
from fastmlp.figures import BLUE, GREEN, VERMILLION, Axes, Figure

_SCORES = {"accuracy": "Accuracy", "r2": "$R^2$"}
_MARKERS = 10  # of each line
_STEEP = 3  # ratio of losses from which on their scale is logarithmic; a smaller range would have a tick or none


class Curves(Protocol):
    """What `learning_curves` draws: the columns of a `fastmlp.History`."""

    epoch: list[int]
    loss: list[float]
    validation_loss: list[float]
    seconds: list[float]
    loss_name: str

    @property
    def score(self) -> str:
        """The name of the score."""

    @property
    def scores(self) -> list[float]:
        """Its column on the training set."""

    @property
    def validation_scores(self) -> list[float]:
        """Its column on the validation set."""


def learning_curves(
    history: Curves, axes: Sequence[Axes] | None = None, test: Mapping[str, float] | None = None
) -> Figure | None:
    """Draw loss and score by epoch, those of training and, if there was one, of validation, and the score by time.

    The score is the accuracy, or R^2 of a regression.

    Parameters
    ----------
    history : History
        The result of ``fit``.
    axes : sequence of 2 or 3 matplotlib Axes, optional
        Axes for loss, score and, if there is a third one, the score by time; a new figure if not given.
    test : mapping of str to float, optional
        Loss and score on test samples, or one of them, as ``model.evaluate(X_test, Y_test)`` returns them: drawn as
        lines across.

    Returns
    -------
    Figure or None
        The new figure: loss, on a logarithmic scale if it is positive and varies by a factor of 3 or more; score; and
        score by the sum of the epochs' seconds.

    Raises
    ------
    ValueError
        If the history has no epoch, or there are not two axes.
    ImportError
        If matplotlib, part of the extra ``cli``, is not installed.

    Examples
    --------
    >>> from fastmlp import History, plots
    >>> history = History([1, 2], [0.9, 0.5], [0.6, 0.8], seconds=[0.1, 0.1])
    >>> figure = plots.learning_curves(history)  # in a notebook, without a name, it shows itself
    >>> [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes]
    [('Epoch', 'Loss (mean cross-entropy)'), ('Epoch', 'Accuracy'), ('Seconds of training', 'Accuracy')]
    """
    if not history.epoch:
        raise ValueError(checks.message("history", "no epoch", "at least one epoch", "pass the result of fit"))
    count = 3 if axes is None or len(axes) > 2 else 2
    grid = figures.grid(axes, count, columns=3, size=(4.2, 3.5))
    score, name = history.score, _SCORES[history.score]
    loss, *others = grid
    _panel(loss, history, "loss", (history.loss, history.validation_loss), test)
    loss.set(xlabel="Epoch", ylabel=f"Loss (mean {losses.in_words(history.loss_name)})")
    low, high = (extreme(history.loss + history.validation_loss) for extreme in (min, max))
    if 0 < _STEEP * low < high:
        figures.use_logarithms(loss)
    for ax, by_time in zip(others, (False, True), strict=False):
        _panel(ax, history, score, (history.scores, history.validation_scores), test, by_time=by_time)
        ax.set(xlabel="Seconds of training" if by_time else "Epoch", ylabel=name)
        if score == "accuracy":
            figures.use_percent(ax.yaxis)
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -0.05), min(high, 1.05))
    return figures.new(grid, axes)


def _panel(
    ax: Axes,
    history: Curves,
    name: str,
    columns: tuple[list[float], list[float]],
    test: Mapping[str, float] | None,
    *,
    by_time: bool = False,
) -> None:
    """Draw the columns of training and validation, the best epoch and the test value."""
    x = np.cumsum(history.seconds) if by_time else np.array(history.epoch)
    training, validation = columns
    _curve(ax, x, training, "training", BLUE, "o-", 0.0)
    if validation:
        _curve(ax, x, validation, "validation", VERMILLION, "s--", 0.5)
        best = int(np.argmin(history.validation_loss))
        label = f"best epoch, {history.epoch[best]}: {_written(name, validation[best])}"
        ax.plot(x[best], validation[best], "*", color="black", markersize=9, linestyle="none", label=label)
    if test is not None and name in test:
        ax.axhline(test[name], color=GREEN, linestyle="-.", linewidth=1.5, label=f"test: {_written(name, test[name])}")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    if by_time:
        ax.set_xlim(left=0)
        return
    figures.use_whole_numbers(ax.xaxis)
    if len(x) == 1:
        ax.set_xlim(x[0] - 0.5, x[0] + 0.5)


def _curve(ax: Axes, x: figures.Array, values: list[float], label: str, color: str, style: str, offset: float) -> None:
    every = max(1, len(x) // _MARKERS)
    markers = int(offset * every), every  # offset, so that the markers of two lines do not cover each other
    ax.plot(x, values, style, color=color, label=label, markevery=markers, markersize=4, linewidth=1.5)


def _written(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4g}"
