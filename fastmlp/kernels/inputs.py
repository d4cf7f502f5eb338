"""The input as the NumPy backend reads it: rows of samples, or `Columns`, which are decoded a chunk at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp.kernels.columns import Columns

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Stored: TypeAlias = Array | Columns

# Samples in a leaf, which a step takes at once: bounds the memory for activations and for the decoded input.
CHUNK = 4096

# Elements of the decoded input at most, unless a single sample has more.
_CHUNK_ELEMENTS = 1 << 25


class Rows(NamedTuple):
    """Samples as rows (m, n), or as `Columns`, and the table (256,) that decodes them if they are uint8."""

    rows: Stored
    table: Array

    @property
    def samples(self) -> int:
        """The number of samples."""
        return _samples(self.rows)

    def is_decoded(self) -> bool:
        """Return whether samples are stored in another form than rows of floats."""
        return isinstance(self.rows, Columns) or self.rows.dtype == np.uint8

    def chosen(self, samples: Array) -> "Rows":
        """Return these samples, in their order."""
        rows = self.rows.chosen(samples) if isinstance(self.rows, Columns) else self.rows[samples]
        return Rows(rows, self.table)

    def chunks(self) -> list[slice]:
        """Return the slices that a step takes at once: they depend on the shape alone, so that forms give like bits."""
        n = self.rows.features if isinstance(self.rows, Columns) else self.rows.shape[1]
        step = leaf_size(self.samples, n)
        return [slice(first, min(first + step, self.samples)) for first in range(0, self.samples, step)]

    def decoded(self, chunk: slice) -> Array:
        """Return some samples as dense rows of floats."""
        rows = self.rows.between(chunk.start, chunk.stop).rows() if isinstance(self.rows, Columns) else self.rows[chunk]
        decoded: Array = self.table[rows] if rows.dtype == np.uint8 else rows
        return decoded


def _samples(x: Stored) -> int:
    return x.shape[1] if isinstance(x, Columns) else len(x)


def leaf_size(m: int, n: int) -> int:
    """Return the samples of a leaf of m samples of n features."""
    return min(CHUNK, max(1, _CHUNK_ELEMENTS // n))


def all_dense(x: Stored) -> bool:
    """Return True: no form of a product depends on it."""
    return True


def pack(matrix: Array, whole: int = 0, features: None = None) -> Array:
    """Return a copy of ``matrix`` (n, m), uint8, float32 or float64, as rows (m, n): samples are contiguous."""
    return np.array(matrix.T, order="C")


def order_features(matrix: Array, whole: int) -> None:
    """Return None: features have one order."""


def list_samples(matrix: Stored, density: float, counts: Array | None = None) -> Stored:
    """Return a matrix (n, m), dense or sparse, as batches read it.

    ``density`` is the share of non-zero numbers, ``counts`` are those of `survey`.
    """
    if not isinstance(matrix, Columns):
        return pack(matrix)
    start, feature, value, n = matrix
    return Columns(start.copy(), feature.copy(), value.copy(), n)


def other_form(x: Stored, density: float) -> Stored:
    """Return the form for passes of a matrix in the form for batches, or the other way round: they are the same."""
    return x


def plain_operand(rows: Array) -> Rows:
    """Return the operand of samples, float rows (m, n), for `network_logits` alone: no copy."""
    return Rows(rows, rows[:0, 0])


def operands(x: Stored, table: Array) -> Rows:
    """Return the operand for the dtype of ``table`` (256,): uint8 is decoded chunk by chunk."""
    return Rows(x, table)


def unpack(x: Stored) -> Iterator[tuple[int, Stored]]:
    """Yield the samples as they are stored, a few at a time: the first one, and rows (m, n) or `Columns`."""
    m = _samples(x)
    for first in range(0, m, CHUNK):
        stop = min(first + CHUNK, m)
        yield first, x.between(first, stop) if isinstance(x, Columns) else x[first:stop]


def packed_facts(x: Stored) -> tuple[str, int]:
    """Return the form and the bytes of a packed matrix."""
    return "sparse" if isinstance(x, Columns) else "dense", x.nbytes


def layout(m: int, n: int, itemsize: int) -> dict[str, int]:
    """Return the constants on which the layout of m samples of n features depends."""
    return {"leaf": leaf_size(m, n)}


def to_arrays(x: Stored) -> dict[str, Array]:
    """Return the arrays of a matrix that `pack` returned, by name."""
    assert isinstance(x, np.ndarray)
    return {"rows": x}


def from_arrays(arrays: dict[str, Array], n: int, whole: int) -> Array:
    """Return the matrix of these arrays, which are not copied; ``whole`` as in `pack`."""
    return arrays["rows"]
