"""Blocks of samples: the units in which packed files are written and read, and in which ``shuffle="blocks"`` draws."""

from typing import Any

import numpy as np

from fastmlp import backend

# Bytes of the source in a block, at most, unless a leaf has more: to be read in one go, and small beside what a process
# needs.
BLOCK_BYTES = 24 << 20


def block_size(shape: tuple[int, int], dtype: np.dtype[Any], blocks: int = 0) -> int:
    """Return the samples of a block of a matrix (n, m), whole leaves of the tree in which gradients are summed.

    Parameters
    ----------
    shape : tuple of int
        (n_features, m).
    dtype : numpy.dtype
        That of the stored numbers.
    blocks : int
        The number of blocks of a file; by default as many as `fastmlp.pack` would write.

    Returns
    -------
    int
        Samples of all blocks but the last one, which may be smaller.
    """
    n, m = shape
    leaf = backend.kernels().leaf_size(m, n)
    leaves = -(-m // leaf)
    if blocks == 0:
        most = max(1, BLOCK_BYTES // (leaf * n * dtype.itemsize))
        blocks = -(-leaves // (1 << most.bit_length() - 1))
    # A power of two is shared evenly by the usual numbers of threads, and is one node of the summation tree.
    return int(leaf * (1 << (-(-leaves // blocks) - 1).bit_length()))
