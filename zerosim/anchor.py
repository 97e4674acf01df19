"""Points that were counted: a small MLP trained at every stage on a few in-process ranks, and what its books say.

The papers' curves go to a thousand ranks and a trillion parameters, further than a reader's machine. But bytes per
parameter do not depend on the parameters, so the beginnings of the curves can be counted: `zerosim.figures.states` and
`volume` draw these points on them. The planner says the same bytes of the same MLP: a test.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from zerosim.bench.scale import in_threads
from zerosim.bench.shared import Task, Tell
from zerosim.words import counted

WIDTHS = (64, 96, 96, 10)
RANKS = (1, 2, 4, 8)
STEPS = 2
ROWS = 4


def count(
    widths: Sequence[int] = WIDTHS,
    ranks: Sequence[int] = RANKS,
    precision: str = "fp16",
    optimizer: str = "adam",
    grad_accum: int = 1,
    tell: Tell | None = None,
) -> list[dict[str, Any]]:
    """Train for `STEPS` steps on each number of `ranks` at each stage and return a point for each of them.

    A point has JSON types only: "ranks", "stage", "precision", "optimizer", "grad_accum", "parameters",
    "padded_parameters", and per rank "at_rest" {class: bytes} and "sent" {verb: bytes in one step}, as counted: no
    formula has touched them. `widths` are the MLP's, inputs first; `tell` hears how far it is. Raises InputError for
    what cannot be trained.
    """
    task = Task(tuple(widths), rows=max(ROWS, grad_accum), precision=precision, optimizer=optimizer, collective="ring")
    points = []
    for N in ranks:
        if tell:
            tell(f"counting on {counted(N, 'rank')}")
        config = dataclasses.replace(task.config((0, 1, 2, 3), N, STEPS), grad_accum=grad_accum)
        records = in_threads(N, config, task)
        points += [
            {
                "ranks": N,
                "stage": run.stage,
                "precision": precision,
                "optimizer": optimizer,
                "grad_accum": grad_accum,
                "parameters": records.parameters,
                "padded_parameters": records.padded_parameters,
                "at_rest": run.at_rest,
                "sent": run.sent_per_step["data"],
            }
            for run in records.runs
        ]
    return points
