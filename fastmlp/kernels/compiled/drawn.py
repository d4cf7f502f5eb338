"""Batches that are the same in each epoch: lists of their features, which are made once.

A list has the samples of a batch in which the feature is not zero. The gradient of a row of weights is then a sum in
registers, where lists by sample add to rows of the gradient, and store each vector of a row for each of their entries.
The products, and their order, are those of `SampleLists`, and therefore the bits.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.batch_lists import prefetch_lists, turn_entry
from fastmlp.kernels.compiled.launch import kernel, usable_threads
from fastmlp.kernels.compiled.memory import round_up
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import CODED_BITS, SampleLists, entry_index, types_of
from fastmlp.kernels.parts import Drawn, samples_of


class DrawnLists(NamedTuple):
    """For each chunk and feature, the samples in which it is not zero, counted from the first one of the chunk.

    A list ends where the next one begins; the chunks of each batch are behind those of the one before.

    Attributes
    ----------
    size : int
        Samples of each batch but the last one; 0 if there are no lists.
    chunk : int
        Samples of a part of a batch, whose deltas stay in the cache from one feature to the next.
    start : int32
    index : uint16
        The sample of each entry; of coded samples the lower half of the bits of a word, with a code above, as in
        `SampleLists`.
    value : float
        The number of each entry, if it is not coded.
    """

    size: int
    chunk: int
    start: Any
    index: Any
    value: Any


def chunk_samples(size: int) -> int:
    """Return the samples of a chunk of batches of this size: chunks are as large as they may be, and much alike."""
    return -(-size // -(-size // min(tuning.CHUNK_SAMPLES, 1 << CODED_BITS)))


@body
def chunks_in(lists):
    """Return how many chunks a batch has."""
    return -(-lists.size // lists.chunk)


@body
def _ends(x, sample, page):
    """Return the first entry of a sample on a page, and the end."""
    at = sample * x.parts
    return x.start[at + page * x.paged], x.start[at + min((page + 1) * x.paged, x.parts)]


@body
def _list_chunk(lists, start, entry, x, order, count):
    """Make the lists of the features of a chunk, from an entry on; return the end."""
    pages = -(-x.parts // x.paged)
    for k in range(x.features):
        start[k] = 0
    for s in range(count):
        for page in range(pages):
            shift, (first, stop) = page * x.paged * x.part, _ends(x, order[s], page)
            for one in range(first, stop):
                start[shift + entry_index(x, one)] += 1
    begin = entry
    for k in range(x.features):
        entries = start[k]
        start[k] = entry
        entry += entries
    # Each start moves on with the entries of its list, and ends as that of the next one.
    for s in range(count):
        for page in range(pages):
            shift, (first, stop) = page * x.paged * x.part, _ends(x, order[s], page)
            for one in range(first, stop):
                k = shift + entry_index(x, one)
                there = start[k]
                start[k] = there + 1
                turn_entry(lists, there, x, one, s)
    for k in range(x.features - 1, 0, -1):
        start[k] = start[k - 1]
    start[0] = begin
    return entry


@kernel(lambda args: (args[0].dtype, types_of(args[3])))
def _list_drawn(value, lists, begin, x, order, m, worker, workers):
    """Make the lists of batches, which have the samples in this order; each begins with an entry of its own."""
    batches = -(-m // lists.size)
    for batch in range(batches * worker // workers, batches * (worker + 1) // workers):
        first, stop, entry = batch * lists.size, min((batch + 1) * lists.size, m), begin[batch]
        samples = vector.address(order, first)
        prefetch_lists(x, samples, stop - first, (0, x.parts))
        number = batch * chunks_in(lists)
        while first < stop:
            count, start = min(lists.chunk, stop - first), vector.address(lists.start, number * x.features)
            entry = _list_chunk(lists, start, entry, x, vector.address(order, first), count)
            first += count
            number += 1


def _memory(x: SampleLists, entries: int, lists: int) -> tuple[Any, Any, Any]:
    """Return memory for the starts of so many lists, and for the indices and values of their entries."""
    kinds = (np.int32, lists + 1), (np.uint16, entries), (x.value.dtype, 0 if x.coded else entries)
    parts = [np.dtype(one) for one in kinds]
    ends = np.cumsum([round_up(part.itemsize, vector.LINE_BYTES) for part in parts])
    # One piece of memory: the system gives it in large pages, where it does not give several pieces so.
    raw = np.empty(ends[-1], np.uint8)
    starts = np.append(0, ends[:-1])
    start, index, value = (raw[at : at + part.itemsize].view(part.base) for at, part in zip(starts, parts, strict=True))
    start[-1] = entries
    return start, index, value


class DrawnBatches:
    """The lists of batches that are the same in each epoch, if it is worth it to make them.

    Parameters
    ----------
    x : SampleLists
    drawn : Drawn, optional
        The batches; None if there are none.
    """

    def __init__(self, x: SampleLists, drawn: Drawn | None) -> None:
        self._none = self._lists = DrawnLists(0, 0, *_memory(x, 0, 0))
        if drawn is not None and x.listed:
            self._order = np.ascontiguousarray(drawn.order, np.int32)
            self._list(x, drawn.size)

    def _list(self, x: SampleLists, size: int) -> None:
        m, entries, chunk = len(self._order), len(x.index), chunk_samples(size)
        batches, in_batch = -(-m // size), -(-size // chunk)
        lists = ((batches - 1) * in_batch + -(-(m - (batches - 1) * size) // chunk)) * x.features
        stored = 2 if x.coded else 2 + x.value.itemsize
        if entries < lists or entries * stored + 4 * lists > tuning.DRAWN_BYTES:
            return
        self._lists = DrawnLists(size, chunk, *_memory(x, entries, lists))
        at = self._order.astype(np.int64) * x.parts
        of_batch = np.add.reduceat(x.start[at + x.parts] - x.start[at], np.arange(0, m, size), dtype=np.int64)
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
