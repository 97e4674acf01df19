"""Checkpoints on the disk at hand: bytes beside the formula, and the time to write and to read one.

Beside it stands what no way of doing it can go below: each rank writes as many bytes to one plain file of its own and
waits until they are on the disk, and reads them from it. All four are done in turn. Writing is `Checkpoints.save`: the
shards with their SHA-256, all that makes them appear at once, and the oldest one goes. Reading is what a resumed
training does before its first step: verify, then fill parameters and states. What was just written is in the system's
memory still, so both ways of reading find it there.
"""

import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zerosim import formulas
from zerosim.bench.shared import Task, Tell, Trainee, in_turn, slowest, spread, together
from zerosim.checkpoint import Checkpoints, open_checkpoint, restore
from zerosim.comm import Comm, chosen
from zerosim.errors import Failed, InputError
from zerosim.ledger import Ledger
from zerosim.rank import Rank
from zerosim.stages import STAGES
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport
from zerosim.transport.threads import run_threads
from zerosim.words import counted

SCHEMA = "zerosim.bench.checkpoint/1"


def bench(
    transport: MPITransport | None,
    tasks: list[Task],
    stage: int,
    ranks: list[int],
    folder: Path,
    budget: float,
    tell: Tell,
) -> dict[str, Any] | None:
    """Measure each task's model on each number of ranks, about `budget` seconds each; None on all ranks but the first.

    Under MPI the first ranks do it and the others sleep; without `transport` ranks are in this process. The files lie
    in `folder` for a while.
    """
    sizes = []
    for task in tasks:
        elements, rows = formulas.parameters(task.widths), []
        for N in ranks:
            say = partial(_say, tell, f"{elements:,} parameters, {counted(N, 'rank')}")
            rows.append(_on(transport, N, task, stage, folder / f"{elements}-{N}", budget, say))
        sizes.append({"layers": list(task.widths), "parameters": elements, "ranks": rows})
    if transport is not None and transport.rank > 0:
        return None
    return {
        "schema": SCHEMA,
        "backend": "threads" if transport is None else "mpi",
        "stage": stage,
        "precision": tasks[0].precision,
        "optimizer": tasks[0].optimizer,
        "sizes": sizes,
    }


def _say(tell: Tell, what: str, text: str) -> None:
    tell(f"{what}: {text}")


def _on(
    transport: MPITransport | None, N: int, task: Task, stage: int, folder: Path, budget: float, tell: Tell
) -> dict[str, Any] | None:
    """Measure on N ranks; None on a rank that is not among them."""
    if transport is None:
        row = run_threads(N, _measure, task, stage, folder, budget, tell)[0]
    else:
        row = Comm(transport, Ledger()).agreed(_part, transport, N, task, stage, folder, budget, tell)
    shutil.rmtree(folder, ignore_errors=True)
    return row


def _part(
    transport: MPITransport, N: int, task: Task, stage: int, folder: Path, budget: float, tell: Tell
) -> dict[str, Any] | None:
    """Measure on the first N ranks, which fail together if they do; nobody leaves before the last."""
    failed, row = None, None
    try:
        if transport.rank < N:
            row = _measure(transport.part(range(N)), task, stage, folder, budget, tell)
    except (InputError, Failed) as error:
        failed = error
    transport.sleep_until_all()
    if failed:
        raise failed
    return row


def _measure(transport: Transport, task: Task, stage: int, folder: Path, budget: float, tell: Tell) -> dict[str, Any]:
    contest, N = _Contest(transport, task, stage, folder), transport.size
    actions = {name: getattr(contest, name) for name in ("write", "plain_write", "read", "plain_read")}
    told = tell if transport.rank == 0 else _silent
    everyone = together(transport, in_turn(transport, actions, budget, told))
    times = {name: slowest(everyone, name) for name in actions}
    wrote = together(transport, contest.wrote)
    formula = [
        formulas.checkpoint_tensors(task.widths, N, task.precision, task.optimizer, task.bucket, rank=rank)
        for rank in range(N)
    ]
    return {
        "ranks": N,
        "repetitions": len(times["write"]),
        "tensors": {"measured": [own["tensors"] for own in wrote], "formula_per_rank": formula},
        "files": [own["file"] for own in wrote],
        **{name: _beside(times[name], times[f"plain_{name}"]) for name in ("write", "read")},
        "verify": spread(slowest(everyone, "read", "verify")),
    }


def _silent(text: str) -> None:
    pass


def _beside(taken: np.ndarray, plain: np.ndarray) -> dict[str, Any]:
    return {"seconds": spread(taken), "plain": spread(plain), "ratio": float(np.median(taken / plain))}


class _Contest:
    """A rank with states to write, and as many bytes of nothing; it does each of the four as often as it is asked."""

    def __init__(self, transport: Transport, task: Task, stage: int, folder: Path) -> None:
        self._transport, self._stage = transport, STAGES[stage]
        self._own = Trainee(transport, task, stage, checkpoint=str(folder / "sharded"), keep=1).rank
        self._saver = Checkpoints(self._own, stage)
        self._steps = 0
        self._plain = folder / f"plain-{transport.rank}"
        self.write()
        self._bytes = np.ones(self.wrote["file"], np.uint8)

    @property
    def wrote(self) -> dict[str, Any]:
        """What this rank wrote in the last checkpoint."""
        return self._saver.written[-1]

    def write(self) -> None:
        """Write a checkpoint."""
        self._steps += 1
        history = {"loss": [0.0] * self._steps, "epochs": [], "updates": self._own.optimizer.t, "batch": 0}
        self._newest = self._saver.save(self._steps, history)

    def plain_write(self) -> None:
        """Write as many bytes to one file."""
        with open(self._plain, "wb") as file:
            file.write(self._bytes.data)
            os.fsync(file.fileno())

    def read(self) -> dict[str, float]:
        """Go on from the checkpoint, on a rank of its own; return the seconds of verifying it, which come first."""
        own, N = self._own, self._transport.size
        started = time.perf_counter()
        checkpoint = open_checkpoint(str(self._newest))
        own.world.agreed(checkpoint.verify, range(self._transport.rank, checkpoint.manifest.grid.size, N))
        verified = time.perf_counter() - started
        config = replace(own.config, resume=str(self._newest))
        rank = Rank(self._transport, config, own.data, chosen(config.collective, N))
        self._stage.allocate(rank)
        restore(rank, checkpoint)
        return {"verify": verified}

    def plain_read(self) -> None:
        """Read the one file."""
        with open(self._plain, "rb") as file:
            file.readinto(self._bytes.data)
