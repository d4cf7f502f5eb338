"""The exponential, of a number and of the elements of a row."""

import decimal
import functools
from decimal import Decimal

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.vector.elements import in_place
from fastmlp.kernels.vector.ir import horner, multiply_add, shuffle, splat
from fastmlp.kernels.vector.target import VECTOR_BYTES


class _Exp:
    """Constants of exp(x) = 2^k exp(r), x = k ln 2 + r, and exp(r) = 1 + r + r^2 q(r).

    With k an integer |r| <= ln(2) / 2. AVX-512 holds the 16 powers 2^0, 2^(1/16), ... in two registers: there k is a
    multiple of 1/16, and ``short`` is q for |r| <= ln(2) / 32. q interpolates at Chebyshev's points, which leaves up to
    two degrees less than Taylor's polynomial; the error is below eps / 7. ln 2 is split (Cody and Waite) so that k
    times its upper part is exact. Without AVX-512, 2^k is applied in two factors, because k itself leaves the range of
    exponents where the result is subnormal.
    """

    def __init__(self, dtype):
        double = dtype == np.float64
        self.bits, self.mantissa, self.bias = (64, 52, 1023) if double else (32, 23, 127)
        self.lowest, self.highest = (-746.0, 710.0) if double else (-104.0, 89.0)
        self.ln2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10) if double else (0.693359375, -2.12194440e-4)
        self.round = 1.5 * 2.0**self.mantissa  # adding it rounds to an integer, then in the low bits
        self.polynomial = (
            (1.0, 1.0, 0.5000000000000001, 0.16666666666666669, 0.04166666666662413, 0.008333333333330062,
             0.0013888888917213717, 0.00019841269863053618, 2.4801521295954376e-05, 2.7557268459997064e-06,
             2.7620088445409746e-07, 2.510038549551032e-08)
            if double
            else (1.0, 1.0, 0.5, 0.16666576989698775, 0.041666554617204574, 0.008363179052722578, 0.0013926183587713494)
        )  # fmt: skip
        self.short = (
            (0.5, 0.1666666666530169, 0.04166666666496045, 0.008333449701253456, 0.0013889034348599464)
            if double
            else (0.5000097749180301, 0.16666862164590476)
        )
        self.table = np.array([2.0 ** (k / 16) for k in range(16)]).astype(dtype).tolist()

    @functools.cached_property
    def low(self):
        """Relative errors of the rounded powers; only a compilation asks for them."""
        with decimal.localcontext(decimal.Context(40)):
            return [float(Decimal(2) ** (Decimal(k) / 16) / Decimal(p) - 1) for k, p in enumerate(self.table)]


EXP = {types.float64: _Exp(np.float64), types.float32: _Exp(np.float32)}


def emit_exp(builder, x, constants, *, precise=False):
    """Emit exp of a scalar or a vector; both give the same bits.

    If ``precise``, the errors of the tabulated powers are made good: within 0.8 ULP with AVX-512.
    """
    if VECTOR_BYTES < 64:
        return _exp_by_polynomial(builder, x, constants)
    lanes = 512 // constants.bits
    if not isinstance(x.type, ir.VectorType):
        every_lane = splat(builder, x, ir.VectorType(x.type, lanes))
        return builder.extract_element(_exp_by_table(builder, every_lane, constants, precise), ir.IntType(32)(0))
    parts = [
        _exp_by_table(builder, shuffle(builder, x, x, range(first, first + lanes)), constants, precise)
        for first in range(0, x.type.count, lanes)
    ]
    return functools.reduce(lambda a, b: shuffle(builder, a, b, range(a.type.count + b.type.count)), parts)


def _reduce(builder, x, constants, round_by):
    """Return the sum whose low bits are k, k, and r = x - k ln 2; 1.5 * 2^e as ``round_by`` rounds to its last bit."""
    kind = x.type
    # Comparisons that are false for NaN, so that NaN passes.
    x = builder.select(builder.fcmp_ordered("<", x, kind(constants.lowest)), kind(constants.lowest), x)
    x = builder.select(builder.fcmp_ordered(">", x, kind(constants.highest)), kind(constants.highest), x)
    shifted = multiply_add(builder, x, kind(1.4426950408889634), kind(round_by))
    k = builder.fsub(shifted, kind(round_by))
    r = multiply_add(builder, k, kind(-constants.ln2[0]), x)
    return shifted, k, multiply_add(builder, k, kind(-constants.ln2[1]), r)


def _exp_by_polynomial(builder, x, constants):
    kind, whole = x.type, ir.IntType(constants.bits)
    if isinstance(kind, ir.VectorType):
        whole = ir.VectorType(whole, kind.count)
    shifted, _, r = _reduce(builder, x, constants, constants.round)
    p = horner(builder, constants.polynomial, r)
    bits_of_round = int(np.array(constants.round, f"f{constants.bits // 8}").view(f"i{constants.bits // 8}"))
    k = builder.sub(builder.bitcast(shifted, whole), whole(bits_of_round))
    half = builder.ashr(k, whole(1))
    for exponent in (half, builder.sub(k, half)):
        power = builder.shl(builder.add(exponent, whole(constants.bias)), whole(constants.mantissa))
        p = builder.fmul(p, builder.bitcast(power, kind))
    return p


def _exp_by_table(builder, x, constants, precise):
    """Emit exp of a vector of AVX-512: 12 multiplications or multiply-adds for float64, where a polynomial takes 15."""
    whole = ir.VectorType(ir.IntType(constants.bits), x.type.count)
    shifted, k, r = _reduce(builder, x, constants, constants.round / 16)
    p = multiply_add(builder, builder.fmul(r, r), horner(builder, constants.short, r), r)
    index = builder.bitcast(shifted, whole)
    root = _looked_up(builder, constants.table, index)
    if precise:
        p = builder.fadd(p, _looked_up(builder, constants.low, index))
    return _scale(builder, multiply_add(builder, root, p, root), k)


def _looked_up(builder, table, index):
    """Emit the entries of a table of 16 numbers, which registers hold, for the low 4 bits of each index."""
    lanes = index.type.count
    kind = ir.VectorType(ir.DoubleType() if lanes == 8 else ir.FloatType(), lanes)
    tables = [ir.Constant(kind, part.tolist()) for part in np.split(np.array(table), 16 // lanes)]
    if len(tables) == 1:
        name, arguments = "llvm.x86.avx512.permvar.sf.512", [tables[0], index]
    else:
        name, arguments = "llvm.x86.avx512.vpermi2var.pd.512", [tables[0], index, tables[1]]
    signature = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def _scale(builder, p, k):
    """Emit p 2^floor(k) by the one instruction of AVX-512 for it, which rounds a subnormal result once."""
    mask, mode = ir.IntType(p.type.count), ir.IntType(32)
    name = f"llvm.x86.avx512.mask.scalef.{'pd' if p.type.count == 8 else 'ps'}.512"
    signature = ir.FunctionType(p.type, [p.type, p.type, p.type, mask, mode])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    current_rounding = mode(4)
    return builder.call(function, [p, k, p, mask(-1), current_rounding])


@intrinsic
def exp(typingctx, x):
    """Return exp(x), within 1.25 ULP; within 2 where the target has no multiply-add.

    By the code, and with the bits, of the vectors of `exp_columns`.
    """
    constants = EXP[x]
    return x(x), lambda context, builder, sig, args: emit_exp(builder, args[0], constants)


@intrinsic
def exp_elements(typingctx, row, count):
    """Replace ``count`` elements by exp(x), with the bits of `exp`."""
    return types.void(row, types.int64), in_place(lambda builder, x, element: (emit_exp(builder, x, EXP[element]),))
