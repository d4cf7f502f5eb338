"""Packed files: an input matrix, packed once, that training maps a part at a time, also where it exceeds the memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, atomic, backend, checks, frames
from fastmlp.batches import BUFFER
from fastmlp.blocks import block_size
from fastmlp.feeding import Feed, Store
from fastmlp.kernels import rules
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Drawn, Part
from fastmlp.kernels.scores import hit_scales
from fastmlp.packfile import PackFile
from fastmlp.packing import PackedMatrix, packed
from fastmlp.packwriter import Beside, Progress, Writing, checked_labels
from fastmlp.sources import RowSource, source

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


# Bytes of rows and of their lists, at most, over those of the rows: an entry of a list has two bytes more than its
# number, and lists hold at most half of the numbers.
_FORMS = 3

# Bytes of memory by default.
_MEMORY = 256 << 20

# Blocks of memory for the samples of a call of the kernel, a quarter of a block: rows, lists, and the lists before.
_DRAWN = 2


class Piece(NamedTuple):
    """An operand with whole leaves of the samples: its samples and its leaves, from the first to below the stop."""

    samples: slice
    leaves: tuple[int, int]
    operand: Any


class MappedMatrix(PackedMatrix):
    """An input matrix in a packed file; `pack` with a path and `open_pack` return it.

    It is accepted wherever a `PackedMatrix` is, except by the functions of the notebook, and gives the same bits. One
    block of the file after the other is mapped, and the next one is read ahead. Minibatches are taken from a few blocks
    at a time, of which the samples are in memory.

    Examples
    --------
    >>> import tempfile, numpy as np, fastmlp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     P = fastmlp.pack(np.array([[0, 255], [0, 51]], np.uint8), scale=1/255, path=f"{folder}/train.pack")
    ...     P.shape, P.density, P.finite
    ((2, 2), 0.5, True)
    """

    #: How minibatches are shuffled by default.
    shuffle = "blocks"

    __slots__ = ("_all_dense", "_digest", "_file", "_kept", "_kind", "_memory", "_notes")

    def __init__(self, file: PackFile, memory: int | None) -> None:
        try:
            self._take(file.facts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise file.refusal("a header without the facts about the matrix") from error
        self._file = file
        self._check(file.facts)
        self._operands, self._forms, self._lists = {}, {}, []
        pair = 2 * file.longest
        self._memory = max(_MEMORY, pair, self._wanted()) if memory is None else memory
        if min(file.size, pair) > self._memory:
            got, expected = f"{memory} bytes", f"at least {pair}, for two blocks"
            raise ValueError(checks.message("memory", got, expected, "allow more"))
        self._kept: dict[tuple[int, int], dict[str, Array]] | None = {} if file.size <= self._memory else None

    def _take(self, facts: dict[str, Any]) -> None:
        n, m = facts["shape"]
        self.shape, self.dtype = (int(n), int(m)), np.dtype(facts["dtype"])
        # "inf" and "nan" are strings in JSON
        self.density, self.largest = float(facts["density"]), float(facts["largest"])
        self.finite, self._scale, self._backend = bool(facts["finite"]), float(facts["scale"]), str(facts["backend"])
        self._all_dense, self._digest, self._kind = bool(facts["all_dense"]), str(facts["digest"]), str(facts["kind"])
        self._notes = {str(name): str(note) for name, note in facts["notes"].items()}

    def _check(self, facts: dict[str, Any]) -> None:
        """Raise ValueError unless the file is for this backend and machine."""
        if self._backend != (name := backend.get_backend()):
            got, remedy = f"a file of the {self._backend} backend, not {name}", "pack it again with this backend"
            raise self._file.refusal(got, remedy)
        if facts.get("layout") != backend.kernels().layout(*self.shape[::-1], self.dtype.itemsize):
            raise self._file.refusal("a file for another vector width or version")

    def _wanted(self) -> int:
        """Return the bytes that minibatches take where only some blocks are in memory."""
        rows = self.block * self.shape[0] * self.dtype.itemsize
        return (min(self.blocks, BUFFER) + _DRAWN) * rows + self._file.longest

    @property
    def labels(self) -> Array | None:
        """Labels (m,) or targets (m,) or (n_outputs, m), read from the file; None if it holds none."""
        return self._file.beside().get("labels")

    @property
    def notes(self) -> dict[str, str]:
        """Texts about the data, which ``fastmlp pack`` writes: how the inputs were scaled, the names of classes."""
        return dict(self._notes)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_pack, (self._file.path, self._memory)

    def _facts(self) -> list[tuple[str, int]]:
        return [(self._kind, self._file.size)]

    def step(self, gradient: Array, parameters: Array, net: Net, y: Array, weight: Array) -> tuple[float, float, float]:
        """Set ``gradient`` to the weighted mean gradient; return the sums of loss, weight of hits and weight."""
        if self.blocks == 1:
            return super().step(gradient, parameters, net, y, weight)
        kernels, scales = backend.kernels(), hit_scales(net.loss, y, weight)
        sums = kernels.begin_parts(parameters, net, self.shape[1], dense=self._all_dense)
        for some, leaves, operand in self.pieces(parameters.dtype):
            kernels.enter(sums, net, operand, Part(leaves[0], y[..., some], weight[some], scales))
            kernels.accumulate(sums, *leaves)
        result: tuple[float, float, float] = kernels.finish(gradient, sums)
        return result

    def logits(self, out: Array, parameters: Array, net: Net) -> None:
        """Set ``out`` (C, m) to the logits."""
        if self.blocks == 1:
            super().logits(out, parameters, net)
            return
        kernels = backend.kernels()
        for some, _, operand in self.pieces(parameters.dtype):
            part = np.empty((len(out), some.stop - some.start), out.dtype)
            kernels.network_logits(part, parameters, net, operand, dense=self._all_dense)
            out[:, some] = part

    def content(self) -> str:
        """Return the digest that was taken when the file was written: that of the same matrix in memory."""
        return self._digest

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(self._file.blocks)

    @property
    def all_dense(self) -> bool:
        """Whether every block is stored as dense rows."""
        return self._all_dense

    @property
    def block(self) -> int:
        """Samples of a block of the file."""
        return block_size(self.shape, self.dtype, self.blocks)

    def check_shuffle(self, shuffle: str | bool) -> None:
        """Raise ValueError unless batches that are shuffled like this read each block once in an epoch."""
        if shuffle in ("samples", "batches") and self.blocks > BUFFER:
            got, expected = f"{shuffle!r} for a packed file of {self.blocks} blocks", "'blocks' or False"
            remedy = "pass 'blocks', which shuffles the blocks, and the samples of several blocks together"
            raise ValueError(checks.message("shuffle", got, expected, remedy))

    def begin_training(
        self, vectors: list[Array], net: Net, y: Array, weight: Array, drawn: Drawn | None = None
    ) -> Any:
        """Do as `PackedMatrix.begin_training`, if the file is small; else return a trainer that reads it."""
        self._check_backend()
        if self.is_small():
            return super().begin_training(vectors, net, y, weight, drawn)
        wanted = self._wanted()
        if wanted > self._memory:
            got, expected = f"{self._memory} bytes", f"at least {wanted} for minibatches from a packed file"
            raise ValueError(checks.message("memory", got, expected, f"open_pack(path, memory={wanted})"))
        if wanted + self._file.size > self._memory:
            self._kept = None
        kernels, table = backend.kernels(), self._table(vectors[0].dtype)
        store = Store(
            self.block, self.shape, self.dtype, self._read, self._file.read_ahead,
            lambda rows: kernels.operands(kernels.list_samples(rows.T, self.density), table),
        )  # fmt: skip
        return Feed(store, vectors, net, y, weight)

    def begin_epoch(self, trainer: Any, order: Array) -> None:
        """Take note of the order in which blocks are to be read."""
        if isinstance(trainer, Feed):
            trainer.begin_epoch(order)

    def train(self, trainer: Any, order: Array, ends: Array, rule: rules.Rule, numbers: Array) -> Array:
        """Do as `PackedMatrix.train`."""
        if isinstance(trainer, Feed):
            return trainer.train(order, ends, rule, numbers)
        return super().train(trainer, order, ends, rule, numbers)

    def vectors(self, trainer: Any) -> list[Array]:
        """Do as `PackedMatrix.vectors`."""
        return trainer.vectors() if isinstance(trainer, Feed) else super().vectors(trainer)

    def operands(self, dtype: np.dtype[Any], *, minibatches: bool = False) -> Any:
        """Return the operand of all samples, if the file is small, or for whole passes has one block."""
        self._check_backend()
        if minibatches and self.is_small():
            if not self._forms:
                self._forms[True] = backend.kernels().list_samples(self.rows(0, self.shape[1]).T, self.density)
            return super().operands(dtype, minibatches=True)
        if minibatches or self.blocks > 1:
            remedy = "pack the samples in memory, without a path"
            raise ValueError(checks.message("X", "a packed file as a whole", "a matrix in memory", remedy))
        (piece,) = self.pieces(dtype)
        return piece.operand

    def is_small(self) -> bool:
        """Return whether all samples may be in memory as rows and in another form, beside the file."""
        size = self.shape[0] * self.shape[1] * self.dtype.itemsize
        return self.blocks <= BUFFER and self._file.size + _FORMS * size <= self._memory

    def pieces(self, dtype: np.dtype[Any], some: range | None = None) -> Iterator[Piece]:
        """Yield the operands of all or some blocks, in the order of the samples; the next one is read meanwhile."""
        self._check_backend()
        kernels, table, m = backend.kernels(), self._table(dtype), self.shape[1]
        leaf = kernels.leaf_size(m, self.shape[0])
        for samples, form in self._blocks(some):
            first, stop = samples.start // leaf, -(-samples.stop // leaf)
            yield Piece(samples, (first, stop), kernels.operands(form, table))

    def _blocks(self, some: range | None = None) -> Iterator[tuple[slice, Any]]:
        """Yield the samples of each block, or of some, and their packed form."""
        for number in range(self.blocks) if some is None else some:
            self._file.read_ahead(number + 1)
            samples = slice(number * self.block, min((number + 1) * self.block, self.shape[1]))
            yield samples, backend.kernels().from_arrays(self._arrays(number), *self.shape)

    def rows(self, first: int, stop: int) -> Array:
        """Return the samples from the first to below the stop, as rows (k, n) as they are stored."""
        rows = np.empty((stop - first, self.shape[0]), self.dtype)
        for number in range(first // self.block, -(-stop // self.block)) if first < stop else ():
            for begin, piece in self._rows(number):
                start = number * self.block + begin - first
                some = piece[max(-start, 0) : max(len(rows) - start, 0)]
                rows[max(start, 0) : max(start, 0) + len(some)] = some
        return rows

    def _rows(self, number: int) -> Iterator[tuple[int, Array]]:
        """Yield the samples of a block, some at a time: the first one within it, and rows (k, n) as they are stored."""
        kernels = backend.kernels()
        yield from kernels.unpack(kernels.from_arrays(self._arrays(number), *self.shape))

    def _read(self, number: int, rows: Array) -> None:
        """Set the first of these rows (k, n) to the samples of a block."""
        for first, piece in self._rows(number):
            rows[first : first + len(piece)] = piece

    def _arrays(self, number: int) -> dict[str, Array]:
        kept, key = self._kept, (number, self._file.version())
        if kept is None:  # now, or soon by another thread
            return self._file.arrays(number)
        if key not in kept:
            kept[key] = self._file.arrays(number)
        return kept[key]

    def _pieces(self) -> Iterator[tuple[int, Any]]:
        self._check_backend()
        for samples, form in self._blocks():
            for first, piece in backend.kernels().unpack(form):
                yield samples.start + first, piece


def pack(
    X: ArrayLike | arrays.Sparse | frames.Frame | RowSource | Iterator[ArrayLike],
    scale: float | None = None,
    dtype: str | None = None,
    *,
    minibatches: bool = False,
    path: atomic.PathName | None = None,
    rows: bool = False,
    progress: Progress | None = None,
    Y: ArrayLike | None = None,
) -> PackedMatrix:
    """Pack X once, to use it many times.

    Parameters
    ----------
    X : array_like or sparse matrix or array of SciPy, shape (n_features, m)
        uint8, float32, float64 or other real numbers, in any memory layout, also memory-mapped; samples as columns.
        uint8 stays uint8 in memory, and kernels decode it through a table of 256 entries; for minibatches, so are
        floats of up to 255 values beside 0, such as images divided by 255. Of sparse matrices, CSC, or the transpose of
        CSR, takes the least time and memory. A data frame of pandas or polars has samples as rows; all
        of its columns must be numbers, and their names are not kept.
    scale : float, optional
        Positive factor for every value. If 1/scale rounds to an integer n, values are divided by n, so that
        ``pack(I, scale=1/255)`` holds exactly the bits of ``I / 255.``.
    dtype : {"float64", "float32"}, optional
        The dtype of the packed values if X is not uint8; by default that of X.
    minibatches : bool
        Whether to make the form that `MLP.fit` reads with ``batch_size``, instead of the one that everything else
        reads. The other form is made when it is first needed. A packed file has one form for both.
    path : str or path-like, optional
        Write a packed file, block after block, and open it as `open_pack` does, instead of packing in memory. X need
        then not fit into memory and may also be the name of a .npy file, which is mapped, or an iterator of blocks of
        rows, which are stored in a temporary file beside ``path`` first. An existing file is replaced when the new one
        is complete. `MLP.fit` trains from it on the full batch, or on minibatches that ``shuffle="blocks"`` draws; they
        are random if the blocks of the file, of up to 24 MiB, resemble each other: shuffle a sorted X before.
    rows : bool
        With a path: samples are the rows of X, which may be any object with a length whose slices are rows: a dataset
        of h5py, an array of zarr, or a ``lightgbm.Sequence``.
    progress : callable, optional
        With a path: called after each block with the number of samples done and that of all.
    Y : array_like, shape (m,) or (n_outputs, m), optional
        With a path: labels or targets, which the file then holds too: see `MappedMatrix.labels`.

    Returns
    -------
    PackedMatrix
        A copy of X that `MLP.fit`, `MLP.loss_and_grad`, `MLP.predict` and the like accept in its place. It may hold
        values that are not finite: see its ``finite``.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If X is empty or not two-dimensional, has 2**31 features or more, if the indices of a sparse X do not fit its
        shape, or the scale is not positive and finite.
    TypeError
        If X does not hold real numbers.

    Examples
    --------
    >>> import numpy as np, fastmlp
    >>> P = fastmlp.pack(np.array([[0, 255], [0, 51]], np.uint8), scale=1/255)
    >>> fastmlp.MLP((2, 2)).predict(P).shape
    (2,)
    """
    factor = checks.positive("scale", 1.0 if scale is None else scale, "pass a factor such as 1/255")
    wanted = None if dtype is None else checks.float_dtype("dtype", dtype)
    if path is not None:
        if minibatches:
            got, expected = "True with a path", "False: a packed file has one form for all uses"
            raise ValueError(checks.message("minibatches", got, expected, "leave it out"))
        atomic.check_place(path)
        samples = source("X", X, os.path.dirname(os.path.realpath(path)), rows=rows)
        labels = None if Y is None else checked_labels("Y", Y, samples.shape[1])
        Writing(samples, factor, wanted, Beside(labels)).write(path, progress)
        return open_pack(path)
    if rows or progress is not None or Y is not None:
        got, expected = "rows, progress or Y without a path", "a path with them"
        raise ValueError(checks.message("path", got, expected, "name the file to write"))
    x = frames.numbers("X", X) if frames.is_frame(X) else X
    found = packed("X", x, factor, wanted, minibatches=minibatches)
    found.is_frame = x is not X
    return found


def open_pack(path: atomic.PathName, memory: int | None = None) -> MappedMatrix:
    """Open a packed file that `pack` wrote.

    The header is read and verified now, and each block when it is first used.

    Parameters
    ----------
    path : str or path-like
        The file. Open only files that you trust: the checksums detect damage, not malice.
    memory : int, optional
        Bytes of the file to map at most, by default 256 MiB, or more if minibatches from this file need it. A file that
        is not larger stays mapped; of a larger one two blocks are mapped at a time. It also bounds the samples that
        minibatches keep in memory, those of 8 blocks, of up to 24 MiB unless there are very many features.

    Returns
    -------
    MappedMatrix
        The matrix, which reads the file when it is used. Its ``labels`` are those that the file holds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, cut short or not a packed file, if it was written by another backend, for another vector width
        or by another version, or if two of its blocks do not fit into ``memory``. `MLP.fit` says how much more
        minibatches need, if they do.

    Examples
    --------
    >>> import tempfile, numpy as np, fastmlp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = fastmlp.pack(np.eye(3), path=f"{folder}/train.pack", Y=[0, 1, 1])
    ...     P = fastmlp.open_pack(f"{folder}/train.pack")
    ...     history = fastmlp.MLP((3, 4, 2)).fit(P, P.labels, epochs=3, batch_size=2)
    >>> P.shape, len(history)
    ((3, 3), 3)
    """
    if memory is not None:
        memory = int(checks.positive("memory", memory, "pass bytes such as 512 << 20"))
    return MappedMatrix(PackFile(path), memory)
