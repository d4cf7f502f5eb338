"""The logarithm."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


class _Log:
    """Constants of log(x) = k ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)).

    log(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + R)), s = f / (2 + f), R a polynomial in s^2: the minimax polynomials of
    fdlibm's e_log.c and of FreeBSD's e_logf.c.
    """

    def __init__(self, dtype):
        double = dtype == np.float64
        self.bits, self.mantissa, self.bias = (64, 52, 1023) if double else (32, 23, 127)
        self.tiny = float(np.finfo(dtype).tiny)
        self.lift = 54 if double else 25  # 2^lift brings a subnormal number into the range of the normal ones
        self.ln2 = (
            (6.93147180369123816490e-01, 1.90821492927058770002e-10) if double else (6.9313812256e-01, 9.0580006145e-06)
        )
        self.polynomial = (
            (6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
             1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01)
            if double
            else (0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841)
        )  # fmt: skip
        # The bits of sqrt(1/2), subtracted from the bits of x before its exponent is read.
        self.root = int(np.sqrt(dtype(0.5)).view(f"u{self.bits // 8}"))


LOG = {types.float64: _Log(np.float64), types.float32: _Log(np.float32)}


def _log(builder, x, constants):
    scalar, whole = x.type, ir.IntType(constants.bits)
    subnormal = builder.fcmp_ordered("<", x, scalar(constants.tiny))
    lifted = builder.select(subnormal, builder.fmul(x, scalar(2.0**constants.lift)), x)
    number = builder.bitcast(lifted, whole)
    exponent = builder.ashr(builder.sub(number, whole(constants.root)), whole(constants.mantissa))
    reduced = builder.sub(number, builder.shl(exponent, whole(constants.mantissa)))
    f = builder.fsub(builder.bitcast(reduced, scalar), scalar(1.0))
    exponent = builder.sub(exponent, builder.select(subnormal, whole(constants.lift), whole(0)))
    # An integer of few bits becomes a float by the bits of 1.5 * 2^mantissa: no target lacks the instructions.
    shift = 1.5 * 2.0**constants.mantissa
    k = builder.bitcast(builder.add(exponent, builder.bitcast(scalar(shift), whole)), scalar)
    k = builder.fsub(k, scalar(shift))
    s = builder.fdiv(f, builder.fadd(scalar(2.0), f))
    z = builder.fmul(s, s)
    r = scalar(constants.polynomial[-1])
    for coefficient in reversed(constants.polynomial[:-1]):
        r = builder.fadd(builder.fmul(r, z), scalar(coefficient))
    r = builder.fmul(r, z)
    half = builder.fmul(scalar(0.5), builder.fmul(f, f))
    low = builder.fadd(builder.fmul(s, builder.fadd(half, r)), builder.fmul(k, scalar(constants.ln2[1])))
    high = builder.fsub(f, builder.fsub(half, low))
    result = builder.fadd(builder.fmul(k, scalar(constants.ln2[0])), high)
    # 0 gives -inf, infinity itself, below 0 NaN; NaN has passed.
    result = builder.select(builder.fcmp_ordered("==", x, scalar(float("inf"))), x, result)
    result = builder.select(builder.fcmp_ordered("==", x, scalar(0.0)), scalar(float("-inf")), result)
    return builder.select(builder.fcmp_unordered("<", x, scalar(0.0)), scalar(float("nan")), result)


@intrinsic
def log(typingctx, x):
    """Return log(x), within 1 ULP.

    Scalar IR without branches or calls: in a loop LLVM makes vectors of it, where one of ``math.log`` makes calls.
    """
    constants = LOG[x]
    return x(x), lambda context, builder, sig, args: _log(builder, args[0], constants)
