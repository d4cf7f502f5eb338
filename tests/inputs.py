"""Inputs that are likely to fail: all forms of an array, and the strategies that draw them.

hypothesis draws shapes, forms, dtypes, spikes and a seed; the numbers themselves come from a generator
with that seed, because drawing thousands of floats would take longer than the tests.
"""

import hashlib
import importlib
import itertools
import tempfile

import naive
import numpy as np
from conftest import HAS_NUMBA
from hypothesis import strategies as st

import fastmlp

FLOATS = ("f2", "f4", "f8")
REAL = (*FLOATS, "i1", "u1", "i4", "i8", "u8", "?")


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def memory_mapped(x):
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, x.dtype, "w+", shape=x.shape)
    mapped[...] = x
    return mapped


def read_only(x):
    return np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)


def of_one_column(x):
    """Return a view with stride 0, which repeats the first column."""
    return np.broadcast_to(x[..., :1].copy(), x.shape)


class Subclass(np.ndarray):
    pass


# Each takes an array and returns it in another form; "stride 0" changes the values.
LAYOUTS = {
    "plain": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "sliced": lambda x: np.pad(x, [(1, 2)] * x.ndim)[(slice(1, -2),) * x.ndim],
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "reversed rows": lambda x: x[::-1].copy()[::-1],
    "stride 0": of_one_column,
    "read-only": read_only,
    "read-only fortran": lambda x: read_only(x.T.copy()).T if x.ndim == 2 else read_only(x),
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": unaligned,
    "unaligned fortran": lambda x: unaligned(x.T).T,
    "memory-mapped": memory_mapped,
    "list": lambda x: x.tolist(),
    "subclass": lambda x: x.view(Subclass),
}


def digest(value):
    """Return a digest of an array and the memory that it is a view of, or of a list."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    root = value
    while isinstance(root.base, np.ndarray):
        root = root.base
    return hashlib.sha256(np.ascontiguousarray(value).tobytes() + root.tobytes()).hexdigest()


def samples():
    """Return the numbers of samples at which the kernels change their behaviour."""
    edges = {2, 4, 6, 60, 64, 120, 128, 240, 512, 1920, 2000, 4096, 7680}
    if HAS_NUMBA:
        kernels = importlib.import_module("fastmlp.kernels.compiled")
        edges |= {
            kernels.tuning.SAMPLE_TILE,
            kernels.tuning.FEW_SAMPLES,
            kernels.tuning.FEW_DENSE_SAMPLES,
            kernels.tuning.LEAF_STEP,
            kernels.tuning.FULL_LEAF,
        }
        edges |= {
            kernels.tuning.MOST_LEAVES * kernels.tuning.LEAF_STEP,
            kernels.tuning.MOST_LEAVES * kernels.tuning.SAMPLE_TILE,
        }
        edges |= {kernels.vector.GROUP, kernels.vector.DENSE_GROUP, kernels.vector.PADDING}
        edges |= {kernels.tuning.COLUMN_BLOCK, kernels.tuning.COST_BLOCK, kernels.tuning.LOSS_BLOCK}
    return sorted({edge + step for edge, step in itertools.product(edges, (-1, 0, 1))})


counts = st.one_of(st.sampled_from([m for m in samples() if m < 600]), st.sampled_from(samples()))
widths = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 33])
layouts = st.sampled_from(sorted(LAYOUTS))
seeds = st.integers(0, 2**32 - 1)
densities = st.sampled_from([0.0, 0.1, 0.5, 1.0])

ORDINARY = (0.0, -0.0, 1.0, -1.0, 5e-324, -1e-310, 1e-45, 1e-40, 1e-30)
NOT_FINITE = (np.nan, np.inf, -np.inf)
HUGE = (1e308, -1e308, 3e38, -1e39, 1e200)
ANY = (*ORDINARY, *NOT_FINITE, *HUGE)


def spikes(*values):
    """Draw up to three triples (index of an array, relative position from 0 to below 1, value)."""
    one = st.tuples(st.integers(0, 9), st.floats(0, 1, exclude_max=True), st.sampled_from(values))
    return st.lists(one, max_size=3)


def plant(arrays, chosen):
    """Set the drawn entries of floating-point arrays in place; a value out of the dtype's range becomes infinite."""
    for which, where, value in chosen:
        x = arrays[which % len(arrays)]
        if x.dtype.kind == "f":
            with np.errstate(over="ignore"):
                x.flat[int(where * x.size)] = value


@st.composite
def dresses(draw, number, dtypes=FLOATS):
    """Draw a dtype and a layout for each of ``number`` arrays; often the same dtype for all."""
    common = draw(st.sampled_from(dtypes))
    mixed = draw(st.booleans())
    return [(draw(st.sampled_from(dtypes)) if mixed else common, draw(layouts)) for _ in range(number)]


def dress(x, kind, layout):
    """Return float64 ``x`` in a dtype and layout; for integers it is truncated and clipped below 100."""
    if np.dtype(kind).kind != "f":
        x = np.abs(np.clip(np.nan_to_num(x), -99, 99))
    with np.errstate(all="ignore"):
        return LAYOUTS[layout](x.astype(kind))


def result_dtype(*values):
    """Return float32 if NumPy's result type is float32, else float64."""
    return np.dtype("f4" if np.result_type(*(np.asarray(v) for v in values)) == np.float32 else "f8")


def seen(value, dtype):
    """Return the values that a function computes with: a plain copy in ``dtype``."""
    with np.errstate(all="ignore"):
        return np.array(np.asarray(value), dtype, order="C", subok=False)


def normal(seed, *shape, density=1.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) * (rng.random(shape) < density)


class Net:
    """A drawn model with drawn samples, targets and weights, each in a drawn form; plain copies for the oracle."""

    def __init__(self, data, *special):
        hidden = data.draw(st.lists(widths, max_size=3))
        self.sizes = data.draw(widths), *hidden, data.draw(widths)
        self.m, self.seed = data.draw(counts), data.draw(seeds)
        self.model = fastmlp.MLP(self.sizes, dtype=data.draw(st.sampled_from(["float32", "float64"])), seed=3)
        self.dtype = self.model.dtype
        count, classes = self.model.parameters.size, self.sizes[-1]
        parameters = normal(self.seed, count) / np.sqrt(max(self.sizes))
        x = normal(self.seed + 1, self.sizes[0], self.m, density=data.draw(densities))
        self.spikes = data.draw(spikes(*special))
        plant([parameters, x], self.spikes)
        with np.errstate(over="ignore"):
            self.model.parameters = parameters.astype(self.dtype)
        rng = np.random.default_rng(self.seed)
        labels = rng.integers(classes, size=self.m)
        kinds = data.draw(st.sampled_from(["labels", "one-hot", "soft"]))
        target = {"labels": labels, "one-hot": naive.one_hot(labels, classes), "soft": rng.random((classes, self.m))}
        weight = rng.integers(1, 4, size=self.m) * data.draw(st.sampled_from([1, 0.25, 1e-3, 1e3]))
        dressed = data.draw(dresses(3, REAL))
        self.x = dress(x, *dressed[0])
        y_kind = dressed[1][0] if kinds != "soft" else "f8"
        self.y = dress(target[kinds].astype(float), y_kind, dressed[1][1])
        self.weight = dress(weight, "f4", dressed[2][1]) if data.draw(st.booleans()) else None
        self.plain_x = seen(self.x, self.dtype)
        y = np.asarray(self.y)
        self.plain_y = naive.one_hot(y.astype(int), classes) if y.ndim == 1 else seen(y, self.dtype)
        self.plain_weight = None if self.weight is None else seen(self.weight, self.dtype)
        self.given_x = fastmlp.pack(self.x, dtype=self.model.dtype.name) if data.draw(st.booleans()) else self.x

    def arguments(self):
        return self.x, self.y, *(() if self.weight is None else (self.weight,)), self.model.parameters


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.text(max_size=2),
    st.complex_numbers(),
    st.lists(st.one_of(st.floats(), st.lists(st.integers(-2, 3), max_size=2)), max_size=3),
    st.builds(
        lambda shape, kind, layout: dress(np.ones(shape), kind, layout),
        st.tuples(st.integers(0, 3), st.integers(0, 3)),
        st.sampled_from(REAL),
        layouts,
    ),
    st.sampled_from([
        *(np.zeros((1, 1), "M8[s]"), np.array([[b"1"]]), np.array([["1"]]), np.array([[None]], object)),
        *(np.zeros((1, 1), [("a", "f8")]), np.ma.masked_all((1, 1)), np.float64(1), np.zeros((1, 1, 1))),
        *({}, set(), object(), b"12", range(2), memoryview(b"12")),
    ]),
)  # fmt: skip
