"""The format of packed files: blocks of arrays, each mapped by itself, and behind them a header and its checksum.

A file begins with `MAGIC`. Blocks follow, each at a multiple of 65536 bytes, where every system can map it; the arrays
of a block are aligned to 64 bytes. The last block holds what belongs to all samples, such as labels. The header is
JSON: facts about the matrix, and of each block its place, its CRC-32 and its arrays. It comes last, because only then
are the places of the blocks known, and so a file is written in one go. The file ends with the length and the CRC-32 of
the header, and `MAGIC` again.

The checksums detect damage, not malice: kernels trust the indices in a block, so open only files that you trust.
"""

from __future__ import annotations

import functools
import itertools
import json
import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import atomic, checks

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_FAMILY = b"fastmlp pack "
MAGIC = _FAMILY + b"3\r\n"

_TAIL = struct.Struct(f"<QI{len(MAGIC)}s")
_LONGEST_HEADER = 1 << 28
_BLOCK_MULTIPLE, _ARRAY_MULTIPLE = 1 << 16, 64

# Behind the last array of a block, because kernels may load a whole vector that begins within an array.
_SLACK = bytes(256)


class Block(NamedTuple):
    """A block: its place, its CRC-32, and the name, dtype, shape and place within the block of each array."""

    offset: int
    length: int
    crc: int
    arrays: list[tuple[str, str, list[int], int]]


def write(
    path: atomic.PathName,
    blocks: Iterable[dict[str, Array]],
    beside: dict[str, Array],
    facts: Callable[[], dict[str, Any]],
) -> None:
    """Write a packed file atomically, block after block, and then ``beside``; ``facts`` is called behind the last one.

    Raises
    ------
    OSError, ValueError
        As `atomic.replace`; no file is then written.
    """
    with ThreadPoolExecutor(1, "fastmlp checksum") as helper:
        atomic.replace(path, _content(itertools.chain(blocks, [beside]), facts, helper))


def is_pack(path: atomic.PathName) -> bool:
    """Return whether a path is a file that begins like a packed one, of any version."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(_FAMILY)) == _FAMILY


def _content(
    blocks: Iterable[dict[str, Array]], facts: Callable[[], dict[str, Any]], helper: Executor
) -> Iterator[atomic.Block]:
    """Yield the pieces of a file; the helper computes the checksum of a block while it is written."""
    yield MAGIC
    at, table = len(MAGIC), list[tuple[int, int, Future[int], list[Any]]]()
    for arrays in blocks:
        gap = -at % _BLOCK_MULTIPLE
        yield bytes(gap)
        at, length, places, pieces = at + gap, 0, [], list[atomic.Block]()
        for name, array in arrays.items():
            places.append((name, array.dtype.str, list(array.shape), length))
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            padding = bytes(-len(data) % _ARRAY_MULTIPLE)
            pieces += data, padding
            length += len(data) + len(padding)
        pieces.append(_SLACK)
        length += len(_SLACK)
        if table:
            table[-1][2].result()  # the block before: no more than two are in memory
        crc = helper.submit(functools.reduce, lambda crc, piece: zlib.crc32(piece, crc), pieces, 0)
        yield from pieces
        table.append((at, length, crc, places))
        at += length
    found = [Block(at, length, crc.result(), places) for at, length, crc, places in table]
    header = json.dumps({"facts": facts(), "blocks": found}, allow_nan=False).encode()
    yield header
    yield _TAIL.pack(len(header), zlib.crc32(header), MAGIC)


class PackFile:
    """A packed file that is open.

    Attributes
    ----------
    path : str
    size : int
        In bytes.
    facts : dict
        What `write` was given.
    blocks : list of Block
        Those of the samples.
    longest : int
        Bytes of the longest block.
    """

    def __init__(self, path: atomic.PathName) -> None:
        self.path = os.path.realpath(path)
        # Not a file object, which warns if it is collected while it is open.
        self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        header = self._header()
        try:
            self.facts: dict[str, Any] = header["facts"]
            *self.blocks, self._beside = [Block(*one) for one in header["blocks"]]
            self.longest = max(block.length for block in self.blocks)
        except (KeyError, TypeError, ValueError) as error:
            raise self.refusal("a header without facts or blocks") from error
        self._verified: set[int] = set()
        self._state, self._version = self._now(), 0

    def refusal(self, got: str, remedy: str = "pack it again") -> ValueError:
        """Return the error for a file that cannot be used."""
        return ValueError(checks.message("path", f"{got}: {self.path}", "a whole file that pack wrote", remedy))

    def arrays(self, number: int) -> dict[str, Array]:
        """Map a block and return its arrays; when it is first read its checksum is verified.

        It stays mapped as long as any of the arrays lives. Kernels take only arrays that can be written; one that is
        written does not change the file.
        """
        return self._arrays(self.blocks[number], f"block {number + 1} of {len(self.blocks)}")

    def beside(self) -> dict[str, Array]:
        """Map what belongs to all samples, as `arrays` does."""
        return self._arrays(self._beside, "the labels")

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self._descriptor)
        return state.st_size, state.st_mtime_ns

    def version(self) -> int:
        """Return how often another program was seen to have written to the file, whose blocks are then verified anew.

        Raises
        ------
        ValueError
            If the file has been cut short: to read what is missing would kill the process.
        """
        state = self._now()
        if state != self._state:
            if state[0] < self.size:
                raise self.refusal("a file that has been cut short")
            self._state, self._verified, self._version = state, set(), self._version + 1
        return self._version

    def _arrays(self, block: Block, what: str) -> dict[str, Array]:
        self.version()
        mapped = mmap.mmap(self._descriptor, block.length, access=mmap.ACCESS_COPY, offset=block.offset)
        if block.offset not in self._verified:
            if zlib.crc32(mapped) != block.crc:
                raise self.refusal(f"damage in {what}")
            self._verified.add(block.offset)
        found = {}
        for name, dtype, shape, at in block.arrays:
            count = int(np.prod(shape, dtype=np.int64))
            found[name] = np.frombuffer(mapped, dtype, count, at).reshape(shape)
        return found

    def read_ahead(self, number: int) -> None:
        """Let the system begin to read a block, if there is one of this number, and go on at once."""
        if number < len(self.blocks) and hasattr(os, "posix_fadvise"):
            block = self.blocks[number]
            os.posix_fadvise(self._descriptor, block.offset, block.length, os.POSIX_FADV_WILLNEED)

    def _header(self) -> dict[str, Any]:
        start = self._read(0, len(MAGIC))
        if start != MAGIC:
            got = "another version of the format" if start.startswith(_FAMILY) else "a file of another kind"
            raise self.refusal(got)
        if self.size < len(MAGIC) + _TAIL.size:
            raise self.refusal("a file that has been cut short")
        length, crc, end = _TAIL.unpack(self._read(self.size - _TAIL.size, _TAIL.size))
        if end != MAGIC or length > min(_LONGEST_HEADER, self.size - _TAIL.size - len(MAGIC)):
            raise self.refusal("a file that is damaged or has been cut short")
        header = self._read(self.size - _TAIL.size - length, length)
        if zlib.crc32(header) != crc:
            raise self.refusal("a damaged header")
        result: dict[str, Any] = json.loads(header)
        return result

    def _read(self, at: int, length: int) -> bytes:
        os.lseek(self._descriptor, at, os.SEEK_SET)
        return os.read(self._descriptor, length)
