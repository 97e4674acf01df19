"""A step on a virtual clock: what each rank computed, sent and received, replayed without the noise of this machine.

Ranks compute at the same rate, a straggler slower. A message leaves when its sender comes to it and arrives alpha +
bytes / bandwidth later; a rank that needs it earlier waits: for the sender, as long as it has not left, and then for
the network. So every wait has a name. Sums of what arrives take no time here, and links are not crowded.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zerosim.cluster import Cluster


@dataclass
class Clock:
    """One rank's step. All times are virtual seconds."""

    now: float = 0.0
    phase: str = ""
    busy: float = 0.0
    network: float = 0.0
    """Waiting for a message that was on its way."""
    waits: dict[int, float] = field(default_factory=dict)
    """Waiting for ranks that had not sent yet, by rank."""
    spans: list[tuple[float, float, str, int]] = field(default_factory=list)
    """(from, to, a phase's name, "wait" or "network", the rank waited for or -1), in order."""

    def spend(self, until: float, what: str, partner: int = -1) -> None:
        """Go on to a later moment."""
        if until <= self.now:
            return
        if self.spans and self.spans[-1][1:] == (self.now, what, partner):
            self.spans[-1] = (self.spans[-1][0], until, what, partner)
        else:
            self.spans.append((self.now, until, what, partner))
        if what == "wait":
            self.waits[partner] = self.waits.get(partner, 0.0) + until - self.now
        elif what == "network":
            self.network += until - self.now
        else:
            self.busy += until - self.now
        self.now = until


def replay(
    events: Sequence[Sequence[Sequence[Any]]],
    operation: float,
    update: float,
    cluster: Cluster,
    slower: dict[int, float],
) -> list[Clock]:
    """Return each rank's clock at the end of a step, from its `zerosim.transport.watched` events.

    An operation and the update of an element take so many seconds, `slower[rank]` times as many on that rank. Raises
    RuntimeError if a rank waits for a message that nobody sends.
    """
    clocks = [Clock() for _ in events]
    sent: dict[tuple[int, int], deque[float]] = {}
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
                before = done[rank]
                work = (operations - before[0]) * operation + (updated - before[1]) * update
                done[rank] = operations, updated
                clock.spend(clock.now + factor * work, clock.phase)
                if kind == "phase":
                    clock.phase = partner
                elif kind == "send":
                    sent.setdefault((rank, partner), deque()).append(clock.now)
                elif letters is not None:
                    alpha, bandwidth = cluster.link(rank, partner)
                    left = letters.popleft()
                    clock.spend(left, "wait", partner)
                    clock.spend(left + alpha + nbytes / bandwidth, "network", partner)
                at[rank] += 1
                moved = True
    if any(at[rank] < len(mine) for rank, mine in enumerate(events)):
        raise RuntimeError("a recorded step has a message that was received and never sent")
    return clocks
