"""A step on a virtual clock: what each rank computed, sent and received, replayed without the noise of this machine.

Ranks compute at the same rate, a straggler slower. A message leaves when its sender comes to it and arrives alpha +
bytes / bandwidth later; a rank that needs it earlier waits: for the sender, as long as it has not left, and then for
the network. A sender that itself waits is not to blame: the wait is for whoever works meanwhile, along the chain. Sums
of what arrives take no time here, and links are not crowded.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zerosim.cluster import Cluster

Span = tuple[float, float, str, int]
"""(from, to, a phase's name, "wait" or "network", the rank waited for or -1)."""


@dataclass
class Clock:
    """One rank's step. All times are virtual seconds."""

    now: float = 0.0
    began: float = 0.0
    """When the step began, of several the last one."""
    phase: str = ""
    everything: list[Span] = field(default_factory=list)
    """What the rank did since 0, in order and without gaps."""

    def spend(self, until: float, what: str, partner: int = -1) -> None:
        """Go on to a later moment."""
        if until <= self.now:
            return
        if self.everything and self.everything[-1][2:] == (what, partner) and self.everything[-1][0] >= self.began:
            self.everything[-1] = (self.everything[-1][0], until, what, partner)
        else:
            self.everything.append((self.now, until, what, partner))
        self.now = until

    def wait(self, until: float, clocks: Sequence["Clock"], sender: int) -> None:
        """Go on to the moment at which a message leaves its sender, and note who worked until then."""
        spans = clocks[sender].everything
        for start, end, what, partner in spans[bisect_right(spans, self.now, key=lambda span: span[1]) :]:
            if start >= until:
                break
            if what not in ("wait", "network"):
                what, partner = "wait", sender
            self.spend(min(end, until), what, partner)
        self.spend(until, "wait", sender)

    @property
    def spans(self) -> list[Span]:
        """What the rank did in the step, in order."""
        return [span for span in self.everything if span[0] >= self.began]

    @property
    def waits(self) -> dict[int, float]:
        """Waiting for ranks that worked before they sent, by rank."""
        waits: dict[int, float] = {}
        for start, end, what, partner in self.spans:
            if what == "wait":
                waits[partner] = waits.get(partner, 0.0) + end - start
        return waits

    @property
    def network(self) -> float:
        """Waiting for messages that were on their way."""
        return sum(end - start for start, end, what, _ in self.spans if what == "network")

    @property
    def busy(self) -> float:
        """Working."""
        return sum(end - start for start, end, what, _ in self.spans if what not in ("wait", "network"))


def replay(
    events: Sequence[Sequence[Sequence[Any]]],
    operation: float,
    update: float,
    cluster: Cluster,
    slower: dict[int, float],
    before: int = 0,
) -> list[Clock]:
    """Return each rank's clock at the end of a step, from its `zerosim.transport.watched` events.

    An operation and the update of an element take so many seconds, `slower[rank]` times as many on that rank. All ranks
    begin at once; or the same step goes `before` so many times, and a rank begins this one when it is done with those.
    Raises RuntimeError if a rank waits for a message that nobody sends.
    """
    clocks = [Clock() for _ in events]
    sent: dict[tuple[int, int], deque[float]] = {}
    for _ in range(before + 1):
        for clock in clocks:
            clock.began = clock.now
        _step(clocks, sent, events, operation, update, cluster, slower)
    return clocks


def _step(
    clocks: list[Clock],
    sent: dict[tuple[int, int], deque[float]],
    events: Sequence[Sequence[Sequence[Any]]],
    operation: float,
    update: float,
    cluster: Cluster,
    slower: dict[int, float],
) -> None:
    at = [0] * len(events)
    done = [tuple(mine[0][3:]) if mine else (0, 0) for mine in events]
    moved = True
    while moved:
        moved = False
        for rank, mine in enumerate(events):
            clock, factor = clocks[rank], slower.get(rank, 1.0)
            while at[rank] < len(mine):
                kind, partner, nbytes, operations, updated = mine[at[rank]]
                letters = sent.setdefault((partner, rank), deque()) if kind == "recv" else None
                if letters is not None and not letters:
                    break
                work = (operations - done[rank][0]) * operation + (updated - done[rank][1]) * update
                done[rank] = operations, updated
                clock.spend(clock.now + factor * work, clock.phase)
                if kind == "phase":
                    clock.phase = partner
                elif kind == "send":
                    sent.setdefault((rank, partner), deque()).append(clock.now)
                elif letters is not None:
                    alpha, bandwidth = cluster.link(rank, partner)
                    left = letters.popleft()
                    clock.wait(left, clocks, partner)
                    clock.spend(left + alpha + nbytes / bandwidth, "network", partner)
                at[rank] += 1
                moved = True
    if any(at[rank] < len(mine) for rank, mine in enumerate(events)):
        raise RuntimeError("a recorded step has a message that was received and never sent")
