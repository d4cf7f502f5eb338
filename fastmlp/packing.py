"""Packing of the input: X, converted once into the form that kernels read fastest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, backend, checks, frames, sparse
from fastmlp.blocks import block_size
from fastmlp.digests import Content, digest_of_samples
from fastmlp.kernels import rules
from fastmlp.kernels.columns import Columns, joined
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Drawn
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_UINT8 = np.dtype(np.uint8)

Input: TypeAlias = "ArrayLike | arrays.Sparse | frames.Frame | PackedMatrix"

# About this many columns are searched for the largest value; inputs look unscaled if it exceeds the second number.
SEEN, _SCALED = 1000, 20.0


class PackedMatrix:
    """An input matrix in the form that the kernels of one backend read fastest; `fastmlp.pack` makes it.

    With the Numba backend, samples with similar non-zero features are stored together, in tiles, and a tile keeps only
    its non-zero entries if that is faster. The choice depends on the values of the tile alone. Results for each sample
    are returned in the caller's order. Minibatches need another form, a list of the non-zero entries of each sample. A
    matrix has one form from the beginning, and makes the other one when it is first needed; a sparse matrix begins with
    these lists. Neither is made by way of a dense matrix. Up to 120 samples are stored dense, though, and so are, for
    minibatches, samples in which more than half of the numbers are not zero.

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
    A pickle holds the plain values, or those of the lists, and the scale, and is packed again when it is loaded, on any
    backend and processor.
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

    #: How minibatches are shuffled by default.
    shuffle = "samples"

    __slots__ = (
        "_backend", "_forms", "_lists", "_operands", "_scale",
        "density", "dtype", "finite", "is_frame", "largest", "shape",
    )  # fmt: skip

    def __init__(self, matrix: Array | Columns, scale: float, *, minibatches: bool = False) -> None:
        self.shape: tuple[int, int] = matrix.shape
        self.dtype = matrix.dtype
        step = -(-self.shape[1] // SEEN)
        if isinstance(matrix, Columns):
            values, seen = matrix.value, matrix.chosen(np.arange(0, self.shape[1], step)).value
        else:
            values, seen = matrix, matrix[:, ::step]
        kernels, lists = backend.kernels(), minibatches or isinstance(matrix, Columns)
        # First, because its kernel, where it has to be compiled, lets a companion begin with what comes after it.
        packed = None if lists else kernels.pack(matrix)
        counts, self.finite = kernels.survey(values)
        if self.dtype == _UINT8:
            self.finite = _codes_are_finite(values, scale)
        self.density = int(counts.sum()) / math.prod(self.shape)
        self.largest = float(max(seen.max(initial=0), -float(seen.min(initial=0)))) * scale
        self._scale = scale
        self.is_frame = False  # whether it was a data frame, whose columns an encoder may expect
        self._backend = backend.get_backend()
        self._operands: dict[tuple[bool, np.dtype[Any]], Any] = {}
        self._lists: list[Any] = []  # of the batches of the last training
        form = kernels.list_samples(matrix, self.density, counts) if lists else packed
        self._forms: dict[bool, Any] = {lists: form}

    def __repr__(self) -> str:
        return f"PackedMatrix({self.shape}, {self.dtype}, {self.kind}, density {self.density:.3f}, {self.nbytes} bytes)"

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
            # The NumPy backend has one form for both uses.
            forms = {id(one): one for one in self._forms.values()}
            return [backend.kernels().packed_facts(one) for one in forms.values()]

    def __copy__(self) -> PackedMatrix:
        return self

    def __deepcopy__(self, _: object) -> PackedMatrix:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Not the packed form, because kernels of another vector width would read outside its buffers.
        with backend.use_backend(self._backend):
            pieces = [piece for _, piece in self._pieces()]
        matrix = joined(pieces) if isinstance(pieces[0], Columns) else np.concatenate(pieces).T
        return PackedMatrix, (matrix, self._scale), (None, {"is_frame": self.is_frame})

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
        return looks_unscaled(self.dtype, self._scale, self.largest)

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
        wanted = checks.float_dtype("dtype", dtype)
        out = np.zeros(self.shape, wanted if self.dtype == _UINT8 else self.dtype)
        for first, piece in self._pieces():
            rows = piece.rows() if isinstance(piece, Columns) else piece
            out[:, first : first + len(rows)] = self._decoded(rows, wanted).T
        return out

    def operands(self, dtype: np.dtype[Any], *, minibatches: bool = False) -> Any:
        """Return the operand of kernels that compute in ``dtype``: of whole passes, or of minibatches."""
        self._check_backend()
        key = minibatches, dtype
        if key not in self._operands:
            kernels = backend.kernels()
            if minibatches not in self._forms:
                self._forms[minibatches] = kernels.other_form(self._forms[not minibatches], self.density)
            self._operands[key] = kernels.operands(self._forms[minibatches], self._table(dtype))
        return self._operands[key]

    def step(self, gradient: Array, parameters: Array, net: Net, y: Array, weight: Array) -> tuple[float, float, float]:
        """Set ``gradient`` to the weighted mean gradient; return the sums of loss, weight of hits and weight."""
        kernels, x = backend.kernels(), self.operands(parameters.dtype)
        sums: tuple[float, float, float] = kernels.network_step(gradient, parameters, net, x, y, weight)
        return sums

    @property
    def block(self) -> int:
        """Samples of a block, as `fastmlp.pack` would write it, for ``shuffle="blocks"``."""
        return block_size(self.shape, self.dtype)

    def check_shuffle(self, shuffle: str | bool) -> None:
        """Do nothing: samples in memory may be taken in any order."""

    def begin_training(
        self, vectors: list[Array], net: Net, y: Array, weight: Array, drawn: Drawn | None = None
    ) -> Any:
        """Return a trainer that begins with parameters (k,) and the state of an optimizer; see `Batches.drawn`."""
        kernels, x = backend.kernels(), self.operands(vectors[0].dtype, minibatches=True)
        if drawn is not None:
            drawn = drawn._replace(kept=self._lists)
        return kernels.begin_training(vectors, net, x, y, weight, drawn=drawn)

    def begin_epoch(self, trainer: Any, order: Array) -> None:
        """Do nothing: the samples of the epoch are at hand."""

    def vectors(self, trainer: Any) -> list[Array]:
        """Return the parameters (k,) and the state of the optimizer of a trainer."""
        vectors: list[Array] = backend.kernels().training_vectors(trainer)
        return vectors

    def train(self, trainer: Any, order: Array, ends: Array, rule: rules.Rule, numbers: Array) -> Array:
        """Update on batch after batch, as the kernel ``train``; return the sums of each."""
        sums: Array = backend.kernels().train(trainer, order, ends, rule, numbers)
        return sums

    def logits(self, out: Array, parameters: Array, net: Net) -> None:
        """Set ``out`` (C, m) to the logits."""
        kernels = backend.kernels()
        kernels.network_logits(out, parameters, net, self.operands(parameters.dtype))

    def digest(self, shapes: Array, y: Array, weight: Array) -> str:
        """Return a digest of shapes, content, targets and weights."""
        return digest_of_samples(self.content(), shapes, y, weight)

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
        found = (_first_not_finite(self.shape[0], *entries) for entries in self._entries(dtype))
        first = min((one for one in found if one is not None), default=None)
        return None if first is None else "{2} at row {0}, column {1}".format(*first)

    def content(self) -> str:
        """Return the digest of shape, dtype, scale and values: see `fastmlp.digests`."""
        pieces = (piece for _, piece in self._pieces())
        return Content(self.shape, self.dtype, self._scale).updated(pieces).hexdigest()

    def _entries(self, dtype: np.dtype[Any]) -> Iterator[tuple[Array, Array]]:
        """Yield the places and values in ``dtype`` of non-zero numbers; feature k of sample j has the place j n + k."""
        n = self.shape[0]
        for first, piece in self._pieces():
            if isinstance(piece, Columns):
                place, value = piece.samples() * n + piece.feature, piece.value
            else:
                place = np.flatnonzero(piece)
                value = piece.reshape(-1)[place]
            yield place + first * n, self._decoded(value, dtype)

    def _pieces(self) -> Iterator[tuple[int, Any]]:
        """Yield samples as they are stored, a few at a time: the first one, and rows or `Columns`."""
        self._check_backend()
        pieces: Iterator[tuple[int, Any]] = backend.kernels().unpack(next(iter(self._forms.values())))
        return pieces

    def _decoded(self, stored: Array, dtype: np.dtype[Any]) -> Array:
        return self._table(dtype)[stored] if stored.dtype == _UINT8 else stored


def looks_unscaled(dtype: np.dtype[Any], scale: float, largest: float) -> bool:
    """Return whether values of a matrix up to ``largest`` are so large that a network hardly learns from them."""
    return largest > (1 if dtype == _UINT8 and scale == 1 else _SCALED)


def _first_not_finite(n: int, place: Array, value: Array) -> tuple[int, int, Any] | None:
    """Return the first feature that is not finite in any of the samples, the first of these, and the value."""
    bad = np.flatnonzero(~np.isfinite(value))
    if bad.size == 0:
        return None
    sample, feature = np.divmod(place[bad], n)
    first = np.lexsort((sample, feature))[0]
    return int(feature[first]), int(sample[first]), value[bad[first]]


def packed(name: str, X: Any, factor: float, wanted: np.dtype[Any] | None, *, minibatches: bool) -> PackedMatrix:
    """Return what `pack` returns for the argument ``name``."""
    x: Array | Columns = sparse.packable(name, X) if arrays.is_sparse(X) else checks.packable(name, X)
    values = x.value if isinstance(x, Columns) else x
    if values.dtype == _UINT8:
        values, later = arrays.native(_UINT8, values), factor
    else:
        values, later = scaled(arrays.native(wanted or arrays.result_dtype(values), values), factor), 1.0
    matrix = sparse.without_zeros(x._replace(value=values)) if isinstance(x, Columns) else values
    return PackedMatrix(matrix, later, minibatches=minibatches)


def _codes_are_finite(values: Array, scale: float) -> bool:
    """Return whether codes are finite when they are scaled: the largest of all nearly always is."""

    def is_finite(code: int) -> bool:
        return arrays.all_finite(scaled(np.array([code], np.float64), scale))

    return is_finite(255) or is_finite(values.max(initial=0))


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
