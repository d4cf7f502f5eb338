"""The order of samples, and of features for the gradient: neighbours share zeros, so that lists of groups are short.

The order of samples decides in which order sums are made. That of features shows in no bit: it decides only which rows
of the gradient a register tile adds together.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.listed_samples import listed_bits
from fastmlp.kernels.compiled.memory import identity_index, round_up
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import BITS, SampleLists, features_of, nonzero_bits

RUNS = 128  # of features, for each of which the key of a sample has a bit
_PLACE_BITS = 32


class Ordering(NamedTuple):
    """Room of each worker: keys of the samples of a leaf, a window of these and their keys, bits of a row."""

    keys: Any
    windows: Any
    words: Any
    wanted: int


def make_ordering(workers: int, leaf: int, n: int, *, wanted: bool) -> Ordering:
    """Return rooms for leaves of so many samples of n features; none, unless an order is ``wanted``."""
    count = workers if wanted else 0
    keys, words = np.empty((count, 2 * leaf), np.uint64), np.empty((count, 2 * (-(-n // BITS) + 1)), np.uint64)
    return Ordering(keys, np.empty((count, 3 * tuning.ORDER_WINDOW), np.uint64), words, int(wanted))


@body
def _row_keys(keys, words, rows, s, n):
    """Set the two keys of a sample: a bit for each of the runs into which the features fall, any is not zero."""
    vector.noinline()
    count, before = -(-n // BITS), np.uint64(0)
    below = vector.address(words, count + 1)  # how many bits are set before each word
    for w in range(count):
        words[w], below[w] = nonzero_bits(rows, s * n + w * BITS, min(n - w * BITS, BITS)), before
        before += vector.population_count(words[w])
    words[count], below[count], before = np.uint64(0), before, np.uint64(0)
    for half in range(2):
        key = np.uint64(0)
        for b in range(half * BITS, (half + 1) * BITS):
            stop = (b + 1) * n // RUNS
            earlier = words[stop // BITS] & ((np.uint64(1) << np.uint64(stop % BITS)) - np.uint64(1))
            now = below[stop // BITS] + vector.population_count(earlier)
            key = (key << np.uint64(1)) | np.uint64(now > before)
            before = now
        keys[half] = key


@body
def order_leaf(order, base, rows, listed, n, ordering, worker, leaf):
    """Put the samples of a leaf, numbered from ``base`` on, in order: after each the nearest of a window.

    A group of samples then shares more zeros. ``leaf`` is its first sample and the end.
    """
    vector.noinline()
    (first, stop), at = leaf, base + leaf[0]
    keys = vector.address(ordering.keys.start, worker * ordering.keys.columns)
    window = vector.address(ordering.windows.start, worker * ordering.windows.columns)
    words = vector.address(ordering.words.start, worker * ordering.words.columns)
    for s in range(first, stop):
        to = vector.address(keys, 2 * (s - first))
        if listed.listed > 0:
            listed_bits(to, listed, s)
        else:
            _row_keys(to, words, rows, s, n)
    _put_in_order(order, at, stop - first, keys, window)


@body
def _put_in_order(order, at, count, keys, window):
    """Set order[at:] to at + sample, for ``count`` samples with these keys, beginning with the first one."""
    vector.noinline()
    room = tuning.ORDER_WINDOW
    ones, others = vector.address(window, room), vector.address(window, 2 * room)
    filled = min(room, count)
    for i in range(filled):
        window[i], ones[i], others[i] = i, keys[2 * i], keys[2 * i + 1]
    following, nearest = filled, np.int64(0)
    for position in range(at, at + count):
        sample, one, other = np.int64(window[nearest]), ones[nearest], others[nearest]
        order[position] = at + sample
        if following < count:
            window[nearest], ones[nearest], others[nearest] = following, keys[2 * following], keys[2 * following + 1]
            following += 1
        else:
            filled -= 1
            window[nearest], ones[nearest], others[nearest] = window[filled], ones[filled], others[filled]
        nearest = _nearest(ones, others, filled, one, other)


@body
def _nearest(ones, others, count, one, other):
    """Return the place, the first one of several, at which keys differ from two others in the fewest bits."""
    # Distance and place in one number: its least one is found some lanes at a time.
    least = np.int64(RUNS + 1) << _PLACE_BITS
    for i in range(count):
        distance = vector.population_count(ones[i] ^ one) + vector.population_count(others[i] ^ other)
        least = min(least, (np.int64(distance) << _PLACE_BITS) + i)
    return least & ((1 << _PLACE_BITS) - 1)


class Features(NamedTuple):
    """The order of features in the lists of groups of features.

    Attributes
    ----------
    names : int32 (groups GROUP,)
        The feature at each place; beyond the last one, numbers that follow.
    places : int32 (n,)
        The place of each feature.
    """

    names: Any
    places: Any


def natural_features(n: int) -> Features:
    """Return features in their own order."""
    return Features(identity_index(round_up(n, vector.GROUP)), identity_index(n))


def group_features(rows: Any, listed: SampleLists, m: int, n: int) -> Features:
    """Return features in an order in which neighbours are zero in the same samples, by some of rows, or listed ones.

    In each group, after the first one, comes the nearest of a window to those before: it shares the most with them.
    """
    group, left = vector.GROUP, np.arange(n, dtype=np.int32)
    bits, names = _feature_bits(rows, listed, m, n), []
    while len(left) > 0:
        near = bits[left[: tuning.FEATURE_WINDOW]]
        chosen = [0]
        union = near[0]
        for _ in range(min(group, len(near)) - 1):
            distance = np.add.reduce(np.bitwise_count(near ^ union), axis=1, dtype=np.int64)
            distance[chosen] = 64 * near.shape[1] + 1
            chosen.append(int(distance.argmin()))
            union = union | near[chosen[-1]]
        names.append(left[chosen])
        left = np.delete(left, chosen)
    beyond = np.arange(n, round_up(n, group), dtype=np.int32)
    features = Features(np.concatenate([*names, beyond]), np.empty(n, np.int32))
    features.places[features.names[:n]] = np.arange(n)
    return features


def _feature_bits(rows: Any, listed: SampleLists, m: int, n: int) -> Any:
    """Return uint64 (n, words), a bit for each of some samples: the feature is not zero."""
    some = np.arange(0, m, -(-m // tuning.FEATURE_SAMPLES))
    present = np.zeros((n, round_up(len(some), BITS)), bool)
    if listed.listed:
        for i, sample in enumerate(some):
            present[features_of(listed, sample, sample + 1), i] = True
    else:
        present[:, : len(some)] = (rows[some] != 0).T
    return np.packbits(present, axis=1).view(np.uint64)
