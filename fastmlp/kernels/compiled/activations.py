"""Activations: values, masks and gates."""

from numba import prange

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.launch import kernel, span
from fastmlp.kernels.compiled.runtime import body


@body
def relu_value(x):
    # Not max(): a comparison keeps NaN and -0.0 as np.maximum(0, x) does.
    return vector.choose(x < 0, type(x)(0), x)


@body
def _relu_range(out, x, lo, hi):
    to, what = out[lo:hi], x[lo:hi]
    for i in range(len(what)):
        to[i] = relu_value(what[i])


@kernel(outputs=1)
def relu(out, x, workers):
    for worker in prange(workers):
        lo, hi = span(x.size, worker, workers)
        _relu_range(out, x, lo, hi)


@body
def _relu_mask(z, a, mask, bias, lo, hi):
    m = z.shape[1]
    for i in range(lo // m, -(-hi // m)):
        first, stop = max(lo - i * m, 0), min(hi - i * m, m)
        row, a_row, mask_row = z[i, first:stop], a[i, first:stop], mask[i, first:stop]
        for j in range(len(row)):
            value = row[j] + bias[i, 0]
            row[j] = value
            mask_row[j] = value > 0
            a_row[j] = relu_value(value)


@kernel(outputs=3)
def relu_mask(z, a, mask, bias, workers):
    for worker in prange(workers):
        lo, hi = span(z.size, worker, workers)
        _relu_mask(z, a, mask, bias, lo, hi)


@body
def apply_gate(e, at_e, ld, length, count, gate, at, gate_ld):
    """Multiply ``length`` rows of ``count`` elements by whether the gate is positive."""
    vector.outline()
    zero, one = e.dtype.type(0), e.dtype.type(1)
    for s in range(length):
        row = e[at_e + s * ld : at_e + s * ld + count]
        open_ = gate[at + s * gate_ld : at + s * gate_ld + count]
        for c in range(count):
            # A product, not a selection: NaN and infinity survive a closed gate, as in the formulas.
            row[c] *= one if open_[c] > 0 else zero


@body
def relu_rows(x, at, ld, length, count):
    vector.outline()
    for s in range(length):
        row = x[at + s * ld : at + s * ld + count]
        for c in range(len(row)):
            row[c] = relu_value(row[c])
