"""Sparse matrices of SciPy as input: the results of the dense matrix, without making it."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from compare import assert_same_bits, columns

sparse = pytest.importorskip("scipy.sparse")

import fastmlp  # noqa: E402
from fastmlp.packs import pack  # noqa: E402

# Random labels cannot be learnt, and a batch may be larger than all samples.
pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::fastmlp.history.TrainingWarning")]

ADAM = {"optimizer": fastmlp.optimizers.Adam(), "batch_size": 50}


def random(rng, n, m, density, dtype=np.float64):
    return (rng.standard_normal((n, m)) * (rng.random((n, m)) < density)).astype(dtype)


def csr_transposed(x):
    return sparse.csr_array(x.T).T


def csr_matrix_transposed(x):
    return sparse.csr_matrix(x.T).T


def of_int64(x):
    made = sparse.csc_array(x)
    made.indices, made.indptr = made.indices.astype(np.int64), made.indptr.astype(np.int64)
    return made


def read_only(x):
    made = sparse.csc_array(x)
    for one in (made.data, made.indices, made.indptr):
        one.flags.writeable = False
    return made


def unsorted(x):
    """Return the entries of each column from the last one to the first, and a false claim that they are sorted."""
    made = sparse.csc_array(x)
    for start, stop in zip(made.indptr[:-1], made.indptr[1:], strict=True):
        for one in (made.data, made.indices):
            one[start:stop] = one[start:stop][::-1].copy()
    made.has_sorted_indices = made.has_canonical_format = True
    return made


def with_duplicates(x):
    """Return each entry as two halves, behind the others of its column."""
    parts = sparse.csc_array(x)
    starts = np.append(0, np.cumsum(2 * np.diff(parts.indptr)))
    data, indices = np.empty(2 * parts.nnz, x.dtype), np.empty(2 * parts.nnz, np.int32)
    for j, (start, stop) in enumerate(zip(parts.indptr[:-1], parts.indptr[1:], strict=True)):
        indices[starts[j] : starts[j + 1]] = np.tile(parts.indices[start:stop], 2)
        data[starts[j] : starts[j + 1]] = np.tile(parts.data[start:stop] / 2, 2)
    return sparse.csc_array((data, indices, starts), shape=x.shape)


def with_zeros(x):
    """Return every entry, also the zeros, some of which are negative."""
    n, m = x.shape
    data = np.where((x == 0) & (np.arange(m) % 2 == 0), -0.0, x).astype(x.dtype)
    return sparse.csc_array((data.T.ravel(), np.tile(np.arange(n), m), np.arange(m + 1) * n), shape=x.shape)


def with_room_behind(x):
    made = sparse.csc_array(x)
    made.data = np.append(made.data, [np.nan] * 3).astype(x.dtype)
    made.indices = np.append(made.indices, [2**30] * 3).astype(np.int32)
    return made


FORMS = [
    sparse.csc_array, sparse.csc_matrix, csr_transposed, csr_matrix_transposed, sparse.csr_array, sparse.coo_array,
    sparse.coo_matrix, sparse.lil_array, sparse.dok_array, of_int64, read_only, unsorted, with_duplicates, with_zeros,
    with_room_behind,
]  # fmt: skip


def all_results(x, labels, dtype):
    """Return what every method that takes X gives."""
    model = fastmlp.MLP((x.shape[0], 7, 3), dtype=dtype.name, seed=1)
    loss, gradient = model.loss_and_grad(x, labels)
    found = [np.asarray(loss), gradient, model.predict(x), model.predict_proba(x)]
    histories = [model.fit(x, labels, epochs=2, validation=(x, labels)), model.fit(x, labels, epochs=2, **ADAM)]
    found += [np.array(list(columns(one).values())[:4], object) for one in histories]
    return [*found, model.parameters, np.array(list(model.evaluate(x, labels).values()))]


def assert_same_results(one, other, labels, dtype):
    for actual, expected in zip(all_results(one, labels, dtype), all_results(other, labels, dtype), strict=True):
        if actual.dtype == object:
            assert actual.tolist() == expected.tolist()
        else:
            assert_same_bits(actual, expected)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_results_are_those_of_the_dense_matrix(backend, rng, dtype, form):
    x, labels = random(rng, 130, 300, 0.1, dtype), rng.integers(3, size=300)
    x[:, [0, 7, 299]], x[[0, 5, 129]] = 0, 0  # empty samples, and features that no sample has
    assert_same_results(form(x), x, labels, dtype)


@pytest.mark.parametrize("density", [0.0, 0.002, 0.02, 0.3, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("m", [1, 119, 250, 2100])
def test_any_density_and_number_of_samples(backend, rng, m, density):
    x, labels = random(rng, 40, m, density), rng.integers(3, size=m)
    assert_same_results(sparse.csc_array(x), x, labels, x.dtype)


@pytest.mark.parametrize("density", [0.0005, 0.02])
@pytest.mark.parametrize("n", [1, 2, 111, 112, 113, 1024, 1025, 65_520, 65_536, 65_537, 140_000])
def test_any_number_of_features(backend, rng, n, density):
    x, labels = random(rng, n, 125, density, np.float32), rng.integers(3, size=125)
    x[[0, -1], 3] = 1
    assert_same_results(sparse.csc_array(x), x, labels, x.dtype)


@pytest.mark.parametrize("kind", [bool, np.int8, np.int64, np.uint16, np.float32, np.longdouble])
def test_numbers_of_any_real_type(backend, rng, dtype, kind):
    x, labels = (10 * random(rng, 30, 150, 0.2)).astype(kind), rng.integers(3, size=150)
    assert_same_results(sparse.csc_array(x), x, labels, dtype)


@pytest.mark.parametrize("scale", [None, 1 / 255, 0.3])
def test_bytes_stay_bytes(backend, rng, dtype, scale):
    x, labels = rng.integers(256, size=(30, 150), dtype=np.uint8), rng.integers(3, size=150)
    x *= rng.random(x.shape) < 0.2
    packed = pack(sparse.csc_array(x), scale)
    assert packed.dtype == np.uint8
    assert_same_results(packed, pack(x, scale), labels, dtype)
    assert_same_bits(packed.to_dense(dtype.name), pack(x, scale).to_dense(dtype.name))


# Blocks of up to 256 features, of which a page has several, and longer ones, whose words are wider.
@pytest.mark.parametrize(("n", "density"), [(300, 0.2), (6000, 0.003)])
@pytest.mark.parametrize("shuffle", ["samples", "batches"])
def test_codes_have_the_bits_of_their_values(backend, rng, n, density, shuffle):
    codes = (rng.integers(1, 256, size=(n, 90)) * (rng.random((n, 90)) < density)).astype(np.uint8)
    labels, found = rng.integers(3, size=90), set()
    for x, scale in ((sparse.csc_array(codes), 1 / 255), (codes / np.float32(255), None)):
        packed = pack(x, scale=scale, minibatches=True)
        model = fastmlp.MLP((n, 8, 3), dtype="float32", seed=0)
        history = model.fit(packed, labels, epochs=4, batch_size=20, shuffle=shuffle, optimizer=ADAM["optimizer"])
        found.add((model.parameters.tobytes(), *history.loss, packed.to_dense("float32").tobytes()))
    assert len(found) == 1


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_lists_are_packed_to_the_form_of_the_matrix(backend, rng, kind):
    n, m = 600, 8192 if backend == "numba" else 200  # enough that features, of several pages, are put in order
    x = (rng.integers(1, 256, size=(n, m)) * (rng.random((n, m)) < 0.2 * rng.random((n, 1)))).astype(kind)
    labels, forms = rng.integers(3, size=m), [pack(x), pack(x, minibatches=True)]
    model = fastmlp.MLP((n, 8, 3), dtype="float32", seed=0)
    for one, other in zip(*(model.loss_and_grad(packed, labels) for packed in forms), strict=True):
        assert_same_bits(np.array(one), np.array(other))
    if backend == "numba":
        from fastmlp.kernels.compiled import tuning

        assert m >= tuning.GROUPED_SAMPLES
        listed = [one.operands(np.dtype(np.float32)) for one in forms]
        assert_same_bits(listed[0].backward.index, listed[1].backward.index)


def test_numbers_that_vanish_in_the_model_s_dtype_are_no_entries(backend):
    x = sparse.csc_array(np.array([[1e-300, 1.0], [0.0, 2.0]]))
    packed = pack(x, dtype="float32")
    assert packed.density == 0.5
    dense = np.array([[0, 1], [0, 2]], np.float32)
    assert_same_bits(packed.to_dense(), dense)
    assert packed.content() == pack(dense).content()
    assert packed.nbytes == pack(sparse.csc_array(dense)).nbytes
    assert pack(x, scale=1e-308).density == 0.5


def facts(packed):
    dtype = packed.dtype if packed.dtype != np.uint8 else np.dtype(np.float32)
    known = packed.shape, packed.dtype, packed.density, packed.finite, packed.largest, packed.looks_unscaled()
    return *known, packed.not_finite(dtype), packed.content()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("change", [0, 21, np.inf, -np.inf, np.nan])
def test_facts_are_those_of_the_dense_matrix(backend, rng, kind, change):
    x = (3 * np.abs(random(rng, 90, 2100, 0.1))).astype(kind)
    if kind != np.uint8:
        x[[7, 5, 5], [9, 1200, 300]] = change
    made = pack(sparse.csc_array(x))
    found = [facts(one) for one in (made, pack(x), pack(x, minibatches=True))]
    assert str(found[0]) == str(found[1]) == str(found[2])
    place = "None" if np.isfinite(change) or kind == np.uint8 else f"'{kind(change)} at row 5, column 300'"
    assert repr(made.not_finite(np.dtype(np.float32) if kind == np.uint8 else made.dtype)) == place
    assert_same_bits(made.to_dense(), pack(x).to_dense())
    assert made.kind == "sparse"
    assert f"(90, 2100), {made.dtype}, sparse, density 0.1" in repr(made) or kind == np.uint8
    assert made.nbytes < x.nbytes or kind == np.uint8


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda packed: pickle.loads(pickle.dumps(packed))])
def test_a_copy_is_the_same_matrix(backend, rng, clone):
    x, labels = random(rng, 200, 150, 0.05), rng.integers(3, size=150)
    packed = pack(sparse.csc_array(x))
    again = clone(packed)
    assert (again.kind, again.nbytes) == (packed.kind, packed.nbytes)
    assert facts(again) == facts(packed)
    assert_same_results(again, packed, labels, x.dtype)
    assert len(pickle.dumps(packed)) < x.nbytes / 5


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_caller_s_object_is_neither_changed_nor_kept(backend, rng, form):
    x = random(rng, 40, 150, 0.2)
    given = form(x)
    before = copy.deepcopy(given)
    packed = pack(given)
    fastmlp.MLP((40, 3)).fit(given, np.arange(150) % 3, epochs=1)
    assert vars(given).keys() == vars(before).keys()
    assert type(given) is type(before)
    for name in {"data", "indices", "indptr"} & vars(given).keys():
        np.testing.assert_array_equal(getattr(given, name), getattr(before, name))
    if "data" in vars(given) and given.data.dtype != object and given.data.flags.writeable:
        given.data[:] = 77
        np.testing.assert_array_equal(packed.to_dense(), x)


def damaged(name, value):
    x = sparse.csc_array(np.eye(4))
    array = getattr(x, name).copy()
    array[2] = value
    setattr(x, name, array)
    return x


REFUSED = {
    "other features": (lambda: sparse.csc_array((9, 5)), ValueError, r"shape \(9, 5\), .*; pass samples of as many"),
    "rows as samples": (
        lambda: sparse.csr_array((7, 4)),
        ValueError,
        r"shape \(7, 4\), .*; columns are samples: ",
    ),
    "one dimension": (lambda: sparse.coo_array(np.ones(4)), ValueError, r"shape \(4,\), .*; give it two dimensions"),
    "no samples": (lambda: sparse.csc_array((4, 0)), ValueError, r"shape \(4, 0\), .*; pass at least one sample"),
    "complex numbers": (lambda: sparse.csc_array(np.eye(4) * 1j), TypeError, r"dtype complex128, .*; pass its .real"),
    "NaN": (
        lambda: sparse.csc_array(np.diag([1, 1, np.nan, np.inf])),
        ValueError,
        r"nan at row 2, column 2, .*fill",
    ),
    "a row too many": (lambda: damaged("indices", 4), ValueError, r"a sparse csc_array whose indices do not fit"),
    "a negative row": (lambda: damaged("indices", -1), ValueError, r"a sparse csc_array whose indices do not fit"),
    "a falling start": (lambda: damaged("indptr", 0), ValueError, r"a sparse csc_array whose indices do not fit"),
    "a start too far": (lambda: damaged("indptr", 9), ValueError, r"a sparse csc_array whose indices do not fit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_be(backend, case):
    make, error, text = REFUSED[case]
    model = fastmlp.MLP((4, 3))
    x = make()
    labels = np.zeros(x.shape[-1], int)
    for call in (lambda: model.fit(x, labels, epochs=1), lambda: model.predict(x), lambda: model.evaluate(x, labels)):
        with pytest.raises(error, match=rf"^X: got {text}"):
            call()
    with pytest.raises(error, match="^validation X: got "):
        model.fit(np.ones((4, 2)), [0, 1], epochs=1, validation=(x, labels))


def test_other_arguments_and_the_notebook_s_functions_take_no_sparse_matrix(backend):
    x, model = sparse.csc_array(np.eye(4)), fastmlp.MLP((4, 3))
    for call, name in (
        (lambda: fastmlp.ReLU(x), "X"),
        (lambda: fastmlp.Forwardprop(x, np.eye(4), np.eye(4), np.ones((4, 1)), np.ones((4, 1))), "X"),
        (lambda: model.fit(x, x, epochs=1), "Y"),
        (lambda: model.loss_and_grad(x, [0] * 4, sample_weight=x), "sample_weight"),
    ):
        with pytest.raises(
            TypeError, match=f"^{name}: got a sparse csc_array, expected a dense array; convert it with"
        ):
            call()


def test_the_notebook_s_functions_take_a_packed_one(backend, rng):
    x, y = random(rng, 20, 150, 0.2), fastmlp.one_hot(rng.integers(3, size=150), 3)
    w1, w2, b1, b2 = (rng.standard_normal(shape) for shape in ((5, 20), (3, 5), (5, 1), (3, 1)))
    found = []
    for packed in (pack(sparse.csc_array(x)), pack(x)):
        a1, z1, a2, z2 = forward = fastmlp.Forwardprop(packed, w1, w2, b1, b2)
        found.append([*forward, *fastmlp.backward_prop(z1, a1, z2, a2, w1, w2, packed, y)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


def test_a_run_is_resumed_with_the_other_kind(backend, rng, tmp_path):
    x, labels = random(rng, 60, 150, 0.1), rng.integers(3, size=150)
    for first, second in ((x, sparse.csc_array(x)), (sparse.csr_array(x.T).T, x)):
        path = tmp_path / f"{type(first).__name__}.safetensors"
        models = [fastmlp.MLP((60, 5, 3)) for _ in range(3)]
        models[0].fit(x, labels, epochs=4, **ADAM)
        models[1].fit(first, labels, epochs=2, checkpoint=path, **ADAM)
        models[2].fit(second, labels, epochs=4, checkpoint=path, resume=True, **ADAM)
        assert_same_bits(models[2].parameters, models[0].parameters)


@pytest.mark.numba
def test_bits_depend_neither_on_threads_nor_on_the_features_listed_at_once(rng, dtype, monkeypatch):
    x, labels = random(rng, 9000, 700, 0.004, dtype), rng.integers(3, size=700)
    x[:4000, 500:] = rng.standard_normal((4000, 200))  # tiles of both kinds
    with fastmlp.use_backend("numba"):
        expected = all_results(sparse.csc_array(x), labels, dtype)
        from fastmlp.kernels.compiled import launch, packing

        for threads in range(1, min(3, fastmlp.get_num_threads()) + 1):
            for room in (packing._ROOM_BYTES, 1):
                monkeypatch.setattr(packing, "_ROOM_BYTES", room)
                with fastmlp.use_threads(threads):
                    for given in (sparse.csc_array(x), x):
                        actual = all_results(given, labels, dtype)
                        assert [one.tolist() for one in actual] == [one.tolist() for one in expected]
        assert launch


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_dense_matrix_is_made(backend, rng):
    n, m = 20_000, 12_000
    x = sparse.random_array((n, m), density=2e-4, format="csc", dtype=np.float32, rng=rng)
    x, labels = x.astype(np.float32), np.arange(m) % 2
    model = fastmlp.MLP((n, 2), dtype="float32")
    packed = pack(x)

    def use():
        given = pack(x)
        model.fit(given, labels, epochs=1, optimizer=fastmlp.optimizers.Adam(), batch_size=500)
        model.evaluate(given, labels)
        given.content()
        pickle.loads(pickle.dumps(given))

    use()  # kernels are compiled
    assert packed.nbytes < 40 * x.nnz
    # The dense matrix has 960 MB; a chunk of the NumPy backend, and the rooms of the other one, do not depend on m.
    assert peak_of(use) < 400e6
    assert peak_of(lambda: pack(x)) < 60 * x.nnz


def test_memory_is_proportional_to_the_entries_however_many_the_features(backend, rng):
    n, m, each = 1_000_000, 3000, 20
    rows = np.sort(rng.integers(n, size=(m, each)), axis=1)
    x = sparse.csc_array((np.ones(m * each, np.float32), rows.ravel(), np.arange(m + 1) * each), shape=(n, m))
    assert pack(x).nbytes < 24 * x.nnz


@pytest.mark.numba
def test_the_other_form_of_a_dense_matrix_is_made_batch_by_batch(rng):
    with fastmlp.use_backend("numba"):
        x = sparse.random_array((500, 60_000), density=0.02, dtype=np.float32, rng=rng).toarray()
        for minibatches in (False, True):
            packed = pack(x, minibatches=minibatches)
            peak = peak_of(lambda packed=packed, other=not minibatches: packed.operands(x.dtype, minibatches=other))
            assert peak < 0.7 * x.nbytes
