"""Softmax cross-entropy: softmax, loss, gradient and hits."""

import numpy as np
from numba import prange

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, span
from fastmlp.kernels.compiled.memory import aligned_room, fill_zeros
from fastmlp.kernels.compiled.runtime import body


@kernel(outputs=1)
def softmax_columns(out, z, workers):
    for worker in prange(workers):
        lo, hi = span(z.shape[1], worker, workers)
        vector.softmax_columns(out, z, lo, hi - lo)


@body
def _loss_buffers(z, width):
    """Return five arrays for `_exponentials`: not rows of one, of which LLVM does not see that they are apart."""
    kind = z.dtype
    return (np.empty(width, kind), np.empty(width, kind), np.empty(width, kind), np.empty(width, kind),
            np.empty(width, kind))  # fmt: skip


@body
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


@body
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


@body
def _softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, lo, hi):
    buffers = _loss_buffers(z, tuning.COLUMN_BLOCK)
    for first in range(lo, hi, tuning.COLUMN_BLOCK):
        _loss_columns(dz, loss, hit, buffers, z, y, weight, first, min(tuning.COLUMN_BLOCK, hi - first))


@kernel(outputs=3)
def softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, workers):
    for worker in prange(workers):
        lo, hi = span(z.shape[1], worker, workers)
        _softmax_cross_entropy_grad(dz, loss, hit, z, y, weight, lo, hi)


@body
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


@body
def loss_rows(loss, hit, d, at_d, z, at_z, ld, classes, labels, targets, weight, order, first, length, whole):
    """Set d to the gradient by the logits z of samples order[first:], rows of ``ld``, and loss and hit, by row, too.

    ``labels`` (m,) or ``targets`` (m, C), ``weight`` (m,). If ``whole``, rows of z and of d are whole vectors, and
    there is room for whole vectors of them; zeros then fill the columns of d from ``classes`` on.
    """
    vector.outline()
    lanes = vector.VECTOR_BYTES // z.itemsize
    block, padded = min(tuning.LOSS_BLOCK, length), classes
    if whole:
        block, padded = -(-block // lanes) * lanes, -(-classes // lanes) * lanes
    buffers = _loss_buffers(z, block)
    shift, _, log_total, scale, best = buffers
    turned, turned_gradient = aligned_room(padded * block, z), aligned_room(padded * block, z)
    logits, gradient = (turned[: classes * block].reshape((classes, block)),
                        turned_gradient[: classes * block].reshape((classes, block)))  # fmt: skip
    fill_zeros(turned_gradient, classes * block, (padded - classes) * block)
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
