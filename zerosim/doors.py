"""One rank's doors, one to each group of ranks that it works with, and whoever is told of what goes through them."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

from zerosim.collectives import Algorithm
from zerosim.comm import Comm, open_door
from zerosim.ledger import Ledger
from zerosim.parallel import Grid
from zerosim.transport import Transport
from zerosim.transport.watched import Entry, Listener, Recorder, Span, Straggler, Watched


class Phase(NamedTuple):
    """The beginning of a phase, and how long the rank had been at its doors, waited and slept by then, in seconds."""

    at: float
    inside: float
    waited: float
    slept: float
    name: str


class Doors(dict[str, Comm]):
    """A rank's doors by group: "data", "tensor", "pipeline" and "world".

    `straggler` is (rank, factor): if it is this one, it sleeps between its messages, on whatever door.
    """

    def __init__(
        self,
        transport: Transport,
        grid: Grid,
        ledger: Ledger,
        collective: Algorithm | str,
        straggler: tuple[int, float] | None = None,
    ) -> None:
        self._groups = {**grid.groups(transport.rank), "world": [*range(transport.size)]}
        self._places = {group: transport.part(ranks) for group, ranks in self._groups.items()}
        self._straggler = Straggler(straggler[1]) if straggler and straggler[0] == transport.rank else None
        self._listeners: list[Listener] = []
        for group, place in self._places.items():
            seen = Watched(place, self._groups[group], self._straggler) if self._straggler else place
            algorithm = "ring" if place.size == 1 < transport.size else collective
            self[group] = open_door(seen, ledger, algorithm, grid.shares if group == "data" else None)

    def moved(self) -> tuple[int, int]:
        """Return all bytes sent so far, and all bytes received, through any door."""
        return sum(door.sent.total() for door in self.values()), sum(door.received for door in self.values())

    def phase(self, name: str) -> Phase:
        """Take note that a phase begins now."""
        slept = slept_inside = 0.0
        if self._straggler:
            self._straggler.pause()
            slept, slept_inside = self._straggler.slept, self._straggler.slept_at_gate
        inside = sum(door.seconds for door in self.values()) - slept_inside
        waited = sum(self.waited_for())
        phase = Phase(time.perf_counter(), inside, waited, slept, name)
        for listener in self._listeners:
            listener.phase(name, phase.at)
        return phase

    def span(self, name: str, kind: str = "part") -> AbstractContextManager[None]:
        """Tell whoever listens how long a `with` block took."""
        return self._span(name, kind) if self._listeners else _NOBODY

    @contextmanager
    def _span(self, name: str, kind: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._tell(Span(name, kind, began, time.perf_counter(), {}))

    def _tell(self, span: Span) -> None:
        for listener in self._listeners:
            listener.span(span)

    def _tell_wait(self, ranks: list[int], partner: int, began: float, ended: float) -> None:
        rank = ranks[partner]
        self._tell(Span(f"wait for rank {rank}", "wait", began, ended, {"rank": rank}))

    def waited_for(self) -> list[float]:
        """Return the seconds so far in which this rank waited for each rank of the world."""
        waited = [0.0] * self["world"].size
        for group in self._different:
            for rank, seconds in zip(self._groups[group], self._places[group].waits.seconds, strict=True):
                waited[rank] += seconds
        return waited

    @property
    def _different(self) -> list[str]:
        """One group's name for each place: some groups are the same."""
        return [*{id(place): group for group, place in self._places.items()}.values()]

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Let a listener know, inside the block, what goes through the doors, of phases, spans, waits and sleeps."""
        with ExitStack() as stack:
            for group, door in self.items():
                stack.enter_context(door.watched(group, self._groups[group], listener))
            self._listeners.append(listener)
            self._told_of_waits(True)
            stack.callback(lambda: self._told_of_waits(bool(self._listeners)))
            stack.callback(self._listeners.pop)
            yield

    def _told_of_waits(self, told: bool) -> None:
        for group in self._different:
            self._places[group].waits.tell = partial(self._tell_wait, self._groups[group]) if told else None
        if self._straggler:
            self._straggler.tell = self._tell if told else None

    @contextmanager
    def recording(self, work: Callable[[], tuple[int, int]]) -> Iterator[list[Entry]]:
        """Write down what goes through the doors inside the block, and the phases, for `zerosim.virtual`.

        `work` returns how many operations the rank has done and how many elements updated.
        """
        recorder = Recorder(work)
        with self.listening(recorder):
            yield recorder.events


_NOBODY = nullcontext()
"""What a span is where nobody listens."""
