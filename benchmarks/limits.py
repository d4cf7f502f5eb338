"""The limits of a step: the peak speed of this machine, and the arithmetic that a step cannot avoid.

The peak is measured with the register tile of our own kernels over one cache line: with strides of zero, every operand
of every multiply-add is in the L1 cache or in a register.
"""

import numba
import numpy as np
from numba import njit, prange

from fastmlp.kernels import vector

_ENTRIES = 2000  # per tile: few enough that the indices too stay in the L1 cache
_TILES = 2000


@njit
def _tiles(out, a, index, b, columns):
    for _ in range(_TILES):
        rows = vector.chosen(index, 0, vector.matrix(b, 0, 0))
        to, factors = vector.matrix(out, 0, columns), vector.factors(a, 0, 0, 1)
        vector.tile(vector.DENSE_GROUP, vector.PANEL, to, factors, rows, _ENTRIES, 0)


@njit(parallel=True)
def _every_core(outs, a, index, b, columns):
    for worker in prange(len(outs)):
        _tiles(outs[worker], a, index, b, columns)


def multiply_adds(dtype):
    """Return a function that only multiplies and adds, on every core, and its number of operations."""
    columns = vector.PANEL * vector.VECTOR_BYTES // np.dtype(dtype).itemsize
    cells = vector.DENSE_GROUP * columns
    cores = numba.get_num_threads()
    outs, a, b = np.zeros((cores, cells), dtype), np.ones(vector.DENSE_GROUP, dtype), np.ones(columns, dtype)
    index = np.zeros(_ENTRIES, np.int32)

    def run():
        outs.fill(0)
        _every_core(outs, a, index, b, columns)

    return run, 2 * cells * _ENTRIES * _TILES * cores


def necessary_operations(nonzero, m, sizes):
    """Return the operations of a step with one hidden layer on m samples, not counting products with zero inputs.

    Two products with the input and three in the second layer; a multiply-add counts as two operations.
    """
    _, h, c = sizes
    return 4 * h * nonzero + 6 * h * c * m
