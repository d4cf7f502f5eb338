"""Writing of packed files: a source of samples, packed block after block, and the facts about all of it."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, atomic, backend, checks
from fastmlp.blocks import block_size
from fastmlp.digests import Content
from fastmlp.packfile import write
from fastmlp.packing import SEEN, scaled
from fastmlp.sources import Source

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Progress: TypeAlias = Callable[[int, int], object]

_UINT8 = np.dtype(np.uint8)


class Beside(NamedTuple):
    """What a file holds beside the samples.

    Attributes
    ----------
    labels : ndarray of real numbers, shape (m,) or (k, m), or None
        Labels or targets.
    notes : dict of str to str
        Texts.
    """

    labels: Array | None = None
    notes: dict[str, str] = {}  # noqa: RUF012 - never changed


def checked_labels(name: str, Y: ArrayLike, m: int) -> Array:
    """Return labels or targets of m samples as they are stored."""
    y = np.asarray(Y)
    if y.dtype.kind not in "biuf" or y.ndim not in (1, 2) or y.shape[-1] != m:
        got, expected = f"an array of shape {y.shape}, dtype {y.dtype}", f"numbers of shape (m,) or (k, m), m = {m}"
        raise ValueError(checks.message(name, got, expected, "pass a label or target for each sample"))
    return np.ascontiguousarray(y, np.uint8 if y.dtype.kind == "b" else y.dtype.newbyteorder("<"))


class Writing:
    """Packs block after block of a source, and collects the facts about all of it on the way.

    Parameters
    ----------
    samples : Source
        The samples.
    factor : float
        For every value.
    wanted : numpy.dtype, optional
        That of the stored numbers, if they are not uint8.
    beside : Beside
        What is stored beside the samples.
    """

    def __init__(self, samples: Source, factor: float, wanted: np.dtype[Any] | None, beside: Beside) -> None:
        self._source, self._factor, self._beside = samples, factor, beside
        is_bytes = samples.dtype == _UINT8
        self._dtype = _UINT8 if is_bytes else wanted or arrays.result_dtype(np.empty(0, samples.dtype))
        self._later = factor if is_bytes else 1.0
        self._count, self._extreme, self._largest, self._finite = 0, 0.0, 0.0, True
        self._dense, self._kinds = True, set[str]()
        self._content = Content(samples.shape, self._dtype, self._later)

    def blocks(self, progress: Progress | None) -> Iterator[dict[str, Array]]:
        """Yield the arrays of each block."""
        kernels, m = backend.kernels(), self._source.shape[1]
        size, order = block_size(self._source.shape, self._dtype), None
        with ThreadPoolExecutor(1, "fastmlp digest") as helper:
            for first in range(0, m, size):
                stop = min(first + size, m)
                values = self._values(first, stop)
                digested = helper.submit(self._digest, values)
                order = kernels.order_features(values, m) if first == 0 else order
                form = kernels.pack(values, m, order)
                self._collect(values, first, form)
                yield kernels.to_arrays(form)
                digested.result()  # a source may use the memory of one block for the next one
                if progress is not None:
                    progress(stop, m)

    def _values(self, first: int, stop: int) -> Array:
        values = arrays.native(self._dtype, self._source.read(first, stop))
        return values if self._dtype == _UINT8 else scaled(values, self._factor)

    def _collect(self, values: Array, first: int, form: Any) -> None:
        step = -(-self._source.shape[1] // SEEN)
        seen = values[:, -first % step :: step]
        kernels = backend.kernels()
        counts, finite = kernels.survey(values)
        self._count, self._finite = self._count + int(counts.sum()), self._finite and finite
        if self._dtype == _UINT8:
            self._extreme = max(self._extreme, float(values.max(initial=0)))
        self._largest = float(np.maximum(self._largest, max(seen.max(initial=0), -float(seen.min(initial=0)))))
        self._dense &= not isinstance(form, np.ndarray) and kernels.all_dense(form)
        self._kinds.add(kernels.packed_facts(form)[0])

    def _digest(self, values: Array) -> None:
        self._content.update(np.ascontiguousarray(values.T))

    def write(self, path: atomic.PathName, progress: Progress | None) -> None:
        """Write the file, atomically.

        Raises
        ------
        OSError, ValueError
            As `atomic.replace`; no file is then written.
        """
        labels = {} if self._beside.labels is None else {"labels": self._beside.labels}
        write(path, self.blocks(progress), labels, self.facts)

    def facts(self) -> dict[str, Any]:
        """Return the facts for the header."""
        shape = self._source.shape
        if self._dtype == _UINT8:
            self._finite = arrays.all_finite(scaled(np.array([self._extreme], np.float64), self._later))
        return {
            "shape": shape,
            "dtype": self._dtype.name,
            "scale": self._later,
            "density": self._count / math.prod(shape),
            "finite": self._finite,
            "largest": str(self._largest * self._later),
            "kind": self._kinds.pop() if len(self._kinds) == 1 else "mixed",
            "all_dense": self._dense,
            "digest": self._content.hexdigest(),
            "backend": backend.get_backend(),
            "notes": self._beside.notes,
            "layout": backend.kernels().layout(shape[1], shape[0], self._dtype.itemsize),
        }
