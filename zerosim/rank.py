"""What one rank works with: its ledger, its door, the layout, the numerics. A stage adds the arrays and the steps."""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from zerosim.collectives import Algorithm
from zerosim.comm import open_door
from zerosim.config import Config
from zerosim.data import Dataset, share
from zerosim.ledger import Ledger
from zerosim.mlp import MLP
from zerosim.optim import Optimizer, sum_of_squares
from zerosim.partition import Bucket, Layout
from zerosim.precision import LossScale, add, finite, precision
from zerosim.transport import Transport


class Phase(NamedTuple):
    """The beginning of a phase, and how long the rank had been at the door and waiting by then; all in seconds."""

    at: float
    inside: float
    waited: float
    name: str


class Rank:
    """One rank of a run of one stage.

    `parameters`, `gradients` and `states` are what the stage's `allocate` makes of them: full vectors of
    `layout.padded` elements, or this rank's shard of `layout.shard`. `collective` is what was chosen for the whole
    training; left out, it is looked up.
    """

    parameters: np.ndarray
    gradients: np.ndarray
    states: dict[str, np.ndarray]

    def __init__(
        self, transport: Transport, config: Config, data: Dataset, collective: Algorithm | str | None = None
    ) -> None:
        self.config, self.data = config, data
        self._transport, self._collective = transport, collective
        self.precision = precision(config.precision)
        self.ledger = Ledger()
        self.comm = open_door(transport, self.ledger, collective or config.collective)
        widths = [data.x.shape[1], *config.hidden, data.outputs]
        self.model = MLP(widths, self.precision.dtype, self.precision.compute, self.ledger)
        self.layout = Layout(self.model.sizes, transport.size, transport.rank, config.bucket)
        self.optimizer = Optimizer(config.optimizer, config.lr or 0.0, config.weight_decay or 0.0, self.precision.mixed)
        self.loss_scale = LossScale(self.precision.loss_scaling)
        self.phases: list[Phase] = []
        """The beginnings of the phases of the current step."""

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

    # one step --------------------------------------------------------------------------------------------------------

    def phase(self, name: str) -> None:
        """Say what begins now; the time until the next call is this phase's."""
        self.phases.append(Phase(time.perf_counter(), self.comm.seconds, self.comm.waited, name))

    def micro_batches(self, batch: np.ndarray) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
        """Cut this rank's rows of a global batch (row numbers) into micro-batches: activations [x], and targets y."""
        rows = share(batch, self.comm.rank, self.comm.size)
        for micro in range(self.config.grad_accum):
            yield self.load(rows[micro :: self.config.grad_accum])

    def load(self, rows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Copy rows of the data, as columns: the activations so far, [x], which the caller releases, and targets y."""
        x = self.ledger.take("activations", (self.data.x.shape[1], rows.size), self.precision.dtype)
        with self.ledger.borrow("buffers", x.shape[::-1], x.dtype) as picked:
            np.take(self.data.x, rows, axis=0, out=picked, mode="clip")
            x[...] = picked.T
        return [x], self.data.y[rows]

    def loss(self, outputs: np.ndarray, y: np.ndarray) -> float:
        """Return the loss summed over rows; `outputs` become the scaled gradient of the mean over the global batch."""
        scale = self.loss_scale.value / self.config.batch_size
        loss = self.model.cross_entropy if self.data.classes is not None else self.model.squared_error
        return loss(outputs, y, scale)

    def agree(self, loss: float) -> tuple[float, float | None]:
        """Return the loss summed over the ranks, and the factor that undoes the loss scale and clips the gradient.

        The factor None says that all ranks skip this step; if not, it is the optimizer's next one.
        One all-reduce of a few numbers does it. Where the norm is needed, each rank squares its own slices; their sum
        is the square of the whole gradient's norm. If any number on any rank has overflowed, that sum is not finite on
        all of them, and where no norm is needed, an inf says so. Clipping is PyTorch's clip_grad_norm_.
        """
        clip, scale = self.config.clip_norm, self.loss_scale.value
        squares = 0.0
        slices = [self.own(self.gradients, bucket) for bucket in self.layout.buckets()]
        if clip is not None:
            squares = sum(sum_of_squares(gradient, self.precision.compute, self.ledger) for gradient in slices)
        elif self.loss_scale.on and not all(finite(gradient, self.ledger) for gradient in slices):
            squares = math.inf
        loss, squares = self.comm.sum(loss, squares)
        overflowed = self.loss_scale.on and not math.isfinite(squares)
        self.loss_scale.update(overflowed)
        if overflowed:
            return loss, None
        self.optimizer.t += 1
        factor = 1.0 if clip is None else min(1.0, clip / (math.sqrt(squares) / scale + 1e-6))
        return loss, factor / scale

    def accumulate(self, total: np.ndarray, gradient: np.ndarray) -> None:
        """Add a gradient to that of the micro-steps before."""
        add(total, gradient, total, self.ledger)

    def update(self, parameters: slice, gradients: slice, states: slice, factor: float) -> None:
        """Let the optimizer update `parameters` with `factor` times `gradients`; the slices are equally long."""
        self.optimizer.step(
            self.parameters[parameters],
            self.gradients[gradients],
            {name: state[states] for name, state in self.states.items()},
            factor,
            self.ledger,
        )

    # weights ---------------------------------------------------------------------------------------------------------

    def own_weights(self) -> list[np.ndarray]:
        """This rank's slice of each bucket's full-precision weights, padding included, as views."""
        source = self.states.get("master", self.parameters)
        return [self.own(source, bucket) for bucket in self.layout.buckets()]

    def weights(self) -> Iterator[tuple[Bucket, np.ndarray]]:
        """Yield each bucket's full-precision weights, without padding, gathered from the slices of all ranks.

        One bucket at a time: no rank needs room for all of them. The array is lent until the next one.
        """
        largest = max(bucket.size for bucket in self.layout.buckets())
        with self.ledger.borrow("buffers", largest, self.precision.compute) as room:
            for bucket, own in zip(self.layout.buckets(), self.own_weights(), strict=True):
                full = room[: bucket.size]
                full[bucket.part] = own
                with self.comm.booked_as("control"):
                    self.comm.all_gather(full)
                yield bucket, full[: bucket.stop - bucket.start]
