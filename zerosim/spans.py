"""What one rank did and when: the spans that its doors tell of, and the levels of its ledgers."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from zerosim.ledger import Event
from zerosim.rank import Rank
from zerosim.transport.watched import Listener, Span


class Level(NamedTuple):
    """So many bytes of a class are held from this moment on."""

    at: float
    place: str
    """ "" for the rank's own memory, "host " for the host's."""
    cls: str
    nbytes: int


class Spans(Listener):
    """Listens to a rank for the first `steps` steps of each stage, and to what lies between them and after the last.

    The ranks of several stages follow one another, and all that was heard is kept.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.spans: list[Span] = []
        """An enclosing span comes after those that it encloses."""
        self.levels: list[Level] = []
        self._phase: tuple[str, float] | None = None
        self._taken = 0
        self._ears = ExitStack()
        self._deaf: tuple[int, float] | None = None
        """The first step that is not traced, and when it began."""

    def span(self, span: Span) -> None:
        """Keep it."""
        self.spans.append(span)

    def phase(self, name: str, at: float) -> None:
        """Make a span of the phase before, which is over."""
        if self._phase:
            before, began = self._phase
            self.spans.append(Span(before, "phase", began, at, {}))
        self._phase = None if name == "end" else (name, at)

    @contextmanager
    def stage(self, rank: Rank, number: int) -> Iterator[None]:
        """Listen to a stage inside the block, until its first steps are over."""
        began = time.perf_counter()
        self._taken, self._deaf, self._phase = 0, None, None
        with ExitStack() as self._ears:
            for place, ledger in (("", rank.ledger), ("host ", rank.host)):
                held, events = dict(ledger.now), self._ears.enter_context(ledger.recording())
                self._ears.callback(self._note_levels, place, held, events)
            self._ears.enter_context(rank.doors.listening(self))
            try:
                yield
            finally:
                self._ears.close()
                self._end_stage(number, began)

    def _end_stage(self, number: int, began: float) -> None:
        now = time.perf_counter()
        if self._deaf:
            step, since = self._deaf
            self.spans.append(Span(f"from step {step} on: not traced", "not traced", since, now, {}))
        self.spans.append(Span(f"stage {number}", "stage", began, now, {}))

    def before_step(self, number: int) -> None:
        """Listen no longer, if there were enough steps."""
        if self._taken == self._steps and not self._deaf:
            self._ears.close()
            self._deaf = number, time.perf_counter()
        self._taken += 1

    def _note_levels(self, place: str, held: dict[str, int], events: list[Event]) -> None:
        if not events:
            return
        first = events[0].at
        self.levels += [Level(first, place, cls, nbytes) for cls, nbytes in held.items()]
        for event in events:
            held[event.cls] += event.change
            self.levels.append(Level(event.at, place, event.cls, held[event.cls]))


def carried(details: dict[str, Any], averaged: bool) -> str:
    """Return what a call at a door moved; `averaged` says that ranks average parameters (`zerosim.stages.local`)."""
    group, book = details["group"], details["book"]
    if book in ("control", "pruning"):
        return book
    if group != "data":
        return "activations"  # or their gradients
    return "parameters" if averaged or book == "all_gather" else "gradients"
