"""How cost grows with the number of ranks: a short training at each N, its books held against the formulas.

Each rank keeps its number of rows, so the work per rank is the same for every N. Under mpirun the first N ranks train
and the others sleep; without it the ranks are threads of one process.
"""

from typing import Any

from zerosim.bench.shared import Task, Tell
from zerosim.config import Config
from zerosim.report import build_report, total_at_rest, total_sent
from zerosim.train import Records, train
from zerosim.transport.mpi import MPITransport
from zerosim.transport.threads import run_threads
from zerosim.words import counted

SCHEMA = "zerosim.bench.scale/1"


def bench(
    transport: MPITransport | None, task: Task, stages: tuple[int, ...], ranks: list[int], steps: int, tell: Tell
) -> dict[str, Any] | None:
    """Train for `steps` steps at each of `stages` on each number of `ranks`; None on all ranks but the first."""
    rows = []
    for N in ranks:
        tell(counted(N, "rank"))
        config = task.config(stages, N, steps)
        records = in_threads(N, config, task) if transport is None else _part(transport, N, config, task)
        if records is not None:
            rows.append(_row(records))
    if transport is not None and transport.rank > 0:
        return None
    return {
        "schema": SCHEMA,
        "backend": "threads" if transport is None else "mpi",
        "task": task.asdict(),
        "steps": steps,
        "ranks": rows,
    }


def in_threads(N: int, config: Config, task: Task) -> Records:
    """Train on N in-process ranks and return what was counted."""
    data = task.data(N)
    return run_threads(N, lambda comm: train(config, comm, data))[0]


def _part(transport: MPITransport, N: int, config: Config, task: Task) -> Records | None:
    records = train(config, transport.part(range(N)), task.data(N)) if transport.rank < N else None
    transport.sleep_until_all()
    return records if transport.rank == 0 else None


def _row(records: Records) -> dict[str, Any]:
    report = build_report(records)
    runs = []
    for run in report["runs"]:
        held, held_formula, same_held = total_at_rest(run)
        sent, sent_formula, same_sent = total_sent(run)
        runs.append(
            {
                "stage": run["stage"],
                "seconds_per_step": run["time"]["seconds_per_step"],
                "at_rest": held,
                "at_rest_formula": held_formula,
                "peak": max(own["total"] for own in run["memory"]["peak"]["measured"]),
                "sent": sent,
                "sent_formula": sent_formula,
                "messages": max(run["traffic"]["messages"]),
                "books_equal": same_held and same_sent and run["traffic"]["sent_equals_received"],
            }
        )
    return {"ranks": records.world_size, "identical_weights": report["identical_weights"], "runs": runs}
