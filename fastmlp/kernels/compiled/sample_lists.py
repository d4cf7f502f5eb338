"""The input as batches read it: for each sample a list of its non-zero features, or dense rows.

Batches take samples in any order, so nothing is shared between neighbours, as it is in `packing`.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.columns import Columns
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import contiguous, copy, fill_zeros, row_batches
from fastmlp.kernels.compiled.runtime import body

BITS = 64  # numbers that `vector.nonzero_bits` looks at, and bits of a mark
_PAGE = 1 << 16  # features that an index can name

# Blocks of features up to which a sample may have more lists than entries: phases need some for their threads, and so
# few starts of lists take less memory than a handful of entries.
_FEW_BLOCKS = 16


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
def nonzero_bits(rows, at, count):
    """Return a bit for each of up to BITS numbers of a `Plane` from ``at`` on: it is not zero."""
    if at + BITS <= rows.rows * rows.columns:
        kept = ~np.uint64(0) >> np.uint64(BITS - count)
        return vector.nonzero_bits(rows.start, at) & kept
    bits = np.uint64(0)
    for k in range(count):
        bits |= np.uint64(rows.start[at + k] != 0) << np.uint64(k)
    return bits


@body
def _count_row(rows, s):
    """Return how many numbers of a row are not zero."""
    entries, n = np.uint64(0), rows.columns
    for k in range(0, n, BITS):
        entries += vector.population_count(nonzero_bits(rows, s * n + k, min(n - k, BITS)))
    return np.int64(entries)


@body
def _list_row(fill, number, rows, s, entry):
    """List the non-zero numbers of a row, block by block, from ``entry`` on; return the end."""
    vector.noinline()
    n, at = rows.columns, s * fill.parts
    for p in range(fill.parts):
        fill.start[at + p] = entry
        stop, page = min((p + 1) * fill.part, n), p // fill.paged * fill.paged * fill.part
        for k in range(p * fill.part, stop, BITS):
            bits = nonzero_bits(rows, s * n + k, min(stop - k, BITS))
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


@kernel(1)
def _list_columns(fill, start, feature, samples, worker, workers):
    """Set the starts and the indices of the lists of sorted entries, sample by sample: see `Columns`."""
    for s in range(samples * worker // workers, samples * (worker + 1) // workers):
        entry, end, at = start[s], start[s + 1], s * fill.parts
        for p in range(fill.parts):
            fill.start[at + p] = entry
            stop, page = (p + 1) * fill.part, p // fill.paged * fill.paged * fill.part
            while entry < end and feature[entry] < stop:
                fill.index[entry] = feature[entry] - page
                entry += 1


def _blocks(n: int, density: float) -> tuple[int, int, int]:
    """Return the features in a block, the blocks, and those of a page.

    Where few numbers are not zero, blocks are longer, so that a list has an entry on average: there would be more
    starts of lists than entries.
    """
    most = tuning.BATCH_FEATURES
    if density * most < 1:
        longest = math.ceil(1 / density) if density > 0 else n
        most = max(most, min(longest, n // _FEW_BLOCKS, _PAGE))
    part = -(-n // -(-n // most))
    return part, -(-n // part), max(_PAGE // part, 1)


def list_samples(matrix: Any, density: float) -> SampleLists:
    """Return a matrix (n, m), uint8, float32 or float64, as batches read it, without a table.

    It has any layout, or is of `Columns`. ``density`` is the share of non-zero numbers: from BATCH_DENSE_SHARE on, the
    samples are dense rows.
    """
    (n, m), dense = matrix.shape, density > tuning.BATCH_DENSE_SHARE
    if isinstance(matrix, Columns):
        if not dense:
            return _lists_of_columns(matrix, _blocks(n, density))
        batches = ((k, matrix.between(k, min(k + tuning.ROW_BATCH, m)).rows()) for k in range(0, m, tuning.ROW_BATCH))
    elif dense:
        batches = iter([(0, matrix.T)])
    else:
        every = row_batches(matrix.T, matrix.dtype, np.arange(m + 1))
        batches = ((first, rows) for first, _, rows in every)
    return list_rows(batches, (m, n), matrix.dtype, density)


def list_rows(batches: Iterator[tuple[int, Any]], shape: tuple[int, int], dtype: Any, density: float) -> SampleLists:
    """Return samples as `list_samples` does, from rows (m, n) of this shape: their first sample, and some of them."""
    m, n = shape
    part, parts, paged = _blocks(n, density)
    none = np.empty(0, np.int64)
    if density > tuning.BATCH_DENSE_SHARE:
        number = np.empty(shape, dtype)
        for first, rows in batches:
            number[first : first + len(rows)] = rows
        start, index, number = none, np.empty(0, np.uint16), number.reshape(-1)
    else:
        start = np.empty(m * parts + 1, np.int64)
        index, number = _lists(batches, _Filling(start, none, none, part, parts, paged), dtype)
    return _made(start, index, number, (n, part, parts, paged))


def _made(start: Any, index: Any, number: Any, blocks: tuple[int, int, int, int]) -> SampleLists:
    coded, nothing = int(number.dtype == np.uint8), np.empty(0, number.dtype)
    code, value = (number, nothing) if coded else (np.empty(0, np.uint8), number)
    return SampleLists(start, index, code, value, nothing, coded, int(len(start) > 0), *blocks)


def no_samples(dtype: Any) -> SampleLists:
    """Return lists of no samples."""
    return _made(np.empty(0, np.int64), np.empty(0, np.uint16), np.empty(0, dtype), (0, 1, 0, 1))


def _lists_of_columns(x: Columns, blocks: tuple[int, int, int]) -> SampleLists:
    (n, m), (_, parts, _) = x.shape, blocks
    start, index = np.empty(m * parts + 1, np.int64), np.empty(len(x.value), np.uint16)
    start[-1] = len(index)
    fill = _Filling(start, index, np.empty(0, np.int64), *blocks)
    entries = contiguous(x.start, np.int64), contiguous(x.feature, np.int32)
    _list_columns.launch(min(usable_threads(), m), fill, *entries, m)
    return _made(start, index, np.array(x.value, order="C"), (n, *blocks))


def _lists(batches: Iterator[tuple[int, Any]], fill: _Filling, dtype: Any) -> tuple[Any, Any]:
    """Return indices and numbers of the lists of rows, some at a time, and set where they start."""
    start, indices, numbers, entries = fill.start, [], [], 0
    for first, rows in batches:
        workers = min(usable_threads(), len(rows))
        begin, none = np.zeros(workers + 1, np.int64), np.empty(0, dtype)
        fill = fill._replace(index=np.empty(0, np.uint16), begin=begin)
        _list_rows.launch(workers, none, rows, fill, 1)
        begin = np.cumsum(begin)
        index, number, there = np.empty(begin[-1], np.uint16), np.empty(begin[-1], dtype), fill.parts * first
        fill = fill._replace(start=start[there : there + fill.parts * len(rows)], index=index, begin=begin)
        _list_rows.launch(workers, number, rows, fill, 0)
        fill.start[:] += entries
        indices.append(index)
        numbers.append(number)
        entries += len(index)
    start[-1] = entries
    index, number = (one[0] if len(one) == 1 else np.concatenate(one) for one in (indices, numbers))
    return index, number


def operands(x: SampleLists, table: Any) -> SampleLists:
    """Return the operand for the dtype of ``table`` (256,), which decodes codes."""
    if not x.coded:
        return x
    return x._replace(value=np.empty(0, table.dtype), table=contiguous(table, table.dtype))


def unpack(x: SampleLists) -> Iterator[tuple[int, Any]]:
    """Yield the samples as they are stored, a few at a time: the first one, and rows (m, n) or `Columns`."""
    number = x.code if x.coded else x.value
    if not x.listed:
        yield 0, rows_of(x)
        return
    page = np.arange(x.parts, dtype=np.int32) // x.paged * (x.paged * x.part)
    m = (len(x.start) - 1) // x.parts
    for first in range(0, m, tuning.ROW_BATCH):
        stop = min(first + tuning.ROW_BATCH, m)
        start = x.start[first * x.parts : stop * x.parts + 1]
        feature = x.index[start[0] : start[-1]].astype(np.int32)
        if page[-1] > 0:
            feature += np.repeat(np.tile(page, stop - first), np.diff(start))
        yield first, Columns(start[:: x.parts] - start[0], feature, number[start[0] : start[-1]], x.features)


def rows_of(x: SampleLists) -> Any:
    """Return the rows (m, n) of samples that are not listed."""
    return (x.code if x.coded else x.value).reshape(-1, x.features)


@body
def copy_listed(buffer, x, order, count, features):
    """Copy listed samples order[0:] into the buffer, as `lists.copy_rows` copies rows: features from the first on."""
    vector.noinline()
    first, n = features
    group = vector.GROUP
    for s in range(-(-count // group) * group):
        fill_zeros(buffer.start, s * buffer.ld, -(-n // group) * group)
    for s in range(count):
        to, at = vector.row(buffer, s, n), order[s] * x.parts
        for p in range(first // x.part, (first + n - 1) // x.part + 1):
            shift = p // x.paged * x.paged * x.part - first
            for entry in range(x.start[at + p], x.start[at + p + 1]):
                k = shift + np.int64(x.index[entry])
                if k < 0 or k >= n:
                    continue
                if x.coded > 0:
                    to[k] = x.code[entry]
                else:
                    to[k] = x.value[entry]


@body
def _number(x, entry):
    if x.coded > 0:
        return x.code[entry]
    return x.value[entry]


@body
def group_listed(listed, entry, x, order, members, features, room):
    """Append to the lists of a group of listed samples order[0:], as `lists.list_forward` does; return the end.

    The room is a matrix of zeros and a bit for each feature, which are zero again afterwards, and the features of a
    block. Only entries are read, where a matrix would be searched for them.
    """
    vector.noinline()
    first, n = features
    values, marks, part, at = room
    one, group = np.uint64(1), vector.GROUP
    for g in range(members):
        lists = order[g] * x.parts
        for p in range(first // x.part, (first + n - 1) // x.part + 1):
            shift = p // x.paged * x.paged * x.part - first
            for source in range(x.start[lists + p], x.start[lists + p + 1]):
                k = shift + np.int64(x.index[source])
                if k >= 0 and k < n:
                    marks[k // BITS] |= one << np.uint64(k % BITS)
                    values[k * group + g] = _number(x, source)
    listed.start[at] = entry
    stop = part
    for word in range(-(-n // BITS)):
        bits = marks[word]
        while bits != 0:
            k = word * BITS + vector.trailing_zeros(bits)
            while k >= stop:
                at += 1
                listed.start[at] = entry
                stop += part
            listed.index[entry] = k
            copy(vector.address(listed.value, entry * group), vector.address(values, k * group), group)
            fill_zeros(values, k * group, group)
            entry += 1
            bits &= bits - one
        marks[word] = np.uint64(0)
    while stop < n + part:
        at += 1
        listed.start[at] = entry
        stop += part
    return entry


@body
def turn_listed(back, x, order, length, features, places):
    """Append listed samples order[0:] to the lists of groups of features, as `lists.list_backward` does.

    ``places`` are those of the features in their groups.
    """
    vector.noinline()
    first, n = features
    group = vector.GROUP
    for s in range(length):
        lists = order[s] * x.parts
        for p in range(first // x.part, (first + n - 1) // x.part + 1):
            shift = p // x.paged * x.paged * x.part - first
            for source in range(x.start[lists + p], x.start[lists + p + 1]):
                k = shift + np.int64(x.index[source])
                if k < 0 or k >= n:
                    continue
                k = np.int64(places[k])
                f, entry = k // group, back.stop[k // group]
                if entry > back.start[f] and back.index[entry - 1] == s:
                    entry -= 1
                else:
                    back.index[entry] = s
                    fill_zeros(back.value, entry * group, group)
                    back.stop[f] = entry + 1
                back.value[entry * group + k % group] = _number(x, source)


@body
def listed_bits(keys, x, s):
    """Set the two keys of a listed sample: see `packing`."""
    n, at, one = x.features, s * x.parts, np.uint64(1)
    keys[0], keys[1] = np.uint64(0), np.uint64(0)
    for p in range(x.parts):
        page = p // x.paged * x.paged * x.part
        for entry in range(x.start[at + p], x.start[at + p + 1]):
            run = (128 * (page + np.int64(x.index[entry]) + 1) - 1) // n  # the one of 128 into which the feature falls
            keys[run // 64] |= one << np.uint64(63 - run % 64)


def facts(x: SampleLists) -> tuple[str, int]:
    """Return the form ("dense" or "sparse") and the bytes."""
    return "sparse" if x.listed else "dense", sum(one.nbytes for one in (x.start, x.index, x.code, x.value))
