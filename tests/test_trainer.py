"""The engine of minibatches: the numbers of an independent loop, and the same bits for any team of threads."""

import os

import naive_batches
import numpy as np
import pytest
from compare import assert_close, assert_same_bits

import fastmlp
from fastmlp import activations, backend
from fastmlp.kernels import nets, rules
from fastmlp.kernels.parts import Drawn

pytestmark = [pytest.mark.numba, pytest.mark.kernels]

RULES = {
    "descent": rules.Rule(rules.SGD),
    "momentum": rules.Rule(rules.SGD, 0.9),
    "nesterov": rules.Rule(rules.SGD, 0.9, nesterov=1, squares=1),
    "adam": rules.Rule(rules.ADAM, 0.9, 0.99, 1e-3),
    "adam, squares": rules.Rule(rules.ADAM, 0.8, 0.95, 1e-2, squares=1),
    "clipped": rules.Rule(rules.SGD, 0.9, clip=0.05),
    "clipped adam": rules.Rule(rules.ADAM, 0.9, 0.99, 1e-3, clip=0.05, squares=1),
}
SHAPES = {
    "lists": ((150, 33, 7), 500, 0.2),
    "dense": ((150, 33, 7), 500, 1.0),
    "two hidden layers": ((30, 40, 17, 5), 400, 0.3),
    "two hidden layers, dense": ((30, 40, 17, 5), 400, 1.0),
    "no hidden layer": ((70, 3), 300, 0.3),
    "one of each": ((1, 1, 1), 300, 1.0),
    "few samples": ((20, 9, 4), 90, 0.3),
    "wide": ((200, 300, 20), 200, 0.2),
}
NUMBERS = [0.05, 1.1, 0.999, 0.1]


class Problem:
    """Samples, a model, and batches of ``size`` over two epochs, the last of each incomplete."""

    def __init__(self, sizes, m, density, size=64, dtype="float64", rule=RULES["adam"], soft=False, net="relu"):
        rng = np.random.default_rng(m)
        self.sizes, self.rule, self.dtype = sizes, rule, np.dtype(dtype)
        self.net = activations.net(sizes, net)
        codes = rng.integers(1, 256, size=(sizes[0], m)) * (rng.random((sizes[0], m)) < density)
        self.codes = codes.astype(np.uint8)
        self.x = (codes / 255).astype(dtype)
        self.y = rng.random((sizes[-1], m)).astype(dtype) if soft else rng.integers(sizes[-1], size=m)
        self.weight = rng.random(m).astype(dtype)
        self.order = np.concatenate([rng.permutation(m) for _ in range(2)]).astype(np.int32)
        ends = np.append(np.arange(size, m, size), m)
        self.ends = np.append(ends, m + ends)
        self.numbers = np.array([NUMBERS] * len(self.ends)) * np.linspace(1, 0.5, len(self.ends))[:, None]
        self.parameters = fastmlp.MLP(sizes, dtype=dtype, seed=3).parameters

    def begin(self, x=None, drawn=None):
        vectors = [np.zeros_like(self.parameters) for _ in range(rules.state_vectors(self.rule))]
        packed = fastmlp.pack(self.x if x is None else x, scale=None if x is None else 1 / 255)
        operands = packed.operands(self.dtype, minibatches=True)
        begin = backend.kernels().begin_training
        return begin([self.parameters, *vectors], self.net, operands, self.y, self.weight, drawn=drawn)

    def train(self, trainer=None, updates=slice(None)):
        """Make updates; return their sums and the vectors after them."""
        trainer = self.begin() if trainer is None else trainer
        starts = np.append(0, self.ends[:-1])[updates]
        ends, numbers = self.ends[updates], self.numbers[updates]
        order, kernels = self.order[starts[0] : ends[-1]], backend.kernels()
        sums = kernels.train(trainer, order, ends - starts[0], self.rule, numbers)
        return [sums, *kernels.training_vectors(trainer)]

    def expected(self):
        """Return the same from the independent loop."""
        return naive_batches.train(self)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_updates_give_the_numbers_of_an_independent_loop(shape, rule):
    problem = Problem(*SHAPES[shape], rule=RULES[rule])
    for actual, expected in zip(problem.train(), problem.expected(), strict=True):
        assert_close(actual, expected, "trajectory", "float64")


@pytest.mark.parametrize("net", [*nets.ACTIVATIONS, ("gelu", "logistic"), ("tanh", "relu"), ("relu", "gelu")])
@pytest.mark.parametrize("shape", ["two hidden layers", "two hidden layers, dense"])
def test_with_every_activation_they_do(shape, net):
    """Clipped, so that what fills up rows must not show in the norm of the gradient."""
    problem = Problem(*SHAPES[shape], rule=RULES["clipped adam"], net=net)
    for actual, expected in zip(problem.train(), problem.expected(), strict=True):
        assert_close(actual, expected, "trajectory", "float64")


@pytest.mark.parametrize("size", [1, 3, 16, 17, 100, 1000])
def test_batches_of_any_size(size):
    problem = Problem((40, 21, 5), 300, 0.3, size=size)
    for actual, expected in zip(problem.train(), problem.expected(), strict=True):
        assert_close(actual, expected, "trajectory", "float64")


def test_soft_targets():
    problem = Problem((40, 21, 5), 300, 0.3, soft=True)
    for actual, expected in zip(problem.train(), problem.expected(), strict=True):
        assert_close(actual, expected, "trajectory", "float64")


def test_float32_stays_near_float64():
    single, double = (Problem((40, 21, 5), 300, 0.3, dtype=dtype).train() for dtype in ("float32", "float64"))
    assert single[1].dtype == np.float32
    np.testing.assert_allclose(single[1], double[1], rtol=0, atol=2e-5 * np.abs(double[1]).max())


def test_a_batch_of_weight_zero_changes_nothing():
    problem = Problem((20, 9, 4), 192, 0.3)
    problem.weight[problem.order[64:128]] = 0
    trainer = problem.begin()
    before = problem.train(trainer, slice(0, 1))
    sums, *after = problem.train(trainer, slice(1, 2))
    assert (sums == 0).all()
    for one, other in zip(before[1:], after, strict=True):
        assert_same_bits(one, other)


def test_runs_of_updates_in_pieces_give_the_same_bits():
    problem = Problem(*SHAPES["lists"])
    whole, trainer, parts = problem.train(), problem.begin(), []
    for first in range(0, len(problem.ends), 3):
        sums, *vectors = problem.train(trainer, slice(first, first + 3))
        parts.append(sums)
    for one, other in zip(whole, [np.concatenate(parts), *vectors], strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("shape", ["lists", "dense"])
def test_each_form_of_the_input_gives_the_same_bits(shape):
    problem = Problem(*SHAPES[shape])
    expected = problem.train()
    for form in (problem.codes, np.asfortranarray(problem.codes), problem.codes[::-1].copy()[::-1]):
        for one, other in zip(expected, problem.train(problem.begin(form)), strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("rule", RULES)
def test_lists_by_feature_and_by_sample_give_the_same_bits(rule, monkeypatch):
    """Long pages have no lists by feature; others have them, for some samples at a time."""
    from fastmlp.kernels.compiled import trainer, tuning

    problem = Problem(*SHAPES["lists"], rule=RULES[rule])
    results = [problem.train()]
    for samples in (50, 20, 1):
        monkeypatch.setattr(tuning, "CHUNK_SAMPLES", samples)
        results.append(problem.train())
    monkeypatch.setattr(trainer, "is_short", lambda x: False)
    results.append(problem.train())
    for one in results[1:]:
        for some, others in zip(results[0], one, strict=True):
            assert_same_bits(some, others)


class TestDrawn:
    """Batches that are the same in each epoch."""

    @pytest.fixture
    def used(self, monkeypatch):
        """Return a list that gets the size of the batches of the lists of each launch, or 0 without lists."""
        from fastmlp.kernels.compiled.drawn import DrawnBatches

        found, lists = [], DrawnBatches.lists

        def noted(self, order, ends):
            result = lists(self, order, ends)
            found.append(result[0].size)
            return result

        monkeypatch.setattr(DrawnBatches, "lists", noted)
        return found

    @pytest.fixture(autouse=True)
    def chunks_of_20_samples(self, monkeypatch):
        from fastmlp.kernels.compiled import tuning

        monkeypatch.setattr(tuning, "CHUNK_SAMPLES", 20)

    @staticmethod
    def drawn(problem, size):
        """Let the second epoch take the batches of the first one in another order; return them."""
        m = len(problem.y)
        first, count = problem.order[:m], len(problem.ends) // 2
        batches = [first[k * size : (k + 1) * size] for k in np.random.default_rng(1).permutation(count)]
        problem.order = np.concatenate([first, *batches])
        problem.ends = np.concatenate([problem.ends[:count], m + np.cumsum([len(batch) for batch in batches])])
        return Drawn(first, size)

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_they_give_the_bits_of_any_others(self, shape, dtype, rule):
        for size, codes in (64, True), (37, False):
            problem = Problem(*SHAPES[shape], dtype=dtype, rule=RULES[rule], size=size)
            drawn, x = self.drawn(problem, size), problem.codes if codes else None
            for one, other in zip(problem.train(problem.begin(x)), problem.train(problem.begin(x, drawn)), strict=True):
                assert_same_bits(one, other)

    def test_their_lists_are_made_once_and_used(self, used):
        problem = Problem(*SHAPES["lists"])
        drawn, count = self.drawn(problem, 64), len(problem.ends) // 2
        trainer, trained = (problem.begin(drawn=drawn) for _ in range(2))
        problem.train(trained, slice(0, count))
        problem.train(trainer, slice(0, 3))
        lists = trainer._drawn._lists
        assert lists.made.tolist() == [1] * 3 + [0] * (count - 3)
        problem.train(trainer, slice(3, count))
        assert lists.made.all()
        before = [np.array(one) for one in lists]
        lists.index[:] = lists.index[0]  # wrong, so that it shows that the second epoch reads them
        kept = lists.index.copy()
        wrong, right = (problem.train(one, slice(count, None))[0] for one in (trainer, trained))
        assert not np.array_equal(wrong, right)
        assert_same_bits(lists.index, kept)
        for one, other in zip(before, trained._drawn._lists, strict=True):
            assert_same_bits(one, np.asarray(other))
        assert used == [64] * 5

    @pytest.mark.parametrize("change", ["nothing", "order", "size", "dtype"])
    def test_lists_are_kept_for_the_next_training_on_the_same_samples(self, change, used):
        problem = Problem(*SHAPES["lists"])
        drawn, codes = self.drawn(problem, 64)._replace(kept=[]), fastmlp.pack(problem.codes, scale=1 / 255)
        begin = backend.kernels().begin_training

        def trained(drawn):
            vectors = [np.zeros_like(problem.parameters) for _ in range(3)]
            vectors[0][:] = problem.parameters
            operands = codes.operands(problem.dtype, minibatches=True)
            trainer = begin(vectors, problem.net, operands, problem.y, problem.weight, drawn=drawn)
            assert not drawn or not drawn.kept
            return problem.train(trainer)

        first = trained(drawn)
        (kept,) = drawn.kept
        assert kept.lists.made.all()
        if change == "order":
            self.drawn(problem, 64)
            problem.order = problem.order[::-1].copy()
            drawn = drawn._replace(order=self.drawn(problem, 64).order)
        elif change == "size":
            problem = Problem(*SHAPES["lists"], size=30)
            drawn = self.drawn(problem, 30)._replace(kept=drawn.kept)
        elif change == "dtype":
            problem = Problem(*SHAPES["lists"], dtype="float32")
            drawn = self.drawn(problem, 64)._replace(kept=drawn.kept)
        again, expected = trained(drawn), trained(None)
        for one, other in zip(again, first if change == "nothing" else expected, strict=True):
            assert_same_bits(one, other)
        for one, other in zip(again, expected, strict=True):
            assert_same_bits(one, other)
        (later,) = drawn.kept
        assert (later is kept) == (change == "nothing")
        assert np.shares_memory(later.lists.index, kept.lists.index) == (change in ("nothing", "order"))
        assert len(set(used) - {0}) == 1 + (change == "size")

    def test_a_short_last_batch_alone_may_have_longer_chunks_than_others_of_its_size(self, used):
        problem = Problem(*SHAPES["lists"], size=47)
        problem.codes[-2:] = 1  # lists as long as a chunk, side by side
        drawn, count = self.drawn(problem, 47), len(problem.ends) // 2
        found = []
        for trainer in problem.begin(problem.codes), problem.begin(problem.codes, drawn):
            parts = slice(0, count - 1), slice(count - 1, count), slice(count, None)
            sums = [problem.train(trainer, updates)[0] for updates in parts]
            found.append([np.concatenate(sums), *trainer.vectors()])
        for one, other in zip(*found, strict=True):
            assert_same_bits(one, other)
        assert used == [0, 0, 0, 47, 47, 47]

    @pytest.mark.parametrize("change", ["order", "smaller", "larger", "second epoch"])
    def test_other_batches_do_not_get_their_lists(self, change, used):
        problem = Problem(*SHAPES["lists"])
        m, count = len(problem.y), len(problem.ends) // 2
        order, size = problem.order[:m].copy(), {"smaller": 63, "larger": 128}.get(change, 64)
        if change == "order":
            order[:2] = order[1::-1]
        updates = slice(0, count + (change == "second epoch"))
        expected, trainer = problem.train(updates=updates), problem.begin(drawn=Drawn(order, size))
        for one, other in zip(expected, problem.train(trainer, updates), strict=True):
            assert_same_bits(one, other)
        assert used == [0, 0]

    def test_features_on_several_pages(self, used):
        """Indices count from the first feature of a page."""
        problem = Problem((140_000, 3), 60, 0.1, size=30)
        drawn = self.drawn(problem, 30)
        found, expected = problem.train(problem.begin(drawn=drawn)), problem.expected()
        for one, other, number in zip(problem.train(), found, expected, strict=True):
            assert_same_bits(one, other)
            assert_close(one, number, "trajectory", "float64")
        assert used == [30, 0]

    def test_other_samples_do_not_get_their_lists(self, used):
        problem, other = Problem(*SHAPES["lists"]), Problem(*SHAPES["lists"])
        other.codes = other.codes[:, ::-1].copy()
        x = fastmlp.pack(other.codes, scale=1 / 255).operands(problem.dtype, minibatches=True)
        trainer = problem.begin(drawn=self.drawn(problem, 64))
        backend.kernels().enter_training(trainer, x, problem.y, problem.weight)
        for one, same in zip(problem.train(problem.begin(other.codes)), problem.train(trainer), strict=True):
            assert_same_bits(one, same)
        assert used == [0, 0]

    def test_memory_for_their_lists_is_bounded(self, used, monkeypatch):
        from fastmlp.kernels.compiled import tuning

        monkeypatch.setattr(tuning, "DRAWN_BYTES", 1000)
        problem = Problem(*SHAPES["lists"])
        problem.train(problem.begin(drawn=self.drawn(problem, 64)))
        assert used == [0]


@pytest.mark.parametrize("made", [0, 1, 5, 40])
def test_an_update_that_fails_leaves_the_vectors_before_it(made, monkeypatch):
    from fastmlp.kernels.compiled import tuning

    monkeypatch.setattr(tuning, "REPEATED_RUNS", 3)
    problem = Problem((20, 9, 4), 90, 0.3, size=4)
    problem.numbers[made, 0] = np.inf
    trainer, sums = problem.begin(), []
    for first in range(0, len(problem.ends), 7):
        some, *vectors = problem.train(trainer, slice(first, first + 7))
        sums.append(some)
        if len(some) < 7:
            break
    expected = problem.train(updates=slice(0, made)) if made else [np.empty((0, 3)), *problem.begin().vectors()]
    for one, other in zip([np.concatenate(sums), *vectors], expected, strict=True):
        assert_same_bits(one, other)


def test_a_team_of_one_thread_after_the_other(monkeypatch):
    """The first does everything, and the others find nothing left to do: as with a layer that has one thread."""
    from fastmlp.kernels.compiled import launch, trainer

    problem = Problem(*SHAPES["lists"], rule=RULES["clipped"])
    expected = problem.train()
    monkeypatch.setattr(launch, "_forked_after_launch", True)
    monkeypatch.setattr(trainer, "usable_threads", lambda: 4)
    for one, other in zip(expected, problem.train(), strict=True):
        assert_same_bits(one, other)


TEAMS = """
import sys
sys.path.insert(0, {folder!r})
import hashlib, fastmlp, test_trainer
from fastmlp.kernels.compiled import tuning
tuning.TEAM_WORK = 0  # all of the threads, however little there is to share
for shape in test_trainer.SHAPES.values():
    for rule in test_trainer.RULES.values():
        for dtype in "float32", "float64":
            problem, found = test_trainer.Problem(*shape, rule=rule, dtype=dtype), set()
            for threads in 1, 2, 3, 4, 8:
                with fastmlp.use_threads(threads):
                    found.add(hashlib.sha256(b"".join(one.tobytes() for one in problem.train())).hexdigest())
            assert len(found) == 1, (shape, rule, dtype)
"""


@pytest.mark.skipif(bool(os.environ.get("NUMBA_BOUNDSCHECK")), reason="parallel shells swallow an IndexError")
def test_teams_of_any_number_of_threads_give_the_same_bits(run_python):
    run_python(TEAMS.format(folder=os.path.dirname(__file__)), env={"NUMBA_NUM_THREADS": "8"})


class TestPace:
    @pytest.fixture
    def run(self, monkeypatch):
        """Return a function that makes runs, each as long as is given for its number of threads; it returns these."""
        from fastmlp.kernels.compiled import pace

        clock = [0.0]
        monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])
        made = pace.Pace()

        def run(count, seconds):
            chosen = []
            for _ in range(count):
                threads = made.threads(2, 10)
                chosen.append(threads)
                made.timed(threads, 10, lambda threads=threads: clock.__setitem__(0, clock[0] + seconds[threads]))
            return chosen

        return run

    def test_the_faster_is_chosen_and_the_other_one_tried_now_and_then(self, run):
        assert run(10, {1: 3, 2: 2}) == [2, 1, *[2] * 8]
        assert 1 <= run(100, {1: 3, 2: 2}).count(1) <= 4  # each costs 1, of 50 x 2 in between

    def test_a_core_that_another_process_takes_or_leaves_is_noticed(self, run):
        run(10, {1: 3, 2: 2})
        assert run(10, {1: 3, 2: 9})[-1] == 1
        assert run(120, {1: 3, 2: 2})[-1] == 2

    def test_a_first_run_of_the_team_that_waits_for_sleeping_threads_or_the_compiler_costs_a_run_or_two(self, run):
        run(1, {1: 3, 2: 1000})
        assert run(10, {1: 3, 2: 2}).count(1) <= 4

    def test_one_slow_run_of_the_faster_is_forgiven_at_once(self, run):
        run(200, {1: 3, 2: 2})
        run(1, {1: 9, 2: 9})
        assert run(10, {1: 3, 2: 2}).count(1) <= 4
