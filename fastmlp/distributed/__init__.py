"""Training over many processes, on one machine or several, by MPI: the bits are those of one process.

Pass ``comm=MPI.COMM_WORLD`` to `MLP.fit` on each process, with its own samples. `share` says which these may be.
All processes may also pass the same packed file, of `fastmlp.open_pack`, with all labels: each then takes its share.
"""

from typing import Any

from fastmlp import backend, checks
from fastmlp.distributed import plans
from fastmlp.teams import Team

__all__ = ["share", "team"]


def team(comm: Any) -> Team:
    """Return the processes of a communicator of mpi4py; if it is None, this one alone.

    Raises
    ------
    ImportError
        If mpi4py, part of the extra ``mpi``, is not installed.
    TypeError
        If it is not a communicator.
    """
    if comm is None:
        return Team()
    from fastmlp.distributed.messages import load_mpi
    from fastmlp.distributed.ranks import Ranks

    if not isinstance(comm, load_mpi().Intracomm):
        expected, remedy = "a communicator of mpi4py", "pass mpi4py.MPI.COMM_WORLD"
        raise TypeError(checks.message("comm", type(comm).__name__, expected, remedy))
    return Ranks(comm)


def share(m: int, n_features: int, comm: Any) -> slice:
    """Return the samples that this process sums, so that no sample is moved if each passes these to `MLP.fit`.

    Parameters
    ----------
    m : int
        Number of samples of all processes, at least 1.
    n_features : int
        Number of features.
    comm : mpi4py.MPI.Comm
        The processes.

    Returns
    -------
    slice
        Whole leaves of the tree in which gradients are summed: near equal shares, some of which may be empty. Few
        samples are all those of rank 0.

    Examples
    --------
    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> from fastmlp import distributed
    >>> distributed.share(60000, 784, MPI.COMM_SELF)  # doctest: +SKIP
    slice(0, 60000, None)
    """
    cuts = plans.sample_cuts(m, backend.kernels().leaf_size(m, n_features), comm.Get_size())
    return slice(*cuts[comm.Get_rank() : comm.Get_rank() + 2])
