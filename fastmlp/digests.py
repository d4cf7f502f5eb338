"""Digests of a matrix: the same for a dense, a sparse, a packed and a divided one, and on either backend."""

import hashlib
from collections.abc import Iterable
from typing import Any, Self, TypeAlias

import numpy as np

from fastmlp import arrays
from fastmlp.kernels.columns import Columns, joined

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Numbers of the samples that are digested together, as rows or as entries: few enough to be made dense.
_GROUP = 1 << 20

# Entries are digested instead of rows where they have this many times fewer bytes: to find them takes longer.
_SAVING = 4

_PLACE = np.dtype("<u4")


class Content:
    """The digest of a matrix whose samples arrive some at a time.

    Groups of samples, whose size depends on the number of features alone, are digested as rows, or as the places and
    values of their non-zero numbers if these have much fewer bytes: the choice depends on the values alone, so that
    the digest depends neither on the form of the matrix nor on how many samples arrive at once. Values are digested as
    they are stored, because uint8 may train to other bits than the same values in floating point.

    Parameters
    ----------
    shape : tuple of int
        (n_features, m).
    dtype : numpy.dtype
        That of the stored numbers.
    scale : float
        That of uint8.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], scale: float) -> None:
        self._sha = hashlib.sha256(f"{shape} {dtype.name} {scale!r}".encode())
        self._size = max(1, _GROUP // shape[0])
        self._held: list[Array | Columns] = []
        self._count = 0

    def update(self, samples: Array | Columns) -> None:
        """Add the next samples: rows (k, n), or `Columns`."""
        m = samples.shape[1] if isinstance(samples, Columns) else len(samples)
        at = 0
        while at < m:
            stop = min(at + self._size - self._count, m)
            some = samples.between(at, stop) if isinstance(samples, Columns) else samples[at:stop]
            self._count, at = self._count + stop - at, stop
            is_whole = self._count == self._size
            # A source of rows may use their memory for the next ones, before this group is complete.
            self._held.append(some if is_whole or isinstance(some, Columns) else some.copy())
            if is_whole:
                self._close()

    def updated(self, pieces: Iterable[Array | Columns]) -> Self:
        """Add all of these samples; return the digest."""
        for samples in pieces:
            self.update(samples)
        return self

    def hexdigest(self) -> str:
        """Return the digest of all samples, after which no more may come."""
        if self._held:
            self._close()
        return self._sha.hexdigest()

    def _close(self) -> None:
        """Digest the samples that are held."""
        columns = [one for one in self._held if isinstance(one, Columns)]
        rows = [one for one in self._held if not isinstance(one, Columns)]
        if columns:
            self._digest_columns(joined(columns))
        else:
            self._digest_rows(rows[0] if len(rows) == 1 else np.concatenate(rows))
        self._held, self._count = [], 0

    def _digest_columns(self, samples: Columns) -> None:
        if self._saves(len(samples.value), samples.shape, samples.dtype):
            self._add(b"entries", samples.samples() * samples.features + samples.feature, samples.value)
        else:
            self._add(b"rows", None, samples.rows())

    def _digest_rows(self, rows: Array) -> None:
        if self._saves(int(np.count_nonzero(rows)), rows.shape, rows.dtype):
            places = np.flatnonzero(rows)
            self._add(b"entries", places, rows.reshape(-1)[places])
        else:
            self._add(b"rows", None, rows if rows.dtype == np.uint8 else rows + rows.dtype.type(0))  # without -0.0

    @staticmethod
    def _saves(entries: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        return _SAVING * entries * (_PLACE.itemsize + dtype.itemsize) < shape[0] * shape[1] * dtype.itemsize

    def _add(self, kind: bytes, places: Array | None, values: Array) -> None:
        self._sha.update(kind)
        for one, dtype in ((places, _PLACE), (values, values.dtype.newbyteorder("<"))):
            if one is not None:
                self._sha.update(np.ascontiguousarray(one, dtype).data)


def digest_of_samples(content: str, *others: Array) -> str:
    """Return the digest of a matrix, by that of its content, and of what belongs to it."""
    return arrays.digest([np.frombuffer(bytes.fromhex(content), np.uint8), *others])
