"""What carries bytes from rank to rank. Only `zerosim.comm` uses it to move data."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from zerosim.errors import InputError


class Waits:
    """In which seconds a rank waited for each of `size` ranks, and who is told of each wait."""

    def __init__(self, size: int) -> None:
        self.seconds = [0.0] * size
        """So far, by rank."""
        self.tell: Callable[[int, float, float], None] | None = None
        """Called with the rank, and with the beginning and the end by time.perf_counter()."""

    def over(self, partner: int, began: float) -> None:
        """Book a wait that ends now."""
        ended = time.perf_counter()
        self.seconds[partner] += ended - began
        if self.tell:
            self.tell(partner, began, ended)


class Transport(Protocol):
    """One rank's end of a world of `size` ranks. `backend` is "mpi" or "threads"."""

    rank: int
    size: int
    backend: str
    here: int
    """Ranks on this machine."""
    waits: Waits
    """When nothing had come from a rank, or gone out to it, when that was asked for."""

    def send(self, array: np.ndarray, to: int) -> Any:
        """Begin to send a contiguous array and return what `wait` takes; it must not change before it is out.

        Arrays to the same rank arrive in the order in which they were sent.
        """

    def recv(self, array: np.ndarray, source: int) -> int:
        """Receive into a contiguous array of the size that was sent; return the bytes that arrived."""

    def wait(self, sending: Any) -> None:
        """Wait until what `send` began has gone out."""

    def part(self, ranks: Sequence[int]) -> "Transport":
        """Return this rank's place in a world of these ranks, itself among them, numbered in this order.

        All of them call it, for one group after the other in the same order.
        """

    def abort(self) -> None:
        """Called while an exception is handled: end all ranks, none of which may wait for this one."""


def connect(comm: Any = None) -> Transport:
    """Return a transport for None (a world of one rank), for an mpi4py communicator, or the one that is given.

    Raises InputError for anything else.
    """
    if comm is None:
        from zerosim.transport.threads import alone

        return alone()
    if hasattr(comm, "recv") and hasattr(comm, "backend"):
        return comm
    if isinstance(comm, type) or not hasattr(comm, "Split_type"):
        raise InputError(
            f"comm: {comm!r} is no communicator; it must be what zerosim.run_threads hands to its function, "
            "an mpi4py communicator, or None for one rank"
        )
    from zerosim.transport.mpi import MPITransport

    return MPITransport(comm)
