"""Parts of the samples: packed and summed by themselves, they give the bits of all samples at once."""

import itertools

import numpy as np
import pytest
from compare import FORMS, assert_same_bits, matrix_of

import fastmlp
from fastmlp import backend as backend_module
from fastmlp.kernels import nets, rules, scores, tree
from fastmlp.kernels.parts import Part

pytestmark = pytest.mark.kernels


class Whole:
    """A step and the logits of all samples at once, and by parts of so many leaves."""

    def __init__(self, rng, form, m, dtype, loss, n=30):
        self.kernels = backend_module.kernels()
        self.x, self.m = matrix_of(rng, form, n, m, dtype), m
        self.table = np.arange(256, dtype=dtype) / 255
        self.net = nets.Net((n, 9, 4), ("relu",), loss)
        self.parameters = fastmlp.MLP(self.net.sizes, dtype=dtype.name, seed=1).parameters
        self.y = rng.integers(4, size=m) if loss == "cross_entropy" else rng.random((4, m)).astype(dtype)
        self.weight = rng.random(m).astype(dtype)
        self.leaf = self.kernels.leaf_size(m, n)
        self.leaves = -(-m // self.leaf)

    def packed(self, first=0, stop=None):
        some = slice(first * self.leaf, self.m if stop is None else stop * self.leaf)
        return some, self.kernels.operands(self.kernels.pack(self.x[:, some], self.m), self.table)

    def at_once(self):
        gradient, logits = np.empty_like(self.parameters), np.empty((4, self.m), self.parameters.dtype)
        _, x = self.packed()
        sums = self.kernels.network_step(gradient, self.parameters, self.net, x, self.y, self.weight)
        self.kernels.network_logits(logits, self.parameters, self.net, x)
        return gradient, sums, logits

    def by_parts(self, cuts):
        """Return the same, each part summed as by a process of its own."""
        scales = scores.hit_scales(self.net.loss, self.y, self.weight)
        parts = [(first, stop, *self.packed(first, stop)) for first, stop in itertools.pairwise(cuts)]
        dense = all(self.kernels.all_dense(x) for *_, x in parts)
        logits = np.empty((4, self.m), self.parameters.dtype)
        gradients, counts, of_leaves = {}, [], 0
        for first, stop, some, x in parts:
            sums = self.kernels.begin_parts(self.parameters, self.net, self.m, dense=dense)
            part = Part(first, self.y[..., some], self.weight[some], scales)
            self.kernels.enter(sums, self.net, x, part)
            self.kernels.accumulate(sums, first, stop)
            nodes, sums_of_leaves = self.kernels.nodes(sums)
            of_leaves = of_leaves + sums_of_leaves
            for node, gradient in nodes:
                counts.append(node)
                gradients[node[0]] = gradient.copy()
            out = np.empty((4, some.stop - some.start if some.stop <= self.m else self.m - some.start), logits.dtype)
            self.kernels.network_logits(out, self.parameters, self.net, x, dense=dense)
            logits[:, some] = out
        pairs, left = tree.folds(counts, self.leaves)
        assert len(left) == 1
        for one, other in pairs:
            gradients[one] += gradients[other]
        sums = self.kernels.begin_parts(self.parameters, self.net, self.m, dense=dense)
        self.kernels.complete(sums, gradients[0], of_leaves)
        gradient = np.empty_like(self.parameters)
        return gradient, self.kernels.finish(gradient, sums), logits


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("form", FORMS)
def test_parts_give_the_bits_of_all_samples_at_once(backend, rng, dtype, form, loss, monkeypatch):
    monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 150)
    whole = Whole(rng, form, 2501, dtype, loss)
    assert whole.leaves > 10
    gradient, sums, logits = whole.at_once()
    for parts in (1, 2, 3, 7):
        cuts = [whole.leaves * k // parts for k in range(parts + 1)]
        actual = whole.by_parts(cuts)
        assert_same_bits(actual[0], gradient)
        assert actual[1] == sums
        assert_same_bits(actual[2], logits)
    actual = whole.by_parts(range(whole.leaves + 1))
    assert_same_bits(actual[0], gradient)
    assert actual[1] == sums


def test_one_process_may_enter_several_parts(backend, rng, dtype, monkeypatch):
    monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 150)
    whole = Whole(rng, "uint8", 3000, dtype, "cross_entropy")
    gradient, expected, _ = whole.at_once()
    kernels, none = whole.kernels, scores.hit_scales(whole.net.loss, whole.y, whole.weight)
    sums = kernels.begin_parts(whole.parameters, whole.net, whole.m, dense=False)
    for first, stop in reversed(list(itertools.pairwise([0, 2, 5, whole.leaves]))):
        some, x = whole.packed(first, stop)
        kernels.enter(sums, whole.net, x, Part(first, whole.y[some], whole.weight[some], none))
        kernels.accumulate(sums, first, stop)
    actual = np.empty_like(gradient)
    assert kernels.finish(actual, sums) == expected
    assert_same_bits(actual, gradient)


@pytest.mark.numba
def test_a_small_part_of_many_leaves_is_shared_by_all_threads(compiled, rng, monkeypatch):
    """Not a node for the part, which one thread would then sum alone."""
    whole, found = Whole(rng, "uint8", 12_000, np.dtype("float32"), "cross_entropy"), []
    nodes = tree.nodes
    monkeypatch.setattr(tree, "nodes", lambda *words: found.append(nodes(*words)) or found[-1])
    some, x = whole.packed(8, 16)
    sums = compiled.begin_parts(whole.parameters, whole.net, whole.m, dense=False)
    scales = scores.hit_scales(whole.net.loss, whole.y, whole.weight)
    compiled.enter(sums, whole.net, x, Part(8, whole.y[some], whole.weight[some], scales))
    with fastmlp.use_threads(1):
        compiled.accumulate(sums, 8, 16)
    assert [len(one) for one in found] == [8]


def test_few_samples_are_one_leaf(compiled):
    for m in (1, 120, 121, 2000):
        assert compiled.leaf_size(m, 30) == m
    assert compiled.leaf_size(2001, 30) < 200
    assert 0.9 < compiled.leaf_size(10**7, 30) / compiled.tuning.FULL_LEAF < 1.1


@pytest.mark.parametrize("density", [0.05, 1.0])
def test_training_goes_on_with_other_samples(backend, rng, dtype, density):
    """Updates on batches of one part and then of another are those on batches of all samples."""
    kernels, n, m = backend_module.kernels(), 40, 300
    x = (rng.standard_normal((n, m)) * (rng.random((n, m)) < density)).astype(dtype)
    net = nets.Net((n, 9, 4), ("relu",), "squared_error")
    parameters = fastmlp.MLP(net.sizes, dtype=dtype.name, seed=1).parameters
    y, weight, table = rng.random((4, m)).astype(dtype), rng.random(m).astype(dtype), np.ones(256, dtype)
    rule, state = rules.Rule(rules.SGD, first=0.9), np.zeros_like(parameters)
    numbers = np.array([rules.Numbers(0.01)] * 30, np.float64)
    order, ends = np.arange(m, dtype=np.int32), np.arange(10, m + 1, 10)

    def listed(some):
        return kernels.operands(kernels.list_samples(x[:, some], density), table)

    trainer = kernels.begin_training([parameters, state], net, listed(slice(None)), y, weight)
    expected = kernels.train(trainer, order, ends, rule, numbers)
    scales = scores.hit_scales(net.loss, y, weight)
    some = [slice(0, 110), slice(110, m)]
    parts = [(listed(one), y[:, one], weight[one]) for one in some]
    divided = kernels.begin_training([parameters, state], net, *parts[0], scales)
    sums = [kernels.train(divided, order[:110], ends[:11], rule, numbers[:11])]
    kernels.enter_training(divided, *parts[1])
    sums.append(kernels.train(divided, order[:190], ends[:19], rule, numbers[11:]))
    assert_same_bits(np.concatenate(sums), expected)
    for one, other in zip(kernels.training_vectors(divided), kernels.training_vectors(trainer), strict=True):
        assert_same_bits(one, other)
