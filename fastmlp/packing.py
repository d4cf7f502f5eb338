"""Packing of the input: X, converted once into the form that kernels read fastest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, backend, checks
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_UINT8 = np.dtype(np.uint8)

# Rows that `PackedMatrix.blocks` reads at once.
_BLOCK_ROWS = 64

# About this many columns are searched for the largest value; inputs look unscaled if it exceeds the second number.
_SEEN, _SCALED = 1000, 20.0


class PackedMatrix:
    """An input matrix in the form that the kernels of one backend read fastest; `pack` makes it.

    With the Numba backend, samples with similar non-zero features are stored together, in tiles, and a tile keeps only
    its non-zero entries if that is faster. The choice depends on the values of the tile alone. Results for each sample
    are returned in the caller's order. Minibatches need another form, a list of the non-zero entries of each sample. A
    matrix has one form from the beginning, and makes the other one when it is first needed.

    Attributes
    ----------
    shape : tuple of int
        (n_features, m).
    dtype : numpy.dtype
        uint8, for models of both dtypes, or the dtype of the models that it is for.
    density : float
        Share of the non-zero entries.
    finite : bool
        Whether no value is infinite or NaN, for uint8 after decoding to float64. `MLP.fit`, `MLP.predict` and the like
        refuse a matrix that is not finite.
    largest : float
        The largest absolute value, after scaling, in about 1000 of the columns.

    Notes
    -----
    A pickle holds the plain values and the scale, and is packed again when it is loaded, on any backend and processor.
    A copy is the matrix itself, because it never changes.

    Examples
    --------
    >>> import numpy as np, fastmlp
    >>> P = fastmlp.pack(np.array([[0, 255], [0, 51]], np.uint8), scale=1/255)
    >>> P.shape, P.density, P.finite
    ((2, 2), 0.5, True)
    >>> P.to_dense()
    array([[0. , 1. ],
           [0. , 0.2]])
    """

    __slots__ = (
        "_backend", "_forms", "_operands", "_scale", "density", "dtype", "finite", "largest", "shape",
    )  # fmt: skip

    def __init__(self, matrix: Array, scale: float, *, minibatches: bool = False) -> None:
        self.shape: tuple[int, int] = matrix.shape
        self.dtype = matrix.dtype
        self.density = float(np.count_nonzero(matrix) / matrix.size)
        largest = scaled(np.array([matrix.max()], np.float64), scale) if matrix.dtype == _UINT8 else matrix
        self.finite = arrays.all_finite(largest)
        seen = matrix[:, :: -(-matrix.shape[1] // _SEEN)]
        self.largest = float(max(seen.max(), -float(seen.min()))) * scale
        self._scale = scale
        self._backend = backend.get_backend()
        self._operands: dict[tuple[bool, np.dtype[Any]], Any] = {}
        self._forms: dict[bool, Any] = {minibatches: self._made(matrix, minibatches)}

    def __repr__(self) -> str:
        return f"PackedMatrix({self.shape}, {self.dtype}, {self.kind}, density {self.density:.3f}, {self.nbytes} bytes)"

    def _made(self, matrix: Array, minibatches: bool) -> Any:
        """Return one form of the stored matrix (n, m)."""
        kernels = backend.kernels()
        return kernels.list_samples(matrix, self.density) if minibatches else kernels.pack(matrix)

    @property
    def kind(self) -> str:
        """``"sparse"``, ``"dense"`` or ``"mixed"``: how entries are stored, in the form that was made first."""
        return self._facts()[0][0]

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        return sum(size for _, size in self._facts())

    def _facts(self) -> list[tuple[str, int]]:
        with backend.use_backend(self._backend):
            return [backend.kernels().packed_facts(one) for one in self._forms.values()]

    def __copy__(self) -> PackedMatrix:
        return self

    def __deepcopy__(self, _: object) -> PackedMatrix:
        return self

    def __reduce__(self) -> tuple[type[PackedMatrix], tuple[Array, float]]:
        # Not the packed form, because kernels of another vector width would read outside its buffers.
        with backend.use_backend(self._backend):
            return PackedMatrix, (self._stored(0, self.shape[0]).T, self._scale)

    def looks_unscaled(self) -> bool:
        """Return whether values are so large that a network hardly learns from them.

        Returns
        -------
        bool
            True for uint8 above 1 that was packed without a scale, and for any absolute value above 20.

        Examples
        --------
        >>> import numpy as np, fastmlp
        >>> pixels = np.array([[0, 255]], np.uint8)
        >>> fastmlp.pack(pixels).looks_unscaled(), fastmlp.pack(pixels, scale=1/255).looks_unscaled()
        (True, False)
        """
        return self.largest > (1 if self.dtype == _UINT8 and self._scale == 1 else _SCALED)

    def to_dense(self, dtype: str = "float64") -> Array:
        """Return the matrix as a plain array.

        Parameters
        ----------
        dtype : {"float64", "float32"}
            The dtype to decode uint8 to; a float matrix keeps its own.

        Returns
        -------
        ndarray, shape (n_features, m)
            The values, scaled.

        Raises
        ------
        ValueError
            If the dtype is not one of these, or the matrix was packed for another backend.

        Examples
        --------
        >>> import numpy as np, fastmlp
        >>> fastmlp.pack(np.array([[2.0, 0.0]])).to_dense()
        array([[2., 0.]])
        """
        return self._rows(checks.float_dtype("dtype", dtype), 0, self.shape[0]).T.copy()

    def operands(self, dtype: np.dtype[Any], *, minibatches: bool = False) -> Any:
        """Return the operand of kernels that compute in ``dtype``: of whole passes, or of minibatches."""
        self._check_backend()
        key = minibatches, dtype
        if key not in self._operands:
            if minibatches not in self._forms:
                self._forms[minibatches] = self._made(self._stored(0, self.shape[0]).T, minibatches)
            self._operands[key] = backend.kernels().operands(self._forms[minibatches], self._table(dtype))
        return self._operands[key]

    def _check_backend(self) -> None:
        current = backend.get_backend()
        if current != self._backend:
            got, expected = f"a matrix packed for the {self._backend} backend", f"one packed for {current}"
            raise ValueError(checks.message("X", got, expected, "pack it again with this backend"))

    def _table(self, dtype: np.dtype[Any]) -> Array:
        """Return the table (256,) that decodes uint8 to ``dtype``."""
        return scaled(np.arange(256, dtype=dtype), self._scale)

    def not_finite(self, dtype: np.dtype[Any]) -> str | None:
        """Return in words the first value that is not finite in ``dtype`` and its place; None if all are finite."""
        # uint8 that decodes to finite float64 may be infinite in float32.
        if self.finite and (self.dtype != _UINT8 or np.isfinite(self._table(dtype)[-1])):
            return None
        return arrays.first_not_finite(self.to_dense(dtype.name))

    def blocks(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        """Yield the content for a digest: the rows in ``dtype``, a few at a time, after a mark if they are uint8.

        The rows depend neither on the layout of X nor on the backend. The mark is there because dense samples of uint8
        are stored in another form than the same values in floating point, and may train to other bits.
        """
        if self.dtype == _UINT8:
            yield np.frombuffer(b"uint8", np.uint8)
        n = self.shape[0]
        for first in range(0, n, _BLOCK_ROWS):
            yield self._rows(dtype, first, min(first + _BLOCK_ROWS, n)).T + dtype.type(0)  # -0 becomes 0

    def _stored(self, first: int, stop: int) -> Array:
        """Return the features ``first`` to below ``stop`` as they are stored, rows (m, stop - first)."""
        self._check_backend()
        rows: Array = backend.kernels().unpack(next(iter(self._forms.values())), first, stop)
        return rows

    def _rows(self, dtype: np.dtype[Any], first: int, stop: int) -> Array:
        """Return the features ``first`` to below ``stop`` in ``dtype``, rows (m, stop - first)."""
        stored = self._stored(first, stop)
        return self._table(dtype)[stored] if stored.dtype == _UINT8 else stored


def pack(
    X: ArrayLike, scale: float | None = None, dtype: str | None = None, *, minibatches: bool = False
) -> PackedMatrix:
    """Pack X once, to use it many times.

    Parameters
    ----------
    X : array_like, shape (n_features, m)
        uint8, float32, float64 or other real numbers, in any memory layout, also memory-mapped; samples as columns.
        uint8 stays uint8 in memory, and kernels decode it through a table of 256 entries.
    scale : float, optional
        Positive factor for every value. If 1/scale rounds to an integer n, values are divided by n, so that
        ``pack(I, scale=1/255)`` holds exactly the bits of ``I / 255.``.
    dtype : {"float64", "float32"}, optional
        The dtype of the packed values if X is not uint8; by default that of X.
    minibatches : bool
        Whether to make the form that `MLP.fit` reads with ``batch_size``, instead of the one that everything else
        reads. The other form is made when it is first needed.

    Returns
    -------
    PackedMatrix
        A copy of X that `MLP.fit`, `MLP.loss_and_grad`, `MLP.predict` and the like accept in its place. It may hold
        values that are not finite: see its ``finite``.

    Raises
    ------
    ValueError
        If X is empty or not two-dimensional, has 2**31 features or more, or the scale is not positive and finite.
    TypeError
        If X does not hold real numbers.

    Examples
    --------
    >>> import numpy as np, fastmlp
    >>> P = fastmlp.pack(np.array([[0, 255], [0, 51]], np.uint8), scale=1/255)
    >>> fastmlp.MLP((2, 2)).predict(P).shape
    (2,)
    """
    matrix = checks.packable("X", X)
    factor = checks.positive("scale", 1.0 if scale is None else scale, "pass a factor such as 1/255")
    wanted = None if dtype is None else checks.float_dtype("dtype", dtype)
    if matrix.dtype != _UINT8:
        matrix = arrays.native(wanted or arrays.result_dtype(matrix), matrix)
        return PackedMatrix(scaled(matrix, factor), 1.0, minibatches=minibatches)
    return PackedMatrix(arrays.native(_UINT8, matrix), factor, minibatches=minibatches)


def scaled(values: Array, scale: float) -> Array:
    """Return ``values`` times ``scale`` in their dtype; if 1/scale rounds to an integer, divided by it."""
    if scale == 1:
        return values
    # From 2^53 on every float is an integer, so the test would be void; and 1 / scale may overflow.
    inverse = min(1 / scale, 2.0**53)
    divisor = round(inverse)
    exact = 0 < divisor < 2**53 and math.isclose(inverse, divisor, rel_tol=1e-12)
    operation, factor = (np.divide, divisor) if exact else (np.multiply, scale)
    result: Array = quietly(lambda: operation(values, values.dtype.type(factor)))  # as in a kernel
    return result
