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
_SPINS, _FIRST_SLEEP, _LONGEST_SLEEP = 2000, 2e-5, 2e-4


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
        self._told(status, 0)
        failures = self._objects((status, f"{type(error).__name__}: {error}"))
        if status == INTERRUPTED:
            self._refuse(failures)

    def meet(self, number: int = 0) -> list[int]:
        """Wait for all processes; return the number of each. Raise RankError or KeyboardInterrupt if one gave up."""
        told = self._told(GOOD, number)
        if told[:, 0].any():
            self._refuse(self._objects((GOOD, "")))
            raise _Interrupted
        numbers: list[int] = told[:, 1].tolist()
        return numbers

    def _refuse(self, failures: Any) -> None:
        """Raise RankError if a process failed."""
        status = [one for one, _ in failures]
        if FAILED not in status:
            return
        failed = status.index(FAILED)
        raise RankError(f"rank {failed} of {self.size} failed: {failures[failed][1]}")

    def _told(self, status: int, number: int) -> Array:
        """Return the status and a number of each process: one exchange, because each may have to wait for a process."""
        every = np.empty((self.size, 2), np.int64)
        self._wait(self._comm.Iallgather(np.array([status, number], np.int64), every))
        return every

    def gathered(self, value: Any) -> list[Any]:
        """Return an object of each process."""
        text = pickle.dumps(value)
        return self._loaded(text, self.meet(len(text)))

    def _objects(self, value: Any) -> list[Any]:
        """Do as `gathered`, after a process gave up."""
        text = pickle.dumps(value)
        return self._loaded(text, self._told(GOOD, len(text))[:, 1])

    def _loaded(self, text: bytes, sizes: Any) -> list[Any]:
        return [pickle.loads(one.tobytes()) for one in self._all_of(np.frombuffer(text, np.uint8), np.asarray(sizes))]

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
