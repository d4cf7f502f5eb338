"""Optimizers: ten updates against naive ones, 200 against PyTorch's and scikit-learn's, and refusals."""

import dataclasses
import math
import pickle

import naive
import numpy as np
import pytest
import threadpoolctl
from compare import F8, TOLERANCE, assert_close, relative_difference

import fastmlp
from fastmlp import parameters
from fastmlp.kernels import rules
from fastmlp.kernels.nets import relu_net
from fastmlp.optimizers import LBFGS, SGD, Adam, AdamW
from fastmlp.schedules import one_cycle, rate_at

SIZES = (6, 7, 5, 3)
BATCH = 9


def naive_sgd(p, g, state, t, rate, momentum=0.0, nesterov=False):
    v = state["v"] = momentum * state.get("v", 0.0) + g
    return p - rate * (g + momentum * v if nesterov else v)


def naive_adam(p, g, state, t, rate, beta1=0.9, beta2=0.999, epsilon=1e-8, early=False, decay=0.0):
    m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g * g
    unbiased = m / (1 - beta1**t)
    if early:  # the step is that of an epsilon that is corrected with the root
        root = math.sqrt(v / (1 - beta2**t)) + epsilon / math.sqrt(1 - beta2**t)
    else:
        root = math.sqrt(v / (1 - beta2**t)) + epsilon
    return p - rate * decay * p - rate * unbiased / root


BEFORE = "before_correction"
# Each optimizer with its naive update of one parameter.
CASES = {
    "SGD": (SGD(0.3), naive_sgd, {}),
    "momentum": (SGD(0.1, momentum=0.8), naive_sgd, {"momentum": 0.8}),
    "nesterov": (SGD(0.1, 0.8, nesterov=True), naive_sgd, {"momentum": 0.8, "nesterov": True}),
    "Adam": (Adam(0.02), naive_adam, {}),
    "Adam, constants": (Adam(0.02, 0.7, 0.95, 1e-2), naive_adam, {"beta1": 0.7, "beta2": 0.95, "epsilon": 1e-2}),
    "Adam, early": (
        Adam(0.02, 0.7, 0.95, 1e-2, BEFORE),
        naive_adam,
        {"beta1": 0.7, "beta2": 0.95, "epsilon": 1e-2, "early": True},
    ),
    "Adam without averages": (Adam(0.02, 0, 0), naive_adam, {"beta1": 0, "beta2": 0}),
    "AdamW": (AdamW(0.02, weight_decay=0.3), naive_adam, {"decay": 0.3}),
    "AdamW, early": (
        AdamW(0.02, epsilon=1e-3, epsilon_placement=BEFORE, weight_decay=0.3),
        naive_adam,
        {"epsilon": 1e-3, "early": True, "decay": 0.3},
    ),
    "one cycle": (AdamW(one_cycle(0.05, warmup=0.3)), naive_adam, {"decay": 0.01}),
}


def numbers_of(optimizer, update, rate, l2=0.0):
    """Return the numbers of one update."""
    found = optimizer.numbers(range(update, update + 1), [rate])._replace(l2=l2)
    return [float(np.squeeze(one)) for one in found]


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("many", [1, 7, 900])
def test_corrections_of_adam_are_those_of_each_update(beta1, many):
    """Also where powers are lost in the 1 they are taken from, which is not asked for each update."""
    for first in range(1, 900, many):
        updates = range(first, first + many)
        step, scale, *_ = Adam(beta1=beta1, beta2=0.999).numbers(updates, [0.25] * many)
        assert step.tolist() == [0.25 / (1 - beta1**update) for update in updates]
        assert scale.tolist() == [1 / math.sqrt(1 - 0.999**update) for update in updates]


class Batches:
    """Samples, initial parameters, and the batches of some updates."""

    def __init__(self, rng, updates):
        self.x, self.updates = rng.standard_normal((SIZES[0], 40)), updates
        self.labels, self.weight = rng.integers(SIZES[-1], size=40), rng.random(40) + 0.1
        self.start = rng.standard_normal(parameters.size(SIZES)) / 2
        self.order = rng.integers(40, size=updates * BATCH).astype(np.int32)
        self.is_weight = np.zeros(self.start.size)
        for weight, _ in parameters.layers(self.is_weight, SIZES):
            weight[...] = 1

    def __iter__(self):
        return iter(self.order.reshape(self.updates, BATCH))

    def train(self, reference, optimizer, l2=0.0, clip=0.0):
        """Return the parameters after the updates of the reference."""
        rates = [rate_at(optimizer.learning_rate, t, self.updates) for t in range(1, self.updates + 1)]
        updates = range(1, self.updates + 1)
        numbers = [numbers_of(optimizer, t, rate, l2) for t, rate in zip(updates, rates, strict=True)]
        vectors = [self.start, *(np.zeros_like(self.start) for _ in optimizer.state_names)]
        rows = reference.operands(reference.pack(self.x), np.zeros(256))
        trainer = reference.begin_training(vectors, relu_net(SIZES), rows, self.labels, self.weight)
        ends = np.arange(1, self.updates + 1, dtype=np.int64) * BATCH
        done = reference.train(trainer, self.order, ends, optimizer.rule(clip), np.array(numbers))
        assert len(done) == self.updates
        return reference.training_vectors(trainer)[0]

    def naive(self, optimizer, update, constants, l2=0.0, clip=math.inf):
        """Return the parameters after naive updates, one parameter at a time."""
        p, states = self.start.tolist(), [{} for _ in self.start]
        one_hot = naive.one_hot(self.labels, SIZES[-1])
        for t, batch in enumerate(self, start=1):
            rate = optimizer.learning_rate
            rate = rate(t, self.updates) if callable(rate) else rate
            _, g = naive.loss_and_grad(p, SIZES, self.x[:, batch], one_hot[:, batch], self.weight[batch])
            g = [float(a) + l2 * b * c for a, b, c in zip(g, p, self.is_weight, strict=True)]
            shrink = min(1.0, clip / math.sqrt(math.fsum(a * a for a in g)))
            p = [update(a, shrink * b, s, t, rate, **constants) for a, b, s in zip(p, g, states, strict=True)]
        return np.array(p)


@pytest.mark.parametrize(("l2", "clip"), [(0.0, math.inf), (0.3, math.inf), (0.0, 0.4), (0.3, 0.4)])
@pytest.mark.parametrize("name", CASES)
def test_ten_updates_are_those_of_naive_loops(reference, rng, name, l2, clip):
    optimizer, update, constants = CASES[name]
    batches = Batches(rng, 10)
    found = batches.train(reference, optimizer, l2, 0.0 if math.isinf(clip) else clip)
    assert_close(found, batches.naive(optimizer, update, constants, l2, clip), "product")
    assert relative_difference(found, batches.start) > 0.01


TORCH = {
    "SGD": (SGD(0.1), lambda optim, p: optim.SGD(p, lr=0.1)),
    "momentum": (SGD(0.05, momentum=0.8), lambda optim, p: optim.SGD(p, lr=0.05, momentum=0.8)),
    "nesterov": (
        SGD(0.05, momentum=0.8, nesterov=True),
        lambda optim, p: optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    ),
    "Adam": (Adam(0.01), lambda optim, p: optim.Adam(p, lr=0.01)),
    "Adam, constants": (
        Adam(0.01, beta1=0.7, beta2=0.95, epsilon=1e-3),
        lambda optim, p: optim.Adam(p, lr=0.01, betas=(0.7, 0.95), eps=1e-3),
    ),
    "AdamW": (AdamW(0.01, weight_decay=0.2), lambda optim, p: optim.AdamW(p, lr=0.01, weight_decay=0.2)),
}


@pytest.fixture
def torch():
    """Import PyTorch, with one thread: for nets as small as these, more only wait for each other."""
    module = pytest.importorskip("torch")
    with threadpoolctl.threadpool_limits(1):
        yield module


def torch_loss(torch, vector, batches, batch):
    a, layers = torch.tensor(batches.x[:, batch].T), naive.unflatten(vector, SIZES)
    for at, (w, b) in enumerate(layers):
        a = (torch.relu(a) if at else a) @ w.T + b.T
    each = torch.nn.functional.cross_entropy(a, torch.tensor(batches.labels[batch]), reduction="none")
    weight = torch.tensor(batches.weight[batch])
    return (weight * each).sum() / weight.sum()


@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize("name", TORCH)
def test_200_updates_are_those_of_torch(torch, reference, rng, name, l2):
    optimizer, make = TORCH[name]
    batches = Batches(rng, 200)
    vector = torch.tensor(batches.start, requires_grad=True)
    theirs = make(torch.optim, [vector])
    for batch in batches:
        theirs.zero_grad()
        penalty = l2 / 2 * (torch.tensor(batches.is_weight) * vector**2).sum()
        (torch_loss(torch, vector, batches, batch) + penalty).backward()
        theirs.step()
    assert_close(batches.train(reference, optimizer, l2), vector.detach().numpy(), "other framework")


def test_updates_with_a_schedule_are_those_of_torch(torch, reference, rng):
    batches = Batches(rng, 60)
    vector = torch.tensor(batches.start, requires_grad=True)
    theirs = torch.optim.SGD([vector], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 60)
    for batch in batches:
        theirs.zero_grad()
        torch_loss(torch, vector, batches, batch).backward()
        theirs.step()
        scheduler.step()
    optimizer = SGD(fastmlp.schedules.cosine(0.1), momentum=0.9)
    assert_close(batches.train(reference, optimizer), vector.detach().numpy(), "other framework")


@pytest.mark.parametrize("norm", [0.5, 2.0, 1000.0])
def test_clipping_is_that_of_torch(torch, rng, norm):
    gradient = rng.standard_normal(50)
    gradient *= norm / np.linalg.norm(gradient)
    theirs = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    theirs.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([theirs], 2.0)
    ours, optimizer = np.zeros(50), SGD(1.0)
    rules.apply(ours, [], gradient, np.empty(0), optimizer.rule(clip=2.0), np.array(numbers_of(optimizer, 1, 1.0)))
    assert_close(-ours, theirs.grad.numpy(), "other framework")
    assert np.linalg.norm(ours) == pytest.approx(min(norm, 2.0), rel=TOLERANCE["product", F8])


def test_squares_are_those_of_the_weights_before_each_update(reference, rng):
    batches, rule, found = Batches(rng, 5), SGD(0.1).rule()._replace(squares=1), []
    rows = reference.operands(reference.pack(batches.x), np.zeros(256))
    trainer = reference.begin_training([batches.start], relu_net(SIZES), rows, batches.labels, batches.weight)
    for batch in batches:
        (before,), end = reference.training_vectors(trainer), np.array([BATCH])
        sums = reference.train(trainer, batch, end, rule, np.array([numbers_of(SGD(0.1), 1, 0.1)]))
        found.append((sums[0, 3], math.fsum((batches.is_weight * before) ** 2)))
    assert_close(*np.array(found).T, "product")


def applied(optimizer, gradients, start):
    """Return the parameters after an update with each gradient."""
    p, state = start.copy(), [np.zeros_like(start) for _ in optimizer.state_names]
    for t, gradient in enumerate(gradients, start=1):
        numbers = np.array(numbers_of(optimizer, t, optimizer.learning_rate))
        rules.apply(p, state, gradient.copy(), np.empty(0), optimizer.rule(), numbers)
    return p


def in_sklearn(optimizer, gradients, start):
    p = [start.copy()]
    for gradient in gradients:
        optimizer.update_params(p, [gradient.copy()])
    return p[0]


def test_the_other_placement_of_epsilon_is_that_of_sklearn(rng):
    """The gradients are as small as epsilon: elsewhere, both placements give nearly the same steps."""
    sklearn = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    gradients, start = 1e-4 * rng.standard_normal((200, 30)), rng.standard_normal(30)
    theirs = in_sklearn(
        sklearn.AdamOptimizer([start], learning_rate_init=0.01, beta_1=0.8, beta_2=0.99, epsilon=1e-4),
        gradients,
        start,
    )
    assert_close(applied(Adam(0.01, 0.8, 0.99, 1e-4, BEFORE), gradients, start), theirs, "product")
    assert relative_difference(applied(Adam(0.01, 0.8, 0.99, 1e-4), gradients, start), theirs) > 1e-3


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_that_of_sklearn(rng, nesterov):
    sklearn = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    gradients, start = rng.standard_normal((200, 30)), rng.standard_normal(30)
    theirs = sklearn.SGDOptimizer([start], learning_rate_init=0.01, momentum=0.9, nesterov=nesterov)
    found = applied(SGD(0.01, momentum=0.9, nesterov=nesterov), gradients, start)
    assert_close(found, in_sklearn(theirs, gradients, start), "product")


def test_float32_stays_float32(rng):
    gradients, start = rng.standard_normal((10, 30)), rng.standard_normal(30)
    for optimizer, _, _ in CASES.values():
        if not callable(optimizer.learning_rate):
            found = applied(optimizer, gradients.astype("f4"), start.astype("f4"))
            assert_close(found, applied(optimizer, gradients, start).astype("f4"), "product", "f4")


def test_rules_have_as_many_vectors_of_state_as_names():
    names = {"SGD": (), "momentum": ("momentum",), "nesterov": ("momentum",)}
    for name, (optimizer, _, _) in CASES.items():
        assert optimizer.state_names == names.get(name, ("m", "v"))
        assert len(optimizer.state_names) == rules.state_vectors(optimizer.rule())


def test_rules():
    assert SGD(momentum=0.5, nesterov=True).rule(2.0) == (rules.SGD, 0.5, 0.0, 1e-8, 1, 2.0, 0)
    assert Adam(beta1=0.5, beta2=0.6, epsilon=0.7).rule(2.0) == (rules.ADAM, 0.5, 0.6, 0.7, 0, 2.0, 0)
    assert AdamW().rule() == Adam().rule() == (rules.ADAM, 0.9, 0.999, 1e-8, 0, 0.0, 0)


ALL = [*(optimizer for optimizer, _, _ in CASES.values()), LBFGS(), LBFGS(history=3, tolerance=0)]


@pytest.mark.parametrize("optimizer", ALL, ids=repr)
def test_optimizers_are_values(optimizer):
    names = vars(fastmlp.optimizers) | vars(fastmlp.schedules)
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    assert eval(repr(optimizer), names) == optimizer
    assert hash(optimizer) == hash(eval(repr(optimizer), names))
    assert [one for one in ALL if one == optimizer] == [optimizer]
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.epsilon = 1.0


def test_numbers_become_python_floats():
    optimizer = AdamW(np.float32(0.5), np.float64(0.25), 0, np.float32(0.5), weight_decay=np.int64(1))
    assert repr(optimizer) == (
        "AdamW(learning_rate=0.5, beta1=0.25, beta2=0.0, epsilon=0.5, epsilon_placement='after_correction', "
        "weight_decay=1.0)"
    )
    assert repr(SGD(1, 0.5, np.True_)) == "SGD(learning_rate=1.0, momentum=0.5, nesterov=True)"
    assert repr(LBFGS(np.int32(5), np.float32(0.5))) == "LBFGS(history=5, tolerance=0.5)"


def test_descriptions_tell_optimizers_apart_but_not_learning_rates():
    assert SGD(0.5, momentum=0.9).describe() == "SGD(momentum=0.9, nesterov=False)"
    assert Adam(one_cycle(0.1)).describe() == Adam(lambda update, updates: 0.1).describe()
    assert AdamW().describe() == (
        "AdamW(beta1=0.9, beta2=0.999, epsilon=1e-08, epsilon_placement='after_correction', weight_decay=0.01)"
    )
    assert LBFGS().describe() == "LBFGS(history=10, tolerance=1e-07)"
    different = [
        *(SGD(), SGD(momentum=0.5), SGD(momentum=0.5, nesterov=True), Adam(), Adam(beta1=0.5), Adam(beta2=0.5)),
        *(Adam(epsilon=1e-7), Adam(epsilon_placement=BEFORE), AdamW(), AdamW(weight_decay=0.0), LBFGS(), LBFGS(5)),
    ]
    assert len({one.describe() for one in different}) == len(different)


BAD_NUMBERS = [math.nan, math.inf, -0.1, "0.9", None, [0.1]]
BAD = {
    (SGD, "learning_rate"): BAD_NUMBERS,
    (SGD, "momentum"): [*BAD_NUMBERS, 1, 1.5],
    (SGD, "nesterov"): [1, 0, None, "yes"],
    (Adam, "learning_rate"): BAD_NUMBERS,
    (Adam, "beta1"): [*BAD_NUMBERS, 1, 1.5],
    (Adam, "beta2"): [*BAD_NUMBERS, 1, 1.5],
    (Adam, "epsilon"): [*BAD_NUMBERS, 0],
    (Adam, "epsilon_placement"): ["inside", "", None, 1],
    (AdamW, "beta1"): [1],
    (AdamW, "weight_decay"): BAD_NUMBERS,
    (LBFGS, "history"): [0, -1, 2.5, True, None, "10"],
    (LBFGS, "tolerance"): BAD_NUMBERS,
}


@pytest.mark.parametrize(("optimizer", "argument"), BAD)
def test_bad_arguments_are_refused(optimizer, argument):
    for value in BAD[optimizer, argument]:
        with pytest.raises((TypeError, ValueError), match=f"^{argument}: got .*, expected .*; "):
            optimizer(**{argument: value})


def test_messages():
    with pytest.raises(ValueError, match=r"^momentum: got 1\.0, expected a number from 0 to below 1; pass a momentum"):
        SGD(momentum=1)
    with pytest.raises(ValueError, match=r"^nesterov: got True with a momentum of 0, expected a positive momentum; "):
        SGD(nesterov=True)
    expected = "epsilon_placement: got 'hat', expected one of 'after_correction', 'before_correction'; "
    with pytest.raises(ValueError, match=f"^{expected}"):
        Adam(epsilon_placement="hat")
