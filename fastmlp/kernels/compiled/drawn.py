"""Batches that are the same in each epoch: their lists are made once, in the order in which updates read them.

Forward, a thread meets some blocks of weights with one sample after the other: the entries of all samples in these
blocks are one piece of memory. Back, there are lists by feature: the gradient of a row of weights is then a sum in
registers, where lists by sample add to rows of the gradient, and store each vector of a row for each of their entries.
The products, and their order, are those of `SampleLists`, and therefore the bits.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.batch_lists import prefetch_lists
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import round_up
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import SampleLists
from fastmlp.kernels.parts import Drawn, samples_of

# The types of the indices in lists of samples, which name features of a page, and of features, which name samples of a
# chunk: what a run reads in each epoch, and what the system has to give it first, is mostly these lists.
_INDICES = np.uint16, np.uint8
_MOST_SAMPLES = 1 << 8  # of a chunk, which an index can name


class Listed(NamedTuple):
    """Lists: each ends where the next one begins; ``start`` (int64), and of each entry what `SampleLists` has."""

    start: Any
    index: Any
    code: Any
    value: Any


class DrawnLists(NamedTuple):
    """The lists of batches.

    Attributes
    ----------
    size : int
        Samples of each batch but the last one; 0 if there are no lists.
    chunk : int
        Samples of a part of a batch, whose deltas stay in the cache from one feature to the next.
    groups : int
        Blocks of features are read in so many groups.
    group : int64 (blocks,)
        The group of each block, as in `batch.Model`.
    samples : Listed
        For each batch and group, the entries of one sample after the other; indices as in `SampleLists`.
    features : Listed
        For each chunk and feature, the samples in which it is not zero, counted from the first one of the chunk. The
        chunks of each batch are behind those of the one before.
    """

    size: int
    chunk: int
    groups: int
    group: Any
    samples: Listed
    features: Listed


@body
def chunks_in(lists):
    """Return how many chunks a batch has."""
    return -(-lists.size // lists.chunk)


@body
def group_stop(group, block, end):
    """Return the end of the group that begins with a block."""
    stop = block + 1
    while stop < end and group[stop] == group[block]:
        stop += 1
    return stop


@body
def _copy_entries(to, entry, x, first, count):
    vector.copy_elements(vector.address(to.index, entry), vector.address(x.index, first), count)
    if x.coded > 0:
        vector.copy_elements(vector.address(to.code, entry), vector.address(x.code, first), count)
    else:
        vector.copy_elements(vector.address(to.value, entry), vector.address(x.value, first), count)


@body
def _list_samples(lists, number, entry, x, order, count):
    """Make the lists of the samples of a batch, from list ``number`` and an entry on."""
    p = np.int64(0)
    while p < x.parts:
        stop = group_stop(lists.group, p, x.parts)
        for s in range(count):
            at = order[s] * x.parts
            first, end = x.start[at + p], x.start[at + stop]
            _copy_entries(lists.samples, entry, x, first, end - first)
            lists.samples.start[number] = entry
            number += 1
            entry += end - first
        p = stop


@body
def _entries(x, sample, page):
    """Return the first entry of a sample on a page, and the end."""
    at = sample * x.parts
    return x.start[at + page * x.paged], x.start[at + min((page + 1) * x.paged, x.parts)]


@body
def _list_features(to, start, entry, x, order, count):
    """Make the lists of the features of a chunk, from an entry on; return the end."""
    pages = -(-x.parts // x.paged)
    for k in range(x.features):
        start[k] = 0
    for s in range(count):
        for page in range(pages):
            shift, (first, stop) = page * x.paged * x.part, _entries(x, order[s], page)
            for one in range(first, stop):
                start[shift + np.int64(x.index[one])] += 1
    begin = entry
    for k in range(x.features):
        entries = start[k]
        start[k] = entry
        entry += entries
    # Each start moves on with the entries of its list, and ends as that of the next one.
    for s in range(count):
        for page in range(pages):
            shift, (first, stop) = page * x.paged * x.part, _entries(x, order[s], page)
            for one in range(first, stop):
                k = shift + np.int64(x.index[one])
                there = start[k]
                start[k] = there + 1
                to.index[there] = s
                if x.coded > 0:
                    to.code[there] = x.code[one]
                else:
                    to.value[there] = x.value[one]
    for k in range(x.features - 1, 0, -1):
        start[k] = start[k - 1]
    start[0] = begin
    return entry


@kernel()
def _list_drawn(value, lists, begin, x, order, m, worker, workers):
    """Make the lists of batches, which have the samples in this order; each begins with an entry of its own."""
    batches = -(-m // lists.size)
    for batch in range(batches * worker // workers, batches * (worker + 1) // workers):
        first, stop, entry = batch * lists.size, min((batch + 1) * lists.size, m), begin[batch]
        samples = vector.address(order, first)
        prefetch_lists(x, samples, stop - first, (0, x.parts))
        _list_samples(lists, first * lists.groups, entry, x, samples, stop - first)
        number = batch * chunks_in(lists)
        while first < stop:
            count, start = min(lists.chunk, stop - first), vector.address(lists.features.start, number * x.features)
            entry = _list_features(lists.features, start, entry, x, vector.address(order, first), count)
            first += count
            number += 1


def _listed(x: SampleLists, entries: int, *counts: int) -> list[Listed]:
    """Return memory for lists of samples and of features, of which there are so many, with ``entries`` each."""
    codes, values = (entries, 0) if x.coded else (0, entries)
    parts = [
        np.dtype((kind, count))
        for lists, index in zip(counts, _INDICES, strict=True)
        for kind, count in ((np.int64, lists + 1), (index, entries), (np.uint8, codes), (x.value.dtype, values))
    ]
    ends = np.cumsum([round_up(part.itemsize, vector.LINE_BYTES) for part in parts])
    # One piece of memory: the system gives it in large pages, where it does not give several pieces so.
    raw = np.empty(ends[-1], np.uint8)
    starts = np.append(0, ends[:-1])
    arrays = [raw[start : start + part.itemsize].view(part.base) for start, part in zip(starts, parts, strict=True)]
    made = [Listed(*arrays[at : at + 4]) for at in range(0, len(arrays), 4)]
    for one in made:
        one.start[-1] = entries
    return made


def groups_of(x: SampleLists, ranges: int, together: int) -> Any:
    """Return the group of each block of features: up to so many blocks together, on one page and in one range."""
    group, number = np.zeros(x.parts, np.int64), 0
    for begin, end in pairwise([x.parts * one // ranges for one in range(ranges + 1)]):
        block = begin
        while block < end:
            stop = min(block + together, (block // x.paged + 1) * x.paged, end)
            group[block:stop] = number
            block, number = stop, number + 1
    return group


class DrawnBatches:
    """The lists of batches that are the same in each epoch, if it is worth it to make them.

    Parameters
    ----------
    x : SampleLists
    group : int64 (blocks,)
        The group of each block.
    drawn : Drawn, optional
        The batches; None if there are none.
    """

    def __init__(self, x: SampleLists, group: Any, drawn: Drawn | None) -> None:
        self._none = self._lists = DrawnLists(0, 0, 0, group, *_listed(x, 0, 0, 0))
        if drawn is not None and x.listed:
            self._order = np.ascontiguousarray(drawn.order, np.int32)
            self._list(x, group, drawn.size)

    def _list(self, x: SampleLists, group: Any, size: int) -> None:
        m, entries, in_batch = len(self._order), len(x.index), -(-size // min(tuning.DRAWN_SAMPLES, _MOST_SAMPLES))
        batches, chunk, groups = -(-m // size), -(-size // in_batch), int(group[-1]) + 1
        chunks = (batches - 1) * in_batch + -(-(m - (batches - 1) * size) // chunk)
        lists = m * groups, chunks * x.features
        stored = sum(np.dtype(index).itemsize for index in _INDICES) + 2 * (x.code if x.coded else x.value).itemsize
        if entries < max(lists) or entries * stored + 8 * sum(lists) > tuning.DRAWN_BYTES:
            return
        self._lists = DrawnLists(size, chunk, groups, group, *_listed(x, entries, *lists))
        at = self._order.astype(np.int64) * x.parts
        of_batch = np.add.reduceat(x.start[at + x.parts] - x.start[at], np.arange(0, m, size))
        begin = np.append(0, np.cumsum(of_batch))
        _list_drawn.launch(min(usable_threads(), batches), x.value[:0], self._lists, begin, x, self._order, m)
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(m)

    def lists(self, order: Any, ends: Any) -> tuple[DrawnLists, Any]:
        """Return the lists, and the number of each batch in them; there are none if a batch is not in the lists."""
        nothing, size = (self._none, np.empty(0, np.int64)), self._lists.size
        if size == 0 or len(ends) == 0:
            return nothing
        starts = np.append(0, ends[:-1])
        number = self._place[order[starts]].astype(np.int64) // size
        if not np.array_equal(np.minimum(size, len(self._order) - number * size), ends - starts):
            return nothing
        same = np.array_equal(samples_of(Drawn(self._order, size), number), order)
        return (self._lists, number) if same else nothing
