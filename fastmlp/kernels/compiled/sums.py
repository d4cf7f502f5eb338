"""Sums over ranges of leaves: workers add packed gradients of subtrees, and the mean is taken once, at the end."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import tree, vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.losses import Targets
from fastmlp.kernels.compiled.memory import aligned_parts, fill_zeros, may_be_kept
from fastmlp.kernels.compiled.operands import UNLISTED, Packed, Step
from fastmlp.kernels.compiled.plain_rows import steps_of_rows
from fastmlp.kernels.compiled.problem import Problem, pack, rooms_of
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.step import (
    add_given_leaf,
    add_leaf,
    copy_hidden,
    forward_first,
    forward_hidden,
    open_work,
)
from fastmlp.kernels.compiled.tree import add_top, fold_own, leaf_starts, tiling, worker_shares
from fastmlp.kernels.compiled.weights import Gradients, unpack_gradient


class _Nodes(NamedTuple):
    """Subtrees to be summed, one packed gradient of ``size`` elements for each.

    Attributes
    ----------
    bounds : int64 (n, 2)
        The first leaf and the number of leaves: a node of `tree`.
    folded : int64 (n, LINE_NUMBERS)
        See `tree.fold_own`.
    shares : int64 (workers, LINE_NUMBERS)
        Each begins with the next node of a worker's share, and the end of the share.
    stack : float (workers, k)
        A gradient for each level above the leaves.
    leaves, size : int
    """

    bounds: Any
    folded: Any
    shares: Any
    stack: Any
    leaves: int
    size: int


@body
def _next_node(nodes, worker, workers):
    """Return the next node for a worker, or -1 if there is none."""
    # Our own share first: its data is still in this core's cache from the previous step. Then nodes that slower workers
    # have left.
    for turn in range(workers):
        at = (worker + turn) % workers * nodes.shares.columns
        if nodes.shares.start[at] < nodes.shares.start[at + 1]:
            node = vector.fetch_add(nodes.shares.start, at)
            if node < nodes.shares.start[at + 1]:
                return node
    return np.int64(-1)


@body
def _leaves_of(nodes, node):
    """Return the first leaf of a node and the end."""
    at = node * nodes.bounds.columns
    first = nodes.bounds.start[at]
    return first, min(first + nodes.bounds.start[at + 1], nodes.leaves)


@body
def _place(nodes, bottom, stack, done):
    """Return the gradient, set to zero, of the next leaf of a node, of which so many leaves are ``done``.

    The stack has a gradient for each complete subtree of those, the first of which is at the bottom.
    """
    gradient, top = bottom, np.int64(vector.population_count(np.uint64(done)))
    if top > 0:
        gradient = vector.address(stack, (top - 1) * nodes.size)
    fill_zeros(gradient, 0, nodes.size)
    return gradient


@body
def _fold_stack(nodes, bottom, stack, done, last):
    """Add the gradients of siblings, when so many leaves of a node are ``done``; all of them after the ``last``."""
    top = np.int64(vector.population_count(np.uint64(done - 1)))
    subtree = done
    while subtree % 2 == 0:
        add_top(bottom, stack, top, nodes.size)
        top -= 1
        subtree //= 2
    if last:
        for level in range(top, 0, -1):
            add_top(bottom, stack, level, nodes.size)


@kernel()
def _accumulate(gradients, nodes, sums, rooms, x, step, worker, workers):
    work, stack = open_work(step, x, rooms, worker), vector.address(nodes.stack.start, worker * nodes.stack.columns)
    node = _next_node(nodes, worker, workers)
    while node >= 0:
        bottom, (first, stop) = vector.address(gradients, node * nodes.size), _leaves_of(nodes, node)
        for leaf in range(first, stop):
            gradient = _place(nodes, bottom, stack, leaf - first)
            add_leaf(work, gradient, vector.address(sums.start, leaf * sums.columns), leaf - step.first)
            _fold_stack(nodes, bottom, stack, leaf - first + 1, leaf == stop - 1)
        fold_own(gradients, nodes.folded, nodes.bounds, node, nodes.size, worker)
        node = _next_node(nodes, worker, workers)


# A kernel of its own, so that the first step of a network does not wait for its compilation. The loops are written
# twice because Numba does not cache a function that is given another one as an argument.
@kernel()
def _accumulate_given(gradients, nodes, rooms, x, step, worker, workers):
    work, stack = open_work(step, x, rooms, worker), vector.address(nodes.stack.start, worker * nodes.stack.columns)
    node = _next_node(nodes, worker, workers)
    while node >= 0:
        bottom, (first, stop) = vector.address(gradients, node * nodes.size), _leaves_of(nodes, node)
        for leaf in range(first, stop):
            gradient = _place(nodes, bottom, stack, leaf - first)
            add_given_leaf(work, gradient, leaf)
            _fold_stack(nodes, bottom, stack, leaf - first + 1, leaf == stop - 1)
        fold_own(gradients, nodes.folded, nodes.bounds, node, nodes.size, worker)
        node = _next_node(nodes, worker, workers)


@kernel()
def _outputs(out, z, a, rooms, x, step, worker, workers):
    """Set ``out`` (C, m) to the logits, and z and a (m, h), unless they are empty, to the first layer's outputs."""
    work = open_work(step, x, rooms, worker)
    last = step.layers[len(step.layers) - 1]
    before, stop = np.int64(0), step.m
    if step.plain > 0 and step.across == 0:  # the rows of whole leaves
        before, stop = step.base // step.leaf * step.leaf_tiles, step.base + step.rows.rows
    tiles = min(-(-stop // step.leaf) * step.leaf_tiles, step.tiles) - before
    for tile in range(before + tiles * worker // workers, before + tiles * (worker + 1) // workers):
        first = step.tile_start[tile]
        length = step.tile_start[tile + 1] - first
        forward_first(work, tile, first, length)
        if z.rows > 0:
            for s in range(length):
                copy_hidden(work, z, a, first + s if step.plain > 0 else np.int64(x.order[first + s]), s)
        forward_hidden(work, length)
        for s in range(length):
            j = first + s if step.plain > 0 else np.int64(x.order[first + s])
            logits = vector.part(work.room.scratch, last.at_z + s * last.ld, last.n_out)
            for c in range(last.n_out):
                out.start[c * out.columns + j] = logits[c]


class Sums:
    """Sums over some leaves of one step: gradients of nodes of the tree, and loss, hits and weight of each leaf.

    Attributes
    ----------
    leaves : int
        Of the tree over all samples.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._size = len(problem.step.weights)
        self.leaves = -(-problem.x.whole // problem.step.leaf)
        self._of_leaves = np.zeros((self.leaves, tuning.LINE_NUMBERS))
        self._nodes: dict[int, tuple[int, int]] = {}  # by first leaf: the number of leaves, and the row of the gradient
        self._gradients = self._stack = np.empty(0, problem.step.weights.dtype)

    @property
    def small(self) -> bool:
        """Whether all that it holds is small enough to be kept for the next step."""
        x, step = self._problem.x, self._problem.step
        own = self._gradients, self._stack, self._of_leaves, step.weights, step.panels
        return may_be_kept(*own, *x, *x.forward, *x.backward)

    def restart(self, parameters: Any, wanted: Targets) -> None:
        """Begin again, with other parameters and targets of the same net and samples, in the same memory."""
        problem = self._problem
        finite = pack(parameters, problem.step, 0)
        self._problem = problem._replace(step=problem.step._replace(finite=finite, targets=wanted))
        self._of_leaves.fill(0)
        self._nodes = {}

    def enter(self, x: Packed, wanted: Targets, first: int) -> None:
        """Take the leaves that are added next from x, whose first one has the number ``first``."""
        m = len(x.order)
        tiles = tiling(m, x.whole)
        step = self._problem.step._replace(
            tile_start=tiles.start, tiles=len(tiles.start) - 1, m=m, first=first, targets=wanted
        )
        self._problem = self._problem._replace(x=x, step=step)

    def add(self, first: int, stop: int) -> None:
        """Add the leaves ``first`` to below ``stop``, which x has, and which must not be there yet."""
        workers = min(usable_threads(), stop - first)
        added, bounds, levels = _nodes_of(first, stop, self.leaves, workers)
        before = self._fold()
        lower, upper = ([one for one in before if (one < first) == below] for below in (True, False))
        count, size = len(before) + len(added), self._size
        gradients, stack = self._memory(count * size, workers * levels * size, keep=not before)
        folded = np.zeros((len(added), tuning.LINE_NUMBERS), np.int64)
        nodes = _Nodes(bounds, folded, None, stack.reshape(workers, -1), self.leaves, size)
        # Rows in the order of the leaves: the sum over all will be in the first one.
        k, end = len(lower), len(lower) + len(added)
        self._launch(workers, gradients[k * size : end * size], nodes)
        self._gradients, self._stack, self._nodes = gradients, stack, {}
        for at, one in [*enumerate(lower), *enumerate(upper, end)]:
            leaves, gradients[at * size : (at + 1) * size] = before[one]
            self._nodes[one] = leaves, at
        reached = first
        for at, ((one, _), number) in enumerate(zip(added, folded[:, 0].tolist(), strict=True), k):
            if one >= reached:  # else it was folded into its sibling on the way
                leaves = number // tuning.FOLDED
                self._nodes[one], reached = (leaves, at), one + leaves

    def _memory(self, gradients: int, stack: int, *, keep: bool) -> tuple[Any, Any]:
        """Return arrays of so many elements: the present ones, which may then be overwritten, if those are to keep."""
        if keep and len(self._gradients) == gradients and len(self._stack) == stack:
            return self._gradients, self._stack
        made, other = aligned_parts(self._gradients.dtype, gradients, stack)
        return made, other

    def _launch(self, workers: int, gradients: Any, nodes: _Nodes) -> None:
        problem, rooms = self._problem, rooms_of(workers, self._problem)
        if not problem.step.given:
            ready = nodes._replace(shares=worker_shares(0, len(nodes.bounds), workers).copy())
            _accumulate.launch(workers, gradients, ready, self._of_leaves, rooms, problem.x, problem.step)
            return
        for k, stop, step in self._batches(nodes.bounds):
            ready = nodes._replace(shares=worker_shares(k, stop, workers).copy())
            _accumulate_given.launch(workers, gradients, ready, rooms, problem.x, step)

    def _batches(self, bounds: Any) -> Iterator[tuple[int, int, Step]]:
        """Yield nodes k to below l with their step: all of them at once, unless plain rows have to be copied."""
        problem, step = self._problem, self._problem.step
        if problem.rows is None:
            yield 0, len(bounds), step
            return
        starts = np.minimum(np.append(bounds[:, 0], bounds[-1].sum()) * step.leaf, step.m)
        yield from steps_of_rows(problem.rows, step, starts)

    def _fold(self) -> dict[int, tuple[int, Any]]:
        """Return the nodes with their gradients, siblings added."""
        size = self._size
        pairs, left = self._folds()
        rows = {first: self._gradients[k * size : (k + 1) * size] for first, (_, k) in self._nodes.items()}
        for one, other in pairs:
            rows[one] += rows[other]
        return {first: (count, rows[first]) for first, count in left}

    def nodes(self) -> tuple[list[tuple[tree.Node, Any]], Any]:
        """Return the nodes of the tree that the leaves make up so far, each with its gradient, and the sums of leaves.

        The gradients are in one form in all sums of a net over as many samples; leaves that are missing have sums 0.
        """
        folded = self._fold()
        return [((first, count), gradient) for first, (count, gradient) in folded.items()], self._of_leaves[:, :3]

    def complete(self, gradient: Any, of_leaves: Any) -> None:
        """Take the gradient of the whole tree, in the form of `nodes`, and the sums of all leaves."""
        self._gradients = gradient
        self._nodes = {0: (self.leaves, 0)}
        self._of_leaves[:, :3] = of_leaves

    def finish(self, gradient: Any) -> tuple[float, float, float]:
        """Set the flat vector to the mean gradient; return the sums of loss, weight of hits, weight of all leaves."""
        problem = self._problem
        loss, hit, total = np.add.reduce(self._of_leaves[:, :3], axis=0).tolist()
        if problem.step.given:  # without weights
            total = float(problem.step.m)
        pairs, left = self._folds()
        if len(left) != 1 or left[0][0] != 0 or left[0][1] < self.leaves:
            raise ValueError("not all leaves have been added")
        rows = np.array([[self._nodes[first][1] for first in pair] for pair in pairs], np.int64).reshape(-1, 2)
        workers = 1 if len(self._gradients) < tuning.PARALLEL_SIZE else usable_threads()
        mean = gradient.dtype.type(total)
        gradients = Gradients(self._gradients, self._size, rows, problem.x.places)
        unpack_gradient.launch(workers, gradient, gradients, problem.plan.layers, mean)
        return loss, hit, total

    def _folds(self) -> tuple[Sequence[tuple[int, int]], Sequence[tree.Node]]:
        """Return what `tree.folds` does of the nodes."""
        if not self._nodes:
            return (), ()
        return _folds_of(tuple((first, count) for first, (count, _) in self._nodes.items()), self.leaves)


@functools.lru_cache(maxsize=64)
def _folds_of(nodes: tuple[tree.Node, ...], leaves: int) -> tuple[list[tuple[int, int]], list[tree.Node]]:
    return tree.folds(list(nodes), leaves)


@functools.lru_cache(maxsize=64)
def _nodes_of(first: int, stop: int, leaves: int, workers: int) -> tuple[list[tree.Node], Any, int]:
    """Return nodes to sum, also as an array, which kernels only read, and their levels above the leaves."""
    largest = 1
    while stop - first > tuning.NODES_PER_WORKER * workers * largest:
        largest *= 2
    found = tree.nodes(first, stop, leaves, largest)
    return found, np.array(found, np.int64), largest.bit_length() - 1


def _are_mostly_dense(rows: Any) -> bool:
    """Return whether lists of the rows (m, n) would save less time than they take, by a few of them."""
    some = rows[:: -(-len(rows) // tuning.COPIED_ROWS)]
    return bool(np.count_nonzero(some) > tuning.DENSE_SHARE * some.size)


def outputs(problem: Problem, out: Any, z: Any, a: Any) -> None:
    """Set ``out`` (C, m) to the logits, and z and a (m, h), unless they are empty, to the first layer's outputs."""
    step = problem.step
    workers = min(usable_threads(), -(-step.m // step.tile))
    rooms = rooms_of(workers, problem)
    if problem.rows is not None and _are_mostly_dense(problem.rows):
        step = step._replace(plain=UNLISTED)
    if problem.rows is None:
        _outputs.launch(workers, out, z, a, rooms, problem.x, step)
        return
    starts = leaf_starts(step.m, problem.x.whole)
    for _, _, some in steps_of_rows(problem.rows, step, starts):
        _outputs.launch(workers, out, z, a, rooms, problem.x, some)
