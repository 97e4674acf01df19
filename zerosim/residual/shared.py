"""What the sections share: the settings, and the record of a real step."""

import dataclasses
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from zerosim.arena import FITS
from zerosim.bench.shared import Task, Trainee
from zerosim.errors import InputError
from zerosim.ledger import Event
from zerosim.parallel import Grid
from zerosim.rank import Rank
from zerosim.room import check_room, check_states
from zerosim.transport import Transport

INPUTS, OUTPUTS = 64, 10
"""The digits' widths; what a step holds does not depend on what the rows say."""


@dataclass(frozen=True)
class Settings:
    """What is measured, named as the flags of `residual`. Raises InputError for what cannot be."""

    hidden: tuple[int, ...] = (64, 256) * 4
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    bucket: int = 131072
    rows: int = 512
    fit: str = "first"

    def __post_init__(self) -> None:
        for name in ("bucket", "rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} must be 1 or more")
        if len(set(self.widths)) < len(self.widths):
            raise InputError(f"widths: {','.join(map(str, self.widths))!r} names a width more than once")
        if self.fit not in FITS:
            raise InputError(f"fit: {self.fit!r} is not known; choose from {', '.join(FITS)}")

    def task(self, hidden: Sequence[int], bucket: int = 0, checkpoint: bool = False) -> Task:
        """Return a step's task: an MLP of these hidden widths, in fp32, with Adam and rings.

        With `checkpoint`, the square root of its layers keep their inputs, as with `train --checkpoint-activations`.
        """
        every = True if checkpoint else None
        return Task((INPUTS, *hidden, OUTPUTS), self.rows, "fp32", "adam", "ring", bucket, checkpoint_activations=every)

    def check(self, N: int, here: int) -> None:
        """Raise InputError if there is no room for `here` of N ranks; what a step needs besides comes on top."""
        for task in (self.task(self.hidden), self.task((max(self.widths),) * 2)):
            check_states((2, 3), task.widths, Grid(N), task.precision, task.optimizer, here)
            rows = 4 * self.rows * (4 * N * INPUTS + sum(task.widths))
            check_room(f"rows: the data and the activations of {self.rows} rows per rank", rows, here)

    def asdict(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


class Record(NamedTuple):
    """What the ledger of this rank booked: first the model states that were held, then one step, or several."""

    events: list[Event]
    peak: int
    """The ledger's own: the greatest number of bytes held at one moment."""
    phases: list[tuple[int, str]]
    """The phases of the last step: how many takes and releases came before each, and its name."""
    weights_sha256: str
    """Of this rank's parameters after the last step."""

    def highest(self, cls: str) -> int:
        """Return the greatest number of bytes of one class at one moment."""
        level = most = 0
        for event in self.events:
            if event.cls == cls:
                level += event.change
                most = max(most, level)
        return most


def record(
    transport: Transport,
    task: Task,
    stage: int,
    rows: Sequence[int] = (),
    prepare: Callable[[Rank], None] | None = None,
) -> Record:
    """Take a real training step with all ranks and return what this one held; or one of each number of `rows` per rank.

    `rows` may be up to four times the task's. `prepare` is called before the first step.
    """
    trainee = Trainee(transport, task, stage)
    rank, ledger = trainee.rank, trainee.rank.ledger
    if prepare:
        prepare(rank)
    ledger.reset_peak()
    held = ledger.held()
    with ledger.recording() as events:
        for each in rows or (task.rows,):
            trainee.step(np.arange(each * transport.size))
    events = held + events
    times = [event.at for event in events if event.change]
    phases = [(bisect_left(times, phase.at), phase.name) for phase in rank.phases]
    return Record(events, ledger.peak["total"], phases, hashlib.sha256(rank.parameters.tobytes()).hexdigest())


def new_table(*columns: str) -> Any:
    """Return a table with these titles; "<" before one aligns its column to the left, "^" centres it."""
    from zerosim.report import plain_table

    table = plain_table()
    for title in columns:
        justify: Any = {"<": "left", "^": "center"}.get(title[0], "right")
        table.add_column(title.lstrip("<^"), justify=justify, no_wrap=True)
    return table
