"""Sparse input as kernels take it."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Columns(NamedTuple):
    """A matrix of n features and m samples, as the non-zero numbers of each sample.

    Attributes
    ----------
    start : ndarray of int64, shape (m + 1,)
        Sample j has the entries ``start[j]`` to below ``start[j + 1]``.
    feature : ndarray of int32
        That of each entry; they rise within a sample.
    value : ndarray of uint8 or float
        The number of each entry.
    features : int
    """

    start: Array
    feature: Array
    value: Array
    features: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, m)."""
        return self.features, len(self.start) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the numbers."""
        return self.value.dtype

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        return self.start.nbytes + self.feature.nbytes + self.value.nbytes

    def samples(self) -> Array:
        """Return the sample of each entry, int64."""
        return np.repeat(np.arange(self.shape[1]), np.diff(self.start))

    def between(self, first: int, stop: int) -> Columns:
        """Return the samples ``first`` to below ``stop``, as views of the entries."""
        start = self.start[first : stop + 1]
        begin, end = start[0], start[-1]
        return Columns(start - begin, self.feature[begin:end], self.value[begin:end], self.features)

    def chosen(self, samples: Array) -> Columns:
        """Return these samples, in their order, as copies of the entries."""
        first, counts = self.start[samples], np.diff(self.start)[samples]
        start = np.append(0, np.cumsum(counts))
        entries = np.arange(start[-1]) + np.repeat(first - start[:-1], counts)
        return Columns(start, self.feature[entries], self.value[entries], self.features)

    def rows(self) -> Array:
        """Return the samples as dense rows (m, n)."""
        rows = np.zeros(self.shape[::-1], self.dtype)
        rows[self.samples(), self.feature] = self.value
        return rows


def joined(pieces: list[Columns]) -> Columns:
    """Return the samples of all pieces, one behind the other."""
    counts = [np.diff(one.start) for one in pieces]
    start = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
    feature = np.concatenate([one.feature for one in pieces])
    value = np.concatenate([one.value for one in pieces])
    return Columns(start, feature, value, pieces[0].features)
