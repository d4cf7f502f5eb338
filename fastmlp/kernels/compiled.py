"""The Numba backend: every ``@njit`` of the project.

Same names and signatures as :mod:`fastmlp.kernels.reference`, where each kernel's formula stands. Outputs come first,
then inputs, then scalars. Kernels neither check nor raise: an exception inside ``prange`` is swallowed, and an index
out of range writes out of bounds.

Each kernel is a ``prange`` shell over a serial body. The shell hands worker w the body's range [lo, hi) and is compiled
twice, with ``parallel=True`` and without: the second form gives the same bits and serves small problems, forked
children, a thread-unsafe threading layer that is already in use, and bounds checking. A large kernel's body is
compiled once, on its own, and one parallel shell serves all of them.
Shapes: n features, h units of a layer, C classes, m samples; columns are samples.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba import config, njit, prange
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.runtime import rtsys
from numba.np.ufunc import parallel as numba_parallel

from fastmlp.kernels import vector

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

# Columns that pass from row to row together: ten such rows, in and out, lie in the first-level cache.
_COLUMN_BLOCK = 128

# Samples whose costs are one sum.
_COST_BLOCK = 256

# Targets of which it is asked together whether they are zero: as many as a number has bits.
_LISTED_AT_ONCE = 64

# Samples whose losses are computed together, class by class.
_LOSS_BLOCK = 64

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


class _CacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """Files of machine code that begin with a digest of the rest: Numba's own run a flipped bit as it is."""

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()
        digest, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("damaged")
        return pickle.loads(content)


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's own cache on disk, in Numba's own places, made strict about freshness and lenient about failure.

    Numba's index is stamped with one source file; this one with all kernel sources. A file that cannot be read is a
    miss, one that cannot be written is given up: caching never makes a call fail.
    """

    def __init__(self, function: Callable[..., Any], stamp: str, variant: str) -> None:
        super().__init__(function)
        self._cache_file = _CacheFile(self._cache_path, f"{self._impl.filename_base}-{variant}", stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with _preparation.measured():
            return self._load_or_none(sig, target_context)

    def _load_or_none(self, sig: Any, target_context: Any) -> Any:
        try:
            # Not super().load_overload, which first imports all that a compiler needs, and SciPy where it is installed:
            # a warm start took 1.5 s, so it takes 0.9.
            rtsys.initialize(target_context)
            result = self._load_overload(sig, target_context)
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


class _Preparation(event.Listener):  # type: ignore[misc]
    """The time that goes into compiling kernels and loading them, and who is told that it begins.

    Attributes
    ----------
    seconds : float
        Time spent so far. One thread at a time compiles: Numba holds a lock meanwhile.
    compiling_since : float
        When the kernel that is being compiled was begun, by `time.perf_counter`, or 0.
    """

    def __init__(self) -> None:
        self.seconds, self.compiling_since = 0.0, 0.0

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] in _DISPATCHERS:
            _host.compiling()
            self.compiling_since = time.perf_counter()

    def on_end(self, event: Any) -> None:
        if event.data["dispatcher"] in _DISPATCHERS:
            self.seconds += time.perf_counter() - self.compiling_since
            self.compiling_since = 0.0


class _Host:
    """What the kernels ask of whoever calls them: by default nothing.

    Attributes
    ----------
    threads : callable
        Returns how many threads a kernel may use now, or None for as many as Numba says.
    prepare : callable
        Calls a function that compiles or loads a kernel where no signal can tear it.
    compiling : callable
        Called before a kernel is compiled.
    """

    threads: Callable[[], int | None] = staticmethod(lambda: None)
    prepare: Callable[..., Any] = staticmethod(lambda function, *args: function(*args))
    compiling: Callable[[], None] = staticmethod(lambda: None)


_host = _Host()
_preparation = _Preparation()
_DISPATCHERS: set[Any] = set()
event.register("numba:compile", _preparation)


def attach(**host: Callable[..., Any]) -> None:
    """Set members of what the kernels ask of their host, by name."""
    for name, function in host.items():
        setattr(_host, name, function)


def compiler_locks() -> list[Any]:
    """Return the locks that a fork must hold: llvmlite's, which freeing a module takes at any time."""
    lock = getattr(getattr(llvmlite.binding.ffi, "lib", None), "_lock", None)
    return [lock] if hasattr(lock, "__enter__") else []


def preparation() -> tuple[float, float]:
    """Return the seconds spent so far on compiling and loading kernels, and when the one being compiled was begun."""
    return _preparation.seconds, _preparation.compiling_since


def _compile(shell: Callable[..., Any], *, parallel: bool, by_address: bool = False) -> Any:
    """Return the dispatcher, cached; one whose function is only called ``by_address`` must not be called itself."""
    dispatcher = njit(parallel=parallel, no_cpython_wrapper=by_address, no_cfunc_wrapper=True, **_OPTIONS)(shell)
    _DISPATCHERS.add(dispatcher)
    # What Numba calls for types that it has not seen. A signal in the middle of it would leave half a library behind.
    compile_for = getattr(dispatcher, "_compile_for_args", None)
    if compile_for is not None:
        dispatcher._compile_for_args = lambda *args, **kws: _host.prepare(compile_for, *args, **kws)
    # Where no folder is writeable, as in a read-only install without HOME, the kernel runs uncached.
    with contextlib.suppress(RuntimeError, OSError):
        dispatcher._cache = _KernelCache(shell, _STAMP, _cache_variant(parallel=parallel))
    return dispatcher


_STAMP = _cache_stamp()
_KERNELS: dict[str, "Kernel | LargeKernel"] = {}
_SINGLE: dict[str, Any] = {}
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
        # Not max() of a generator: with small arrays it would take longer than the kernel.
        ready, size = list(args), 0
        for k, one in enumerate(args):
            if isinstance(one, np.ndarray):
                size = max(size, one.size)
                if k >= self.outputs:
                    ready[k] = _read_only(one)
        if size < _PARALLEL_SIZE:
            self.serial(*ready, 1)
        else:
            self.launch(_usable_threads(), *ready)

    def launch(self, workers: int, *args: Any) -> None:
        """Run for ``workers`` workers: in parallel where that is safe now, else one after the other."""
        _launch(self.serial, self.parallel, workers, args)

    def warmup(self) -> None:
        """Compile the parallel shell for all types that the serial one knows."""
        for types in self.serial.signatures:
            _host.prepare(self.parallel.compile, types)

    def dispatchers(self) -> list[Any]:
        """Return what Numba compiles for this kernel."""
        return [self.parallel, self.serial]


class LargeKernel:
    """A body that is compiled once, on its own, and a shell that hands it its arguments: in parallel by `_workers`.

    As part of a shell, Numba would compile the body once more in the serial and three times more in the parallel one;
    and a parallel shell that takes tuples of arrays costs two seconds.
    """

    def __init__(self, shell: Callable[..., Any], body: Callable[..., Any]) -> None:
        self.shell = _compile(shell, parallel=False)
        self.body = _compile(body, parallel=False, by_address=True)
        self._addresses: dict[Any, int] = {}
        self.__doc__ = shell.__doc__

    def launch(self, workers: int, *args: Any) -> None:
        """Run for ``workers`` workers: in parallel where that is safe now, else one after the other."""
        key = args[0].dtype  # it decides the types of all
        if key not in self._addresses:
            types = (*map(numba.typeof, args), numba.int64, numba.int64)
            self._addresses[key] = _address(self.body, types)
        _launch(self._serial, self._parallel, workers, (self._addresses[key], *args))

    def _serial(self, *args: Any) -> None:
        self.shell(0, *args)

    def _parallel(self, *args: Any) -> None:
        self.shell(_launcher(), *args)

    def warmup(self) -> None:
        """Compile what is not compiled by a launch for one worker."""
        _launcher()

    def dispatchers(self) -> list[Any]:
        """Return what Numba compiles for this kernel."""
        return [self.shell, self.body]


def _launch(serial: Callable[..., None], parallel: Callable[..., None], workers: int, args: tuple[Any, ...]) -> None:
    if workers == 1 or _forked_after_launch:
        serial(*args, workers)
    elif _layer_is_threadsafe():
        parallel(*args, workers)
    elif _layer_lock.acquire(blocking=False):
        try:
            parallel(*args, workers)
        finally:
            _layer_lock.release()
    else:
        serial(*args, workers)


def _address(dispatcher: Any, types: tuple[Any, ...]) -> int:
    """Compile for these types, and return where the function is."""
    return int(_host.prepare(_compiled_address, dispatcher, types))


def _compiled_address(dispatcher: Any, types: tuple[Any, ...]) -> int:
    dispatcher.compile(types)
    result = dispatcher.overloads[types]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def _usable_threads() -> int:
    """Return how many workers a launch may use now; asking Numba starts its threads, which a forked child must not."""
    if _forked_after_launch:
        return 1
    return _host.threads() or _numba_threads()


def _numba_threads() -> int:
    """Return Numba's thread count for this Python thread.

    `numba.get_num_threads` takes a lock of the process in Python code at each call: a signal in the middle of it would
    lock all later calls out.
    """
    if not numba_parallel._is_initialized:
        _host.prepare(numba.get_num_threads)
    count = getattr(numba_parallel, "_get_num_threads", numba.get_num_threads)
    return int(count())


def _read_only(x: Any) -> Any:
    """Return an array as a read-only view: one type for Numba, and no kernel can write to it."""
    view = x.view()
    view.setflags(write=False)  # in a third of the time of flags.writeable
    return view


def _layer_is_threadsafe() -> bool:
    # Before the first launch the layer is not known: None counts as unsafe.
    return numba_parallel._threading_layer in ("omp", "tbb")


def _kernel(outputs: int) -> Callable[[Callable[..., Any]], Kernel]:
    def decorate(shell: Callable[..., Any]) -> Kernel:
        kernel = _KERNELS[shell.__name__] = Kernel(shell, outputs)
        return kernel

    return decorate


def _large_kernel(body: Callable[..., Any]) -> Callable[[Callable[..., Any]], LargeKernel]:
    def decorate(shell: Callable[..., Any]) -> LargeKernel:
        kernel = _KERNELS[shell.__name__] = LargeKernel(shell, body)
        return kernel

    return decorate


# In bodies, inner loops run from 0 over slices: an index that may be negative is tested for it, which keeps a loop from
# becoming vectors.
# Python never calls a body, so it needs no wrapper: those took a tenth of the compiler's time.
_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_OPTIONS}


class _NoEnvironment:
    """Stands for the code generator where the environment of a function is set that has no machine code of its own."""

    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        pass


class _BodyLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of a body: what is compiled is its copy in each kernel.

    Numba would also optimise it on its own, once more in each caller, and make machine code each time: a first step
    from an empty cache took 25.8 s where it takes 22.2.
    """

    codegen = _NoEnvironment

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _BodyCompiler(Compiler):  # type: ignore[misc]
    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, _BodyLibrary(target.codegen(), "body"), *rest)


_body = njit(pipeline_class=_BodyCompiler, **_INNER)


def _serial(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls and that is worth no threads; cached, as kernels are."""
    dispatcher = _SINGLE[function.__name__] = _compile(function, parallel=False)
    return dispatcher


def _workers(address, arguments, workers):
    for worker in prange(workers):
        vector.work(address, arguments, np.int64(worker), workers)


_SINGLE["_workers"] = _compile(_workers, parallel=True, by_address=True)


@functools.cache
def _launcher() -> int:
    """Return where the loop is that runs large kernels in parallel."""
    return _address(_SINGLE["_workers"], (numba.int64,) * 3)


@_body
def _span(total, worker, workers):
    """Return [lo, hi): the worker's aligned share of ``total`` elements."""
    share = -(-total // workers)
    share += -share % _ALIGNMENT
    return min(worker * share, total), min((worker + 1) * share, total)


@_body
def _one_hot(out, labels, lo, hi):
    # In blocks, the labels stay in the first-level cache from one class to the next: 60 us become 42.
    for first in range(lo, hi, _COLUMN_BLOCK):
        some = labels[first : min(first + _COLUMN_BLOCK, hi)]
        for c in range(out.shape[0]):
            row = out[c, first : first + len(some)]
            for i in range(len(some)):
                row[i] = some[i] == c


@_kernel(outputs=1)
def one_hot(out, labels, workers):
    for worker in prange(workers):
        lo, hi = _span(labels.size, worker, workers)
        _one_hot(out, labels, lo, hi)


@_body
def _relu(x):
    # Not max(): a comparison keeps NaN and -0.0 as np.maximum(0, x) does.
    return vector.choose(x < 0, type(x)(0), x)


@_body
def _relu_range(out, x, lo, hi):
    to, what = out[lo:hi], x[lo:hi]
    for i in range(len(what)):
        to[i] = _relu(what[i])


@_kernel(outputs=1)
def relu(out, x, workers):
    for worker in prange(workers):
        lo, hi = _span(x.size, worker, workers)
        _relu_range(out, x, lo, hi)


@_body
def _relu_mask(z, a, mask, bias, lo, hi):
    m = z.shape[1]
    for i in range(lo // m, -(-hi // m)):
        first, stop = max(lo - i * m, 0), min(hi - i * m, m)
        row, a_row, mask_row = z[i, first:stop], a[i, first:stop], mask[i, first:stop]
        for j in range(len(row)):
            value = row[j] + bias[i, 0]
            row[j] = value
            mask_row[j] = value > 0
            a_row[j] = _relu(value)


@_kernel(outputs=3)
def relu_mask(z, a, mask, bias, workers):
    for worker in prange(workers):
        lo, hi = _span(z.size, worker, workers)
        _relu_mask(z, a, mask, bias, lo, hi)


@_kernel(outputs=1)
def softmax_columns(out, z, workers):
    for worker in prange(workers):
        lo, hi = _span(z.shape[1], worker, workers)
        vector.softmax_columns(out, z, lo, hi - lo)


@_body
def _loss_buffers(z, width):
    """Return five arrays for `_exponentials`: not rows of one, of which LLVM does not see that they are apart."""
    kind = z.dtype
    return (np.empty(width, kind), np.empty(width, kind), np.empty(width, kind), np.empty(width, kind),
            np.empty(width, kind))  # fmt: skip


@_body
def _exponentials(dz, buffers, z, weight, first, width):
    """Set ``width`` columns of dz to exp(z - shift), row by row, so that the loops become vectors.

    Leave in the buffers, per column, the shift, the sum, its logarithm, weight over sum, and the largest logit's row.
    """
    vector.outline()
    shift, total, log_total, scale, best = buffers
    w = weight[first : first + width]
    vector.exp_columns(dz, z, shift, total, best, first, width)
    for j in range(width):
        log_total[j] = vector.log(total[j])
        scale[j] = w[j] / total[j]
    for j in range(width):
        if total[j] != total[j]:
            # The first NaN counts as the largest: as np.argmax.
            for i in range(z.shape[0] - 1, -1, -1):
                if z[i, first + j] != z[i, first + j]:
                    best[j] = i


@_body
def _loss_columns(dz, loss, hit, buffers, z, y, weight, first, width):
    """Do `softmax_cross_entropy_grad` for ``width`` columns."""
    vector.outline()
    shift, total, log_total, scale, best = buffers
    zero = z.dtype.type(0)
    w, cost, right = weight[first : first + width], loss[first : first + width], hit[first : first + width]
    _exponentials(dz, buffers, z, weight, first, width)
    mass, chosen = total, best
    for j in range(width):
        chosen[j] = y[np.int64(best[j]), first + j]
        mass[j], cost[j], right[j] = zero, zero, w[j]
    for i in range(z.shape[0]):
        row, target = z[i, first : first + width], y[i, first : first + width]
        for j in range(width):
            term = target[j] * (log_total[j] - (row[j] - shift[j]))
            cost[j] += term if target[j] != 0 else zero
        for j in range(width):
            mass[j] += target[j]
            right[j] = vector.choose(target[j] <= chosen[j], right[j], zero)  # false where either is NaN
    for j in range(width):
        cost[j] *= w[j]
        scale[j] *= mass[j]
    for i in range(z.shape[0]):
        to, target = dz[i, first : first + width], y[i, first : first + width]
        for j in range(width):
            to[j] = to[j] * scale[j] - target[j] * w[j]


@_body
def _softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, lo, hi):
    buffers = _loss_buffers(z, _COLUMN_BLOCK)
    for first in range(lo, hi, _COLUMN_BLOCK):
        _loss_columns(dz, loss, hit, buffers, z, y, weight, first, min(_COLUMN_BLOCK, hi - first))


@_kernel(outputs=3)
def softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, workers):
    for worker in prange(workers):
        lo, hi = _span(z.shape[1], worker, workers)
        _softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, lo, hi)


@_body
def _output_delta(dz, a, y, lo, hi):
    m = dz.shape[1]
    for i in range(lo // m, -(-hi // m)):
        first, stop = max(lo - i * m, 0), min(hi - i * m, m)
        row, a_row, y_row = dz[i, first:stop], a[i, first:stop], y[i, first:stop]
        for j in range(len(row)):
            row[j] = a_row[j] - y_row[j]


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
            total += _sum(dz[i, start : min(start + _SUM_BLOCK, m)])
        out[i, 0] = total


@_body
def _sum(x):
    vector.outline()
    # Four sums, because one would wait for each addition before the next.
    s0 = s1 = s2 = s3 = 0.0
    fours = len(x) // 4 * 4
    for j in range(0, fours, 4):
        s0 += x[j]
        s1 += x[j + 1]
        s2 += x[j + 2]
        s3 += x[j + 3]
    for j in range(fours, len(x)):
        s0 += x[j]
    return (s0 + s1) + (s2 + s3)


@_kernel(outputs=1)
def bias_sum(out, dz, workers):
    rows = dz.shape[0]
    for worker in prange(workers):
        _bias_sum(out, dz, rows * worker // workers, rows * (worker + 1) // workers)


@_body
def _cost(sums, a, a_class, a_sample, y, y_class, y_sample, m, lo, hi):
    classes = len(a) // m
    # Nine of ten logarithms need not be taken: listed is what has a target, up to one class for each sample.
    loss, sample = np.empty(_COST_BLOCK, a.dtype), np.empty(_COST_BLOCK + _LISTED_AT_ONCE, np.int64)
    p, target = np.empty(_COST_BLOCK, a.dtype), np.empty(_COST_BLOCK, a.dtype)
    for block in range(lo, hi):
        first = block * _COST_BLOCK
        to = loss[: min(_COST_BLOCK, m - first)]
        count = np.int64(-1)
        if _is_finite(a, a_class, a_sample, classes, first, len(to)):
            count = _with_target(sample, p, target, a, a_class, a_sample, y, y_class, y_sample,
                                 classes, first, len(to))  # fmt: skip
        if count < 0:
            _cost_of_all(to, a, a_class, a_sample, y, y_class, y_sample, classes, first)
        else:
            _cost_of_some(to, sample, p[:count], target)
        sums[block] = _sum(to)


@_body
def _is_finite(a, a_class, a_sample, classes, first, width):
    """Return whether the probabilities of the samples are finite: one that is not counts also without a target."""
    vector.outline()
    # Rows of what lies side by side: classes, or all at once.
    rows, start, step, length = classes, first, a_class, width
    if a_class == 1:
        rows, start, step, length = 1, first * a_sample, 0, classes * width
    finite = True
    for i in range(rows):
        row = a[start + i * step : start + i * step + length]
        for k in range(length):
            finite &= row[k] - row[k] == 0
    return finite


@_body
def _with_target(sample, p, target, a, a_class, a_sample, y, y_class, y_sample, classes, first, width):
    """List the targets that are not zero, with their sample's number from ``first`` on and probability; return the end.

    Or -1, where there are more of them than samples.
    """
    vector.outline()
    count = np.int64(0)
    if y_class == 1:
        start = first * classes
        count = _list(sample, np.int64(0), y, start, classes * width, width)
        s = begin = np.int64(0)  # a sample, and where its targets begin
        for e in range(min(count, width)):
            k = sample[e]
            while k - begin >= classes:
                begin += classes
                s += 1
            sample[e], p[e], target[e] = s, a[(k - begin) * a_class + (first + s) * a_sample], y[start + k]
        return count if count <= width else np.int64(-1)
    for i in range(classes):
        before, count = count, _list(sample, count, y, i * y_class + first, width, width)
        if count > width:
            return np.int64(-1)
        for e in range(before, count):
            s = first + sample[e]
            p[e], target[e] = a[i * a_class + s * a_sample], y[i * y_class + s]
    return count


@_body
def _list(at, entry, x, start, count, most):
    """Append each k < count for which x[start + k] is not zero, until there are more than ``most``; return the end."""
    vector.outline()
    whole = count // _LISTED_AT_ONCE * _LISTED_AT_ONCE
    for k in range(0, whole, _LISTED_AT_ONCE):
        bits = vector.nonzero_bits(x, start + k)
        while bits != 0:
            below = bits - np.uint64(1)
            at[entry] = k + np.int64(vector.population_count(~bits & below))
            entry += 1
            bits &= below
        if entry > most:
            return entry
    for k in range(whole, count):
        at[entry] = k
        entry += x[start + k] != 0
        if entry > most:
            return entry
    return entry


@_body
def _cost_of_some(loss, sample, p, target):
    """Set the losses by the listed targets; ``p`` is used up."""
    vector.outline()
    floor = vector.smallest_normal(p)
    for e in range(len(p)):
        p[e] = target[e] * vector.log(floor if p[e] < floor else p[e])
    # By sample, so that the sum does not depend on the order of the list, which is that of the memory.
    for j in range(len(loss)):
        loss[j] = 0
    for e in range(len(p)):
        loss[sample[e]] -= p[e]


@_body
def _cost_of_all(loss, a, a_class, a_sample, y, y_class, y_sample, classes, first):
    """Set the losses, by every logarithm, of the samples from ``first`` on."""
    vector.outline()
    floor = vector.smallest_normal(a)
    for j in range(len(loss)):
        loss[j] = 0
    for i in range(classes):
        for j in range(len(loss)):
            p = a[i * a_class + (first + j) * a_sample]
            target = y[i * y_class + (first + j) * y_sample]
            loss[j] -= target * vector.log(floor if p < floor else p)


@_kernel(outputs=1)
def _costs(sums, a, a_class, a_sample, y, y_class, y_sample, m, workers):
    blocks = len(sums)
    for worker in prange(workers):
        lo, hi = blocks * worker // workers, blocks * (worker + 1) // workers
        _cost(sums, a, a_class, a_sample, y, y_class, y_sample, m, lo, hi)


def cross_entropy(a: Any, y: Any) -> float:
    """Return the mean of -sum_k y_k log(max(a_k, tiny)) over the columns of a, y (C, m), C- or F-contiguous."""
    m = a.shape[1]
    sums = np.empty(-(-m // _COST_BLOCK))
    _costs(sums, *_flat_and_steps(a), *_flat_and_steps(y), m)
    return float(np.add.reduce(sums) / m)


def _flat_and_steps(x: Any) -> tuple[Any, int, int]:
    """Return a contiguous matrix as a flat array, and the elements from one row, and from one column, to the next."""
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return x.T.reshape(-1), 1, x.shape[0]
    return x.reshape(-1), x.shape[1], 1


@_body
def _update(out, w, dw, alpha, lo, hi):
    to, old, step = out[lo:hi], w[lo:hi], dw[lo:hi]
    for i in range(len(to)):
        to[i] = old[i] - alpha * step[i]


@_kernel(outputs=1)
def update(out, w, dw, alpha, workers):
    for worker in prange(workers):
        lo, hi = _span(w.size, worker, workers)
        _update(out, w, dw, alpha, lo, hi)


# ---- The engine: packed input, one fused pass per step ----
#
# Samples are taken in *leaves*, aligned chunks by global index; a leaf in *tiles*, whose activations fit the cache; a
# tile in *groups* of GROUP samples, the rows of a register tile. Parameters and gradients are *packed*: for each layer
# the columns of the transposed weights in panels of PANEL vectors, panel after panel, each (R, width), then the biases.
# A micro-kernel adds to GROUP rows: of Z in the forward pass, a group of samples over its list of active features; of
# the gradient in the backward pass, a group of features over its list of the tile's active samples.
#
# The lists come from a packed matrix, or are made on the way, tile by tile, from the rows of a plain one. Those of a
# hidden layer are made on the way as well: half of its activations are zero when training begins, more later on, and
# 0.70 of them where any of 3 samples that stand together counts. Without them 784-256-256-10 took 915 ms on one core of
# Zen 3, with them 840.
#
# Half of the gradients by what a hidden layer puts out are zero too, where its ReLU is shut. Where nothing is gained by
# the zeros of its input, the gradient by its weights is made unit by unit over the samples that count (`_add_by_unit`)
# and lies in rows, one for each unit, not in panels: a dense step of 784-128-10 took 575 ms, so 515.

TILE = 240  # samples; a multiple of every GROUP: two or three such activations of 128 units fit a 512 KiB cache
_FEW = 120  # samples up to which a step packs nothing,
_FEW_DENSE = 2000  # and as many where there are no zeros to be skipped
# Below this many multiply-adds of a forward pass one worker does everything: a launch beside the threads of BLAS, which
# spin on after a product, may take milliseconds. From here on two workers take two thirds of the time of one.
_PARALLEL_WORK = 1 << 20
# Leaves below a tile, so that a few hundred samples still make work for some cores; with 60 the gradients to be added
# take a tenth longer on two. All are multiples of every GROUP.
_LEAF_STEP, _LEAF_MULTIPLE = 120, 12
_MOST_LEAVES = 32  # more would cost more in adding gradients than they give in balance, until leaves are full
_FULL_LEAF = 8 * TILE
_FOLDED = 1 << 16  # subtrees summed up in a gradient are counted in so many, to which the number of a worker is added
# Numbers of 8 bytes in a cache line: what workers write by turns lies in rows so long, for a line goes back and forth.
_LINE = vector.LINE_BYTES // 8
_GROUP = vector.GROUP  # a constant to Numba, which an attribute of a module is not
# Rows that are copied and listed at a time, in the cache: whole groups of either kind.
_COPIED = -(-8 * vector.GROUP // vector.PADDING) * vector.PADDING

# Features are taken in parts, so that the rows of a panel that a part meets stay in the cache while a block of groups
# passes. A dense product reads the rows one after the other, and fewer parts repay it (45 GFLOP/s with one of 784, 43
# with two).
_LARGEST_PART = vector.CACHE_BYTES // (vector.PANEL * vector.VECTOR_BYTES)
_DENSE_PART = 1024

# Vectors in a row of a product from which on it repays listing the zeros of a hidden layer, or copying dense factors:
# either takes as long as a few multiply-adds for each of them.
_WIDE = 16

# Bytes of lists of a hidden layer that are made at a time, before they are used panel by panel.
_LISTED_BYTES = 200_000

# Features of dense samples that are copied at a time: whole groups, and an odd number of cache lines in float64.
_DENSE_FEATURES = 120

# A tile whose lists would hold more than this share of all features is stored dense: a list entry costs an index.
_DENSE_SHARE = 0.9

# Among how many samples of its leaf the next is chosen when they are put in order; all 1920 would gain 1 % more.
_WINDOW = 512

# Bytes of each row whose inner products are taken at a time: 7 such rows stay in a first-level cache.
_DOT_PART = 3200

# Products of a register tile: they repay loading and storing its sums, and a panel takes half of a first-level cache.
_FACTORS = 15_360 // (vector.PANEL * vector.VECTOR_BYTES)

# Units from which on it repays copying samples in order to skip some of them for each unit.
_REPAY_SKIPPING = 8

# Units whose samples are listed together: 3 MB of lists with a tile of samples.
_UNITS = 1024

# Rows of a product that repay copying the factors.
_REPAY_COPY = 24

# Samples of a plain matrix that are copied at a time where they do not lie in rows.
_BATCH = 8192

# A row of the layer table. Records, because Numba takes a tenth of the code for a field that it takes for an element.
_LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "n_in", "n_out", "columns", "rows", "at_w", "at_b", "at_back", "back_columns", "at_z", "ld", "at_flat",
            "part", "by_unit", "narrow",
        )
    ]
)  # fmt: skip


class Problem(NamedTuple):
    """What a pass computes with, besides a packed X: packed parameters, their layout, the tree over m samples, targets.

    ``labels`` (m,) int64 or ``targets`` (m, C); the other is empty. ``weight`` (m,). ``tile_start``, ``tile``,
    ``leaf_tiles`` and ``leaf`` are those of `_Tiles`. ``room`` is the size of each of the two buffers at the end of the
    scratch, which hold the gradients by activations; ``identity`` is 0, 1, 2, ..., the index of a dense product.

    If ``rows`` is not empty, the input is plain: samples from ``base`` on. If ``a`` is not empty, the forward pass is
    given: ``z`` and ``a`` are those of the one hidden layer, flat, ``targets`` the gradient by the logits.
    """

    packed: Any
    back: Any
    layers: Any
    finite: bool
    m: int
    tile_start: Any
    tile: int
    leaf_tiles: int
    leaf: int
    unit_leaves: int
    room: int
    identity: Any
    labels: Any
    targets: Any
    weight: Any
    rows: Any
    base: int
    z: Any
    a: Any


class Packed(NamedTuple):
    """A packed input matrix of m samples and n features.

    ``order`` (m,) is the sample at each position. For group q of samples and part r of the features, of ``part`` each,
    entries ``forward_start[q n_parts + r]`` to the following start of ``forward_index`` are the features in which any
    of its samples is not zero; their values stand in ``forward_value``, GROUP to an entry, or as uint8 in
    ``forward_code`` if the matrix is ``coded``: ``table`` (256,) decodes them. For tile t and group f of features,
    ``backward_*`` at ``t n_feature_groups + f`` are the tile's samples in which any of its features is not zero.
    ``dense_start[t]`` is -1, or where the rows of a dense tile begin in ``dense``, each of ``dense_ld`` elements.
    """

    order: Any
    forward_start: Any
    forward_index: Any
    forward_code: Any
    forward_value: Any
    backward_start: Any
    backward_stop: Any
    backward_index: Any
    backward_code: Any
    backward_value: Any
    coded: bool
    table: Any
    dense: Any
    dense_start: Any
    dense_ld: int
    part: int


class Lists(NamedTuple):
    """Room, per worker, for the rows of a block of samples and for the lists of a tile."""

    rows: Any
    forward_start: Any
    forward_index: Any
    forward_value: Any
    backward_start: Any
    backward_stop: Any
    backward_index: Any
    backward_value: Any


def _leaf_size(m: int) -> int:
    """Return the samples in a leaf of the summation tree over m samples: a function of m and of nothing else."""
    size = _LEAF_STEP
    if m > _MOST_LEAVES * _LEAF_STEP:
        size = min(_round_up(-(-m // _MOST_LEAVES), TILE), _FULL_LEAF)
    leaves = -(-m // size)
    leaves -= leaves % 2 if leaves > 1 else 0  # an even number, as even in size as may be: two workers share them alike
    return _round_up(-(-m // leaves), _LEAF_MULTIPLE)


class _Tiles(NamedTuple):
    """How m samples fall into tiles and these into leaves: tile t begins at sample ``start[t]``, the last ends at m.

    A leaf has ``per_leaf`` tiles and ``leaf`` samples, the last of them may have less; a tile has ``most`` samples, the
    last of a leaf may have less.
    """

    start: Any
    most: int
    per_leaf: int
    leaf: int


@functools.lru_cache(maxsize=64)
def _tiles(m: int) -> _Tiles:
    """Return the tiles of m samples; kernels only read the array."""
    leaf = _leaf_size(m)
    most = _round_up(-(-leaf // max(1, round(leaf / TILE))), _LEAF_MULTIPLE)
    within = np.arange(0, leaf, most)
    start = np.add.outer(np.arange(0, m, leaf), within).reshape(-1)
    return _Tiles(np.append(start[start < m], m), most, len(within), leaf)


def _aligned(count: int, dtype: Any) -> Any:
    """Return a flat array that begins on a cache line: NumPy's may straddle one with every vector."""
    return _aligned_parts(dtype, count)[0]


def _aligned_parts(dtype: Any, *counts: int) -> list[Any]:
    """Return flat arrays that begin on a cache line, of one piece of memory: asking where each lies takes 1 us."""
    line = vector.LINE_BYTES // np.dtype(dtype).itemsize
    raw = np.empty(sum(counts) + line * len(counts), dtype)
    start = -raw.ctypes.data % vector.LINE_BYTES // raw.itemsize
    parts = []
    for count in counts:
        parts.append(raw[start : start + count])
        start += _round_up(count, line)
    return parts


@_body
def _room(count, like):
    """Return a flat array of the dtype of ``like`` that begins on a cache line; memory made in a kernel may not.

    Where all rows of vectors lay askew, a dense step of 784-128-10 took 230 ms on a core of Zen 5, else 190.
    """
    raw = np.empty(count + vector.LINE_BYTES // like.itemsize, like.dtype)
    start = vector.line_start(raw)
    return raw[start : start + count]


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _row_stride(columns: int, itemsize: int) -> int:
    """Return the elements between rows: whole cache lines, an odd number of them.

    A power of two would put every row into the same few sets of a cache.
    """
    line = vector.LINE_BYTES // itemsize
    stride = _round_up(columns, line)
    return stride + line * (stride // line % 2 == 0)


def _part_size(n: int) -> int:
    """Return the features in a part: as few parts as may be, as even as may be."""
    return -(-n // -(-n // _LARGEST_PART))


@functools.lru_cache(maxsize=64)
def _identity(count: int) -> Any:
    """Return 0, 1, 2, ..., with which the product over a list is one over everything; kernels only read it."""
    return np.arange(count, dtype=np.int32)


def _first_and_rest(parameters: Any, sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Return views of the first layer's weights and of all that is behind them, in a flat vector."""
    split = sizes[0] * sizes[1]
    return parameters[:split], parameters[split:]


@functools.lru_cache(maxsize=64)
def _plan(sizes: tuple[int, ...], itemsize: int, tile: int, dense: bool) -> tuple[Any, int, int, int, int]:
    """Return the layer table, and the elements of packed parameters, backward panels, scratch and `Problem.room`.

    ``dense`` says that no zero of the input is skipped.
    """
    lanes = vector.VECTOR_BYTES // itemsize
    line = vector.LINE_BYTES // itemsize
    layers = np.zeros(len(sizes) - 1, _LAYER)
    packed = back = flat = 0
    rows = _round_up(tile, vector.PADDING)
    scratch = widest = 0
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        # One unit is one column: of a vector it would be one lane.
        columns = 1 if n_out == 1 and layer == 0 else _round_up(n_out, lanes)
        padded_rows = _round_up(n_in, vector.PADDING)
        back_columns = _round_up(n_in, lanes) if layer else 0
        ld = _row_stride(max(columns, _round_up(n_out, vector.PADDING)), itemsize)
        at_w = packed
        # Behind a ReLU gradients are zero where it is shut: those of a unit then make a row, not a column.
        gated = layer < len(sizes) - 2 and n_out >= _REPAY_SKIPPING and (layer > 0 or dense)
        # Rows without zeros to few units are narrow: weights and gradient lie in rows, whose vectors are full. Those of
        # columns are not where there are 10 classes: a step of 784-128-10 on a core of Zen 5 took 71 ms, so 69.
        narrow = layer == 0 and dense and n_out < _REPAY_SKIPPING and n_in >= _WIDE * lanes
        if 0 < layer == len(sizes) - 2:
            narrow = n_in >= 8 * lanes and 8 * n_out * _round_up(n_in, lanes) < 7 * n_in * _round_up(n_out, lanes)
        by_unit = _row_stride(n_in, itemsize) if gated or narrow else 0
        packed = _round_up(at_w + max(padded_rows * columns, n_out * by_unit), line)
        layers[layer] = (n_in, n_out, columns, padded_rows, at_w, packed, back, back_columns, scratch, ld, flat,
                         _part_size(n_in), by_unit, narrow)  # fmt: skip
        packed = _round_up(packed + columns, line)
        back += n_out * back_columns
        flat += n_out * (n_in + 1)
        scratch += rows * ld
        widest = max(widest, ld)
    # Factors of a group with their zeros, then two buffers for the gradients by activations.
    scratch += vector.GROUP * max(sizes[0], tile) + 2 * rows * widest
    return layers, packed, max(back, 1), _round_up(scratch, line), rows * widest


@_body
def _zero(x, at, count):
    # A loop: the assignment of a scalar to a slice takes Numba a second to compile wherever it stands.
    vector.outline()
    part = x[at : at + count]
    for k in range(count):
        part[k] = 0


@_body
def _copy(to, what):
    vector.outline()
    for k in range(len(to)):
        to[k] = what[k]


@_body
def _width(columns, first, lanes):
    """Return the width of the panel that begins at column ``first``; the last two share what one would leave short."""
    left, panel = columns - first, vector.PANEL * lanes
    if panel < left < 2 * panel:
        return -(-left // (2 * lanes)) * lanes
    return min(left, panel)


@_body
def _pack_weights(packed, flat, layer):
    """Copy a layer's weights into panels of the transpose, those of few units as they are; return if all are finite."""
    lanes = vector.VECTOR_BYTES // packed.itemsize
    n_in, n_out = layer.n_in, layer.n_out
    if layer.narrow > 0:
        return _copy_panel(packed[layer.at_w :], flat, layer.at_flat, n_in, n_out, n_in)
    bad = 0
    first = 0
    while first < layer.columns:
        width = _width(layer.columns, first, lanes)
        at = layer.at_w + first * layer.rows
        for c in range(width):
            if first + c < n_out:
                row = layer.at_flat + (first + c) * n_in
                for k in range(n_in):
                    packed[at + k * width + c] = flat[row + k]
                    bad |= flat[row + k] - flat[row + k] != 0
            else:
                for k in range(n_in):
                    packed[at + k * width + c] = 0
        first += width
    return bad == 0


@_serial
def _pack_parameters(packed, back, flat, layers, first_layer):
    """Copy the flat vector into panels of the transposed weights, and of the weights; return whether all are finite."""
    lanes = vector.VECTOR_BYTES // packed.itemsize
    finite = True
    for number in range(first_layer, len(layers)):
        layer = layers[number]
        n_in, n_out, columns, at_flat = layer.n_in, layer.n_out, layer.columns, layer.at_flat
        finite &= _pack_weights(packed, flat, layer)
        for c in range(columns):
            packed[layer.at_b + c] = flat[at_flat + n_out * n_in + c] if c < n_out else 0
        first = 0
        while first < layer.back_columns:
            width = _width(layer.back_columns, first, lanes)
            at = layer.at_back + first * n_out
            for k in range(n_out):
                row = at_flat + k * n_in + first
                for c in range(width):
                    back[at + k * width + c] = flat[row + c] if first + c < n_in else 0
            first += width
    return finite


@_body
def _decode_all(factors, at, code, value, coded, table, index, start, stop, length):
    """Set factors[at:] to the values of all ``length`` entries, zeros included."""
    vector.outline()
    group = vector.GROUP
    _zero(factors, at, length * group)
    for entry in range(start, stop):
        for g in range(group):
            k = entry * group + g
            factors[at + index[entry] * group + g] = table[code[k]] if coded else value[k]


@_body
def _forward_rows(z, at_z, ld, length, a, at_a, a_ld, packed, layer, identity):
    """Compute z (length, n_out) = a (length, n_in) W^T + bias, rows of ld and a_ld elements."""
    vector.outline()
    group, lanes = vector.DENSE_GROUP, vector.VECTOR_BYTES // z.itemsize
    n_in, columns, rows = layer.n_in, layer.columns, layer.rows
    _set_rows(z, at_z, ld, length, packed, layer.at_b, columns)
    if layer.narrow > 0:
        _inner_products(z, at_z, ld, a, at_a, a_ld, packed, layer.at_w, n_in, length, layer.n_out, n_in,
                        n_in * z.itemsize)  # fmt: skip
        return
    first = 0
    while first < columns:
        width = _width(columns, first, lanes)
        at_w = layer.at_w + first * rows
        for k in range(0, n_in, _DENSE_PART):
            for s in range(0, length, group):
                vector.tile(group, width // lanes, z, at_z + s * ld + first, ld, a, at_a + s * a_ld + k, 1, a_ld,
                      identity, k, packed, at_w, width, min(_DENSE_PART, n_in - k), 0)  # fmt: skip
        first += width


@_body
def _set_rows(z, at_z, ld, length, source, at, columns):
    """Set each of the rows, up to a multiple of PADDING, to the same ``columns`` elements."""
    vector.outline()
    what = source[at : at + columns]
    for s in range(-(-length // vector.PADDING) * vector.PADDING):
        row = z[at_z + s * ld : at_z + s * ld + columns]
        for c in range(columns):
            row[c] = what[c]


@_body
def _forward_input(z, at_z, ld, tile, first, length, x, packed, layer, finite, identity, factors, at_f):
    """Compute z (length, h) = x W1^T + bias of the samples of one tile, from lists or dense rows."""
    vector.outline()
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // z.itemsize
    part = x.part
    n, columns, rows = layer.n_in, layer.columns, layer.rows
    dense = x.dense_start[tile]
    if dense >= 0:
        _forward_rows(z, at_z, ld, length, x.dense, dense, x.dense_ld, packed, layer, identity)
        return
    _set_rows(z, at_z, ld, length, packed, layer.at_b, columns)
    parts = -(-n // part)
    q0 = first // group
    if finite:
        _forward_lists(z, at_z, ld, length, x.forward_start, q0 * parts, parts, x.forward_index, x.forward_code,
                       x.forward_value, x.coded, x.table, packed, layer.at_w, rows, columns)  # fmt: skip
        return
    # No zero may be skipped: it could meet infinity.
    for q in range(-(-length // group)):
        start, stop = x.forward_start[(q0 + q) * parts], x.forward_start[(q0 + q + 1) * parts]
        _decode_all(factors, at_f, x.forward_code, x.forward_value, x.coded, x.table, x.forward_index,
                    start, stop, n)  # fmt: skip
        c = 0
        while c < columns:
            width = _width(columns, c, lanes)
            vector.tile(group, width // lanes, z, at_z + q * group * ld + c, ld, factors, at_f, group, 1,
                  identity, 0, packed, layer.at_w + c * rows, width, n, 0)  # fmt: skip
            c += width


@_body
def _forward_lists(
    out, at, ld, length, starts, first, parts, index, code, value, coded, table, weights, at_w, rows, columns
):
    """Add to ``length`` rows of out what the lists from ``first`` on have times the weights, panels of ``rows`` rows.

    A list for each group of rows and each of the ``parts``.
    """
    vector.outline()
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // out.itemsize
    groups = -(-length // group)
    for block in range(0, groups, vector.BLOCK):
        c = 0
        while c < columns:
            width = _width(columns, c, lanes)
            at_b = at_w + c * rows
            for r in range(parts):
                for q in range(block, min(block + vector.BLOCK, groups)):
                    o = at + q * group * ld + c
                    start, stop = starts[first + q * parts + r], starts[first + q * parts + r + 1]
                    if coded:
                        vector.coded_tile(width // lanes, out, o, ld, code, start * group, table,
                              index, start, weights, at_b, width, stop - start)  # fmt: skip
                    else:
                        vector.tile(group, width // lanes, out, o, ld, value, start * group, group, 1,
                              index, start, weights, at_b, width, stop - start, 0)  # fmt: skip
            c += width


@_body
def _copy_panel(panel, b, p, b_row, count, width):
    """Copy ``count`` rows of ``width`` elements; return whether all are finite."""
    # Rows that are a power of two apart would take each other's place in the first-level cache.
    vector.outline()
    finite = True
    for k in range(count):
        to, what = panel[k * width : (k + 1) * width], b[p + k * b_row : p + k * b_row + width]
        for c in range(width):
            to[c] = what[c]
            finite &= what[c] - what[c] == 0
    return finite


@_body
def _add_by_unit(grad, o, o_row, d, at_d, ld, units, a, at_a, a_ld, length, begin, stop, fresh):
    """grad[o + u o_row + c] += sum_s d[at_d + s ld + u] a[at_a + s a_ld + c], s < length, begin <= c < stop.

    Without the samples in which d is zero: behind a ReLU about half of them. c takes whole vectors; set, if ``fresh``.
    """
    vector.outline()
    lanes = vector.VECTOR_BYTES // d.itemsize
    strip = vector.STRIPS[0] * lanes
    # Samples whose part of a lies in the first-level cache.
    block = -(-length // -(-length * strip * d.itemsize // vector.SPARSE_BYTES))
    some = min(units, _UNITS)
    blocks = -(-min(length, TILE) // block)
    rows, starts = _room(block * strip, d), np.empty(blocks * some + 1, np.int64)
    index, value = np.empty(blocks * block * some + 1, np.int32), np.empty(blocks * block * some + 1, d.dtype)
    for s in range(0, length, blocks * block):
        here = min(blocks * block, length - s)
        for u in range(0, units, some):
            count = min(some, units - u)
            entry = at = np.int64(0)
            for t in range(0, here, block):
                for one in range(count):
                    starts[at] = entry
                    at += 1
                    entry = vector.list_nonzero(1, index, value, entry, d, at_d + (s + t) * ld + u + one, ld, ld, 0,
                                                min(block, here - t))  # fmt: skip
            starts[at] = entry
            c = begin
            while c < stop:
                vectors = _strip((stop - c) // lanes)
                width = vectors * lanes
                for t in range(0, here, block):
                    at_c, samples = at_a + (s + t) * a_ld + c, min(block, here - t)
                    to, first = o + u * o_row + c, np.int64(fresh and s + t == 0)
                    if _copy_panel(rows, a, at_c, a_ld, samples, width):
                        vector.sparse_rows(vectors, first, count, grad, to, o_row, value, index, starts,
                              t // block * count, rows, 0, width)  # fmt: skip
                    else:
                        # No zero may be skipped: it could meet infinity.
                        _add_products(grad, to, o_row, d, at_d + (s + t) * ld + u, np.int64(1), ld, rows, np.int64(0),
                                      np.int64(1), width, count, width, samples, first != 0)  # fmt: skip
                c += width


@_body
def _strip(vectors):
    """Return how many of the vectors that are left `sparse_rows` takes next."""
    for one in vector.STRIPS:
        if one <= vectors:
            return one
    return 1


@_body
def _backward_rows(grad, d, at_d, ld, length, a, at_a, a_ld, layer, identity):
    """Add a^T d to the packed gradient of a layer; rows of a_ld and ld elements."""
    vector.outline()
    group, lanes = vector.DENSE_GROUP, vector.VECTOR_BYTES // d.itemsize
    columns, rows = layer.columns, layer.rows
    # Wide rows use a factor so often that it repays fetching it from afar on its own: 39.5 GFLOP/s become 42.
    copied = columns >= _WIDE * lanes
    factors = np.empty(vector.DENSE_SAMPLES * _DENSE_FEATURES if copied else 0, d.dtype)
    for s in range(0, length, vector.DENSE_SAMPLES):
        count = min(vector.DENSE_SAMPLES, length - s)
        for block in range(0, layer.n_in, _DENSE_FEATURES):
            some = -(-min(_DENSE_FEATURES, layer.n_in - block) // group) * group
            source, at, source_ld = a, at_a + s * a_ld + block, a_ld
            if copied:
                _copy_panel(factors, a, at, a_ld, count, some)
                source, at, source_ld = factors, np.int64(0), some
            c = 0
            while c < columns:
                width = _width(columns, c, lanes)
                for f in range(0, some, group):
                    o = layer.at_w + c * rows + (block + f) * width
                    vector.tile(group, width // lanes, grad, o, width, source, at + f, source_ld, 1,
                          identity, 0, d, at_d + s * ld + c, ld, count, 0)  # fmt: skip
                c += width


@_body
def _backward_narrow(grad, d, at_d, ld, length, a, at_a, a_ld, layer, identity):
    """Add d^T a to the gradient of a layer of few units: once through a for a few of them."""
    vector.outline()
    lanes = vector.VECTOR_BYTES // d.itemsize
    columns = -(-layer.n_in // lanes) * lanes
    c = 0
    while c < columns:
        width = _width(columns, c, lanes)
        u = 0
        while u < layer.n_out:
            group = _height(layer.n_out - u)
            o = layer.at_w + u * layer.by_unit + c
            vector.tile(group, width // lanes, grad, o, layer.by_unit, d, at_d + u, ld, 1,
                  identity, 0, a, at_a + c, a_ld, length, 0)  # fmt: skip
            u += group
        c += width


@_body
def _backward_input(grad, d, at_d, ld, tile, length, finite, x, layer, identity, factors, at_f):
    """Add x^T d of one tile to the packed gradient of W1."""
    vector.outline()
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // d.itemsize
    n, columns, rows = layer.n_in, layer.columns, layer.rows
    groups = -(-n // group)
    t0 = tile * groups
    dense = x.dense_start[tile]
    if dense >= 0:
        if layer.narrow > 0:
            _backward_narrow(grad, d, at_d, ld, length, x.dense, dense, x.dense_ld, layer, identity)
        elif layer.by_unit > 0:
            _add_by_unit(grad, layer.at_w, layer.by_unit, d, at_d, ld, layer.n_out, x.dense, dense, x.dense_ld, length,
                         np.int64(0), -(-n // lanes) * lanes, False)  # fmt: skip
        else:
            _backward_rows(grad, d, at_d, ld, length, x.dense, dense, x.dense_ld, layer, identity)
        return
    if finite:
        _backward_lists(grad, d, at_d, ld, x.backward_start, x.backward_stop, t0, groups, x.backward_index,
                        x.backward_code, x.backward_value, x.coded, x.table, layer)  # fmt: skip
        return
    # No zero may be skipped: it could meet infinity.
    for f in range(groups):
        _decode_all(factors, at_f, x.backward_code, x.backward_value, x.coded, x.table, x.backward_index,
                    x.backward_start[t0 + f], x.backward_stop[t0 + f], length)  # fmt: skip
        c = 0
        while c < columns:
            width = _width(columns, c, lanes)
            vector.tile(group, width // lanes, grad, layer.at_w + c * rows + f * group * width, width,
                  factors, at_f, group, 1, identity, 0, d, at_d + c, ld, length, 0)  # fmt: skip
            c += width


@_body
def _backward_lists(grad, d, at_d, ld, starts, stops, first, groups, index, code, value, coded, table, layer):
    """Add to a layer's packed gradient the rows of d times what the lists from ``first`` on have for its inputs."""
    vector.outline()
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // d.itemsize
    columns, rows = layer.columns, layer.rows
    for block in range(0, groups, vector.BLOCK):
        c = 0
        while c < columns:
            width = _width(columns, c, lanes)
            for f in range(block, min(block + vector.BLOCK, groups)):
                o = layer.at_w + c * rows + f * group * width
                start, stop = starts[first + f], stops[first + f]
                if coded:
                    vector.coded_tile(width // lanes, grad, o, width, code, start * group, table,
                          index, start, d, at_d + c, ld, stop - start)  # fmt: skip
                else:
                    vector.tile(group, width // lanes, grad, o, width, value, start * group, group, 1,
                          index, start, d, at_d + c, ld, stop - start, 0)  # fmt: skip
            c += width


@_body
def _backward_hidden(grad, e, at_e, d, at_d, ld, length, scratch, lists, worker, number, x, p):
    """Add a^T d to the gradient, and set e (length, n_in) = d W; a are the activations of the layer before."""
    lanes, layer = vector.VECTOR_BYTES // d.itemsize, p.layers[number]
    before = p.layers[number - 1]
    at_a, a_ld = before.at_z, before.ld
    if layer.narrow > 0:
        _backward_narrow(grad, d, at_d, ld, length, scratch, at_a, a_ld, layer, p.identity)
    elif layer.by_unit > 0:
        _add_by_unit(grad, layer.at_w, layer.by_unit, d, at_d, ld, layer.n_out, scratch, at_a, a_ld, length,
                     np.int64(0), -(-layer.n_in // lanes) * lanes, False)  # fmt: skip
    else:
        _backward_rows(grad, d, at_d, ld, length, scratch, at_a, a_ld, layer, p.identity)
    # A gradient by the activations of a hidden layer is zero where they are; one by the logits has no zeros.
    n_out, columns = layer.n_out, layer.back_columns
    if p.finite and number < len(p.layers) - 1 and columns >= _WIDE * lanes:
        for s in range(-(-length // vector.PADDING) * vector.PADDING):
            _zero(e, at_e + s * a_ld, columns)
        _list_and_add(e, at_e, a_ld, length, d, at_d, ld, n_out, p.layers[number + 1].part, p.back, layer.at_back,
                      n_out, columns, lists, worker, x)  # fmt: skip
        return
    group = vector.DENSE_GROUP
    c = 0
    while c < columns:
        width = _width(columns, c, lanes)
        for s in range(0, length, group):
            vector.tile(group, width // lanes, e, at_e + s * a_ld + c, a_ld, d, at_d + s * ld, 1, ld,
                  p.identity, 0, p.back, layer.at_back + c * n_out, width, n_out, 1)  # fmt: skip
        c += width


@_body
def _list_and_add(out, at, ld, length, a, at_a, a_ld, n, part, weights, at_w, rows, columns, lists, worker, x):
    """Add to ``length`` rows of out those of a (length, n) times the weights, without the zeros of a."""
    vector.outline()
    starts, index, value = lists.forward_start[worker], lists.forward_index[worker], lists.forward_value[worker]
    parts, zero = -(-n // part), np.int64(0)
    step = min((len(index) - 1) // n, (len(starts) - 1) // parts) * vector.GROUP  # what there is room for
    for s in range(length, -(-length // vector.GROUP) * vector.GROUP):
        # The last list must not depend on what lies behind the rows: how a tile groups its sums depends on the list.
        _zero(a, at_a + s * a_ld, n)
    for s in range(0, length, step):
        count = min(step, length - s)
        _list_forward(index, value, starts, zero, zero, a, at_a + s * a_ld, a_ld, count, n, part)
        _forward_lists(out, at + s * ld, ld, count, starts, zero, parts, index, x.forward_code, value, len(index) < 0,
                       x.table, weights, at_w, rows, columns)  # fmt: skip


@_body
def _gate(e, at_e, ld, length, count, gate, at, gate_ld):
    """Multiply ``length`` rows of ``count`` elements by whether the gate is positive."""
    vector.outline()
    zero, one = e.dtype.type(0), e.dtype.type(1)
    for s in range(length):
        row = e[at_e + s * ld : at_e + s * ld + count]
        open_ = gate[at + s * gate_ld : at + s * gate_ld + count]
        for c in range(count):
            # A product, not a selection: NaN and infinity survive a closed gate, as in the formulas.
            row[c] *= one if open_[c] > 0 else zero


# ---- Lists of what is not zero ----


@_body
def _copy_rows(buffer, ld, rows, order, first, length, base):
    """Copy the rows order[first:] - base into the buffer; zeros fill it up to whole groups of rows and features."""
    vector.outline()
    n, group = rows.shape[1], vector.GROUP
    for s in range(length):
        row, to = rows[order[first + s] - base], buffer[s * ld : (s + 1) * ld]
        for k in range(n):
            to[k] = row[k]
        for k in range(n, -(-n // group) * group):
            to[k] = 0
    for s in range(length, -(-length // group) * group):
        _zero(buffer, s * ld, n)


@_body
def _list_forward(index, value, starts, at, entry, rows, at_row, ld, length, n, part):
    """List, for each group of rows and each part, the features in which any row is not zero; return the end."""
    vector.outline()
    for s in range(0, length, vector.GROUP):
        for k in range(0, n, part):
            starts[at] = entry
            at += 1
            some = min(part, n - k)
            entry = vector.list_nonzero(_GROUP, index, value, entry, rows, at_row + s * ld + k, 1, ld, k, some)
    starts[at] = entry
    return entry


@_body
def _list_backward(index, value, stops, rows, at_row, ld, first, length, n):
    """Append, for each group of features, the rows in which any is not zero; they are numbered from ``first`` on."""
    vector.outline()
    for f in range(-(-n // vector.GROUP)):
        at = at_row + f * vector.GROUP
        stops[f] = vector.list_nonzero(_GROUP, index, value, stops[f], rows, at, ld, 1, first, length)


def _lists(workers: int, n: int, tile: int, dtype: Any, blocks: int, hidden: tuple[int, ...] = ()) -> Lists:
    """Return room for the backward lists of a tile, and for the forward lists of ``blocks`` blocks of samples.

    And, in the same memory, for forward lists of the hidden layers.
    """
    itemsize = np.dtype(dtype).itemsize
    ld = _row_stride(_round_up(n, vector.PADDING), itemsize)
    forward = [(blocks * _COPIED // vector.GROUP, n)]
    forward += [(max(1, _LISTED_BYTES // (width * (4 + vector.GROUP * itemsize))), width) for width in hidden]
    feature_groups = -(-n // vector.GROUP)
    # One entry more than a list can hold, because list_nonzero writes before it decides.
    entries, back_entries = max(groups * width for groups, width in forward) + 1, feature_groups * (tile + 1)

    def room(count: int, kind: Any) -> Any:
        return _aligned(workers * count, kind).reshape(workers, count)

    return Lists(
        room(_COPIED * ld, dtype),
        room(max(groups * -(-width // _part_size(width)) for groups, width in forward) + 1, np.int64),
        room(entries, np.int32),
        room(entries * vector.GROUP, dtype),
        np.arange(feature_groups) * (tile + 1),
        room(feature_groups, np.int64),
        room(back_entries, np.int32),
        room(back_entries * vector.GROUP, dtype),
    )


@functools.lru_cache(maxsize=64)
def _no_lists(workers: int, dtype: Any) -> Lists:
    """Return what takes the place of lists where none are made."""
    return _lists(workers, 1, 1, dtype, 1)


def _lists_of(workers: int, sizes: tuple[int, ...], tile: int, dtype: Any, *, plain: bool) -> Lists:
    """Return room for the lists of hidden layers before a wide one, and of a ``plain`` input."""
    listed = len(sizes) > 3 or sizes[-1] > (_WIDE - 1) * vector.VECTOR_BYTES // np.dtype(dtype).itemsize
    hidden = sizes[1:-1] if listed else ()
    if not plain and not hidden:
        return _no_lists(workers, dtype)
    return _lists(workers, sizes[0] if plain else 1, tile, dtype, 1, hidden)


@_body
def _at_factors(layers, tile):
    """Return where in the scratch the factors begin: behind the activations of the last layer."""
    last = layers[-1]
    return last.at_z + -(-tile // vector.PADDING) * vector.PADDING * last.ld


@_body
def _forward_plain(scratch, first, length, lists, worker, x, p):
    """Compute the first layer of a tile of plain rows, block by block."""
    buffer, layer, zero = lists.rows[worker], p.layers[0], np.int64(0)  # a literal has a type of its own
    at_z, ld, n, columns = layer.at_z, layer.ld, layer.n_in, layer.columns
    row_ld = len(buffer) // _COPIED
    for s in range(0, length, _COPIED):
        count = min(_COPIED, length - s)
        _copy_rows(buffer, row_ld, p.rows, p.identity, zero, count, p.base - first - s)
        if p.finite:
            _set_rows(scratch, at_z + s * ld, ld, count, p.packed, layer.at_b, columns)
            _list_and_add(scratch, at_z + s * ld, ld, count, buffer, zero, row_ld, n, layer.part, p.packed,
                          layer.at_w, layer.rows, columns, lists, worker, x)  # fmt: skip
        else:
            _forward_rows(scratch, at_z + s * ld, ld, count, buffer, zero, row_ld, p.packed, layer, p.identity)


@_body
def _backward_plain(grad, d, at_d, ld, first, length, finite, lists, worker, x, p):
    """Add x^T d of a tile of plain rows to the packed gradient of W1."""
    buffer, stops, layer, zero = lists.rows[worker], lists.backward_stop[worker], p.layers[0], np.int64(0)
    index, value = lists.backward_index[worker], lists.backward_value[worker]
    n = layer.n_in
    row_ld = len(buffer) // _COPIED
    _copy(stops, lists.backward_start)
    for s in range(0, length, _COPIED):
        count = min(_COPIED, length - s)
        _copy_rows(buffer, row_ld, p.rows, p.identity, zero, count, p.base - first - s)
        if finite:
            _list_backward(index, value, stops, buffer, zero, row_ld, s, count, n)
        else:
            _backward_rows(grad, d, at_d + s * ld, ld, count, buffer, zero, row_ld, layer, p.identity)
    if finite:
        _backward_lists(grad, d, at_d, ld, lists.backward_start, stops, zero, -(-n // vector.GROUP), index,
                        x.backward_code, value, len(index) < 0, x.table, layer)  # fmt: skip


@_body
def _forward(scratch, tile, first, length, lists, worker, x, p):
    """Leave in ``scratch`` the first hidden layer, before its ReLU, of a tile, which begins at ``first``."""
    vector.outline()
    if len(p.rows) > 0:
        _forward_plain(scratch, first, length, lists, worker, x, p)
    else:
        layer = p.layers[0]
        _forward_input(scratch, layer.at_z, layer.ld, tile, first, length, x, p.packed, layer, p.finite,
                       p.identity, scratch, _at_factors(p.layers, p.tile))  # fmt: skip


@_body
def _relu_rows(x, at, ld, length, count):
    vector.outline()
    for s in range(length):
        row = x[at + s * ld : at + s * ld + count]
        for c in range(len(row)):
            row[c] = _relu(row[c])


@_body
def _forward_hidden(scratch, length, lists, worker, x, p):
    """Leave in ``scratch`` the activations of the hidden layers and the logits."""
    vector.outline()
    layers, lanes = p.layers, vector.VECTOR_BYTES // scratch.itemsize
    for number in range(1, len(layers)):
        layer, before = layers[number], layers[number - 1]
        at_a, a_ld = before.at_z, before.ld
        at_z, ld, n_in, columns = layer.at_z, layer.ld, layer.n_in, layer.columns
        _relu_rows(scratch, at_a, a_ld, length, n_in)
        # About half of the activations are zero, and those of samples that stand together are so together.
        if p.finite and columns >= _WIDE * lanes:
            _set_rows(scratch, at_z, ld, length, p.packed, layer.at_b, columns)
            _list_and_add(scratch, at_z, ld, length, scratch, at_a, a_ld, n_in, layer.part, p.packed, layer.at_w,
                          layer.rows, columns, lists, worker, x)  # fmt: skip
        else:
            _forward_rows(scratch, at_z, ld, length, scratch, at_a, a_ld, p.packed, layer, p.identity)


@_body
def _turn(out, o, o_row, x, at, x_row, rows, columns, whole):
    """out[o + j o_row + i] = x[at + i x_row + j], i < rows, j < columns.

    If ``whole``, also for those beyond that make vectors whole, for which there must be room: vector by vector.
    """
    vector.outline()
    if whole:
        lanes = vector.VECTOR_BYTES // x.itemsize
        for i in range(0, rows, lanes):
            for j in range(0, columns, lanes):
                vector.transpose(out, o + j * o_row + i, o_row, x, at + i * x_row + j, x_row)
        return
    for i in range(rows):
        row = x[at + i * x_row : at + i * x_row + columns]
        for j in range(columns):
            out[o + j * o_row + i] = row[j]


@_body
def _loss_rows(loss, hit, d, at_d, z, at_z, ld, classes, labels, targets, weight, order, first, length, whole):
    """Set d to the gradient by the logits z of samples order[first:], rows of ``ld``, and loss and hit, by row, too.

    ``labels`` (m,) or ``targets`` (m, C), ``weight`` (m,). If ``whole``, rows of z and of d are whole vectors, and
    there is room for whole vectors of them; zeros then fill the columns of d from ``classes`` on.
    """
    vector.outline()
    lanes = vector.VECTOR_BYTES // z.itemsize
    block, padded = min(_LOSS_BLOCK, length), classes
    if whole:
        block, padded = -(-block // lanes) * lanes, -(-classes // lanes) * lanes
    buffers = _loss_buffers(z, block)
    shift, _, log_total, scale, best = buffers
    turned, turned_gradient = _room(padded * block, z), _room(padded * block, z)
    logits, gradient = (turned[: classes * block].reshape((classes, block)),
                        turned_gradient[: classes * block].reshape((classes, block)))  # fmt: skip
    _zero(turned_gradient, classes * block, (padded - classes) * block)
    labelled = len(labels) > 0
    y, w = np.empty((0 if labelled else classes, block), z.dtype), np.empty(block, z.dtype)
    for begin in range(0, length, block):
        width = min(block, length - begin)
        for s in range(width):
            j = order[first + begin + s]
            w[s] = weight[j]
            for c in range(len(y)):
                y[c, s] = targets[j, c]
        _turn(turned, np.int64(0), block, z, at_z + begin * ld, ld, width, classes, whole)
        if labelled:
            # What `_loss_columns` does where one target is 1 and all others are 0, with the same bits.
            _exponentials(gradient, buffers, logits, w, np.int64(0), width)
            for s in range(width):
                label = labels[order[first + begin + s]]
                loss[begin + s] = w[s] * (log_total[s] - (logits[label, s] - shift[s]))
                hit[begin + s] = w[s] if best[s] == label else z.dtype.type(0)
            for c in range(classes):
                row = gradient[c, :width]
                for s in range(width):
                    row[s] *= scale[s]
            for s in range(width):
                gradient[labels[order[first + begin + s]], s] -= w[s]
        else:
            _loss_columns(gradient, loss[begin:], hit[begin:], buffers, logits, y, w, np.int64(0), width)
        _turn(d, at_d + begin * ld, ld, turned_gradient, np.int64(0), block, padded, width, whole)


@_body
def _load_given(scratch, d, first, length, p):
    """Copy a tile of the activations and of the gradient by the logits into the scratch."""
    hidden, output = p.layers[0], p.layers[1]
    h, classes = hidden.n_out, output.n_out
    for s in range(length):
        at = hidden.at_z + s * hidden.ld
        _copy(scratch[at : at + h], p.a[(first + s) * h : (first + s + 1) * h])
        at = d + s * output.ld
        for c in range(output.columns):
            scratch[at + c] = p.targets[first + s, c] if c < classes else 0


@_body
def _add_rows(total, x, at, ld, length):
    """Add rows to ``total``; return whether it is finite, which it is only where all of them are."""
    vector.outline()
    width = len(total)
    fours = length // 4 * 4
    for s in range(0, fours, 4):
        # Four rows at once: the totals wait for one another a fourth as often.
        first = at + s * ld
        r0, r1 = x[first : first + width], x[first + ld : first + ld + width]
        r2, r3 = x[first + 2 * ld : first + 2 * ld + width], x[first + 3 * ld : first + 3 * ld + width]
        for c in range(width):
            total[c] += (r0[c] + r1[c]) + (r2[c] + r3[c])
    for s in range(fours, length):
        row = x[at + s * ld : at + s * ld + width]
        for c in range(width):
            total[c] += row[c]
    finite = True
    for c in range(len(total)):
        finite &= total[c] - total[c] == 0
    return finite


@_body
def _leaf(grad, sums, leaf, scratch, lists, worker, x, p):
    """Add the sums over the samples of one leaf to ``sums`` and to the packed gradient."""
    layers = p.layers
    last = len(layers) - 1
    plain, given = len(p.rows) > 0, len(p.a) > 0
    for tile in range(leaf * p.leaf_tiles, min((leaf + 1) * p.leaf_tiles, len(p.tile_start) - 1)):
        first = p.tile_start[tile]
        length = p.tile_start[tile + 1] - first
        e = len(scratch) - p.room
        d = e - p.room
        if given:
            _load_given(scratch, d, first, length, p)
        else:
            _forward(scratch, tile, first, length, lists, worker, x, p)
            _forward_hidden(scratch, length, lists, worker, x, p)
            loss, hit, top = np.empty(length, scratch.dtype), np.empty(length, scratch.dtype), layers[last]
            _loss_rows(loss, hit, scratch, d, scratch, top.at_z, top.ld, top.n_out,
                       p.labels, p.targets, p.weight, x.order, first, length, top.columns > 1)  # fmt: skip
            cost, right, weight = sums[leaf, 0], sums[leaf, 1], sums[leaf, 2]
            for s in range(length):
                cost += loss[s]
                right += hit[s]
                weight += p.weight[x.order[first + s]]
            sums[leaf, 0], sums[leaf, 1], sums[leaf, 2] = cost, right, weight
        for number in range(last, -1, -1):
            layer = layers[number]
            ld, n_in = layer.ld, layer.n_in
            finite = _add_rows(grad[layer.at_b : layer.at_b + layer.n_out], scratch, d, ld, length)
            if number > 0:
                before = layers[number - 1]
                _backward_hidden(grad, scratch, e, scratch, d, ld, length, scratch, lists, worker, number, x,
                                 p)  # fmt: skip
                if given:
                    _gate(scratch, e, before.ld, length, n_in, p.z, first * n_in, n_in)
                else:
                    _gate(scratch, e, before.ld, length, n_in, scratch, before.at_z, before.ld)
                d, e = e, d
            elif plain:
                _backward_plain(grad, scratch, d, ld, first, length, finite, lists, worker, x, p)
            else:
                _backward_input(grad, scratch, d, ld, tile, length, finite, x, layer, p.identity,
                                scratch, _at_factors(layers, p.tile))  # fmt: skip


@_body
def _add(left, right):
    vector.outline()
    for k in range(len(left)):
        left[k] += right[k]


@_body
def _add_top(grads, unit, stack, top, size):
    """Add the uppermost of ``top`` buffers on the stack to the one below, which of the first is the unit's gradient."""
    right = stack[(top - 1) * size : top * size]
    if top > 1:
        _add(stack[(top - 2) * size : (top - 1) * size], right)
    else:
        _add(grads[unit * size : (unit + 1) * size], right)


@_body
def _fold_own(grads, folded, unit, worker, size):
    """Add the unit's gradient, as a right half of the tree, to left ones as far as the same worker made them.

    ``folded[u, 0]`` says how many units the u-th gradient sums up, and who did it: see `_FOLDED`.
    """
    count = 1
    folded[unit, 0] = _FOLDED + worker
    while unit // count % 2 == 1 and folded[unit - count, 0] == count * _FOLDED + worker:
        unit -= count
        _add(grads[unit * size : (unit + 1) * size], grads[(unit + count) * size : (unit + count + 1) * size])
        count *= 2
        folded[unit, 0] = count * _FOLDED + worker


def _units_of(grads, folded, sums, stacks, scratches, shares, lists, x, p, worker, workers):
    """Fold the leaves of one subtree after the other into ``grads``, with a buffer for each level above the leaves.

    ``shares[worker]`` begins with the next subtree of its share and the end of that.
    """
    size = len(p.packed)
    stack, scratch = stacks[worker], scratches[worker]
    # Its own share first: what its cache holds of x and of gradients from the step before, it finds there. Then what
    # others have left, so that none waits for a worker whose core is slow or busy with something else.
    for turn in range(workers):
        share = shares[(worker + turn) % workers]
        unit = vector.take(share)
        while unit < share[1]:
            lo = unit * p.unit_leaves
            hi = min(lo + p.unit_leaves, -(-p.m // p.leaf))
            top = np.int64(-1)  # buffers on the stack; the first leaf needs none
            for leaf in range(lo, hi):
                top += 1
                buffer, at = (stack, (top - 1) * size) if top > 0 else (grads, unit * size)
                _zero(buffer, at, size)
                _leaf(buffer[at:], sums, leaf, scratch, lists, worker, x, p)
                done = leaf - lo + 1
                while done % 2 == 0:
                    _add_top(grads, unit, stack, top, size)
                    top -= 1
                    done //= 2
            for level in range(top, 0, -1):
                _add_top(grads, unit, stack, level, size)
            _fold_own(grads, folded, unit, worker, size)
            unit = vector.take(share)


@_large_kernel(_units_of)
def _units(launcher, address, grads, folded, sums, stacks, scratches, shares, lists, x, p, workers):
    vector.spread(launcher, address, (grads, folded, sums, stacks, scratches, shares, lists, x, p), workers)


@_body
def _fold(grads, folded, size, at, count):
    """Add ``count`` elements of the units' gradients in the tree's order; the sums are left in the first."""
    vector.outline()
    units = len(folded)
    stride = 1
    while stride < units:
        for left in range(0, units - stride, 2 * stride):
            if folded[left, 0] < 2 * stride * _FOLDED:
                _add(grads[left * size + at : left * size + at + count],
                     grads[(left + stride) * size + at : (left + stride) * size + at + count])  # fmt: skip
        stride *= 2


def _mean_of(flat, grads, folded, size, layers, total, worker, workers):
    lanes = vector.VECTOR_BYTES // grads.itemsize
    inverse = flat.dtype.type(1) / total  # a division takes eight times as long as a product
    number = 0
    for layer in layers:
        n_in, n_out, columns, by_unit = layer.n_in, layer.n_out, layer.columns, layer.by_unit
        first = 0
        while first < columns:
            width = _width(columns, first, lanes)
            stop = min(first + width, n_out)
            if number % workers == worker:
                at, count, step = layer.at_w + first * layer.rows, n_in * width, width
                if by_unit > 0:
                    at, count, step = layer.at_w + first * by_unit, (stop - first) * by_unit, 1
                _fold(grads, folded, size, at, count)
                _fold(grads, folded, size, layer.at_b + first, width)
                for c in range(stop - first):
                    begin = at + c * (by_unit if by_unit > 0 else 1)
                    row = flat[layer.at_flat + (first + c) * n_in : layer.at_flat + (first + c + 1) * n_in]
                    for k in range(n_in):
                        row[k] = grads[begin + k * step] * inverse
                    flat[layer.at_flat + n_out * n_in + first + c] = grads[layer.at_b + first + c] * inverse
            first += width
            number += 1


@_large_kernel(_mean_of)
def _mean(launcher, address, flat, grads, folded, size, layers, total, workers):
    """Set the flat vector to the sum of the units' packed gradients divided by ``total``; workers share the panels."""
    vector.spread(launcher, address, (flat, grads, folded, size, layers, total), workers)


def _outputs_of(out, z, a, scratches, lists, x, p, worker, workers):
    plain, hidden, last = len(p.rows) > 0, p.layers[0], p.layers[-1]
    # Plain rows are those of whole leaves.
    before, stop = p.base // p.leaf * p.leaf_tiles, p.base + len(p.rows) if plain else p.m
    tiles = min(-(-stop // p.leaf) * p.leaf_tiles, len(p.tile_start) - 1) - before
    scratch, h = scratches[worker], hidden.n_out
    for tile in range(before + tiles * worker // workers, before + tiles * (worker + 1) // workers):
        first = p.tile_start[tile]
        length = p.tile_start[tile + 1] - first
        _forward(scratch, tile, first, length, lists, worker, x, p)
        if len(z) > 0:
            for s in range(length):
                at = hidden.at_z + s * hidden.ld
                j = first + s if plain else x.order[first + s]
                row, z_row, a_row = scratch[at : at + h], z[j], a[j]
                for c in range(h):
                    z_row[c] = row[c]
                    a_row[c] = _relu(row[c])
        _forward_hidden(scratch, length, lists, worker, x, p)
        for s in range(length):
            j = first + s if plain else x.order[first + s]
            for c in range(last.n_out):
                out[c, j] = scratch[last.at_z + s * last.ld + c]


@_large_kernel(_outputs_of)
def _outputs(launcher, address, out, z, a, scratches, lists, x, p, workers):
    """Set ``out`` (C, m) to the logits, and z and a (m, h), unless they are empty, to the hidden layer."""
    vector.spread(launcher, address, (out, z, a, scratches, lists, x, p), workers)


# ---- Packing ----


@_body
def _bits(row, lo, hi):
    """Return a bit for each of the 64 runs ``lo`` to ``hi`` of 128 into which the features fall: any is not zero."""
    n = len(row)
    key = np.uint64(0)
    for b in range(lo, hi):
        some = 0
        for k in range(b * n // 128, (b + 1) * n // 128):
            some |= row[k] != 0
        key = (key << np.uint64(1)) | np.uint64(some)
    return key


@_body
def _chain(order, at, keys, window, count):
    """Set order[at : at + count] so that samples of like keys stand together: after each the nearest of a window.

    A group of 4 images of MNIST then shares 0.28 of the features; as stored 0.39.
    """
    vector.outline()
    filled = min(_WINDOW, count)
    for i in range(filled):
        window[i] = i
    following, nearest = filled, 0
    for position in range(at, at + count):
        sample = window[nearest]
        order[position] = at + sample
        if following < count:
            window[nearest] = following
            following += 1
        else:
            filled -= 1
            window[nearest] = window[filled]
        least = np.int64(129)
        for i in range(filled):
            other = window[i]
            distance = np.int64(vector.population_count(keys[other, 0] ^ keys[sample, 0]))
            distance += np.int64(vector.population_count(keys[other, 1] ^ keys[sample, 1]))
            if distance < least:
                least, nearest = distance, i


@_body
def _order_leaf(order, keys, window, rows, first, stop, base):
    for s in range(first, stop):
        for half in range(2):
            keys[s - first, half] = _bits(rows[s], 64 * half, 64 * (half + 1))
    _chain(order, base + first, keys, window, stop - first)


@_body
def _fill_tile(x, forward_value, backward_value, counts, lists, worker, rows, tile, begin, end, base):
    """Count the entries of a tile's lists, or, where ``counts`` are empty, fill in the lists or the dense rows."""
    forward, backward = counts
    n, group = rows.shape[1], vector.GROUP
    buffer, starts, stops = lists.rows[worker], lists.forward_start[worker], lists.backward_stop[worker]
    index, value = lists.forward_index[worker], lists.forward_value[worker]
    back_index, back_value = lists.backward_index[worker], lists.backward_value[worker]
    ld = len(buffer) // _COPIED
    parts = -(-n // x.part)
    entry = np.int64(0)
    _copy(stops, lists.backward_start)
    dense = len(forward) == 0 and x.dense_start[tile] >= 0
    for s in range(0, end - begin, _COPIED):
        count = min(_COPIED, end - begin - s)
        _copy_rows(buffer, ld, rows, x.order, begin + s, count, base)
        if dense:
            for i in range(count):
                at_row = x.dense_start[tile] + (s + i) * x.dense_ld
                row = x.dense[at_row : at_row + x.dense_ld]
                _copy(row[:n], buffer[i * ld : i * ld + n])
                _zero(row, n, len(row) - n)
        else:
            entry = _list_forward(index, value, starts, s // group * parts, entry, buffer, np.int64(0), ld, count, n,
                                  x.part)  # fmt: skip
            _list_backward(back_index, back_value, stops, buffer, np.int64(0), ld, s, count, n)
    if dense:
        return
    at, at_back = begin // group * parts, tile * len(stops)
    if len(forward) > 0:
        for k in range(-(-(end - begin) // group) * parts):
            forward[at + k] = starts[k + 1] - starts[k]
        for f in range(len(stops)):
            backward[at_back + f] = stops[f] - lists.backward_start[f]
        return
    to = x.forward_start[at]
    _copy(x.forward_index[to : to + entry], index)
    _copy(forward_value[to * group : (to + entry) * group], value)
    for f in range(len(stops)):
        start, stop = lists.backward_start[f], stops[f]
        to = x.backward_start[at_back + f]
        _copy(x.backward_index[to : to + stop - start], back_index[start:stop])
        _copy(backward_value[to * group : (to + stop - start) * group], back_value[start * group : stop * group])


def _fill_of(forward_value, backward_value, x, counts, lists, room, rows, base, tile_start, leaf, leaf_tiles, worker,
             workers):  # fmt: skip
    keys, windows = room
    leaves = -(-len(rows) // leaf)
    for one in range(leaves * worker // workers, leaves * (worker + 1) // workers):
        first, stop = one * leaf, min((one + 1) * leaf, len(rows))
        if len(keys) > 0:
            _order_leaf(x.order, keys[worker], windows[worker], rows, first, stop, base)
        before = (base // leaf + one) * leaf_tiles
        for tile in range(before, min(before + leaf_tiles, len(tile_start) - 1)):
            _fill_tile(x, forward_value, backward_value, counts, lists, worker, rows, tile, tile_start[tile],
                       tile_start[tile + 1], base)  # fmt: skip


@_large_kernel(_fill_of)
def _fill(
    launcher, address, forward_value, backward_value, x, counts, lists, room, rows, base, tile_start, leaf, leaf_tiles,
    workers
):  # fmt: skip
    """Count or fill, tile by tile, what is packed of ``rows``, those of whole leaves, whose first sample is ``base``.

    Where there is ``room`` for it, put the samples of each leaf in order before.
    """
    vector.spread(launcher, address, (forward_value, backward_value, x, counts, lists, room, rows, base, tile_start,
                  leaf, leaf_tiles), workers)  # fmt: skip


def _batches(rows: Any, dtype: Any, multiple: int) -> Iterator[tuple[int, Any]]:
    """Yield (first sample, rows in one piece of memory): all at once where they are so, else copies of some."""
    ready = rows.dtype == dtype and rows.flags.carray
    step = len(rows) if ready else multiple * max(1, _BATCH // multiple)
    for first in range(0, len(rows), step):
        yield first, _canonical(rows[first : first + step], dtype)


def _canonical(x: Any, dtype: Any) -> Any:
    """Return ``x`` as arrays in tuples must be: C-contiguous, aligned, writeable, a copy if need be.

    Numba forgets in a parallel shell that an array in a tuple is read-only, and compiles every body a second time.
    """
    return x if x.dtype == dtype and x.flags.carray else np.require(x, dtype, ["C", "A", "W"])


def _no_input(dtype: Any, n: int) -> Packed:
    """Return a packed matrix of no samples."""
    ints, longs, codes, values = (np.empty(0, kind) for kind in (np.int32, np.int64, np.uint8, dtype))
    return Packed(ints, longs, ints, codes, values, longs, longs, ints, codes, values, False, values, values, longs,
                  _row_stride(n, values.itemsize), _part_size(n))  # fmt: skip


def pack(matrix: Any) -> Any:
    """Return ``matrix`` (n, m), uint8, float32 or float64 in any layout, packed: see `Packed`; of few samples, rows."""
    n, m = matrix.shape
    if m <= _FEW:
        return _rows(matrix)
    rows, dtype = matrix.T, matrix.dtype
    group, groups = vector.GROUP, -(-m // vector.GROUP)
    tile_start, tile, leaf_tiles, leaf = _tiles(m)
    tiles = len(tile_start) - 1
    empty = _no_input(dtype, n)
    feature_groups, parts = -(-n // group), -(-n // empty.part)
    workers = min(_usable_threads(), -(-m // leaf))
    lists = _lists(workers, n, tile, dtype, -(-tile // _COPIED))
    forward, backward = np.zeros(groups * parts, np.int64), np.zeros(tiles * feature_groups, np.int64)
    packed = empty._replace(order=np.empty(m, np.int32))
    room = np.empty((workers, leaf, 2), np.uint64), np.empty((workers, _WINDOW), np.int64)
    for first, some in _batches(rows, dtype, leaf):
        _fill.launch(workers, empty.forward_value, empty.forward_value, packed, (forward, backward), lists, room, some,
                     first, tile_start, leaf, leaf_tiles)  # fmt: skip

    per_tile = np.add.reduceat(forward, tile_start[:-1] // group * parts)
    groups_per_tile = -(-np.diff(tile_start) // group)
    dense = (per_tile > _DENSE_SHARE * n * groups_per_tile) & (dtype != np.uint8)
    if m <= _FEW_DENSE and dense.all():
        return _rows(matrix)
    forward.reshape(groups, parts)[np.repeat(dense, groups_per_tile)] = 0
    backward.reshape(tiles, feature_groups)[dense] = 0
    forward_value, backward_value = (_aligned(int(one.sum()) * group, dtype) for one in (forward, backward))
    ends = np.concatenate(([0], np.cumsum(backward)))
    # A register tile may read a whole group of rows where the last has fewer.
    dense_rows = int(dense.sum()) * tile + vector.PADDING if dense.any() else 0
    packed = packed._replace(
        forward_start=np.concatenate(([0], np.cumsum(forward))),
        forward_index=np.empty(forward.sum(), np.int32),
        backward_start=ends[:-1],
        backward_stop=ends[1:],
        backward_index=np.empty(backward.sum(), np.int32),
        dense=_aligned(dense_rows * empty.dense_ld, dtype),
        dense_start=np.where(dense, (np.cumsum(dense) - 1) * (tile * empty.dense_ld), -1),
    )
    if dense.any():
        packed.dense[-vector.PADDING * empty.dense_ld :] = 0
    none, no_room = np.empty(0, np.int64), tuple(one[:0] for one in room)
    for first, some in _batches(rows, dtype, leaf):
        _fill.launch(workers, forward_value, backward_value, packed, (none, none), lists, no_room, some, first,
                     tile_start, leaf, leaf_tiles)  # fmt: skip
    if dtype == np.uint8:
        return packed._replace(forward_code=forward_value, backward_code=backward_value, coded=True)
    return packed._replace(forward_value=forward_value, backward_value=backward_value)


def _rows(matrix: Any) -> Any:
    """Return the samples of ``matrix`` (n, m) as rows, a copy that begins on a cache line."""
    rows = _aligned(matrix.size, matrix.dtype).reshape(matrix.shape[::-1])
    rows[:] = matrix.T
    return rows


def operands(x: Any, table: Any) -> Any:
    """Return what computes with a packed matrix in the dtype of ``table`` (256,): few samples of uint8 are decoded."""
    if isinstance(x, Packed) and x.coded:
        none = np.empty(0, table.dtype)
        return x._replace(table=_canonical(table, table.dtype), dense=none, forward_value=none, backward_value=none)
    return _rows(table[x].T) if isinstance(x, np.ndarray) and x.dtype == np.uint8 else x


def unpack(x: Any, n: int, table: Any) -> Any:
    """Return the packed matrix as a plain one (n, m), decoded by ``table`` (256,) if it holds uint8."""
    if isinstance(x, np.ndarray):
        return x.T.copy()
    group, m = vector.GROUP, len(x.order)
    values = table[x.forward_code] if x.coded else x.forward_value
    rows = np.zeros((m, n), values.dtype)
    starts = x.forward_start[:: -(-n // x.part)]
    group_of_entry = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    for g in range(group):
        position = group_of_entry * group + g
        there = position < m
        rows[x.order[position[there]], x.forward_index[there]] = values[g::group][there]
    tile_start = _tiles(m).start
    for t in np.flatnonzero(x.dense_start >= 0):
        samples = x.order[tile_start[t] : tile_start[t + 1]]
        first = x.dense_start[t]
        rows[samples] = x.dense[first : first + len(samples) * x.dense_ld].reshape(-1, x.dense_ld)[:, :n]
    return rows.T


def packed_facts(x: Any, n: int) -> tuple[str, int]:
    """Return the form ("dense", "sparse" or "mixed") and the bytes."""
    if isinstance(x, np.ndarray):
        return "dense", x.nbytes
    dense_tiles = np.count_nonzero(x.dense_start >= 0)
    kind = "sparse" if dense_tiles == 0 else "dense" if dense_tiles == len(x.dense_start) else "mixed"
    shared = x.backward_stop.nbytes  # in the memory of backward_start
    return kind, sum(a.nbytes for a in x if isinstance(a, np.ndarray)) - shared


# ---- Few samples: nothing is packed, because one pass over the parameters takes as long as the step ----
#
# Outputs of a layer lie sample by sample, as the rows of x do. Then nothing needs to be transposed: forward, units are
# inner products of two rows; backward, sums of rows. Workers share the samples in one phase, and in the next one the
# inputs of a layer, whose gradients sum over all samples; so bits do not depend on how many they are. Where samples are
# fewer than workers can share, the units of the first layer are shared in a phase before. Where parameters are fewer
# than the outputs of all samples, each part of the samples makes a gradient in the first phase, and the next one adds
# these: what a core has written is slow to come to another one with which it shares no cache.
_FIRST_LAYER, _SAMPLES, _PARAMETERS = 1, 2, 4

_PART = 125  # samples, about


@_body
def _add_products(out, o, o_row, a, at, a_row, a_k, b, p, b_c, b_k, rows, columns, count, fresh):
    """out[o + r o_row + c] += sum_k a[at + r a_row + k a_k] b[p + c b_c + k b_k], r < rows, c < columns, k < count.

    Set, where it is ``fresh``. No vectors: for what is shorter than one.
    """
    vector.outline()
    # Unsigned, because numbers that may be negative are tested for it, which takes as long as the products.
    next_a, next_b, zero = np.uint64(a_k), np.uint64(b_k), out.dtype.type(0)
    for r in range(rows):
        for c in range(columns):
            i, j = np.uint64(at + r * a_row), np.uint64(p + c * b_c)
            # Two sums, because one would wait for each addition before the next.
            even = odd = zero
            for _ in range(count // 2):
                even += a[i] * b[j]
                odd += a[i + next_a] * b[j + next_b]
                i += next_a + next_a
                j += next_b + next_b
            if count % 2 > 0:
                even += a[i] * b[j]
            to = np.uint64(o + r * o_row + c)
            out[to] = even + odd if fresh else out[to] + (even + odd)


@_body
def _inner_products(out, o, o_row, a, at, a_row, b, p, b_row, rows, columns, count, part):
    """out[o + r o_row + c] += sum_k a[at + r a_row + k] b[p + c b_row + k], r < rows, c < columns, k < count.

    ``part`` bytes of each row at a time.
    """
    vector.outline()
    # A part of each row at a time, so that those of a tile stay in the first-level cache beside the next ones of b; and
    # as many rows of b as a larger cache holds for all rows of a.
    lanes = vector.VECTOR_BYTES // out.itemsize
    if count < lanes:
        _add_products(out, o, o_row, a, at, a_row, np.int64(1), b, p, b_row, np.int64(1), rows, columns, count, False)
        return
    parts = -(-count * out.itemsize // part)
    length = -(-count // (parts * lanes)) * lanes
    block = vector.DOT_COLUMNS * max(1, vector.FACTOR_BYTES // (vector.DOT_COLUMNS * length * out.itemsize))
    copied = rows >= _REPAY_COPY
    panel = _room(min(block, columns) * length if copied else 0, out)
    for k in range(0, count, length):
        for first in range(0, columns, block):
            some, source, at_b, row = min(block, columns - first), b, p + first * b_row + k, b_row
            if copied:
                _copy_panel(panel, b, at_b, b_row, some, min(length, count - k))
                source, at_b, row = panel, np.int64(0), min(length, count - k)
            r = np.int64(0)
            while r < rows:
                height = vector.DOT_ROWS if rows - r >= vector.DOT_ROWS else 1
                c = np.int64(0)
                while c < some:
                    width = vector.DOT_COLUMNS if some - c >= vector.DOT_COLUMNS else min(some - c, 2)
                    vector.dot_tile(height, width, out, o + r * o_row + first + c, o_row, a, at + r * a_row + k, a_row,
                                    source, at_b + c * row, row, min(length, count - k))  # fmt: skip
                    c += width
                r += height


@_body
def _multiply(out, o, o_row, a, at, a_row, a_k, b, p, b_row, rows, columns, count, identity, worker, workers):
    """out[o + r o_row + c] = sum_k a[at + r a_row + k a_k] b[p + k b_row + c], r < rows, c < columns, k < count.

    Workers share the columns, in whole panels: every sum is made in the same way for any number of them.
    """
    vector.outline()
    # A block of a at a time, which stays in the second-level cache from one panel of b to the next, and of a panel as
    # many rows as the first level holds.
    lanes = vector.VECTOR_BYTES // out.itemsize
    step = min(_FACTORS, count)
    height = vector.PADDING * max(1, vector.FACTOR_BYTES // (vector.PADDING * step * out.itemsize))
    copied = rows >= _REPAY_COPY
    panel = _room(step * vector.PANEL * lanes if copied else 0, out)
    factors = np.empty(step * min(height, rows) if copied else 0, out.dtype)
    for k in range(0, count, step):
        for r in range(0, rows, height):
            _multiply_some(out, o + r * o_row, o_row, a, at + r * a_row + k * a_k, a_row, a_k, b, p + k * b_row, b_row,
                           min(height, rows - r), columns, min(step, count - k), identity, factors, panel, k == 0,
                           worker, workers)  # fmt: skip


@_body
def _multiply_some(out, o, o_row, a, at, a_row, a_k, b, p, b_row, rows, columns, count, identity, factors, panel,
                   fresh, worker, workers):  # fmt: skip
    """Do as `_multiply`, panel by panel of b; add unless ``fresh``.

    ``factors`` and ``panel`` have room for copies of a and of a panel, or none.
    """
    vector.outline()
    lanes = vector.VECTOR_BYTES // out.itemsize
    tiled_columns = columns // lanes * lanes
    panels = max(1, -(-tiled_columns // (vector.PANEL * lanes)))
    copied = len(panel) > 0
    if copied:
        _copy_factors(factors, a, at, a_row, a_k, rows, count)
    first = number = np.int64(0)
    while first < tiled_columns:
        width = _width(tiled_columns, first, lanes)
        if number * workers // panels == worker:
            source, at_b, row = b, p + first, b_row
            if copied:
                _copy_panel(panel, b, p + first, b_row, count, width)
                source, at_b, row = panel, np.int64(0), width
            r = np.int64(0)
            while r < rows:
                group = _height(rows - r)
                left, at_left, left_k, left_row = a, at + r * a_row, a_k, a_row
                if copied:
                    left, at_left, left_k, left_row = factors, r * count, group, 1
                vector.tile(group, width // lanes, out, o + r * o_row + first, o_row, left, at_left, left_k, left_row,
                      identity, 0, source, at_b, row, count, fresh)  # fmt: skip
                r += group
        first += width
        number += 1
    if worker == workers - 1 and tiled_columns < columns:
        _add_products(out, o + first, o_row, a, at, a_row, a_k, b, p + first, np.int64(1), b_row, rows,
                      columns - first, count, fresh)  # fmt: skip


@_body
def _height(rows):
    """Return how many of the rows that are left are the next tile's: all of an even number go into large ones."""
    if rows < vector.GROUP:
        return min(rows, 2)
    return vector.GROUP if rows % vector.DENSE_GROUP >= 2 else vector.DENSE_GROUP


@_body
def _copy_factors(factors, a, at, a_row, a_k, rows, count):
    """Copy the factors a[at + r a_row + k a_k] of register tiles, so that each tile reads one piece of memory."""
    vector.outline()
    r = 0
    while r < rows:
        group = _height(rows - r)
        for k in range(count):
            for g in range(group):
                factors[r * count + k * group + g] = a[at + (r + g) * a_row + k * a_k]
        r += group


@_body
def _few_layer(outputs, o, n_out, a, at, n_in, weights, at_w, bias, lo, hi, begin, stop):
    """Set the outputs of units begin to below stop, before their ReLU, for samples lo to below hi."""
    vector.outline()
    for s in range(lo, hi):
        row, what = outputs[o + s * n_out + begin : o + s * n_out + stop], bias[begin:stop]
        for c in range(len(row)):
            row[c] = what[c]
    # Where one tile has all units, a row of a is used once: whole rows stream better from afar.
    part = _DOT_PART if n_out > vector.DOT_COLUMNS else n_in * outputs.itemsize
    _inner_products(outputs, o + lo * n_out + begin, n_out, a, at + lo * n_in, n_in, weights, at_w + begin * n_in, n_in,
                    hi - lo, stop - begin, n_in, part)  # fmt: skip


@_body
def _few_forward(outputs, z, first_weights, rest, sizes, x, lo, hi, ready):
    """Set the outputs of every layer, hidden ones after their ReLU, for samples lo to below hi; z gets the first's.

    The first layer is ``ready`` where workers have shared its units.
    """
    vector.outline()
    m = len(x) // sizes[0]
    a, at, o, flat = x, np.int64(0), np.int64(0), np.int64(0)
    for layer in range(len(sizes) - 1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        weights, at_w = first_weights, np.int64(0)
        if layer > 0:
            weights, at_w = rest, flat
            flat += n_out * n_in
        if layer > 0 or not ready:
            _few_layer(outputs, o, n_out, a, at, n_in, weights, at_w, rest[flat : flat + n_out],
                       lo, hi, np.int64(0), n_out)  # fmt: skip
        flat += n_out
        rows = outputs[o + lo * n_out : o + hi * n_out]
        if layer == 0 and len(z) > 0:
            _copy(z[lo * n_out : hi * n_out], rows)
        if layer < len(sizes) - 2:
            for k in range(len(rows)):
                rows[k] = _relu(rows[k])
        a, at = outputs, o
        o += m * n_out


@_body
def _few_loss(losses, deltas, outputs, labels, targets, weight, total, identity, m, classes, lo, hi):
    """Set the losses and the gradient of the weighted mean by the logits for samples lo to below hi."""
    vector.outline()
    at_z, at_d = len(outputs) - m * classes + lo * classes, len(deltas) - m * classes + lo * classes
    _loss_rows(losses[0, lo:], losses[1, lo:], deltas, at_d, outputs, at_z, classes, classes,
               labels, targets, weight, identity, lo, hi - lo, False)  # fmt: skip
    # The mean is taken here, where the elements are few.
    scale = 1 / total
    for k in range(at_d, at_d + (hi - lo) * classes):
        deltas[k] *= scale


@_body
def _few_sums(sums, row, losses, weight, lo, hi):
    cost = right = total = 0.0
    for s in range(lo, hi):
        cost += losses[0, s]
        right += losses[1, s]
        total += weight[s]
    sums[row, 0], sums[row, 1], sums[row, 2] = cost, right, total


@_body
def _few_backward(deltas, gates, rest, layers, m, identity, lo, hi):
    """Set the gradients by what the hidden layers put out, from that by the logits, for samples lo to below hi."""
    vector.outline()
    sizes, strides = layers
    last = len(sizes) - 1
    d, o, flat = len(deltas) - m * strides[last], np.int64(0), len(rest)
    for layer in range(1, last):
        o += m * sizes[layer]
    for layer in range(last - 1, 0, -1):
        n_in, n_out, ld, below = sizes[layer], sizes[layer + 1], strides[layer + 1], strides[layer]
        e = d - m * below
        o -= m * n_in
        flat -= n_out * (n_in + 1)
        _multiply(deltas, e + lo * below, below, deltas, d + lo * ld, ld, np.int64(1), rest, flat, n_in,
                  hi - lo, n_in, n_out, identity, np.int64(0), np.int64(1))  # fmt: skip
        _gate(deltas, e + lo * below, below, hi - lo, n_in, gates, o + lo * n_in, n_in)
        d = e


@_body
def _few_gradient(first_gradient, rest_gradient, outputs, deltas, layers, x, lo, hi, identity, worker, workers):
    """Set the gradient over samples lo to below hi by a worker's share of the parameters: some inputs of each layer."""
    vector.outline()
    sizes, strides = layers
    m, lanes, count = len(x) // sizes[0], vector.VECTOR_BYTES // x.itemsize, hi - lo
    a, at, o, d, flat = x, lo * sizes[0], np.int64(0), np.int64(0), np.int64(0)
    for layer in range(len(sizes) - 1):
        n_in, n_out, ld = sizes[layer], sizes[layer + 1], strides[layer + 1]
        gradient, at_g, at_d = first_gradient, np.int64(0), d + lo * ld
        if layer > 0:
            gradient, at_g = rest_gradient, flat
            flat += n_out * n_in
        if layer < len(sizes) - 2 and n_out >= _REPAY_SKIPPING:
            # Workers share whole strips: every sum is made in the same way for any number of them.
            strip, whole = vector.STRIPS[0] * lanes, n_in // lanes * lanes
            strips = -(-whole // strip)
            begin, stop = strips * worker // workers * strip, strips * (worker + 1) // workers * strip
            _add_by_unit(gradient, at_g, n_in, deltas, at_d, ld, n_out, a, at, n_in, count, begin, min(stop, whole),
                         True)  # fmt: skip
            if worker == workers - 1 and whole < n_in:
                _add_products(gradient, at_g + whole, n_in, deltas, at_d, np.int64(1), ld, a, at + whole, np.int64(1),
                              n_in, n_out, n_in - whole, count, True)  # fmt: skip
        else:
            _multiply(gradient, at_g, n_in, deltas, at_d, np.int64(1), ld, a, at, n_in,
                      n_out, n_in, count, identity, worker, workers)  # fmt: skip
        if worker == workers - 1:
            _zero(rest_gradient, flat, n_out)
            _add_rows(rest_gradient[flat : flat + n_out], deltas, at_d, ld, count)
        flat += n_out
        a, at = outputs, o + lo * n_out
        o += m * n_out
        d += m * ld


@_body
def _add_parts(gradient, parts, size, begin, worker, workers):
    """Set a worker's share of the gradient to the sum of what begins at ``begin`` in each part of ``size`` elements."""
    lo, hi = len(gradient) * worker // workers, len(gradient) * (worker + 1) // workers
    to = gradient[lo:hi]
    _copy(to, parts[begin + lo : begin + hi])
    for part in range(size, len(parts), size):
        _add(to, parts[part + begin + lo : part + begin + hi])


def _few_of(outputs, deltas, first_gradient, rest_gradient, losses, sums, z, first_weights, rest, layers, x,
            labels, targets, weight, identity, parts, part, phase, worker, workers):  # fmt: skip
    sizes = layers[0]
    m, classes = len(x) // sizes[0], sizes[-1]
    given = len(z) > 0 and len(deltas) > 0
    if phase == _FIRST_LAYER:
        # Whole tiles of inner products: every sum is made in the same way for any number of workers.
        share = -(-sizes[1] // (workers * vector.DOT_COLUMNS)) * vector.DOT_COLUMNS
        begin, stop = min(worker * share, sizes[1]), min((worker + 1) * share, sizes[1])
        _few_layer(outputs, np.int64(0), sizes[1], x, np.int64(0), sizes[0], first_weights, np.int64(0), rest,
                   np.int64(0), m, begin, stop)  # fmt: skip
    size = len(first_gradient) + len(rest_gradient)
    if phase & _SAMPLES:
        total = weight.dtype.type(0)
        for s in range(len(weight)):
            total += weight[s]
        # Whole rows of tiles of inner products; other products do not show how rows are grouped.
        samples = part if part > 0 else -(-m // (workers * vector.DOT_ROWS)) * vector.DOT_ROWS
        count = -(-m // samples)
        for number in range(count * worker // workers, count * (worker + 1) // workers):
            lo, hi = number * samples, min((number + 1) * samples, m)
            if not given:
                _few_forward(outputs, z, first_weights, rest, sizes, x, lo, hi, not phase & _FIRST_LAYER)
            if len(weight) > 0:
                _few_loss(losses, deltas, outputs, labels, targets, weight, total, identity, m, classes, lo, hi)
            if len(deltas) > 0:
                _few_backward(deltas, z if given else outputs, rest, layers, m, identity, lo, hi)
            if part > 0:
                at = number * size
                _few_gradient(parts[at : at + len(first_gradient)], parts[at + len(first_gradient) : at + size],
                              outputs, deltas, layers, x, lo, hi, identity, np.int64(0), np.int64(1))  # fmt: skip
                _few_sums(sums, number, losses, weight, lo, hi)
    if phase & _PARAMETERS and len(deltas) > 0:
        if part > 0:
            _add_parts(first_gradient, parts, size, np.int64(0), worker, workers)
            _add_parts(rest_gradient, parts, size, len(first_gradient), worker, workers)
        else:
            _few_gradient(first_gradient, rest_gradient, outputs, deltas, layers, x, np.int64(0), m, identity,
                          worker, workers)  # fmt: skip
            if worker == 0 and len(weight) > 0:
                _few_sums(sums, np.int64(0), losses, weight, np.int64(0), m)


@_large_kernel(_few_of)
def _few(launcher, address, outputs, deltas, first_gradient, rest_gradient, losses, sums, z, first_weights, rest,
         layers, x, labels, targets, weight, identity, parts, part, phase, workers):  # fmt: skip
    """Do the phases of a pass over few samples: a layer by units, samples forward and back, then the parameters.

    ``outputs`` (m units) of all layers, and ``deltas``, the gradient by them, layer after layer; ``layers`` holds the
    sizes, and the elements from one row of a layer's deltas to the next. ``first_gradient`` and ``first_weights``
    (h n), the others behind in ``rest_gradient`` and ``rest``; losses (2, m): loss and weight of a right answer, added
    up, and the weight, in rows of ``sums``. What is empty is not asked for, or not given. With a weight, labels (m,) or
    targets (m, C) give the gradient by the logits. Without, it is given in ``deltas``, and z, a (m h) of the one
    hidden layer in z and ``outputs``; or there are no deltas, and z is set. Where ``part`` is not 0, the gradients over
    so many samples each are made in ``parts``, and added.
    """
    vector.spread(launcher, address, (outputs, deltas, first_gradient, rest_gradient, losses, sums, z, first_weights,
                  rest, layers, x, labels, targets, weight, identity, parts, part, phase), workers)  # fmt: skip


def _phases(m: int, workers: int, *, forward: bool, backward: bool) -> tuple[int, ...]:
    """Return the phases of each launch of a ``forward`` pass, unless it is given, and a ``backward`` one."""
    if workers == 1:
        return (_FIRST_LAYER | _SAMPLES | _PARAMETERS,)
    # Samples that leave workers idle share out the units of the layer that holds most weights.
    shared = forward and m < workers * vector.PADDING
    phases = (_FIRST_LAYER, _SAMPLES) if shared else (_FIRST_LAYER | _SAMPLES,)
    return (*phases, _PARAMETERS) if backward else phases


class _FewPlan(NamedTuple):
    """What a pass over few samples computes with, and the elements of its outputs and of the gradient by them.

    There are ``parts`` of ``part`` samples each, which make gradients of their own, or none (0).
    """

    layers: Any
    identity: Any
    multiply_adds: int
    outputs: int
    deltas: int
    part: int
    parts: int


@functools.lru_cache(maxsize=64)
def _few_plan(sizes: tuple[int, ...], m: int) -> _FewPlan:
    """Return sizes and strides as an array, the numbers 0, 1, 2, ..., the work of a forward pass, and what it takes."""
    strides = _strides(sizes)
    work = m * sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    outputs, parameters = m * sum(sizes[1:]), sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))
    # An even number of parts, which two workers share alike; of whole rows of tiles of inner products.
    part = _round_up(-(-m // _round_up(-(-m // _PART), 2)), vector.DOT_ROWS)
    parts = -(-m // part)
    if m <= _FEW or parts * parameters > 2 * outputs:
        part = parts = 0
    return _FewPlan(
        np.array([sizes, strides]), _identity(max(*sizes, m)), work, outputs, m * sum(strides[1:]), part, parts
    )


def _strides(sizes: tuple[int, ...]) -> list[int]:
    """Return the elements from one row of deltas to the next.

    Those of a unit are read one after the other: with a power of two all would fall into one set of a cache.
    """
    return [n if n < 64 else _row_stride(n, 8) for n in sizes[:-1]] + [sizes[-1]]


@functools.lru_cache(maxsize=4)
def _few_nothing(dtype: Any) -> dict[str, Any]:
    """Return the arguments of `_few`, in order, for what is neither given nor asked for."""
    none, matrix = np.empty(0, dtype), np.empty((0, 0), dtype)
    return {
        "outputs": none, "deltas": none, "first_gradient": none, "rest_gradient": none, "losses": matrix,
        "sums": np.empty((0, 0)), "z": none, "first_weights": none, "rest": none, "layers": none, "x": none,
        "labels": np.empty(0, np.int64), "targets": matrix, "weight": none, "identity": none,
        "parts": none, "part": 0,
    }  # fmt: skip


def _few_pass(sizes: tuple[int, ...], parameters: tuple[Any, Any], x: Any, **given: Any) -> Any:
    """Run `_few` with the arrays that are given, and return the outputs of all layers."""
    first_weights, rest = (_canonical(one, one.dtype) for one in parameters)
    dtype, m = rest.dtype, len(x)
    rows = _canonical(x, dtype).reshape(-1)
    plan = _few_plan(sizes, m)
    if "outputs" not in given:
        given["outputs"] = np.empty(plan.outputs, dtype)
    given |= {"first_weights": first_weights, "rest": rest, "layers": plan.layers, "x": rows, "identity": plan.identity}
    # Narrow layers are bound by reading x: an element of it, read twice, then takes the time of eight multiply-adds.
    workers = 1 if max(plan.multiply_adds, 8 * rows.size) < _PARALLEL_WORK else _usable_threads()
    backward, elements = "deltas" in given, 0
    if backward and plan.parts > 0:
        elements = plan.parts * (given["first_gradient"].size + given["rest_gradient"].size)
        given |= {"parts": np.empty(elements, dtype), "part": plan.part}
    arguments = (_few_nothing(dtype) | given).values()
    for phase in _phases(m, workers, forward=not (backward and "z" in given), backward=backward):
        adds_parts = phase == _PARAMETERS and elements > 0
        _few.launch(1 if adds_parts and elements < _PARALLEL_SIZE else workers, *arguments, phase)
    return given["outputs"]


# ---- What the engine does for a network ----


def _problem(parameters: Any, sizes: tuple[int, ...], m: int, x: Any, first_layer: int = 0) -> tuple[Problem, int]:
    """Return a problem with the packed parameters from a layer on, and the elements of a worker's scratch."""
    dense = isinstance(x, Packed) and len(x.dense) > 0 and bool((x.dense_start >= 0).all())
    dtype = parameters.dtype
    tiles = _tiles(m)
    layers, packed_size, back_size, scratch_size, room = _plan(sizes, dtype.itemsize, tiles.most, dense)
    packed, back = _aligned_parts(dtype, packed_size, back_size)
    finite = bool(_pack_parameters(packed, back, _read_only(parameters), layers, first_layer))
    identity = _identity(max(*sizes, tiles.most))
    none = np.empty(0, dtype)
    matrix = none.reshape(0, 1)
    return Problem(
        packed, back, layers, finite, m, *tiles, 1, room, identity, np.empty(0, np.int64), matrix, none, matrix, 0,
        none, none,
    ), scratch_size  # fmt: skip


def _input(x: Any, dtype: Any, n: int) -> tuple[Packed, Any]:
    """Return a packed input that computes in ``dtype``, and plain rows; one of the two is empty."""
    return (x, None) if isinstance(x, Packed) else (_no_input(dtype, n), x)


@functools.lru_cache(maxsize=64)
def _shares(first: int, stop: int, workers: int) -> Any:
    """Return the first of each worker's share of the subtrees and its end, in rows of a cache line."""
    shares = np.zeros((workers, _LINE), np.int64)
    ends = first + (stop - first) * np.arange(workers + 1) // workers
    shares[:, 0], shares[:, 1] = ends[:-1], ends[1:]
    return shares


def _set_gradient(
    gradient: Any, sizes: tuple[int, ...], problem: Problem, scratch_size: int, x: Packed, rows: Any, **given: Any
) -> tuple[float, float, float]:
    """Set the flat vector to the mean gradient; return the sums of loss, weight of right answers, weight.

    Targets and weight, or a forward pass, are ``given`` as members of the problem.
    """
    dtype, size = problem.packed.dtype, len(problem.packed)
    leaves = -(-problem.m // problem.leaf)
    sums = np.zeros((leaves, _LINE))
    threads = _usable_threads()
    workers = min(threads, leaves)
    # Subtrees of the one tree: how many there are changes who adds, not what is added to what.
    unit_leaves = 1
    while leaves > 8 * workers * unit_leaves:
        unit_leaves *= 2
    units = -(-leaves // unit_leaves)
    buffers = unit_leaves.bit_length() - 1
    grads, *rooms = _aligned_parts(dtype, units * size, workers * buffers * size, workers * scratch_size)
    stacks, scratches = (one.reshape(workers, -1) for one in rooms)
    folded = np.zeros((units, _LINE), np.int64)
    problem = problem._replace(unit_leaves=unit_leaves, **given)
    lists = _lists_of(workers, sizes, problem.tile, dtype, plain=rows is not None)
    if rows is None:
        shares = _shares(0, units, workers).copy()
        _units.launch(workers, grads, folded, sums, stacks, scratches, shares, lists, x, problem)
    else:
        unit = problem.leaf * unit_leaves
        for first, some in _batches(rows, dtype, unit):
            here = problem._replace(rows=some, base=first)
            shares = _shares(first // unit, -(-(first + len(some)) // unit), workers).copy()
            _units.launch(workers, grads, folded, sums, stacks, scratches, shares, lists, x, here)
    loss, hit, total = np.add.reduce(sums[:, :3], axis=0)
    if len(problem.a) > 0:  # the forward pass is given, and no weight
        total = problem.m
    workers = 1 if len(grads) < _PARALLEL_SIZE else threads
    _mean.launch(workers, gradient, grads, folded, size, problem.layers, dtype.type(total))
    return float(loss), float(hit), float(total)


def network_step(
    gradient: Any, parameters: Any, sizes: tuple[int, ...], x: Any, table: Any, y: Any, weight: Any
) -> tuple[float, float, float]:
    """Set ``gradient`` to the weighted mean gradient; return the sums of loss, weight of right answers, weight.

    parameters and gradient (k,) flat, y labels (m,) int64 or targets (C, m), weight (m,).
    """
    dtype = parameters.dtype
    weight = _canonical(weight, dtype)
    target = {"labels": _canonical(y, np.int64)} if y.ndim == 1 else {"targets": _canonical(y.T, dtype)}
    if isinstance(x, np.ndarray):
        return _few_step(gradient, parameters, sizes, x, weight=weight, **target)
    problem, scratch_size = _problem(parameters, sizes, len(x.order), x)
    x, rows = _input(x, dtype, sizes[0])
    return _set_gradient(gradient, sizes, problem, scratch_size, x, rows, weight=weight, **target)


def _few_step(
    gradient: Any, parameters: Any, sizes: tuple[int, ...], x: Any, **target: Any
) -> tuple[float, float, float]:
    """Do `network_step` for few samples, rows (m, n); weight (m,) and labels (m,) or targets (m, C) by name."""
    dtype, m = parameters.dtype, len(x)
    plan = _few_plan(sizes, m)
    deltas, losses = np.empty(plan.deltas, dtype), np.empty((2, m), dtype)
    sums = np.zeros((max(plan.parts, 1), _LINE))
    first_gradient, rest_gradient = _first_and_rest(gradient, sizes)
    _few_pass(sizes, _first_and_rest(parameters, sizes), x, deltas=deltas, first_gradient=first_gradient,
              rest_gradient=rest_gradient, losses=losses, sums=sums, **target)  # fmt: skip
    loss, hit, total = (np.add.reduce(sums, axis=0) if len(sums) > 1 else sums[0]).tolist()[:3]
    return loss, hit, total


def backward(n: int, w2: Any, x: Any, table: Any, z: Any, a: Any, delta: Any) -> tuple[Any, Any, Any, Any]:
    """Return the mean gradient by W1, b1, W2, b2 of a net of one hidden layer whose forward pass is given.

    x rows (m, n) or packed; z, a (h, m); delta (C, m) the gradient by the logits.
    """
    dtype, (classes, h), m = w2.dtype, w2.shape, z.shape[1]
    sizes = (n, h, classes)
    gradient = np.empty(h * (n + 1) + classes * (h + 1), dtype)
    split = h * n
    if m <= _FEW:
        deltas = np.empty(_few_plan(sizes, m).deltas, dtype)
        np.divide(delta.T, dtype.type(m), out=deltas[len(deltas) - m * classes :].reshape(m, classes))
        z, a = (_canonical(one.T, dtype).reshape(-1) for one in (z, a))
        rest = np.concatenate((np.empty(h, dtype), w2.reshape(-1), np.empty(classes, dtype)))
        first_gradient, rest_gradient = _first_and_rest(gradient, sizes)
        _few_pass(sizes, (np.empty(0, dtype), rest), x, deltas=deltas, outputs=a, z=z,
                  first_gradient=first_gradient, rest_gradient=rest_gradient)  # fmt: skip
    else:
        parameters = np.empty_like(gradient)
        parameters[split + h : -classes] = w2.reshape(-1)
        problem, scratch_size = _problem(parameters, sizes, m, x, first_layer=1)
        x, rows = _input(x, dtype, n)
        given = (one.T if rows is not None else one.T[x.order] for one in (z, a, delta))
        z, a, targets = (_canonical(one, dtype) for one in given)
        _set_gradient(gradient, sizes, problem, scratch_size, x, rows, z=z.reshape(-1), a=a.reshape(-1),
                      targets=targets)  # fmt: skip
    dw1, db1, dw2, db2 = np.split(gradient, (split, split + h, len(gradient) - classes))
    return dw1.reshape(h, n), db1.reshape(h, 1), dw2.reshape(classes, h), db2.reshape(classes, 1)


def forward(w1: Any, b1: Any, w2: Any, b2: Any, x: Any, table: Any) -> tuple[Any, Any, Any]:
    """Return z, a (h, m) and the logits (C, m) of a net of one hidden layer; x rows (m, n) or packed."""
    m = len(x.order) if isinstance(x, Packed) else len(x)
    dtype, (h, n), classes = w1.dtype, w1.shape, len(w2)
    sizes = (n, h, classes)
    rest = np.concatenate([one.reshape(-1) for one in (b1, w2, b2)])
    if m <= _FEW:
        z = np.empty(m * h, dtype)
        outputs = _few_pass(sizes, (w1.reshape(-1), rest), x, z=z)
        a, out = outputs[: m * h], outputs[m * h :].reshape(m, classes).T
        return z.reshape(m, h).T, a.reshape(m, h).T, np.ascontiguousarray(out)
    z, a = np.empty((2, m, h), dtype)
    out = np.empty((classes, m), dtype)
    _network_outputs(out, z, a, np.concatenate((w1.reshape(-1), rest)), sizes, x, m)
    return z.T, a.T, out


def network_logits(out: Any, parameters: Any, sizes: tuple[int, ...], x: Any, table: Any) -> None:
    """Set ``out`` (C, m) to the logits, samples in the caller's order."""
    if isinstance(x, np.ndarray):
        outputs = _few_pass(sizes, _first_and_rest(parameters, sizes), x)
        out[:] = outputs[len(outputs) - out.size :].reshape(-1, sizes[-1]).T
        return
    none = np.empty((0, 0), parameters.dtype)
    _network_outputs(out, none, none, parameters, sizes, x, len(x.order))


def _network_outputs(out: Any, z: Any, a: Any, parameters: Any, sizes: tuple[int, ...], x: Any, m: int) -> None:
    dtype = parameters.dtype
    problem, scratch_size = _problem(parameters, sizes, m, x)
    x, rows = _input(x, dtype, sizes[0])
    workers = min(_usable_threads(), -(-m // problem.tile))
    scratches = _aligned(workers * scratch_size, dtype).reshape(workers, scratch_size)
    lists = _lists_of(workers, sizes, 1, dtype, plain=rows is not None)
    if rows is None:
        _outputs.launch(workers, out, z, a, scratches, lists, x, problem)
        return
    for first, some in _batches(rows, dtype, problem.leaf):
        _outputs.launch(workers, out, z, a, scratches, lists, x, problem._replace(rows=some, base=first))


def warmup(dtype: Any) -> None:
    """Compile, or load from the cache, both shells of every kernel for ``dtype``; to be called for one thread."""
    x = np.ones((1, 1), dtype)
    row = x[0]
    one_hot(np.ones((1, 1)), np.zeros(1, np.int64))  # the notebook's encoding is float64 always
    one_hot(x.copy(), np.zeros(1, np.int64))
    relu(row.copy(), row)
    relu_mask(x.copy(), x.copy(), np.ones((1, 1), np.bool_), x)
    softmax_columns(x.copy(), x)
    softmax_cross_entropy_grad(x.copy(), row.copy(), row.copy(), x, x, row)
    output_delta(x.copy(), x, x)
    bias_sum(x.copy(), x)
    cross_entropy(x, x)
    update(row.copy(), row, row, x.dtype.type(0))
    parameters = np.ones(2, dtype)
    for matrix in (x, np.ones((1, _FEW + 1), dtype), np.ones((1, _FEW + 1), np.uint8)):
        m = matrix.shape[1]
        table, labels, weight = np.ones(256, dtype), np.zeros(m, np.int64), np.ones(m, dtype)
        packed = operands(pack(matrix), table)
        network_step(parameters.copy(), parameters, (1, 1), packed, table, labels, weight)
        network_logits(np.empty((1, m), dtype), parameters, (1, 1), packed, table)
    for kernel in _KERNELS.values():
        kernel.warmup()


def max_threads() -> int | None:
    """Return how many threads Numba can launch in this process."""
    return int(config.NUMBA_NUM_THREADS)


def limits_threads(n: int) -> bool:
    """Return whether kernels on ``n`` threads need `limited_threads`: one thread runs the serial shells."""
    return n > 1 and not _forked_after_launch and n != _numba_threads()


@contextlib.contextmanager
def limited_threads(n: int) -> Iterator[None]:
    """Let no more than ``n`` of Numba's threads wake when this Python thread launches a kernel."""
    previous = int(numba.get_num_threads())
    numba.set_num_threads(n)
    try:
        yield
    finally:
        numba.set_num_threads(previous)


def cache_statistics() -> dict[str, tuple[int, int]]:
    """Return (hits, misses) of the compile cache, summed per kernel over what it compiles."""
    totals = {}
    for name, kernel in _KERNELS.items():
        stats = [dispatcher.stats for dispatcher in kernel.dispatchers()]
        totals[name] = (
            sum(sum(one.cache_hits.values()) for one in stats),
            sum(sum(one.cache_misses.values()) for one in stats),
        )
    for name, dispatcher in _SINGLE.items():
        hits, misses = dispatcher.stats.cache_hits, dispatcher.stats.cache_misses
        totals[name] = (sum(hits.values()), sum(misses.values()))
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
        "compile cache": relu.serial._cache.cache_path or "none: no writeable folder",
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }


_VECTOR_BITS = (({"avx512f"}, 512), ({"avx", "avx2"}, 256))
