"""Packed files: an input matrix, packed once, that training maps a part at a time, also where it exceeds the memory."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, atomic, backend, checks, frames
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Part
from fastmlp.kernels.scores import hit_scales
from fastmlp.packfile import PackFile, write
from fastmlp.packing import SEEN, PackedMatrix, packed, scaled
from fastmlp.sources import RowSource, Source, source

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Progress: TypeAlias = Callable[[int, int], object]

_UINT8 = np.dtype(np.uint8)

# Bytes of the source in a block, about: large enough to be read in one go, and small beside what a process needs.
BLOCK_BYTES = 24 << 20


class Piece(NamedTuple):
    """An operand with whole leaves of the samples: its samples and its leaves, from the first to below the stop."""

    samples: slice
    leaves: tuple[int, int]
    operand: Any


class MappedMatrix(PackedMatrix):
    """An input matrix in a packed file; `pack` with a path and `open_pack` return it.

    It is accepted wherever a `PackedMatrix` is, except for minibatches and by the functions of the notebook, and gives
    the same bits. One block of the file after the other is mapped, and the next one is read ahead.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, fastmlp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     P = fastmlp.pack(np.array([[0, 255], [0, 51]], np.uint8), scale=1/255, path=f"{folder}/train.pack")
    ...     P.shape, P.density, P.finite
    ((2, 2), 0.5, True)
    """

    __slots__ = ("_all_dense", "_digest", "_file", "_kept", "_kind", "_memory")

    def __init__(self, file: PackFile, memory: int) -> None:
        try:
            self._take(file.facts)
        except (KeyError, TypeError, ValueError) as error:
            raise file.refusal("a header without the facts about the matrix") from error
        self._file, self._memory = file, memory
        self._operands, self._forms = {}, {}
        self._kept: dict[int, dict[str, Array]] | None = {} if file.size <= memory else None

    def _take(self, facts: dict[str, Any]) -> None:
        n, m = facts["shape"]
        self.shape, self.dtype = (int(n), int(m)), np.dtype(facts["dtype"])
        self.density, self.largest = float(facts["density"]), _number(facts["largest"])
        self.finite, self._scale, self._backend = bool(facts["finite"]), float(facts["scale"]), str(facts["backend"])
        self._all_dense, self._digest, self._kind = bool(facts["all_dense"]), str(facts["digest"]), str(facts["kind"])

    def __reduce__(self) -> tuple[Any, ...]:
        return open_pack, (self._file.path, self._memory)

    def _facts(self) -> list[tuple[str, int]]:
        return [(self._kind, self._file.size)]

    def step(self, gradient: Array, parameters: Array, net: Net, y: Array, weight: Array) -> tuple[float, float, float]:
        """Set ``gradient`` to the weighted mean gradient; return the sums of loss, weight of hits and weight."""
        if len(self._file.blocks) == 1:
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
        if len(self._file.blocks) == 1:
            super().logits(out, parameters, net)
            return
        kernels = backend.kernels()
        for some, _, operand in self.pieces(parameters.dtype):
            part = np.empty((len(out), some.stop - some.start), out.dtype)
            kernels.network_logits(part, parameters, net, operand, dense=self._all_dense)
            out[:, some] = part

    def blocks(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        """Yield the digest of the content, which was taken when the file was written, in place of the content."""
        yield np.frombuffer(bytes.fromhex(self._digest), np.uint8)

    def operands(self, dtype: np.dtype[Any], *, minibatches: bool = False) -> Any:
        """Return the operand of all samples, if the file has one block; refuse minibatches."""
        self._check_backend()
        if minibatches or len(self._file.blocks) > 1:
            use = "for minibatches" if minibatches else "as a whole"
            remedy = "train on the full batch with MLP.fit, or pack the samples in memory, without a path"
            raise ValueError(checks.message("X", f"a packed file {use}", "a matrix in memory", remedy))
        (piece,) = self.pieces(dtype)
        return piece.operand

    def pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        """Yield the operands of all blocks in the order of the samples; while one is used, the next one is read."""
        self._check_backend()
        kernels, table, m = backend.kernels(), self._table(dtype), self.shape[1]
        leaf = kernels.leaf_size(m, self.shape[0])
        for samples, form in self._blocks():
            first, stop = samples.start // leaf, -(-samples.stop // leaf)
            yield Piece(samples, (first, stop), kernels.operands(form, table))

    def _blocks(self) -> Iterator[tuple[slice, Any]]:
        """Yield the samples of each block and their packed form."""
        kernels, (n, m) = backend.kernels(), self.shape
        size = _block_size(self.shape, self.dtype, len(self._file.blocks))
        for number in range(len(self._file.blocks)):
            self._file.read_ahead(number + 1)
            samples = slice(number * size, min((number + 1) * size, m))
            yield samples, kernels.from_arrays(self._arrays(number), n, m)

    def _arrays(self, number: int) -> dict[str, Array]:
        if self._kept is None:
            return self._file.arrays(number)
        if number not in self._kept:
            self._kept[number] = self._file.arrays(number)
        return self._kept[number]

    def _pieces(self) -> Iterator[tuple[int, Any]]:
        self._check_backend()
        for samples, form in self._blocks():
            for first, piece in backend.kernels().unpack(form):
                yield samples.start + first, piece


def _number(value: float | str) -> float:
    return float(value)  # "inf" and "nan" are strings in JSON


def _block_size(shape: tuple[int, int], dtype: np.dtype[Any], blocks: int = 0) -> int:
    """Return the samples of a block, whole leaves: of a file of so many, or of one that is to be written."""
    n, m = shape
    leaf = backend.kernels().leaf_size(m, n)
    leaves = -(-m // leaf)
    if blocks == 0:
        most = max(1, BLOCK_BYTES // (leaf * n * dtype.itemsize))
        blocks = -(-leaves // (1 << most.bit_length() - 1))
    # A power of two is shared evenly by the usual numbers of threads, and is one node of the summation tree.
    return int(leaf * (1 << (-(-leaves // blocks) - 1).bit_length()))


class _Writing:
    """Packs block after block of a source, and collects the facts about all of it on the way."""

    def __init__(self, samples: Source, factor: float, wanted: np.dtype[Any] | None) -> None:
        self._source, self._factor = samples, factor
        is_bytes = samples.dtype == _UINT8
        self._dtype = _UINT8 if is_bytes else wanted or arrays.result_dtype(np.empty(0, samples.dtype))
        self._later = factor if is_bytes else 1.0
        self._count, self._extreme, self._largest, self._finite = 0, 0.0, 0.0, True
        self._dense, self._kinds = True, set[str]()
        self._sha = hashlib.sha256(f"{samples.shape} {self._dtype} {self._later!r}".encode())

    def blocks(self, progress: Progress | None) -> Iterator[dict[str, Array]]:
        """Yield the arrays of each block."""
        kernels, m = backend.kernels(), self._source.shape[1]
        size = _block_size(self._source.shape, self._dtype)
        for first in range(0, m, size):
            stop = min(first + size, m)
            values = self._values(first, stop)
            form = kernels.pack(values, m)
            self._collect(values, first, form)
            yield kernels.to_arrays(form)
            if progress is not None:
                progress(stop, m)

    def _values(self, first: int, stop: int) -> Array:
        values = arrays.native(self._dtype, self._source.read(first, stop))
        return values if self._dtype == _UINT8 else scaled(values, self._factor)

    def _collect(self, values: Array, first: int, form: Any) -> None:
        step = -(-self._source.shape[1] // SEEN)
        seen = values[:, -first % step :: step]
        self._count += int(np.count_nonzero(values))
        self._extreme = max(self._extreme, float(values.max(initial=0)))
        self._finite &= arrays.all_finite(values)
        self._largest = float(np.maximum(self._largest, max(seen.max(initial=0), -float(seen.min(initial=0)))))
        kernels = backend.kernels()
        self._dense &= not isinstance(form, np.ndarray) and kernels.all_dense(form)
        self._kinds.add(kernels.packed_facts(form)[0])
        self._sha.update(np.ascontiguousarray(values.T).data)

    def facts(self) -> dict[str, Any]:
        """Return the facts for the header."""
        shape = self._source.shape
        if self._dtype == _UINT8:
            self._finite = arrays.all_finite(scaled(np.array([self._extreme], np.float64), self._later))
        return {
            "shape": shape,
            "dtype": self._dtype.name,
            "scale": self._later,
            "density": self._count / math.prod(shape),
            "finite": self._finite,
            "largest": str(self._largest * self._later),
            "kind": self._kinds.pop() if len(self._kinds) == 1 else "mixed",
            "all_dense": self._dense,
            "digest": self._sha.hexdigest(),
            "backend": backend.get_backend(),
            "layout": backend.kernels().layout(shape[1], shape[0], self._dtype.itemsize),
        }


def pack(
    X: ArrayLike | arrays.Sparse | frames.Frame | RowSource | Iterator[ArrayLike],
    scale: float | None = None,
    dtype: str | None = None,
    *,
    minibatches: bool = False,
    path: atomic.PathName | None = None,
    rows: bool = False,
    progress: Progress | None = None,
) -> PackedMatrix:
    """Pack X once, to use it many times.

    Parameters
    ----------
    X : array_like or sparse matrix or array of SciPy, shape (n_features, m)
        uint8, float32, float64 or other real numbers, in any memory layout, also memory-mapped; samples as columns.
        uint8 stays uint8 in memory, and kernels decode it through a table of 256 entries. Of sparse matrices, CSC, or
        the transpose of CSR, takes the least time and memory. A data frame of pandas or polars has samples as rows; all
        of its columns must be numbers, and their names are not kept.
    scale : float, optional
        Positive factor for every value. If 1/scale rounds to an integer n, values are divided by n, so that
        ``pack(I, scale=1/255)`` holds exactly the bits of ``I / 255.``.
    dtype : {"float64", "float32"}, optional
        The dtype of the packed values if X is not uint8; by default that of X.
    minibatches : bool
        Whether to make the form that `MLP.fit` reads with ``batch_size``, instead of the one that everything else
        reads. The other form is made when it is first needed. Packed files are for the full batch.
    path : str or path-like, optional
        Write a packed file, block after block, and open it as `open_pack` does, instead of packing in memory. X need
        then not fit into memory and may also be the name of a .npy file, which is mapped, or an iterator of blocks of
        rows, which are stored in a temporary file beside ``path`` first. An existing file is replaced when the new one
        is complete.
    rows : bool
        With a path: samples are the rows of X, which may be any object with a length whose slices are rows: a dataset
        of h5py, an array of zarr, or a ``lightgbm.Sequence``.
    progress : callable, optional
        With a path: called after each block with the number of samples done and that of all.

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
            got, expected = "True with a path", "minibatches=False: packed files are for the full batch"
            raise ValueError(checks.message("minibatches", got, expected, "pack in memory, without a path"))
        atomic.check_place(path)
        samples = source("X", X, os.path.dirname(os.path.realpath(path)), rows=rows)
        writing = _Writing(samples, factor, wanted)
        write(path, writing.blocks(progress), writing.facts)
        return open_pack(path)
    if rows or progress is not None:
        got, expected = "rows or progress without a path", "a path with them"
        raise ValueError(checks.message("path", got, expected, "name the file to write"))
    return packed("X", frames.numbers("X", X) if frames.is_frame(X) else X, factor, wanted, minibatches=minibatches)


def open_pack(path: atomic.PathName, memory: int = 256 << 20) -> PackedMatrix:
    """Open a packed file that `pack` wrote.

    The header is read and verified now, and each block when it is first used.

    Parameters
    ----------
    path : str or path-like
        The file. Open only files that you trust: the checksums detect damage, not malice.
    memory : int
        Bytes of the file to map at most. A file that is not larger stays mapped; of a larger one two blocks are mapped
        at a time.

    Returns
    -------
    PackedMatrix
        The matrix, which reads the file when it is used.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, cut short or not a packed file, if it was written by another backend, for another vector width
        or by another version, or if two of its blocks do not fit into ``memory``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, fastmlp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = fastmlp.pack(np.eye(3), path=f"{folder}/train.pack")
    ...     fastmlp.open_pack(f"{folder}/train.pack").shape
    (3, 3)
    """
    checks.positive("memory", memory, "pass bytes such as 256 << 20")
    file = PackFile(path)
    matrix = MappedMatrix(file, int(memory))
    name, (n, m) = backend.get_backend(), matrix.shape
    if file.facts["backend"] != name:
        raise file.refusal(
            f"a file of the {file.facts['backend']} backend, not {name}", "pack it again with this backend"
        )
    if file.facts.get("layout") != backend.kernels().layout(m, n, matrix.dtype.itemsize):
        raise file.refusal("a file for another vector width or version")
    pair = 2 * max(block.length for block in file.blocks)
    if min(file.size, pair) > memory:
        got, expected = f"{memory} bytes", f"at least {pair}, for two blocks"
        raise ValueError(checks.message("memory", got, expected, "allow more"))
    return matrix
