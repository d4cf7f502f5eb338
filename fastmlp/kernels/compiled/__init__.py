"""The Numba backend: every ``@njit`` of the project.

Same names and signatures as :mod:`fastmlp.kernels.reference`, where each kernel's formula is given. Outputs come first,
then inputs, then scalars. Kernels neither check nor raise: an exception inside ``prange`` is swallowed, and an index
out of range writes out of bounds.

Each kernel is a serial body that is called for each worker with its number: see `launch`. One worker after the other
gives the same bits as all in parallel, and serves small problems, forked children, a thread-unsafe threading layer that
is already in use, and bounds checking.
Shapes: n features, h units of a layer, C classes, m samples; columns are samples.
"""

from typing import Any

import llvmlite
import numba
import numpy as np

from fastmlp.kernels import internals, rules, vector
from fastmlp.kernels.compiled import plain_rows, tuning
from fastmlp.kernels.compiled.activations import relu
from fastmlp.kernels.compiled.cost import cross_entropy
from fastmlp.kernels.compiled.elementwise import one_hot, output_delta, survey, update
from fastmlp.kernels.compiled.host import attach, compiler_locks, preparation
from fastmlp.kernels.compiled.inputs import operands, other_form, packed_facts, plain_operand, unpack
from fastmlp.kernels.compiled.launch import (
    KERNELS,
    PARALLEL_SHELL,
    SHELL,
    launcher,
    limited_threads,
    limits_threads,
    max_threads,
)
from fastmlp.kernels.compiled.losses import loss_gradient, softmax_columns, softmax_cross_entropy_grad
from fastmlp.kernels.compiled.network import (
    accumulate,
    backward,
    begin,
    begin_parts,
    complete,
    enter,
    finish,
    forward,
    leaf_starts,
    network_logits,
    network_step,
    nodes,
)
from fastmlp.kernels.compiled.packing import order_features, pack
from fastmlp.kernels.compiled.plan import all_dense
from fastmlp.kernels.compiled.sample_lists import list_samples
from fastmlp.kernels.compiled.stored import from_arrays, layout, to_arrays
from fastmlp.kernels.compiled.trainer import begin_training, enter_training, train, training_vectors
from fastmlp.kernels.compiled.tree import leaf_size
from fastmlp.kernels.internals import cache
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Drawn
from fastmlp.kernels.rules import apply, weight_mask

__all__ = [
    "accumulate", "all_dense", "apply", "attach", "backward", "begin", "begin_parts", "begin_training",
    "cache_statistics", "compiler_locks", "complete", "cross_entropy", "describe", "enter", "enter_training",
    "finish", "forward", "from_arrays", "layout", "leaf_size", "leaf_starts", "limited_threads", "limits_threads",
    "list_samples", "loss_gradient", "max_threads", "network_logits", "network_step", "nodes", "one_hot",
    "operands", "order_features", "other_form", "output_delta", "pack", "packed_facts", "plain_operand", "preparation",
    "relu", "softmax_columns", "softmax_cross_entropy_grad", "survey", "to_arrays", "train", "training_vectors",
    "unpack", "update", "warmup", "weight_mask",
]  # fmt: skip


def warmup(dtype: Any) -> None:
    """Compile every kernel for ``dtype``, or load it from the cache; to be called for one thread."""
    x = np.ones((1, 1), dtype)
    row = x[0]
    one_hot(np.ones((1, 1)), np.zeros(1, np.int64))  # the notebook's encoding is float64 always
    one_hot(x.copy(), np.zeros(1, np.int64))
    relu(row.copy(), row)
    softmax_columns(x.copy(), x)
    softmax_cross_entropy_grad(x.copy(), row.copy(), row.copy(), x, x, row)
    loss_gradient(x.copy(), row.copy(), row.copy(), x, x, row, "squared_error")
    output_delta(x.copy(), x, x)
    cross_entropy(x, x)
    survey(x)
    update(row.copy(), row, row, x.dtype.type(0))
    rows = np.ones((tuning.FEW_SAMPLES + 1, 1), dtype)
    backward(1, x, rows, rows.T, rows.T, rows.T)
    list(plain_rows.row_batches(np.ones((2, 2), dtype).T, x.dtype, np.arange(3)))
    parameters, net = np.ones(2, dtype), Net((1, 1), ())
    one_sample = np.arange(tuning.FEW_SAMPLES + 1)[None] == 0
    for matrix in (x, one_sample.astype(dtype), one_sample.astype(np.uint8)):
        m = matrix.shape[1]
        table, labels, weight = np.ones(256, dtype), np.zeros(m, np.int64), np.ones(m, dtype)
        packed = operands(pack(matrix), table)
        network_step(parameters.copy(), parameters, net, packed, labels, weight)
        network_logits(np.empty((1, m), dtype), parameters, net, packed)
        listed = list_samples(matrix, 1 / m)
        (sparse,) = (samples for _, samples in unpack(listed))
        list_samples(sparse, 1 / m)
        list(unpack(pack(matrix)))
        full = operands(list_samples(np.ones_like(matrix), 1 / m), table)
        drawn = Drawn(np.arange(m, dtype=np.int32), m)
        trainer = begin_training([parameters], net, full, labels, weight, drawn=drawn)
        train(trainer, np.zeros(1, np.int32), np.ones(1, np.int64), rules.Rule(rules.SGD), np.ones((1, 4)))
    launcher()


def cache_statistics() -> dict[str, tuple[int, int]]:
    """Return (hits, misses) of the compile cache, of each kernel and of the shells."""
    dispatchers = {name: kernel.body for name, kernel in KERNELS.items()}
    dispatchers |= {"shell": SHELL, "parallel shell": PARALLEL_SHELL}
    totals = {}
    for name, dispatcher in dispatchers.items():
        hits, misses = dispatcher.stats.cache_hits, dispatcher.stats.cache_misses
        totals[name] = (sum(hits.values()), sum(misses.values()))
    return totals


def describe() -> dict[str, str]:
    """Return the lines of `fastmlp.show_config` about this backend."""
    lines = {
        "threading layer": internals.threading_layer() or f"not launched yet ({internals.REQUESTED_LAYER})",
        "CPU": vector.CPU_NAME,
        "vector width": f"{8 * vector.VECTOR_BYTES} bit",
        "compile cache": cache.folder(SHELL) or "none: no writeable folder",
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }
    if internals.missing:
        lines["slower without"] = ", ".join(sorted(set(internals.missing)))
    return lines
