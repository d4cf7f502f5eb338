"""Memory that ends or begins exactly at a protected page: any access to that page raises SIGSEGV."""

import ctypes
import mmap

import numpy as np

_PAGE = mmap.PAGESIZE
_CANARY = 0xA5
_LIBC = ctypes.CDLL(None, use_errno=True)
SIDES = ("end", "start")


class Guarded:
    """Memory for ``count`` elements with a protected page behind it, or before it; canaries fill the other side."""

    def __init__(self, count, dtype, side="end"):
        size = int(count) * np.dtype(dtype).itemsize
        pages = -(-size // _PAGE) + 2
        region = mmap.mmap(-1, pages * _PAGE)
        whole = np.frombuffer(region, np.uint8)
        address = whole.ctypes.data
        whole[:] = _CANARY
        start = (pages - 1) * _PAGE - size if side == "end" else _PAGE
        self.array = whole[start : start + size].view(dtype)
        self._around = whole[_PAGE:start], whole[start + size : -_PAGE]
        for page in (address, address + (pages - 1) * _PAGE):
            assert _LIBC.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), 0) == 0

    def intact(self):
        return all((part == _CANARY).all() for part in self._around)
