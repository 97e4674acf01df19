"""`bench torch`: each stage against its counterpart in PyTorch."""

import argparse
from typing import Any

from zerosim import figures
from zerosim.bench import peer
from zerosim.commands.bench.shared import measured, milliseconds, subject, under_mpi
from zerosim.commands.output import is_first, publish
from zerosim.report import console_text, plain_table, si
from zerosim.transport import Transport


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Measure; print the tables, draw the figure, write the numbers."""
    world = under_mpi(transport, "bench torch")
    tcp = arguments.wire == "tcp"
    result = measured(
        arguments,
        world,
        lambda task, stages, tell: peer.bench(world, task, stages, arguments.seconds, tcp, tell),
    )
    if is_first(transport):
        publish(result, figures.peers, _table(result), "bench-torch", arguments)


def _table(result: dict[str, Any]) -> str:

    times = plain_table(2)
    for title in ("stage", "in PyTorch", "zerosim ms", "PyTorch ms", "ratio"):
        times.add_column(title, justify="left" if title == "in PyTorch" else "right", no_wrap=True)
    rest = plain_table()
    for title in ("stage", "peak counted", "resident", "PyTorch", "sent counted", "sockets", "PyTorch"):
        rest.add_column(title, justify="right", no_wrap=True)
    for row in result["stages"]:
        ours, theirs = row["ours"], row["theirs"]
        times.add_row(
            str(row["stage"]),
            row["peer"],
            milliseconds(ours["seconds"]["median"]),
            milliseconds(theirs["seconds"]["median"]),
            f"{row['ratio']:.2f}",
        )
        rest.add_row(
            str(row["stage"]),
            si(ours["peak_counted"]),
            si(ours["peak_resident"]),
            si(theirs["peak_resident"]),
            si(ours["bytes_counted"]),
            "-" if ours["bytes_on_the_wire"] is None else si(ours["bytes_on_the_wire"]),
            si(theirs["bytes_on_the_wire"]),
        )
    return console_text(
        f"A step on {subject(result)}; PyTorch {result['torch']} over gloo, zerosim over {result['wire']}; in turn, "
        f"medians of {result['stages'][0]['repetitions']} and more. ratio: zerosim / PyTorch, of each pair.",
        times,
        "Bytes per rank, the greatest: peak of a step (counted by the ledger; resident, by the operating system, "
        "above what the process held before), and sent per step (counted at the door; by the sockets):",
        rest,
    )
