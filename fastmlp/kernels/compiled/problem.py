"""The problem of a step: a net with packed parameters, samples with their targets, and the memory of workers."""

import threading
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import gradients, tuning
from fastmlp.kernels.compiled.losses import LOSSES, Targets, losses_at, no_targets
from fastmlp.kernels.compiled.memory import aligned_parts, contiguous, identity_index, may_be_kept
from fastmlp.kernels.compiled.operands import LISTED, Packed, Rooms, Step
from fastmlp.kernels.compiled.plan import BY_OUTPUT, Plan, all_dense, layer_plan, no_input
from fastmlp.kernels.compiled.rooms import hidden_groups, make_rooms
from fastmlp.kernels.compiled.tree import tiling
from fastmlp.kernels.compiled.weights import pack_parameters
from fastmlp.kernels.nets import Net
from fastmlp.kernels.scores import hit_scales


class Problem(NamedTuple):
    """A step on m samples with its plan, and its input: a packed X, or plain rows and an empty X."""

    step: Step
    plan: Plan
    x: Packed
    rows: Any


def targets(y: Any, weight: Any, dtype: Any, net: Net, scales: Any = None) -> Targets:
    """Return labels (m,) or targets (C, m), and weights (m,), of a net's loss, as kernels take them.

    ``scales`` are those of `scores.hit_scales`, if not of these targets.
    """
    every = hit_scales(net.loss, y, weight) if scales is None else scales
    kind = LOSSES[net.loss].kind(dtype, every, net.most)
    labels, rows, *_ = no_targets(dtype)
    at = losses_at(dtype)
    if y.ndim == 1:
        return Targets(contiguous(y, np.int64), rows, contiguous(weight, dtype), 1, kind, at)
    return Targets(labels, contiguous(y.T, dtype), contiguous(weight, dtype), 0, kind, at)


def make_problem(
    parameters: Any, net: Net, m: int, x: Any, first_layer: int = 0, *, dense: bool | None = None
) -> Problem:
    """Return a problem with the packed parameters from a layer on, and no targets.

    ``dense`` says whether all tiles of the whole matrix are dense, if x does not.
    """
    problem = unpacked_problem(parameters.dtype, net, m, x, dense=dense)
    step = problem.step
    return problem._replace(step=step._replace(finite=pack(parameters, step, first_layer)))


def unpacked_problem(dtype: Any, net: Net, m: int, x: Any, *, dense: bool | None = None) -> Problem:
    """Return a problem with room for its parameters."""
    x, rows = (x, None) if isinstance(x, Packed) else (no_input(dtype, net.sizes[0], m), x)
    tiles = tiling(m, x.whole)
    plan = layer_plan(net, dtype.itemsize, tiles.most, all_dense(x) if dense is None else dense, rows is not None)
    packed, panels = aligned_parts(dtype, plan.parameters, plan.panels)
    none, identity = np.empty(0, dtype), identity_index(max(*net.sizes, tiles.most) + vector.GROUP)
    step = Step(
        plan.layers, packed, panels, identity, 0, tiles.start, len(tiles.start) - 1, tiles.most,
        tiles.per_leaf, tiles.leaf, m, 0, no_targets(dtype), none.reshape(0, 1), 0,
        0 if rows is None else LISTED, 0, none, none, 0, plan.at,
    )  # fmt: skip
    return Problem(step, plan, x, rows)


def pack(parameters: Any, step: Step, first_layer: int) -> int:
    """Pack the parameters from a layer on; return whether all are finite."""
    finite = np.empty(1, np.int64)
    pack_parameters.launch(1, step.weights, step.panels, finite, parameters, step.layers, first_layer)
    return int(finite[0])


_kept = threading.local()  # the rooms of a thread's last step, if they are small, and what they are for


def rooms_of(workers: int, problem: Problem) -> Rooms:
    """Return the rooms of each worker for a problem: those of this thread's last one, if it was alike and small."""
    key = workers, problem.step.tile, problem.rows is None, problem.step.weights.dtype
    plan, last, kept = getattr(_kept, "rooms", (None, None, None))
    rooms: Rooms = kept
    # Plans are cached, so that of the same net is the same object.
    if plan is not problem.plan or last != key:
        rooms = _made_rooms(workers, problem)
        _kept.rooms = (problem.plan, key, rooms) if may_be_kept(*rooms) else (None, None, None)
    return rooms


def _made_rooms(workers: int, problem: Problem) -> Rooms:
    layers, dtype = problem.plan.layers, problem.step.weights.dtype
    groups, n, tile = hidden_groups(layers, dtype.itemsize), int(layers[0]["n_in"]), problem.step.tile
    back, skipping = (0, 0), (1, 1)
    if problem.rows is not None:
        groups.append((tuning.COPIED_ROWS // vector.GROUP, n))
        back = (n, tile)
    for layer in layers:
        if layer["gradient"] == BY_OUTPUT:
            needed = gradients.skipping_lists(tile, int(layer["n_out"]), dtype.itemsize)
            skipping = (max(skipping[0], needed[0]), max(skipping[1], needed[1]))
    return make_rooms(workers, dtype, problem.plan.scratch, groups, back, skipping)
