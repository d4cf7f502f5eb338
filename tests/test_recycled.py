"""Memory of large results that is used again."""

import gc
import sys
import threading

import naive
import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp
from fastmlp.kernels import recycled

pytestmark = pytest.mark.skipif(recycled._FREE < 0, reason="the system takes no memory back that is still mapped")
SIZE = recycled._LEAST // 8


@pytest.fixture(autouse=True)
def nothing_kept():
    recycled._lent.clear()
    recycled._ended.clear()
    yield
    recycled._ended.clear()


@pytest.fixture
def small(monkeypatch):
    """Recycle the memory of small results too."""
    monkeypatch.setattr(recycled, "_LEAST", 1)


def address(x):
    return x.__array_interface__["data"][0]


def test_memory_is_used_again_when_the_last_view_of_it_is_gone():
    x = recycled.empty((2, SIZE // 2), np.float64)
    assert (x.shape, x.dtype, x.flags.carray) == ((2, SIZE // 2), np.float64, True)
    x[:] = 7
    view, at = x[1:, ::2].T, address(x)
    del x
    other = recycled.empty((SIZE,), np.float64)
    other[:] = 8
    assert address(other) != at
    assert (view == 7).all()
    del view
    assert address(recycled.empty((SIZE * 2,), np.float32)) == at


def test_small_arrays_are_numpys():
    assert recycled.empty((SIZE - 1,), np.float64).flags.owndata
    assert not recycled._lent


def test_a_system_without_such_memory_has_plain_arrays(monkeypatch):
    monkeypatch.setattr(recycled, "_FREE", -1)
    assert recycled.empty((SIZE,), np.float64).flags.owndata


def test_no_more_is_kept_than_is_said(small, monkeypatch):
    monkeypatch.setattr(recycled, "_MOST", 20_000)

    def free():
        return [len(one.memory) for one in recycled._ended]

    held = [recycled.empty((100 + k,), np.float64) for k in range(99)]
    assert not free()
    while held:
        del held[0]
    x = recycled.empty((1000,), np.float64)
    assert 0 < sum(free()) <= 20_000
    assert max(free()) == 8 * 198  # the oldest have gone
    del held, x
    for count in (3000, 1):  # of which the first one has gone when the second one comes
        recycled.empty((count,), np.float64)
    assert sum(free()) <= 8000  # of what went last


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which memory it may take")
def test_the_system_may_take_what_is_kept():
    def free():
        with open("/proc/self/smaps") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("LazyFree:"))

    x, before = recycled.empty((SIZE,), np.float64), free()
    x[:] = 1
    assert free() == before
    del x
    assert free() - before > 0.9 * recycled._LEAST / 1024


def test_memory_is_marked_before_it_may_be_taken(small, monkeypatch):
    """Marked later, the system could drop what another thread has written by then."""
    order = []
    monkeypatch.setattr(recycled, "_mark", lambda mark: order.append(len(recycled._ended)))
    x = recycled.empty((10,), np.float64)
    del x
    assert order == [0]
    assert len(recycled._ended) == 1


def test_results_are_those_in_new_memory_and_stay_as_they_are(small, rng, dtype):
    """Results are full of NaN before they are let go, and the next ones of their size are made there."""
    z, labels = rng.standard_normal((7, 300)).astype(dtype), rng.integers(7, size=300)
    x, w1, w2 = rng.random((5, 300)).astype(dtype), np.ones((6, 5), dtype), np.ones((3, 6), dtype)
    b1, b2 = np.zeros((6, 1), dtype), np.zeros((3, 1), dtype)

    def results():
        forward = fastmlp.Forwardprop(x, w1, w2, b1, b2)
        return [fastmlp.ReLU(z), fastmlp.Softmax(z), fastmlp.one_hot(labels, 7), *forward]

    kept = results()
    copies = [one.copy() for one in kept]
    for _ in range(3):
        again = results()
        for one, copy in zip(again, copies, strict=True):
            assert_same_bits(one, copy)
            one[:] = np.nan
        del again, one
        gc.collect()
    assert len(recycled._ended) > 0
    for one, copy in zip(kept, copies, strict=True):
        assert_same_bits(one, copy)
    assert_same_bits(kept[2], naive.one_hot(labels, 7))


def test_threads_never_share_memory(small):
    wrong, sizes = [], (100, 100, 200)

    def work(number):
        for k in range(300):
            x = recycled.empty((sizes[k % 3],), np.int64)
            x[:] = number
            y = recycled.empty((100,), np.int64)
            y[:] = -number
            if not ((x == number).all() and (y == -number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 9)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
