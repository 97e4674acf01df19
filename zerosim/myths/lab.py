"""Where experiments are run: on ranks within this process, or on those that mpirun started; the code is the same.

An experiment may want other numbers of ranks too. Fewer are some of mpirun's, and more are ranks within the first
process, so that no verdict depends on how the program was started.
"""

import pickle
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from zerosim import whole
from zerosim.blas import one_thread
from zerosim.comm import Comm
from zerosim.config import Config
from zerosim.data import Dataset, batches, convert, load
from zerosim.ledger import Ledger
from zerosim.precision import precision
from zerosim.rank import Rank
from zerosim.stages import STAGES, local
from zerosim.train import Records, Run, train
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport
from zerosim.transport.threads import run_threads
from zerosim.words import counted

SIZES = (1, 2, 3, 4, 8)
"""Numbers of ranks that an experiment about their number tries, beside the lab's own."""
ROWS = 4
"""Rows per rank and micro-step."""
COURSE: dict[str, Any] = {"steps": 20, "lr": 0.01}
"""Settings of a training that is long enough to come some way."""

R = TypeVar("R")


class Lab:
    """`N` ranks (2 or more), a seed, and the built-in digits; `tell` hears what is being done.

    `world` is this process's place among MPI's ranks; then N is their number, and all of them call the same methods
    in the same order. None: N ranks within this process.
    """

    def __init__(
        self, N: int = 4, seed: int = 0, world: MPITransport | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        self.N, self.seed = world.size if world else N, seed
        self.backend = "mpi" if world else "threads"
        self._tell = tell or (lambda text: None)
        self.about = ""
        """Which claim is being looked into."""
        self.digits = load("digits")
        self._world = world
        self._done: dict[Hashable, Any] = {}

    def tell(self, text: str) -> None:
        """Say what is being done."""
        self._tell(f"{self.about}: {text}" if self.about else text)

    @property
    def sizes(self) -> list[int]:
        """`SIZES` and N, in ascending order."""
        return sorted({*SIZES, self.N})

    def on(self, N: int, function: Callable[[Transport], R]) -> list[R]:
        """Call `function(comm)` on N ranks and return the results in the order of ranks, on every rank of the lab."""
        if self._world is None:
            return run_threads(N, function)
        try:
            with one_thread():
                mine = self._within(N, function) if self._world.size < N else self._some(N, function)
            self._world.sleep_until_all()
            everyone = Comm(self._world, Ledger()).gather_bytes(pickle.dumps(mine))
            return [result for text in everyone for result in pickle.loads(text)]
        except BaseException:
            self._world.abort()
            raise

    def _some(self, N: int, function: Callable[[Transport], R]) -> list[R]:
        """Call it on this rank, if it is one of the first N."""
        assert self._world is not None
        return [function(self._world.part(range(N)))] if self._world.rank < N else []

    def _within(self, N: int, function: Callable[[Transport], R]) -> list[R]:
        """Call it on N ranks within the first process."""
        assert self._world is not None
        return run_threads(N, function) if self._world.rank == 0 else []

    # trainings -------------------------------------------------------------------------------------------------------

    def config(self, **settings: Any) -> Config:
        """Return the settings of a short training; given ones prevail."""
        usual = {"hidden": (24,), "steps": 2, "precision": "fp32", "batch_size": ROWS * max(self.sizes)}
        return Config(**{**usual, "seed": self.seed, **settings})

    def train(self, N: int | None = None, data: Dataset | None = None, **settings: Any) -> Records:
        """Train at each stage on N ranks (left out: the lab's) and return what was counted; no stage is run twice.

        `settings` are those of `zerosim.Config`; `data` takes the place of the digits.
        """
        config, ranks, rows = self.config(**settings), N or self.N, data or self.digits
        by_stage: dict[int, Records] = self.once((replace(config, stages=(0,)), ranks, rows.name), dict)
        if missing := tuple(stage for stage in config.stages if stage not in by_stage):
            self.tell(f"training on {counted(ranks, 'rank')}")
            records = self.on(ranks, lambda comm: train(replace(config, stages=missing), comm, rows))[0]
            by_stage |= {run.stage: replace(records, runs=[run]) for run in records.runs}
        runs = [by_stage[stage].runs[0] for stage in config.stages]
        return replace(by_stage[config.stages[0]], config=config, runs=runs)

    def once(self, what: Hashable, measure: Callable[[], R]) -> R:
        """Return what `measure` returned when it was first called for `what`."""
        if what not in self._done:
            self._done[what] = measure()
        return self._done[what]

    # steps taken by hand, for what a training does not record --------------------------------------------------------

    def rank(
        self, comm: Transport, stage: int, config: Config, kind: type[Rank] = Rank, data: Dataset | None = None
    ) -> Rank:
        """Return a rank (or one of another `kind`) with its states allocated as a stage does it.

        `data` takes the place of the digits.
        """
        numerics = precision(config.precision)
        rank = kind(comm, config, convert(data or self.digits, numerics.dtype, numerics.compute))
        STAGES[stage].allocate(rank)
        return rank

    def batches(self, config: Config) -> Iterator[np.ndarray]:
        """Yield the row numbers of the global batch of each step, `config.steps` of them, drawn with the seed."""
        rows, epoch, left = np.arange(len(self.digits.x)), 1, config.steps or 0
        while left > 0:
            for batch in batches(rows, config.batch_size, epoch, config.seed, config.shuffle)[:left]:
                left -= 1
                yield batch
            epoch += 1

    def stepped(self, comm: Transport, stage: int, config: Config, kind: type[Rank] = Rank) -> Rank:
        """Return a rank that has taken its steps at a stage."""
        rank = self.rank(comm, stage, config, kind)
        for batch in self.batches(config):
            STAGES[stage].step(rank, batch)
        return rank

    def averaged(self, comm: Transport, config: Config, every: int) -> np.ndarray:
        """Return the weights after every rank has stepped by itself and parameters were averaged each `every` steps."""
        rank = self.rank(comm, 0, replace(config, stages=(0,), sync="average", sync_every=every))
        for batch in self.batches(config):
            local.step(rank, batch)
        if rank.apart:
            local.average(rank)
        return weights(rank)


def weights(rank: Rank) -> np.ndarray:
    """Return all weights in full precision, in layer order, without padding; every rank of the world calls it."""
    return np.concatenate([layer.copy() for layer in whole.weights(rank)])


def largest(values: np.ndarray) -> float:
    """Return the greatest absolute value."""
    return float(np.abs(values).max())


# what a run counted --------------------------------------------------------------------------------------------------


def at_rest(run: Run) -> int:
    """Return the bytes at rest of the fullest rank."""
    return max(sum(own.values()) for own in run.at_rest)


def sent(run: Run) -> int:
    """Return the bytes that the busiest rank sent in a step."""
    return max(sum(own.values()) for own in run.sent_per_step["data"])
