"""Batches that are the same in each epoch: lists of their features, which are kept.

A list has the samples of a batch in which the feature is not zero. The first update on a batch makes them for itself,
as every update does on batches that are drawn anew (see `batch_lists`), and keeps them for the updates of later epochs.
"""

import weakref
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import round_up
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import CODED_BITS, SampleLists, is_short
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
    first : int64
        The first entry of each chunk.
    made : uint8
        Whether each batch has its lists.
    """

    size: int
    chunk: int
    start: Any
    index: Any
    value: Any
    first: Any
    made: Any


def chunk_samples(size: int) -> int:
    """Return the samples of a chunk of batches of this size: chunks are as large as they may be, and much alike."""
    return -(-size // -(-size // min(tuning.CHUNK_SAMPLES, 1 << CODED_BITS)))


@body
def chunks_in(lists):
    """Return how many chunks a batch has."""
    return -(-lists.size // lists.chunk)


@body
def keep_lists(kept, coded, at, count, entry, lists):
    """Keep the `FeatureLists` of some features, from list ``at`` and from an entry on."""
    vector.noinline()
    for k in range(count):
        kept.start[at + k] = entry
        one, entries = lists.start[k], lists.stop[k] - lists.start[k]
        vector.copy_elements(vector.address(kept.index, entry), vector.address(lists.index, one), entries)
        if coded == 0:
            vector.copy_elements(vector.address(kept.value, entry), vector.address(lists.value, one), entries)
        entry += entries
    # Where the next list begins, which another thread may keep: it sets the same number.
    kept.start[at + count] = entry


def _memory(x: SampleLists, entries: int, lists: int) -> tuple[Any, Any, Any]:
    """Return memory for the starts of so many lists and the end, and for the indices and values of their entries."""
    kinds = (np.int32, lists + 1), (np.uint16, entries), (x.value.dtype, 0 if x.coded else entries)
    parts = [np.dtype(one) for one in kinds]
    ends = np.cumsum([round_up(part.itemsize, vector.LINE_BYTES) for part in parts])
    # One piece of memory: the system gives it in large pages, where it does not give several pieces so.
    raw = np.empty(ends[-1], np.uint8)
    starts = np.append(0, ends[:-1])
    start, index, value = (raw[at : at + part.itemsize].view(part.base) for at, part in zip(starts, parts, strict=True))
    return start, index, value


class _Kept(NamedTuple):
    """The lists of some batches, whose samples are in this order, and the place of each sample in it."""

    order: Any
    place: Any
    lists: DrawnLists


def _give_back(kept: list[Any], lists: _Kept) -> None:
    kept[:] = [lists]


def _taken(drawn: Drawn, chunk: int, value: Any) -> _Kept | None:
    """Return what is kept, if it is of batches as large, and of the same samples, whose numbers are ``value``."""
    try:
        found: _Kept = drawn.kept.pop() if drawn.kept else None
    except IndexError:  # another thread was faster
        return None
    if found is None:
        return None
    lists = found.lists
    fits = (lists.size, lists.chunk, lists.value.dtype) == (drawn.size, chunk, value.dtype)
    return found if fits else None


class DrawnBatches:
    """The lists of batches that are the same in each epoch, if it is worth it to make them.

    Parameters
    ----------
    x : SampleLists
    drawn : Drawn, optional
        The batches; None if there are none. Their lists are taken from ``kept``, or else the memory of others, and
        given back when nobody needs this object any more.
    """

    def __init__(self, x: SampleLists, drawn: Drawn | None) -> None:
        nothing = np.empty(0, np.int64), np.empty(0, np.uint8)
        self._none = self._lists = DrawnLists(0, 0, *_memory(x, 0, 0), *nothing)
        if drawn is not None and is_short(x):
            self._list(x, drawn)

    def _list(self, x: SampleLists, drawn: Drawn) -> None:
        order, size = np.ascontiguousarray(drawn.order, np.int32), drawn.size
        m, entries, chunk = len(order), len(x.index), chunk_samples(size)
        batches, in_batch = -(-m // size), -(-size // chunk)
        lists = ((batches - 1) * in_batch + -(-(m - (batches - 1) * size) // chunk)) * x.features
        stored = 2 if x.coded else 2 + x.value.itemsize
        if entries < lists or entries * stored + 4 * lists > tuning.DRAWN_BYTES:
            return
        found = _taken(drawn, chunk, x.value)
        if found is None or not np.array_equal(found.order, order):
            at = order.astype(np.int64) * x.parts
            starts = (np.arange(batches)[:, None] * size + np.arange(in_batch) * chunk).ravel()
            of_chunk = np.add.reduceat(x.start[at + x.parts] - x.start[at], starts[starts < m], dtype=np.int64)
            memory = _memory(x, entries, lists) if found is None else found.lists[2:5]
            first, made = np.append(0, np.cumsum(of_chunk)), np.zeros(batches, np.uint8)
            place = np.empty_like(order)
            place[order] = np.arange(m)
            found = _Kept(order, place, DrawnLists(size, chunk, *memory, first, made))
        self._order, self._place, self._lists = found
        if drawn.kept is not None:
            weakref.finalize(self, _give_back, drawn.kept, found).atexit = False

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
