"""One digest: for any run, thread count, threading layer and layout; the notebook's functions, and the engine."""

import ast
import os
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from test_processes import LAYERS, problem_of

import fastmlp

pytestmark = [
    pytest.mark.numba,
    pytest.mark.skipif(bool(os.environ.get("NUMBA_BOUNDSCHECK")), reason="parallel shells swallow an IndexError"),
]

EIGHT = {"NUMBA_NUM_THREADS": "8"}  # launched on however few cores there are

PROBLEM = """
import collections, hashlib, itertools, tempfile
import numpy as np, fastmlp
m, hidden, density = {problem!r}
rng = np.random.default_rng(3)
codes = (rng.integers(1, 256, size=(90, m)) * (rng.random((90, m)) < density)).astype(np.uint8)
plain = codes / 255.0
labels = rng.integers(7, size=m)
parameters = [rng.standard_normal(shape) for shape in ((hidden, 90), (hidden, 1), (7, hidden), (7, 1))]
# Without zeros, tiles of floats are dense, but uint8 always goes through lists.
coded = "uint8" if density == 1 else "packed"
digests = collections.defaultdict(collections.Counter)

def fortran(x):
    return np.asfortranarray(x)

def sliced(x):
    wide = np.full((2 * x.shape[0], 3 * x.shape[1]), 77, x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]

def backwards(x):
    return x[::-1, ::-1].copy()[::-1, ::-1]

def unaligned(x):
    return np.frombuffer(b"-" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)

def mapped(x):
    file = np.memmap(tempfile.TemporaryFile(), x.dtype, shape=x.shape)
    file[...] = x
    return file

def big_endian(x):
    return x.astype(x.dtype.newbyteorder(">"))

layouts = np.copy, fortran, sliced, backwards, unaligned, mapped, big_endian

def images(layout=np.copy):
    return fastmlp.pack(layout(codes), scale=1 / 255)

def count(group, *arrays):
    digests[group][hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest()] += 1

def engine(group, x, dtype="float64"):
    model = fastmlp.MLP((90, hidden, 7), dtype=dtype, seed=0)
    history = model.fit(x, labels, epochs=5, alpha=0.2)
    count(group, model.parameters, history.loss, history.accuracy, model.predict_proba(x))

def functions(group, x, lay=np.copy):
    y = fastmlp.one_hot(labels, 7)
    W1, b1, W2, b2 = map(lay, parameters)
    A1, Z1, A2, Z2 = fastmlp.Forwardprop(x, W1, W2, b1, b2)
    others = fastmlp.compute_cost(lay(A2), lay(y)), fastmlp.ReLU(lay(Z1)), fastmlp.Softmax(lay(Z2))
    grads = fastmlp.backward_prop(lay(Z1), lay(A1), lay(Z2), lay(A2), W1, W2, x, lay(y))
    count(group, A1, Z1, A2, Z2, *others, *grads, *fastmlp.update_params(W1, b1, W2, b2, *map(lay, grads), 0.3))
"""

ENGINE = """
images_once = images()
for threads in range(1, 9):
    with fastmlp.use_threads(threads):
        engine(coded, images())
        engine("float32", images_once, "float32")
for run in range(20):
    engine(coded, images_once)
for layout in layouts:
    engine(coded, images(layout))
    engine("packed", fastmlp.pack(layout(plain)))
    engine("packed", layout(plain))  # fit packs it
"""

FUNCTIONS = """
packed = fastmlp.pack(plain)
for threads in range(1, 9):
    with fastmlp.use_threads(threads):
        functions("plain", plain)
        functions("packed", packed)
for run in range(20):
    functions("plain", plain)
for layout in layouts:
    functions("plain", layout(plain), layout)
    functions("packed", fastmlp.pack(layout(plain)))
    functions(coded, images(layout))
"""

FEW = """
from fastmlp.kernels import compiled
compiled.tuning.PARALLEL_WORK = 0  # all of the threads, however little there is to share
for m, sizes, dtype in itertools.product(range(1, 49), [(90, 17, 7), (9, 41, 19, 10)], ["float64", "float32"]):
    x, labels = rng.standard_normal((sizes[0], m)), rng.integers(sizes[-1], size=m)
    model = fastmlp.MLP(sizes, dtype=dtype, seed=0)
    for threads in (1, 2, 3, 8):
        with fastmlp.use_threads(threads):
            count((m, sizes, dtype), *model.loss_and_grad(x, labels), model.predict_proba(x))
"""

LAYER = """
for threads in (1, 3, 8):
    with fastmlp.use_threads(threads):
        engine("engine", images())
        functions("functions", plain)
"""

PROBLEMS = pytest.mark.parametrize(
    "problem",
    [(5000, 33, 0.3), (100, 601, 0.3), (20, 2401, 0.3), (1500, 65, 1.0)],
    ids=["leaves", "few", "fewer than workers can share", "few and dense"],
)


def one_digest_each(run_python, problem, code, **env):
    """Run the code; return what it computed, once each group is found to have one digest."""
    report = "print({group: dict(found) for group, found in digests.items()})"
    printed = run_python(PROBLEM.format(problem=problem) + code + report, env={**EIGHT, **env}).stdout
    digests = ast.literal_eval(printed)
    assert {group: len(found) for group, found in digests.items()} == dict.fromkeys(digests, 1)
    return digests


@pytest.mark.kernels
@PROBLEMS
def test_trainings_have_one_digest(run_python, problem):
    found = one_digest_each(run_python, problem, ENGINE)
    assert sum(sum(group.values()) for group in found.values()) == 57


@PROBLEMS
def test_the_notebook_s_functions_have_one_digest(run_python, problem):
    """One for plain arrays and one for packed ones, which hold the samples in another order."""
    found = one_digest_each(run_python, problem, FUNCTIONS)
    assert sum(sum(group.values()) for group in found.values()) == 57


def test_few_samples_have_one_digest_whatever_their_number(run_python):
    """Workers take samples in tiles, and what a tile leaves over goes on its own: neither may show in a sum."""
    assert len(one_digest_each(run_python, PROBLEMS.args[1][0], FEW)) == 48 * 4


def test_each_threading_layer_gives_the_same_digest(run_python):
    present = [layer for layer in LAYERS if not problem_of(layer)]
    found = [one_digest_each(run_python, (5000, 33, 0.3), LAYER, NUMBA_THREADING_LAYER=layer) for layer in present]
    assert found == found[:1] * len(present)


class Filled:
    """NumPy whose `empty` returns arrays that are full of ``held``, of integers and of floats."""

    def __init__(self, *held):
        self._held, self.made = held, 0

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=float):
        self.made += 1
        dtype = np.dtype(dtype)
        return np.full(shape, self._held[dtype.kind == "f"] if dtype.kind in "if" else self._held[0] % 256, dtype)

    def empty_like(self, like):
        return self.empty(like.shape, like.dtype)


# Where the Numba backend makes memory; `memory` serves all that begins on a cache line.
MAKERS = ("memory", "waiting", "sums", "problem", "small_batch", "packing", "network", "rooms", "losses",
          "output_losses", "cost", "plan", "ordering", "trainer", "sample_lists", "drawn", "elementwise",
          "alphabets")  # fmt: skip
SPARSE, DENSE = 0.3, 1.0


def passes(dtype, sizes, m, density, kind, activation="relu"):
    """Return the bits of a step, of soft targets, of the notebook's functions and of logits."""
    rng = np.random.default_rng(m)
    codes = rng.integers(1, 256, size=(sizes[0], m)) * (rng.random((sizes[0], m)) < density)
    options = {"scale": 1 / 255, **({} if kind == np.uint8 else {"dtype": dtype.name})}
    x = fastmlp.pack(codes.astype(kind), **options)
    # A pickle holds the entries of the lists, of which they are made again, and tiles of them.
    lists = pickle.loads(pickle.dumps(fastmlp.pack(codes.astype(kind), minibatches=True, **options)))
    model = fastmlp.MLP(sizes, dtype=dtype.name, activation=activation)
    model.parameters = rng.standard_normal(model.parameters.shape)
    labels, soft = rng.integers(sizes[-1], size=m), rng.random((sizes[-1], m)).astype(dtype)
    results = [*model.loss_and_grad(x, labels), *model.loss_and_grad(x, soft), model.predict_proba(x)]
    results += model.evaluate(x, labels).values()
    results += model.loss_and_grad(lists, labels)
    for optimizer, y, clip in ((fastmlp.optimizers.Adam(), labels, None), (fastmlp.optimizers.SGD(0.1), soft, 0.1)):
        model.fit(x, y, epochs=1, optimizer=optimizer, batch_size=-(-m // 3), clip_norm=clip, l2=0.01)
        results.append(model.parameters.copy())
    for loss in ("logistic", "poisson"):
        other = fastmlp.MLP(sizes, dtype=dtype.name, activation=activation, loss=loss)
        results += [*other.loss_and_grad(x, soft), *other.evaluate(x, soft).values()]
        # Three epochs, in which fixed batches get lists of their own.
        for epochs, shuffle in ((1, "samples"), (3, "batches")):
            settings = {"epochs": epochs, "shuffle": shuffle, "optimizer": fastmlp.optimizers.Adam()}
            other.fit(lists, soft, batch_size=-(-m // 3), **settings)
        results.append(other.parameters)
    if len(sizes) == 3:
        (w1, w2), (b1, b2), plain = model.weights, model.biases, codes.astype(dtype) / dtype.type(255)
        for given in (plain, x):
            a1, z1, a2, z2 = forward = fastmlp.Forwardprop(given, w1, w2, b1, b2)
            results += [*forward, *fastmlp.backward_prop(z1, a1, z2, a2, w1, w2, given, soft)]
            results += [fastmlp.compute_cost(a2, soft)]
    return [np.asarray(one).tobytes() for one in results]


@pytest.mark.kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_what_memory_held_before(compiled, dtype, monkeypatch, threads):
    """Rows and units that fill up the last group of a list: their values must not change how a sum is made."""
    if threads > compiled.max_threads():
        pytest.skip("one thread only")
    wide = 16 * compiled.vector.VECTOR_BYTES // dtype.itemsize
    cases = [
        ((5, *hidden, 3), m, SPARSE, dtype)
        for hidden in ((wide, wide + 1), (wide + 2, wide + 1, wide + 3))
        for m in (121, 124, 125, 128, 241)
    ]
    cases += [((300, 9, 3), m, density, kind)  # few, sparse, coded, dense and few, dense
              for m, density, kind in ((7, SPARSE, dtype), (2500, SPARSE, dtype), (300, SPARSE, np.uint8),
                                       (300, DENSE, dtype), (2501, DENSE, dtype))]  # fmt: skip
    cases += [((7, 9, 4), 300, DENSE, dtype), ((300, 3), 2501, DENSE, dtype), ((300, 1, 3), 133, SPARSE, np.uint8)]
    cases += [((9, 21, 18, 3), m, SPARSE, dtype, names) for m in (30, 300) for names in ("gelu", ("logistic", "gelu"))]
    fastmlp.warmup(dtype.name)
    for case in cases:
        found = set()
        for held in ((0, 0), (1, 1), (-1, np.nan), (2**31 - 1, np.finfo(dtype).max)):
            filled = Filled(*held)
            with monkeypatch.context() as patch, fastmlp.use_backend("numba"), fastmlp.use_threads(threads):
                for name in MAKERS:
                    patch.setattr(getattr(compiled, name), "np", filled)
                patch.setattr(compiled.network.recycled, "np", filled)
                for module in (compiled.small_batch, compiled.network, compiled.problem):
                    patch.setattr(module, "_kept", threading.local())  # the memory of the last step
                patch.setattr(compiled.sample_lists, "_LARGE", 0 if case[1] % 2 else 1 << 20)  # codes, or values
                compiled.losses.no_targets.cache_clear()
                found.add(tuple(passes(dtype, *case)))
            assert filled.made > 10
        assert len(found) == 1, case


def test_all_memory_that_kernels_are_given_is_filled_by_the_test_above(compiled):
    """Memory that comes from elsewhere would be a blind spot."""
    folder = Path(compiled.__file__).parent
    makers = {path.stem for path in folder.glob("*.py") if re.search(r"\bnp\.empty", path.read_text())}
    assert makers - {"runtime", "__init__"} <= set(MAKERS)  # a trial, and arguments of `warmup`
    everything = "".join(path.read_text() for path in folder.rglob("*.py"))
    assert not re.search(r"np\.(ndarray|frombuffer)\(|from numpy import|import numpy(?! as np\b)", everything)
