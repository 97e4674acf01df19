"""What the benchmarks share: the task, contestants in turn, and what is said of many times."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zerosim import formulas
from zerosim.comm import Comm, chosen
from zerosim.config import Config
from zerosim.data import Dataset, convert, make_dataset
from zerosim.ledger import Ledger
from zerosim.precision import precision
from zerosim.rank import Rank
from zerosim.stages import STAGES
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport

Tell = Callable[[str], None]
"""Called with where things stand."""

WARM_UP = 2
"""Steps that are not counted: the first touch of memory, the plans, what libraries do once."""
LEAST, MOST = 7, 300
"""Repetitions."""


@dataclass(frozen=True)
class Task:
    """What a step does: a classifier of these layer widths, inputs first, on random rows, `rows` of them per rank."""

    widths: tuple[int, ...] = (784, 2048, 2048, 2048, 10)
    rows: int = 64
    precision: str = "fp32"
    optimizer: str = "adam"
    collective: str = "auto"
    bucket: int = 0
    seed: int = 0
    checkpoint_activations: int | None = None

    def config(self, stages: tuple[int, ...], N: int, steps: int | None = None, **more: Any) -> Config:
        """Return the settings of a training that takes such steps, and `more`. Raises InputError for what cannot be."""
        return Config(
            stages=stages,
            steps=steps,
            hidden=self.widths[1:-1],
            optimizer=self.optimizer,
            precision=self.precision,
            batch_size=self.rows * N,
            test_fraction=0.0,
            collective=self.collective,
            bucket=self.bucket,
            checkpoint_activations=self.checkpoint_activations,
            seed=self.seed,
            shuffle=False,
            **more,
        )

    def data(self, N: int) -> Dataset:
        """Return rows of normal numbers, at least one of each class, the same on all ranks."""
        random = np.random.default_rng(self.seed)
        rows = max(4 * self.rows * N, self.widths[-1])
        y = np.arange(rows) % self.widths[-1]
        return make_dataset("random", random.standard_normal((rows, self.widths[0]), np.float32), y)

    def asdict(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "layers": list(self.widths),
            "parameters": formulas.parameters(self.widths),
            "rows_per_rank": self.rows,
            "precision": self.precision,
            "optimizer": self.optimizer,
            "collective": self.collective,
        }


class Trainee:
    """A rank at one stage, with its states allocated, that takes the same step again and again.

    `more` are settings that the task has none of.
    """

    def __init__(self, transport: Transport, task: Task, stage: int, **more: Any) -> None:
        config, N = task.config((stage,), transport.size, **more), transport.size
        numerics = precision(config.precision)
        data = convert(task.data(N), numerics.dtype, numerics.compute)
        self.rank = Rank(transport, config, data, chosen(config.collective, N))
        self._stage, self._batch = STAGES[stage], np.arange(config.batch_size)
        self._stage.allocate(self.rank)

    def step(self, batch: np.ndarray | None = None) -> None:
        """Take a step, on these rows or on the first ones; the phases are the rank's."""
        self.rank.phases.clear()
        with np.errstate(over="ignore", invalid="ignore"):
            self._stage.step(self.rank, self._batch if batch is None else batch)
        self.rank.phase("end")


@contextmanager
def bound(transport: MPITransport) -> Iterator[bool]:
    """Bind each rank to a core where there are more ranks than cores (Linux), and yield whether they are.

    Left to itself, the kernel has three ranks on one core and one on another for a while, whoever's step it is.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if not cores or transport.here <= len(cores):
        yield False
        return
    _let_run_on({cores[transport.rank % len(cores)]})
    try:
        yield True
    finally:
        _let_run_on(set(cores))


def _let_run_on(cores: set[int]) -> None:
    """All threads of this process; those to come do as the one that begins them."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def in_turn(
    transport: Transport, actions: dict[str, Callable[[], Any]], budget: float, tell: Tell
) -> dict[str, list[dict[str, float]]]:
    """Let each action be done in turn, all ranks beginning together, for about `budget` seconds.

    Returns, by action, each repetition's "seconds" on this rank, and what the action returned if that is a dict.
    """
    door = Comm(transport, Ledger())
    barrier = transport.barrier if isinstance(transport, MPITransport) else partial(door.sum, 0)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in actions}
    repetitions, done, began = MOST, -WARM_UP, 0.0
    while done < repetitions:
        if done == 0:  # ranks must agree on how often; rank 0's clock decides
            (spent,) = door.sum((time.perf_counter() - began) if transport.rank == 0 else 0.0)
            repetitions = max(LEAST, min(MOST, int(budget / spent)))
        began = time.perf_counter()
        for name, action in actions.items():
            barrier()
            started = time.perf_counter()
            said = action()
            seconds = time.perf_counter() - started
            if done >= 0:
                times[name].append({"seconds": seconds, **(said or {})})
        done += 1
        tell(f"{done} of {repetitions}" if done > 0 else "warming up")
    return times


def of_stage(tell: Tell, stage: int) -> Tell:
    """Return a `tell` that says which stage it is about."""
    return lambda text: tell(f"stage {stage}: {text}")


def together(transport: Transport, mine: Any) -> list[Any]:
    """Return what every rank has, in the order of ranks; JSON types."""
    return Comm(transport, Ledger()).gather_values(mine)


def slowest(everyone: list[dict[str, list[dict[str, float]]]], name: str, what: str = "seconds") -> np.ndarray:
    """Return the slowest rank's time of each repetition of an action."""
    return np.max([[one[what] for one in mine[name]] for mine in everyone], axis=0)


def spread(taken: np.ndarray) -> dict[str, float]:
    """Return what is said of many times."""
    low, median, high = np.percentile(taken, (25, 50, 75))
    return {"median": float(median), "quartile_1": float(low), "quartile_3": float(high), "least": float(taken.min())}
