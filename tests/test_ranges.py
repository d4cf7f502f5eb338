"""Sums over ranges of samples: however the leaves are split and in whatever order they come, the bits are the same."""

import doctest
import itertools
import random

import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp
from fastmlp import backend as backend_module
from fastmlp.kernels import tree
from fastmlp.kernels.nets import relu_net

pytestmark = pytest.mark.kernels

# Features, samples, density, and whether the input is uint8; each backend cuts samples into leaves of its own.
FORMS = {
    "uint8": (21, 4500, 0.3, True),
    "uint8 of few samples": (21, 50, 0.3, True),
    "sparse": (21, 4500, 0.2, False),
    "dense": (300, 4500, 1.0, False),
    "mixed": (60, 4500, None, False),
    "few": (21, 77, 0.3, False),
    "few and dense": (90, 1500, 1.0, False),
    "one leaf": (9, 121, 0.3, False),
}
KINDS = {"sparse": "sparse", "dense": "dense", "mixed": "mixed", "few": "dense", "few and dense": "dense"}


def packed(rng, form, dtype):
    n, m, density, coded = FORMS[form]
    if fastmlp.get_backend() == "numpy":
        n = min(n, 60)  # more features make other tiles of the Numba backend only, and wake the threads of BLAS
    x = rng.integers(1, 256, size=(n, m)).astype(np.uint8)
    if density is None:  # the first half is dense
        x[:, m // 2 :] *= rng.random((n, m - m // 2)) < 0.1
    else:
        x *= rng.random((n, m)) < density
    return fastmlp.pack(x, scale=1 / 255) if coded else fastmlp.pack(x / 255, dtype=dtype.name)


class Step:
    """A step on packed samples with soft targets or labels, and weights, in one go or over ranges."""

    def __init__(self, rng, form, dtype, sizes, *, soft):
        self.packed = packed(rng, form, dtype)
        n, m = self.packed.shape
        self._net = relu_net((n, *sizes))
        self.parameters = fastmlp.MLP(self._net.sizes, dtype=dtype.name, seed=1).parameters
        y = rng.random((sizes[-1], m)).astype(dtype) if soft else rng.integers(sizes[-1], size=m)
        self._problem = self.packed.operands(dtype), y, (rng.random(m) + 0.5).astype(dtype)
        self.kernels = backend_module.kernels()
        starts = self.kernels.leaf_starts(self._problem[0])
        assert (starts[0], starts[-1]) == (0, m)
        assert (np.diff(starts) > 0).all()
        self.leaves = len(starts) - 1

    def _finished(self, finish):
        gradient = np.full_like(self.parameters, np.nan)
        return gradient, finish(gradient)

    def whole(self):
        arguments = self.parameters, self._net, *self._problem
        return self._finished(lambda gradient: self.kernels.network_step(gradient, *arguments))

    def begun(self):
        return self.kernels.begin(self.parameters, self._net, *self._problem)

    def over(self, ranges):
        sums = self.begun()
        for first, stop in ranges:
            self.kernels.accumulate(sums, first, stop)
        return self._finished(lambda gradient: self.kernels.finish(gradient, sums))


def splits(leaves):
    """Yield ranges that make up the leaves: 1, 2, 3 and 7 of them, each boundary at least once as a cut; every leaf."""
    yield [(0, leaves)]
    inner = range(1, leaves)
    for parts in (2, 3, 7):
        left = list(inner)
        random.Random(parts).shuffle(left)
        while left and parts <= leaves:
            cuts, left = left[: parts - 1], left[parts - 1 :]
            others = [cut for cut in inner if cut not in cuts]
            cuts += random.Random(len(left)).sample(others, parts - 1 - len(cuts))
            yield list(itertools.pairwise([0, *sorted(cuts), leaves]))
    yield [(leaf, leaf + 1) for leaf in range(leaves)]


def orders(ranges):
    """Yield the ranges as they ascend, as they descend, and shuffled."""
    yield ranges
    if len(ranges) > 1:
        yield ranges[::-1]
        yield random.Random(len(ranges)).sample(ranges, len(ranges))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_ranges_in_any_order_give_the_bits_of_a_step(backend, rng, dtype, form, soft, monkeypatch):
    if backend == "numpy":
        monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 260)  # of 4096 samples there would be two leaves
    step = Step(rng, form, dtype, (9, 4), soft=soft)
    if backend == "numba":
        assert step.packed.kind == KINDS.get(form, step.packed.kind)
    many = step.packed.shape[1] == 4500
    assert step.leaves > 8 if many else step.leaves < 7
    gradient, sums = step.whole()
    assert np.isfinite(gradient).all()
    cut = set()
    for ranges in splits(step.leaves):
        cut |= {first for first, _ in ranges}
        for ordered in orders(ranges):
            actual, actual_sums = step.over(ordered)
            assert actual_sums == sums, ordered
            assert_same_bits(actual, gradient)
    assert cut == set(range(step.leaves))


@pytest.mark.parametrize("sizes", [(3,), (130, 129, 5), (1, 2), (9, 3, 4, 2)])
def test_ranges_of_nets_of_any_depth(backend, rng, dtype, sizes, monkeypatch):
    monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 700)
    for form in ("uint8", "dense"):
        step = Step(rng, form, dtype, sizes, soft=False)
        gradient, sums = step.whole()
        for ranges in splits(step.leaves):
            if len(ranges) in (3, step.leaves):
                actual, actual_sums = step.over(ranges[::-1])
                assert actual_sums == sums
                assert_same_bits(actual, gradient)


@pytest.mark.parametrize("threads", [1, 2])
def test_ranges_on_other_threads_than_the_step(backend, rng, dtype, threads):
    if (backend_module.kernels().max_threads() or 2) < 2:
        pytest.skip("one thread only")
    step = Step(rng, "sparse", dtype, (9, 4), soft=True)
    with fastmlp.use_threads(3 - threads if backend == "numba" else threads):
        gradient, sums = step.whole()
    with fastmlp.use_threads(threads):
        for ranges in splits(step.leaves):
            actual, actual_sums = step.over(ranges[::-1])
            assert actual_sums == sums
            assert_same_bits(actual, gradient)


@pytest.mark.parametrize("form", ["uint8", "mixed", "few", "uint8 of few samples"])
def test_sums_are_not_finished_before_all_leaves_are_there(backend, rng, dtype, form, monkeypatch):
    monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 260)
    step = Step(rng, form, dtype, (9, 4), soft=False)
    missing = [[]]
    if "few" not in form:
        assert step.leaves > 8
        missing += [[(0, step.leaves - 1)], [(1, step.leaves)], [(0, 1), (2, step.leaves)], [(0, 2)], [(4, 8), (0, 2)]]
    for ranges in missing:
        sums = step.begun()
        for first, stop in ranges:
            step.kernels.accumulate(sums, first, stop)
        with pytest.raises(ValueError, match="not all leaves have been added"):
            step.kernels.finish(np.empty_like(step.parameters), sums)


# ---- The tree by itself ----

LEAVES = [*range(1, 20), 31, 32, 33, 63, 64, 65]
MOST = 64  # leaves of a node that is asked for


def naive_tree(leaves):
    """Return {(first, count): its sum, written out} of each node of the tree, and of what would be above its root."""
    level = {(leaf, 1): f"{leaf}" for leaf in range(leaves)}
    found, count = dict(level), 1
    while count < max(leaves, MOST):
        count *= 2
        above = {}
        for first in range(0, leaves, count):
            left, right = level[first, count // 2], level.get((first + count // 2, count // 2))
            above[first, count] = f"({left}+{right})" if right else left
        level = above
        found |= level
    return found


@pytest.mark.parametrize("leaves", LEAVES)
def test_nodes_are_the_fewest_that_make_up_a_range(leaves):
    known = naive_tree(leaves)
    for first, stop in itertools.combinations(range(leaves + 1), 2):
        for largest in (1, 2, 8, MOST):
            found = tree.nodes(first, stop, leaves, largest)
            assert all(node in known and node[1] <= largest for node in found)
            ends = [min(begin + count, leaves) for begin, count in found]
            assert [begin for begin, _ in found] == [first, *ends[:-1]]
            assert ends[-1] == stop
            fits = [node for node in known if node[1] <= largest and first <= node[0] and
                    min(sum(node), leaves) <= stop]  # fmt: skip
            for begin, count in found:  # each node is within no larger one that would fit
                inside = (one for one in fits if one[0] <= begin and begin + count <= sum(one))
                assert all(one[1] <= count or min(sum(one), leaves) == min(begin + count, leaves) for one in inside)


@pytest.mark.parametrize("leaves", LEAVES)
def test_folds_make_the_same_sum_for_any_cuts_in_any_order(leaves):
    known, draw = naive_tree(leaves), random.Random(leaves)
    root = max(known, key=lambda node: node[1])
    for cuts in range(min(leaves, 9)):
        ends = [0, *sorted(draw.sample(range(1, leaves), cuts)), leaves]
        ranges = list(itertools.pairwise(ends))
        draw.shuffle(ranges)
        sums, counts = {}, {}
        for first, stop in ranges:
            for node in tree.nodes(first, stop, leaves, draw.choice([1, 2, 4, MOST])):
                sums[node[0]], counts[node[0]] = known[node], node[1]
            if draw.random() < 0.5:  # folded on the way, or only at the end
                fold(sums, counts, leaves)
                assert all(sums[one] == known[one, count] for one, count in counts.items())
        fold(sums, counts, leaves)
        assert counts == {0: counts[0]}
        assert counts[0] >= leaves
        assert sums == {0: known[root]}


def fold(sums, counts, leaves):
    given = list(counts.items())
    random.Random(len(given)).shuffle(given)
    pairs, left = tree.folds(given, leaves)
    for one, other in pairs:
        sums[one] = f"({sums[one]}+{sums.pop(other)})"
    counts.clear()
    counts.update(left)
    assert sorted(counts) == sorted(sums)


def test_no_fold_is_left_out():
    """What is left has no two siblings: more additions than pairs would be needed later on."""
    for leaves in LEAVES:
        given = [(leaf, 1) for leaf in range(leaves)]
        pairs, left = tree.folds(given, leaves)
        assert len(pairs) == leaves - 1
        assert len(left) == 1
    assert tree.folds([(0, 1), (2, 2)], 4) == ([], [(0, 1), (2, 2)])


def test_the_examples_of_the_tree_run():
    result = doctest.testmod(tree)
    assert result.attempted >= 2
    assert result.failed == 0
