"""The updates for which rows of the first layer wait: see `batch_rows`."""

import math
from typing import Any

import numpy as np

from fastmlp.kernels import rules, vector


def limit(dtype: Any) -> float:
    """Return the limit of parameters and momentum: what is below it stays finite while it waits, see `stay_finite`."""
    return 2.0 ** (np.finfo(dtype).maxexp // 2)


def is_within(one: Any, most: float) -> bool:
    """Return whether no number of a vector is larger than the limit, or NaN."""
    return bool(-most <= one.min() and one.max() <= most)


def stay_finite(rule: rules.Rule, numbers: Any) -> bool:
    """Return whether a row that is below the limit stays finite during these updates (u, 4) without a gradient.

    A full pass stops before the first update that makes a parameter infinite. A row that waits would be found too late,
    so it may only wait where this cannot happen. In float32 the limit is 2^64, and numbers are finite up to 2^128.

    Adam: while the gradient is zero, or with the penalty's alone, abs(m) <= c sqrt(v), by Cauchy and Schwarz, with
    c = (1 - first) / sqrt((1 - second) (1 - first^2 / second)); where v underflows, m is below c 2^-60. So updates move
    a parameter by at most c (step / scale + 1), if eps is not below 2^-60.

    Descent: let b = step / (1 - first). The sum of abs(p) and b abs(v) grows by a factor of at most 1 + 3 b scale l2.
    """
    if not (np.isfinite(numbers).all() and (numbers >= 0).all()):
        return False
    step, scale, keep, l2 = numbers.max(axis=0, initial=0)
    if keep > 1:
        return False
    if rule.kind == rules.ADAM:
        least = numbers[:, 1].min(initial=1)
        if rule.first**2 >= rule.second or least == 0 or rule.eps < 2.0**-60:
            return False
        most = (1 - rule.first) / math.sqrt((1 - rule.second) * (1 - rule.first**2 / rule.second))
        return bool(len(numbers) * most * step * (1 / least + 1) <= 2.0**60)
    most = step / (1 - rule.first)
    return bool(most <= 2.0**30 and len(numbers) * 3 * most * scale * l2 <= 20)  # exp(20) < 2^30


def unchanging_share(rule: rules.Rule, numbers: Any) -> float:
    """Return a share of a parameter: once Adam moves it by less, it stays what it is during all of these updates.

    NaN is returned where there is none. While the gradient is zero, m / (scale sqrt(v) + eps) falls by a factor of at
    least first / sqrt(second), apart from a changed scale. So no later step is larger, but for the ratios of steps and
    scales, and a parameter does not change by less than a fourth of its last place. Where eps is not below 2^-39, it
    makes no difference that v becomes zero when it underflows.
    """
    step, scale, keep, l2 = numbers.T.astype(np.float64)
    plain = rule.kind == rules.ADAM and rule.first**2 < rule.second and rule.eps >= 2.0**-39
    if not (plain and len(step) and min(step.min(), scale.min()) > 0 and (keep == 1).all() and (l2 == 0).all()):
        return math.nan
    ratio = step.max() / step.min() * scale.max() / scale.min()
    return float(np.finfo(numbers.dtype).eps / 16 / ratio)


class Window:
    """Updates of runs, all by the same rule, for which rows may still wait.

    Attributes
    ----------
    rule : rules.Rule or None
    share : float (u,)
    numbers : float (u, 4)
        Of each update, as `batch.Run` has them.
    idle : bool
        Whether the updates change nothing where the gradient is zero.
    current : int32 (features,)
        How many of the updates each row has had; of idle ones nobody counts.
    """

    def __init__(self, features: int, dtype: Any) -> None:
        self._dtype = dtype
        self.current = np.zeros(features, np.int32)
        self.clear()

    def clear(self) -> None:
        """Begin again, with no updates."""
        self.rule: rules.Rule | None = None
        self.idle = False
        self.share, self.numbers = np.empty(0, self._dtype), np.empty((0, vector.NUMBERS), self._dtype)
        self.current[:] = 0

    def takes(self, rule: rules.Rule, numbers: Any) -> bool:
        """Return whether rows may wait for updates with these numbers (u, 4) too."""
        if self.rule is None:
            self.idle = are_idle(rule, numbers)
        elif self.rule != rule or self.idle != are_idle(rule, numbers):
            return False
        return stay_finite(rule, np.concatenate((self.numbers, numbers)).astype(np.float64))

    def extended(self, share: Any, numbers: Any) -> tuple[Any, Any]:
        """Return the shares and numbers of all updates, with more of them behind."""
        return np.concatenate((self.share, share)), np.concatenate((self.numbers, numbers))

    def extend(self, rule: rules.Rule, share: Any, numbers: Any) -> None:
        """Take updates, which some rows have had."""
        self.rule, (self.share, self.numbers) = rule, self.extended(share, numbers.astype(self._dtype))


def are_idle(rule: rules.Rule, numbers: Any) -> bool:
    """Return whether updates with these numbers (u, 4) change nothing where the gradient is zero."""
    plain = rule.kind == rules.SGD and rule.first == 0
    return plain and bool((numbers[:, 2] == 1).all() and (numbers[:, 3] == 0).all())
