"""`bench scale`: how cost grows with the number of ranks."""

import argparse
from typing import Any

from zerosim import figures
from zerosim.bench import scale
from zerosim.commands.bench.shared import milliseconds, rank_numbers, subject, task_and_stages
from zerosim.commands.common import ProgressLine
from zerosim.commands.output import door_of, is_first, make_folder_for, publish, quiet
from zerosim.errors import InputError
from zerosim.report import console_text, plain_table, si
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport

WIDTHS = (784, 512, 512, 10)


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Measure; print the tables, draw the figure, write the numbers."""
    world = transport if isinstance(transport, MPITransport) and transport.size > 1 else None
    door, first = door_of(transport), is_first(transport)
    ranks = door.agreed(rank_numbers, arguments.ranks, world, 32)
    task, stages = (None, ())
    for N in ranks:
        task, stages = door.agreed(task_and_stages, arguments, N, world)
    if arguments.steps < 2:
        raise InputError(f"steps: {arguments.steps} must be 2 or more: the first one is slower")
    make_folder_for("bench-scale", door, arguments.out)
    assert task is not None
    progress = ProgressLine()
    tell = progress.tell if first else quiet
    try:
        result = scale.bench(world, task, stages, ranks, arguments.steps, tell)
    finally:
        progress.done()
    if result is not None:
        publish(result, figures.scale, _table(result), "bench-scale", arguments)


def _table(result: dict[str, Any]) -> str:

    stages = [run["stage"] for run in result["ranks"][0]["runs"]]
    parts: list[Any] = [f"{subject(result)}; {result['backend']}. Bytes are the greatest of a rank:"]
    for title, show in (
        ("at rest", lambda run: si(run["at_rest"])),
        ("sent per step", lambda run: si(run["sent"])),
        ("ms per step of rank 0", lambda run: milliseconds(run["seconds_per_step"])),
    ):
        table = plain_table(2)
        table.add_column("ranks", justify="right")
        for stage in stages:
            table.add_column(f"{title if stage == stages[0] else ''}\nstage {stage}", justify="right", no_wrap=True)
        for row in result["ranks"]:
            table.add_row(str(row["ranks"]), *(show(run) for run in row["runs"]))
        parts.append(table)
    wrong = [row["ranks"] for row in result["ranks"] if not all(run["books_equal"] for run in row["runs"])]
    differ = [row["ranks"] for row in result["ranks"] if not row["identical_weights"]]
    parts.append(
        "Books: bytes held and sent equal the formulas on every rank, for each number of ranks."
        if not wrong
        else f"Books: THEY DIFFER on {', '.join(map(str, wrong))} ranks."
    )
    if len(stages) > 1:
        parts.append(
            "Weights: identical to the bit at all stages, for each number of ranks."
            if not differ
            else f"Weights: NOT identical on {', '.join(map(str, differ))} ranks."
        )
    return console_text(*parts)
