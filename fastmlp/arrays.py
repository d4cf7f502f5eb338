"""Arrays in the form that kernels take, and their digest. Rules and messages are in `fastmlp.checks`."""

import hashlib
import math
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np

from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
DType: TypeAlias = np.dtype[Any]

FLOAT_DTYPES: dict[str, DType] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}

# Weights from 2^-16 to 2^16 are not rescaled.
_ORDINARY_EXPONENT = 16


def result_dtype(*values: Any) -> DType:
    """Return float32 if NumPy's result type of all ``values`` is float32, else float64."""
    common = np.result_type(*values)
    single = common.kind == "f" and common.itemsize == 4
    return FLOAT_DTYPES["float32" if single else "float64"]


def contiguous(dtype: DType, *arrays: Array) -> list[Array]:
    """Return the arrays in the one form that kernels take: ``dtype``, native, aligned, C-contiguous."""
    # Checked first, because np.require takes microseconds even if there is nothing to do.
    return [x if x.dtype == dtype and x.flags.carray else _require(x, dtype, ["C", "A"]) for x in arrays]


def native(dtype: DType, x: Array) -> Array:
    """Return ``x`` (n, m) in ``dtype``, native and aligned, with any strides: the backend copies it if it must."""
    return x if x.dtype == dtype and x.flags.behaved else _require(x, dtype, ["A"])


def in_one_piece(dtype: DType, x: Array) -> Array:
    """Return ``x`` (n, m) in ``dtype``, native, aligned, C- or Fortran-contiguous; copied only if necessary."""
    if x.dtype == dtype and x.flags.aligned and x.flags.forc:
        return x
    return quietly(np.array, x, dtype, order="K")  # quietly as in _require, and in the order that reads x fastest


class Sparse(Protocol):
    """A sparse matrix or array of SciPy, of any format."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""

    @property
    def dtype(self) -> DType:
        """The dtype of the entries."""

    def tocsc(self) -> Any:
        """Return the matrix in CSC format."""

    def toarray(self) -> Array:
        """Return the dense array."""


def is_sparse(x: object) -> TypeGuard[Sparse]:
    """Return whether ``x`` is a sparse matrix or array of SciPy, which is not imported for this."""
    return hasattr(x, "tocsc") and hasattr(x, "toarray")


def all_finite(x: Array) -> bool:
    """Return whether ``x``, of any shape and layout, holds neither infinity nor NaN."""
    if x.dtype.kind != "f":
        return True
    # One pass without a temporary array: a finite sum has only finite terms.
    total = quietly(np.add.reduce, x, axis=None)
    return math.isfinite(total) or bool(np.isfinite(x).all())


def first_entry(x: Array, mask: Array) -> str:
    """Return in words the first entry of ``x``, (m,) or a matrix, where ``mask`` is true: its value and its place."""
    where = np.unravel_index(int(np.argmax(mask)), mask.shape)
    place = f"row {where[0]}, column {where[1]}" if x.ndim == 2 else f"index {where[0]}"
    return f"{x[where]} at {place}"


def rescaled(w: Array) -> Array:
    """Return weights (m,) times the power of two that brings very large or very small ones near 1."""
    exponent = int(np.frexp(w.max())[1])
    scaled: Array = w if abs(exponent) <= _ORDINARY_EXPONENT else np.ldexp(w, -exponent)
    return scaled


def digest(blocks: Iterable[Array]) -> str:
    """Return the SHA-256 of the values of ``blocks``, arrays of any shape, one after the other."""
    sha = hashlib.sha256()
    for block in blocks:
        sha.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data)
    return sha.hexdigest()


def _require(x: Array, dtype: DType, flags: Any) -> Array:
    # Values too large for the dtype become infinite without a warning, as they do inside a kernel.
    return quietly(np.require, x, dtype, flags)
