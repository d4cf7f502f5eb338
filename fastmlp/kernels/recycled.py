"""Memory of large results, used again when nothing refers to them any more.

The system clears new memory page by page, which takes longer than a kernel takes to fill it. The allocator of C keeps
what is small for the next array; what is larger it returns to the system at once, and gets it back cleared. Here such
memory stays, marked as free: the system may take it at any time, and then clears it for the next result.
"""

import contextlib
import math
import mmap
import operator
import weakref
from collections import deque
from typing import Any

import numpy as np

# Bytes from which the allocator returns memory at once: DEFAULT_MMAP_THRESHOLD_MAX of glibc.
_LEAST = 32 << 20

# Bytes that stay. The notebook's Forwardprop on 60000 samples and 128 units returns 123 MB.
_MOST = 256 << 20

_FREE, _HUGE = (getattr(mmap, name, -1) for name in ("MADV_FREE", "MADV_HUGEPAGE"))


class _Lease:
    """The owner of the memory of an array, to which all of its views refer."""

    __slots__ = ("__array_interface__", "__weakref__", "memory")

    def __init__(self, memory: mmap.mmap, shape: tuple[int, ...], dtype: Any) -> None:
        self.memory = memory
        address = np.frombuffer(memory, np.uint8).ctypes.data
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}


class _Loan(weakref.ref[_Lease]):
    """A reference to a lease, with its memory, which is free once the loan is among those that have ended."""

    __slots__ = ("mark", "memory")
    memory: mmap.mmap
    mark: "_Mark"


class _Mark(weakref.ref[_Lease]):
    """A reference to a lease, at the end of which its memory is marked as free."""

    __slots__ = ("madvise",)
    madvise: Any


# No line of Python runs at the end of a lease, wherever the last view of a result goes: Ctrl-C would strike and be lost
# there. Nor is there a lock, which a thread could hold as it collects garbage.
_mark = operator.methodcaller("madvise", _FREE)
_lent: set[_Loan] = set()
_ended: deque[_Loan] = deque()  # the oldest first


def _taken(size: int) -> mmap.mmap:
    """Return free memory of so many bytes, or new one."""
    for loan in list(_ended):
        if len(loan.memory) == size and _is_removed(loan):
            return loan.memory
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _HUGE >= 0:
        with contextlib.suppress(OSError):
            memory.madvise(_HUGE)
    return memory


def _is_removed(loan: _Loan) -> bool:
    """Remove a loan that has ended; return whether no other thread was faster."""
    try:
        _ended.remove(loan)
    except ValueError:
        return False
    _lent.discard(loan)
    return True


def _trim() -> None:
    """Return free memory to the system, the oldest first, until no more than _MOST is left."""
    free = list(_ended)
    excess = sum(len(loan.memory) for loan in free) - _MOST
    for loan in free:
        if excess > 0 and _is_removed(loan):
            excess -= len(loan.memory)


def empty(shape: tuple[int, ...], dtype: Any) -> "np.ndarray[Any, np.dtype[Any]]":
    """Return a new C-contiguous array that holds anything, as `numpy.empty` does."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _LEAST or _FREE < 0:
        return np.empty(shape, dtype)
    lease = _Lease(_taken(size), shape, dtype)
    # What is registered last is called first: memory is marked before another thread may take it.
    loan = _Loan(lease, _ended.append)
    mark = _Mark(lease, _mark)
    loan.memory, loan.mark, mark.madvise = lease.memory, mark, lease.memory.madvise
    _lent.add(loan)
    _trim()
    return np.asarray(lease)
