"""L-BFGS: its direction, its line search, its state, and SciPy's on the same problems."""

import numpy as np
import pytest
from compare import assert_close, assert_same_bits

import fastmlp
from fastmlp.lbfgs import Minimizer


@pytest.fixture(autouse=True)
def _numpy_backend():
    """Evaluate nets without compiling: L-BFGS does not know the backend."""
    with fastmlp.use_backend("numpy"):
        yield


class Problem:
    """A loss with its gradient at x, which a minimizer changes; it records each evaluation."""

    def __init__(self, function, x):
        self.function, self.x = function, np.array(x)
        self.points, self.losses, self.gradients = [], [], []

    def __call__(self, gradient):
        loss, gradient[...] = self.function(self.x)
        self.points.append(self.x.copy())
        self.losses.append(loss)
        self.gradients.append(gradient.copy())
        return loss, -loss

    def minimizer(self, history=10, tolerance=1e-7):
        return Minimizer(self, self.x, history, tolerance)


def finish(minimizer):
    """Iterate until the search stops; return the number of iterations."""
    for count in range(500):
        if minimizer.stopped:
            return count
        minimizer.iterate()
    raise AssertionError("the search does not stop")


def rosenbrock(x):
    a, b = x[::2], x[1::2]
    slopes = -400 * a * (b - a * a) - 2 * (1 - a), 200 * (b - a * a)
    return float((100 * (b - a * a) ** 2 + (1 - a) ** 2).sum()), np.stack(slopes, axis=1).ravel()


def far_from_the_valley(n=20, dtype="float64"):
    return np.tile(np.array([-1.2, 1.0], dtype), n // 2)


def network(sizes, seed, dtype="float64", m=200, l2=1e-3):
    """Return the loss of a net with a penalty, on noisy labels of a linear rule, and its initial parameters."""
    rng, model = np.random.default_rng(seed), fastmlp.MLP(sizes, seed=seed, dtype=dtype)
    x = rng.standard_normal((sizes[0], m))
    labels = (rng.standard_normal((sizes[-1], sizes[0])) @ x + rng.standard_normal((sizes[-1], m))).argmax(axis=0)

    def function(parameters):
        model.parameters = parameters
        loss, gradient = model.loss_and_grad(x.astype(dtype), labels)
        return loss + l2 / 2 * float(np.sum(np.square(parameters, dtype=float))), gradient + l2 * parameters

    return function, model.parameters.copy()


@pytest.mark.parametrize(
    ("sizes", "iterations"), [((20, 4), 40), ((10, 8, 4), 20), ((20, 16, 8, 5), 30)], ids=["logistic", "8", "16-8"]
)
def test_as_few_evaluations_as_scipy(sizes, iterations):
    """Over several problems: paths to different local minima have different lengths."""
    minimize, ours, theirs = pytest.importorskip("scipy.optimize").minimize, np.zeros(2), np.zeros(2)
    for seed in range(8):
        function, start = network(sizes, seed)
        options = {"maxiter": iterations, "maxcor": 10, "ftol": 0, "gtol": 0}
        found = minimize(function, start, jac=True, method="L-BFGS-B", options=options)
        theirs += found.nit, found.nfev
        problem = Problem(function, start)
        minimizer, count = problem.minimizer(), 0
        while min(problem.losses, default=np.inf) > found.fun + 1e-9 and count < 2 * iterations:
            minimizer.iterate()
            count += 1
        ours += count, minimizer.evaluations
        assert minimizer.evaluations == len(problem.losses)
    assert (ours <= 1.2 * theirs).all()


def test_the_valley_of_rosenbrock():
    minimize = pytest.importorskip("scipy.optimize").minimize
    found = minimize(rosenbrock, far_from_the_valley(), jac=True, method="L-BFGS-B", options={"gtol": 1e-7, "ftol": 0})
    problem = Problem(rosenbrock, far_from_the_valley())
    minimizer = problem.minimizer()
    count = finish(minimizer)
    assert minimizer.stopped == "converged"
    assert_close(problem.x, np.ones(20), "other framework")
    assert count <= 1.2 * found.nit
    assert minimizer.evaluations <= 1.2 * found.nfev


@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_the_direction_is_that_of_bfgs(rng, pairs):
    """The two loops are the updates of BFGS, applied to a multiple of the identity."""
    n = 7
    root = rng.standard_normal((n, n))
    s = rng.standard_normal((pairs, n))
    y, gradient = s @ (root @ root.T + np.eye(n)), rng.standard_normal(n)
    inverse = (s[-1] @ y[-1]) / (y[-1] @ y[-1]) * np.eye(n)
    for one, other in zip(s, y, strict=True):
        rho = 1 / (one @ other)
        left = np.eye(n) - rho * np.outer(one, other)
        inverse = left @ inverse @ left.T + rho * np.outer(one, one)
    problem = Problem(lambda x: (0.0, gradient), rng.standard_normal(n))
    start, minimizer = problem.x.copy(), problem.minimizer()
    minimizer.restore({"s": s, "y": y, "gradient": gradient, "scores": np.array([1.0, 0.0])})
    minimizer.iterate()
    assert_close(problem.points[0] - start, -inverse @ gradient, "product")


def test_the_first_step_is_no_longer_than_one():
    for start, length in (([30.0, 40.0], 1.0), ([0.3, 0.4], 0.5)):
        problem = Problem(lambda x: (float(x @ x) / 2, x), start)
        problem.minimizer().iterate()
        assert np.linalg.norm(problem.points[1] - start) == pytest.approx(length)


def test_trial_steps_grow_at_most_five_times_as_long():
    problem = Problem(lambda x: (float(x @ x) / 2, x), [100.0])
    problem.minimizer().iterate()
    assert np.ravel(problem.points) == pytest.approx([100, 99, 95, 79])


def test_each_iteration_satisfies_the_strong_wolfe_conditions():
    for history in (1, 3, 10):
        problem = Problem(rosenbrock, far_from_the_valley(6))
        minimizer, iterations = problem.minimizer(history), 0
        while not minimizer.stopped and iterations < 500:
            before = problem.x.copy()
            loss, _ = minimizer.iterate()
            after = minimizer.state()
            moved, first = problem.x - before, problem.gradients[[*map(tuple, problem.points)].index(tuple(before))]
            assert after["scores"][0] <= loss + 1e-4 * (first @ moved)
            assert abs(after["gradient"] @ moved) <= -0.9 * (first @ moved)
            iterations += 1
        assert minimizer.stopped == "converged"
        assert minimizer.evaluations > iterations + 1  # not all first trial steps were accepted


def test_a_step_must_be_worth_its_length():
    """A first step to -5e-5 with hardly any slope is refused; the minimum of the cubic is found at once."""

    def cubic(x):
        slope = -((1 - x) ** 2) + 2 * x * (1 - x) - 1e-4 * x
        return float((-x * (1 - x) ** 2 - 5e-5 * x * x).sum()), slope

    problem = Problem(cubic, [0.0])
    minimizer = problem.minimizer(tolerance=1e-12)
    minimizer.iterate()
    np.testing.assert_array_equal(np.ravel(problem.points)[:2], [0, 1])
    assert abs(problem.gradients[1]) < 0.9
    assert problem.losses[1] < 0
    assert (minimizer.stopped, minimizer.evaluations) == ("converged", 3)
    assert problem.losses[2] < -0.1


def test_the_lowest_point_is_kept_where_evaluations_run_out():
    """A loss with a kink satisfies the second condition nowhere."""
    last = []
    for start in np.linspace(1.5, 3.5, 9):
        problem = Problem(lambda x: (float(abs(x).sum()), np.where(x < 0, -1.0, 1.0)), [start])
        minimizer = problem.minimizer()
        minimizer.iterate()
        scores = minimizer.state()["scores"]
        assert minimizer.stopped == ""
        assert scores[0] == abs(problem.x[0]) == min(problem.losses) < start
        assert minimizer.evaluations == 1 + 20
        last.append(problem.losses[-1])
    assert any(one != abs(problem.x[0]) for one in last)


def test_an_iteration_returns_the_scores_before_it_and_holds_those_after_it():
    problem = Problem(rosenbrock, far_from_the_valley())
    minimizer = problem.minimizer()
    for _ in range(20):
        before = rosenbrock(problem.x)[0]
        assert minimizer.iterate() == (before, -before)
        after = rosenbrock(problem.x)
        assert tuple(minimizer.state()["scores"]) == (after[0], -after[0])
        assert_same_bits(minimizer.state()["gradient"], after[1])
        assert after[0] < before


def test_the_history_is_bounded_and_ends_with_the_latest_pair():
    problem = Problem(rosenbrock, far_from_the_valley())
    minimizer = problem.minimizer(history=3)
    for count in range(1, 9):
        before = problem.x.copy()
        minimizer.iterate()
        state = minimizer.state()
        assert state["s"].shape == state["y"].shape == (min(count, 3), 20)
        assert_same_bits(state["s"][-1], problem.x - before)
        assert_same_bits(state["y"][-1], state["gradient"] - rosenbrock(before)[1])


def test_a_resumed_run_has_the_same_bits(dtype):
    function, start = network((10, 8, 4), 3, dtype.name)
    whole = Problem(function, start)
    minimizer, states = whole.minimizer(history=4), []
    for _ in range(25):
        states.append((whole.x.copy(), minimizer.state(), len(whole.points)))
        minimizer.iterate()
    for left, (x, state, done) in zip(range(25, 0, -1), states, strict=True):
        assert state.keys() == ({"s", "y", "gradient", "scores"} if done else set())
        part = Problem(function, x)
        resumed = part.minimizer(history=4)
        resumed.restore(state)
        for one in state.values():
            one.fill(0)  # restored arrays are copies
        for _ in range(left):
            resumed.iterate()
        assert_same_bits(part.x, whole.x)
        assert_same_bits(np.array(part.points), np.array(whole.points[done:]))
        for name, one in minimizer.state().items():
            assert_same_bits(resumed.state()[name], one)


def test_a_state_shares_no_memory_with_the_minimizer():
    one, other = (Problem(rosenbrock, far_from_the_valley()) for _ in range(2))
    disturbed, left_alone = one.minimizer(), other.minimizer()
    for _ in range(10):
        for array in disturbed.state().values():
            array.fill(0)
        disturbed.iterate()
        left_alone.iterate()
    assert_same_bits(one.x, other.x)


def test_parameters_and_state_have_the_dtype_of_the_parameters(dtype):
    function, start = network((10, 4), 1, dtype.name)
    problem = Problem(function, start)
    minimizer = problem.minimizer()
    finish(minimizer)
    dtypes = {name: one.dtype for name, one in minimizer.state().items()}
    assert dtypes == {"s": dtype, "y": dtype, "gradient": dtype, "scores": np.dtype(float)}
    assert problem.x.dtype == dtype
    # In float32 the search may end where rounding hides a lower loss.
    assert abs(minimizer.state()["gradient"]).max() < (1e-7 if dtype == np.float64 else 1e-4)


def test_dot_products_of_float32_are_sums_in_float64():
    """The squares of these gradients are infinite in float32."""
    problem = Problem(lambda x: (5e24 * float(x @ x), np.float32(1e25) * x), np.array([3, 4], "f4"))
    minimizer = problem.minimizer(tolerance=1e19)
    finish(minimizer)
    assert minimizer.stopped == "converged"
    assert abs(problem.x).max() <= 1e-6


def test_it_stops_where_the_gradient_is_small():
    problem = Problem(rosenbrock, np.ones(4))
    minimizer = problem.minimizer(tolerance=0.0)
    assert [minimizer.iterate() for _ in range(3)] == [(0.0, 0.0)] * 3
    assert (minimizer.stopped, minimizer.evaluations) == ("converged", 1)
    np.testing.assert_array_equal(problem.x, np.ones(4))


def test_it_stops_as_soon_as_it_has_converged():
    problem = Problem(lambda x: (float(x @ x) / 2, x), [0.3, 0.4])
    minimizer = problem.minimizer()
    assert minimizer.iterate()[0] == 0.125
    assert (minimizer.stopped, minimizer.evaluations) == ("converged", 2)
    assert minimizer.iterate()[0] < 1e-30
    assert minimizer.evaluations == 2


def test_it_stops_where_no_lower_loss_is_found():
    problem = Problem(lambda x: (float(x @ x), -2 * x), [3.0, 4.0])  # the sign of the gradient is wrong
    minimizer = problem.minimizer()
    assert minimizer.iterate() == minimizer.iterate() == (25.0, -25.0)
    assert minimizer.stopped == "line search"
    assert minimizer.evaluations == 1 + 20
    np.testing.assert_array_equal(problem.x, [3.0, 4.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_it_stops_where_the_first_loss_or_gradient_is_not_finite(where, bad):
    problem = Problem(lambda x: (bad, x) if where == "loss" else (1.0, np.array([1.0, bad])), [3.0, 4.0])
    minimizer = problem.minimizer()
    minimizer.iterate()
    assert (minimizer.stopped, minimizer.evaluations) == ("not finite", 1)
    np.testing.assert_array_equal(problem.x, [3.0, 4.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_steps_into_a_region_that_is_not_finite_are_shortened(bad):
    """The loss x - log x with its minimum at 1 is not finite where x <= 0."""

    def function(x):
        return (float((x - np.log(x)).sum()), 1 - 1 / x) if (x > 0).all() else (bad, np.full_like(x, bad))

    problem = Problem(function, [0.9, 40.0])
    minimizer = problem.minimizer()
    finish(minimizer)
    assert minimizer.stopped == "converged"
    assert_close(problem.x, np.ones(2), "other framework")
    assert not np.isfinite(problem.losses).all()


def test_wrong_curvature_is_forgotten():
    """A curvature that is too small by 40 orders makes steps that no line search shortens enough."""
    problem = Problem(lambda x: (float(x @ x) / 2, x), [3.0, 4.0])
    minimizer, s = problem.minimizer(), np.eye(2)
    state = {"s": s, "y": 1e-40 * s, "gradient": problem.x.copy(), "scores": np.array([12.5, 0.0])}
    minimizer.restore(state)
    minimizer.iterate()
    assert minimizer.stopped == ""
    assert problem.losses[-1] < 12.5
    assert len(minimizer.state()["s"]) == 1


def test_a_pair_without_positive_curvature_is_not_kept():
    """Along a straight line of the loss the gradient does not change."""
    problem = Problem(lambda x: (float(x.sum()), np.ones_like(x)), [3.0, 4.0])
    minimizer = problem.minimizer()
    for _ in range(3):
        minimizer.iterate()
    assert len(minimizer.state()["s"]) == 0
    assert minimizer.stopped == ""
    assert problem.x.sum() < -1e6  # each trial step is several times as long as the one before


def test_a_state_that_does_not_fit_is_refused():
    problem = Problem(rosenbrock, far_from_the_valley(4))
    minimizer = problem.minimizer()
    minimizer.iterate()
    state = minimizer.state()
    for name, one in state.items():
        for wrong in (one[..., :-1], one.astype("f4"), one[None]):
            with pytest.raises(ValueError, match="an array of shape .* and dtype .* in the state of L-BFGS"):
                problem.minimizer().restore(state | {name: wrong})
        with pytest.raises(KeyError, match=name):
            problem.minimizer().restore({key: value for key, value in state.items() if key != name})
    with pytest.raises(ValueError, match="an array of shape"):
        problem.minimizer().restore(state | {"y": np.repeat(state["y"], 2, axis=0)})


def test_the_optimizer_passes_its_constants_on():
    problem = Problem(rosenbrock, far_from_the_valley(4))
    minimizer = fastmlp.optimizers.LBFGS(history=2, tolerance=0.5).minimizer(problem, problem.x)
    finish(minimizer)
    assert minimizer.stopped == "converged"
    assert 1e-3 < abs(problem.gradients[-1]).max() <= 0.5
    assert len(minimizer.state()["s"]) == 2
