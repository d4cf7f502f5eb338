"""L-BFGS with a line search for the strong Wolfe conditions.

The algorithms are those of J. Nocedal and S. Wright, Numerical optimization, second edition, 2006: 7.4 (the two loops
of L-BFGS), 3.5 (line search) and 3.6 (zoom).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

LossAndGrad: TypeAlias = Callable[[Array], tuple[float, float]]

# The strong Wolfe conditions, with the book's constants for quasi-Newton methods: the decrease of the loss is at least
# this share of that along the tangent at the start, and the slope is at most that share of the slope at the start.
_DECREASE, _CURVATURE = 1e-4, 0.9
_MOST_EVALUATIONS = 20  # in one line search, as in L-BFGS-B
_EPS = float(np.finfo(np.float64).eps)


class Minimizer:
    """L-BFGS, iteration by iteration.

    Dot products are sums in float64 in a fixed order: the same problem gives the same bits with any number of threads.

    Parameters
    ----------
    loss_and_grad : callable
        Writes the gradient at the current content of ``parameters`` into its argument (n,), of the same dtype; returns
        loss and score there.
    parameters : ndarray, shape (n,), float32 or float64
        Where the search begins; each iteration changes them in place.
    history : int
        The number of previous iterations from which the curvature is estimated, at least 1.
    tolerance : float
        The search has converged once no entry of the gradient is larger.

    Attributes
    ----------
    stopped : str
        Why the parameters no longer change: ``"converged"``, ``"line search"`` (it finds no lower loss, often because
        rounding hides it) or ``"not finite"`` (the loss or its gradient at the current parameters); else empty.
    evaluations : int
        The number of calls of ``loss_and_grad``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.lbfgs import Minimizer
    >>> x = np.array([3.0, -4.0])
    >>> def loss_and_grad(gradient):
    ...     gradient[...] = x * [1, 10]
    ...     return float(x @ gradient) / 2, 0.0
    >>> minimizer = Minimizer(loss_and_grad, x, history=10)
    >>> while not minimizer.stopped:
    ...     loss, _ = minimizer.iterate()
    >>> minimizer.stopped, bool(abs(x).max() < 1e-7)
    ('converged', True)
    """

    def __init__(self, loss_and_grad: LossAndGrad, parameters: Array, history: int, tolerance: float = 1e-7) -> None:
        self._loss_and_grad, self._parameters = loss_and_grad, parameters
        self._history, self._tolerance = history, tolerance
        self._pairs: list[_Pair] = []
        self._here: _Point | None = None
        self.stopped, self.evaluations = "", 0

    def iterate(self) -> tuple[float, float]:
        """Do one iteration; return loss and score at the parameters before it.

        The first iteration evaluates these, too. Once the search has stopped, the parameters stay as they are.
        """
        here = self._here = self._here or self._evaluate(0.0, None)
        self.stopped = self.stopped or self._reason_to_stop(here)
        if not self.stopped:
            found = self._search(here)
            if found is None and self._pairs:
                # The estimate of the curvature may be wrong: try the direction of the gradient.
                self._pairs.clear()
                found = self._search(here)
            self._here = found or here
            self.stopped = self._reason_to_stop(found) if found else "line search"
        return here.loss, here.score

    def state(self) -> dict[str, Array]:
        """Return copies of all arrays that the next iterations depend on, besides the parameters.

        Returns
        -------
        dict of str to ndarray
            ``s`` and ``y`` (k, n), the last k changes of the parameters and of the gradient, oldest first;
            ``gradient`` (n,); float64 ``scores`` (2,), loss and score. Empty before the first iteration.
        """
        here, parameters = self._here, self._parameters
        if here is None:
            return {}
        s, y = (np.empty((len(self._pairs), parameters.size), parameters.dtype) for _ in range(2))
        for at, pair in enumerate(self._pairs):
            s[at], y[at] = pair.s, pair.y
        scores = np.array([here.loss, here.score], np.float64)
        return {"s": s, "y": y, "gradient": here.gradient.copy(), "scores": scores}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Continue from a state, and from the parameters that belong to it, which the caller restores.

        Raises
        ------
        ValueError
            If an array does not fit the parameters or the other arrays.
        KeyError
            If an array is missing.
        """
        self._pairs, self._here, self.stopped = [], None, ""
        if not state:
            return
        n, dtype, double = self._parameters.size, self._parameters.dtype, np.dtype(np.float64)
        s, y, gradient, scores = (state[name] for name in ("s", "y", "gradient", "scores"))
        expected = [(s, (len(s), n), dtype), (y, (len(s), n), dtype), (gradient, (n,), dtype), (scores, (2,), double)]
        for array, *form in expected:
            if [array.shape, array.dtype] != form:
                raise ValueError(f"an array of shape {array.shape} and dtype {array.dtype} in the state of L-BFGS")
        self._here = _Point(0.0, float(scores[0]), 0.0, float(scores[1]), gradient.copy())
        for one, other in zip(s, y, strict=True):
            self._remember(one.copy(), other.copy())

    def _evaluate(self, step: float, direction: Array | None) -> "_Point":
        """Return the point at the current parameters, a step along a direction; a loss of NaN counts as infinite."""
        gradient = np.empty_like(self._parameters)
        loss, score = map(float, self._loss_and_grad(gradient))
        self.evaluations += 1
        slope = 0.0 if direction is None else _dot(gradient, direction)
        if not (math.isfinite(loss) and math.isfinite(slope)):
            loss = math.inf
        return _Point(step, loss, slope, score, gradient)

    def _reason_to_stop(self, here: "_Point") -> str:
        largest = float(np.max(np.abs(here.gradient)))
        if not math.isfinite(here.loss + largest):
            return "not finite"
        return "converged" if largest <= self._tolerance else ""

    def _search(self, here: "_Point") -> "_Point | None":
        """Move the parameters to a lower loss and return that point, or leave them as they are and return None."""
        direction = quietly(self._direction, here.gradient)
        slope = _dot(here.gradient, direction)
        if not -math.inf < slope < 0:
            return None
        origin = self._parameters.copy()

        def along(step: float) -> _Point:
            quietly(_move, self._parameters, origin, step, direction)
            return self._evaluate(step, direction)

        # Without pairs, the direction is the negative gradient, whose length says nothing about that of a good step.
        first = 1.0 if self._pairs else 1 / max(1.0, math.sqrt(-slope))
        found = _line_search(along, here._replace(step=0.0, slope=slope), first)
        if found is None:
            np.copyto(self._parameters, origin)
            return None
        quietly(_move, self._parameters, origin, found.step, direction)
        quietly(self._remember, self._parameters - origin, found.gradient - here.gradient)
        return found

    def _direction(self, gradient: Array) -> Array:
        """Return the direction (n,) of the search: the two loops of algorithm 7.4, in float64."""
        q, shares = gradient.astype(np.float64), []
        for pair in reversed(self._pairs):
            shares.append(_dot(pair.s, q) / pair.curvature)
            q -= np.multiply(pair.y, shares[-1], dtype=np.float64)
        if self._pairs:
            latest = self._pairs[-1]
            q *= latest.curvature / _dot(latest.y, latest.y)
        for pair, share in zip(self._pairs, reversed(shares), strict=True):
            q += np.multiply(pair.s, share - _dot(pair.y, q) / pair.curvature, dtype=np.float64)
        return np.negative(q, out=q)

    def _remember(self, s: Array, y: Array) -> None:
        """Add a pair, unless the curvature along it is not positive, and drop the oldest beyond ``history``."""
        curvature, largest = _dot(s, y), _dot(y, y)
        if curvature > _EPS * largest > 0:
            self._pairs = [*self._pairs, _Pair(s, y, curvature)][-self._history :]


class _Pair(NamedTuple):
    """Changes of the parameters and the gradient (n,) in one iteration, and their dot product."""

    s: Array
    y: Array
    curvature: float


class _Point(NamedTuple):
    """The loss, its slope, the score and the gradient (n,) a step along the direction of a search."""

    step: float
    loss: float
    slope: float
    score: float
    gradient: Array


def _line_search(along: Callable[[float], _Point], start: _Point, step: float) -> _Point | None:
    """Return a point that satisfies the strong Wolfe conditions, by algorithm 3.5.

    If evaluations run out, the point need not satisfy the second condition; None if there is none.
    """
    previous = start
    for left in reversed(range(_MOST_EVALUATIONS)):
        point = along(step)
        if not _falls(point, start, previous):
            return _zoom(along, start, previous, point, left)
        if abs(point.slope) <= -_CURVATURE * start.slope:
            return point
        if point.slope >= 0:
            return _zoom(along, start, point, previous, left)
        step, previous = _beyond(previous, point), point
    return previous


def _zoom(along: Callable[[float], _Point], start: _Point, low: _Point, high: _Point, left: int) -> _Point | None:
    """Return a point between two others, by algorithm 3.6; of these, ``low`` has the lower loss."""
    for _ in range(left):
        point = along(_between(low, high))
        if not _falls(point, start, low):
            high = point
            continue
        if abs(point.slope) <= -_CURVATURE * start.slope:
            return point
        if point.slope * (high.step - low.step) >= 0:
            high = low
        low = point
    return low if low.step > 0 else None


def _falls(point: _Point, start: _Point, lowest: _Point) -> bool:
    """Return whether a point has a lower loss, and one that satisfies the first of the strong Wolfe conditions."""
    return point.loss < lowest.loss and point.loss <= start.loss + _DECREASE * point.step * start.slope


def _beyond(previous: _Point, point: _Point) -> float:
    """Return the step to try next where the loss is still falling, within the bounds of MINPACK-2's line search."""
    width = point.step - previous.step
    lowest = _cubic_minimum(previous, point)
    if not lowest > point.step:
        return point.step + 4 * width
    return min(max(lowest, point.step + 1.1 * width), point.step + 4 * width)


def _between(low: _Point, high: _Point) -> float:
    """Return the step to try between two points, not too close to either: the interval has to shrink."""
    ends = sorted((low.step, high.step))
    lowest, margin = _cubic_minimum(low, high), 0.1 * (ends[1] - ends[0])
    if not ends[0] < lowest < ends[1]:
        return (ends[0] + ends[1]) / 2
    return min(max(lowest, ends[0] + margin), ends[1] - margin)


def _cubic_minimum(one: _Point, other: _Point) -> float:
    """Return the minimum of the cubic with the losses and slopes at two points (equation 3.59), or NaN."""
    width = other.step - one.step
    chord = one.slope + other.slope - 3 * (other.loss - one.loss) / width if width else math.nan
    radicand = chord * chord - one.slope * other.slope
    if not radicand >= 0:
        return math.nan
    root = math.copysign(math.sqrt(radicand), width)
    bottom = other.slope - one.slope + 2 * root
    return other.step - width * (other.slope + root - chord) / bottom if bottom else math.nan


def _move(parameters: Array, origin: Array, step: float, direction: Array) -> None:
    np.copyto(parameters, origin + step * direction, casting="same_kind")


def _dot(a: Array, b: Array) -> float:
    """Return the dot product of two vectors (n,); not by BLAS, whose sum depends on the number of threads."""
    return float(quietly(np.add.reduce, quietly(np.multiply, a, b, dtype=np.float64)))
