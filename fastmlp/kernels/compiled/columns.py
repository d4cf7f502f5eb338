"""Samples that are the columns of a matrix which is stored by rows, one row for each feature."""

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.runtime import body


@body
def _copy_block(out, x, samples, features):
    """out[s, k] = x[k, s] of a block, or of a smaller one at an edge."""
    size = vector.block_size(out)
    if samples == size and features == size:
        vector.transpose(out, x)
        return
    for s in range(samples):
        for k in range(features):
            out.start[s * out.ld + k] = x.start[k * x.ld + s]


@body
def copy_columns(out, x, length, features, ahead):
    """Set rows 0 to below ``length`` of out to the first columns of x, asking for rows so many ``ahead``, if any."""
    vector.noinline()
    size = vector.block_size(out)
    for k in range(0, features, size):
        for s in range(0, length, size):
            there, here = vector.block(out, s, k), vector.block(x, k, s)
            if ahead > 0:
                for r in range(size):
                    vector.prefetch(x.start, (k + ahead + r) * x.ld + s)
            _copy_block(there, here, min(size, length - s), min(size, features - k))
