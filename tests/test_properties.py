"""Every public function, on both backends, under any input: the right answer or a documented exception.

An answer is right if it is within the rounding bounds: a sum of k products, added in any order, may be off by k eps
times the sum of their magnitudes. If that sum may overflow, any result but a crash is allowed. NaN and infinity in the
input appear in the output in the same places as in NumPy. Inputs and the memory next to them never change.
"""

import contextlib
import re

import naive
import numpy as np
import pytest
from compare import TOLERANCE, assert_close_where_finite, assert_same_bits, assert_softmax
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import (
    ANY,
    FLOATS,
    NOT_FINITE,
    ORDINARY,
    REAL,
    Net,
    counts,
    densities,
    digest,
    dress,
    dresses,
    junk,
    normal,
    plant,
    result_dtype,
    seeds,
    seen,
    spikes,
    widths,
)

import fastmlp
from fastmlp import Forwardprop, ReLU, Softmax, backward_prop, compute_cost, formulas, one_hot, update_params
from fastmlp.packs import pack

# Random nets and data, some with a single output unit, do not learn, and warn of it.
pytestmark = pytest.mark.filterwarnings("ignore::fastmlp.TrainingWarning")

alphas = st.one_of(
    st.floats(-2, 2),
    st.sampled_from([0, 1, 1e30, 1e300, np.float16(0.3), np.float32(0.3), np.float64(0.3)]),
)


class Untouched:
    """Check that arguments are the same before and after the block."""

    def __init__(self, *arguments):
        self._arguments = arguments
        self._before = [digest(one) for one in arguments]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert [digest(one) for one in self._arguments] == self._before


def size(x):
    """Return the magnitudes of finite entries, and 0 for other entries."""
    return np.where(np.isfinite(x), np.abs(x), 0)


def assert_sums(actual, expected, magnitude, terms, dtype, largest_factor=1.0):
    """Require each entry within the rounding bound of a sum of ``terms`` terms, or NaN and infinity as in NumPy.

    ``magnitude`` is the sum of the finite terms' magnitudes, ``largest_factor`` the largest factor of an underflow.
    """
    info = np.finfo(dtype)
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    with np.errstate(all="ignore"):
        may_overflow = magnitude > info.max / 4
        finite = np.isfinite(expected) & ~may_overflow
        error = np.abs(actual.astype(naive.WIDE) - expected)
        underflow = (terms + 8) * naive.WIDE(info.smallest_subnormal) * max(1.0, largest_factor)
        bound = (terms + 8) * naive.WIDE(info.eps) * magnitude + underflow
    assert (error <= bound)[finite].all()
    given_so = ~np.isfinite(expected) & ~may_overflow
    np.testing.assert_array_equal(actual[given_so], expected[given_so].astype(dtype))


def affine(w, x, b):
    """Return w x + b and the sum of the magnitudes."""
    with np.errstate(all="ignore"):
        return naive.product(w, x) + b, naive.product(size(w), size(x)) + size(b)


def largest(*arrays):
    return max(float(np.max(size(x))) for x in arrays)


def assert_columns_of_softmax(actual, z):
    """Require the contract's bound if the largest logit is finite, else the value of the formula."""
    shown = np.isfinite(z.max(axis=0))
    with np.errstate(all="ignore"):
        assert_softmax(actual[:, shown], z[:, shown], naive.softmax(z[:, shown]))
        wanted = formulas.Softmax(z[:, ~shown])
    if wanted.size:
        assert_close_where_finite(actual[:, ~shown], wanted, "product")


def packed_or_not(data, arguments, x):
    """Return argument number ``x``, plain or packed, and the dtype of the results, which a packed matrix decides."""
    if data.draw(st.booleans()):
        return arguments[x], result_dtype(*arguments)
    dtype = result_dtype(*arguments[:x], *arguments[x + 1 :])
    return pack(arguments[x], dtype=dtype.name), dtype


@given(st.data())
def test_one_hot(backend, data):
    m, classes = data.draw(counts), data.draw(st.integers(1, 130))
    labels = np.random.default_rng(data.draw(seeds)).integers(min(classes, 120), size=m)
    ((kind, layout),) = data.draw(dresses(1, REAL))
    y = dress(labels.astype(float), kind, layout)
    if data.draw(st.booleans()):
        classes = max(1, int(np.max(y)))  # at most the largest label, to make it out of range
    whole = np.asarray(y).astype(int)
    with Untouched(y):
        if whole.max() < classes:
            assert_same_bits(one_hot(y, classes), naive.one_hot(whole, classes))
        else:
            with pytest.raises(ValueError, match="^Y: got label"):
                one_hot(y, classes)


@given(st.data())
def test_relu(backend, data):
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    x = normal(data.draw(seeds), *shape)
    plant([x], data.draw(spikes(*ANY)))
    ((kind, layout),) = data.draw(dresses(1, REAL))
    x = dress(x, kind, layout)
    with Untouched(x):
        assert_same_bits(ReLU(x), np.maximum(0, seen(x, result_dtype(x))))


@given(st.data())
def test_softmax(backend, data):
    shape = data.draw(widths), data.draw(counts)
    z = normal(data.draw(seeds), *shape) * data.draw(st.sampled_from([0, 1e-310, 1, 1e4, 1e307]))
    plant([z], data.draw(spikes(*ANY)))
    ((kind, layout),) = data.draw(dresses(1, REAL))
    z = dress(z, kind, layout)
    with Untouched(z):
        assert_columns_of_softmax(Softmax(z), seen(z, result_dtype(z)))


@given(st.data())
def test_forwardprop(backend, data):
    n, h, classes, m = *(data.draw(widths) for _ in range(3)), data.draw(counts)
    seed = data.draw(seeds)
    shapes = [(n, m), (h, n), (classes, h), (h, 1), (classes, 1)]
    plain = [normal(seed + k, *shape) for k, shape in enumerate(shapes)]
    plain[0] *= np.random.default_rng(seed).random((n, m)) < data.draw(densities)
    plant(plain, data.draw(spikes(*ANY)))
    arguments = [dress(one, *how) for one, how in zip(plain, data.draw(dresses(5)), strict=True)]
    given_x, dtype = packed_or_not(data, arguments, 0)
    with Untouched(*arguments):
        results = Forwardprop(given_x, *arguments[1:])
    a1, z1, a2, z2 = results
    x, w1, w2, b1, b2 = (seen(one, dtype) for one in arguments)
    assert_sums(z1, *affine(w1, x, b1), n, dtype, largest(w1, x))
    assert_same_bits(np.ascontiguousarray(a1), np.maximum(0, z1))
    assert_sums(z2, *affine(w2, a1, b2), h, dtype, largest(w2, a1))
    assert_columns_of_softmax(a2, z2)


@given(st.data())
def test_compute_cost(backend, data):
    shape = classes, m = data.draw(widths), min(data.draw(counts), 600)
    seed = data.draw(seeds)
    a2 = naive.softmax(normal(seed, *shape)).astype(float)
    y = naive.one_hot(np.random.default_rng(seed).integers(classes, size=m), classes)
    if data.draw(st.booleans()):
        y = naive.softmax(normal(seed + 1, *shape)).astype(float)
    plant([a2, y], data.draw(spikes(*ANY)))
    a2, y = (dress(one, *how) for one, how in zip((a2, y), data.draw(dresses(2, REAL)), strict=True))
    dtype = result_dtype(a2, y)
    with Untouched(a2, y):
        cost = compute_cost(a2, y)
    p, t = seen(a2, dtype), seen(y, dtype)
    tiny = np.finfo(dtype).tiny
    with np.errstate(all="ignore"):
        terms = -t.astype(naive.WIDE) * np.log(np.where(p < tiny, tiny, p).astype(naive.WIDE))
        expected, magnitude = terms.sum(keepdims=True) / m, size(terms).sum(keepdims=True) / m
    # Each loss must be representable; then so is their mean.
    if size(terms).sum(axis=0).max() <= np.finfo(dtype).max / 4:
        assert_sums(np.array([[cost]]), expected, magnitude, classes + 8, dtype)


@given(st.data())
def test_backward_prop(backend, data):
    n, h, classes, m = *(data.draw(widths) for _ in range(3)), data.draw(counts)
    seed = data.draw(seeds)
    shapes = [(h, m), (h, m), (classes, m), (classes, m), (h, n), (classes, h), (n, m), (classes, m)]
    plain = [normal(seed + k, *shape) for k, shape in enumerate(shapes)]
    plain[6] *= np.random.default_rng(seed).random((n, m)) < data.draw(densities)
    plant(plain, data.draw(spikes(*ORDINARY, *NOT_FINITE)))
    arguments = [dress(one, *how) for one, how in zip(plain, data.draw(dresses(8)), strict=True)]
    given_x, dtype = packed_or_not(data, arguments, 6)
    with Untouched(*arguments):
        dw1, db1, dw2, db2 = backward_prop(*arguments[:6], given_x, arguments[7])
    z1, a1, _, a2, _, w2, x, y = (seen(one, dtype) for one in arguments)
    with np.errstate(all="ignore"):
        dz2 = a2 - y
        dz1 = naive.product(w2.T, dz2) * (z1 > 0)
        size1, size2 = naive.product(size(w2.T), size(dz2)) * (z1 > 0), size(dz2).astype(naive.WIDE)
        ones = np.ones((m, 1))
        assert_sums(dw2, naive.product(dz2, a1.T) / m, naive.product(size2, size(a1.T)) / m, m, dtype, largest(a1))
        assert_sums(db2, naive.product(dz2, ones) / m, naive.product(size2, ones) / m, m, dtype)
        factor = largest(w2) * max(1, largest(x))
        wide = naive.product(size1, size(x.T)) / m
        assert_sums(dw1, naive.product(dz1, x.T) / m, wide, m + classes, dtype, factor)
        assert_sums(db1, naive.product(dz1, ones) / m, naive.product(size1, ones) / m, m + classes, dtype, factor)


@given(st.data())
def test_update_params(backend, data):
    seed, alpha = data.draw(seeds), data.draw(alphas)
    shapes = [tuple(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))) for _ in range(4)] * 2
    plain = [normal(seed + k, *shape) for k, shape in enumerate(shapes)]
    plant(plain, data.draw(spikes(*ANY)))
    arguments = [dress(one, *how) for one, how in zip(plain, data.draw(dresses(8)), strict=True)]
    with Untouched(*arguments):
        results = update_params(*arguments, alpha)
    dtype = result_dtype(*arguments)
    if isinstance(alpha, np.floating):
        dtype = result_dtype(*arguments, alpha)
    with np.errstate(all="ignore"):
        for actual, w, dw in zip(results, arguments[:4], arguments[4:], strict=True):
            assert_same_bits(actual, seen(w, dtype) - dtype.type(alpha) * seen(dw, dtype))


@given(st.data())
def test_pack(backend, data):
    n, m = data.draw(st.one_of(widths, st.sampled_from([255, 256, 257, 785]))), min(data.draw(counts), 2001)
    x = 50 * normal(data.draw(seeds), n, m, density=data.draw(densities))
    plant([x], data.draw(spikes(*ANY)))
    ((kind, layout),) = data.draw(dresses(1, REAL))
    x = dress(x, kind, layout)
    with Untouched(x):
        packed = pack(x)
    plain = np.asarray(x)
    wanted = "f8" if plain.dtype == np.uint8 else result_dtype(x)
    assert packed.shape == (n, m)
    assert packed.density == np.count_nonzero(plain) / plain.size
    np.testing.assert_array_equal(packed.to_dense(), plain.astype(wanted))


def tolerance(net):
    """Return the relative bound of a net's loss or gradient: each layer adds its rounding."""
    terms = sum(net.sizes) + net.m
    return 16 * terms * np.finfo(net.dtype).eps * max(1, float(np.max(np.sum(net.plain_y, axis=0))))


@given(st.data())
def test_loss_and_grad(backend, data):
    net = Net(data, *ORDINARY)
    with Untouched(*net.arguments()):
        loss, grad = net.model.loss_and_grad(net.given_x, net.y, net.weight)
    vector = net.model.parameters
    wanted_loss, wanted = naive.loss_and_grad(vector, net.sizes, net.plain_x, net.plain_y, net.plain_weight)
    # A probability below eps gives a tiny gradient, whose error is the rounding of the cancelled terms.
    scale = 1 + np.max(np.abs(net.plain_x))
    assert type(loss) is float
    assert grad.dtype == net.dtype
    assert abs(loss - wanted_loss) <= tolerance(net) * (1 + abs(wanted_loss))
    assert np.max(np.abs(grad - wanted)) <= tolerance(net) * max(scale, np.max(np.abs(wanted)))


@given(st.data())
def test_loss_and_grad_pass_on_nan_and_infinity(backend, data):
    net = Net(data, *NOT_FINITE)
    with Untouched(*net.arguments()):
        loss, grad = net.model.loss_and_grad(net.given_x, net.y, net.weight)
    with np.errstate(all="ignore"):
        wanted_loss, wanted = naive.loss_and_grad(
            net.model.parameters, net.sizes, net.plain_x, net.plain_y, net.plain_weight
        )
    np.testing.assert_array_equal(np.isfinite(grad), np.isfinite(wanted))
    assert np.isfinite(loss) == np.isfinite(wanted_loss)


@given(st.data())
def test_huge_logits_and_parameters_crash_nothing(backend, data):
    net = Net(data, *ANY, 1e4, -1e4)
    with Untouched(*net.arguments()):
        loss, grad = net.model.loss_and_grad(net.given_x, net.y, net.weight)
        assert type(loss) is float
        assert grad.shape == net.model.parameters.shape
        with np.errstate(over="ignore"):
            finite = np.isfinite(net.plain_x.astype(net.dtype)).all()
        if not finite:
            for call in (net.model.predict, net.model.predict_proba, lambda x: net.model.evaluate(x, net.y)):
                with pytest.raises(ValueError, match=r"^X: got .* at row \d+, column \d+"):
                    call(net.given_x)
            return
        probabilities = net.model.predict_proba(net.given_x)
        labels = net.model.predict(net.given_x)
        scores = net.model.evaluate(net.given_x, net.y)
    assert probabilities.shape == (net.sizes[-1], net.m)
    assert ((probabilities >= 0) & (probabilities <= 1 + 1e-5) | np.isnan(probabilities)).all()
    assert ((labels >= 0) & (labels < net.sizes[-1])).all()
    assert 0 <= scores["accuracy"] <= 1


@given(st.data())
def test_predictions_and_scores(backend, data):
    net = Net(data, *ORDINARY)
    with Untouched(*net.arguments()):
        probabilities, labels = net.model.predict_proba(net.given_x), net.model.predict(net.given_x)
        scores = net.model.evaluate(net.given_x, net.y)
    a = net.plain_x.astype(naive.WIDE)
    layers = naive.unflatten(net.model.parameters.astype(naive.WIDE), net.sizes)
    for w, b in layers[:-1]:
        a = naive.relu(naive.product(w, a) + b)
    z = naive.product(layers[-1][0], a) + layers[-1][1]
    wanted = naive.softmax(z)
    assert probabilities.dtype == net.dtype
    assert np.max(np.abs(probabilities - wanted)) <= tolerance(net)
    assert labels.dtype == np.int64
    columns = np.arange(net.m)
    assert (z[labels, columns] >= z.max(axis=0) - tolerance(net) * np.max(np.abs(z))).all()
    wanted_loss = naive.loss_and_grad(net.model.parameters, net.sizes, net.plain_x, net.plain_y)[0]
    assert abs(scores["loss"] - wanted_loss) <= tolerance(net) * (1 + abs(wanted_loss))
    right = net.plain_y[labels, columns] == net.plain_y.max(axis=0)
    clear = np.sort(z, axis=0)[-1] - np.sort(z, axis=0)[-2] > 1e-3 if len(z) > 1 else np.array([True])
    if clear.all():
        assert scores["accuracy"] == pytest.approx(right.mean())


@given(st.data())
def test_fit_is_the_loop_of_its_parts(backend, data):
    net = Net(data, *ORDINARY)
    alpha = data.draw(st.sampled_from([0.0, 0.1, 0.5]))
    twin = fastmlp.MLP(net.sizes, dtype=net.dtype.name)
    twin.parameters, none = net.model.parameters, np.zeros(1, net.dtype)
    with Untouched(*net.arguments()[:-1]):
        history = net.model.fit(net.given_x, net.y, epochs=3, alpha=alpha, sample_weight=net.weight, progress=False)
    for loss in history.loss:
        mine, grad = twin.loss_and_grad(net.given_x, net.y, net.weight)
        assert mine == loss
        twin.parameters = update_params(twin.parameters, none, none, none, grad, none, none, none, alpha)[0]
    assert_same_bits(net.model.parameters, twin.parameters)


@given(st.data())
def test_fit_ends_with_finite_parameters_whatever_comes(backend, data):
    net = Net(data, *ANY)
    finite = np.isfinite(net.model.parameters).all()
    alpha = data.draw(st.sampled_from([0.1, 1e300]))
    refused = pytest.raises(ValueError, match=r"^X: got (nan|-?inf) at row \d+, column \d+, expected ")
    taken = contextlib.suppress(FloatingPointError)
    with Untouched(*net.arguments()[:-1]), taken if np.isfinite(net.plain_x).all() else refused:
        net.model.fit(net.given_x, net.y, epochs=2, alpha=alpha, progress=False)
    if finite:
        assert np.isfinite(net.model.parameters).all()


@given(st.data())
def test_weights_of_any_scale_weigh_alike(backend, data):
    """The mean divides by their sum, so that a common factor cancels, however small or large."""
    net = Net(data, *ORDINARY)
    weight = np.random.default_rng(net.seed).integers(1, 4, size=net.m).astype(float)
    wanted_loss, wanted = net.model.loss_and_grad(net.x, net.y, weight)
    for factor in (2.0**-1060, 2.0**-300, 2.0**200, 2.0**1020):
        loss, grad = net.model.loss_and_grad(net.x, net.y, weight * factor)
        assert loss == pytest.approx(wanted_loss, rel=TOLERANCE["product", net.dtype])
        assert np.max(np.abs(grad - wanted)) <= tolerance(net) * max(1, np.max(np.abs(wanted)))


@given(st.data())
def test_anything_else_is_refused_by_name(backend, data):
    """Any argument gives an answer, or an error in the common form."""
    model = fastmlp.MLP((1, 2))
    functions = [one_hot, ReLU, Softmax, compute_cost, Forwardprop, backward_prop, update_params, pack]
    functions += [model.loss_and_grad, model.fit, model.predict, model.predict_proba, model.evaluate]
    counts_of = [2, 1, 1, 2, 5, 8, 9, 2, 3, 2, 1, 1, 2]
    which = data.draw(st.integers(0, len(functions) - 1))
    arguments = [data.draw(junk) for _ in range(counts_of[which])]
    text = "x: got this, expected that; do so"
    try:
        functions[which](*arguments)
    except (ValueError, TypeError) as error:
        text = str(error)
    except FloatingPointError:
        assert functions[which] == model.fit
    assert re.search(r"(?s)^.+: got .+, expected .+; .+", text), text


def test_examples_differ_in_dtype_and_layout():
    """The strategies draw every dtype and many layouts within a few hundred draws."""
    drawn = set()

    @settings(max_examples=300, database=None)
    @given(dresses(4, (*FLOATS, *REAL)))
    def collect(ways):
        drawn.update(ways)

    collect()
    assert {kind for kind, _ in drawn} == {*FLOATS, *REAL}
    assert len({layout for _, layout in drawn}) > 10
