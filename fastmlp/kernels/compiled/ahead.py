"""Kernels that are compiled ahead by a second process: which ones come after another, on next to no work."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp.kernels import internals
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.activations import relu
from fastmlp.kernels.compiled.cost import cross_entropy
from fastmlp.kernels.compiled.elementwise import one_hot, output_delta, update
from fastmlp.kernels.compiled.inputs import operands
from fastmlp.kernels.compiled.losses import softmax_columns, softmax_cross_entropy_grad
from fastmlp.kernels.compiled.network import backward, network_logits, network_step
from fastmlp.kernels.compiled.operands import Lists, Packed
from fastmlp.kernels.compiled.packing import pack
from fastmlp.kernels.compiled.plan import no_input
from fastmlp.kernels.compiled.problem import unpacked_problem
from fastmlp.kernels.compiled.runtime import STAMP
from fastmlp.kernels.compiled.sums import Sums
from fastmlp.kernels.compiled.tree import tiling
from fastmlp.kernels.nets import Net
from fastmlp.kernels.vector import target

_NET = Net((1, 1), ())
_SAMPLES = tuning.FEW_SAMPLES + 1


def _zeros(dtype: Any) -> Packed:
    """Return packed samples of zeros, made without a kernel."""
    tiles = len(tiling(_SAMPLES, _SAMPLES).start) - 1
    empty, lists = no_input(dtype, 1, _SAMPLES), np.zeros(_SAMPLES, np.int64)

    def without_entries(one: Lists) -> Lists:
        return one._replace(start=lists, stop=lists)

    return empty._replace(
        order=np.arange(_SAMPLES, dtype=np.int32), dense_start=np.full(tiles, -1),
        forward=without_entries(empty.forward), backward=without_entries(empty.backward),
    )  # fmt: skip


def _step(dtype: Any) -> None:
    """Compile what a step needs; its longest kernel first, while the other process compiles those before it."""
    parameters, labels, weight = np.ones(2, dtype), np.zeros(_SAMPLES, np.int64), np.ones(_SAMPLES, dtype)
    packed = operands(_zeros(dtype), np.ones(256, dtype))
    problem = unpacked_problem(dtype, _NET, _SAMPLES, packed)
    # Of no tile, because the code for losses, which the other process needs first, is not there yet.
    sums = Sums(problem._replace(step=problem.step._replace(tiles=0)))
    sums.add(0, sums.leaves)
    network_step(parameters.copy(), parameters, _NET, packed, labels, weight)
    update(parameters.copy(), parameters, parameters, parameters.dtype.type(0))


def _end_of_step(dtype: Any) -> None:
    problem = unpacked_problem(dtype, _NET, _SAMPLES, _zeros(dtype))
    sums = Sums(problem)
    sums.complete(np.zeros_like(problem.step.weights), np.ones((sums.leaves, 3)))
    sums.finish(np.zeros(2, dtype))


def _outputs(dtype: Any) -> None:
    m = tuning.FEW_DENSE_SAMPLES + 1
    network_logits(np.zeros((1, m), dtype), np.ones(2, dtype), _NET, np.ones((m, 1), dtype))


def _scores(dtype: Any) -> None:
    x = np.ones((1, 1), dtype)
    one_hot(x.copy(), np.zeros(1, np.int64))
    softmax_cross_entropy_grad(x.copy(), x[0].copy(), x[0].copy(), x, x, x[0])
    softmax_columns(x.copy(), x)


def _gradient(dtype: Any) -> None:
    rows = np.ones((_SAMPLES, 1), dtype)
    backward(1, np.ones((1, 1), dtype), rows, rows.T, rows.T, rows.T)


def _cost(dtype: Any) -> None:
    x = np.ones((1, 1), dtype)
    softmax_columns(x.copy(), x)
    cross_entropy(x, x)
    relu(x[0].copy(), x[0])
    output_delta(x.copy(), x, x)
    update(x[0].copy(), x[0], x[0], x.dtype.type(0))


def _packing(dtype: Any) -> None:
    for kind in (dtype, np.dtype(np.uint8)):
        pack((np.arange(_SAMPLES)[None] == 0).astype(kind))


# By the first kernel that is compiled, see `fastmlp.companion`.
PLANS: dict[str, tuple[Callable[[Any], None], ...]] = {
    "_fill": (_step, _outputs, _scores),
    "_accumulate": (_outputs, _scores, _packing),
    "run_updates": (_outputs, _packing, _scores),
    "_one_hot": (_gradient, _outputs, _cost),
}


def settings() -> str:
    """Return a digest of all that decides the code of kernels: two processes share theirs only if it is the same.

    The cache's keys hold most of it, but not what a program changes in a Numba that it has imported, or in constants,
    as ``benchmarks.tuning`` does.
    """
    numba = internals.TRIPLE, internals.PROCESSOR, sorted(internals.FEATURES), internals.CODE_FLAGS
    constants = [
        (name, value)
        for module in (tuning, target)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, (int, float, tuple))  # not sets, which processes write in any order
    ]
    found = STAMP, constants, *numba, sorted(set(internals.missing))
    return hashlib.sha256(repr(found).encode()).hexdigest()


def work_ahead(first: str, dtype: Any) -> None:
    """Compile the kernels that are likely to be needed after ``first``, for ``dtype``, the most urgent ones first."""
    for stage in PLANS.get(first, ()):
        stage(dtype)


def work_meanwhile(name: str, dtype: Any) -> None:
    """Compile what comes after a kernel that another process is at: the end of a step, after its sums."""
    if name == "_accumulate":
        _end_of_step(np.dtype(dtype))
