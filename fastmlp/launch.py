"""The processes that a launcher of MPI, such as mpiexec, started for one command. Slow imports are delayed."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

# Where launchers tell the number of a process and of all: MPICH, Intel MPI and Slurm's PMI-2; Open MPI; MVAPICH2; PMIx
# under Slurm; any other launcher of PMIx, which tells no environment how many there are. The numbers that a launcher
# counts for each machine, such as MPI_LOCALRANKID, say nothing about the whole, and every launcher that sets them also
# sets one of these pairs.
_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    ("PMIX_RANK", None),
)


def place() -> tuple[int, int | None]:
    """Return the number of this process, from 0, and that of all, None if only MPI knows; (0, 1) without a launcher.

    Examples
    --------
    >>> from fastmlp import launch
    >>> launch.place()
    (0, 1)
    """
    for of_rank, of_size in _VARIABLES:
        rank = os.environ.get(of_rank, "")
        size = None if of_size is None else os.environ.get(of_size, "")
        if rank.isdecimal() and (size is None or size.isdecimal()):
            return int(rank), None if size is None else int(size)
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
        found = comm.Get_size()
        least = self.rank + 1 if size is None else size
        if found == 1 == least:
            return
        if found < least or size not in (None, found):
            got, expected = f"{least} processes of a launcher, of which mpi4py sees {found}", "one MPI"
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
