"""The comparison that ``fastmlp bench`` prints: fastmlp against the notebook's formulas, on the user's own data."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import backend, checks, formulas, notebook
from fastmlp.model import MLP
from fastmlp.packing import scaled
from fastmlp.packs import pack
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Step: TypeAlias = Callable[[], tuple[Any, ...]]  # takes one training step; returns cost and gradients

_ALPHA = 0.1
# Largest difference from the formulas, relative to their largest entry, of a step that is timed.
_TOLERANCE = {"float64": 1e-10, "float32": 1e-3}
_ROUNDS = 3, 25  # at least, at most
_AT_LEAST = 0.02  # seconds of one timing, which repeats short steps


@dataclass(frozen=True)
class Row:
    """One way to take a training step: cost, all gradients and the update.

    Attributes
    ----------
    name : str
        Its name.
    difference : float
        Largest difference of cost and gradients from the formulas', relative to the largest entry of each.
    megabytes : float
        Memory of the input plus the peak memory of one step, in 10^6 bytes.
    milliseconds : float or None
        Median time of a step; None if it was not timed because its result differs.
    speedup, low, high : float or None
        Median and quartiles of the formulas' time over the time of this row, measured in turn.
    """

    name: str
    difference: float
    megabytes: float
    milliseconds: float | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        start = f"{self.name:35}{self.megabytes:9.1f} MB{self.difference:12.1e}  "
        if self.milliseconds is None:
            return f"{start}differs: not timed"
        return f"{start}{self.milliseconds:9.3f} ms {self.speedup:7.2f} x ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`; ``str`` makes a table of it.

    Attributes
    ----------
    net, dtype : str
        Layer sizes such as ``"784-128-10"``, and the dtype of the computation.
    samples : int
        Number of samples m.
    density : float
        Share of the entries of X that are non-zero.
    backend, blas : str
        fastmlp's backend, and the BLAS libraries of the process, which compute the formulas' products.
    threads, rounds : int
        Number of threads, the same for all rows, and of timings per row.
    rows : tuple of Row
        The formulas, then fastmlp.
    """

    net: str
    dtype: str
    samples: int
    density: float
    backend: str
    blas: str
    threads: int
    rounds: int
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.net}, {self.dtype}, {self.samples} samples, {self.density:.1%} of X non-zero",
                f"{self.backend} backend, threads: {self.threads}; BLAS: {self.blas}",
                f"{'one step':35}{'memory':>12}{'difference':>12}{'time':>14}{'speed-up (quartiles)':>23}",
                *map(str, self.rows),
                f"medians of {self.rounds} rounds, measured in turn",
            )
        )

    def to_json(self) -> str:
        """Return all attributes as a JSON object; a non-finite difference becomes null.

        Returns
        -------
        str
            The attributes as keys; ``rows`` is a list of objects.

        Examples
        --------
        >>> from fastmlp.bench import Comparison
        >>> Comparison("1-1-2", "float64", 1, 1.0, "numpy", "openblas", 1, 3, ()).to_json()[:33]
        '{"net": "1-1-2", "dtype": "float6'
        """
        everything = dataclasses.asdict(self)
        for row in everything["rows"]:
            row["difference"] = row["difference"] if math.isfinite(row["difference"]) else None
        return json.dumps(everything)


def compare(
    X: ArrayLike,
    Y: ArrayLike,
    scale: float | None = None,
    hidden: int = 128,
    dtype: str = "float64",
    seconds: float = 20.0,
) -> Comparison:
    """Compare fastmlp with the notebook's formulas in NumPy, on one training step of a net with one hidden layer.

    Checks that costs and gradients agree, which also compiles the kernels, then times all in turn, so that other load
    on the machine affects them alike.

    Parameters
    ----------
    X : array_like, shape (n_features, m)
        uint8 or other real numbers; columns are samples.
    Y : array_like of int, shape (m,)
        Labels, counted from 0.
    scale : float, optional
        Positive factor for all values, as in `fastmlp.pack`.
    hidden : int
        Width of the hidden layer.
    dtype : {"float64", "float32"}
        The dtype of the computation.
    seconds : float
        Approximate time to measure, without compiling; at least three rounds are taken.

    Returns
    -------
    Comparison
        Its rows are the formulas, fastmlp's functions on the same arrays, and `fastmlp.MLP` on packed input.

    Raises
    ------
    ValueError
        If shapes do not match, an array is empty, a label is negative, the scale, width, dtype or duration is out of
        range, or the formulas overflow on this data.
    TypeError
        If an array does not hold real numbers or the width is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.bench import compare
    >>> found = compare(np.eye(4), [0, 1, 0, 1], hidden=3, seconds=0.1)
    >>> found.net, [row.difference < 1e-10 for row in found.rows]
    ('4-3-2', [True, True, True])
    """
    budget = checks.positive("seconds", seconds, "pass a duration such as 10")
    x = checks.packable("X", X)
    labels = checks.labels("Y", Y, 2**31, x.shape[1])
    kind = checks.float_dtype("dtype", dtype)
    model = MLP((len(x), hidden, int(labels.max()) + 1), dtype=kind.name, init="notebook")
    steps, held, density = _steps(model, x, labels, scale)
    expected = _result(steps[0])
    if not all(np.isfinite(part).all() for part in expected):
        got = f"values up to {np.max(np.abs(x)):.3g}"
        expectation = "data on which the plain formulas stay finite"
        raise ValueError(checks.message("X", got, expectation, "scale it; for uint8 images, pass scale=1/255"))
    # The formulas' BLAS uses fastmlp's number of threads too.
    rows, rounds = backend.call_with_blas(_rows, steps, held, expected, budget)
    return Comparison(
        net="-".join(map(str, model.layer_sizes)),
        dtype=kind.name,
        samples=x.shape[1],
        density=density,
        backend=backend.get_backend(),
        blas=_blas(),
        threads=backend.get_num_threads(),
        rounds=rounds,
        rows=rows,
    )


_NAMES = "the notebook's formulas, NumPy", "fastmlp's functions, same arrays", "fastmlp.MLP, packed input"


def _rows(
    steps: list[Step], held: list[int], expected: tuple[Array, Array], budget: float
) -> tuple[tuple[Row, ...], int]:
    """Return the rows and the number of rounds; a step with a different result is not timed."""
    differences = [_difference(_result(step), expected) for step in steps]
    memory = [(size + _peak(step)) / 1e6 for size, step in zip(held, steps, strict=True)]
    same = [difference <= _TOLERANCE[expected[1].dtype.name] for difference in differences]
    times = _times([step for step, fits in zip(steps, same, strict=True) if fits], budget)
    timings = iter([_summary(times[0], taken) for taken in times])
    rows = tuple(
        Row(name, difference, size, *(next(timings) if fits else ()))
        for name, difference, size, fits in zip(_NAMES, differences, memory, same, strict=True)
    )
    return rows, len(times[0])


def _steps(model: MLP, x: Array, labels: Array, scale: float | None) -> tuple[list[Step], list[int], float]:
    """Return the three steps, the bytes of their inputs, and the density."""
    packed = pack(x, scale=scale, dtype=None if x.dtype == np.uint8 else model.dtype.name)
    plain = scaled(np.asarray(x, model.dtype), 1.0 if scale is None else scale)
    y = formulas.one_hot(labels, model.layer_sizes[-1]).astype(model.dtype, copy=False)
    held = plain.nbytes + y.nbytes
    steps = [
        _notebook_step(formulas, model, plain, y),
        _notebook_step(notebook, model, plain, y),
        _packed_step(model, packed, labels),
    ]
    return steps, [held, held, packed.nbytes + labels.nbytes], packed.density


def _notebook_step(functions: Any, model: MLP, x: Array, y: Array) -> Step:
    (w1, w2), (b1, b2) = model.weights, model.biases

    def iterate() -> tuple[Any, ...]:
        a1, z1, a2, z2 = functions.Forwardprop(x, w1, w2, b1, b2)
        cost = functions.compute_cost(a2, y)
        gradients = functions.backward_prop(z1, a1, z2, a2, w1, w2, x, y)
        functions.update_params(w1, b1, w2, b2, *gradients, _ALPHA)
        return cost, *gradients

    def step() -> tuple[Any, ...]:
        # NumPy warns if the formulas overflow; fastmlp's functions never warn.
        return quietly(iterate) if functions is formulas else iterate()

    return step


def _packed_step(model: MLP, packed: Any, labels: Array) -> Step:
    def step() -> tuple[Any, ...]:
        cost, gradient = model.loss_and_grad(packed, labels)
        backend.kernels().update(np.empty_like(gradient), model.parameters, gradient, model.dtype.type(_ALPHA))
        return cost, gradient

    return step


def _result(step: Step) -> tuple[Array, Array]:
    """Return the cost and the flat gradient."""
    cost, *gradients = step()
    return np.asarray(cost, np.float64), np.concatenate([part.ravel() for part in gradients])


def _difference(actual: tuple[Array, Array], expected: tuple[Array, Array]) -> float:
    return max(
        float(np.max(np.abs(a - e))) / (float(np.max(np.abs(e))) or 1.0) for a, e in zip(actual, expected, strict=True)
    )


def _peak(step: Step) -> int:
    """Return the peak memory of one step in bytes; NumPy reports its allocations to tracemalloc."""
    traced = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        step()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not traced:
            tracemalloc.stop()


def _times(steps: list[Step], budget: float) -> list[list[float]]:
    """Return the seconds of each step, for as many rounds as fit into the budget."""
    repeats = []
    for step in steps:
        _settle()
        _warm_up(step)
        repeats.append(_warm_up(step))
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + budget
    while len(times[0]) < _ROUNDS[0] or (time.perf_counter() < end and len(times[0]) < _ROUNDS[1]):
        for step, count, taken in zip(steps, repeats, times, strict=True):
            taken.append(_seconds(step, count))
    return times


def _seconds(step: Step, repeats: int) -> float:
    _settle()
    _warm_up(step)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats


def _warm_up(step: Step) -> int:
    """Take steps for the time of one timing, and return their number: threads just woken up may share a core."""
    count, end = 0, time.perf_counter() + _AT_LEAST
    while count == 0 or time.perf_counter() < end:
        step()
        count += 1
    return count


def _settle(most: float = 1.0) -> None:
    """Wait until no thread of this process runs: idle BLAS threads spin for a while and would slow the next step."""
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.002:
            return


def _summary(baseline: list[float], taken: list[float]) -> tuple[float, float, float, float]:
    """Return the median in milliseconds, and the median and quartiles of the baseline's times over these times."""
    low, median, high = statistics.quantiles([b / t for b, t in zip(baseline, taken, strict=True)], n=4)
    return 1e3 * statistics.median(taken), median, low, high


def _blas() -> str:
    config = backend.show_config(mode="dicts") or {}
    forced = os.environ.get("OPENBLAS_CORETYPE")
    return config["BLAS"] + (f"; limited to {forced} by OPENBLAS_CORETYPE: unset it for full speed" if forced else "")
