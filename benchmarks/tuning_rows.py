"""The rows of `benchmarks.tuning`: which candidates a constant has, and the workloads that show its effect.

Each workload returns a function that is timed, and whose result shows whether a candidate changes bits. Images are
MNIST if FASTMLP_DATA is set, else synthetic.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

import fastmlp
from benchmarks import problems
from fastmlp import formulas
from fastmlp.optimizers import SGD, Adam

NET = (784, 128, 10)


def step(dtype="float64", m=60_000, sizes=NET):
    """Return a step on packed images."""
    codes, labels, _ = problems.image_codes(m)
    return problems.packed_step(fastmlp.MLP(sizes, dtype=dtype, seed=0), fastmlp.pack(codes, scale=1 / 255), labels)


def dense(dtype="float64", m=12_000, sizes=NET, nonzero=1.0):
    """Return a step on packed random numbers, of which the share ``nonzero`` is not zero."""
    x, labels = problems.normal(sizes[0], m, dtype, sizes[-1])
    if nonzero < 1:
        x = x * (np.random.default_rng(1).random(x.shape) < nonzero)
    return problems.packed_step(fastmlp.MLP(sizes, dtype=dtype, seed=0), fastmlp.pack(x), labels)


def plain(m=8000, order="F"):
    """Return a turn of the notebook's loop on a plain matrix of images."""
    codes, labels, _ = problems.image_codes(m)
    return problems.notebook_loop(fastmlp, np.asarray(codes / 255.0, order=order), formulas.one_hot(labels))


def batches(size, dtype="float32", m=12_000, nonzero=None, fixed=0):
    """Return an epoch of Adam on images, or on random numbers of which a share is not zero; or ``fixed`` epochs.

    The fixed ones have the same batches.
    """
    if nonzero is None:
        codes, labels, _ = problems.image_codes(m)
        x = fastmlp.pack(codes, scale=1 / 255, minibatches=True)
    else:
        plain, labels = problems.normal(NET[0], m, dtype, NET[-1])
        x = fastmlp.pack(plain * (np.random.default_rng(1).random(plain.shape) < nonzero), minibatches=True)

    def epoch():
        model = fastmlp.MLP(NET, dtype=dtype, seed=0)
        settings = {"epochs": fixed or 1, "shuffle": "batches" if fixed else "samples", "batch_size": size}
        model.fit(x, labels, optimizer=fastmlp.optimizers.Adam(), progress=False, **settings)
        return model.parameters

    return epoch


def sparse(features, each, optimizer, m=2000):
    """Return an epoch on minibatches of 200 samples of very many features, of which so many are not zero."""
    import scipy.sparse

    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(features, size=(m, each)), axis=1)
    entries = (np.ones(m * each, np.float32), rows.ravel(), np.arange(m + 1) * each)
    x = fastmlp.pack(scipy.sparse.csc_array(entries, shape=(features, m)), minibatches=True)
    labels = rng.integers(2, size=m)

    def epoch():
        model = fastmlp.MLP((features, 100, 2), dtype="float32", seed=0)
        model.fit(x, labels, epochs=1, optimizer=optimizer, batch_size=200, progress=False)
        return model.parameters

    return epoch


def pack(m=60_000):
    """Return the packing of images."""
    codes, _, _ = problems.image_codes(m)
    return lambda: fastmlp.pack(codes, scale=1 / 255) and None


def pack_columns(m=24_000):
    """Return the packing of images in float64 that are stored feature by feature."""
    codes, _, _ = problems.image_codes(m)
    x = np.ascontiguousarray(codes / 255.0)
    return lambda: fastmlp.pack(x) and None


def one_hot():
    from fastmlp.kernels import compiled

    labels, out = np.random.default_rng(0).integers(10, size=60_000), np.empty((10, 60_000))
    return lambda: compiled.one_hot(out, labels) or out


def softmax():
    from fastmlp.kernels import compiled

    z = np.random.default_rng(0).standard_normal((10, 60_000))
    out = np.empty_like(z)
    return lambda: compiled.softmax_columns(out, z) or out


def cost():
    z, labels = problems.normal(10, 60_000)
    a, y = formulas.Softmax(np.ascontiguousarray(z)), formulas.one_hot(labels)
    return lambda: fastmlp.compute_cost(a, y)


def relu(m, *, after_product=False):
    """Return ReLU of (128, m), alone or right after a product of NumPy, whose threads are still awake."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((128, 64)), rng.standard_normal((64, m))
    z = w @ x
    return (lambda: fastmlp.ReLU(w @ x)) if after_product else (lambda: fastmlp.ReLU(z))


class Row(NamedTuple):
    """A constant: its module, candidates beside the current value, and the names of what is timed.

    If ``host``, no kernel contains the constant, and all candidates share a compile cache. Workloads run on one thread
    unless ``parallel``: the other cores of a machine are often busy.
    """

    module: str
    candidates: tuple[Any, ...]
    workloads: str
    host: bool = False
    parallel: bool = False


WORKLOADS = {
    "images": ("step on images, float64", step),
    "images32": ("step on images, float32", partial(step, "float32")),
    "images-40": ("784-40-10, images", partial(step, sizes=(784, 40, 10))),
    "one1024": ("784-1024-10, one image", partial(step, m=1, sizes=(784, 1024, 10))),
    "wide": ("784-256-256-10, images", partial(step, m=12_000, sizes=(784, 256, 256, 10))),
    "deep": ("784-128-128-10, images", partial(step, m=12_000, sizes=(784, 128, 128, 10))),
    "dense": ("dense step", dense),
    "panels": ("784-128, dense", partial(dense, sizes=(784, 128))),
    "narrow16": ("784-16-10, dense, float32", partial(dense, "float32", sizes=(784, 16, 10))),
    "narrow32": ("784-32-10, dense, float32", partial(dense, "float32", sizes=(784, 32, 10))),
    "images4000": ("step on 4000 images", partial(step, m=4000)),
    "pack4000": ("pack 4000 images", partial(pack, 4000)),
    "dense1500": ("1500 dense samples", partial(dense, m=1500)),
    "dense4000": ("4000 dense samples", partial(dense, m=4000)),
    "dense-2048": ("784-2048-10, dense", partial(dense, m=3000, sizes=(784, 2048, 10))),
    "zeros38": ("38 % of random numbers", partial(dense, m=6000, nonzero=0.38)),
    "zeros53": ("53 % of random numbers", partial(dense, m=6000, nonzero=0.53)),
    "small": ("step of 8-8-10", partial(dense, m=60_000, sizes=(8, 8, 10))),
    "loop": ("notebook's loop, 8000 images", plain),
    "loopC": ("notebook's loop, C-ordered", partial(plain, 24_000, "C")),
    "product": ("product, ReLU (128, 1800)", partial(relu, 1800, after_product=True)),
    **{f"relu{m}": (f"ReLU (128, {m})", partial(relu, m)) for m in (1800, 8001)},
    **{f"few{m}": (f"step on {m} images", partial(step, m=m)) for m in (5, 20, 40, 100, 120, 200, 500, 10_000)},
    **{f"narrow{h}": (f"784-{h}-10, 1000 dense", partial(dense, m=1000, sizes=(784, h, 10))) for h in (1, 4, 8)},
    **{f"batches{size}": (f"epoch, batches of {size}", partial(batches, size)) for size in (4, 32, 128, 1024)},
    **{
        f"fixed{size}": (f"5 epochs, fixed batches of {size}", partial(batches, size, fixed=5))
        for size in (32, 128, 1024)
    },
    "batches64": ("epoch, batches of 128, float64", partial(batches, 128, "float64")),
    "zeros40": ("batches, 40 % of random numbers", partial(batches, 128, nonzero=0.4)),
    "zeros60": ("batches, 60 % of random numbers", partial(batches, 128, nonzero=0.6)),
    "sgd40": ("50000 features, 100 in a sample, SGD", partial(sparse, 50_000, 100, SGD(0.001))),
    "sgd10": ("200000 features, 100 in a sample, SGD", partial(sparse, 200_000, 100, SGD(0.001))),
    "momentum40": ("50000 features, 100 in a sample, momentum", partial(sparse, 50_000, 100, SGD(0.001, 0.9))),
    "momentum10": ("200000 features, 100 in a sample, momentum", partial(sparse, 200_000, 100, SGD(0.001, 0.9))),
    "adam10": ("200000 features, 100 in a sample, Adam", partial(sparse, 200_000, 100, Adam())),
    "adam1": ("300000 features, 20 in a sample, Adam", partial(sparse, 300_000, 20, Adam(), 4000)),
    "densebatches": ("batches of random numbers", partial(batches, 128, nonzero=1.0)),
    **{one.__name__: (one.__name__, one) for one in (pack, one_hot, softmax, cost)},
    "packC": ("pack images, float64, C-ordered", pack_columns),
}
TUNING, TARGET = "fastmlp.kernels.compiled.tuning", "fastmlp.kernels.vector.target"
ROWS = {
    # These change the order of sums.
    "SAMPLE_TILE": Row(TUNING, (120, 180, 240, 480), "images images32"),
    "LEAF_STEP": Row(TUNING, (60, 120, 240), "few200 few500", host=True, parallel=True),
    "MOST_LEAVES": Row(TUNING, (8, 16, 32, 64), "few10000", host=True, parallel=True),
    "FULL_LEAF": Row(TUNING, (480, 960, 1920), "images images32", host=True),
    "FEW_SAMPLES": Row(TUNING, (30, 60, 120, 240), "few40 few100 few200", host=True),
    "FEW_DENSE_SAMPLES": Row(TUNING, (120, 2000, 8000), "dense1500 dense4000", host=True),
    "COST_BLOCK": Row(TUNING, (128, 256, 512, 1024), "cost"),
    "DENSE_FEATURE_BLOCK": Row(TUNING, (392, 1024), "dense"),
    "WIDE_VECTORS": Row(TUNING, (8, 16, 32, 64), "panels deep wide"),
    "DENSE_SHARE": Row(TUNING, (0.8, 0.9, 1.0), "zeros38 zeros53", host=True),
    "ORDER_WINDOW": Row(TUNING, (1, 128, 512, 1920), "images pack"),
    "DOT_BYTES": Row(TUNING, (1600, 3200, 6400), "few100"),
    "TILE_FACTORS": Row(TUNING, (30, 60, 120), "dense1500"),
    "SKIPPING_OUTPUTS": Row(TUNING, (4, 8, 16), "narrow4 narrow8"),
    "SAMPLE_BLOCK": Row(TUNING, (64, 125, 250, 500), "narrow1", host=True, parallel=True),
    "BATCH_FEATURES": Row(TUNING, (56, 84, 131, 262), "batches32 batches128 batches1024 batches64", host=True),
    "BATCH_RANGES": Row(TUNING, (1, 2, 4, 8), "batches32 batches128 batches1024", host=True, parallel=True),
    "BATCH_WEIGHT_BYTES": Row(TUNING, (32_768, 65_536, 98_304, 460_000), "batches128 batches64", host=True),
    "BATCH_DENSE_SHARE": Row(TUNING, (0, 0.5, 1), "zeros40 zeros60 densebatches", host=True),
    "CHUNK_SAMPLES": Row(TUNING, (32, 64, 128, 256), "fixed128 fixed1024 batches1024", host=True),
    "DRAWN_BYTES": Row(TUNING, (0, 64 << 20), "fixed32 fixed128 fixed1024", host=True),
    "GRADIENTS_PER_OUTPUT": Row(TUNING, (0, 1, 2, 8), "narrow1 narrow4 narrow8", host=True, parallel=True),
    "ROWS_SHARE": Row(TUNING, (0.0, 0.875), "images", host=True),
    "ROWS_VECTORS": Row(TUNING, (4, 8, 32), "images-40 images", host=True),
    "GROUP": Row(TARGET, (3, 4, 6), "images images32"),
    "PANEL": Row(TARGET, (2, 3, 4), "images images32"),
    "VECTOR_BYTES": Row(TARGET, (32, 64), "images images32"),
    "CACHE_BYTES": Row(TARGET, (25_600, 51_200, 262_144, 1_048_576), "images images32"),
    "DENSE_SAMPLES": Row(TARGET, (80, 120, 240), "panels"),
    "DOT_ROWS": Row(TARGET, (2, 3, 4), "few100"),
    "DOT_COLUMNS": Row(TARGET, (2, 4), "few100"),
    "STRIPS": Row(TARGET, ((4, 2, 1), (8, 4, 2, 1), (12, 4, 2, 1)), "dense"),
    "WIDEST_STRIP": Row(TARGET, (4, 8, 12), "batches128 batches64"),
    "SPARSE_BYTES": Row(TARGET, (12_000, 24_000, 48_000), "dense"),
    "CHAINS": Row(TARGET, (4, 8, 16), "few100"),
    "FEW_ROWS": Row(TARGET, (1, 10), "softmax"),
    "PIECE_PARAMETERS": Row(TUNING, (2048, 8192, 32_768), "densebatches", host=True),
    # These change no bit.
    "NARROW_GROUPS": Row(TARGET, ((6, 6, 6), (6, 12, 6)), "narrow16 narrow32"),
    "FEATURE_WINDOW": Row(TUNING, (1, 32, 64, 128), "images pack", host=True),
    "FEATURE_SAMPLES": Row(TUNING, (128, 512, 2048), "images pack", host=True),
    "GROUPED_SAMPLES": Row(TUNING, (1024, 8192, 100_000), "images4000 pack4000", host=True),
    "PARALLEL_SIZE": Row(TUNING, (1 << 15, 1 << 18, 1 << 21), "product relu1800 relu8001", host=True, parallel=True),
    "PARALLEL_WORK": Row(TUNING, (1 << 18, 1 << 20, 1 << 22), "few5 few20", host=True, parallel=True),
    "READING_WORK": Row(TUNING, (1, 8), "narrow1", host=True, parallel=True),
    "READING_SAMPLES": Row(TUNING, (1, 2), "one1024", host=True, parallel=True),
    "NODES_PER_WORKER": Row(TUNING, (1, 4, 8, 64), "images few10000", host=True, parallel=True),
    "ALIGNMENT": Row(TUNING, (1, 64, 1024), "relu8001", parallel=True),
    "COLUMN_BLOCK": Row(TUNING, (32, 64, 128, 256, 1024), "one_hot"),
    "LOSS_BLOCK": Row(TUNING, (16, 64, 240), "small"),
    "FEATURES_AHEAD": Row(TUNING, (4, 8, 16), "loopC"),
    "COPIED_COLUMN_BYTES": Row(TUNING, (576, 1152), "loopC"),
    "COPIED_BYTES": Row(TUNING, (0, 1 << 20), "loopC", host=True),
    "COPIED_ROWS": Row(TUNING, (12, 36, 120), "loop"),
    "LISTED_BYTES": Row(TUNING, (50_000, 200_000, 800_000), "wide", host=True),
    "DENSE_FEATURES": Row(TUNING, (60, 120, 240), "panels"),
    "LISTED_OUTPUTS": Row(TUNING, (256, 1024, 4096), "dense-2048"),
    "COPIED_FACTOR_ROWS": Row(TUNING, (12, 24, 48), "few20 few40"),
    "KEPT_BYTES": Row(TUNING, (0, 1 << 22), "few200", host=True),
    "WAITING_SHARE": Row(TUNING, (0, 0.05, 0.5), "sgd40 sgd10", host=True),
    "BUSY_WAITING_SHARE": Row(TUNING, (0, 0.02, 0.5), "momentum40 momentum10 adam10 adam1", host=True),
    "ROWS_AHEAD": Row(TUNING, (1, 2, 4, 8), "sgd10"),
    "SAMPLES_AHEAD": Row(TUNING, (1, 2, 8, 1000), "densebatches"),  # 1000: none
    "PIECE_SAMPLES": Row(TUNING, (16, 32, 64, 128), "batches128 batches1024", host=True),
    "SPINS": Row(TUNING, (0, 100, 1000, 100_000), "batches32 batches128", parallel=True),
    "TEAM_WORK": Row(TUNING, (0, 1 << 20, 1 << 40), "batches4 batches32 batches128", host=True, parallel=True),
    "UPDATE_WORK": Row(TUNING, (1, 8), "batches4", host=True, parallel=True),
    "RUNS_PER_TRIAL": Row(TUNING, (8, 32, 128), "batches128", host=True, parallel=True),
    "TRIAL_SHARE": Row(TUNING, (0.0, 0.02, 0.2), "batches128", host=True, parallel=True),
    "REPEATED_RUNS": Row(TUNING, (1, 8, 32), "batches128", host=True),
    "ROW_BATCH": Row(TUNING, (1920, 8192, 60_000), "packC", host=True),
    "STRIDED_OUTPUTS": Row(TUNING, (64, 1000), "few120", host=True),
    "DENSE_GROUP": Row(TARGET, (4, 6), "dense"),
    "BLOCK": Row(TARGET, (4, 8, 16, 32, 80), "images images32"),
    "FACTOR_BYTES": Row(TARGET, (65_536, 262_144, 1_048_576), "dense1500"),
}  # fmt: skip
