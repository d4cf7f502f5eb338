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
import functools
import hashlib
import inspect
import math
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba import config, njit, prange
from numba.core.caching import FunctionCache, IndexDataCacheFile
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
        self.launch(1 if size < _PARALLEL_SIZE else _usable_threads(), *args)

    def launch(self, workers: int, *args: Any) -> None:
        """Run for ``workers`` workers: in parallel where that is safe now, else one after the other."""
        if workers == 1 or _forked_after_launch:
            self.serial(*args, workers)
        elif _layer_is_threadsafe():
            self.parallel(*args, workers)
        elif _layer_lock.acquire(blocking=False):
            try:
                self.parallel(*args, workers)
            finally:
                _layer_lock.release()
        else:
            self.serial(*args, workers)


def _usable_threads() -> int:
    """Return how many workers a launch may use now; asking Numba starts its threads, which a forked child must not."""
    return 1 if _forked_after_launch else int(numba.get_num_threads())


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


# ---- The engine: packed input, one fused pass per step ----
#
# Samples are taken in *leaves*, aligned chunks by global index; a leaf in *tiles*, whose activations fit the cache; a
# tile in *groups* of GROUP samples, the rows of a register tile. Parameters and gradients are *packed*: for each layer
# the columns of the transposed weights in panels of PANEL vectors, panel after panel, each (R, width), then the biases.
# A micro-kernel adds to GROUP rows: of Z in the forward pass, a group of samples over its list of active features; of
# the gradient in the backward pass, a group of features over its list of the tile's active samples.

TILE = 240  # samples; a multiple of every GROUP: two or three such activations of 128 units fit a 512 KiB cache
_LEAF_STEP = 60  # leaves below a tile, so that a few hundred samples still make work for some cores
_MOST_LEAVES = 32  # more would cost more in adding gradients than they give in balance, until leaves are full
_FULL_LEAF = 8 * TILE
_BLOCK = 8  # groups whose factors are decoded together, to be used by one panel after the other

# Features are taken in parts, so that the rows of a panel that a part meets stay in a 32 KiB first-level cache while a
# block of groups passes: 45 GFLOP/s a core where whole panels, from the second level, gave 34.
_PART = 24576 // (vector.PANEL * vector.VECTOR_BYTES) // 12 * 12

# A tile whose lists would hold more than this share of all features is stored dense: a list entry costs an index.
_DENSE_SHARE = 0.9

_N_IN, _N_OUT, _COLUMNS, _ROWS, _AT_W, _AT_B, _AT_BACK, _BACK_COLUMNS, _AT_Z, _LD, _AT_FLAT = range(11)


class Problem(NamedTuple):
    """What a step computes with, besides X: packed parameters, their layout, the tree over m samples, and targets.

    ``labels`` (m,) int64 or ``targets`` (m, C); the other is empty. ``weight`` (m,). ``room`` is the size of each of
    the two buffers at the end of the scratch, which hold the gradients by activations; ``identity`` is 0, 1, 2, ...,
    the index of a dense product.
    """

    packed: Any
    back: Any
    layers: Any
    finite: bool
    tile: int
    leaf: int
    unit_leaves: int
    room: int
    identity: Any
    labels: Any
    targets: Any
    weight: Any


class Packed(NamedTuple):
    """A packed input matrix of m samples and n features.

    ``order`` (m,) is the sample at each position. For group q of samples and part r of the features, entries
    ``forward_start[q n_parts + r]`` to the following start of ``forward_index`` are the features in which any of its
    samples is not zero, and ``forward_value`` their values, GROUP to an entry. For tile t and group f of features,
    ``backward_*`` from ``t n_feature_groups + f`` on are the tile's samples in which any of its features is not zero.
    Values are held as bytes, whatever they are, so that the kernels are compiled once for both: ``coded`` tells uint8,
    which ``table`` (256,) decodes, from values in the dtype that is computed in. ``dense_row[t]`` is -1, or where the
    rows of a dense tile begin in ``dense``, row-major.
    """

    order: Any
    forward_start: Any
    forward_index: Any
    forward_value: Any
    backward_start: Any
    backward_index: Any
    backward_value: Any
    coded: bool
    table: Any
    dense: Any
    dense_row: Any


def _leaf_size(m: int) -> int:
    """Return the samples in a leaf of the summation tree over m samples: a function of m and of nothing else."""
    size = -(-m // _MOST_LEAVES)
    size = -(-size // _LEAF_STEP) * _LEAF_STEP
    return min(size, _FULL_LEAF) if size <= TILE else min(-(-size // TILE) * TILE, _FULL_LEAF)


def _aligned(count: int, dtype: Any) -> Any:
    """Return a flat array that begins on a cache line: NumPy's may straddle one with every vector."""
    raw = np.empty(count * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * np.dtype(dtype).itemsize].view(dtype)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


@functools.lru_cache(maxsize=64)
def _plan(sizes: tuple[int, ...], itemsize: int, tile: int) -> tuple[Any, int, int, int, int]:
    """Return the layer table, and the elements of packed parameters, backward panels, scratch and `Problem.room`."""
    lanes = vector.VECTOR_BYTES // itemsize
    line = 64 // itemsize
    layers = np.zeros((len(sizes) - 1, 11), np.int64)
    packed = back = flat = 0
    rows = _round_up(tile, vector.GROUP)
    scratch = widest = 0
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        columns, padded_rows = _round_up(n_out, lanes), _round_up(n_in, vector.GROUP)
        back_columns = _round_up(n_in, lanes) if layer else 0
        # An odd number of cache lines to a row: a power of two would put every row into the same few sets.
        ld = _round_up(max(columns, _round_up(n_out, vector.GROUP)), line)
        ld += line * (ld // line % 2 == 0)
        at_w = packed
        packed = _round_up(at_w + padded_rows * columns, line)
        layers[layer] = (n_in, n_out, columns, padded_rows, at_w, packed, back, back_columns, scratch, ld, flat)
        packed = _round_up(packed + columns, line)
        back += n_out * back_columns
        flat += n_out * (n_in + 1)
        scratch += rows * ld
        widest = max(widest, ld)
    # The decoded factors of a block of groups, then two buffers for the gradients by activations.
    scratch += _BLOCK * vector.GROUP * max(sizes[0], tile) + 2 * rows * widest
    return layers, packed, max(back, 1), _round_up(scratch, line), rows * widest


@_body
def _zero(x, at, count):
    # A loop: the assignment of a scalar to a slice takes Numba a second to compile wherever it stands.
    part = x[at : at + count]
    for k in range(count):
        part[k] = 0


@_body
def _pack_parameters(packed, back, flat, layers):
    """Copy the flat vector into panels of the transposed weights, and of the weights; return whether W1 is finite."""
    lanes = vector.VECTOR_BYTES // packed.itemsize
    panel = vector.PANEL * lanes
    bad = 0
    for layer in range(len(layers)):
        n_in, n_out, columns, rows, at_w, at_b, at_back, back_columns, _, _, at_flat = layers[layer]
        for first in range(0, columns, panel):
            width = min(panel, columns - first)
            at = at_w + first * rows
            for c in range(width):
                if first + c < n_out:
                    row = at_flat + (first + c) * n_in
                    for k in range(n_in):
                        packed[at + k * width + c] = flat[row + k]
                        if layer == 0:
                            bad |= flat[row + k] - flat[row + k] != 0
                else:
                    for k in range(n_in):
                        packed[at + k * width + c] = 0
        for c in range(columns):
            packed[at_b + c] = flat[at_flat + n_out * n_in + c] if c < n_out else 0
        for first in range(0, back_columns, panel):
            width = min(panel, back_columns - first)
            at = at_back + first * n_out
            for k in range(n_out):
                row = at_flat + k * n_in + first
                for c in range(width):
                    back[at + k * width + c] = flat[row + c] if first + c < n_in else 0
    return bad == 0


@_kernel(outputs=1)
def _unpack_gradient(flat, packed, layers, total, workers):
    """Copy the sums of the packed gradient into the flat vector, divided by ``total``."""
    lanes = vector.VECTOR_BYTES // packed.itemsize
    panel = vector.PANEL * lanes
    for worker in prange(workers):
        for layer in range(len(layers)):
            n_in, n_out, columns, rows, at_w, at_b, _, _, _, _, at_flat = layers[layer]
            lo, hi = n_out * worker // workers, n_out * (worker + 1) // workers
            for c in range(lo, hi):
                first = c // panel * panel
                width = min(panel, columns - first)
                at = at_w + first * rows + c - first
                for k in range(n_in):
                    flat[at_flat + c * n_in + k] = packed[at + k * width] / total
                flat[at_flat + n_out * n_in + c] = packed[at_b + c] / total


@_body
def _decode(factors, at, values, coded, table, start, stop):
    """Set factors[at:] to the values of the entries from ``start`` to ``stop``."""
    # Loops run over slices from 0 on: any other index is tested for being negative, which keeps a loop from vectors.
    first, count = start * vector.GROUP, (stop - start) * vector.GROUP
    to = factors[at : at + count]
    if coded:
        codes = values[first : first + count]
        for k in range(count):
            to[k] = table[codes[k]]
    else:
        size = factors.itemsize
        what = values[first * size : (first + count) * size].view(factors.dtype)
        for k in range(count):
            to[k] = what[k]


@_body
def _decode_all(factors, at, values, coded, table, index, start, stop, length):
    """Set factors[at:] to the values of all ``length`` entries, zeros included."""
    group = vector.GROUP
    _zero(factors, at, length * group)
    for entry in range(start, stop):
        _decode(factors, at + index[entry] * group, values, coded, table, entry, entry + 1)


@_body
def _forward_rows(z, at_z, ld, length, a, at_a, a_ld, packed, layer, identity):
    """Compute z (length, n_out) = a (length, n_in) W^T + bias, rows of ld and a_ld elements."""
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // z.itemsize
    panel = vector.PANEL * lanes
    n_in, columns, rows = layer[_N_IN], layer[_COLUMNS], layer[_ROWS]
    _set_rows(z, at_z, ld, length, packed, layer[_AT_B], columns)
    for first in range(0, columns, panel):
        width = min(panel, columns - first)
        at_w = layer[_AT_W] + first * rows
        for part in range(0, n_in, _PART):
            count = min(_PART, n_in - part)
            for s in range(0, length, group):
                vector.tile(width // lanes, z, at_z + s * ld + first, ld, a, at_a + s * a_ld + part, 1, a_ld,
                      identity, part, packed, at_w, width, count)  # fmt: skip


@_body
def _set_rows(z, at_z, ld, length, source, at, columns):
    """Set each of the rows, up to a whole number of groups, to the same ``columns`` elements."""
    group = vector.GROUP
    what = source[at : at + columns]
    for s in range(-(-length // group) * group):
        row = z[at_z + s * ld : at_z + s * ld + columns]
        for c in range(columns):
            row[c] = what[c]


@_body
def _forward_input(z, at_z, ld, tile, first, length, x, packed, layer, finite, identity, factors, at_f):
    """Compute z (length, h) = x W1^T + bias of the samples of one tile, from lists or dense rows."""
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // z.itemsize
    panel = vector.PANEL * lanes
    n, columns, rows = layer[_N_IN], layer[_COLUMNS], layer[_ROWS]
    if x.dense_row[tile] >= 0:
        _forward_rows(z, at_z, ld, length, x.dense, x.dense_row[tile] * n, n, packed, layer, identity)
        return
    _set_rows(z, at_z, ld, length, packed, layer[_AT_B], columns)
    parts = -(-n // _PART)
    groups = -(-length // group)
    q0 = first // group
    room = group * n
    for block in range(0, groups, _BLOCK):
        stop = min(block + _BLOCK, groups)
        begin = x.forward_start[(q0 + block) * parts]
        if finite:
            # The lists of a block follow each other, and so do their factors: few pages, few cache lines.
            _decode(factors, at_f, x.forward_value, x.coded, x.table, begin, x.forward_start[(q0 + stop) * parts])
        else:
            for q in range(block, stop):
                start, end = x.forward_start[(q0 + q) * parts], x.forward_start[(q0 + q + 1) * parts]
                at = at_f + (q - block) * room
                _decode_all(factors, at, x.forward_value, x.coded, x.table, x.forward_index, start, end, n)
        for c in range(0, columns, panel):
            width = min(panel, columns - c)
            at_w = layer[_AT_W] + c * rows
            for part in range(parts):
                for q in range(block, stop):
                    o = at_z + q * group * ld + c
                    if finite:
                        at = (q0 + q) * parts + part
                        start = x.forward_start[at]
                        vector.tile(width // lanes, z, o, ld, factors, at_f + (start - begin) * group, group, 1,
                              x.forward_index, start, packed, at_w, width, x.forward_start[at + 1] - start)  # fmt: skip
                    else:
                        k = part * _PART
                        vector.tile(width // lanes, z, o, ld, factors, at_f + (q - block) * room + k * group, group, 1,
                              identity, k, packed, at_w, width, min(_PART, n - k))  # fmt: skip


@_body
def _to_panels(e, at_e, d, at_d, ld, length, columns):
    """Copy rows into panels, so that the rows of one panel fit the first-level cache; return whether all are finite."""
    panel = vector.PANEL * (vector.VECTOR_BYTES // d.itemsize)
    bad = 0
    for c in range(0, columns, panel):
        width = min(panel, columns - c)
        for s in range(length):
            row = d[at_d + s * ld + c : at_d + s * ld + c + width]
            to = e[at_e + c * length + s * width : at_e + c * length + (s + 1) * width]
            for k in range(width):
                to[k] = row[k]
                bad |= row[k] - row[k] != 0
    return bad == 0


@_body
def _backward_input(grad, d, at_d, at_e, ld, tile, length, x, layer, identity, factors, at_f):
    """Add x^T d of one tile to the packed gradient of W1; the buffer at ``at_e`` is free to be used."""
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // d.itemsize
    panel = vector.PANEL * lanes
    n, columns, rows = layer[_N_IN], layer[_COLUMNS], layer[_ROWS]
    groups = rows // group
    dense = x.dense_row[tile] >= 0
    finite = _to_panels(d, at_e, d, at_d, ld, length, columns) and not dense
    room = group * length
    t0 = tile * groups
    for block in range(0, groups, _BLOCK):
        stop = min(block + _BLOCK, groups)
        begin = x.backward_start[t0 + block]
        if finite:
            _decode(factors, at_f, x.backward_value, x.coded, x.table, begin, x.backward_start[t0 + stop])
        for f in range(block, stop):
            at = at_f + (f - block) * room
            if dense:
                _gather_columns(factors, at, x.dense, x.dense_row[tile] * n + f * group, n, length, n - f * group)
            elif not finite:
                _decode_all(factors, at, x.backward_value, x.coded, x.table, x.backward_index,
                            x.backward_start[t0 + f], x.backward_start[t0 + f + 1], length)  # fmt: skip
        for c in range(0, columns, panel):
            width = min(panel, columns - c)
            for f in range(block, stop):
                o = layer[_AT_W] + c * rows + f * group * width
                if finite:
                    start = x.backward_start[t0 + f]
                    vector.tile(width // lanes, grad, o, width, factors, at_f + (start - begin) * group, group, 1,
                          x.backward_index, start, d, at_e + c * length, width,
                          x.backward_start[t0 + f + 1] - start)  # fmt: skip
                else:
                    vector.tile(width // lanes, grad, o, width, factors, at_f + (f - block) * room, group, 1,
                          identity, 0, d, at_e + c * length, width, length)  # fmt: skip


@_body
def _gather_columns(factors, at, rows, first, ld, length, there):
    """Set factors (length, GROUP) to GROUP columns of ``rows``, zero beyond the ``there`` that exist."""
    group = vector.GROUP
    if there >= group:
        for s in range(length):
            for g in range(group):
                factors[at + s * group + g] = rows[first + s * ld + g]
    else:
        for s in range(length):
            for g in range(group):
                factors[at + s * group + g] = rows[first + s * ld + g] if g < there else 0


@_body
def _backward_hidden(grad, e, at_e, d, at_d, ld, length, scratch, previous, layer, back, identity):
    """Add a^T d to the gradient, and set e (length, n_in) = (d W) (a > 0), a the activations of the layer before."""
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // d.itemsize
    panel = vector.PANEL * lanes
    at_a, a_ld = previous[_AT_Z], previous[_LD]
    columns, rows = layer[_COLUMNS], layer[_ROWS]
    for c in range(0, columns, panel):
        width = min(panel, columns - c)
        for f in range(0, rows, group):
            vector.tile(width // lanes, grad, layer[_AT_W] + c * rows + f * width, width, scratch, at_a + f, a_ld, 1,
                  identity, 0, d, at_d + c, ld, length)  # fmt: skip
    n_in, back_columns = layer[_N_IN], layer[_BACK_COLUMNS]
    for s in range(-(-length // group) * group):
        _zero(e, at_e + s * a_ld, back_columns)
    for c in range(0, back_columns, panel):
        width = min(panel, back_columns - c)
        for s in range(0, length, group):
            vector.tile(width // lanes, e, at_e + s * a_ld + c, a_ld, d, at_d + s * ld, 1, ld,
                  identity, 0, back, layer[_AT_BACK] + c * layer[_N_OUT], width, layer[_N_OUT])  # fmt: skip
    zero, one = e.dtype.type(0), e.dtype.type(1)
    for s in range(length):
        row, a = e[at_e + s * a_ld : at_e + s * a_ld + n_in], scratch[at_a + s * a_ld : at_a + s * a_ld + n_in]
        for c in range(n_in):
            # A product, not a selection: NaN and infinity survive a closed gate, as in the formulas.
            row[c] *= one if a[c] > 0 else zero


@_body
def _at_factors(p):
    """Return where in the scratch the decoded factors begin: behind the activations of the last layer."""
    rows = -(-p.tile // vector.GROUP) * vector.GROUP
    return p.layers[-1, _AT_Z] + rows * p.layers[-1, _LD]


@_body
def _forward(scratch, first, length, x, p):
    """Leave in ``scratch`` the activations of the hidden layers and the logits of the tile that begins at ``first``."""
    layers = p.layers
    _forward_input(scratch, layers[0, _AT_Z], layers[0, _LD], first // p.tile, first, length, x, p.packed, layers[0],
                   p.finite, p.identity, scratch, _at_factors(p))  # fmt: skip
    for layer in range(1, len(layers)):
        at_a, a_ld = layers[layer - 1, _AT_Z], layers[layer - 1, _LD]
        n_in = layers[layer, _N_IN]
        for s in range(length):
            row = scratch[at_a + s * a_ld : at_a + s * a_ld + n_in]
            for c in range(n_in):
                row[c] = _relu(row[c])
        _forward_rows(scratch, layers[layer, _AT_Z], layers[layer, _LD], length, scratch, at_a, a_ld,
                      p.packed, layers[layer], p.identity)  # fmt: skip


@_body
def _argmax(z, at, classes):
    """Return the index of the largest element, the first of several, or of the first NaN: as np.argmax."""
    best = 0
    for c in range(1, classes):
        if z[at + c] > z[at + best] or (z[at + c] != z[at + c] and z[at + best] == z[at + best]):
            best = c
    return best


@_body
def _loss_rows(sums, leaf, d, at_d, z, first, length, x, p):
    """Set d to the gradient by the logits z, and add loss, weight of right answers and weight to the leaf's sums."""
    layer = p.layers[-1]
    classes, ld = layer[_N_OUT], layer[_LD]
    vectors = layer[_COLUMNS] // (vector.VECTOR_BYTES // z.itemsize)
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for s in range(length):
        j = x.order[first + s]
        at, row = at_d + s * ld, layer[_AT_Z] + s * ld
        best = _argmax(z, row, classes)
        shift = z[row + best]
        if shift - shift != 0:
            shift = zero  # unshifted, NaN and infinity come out where the formula puts them
        vector.exp_vectors(d, at, z, row, shift, vectors)
        total = zero
        for c in range(classes):
            total += d[at + c]
        log_total = math.log(total)
        w = p.weight[j]
        if len(p.labels) > 0:
            label = p.labels[j]
            nll = log_total - (z[row + label] - shift)
            hit = best == label
            for c in range(classes):
                d[at + c] = (d[at + c] / total - (one if c == label else zero)) * w
        else:
            nll, mass, largest = zero, zero, p.targets[j, 0]
            for c in range(classes):
                y = p.targets[j, c]
                mass += y
                if y != 0:
                    nll += y * (log_total - (z[row + c] - shift))
                if y > largest or y != y:
                    largest = y
            hit = p.targets[j, best] == largest
            for c in range(classes):
                d[at + c] = (d[at + c] / total * mass - p.targets[j, c]) * w
        for c in range(classes, layer[_COLUMNS]):
            d[at + c] = 0
        sums[leaf, 0] += nll * w
        sums[leaf, 1] += w if hit else zero
        sums[leaf, 2] += w


@_body
def _leaf(grad, sums, leaf, scratch, x, p):
    """Add the sums over the samples of one leaf to ``sums`` and to the packed gradient."""
    layers = p.layers
    last = len(layers) - 1
    stop = min((leaf + 1) * p.leaf, len(x.order))
    for first in range(leaf * p.leaf, stop, p.tile):
        length = min(p.tile, stop - first)
        _forward(scratch, first, length, x, p)
        e = len(scratch) - p.room
        d = e - p.room
        _loss_rows(sums, leaf, scratch, d, scratch, first, length, x, p)
        for layer in range(last, -1, -1):
            ld, at_b = layers[layer, _LD], layers[layer, _AT_B]
            n_out = layers[layer, _N_OUT]
            bias = grad[at_b : at_b + n_out]
            for s in range(length):
                row = scratch[d + s * ld : d + s * ld + n_out]
                for c in range(n_out):
                    bias[c] += row[c]
            if layer > 0:
                _backward_hidden(grad, scratch, e, scratch, d, ld, length, scratch, layers[layer - 1], layers[layer],
                                 p.back, p.identity)  # fmt: skip
                d, e = e, d
            else:
                _backward_input(grad, scratch, d, e, ld, first // p.tile, length, x, layers[0], p.identity,
                                scratch, _at_factors(p))  # fmt: skip


@_body
def _add(grad, to, what, size):
    left, right = grad[to : to + size], grad[what : what + size]
    for k in range(size):
        left[k] += right[k]


@_body
def _unit(grads, unit, stack, sums, scratch, x, p):
    """Fold the leaves of one aligned subtree, with as many buffers as it has levels; leave the sum in ``grads``."""
    size = len(p.packed)
    lo = unit * p.unit_leaves
    hi = min(lo + p.unit_leaves, len(sums))
    top = 0
    for leaf in range(lo, hi):
        _zero(stack, top * size, size)
        _leaf(stack[top * size :], sums, leaf, scratch, x, p)
        top += 1
        done = leaf - lo + 1
        while done % 2 == 0:
            _add(stack, (top - 2) * size, (top - 1) * size, size)
            top -= 1
            done //= 2
    for level in range(top - 1, 0, -1):
        _add(stack, (level - 1) * size, level * size, size)
    to, what = grads[unit * size : (unit + 1) * size], stack[:size]
    for k in range(size):
        to[k] = what[k]


@_kernel(outputs=4)
def _units(grads, sums, stacks, scratches, x, p, workers):
    units = len(grads) // len(p.packed)
    for worker in prange(workers):
        for unit in range(units * worker // workers, units * (worker + 1) // workers):
            _unit(grads, unit, stacks[worker], sums, scratches[worker], x, p)


@_kernel(outputs=1)
def _fold(grads, size, workers):
    """Add the units' gradients in the tree's order; the sum is left in the first."""
    units = len(grads) // size
    for worker in prange(workers):
        lo, hi = _span(size, worker, workers)
        stride = 1
        while stride < units:
            for left in range(0, units - stride, 2 * stride):
                _add(grads, left * size + lo, (left + stride) * size + lo, hi - lo)
            stride *= 2


@_kernel(outputs=2)
def _logits(out, scratches, x, p, workers):
    m, last = len(x.order), p.layers[-1]
    tiles = -(-m // p.tile)
    for worker in prange(workers):
        scratch = scratches[worker]
        for tile in range(tiles * worker // workers, tiles * (worker + 1) // workers):
            first = tile * p.tile
            length = min(p.tile, m - first)
            _forward(scratch, first, length, x, p)
            for s in range(length):
                for c in range(last[_N_OUT]):
                    out[c, x.order[first + s]] = scratch[last[_AT_Z] + s * last[_LD] + c]


# ---- Packing ----


@_kernel(outputs=1)
def _keys(keys, rows, run, workers):
    """Set bit b of a sample's key where any feature of the b-th ``run`` of them is not zero, the first bit highest."""
    for worker in prange(workers):
        lo, hi = _span(len(rows), worker, workers)
        for s in range(lo, hi):
            key = np.uint64(0)
            for first in range(0, rows.shape[1], run):
                bit = np.uint64(0)
                for k in range(first, min(first + run, rows.shape[1])):
                    if rows[s, k] != 0:
                        bit = np.uint64(1)
                key = (key << np.uint64(1)) | bit
            keys[s] = key


@_body
def _active(active, rows, order, first, stop, base):
    """Set active[k] to whether feature k of any of the samples at positions [first, stop) is not zero."""
    _zero(active, 0, len(active))
    for position in range(first, stop):
        row = rows[order[position] - base]
        for k in range(len(active)):
            active[k] |= row[k] != 0


@_kernel(outputs=3)
def _count(forward, backward, flags, rows, order, base, tile_size, workers):
    """Count the entries of the lists of each group of samples, and of each tile's groups of features."""
    group, n = vector.GROUP, rows.shape[1]
    feature_groups, parts = -(-n // group), -(-n // _PART)
    stop = base + len(rows)
    tiles = -(-len(rows) // tile_size)
    for worker in prange(workers):
        active = flags[worker]
        for tile in range(tiles * worker // workers, tiles * (worker + 1) // workers):
            begin = base + tile * tile_size
            end = min(begin + tile_size, stop)
            for first in range(begin, end, group):
                _active(active, rows, order, first, min(first + group, end), base)
                for part in range(parts):
                    total = 0
                    for k in range(part * _PART, min((part + 1) * _PART, n)):
                        total += active[k]
                    forward[first // group * parts + part] = total
            at = begin // tile_size * feature_groups
            for position in range(begin, end):
                row = rows[order[position] - base]
                for f in range(feature_groups):
                    some = 0
                    for k in range(f * group, min((f + 1) * group, n)):
                        some |= row[k] != 0
                    backward[at + f] += some


@_body
def _fill_forward(x, active, rows, first, stop, base):
    group, n = vector.GROUP, rows.shape[1]
    values = x.forward_value.view(rows.dtype)
    _active(active, rows, x.order, first, stop, base)
    entry = x.forward_start[first // group * -(-n // _PART)]
    for k in range(n):
        if active[k]:
            x.forward_index[entry] = k
            for g in range(group):
                position = first + g
                values[entry * group + g] = rows[x.order[position] - base, k] if position < stop else 0
            entry += 1


@_body
def _fill_backward(x, cursor, rows, tile, begin, end, base):
    group, n = vector.GROUP, rows.shape[1]
    values = x.backward_value.view(rows.dtype)
    feature_groups = -(-n // group)
    at = tile * feature_groups
    for f in range(feature_groups):
        cursor[f] = x.backward_start[at + f]
    for position in range(begin, end):
        row = rows[x.order[position] - base]
        for f in range(feature_groups):
            some = 0
            for k in range(f * group, min((f + 1) * group, n)):
                some |= row[k] != 0
            if some:
                entry = cursor[f]
                cursor[f] = entry + 1
                x.backward_index[entry] = position - begin
                for g in range(group):
                    k = f * group + g
                    values[entry * group + g] = row[k] if k < n else 0


@_body
def _fill_tile(x, active, cursor, rows, tile, begin, end, base):
    n = rows.shape[1]
    if x.dense_row[tile] >= 0:
        for position in range(begin, end):
            at = (x.dense_row[tile] + position - begin) * n
            for k in range(n):
                x.dense[at + k] = rows[x.order[position] - base, k]
        return
    for first in range(begin, end, vector.GROUP):
        _fill_forward(x, active, rows, first, min(first + vector.GROUP, end), base)
    _fill_backward(x, cursor, rows, tile, begin, end, base)


@_kernel(outputs=3)
def _fill(flags, cursors, x, rows, base, tile_size, workers):
    """Fill the lists, or the dense rows, of the tiles of ``rows``, whose first sample is ``base``."""
    stop = base + len(rows)
    tiles = -(-len(rows) // tile_size)
    for worker in prange(workers):
        for t in range(tiles * worker // workers, tiles * (worker + 1) // workers):
            begin = base + t * tile_size
            end = min(begin + tile_size, stop)
            tile = begin // tile_size
            # In a function of its own: a parallel shell drops stores to an array that it takes out of a tuple itself.
            _fill_tile(x, flags[worker], cursors[worker], rows, tile, begin, end, base)


def pack(matrix: Any) -> Packed:
    """Return ``matrix`` (n, m), uint8, float32 or float64 in any layout, packed: see `Packed`."""
    n, m = matrix.shape
    group, leaf = vector.GROUP, _leaf_size(m)
    tile = min(leaf, TILE)
    tiles, groups = -(-m // tile), -(-m // group)
    feature_groups, parts = -(-n // group), -(-n // _PART)
    workers = min(_usable_threads(), tiles)
    # Samples are read as rows. A matrix that has them so, as the notebook's, is read in place, another in batches.
    batch = m if matrix.T.flags.c_contiguous else leaf * max(1, 8192 // leaf)

    def batches() -> Iterator[tuple[int, Any]]:
        for first in range(0, m, batch):
            rows = np.require(matrix[:, first : first + batch].T, requirements=["C", "A"])
            yield first, _read_only(rows)

    order = np.empty(m, np.int32)
    forward, backward = np.zeros(groups * parts, np.int64), np.zeros(tiles * feature_groups, np.int64)
    flags, cursors = np.empty((workers, n), np.uint8), np.empty((workers, feature_groups), np.int64)
    for first, rows in batches():
        order[first : first + len(rows)] = first + _order(rows, leaf, workers)
        _count.launch(workers, forward, backward, flags, rows, order, first, tile)
    per_tile = np.add.reduceat(forward, np.arange(0, groups, tile // group) * parts)
    groups_per_tile = np.bincount(np.arange(groups) // (tile // group))
    dense = (per_tile > _DENSE_SHARE * n * groups_per_tile) & (matrix.dtype != np.uint8)
    forward.reshape(groups, parts)[np.repeat(dense, tile // group)[:groups]] = 0
    backward.reshape(tiles, feature_groups)[dense] = 0
    dense_row = np.where(dense, (np.cumsum(dense) - 1) * tile, -1)

    packed = Packed(
        order,
        np.concatenate(([0], np.cumsum(forward))),
        np.empty(forward.sum(), np.int32),
        _aligned(int(forward.sum()) * group * matrix.itemsize, np.uint8),
        np.concatenate(([0], np.cumsum(backward))),
        np.empty(backward.sum(), np.int32),
        _aligned(int(backward.sum()) * group * matrix.itemsize, np.uint8),
        matrix.dtype == np.uint8,
        np.empty(0),
        # A register tile may read a whole group of rows where the last has fewer.
        _aligned((int(dense.sum()) * tile + group) * n if dense.any() else 0, matrix.dtype),
        dense_row,
    )
    if dense.any():
        packed.dense[-group * n :] = 0
    for first, rows in batches():
        _fill.launch(workers, flags, cursors, packed, rows, first, tile)
    return packed


def _order(rows: Any, leaf: int, workers: int) -> Any:
    """Return an order of the rows in which, leaf by leaf, those with like features active stand together.

    Sorted by which runs of 16 features are active, a group of 4 images of MNIST shares 0.31 of the features; as stored
    0.39.
    """
    keys = np.empty(len(rows), np.uint64)
    _keys.launch(workers, keys, rows, max(16, -(-rows.shape[1] // 64)))
    return np.lexsort((keys, np.arange(len(rows)) // leaf))


def unpack(x: Packed, n: int, table: Any) -> Any:
    """Return the packed matrix as a plain one (n, m), decoded by ``table`` (256,) if it holds uint8."""
    group, m = vector.GROUP, len(x.order)
    values = table[x.forward_value] if x.coded else x.forward_value.view(x.dense.dtype)
    rows = np.zeros((m, n), values.dtype)
    starts = x.forward_start[:: -(-n // _PART)]
    group_of_entry = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    for g in range(group):
        position = group_of_entry * group + g
        there = position < m
        rows[x.order[position[there]], x.forward_index[there]] = values[g::group][there]
    tile = min(_leaf_size(m), TILE)
    for t in np.flatnonzero(x.dense_row >= 0):
        samples = x.order[t * tile : (t + 1) * tile]
        first = x.dense_row[t] * n
        rows[samples] = x.dense[first : first + len(samples) * n].reshape(-1, n)
    return rows.T


def packed_facts(x: Packed, n: int) -> tuple[str, int]:
    """Return the form ("dense", "sparse" or "mixed") and the bytes."""
    dense_tiles = np.count_nonzero(x.dense_row >= 0)
    kind = "sparse" if dense_tiles == 0 else "dense" if dense_tiles == len(x.dense_row) else "mixed"
    return kind, sum(a.nbytes for a in x if isinstance(a, np.ndarray))


def _problem(parameters: Any, sizes: tuple[int, ...], m: int, workers: int) -> tuple[Problem, Any]:
    """Return the problem, without targets, and the workers' scratch."""
    dtype = parameters.dtype
    leaf = _leaf_size(m)
    tile = min(leaf, TILE)
    layers, packed_size, back_size, scratch_size, room = _plan(sizes, dtype.itemsize, tile)
    packed, back = _aligned(packed_size, dtype), _aligned(back_size, dtype)
    finite = bool(_pack_parameters(packed, back, _read_only(parameters), layers))
    scratches = _aligned(workers * scratch_size, dtype).reshape(workers, scratch_size)
    identity = np.arange(max(*sizes, tile), dtype=np.int32)
    labels, targets, weight = np.empty(0, np.int64), np.empty((0, 0), dtype), np.empty(0, dtype)
    problem = Problem(packed, back, layers, finite, tile, leaf, 1, room, identity, labels, targets, weight)
    return problem, scratches


def _decodable(x: Packed, table: Any, dtype: Any) -> Packed:
    """Return ``x`` with the table that decodes uint8 to ``dtype``."""
    return x._replace(table=np.ascontiguousarray(table, dtype), dense=x.dense if not x.coded else np.empty(0, dtype))


def network_step(
    gradient: Any, parameters: Any, sizes: tuple[int, ...], x: Packed, table: Any, y: Any, weight: Any
) -> tuple[float, float, float]:
    """Set ``gradient`` to the weighted mean gradient; return the sums of loss, weight of right answers, weight.

    parameters and gradient (k,) flat, y labels (m,) int64 or targets (C, m), weight (m,).
    """
    m = len(x.order)
    dtype = parameters.dtype
    leaf = _leaf_size(m)
    leaves = -(-m // leaf)
    workers = min(_usable_threads(), leaves)
    # Subtrees of the one tree: how many there are changes who adds, not what is added to what.
    unit_leaves = 1
    while leaves > 4 * workers * unit_leaves:
        unit_leaves *= 2
    units = -(-leaves // unit_leaves)
    problem, scratches = _problem(parameters, sizes, m, workers)
    chosen = {"labels": y} if y.ndim == 1 else {"targets": np.ascontiguousarray(y.T)}
    problem = problem._replace(unit_leaves=unit_leaves, weight=weight, **chosen)
    size = len(problem.packed)
    grads = _aligned(units * size, dtype)
    stacks = _aligned(workers * unit_leaves.bit_length() * size, dtype).reshape(workers, -1)
    sums = np.zeros((leaves, 3))
    _units.launch(workers, grads, sums, stacks, scratches, _decodable(x, table, dtype), problem)
    _fold.launch(workers, grads, size)
    loss, hit, total = np.add.reduce(sums, axis=0)
    _unpack_gradient.launch(workers, gradient, grads, problem.layers, dtype.type(total))
    return float(loss), float(hit), float(total)


def network_logits(out: Any, parameters: Any, sizes: tuple[int, ...], x: Packed, table: Any) -> None:
    """Set ``out`` (C, m) to the logits, samples in the caller's order."""
    m = len(x.order)
    workers = min(_usable_threads(), -(-m // TILE))
    problem, scratches = _problem(parameters, sizes, m, workers)
    _logits.launch(workers, out, scratches, _decodable(x, table, parameters.dtype), problem)


def warmup(dtype: Any) -> None:
    """Compile, or load from the cache, both shells of every kernel for ``dtype``."""
    x = np.ones((1, 1), dtype)
    row = x[0]
    one_hot(np.ones((1, 1)), np.zeros(1, np.int64))  # the notebook's encoding is float64 always
    one_hot(x.copy(), np.zeros(1, np.int64))
    relu(row.copy(), row)
    bias_add(x.copy(), x)
    for mask in (np.ones((1, 1), np.bool_), None):
        relu_mask(x.copy(), x.copy(), mask, x)
    for gate in (np.ones((1, 1), np.bool_), x):
        relu_backward(x.copy(), gate)
    softmax_columns(x.copy(), x)
    softmax_cross_entropy_grad(x.copy(), row.copy(), row.copy(), x, x, row)
    output_delta(x.copy(), x, x)
    bias_sum(x.copy(), x)
    cross_entropy(row.copy(), x, x)
    update(row.copy(), row, row, x.dtype.type(0))
    parameters = np.ones(2, dtype)
    for matrix in (x, np.ones((1, 1), np.uint8)):
        packed = pack(matrix)
        network_step(parameters.copy(), parameters, (1, 1), packed, np.ones(256), np.zeros(1, np.int64), row)
        network_logits(x.copy(), parameters, (1, 1), packed, np.ones(256))
    # All of this is too small for parallel shells, so the serial ones ran; the others take the same types.
    for kernel in _KERNELS.values():
        for types in kernel.serial.signatures:
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
