"""The Numba backend: every ``@njit`` of the project.

Same names and signatures as :mod:`fastmlp.kernels.reference`, where each kernel's formula stands. Outputs come first,
then inputs, then scalars. Kernels neither allocate, check nor raise: an exception inside ``prange`` is swallowed, and
an index out of range writes out of bounds.

Each kernel is a ``prange`` shell over a serial body. The shell hands worker w the body's range [lo, hi) and is compiled
twice, with ``parallel=True`` and without: the second form gives the same bits and serves small problems, forked
children, a thread-unsafe threading layer that is already in use, and bounds checking.
Shapes: n features, h units of a layer, C classes, m samples; columns are samples.
"""

import contextlib
import hashlib
import inspect
import math
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba import config, njit, prange
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.np.ufunc import parallel as numba_parallel

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set: Numba would run the kernels as slow Python loops")

# The one place for compiler options. No fastmath: it breaks NaN and infinity, and reassociation would let the vector
# width choose the bits. Kernels release the GIL, and divide as NumPy does: by zero without an exception.
_OPTIONS = {"nogil": True, "error_model": "numpy"}

# Below this many array elements the serial shell runs. A launch alone costs 5 to 20 µs, which 1 << 15 elements repay;
# but after it the workers of the omp layer spin for milliseconds beside the threads of BLAS (an epoch of the digits
# took 25 ms with 1 << 15, 2.5 ms with this), so the arrays must be worth a slow product too.
_PARALLEL_SIZE = 1 << 18

# Ranges of elements begin on multiples of this, so that no two workers write to the same cache line.
_ALIGNMENT = 64

# bias_sum adds blocks of this many elements, then the blocks' sums: the error grows like m / block, not like m.
_SUM_BLOCK = 512


# Whatever reading and unpickling say of a damaged file.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    RuntimeError,
    pickle.UnpicklingError,
)


def _cache_stamp() -> str:
    """Digest what Numba's cache key does not see: the text of every kernel module, and the compiler."""
    digest = hashlib.sha256(llvmlite.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _cache_variant(*, parallel: bool) -> str:
    """Name what changes the code but neither Numba's cache key nor its file names: it becomes part of the latter."""
    flags = (config.BOUNDSCHECK, str(config.OPT), config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.DEBUGINFO_DEFAULT)
    return f"{'parallel' if parallel else 'serial'}-{hashlib.sha256(repr(flags).encode()).hexdigest()[:8]}"


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's own cache on disk, in Numba's own places, made strict about freshness and lenient about failure.

    Numba's index is stamped with one source file; this one with all kernel sources. A file that cannot be read is a
    miss, one that cannot be written is given up: caching never makes a call fail.
    """

    def __init__(self, function: Callable[..., Any], stamp: str, variant: str) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(self._cache_path, f"{self._impl.filename_base}-{variant}", stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            result = super().load_overload(sig, target_context)
        except _DAMAGE:
            # Compile anew. Saving writes over a damaged data file, but needs an index that can be read.
            self._mend_index()
            return None
        # Two processes that fill the cache at once may leave an index entry that names the other's file.
        if result is not None and tuple(result.signature.args) != tuple(sig):
            return None
        return result

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()

    def _mend_index(self) -> None:
        try:
            self._cache_file._load_index()
        except _DAMAGE:
            self._write_empty_index()

    def _write_empty_index(self) -> None:
        try:
            self.flush()
        except OSError:
            self.disable()


def _compile(shell: Callable[..., Any], *, parallel: bool) -> Any:
    dispatcher = njit(parallel=parallel, **_OPTIONS)(shell)
    # Where no folder is writeable, as in a read-only install without HOME, the kernel runs uncached.
    with contextlib.suppress(RuntimeError, OSError):
        dispatcher._cache = _KernelCache(shell, _STAMP, _cache_variant(parallel=parallel))
    return dispatcher


_STAMP = _cache_stamp()
_KERNELS: dict[str, "Kernel"] = {}
# Held while a parallel kernel runs on a layer of which it is not known that two Python threads may enter it.
_layer_lock = threading.Lock()
_forked_after_launch = False


def _after_fork_in_child() -> None:
    """Keep to serial shells in a child of a process whose workers run: they did not survive the fork.

    On the omp layer a parallel launch would end the child; on workqueue it would wait for ever.
    """
    global _forked_after_launch, _layer_lock  # noqa: PLW0603
    _layer_lock = threading.Lock()
    _forked_after_launch = _forked_after_launch or numba_parallel._is_initialized


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class Kernel:
    """A shell over a serial body, compiled with ``parallel=True`` and without; a call chooses between the two.

    The choice depends on sizes and on what is safe, never on a measurement, and both give the same bits.
    """

    def __init__(self, shell: Callable[..., Any], outputs: int) -> None:
        self.parallel = _compile(shell, parallel=True)
        self.serial = _compile(shell, parallel=False)
        self.outputs = outputs
        self.__name__ = shell.__name__
        self.__doc__ = shell.__doc__
        signature = inspect.signature(shell)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[:-1])

    def __call__(self, *args: Any) -> None:
        size = max(a.size for a in args if isinstance(a, np.ndarray))
        args = args[: self.outputs] + tuple(_read_only(a) for a in args[self.outputs :])
        if size < _PARALLEL_SIZE or _forked_after_launch:
            self.serial(*args, 1)
            return
        workers = numba.get_num_threads()
        if workers == 1:
            self.serial(*args, 1)
        elif _layer_is_threadsafe():
            self.parallel(*args, workers)
        elif _layer_lock.acquire(blocking=False):
            try:
                self.parallel(*args, workers)
            finally:
                _layer_lock.release()
        else:
            self.serial(*args, 1)


def _read_only(x: Any) -> Any:
    """Return an array input as a read-only view: one type for Numba, and no kernel can write to it."""
    if isinstance(x, np.ndarray):
        x = x.view()
        x.flags.writeable = False
    return x


def _layer_is_threadsafe() -> bool:
    # Before the first launch the layer is not known: None counts as unsafe.
    return numba_parallel._threading_layer in ("omp", "tbb")


def _kernel(outputs: int) -> Callable[[Callable[..., Any]], Kernel]:
    def decorate(shell: Callable[..., Any]) -> Kernel:
        kernel = _KERNELS[shell.__name__] = Kernel(shell, outputs)
        return kernel

    return decorate


_body = njit(**_OPTIONS)


@_body
def _span(total, worker, workers):
    """Return [lo, hi): the worker's aligned share of ``total`` elements."""
    share = -(-total // workers)
    share += -share % _ALIGNMENT
    return min(worker * share, total), min((worker + 1) * share, total)


@_body
def _one_hot(out, labels, lo, hi):
    for c in range(out.shape[0]):
        for i in range(lo, hi):
            out[c, i] = labels[i] == c


@_kernel(outputs=1)
def one_hot(out, labels, workers):
    for worker in prange(workers):
        lo, hi = _span(labels.size, worker, workers)
        _one_hot(out, labels, lo, hi)


@_body
def _relu(x):
    # Not max(): a comparison keeps NaN and -0.0 as np.maximum(0, x) does.
    return x if not (x < 0) else type(x)(0)


@_body
def _relu_range(out, x, lo, hi):
    for i in range(lo, hi):
        out[i] = _relu(x[i])


@_kernel(outputs=1)
def relu(out, x, workers):
    for worker in prange(workers):
        lo, hi = _span(x.size, worker, workers)
        _relu_range(out, x, lo, hi)


@_body
def _bias_add(z, bias, lo, hi):
    m = z.shape[1]
    for i in range(lo // m, -(-hi // m)):
        for j in range(max(lo - i * m, 0), min(hi - i * m, m)):
            z[i, j] += bias[i, 0]


@_kernel(outputs=1)
def bias_add(z, bias, workers):
    for worker in prange(workers):
        lo, hi = _span(z.size, worker, workers)
        _bias_add(z, bias, lo, hi)


@_body
def _relu_mask(z, a, mask, bias, lo, hi):
    m = z.shape[1]
    for i in range(lo // m, -(-hi // m)):
        for j in range(max(lo - i * m, 0), min(hi - i * m, m)):
            value = z[i, j] + bias[i, 0]
            z[i, j] = value
            if mask is not None:
                mask[i, j] = value > 0
            a[i, j] = _relu(value)


@_kernel(outputs=3)
def relu_mask(z, a, mask, bias, workers):
    for worker in prange(workers):
        lo, hi = _span(z.size, worker, workers)
        _relu_mask(z, a, mask, bias, lo, hi)


@_body
def _relu_backward(dz, gate, lo, hi):
    m = dz.shape[1]
    for i in range(lo // m, -(-hi // m)):
        for j in range(max(lo - i * m, 0), min(hi - i * m, m)):
            dz[i, j] *= gate[i, j] > 0


@_kernel(outputs=1)
def relu_backward(dz, gate, workers):
    for worker in prange(workers):
        lo, hi = _span(dz.size, worker, workers)
        _relu_backward(dz, gate, lo, hi)


@_body
def _exp_column(out, z, j):
    """Set out[:, j] to exp(z[:, j] - shift); return the shift and the sum."""
    shift = z[0, j]
    for i in range(1, z.shape[0]):
        if z[i, j] > shift or z[i, j] != z[i, j]:
            shift = z[i, j]
    zero = type(shift)(0)
    total = zero
    if shift - shift != 0:
        # No largest logit to shift by: unshifted, NaN and infinity come out where the formula puts them.
        for i in range(z.shape[0]):
            out[i, j] = math.exp(z[i, j])
            total += out[i, j]
        return zero, total
    lost = zero
    for i in range(z.shape[0]):
        e = math.exp(z[i, j] - shift)
        out[i, j] = e
        # Added with compensation (Kahan), or a thousand classes would cost a thousand eps.
        term = e - lost
        grown = total + term
        lost = (grown - total) - term
        total = grown
    return shift, total


@_body
def _softmax_columns(out, z, lo, hi):
    for j in range(lo, hi):
        _, total = _exp_column(out, z, j)
        for i in range(z.shape[0]):
            out[i, j] /= total


@_kernel(outputs=1)
def softmax_columns(out, z, workers):
    for worker in prange(workers):
        lo, hi = _span(z.shape[1], worker, workers)
        _softmax_columns(out, z, lo, hi)


@_body
def _softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, lo, hi):
    for j in range(lo, hi):
        shift, total = _exp_column(dz, z, j)
        log_total = math.log(total)
        mass = nll = type(shift)(0)
        best = 0
        largest = y[0, j]
        for i in range(z.shape[0]):
            mass += y[i, j]
            if y[i, j] != 0:
                nll += y[i, j] * (log_total - (z[i, j] - shift))
            if z[i, j] > z[best, j] or (z[i, j] != z[i, j] and z[best, j] == z[best, j]):
                best = i
            if y[i, j] > largest or y[i, j] != y[i, j]:
                largest = y[i, j]
        for i in range(z.shape[0]):
            dz[i, j] = (dz[i, j] / total * mass - y[i, j]) * weight[j]
        loss[j] = nll * weight[j]
        hit[j] = weight[j] if y[best, j] == largest else type(shift)(0)


@_kernel(outputs=3)
def softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, workers):
    for worker in prange(workers):
        lo, hi = _span(z.shape[1], worker, workers)
        _softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, lo, hi)


@_body
def _output_delta(dz, a, y, lo, hi):
    m = dz.shape[1]
    for i in range(lo // m, -(-hi // m)):
        for j in range(max(lo - i * m, 0), min(hi - i * m, m)):
            dz[i, j] = a[i, j] - y[i, j]


@_kernel(outputs=1)
def output_delta(dz, a, y, workers):
    for worker in prange(workers):
        lo, hi = _span(dz.size, worker, workers)
        _output_delta(dz, a, y, lo, hi)


@_body
def _bias_sum(out, dz, lo, hi):
    m = dz.shape[1]
    for i in range(lo, hi):
        # float64 also for float32: the rows of a gradient cancel, and single precision would show it.
        total = 0.0
        for start in range(0, m, _SUM_BLOCK):
            stop = min(start + _SUM_BLOCK, m)
            # Four sums, because one would wait for each addition before the next.
            s0 = s1 = s2 = s3 = 0.0
            fours = start + (stop - start) // 4 * 4
            for j in range(start, fours, 4):
                s0 += dz[i, j]
                s1 += dz[i, j + 1]
                s2 += dz[i, j + 2]
                s3 += dz[i, j + 3]
            for j in range(fours, stop):
                s0 += dz[i, j]
            total += (s0 + s1) + (s2 + s3)
        out[i, 0] = total


@_kernel(outputs=1)
def bias_sum(out, dz, workers):
    rows = dz.shape[0]
    for worker in prange(workers):
        _bias_sum(out, dz, rows * worker // workers, rows * (worker + 1) // workers)


@_body
def _cross_entropy(loss, a, y, lo, hi):
    floor = np.finfo(a.dtype).tiny
    for j in range(lo, hi):
        total = a.dtype.type(0)
        for i in range(a.shape[0]):
            if y[i, j] == 0 and a[i, j] - a[i, j] == 0:
                continue  # 0 times a finite logarithm: nine of ten terms of a one-hot column
            p = floor if a[i, j] < floor else a[i, j]
            total += y[i, j] * math.log(p)
        loss[j] = -total


@_kernel(outputs=1)
def cross_entropy(loss, a, y, workers):
    for worker in prange(workers):
        lo, hi = _span(loss.size, worker, workers)
        _cross_entropy(loss, a, y, lo, hi)


@_body
def _update(out, w, dw, alpha, lo, hi):
    for i in range(lo, hi):
        out[i] = w[i] - alpha * dw[i]


@_kernel(outputs=1)
def update(out, w, dw, alpha, workers):
    for worker in prange(workers):
        lo, hi = _span(w.size, worker, workers)
        _update(out, w, dw, alpha, lo, hi)


def product(out: Any, a: Any, b: Any) -> None:
    """Set ``out`` (p, q) to the matrix product of ``a`` (p, k) and ``b`` (k, q), by NumPy's BLAS."""
    np.matmul(a, b, out=out)


def warmup(dtype: Any) -> None:
    """Compile, or load from the cache, both shells of every kernel for ``dtype``."""
    x = np.ones((1, 1), dtype)
    vector = x[0]
    mask = np.ones((1, 1), np.bool_)
    alpha = x.dtype.type(0)
    calls: dict[str, list[tuple[Any, ...]]] = {
        # The notebook's encoding is float64 always, a model's of its own dtype.
        "one_hot": [(np.ones((1, 1)), np.zeros(1, np.int64)), (x, np.zeros(1, np.int64))],
        "relu": [(vector, vector)],
        "bias_add": [(x, x)],
        "relu_mask": [(x, x, mask, x), (x, x, None, x)],
        "relu_backward": [(x, x), (x, mask)],
        "softmax_columns": [(x, x)],
        "softmax_cross_entropy_grad": [(x, vector, vector, x, x, vector)],
        "output_delta": [(x, x, x)],
        "bias_sum": [(x, x)],
        "cross_entropy": [(vector, x, x)],
        "update": [(vector, vector, vector, alpha)],
    }
    for name, kernel in _KERNELS.items():
        for args in calls[name]:
            shown = args[: kernel.outputs] + tuple(_read_only(a) for a in args[kernel.outputs :])
            types = tuple(numba.typeof(a) for a in (*shown, 1))
            kernel.serial.compile(types)
            kernel.parallel.compile(types)


def max_threads() -> int | None:
    """Return how many threads Numba can launch in this process."""
    return int(config.NUMBA_NUM_THREADS)


def set_threads(n: int) -> int:
    """Let parallel kernels of this Python thread use ``n`` threads; return the count before."""
    previous = int(numba.get_num_threads())
    numba.set_num_threads(n)
    return previous


def cache_statistics() -> dict[str, tuple[int, int]]:
    """Return (hits, misses) of the compile cache, summed per kernel over both shells."""
    totals = {}
    for name, kernel in _KERNELS.items():
        stats = (kernel.parallel.stats, kernel.serial.stats)
        totals[name] = (
            sum(sum(one.cache_hits.values()) for one in stats),
            sum(sum(one.cache_misses.values()) for one in stats),
        )
    return totals


def describe() -> dict[str, str]:
    """Return what `fastmlp.show_config` says about this backend."""
    features = llvmlite.binding.get_host_cpu_features() if config.CPU_FEATURES is None else None
    enabled = (
        set(config.CPU_FEATURES.replace("+", "").split(","))
        if features is None
        else {name for name, on in features.items() if on}
    )
    bits = next((n for names, n in _VECTOR_BITS if names & enabled), 128)
    return {
        "threading layer": numba_parallel._threading_layer or f"not launched yet ({config.THREADING_LAYER})",
        "CPU": config.CPU_NAME or llvmlite.binding.get_host_cpu_name(),
        "vector width": f"{bits} bit",
        "compile cache": _KERNELS["relu"].serial._cache.cache_path or "none: no writeable folder",
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }


_VECTOR_BITS = (({"avx512f"}, 512), ({"avx", "avx2"}, 256))
