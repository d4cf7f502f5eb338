"""What the asv suites share: sizes, data through files, one preparation per process, the gate before any timing."""

import os

import numpy as np

import fastmlp
from benchmarks import problems
from benchmarks.timing import settle
from fastmlp import formulas

# Loads Numba before asv's fork server forks, if it runs one; fastmlp falls back to NumPy where it is absent.
try:
    import numba  # noqa: F401
except ImportError:
    HAS_NUMBA = False
else:
    HAS_NUMBA = True

DTYPES = ["float64", "float32"]
SIZES = (784, 128, 10)
ELEMENTS_PER_SAMPLE = 3 * 784  # X, what the formulas keep of a pass, and what a packed copy takes at most


def sample_counts(*full, small=1000):
    """Return the sample counts to measure: ``full``, or one small one where FASTMLP_BENCH_SIZES is small."""
    chosen = os.environ.get("FASTMLP_BENCH_SIZES", "full")
    if chosen not in ("full", "small"):
        raise ValueError(f"FASTMLP_BENCH_SIZES: got {chosen!r}, expected 'full' or 'small'; set it to one, or unset it")
    return list(full) if chosen == "full" else [small]


LARGEST = max(sample_counts(60_000))
ROUNDS = 7 if LARGEST == 60_000 else 1  # of the time ratios
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Suite:
    """A benchmark class. asv calls `setup` before every timed call; the work in `prepare` is done once per process."""

    _prepared = None

    def setup_cache(self):
        """Write the data to the folder that asv runs the benchmarks in: too large to be pickled for each."""
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
        """Make the inputs, compile, and compare with the plain formulas; NotImplementedError skips the cell."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to measure")


def codes_and_labels(m):
    """Return the first m images (784, m) uint8, and their labels."""
    return np.load("codes.npy", mmap_mode="r")[:, :m], np.load("labels.npy")[:m]


def arrays(m, dtype):
    """Return X (784, m) and one-hot Y (10, m), Fortran-ordered, as the notebook has them."""
    need_memory(m, dtype)
    codes, labels = codes_and_labels(m)
    x = np.divide(codes, 255, dtype=dtype)
    return x, formulas.one_hot(labels).astype(dtype, copy=False)


def need_memory(m, dtype):
    """Skip a size that does not fit the memory; asv prints the sentence, and measures the smaller sizes."""
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
        raise NotImplementedError("Numba does not import here")
    fastmlp.set_backend(name)
