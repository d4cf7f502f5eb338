"""The engine: micro-kernels, the fused step, and what it skips."""

import itertools
import threading

import naive
import numpy as np
import pytest
from compare import assert_close

import fastmlp
from fastmlp.packs import pack

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
@pytest.mark.parametrize("hidden", [(), (7,), (129,), (3, 100), (5, 1, 9), (130, 129), (1000, 128, 300)])
def test_gradients(rng, dtype, hidden, density):
    check(rng, (50, *hidden, 10), 130, density, dtype)
    check(rng, (50, *hidden, 10), 130, density, dtype, soft=True)


@pytest.mark.parametrize("m", [1, 2, 3, 5, 59, 60, 61, 119, 120, 121, 239, 240, 241, 481, 1000, 2000, 2001])
def test_gradients_around_the_boundaries_of_groups_tiles_and_leaves(rng, dtype, m):
    check(rng, (20, 6, 3), m, 0.3, dtype)
    check(rng, (20, 6, 3), m, 1.0, dtype)


@pytest.mark.parametrize("hidden", [(), (1,), (2,), (5,), (7,)])
def test_gradients_of_few_units(rng, dtype, hidden):
    """One unit is one column of a product; without zeros in x, the weights and the gradient of a few lie in rows."""
    for m, density in ((130, 0.3), (2100, 0.3), (2100, 1.0)):
        check(rng, (300, *hidden, 3), m, density, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("m", "density"), [(2050, 0.3), (2050, 1)])
def test_few_units_hide_no_nan_and_no_infinity(rng, value, m, density):
    x = sample(rng, 300, m, density, np.float64)
    for hidden, where in itertools.product((1, 2), ("x", "w")):
        model = fastmlp.MLP((300, hidden, 3), seed=0)
        data, vector = x.copy(), model.parameters.copy()
        (data if where == "x" else vector).flat[7] = value
        model.parameters = vector
        grads = []
        for name in ("numba", "numpy"):
            with fastmlp.use_backend(name):
                grads.append(model.loss_and_grad(data, np.zeros(m, int))[1])
        assert np.isnan(grads[1]).any()
        np.testing.assert_array_equal(*map(np.isnan, grads), err_msg=f"{hidden} {where}")


@pytest.mark.parametrize("classes", [2, 11, 1000])
@pytest.mark.parametrize("n", [1, 3, 257, 1000])
def test_gradients_of_odd_widths(rng, dtype, n, classes):
    check(rng, (n, 13, classes), 65, 0.4, dtype)


def test_tiles_fill_the_leaves_and_leaves_the_samples(compiled):
    for m in (*range(1, 10_000), 60_000, 100_000, 10**6):
        start, most, per_leaf, leaf = compiled.tree.tiling(m, m)
        assert leaf == compiled.tree._leaf_size(m)
        assert (start[0], start[-1]) == (0, m)
        sizes = np.diff(start)
        assert 0 < sizes.min() <= sizes.max() <= most <= 1.5 * compiled.tuning.SAMPLE_TILE
        np.testing.assert_array_equal(start[:-1:per_leaf], np.arange(0, m, leaf))
        for group in (compiled.vector.GROUP, compiled.vector.DENSE_GROUP):
            assert not np.any(start[:-1] % group)


def test_samples_of_like_features_stand_together_when_packed(rng):
    """Half of the samples have one half of the features: groups of both kinds would list, and hold, twice as much."""
    m, n = 1920, 64
    x = rng.integers(1, 256, size=(n, m)).astype(np.uint8)
    x[:32, : m // 2] = x[32:, m // 2 :] = 0
    apart = pack(x).nbytes
    assert pack(x[:, rng.permutation(m)]).nbytes <= 1.1 * apart
    held = m * n // 2 * x.itemsize  # once by samples and once by features, each with an index of 4 bytes for a group
    group = fastmlp.kernels.vector.GROUP
    assert apart <= 1.1 * 2 * held * (1 + 4 / group)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sizes", [(12, 9, 3), (12, 130, 129, 3), (12, 130, 129, 131, 3)])
@pytest.mark.parametrize(("m", "density"), [(110, 0.3), (132, 0.3), (132, 1), (2050, 1)])
def test_skipping_zeros_hides_no_nan_and_no_infinity(rng, value, sizes, m, density):
    """Each entry of the loss gradient is not finite exactly where the NumPy backend says so."""
    x = sample(rng, 12, m, density, np.float64)
    x[5] = 0
    labels = rng.integers(3, size=m)
    start = rng.standard_normal(fastmlp.MLP(sizes).parameters.size)
    h = sizes[1]
    start[12 * h + 1] = -100  # a unit that is never active: what is not finite in the next layer meets its zeros
    cases = [("x", (2, 7)), ("x", (5, 100)), ("w", 5), ("w", 12 * h + 2), ("w", 13 * h + 4), ("w", 13 * h + 1)]
    # The last: of a unit that is always active, into one that it may shut for every sample.
    cases += [("w", len(start) - 3 - 3 * sizes[-2] + 1), ("shut", (2, 7)), ("open", 13 * h + 4)]
    for what, where in cases:
        data, vector = x.copy(), start.copy()
        (data if what in ("x", "shut") else vector)[where] = value
        if what == "open":
            vector[12 * h + 4] = 100
        if what == "shut":  # every gate behind it: all that comes back to it is zero
            vector[2 : 12 * h : 12] = np.copysign(vector[2 : 12 * h : 12], -value)
        results = []
        for name in ("numba", "numpy"):
            with fastmlp.use_backend(name):
                model = fastmlp.MLP(sizes)
                model.parameters = vector
                results.append(model.loss_and_grad(data, labels))
        (loss, grad), (wanted_loss, wanted) = results
        assert np.isfinite(loss) == np.isfinite(wanted_loss), (what, where)
        np.testing.assert_array_equal(np.isnan(grad), np.isnan(wanted), err_msg=f"{what} {where}")


def test_buffers_begin_on_a_cache_line_and_do_not_overlap(compiled, dtype):
    line = compiled.vector.LINE_BYTES
    for counts in itertools.product(range(1, 60, 7), range(1, 20, 3)):
        parts = compiled.memory.aligned_parts(dtype, *counts)
        assert [part.size for part in parts] == list(counts)
        starts = [part.ctypes.data for part in parts]
        assert {start % line for start in starts} == {0}
        assert starts[1] - starts[0] >= parts[0].nbytes
        assert compiled.memory.aligned(counts[1], dtype).ctypes.data % line == 0


def test_operands_name_the_elements_that_they_say(compiled, vector, rng, dtype):
    """Each view of an array, and of the memory behind an address, owns nothing and has its elements."""
    numba = compiled.numba

    @numba.njit
    def run(x, index, r, c, count):
        flat, (rows, columns) = x.reshape(-1), x.shape
        m = vector.matrix(vector.address(flat, columns), 0, columns)  # without the first row
        plane = vector.Plane(vector.address(flat, 0), rows, columns)
        found = vector.factors(flat, columns, 1, columns)
        listed = vector.chosen(index, 1, m)
        return (
            vector.part(flat, r * columns + c, count).copy(), vector.row(m, r, count).copy(),
            vector.row(vector.block(m, r, c), 1, count).copy(), vector.row_of(plane, r, c, count).copy(),
            found.start[found.step * c + found.row * r], listed.start[listed.index[0] * listed.ld + c],
            vector.lanes(flat), vector.number(m, r),
        )  # fmt: skip

    x, index = rng.standard_normal((9, 11)).astype(dtype), np.array([0, 2], np.int32)
    for r, c, count in itertools.product((0, 3), (0, 4), (0, 1, 5)):
        part, row, block, of_plane, factor, listed, lanes, number = run(x, index, r, c, count)
        np.testing.assert_array_equal(part, x[r, c : c + count])
        np.testing.assert_array_equal(row, x[r + 1, :count])
        np.testing.assert_array_equal(block, x[r + 2, c : c + count])
        np.testing.assert_array_equal(of_plane, x[r, c : c + count])
        assert (factor, listed) == (x[r + 1, c], x[3, c])
        assert lanes == vector.VECTOR_BYTES // dtype.itemsize
        assert type(number) is type(x[0, 0].item())
        assert number == r


def test_two_threads_never_take_the_same_number(compiled):
    take, counter, taken = compiled.vector.fetch_add, np.zeros(3, np.int64), np.empty((2, 2_000_000), np.int64)

    @compiled.numba.njit(nogil=True)
    def run(taken, counter):
        for k in range(len(taken)):
            taken[k] = take(counter, 1)

    run(taken[0, :0], counter)
    threads = [threading.Thread(target=run, args=(numbers, counter)) for numbers in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.sort(taken.reshape(-1)), np.arange(taken.size))
    assert counter.tolist() == [0, taken.size, 0]


def test_exp_is_within_the_stated_error_over_the_whole_range(vector, dtype):
    """1.25 ULP; two where the target has no multiply-add, and the last product of the polynomial is rounded."""
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
    assert np.max(np.abs(out[compared] - exact[compared]) / unit) <= (1.25 if vector.HAS_FMA else 2)
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
