"""The order of features in the lists for the gradient: it makes them short, and shows in no bit."""

import itertools
import math

import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp
from fastmlp import blocks
from fastmlp.packs import pack

pytestmark = [pytest.mark.kernels, pytest.mark.numba]

SIZES = (83, 9, 3)
BAD = (None, np.inf, np.nan)  # a parameter


def samples(rng, kind, m=2500, n=SIZES[0]):
    """Return a matrix in which features that are alike are far apart; of one kind some samples have no zeros."""
    present = rng.random((7, m)) < 0.3
    x = rng.integers(1, 256, size=(n, m)) * present[np.arange(n) % 7]
    if kind == "mixed":
        x[:, m // 2 :] = rng.integers(1, 256, size=(n, m - m // 2))
    return x.astype(np.uint8) if kind == "uint8" else x / 255


def passes(x, y, dtype, bad=None):
    """Return the bits of steps, of predictions and of the notebook's backward pass."""
    model = fastmlp.MLP((x.shape[0], *SIZES[1:]), dtype=dtype, seed=0)
    if bad is not None:
        model.parameters[x.shape[0] + 3] = bad
    loss, grad = model.loss_and_grad(x, y)
    (w1, w2), (b1, b2) = model.weights, (one.reshape(-1, 1) for one in model.biases)
    a1, z1, a2, z2 = fastmlp.Forwardprop(x, w1, w2, b1, b2)
    back = fastmlp.backward_prop(z1, a1, z2, a2, w1, w2, x, fastmlp.one_hot(y, SIZES[-1]).astype(dtype))
    return [np.array(loss), grad, model.predict_proba(x), *back]


def natural(rows, listed, m, n):
    from fastmlp.kernels.compiled import ordering

    return ordering.natural_features(n)


@pytest.mark.parametrize("kind", ["uint8", "float", "mixed"])
def test_the_order_of_features_shows_in_no_bit(compiled, monkeypatch, rng, kind):
    monkeypatch.setattr(compiled.tuning, "GROUPED_SAMPLES", 0)
    x, y = samples(rng, kind), rng.integers(SIZES[-1], size=2500)
    for listed in (False, True):
        for dtype in ("float64", "float32"):
            given = x if kind == "uint8" else x.astype(dtype)
            ordered = pack(given, minibatches=listed)
            found = [passes(ordered, y, dtype, bad) for bad in BAD]
            places = ordered.operands(np.dtype(dtype)).places
            assert sorted(places) == list(range(SIZES[0]))
            assert (list(places) == sorted(places)) == (kind == "mixed")
            with monkeypatch.context() as patch:
                patch.setattr(compiled.packing, "group_features", natural)
                plain = pack(given, minibatches=listed)
                expected = [passes(plain, y, dtype, bad) for bad in BAD]
            assert list(plain.operands(np.dtype(dtype)).places) == list(range(SIZES[0]))
            for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
                assert_same_bits(one, other)
            assert_same_bits(ordered.to_dense(dtype), plain.to_dense(dtype))


@pytest.mark.parametrize("listed", [False, True])
def test_features_that_are_alike_stand_together(compiled, monkeypatch, rng, listed):
    """Seven kinds of features, each in the same third of the samples: lists of mixed groups would be twice as long."""
    monkeypatch.setattr(compiled.tuning, "GROUPED_SAMPLES", 0)
    x = samples(rng, "uint8", n=84)

    def entries():
        return len(pack(x, minibatches=listed).operands(np.dtype(float)).backward.index)

    ordered = entries()
    assert ordered <= 1.1 * np.count_nonzero(x) / compiled.vector.GROUP
    monkeypatch.setattr(compiled.packing, "group_features", natural)
    assert entries() > 1.5 * ordered


def test_parts_of_a_matrix_keep_features_in_their_order(compiled, rng):
    """Their gradients are added, row by row."""
    x = samples(rng, "float", compiled.tuning.GROUPED_SAMPLES)
    assert list(compiled.pack(x, x.shape[1]).places) == list(range(SIZES[0]))
    assert list(compiled.pack(x).places) != list(range(SIZES[0]))


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_blocks_of_a_file_share_an_order_of_features(compiled, monkeypatch, rng, kind, tmp_path):
    """That of the first block: gradients are added. Blocks of floats, which may be dense, have features as they are."""
    monkeypatch.setattr(compiled.tuning, "GROUPED_SAMPLES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 15)
    x, y = samples(rng, kind), rng.integers(SIZES[-1], size=2500)
    mapped = pack(x, path=tmp_path / "a.pack")
    first, *others = (piece.operand.places for piece in mapped.pieces(np.dtype(float)))
    assert others
    assert (list(first) == list(range(SIZES[0]))) == (kind == "float")
    for one in others:
        np.testing.assert_array_equal(one, first)
    model = fastmlp.MLP(SIZES, seed=0)
    for one, other in zip(model.loss_and_grad(mapped, y), model.loss_and_grad(pack(x), y), strict=True):
        assert_same_bits(np.asarray(one), np.asarray(other))


def test_features_that_cannot_be_listed_at_once_keep_their_order(compiled, monkeypatch, rng):
    # Whole groups of whole blocks, which depend on the processor, are fewer features.
    part_size, group = compiled.plan.part_size, compiled.vector.GROUP
    n = next(n for n in range(2000, 9000) if math.lcm(part_size(n), group) < n)
    x, y = samples(rng, "uint8", 300, n), rng.integers(SIZES[-1], size=300)
    expected = passes(pack(x), y, "float64")
    monkeypatch.setattr(compiled.tuning, "GROUPED_SAMPLES", 0)
    monkeypatch.setattr(compiled.packing, "_ROOM_BYTES", 1)
    for listed in (False, True):
        few_at_once = pack(x, minibatches=listed)
        assert list(few_at_once.operands(np.dtype(float)).places) == list(range(n))
        for one, other in zip(passes(few_at_once, y, "float64"), expected, strict=True):
            assert_same_bits(one, other)
