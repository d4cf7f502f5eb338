"""Rows of the first layer that wait for their updates: the bits of a pass over all of them."""

import numpy as np
import pytest
from compare import assert_same_bits
from test_trainer import Problem

import fastmlp
from fastmlp.kernels import rules

# Random labels cannot be learnt.
pytestmark = [
    pytest.mark.numba,
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore::fastmlp.history.TrainingWarning"),
]

SHAPE = (900, 33, 7), 500, 0.002  # about 36 of the features in a batch of 20
RULES = {
    "descent": rules.Rule(rules.SGD),
    "momentum": rules.Rule(rules.SGD, 0.9),
    "nesterov": rules.Rule(rules.SGD, 0.9, nesterov=1),
    "adam": rules.Rule(rules.ADAM, 0.9, 0.99, 1e-3),
    "adam that soon moves nothing": rules.Rule(rules.ADAM, 0.1, 0.99, 1e-8),
    "clipped": rules.Rule(rules.ADAM, 0.9, 0.99, 1e-3, clip=0.05),
    "with squares": rules.Rule(rules.ADAM, 0.9, 0.99, 1e-3, squares=1),
}


@pytest.fixture
def waiting(monkeypatch):
    """Return a function that lets rows wait, or not, and the number of runs in which they did."""
    from fastmlp.kernels.compiled import trainer, tuning

    runs = []
    meetings = trainer.Trainer._meetings

    def counted(self, order, updates, *, waits):
        runs.append(waits)
        return meetings(self, order, updates, waits=waits)

    monkeypatch.setattr(trainer.Trainer, "_meetings", counted)

    def choose(wanted):
        monkeypatch.setattr(tuning, "WAITING_SHARE", np.inf if wanted else 0)
        monkeypatch.setattr(tuning, "BUSY_WAITING_SHARE", np.inf if wanted else 0)
        runs.clear()
        return runs

    return choose


def problem_of(rule, dtype="float64", l2=0.0, keep=1.0, shape=SHAPE):
    problem = Problem(*shape, size=20, dtype=dtype, rule=RULES[rule])
    problem.numbers[:, 2], problem.numbers[:, 3] = keep, l2
    problem.weight[problem.order[40:60]] = 0  # an update that is not made
    return problem


def run(problem, trainer, updates):
    """Make some updates; return their sums."""
    starts, ends = np.append(0, problem.ends[:-1])[updates], problem.ends[updates]
    order, kernels = problem.order[starts[0] : ends[-1]], fastmlp.backend.kernels()
    return kernels.train(trainer, order, ends - starts[0], problem.rule, problem.numbers[updates])


def in_runs(problem, sizes, *, look=0):
    """Make the updates in runs of these sizes, over and over, and ask for the vectors before every ``look``-th one."""
    trainer, sums, first = problem.begin(), [], 0
    while first < len(problem.ends):
        if look and len(sums) % look == 0:
            trainer.vectors()
        stop = first + sizes[len(sums) % len(sizes)]
        sums.append(run(problem, trainer, slice(first, stop)))
        first = stop
    return [np.concatenate(sums), *trainer.vectors()]


def until_it_fails(problem, trainer, size):
    """Make the updates in runs of this size until one fails."""
    sums = []
    for first in range(0, len(problem.ends), size):
        sums.append(run(problem, trainer, slice(first, first + size)))
        if len(sums[-1]) < size:
            break
    return [np.concatenate(sums), *trainer.vectors()]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize(("l2", "keep"), [(0.0, 1.0), (0.01, 1.0), (0.0, 0.999)])
@pytest.mark.parametrize("rule", RULES)
def test_waiting_shows_in_no_bit(waiting, dtype, rule, l2, keep):
    waiting(False)
    problem = problem_of(rule, dtype, l2, keep)
    expected = problem.train()
    runs = waiting(True)
    assert_same(problem.train(), expected)
    assert all(waits == (rule not in ("clipped", "with squares")) for waits in runs)
    for sizes, look in (((1,), 0), ((1, 7, 2), 3), ((4,), 1)):
        assert_same(in_runs(problem, sizes, look=look), expected)


@pytest.mark.parametrize("shape", [((70, 3), 300, 0.01), ((200, 9, 11, 4), 300, 0.01), ((140_000, 5, 3), 200, 2e-5)])
@pytest.mark.parametrize("rule", ["descent", "nesterov", "adam"])
def test_nets_of_any_shape(waiting, rule, shape):
    waiting(False)
    problem = problem_of(rule, shape=shape)
    expected = problem.train()
    runs = waiting(True)
    assert_same(in_runs(problem, (5, 2)), expected)
    assert all(runs)


def test_saved_states_and_changes_of_rule_and_numbers(waiting, monkeypatch):
    """Rows may wait for updates of one kind; before those of another kind, they have them."""
    from fastmlp.kernels.compiled import tuning

    monkeypatch.setattr(tuning, "REPEATED_RUNS", 4)
    found = []
    for wanted in (False, True):
        runs = waiting(wanted)
        problem = problem_of("momentum")
        problem.numbers[10:20, 2:] = 0.99, 0.01
        problem.numbers[20:23, 0] = -0.01  # nothing waits for such a step
        trainer, sums = problem.begin(), []
        for first in range(0, 48, 2):
            problem.rule = RULES["nesterov" if 28 <= first < 40 else "momentum"]
            sums.append(run(problem, trainer, slice(first, first + 2)))
        found.append([np.concatenate(sums), *trainer.vectors()])
    assert_same(*found)
    assert {*runs} == {True, False}


@pytest.mark.parametrize("made", [1, 5, 20])
@pytest.mark.parametrize("rule", ["descent", "momentum", "adam"])
def test_an_update_that_fails_leaves_the_vectors_before_it(waiting, rule, made):
    runs = waiting(True)
    problem = problem_of(rule)
    problem.x[:, problem.order[problem.ends[made - 1]]] = np.finfo(float).max  # a sample of the batch that fails
    expected = problem.train(updates=slice(0, made))
    assert all(runs)
    assert_same(until_it_fails(problem, problem.begin(), 7), expected)
    assert not all(runs)


@pytest.mark.parametrize("early", [True, False])
def test_a_parameter_that_may_become_infinite_waits_for_nothing(waiting, dtype, early):
    """Its momentum takes it there without a gradient: a pass over all rows would stop at that update."""
    found = []
    for wanted in (False, True):
        runs = waiting(wanted)
        problem = problem_of("momentum", dtype)
        state, unmet = np.zeros_like(problem.parameters), np.flatnonzero(~problem.x.any(axis=1))[0]
        if early:
            state[unmet] = np.finfo(dtype).max / 2
        else:
            problem.x[unmet, problem.order[problem.ends[6]]] = np.finfo(dtype).max / 9
        problem.numbers[:, 0] = 0.25
        x = fastmlp.pack(problem.x).operands(problem.dtype, minibatches=True)
        begin = fastmlp.backend.kernels().begin_training
        trainer = begin([problem.parameters, state], problem.net, x, problem.y, problem.weight)
        found.append(until_it_fails(problem, trainer, 5))
        assert any(runs) == (wanted and not early)
    assert 0 < len(found[0][0]) < len(problem.ends)
    assert_same(*found)
    assert not all(runs)


def test_what_rows_may_wait_for():
    from fastmlp.kernels.compiled.waiting import stay_finite, unchanging_share

    numbers = np.array([[1e-3, 1.0, 1.0, 0.0]] * 9)
    adam, descent = rules.Rule(rules.ADAM, 0.9, 0.999), rules.Rule(rules.SGD, 0.9)
    for rule in (adam, descent):
        assert stay_finite(rule, numbers)
        assert stay_finite(rule, numbers[:0])
        for column, value in ((0, -1), (0, np.inf), (1, np.nan), (2, 1.1), (2, -0.1), (0, 1e30)):
            other = numbers.copy()
            other[4, column] = value
            assert not stay_finite(rule, other)
    assert not stay_finite(rules.Rule(rules.ADAM, 0.999, 0.9), numbers)
    assert not stay_finite(rules.Rule(rules.ADAM, 0.9, 0.999, 1e-30), numbers)
    assert not stay_finite(descent, numbers * [[1, 1, 1, 0]] + 1e6 * np.eye(4)[3])
    assert unchanging_share(adam, numbers) == np.finfo(float).eps / 16
    assert np.isnan(unchanging_share(descent, numbers))
    assert np.isnan(unchanging_share(adam, numbers + 1e-6 * np.eye(4)[3]))
    assert np.isnan(unchanging_share(adam, numbers * [[1, 1, 0.5, 1]]))


@pytest.mark.parametrize("optimizer", [fastmlp.optimizers.SGD(0.1, 0.9), fastmlp.optimizers.AdamW()])
def test_a_run_is_resumed_with_the_same_bits(waiting, rng, tmp_path, optimizer):
    x, labels = rng.standard_normal((400, 150)) * (rng.random((400, 150)) < 0.002), rng.integers(3, size=150)
    options = {"optimizer": optimizer, "batch_size": 10, "l2": 0.01}
    models = [fastmlp.MLP((400, 5, 3), dtype="float32") for _ in range(3)]
    waiting(False)
    models[0].fit(x, labels, epochs=4, **options)
    runs = waiting(True)
    models[1].fit(x, labels, epochs=2, checkpoint=tmp_path / "run", **options)
    models[2].fit(x, labels, epochs=4, checkpoint=tmp_path / "run", resume=True, **options)
    assert_same_bits(models[2].parameters, models[0].parameters)
    assert all(runs)
