"""`collectives bench`: under mpirun, the explicit algorithms against the MPI library's own."""

import argparse
from typing import Any

from zerosim import figures
from zerosim.bench.collectives import bench
from zerosim.collectives import ALGORITHMS, NATIVE
from zerosim.comm import Comm, chosen
from zerosim.commands.collectives.shared import checked_verb, short_name
from zerosim.commands.common import ProgressLine
from zerosim.commands.output import is_first, make_folder_for, parse_size, publish, quiet, text_rate
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.report import binary, console_text, text_seconds
from zerosim.room import check_room
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Measure; print the table, draw the figure, write the numbers."""
    if not isinstance(transport, MPITransport):
        raise InputError("bench: it compares with the MPI library's own collectives; start it with mpirun -n 4")
    door = Comm(transport, Ledger())
    first = is_first(transport)
    sizes = [int(parse_size(text)) for text in arguments.bytes.split(",")]
    if arguments.precision not in ("fp32", "fp16", "bf16"):
        raise InputError(f"precision: {arguments.precision!r} is not known; choose from fp32, fp16, bf16")
    if not 0 < arguments.seconds <= 3600:
        raise InputError(f"seconds: {arguments.seconds:g} must be more than 0 and at most 3600")
    verb = checked_verb(arguments.verb)
    names = [name for name in arguments.algorithms or _usual(verb, transport.size) if name != NATIVE]
    if not names:
        raise InputError("bench: name an explicit algorithm too; native is always there")
    algorithms = [door.agreed(chosen, name, transport.size, (verb,)) for name in names]
    door.agreed(check_room, f"bytes: two vectors of {max(sizes):,}", 2 * max(sizes), transport.here)
    make_folder_for("collectives-bench", door, arguments.out)
    progress = ProgressLine()
    tell = progress.tell if first else quiet
    try:
        result = bench(transport, verb, sizes, algorithms, arguments.precision, arguments.seconds, tell)
    finally:
        progress.done()
    if first:
        publish(result, figures.contest, _table(result), "collectives-bench", arguments)


def _usual(verb: str, N: int) -> list[str]:
    """Those that are for N ranks and do the verb by exchanges of their own, not by the ring's sums."""
    sums = "all_gather" if verb == "all_gather" else "reduce_scatter"
    return [
        name for name, algorithm in ALGORITHMS.items() if {verb, sums} & set(algorithm.own) and _is_for(name, verb, N)
    ]


def _is_for(name: str, verb: str, N: int) -> bool:
    try:
        return bool(chosen(name, N, (verb,)))
    except InputError:
        return False


def _table(result: dict[str, Any]) -> str:
    from rich import box
    from rich.table import Table

    names = [name for name in result["sizes"][0]["collectives"] if name != NATIVE]
    parts: list[Any] = [
        f"{result['verb']}, {result['precision']}, {result['ranks']} MPI ranks: time as a share of native's (below 1: "
        "faster), median of the pairs.",
    ]
    for start in range(0, len(names), 6):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        for title in (
            "bytes",
            "native",
            "spread",
            *(short_name(name).replace("hierarchical:", "levels:") for name in names[start : start + 6]),
            "copy",
        ):
            table.add_column(title, justify="right", no_wrap=True)
        for row in result["sizes"]:
            cells = row["collectives"]
            native = cells[NATIVE]["seconds"]
            spread = (native["quartile_3"] - native["quartile_1"]) / native["median"]
            table.add_row(
                binary(row["bytes"]),
                text_seconds(native["median"]),
                f"{100 * spread:.0f}%",
                *(f"{cells[name]['ratio_to_native']:.2f}" for name in names[start : start + 6]),
                f"{1 / cells[NATIVE]['ratio_to_copy']:.2f}",
            )
        parts.append(table)
    machine = result["cluster"]
    parts.append(
        "\nspread: native's middle half of times, as a share of the median. copy: the bound, copying as many bytes in "
        "memory on all ranks at once, as a share of native's time too. This machine, measured in the same run: alpha "
        f"{text_seconds(machine['alpha_inside'])}, {text_rate(machine['bandwidth_inside'])}, sums at "
        f"{text_rate(machine['bandwidth_sum'])}."
    )
    return console_text(*parts)
