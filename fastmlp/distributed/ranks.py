"""The processes of a training run by MPI: their samples, brought where they are summed, and what they agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import arrays, backend, checks, interrupts, sparse
from fastmlp.blocks import block_size
from fastmlp.distributed import plans
from fastmlp.distributed.divided import Divided, Facts
from fastmlp.distributed.messages import Array, Messages
from fastmlp.distributed.shared import Shared
from fastmlp.distributed.watchdog import Watchdog
from fastmlp.kernels.columns import Columns
from fastmlp.packing import Input, PackedMatrix
from fastmlp.packs import MappedMatrix
from fastmlp.teams import Team
from fastmlp.version import __version__

_Result = TypeVar("_Result")

_MOVED_BYTES = 1 << 24  # of samples that a process sends to another one at once
_SEEN = 1000  # samples that are searched for the largest value, as in `fastmlp.packing`


class _Held(NamedTuple):
    """The samples that a process was given, as rows (k, n), and the scale of uint8; none if k is 0."""

    rows: Array
    scale: float


class Ranks(Team):
    """The processes of a communicator of mpi4py."""

    def __init__(self, comm: Any) -> None:
        self._messages = Messages(comm)
        self._watchdog = Watchdog(comm)
        self.rank, self._held, self._is_shared = self._messages.rank, 0, False

    def __exit__(self, *raised: Any) -> None:
        """Wait until all processes have ended the run; if one fails, all do."""
        _, error, _ = raised
        try:
            if error is None:
                interrupts.shielded(self._messages.meet)
            else:
                interrupts.shielded(self._messages.give_up, error)
        finally:
            self._watchdog.end()
            self._messages.end()

    def interrupted(self, error: KeyboardInterrupt) -> None:
        """Let all processes end the run where this one does."""
        self._messages.give_up(error)

    def agree(self, facts: dict[str, object]) -> None:
        """Raise ValueError on all processes if these facts, by their names, differ."""
        mine = {name: repr(fact) for name, fact in facts.items()}
        mine |= {"version": __version__, "backend": backend.get_backend()}
        mine["vector width"] = str(backend.kernels().describe().get("vector width", ""))
        every = interrupts.shielded(self._messages.gathered, mine)
        for name in mine:
            for rank, one in enumerate(every):
                if one[name] != every[0][name]:
                    got = f"{name} {every[0][name]} on rank 0 and {one[name]} on rank {rank}"
                    raise ValueError(
                        checks.message("comm", got, "the same on all ranks", "call fit alike on all ranks")
                    )

    def most(self, code: int) -> int:
        """Return the largest of all processes' codes."""
        largest: int = max(interrupts.shielded(self._messages.meet, code))
        return largest

    def least(self, number: int) -> int:
        """Return the smallest of all processes' numbers."""
        smallest: int = min(self._messages.meet(number))
        return smallest

    def from_first(self, make: Callable[[], _Result]) -> _Result:
        """Call a function on the first process; return its result on all."""
        value = make() if self.rank == 0 else None
        result: _Result = interrupts.shielded(self._messages.gathered, value)[0]
        return result

    def matrix(
        self, name: str, X: Input, width: int, dtype: Any, batch_size: int | None = None, *, finite: bool = True
    ) -> Any:
        """Return all processes' samples, of which each then holds an equal share."""
        # A signal between two messages would leave the others waiting.
        return interrupts.shielded(self._matrix, name, X, width, np.dtype(dtype), batch_size, finite)

    def _matrix(
        self, name: str, X: Input, width: int, dtype: np.dtype[Any], batch_size: int | None, finite: bool
    ) -> Divided:
        self._is_shared, is_large = self._agreed(X)
        file = X if isinstance(X, MappedMatrix) and self._is_shared else None
        if file is not None and is_large:
            super().matrix(name, file, width, dtype, finite=finite)  # checks it
            facts = Facts(file.shape, file.dtype, file._scale, file.density, file.largest, file.block, file.shuffle)
            return Shared(self._messages, facts, file)
        held = _rows(name, X, width, dtype) if file is None else self._share(name, file, width, dtype)
        self._held = len(held.rows)
        every = self._messages.gathered((len(held.rows), held.rows.dtype, held.scale))
        m = sum(count for count, *_ in every)
        if m == 0:
            raise ValueError(checks.message(name, "no samples on any rank", "samples", "pass some on a rank"))
        kinds = [(kind, scale) for count, kind, scale in every if count]
        if any(one != kinds[0] for one in kinds):
            got, expected = f"samples of dtype {', '.join(str(kind) for kind, _ in kinds)}", "one dtype and one scale"
            raise ValueError(checks.message(name, got, expected, "pass the same kind of X on all ranks"))
        wanted = plans.sample_cuts(m, backend.kernels().leaf_size(m, width), self._messages.size)
        given = np.cumsum([0, *(count for count, *_ in every)]).tolist()
        rows = self._moved(held.rows.astype(kinds[0][0], copy=False), given, wanted)
        facts = self._facts(rows, (width, m), kinds[0][1], wanted[self.rank])
        if file is not None:
            facts = facts._replace(block=file.block, shuffle=file.shuffle)
        if finite:
            self._check_finite(name, rows, wanted[self.rank], dtype)
        minibatches = batch_size is not None and batch_size < m
        return Divided(self._messages, facts, rows, wanted, minibatches=minibatches)

    def _agreed(self, X: Input) -> tuple[bool, bool]:
        """Return whether all processes opened the same packed file, and whether it is too large to be held."""
        file = X if isinstance(X, MappedMatrix) else None
        mine = None if file is None else (file.content(), file.blocks > 1 and not file.is_small())
        every = self._messages.gathered(mine)
        is_shared = mine is not None and all(one is not None and one[0] == mine[0] for one in every)
        return is_shared, is_shared and any(large for _, large in every)

    def _share(self, name: str, X: MappedMatrix, width: int, dtype: np.dtype[Any]) -> _Held:
        """Return the samples that this process is to hold of a packed file."""
        checks.input_width(name, X, width, dtype)
        leaf = backend.kernels().leaf_size(X.shape[1], width)
        cuts = plans.sample_cuts(X.shape[1], leaf, self._messages.size)
        return _Held(X.rows(*cuts[self.rank : self.rank + 2]), X._scale)

    def joined(self, name: str, values: ArrayLike | None) -> Any:
        """Return all processes' targets or weights of the samples of the last call of `matrix`, in the same order."""
        mine = None if values is None else np.asarray(values)
        if self._is_shared:
            return self._alike(name, mine)
        if mine is not None and (mine.ndim == 0 or mine.shape[-1] != self._held):
            got, expected = f"an array of shape {mine.shape}", f"one for each of the {self._held} samples of this rank"
            raise ValueError(checks.message(name, got, expected, "pass X, Y and weights of the same samples"))
        every = interrupts.shielded(self._messages.gathered, (self._held, mine))
        parts = [one for held, one in every if held]
        if all(one is None for one in parts):
            return None
        if any(one is None or one.ndim != parts[0].ndim or one.shape[:-1] != parts[0].shape[:-1] for one in parts):
            got = ", ".join("none" if one is None else str(one.shape) for one in parts)
            raise ValueError(checks.message(name, f"shapes {got}", "one kind on all ranks", "pass them alike"))
        return np.concatenate(parts, axis=-1)

    def _alike(self, name: str, mine: Array | None) -> Array | None:
        """Return the targets or weights of all samples, which all processes were given."""
        digest = None if mine is None else (mine.shape, arrays.digest([mine]))
        every = interrupts.shielded(self._messages.gathered, digest)
        if any(one != every[0] for one in every):
            got, expected = "other values on one rank than on another", "those of all samples of the packed file"
            raise ValueError(checks.message(name, got, expected, "pass the same on all ranks"))
        return mine

    def _moved(self, rows: Array, given: list[int], wanted: list[int]) -> Array:
        """Return the samples (k, n) that this process is to hold; a block at a time is on its way."""
        if given == wanted:
            return rows
        me, width = self.rank, rows.shape[1]
        out = np.empty((wanted[me + 1] - wanted[me], width), rows.dtype)
        every = plans.moves(given, wanted)
        step = max(1, _MOVED_BYTES // (width * rows.dtype.itemsize))
        for at in range(0, max(move.stop - move.first for move in every), step):
            sent, received = [], []
            for move in every:
                first, stop = move.first + at, min(move.first + at + step, move.stop)
                if first < stop and move.source == me:
                    sent.append((move.target, np.ascontiguousarray(rows[first - given[me] : stop - given[me]])))
                if first < stop and move.target == me:
                    received.append((move.source, out[first - wanted[me] : stop - wanted[me]]))
            self._messages.moved(sent, received)
        return out

    def _facts(self, rows: Array, shape: tuple[int, int], scale: float, first: int) -> Facts:
        every = -(-shape[1] // _SEEN)
        seen = rows[-first % every :: every]
        largest = max(float(seen.max(initial=0)), -float(seen.min(initial=0)))
        found = self._messages.gathered((np.count_nonzero(rows), largest))
        density = sum(int(count) for count, _ in found) / (shape[0] * shape[1])
        largest = max(one for _, one in found) * scale
        return Facts(shape, rows.dtype, scale, density, largest, block_size(shape, rows.dtype), PackedMatrix.shuffle)

    def _check_finite(self, name: str, rows: Array, first: int, dtype: np.dtype[Any]) -> None:
        bad = None
        if not arrays.all_finite(rows):
            sample, feature = np.argwhere(~np.isfinite(rows))[0]
            bad = f"{rows[sample, feature]} at row {feature}, column {first + sample} of all ranks' samples"
        found = next((one for one in self._messages.gathered(bad) if one is not None), None)
        if found is not None:
            remedy = "fill in missing values, scale values that are too large, or drop the sample"
            raise ValueError(checks.message(name, found, f"numbers that are finite in {dtype}", remedy))


def _rows(name: str, X: Any, width: int, dtype: np.dtype[Any]) -> _Held:
    """Return the samples of this process."""
    if isinstance(X, PackedMatrix):
        checks.input_width(name, X, width, dtype)
        pieces = [piece.rows() if isinstance(piece, Columns) else piece for _, piece in X._pieces()]
        return _Held(np.concatenate(pieces), X._scale)
    if X is None or (len(np.shape(X)) == 2 and np.shape(X)[1] == 0):
        return _Held(np.empty((0, width), dtype), 1.0)
    remedy = "pass samples of as many features, as columns"
    given = sparse.stand_in(X) if arrays.is_sparse(X) else X
    x = checks.array(name, given, shape=(width, None), axes="(n_features, m)", remedy=remedy)
    values = sparse.packable(name, X).rows() if arrays.is_sparse(X) else checks.packable(name, x).T
    return _Held(arrays.native(values.dtype if values.dtype == np.uint8 else dtype, values), 1.0)
