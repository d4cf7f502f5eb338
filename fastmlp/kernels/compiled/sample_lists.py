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
from fastmlp.kernels.compiled.alphabets import Alphabet, alphabet_of, code_of, no_alphabet
from fastmlp.kernels.compiled.elementwise import survey
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import contiguous
from fastmlp.kernels.compiled.plain_rows import row_batches
from fastmlp.kernels.compiled.runtime import body

BITS = 64  # numbers that `vector.nonzero_bits` looks at, and bits of a mark

# Bits of an index, and of a word with an index and a code. What batches read in each epoch, and what the system has to
# give first, is mostly entries: indices are short where pages of so few features have whole blocks.
_SHORT, _LONG = 8, 16

CODED_BITS = 8  # of an index in a list of a feature, which names a sample of a few: see `DrawnLists`

_LARGE = 1 << 20  # numbers, from which it is worth it to look whether floats have few values

# Blocks of features up to which a sample may have more lists than entries: phases need some for their threads, and so
# few starts of lists take less memory than a handful of entries.
_FEW_BLOCKS = 16


class SampleLists(NamedTuple):
    """Samples of n features.

    Attributes
    ----------
    start : int32 or int64 (m parts + 1)
        List ``j parts + p`` has the non-zero entries of sample j in block p of features, of ``part`` each; it ends
        where the next one begins.
    index : uint16 or uint32
        The feature of each entry, counted from the first one of its page. Of coded samples it is the lower half of the
        bits of a word, and a code the upper half.
    value : uint8 or float
        The number of each entry, if it is not coded; of the dtype of all numbers.
    code : uint8
        The numbers of coded samples that are not ``listed``; of those, each feature is an entry, without an index.
    table : float
        Decodes codes, if samples are ``coded``.
    coded : int
        0, or 1 for codes that are the numbers, and whose table each use has, or 2 for those of an `Alphabet`.
    listed, features, part, parts : int
    paged : int
        The blocks of a page.
    bits : int
        Those of an index.
    """

    start: Any
    index: Any
    value: Any
    code: Any
    table: Any
    coded: int
    listed: int
    features: int
    part: int
    parts: int
    paged: int
    bits: int


class _Blocks(NamedTuple):
    """How features are divided: see `SampleLists`."""

    part: int
    parts: int
    paged: int
    bits: int


class _Filling(NamedTuple):
    """Where lists go: see `SampleLists`; the entry at which each worker begins; whether a number had no code."""

    start: Any
    index: Any
    value: Any
    begin: Any
    coded: int
    blocks: _Blocks
    alphabet: Alphabet
    missed: Any


def types_of(x: Any) -> tuple[Any, Any]:
    """Return the types that lists of one dtype may have: where they are long, those of starts and indices are wider."""
    return x.start.dtype, x.index.dtype


@body
def page_of(x, block):
    """Return the first feature of the page of a block, from which indices are counted."""
    return block // x.paged * x.paged * x.part


def is_short(x: SampleLists) -> bool:
    """Return whether there are blocks so short that the features of one may get lists of the samples of a batch."""
    return x.listed > 0 and x.bits == _SHORT


@body
def entry_index(x, entry):
    """Return the feature of an entry, counted from the first one of its page."""
    return np.int64(x.index[entry]) & ((1 << x.bits) - 1)


@body
def entry_code(x, entry):
    """Return the code of an entry of coded samples."""
    return np.int64(x.index[entry]) >> x.bits


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
def _code(fill, number):
    if fill.coded == 1:
        return np.int64(number)
    code = code_of(fill.alphabet, number)
    if code < 0:
        fill.missed[0] = 1
        code = np.int64(0)
    return code


@body
def _list_row(fill, rows, s, entry, room):
    """List the non-zero numbers of a row, block by block, from ``entry`` on, with room up to ``room``; return the end.

    Entries behind these, of later rows, may be written too.
    """
    vector.noinline()
    n, blocks, at = rows.columns, fill.blocks, s * fill.blocks.parts
    for p in range(blocks.parts):
        fill.start[at + p] = entry
        stop, page = min((p + 1) * blocks.part, n), page_of(blocks, p)
        for k in range(p * blocks.part, stop, BITS):
            bits = nonzero_bits(rows, s * n + k, min(stop - k, BITS))
            # Where so many entries follow, there are as many numbers to read.
            at_once = fill.coded == 1 and entry + BITS <= room
            if at_once and vector.list_words(fill.index, entry, rows.start, s * n + k, bits, k - page):
                entry += np.int64(vector.population_count(bits))
                continue
            while bits != 0:
                feature = k + vector.trailing_zeros(bits)
                number = rows.start[s * n + feature]
                if fill.coded > 0:
                    fill.index[entry] = feature - page + (_code(fill, number) << blocks.bits)
                else:
                    fill.index[entry] = feature - page
                    fill.value[entry] = number
                entry += 1
                bits &= bits - np.uint64(1)
    return entry


@kernel(lambda args: (args[0].dtype, types_of(args[2])))
def _list_rows(value, rows, fill, worker, workers):
    """List the rows of each worker."""
    entry, room = fill.begin[worker], fill.begin[worker + 1]
    for s in range(rows.rows * worker // workers, rows.rows * (worker + 1) // workers):
        if fill.missed[0] == 0:
            entry = _list_row(fill, rows, s, entry, room)


@kernel(lambda args: types_of(args[0]))
def _list_columns(fill, start, feature, samples, worker, workers):
    """Set the starts and the indices of the lists of sorted entries, sample by sample: see `Columns`."""
    blocks = fill.blocks
    for s in range(samples * worker // workers, samples * (worker + 1) // workers):
        entry, end, at = start[s], start[s + 1], s * blocks.parts
        for p in range(blocks.parts):
            fill.start[at + p] = entry
            stop, page = (p + 1) * blocks.part, page_of(blocks, p)
            while entry < end and feature[entry] < stop:
                fill.index[entry] = feature[entry] - page
                entry += 1


def _blocks(n: int, density: float) -> _Blocks:
    """Return the division of features.

    Where few numbers are not zero, blocks are longer, so that a list has an entry on average: there would be more
    starts of lists than entries.
    """
    most = tuning.BATCH_FEATURES
    if density * most < 1:
        longest = math.ceil(1 / density) if density > 0 else n
        most = max(most, min(longest, n // _FEW_BLOCKS, 1 << _LONG))
    part = -(-n // -(-n // most))
    bits = _SHORT if part <= 1 << _SHORT else _LONG  # also of values: blocks of a page are summed together
    return _Blocks(part, -(-n // part), max((1 << bits) // part, 1), bits)


def _starts(count: int, most: int) -> Any:
    """Return memory for where so many lists of up to ``most`` entries in all begin."""
    return np.empty(count, np.int32 if most < 2**31 else np.int64)


def _entries(count: int, dtype: Any, bits: int, coded: int = 0) -> tuple[Any, Any]:
    """Return memory for the indices, and for the values, of so many entries of this dtype."""
    if coded or dtype == np.uint8:
        return np.empty(count, np.uint16 if bits == _SHORT else np.uint32), np.empty(0, dtype)
    return np.empty(count, np.uint16), np.empty(count, dtype)


def list_samples(matrix: Any, density: float, counts: Any = None) -> SampleLists:
    """Return a matrix (n, m), uint8, float32 or float64, as batches read it, without a table.

    It has any layout, or is of `Columns`. ``density`` is the share of non-zero numbers: from BATCH_DENSE_SHARE on, the
    samples are dense rows. ``counts`` are those of `survey`: with them, numbers are not counted again.
    """
    (n, m), dense = matrix.shape, density > tuning.BATCH_DENSE_SHARE
    if isinstance(matrix, Columns):
        if not dense:
            return _lists_of_columns(matrix, _blocks(n, density))
        batches = ((k, matrix.between(k, min(k + tuning.ROW_BATCH, m)).rows()) for k in range(0, m, tuning.ROW_BATCH))
    elif dense:
        batches = iter([(0, matrix.T)])
    else:
        found = _list_few_values(matrix, _blocks(n, density), counts)
        if found is not None:
            return found
        batches = _in_batches(matrix)
    return list_rows(batches, (m, n), matrix.dtype, density, counts)


def _list_few_values(matrix: Any, blocks: _Blocks, counts: Any) -> SampleLists | None:
    """Return floats of few values by their codes; None if they have more, pages are long, or there are few of them."""
    if matrix.dtype == np.uint8 or matrix.size < _LARGE or blocks.bits != _SHORT:
        return None
    alphabet = alphabet_of(matrix.T)
    if alphabet is None:
        return None
    return _list_rows_of(_in_batches(matrix), matrix.shape[::-1], matrix.dtype, blocks, alphabet, counts)


def _in_batches(matrix: Any) -> Iterator[tuple[int, Any]]:
    """Yield the first of some samples of a matrix (n, m), and their rows."""
    for first, _, rows in row_batches(matrix.T, matrix.dtype, np.arange(matrix.shape[1] + 1)):
        yield first, rows


def list_rows(
    batches: Iterator[tuple[int, Any]], shape: tuple[int, int], dtype: Any, density: float, counts: Any = None
) -> SampleLists:
    """Return samples as `list_samples` does, from rows (m, n) of this shape: their first sample, and some of them."""
    n, dtype = shape[1], np.dtype(dtype)
    blocks = _blocks(n, density)
    if density > tuning.BATCH_DENSE_SHARE:
        number = np.empty(shape, dtype)
        for first, rows in batches:
            number[first : first + len(rows)] = rows
        index, value = _entries(0, dtype, blocks.bits)
        code, value = (number.reshape(-1), value) if dtype == np.uint8 else (np.empty(0, np.uint8), number.reshape(-1))
        return _made(_starts(0, 0), index, value, n, blocks)._replace(code=code)
    found = _list_rows_of(batches, shape, dtype, blocks, no_alphabet(dtype), counts)
    assert found is not None
    return found


def _made(start: Any, index: Any, value: Any, n: int, blocks: _Blocks) -> SampleLists:
    coded, listed, nothing = int(value.dtype == np.uint8), int(len(start) > 0), np.empty(0, value.dtype)
    return SampleLists(start, index, value, np.empty(0, np.uint8), nothing, coded, listed, n, *blocks)


def no_samples(dtype: Any) -> SampleLists:
    """Return lists of no samples."""
    return _made(_starts(0, 0), *_entries(0, dtype, _SHORT), 0, _Blocks(1, 0, 1, _SHORT))


def _lists_of_columns(x: Columns, blocks: _Blocks) -> SampleLists:
    (n, m), dtype = x.shape, x.dtype
    start, (index, value) = _starts(m * blocks.parts + 1, len(x.value)), _entries(len(x.value), dtype, blocks.bits)
    start[-1] = len(index)
    coded = int(dtype == np.uint8)
    none = np.empty(0, np.uint8), np.empty(0, np.int64)  # of one type for all samples
    fill = _Filling(start, index, *none, coded, blocks, no_alphabet(np.uint8), np.zeros(1, np.int64))
    entries = contiguous(x.start, np.int64), contiguous(x.feature, np.int32)
    _list_columns.launch(min(usable_threads(), m), fill, *entries, m)
    if coded:
        index |= x.value.astype(index.dtype) << blocks.bits
    else:
        value[:] = x.value
    return _made(start, index, value, n, blocks)


def _list_rows_of(
    batches: Iterator[tuple[int, Any]],
    shape: tuple[int, int],
    dtype: Any,
    blocks: _Blocks,
    alphabet: Alphabet,
    counts: Any,
) -> SampleLists | None:
    """Return the lists of rows, some at a time; None if there is an alphabet, and a number that it lacks."""
    (m, n), missed = shape, np.zeros(1, np.int64)
    start = _starts(m * blocks.parts + 1, m * n)
    coded = 2 if len(alphabet.table) else int(dtype == np.uint8)
    indices, values, entries = [], [], 0
    for first, rows in batches:
        known = counts is not None and len(counts) == min(usable_threads(), m) and len(rows) == m
        begin = np.append(0, np.cumsum(counts if known else survey(rows.T)[0]))
        (index, value), there = _entries(begin[-1], dtype, blocks.bits, coded), blocks.parts * first
        of_rows = start[there : there + blocks.parts * len(rows)]
        fill = _Filling(of_rows, index, value, begin, coded, blocks, alphabet, missed)
        _list_rows.launch(len(begin) - 1, value, rows, fill)
        if missed[0]:
            return None
        of_rows += entries
        indices.append(index)
        values.append(value)
        entries += len(index)
    start[-1] = entries
    index, value = (one[0] if len(one) == 1 else np.concatenate(one) for one in (indices, values))
    return _made(start, index, value, n, blocks)._replace(coded=coded, table=alphabet.table)


def operands(x: SampleLists, table: Any) -> SampleLists:
    """Return the operand for the dtype of ``table`` (256,), which decodes codes."""
    if x.coded != 1:
        return x
    return x._replace(value=np.empty(0, table.dtype), table=contiguous(table, table.dtype))


def unpack(x: SampleLists) -> Iterator[tuple[int, Any]]:
    """Yield the samples as they are stored, a few at a time: the first one, and rows (m, n) or `Columns`."""
    if not x.listed:
        yield 0, rows_of(x)
        return
    m = (len(x.start) - 1) // x.parts
    for first in range(0, m, tuning.ROW_BATCH):
        stop = min(first + tuning.ROW_BATCH, m)
        start = x.start[first * x.parts : stop * x.parts + 1 : x.parts]
        some = slice(start[0], start[-1])
        number = (x.index[some] >> x.bits).astype(np.uint8) if x.coded else x.value[some]
        if x.coded == 2:
            number = x.table[number]
        yield first, Columns(start.astype(np.int64) - start[0], features_of(x, first, stop), number, x.features)


def features_of(x: SampleLists, first: int, stop: int) -> Any:
    """Return the feature of each entry of some listed samples, int32."""
    start = x.start[first * x.parts : stop * x.parts + 1]
    feature = x.index[start[0] : start[-1]].astype(np.int32) & ((1 << x.bits) - 1)
    page = np.arange(x.parts, dtype=np.int32) // x.paged * (x.paged * x.part)
    if page[-1] > 0:
        feature += np.repeat(np.tile(page, stop - first), np.diff(start))
    return feature


def rows_of(x: SampleLists) -> Any:
    """Return the rows (m, n) of samples that are not listed."""
    return (x.code if x.coded else x.value).reshape(-1, x.features)


def facts(x: SampleLists) -> tuple[str, int]:
    """Return the form ("dense" or "sparse") and the bytes."""
    return "sparse" if x.listed else "dense", sum(one.nbytes for one in (x.start, x.index, x.code, x.value, x.table))
