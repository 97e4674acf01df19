"""The network as a witness: the kernel's own counts of what this process's TCP sockets have sent and received.

Ranks on one machine talk through shared memory, where nothing can be seen. `over_tcp` makes MPICH send everything
through TCP sockets instead, on the loopback interface; it must be called before MPI starts. Linux only: TCP_INFO
(tcp(7), struct tcp_info of linux/tcp.h).
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

from zerosim.errors import InputError
from zerosim.witness.witness import Witness

_SETTINGS = {
    "MPIR_CVAR_NOLOCAL": "1",  # no shared memory
    "MPIR_CVAR_CH4_NETMOD": "ofi",
    "FI_PROVIDER": "tcp",
    "FI_TCP_IFACE": "lo",
}
_RECEIVED, _SENT, _SENT_AGAIN = 128, 200, 208
"""Where tcpi_bytes_received, tcpi_bytes_sent and tcpi_bytes_retrans stand in struct tcp_info (Linux 4.19 and later)."""

_PROBE = 1 << 16


def over_tcp() -> None:
    """Have MPICH use TCP between all ranks, unless the environment already says how. Raises InputError if too late."""
    if "mpi4py.MPI" in sys.modules:
        raise InputError("witness wire: MPI has already started; it must be told before to use TCP")
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def counters() -> tuple[int, int]:
    """Return the bytes that this process's TCP sockets have sent (repetitions not counted) and received, headers aside.

    Raises OSError where the kernel does not say.
    """
    sent = received = 0
    for connection in _connections():
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
        if len(info) < _SENT_AGAIN + 8:
            raise OSError("this kernel does not count the bytes of a socket")
        received += struct.unpack_from("=Q", info, _RECEIVED)[0]
        sent += struct.unpack_from("=Q", info, _SENT)[0] - struct.unpack_from("=Q", info, _SENT_AGAIN)[0]
    return sent, received


def _connections() -> Iterator[socket.socket]:
    """This process's TCP sockets, whoever has opened them."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed meanwhile
            continue
        with connection:
            if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                yield connection


class Wire(Witness):
    """Reads the sockets before the first step and after the last one; all ranks are at the same place then."""

    def __init__(self, door: Any) -> None:
        """See `Witness`. A probe goes round: sockets that do not see it are not what the ranks talk through."""
        try:
            before, _ = counters()
            door.gather_bytes(bytes(_PROBE))
            seen = counters()[0] - before
        except (OSError, AttributeError) as error:
            raise InputError(f"witness wire: this system has no TCP_INFO with counts of bytes ({error})") from None
        if door.size > 1 and seen < _PROBE:
            raise InputError(
                "witness wire: this MPI library's ranks do not talk through TCP sockets; with MPICH on Linux they do, "
                "if --witness wire is on the command line and the environment has no other settings for its network"
            )

    def after_allocation(self) -> None:
        """See `Witness`."""
        self._before = counters()

    def at_rest(self) -> None:
        """See `Witness`."""
        self._after = counters()

    def testimony(self) -> dict[str, int]:
        """Return what was "sent" and "received" in between."""
        return {name: b - a for name, a, b in zip(("sent", "received"), self._before, self._after, strict=True)}
