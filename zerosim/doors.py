"""One rank's doors, one to each group of ranks that it works with, and whoever is told of what goes through them."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from zerosim.collectives import Algorithm
from zerosim.comm import Comm, open_door
from zerosim.ledger import Ledger
from zerosim.parallel import Grid
from zerosim.transport import Transport
from zerosim.transport.watched import Entry, Recorder, Straggler, Watched


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
        self._recorder: Recorder | None = None
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
        if self._recorder:
            self._recorder.after("phase", name, 0)
        inside = sum(door.seconds for door in self.values()) - slept_inside
        waited = sum(self.waited_for())
        return Phase(time.perf_counter(), inside, waited, slept, name)

    def waited_for(self) -> list[float]:
        """Return the seconds so far in which this rank waited for each rank of the world."""
        waited = [0.0] * self["world"].size
        places = {id(place): group for group, place in self._places.items()}  # some groups are the same
        for group in places.values():
            for rank, seconds in zip(self._groups[group], self._places[group].waited_for, strict=True):
                waited[rank] += seconds
        return waited

    @contextmanager
    def recording(self, work: Callable[[], tuple[int, int]]) -> Iterator[list[Entry]]:
        """Write down what goes through the doors inside the block, and the phases, for `zerosim.virtual`.

        `work` returns how many operations the rank has done and how many elements updated.
        """
        self._recorder = Recorder(work)
        try:
            with ExitStack() as stack:
                for group, door in self.items():
                    stack.enter_context(door.watched(self._groups[group], self._recorder))
                yield self._recorder.events
        finally:
            self._recorder = None
