"""The engine: micro-kernels, the fused step, and what it skips."""

import itertools

import naive
import numpy as np
import pytest
from compare import assert_close

import fastmlp
from fastmlp.packing import pack

pytestmark = [pytest.mark.kernels, pytest.mark.numba]


@pytest.fixture
def vector(compiled):
    return compiled.vector


def sample(rng, n, m, density, dtype):
    return (rng.standard_normal((n, m)) * (rng.random((n, m)) < density)).astype(dtype)


def check(rng, sizes, m, density, dtype, *, soft=False):
    x = sample(rng, sizes[0], m, density, dtype)
    model = fastmlp.MLP(sizes, dtype=np.dtype(dtype).name)
    model.parameters = rng.standard_normal(model.parameters.shape) / np.sqrt(max(sizes))
    labels = rng.integers(sizes[-1], size=m)
    y = naive.one_hot(labels, sizes[-1])
    if soft:
        y = labels = naive.softmax(rng.standard_normal(y.shape)).astype(dtype)
    weight = rng.random(m) + 0.5
    loss, grad = model.loss_and_grad(pack(x), labels, sample_weight=weight)
    wanted_loss, wanted_grad = naive.loss_and_grad(model.parameters, sizes, x, y, weight.astype(dtype))
    assert_close(np.asarray(loss, dtype), wanted_loss, "product", dtype)
    assert_close(grad, wanted_grad, "product", dtype)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("hidden", [(), (7,), (129,), (3, 100), (5, 1, 9)])
def test_gradients(rng, dtype, hidden, density):
    check(rng, (50, *hidden, 10), 130, density, dtype)
    check(rng, (50, *hidden, 10), 130, density, dtype, soft=True)


@pytest.mark.parametrize("m", [1, 2, 3, 5, 59, 60, 61, 119, 120, 121, 239, 240, 241, 481, 1000, 2000, 2001])
def test_gradients_around_the_boundaries_of_groups_tiles_and_leaves(rng, dtype, m):
    check(rng, (20, 6, 3), m, 0.3, dtype)
    check(rng, (20, 6, 3), m, 1.0, dtype)


@pytest.mark.parametrize("classes", [2, 11, 1000])
@pytest.mark.parametrize("n", [1, 3, 257, 1000])
def test_gradients_of_odd_widths(rng, dtype, n, classes):
    check(rng, (n, 13, classes), 65, 0.4, dtype)


def test_a_leaf_depends_on_the_number_of_samples_alone(compiled):
    for m in (1, 60, 61, 1000, 1921, 10_000, 60_000, 10**6):
        leaf = compiled._leaf_size(m)
        tile = min(leaf, compiled.TILE)
        assert leaf % tile == 0
        assert tile % compiled.vector.GROUP == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_skipping_zeros_hides_no_nan_and_no_infinity(rng, value):
    """Each entry of the loss gradient is not finite exactly where the NumPy backend says so."""
    x = sample(rng, 12, 130, 0.3, np.float64)
    x[5] = 0
    labels = rng.integers(3, size=130)
    start = rng.standard_normal(fastmlp.MLP((12, 6, 3)).parameters.size)
    cases = [("x", (2, 7)), ("x", (5, 100)), ("w", 5), ("w", 12 * 6 + 2), ("w", 12 * 6 + 6 + 4)]
    for what, where in cases:
        data, vector = x.copy(), start.copy()
        (data if what == "x" else vector)[where] = value
        results = []
        for name in ("numba", "numpy"):
            with fastmlp.use_backend(name):
                model = fastmlp.MLP((12, 6, 3))
                model.parameters = vector
                results.append(model.loss_and_grad(data, labels))
        (loss, grad), (wanted_loss, wanted) = results
        assert np.isfinite(loss) == np.isfinite(wanted_loss), (what, where)
        np.testing.assert_array_equal(np.isnan(grad), np.isnan(wanted), err_msg=f"{what} {where}")


def test_exp_is_within_one_ulp_over_the_whole_range(vector, dtype):
    """Two where the target has no multiply-add, and the last product of the polynomial is rounded."""
    numba = pytest.importorskip("numba")
    info = np.finfo(dtype)
    highest, lowest = np.log(info.max), np.log(info.smallest_subnormal) - 2
    x = np.concatenate([
        np.linspace(lowest, highest, 1 << 20), np.linspace(-1, 1, 1 << 16), [0.0, -0.0, np.inf, -np.inf, np.nan],
    ]).astype(dtype)  # fmt: skip
    out = np.empty_like(x)

    @numba.njit
    def run(out, x):
        for k in range(len(x)):
            out[k] = vector.exp(x[k])

    run(out, x)
    with np.errstate(all="ignore"):
        exact = np.exp(x.astype(np.longdouble))
    compared = (exact <= info.max) & np.isfinite(x)
    unit = np.maximum(np.spacing(exact[compared].astype(dtype)), info.smallest_subnormal)
    assert np.max(np.abs(out[compared] - exact[compared]) / unit) <= (1 if vector.HAS_FMA else 2)
    assert np.isnan(out[np.isnan(x)]).all()
    assert (out[x == np.inf] == np.inf).all()
    assert (out[x == -np.inf] == 0).all()


def test_log_is_within_one_ulp_over_the_whole_range(vector, rng, dtype):
    numba = pytest.importorskip("numba")
    info = np.finfo(dtype)
    powers = rng.uniform(np.log2(float(info.smallest_subnormal)), np.log2(float(info.max)), 1 << 20)
    x = np.concatenate([2.0**powers, rng.uniform(0.3, 3, 1 << 18), [info.max, info.tiny, 1, 1 + info.eps]]).astype(
        dtype
    )
    x = x[(x > 0) & np.isfinite(x)]
    special = np.array([0, -0.0, -1, np.inf, -np.inf, np.nan], dtype)
    out, special_out = np.empty_like(x), np.empty_like(special)

    @numba.njit
    def run(out, x):
        for k in range(len(x)):
            out[k] = vector.log(x[k])

    run(out, x)
    run(special_out, special)
    exact = np.log(x.astype(np.longdouble))
    unit = np.spacing(np.maximum(np.abs(exact).astype(dtype), info.tiny))
    assert np.max(np.abs(out - exact) / unit) <= 1
    np.testing.assert_array_equal(special_out, [-np.inf, -np.inf, np.nan, np.inf, np.nan, np.nan])


def test_the_tile_of_inner_products_writes_its_cells_and_no_others(vector, rng, dtype):
    numba = pytest.importorskip("numba")

    @numba.njit
    def run(rows, columns, out, o_row, a, a_row, b, b_row, count):
        vector.dot_tile(rows, columns, out, o_row, o_row, a, 1, a_row, b, 3, b_row, count)

    for rows, columns, count in itertools.product({1, vector.DOT_ROWS}, {1, vector.DOT_COLUMNS}, (0, 1, 7, 16, 133)):
        a, b = (
            rng.standard_normal((rows, count + 2)).astype(dtype),
            rng.standard_normal((columns, count + 5)).astype(dtype),
        )
        out = rng.standard_normal((rows + 2, columns + 3)).astype(dtype)
        expected = out.astype(naive.WIDE)
        expected[1 : rows + 1, :columns] += naive.product(a[:, :count], b[:, :count].T)
        run(rows, columns, out.ravel(), columns + 3, np.concatenate([[np.nan], a.ravel()]).astype(dtype), count + 2,
            np.concatenate([[np.nan] * 3, b.ravel()]).astype(dtype), count + 5, count)  # fmt: skip
        assert_close(out, expected, "product", dtype)


def test_the_register_tile_writes_its_cells_and_no_others(compiled, vector, rng, dtype):
    numba = pytest.importorskip("numba")
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    table = rng.standard_normal(256).astype(dtype)

    @numba.njit
    def run_coded(vectors, out, o_row, codes, index, b, b_row, count):
        vector.coded_tile(vectors, out, o_row, o_row, codes, 1, table, index, 2, b, 3, b_row, count)

    @numba.njit
    def run(group, vectors, out, o_row, a, a_k, a_g, index, b, b_row, count):
        vector.tile(group, vectors, out, o_row, o_row, a, 1, a_k, a_g, index, 2, b, 3, b_row, count)

    groups, widths = {vector.GROUP, vector.DENSE_GROUP}, range(1, vector.PANEL + 1)
    for group, vectors, count in itertools.product(groups, widths, (0, 1, 2, 7, 40)):
        width = vectors * lanes
        a, b = rng.standard_normal((40, group)).astype(dtype), rng.standard_normal((90, width)).astype(dtype)
        index = rng.permutation(90)[:count].astype(np.int32)
        product = naive.product(a[:count].T, b[index])
        for a_k, a_g, flat in ((group, 1, a.ravel()), (1, 40, a.T.copy().ravel())):
            out = rng.standard_normal((group + 2, width + 3)).astype(dtype)
            expected = out.astype(naive.WIDE)
            expected[1 : group + 1, :width] += product
            run(group, vectors, out.ravel(), width + 3, np.concatenate([[np.nan], flat]).astype(dtype), a_k, a_g,
                np.concatenate([[9**9, 9**9], index]).astype(np.int32),
                np.concatenate([[np.nan] * 3, b.ravel()]).astype(dtype), width, count)  # fmt: skip
            assert_close(out, expected, "product", dtype)
        if group != vector.GROUP:
            continue
        codes = rng.integers(256, size=(40, group)).astype(np.uint8)
        out = rng.standard_normal((group + 2, width + 3)).astype(dtype)
        expected = out.astype(naive.WIDE)
        expected[1 : group + 1, :width] += naive.product(table[codes[:count]].T, b[index])
        run_coded(vectors, out.ravel(), width + 3, np.concatenate([[99], codes.ravel()]).astype(np.uint8),
                  np.concatenate([[9**9, 9**9], index]).astype(np.int32),
                  np.concatenate([[np.nan] * 3, b.ravel()]).astype(dtype), width, count)  # fmt: skip
        assert_close(out, expected, "product", dtype)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_list_nonzero_keeps_what_is_not_zero(compiled, vector, rng, kind):
    numba = pytest.importorskip("numba")
    group, n = vector.GROUP, 23

    @numba.njit
    def run(index, value, a, a_k, a_g):
        return vector.list_nonzero(index, value, 2, a, 1, a_k, a_g, 100, 23)

    a = (rng.integers(1, 200, size=(n, group)) * (rng.random((n, group)) < 0.2)).astype(kind)
    if kind != "uint8":
        a[3], a[4], a[5] = (
            -0.0,
            [np.nan, *[0.0] * (group - 1)],
            [*[0.0] * (group - 1), np.finfo(kind).smallest_subnormal],
        )
    kept = np.flatnonzero((a != 0).any(axis=1))
    for a_k, a_g, flat in ((group, 1, a.ravel()), (1, n, a.T.copy().ravel())):
        index, value = np.full(2 + n + 1, -7, np.int32), np.full((2 + n + 1, group), 77).astype(kind)
        end = run(index, value.reshape(-1), np.concatenate([[9], flat]).astype(kind), a_k, a_g)
        assert end == 2 + len(kept)
        np.testing.assert_array_equal(index[2:end], 100 + kept)
        np.testing.assert_array_equal(value[2:end], a[kept])
        assert (index[:2] == -7).all()
        assert (index[end + 1 :] == -7).all()
