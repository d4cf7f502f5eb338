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
    """A reference to a lease, and the memory that is free when there is no lease any more."""

    __slots__ = ("madvise", "memory")
    memory: mmap.mmap
    madvise: Any


# What happens at the end of a lease. No line of Python, in which Ctrl-C could strike and be lost: it is called wherever
# the last view of a result goes.
_mark = operator.methodcaller("madvise", _FREE)

_loans: deque[_Loan] = deque()  # the oldest first; without a lock, which a thread could hold as it collects garbage


def _free() -> list[_Loan]:
    return [loan for loan in list(_loans) if loan() is None]


def _taken(size: int) -> mmap.mmap:
    """Return free memory of so many bytes, or new one."""
    for loan in _free():
        if len(loan.memory) == size:
            with contextlib.suppress(ValueError):  # another thread was faster
                _loans.remove(loan)
                return loan.memory
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _HUGE >= 0:
        with contextlib.suppress(OSError):
            memory.madvise(_HUGE)
    return memory


def _trim() -> None:
    """Return free memory to the system, that of the oldest loans first, until no more than _MOST is left."""
    free = _free()
    excess = sum(len(loan.memory) for loan in free) - _MOST
    for loan in free:
        if excess > 0:
            excess -= len(loan.memory)
            with contextlib.suppress(ValueError):
                _loans.remove(loan)


def empty(shape: tuple[int, ...], dtype: Any) -> "np.ndarray[Any, np.dtype[Any]]":
    """Return a new C-contiguous array that holds anything, as `numpy.empty` does."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _LEAST or _FREE < 0:
        return np.empty(shape, dtype)
    lease = _Lease(_taken(size), shape, dtype)
    loan = _Loan(lease, _mark)
    loan.memory, loan.madvise = lease.memory, lease.memory.madvise
    _loans.append(loan)
    _trim()
    return np.asarray(lease)
