"""pack and PackedMatrix: stored values, round trips, refused inputs."""

import copy
import functools
import pickle

import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp
from fastmlp.packs import pack

pytestmark = pytest.mark.kernels

# Around the sizes of groups, of leaves smaller than a tile, of tiles, and of leaves of several tiles.
SAMPLES = [1, 2, 3, 4, 5, 59, 60, 61, 239, 240, 241, 1000]


@pytest.fixture(params=[False, True], ids=["passes", "minibatches"])
def packing(request):
    """Return `pack` for either form, which to make first."""
    return functools.partial(pack, minibatches=request.param)


def images(rng, n, m, density):
    x = rng.integers(1, 256, size=(n, m)).astype(np.uint8)
    return x * (rng.random((n, m)) < density)


@pytest.mark.parametrize("density", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("m", SAMPLES)
def test_to_dense_gives_back_every_bit(backend, rng, packing, m, density):
    codes = images(rng, 21, m, density)
    packed = packing(codes, scale=1 / 255)
    assert packed.shape == (21, m)
    assert packed.dtype == np.uint8
    assert packed.density == pytest.approx(np.mean(codes != 0))
    assert_same_bits(packed.to_dense(), codes / 255.0)
    assert_same_bits(packed.to_dense("float32"), codes / np.float32(255))
    for dtype in (np.float32, np.float64):
        values = (codes * rng.standard_normal(codes.shape)).astype(dtype)
        np.testing.assert_array_equal(packing(values).to_dense(), values)
        assert packing(values).to_dense().dtype == dtype


@pytest.mark.parametrize("n", [1, 3, 63, 64, 65, 83, 84, 85, 255, 256, 257, 785])
def test_any_number_of_features(backend, rng, packing, n):
    codes = images(rng, n, 130, 0.3)
    assert_same_bits(packing(codes).to_dense(), codes.astype(float))


def test_more_features_than_an_index_can_name(backend, rng, packing):
    codes = images(rng, 2 * 2**16 + 5, 9, 0.01)
    assert_same_bits(packing(codes).to_dense(), codes.astype(float))


def test_some_tiles_dense_and_some_not(rng):
    with fastmlp.use_backend("auto"):
        x = rng.standard_normal((30, 2000))
        x[:, 900:] *= rng.random((30, 1100)) < 0.1
        packed = pack(x)
        assert packed.kind == ("mixed" if fastmlp.get_backend() == "numba" else "dense")
        np.testing.assert_array_equal(packed.to_dense(), x)


@pytest.mark.parametrize("m", [700, 20_000])
def test_every_layout_packs_alike(backend, rng, packing, tmp_path, m):
    codes = images(rng, 20, m, 0.3)
    np.save(tmp_path / "x.npy", codes)
    for odd in (
        np.asfortranarray(codes),
        codes[:, ::-1].copy()[:, ::-1],
        np.repeat(codes, 2, axis=1)[:, ::2],
        np.load(tmp_path / "x.npy", mmap_mode="r"),
    ):
        before = odd.tobytes()
        assert_same_bits(packing(odd).to_dense(), codes.astype(float))
        assert odd.tobytes() == before
    assert_same_bits(packing(codes.astype(">f8")).to_dense(), codes.astype(float))
    assert_same_bits(packing(codes.astype(np.int16)).to_dense(), codes.astype(float))


def test_scale(backend, rng):
    codes = images(rng, 5, 9, 0.5)
    assert_same_bits(pack(codes, scale=0.3).to_dense(), codes * 0.3)
    assert_same_bits(pack(codes / 1.0, scale=1 / 16).to_dense(), codes / 16.0)
    assert pack(codes / 1.0, dtype="float32").dtype == np.float32


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-300, 2.0**-60, 1e-30, 1e30, 1e300])
def test_scales_of_any_size(backend, scale):
    """Tiny scales have no useful inverse; huge scales overflow as in NumPy, but without a warning."""
    codes = np.array([[3, 0]], np.uint8)
    with np.errstate(all="ignore"):
        expected = codes * scale
        singles = codes * np.float32(scale)
    for x in (codes, codes.astype(float)):
        assert_same_bits(pack(x, scale=scale).to_dense(), expected)
    np.testing.assert_array_equal(pack(codes.astype("f4"), scale=scale).to_dense(), singles)
    np.testing.assert_array_equal(pack(codes, scale=scale).to_dense("float32"), singles)


def test_it_is_a_copy(backend, packing):
    x = np.ones((2, 3))
    packed = packing(x)
    x[...] = 5
    assert (packed.to_dense() == 1).all()


def test_values_that_are_not_finite_are_held(backend, packing):
    x = np.zeros((9, 2))  # listed, for there are many zeros
    x[:2] = [[np.nan, 0.0], [np.inf, -np.inf]]
    for some in (x, x[:2]):
        np.testing.assert_array_equal(packing(some).to_dense(), some)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"X": np.ones(3)}, ValueError, "X"),
        ({"X": np.ones((0, 3))}, ValueError, "X"),
        ({"X": np.ones((3, 0))}, ValueError, "X"),
        ({"X": np.array([[None]])}, TypeError, "X"),
        ({"X": np.array([[1j]])}, TypeError, "X"),
        ({"X": np.broadcast_to(np.uint8(0), (2**31, 1))}, ValueError, "X"),
        ({"X": np.ones((1, 1)), "scale": 0}, ValueError, "scale"),
        ({"X": np.ones((1, 1)), "scale": -1}, ValueError, "scale"),
        ({"X": np.ones((1, 1)), "scale": np.nan}, ValueError, "scale"),
        ({"X": np.ones((1, 1)), "scale": np.inf}, ValueError, "scale"),
        ({"X": np.ones((1, 1)), "scale": "1"}, TypeError, "scale"),
        ({"X": np.ones((1, 1)), "dtype": "float16"}, ValueError, "dtype"),
    ],
)
def test_what_it_cannot_hold(backend, arguments, error, name):
    with pytest.raises(error, match=rf"^{name}: got .*expected .*;"):
        pack(**arguments)


def test_a_packed_matrix_that_does_not_fit_the_model_is_refused(backend):
    model = fastmlp.MLP((3, 2), dtype="float32")
    with pytest.raises(ValueError, match=r"^X: got a packed matrix of dtype float64, expected float32"):
        model.predict(pack(np.ones((3, 4))))
    with pytest.raises(ValueError, match=r"^X: got a packed matrix of shape \(4, 3\), expected .*\(3, any\)"):
        model.predict(pack(np.ones((4, 3), np.uint8)))
    assert model.predict(pack(np.ones((3, 4), np.uint8))).shape == (4,)


@pytest.mark.numba
def test_a_matrix_packed_for_the_other_backend_is_refused():
    with fastmlp.use_backend("numpy"):
        packed = pack(np.ones((3, 4)))
    with fastmlp.use_backend("numba"), pytest.raises(ValueError, match="packed for the numpy backend"):
        fastmlp.MLP((3, 2)).predict(packed)


# Few samples, sparse tiles, dense tiles and both kinds; each also as uint8.
FORMS = [(21, 5, 1.0), (21, 700, 0.1), (21, 2500, 1.0), (300, 2500, 0.4)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda packed: pickle.loads(pickle.dumps(packed))])
def test_a_copy_is_the_same_matrix(backend, rng, form, clone):
    codes = images(rng, *form)
    model = fastmlp.MLP((form[0], 4, 3))
    labels = rng.integers(3, size=form[1])
    for packed in (pack(codes, scale=1 / 255), pack(codes / 255.0)):
        again = clone(packed)
        assert (again.shape, again.dtype, again.kind) == (packed.shape, packed.dtype, packed.kind)
        assert (again.density, again.nbytes, again.finite) == (packed.density, packed.nbytes, packed.finite)
        assert_same_bits(again.to_dense(), packed.to_dense())
        assert_same_bits(model.loss_and_grad(again, labels)[1], model.loss_and_grad(packed, labels)[1])


@pytest.mark.numba
def test_a_pickle_is_of_any_backend(rng):
    codes = images(rng, 21, 700, 0.3)
    with fastmlp.use_backend("numba"):
        packed = pack(codes, scale=1 / 255)
    with fastmlp.use_backend("numpy"):
        again = pickle.loads(pickle.dumps(packed))
        assert_same_bits(again.to_dense(), codes / 255.0)
        assert fastmlp.MLP((21, 2)).predict(again).shape == (700,)


def test_facts(backend, rng):
    packed = pack(images(rng, 784, 600, 0.2))
    assert packed.nbytes > 0
    assert "(784, 600), uint8" in repr(packed)


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_the_other_form_is_made_when_it_is_needed(backend, rng, packing, kind, density):
    codes, labels = images(rng, 30, 700, density).astype(kind), rng.integers(3, size=700)
    packed = packing(codes, scale=1 / 255)
    size = packed.nbytes
    for other in (pack(codes, scale=1 / 255), pack(codes, scale=1 / 255, minibatches=True)):
        models = [fastmlp.MLP((30, 5, 3), seed=0) for _ in range(2)]
        gradients = [model.loss_and_grad(x, labels)[1] for model, x in zip(models, (packed, other), strict=True)]
        assert_same_bits(*gradients)
        for model, x in zip(models, (packed, other), strict=True):
            model.fit(x, labels, epochs=1, batch_size=100, optimizer=fastmlp.optimizers.Adam())
        assert_same_bits(*(model.parameters for model in models))
    assert (packed.nbytes > size) == (backend == "numba")  # NumPy has one form for both uses
