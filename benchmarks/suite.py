"""The base of the asv suites: sizes, data in files, one preparation per process, a correctness check before timing."""

import os

import numpy as np

import fastmlp
from benchmarks import problems
from benchmarks.timing import settle
from fastmlp import formulas

# Imported here so that asv's fork server, if it runs one, loads Numba only once.
try:
    import numba  # noqa: F401
except ImportError:
    HAS_NUMBA = False
else:
    HAS_NUMBA = True

DTYPES = ["float64", "float32"]
SIZES = (784, 128, 10)
ELEMENTS_PER_SAMPLE = 3 * 784  # X, the formulas' intermediate results, and at most as much for a packed copy


def sample_counts(*full, small=1000):
    """Return the sample counts to measure: ``full``, or [``small``] if FASTMLP_BENCH_SIZES is small."""
    chosen = os.environ.get("FASTMLP_BENCH_SIZES", "full")
    if chosen not in ("full", "small"):
        raise ValueError(f"FASTMLP_BENCH_SIZES: got {chosen!r}, expected 'full' or 'small'; correct it, or unset it")
    return list(full) if chosen == "full" else [small]


LARGEST = max(sample_counts(60_000))
ROUNDS = 7 if LARGEST == 60_000 else 1  # of the time ratios
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Suite:
    """A benchmark class. asv calls `setup` before every timed call; `prepare` runs once per process."""

    _prepared = None

    def setup_cache(self):
        """Write the data to asv's working folder, because it is too large to be pickled for each benchmark."""
        codes, labels, _ = problems.image_codes(LARGEST)
        np.save("codes.npy", codes)
        np.save("labels.npy", labels)

    setup_cache.timeout = 300

    def setup(self, *cell):
        if self._prepared != cell:
            self.prepare(*cell)
            self._prepared = cell
        settle()

    def prepare(self, *cell):
        """Make the inputs, compile, and check against the plain formulas; NotImplementedError skips the cell."""
        raise NotImplementedError(f"{type(self).__name__} measures nothing")


def codes_and_labels(m):
    """Return the first m images (784, m) uint8, and their labels."""
    return np.load("codes.npy", mmap_mode="r")[:, :m], np.load("labels.npy")[:m]


def arrays(m, dtype):
    """Return X (784, m) and one-hot Y (10, m), Fortran-ordered as in the notebook."""
    need_memory(m, dtype)
    codes, labels = codes_and_labels(m)
    x = np.divide(codes, 255, dtype=dtype)
    return x, formulas.one_hot(labels).astype(dtype, copy=False)


def need_memory(m, dtype):
    """Skip a size that does not fit into memory; asv prints the reason and measures the smaller sizes."""
    free, needed = problems.available_bytes(), m * ELEMENTS_PER_SAMPLE * np.dtype(dtype).itemsize
    if free is not None and needed > free:
        sentence = f"{m} samples of {dtype} need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        raise NotImplementedError(f"{sentence}: only the smaller sizes are measured")


def functions(implementation):
    """Return the module of the notebook's functions: the plain formulas, or fastmlp on a backend."""
    if implementation == "plain":
        return formulas
    choose_backend(implementation)
    return fastmlp


def choose_backend(name):
    """Choose a backend for this process, which measures nothing else."""
    if name == "numba" and not HAS_NUMBA:
        raise NotImplementedError("Numba cannot be imported")
    fastmlp.set_backend(name)
