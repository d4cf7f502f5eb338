"""Floats of few different values, such as images that were divided by 255: a code stands for each of them."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.runtime import body

_PLACES = 16  # bits of a hash: with so many places, one of a few factors keeps up to 255 values apart
_FACTORS = [(0x9E3779B97F4A7C15 * (2 * k + 1)) % 2**64 for k in range(32)]
_ROWS = 128  # that are looked at


class Alphabet(NamedTuple):
    """The values of all numbers that are not zero.

    Attributes
    ----------
    table : (256,)
        The value of each code; 0 where there is none. Empty if there is no alphabet.
    place : uint8 (2**16,)
        The code of the value with each hash: the highest bits of its bits times a factor.
    factor : uint64
    """

    table: Any
    place: Any
    factor: Any


def no_alphabet(dtype: Any) -> Alphabet:
    """Return none."""
    return Alphabet(np.empty(0, dtype), np.empty(0, np.uint8), np.uint64(0))


def alphabet_of(rows: Any) -> Alphabet | None:
    """Return an alphabet of float rows (m, n), by some of them; None if these have too many values.

    Other rows may have a number that it lacks: see `code_of`.
    """
    some = np.ascontiguousarray(rows[:: -(-len(rows) // _ROWS)])
    values = np.unique(some[some != 0])
    if not 0 < len(values) < 256 or not np.isfinite(values).all():
        return None
    bits = values.view(np.dtype(f"u{values.itemsize}")).astype(np.uint64)
    for factor in _FACTORS:
        hashes = (bits * np.uint64(factor)) >> np.uint64(64 - _PLACES)
        if len(np.unique(hashes)) == len(values):
            table, place = np.zeros(256, values.dtype), np.zeros(1 << _PLACES, np.uint8)
            table[: len(values)], place[hashes] = values, np.arange(len(values))
            return Alphabet(table, place, np.uint64(factor))
    return None


@body
def code_of(alphabet, number):
    """Return the code of a number, or -1 if it has none."""
    place = (vector.bits_of(number) * alphabet.factor) >> np.uint64(64 - _PLACES)
    code = np.int64(alphabet.place[place])
    return code if alphabet.table[code] == number else np.int64(-1)
