"""Training and prediction refuse non-finite data in any form, and name its place.

`MLP.loss_and_grad` and the notebook's functions compute with it, as NumPy does.
"""

import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp

pytestmark = pytest.mark.kernels

FORMS = {"plain": lambda x: x, "packed": fastmlp.pack, "a list": lambda x: x.tolist(), "Fortran": np.asfortranarray}
# Few samples, and enough samples for tiles, dense and sparse.
SHAPES = [(3, 5, 1.0), (40, 700, 0.2), (40, 2500, 1.0)]


def samples(n, m, density):
    rng = np.random.default_rng(3)
    return rng.random((n, m)) * (rng.random((n, m)) < density), rng.integers(2, size=m)


def calls(model, x, y, good):
    """Return the calls that must refuse ``x``, by the name of the argument."""
    return [
        ("X", lambda: model.fit(x, y, epochs=2)),
        ("validation X", lambda: model.fit(*good, epochs=2, validation=(x, y))),
        ("X", lambda: model.evaluate(x, y)),
        ("X", lambda: model.predict(x)),
        ("X", lambda: model.predict_proba(x)),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_entry_that_is_not_finite_is_named(backend, dtype, form, shape, bad):
    x, y = samples(*shape)
    model, good = fastmlp.MLP((len(x), 4, 2), dtype=dtype.name), (x.astype(dtype), y)
    before = model.parameters.copy()
    x = x.astype(dtype)
    x[2, 1] = x[1, 3] = bad
    for name, call in calls(model, FORMS[form](x), y, good):
        with pytest.raises(ValueError, match=rf"^{name}: got {bad} at row 1, column 3, expected .*finite in {dtype};"):
            call()
    assert_same_bits(model.parameters, before)
    weight = np.ones(len(y))
    weight[[1, 3]] = 0
    with pytest.raises(ValueError, match=f"^X: got {bad} at row 1, column 3"):
        model.fit(FORMS[form](x), y, sample_weight=weight)


@pytest.mark.parametrize("place", [(0, 0), (39, 2499), (39, 0), (0, 2499), (17, 1201)])
def test_no_place_is_overlooked(backend, place):
    x, _ = samples(40, 2500, 1.0)
    x[place] = np.nan
    assert not fastmlp.pack(x).finite
    with pytest.raises(ValueError, match="^X: got nan at row {}, column {},".format(*place)):
        fastmlp.MLP((40, 2)).predict(x)


def test_what_is_finite_is_taken(backend, dtype):
    """Also values whose sum overflows, and the largest finite value of the dtype."""
    largest = np.finfo(dtype).max
    x = np.array([[largest, largest, 0.0], [largest, -largest, 5e-324]], dtype)
    model = fastmlp.MLP((2, 2), dtype=dtype.name)
    model.parameters = np.zeros(6)
    assert fastmlp.pack(x).finite
    assert model.predict(x).tolist() == [0, 0, 0]
    assert model.predict_proba(fastmlp.pack(x)).tolist() == [[0.5] * 3] * 2


def test_what_the_model_s_dtype_cannot_hold_is_not_finite(backend):
    x = np.array([[1.0, 1e39]])
    assert fastmlp.MLP((1, 2)).predict(x).shape == (2,)
    with pytest.raises(ValueError, match="^X: got inf at row 0, column 1, expected numbers .* float32;"):
        fastmlp.MLP((1, 2), dtype="float32").predict(x)


@pytest.mark.parametrize("m", [3, 300])
def test_codes_are_finite_unless_their_scale_overflows(backend, m):
    codes = np.zeros((1, m), np.uint8)
    codes[0, 2] = 200
    double, single = fastmlp.MLP((1, 2)), fastmlp.MLP((1, 2), dtype="float32")
    for scale, finite, fits in (
        (1 / 255, True, True),
        (1.5e36, True, True),
        (1e37, True, False),
        (1e306, False, False),
    ):
        packed = fastmlp.pack(codes, scale=scale)
        assert packed.finite == finite
        for model, taken in ((double, finite), (single, fits)):
            if taken:
                assert model.predict(packed).shape == (m,)
            else:
                # A scale that is infinite in float32 turns zeros into NaN.
                with pytest.raises(ValueError, match="^X: got (inf at row 0, column 2|nan at row 0, column [01]),"):
                    model.predict(packed)


@pytest.mark.parametrize("x", [np.eye(3, dtype=bool), np.eye(3, dtype=np.int64), np.eye(3, dtype=np.float16)])
def test_a_packed_matrix_knows_whether_it_is_finite(backend, x):
    assert fastmlp.pack(x).finite
    assert not fastmlp.pack(np.where(x > 0, np.float32(np.inf), 0)).finite
    assert not fastmlp.pack(x.astype(float) * 1e300, scale=1e300).finite


@pytest.mark.parametrize("bad", [-1e-9, -3.0, np.nan, np.inf, -np.inf])
def test_soft_targets_that_are_negative_or_not_finite_are_refused(backend, dtype, bad):
    x, y = samples(3, 5, 1.0)
    model = fastmlp.MLP((3, 2), dtype=dtype.name)
    targets = fastmlp.one_hot(y, 2)
    targets[1, 4] = bad
    for name, call in (
        ("Y", lambda: model.fit(x, targets, epochs=2)),
        ("validation Y", lambda: model.fit(x, y, epochs=2, validation=(x, targets))),
        ("Y", lambda: model.evaluate(x, targets)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: got .* at row 1, column 4, expected finite targets >= 0;"):
            call()


def test_the_functions_of_the_notebook_and_loss_and_grad_go_on(backend):
    x = np.array([[np.nan, 1.0], [2.0, np.inf]])
    model = fastmlp.MLP((2, 3, 2))
    for form in (x, fastmlp.pack(x)):
        loss, grad = model.loss_and_grad(form, [0, 1])
        assert np.isnan(loss)
        assert np.isnan(grad).any()
        outputs = fastmlp.Forwardprop(form, *model.weights, *model.biases)
        assert np.isnan(outputs[2]).any()
    loss, _ = model.loss_and_grad(np.ones((2, 2)), [[-3.0, np.nan], [1.0, 1.0]])
    assert np.isnan(loss)
