"""The comparison that all tests use, and the table of all tolerances."""

import numpy as np

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)

# Relative to the largest entry of the expected array.
TOLERANCE = {
    ("product", F8): 1e-12,
    ("product", F4): 5e-6,  # the contract says 2e-5
    ("tile", F8): 1e-12,  # relative to a single entry, which may cancel
    ("tile", F4): 2e-5,
    ("sum", F8): 1e-12,
    ("sum", F4): 1e-7,  # summed in float64 and rounded once
    ("function", F8): 1e-15,
    ("function", F4): 5e-7,
    ("trajectory", F8): 1e-10,
    ("trajectory", F4): 1e-4,  # of a few epochs
    ("minimization", F8): 1e-9,  # of 20 iterations of L-BFGS, whose line searches amplify rounding
    ("central difference", F8): 1e-6,
    ("other framework", F8): 1e-6,
    ("other framework", F4): 1e-6,
}


def relative_difference(actual, expected):
    """Return max|actual - expected| / max|expected|."""
    largest = np.max(np.abs(expected))
    return float(np.max(np.abs(np.asarray(actual, np.longdouble) - expected)) / (largest if largest else 1))


def assert_close(actual, expected, kind, dtype=None):
    """Compare the shape, the dtype, and the values within the tolerance of ``kind``."""
    dtype = np.dtype(dtype or np.asarray(actual).dtype)
    assert np.shape(actual) == np.shape(expected)
    assert np.asarray(actual).dtype == dtype
    assert np.isfinite(actual).all()
    assert relative_difference(actual, expected) <= TOLERANCE[kind, dtype]


def assert_close_where_finite(actual, expected, kind, dtype=None):
    """Require NaN and infinity in the same places, and other entries within the tolerance of ``kind``."""
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    assert_close(np.where(finite, actual, 0), np.where(finite, expected, 0), kind, dtype)


def assert_same_bits(actual, expected):
    """Compare the shape, the dtype and all bits, including those of NaN."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert actual.tobytes() == expected.tobytes()


def columns(history):
    """Return everything but wall-clock times."""
    return {name: column for name, column in history.to_dict().items() if name != "seconds"}


def assert_same_end(one, other):
    """Require that two runs, each a model and its history, ended with the same models and histories."""
    assert_same_bits(one[0].parameters, other[0].parameters)
    assert columns(one[1]) == columns(other[1])
    assert one[1].stopped == other[1].stopped


def assert_softmax(actual, z, expected):
    """Require each normal result within (8 + max|x - max x|) eps, relative to the expected entry."""
    info = np.finfo(actual.dtype)
    spread = np.max(np.max(z, axis=0) - z, axis=0).astype(np.longdouble)
    normal = expected > 4 * info.tiny
    error = np.abs(actual - expected)
    assert actual.shape == expected.shape
    assert (error <= np.where(normal, (8 + spread) * info.eps * expected, 8 * info.tiny)).all()


# Forms of an input, and the share of numbers that are not zero; of "mixed" the first half is dense.
FORMS = {"uint8": 0.3, "sparse": 0.1, "dense": 1.0, "mixed": None}


def matrix_of(rng, form, n, m, dtype):
    """Return a matrix (n, m) of a form: uint8, or of this dtype from 0 to 1."""
    x = rng.integers(1, 256, size=(n, m)).astype(np.uint8)
    if FORMS[form] is None:
        x[:, m // 2 :] *= rng.random((n, m - m // 2)) < 0.1
    else:
        x *= rng.random((n, m)) < FORMS[form]
    return x if form == "uint8" else (x / 255).astype(dtype)
