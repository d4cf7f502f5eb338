"""Floats of few values, packed for minibatches as codes: the results of the values themselves."""

import pickle

import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp
from fastmlp.packs import pack

pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::fastmlp.history.TrainingWarning")]

N, M = 300, 1000  # features of several pages; of the samples, every eighth is looked at
LABELS = np.random.default_rng(0).integers(3, size=M)


def few_values(rng, dtype, count=255, density=0.2):
    """Return a matrix (N, M) with so many values beside 0, each of them in the samples that are looked at."""
    values = rng.standard_normal(count).astype(dtype)
    x = np.where(rng.random((N, M)) < density, rng.choice(values, size=(N, M)), 0)
    step = -(-M // 128)
    x[0, ::step] = np.resize(values, len(x[0, ::step]))
    x[1, ::step] = np.resize(values[::-1], len(x[1, ::step]))
    x[2, ::step] = np.resize(np.roll(values, 60), len(x[2, ::step]))
    return x.astype(dtype)


@pytest.fixture
def packed_both_ways(compiled, monkeypatch):
    """Return a function that packs a matrix with codes, if they can be, and with values."""

    def packed(x):
        found = []
        for large in (0, x.size + 1):
            monkeypatch.setattr(compiled.sample_lists, "_LARGE", large)
            found.append(pack(x, minibatches=True))
        return found

    assert compiled.alphabets._ROWS == 128  # see `few_values`
    with fastmlp.use_backend("numba"):
        yield packed


def coded(packed):
    return packed.operands(packed.dtype, minibatches=True).coded


def results(packed, labels=LABELS):
    """Return bits of all that a matrix is used for."""
    dtype, found = packed.dtype.name, []
    for shuffle in ("samples", "batches"):
        model = fastmlp.MLP((N, 9, 3), dtype=dtype, seed=0)
        history = model.fit(
            packed, labels, epochs=3, batch_size=60, shuffle=shuffle, optimizer=fastmlp.optimizers.Adam()
        )
        found += [model.parameters, np.array(history.loss)]
    clone = pickle.loads(pickle.dumps(packed))
    found += [packed.to_dense(dtype), clone.to_dense(dtype)]
    found += [np.array(one) for one in model.loss_and_grad(packed, labels)]
    found += [model.predict_proba(packed), np.frombuffer(packed.content().encode(), np.uint8)]
    return found


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("count", [1, 17, 255])
def test_codes_give_the_bits_of_the_values(rng, dtype, order, count, packed_both_ways):
    x = np.asarray(few_values(rng, dtype, count), order=order)
    one, other = packed_both_ways(x)
    assert (coded(one), coded(other)) == (2, 0)
    assert one.nbytes < 0.8 * other.nbytes
    for actual, expected in zip(results(one), results(other), strict=True):
        assert_same_bits(actual, expected)
    assert_same_bits(one.to_dense(), x)


@pytest.mark.parametrize("odd", [0.1234567, 1e300, -1e-320, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("looked_at", [False, True])
def test_a_number_that_has_no_code_is_not_lost(rng, odd, looked_at, packed_both_ways):
    x = few_values(rng, np.float64, 200)
    x[7, 800 if looked_at else 801] = odd
    packed = packed_both_ways(x)[0]
    assert coded(packed) == (2 if looked_at and np.isfinite(odd) else 0)
    assert packed.finite == np.isfinite(odd)
    assert_same_bits(packed.to_dense(), x)


def test_more_values_than_codes_stay_values(rng, dtype, packed_both_ways):
    packed = packed_both_ways(few_values(rng, dtype, 256))[0]
    assert coded(packed) == 0
    zeros = pack(np.zeros((N, M), dtype), minibatches=True)
    assert coded(zeros) == 0
    assert not zeros.to_dense().any()


def test_negative_zeros_are_zeros(rng, dtype, packed_both_ways):
    x = few_values(rng, dtype, 30)
    x[5, ::3] = -0.0
    one, other = packed_both_ways(x)
    assert one.density == other.density
    assert_same_bits(one.to_dense(), np.where(x == 0, 0, x).astype(dtype))


def test_codes_are_told_apart_by_their_hashes(compiled, rng, dtype):
    for count in (1, 2, 100, 255):
        values = rng.standard_normal(count).astype(dtype)
        alphabet = compiled.alphabets.alphabet_of(np.append(values, 0)[None].astype(dtype))
        assert alphabet is not None
        hashes = (values.view(f"u{dtype.itemsize}").astype(np.uint64) * alphabet.factor) >> np.uint64(48)
        assert_same_bits(alphabet.table[alphabet.place[hashes]], values)
