"""The activations that need an exponential: logistic function, hyperbolic tangent and GELU.

Each replaces the elements of a row, a vector at a time. ``math.tanh`` and ``math.erf`` would be calls, element by
element.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.vector.elements import in_place
from fastmlp.kernels.vector.exp import EXP, emit_exp
from fastmlp.kernels.vector.ir import by_lanes, horner, multiply_add


class _Constants:
    """Polynomials of tanh and of the normal distribution, which interpolate at Chebyshev's points.

    ``tanh`` is q in tanh(x) = x + x^3 q(x^2) for |x| <= 1, to 0.25 eps. Beyond it, 1 - 2 / (exp(2x) + 1) loses no
    digits.

    ``tail`` is p in Phi(-t) = exp(-t^2 / 2) p(s) / (t + 5), s = (t - 5) / (t + 5), for t from 0 to ``most``, to 0.4
    eps of p. That variable brings a half-axis into [-1, 1], and p varies only from 2.5 to 0.4 there (M. Shepherd and
    J. Laframboise, Chebyshev approximation of (1 + 2x) exp(x^2) erfc x, Mathematics of Computation 36, 1981). With 5,
    fewer terms are needed than with 3 or 4. At ``most`` the exponential has long been 0.
    """

    def __init__(self, dtype):
        double = dtype == np.float64
        self.most = 40.0 if double else 15.0
        self.tanh = (
            (-0.33333333333333326, 0.13333333333330813, -0.05396825396636394, 0.02186948847999737,
             -0.00886323465252544, 0.0035921197425441464, -0.0014557829138450453, 0.0005898067307783174,
             -0.00023845344045191568, 9.540778823530722e-05, -3.679721325874468e-05, 1.2889423623414145e-05,
             -3.6986096809521603e-06, 7.386981472384082e-07, -7.41114097654018e-08)
            if double
            else (-0.3333333134651184, 0.1333312839269638, -0.053934790194034576, 0.02166011556982994,
                  -0.008218921720981598, 0.0025104593951255083, -0.00042069549090228975)
        )  # fmt: skip
        self.tail = (
            (0.769193049750063, -0.6653825028900567, 0.49530561596997386, -0.31353315667129955, 0.16502036617051113,
             -0.06911863870640436, 0.020795066797416595, -0.0029933767701593532, -0.0007978693739469138,
             0.0005448990707733159, -5.937586780212169e-05, -4.976288868029808e-05, 1.6681694446690882e-05,
             3.981274923141603e-06, -2.770264894685992e-06, -3.376318795644607e-07, 4.343124300104718e-07,
             4.385236079192329e-08, -6.65400740125251e-08, -1.0623937439932971e-08, 7.573702456952603e-09,
             2.2061860857956886e-09)
            if double
            else (0.7691930532455444, -0.665382444858551, 0.4953066110610962, -0.31353452801704407,
                  0.1650039255619049, -0.06911326944828033, 0.0208890438079834, -0.002960996236652136,
                  -0.000988827901892364, 0.00039506485336460173)
        )  # fmt: skip


_SPLIT = 5.0  # the 5 of `_Constants`
_DENSITY = 0.3989422804014327  # 1 / sqrt(2 pi)
_CONSTANTS = {types.float64: _Constants(np.float64), types.float32: _Constants(np.float32)}


def _logistic(builder, x, element):
    """Emit 1 / (1 + exp(-x)); the exponential is of a number below 0, and cannot overflow.

    With e = exp(-|x|) and q = e / (1 + e), it is 1 - q above 0 and e - e q below, where the roundings of q are
    multiplied by e. The plain quotient q is up to 3.05 ULP off.
    """
    kind = x.type
    e = emit_exp(builder, builder.fneg(by_lanes(builder, "fabs", x)), EXP[element], precise=True)
    q = builder.fdiv(e, builder.fadd(kind(1.0), e))
    limit = builder.select(builder.fcmp_ordered("<", x, kind(0.0)), e, kind(1.0))
    return (multiply_add(builder, builder.fneg(limit), q, limit),)


def _tanh(builder, x, element):
    """Emit tanh(x), by its magnitude: so the sign of zero stays."""
    kind, size = x.type, by_lanes(builder, "fabs", x)
    square = builder.fmul(size, size)
    small = multiply_add(builder, builder.fmul(size, square), horner(builder, _CONSTANTS[element].tanh, square), size)
    e = emit_exp(builder, builder.fadd(size, size), EXP[element])
    large = builder.fsub(kind(1.0), builder.fdiv(kind(2.0), builder.fadd(e, kind(1.0))))
    chosen = builder.select(builder.fcmp_ordered("<", size, kind(1.0)), small, large)
    return (by_lanes(builder, "copysign", chosen, x),)


def _gelu(builder, x, element):
    """Emit x Phi(x) and its derivative Phi(x) + x phi(x), Phi and phi of the normal distribution."""
    kind, constants = x.type, _CONSTANTS[element]
    size = by_lanes(builder, "fabs", x)
    # A comparison that is false for NaN, so that NaN passes.
    size = builder.select(builder.fcmp_ordered(">", size, kind(constants.most)), kind(constants.most), size)
    beyond = builder.fadd(size, kind(_SPLIT))
    s = builder.fdiv(builder.fsub(size, kind(_SPLIT)), beyond)
    e = emit_exp(builder, builder.fmul(size, builder.fmul(size, kind(-0.5))), EXP[element])
    tail = builder.fmul(e, builder.fdiv(horner(builder, constants.tail, s), beyond))
    below = builder.fcmp_ordered("<", x, kind(0.0))
    probability = builder.select(below, tail, builder.fsub(kind(1.0), tail))
    slope = multiply_add(builder, x, builder.fmul(e, kind(_DENSITY)), probability)
    return builder.fmul(x, probability), slope


@intrinsic
def logistic_elements(typingctx, row, count):
    """Replace ``count`` elements by 1 / (1 + exp(-x)), within 2 ULP."""
    return types.void(row, types.int64), in_place(_logistic)


@intrinsic
def tanh_elements(typingctx, row, count):
    """Replace ``count`` elements by tanh(x), within 2 ULP."""
    return types.void(row, types.int64), in_place(_tanh)


@intrinsic
def gelu_elements(typingctx, slopes, row, count):
    """Replace ``count`` elements by x Phi(x), and set ``slopes`` to the derivatives unless they are the row itself.

    The relative error of a value is at most (6 + x^2) eps, because x^2 / 2 rounds; the error of a slope at most 4 eps.
    """
    return types.void(slopes, row, types.int64), in_place(_gelu)
