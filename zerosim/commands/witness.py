"""The command `witness`: another library trains the same, and the weights are compared."""

import argparse
import json
from pathlib import Path
from typing import Any

from zerosim.bench.shared import Task
from zerosim.blas import one_thread
from zerosim.comm import Comm
from zerosim.commands.bench.shared import subject, task_and_stages, under_mpi
from zerosim.commands.common import Commands, ProgressLine, parts_of
from zerosim.commands.output import is_first, make_folder_for
from zerosim.errors import InputError
from zerosim.jsonfile import write_json
from zerosim.ledger import Ledger
from zerosim.report import console_text, plain_table
from zerosim.transport import Transport
from zerosim.words import counted

WIDTHS = (64, 256, 256, 10)


def add(commands: Commands) -> None:
    """Describe the command, its sub-command and its flags."""
    text = "have PyTorch train the same, and compare the weights (os and wire are flags of train: --witness)"
    p = commands.add_parser("witness", help=text, description=text, allow_abbrev=False)
    q = parts_of(p, "torch")("torch", run, text)
    default = ",".join(map(str, WIDTHS))
    q.add_argument("--stages", "--stage", default="0,1,2,3", metavar="0,1,2,3", help="which stages (default: all)")
    q.add_argument("--layers", default=default, metavar="A,B,C", help=f"widths, inputs first (default: {default})")
    q.add_argument("--rows", type=int, default=16, metavar="R", help="rows per rank and step (default: 16)")
    q.add_argument("--steps", type=int, default=20, metavar="S", help="steps of training (default: 20)")
    q.add_argument("--seed", type=int, default=0, metavar="S", help="for the weights and the rows (default: 0)")
    q.add_argument("--collective", default="ring", metavar="NAME", help="who moves the bytes (default: ring)")
    q.add_argument("--out", default="zerosim-out", metavar="DIR", help="folder for the numbers (default: zerosim-out)")
    q.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Train both ways and print the largest differences."""
    from zerosim.peer import OPTIMIZERS
    from zerosim.witness.torch import compare

    world = under_mpi(transport, "witness torch")
    door, first = Comm(world, Ledger()), is_first(transport)
    for name, least in (("steps", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise InputError(f"{name}: {getattr(arguments, name)} must be {least} or more")
    arguments.optimizer = "sgd"
    task, stages = door.agreed(task_and_stages, arguments, world.size, world)
    make_folder_for("witness-torch", door, arguments.out)
    progress = ProgressLine()
    tell = progress.say if first else lambda text: None
    try:
        with one_thread():
            result = compare(world, task, stages, list(OPTIMIZERS), arguments.steps, arguments.seed, tell)
    except InputError:
        raise
    except BaseException:
        world.abort()
        raise
    finally:
        progress.done()
    if not first:
        return
    path = write_json(result, Path(arguments.out) / "witness-torch.json")
    print(json.dumps(result) if arguments.json else f"{_table(result, task)}\nNumbers: {path}")


def _table(result: dict[str, Any], task: Task) -> str:

    table = plain_table()
    for title in ("\nstage", "\noptimizer", "\nin PyTorch", "largest\ndifference", "largest\nweight", "largest\nmove"):
        left = title.endswith(("optimizer", "PyTorch"))
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for row in result["comparisons"]:
        numbers = (f"{row[what]:.2g}" for what in ("largest_difference", "largest_weight", "largest_move"))
        table.add_row(str(row["stage"]), row["optimizer"], row["peer"], *numbers)
    text = subject(result).replace(f", {task.optimizer}", "")
    return console_text(
        f"{text}; {counted(result['steps'], 'step')} from the same weights, on the same rows, here and in PyTorch "
        f"{result['torch']}. What differs is the order of sums, and so the rounding:",
        table,
        "The largest difference of a weight at the end, beside the largest weight and the farthest move of one.",
    )
