"""Advice on a training run that did not learn: the reason, and what to change."""

from collections.abc import Callable
from typing import NamedTuple

from fastmlp.history import History

# A run is judged from the first number of epochs on; from the second on it should have learnt something even if its
# loss still falls. A loss is no better than guessing if it is at least this share of the loss of guessing, and flat if
# it is at least this share of the loss half-way.
_EPOCHS_TO_JUDGE, _EPOCHS_TO_LEARN, _NO_BETTER = 10, 50, 0.995

# A loss that is larger by no more than this share has not risen: batches in another order are added in another order.
_ROUNDING = 1e-5


class Findings(NamedTuple):
    """Facts about the data and the model that tell why a run did not learn.

    Attributes
    ----------
    chance : callable
        Returns the lowest loss that a model can reach without looking at the samples.
    dead : callable
        Returns whether no sample activates a unit of some hidden layer.
    unscaled : float or None
        The largest input, if inputs look unscaled.
    lone_class : bool
        Whether there is only one class to choose from.
    rate : str
        The argument that sets the step size; empty if none does.
    """

    chance: Callable[[], float]
    dead: Callable[[], bool]
    unscaled: float | None
    lone_class: bool
    rate: str = "alpha"


def advise(history: History, findings: Findings) -> str:
    """Return why a training run did not learn and what to do about it, in one sentence; an empty text if it did learn.

    Parameters
    ----------
    history : History
        The record of the run.
    findings : Findings
        Those of its data and its model.

    Returns
    -------
    str
        The reasons and, after a semicolon, the remedies.
    """
    if findings.lone_class:
        return (
            "a single output unit always has probability 1: there is nothing to learn; "
            "take two, for labels 0 and 1, or loss='logistic'"
        )
    reasons, remedies = _symptoms(history, findings)
    learns = "the model does not learn: " if reasons else ""
    if findings.unscaled is not None:
        reasons.append(f"the inputs look unscaled, they reach {findings.unscaled:.4g}")
        remedies.insert(0, "scale them to about 1, as pack(X, scale=1/255) does for pixels")
    return f"{learns}{', and '.join(reasons)}; {', or '.join(remedies)}" if reasons else ""


def _symptoms(history: History, findings: Findings) -> tuple[list[str], list[str]]:
    """Return reasons and remedies, as far as the loss tells; empty lists if it fell below that of guessing."""
    if len(history) < _EPOCHS_TO_JUDGE:
        return [], []
    first, last, guessed = history.loss[0], history.loss[-1], findings.chance()
    if last > first * (1 + _ROUNDING):
        reason, remedy = f"the loss rose from {first:.4g} to {last:.4g}", f"take a smaller {findings.rate}"
    elif last >= _NO_BETTER * guessed > 0 and (len(history) >= _EPOCHS_TO_LEARN or _is_flat(history)):
        reason = f"the loss ended at {last:.4g}, where guessing without looking at the inputs gives {guessed:.4g}"
        remedy = f"take another {findings.rate} or more epochs" if findings.rate else "take more epochs"
    else:
        return [], []
    if findings.dead():
        return [reason, "no sample activates any hidden unit"], ["begin with another init, or another seed", remedy]
    return [reason], [remedy]


def _is_flat(history: History) -> bool:
    return history.loss[-1] >= _NO_BETTER * history.loss[len(history) // 2]
