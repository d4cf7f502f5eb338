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

from typing import Any

import llvmlite
import numba
import numpy as np
from numba import config
from numba.np.ufunc import parallel as numba_parallel

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.activations import relu, relu_mask
from fastmlp.kernels.compiled.cost import cross_entropy
from fastmlp.kernels.compiled.elementwise import bias_sum, one_hot, output_delta, update
from fastmlp.kernels.compiled.host import attach, compiler_locks, preparation
from fastmlp.kernels.compiled.launch import KERNELS, limited_threads, limits_threads, max_threads
from fastmlp.kernels.compiled.losses import softmax_columns, softmax_cross_entropy_grad
from fastmlp.kernels.compiled.network import backward, forward, network_logits, network_step
from fastmlp.kernels.compiled.packing import operands, pack, packed_facts, unpack
from fastmlp.kernels.compiled.runtime import SINGLE

__all__ = [
    "attach", "backward", "bias_sum", "cache_statistics", "compiler_locks", "cross_entropy", "describe", "forward",
    "limited_threads", "limits_threads", "max_threads", "network_logits", "network_step", "one_hot", "operands",
    "output_delta", "pack", "packed_facts", "preparation", "relu", "relu_mask", "softmax_columns",
    "softmax_cross_entropy_grad", "unpack", "update", "warmup",
]  # fmt: skip


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
    for matrix in (x, np.ones((1, tuning.FEW_SAMPLES + 1), dtype), np.ones((1, tuning.FEW_SAMPLES + 1), np.uint8)):
        m = matrix.shape[1]
        table, labels, weight = np.ones(256, dtype), np.zeros(m, np.int64), np.ones(m, dtype)
        packed = operands(pack(matrix), table)
        network_step(parameters.copy(), parameters, (1, 1), packed, table, labels, weight)
        network_logits(np.empty((1, m), dtype), parameters, (1, 1), packed, table)
    for one in KERNELS.values():
        one.warmup()


def cache_statistics() -> dict[str, tuple[int, int]]:
    """Return (hits, misses) of the compile cache, summed per kernel over what it compiles."""
    totals = {}
    for name, one_kernel in KERNELS.items():
        stats = [dispatcher.stats for dispatcher in one_kernel.dispatchers()]
        totals[name] = (
            sum(sum(one.cache_hits.values()) for one in stats),
            sum(sum(one.cache_misses.values()) for one in stats),
        )
    for name, dispatcher in SINGLE.items():
        hits, misses = dispatcher.stats.cache_hits, dispatcher.stats.cache_misses
        totals[name] = (sum(hits.values()), sum(misses.values()))
    return totals


def describe() -> dict[str, str]:
    """Return what `fastmlp.show_config` says about this backend."""
    return {
        "threading layer": numba_parallel._threading_layer or f"not launched yet ({config.THREADING_LAYER})",
        "CPU": vector.CPU_NAME,
        "vector width": f"{8 * vector.VECTOR_BYTES} bit",
        "compile cache": relu.serial._cache.cache_path or "none: no writeable folder",
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }
