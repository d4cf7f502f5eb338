"""The processes that a launcher of MPI, such as mpiexec, started for one command. Slow imports are delayed."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

# Where launchers tell the number of a process and of all: MPICH and Intel MPI, and Open MPI.
_VARIABLES = (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))


def place() -> tuple[int, int]:
    """Return the number of this process, from 0, and that of all; (0, 1) without a launcher.

    Examples
    --------
    >>> from fastmlp import launch
    >>> launch.place()
    (0, 1)
    """
    for names in _VARIABLES:
        rank, size = (os.environ.get(name, "") for name in names)
        if rank.isdecimal() and size.isdecimal():
            return int(rank), int(size)
    return 0, 1


class Crew:
    """The processes that a launcher started, which train together; without a launcher, this one alone.

    As a context manager it keeps them together: an error in the block on one process is one on all.

    Attributes
    ----------
    rank : int
        The number of this process, from 0.
    comm : mpi4py.MPI.Comm or None
        The processes; None if there is only this one.

    Raises
    ------
    ImportError
        If there are several and mpi4py, part of the extra ``mpi``, is not installed.
    OSError
        If mpi4py was built for another MPI than that of the launcher.
    """

    def __init__(self) -> None:
        self.rank, size = place()
        self.comm: Any = None
        if size == 1:
            return
        from fastmlp import checks
        from fastmlp.distributed.messages import Messages, load_mpi

        comm = load_mpi().COMM_WORLD
        if comm.Get_size() != size:
            got, expected = f"{size} processes of a launcher, of which mpi4py sees {comm.Get_size()}", "one MPI"
            remedy = "start them by the mpiexec of the MPI that mpi4py was built for"
            raise OSError(checks.message("mpiexec", got, expected, remedy))
        self.comm, self._messages = comm, Messages(comm)

    def share(self, m: int, n_features: int) -> slice:
        """Return which of ``m`` samples this process trains on."""
        if self.comm is None:
            return slice(None)
        from fastmlp import distributed

        return distributed.share(m, n_features, self.comm)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Wait for all processes to leave the block; if it failed on one, raise an error on all of them."""
        failures = self._failures(error)
        if error is not None:
            return
        for rank, (is_interrupt, text) in enumerate(failures):
            if is_interrupt:
                raise KeyboardInterrupt
            if text:
                raise ValueError(f"rank {rank} failed: {text}")

    def _failures(self, error: BaseException | None) -> list[tuple[bool, str]]:
        """Return for each process whether it was stopped by Ctrl-C, and its error in words; empty if all is well."""
        if self.comm is None:
            return []
        from fastmlp import interrupts

        text = "" if error is None else str(error) or type(error).__name__
        mine = isinstance(error, KeyboardInterrupt), text
        failures: list[tuple[bool, str]] = interrupts.shielded(self._messages.gathered, mine)
        return failures
