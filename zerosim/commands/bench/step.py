"""`bench step`: a step at each stage, split, beside its floor."""

import argparse
from typing import Any

from zerosim import figures
from zerosim.bench import step
from zerosim.commands.bench.shared import measured, milliseconds, subject, under_mpi
from zerosim.commands.output import is_first, publish
from zerosim.report import console_text, plain_table
from zerosim.transport import Transport


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Measure; print the table, draw the figure, write the numbers."""
    world = under_mpi(transport, "bench step")
    result = measured(
        arguments,
        world,
        lambda task, stages, tell: step.bench(world, task, stages, arguments.seconds, tell),
    )
    if is_first(transport):
        publish(result, figures.step, _table(result), "bench-step", arguments)


def _table(result: dict[str, Any]) -> str:

    table = plain_table(2)
    for title in ("stage", "ms", "in all", "compute", "update", "messages", "waiting", "ratio"):
        table.add_column(title, justify="left" if title == "ms" else "right", no_wrap=True)
    for row in result["stages"]:
        split, floor = row["split"], row["floor"]
        parts = ("compute", "update", "communicate", "waiting")
        table.add_row(
            str(row["stage"]),
            "step",
            milliseconds(row["seconds"]["median"]),
            *(milliseconds(split[part]) for part in parts),
            f"{row['ratio_to_floor']:.2f}",
        )
        table.add_row(
            "",
            "spread",
            f"{milliseconds(row['seconds']['quartile_1'])}-{milliseconds(row['seconds']['quartile_3'])}",
        )
        pieces = (milliseconds(floor[name]["median"]) for name in ("products", "optimizer", "copy"))
        table.add_row("", "floor", milliseconds(floor["seconds"]), *pieces)
    return console_text(
        f"A step on {subject(result)}: medians of {result['stages'][0]['repetitions']} and more.",
        table,
        "floor: the bare matrix products, one pass over the bytes that the optimizer touches, and copying the bytes "
        "sent in memory, measured in turn with the step; ratio: step / floor. spread: the middle half of the times.",
    )
