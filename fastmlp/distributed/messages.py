"""Messages between the processes of a run by MPI, each preceded by a status, so that all end when one fails."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np

from fastmlp import checks

Array = np.ndarray[Any, np.dtype[Any]]

GOOD, INTERRUPTED, FAILED = 0, 1, 2

# A wait first asks so many times without a pause, then sleeps, each time twice as long, up to so many seconds.
_SPINS, _FIRST_SLEEP, _LONGEST_SLEEP = 2000, 2e-5, 1e-3


class RankError(ConnectionError):
    """Another process of the run failed; the text names it."""


def load_mpi() -> Any:
    """Return ``mpi4py.MPI``; ImportError that names the extra if it is not installed."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise checks.extra("training over many processes needs mpi4py", error, "mpi") from error
    return MPI


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C on another process."""


class Messages:
    """The exchanges of one run, over a communicator of its own.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Is duplicated, by all processes at once.
    """

    def __init__(self, comm: Any) -> None:
        self._mpi = load_mpi()
        if self._mpi.Query_thread() < self._mpi.THREAD_MULTIPLE:
            expected, remedy = (
                "MPI_THREAD_MULTIPLE",
                "let mpi4py initialise MPI, with mpi4py.rc.thread_level 'multiple'",
            )
            raise RuntimeError(checks.message("comm", "an MPI that threads may not share", expected, remedy))
        self._comm = comm.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()

    def end(self) -> None:
        """Free the communicator; all processes do so at once."""
        self._comm.Free()

    def give_up(self, error: BaseException) -> None:
        """Tell the others, at their next exchange, that an error ends the run here, unless it came from them."""
        if isinstance(error, (RankError, _Interrupted)):
            return
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        failures = self._tell(status, f"{type(error).__name__}: {error}")
        if status == INTERRUPTED:
            self._refuse(failures)

    def meet(self) -> None:
        """Wait for all processes; raise RankError or KeyboardInterrupt if one of them gave up."""
        failures = self._tell(GOOD, "")
        if failures is not None:
            self._refuse(failures)
            raise _Interrupted

    def _refuse(self, failures: Any) -> None:
        """Raise RankError if a process failed."""
        status = [one for one, _ in failures]
        if FAILED not in status:
            return
        failed = status.index(FAILED)
        raise RankError(f"rank {failed} of {self.size} failed: {failures[failed][1]}")

    def _tell(self, status: int, text: str) -> list[tuple[int, str]] | None:
        """Return the status and the text of each process, or None if all are well."""
        mine, every = np.array([status], np.uint8), np.empty(self.size, np.uint8)
        self._wait(self._comm.Iallgather(mine, every))
        if not every.any():
            return None
        return self._objects((status, text))

    def gathered(self, value: Any) -> list[Any]:
        """Return an object of each process."""
        self.meet()
        return self._objects(value)

    def _objects(self, value: Any) -> list[Any]:
        text = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self._wait(self._comm.Iallgather(np.array([len(text)], np.int64), sizes))
        return [pickle.loads(one.tobytes()) for one in self._all_of(text, sizes)]

    def joined(self, part: Array, counts: Any) -> Array:
        """Return the elements (k,) of all processes, ``counts`` of each, one process after the other."""
        self.meet()
        return np.concatenate(self._all_of(part, np.asarray(counts)))

    def _all_of(self, part: Array, counts: Array) -> list[Array]:
        ends = np.cumsum(counts)
        out = np.empty(int(ends[-1]), part.dtype)
        kind = _kind(part.dtype)
        self._wait(self._comm.Iallgatherv([part, kind], [out, (counts, ends - counts), kind]))
        return np.split(out, ends[:-1])

    def exchanged(self, out: Array, out_counts: Any, part: Array, counts: Any) -> None:
        """Send elements of ``part``, ``counts`` to each process; receive ``out_counts`` from each in ``out``."""
        self.meet()
        kind = _kind(part.dtype)
        ends, out_ends = np.cumsum(counts), np.cumsum(out_counts)
        sent = [part, (np.asarray(counts), ends - counts), kind]
        self._wait(self._comm.Ialltoallv(sent, [out, (np.asarray(out_counts), out_ends - out_counts), kind]))

    def broadcast(self, array: Array) -> None:
        """Set ``array`` to that of the first process."""
        self.meet()
        self._wait(self._comm.Ibcast(array, 0))

    def moved(self, sent: list[tuple[int, Array]], received: list[tuple[int, Array]]) -> None:
        """Send arrays to processes, and receive arrays from processes; between two of them at most one each way."""
        self.meet()
        requests = [self._comm.Irecv(array, source) for source, array in received]
        requests += [self._comm.Isend(array, target) for target, array in sent]
        for request in requests:
            self._wait(request)

    def _wait(self, request: Any) -> None:
        spins, pause = 0, _FIRST_SLEEP
        while not request.Test():
            spins += 1
            if spins > _SPINS:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_SLEEP)


def _kind(dtype: np.dtype[Any]) -> Any:
    from mpi4py.util.dtlib import from_numpy_dtype

    return from_numpy_dtype(dtype)
