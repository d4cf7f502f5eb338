"""The seven functions against the oracle, on both backends."""

import inspect
import itertools

import naive
import numpy as np
import pytest
from compare import assert_close, assert_close_where_finite, assert_same_bits, assert_softmax
from inputs import LAYOUTS, digest

import fastmlp
from fastmlp import Forwardprop, ReLU, Softmax, backward_prop, compute_cost, formulas, one_hot, pack, update_params

pytestmark = pytest.mark.kernels

SHAPES = [(1, 1, 1, 1), (5, 3, 4, 2), (20, 17, 10, 33), (3, 1, 2, 100)]  # n, h, C, m


def network(rng, shape, dtype):
    n, h, classes, m = shape
    x = (rng.standard_normal((n, m)) * (rng.random((n, m)) < 0.5)).astype(dtype)
    w1, w2 = rng.standard_normal((h, n)).astype(dtype), rng.standard_normal((classes, h)).astype(dtype)
    b1, b2 = rng.standard_normal((h, 1)).astype(dtype), rng.standard_normal((classes, 1)).astype(dtype)
    y = naive.one_hot(rng.integers(classes, size=m), classes).astype(dtype)
    return x, w1, w2, b1, b2, y


def arguments(rng, name, dtype=np.float64, shape=(6, 5, 4, 7)):
    """Return arguments of the function ``name`` that all arrays of the notebook's step fit."""
    x, w1, w2, b1, b2, y = network(rng, shape, dtype)
    a1, z1, a2, z2 = formulas.Forwardprop(x, w1, w2, b1, b2)
    grads = formulas.backward_prop(z1, a1, z2, a2, w1, w2, x, y)
    return {
        "one_hot": {"Y": np.argmax(y, axis=0), "C": len(y)},
        "ReLU": {"X": z1},
        "Softmax": {"X": z2},
        "Forwardprop": {"X": x, "W_i_to_h": w1, "W_h_to_o": w2, "biases_i_to_h": b1, "biases_h_to_o": b2},
        "compute_cost": {"A2": a2, "Y": y},
        "backward_prop": {"Z1": z1, "A1": a1, "Z2": z2, "A2": a2, "W1": w1, "W2": w2, "X": x, "Y": y},
        "update_params": {
            "W1": w1, "b1": b1, "W2": w2, "b2": b2,
            "dW1": grads[0], "db1": grads[1], "dW2": grads[2], "db2": grads[3], "alpha": 0.25,
        },
    }[name]  # fmt: skip


SEVEN = ["one_hot", "ReLU", "Softmax", "Forwardprop", "compute_cost", "backward_prop", "update_params"]


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", SEVEN)
def test_names_order_and_defaults_are_the_notebook_s(name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (fastmlp, formulas))
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64, ">i4"])
def test_one_hot(backend, rng, kind):
    labels = rng.integers(10, size=100)
    assert_same_bits(one_hot(labels.astype(kind)), naive.one_hot(labels, 10))
    assert_same_bits(one_hot([2, 0], C=3), naive.one_hot([2, 0], 3))
    assert_same_bits(one_hot(np.array([True, False]), C=2), naive.one_hot([1, 0], 2))


def test_relu_has_numpy_s_bits(backend, rng, dtype):
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, np.finfo(dtype).tiny / 4, -np.finfo(dtype).max]
    for shape in [(1,), (7,), (5, 33), (2, 3, 4), (600, 700)]:
        x = rng.standard_normal(shape).astype(dtype)
        x.flat[: len(special)] = special[: x.size]
        assert_same_bits(ReLU(x), np.maximum(0, x))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 5), (2, 3), (10, 257), (1000, 9)])
def test_softmax(backend, rng, dtype, scale, shape):
    z = (scale * rng.standard_normal(shape)).astype(dtype)
    assert_softmax(Softmax(z), z, naive.softmax(z))
    assert Softmax(z).dtype == dtype


def test_softmax_of_many_rows(backend, rng, dtype):
    """Enough of them for the error of plain sums to show."""
    z = rng.standard_normal((20_000, 64)).astype(dtype)
    assert_softmax(Softmax(z), z, naive.softmax(z))


def test_softmax_of_one_and_three_dimensions(backend, rng):
    z = rng.standard_normal((4, 3, 5))
    assert_softmax(Softmax(z), z, naive.softmax(z))
    assert_softmax(Softmax(z[:, 0, 0]), z[:, 0, 0], naive.softmax(z[:, 0, 0]))


def test_softmax_does_not_overflow(backend, dtype):
    np.testing.assert_array_equal(Softmax(np.array([[1e30], [-1e30], [1e30]], dtype)), [[0.5], [0], [0.5]])


@pytest.mark.parametrize("shape", SHAPES)
def test_forwardprop(backend, rng, dtype, shape):
    x, w1, w2, b1, b2, _ = network(rng, shape, dtype)
    a1, z1, a2, z2 = Forwardprop(x, w1, w2, b1, b2)
    expected = naive.forward(x, w1, w2, b1, b2)
    for actual, wanted in zip((a1, z1, z2), (expected[0], expected[1], expected[3]), strict=True):
        assert_close(actual, wanted, "product", dtype)
    assert_softmax(a2, z2, naive.softmax(z2))
    assert_same_bits(a1, np.maximum(0, z1))


@pytest.mark.parametrize("shape", SHAPES)
def test_compute_cost(backend, rng, dtype, shape):
    x, w1, w2, b1, b2, y = network(rng, shape, dtype)
    a2 = naive.forward(x, w1, w2, b1, b2)[2].astype(dtype)
    a2 = np.maximum(a2, np.finfo(dtype).tiny)
    soft = naive.softmax(rng.standard_normal(a2.shape)).astype(dtype)
    for target in (y, soft):
        assert_close(compute_cost(a2, target), naive.cost(a2, target), "product", dtype)


@pytest.mark.parametrize("m", [1, 63, 64, 65, 255, 256, 257, 600])
@pytest.mark.parametrize("classes", [1, 3, 10, 70])
def test_compute_cost_of_no_one_and_many_targets(backend, rng, dtype, m, classes):
    """In any order of memory; samples 200 to 399 have many targets, so that blocks of either kind meet."""
    a2 = naive.softmax(rng.standard_normal((classes, m))).astype(dtype)
    y = naive.one_hot(rng.integers(classes, size=m), classes).astype(dtype) * rng.random(m).astype(dtype)
    y[:, 5::7] = 0
    y[-1, 3::11] = 0.5
    y[:, 200:400] = rng.random(y[:, 200:400].shape)
    expected = naive.cost(a2, y)
    for a2_order, y_order in itertools.product("CF", repeat=2):
        assert_close(compute_cost(np.array(a2, order=a2_order), np.array(y, order=y_order)), expected, "product", dtype)


def test_compute_cost_of_certain_answers(backend, dtype):
    tiny = np.finfo(dtype).tiny
    assert compute_cost(np.eye(3, dtype=dtype), np.eye(3, dtype=dtype)) == 0
    wrong = compute_cost(np.array([[0], [1]], dtype), np.array([[1], [0]], dtype))
    assert_close(wrong, -np.log(np.longdouble(tiny)), "product", dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_backward_prop(backend, rng, dtype, shape):
    x, w1, w2, b1, b2, y = network(rng, shape, dtype)
    a1, z1, a2, z2 = Forwardprop(x, w1, w2, b1, b2)
    z1[0, 0] = 0  # a tie: not above zero
    for actual, wanted in zip(
        backward_prop(z1, a1, z2, a2, w1, w2, x, y), naive.backward(z1, a1, a2, w2, x, y), strict=True
    ):
        if np.max(np.abs(wanted)) > 0:
            assert_close(actual, wanted, "product", dtype)
        else:
            np.testing.assert_array_equal(actual, 0)


def test_update_has_numpy_s_bits(backend, rng, dtype):
    given = [rng.standard_normal(shape).astype(dtype) for shape in [(700, 600), (700, 1), (4, 5), (4, 1)] * 2]
    for alpha in (0.1, np.float32(0.3), 2, -1.5):
        for actual, w, dw in zip(update_params(*given, alpha), given[:4], given[4:], strict=True):
            assert_same_bits(actual, w - alpha * dw)


def test_update_with_alpha_zero_leaves_every_bit(backend, rng, dtype):
    given = [rng.standard_normal((3, 2)).astype(dtype) for _ in range(8)]
    for actual, w in zip(update_params(*given, alpha=0), given[:4], strict=True):
        assert_same_bits(actual, w)
        assert not np.shares_memory(actual, w)


@pytest.mark.parametrize("name", SEVEN[1:])  # one_hot is float64 always: see there
def test_result_dtype(backend, rng, name):
    function = getattr(fastmlp, name)
    single = arguments(rng, name, np.float32)
    assert {np.asarray(r).dtype for r in as_tuple(function(**single))} == {np.dtype(np.float32)}
    first = next(iter(single))
    for other in (np.float16, np.int8, np.uint8, np.bool_):
        mixed = {**single, first: np.abs(single[first]).astype(other)}
        expected = np.float32 if len(single) > 1 else np.float64
        assert {np.asarray(r).dtype for r in as_tuple(function(**mixed))} == {np.dtype(expected)}
    for other in (np.float64, np.int32, np.longdouble):
        mixed = {**single, first: np.abs(single[first]).astype(other)}
        assert {np.asarray(r).dtype for r in as_tuple(function(**mixed))} == {np.dtype(np.float64)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SEVEN)
def test_every_layout_gives_the_right_answer_and_is_left_alone(backend, rng, name, layout):
    function = getattr(fastmlp, name)
    given = arguments(rng, name)
    odd = {k: LAYOUTS[layout](v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    plain = {k: np.array(v) if isinstance(given[k], np.ndarray) else v for k, v in odd.items()}
    before = {k: digest(v) for k, v in odd.items()}
    for actual, expected in zip(as_tuple(function(**odd)), as_tuple(function(**plain)), strict=True):
        assert type(actual) is type(expected)
        assert_close(actual, expected, "product")
    assert before == {k: digest(v) for k, v in odd.items()}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["Forwardprop", "backward_prop"])
def test_nan_and_infinity_come_out_where_numpy_puts_them(backend, rng, name, value):
    function, formula = getattr(fastmlp, name), getattr(formulas, name)
    plain = arguments(rng, name)
    plain["X"][:, 2] = 0  # skipping a zero must not hide what it meets
    for argument in plain:
        planted = {k: v.copy() for k, v in plain.items()}
        planted[argument].flat[1] = value
        with np.errstate(all="ignore"):
            expected = formula(**planted)
        for actual, wanted in zip(function(**planted), expected, strict=True):
            assert_close_where_finite(actual, wanted, "product")


@pytest.mark.parametrize("m", [7, 600])
def test_compute_cost_keeps_nan_and_infinity_anywhere(backend, rng, m):
    a2, y = naive.softmax(rng.standard_normal((3, m))).astype(float), naive.one_hot(rng.integers(3, size=m), 3)
    for where, value in itertools.product(((0, 0), (2, m - 1), (1, m // 2)), (np.nan, np.inf)):
        damaged = a2.copy()
        damaged[where] = value
        for order in "CF":
            cost = compute_cost(np.array(damaged, order=order), np.array(y, order="F"))
            assert np.isnan(cost) or (y[where] and cost == -np.inf)


def test_compute_cost_keeps_nan_and_infinity(backend):
    one_hot_pair = np.array([[1.0, 0.0], [0.0, 1.0]])
    for value in (np.nan, np.inf):
        a2 = np.array([[0.5, value], [0.5, 0.5]])
        assert np.isnan(compute_cost(a2, one_hot_pair))
    assert np.isnan(compute_cost(one_hot_pair, np.array([[np.nan, 0.0], [0.0, 1.0]])))


@pytest.mark.parametrize("labels", [[-1, 2], [0, 10], [0.5, 1.0], [np.nan, 1.0], [np.inf, 0.0], [[0], [1]], []])
def test_bad_labels(backend, labels):
    with pytest.raises(ValueError, match=r"^Y: got .*expected .*;"):
        one_hot(labels)


@pytest.mark.parametrize("bad", [np.array([1j, 0]), np.array([None, 1]), ["a", "b"], np.array(["2020"], "M8[Y]")])
@pytest.mark.parametrize("name", SEVEN)
def test_bad_dtypes(backend, rng, name, bad):
    given = arguments(rng, name)
    for argument, value in given.items():
        if isinstance(value, np.ndarray):
            with pytest.raises(TypeError, match=rf"^{argument}: got dtype .*expected real numbers.*;"):
                getattr(fastmlp, name)(**{**given, argument: bad})


@pytest.mark.parametrize("name", SEVEN[1:])
def test_bad_shapes(backend, rng, name):
    function, given = getattr(fastmlp, name), arguments(rng, name)
    for argument, value in given.items():
        if not isinstance(value, np.ndarray):
            continue
        wrong = [np.float64(1.0), value[:0]]
        if name not in ("ReLU", "Softmax"):
            wrong += [value[..., None]]
        if name in ("Forwardprop", "backward_prop", "compute_cost"):
            wrong += [value[0], value[:, :0]]
        if name in ("Forwardprop", "backward_prop"):
            # One row more fits where that argument defines the width; one column and one row more fits nowhere.
            wrong += [np.pad(value, ((0, 1), (0, 1)))]
        for bad in wrong:
            with pytest.raises(ValueError, match=r"^\w+: got .*expected .*;"):
                function(**{**given, argument: bad})


def test_a_ragged_list_names_its_argument(backend):
    with pytest.raises(ValueError, match="^X: got a value that NumPy cannot convert"):
        ReLU([[1.0], [1.0, 2.0]])


def test_a_mask_is_not_dropped_silently(backend):
    with pytest.raises(TypeError, match=r"^X: got a masked array.*filled"):
        ReLU(np.ma.masked_invalid([1.0, np.nan]))


@pytest.mark.parametrize(
    ("alpha", "error"),
    [
        (np.nan, ValueError),
        (np.inf, ValueError),
        ("0.1", TypeError),
        (1j, TypeError),
        ([0.1], TypeError),
        ([0.1, []], ValueError),
    ],
)
def test_bad_alpha(backend, rng, alpha, error):
    given = arguments(rng, "update_params")
    with pytest.raises(error, match=r"^alpha: got .*expected .*;"):
        update_params(**{**given, "alpha": alpha})


@pytest.mark.parametrize(("classes", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_number_of_classes(backend, classes, error):
    with pytest.raises(error, match=r"^C: got .*expected .*;"):
        one_hot([0], C=classes)


def test_star_import_brings_the_seven():
    names = {}
    exec("from fastmlp import *", names)
    assert set(SEVEN) <= set(names)


def loop_arguments(rng, dtype, n=37, h=11, classes=5, m=300):
    """Return X uint8, W1, W2, b1, b2 and Y."""
    codes = (rng.integers(1, 256, size=(n, m)) * (rng.random((n, m)) < 0.3)).astype(np.uint8)
    parameters = [rng.standard_normal(shape).astype(dtype) for shape in ((h, n), (classes, h), (h, 1), (classes, 1))]
    return codes, parameters, naive.one_hot(rng.integers(classes, size=m), classes).astype(dtype)


def test_a_packed_matrix_serves_in_place_of_x(backend, rng, dtype):
    codes, (w1, w2, b1, b2), y = loop_arguments(rng, dtype)
    x = codes / 255.0
    for packed in (pack(codes, scale=1 / 255), pack(x, dtype=dtype.name)):
        forward = Forwardprop(packed, w1, w2, b1, b2)
        for actual, wanted in zip(forward, naive.forward(x, w1, w2, b1, b2), strict=True):
            assert actual.dtype == dtype
            assert_close(actual, wanted, "product", dtype)
        a1, z1, a2, z2 = forward
        wanted = naive.backward(z1, a1, a2, w2, x, y)
        for actual, expected in zip(backward_prop(z1, a1, z2, a2, w1, w2, packed, y), wanted, strict=True):
            assert_close(actual, expected, "product", dtype)


def test_a_scale_close_to_one_over_an_integer_is_a_factor(backend):
    """Only where it is that number up to rounding, values are divided."""
    codes = np.array([[255, 51]], np.uint8)
    for scale in (1 / 255.2, 1 / 255.0001, 1e-3 * (1 + 1e-9)):
        assert_same_bits(pack(codes, scale=scale).to_dense(), codes * scale)
    assert_same_bits(pack(codes, scale=1 / 255).to_dense(), codes / 255)


def test_a_packed_matrix_that_does_not_fit_is_refused(rng):
    codes, (w1, w2, b1, b2), _ = loop_arguments(rng, np.dtype(np.float32))
    with pytest.raises(ValueError, match=r"W_i_to_h: got shape \(11, 37\).*\(any, 36\)"):
        Forwardprop(pack(codes[:-1]), w1, w2, b1, b2)
    with pytest.raises(ValueError, match="float64.*float32"):
        Forwardprop(pack(codes.astype(float)), w1, w2, b1, b2)


def test_nothing_is_kept_between_calls(backend, rng):
    """Arrays changed in place, and another array at the address of a freed one, give their own results."""
    codes, (w1, w2, b1, b2), y = loop_arguments(rng, np.dtype(float), m=600)
    x = codes / 255.0
    for _ in range(3):
        a1, z1, a2, z2 = forward = Forwardprop(x, w1, w2, b1, b2)
        for actual, wanted in zip(forward, naive.forward(x, w1, w2, b1, b2), strict=True):
            assert_close(actual, wanted, "product")
        z1[::2] *= -1
        a1 += 0.5
        wanted = naive.backward(z1, a1, a2, w2, x, y)
        for actual, expected in zip(backward_prop(z1, a1, z2, a2, w1, w2, x, y), wanted, strict=True):
            assert_close(actual, expected, "product")
        x[:, ::3] = 1 - x[:, ::3]
        w1[0] += 1
    addresses = set()
    for _ in range(4):
        x = rng.random(codes.shape)
        addresses.add(x.ctypes.data)
        assert_close(Forwardprop(x, w1, w2, b1, b2)[1], naive.forward(x, w1, w2, b1, b2)[1], "product")
        del x
    assert len(addresses) < 4, "no address came twice: the test proves nothing"


def test_bits_do_not_depend_on_threads_or_on_the_layout_of_x(compiled, rng):
    codes, (w1, w2, b1, b2), y = loop_arguments(rng, np.dtype(float), m=9000)
    x = codes / 255.0
    results = []
    for layout in (np.ascontiguousarray(x), np.asfortranarray(x), x[:, ::-1][:, ::-1]):
        for threads in {1, fastmlp.get_num_threads()}:
            with fastmlp.use_backend("numba"), fastmlp.use_threads(threads):
                a1, z1, a2, z2 = Forwardprop(layout, w1, w2, b1, b2)
                results.append((z1, z2, a2, *backward_prop(z1, a1, z2, a2, w1, w2, layout, y)))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert_same_bits(one, other)
