"""What one rank works with: its ledger, its doors, the layout, the numerics. A stage adds the arrays and the steps."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from zerosim.collectives import Algorithm
from zerosim.config import Config
from zerosim.data import Dataset, share
from zerosim.doors import Doors, Phase
from zerosim.ledger import Ledger
from zerosim.mlp import MLP
from zerosim.optim import Optimizer, sum_of_squares
from zerosim.parallel import parts
from zerosim.partition import Bucket, Layout
from zerosim.precision import LossScale, add, finite, precision
from zerosim.pruning import pruner
from zerosim.tensor_parallel import TensorParallelMLP
from zerosim.transport import Transport


class Rank:
    """One rank of a run of one stage.

    `parameters`, `gradients` and `states` are what the stage's `allocate` makes of them: full vectors of
    `layout.padded` elements, or this rank's shard of `layout.shard`. `collective` is what was chosen for the whole
    training; left out, it is looked up.

    There is a door to each group of ranks that this one works with, and all of them are in `doors`: `comm` to those
    among which ZeRO shares out what they hold alike, `tensor` to those that hold the other parts of its layers, `pipe`
    to those that hold other layers, `world` to all.
    """

    parameters: np.ndarray
    gradients: np.ndarray
    states: dict[str, np.ndarray]

    contiguous = False
    """Whether activation checkpoints are copied to a chunk allocated beforehand (M_D); not with P_a."""

    def __init__(
        self, transport: Transport, config: Config, data: Dataset, collective: Algorithm | str | None = None
    ) -> None:
        self.config, self.data = config, data
        self._transport, self._collective = transport, collective
        self.precision = precision(config.precision)
        self.ledger, self.host = Ledger(), Ledger()
        self.grid = config.grid(transport.size)
        self.doors = Doors(transport, self.grid, self.ledger, collective or config.collective, config.straggler)
        self.comm, self.tensor = self.doors["data"], self.doors["tensor"]
        self.pipe, self.world = self.doors["pipeline"], self.doors["world"]
        self.model = self._model([data.x.shape[1], *config.hidden, data.outputs])
        self.layout = Layout(self.model.sizes, self.comm.shares, self.comm.rank, config.bucket)
        self.optimizer = Optimizer(config.optimizer, config.lr or 0.0, config.weight_decay or 0.0, self.precision.mixed)
        self.loss_scale = LossScale(self.precision.loss_scaling)
        self.keep_every = config.checkpoint_activations or 1
        """The inputs of layers 0, k, 2 k, … are kept between forward and backward."""
        self.apart = 0
        """Steps since the ranks' parameters were averaged, if they are (`zerosim.stages.local`)."""
        self.drifts: list[tuple[float, float]] = []
        """At each averaging: how far a rank was from the mean at the most, in one parameter and in all (a norm)."""
        self.recomputed = 0
        """Layers computed again in the current step."""
        self.host_traffic: Counter[str] = Counter()
        """Bytes moved in the current step, "to_host" and "from_host"."""
        self.pruner = pruner(config, self.model.widths, self.model.parts, self.world, self.ledger)
        self.signalled: Callable[[], int] = lambda: 0
        """Returns the number of the signal that has asked this process to end, 0 if none has."""
        self.ending = 0
        """The signal that any rank had heard by the time of the last `agree`, 0 if none."""
        self.phases: list[Phase] = []
        """The beginnings of the phases of the current step."""

    def _model(self, widths: list[int]) -> MLP:
        numerics = (self.precision.dtype, self.precision.compute)
        layers = self.grid.layers(self.pipe.rank, len(widths) - 1)
        held = parts(widths, self.tensor.size, self.tensor.rank, layers)
        if self.tensor.size > 1:
            return TensorParallelMLP(widths, *numerics, self.ledger, held, self.tensor)
        return MLP(widths, *numerics, self.ledger, held)

    def stand_in(self) -> "Rank":
        """Return another rank like this one, with books of its own and nothing allocated."""
        return Rank(self._transport, self.config, self.data, self._collective)

    # memory ----------------------------------------------------------------------------------------------------------

    def zeros(self, cls: str, elements: int) -> np.ndarray:
        """Take a vector of zeros from the ledger, in the precision's dtype; optimizer states in its computing dtype."""
        dtype = self.precision.compute if cls == "optimizer_states" else self.precision.dtype
        vector = self.ledger.take(cls, elements, dtype)
        vector.fill(0)
        return vector

    def buckets(self, vector: np.ndarray) -> list[np.ndarray]:
        """The buckets of a full vector, as views."""
        return [vector[bucket.full] for bucket in self.layout.buckets()]

    def own(self, vector: np.ndarray, bucket: Bucket) -> np.ndarray:
        """This rank's slice of a bucket, in a full vector or in its shard."""
        return vector[bucket.own if vector.size == self.layout.padded else bucket.shard]

    def slices(self, vector: np.ndarray) -> Iterator[tuple[Bucket, np.ndarray]]:
        """Yield each bucket and this rank's slice of it, padding included."""
        for bucket in self.layout.buckets():
            yield bucket, self.own(vector, bucket)

    # one step --------------------------------------------------------------------------------------------------------

    def phase(self, name: str) -> None:
        """Say what begins now; the time until the next call is this phase's."""
        self.phases.append(self.doors.phase(name))

    def layer(self, k: int) -> AbstractContextManager[None]:
        """Tell whoever listens that a `with` block works on layer k."""
        return self.doors.span(f"layer {self.model.parts[k].layer}", "layer")

    def micro_batches(self, batch: np.ndarray) -> list[np.ndarray]:
        """Cut this rank's rows of a global batch (row numbers) into micro-batches."""
        rows = share(batch, self.comm.rank, self.comm.size)
        return [rows[m :: self.config.grad_accum] for m in range(self.config.grad_accum)]

    def load(self, rows: np.ndarray, x: np.ndarray) -> None:
        """Copy rows of the data to x, (features, rows)."""
        with self.ledger.borrow("buffers", x.shape[::-1], x.dtype) as picked:
            np.take(self.data.x, rows, axis=0, out=picked, mode="clip")
            x[...] = picked.T

    def partitions(self, k: int) -> bool:
        """Whether tensor-parallel ranks, which have layer k's input alike, keep a part of it each."""
        return self.config.partition_activations and self.model.parts[k].cut == "column"

    def loss(self, outputs: np.ndarray, rows: np.ndarray) -> float:
        """Return the loss summed over rows; `outputs` become the scaled gradient of the mean over the global batch."""
        scale = self.loss_scale.value / self.config.batch_size
        loss = self.model.cross_entropy if self.data.classes is not None else self.model.squared_error
        with self.model.all_outputs(outputs) as every:
            return loss(every, self.data.y[rows], scale)

    def correct(self, outputs: np.ndarray, rows: np.ndarray) -> float:
        """Return how many rows' greatest output is that of their class."""
        with self.model.all_outputs(outputs) as every:
            return float(np.count_nonzero(every.argmax(axis=0) == self.data.y[rows]))

    def sum(self, known: Sequence[float], *numbers: float) -> list[float]:
        """Return each number's sum over all ranks; those `known` alike to tensor-parallel ranks count once."""
        return [float(total) for total in self.numbers(known, *numbers).sum(axis=0)]

    def numbers(self, known: Sequence[float], *numbers: float) -> np.ndarray:
        """Return all ranks' numbers, (ranks, numbers); of `known` ones, alike to tensor-parallel ranks, one counts."""
        return self.world.numbers(*(number if self.tensor.rank == 0 else 0.0 for number in known), *numbers)

    def agree(self, loss: float, alone: bool = False) -> tuple[float, float | None]:
        """Return the loss summed over the ranks, and the factor that undoes the loss scale and clips the gradient.

        The factor None says that all ranks skip this step; if not, it is the optimizer's next one.
        One all-reduce of a few numbers does it, which also tells all ranks if one of them is `signalled`. Where the
        norm is needed, each rank squares its own slices; their sum is the square of the whole gradient's norm. If any
        number on any rank has overflowed, that sum is not finite on all of them, and where no norm is needed, an inf
        says so. Clipping is PyTorch's clip_grad_norm_.

        With `alone` the gradient has not been reduced: each rank has a norm and a factor of its own, for N times its
        part of the mean over the global batch; a step is skipped by all ranks all the same.
        """
        clip, scale = self.config.clip_norm, self.loss_scale.value
        squares = 0.0
        times = self.comm.size if alone else 1
        slices = [self.gradients] if alone else [own for _, own in self.slices(self.gradients)]
        if clip is not None:
            squares = sum(sum_of_squares(gradient, self.precision.compute, self.ledger) for gradient in slices)
        elif self.loss_scale.on and not all(finite(gradient, self.ledger) for gradient in slices):
            squares = math.inf
        table = self.numbers([loss], squares, float(self.signalled()))
        loss, everyone, _ = map(float, table.sum(axis=0))
        self.ending = int(table[:, 2].max())
        if not alone:
            squares = everyone
        overflowed = self.loss_scale.on and not math.isfinite(everyone)
        self.loss_scale.update(overflowed)
        if overflowed:
            return loss, None
        self.optimizer.t += 1
        factor = 1.0 if clip is None else min(1.0, clip / (times * math.sqrt(squares) / scale + 1e-6))
        return loss, times * factor / scale

    def accumulate(self, total: np.ndarray, gradient: np.ndarray) -> None:
        """Add a gradient to that of the micro-steps before."""
        add(total, gradient, total, self.ledger)

    def pruning(self) -> AbstractContextManager[None]:
        """For the length of a `with` block, let `update` leave out the groups to prune, if any are to be."""
        return self.pruner.choosing(self.slices(self.gradients)) if self.pruner else nullcontext()

    def update(self, parameters: slice, gradients: slice, states: slice, factor: float) -> None:
        """Let the optimizer update `parameters` with `factor` times `gradients`; the slices are equally long."""
        arrays = (
            self.parameters[parameters],
            self.gradients[gradients],
            {name: state[states] for name, state in self.states.items()},
        )
        with self.doors.span("optimizer", "update"):
            if self.pruner:
                pieces = self.layout.elements(parameters, full=self.parameters.size == self.layout.padded)
                self.pruner.update(self.optimizer, pieces, *arrays, factor)
            else:
                self.optimizer.step(*arrays, factor, self.ledger)

    # weights ---------------------------------------------------------------------------------------------------------

    def own_weights(self) -> list[np.ndarray]:
        """This rank's slice of each bucket's full-precision weights, padding included, as views."""
        source = self.states.get("master", self.parameters)
        return [self.own(source, bucket) for bucket in self.layout.buckets()]
