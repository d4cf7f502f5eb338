"""Oracles independent of fastmlp: differences, complex steps, decimal arithmetic, another framework."""

import decimal
from decimal import Decimal
from itertools import pairwise

import naive
import numpy as np
import pytest
from compare import F8, TOLERANCE, assert_close

import fastmlp
from fastmlp import Forwardprop, Softmax, backward_prop, compute_cost

DEPTHS = [(5, 3), (5, 6, 3), (5, 6, 5, 4, 3)]


def problem(rng, sizes, m=23, dtype="float64"):
    model = fastmlp.MLP(sizes, dtype=dtype)
    model.parameters = rng.standard_normal(model.parameters.size) / 2
    soft = naive.softmax(rng.standard_normal((sizes[-1], m))).astype(float)
    return model, rng.standard_normal((sizes[0], m)), soft, rng.random(m) + 0.1


def complex_loss(vector, sizes, x, y, weight):
    """Return the weighted mean loss for complex parameters; each ReLU is decided by the real part."""
    a, layers = x, naive.unflatten(vector, sizes)
    for w, b in layers[:-1]:
        z = w @ a + b
        a = np.where(z.real > 0, z, 0)
    z = layers[-1][0] @ a + layers[-1][1]
    shift = z.real.max(axis=0)
    lse = shift + np.log(np.exp(z - shift).sum(axis=0))
    return (weight * (y * (lse - z)).sum(axis=0)).sum() / weight.sum()


def slope_by_complex_step(vector, direction, *problem):
    """Return the derivative along ``direction``: Im f(p + i h v) / h has no cancellation, so h may be tiny."""
    step = 1e-100
    return complex_loss(vector + 1j * step * direction, *problem).imag / step


def slope_by_differences(model, direction, step, *problem):
    start, sides = model.parameters.copy(), []
    for sign in (1, -1):
        model.parameters = start + sign * step * direction
        sides.append(model.loss_and_grad(*problem)[0])
    model.parameters = start
    return (sides[0] - sides[1]) / (2 * step)


@pytest.mark.kernels
@pytest.mark.parametrize("sizes", DEPTHS)
def test_gradient_by_central_differences(backend, rng, sizes):
    model, *given = problem(rng, sizes)
    for target in (given[1], given[1].argmax(axis=0)):
        _, grad = model.loss_and_grad(given[0], target, given[2])
        numeric = [slope_by_differences(model, unit, 1e-5, given[0], target, given[2]) for unit in np.eye(grad.size)]
        assert_close(grad, np.array(numeric), "central difference")


@pytest.mark.kernels
@pytest.mark.parametrize("m", [23, 130])
@pytest.mark.parametrize("sizes", DEPTHS)
def test_gradient_by_complex_steps(backend, rng, sizes, m):
    """Both fastmlp and the oracle of the other tests agree in every entry, to the last digits."""
    model, *given = problem(rng, sizes, m)
    numeric = [slope_by_complex_step(model.parameters, unit, sizes, *given) for unit in np.eye(model.parameters.size)]
    assert_close(model.loss_and_grad(*given)[1], np.array(numeric), "product")
    assert_close(naive.loss_and_grad(model.parameters, sizes, *given)[1].astype(float), np.array(numeric), "product")


@pytest.mark.kernels
@pytest.mark.parametrize("m", [7, 130])
def test_backward_prop_by_central_differences_of_the_notebook_s_cost(backend, rng, m):
    model, x, y, _ = problem(rng, (5, 6, 3), m)
    parameters = [one.copy() for pair in zip(model.weights, model.biases, strict=True) for one in pair]

    def cost():
        w1, b1, w2, b2 = parameters
        return compute_cost(Forwardprop(x, w1, w2, b1, b2)[2], y)

    w1, b1, w2, b2 = parameters
    a1, z1, a2, z2 = Forwardprop(x, w1, w2, b1, b2)
    for one, gradient in zip(parameters, backward_prop(z1, a1, z2, a2, w1, w2, x, y), strict=True):
        numeric = np.empty_like(one)
        for at in np.ndindex(one.shape):
            middle, sides = one[at], []
            for step in (1e-5, -1e-5):
                one[at] = middle + step
                sides.append(cost())
            one[at] = middle
            numeric[at] = (sides[0] - sides[1]) / 2e-5
        assert_close(gradient, numeric, "central difference")


def test_slopes_of_the_whole_net_on_real_images(backend, rng, mnist_data):
    assert_slopes_of_the_whole_net(rng, *(one[:1500] for one in mnist_data[0]))


@pytest.mark.kernels
def test_slopes_of_the_whole_net(backend, rng):
    images = rng.integers(0, 256, size=(300, 28, 28)) * (rng.random((300, 28, 28)) < 0.2)
    assert_slopes_of_the_whole_net(rng, images.astype(np.uint8), rng.integers(10, size=300))


def assert_slopes_of_the_whole_net(rng, images, labels):
    """Along its own and random directions, the gradient of all 101 770 parameters is the slope of the loss."""
    model = fastmlp.MLP((784, 128, 10), seed=0)
    x, y = images.reshape(len(images), -1).T / 255.0, naive.one_hot(labels, 10)
    packed = fastmlp.pack(images.reshape(len(images), -1).T, scale=1 / 255)
    weight = np.ones(len(labels))
    _, grad = model.loss_and_grad(packed, labels)
    assert grad.size == 101_770
    directions = [rng.standard_normal(grad.size) for _ in range(3)] + [grad]
    for direction in (one / np.linalg.norm(one) for one in directions):
        exact = slope_by_complex_step(model.parameters, direction, model.layer_sizes, x, y, weight)
        # Relative to the largest possible slope: along a random direction nearly everything cancels.
        assert abs(grad @ direction - exact) <= TOLERANCE["product", F8] * np.linalg.norm(grad)
        numeric = slope_by_differences(model, direction, 1e-6, packed, labels)
        assert abs(grad @ direction - numeric) <= TOLERANCE["central difference", F8] * np.linalg.norm(grad)


@pytest.fixture
def fifty_digits():
    with decimal.localcontext(prec=50, Emin=-99999, Emax=99999):
        yield


def ulps(actual, exact):
    """Return the error of ``actual`` in units of its last digit."""
    info = np.finfo(actual.dtype)
    unit = np.maximum(np.abs(np.spacing(actual)), info.smallest_subnormal)
    return max(
        float(abs(Decimal(float(a)) - e) / Decimal(float(u))) for a, e, u in zip(actual, exact, unit, strict=True)
    )


@pytest.mark.kernels
def test_softmax_in_decimal_arithmetic(backend, rng, dtype, fifty_digits):
    eps = Decimal(float(np.finfo(dtype).eps))
    for scale, rows in ((1, 3), (10, 10), (80, 2), (5, 300)):
        z = (scale * rng.standard_normal((rows, 8))).astype(dtype)
        for column, logits in zip(Softmax(z).T, z.T, strict=True):
            exact = [Decimal(float(one)).exp() for one in logits]
            spread = Decimal(float(logits.max() - logits.min()))
            for p, e in zip(column, exact, strict=True):
                wanted = e / sum(exact)
                if wanted > 4 * Decimal(float(np.finfo(dtype).tiny)):
                    assert abs(Decimal(float(p)) - wanted) <= (8 + spread) * eps * wanted


@pytest.mark.kernels
def test_cost_and_loss_in_decimal_arithmetic(backend, rng, fifty_digits):
    z = 20 * rng.standard_normal((4, 9))
    labels = rng.integers(4, size=9)
    losses = []
    for logits, label in zip(z.T, labels, strict=True):
        exact = [Decimal(float(one)) for one in logits]
        losses.append(sum(one.exp() for one in exact).ln() - exact[label])
    wanted = float(sum(losses) / 9)
    model = fastmlp.MLP((4, 4))
    model.parameters = np.concatenate([np.eye(4).ravel(), np.zeros(4)])
    assert model.loss_and_grad(z, labels)[0] == pytest.approx(wanted, rel=TOLERANCE["product", F8])
    assert compute_cost(Softmax(z), naive.one_hot(labels, 4)) == pytest.approx(wanted, rel=TOLERANCE["product", F8])


@pytest.mark.kernels
@pytest.mark.numba
def test_exp_and_log_in_decimal_arithmetic(compiled, rng, dtype, fifty_digits):
    """Within the contract's 2 ULP, for arguments of every magnitude; test_engine.py tests the whole range."""
    numba = pytest.importorskip("numba")
    vector, info = compiled.vector, np.finfo(dtype)

    @numba.njit
    def run(exp, log, x, y):
        for k in range(len(x)):
            exp[k], log[k] = vector.exp(x[k]), vector.log(y[k])

    lowest, highest = np.log(float(info.smallest_subnormal)), np.log(float(info.max))
    x = np.concatenate([rng.uniform(lowest, highest, 300), rng.uniform(-1, 1, 300), 2.0 ** rng.uniform(-60, 0, 100)])
    y = np.concatenate([np.exp(rng.uniform(lowest, highest, 400)), 1 + rng.uniform(-0.3, 0.4, 300)])
    x, y = x.astype(dtype), y.astype(dtype)
    y = np.where((y > 0) & np.isfinite(y), y, dtype.type(1))
    exp, log = np.empty_like(x), np.empty_like(y)
    run(exp, log, x, y)
    assert ulps(exp, [Decimal(float(one)).exp() for one in x]) <= 2
    assert ulps(log, [Decimal(float(one)).ln() for one in y]) <= 2


@pytest.mark.parametrize("m", [1, 23, 130, 2500])
@pytest.mark.parametrize("sizes", [*DEPTHS, (40, 17, 10)])
def test_torch_agrees(backend, rng, sizes, m):
    """Loss and gradient by autograd in float64, with soft targets and weights."""
    torch = pytest.importorskip("torch")
    model, x, y, weight = problem(rng, sizes, m)
    vector = torch.tensor(model.parameters, requires_grad=True)
    a, at = torch.tensor(x.T), 0
    for n_in, n_out in pairwise(sizes):
        if at:
            a = torch.relu(a)
        w = vector[at : at + n_in * n_out].reshape(n_out, n_in)
        b = vector[at + n_in * n_out : at + (n_in + 1) * n_out]
        a, at = a @ w.T + b, at + (n_in + 1) * n_out
    each = torch.nn.functional.cross_entropy(a, torch.tensor(y.T), reduction="none")
    loss = (torch.tensor(weight) * each).sum() / weight.sum()
    loss.backward()
    ours, grad = model.loss_and_grad(x, y, weight)
    assert ours == pytest.approx(loss.item(), rel=TOLERANCE["product", F8])
    assert_close(grad, vector.grad.numpy(), "product")
