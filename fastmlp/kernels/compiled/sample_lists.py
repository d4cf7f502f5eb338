"""The input as batches read it: for each sample a list of its non-zero features, or dense rows.

Batches take samples in any order, so nothing is shared between neighbours, as it is in `packing`.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import contiguous, row_batches
from fastmlp.kernels.compiled.runtime import body

_BITS = 64  # numbers that `vector.nonzero_bits` looks at
_PAGE = 1 << 16  # features that an index can name


class SampleLists(NamedTuple):
    """Samples of n features.

    Attributes
    ----------
    start : int64 (m parts + 1)
        List ``j parts + p`` has the non-zero entries of sample j in block p of features, of ``part`` each; it ends
        where the next one begins.
    index : uint16
        The feature of each entry, counted from the first one of its page.
    code, value : uint8, float
        The number of each entry: a code, which ``table`` (256,) decodes, if ``coded``, else a value. Of samples that
        are not ``listed``, every feature is an entry.
    table : float
    coded, listed, features, part, parts : int
    paged : int
        The blocks of a page.
    """

    start: Any
    index: Any
    code: Any
    value: Any
    table: Any
    coded: int
    listed: int
    features: int
    part: int
    parts: int
    paged: int


class _Filling(NamedTuple):
    """Where lists go: see `SampleLists`; and the entry at which each worker begins."""

    start: Any
    index: Any
    begin: Any
    part: int
    parts: int
    paged: int


@body
def _nonzero(rows, at, count):
    """Return a bit for each of up to _BITS numbers of a `Plane` from ``at`` on: it is not zero."""
    if at + _BITS <= rows.rows * rows.columns:
        kept = ~np.uint64(0) >> np.uint64(_BITS - count)
        return vector.nonzero_bits(rows.start, at) & kept
    bits = np.uint64(0)
    for k in range(count):
        bits |= np.uint64(rows.start[at + k] != 0) << np.uint64(k)
    return bits


@body
def _count_row(rows, s):
    """Return how many numbers of a row are not zero."""
    entries, n = np.uint64(0), rows.columns
    for k in range(0, n, _BITS):
        entries += vector.population_count(_nonzero(rows, s * n + k, min(n - k, _BITS)))
    return np.int64(entries)


@body
def _list_row(fill, number, rows, s, entry):
    """List the non-zero numbers of a row, block by block, from ``entry`` on; return the end."""
    vector.noinline()
    n, at = rows.columns, s * fill.parts
    for p in range(fill.parts):
        fill.start[at + p] = entry
        stop, page = min((p + 1) * fill.part, n), p // fill.paged * fill.paged * fill.part
        for k in range(p * fill.part, stop, _BITS):
            bits = _nonzero(rows, s * n + k, min(stop - k, _BITS))
            while bits != 0:
                feature = k + vector.trailing_zeros(bits)
                fill.index[entry] = feature - page
                number[entry] = rows.start[s * n + feature]
                entry += 1
                bits &= bits - np.uint64(1)
    return entry


@kernel()
def _list_rows(number, rows, fill, counting, worker, workers):
    """List the rows of each worker, or, if ``counting``, set ``begin[worker + 1]`` to how many entries they have."""
    entry = np.int64(0)
    if counting == 0:
        entry = fill.begin[worker]
    for s in range(rows.rows * worker // workers, rows.rows * (worker + 1) // workers):
        if counting > 0:
            entry += _count_row(rows, s)
        else:
            entry = _list_row(fill, number, rows, s, entry)
    if counting > 0:
        fill.begin[worker + 1] = entry


def list_samples(matrix: Any, density: float) -> SampleLists:
    """Return a matrix (n, m), uint8, float32 or float64 in any layout, as batches read it, without a table.

    ``density`` is the share of non-zero numbers: from BATCH_DENSE_SHARE on, the samples are dense rows.
    """
    n, rows = len(matrix), matrix.T
    part = -(-n // -(-n // tuning.BATCH_FEATURES))
    parts, paged = -(-n // part), max(_PAGE // part, 1)
    if density > tuning.BATCH_DENSE_SHARE:
        start, index, number = np.empty(0, np.int64), np.empty(0, np.uint16), np.array(rows, order="C").reshape(-1)
    else:
        none = np.empty(0, np.int64)
        start, index, number = _lists(rows, _Filling(none, none, none, part, parts, paged))
    coded, nothing = int(matrix.dtype == np.uint8), np.empty(0, matrix.dtype)
    code, value = (number, nothing) if coded else (np.empty(0, np.uint8), number)
    return SampleLists(start, index, code, value, nothing, coded, int(len(start) > 0), n, part, parts, paged)


def _lists(rows: Any, fill: _Filling) -> tuple[Any, Any, Any]:
    """Return start, index and numbers of the lists of rows (m, n), which are copied a few at a time if need be."""
    m, entries = len(rows), 0
    start, indices, numbers = np.empty(m * fill.parts + 1, np.int64), [], []
    for first, stop, some in row_batches(rows, rows.dtype, np.arange(m + 1)):
        workers = min(usable_threads(), len(some))
        begin, none = np.zeros(workers + 1, np.int64), np.empty(0, rows.dtype)
        fill = fill._replace(index=np.empty(0, np.uint16), begin=begin)
        _list_rows.launch(workers, none, some, fill, 1)
        begin = np.cumsum(begin)
        index, number, there = np.empty(begin[-1], np.uint16), np.empty(begin[-1], rows.dtype), fill.parts * first
        fill = fill._replace(start=start[there : fill.parts * stop], index=index, begin=begin)
        _list_rows.launch(workers, number, some, fill, 0)
        fill.start[:] += entries
        indices.append(index)
        numbers.append(number)
        entries += len(index)
    start[-1] = entries
    index, number = (one[0] if len(one) == 1 else np.concatenate(one) for one in (indices, numbers))
    return start, index, number


def operands(x: SampleLists, table: Any) -> SampleLists:
    """Return the operand for the dtype of ``table`` (256,), which decodes codes."""
    if not x.coded:
        return x
    return x._replace(value=np.empty(0, table.dtype), table=contiguous(table, table.dtype))


@kernel()
def _unlist(out, x, first, worker, workers):
    """Set the non-zero elements of rows of samples: the features from the first on, as they are stored."""
    features = out.columns
    parts = first // x.part, (first + features - 1) // x.part + 1
    for s in range(out.rows * worker // workers, out.rows * (worker + 1) // workers):
        for p in range(parts[0], parts[1]):
            shift, number = p // x.paged * x.paged * x.part - first, s * x.parts + p
            for entry in range(x.start[number], x.start[number + 1]):
                feature = shift + np.int64(x.index[entry])
                if feature < 0 or feature >= features:
                    continue
                if x.coded > 0:
                    out.start[s * features + feature] = x.code[entry]
                else:
                    out.start[s * features + feature] = x.value[entry]


def unpack(x: SampleLists, first: int, stop: int) -> Any:
    """Return the features ``first`` to below ``stop`` as they are stored, rows (m, stop - first)."""
    number = x.code if x.coded else x.value
    if not x.listed:
        return number.reshape(-1, x.features)[:, first:stop]
    rows = np.zeros(((len(x.start) - 1) // x.parts, stop - first), number.dtype)
    _unlist.launch(min(usable_threads(), len(rows)), rows, x, first)
    return rows


def facts(x: SampleLists) -> tuple[str, int]:
    """Return the form ("dense" or "sparse") and the bytes."""
    return "sparse" if x.listed else "dense", sum(one.nbytes for one in (x.start, x.index, x.code, x.value))
