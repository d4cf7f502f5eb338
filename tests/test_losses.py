"""The losses: values in decimal arithmetic, gradients by five oracles, the same bits, targets, scores, files."""

import decimal
import pickle
from decimal import Decimal

import naive
import numpy as np
import pytest
from compare import F8, TOLERANCE, assert_close, assert_close_where_finite, assert_same_bits, columns

import fastmlp
from fastmlp import losses, storage, targets
from fastmlp.kernels import scores
from fastmlp.kernels.nets import ACTIVATIONS, LOSSES, Net
from fastmlp.optimizers import LBFGS, SGD, Adam

OF_OUTPUTS = [name for name in LOSSES if name != "cross_entropy"]
REGRESSIONS = [name for name in OF_OUTPUTS if name != "logistic"]
each_loss = pytest.mark.parametrize("name", LOSSES)
each_of_outputs = pytest.mark.parametrize("name", OF_OUTPUTS)
each_regression = pytest.mark.parametrize("name", REGRESSIONS)


def wanted_targets(rng, name, outputs, m):
    """Return targets (outputs, m) in the range of a loss; soft ones of a classification."""
    if name == "cross_entropy":
        return naive.softmax(rng.standard_normal((outputs, m))).astype(float)
    if name == "logistic":
        return rng.choice([0, 1, 0.3], size=(outputs, m))
    if name == "poisson":
        return rng.poisson(2.0, size=(outputs, m)).astype(float)
    return rng.standard_normal((outputs, m)) * 2


# ---- Values and slopes of one output ----


def measured(name, z, y, weight=None):
    """Return loss, slope and hit of each logit z (m,) with target y (m,), by the kernels of the active backend."""
    z, y = np.ascontiguousarray(z)[None], np.ascontiguousarray(y)[None]
    loss, hit = np.empty_like(z[0]), np.empty_like(z[0])
    slope = np.empty_like(z)
    fastmlp.backend.kernels().loss_gradient(
        slope, loss, hit, z, y, np.ones_like(z[0]) if weight is None else weight, name
    )
    return loss, slope[0], hit


def huber(r):
    return r * r / 2 if abs(r) <= 1 else abs(r) - Decimal("0.5")


# Loss and slope by logit and target, in decimal arithmetic.
EXACT = {
    "logistic": (lambda z, y: (1 + z.exp()).ln() - y * z, lambda z, y: 1 / (1 + (-z).exp()) - y),
    "squared_error": (lambda z, y: (z - y) ** 2 / 2, lambda z, y: z - y),
    "absolute_error": (lambda z, y: abs(z - y), lambda z, y: Decimal(np.sign(z - y))),
    "huber": (lambda z, y: huber(z - y), lambda z, y: max(min(z - y, Decimal(1)), Decimal(-1))),
    "poisson": (lambda z, y: z.exp() - y * z + (y * y.ln() - y if y else 0), lambda z, y: z.exp() - y),
}


@pytest.fixture
def many_digits():
    with decimal.localcontext(prec=80, Emin=-99999, Emax=99999):
        yield


def allowed(name, z, y, exact):
    """Return the errors of loss and slope that roundings of the formula explain, in units of eps."""
    loss, slope = (abs(one) for one in exact)
    if name == "logistic":  # to all digits where a target is hard, however small the loss is
        soft = 0 if y in (0, 1) else 4
        return 4 * loss + soft * abs(z), 4 * slope + soft
    if name == "poisson":
        rate = z.exp()
        return 4 * (rate + y + y * (abs(z) + (abs(y.ln()) if y else 0))), 4 * (rate + y)
    return 4 * loss + 2 * max(abs(z), abs(y)) * max(slope, Decimal(10) ** -300), max(abs(z), abs(y))


@pytest.mark.kernels
@each_of_outputs
def test_exact_values(backend, rng, dtype, many_digits, name):
    widths = [1e-6, 1, 10, 30, 80]
    z = np.concatenate([rng.uniform(-width, width, 60) for width in widths] + [[0.0, 1.0, -1.0]]).astype(dtype)
    y = wanted_targets(rng, name, 1, z.size)[0].astype(dtype)
    loss, slope, _ = measured(name, z, y)
    eps = Decimal(float(np.finfo(dtype).eps))
    for row in zip(z, y, loss, slope, strict=True):
        z_, y_, loss_, slope_ = (Decimal(float(one)) for one in row)
        exact = [function(z_, y_) for function in EXACT[name]]
        most = allowed(name, z_, y_, exact)
        for actual, wanted, bound in zip((loss_, slope_), exact, most, strict=True):
            assert abs(actual - wanted) <= eps * bound, (row, wanted)


def test_a_small_logistic_loss_keeps_its_digits(backend):
    """log(1 + exp(-40)) is exp(-40); a sum with 1 would drop all of it."""
    loss, slope, hit = measured("logistic", np.array([40.0, -40.0]), np.array([1.0, 0.0]))
    assert_close(loss, np.exp([-40.0, -40.0]), "function")
    assert_close(slope, np.exp([-40.0, -40.0]) * [-1, 1], "function")
    assert hit.tolist() == [1, 1]


@pytest.mark.kernels
def test_finite_where_naive_formulas_overflow(backend, dtype):
    big = np.array([3e4, -3e4], dtype)
    loss, slope, hit = measured("logistic", np.tile(big, 2), np.array([1, 1, 0, 0], dtype))
    assert_close(loss, np.array([0, 3e4, 3e4, 0], dtype), "function")
    assert slope.tolist() == [0, -1, 1, 0]
    assert hit.tolist() == [1, 0, 0, 1]
    loss, slope, _ = measured("poisson", np.array([-3e4, -3e4], dtype), np.array([0, 2], dtype))
    assert_close(loss, np.array([0, 2 * (3e4 + np.log(2)) - 2], dtype), "function")
    assert slope.tolist() == [0, -2]
    far = np.array([np.finfo(dtype).max / 4], dtype)
    for name in ("absolute_error", "huber"):
        loss, slope, _ = measured(name, far, -far)
        assert_close(loss, 2 * far, "function")
        assert slope.tolist() == [1]


@pytest.mark.parametrize("name", ["labels", "cross_entropy", "logistic"])
def test_a_net_may_limit_the_loss_of_a_sample(backend, rng, dtype, name):
    """The gradient is that of the whole loss; NaN stays NaN."""
    kernels, loss = fastmlp.backend.kernels(), "cross_entropy" if name == "labels" else name
    x, w = rng.standard_normal((5, 70)).astype(dtype), (rng.random(70) * rng.integers(0, 2, 70)).astype(dtype)
    y = rng.integers(0, 3, 70) if name == "labels" else wanted_targets(rng, loss, 3, 70).astype(dtype)
    parameters = (3 * rng.standard_normal(18)).astype(dtype)
    packed = fastmlp.pack(x, dtype=np.dtype(dtype).name).operands(dtype)
    net, found = Net((5, 3), (), loss), []
    for most in (1.25, np.inf):
        gradient = np.empty_like(parameters)
        found.append((kernels.network_step(gradient, parameters, net._replace(most=most), packed, y, w)[0], gradient))
    z = parameters[:15].reshape(3, 5).astype(float) @ x + parameters[15:, None]
    if loss == "logistic":
        each = np.minimum(np.logaddexp(0, z) - y * z, 1.25).sum(axis=0)
    else:
        share = np.eye(3)[y].T if name == "labels" else y
        each = np.minimum((share * (np.log(np.exp(z).sum(axis=0)) - z)).sum(axis=0), 1.25)
    assert_close(np.array(found[0][0], dtype), np.array(each @ w, dtype), "sum")
    assert found[0][0] < found[1][0]
    assert_same_bits(found[0][1], found[1][1])
    parameters[0] = np.nan
    assert np.isnan(kernels.network_step(gradient, parameters, net._replace(most=1.25), packed, y, w)[0])


def formulas(name, z, y):
    """Return loss and slope by plain NumPy."""
    r = z - y
    return {
        "logistic": lambda: (np.logaddexp(0, z) - y * z, 1 / (1 + np.exp(-z)) - y),
        "squared_error": lambda: (r * r / 2, r),
        "absolute_error": lambda: (np.abs(r), np.sign(r)),
        "huber": lambda: (np.where(np.abs(r) <= 1, r * r / 2, np.abs(r) - 0.5), np.clip(r, -1, 1)),
        "poisson": lambda: (np.exp(z) - y * z + y * np.log(y) - y, np.exp(z) - y),
    }[name]()


@pytest.mark.kernels
@each_of_outputs
def test_nan_and_infinity_are_where_numpy_puts_them(backend, dtype, name):
    """But for infinity minus infinity, and for 0 times infinity, in a naive formula: the loss may be known there."""
    one = np.array([0.5, -2, np.inf, -np.inf, np.nan], dtype)
    other = np.array([0, 1, 0.5, 3, -1, np.inf, -np.inf, np.nan], dtype)
    z, y = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(one, other))
    with np.errstate(all="ignore"):
        expected = formulas(name, z, y)
    for actual, wanted in zip(measured(name, z, y)[:2], expected, strict=True):
        known = ~np.isnan(wanted)
        if name in ("logistic", "poisson"):
            known &= np.isfinite(z) & np.isfinite(y)
        assert_close_where_finite(actual[known], wanted[known], "function", dtype)
        assert np.isnan(actual[np.isnan(z) | np.isnan(y)]).all()
        if name in ("squared_error", "absolute_error", "huber"):
            assert (np.isnan(actual) == np.isnan(wanted)).all()
    with np.errstate(all="ignore"):
        loss, slope, _ = measured("logistic", np.array([np.inf, -np.inf, np.inf]), np.array([1.0, 0.0, 0.0]))
    assert loss.tolist() == [0, 0, np.inf]
    assert slope.tolist() == [0, 0, 1]


def test_ties_are_on_the_side_of_zero(backend):
    z, y = np.array([0.0, 0.0, 1e-9, 1e-9, -1e-9, np.nan]), np.array([0.5, 0.51, 0.5, 0.51, 0.5, 0.0])
    assert measured("logistic", z, y)[2].tolist() == [1, 0, 0, 1, 1, 0]
    model = fastmlp.MLP((1, 1), loss="logistic")
    model.parameters = [1.0, 0.0]
    assert model.predict([[0.0, 1e-9, -1e-9]]).tolist() == [0, 1, 0]


# ---- Gradients of nets ----


def complex_losses(name, z, y):
    """Return the loss (m,) of complex logits whose imaginary part is a step; a kink is decided by the real part."""
    r = z - y
    each = {
        "cross_entropy": lambda: y * (np.log(np.exp(z).sum(axis=0)) - z),
        "logistic": lambda: np.log(1 + np.exp(z)) - y * z,
        "squared_error": lambda: r * r / 2,
        "absolute_error": lambda: r * np.sign(r.real),
        "huber": lambda: np.where(np.abs(r.real) <= 1, r * r / 2, r * np.sign(r.real) - 0.5),
        "poisson": lambda: np.exp(z) - y * z + np.where(y > 0, y * np.log(np.where(y > 0, y, 1)), 0) - y,
    }[name]()
    return each.sum(axis=0)


def complex_loss(vector, model, x, y, weight):
    layers = naive.unflatten(vector, model.layer_sizes)
    a = naive.COMPLEX[model.activation](layers[0][0] @ x + layers[0][1])
    z = layers[1][0] @ a + layers[1][1]
    return (weight * complex_losses(model.loss, z, y)).sum() / weight.sum()


def problem(rng, name, outputs, m, activation="tanh", dtype="float64"):
    model = fastmlp.MLP((5, 6, outputs), dtype=dtype, activation=activation, loss=name)
    model.parameters = rng.standard_normal(model.parameters.size) / 2
    return model, rng.standard_normal((5, m)), wanted_targets(rng, name, outputs, m), rng.random(m) + 0.1


# Activation, outputs and samples: few samples, tiles of them, and several leaves.
CASES = [(activation, 3, m) for activation in ACTIVATIONS for m in (7, 600)]
CASES += [("tanh", 1, m) for m in (7, 600, 5000)] + [("relu", 3, 5000)]


@pytest.mark.kernels
@pytest.mark.parametrize(("activation", "outputs", "m"), CASES)
@each_loss
def test_gradients(backend, rng, name, activation, outputs, m):
    """By complex steps and central differences, which know no derivative; with weights."""
    outputs += name == "cross_entropy" and outputs == 1  # one class has nothing to learn
    model, x, y, weight = problem(rng, name, outputs, m, activation)
    loss, grad = model.loss_and_grad(x, y, weight)
    start, step, units = model.parameters.copy(), 1e-100, np.eye(model.parameters.size)[:: 1 if m < 100 else 19]
    wanted = complex_loss(start.astype(complex), model, x, y, weight).real
    assert loss == pytest.approx(wanted, rel=TOLERANCE["product", F8])
    by_steps = [complex_loss(start + 1j * step * unit, model, x, y, weight).imag / step for unit in units]
    assert_close(grad[:: 1 if m < 100 else 19], np.array(by_steps), "product")
    if "relu" in activation or name in ("absolute_error", "huber") or m > 100:
        return  # differences across a kink are wrong
    by_differences = []
    for unit in units:
        sides = []
        for sign in (1, -1):
            model.parameters = start + sign * 1e-5 * unit
            sides.append(model.loss_and_grad(x, y, weight)[0])
        by_differences.append((sides[0] - sides[1]) / 2e-5)
    assert np.abs(np.array(by_differences) - grad).max() <= TOLERANCE["central difference", F8] * max(
        abs(grad).max(), 1
    )


@pytest.mark.kernels
@pytest.mark.parametrize("m", [9, 300])
@each_of_outputs
def test_torch_agrees(backend, rng, dtype, name, m):
    torch = pytest.importorskip("torch")
    functions = torch.nn.functional
    each = {
        "logistic": functions.binary_cross_entropy_with_logits,
        "squared_error": lambda z, y, reduction: functions.mse_loss(z, y, reduction=reduction) / 2,
        "absolute_error": functions.l1_loss,
        "huber": functions.smooth_l1_loss,
        "poisson": lambda z, y, reduction: (
            functions.poisson_nll_loss(z, y, reduction=reduction) + torch.xlogy(y, y) - y
        ),
    }[name]
    model, x, y, weight = problem(rng, name, 3, m, dtype=dtype.name)
    x, y, weight = (one.astype(dtype) for one in (x, y, weight))
    vector = torch.tensor(model.parameters, requires_grad=True)
    w1, b1, w2, b2 = torch.split(vector, [30, 6, 18, 3])
    z = functions.linear(torch.tanh(functions.linear(torch.tensor(x.T), w1.reshape(6, 5), b1)), w2.reshape(3, 6), b2)
    of_samples = each(z, torch.tensor(y.T), reduction="none").sum(dim=1)
    loss = (torch.tensor(weight) * of_samples).sum() / weight.sum()
    loss.backward()
    ours, grad = model.loss_and_grad(x, y, weight)
    assert ours == pytest.approx(loss.item(), rel=TOLERANCE["product", dtype])
    assert_close(grad, vector.grad.numpy(), "product", dtype)


@each_of_outputs
def test_sklearn_agrees_about_losses_and_scores(backend, rng, name):
    metrics = pytest.importorskip("sklearn.metrics")
    model, x, y, _ = problem(rng, name, 3, 400)
    y = (y > 0.5).astype(float) if name == "logistic" else y
    found = model.evaluate(x, y)
    p = model.predict_proba(x) if name == "logistic" else model.predict(x)
    theirs = {
        "logistic": lambda: sum(metrics.log_loss(a, b) for a, b in zip(y, p, strict=True)),
        "squared_error": lambda: 1.5 * metrics.mean_squared_error(y.T, p.T),
        "absolute_error": lambda: 3 * metrics.mean_absolute_error(y.T, p.T),
        "poisson": lambda: sum(metrics.mean_poisson_deviance(a, b) / 2 for a, b in zip(y, p, strict=True)),
    }
    if name in theirs:
        assert found["loss"] == pytest.approx(theirs[name](), rel=TOLERANCE["product", F8])
    wanted = metrics.accuracy_score(y.T, model.predict(x).T) if name == "logistic" else metrics.r2_score(y.T, p.T)
    assert found[losses.score_name(name)] == pytest.approx(wanted, rel=TOLERANCE["product", F8])


# ---- R^2 ----


def test_r2_is_that_of_sklearn(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    y, p, weight = rng.standard_normal((3, 50)), rng.standard_normal((3, 50)), rng.choice([0.5, 1, 2], size=50)
    weight[:3] = 0
    y[1] = 0.75  # constant, not met
    for rows in ([0], [0, 1], [1, 2], [1]):
        wanted = metrics.r2_score(y[rows].T, p[rows].T, sample_weight=weight)
        assert losses.r2(p[rows], y[rows], weight) == pytest.approx(wanted, rel=TOLERANCE["sum", F8])
    p[1] = y[1]
    assert losses.r2(p[1:2], y[1:2], weight) == metrics.r2_score(y[1], p[1], sample_weight=weight) == 1


def test_constant_targets_have_no_variance_whatever_their_mean_rounds_to(dtype):
    y, weight = np.full((1, 10), 0.1, dtype), np.linspace(0, 1, 10).astype(dtype)
    assert scores.target_variances(y, weight).tolist() == [0]
    assert losses.r2(y + dtype.type(1), y, weight) == 0


@pytest.mark.kernels
@pytest.mark.parametrize("m", [30, 3000])
@pytest.mark.parametrize("outputs", [1, 3])
@each_regression
def test_a_run_knows_r2_at_the_parameters_of_each_epoch(backend, rng, dtype, name, outputs, m):
    model, x, y, weight = problem(rng, name, outputs, m, dtype=dtype.name)
    weight[:5] = 0
    seen = []
    for optimizer in (None, Adam(1e-3), LBFGS()):
        before = losses.r2(model.predict(x).reshape(outputs, m), y, weight)
        history = model.fit(x, y, epochs=1, sample_weight=weight, optimizer=optimizer)
        assert history.r2 == [pytest.approx(before, rel=TOLERANCE["trajectory", dtype])]
        assert history.accuracy == []
        seen.append(before)
    assert len(set(seen)) == 3


def test_during_training_constant_targets_count_zero(backend, rng):
    y = np.stack([rng.standard_normal(40), np.full(40, 0.1)])
    model = fastmlp.MLP((5, 2), loss="squared_error")
    x = rng.standard_normal((5, 40))
    alone = losses.r2(model.predict(x)[:1], y[:1], np.ones(40))
    history = model.fit(x, y, epochs=1, validation=(x, y))
    assert history.r2 == [pytest.approx(alone / 2, rel=TOLERANCE["product", F8])]


# ---- Training ----


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.3}], ids=["plain", "clipped"])
@pytest.mark.kernels
@each_loss
def test_minibatches_are_steps_on_their_samples(backend, rng, name, options):
    model, x, y, weight = problem(rng, name, 3, 130)
    oracle = fastmlp.MLP(model.layer_sizes, activation="tanh", loss=name)
    oracle.parameters = model.parameters
    history = model.fit(
        x, y, epochs=2, sample_weight=weight, optimizer=SGD(0.05), batch_size=32, shuffle=False, l2=0.01, **options
    )
    total, residuals = [], []
    for _ in range(2):
        sums = np.zeros(2)
        for first in range(0, 130, 32):
            part = slice(first, first + 32)
            loss, grad = oracle.loss_and_grad(x[:, part], y[:, part], weight[part])
            sums += weight[part].sum() * np.array([loss, 1])
            if name in REGRESSIONS:
                residuals.append(((oracle.predict(x[:, part]) - y[:, part]) ** 2 * weight[part]).sum(axis=1))
            for layer in zip(
                *(naive.unflatten(one, oracle.layer_sizes) for one in (grad, oracle.parameters)), strict=True
            ):
                layer[0][0][...] += 0.01 * layer[1][0]
            norm = np.sqrt((grad**2).sum())
            if norm > options.get("clip_norm", np.inf):
                grad *= options["clip_norm"] / norm
            oracle.parameters -= 0.05 * grad
        total.append(sums[0] / sums[1])
    assert_close(model.parameters, oracle.parameters, "trajectory")
    assert history.loss == pytest.approx(total, rel=TOLERANCE["trajectory", F8])
    if name in REGRESSIONS:
        missed = np.array(residuals).reshape(2, 5, 3).sum(axis=1) / weight.sum()
        wanted = (1 - missed / scores.target_variances(y, weight)).mean(axis=1)
        assert history.r2 == pytest.approx(wanted, rel=TOLERANCE["trajectory", F8])


@pytest.mark.kernels
@each_of_outputs
def test_both_backends_train_alike(compiled, reference, rng, dtype, name):
    _, x, y, weight = problem(rng, name, 3, 200)
    ends = []
    for backend in ("numba", "numpy"):
        model = fastmlp.MLP((5, 8, 3), dtype=dtype.name, loss=name)
        with fastmlp.use_backend(backend):
            history = model.fit(x, y, epochs=3, optimizer=Adam(0.01), batch_size=32, sample_weight=weight)
        ends.append((model.parameters, np.array(history.loss), np.array(history.scores)))
    for one, other in zip(*ends, strict=True):
        assert_close(one.astype(dtype), other.astype(dtype), "trajectory", dtype)


@pytest.mark.kernels
@pytest.mark.numba
@pytest.mark.parametrize("m", [40, 300, 3000])
@each_of_outputs
def test_bits_do_not_depend_on_threads(compiled, rng, dtype, monkeypatch, name, m):
    monkeypatch.setattr(compiled.tuning, "PARALLEL_WORK", 0)
    monkeypatch.setattr(compiled.tuning, "TEAM_WORK", 0)
    _, x, y, weight = problem(rng, name, 3, m)
    found = set()
    for threads in (1, 2, 3):
        if threads > compiled.max_threads():
            continue
        with fastmlp.use_backend("numba"), fastmlp.use_threads(threads):
            model = fastmlp.MLP((5, 8, 3), dtype=dtype.name, loss=name)
            for given in (x, np.asfortranarray(x), fastmlp.pack(x, dtype=dtype.name)):
                loss, grad = model.loss_and_grad(given, y, weight)
                found.add((loss, grad.tobytes(), tuple(model.evaluate(given, y).values())))
            history = model.fit(x, y, epochs=2, optimizer=Adam(0.01), batch_size=16, clip_norm=0.5)
            found.add((model.parameters.tobytes(), *history.loss, *history.scores))
    assert len(found) == 2


@each_of_outputs
def test_a_weight_of_two_is_a_sample_twice_and_of_zero_none(backend, rng, name):
    model, x, y, _ = problem(rng, name, 3, 60)
    weight = rng.integers(0, 3, size=60).astype(float)
    index = np.repeat(np.arange(60), weight.astype(int))
    (loss, grad), (wanted, other) = model.loss_and_grad(x, y, weight), model.loss_and_grad(x[:, index], y[:, index])
    assert loss == pytest.approx(wanted, rel=TOLERANCE["product", F8])
    assert_close(grad, other, "product")
    ends = [model.fit(*one, epochs=1) for one in ((x[:, index], y[:, index]),)]
    model, *_ = problem(np.random.default_rng(20260101), name, 3, 60)
    again = model.fit(x, y, epochs=1, sample_weight=weight)
    assert again.scores == pytest.approx(ends[0].scores, rel=TOLERANCE["product", F8])


@each_of_outputs
def test_a_target_of_one_output_may_be_flat(backend, rng, name):
    model, x, y, _ = problem(rng, name, 1, 40)
    assert_same_bits(model.loss_and_grad(x, y[0])[1], model.loss_and_grad(x, y)[1])
    assert_same_bits(model.loss_and_grad(x, y[0].tolist())[1], model.loss_and_grad(x, y)[1])
    assert model.predict(x).shape == (40,)
    two, x, y, _ = problem(rng, name, 2, 40)
    assert two.predict(x).shape == (2, 40)


def test_linear_nets_find_what_sklearn_finds(backend, rng):
    """Without hidden layers each loss is convex, and its minimum that of another program."""
    linear = pytest.importorskip("sklearn.linear_model")
    x, noise = rng.standard_normal((3, 300)), rng.standard_normal(300)
    z = np.array([0.5, -1, 0.3]) @ x + 0.2
    cases = [
        ("squared_error", z + noise, linear.LinearRegression()),
        ("logistic", (z + noise > 0).astype(int), linear.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)),
        ("poisson", rng.poisson(np.exp(z)), linear.PoissonRegressor(alpha=0, tol=1e-10, max_iter=1000)),
    ]
    for name, y, other in cases:
        model = fastmlp.MLP((3, 1), loss=name)
        history = model.fit(x, y, epochs=200, optimizer=LBFGS())
        assert history.stopped in ("converged", "line search")
        other.fit(x.T, y)
        theirs = np.append(np.ravel(other.coef_), other.intercept_)
        assert_close(model.parameters, theirs, "other framework")
        assert model.evaluate(x, y)[losses.score_name(name)] >= history.scores[-1] - 1e-9


def test_early_stopping_keeps_the_parameters_of_the_lowest_loss(backend, rng):
    model, x, y, _ = problem(rng, "huber", 2, 100)
    held = rng.standard_normal((5, 50)), rng.standard_normal((2, 50))
    history = model.fit(x, y, epochs=300, optimizer=Adam(0.02), batch_size=20, validation=held, patience=5)
    assert history.stopped == "patience"
    assert model.evaluate(*held)["loss"] == pytest.approx(min(history.validation_loss), rel=TOLERANCE["sum", F8])
    assert list(history.to_dict()) == ["epoch", "loss", "r2", "validation_loss", "validation_r2", "seconds"]
    assert len(history.validation_r2) == len(history)


def test_a_run_that_diverges_says_so(backend, rng):
    model, x, y, _ = problem(rng, "squared_error", 1, 50)
    with pytest.raises(FloatingPointError, match="stopped being finite in epoch .* with alpha 100"):
        model.fit(x, y, epochs=500, alpha=100)
    assert np.isfinite(model.parameters).all()


# ---- Targets ----


@pytest.mark.parametrize(
    ("name", "outputs", "y", "text"),
    [
        ("poisson", 1, [0, 2, -1], r"Y: got -1.0 at index 2, expected finite counts >= 0; the Poisson loss is for"),
        ("poisson", 2, [[0, 2, 1], [0, -3, 1]], r"Y: got -3.0 at row 1, column 1, expected finite counts >= 0"),
        ("poisson", 1, [0, np.inf, 1], r"Y: got inf at index 1, expected finite counts"),
        ("logistic", 1, [0, 1, 2], r"Y: got 2.0 at index 2, expected targets from 0 to 1; pass labels 0 and 1"),
        ("logistic", 1, [-1, 1, 1], r"Y: got -1.0 at index 0, expected targets from 0 to 1"),
        ("logistic", 1, [0, np.nan, 1], r"Y: got nan at index 1, expected targets from 0 to 1"),
        (
            "logistic",
            3,
            [0, 1, 2],
            r"Y: got shape \(3,\), expected shape \(n_outputs, m\) = \(3, 3\); .*one_hot\(labels, 3\)",
        ),
        ("logistic", 2, [[0, 1, 1]], r"Y: got shape \(1, 3\), expected shape \(n_outputs, m\) = \(2, 3\)"),
        ("huber", 1, [0, np.nan, 1], r"Y: got nan at index 1, expected targets that are finite in float64; fill in"),
        ("squared_error", 2, [[0, 1, 1], [0, 1, -np.inf]], r"Y: got -inf at row 1, column 2, expected targets that"),
        ("squared_error", 1, [[0, 1], [1, 1], [2, 0]], r"Y: got shape \(3, 2\), expected shape \(1, m\), or targets"),
        ("squared_error", 2, [[0, 1], [1, 1], [2, 0]], r"Y: got shape \(3, 2\), .*; transpose it"),
        ("squared_error", 1, [0, 1], r"Y: got shape \(2,\), expected shape \(m,\) = \(3,\); pass one target for each"),
    ],
)
def test_targets_that_a_loss_cannot_measure_are_refused(name, outputs, y, text):
    model = fastmlp.MLP((2, outputs), loss=name)
    before = model.parameters.copy()
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=text):
            call(np.ones((2, 3)), y)
    with pytest.raises(ValueError, match=text.replace("Y: ", "validation Y: ")):
        model.fit(np.ones((2, 3)), np.ones((outputs, 3)), validation=(np.ones((2, 3)), y))
    assert_same_bits(model.parameters, before)


def test_targets_too_large_for_float32_are_refused():
    with pytest.raises(ValueError, match="Y: got inf at index 1, expected targets that are finite in float32"):
        fastmlp.MLP((2, 1), dtype="float32", loss="squared_error").fit(np.ones((2, 2)), [1, 1e300])


def test_targets_that_are_no_numbers_are_refused():
    for y in (["yes", "no"], [1j, 0]):
        with pytest.raises(TypeError, match="^Y: got dtype .*, expected real numbers"):
            fastmlp.MLP((2, 1), loss="logistic").fit(np.ones((2, 2)), y)


@pytest.mark.kernels
@each_of_outputs
def test_loss_and_grad_takes_targets_out_of_range(backend, name):
    model = fastmlp.MLP((2, 1), loss=name)
    for bad in (np.nan, -1):
        loss, grad = model.loss_and_grad(np.ones((2, 3)), [1, 1, bad])
        finite = bad == -1 and name != "poisson"
        assert np.isfinite(loss) == finite
        assert np.isfinite(grad).all() == (bad == -1)


def test_class_weights_are_for_classes(backend, rng):
    model, x, y, _ = problem(rng, "logistic", 1, 50)
    again = fastmlp.MLP(model.layer_sizes, activation="tanh", loss="logistic")
    again.parameters = model.parameters
    by_class = model.fit(x, y, epochs=3, class_weight={1: 4.0})
    by_sample = again.fit(x, y, epochs=3, sample_weight=1 + 3 * y[0])
    assert_close(model.parameters, again.parameters, "product")
    assert by_class.loss == pytest.approx(by_sample.loss, rel=TOLERANCE["product", F8])
    for name, outputs in (("huber", 1), ("poisson", 2), ("logistic", 2)):
        model, x, y, _ = problem(rng, name, outputs, 50)
        with pytest.raises(
            ValueError, match=f"class_weight: got weights of classes beside loss '{name}'.* sample_weight"
        ):
            model.fit(x, y, class_weight={0: 2})


# ---- Predictions, advice ----


def test_predictions_are_on_the_scale_of_the_targets(backend, rng, dtype):
    x = rng.standard_normal((5, 30)).astype(dtype)
    for name in LOSSES:
        model = fastmlp.MLP((5, 3), dtype=dtype.name, loss=name)
        z = naive.product(model.weights[0], x) + model.biases[0]
        predicted = model.predict(x)
        if name in REGRESSIONS:
            assert_close(predicted, np.exp(z) if name == "poisson" else z, "product", dtype)
            with pytest.raises(ValueError, match=f"predict_proba: got a model with loss '{name}', .*; call predict"):
                model.predict_proba(x)
            continue
        assert predicted.dtype == np.int64
        p = model.predict_proba(x)
        assert p.dtype == dtype
        if name == "logistic":
            assert_close(p, 1 / (1 + np.exp(-z)), "product", dtype)
            assert (predicted == (p > 0.5)).all()


@pytest.mark.parametrize("columns", [5, losses._MANY_COLUMNS + 1])
def test_labels_are_those_of_numpy_also_of_ties_and_numbers_that_are_none(rng, dtype, columns):
    z = rng.integers(-2, 3, size=(4, columns)).astype(dtype)
    z[0, :2], z[1, 1], z[2, 2] = (-0.0, 0), -np.inf, np.inf
    for bad in (0, np.nan):
        z[1, -1] = bad
        for some in (z, z[:1], np.asfortranarray(z), z[:, ::-1]):
            found = losses.labels(some)
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, np.argmax(some, axis=0))


@pytest.mark.parametrize("outputs", [1, 3])
@each_of_outputs
def test_the_loss_of_guessing_is_the_lowest_of_a_constant(rng, name, outputs):
    optimize = pytest.importorskip("scipy.optimize")
    y, weight = wanted_targets(rng, name, outputs, 101), rng.random(101)
    y[0, :50] = y[0, 0]

    def mean(c, row):
        z = np.full(101, c, complex)
        return float((weight * complex_losses(name, z[None], row[None])).real.sum() / weight.sum())

    best = [optimize.minimize_scalar(mean, args=(row,), bounds=(-9, 9), method="bounded").fun for row in y]
    assert targets.loss_of_guessing(name, outputs, y, weight) == pytest.approx(sum(best), rel=1e-6)


def test_the_loss_of_guessing_hard_labels_and_zero_counts():
    ones, weight = np.ones((1, 5)), np.ones(5)
    for name in OF_OUTPUTS:
        assert targets.loss_of_guessing(name, 1, ones, weight) == 0
    assert targets.loss_of_guessing("poisson", 1, 0 * ones, weight) == 0


def test_a_regression_that_learns_nothing_is_told_so(backend, rng):
    x, y = rng.standard_normal((2, 3000)), rng.standard_normal(3000)
    with pytest.warns(fastmlp.TrainingWarning, match="guessing without looking at the inputs gives 0.5"):
        fastmlp.MLP((2, 1), loss="squared_error").fit(x, y, epochs=60, alpha=0.3)


# ---- Names, files and copies ----


@pytest.mark.parametrize("given", ["mse", "Huber", None, 3])
def test_an_unknown_loss_is_refused(given):
    with pytest.raises(ValueError, match="^loss: got .*, expected one of 'cross_entropy', .*, 'poisson'; pass one of"):
        fastmlp.MLP((3, 2), loss=given)


@each_loss
def test_files_and_pickles_know_the_loss(tmp_path, name):
    model = fastmlp.MLP((3, 4, 2), activation="tanh", loss=name)
    model.save(tmp_path / "model")
    version = b"2" if name == "cross_entropy" else b"3"
    assert b'"format_version":"' + version in (tmp_path / "model").read_bytes()
    for again in (fastmlp.MLP.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert (again.loss, repr(again)) == (name, repr(model))
        assert_same_bits(again.predict(np.eye(3)), model.predict(np.eye(3)))


def test_files_of_the_cross_entropy_have_the_bytes_they_had(tmp_path):
    fastmlp.MLP((3, 4, 2)).save(tmp_path / "model")
    found = (tmp_path / "model").read_bytes()
    assert b'"format_version":"1"' in found
    assert b"loss" not in found


def test_a_file_of_an_unknown_loss_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(losses, "LOSSES", (*LOSSES, "hinge"))
        fastmlp.MLP((3, 4, 2), loss="hinge").save(tmp_path / "model")
    with pytest.raises(ValueError, match="^path: got the unknown loss 'hinge': "):
        fastmlp.MLP.load(tmp_path / "model")


def test_models_that_were_pickled_before_there_was_a_choice_have_the_cross_entropy():
    state = fastmlp.MLP((3, 4, 2)).__dict__.copy()
    del state["_loss"]
    old = fastmlp.MLP.__new__(fastmlp.MLP)
    old.__dict__.update(state)
    assert pickle.loads(pickle.dumps(old)).loss == "cross_entropy"
    assert_same_bits(old.predict_proba(np.eye(3)), fastmlp.MLP((3, 4, 2)).predict_proba(np.eye(3)))


@pytest.mark.parametrize("options", [{}, {"optimizer": Adam(0.01), "batch_size": 32}, {"optimizer": LBFGS()}])
@pytest.mark.parametrize("name", ["logistic", "poisson"])
def test_a_run_resumes_with_its_own_loss_only(backend, rng, tmp_path, name, options):
    _, x, y, _ = problem(rng, name, 3, 100)
    held = {"validation": (x, y)}
    whole, begun, resumed = (fastmlp.MLP((5, 6, 3), loss=name) for _ in range(3))
    history = whole.fit(x, y, epochs=6, **held, **options)
    begun.fit(x, y, epochs=3, checkpoint=tmp_path / "run", **held, **options)
    assert storage.load(tmp_path / "run").loss == name
    with pytest.raises(ValueError, match=f"^path: got loss {name} in the file but huber here: .*run, expected"):
        fastmlp.MLP((5, 6, 3), loss="huber").fit(
            x, y, epochs=6, checkpoint=tmp_path / "run", resume=True, **held, **options
        )
    again = resumed.fit(x, y, epochs=6, checkpoint=tmp_path / "run", resume=True, **held, **options)
    assert_same_bits(resumed.parameters, whole.parameters)
    assert columns(again) == columns(history)
    assert again.loss_name == name
