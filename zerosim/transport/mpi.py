"""Ranks as MPI processes, through mpi4py. Bytes go out as bytes: MPI knows no float16."""

import os
import sys
import traceback
from typing import Any

import numpy as np

from zerosim.errors import InputError

_LAUNCHED_SIZE = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
_LAUNCHED_RANK = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


def launched_rank() -> int | None:
    """Return the rank that mpirun, mpiexec or srun put in the environment; None: started by none of them."""
    return next((int(os.environ[name]) for name in _LAUNCHED_RANK if os.environ.get(name, "").isdigit()), None)


class MPITransport:
    """This process's end of an mpi4py communicator (default: MPI.COMM_WORLD), which is duplicated."""

    backend = "mpi"

    def __init__(self, comm: Any = None) -> None:
        from mpi4py import MPI

        world = MPI.COMM_WORLD if comm is None else comm
        self._comm = world.Dup()
        self.rank, self.size = world.rank, world.size
        self._status = MPI.Status()
        self._byte = MPI.BYTE

    def sendrecv(self, send: np.ndarray, to: int, recv: np.ndarray, source: int) -> int:
        """See `zerosim.transport.Transport`. The bytes that arrived are MPI's own count."""
        self._comm.Sendrecv(
            [send.view(np.uint8), self._byte], to, 0, [recv.view(np.uint8), self._byte], source, 0, self._status
        )
        return self._status.Get_count(self._byte)

    def abort(self) -> None:
        """Print this rank's traceback and end every process of the world with status 1."""
        if self.size == 1:
            return
        sys.stdout.flush()
        if isinstance(sys.exception(), KeyboardInterrupt):  # all ranks are told at once: no tracebacks
            self._comm.Abort(130)
        print(
            f"zerosim: rank {self.rank} of {self.size} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True
        )
        self._comm.Abort(1)


def world() -> MPITransport:
    """Return this process's place in MPI.COMM_WORLD.

    Raises InputError if there is no MPI library, or if mpirun and mpi4py belong to different ones, in which case
    every process would take itself for the only one.
    """
    try:
        transport = MPITransport()
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"no MPI library for mpi4py ({reason}): install zerosim[mpi], or use --ranks N") from None
    started = max((int(os.environ[name]) for name in _LAUNCHED_SIZE if os.environ.get(name, "").isdigit()), default=1)
    if transport.size == 1 and started > 1:
        raise InputError(
            f"mpirun started {started} processes, but MPI sees one: "
            "mpirun and mpi4py must belong to the same MPI library"
        )
    return transport
