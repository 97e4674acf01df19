"""What the parts of the command share: the task from its flags, one thread, the progress line."""

import argparse
from collections.abc import Callable
from typing import Any

from zerosim.bench.shared import Task, bound
from zerosim.blas import one_thread
from zerosim.comm import Comm, chosen
from zerosim.commands.common import ProgressLine
from zerosim.commands.output import is_first, make_folder_for, quiet
from zerosim.errors import InputError
from zerosim.heap import keep
from zerosim.ledger import Ledger
from zerosim.parallel import Grid
from zerosim.precision import NAMES
from zerosim.room import check_states
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport

_MOST = 256
"""In-process ranks."""


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Return numbers of 1 or more from "1,2,4". Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"{name}: {text!r} must be whole numbers of 1 or more with commas between")
    return tuple(map(int, parts))


def rank_numbers(text: str | None, world: MPITransport | None, usual: int) -> list[int]:
    """Return numbers of ranks from "1,2,4", or else powers of 2: to mpirun's number, or to `usual` in one process.

    Raises InputError for more than there are.
    """
    most = world.size if world else _MOST
    if text is None:
        last = world.size if world else usual
        return sorted({2**i for i in range(last.bit_length())} | {last})
    ranks = sorted(whole_numbers("ranks", text))
    if len(set(ranks)) < len(ranks):
        raise InputError(f"ranks: {text!r} names a number more than once")
    if ranks[-1] > most:
        where = f"mpirun has started {most}" if world else f"{most} is the most in one process"
        raise InputError(f"ranks: {ranks[-1]} are too many: {where}")
    return ranks


def task_and_stages(arguments: argparse.Namespace, N: int, transport: Transport | None) -> tuple[Task, tuple[int, ...]]:
    """Return what the flags ask for on N ranks. Raises InputError."""
    widths = whole_numbers("layers", arguments.layers)
    if len(widths) < 2:
        raise InputError(f"layers: {arguments.layers!r} must have two widths at least: inputs and outputs")
    if widths[-1] < 2:
        raise InputError(f"layers: {widths[-1]} outputs cannot be told apart; the last width must be 2 or more")
    if arguments.rows < 1:
        raise InputError(f"rows: {arguments.rows} must be 1 or more")
    task = Task(
        widths=widths,
        rows=arguments.rows,
        precision=getattr(arguments, "precision", "fp32"),
        optimizer=arguments.optimizer,
        collective=arguments.collective,
    )
    if task.precision not in NAMES[:3]:
        raise InputError(f"precision: {task.precision!r} is not known; choose from {', '.join(NAMES[:3])}")
    stages = []
    for text in arguments.stages.split(","):
        if text.strip() not in ("0", "1", "2", "3") or int(text) in stages:
            raise InputError(f"stages: {arguments.stages!r} must be some of 0, 1, 2, 3, each once")
        stages.append(int(text))
    task.config(tuple(stages), N)
    if transport is None and task.collective == "native":
        raise InputError("collective native: in-process ranks have no MPI library; start them with mpirun")
    chosen(task.collective, N)
    check_states(stages, widths, Grid(N), task.precision, task.optimizer, transport.here if transport else N)
    return task, tuple(stages)


def measured(
    arguments: argparse.Namespace,
    transport: MPITransport,
    function: Callable[[Task, tuple[int, ...], Callable[[str], None]], dict[str, Any]],
) -> dict[str, Any]:
    """Check the flags on all ranks together, then let `function(task, stages, tell)` measure, on one thread a rank."""
    door = Comm(transport, Ledger())
    first = is_first(transport)
    if not 0 < arguments.seconds <= 3600:
        raise InputError(f"seconds: {arguments.seconds:g} must be more than 0 and at most 3600")
    if arguments.wire not in ("shared", "tcp"):
        raise InputError(f"wire: {arguments.wire!r} is not known; choose from shared, tcp")
    task, stages = door.agreed(task_and_stages, arguments, transport.size, transport)
    make_folder_for(f"bench-{arguments.part}", door, arguments.out)
    progress = ProgressLine()
    keep()
    try:
        with one_thread(), bound(transport) as on_a_core:
            result = function(task, stages, progress.tell if first else quiet)
            return result | {"bound_to_cores": on_a_core}
    except InputError:
        raise
    except BaseException:
        transport.abort()
        raise
    finally:
        progress.done()


def under_mpi(transport: Transport | None, what: str) -> MPITransport:
    """Return MPI's transport. Raises InputError if there is none."""
    if not isinstance(transport, MPITransport):
        raise InputError(f"{what}: it measures MPI's ranks; start it with mpirun -n 2")
    return transport


def milliseconds(seconds: float) -> str:
    """Milliseconds with three digits: 0.0123 is "12.3"."""
    value = 1e3 * seconds
    return f"{value:.{max(0, 3 - len(str(int(value))))}f}"


def subject(result: dict[str, Any]) -> str:
    """What was measured, in a line."""
    task, N = result["task"], result["ranks"]
    layers = " x ".join(map(str, task["layers"]))
    numbers = [N] if isinstance(N, int) else [row["ranks"] for row in N]
    ranks = f"{', '.join(map(str, numbers))} {'rank' if numbers == [1] else 'ranks'}"
    return (
        f"{ranks}, layers {layers}: {task['parameters']:,} parameters, {task['precision']}, {task['optimizer']}, "
        f"rows per rank: {task['rows_per_rank']}, collective: {task['collective']}"
        + (", each rank bound to a core" if result.get("bound_to_cores") else "")
    )
