"""Who is told what a rank does: to slow it, to write its step down for the virtual clock, or to trace it.

A listener is told of messages, of phases and of spans. A transport with one at the gate tells it of every message.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from zerosim.transport import Transport


class Span(NamedTuple):
    """What a rank did from one moment to another, both by time.perf_counter(), in seconds."""

    name: str
    kind: str
    began: float
    ended: float
    details: dict[str, Any]


class Listener:
    """Who is told. This one does nothing with it: each listener minds what it needs."""

    def before(self) -> None:
        """The rank comes to the gate."""

    def after(self, kind: str, partner: int, nbytes: int) -> None:
        """It leaves: it has begun to send, or received, so many bytes ("send", "recv"); or waited ("wait", 0 bytes)."""

    def phase(self, name: str, at: float) -> None:
        """A phase begins, and the one before is over; "end" is none, and ends a step."""

    def span(self, span: Span) -> None:
        """Something is over: a call at a door, a wait, a sleep, what else the rank has a name for."""


class Watched:
    """A transport whose ranks are `ranks` of the world; what it does not have here is the transport's own."""

    def __init__(self, transport: Transport, ranks: Sequence[int], listener: Listener) -> None:
        self._transport, self._ranks, self._listener = transport, ranks, listener

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send(self, array: np.ndarray, to: int) -> Any:
        """See `Transport`."""
        self._listener.before()
        sending = self._transport.send(array, to)
        self._listener.after("send", self._ranks[to], array.nbytes)
        return sending

    def recv(self, array: np.ndarray, source: int) -> int:
        """See `Transport`."""
        self._listener.before()
        arrived = self._transport.recv(array, source)
        self._listener.after("recv", self._ranks[source], arrived)
        return arrived

    def wait(self, sending: Any) -> None:
        """See `Transport`."""
        self._listener.before()
        self._transport.wait(sending)
        self._listener.after("wait", -1, 0)


class Straggler(Listener):
    """Makes a rank slower: for every second that it works between two messages it sleeps `factor` - 1 seconds."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._since = time.perf_counter()
        self.slept = self.slept_at_gate = 0.0
        """Seconds so far, and those of them that a door's time has in it."""
        self.tell: Callable[[Span], None] | None = None
        """Called with each sleep."""

    def pause(self) -> float:
        """Sleep for the work since the gate was left, or since the last pause; return the seconds."""
        now = time.perf_counter()
        time.sleep((self._factor - 1) * (now - self._since))
        self._since = time.perf_counter()
        self.slept += self._since - now
        if self.tell:
            self.tell(Span("sleep", "sleep", now, self._since, {}))
        return self._since - now

    def before(self) -> None:
        """Sleep for the work since the gate was left."""
        self.slept_at_gate += self.pause()

    def after(self, kind: str, partner: int, nbytes: int) -> None:
        """Work begins."""
        self._since = time.perf_counter()


Entry = tuple[str, Any, int, int, int]
"""("send" or "recv", partner, bytes) or ("phase", its name, 0); then operations and updated elements until then."""


class Recorder(Listener):
    """Writes a rank's step down. `work` returns how many operations it has done and how many elements updated."""

    def __init__(self, work: Callable[[], tuple[int, int]]) -> None:
        self._work = work
        self.events: list[Entry] = []

    def after(self, kind: str, partner: int, nbytes: int) -> None:
        """Write it down."""
        if kind != "wait":
            self.events.append((kind, partner, nbytes, *self._work()))

    def phase(self, name: str, at: float) -> None:
        """Write it down."""
        self.events.append(("phase", name, 0, *self._work()))
