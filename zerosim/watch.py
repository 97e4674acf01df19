"""What is written down of each step: by the ledger, by the doors and by the clock, and how a step's time is split."""

from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

from zerosim.comm import CONTROL
from zerosim.doors import Phase
from zerosim.ledger import CLASSES, Event
from zerosim.parallel import GROUPS
from zerosim.rank import Rank
from zerosim.spans import Spans
from zerosim.transport.watched import Entry
from zerosim.witness import Witness


class Watch:
    """Takes a rank's steps and notes what the ledger, the door and the clock say of each.

    `done` steps were taken before a checkpoint. `spans` is told before each step, if the run is traced.
    """

    def __init__(self, rank: Rank, witnesses: list[Witness], done: int = 0, spans: Spans | None = None) -> None:
        self._rank, self._witnesses, self._done, self._spans = rank, witnesses, done, spans
        self._seconds: list[dict[str, float]] = []
        self.updates = 0
        self.peak = dict(rank.ledger.peak, total=-1)
        self._kinds: dict[bool, tuple[dict[str, dict[str, int]], int]] = {}
        """What was sent in a step in which parameters are averaged, and in any other."""
        self.sent: dict[str, dict[str, int]] = {}
        self.messages = 0
        self.activations: dict[str, int] = {}
        self.timeline: dict[str, Any] = {}
        self.recorded: list[Entry] = []
        """What the rank did in the step of the timeline, for `zerosim.virtual`; nothing where that is not asked for."""
        self._worked = [0, 0]
        """Operations, and elements updated, in that step."""
        self._complete = False
        """Whether that step has all that a step may have: parameters updated, and averaged where they are."""
        self._waited = [rank.doors.waited_for()]
        """Seconds for each rank before the first step, and after the latest."""

    def step(self, stage: ModuleType, batch: np.ndarray) -> float:
        """Take a step and return the loss summed over the global batch."""
        rank, ledger = self._rank, self._rank.ledger
        before = {group: (rank.doors[group].sent.copy(), rank.doors[group].messages.copy()) for group in GROUPS}
        held = dict(ledger.now)
        rank.phases.clear()
        ledger.reset_peak()
        rank.host.reset_peak()
        rank.recomputed = 0
        rank.host_traffic.clear()
        for witness in self._witnesses:
            witness.before_step()
        work_before = self._work_so_far()
        number = self._done + len(self._seconds) + 1
        if self._spans:
            self._spans.before_step(number)
        with ExitStack() as stack:
            record = len(self._seconds) < 2 or not self._complete  # the first step is slow
            events = stack.enter_context(ledger.recording()) if record else []
            if record and rank.config.waits:
                self.recorded = stack.enter_context(rank.doors.recording(self._work_so_far))
            stack.enter_context(rank.doors.span(f"step {number}", "step"))
            loss, updated = stage.step(rank, batch)
            rank.phase("end")
        self._waited[1:] = [rank.doors.waited_for()]
        if rank.pruner:
            rank.pruner.end_step()
        for witness in self._witnesses:
            witness.after_step()
        if ledger.peak["total"] > self.peak["total"]:
            self.peak = dict(ledger.peak)
        if record:
            self.timeline = _timeline(held, events, rank.phases)
            self._worked = [now - then for now, then in zip(self._work_so_far(), work_before, strict=True)]
            self._complete = updated and not rank.apart
        self._count(before)
        self._count_activations()
        self.updates += updated
        self._seconds.append(durations(rank.phases))
        return loss

    def _work_so_far(self) -> tuple[int, int]:
        """Return how many operations the rank has done so far, and how many elements updated."""
        return self._rank.model.operations, self._rank.optimizer.updated

    def _count(self, before: dict[str, tuple[Counter[str], Counter[str]]]) -> None:
        sent, messages = {}, 0
        for group, (sent_before, messages_before) in before.items():
            door = self._rank.doors[group]
            moved, times = door.sent - sent_before, door.messages - messages_before
            del moved[CONTROL], times[CONTROL]
            sent[group] = dict(moved)
            messages += times.total()
        averaged = bool(self._rank.drifts) and self._rank.apart == 0
        if self._kinds.setdefault(averaged, (sent, messages)) != (sent, messages):
            raise RuntimeError(f"one step sent {sent} bytes, another of its kind {self._kinds[averaged][0]}")
        self.sent, self.messages = self._kinds.get(True) or self._kinds[False]

    def _count_activations(self) -> None:
        rank = self._rank
        activations = {
            "device": rank.ledger.most["activations"],
            "host": rank.host.most["activations"],
            "recomputed": rank.recomputed,
            "to_host": rank.host_traffic["to_host"],
            "from_host": rank.host_traffic["from_host"],
        }
        if self._seconds and activations != self.activations:
            raise RuntimeError(f"one step kept activations as {activations}, another as {self.activations}")
        self.activations = activations

    def work(self) -> dict[str, Any]:
        """Return what a step takes: operations and elements updated, and the seconds of each; waits by rank, a mean."""
        operations, updated = self._worked
        seconds = self.medians()
        waited = zip(self._waited[-1], self._waited[0], strict=True)
        return {
            "operations": operations,
            "updated": updated,
            "compute": seconds["compute"],
            "update": seconds["update"],
            "slept": seconds["slept"],
            "waited_for": [(now - then) / len(self._seconds) for now, then in waited],
        }

    def medians(self) -> dict[str, float]:
        """Return the median over the steps of each duration in seconds."""
        return {name: median(step[name] for step in self._seconds) for name in self._seconds[0]}


def durations(phases: list[Phase]) -> dict[str, float]:
    """Split a step's time: inside the doors, part of which is waiting; asleep; updating; and the rest, computing."""
    first, last = phases[0], phases[-1]
    total, communicate, slept = last.at - first.at, last.inside - first.inside, last.slept - first.slept
    update = sum(_worked(start, end) for start, end in pairwise(phases) if start.name == "update")
    return {
        "seconds_per_step": total,
        "compute": total - communicate - slept - update,
        "communicate": communicate,
        "waiting": last.waited - first.waited,
        "slept": slept,
        "update": update,
    }


def _worked(start: Phase, end: Phase) -> float:
    return (end.at - start.at) - (end.inside - start.inside) - (end.slept - start.slept)


def _timeline(held: dict[str, int], events: list[Event], phases: list[Phase]) -> dict[str, Any]:
    """Turn changes into levels: bytes by class after each event, and at the step's beginning and end."""
    begin, end = phases[0].at, phases[-1].at
    levels = [dict(held)]
    for event in events:
        levels.append({**levels[-1], event.cls: levels[-1][event.cls] + event.change})
    levels.append(levels[-1])
    return {
        "seconds": [max(0.0, t - begin) for t in (begin, *(event.at for event in events), end)],
        **{cls: [level[cls] for level in levels] for cls in CLASSES},
        "phases": [[phase.at - begin, phase.name] for phase in phases],
    }
