"""The choice of a method by the arguments of `MLP.fit`."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from fastmlp import checks
from fastmlp.batches import Batches
from fastmlp.methods.descent import Descent
from fastmlp.methods.full_batch import FullBatch
from fastmlp.methods.method import Method, Problem
from fastmlp.methods.minibatches import Minibatches
from fastmlp.methods.minimization import Minimization
from fastmlp.methods.rates import Alpha, LearningRate, Rates, Schedule
from fastmlp.methods.updates import Updates
from fastmlp.optimizers import LBFGS, SGD, Adam

Optimizer: TypeAlias = SGD | Adam | LBFGS

_ALPHA = 0.1


@dataclass(frozen=True)
class Choice:
    """The checked arguments of `MLP.fit` that choose a method."""

    alpha: float | Schedule
    optimizer: Optimizer | None
    batch_size: int | None
    shuffle: str | bool | None
    l2: float
    clip_norm: float | None

    @property
    def rate(self) -> str:
        """The argument that sets the step size; empty if none does."""
        if self.optimizer is None:
            return Alpha.name
        return "" if isinstance(self.optimizer, LBFGS) else LearningRate.name

    def warning(self, m: int) -> str:
        """Return what to tell the user if ``m`` samples do not fill a batch, else an empty text."""
        if self.batch_size is None or self.batch_size <= m:
            return ""
        got, expected = f"{self.batch_size} for {m} samples", f"at most {m}"
        remedy = "all samples are one batch, as with batch_size=None: pass a smaller one"
        return checks.message("batch_size", got, expected, remedy)

    def method(self, problem: Problem, epochs: int, seed: int) -> Method:
        """Return the method.

        Parameters
        ----------
        problem : Problem
            What to train.
        epochs : int
            Number of epochs, for schedules.
        seed : int
            Seed of the batches.
        """
        m, optimizer = problem.samples.w.size, self.optimizer
        batch_size = self.batch_size if self.batch_size is not None and self.batch_size < m else None
        shuffle = problem.samples.x.shuffle if self.shuffle is None else self.shuffle
        identity = self._identity(batch_size, shuffle)
        if isinstance(optimizer, LBFGS):
            return Minimization(problem, optimizer, self.l2, identity)
        if batch_size is None and optimizer is None and self.l2 == 0 and self.clip_norm is None:
            return Descent(problem, Alpha(self.alpha))
        if batch_size is None:
            return FullBatch(problem, self._updates(optimizer, epochs), identity)
        problem.samples.x.check_shuffle(shuffle)
        batches = Batches(m, batch_size, shuffle, seed, problem.samples.x.block)
        updates = self._updates(optimizer, epochs * batches.per_epoch)
        return Minibatches(problem, updates, batches, epochs, identity)

    def _updates(self, optimizer: SGD | Adam | None, count: int) -> Updates:
        rates: Rates = Alpha(self.alpha) if optimizer is None else LearningRate(optimizer.learning_rate, count)
        return Updates(optimizer or SGD(), rates, self.l2, self.clip_norm or 0.0)

    def _identity(self, batch_size: int | None, shuffle: str | bool) -> dict[str, str]:
        return {
            "optimizer": "None" if self.optimizer is None else self.optimizer.describe(),
            "batch_size": str(batch_size),
            "shuffle": "None" if batch_size is None else str(shuffle),
            "l2": repr(self.l2),
            "clip_norm": repr(self.clip_norm),
        }


def choose(
    alpha: float | Schedule | None,
    optimizer: Optimizer | None,
    batch_size: int | None,
    shuffle: str | bool | None,
    l2: float,
    clip_norm: float | None,
) -> Choice:
    """Check the arguments of `MLP.fit` that choose a method."""
    if optimizer is not None:
        _check_optimizer(optimizer, alpha, batch_size, clip_norm)
    return Choice(
        _alpha(alpha),
        optimizer,
        None if batch_size is None else checks.count_or_none("batch_size", batch_size),
        _shuffle(shuffle),
        checks.nonnegative("l2", l2, "pass a small penalty such as 1e-4, or 0"),
        None if clip_norm is None else checks.positive("clip_norm", clip_norm, "pass a norm such as 1, or None"),
    )


def _alpha(value: float | Schedule | None) -> float | Schedule:
    if value is None:
        return _ALPHA
    return value if callable(value) else float(checks.learning_rate("alpha", value, negative=False))


def _check_optimizer(optimizer: object, alpha: object, batch_size: object, clip_norm: object) -> None:
    if not isinstance(optimizer, (SGD, Adam, LBFGS)):
        got, expected = f"{type(optimizer).__name__} {optimizer!r:.40}", "SGD, Adam, AdamW or LBFGS, or None"
        remedy = "pass an object such as fastmlp.optimizers.Adam(learning_rate=1e-3)"
        raise TypeError(checks.message("optimizer", got, expected, remedy))
    name = type(optimizer).__name__
    if alpha is not None:
        got, expected = f"{alpha} beside an optimizer", "one of both"
        remedy = f"pass {name}(learning_rate=...)"
        if isinstance(optimizer, LBFGS):
            remedy = "leave it out: L-BFGS finds its step sizes itself"
        raise ValueError(checks.message("alpha", got, expected, remedy))
    for argument, value in (("batch_size", batch_size), ("clip_norm", clip_norm)):
        if isinstance(optimizer, LBFGS) and value is not None:
            got = f"{value} beside {name}"
            remedy = "leave it out, or take another optimizer"
            raise ValueError(checks.message(argument, got, "None: L-BFGS searches along the whole gradient", remedy))


def _shuffle(value: Any) -> str | bool | None:
    if value is None or (isinstance(value, bool) and not value):
        return value
    if not isinstance(value, str) or value not in ("samples", "batches", "blocks"):
        expected = "one of 'samples', 'batches', 'blocks', False"
        raise ValueError(checks.message("shuffle", repr(value), expected, "pass one of these"))
    return value
