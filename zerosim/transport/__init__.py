"""What carries bytes from rank to rank. Only `zerosim.comm` uses it to move data."""

from typing import Any, Protocol

import numpy as np


class Transport(Protocol):
    """One rank's end of a world of `size` ranks. `backend` is "mpi" or "threads"."""

    rank: int
    size: int
    backend: str

    def sendrecv(self, send: np.ndarray, to: int, recv: np.ndarray, source: int) -> int:
        """Send one contiguous array and receive into another, at the same time; return the bytes that arrived."""

    def abort(self) -> None:
        """Called while an exception is handled: end all ranks, none of which may wait for this one."""


def connect(comm: Any = None) -> Transport:
    """Return a transport for None (a world of one rank), for an mpi4py communicator, or the one that is given."""
    if comm is None:
        from zerosim.transport.threads import alone

        return alone()
    if hasattr(comm, "sendrecv") and hasattr(comm, "backend"):
        return comm
    from zerosim.transport.mpi import MPITransport

    return MPITransport(comm)
