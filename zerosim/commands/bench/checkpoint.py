"""`bench checkpoint`: bytes and time of checkpoints against the size of the model."""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zerosim import figures, formulas
from zerosim.bench import checkpoint
from zerosim.bench.shared import Task
from zerosim.comm import Comm
from zerosim.commands.bench.shared import milliseconds, rank_numbers, task_and_stages, whole_numbers
from zerosim.commands.common import ProgressLine
from zerosim.commands.output import door_of, is_first, make_folder_for, publish, quiet
from zerosim.errors import InputError
from zerosim.heap import keep
from zerosim.report import console_text, equation, plain_table
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport

HIDDEN = (128, 512, 2048)
RANKS = 4
_AT_ONCE = 3
"""Times a checkpoint's bytes that are on the disk at once: the last one, the one to come, and plain files."""


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Measure; print the table, draw the figure, write the numbers."""
    world = transport if isinstance(transport, MPITransport) and transport.size > 1 else None
    door, first = door_of(transport), is_first(transport)
    if not 0 < arguments.seconds <= 3600:
        raise InputError(f"seconds: {arguments.seconds:g} must be more than 0 and at most 3600")
    ranks = door.agreed(rank_numbers, arguments.ranks, world, RANKS)
    tasks, stage = door.agreed(_tasks, arguments, ranks, world)
    make_folder_for("bench-checkpoint", door, arguments.out)
    door.agreed(lambda: _check_disk(arguments.out, tasks) if first else None)
    progress = ProgressLine()
    keep()
    try:
        with _scratch(door, arguments.out) as folder:
            tell = progress.tell if first else quiet
            result = checkpoint.bench(world, tasks, stage, ranks, folder, arguments.seconds, tell)
    finally:
        progress.done()
    if result is not None:
        publish(result, figures.checkpoints, _table(result), "bench-checkpoint", arguments)


def _tasks(arguments: argparse.Namespace, ranks: list[int], world: MPITransport | None) -> tuple[list[Task], int]:
    """Return a task for each hidden width, and the stage. Raises InputError for what cannot be."""
    tasks: list[Task] = []
    stages: tuple[int, ...] = ()
    for width in sorted(set(whole_numbers("widths", arguments.widths))):
        asked = argparse.Namespace(**{**vars(arguments), "layers": f"784,{width},{width},10", "rows": 1})
        for N in ranks:
            task, stages = task_and_stages(asked, N, world)
        tasks.append(task)
    if len(stages) != 1:
        raise InputError(f"stage: {arguments.stages!r} must be one of 0, 1, 2, 3")
    return tasks, stages[0]


def _check_disk(folder: str, tasks: list[Task]) -> None:
    """Raise InputError if there is no room for the largest model's files."""
    need = _AT_ONCE * max(formulas.checkpoint_tensors(task.widths, 1, task.precision, task.optimizer) for task in tasks)
    if need > (free := shutil.disk_usage(folder).free):
        raise InputError(f"out {folder}: {need:,} bytes are needed there for a while, but {free:,} are free")


@contextmanager
def _scratch(door: Comm, out: str) -> Iterator[Path]:
    """Yield a folder within --out, the same on all ranks, that is there for the length of the block."""
    mine = tempfile.mkdtemp(prefix=".bench-checkpoint-", dir=out) if door.rank == 0 else ""
    folder = Path(door.gather_values(mine)[0])
    try:
        yield folder
    finally:
        if door.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _table(result: dict[str, Any]) -> str:

    table = plain_table()
    for title in ("\nparameters", "\nranks"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("all tensors\ncounted = formula", justify="center", no_wrap=True)
    for title in ("ms to\nwrite", "x plain\nfile", "ms to\nread", "of it\nverify", "x plain\nfile"):
        table.add_column(title, justify="right", no_wrap=True)
    for size in result["sizes"]:
        for row in size["ranks"]:
            counted, formula = (row["tensors"][what] for what in ("measured", "formula_per_rank"))
            write, read = row["write"], row["read"]
            table.add_row(
                f"{size['parameters']:,}",
                str(row["ranks"]),
                equation(sum(counted), sum(formula), counted == formula),
                milliseconds(write["seconds"]["median"]),
                f"{write['ratio']:.1f}",
                milliseconds(read["seconds"]["median"]),
                milliseconds(row["verify"]["median"]),
                f"{read['ratio']:.1f}",
            )
    least = min(row["repetitions"] for size in result["sizes"] for row in size["ranks"])
    return console_text(
        f"Checkpoints at stage {result['stage']}, {result['precision']}, {result['optimizer']}; {result['backend']}; "
        f"medians of {least} and more.",
        table,
        "write: to the disk, fsync and SHA-256 included; x plain file: against each rank's writing as many bytes to "
        "one file, and fsync, in turn. read: verify, and fill all that a training goes on from; against reading those "
        "bytes. What was just written is read from memory, both ways.",
    )
