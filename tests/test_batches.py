"""Which samples the batches of an epoch hold, and in which order."""

import numpy as np
import pytest

from fastmlp.batches import Batches

SHUFFLES = ["samples", "batches", "blocks", False]
SIZES = [(1, 1), (10, 1), (10, 3), (10, 5), (10, 9), (10, 10), (10, 99), (1000, 64)]


def split(order, ends):
    return [part.tolist() for part in np.split(order, ends[:-1])]


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize(("m", "batch_size"), SIZES)
def test_an_epoch_takes_each_sample_once_in_full_batches_but_one(m, batch_size, shuffle):
    batches = Batches(m, batch_size, shuffle, seed=3, block=3)
    for number in (1, 2, 50):
        order, ends = batches.epoch(number)
        assert (order.dtype, ends.dtype) == (np.int32, np.int64)
        assert sorted(order.tolist()) == list(range(m))
        lengths = sorted(map(len, split(order, ends)))
        assert len(lengths) == batches.per_epoch == -(-m // batch_size)
        assert lengths[1:] == [min(m, batch_size)] * (len(lengths) - 1)
        assert 1 <= lengths[0] <= batch_size


def test_samples_are_in_a_new_order_in_each_epoch():
    batches = Batches(1000, 64, "samples", seed=3)
    orders = [batches.epoch(number)[0].tolist() for number in range(1, 9)]
    assert len({tuple(order) for order in orders}) == 8
    assert len({tuple(map(tuple, map(sorted, split(*batches.epoch(number))))) for number in (1, 2)}) == 2
    assert [np.diff(batches.epoch(1)[1], prepend=0)[-1]] == [1000 % 64]


def test_batches_are_drawn_once_and_are_in_a_new_order_in_each_epoch():
    batches = Batches(1000, 64, "batches", seed=3)
    epochs = [split(*batches.epoch(number)) for number in range(1, 9)]
    assert len({tuple(map(tuple, sorted(epoch))) for epoch in epochs}) == 1
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 8
    assert len({[len(batch) for batch in epoch].index(1000 % 64) for epoch in epochs}) > 1
    assert sorted(epochs[0][0]) != list(range(min(epochs[0][0]), min(epochs[0][0]) + 64))


def test_without_shuffling_samples_are_in_the_given_order():
    order, ends = Batches(10, 4, shuffle=False, seed=3).epoch(7)
    assert (order.tolist(), ends.tolist()) == (list(range(10)), [4, 8, 10])


def test_groups_of_blocks_are_shuffled():
    batches = Batches(1000, 64, "blocks", seed=3, block=30)
    epochs = [batches.epoch(number)[0] for number in (1, 2)]
    groups = []
    for order in epochs:
        at = 0
        while at < len(order):
            # A group ends where all samples of its blocks have been.
            stop = next(k for k in range(at + 1, 1001) if set(order[at:k]) == samples_of_blocks(order[at:k], 30, 1000))
            assert not np.array_equal(np.sort(order[at:stop]), order[at:stop])
            groups.append(frozenset(order[at:stop] // 30))
            at = stop
    assert [len(one) for one in groups] == [7, 7, 7, 7, 6] * 2
    assert len(set(groups)) == 10


def samples_of_blocks(samples, block, m):
    return {k for number in samples // block for k in range(number * block, min((number + 1) * block, m))}


@pytest.mark.parametrize("shuffle", ["samples", "batches", "blocks"])
def test_an_epoch_is_a_function_of_seed_and_number_alone(shuffle):
    one, other = Batches(100, 8, shuffle, seed=3), Batches(100, 8, shuffle, seed=3)
    for number in (1, 2, 3):
        one.epoch(number)
    np.random.seed(0)  # noqa: NPY002  # the global stream does not count
    for now, then in zip(one.epoch(3), other.epoch(3), strict=True):
        assert now.tolist() == then.tolist()
    assert one.epoch(3)[0].tolist() != Batches(100, 8, shuffle, seed=4).epoch(3)[0].tolist()


def test_the_orders_of_an_earlier_version():
    """A run that began before an update of fastmlp or NumPy must be resumable after it."""
    assert Batches(8, 3, "samples", seed=0).epoch(1)[0].tolist() == [0, 5, 6, 1, 3, 2, 4, 7]
    assert Batches(8, 3, "blocks", seed=0, block=2).epoch(1)[0].tolist() == [7, 0, 2, 6, 3, 1, 5, 4]
    order, ends = Batches(8, 3, "batches", seed=2**32 - 1).epoch(2)
    assert (order.tolist(), ends.tolist()) == ([4, 2, 5, 3, 6, 7, 1, 0], [2, 5, 8])


def test_more_samples_than_an_order_can_hold():
    with pytest.raises(ValueError, match="^X: got 2147483648 samples, expected at most 2147483647"):
        Batches(2**31, 100, "samples", seed=0)


@pytest.mark.parametrize("shuffle", ["batches", False])
def test_batches_that_are_the_same_in_each_epoch_are_known_before(shuffle):
    batches = Batches(1000, 64, shuffle, seed=3)
    order, size, _ = batches.drawn()
    drawn = [order[first : first + size].tolist() for first in range(0, 1000, size)]
    for number in (1, 2):
        assert sorted(split(*batches.epoch(number))) == sorted(drawn)


@pytest.mark.parametrize("shuffle", ["samples", "blocks"])
def test_others_are_not(shuffle):
    assert Batches(1000, 64, shuffle, seed=3, block=30).drawn() is None


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_resumption_takes_the_batches_of_its_seed(shuffle):
    batches, other = Batches(100, 8, shuffle, seed=3, block=9), Batches(100, 8, shuffle, seed=4, block=9)
    batches.drawn()
    batches.epoch(1)
    batches.reseed(4)
    assert batches.epoch(2)[0].tolist() == other.epoch(2)[0].tolist()
    assert shuffle != "batches" or batches.drawn().order.tolist() == other.drawn().order.tolist()
