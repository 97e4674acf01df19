"""A transport with somebody at the gate, who is told of every message: to slow a rank, or to write down its step."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from zerosim.transport import Transport


class Gatekeeper(Protocol):
    """Who is told."""

    def before(self) -> None:
        """The rank comes to the gate."""

    def after(self, kind: str, partner: int, nbytes: int) -> None:
        """It leaves: it has begun to send, or received, so many bytes ("send", "recv"); or waited ("wait", 0 bytes)."""


class Watched:
    """A transport whose ranks are `ranks` of the world; what it does not have here is the transport's own."""

    def __init__(self, transport: Transport, ranks: Sequence[int], keeper: Gatekeeper) -> None:
        self._transport, self._ranks, self._keeper = transport, ranks, keeper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send(self, array: np.ndarray, to: int) -> Any:
        """See `Transport`."""
        self._keeper.before()
        sending = self._transport.send(array, to)
        self._keeper.after("send", self._ranks[to], array.nbytes)
        return sending

    def recv(self, array: np.ndarray, source: int) -> int:
        """See `Transport`."""
        self._keeper.before()
        arrived = self._transport.recv(array, source)
        self._keeper.after("recv", self._ranks[source], arrived)
        return arrived

    def wait(self, sending: Any) -> None:
        """See `Transport`."""
        self._keeper.before()
        self._transport.wait(sending)
        self._keeper.after("wait", -1, 0)


class Straggler:
    """Makes a rank slower: for every second that it works between two messages it sleeps `factor` - 1 seconds."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._since = time.perf_counter()
        self.slept = self.slept_at_gate = 0.0
        """Seconds so far, and those of them that a door's time has in it."""

    def pause(self) -> float:
        """Sleep for the work since the gate was left, or since the last pause; return the seconds."""
        now = time.perf_counter()
        time.sleep((self._factor - 1) * (now - self._since))
        self._since = time.perf_counter()
        self.slept += self._since - now
        return self._since - now

    def before(self) -> None:
        """Sleep for the work since the gate was left."""
        self.slept_at_gate += self.pause()

    def after(self, kind: str, partner: int, nbytes: int) -> None:
        """Work begins."""
        self._since = time.perf_counter()


Entry = tuple[str, Any, int, int, int]
"""("send" or "recv", partner, bytes) or ("phase", its name, 0); then operations and updated elements until then."""


class Recorder:
    """Writes a rank's step down. `work` returns how many operations it has done and how many elements updated."""

    def __init__(self, work: Callable[[], tuple[int, int]]) -> None:
        self._work = work
        self.events: list[Entry] = []

    def before(self) -> None:
        """Nothing to write."""

    def after(self, kind: str, partner: Any, nbytes: int) -> None:
        """Write it down."""
        if kind != "wait":
            self.events.append((kind, partner, nbytes, *self._work()))
