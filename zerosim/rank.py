"""What one rank works with: its ledger, its doors, the layout, the numerics. A stage adds the arrays and the steps."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np

from zerosim.collectives import Algorithm
from zerosim.comm import CONTROL, open_door
from zerosim.config import Config
from zerosim.data import Dataset, share
from zerosim.ledger import Ledger
from zerosim.mlp import MLP
from zerosim.optim import Optimizer, sum_of_squares
from zerosim.parallel import parts
from zerosim.partition import Bucket, Layout
from zerosim.precision import LossScale, add, finite, precision
from zerosim.pruning import Groups, Pruner
from zerosim.tensor_parallel import TensorParallelMLP
from zerosim.transport import Transport
from zerosim.transport.watched import Entry, Recorder, Straggler, Watched


class Phase(NamedTuple):
    """The beginning of a phase, and how long the rank had been at its doors, waited and slept by then, in seconds."""

    at: float
    inside: float
    waited: float
    slept: float
    name: str


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
        groups = {**self.grid.groups(transport.rank), "world": [*range(transport.size)]}
        self._places = {group: transport.part(ranks) for group, ranks in groups.items()}
        self._groups = groups
        self.straggler = _straggler(config, transport.rank)
        self.doors = {}
        for group, place in self._places.items():
            seen = Watched(place, groups[group], self.straggler) if self.straggler else place
            algorithm = "ring" if place.size == 1 < transport.size else collective or config.collective
            shares = self.grid.shares if group == "data" else None
            self.doors[group] = open_door(seen, self.ledger, algorithm, shares)
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
        self._recorder: Recorder | None = None
        self.pruner = self._pruner() if config.prune_groups is not None else None
        self.phases: list[Phase] = []
        """The beginnings of the phases of the current step."""

    def _model(self, widths: list[int]) -> MLP:
        numerics = (self.precision.dtype, self.precision.compute)
        layers = self.grid.layers(self.pipe.rank, len(widths) - 1)
        held = parts(widths, self.tensor.size, self.tensor.rank, layers)
        if self.tensor.size > 1:
            return TensorParallelMLP(widths, *numerics, self.ledger, held, self.tensor)
        return MLP(widths, *numerics, self.ledger, held)

    def _pruner(self) -> Pruner:
        config, model = self.config, self.model
        groups = Groups(model.widths, config.prune_by or "row")
        return Pruner(
            groups, config.prune_groups or 0.0, config.prune_mode or "freeze", model.parts, self.world, self.ledger
        )

    def moved(self) -> tuple[int, int]:
        """Return all bytes sent so far, and all bytes received, through any door."""
        doors = self.doors.values()
        return sum(door.sent.total() for door in doors), sum(door.received for door in doors)

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
        slept = slept_inside = 0.0
        if self.straggler:
            self.straggler.pause()
            slept, slept_inside = self.straggler.slept, self.straggler.slept_at_gate
        if self._recorder:
            self._recorder.after("phase", name, 0)
        inside = sum(door.seconds for door in self.doors.values()) - slept_inside
        waited = sum(self.waited_for())
        self.phases.append(Phase(time.perf_counter(), inside, waited, slept, name))

    def waited_for(self) -> list[float]:
        """Return the seconds so far in which this rank waited for each rank of the world."""
        waited = [0.0] * self.grid.size
        places = {id(place): group for group, place in self._places.items()}  # some groups are the same
        for group in places.values():
            for rank, seconds in zip(self._groups[group], self._places[group].waited_for, strict=True):
                waited[rank] += seconds
        return waited

    @contextmanager
    def recording(self) -> Iterator[list[Entry]]:
        """Write down what this rank does inside the block, for `zerosim.virtual`."""
        self._recorder = Recorder(lambda: (self.model.operations, self.optimizer.updated))
        try:
            with ExitStack() as stack:
                for group, door in self.doors.items():
                    stack.enter_context(door.watched(self._groups[group], self._recorder))
                yield self._recorder.events
        finally:
            self._recorder = None

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
        return self.world.sum(*(number if self.tensor.rank == 0 else 0.0 for number in known), *numbers)

    def agree(self, loss: float, alone: bool = False) -> tuple[float, float | None]:
        """Return the loss summed over the ranks, and the factor that undoes the loss scale and clips the gradient.

        The factor None says that all ranks skip this step; if not, it is the optimizer's next one.
        One all-reduce of a few numbers does it. Where the norm is needed, each rank squares its own slices; their sum
        is the square of the whole gradient's norm. If any number on any rank has overflowed, that sum is not finite on
        all of them, and where no norm is needed, an inf says so. Clipping is PyTorch's clip_grad_norm_.

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
        loss, everyone = self.sum([loss], squares)
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

    def weights(self) -> Iterator[np.ndarray]:
        """Yield each layer's full-precision weights, W row by row, then b, the same on every rank.

        They are gathered from all ranks, a layer at a time: no rank needs room for all of them. The array is lent until
        the next one.
        """
        sizes = [part.size for part in parts(self.model.widths)]
        with self.ledger.borrow("buffers", max(sizes), self.precision.compute) as room:
            for layer, size in enumerate(sizes):
                full = room[:size]
                p = self.grid.pipeline_rank(layer, len(sizes))
                if p == self.pipe.rank:
                    self._whole_layer(layer, full)
                with self.pipe.booked_as(CONTROL):
                    self.pipe.broadcast(full, p)
                yield full

    def _whole_layer(self, layer: int, full: np.ndarray) -> None:
        """Fill `full` with a layer, from the tensor-parallel ranks' parts of it."""
        k, T, widths = layer - self.model.parts[0].layer, self.tensor.size, self.model.widths
        if T == 1:
            self._own_part(k, full)
            return
        every = [parts(widths, T, t, range(layer, layer + 1))[0] for t in range(T)]
        W = full[: widths[layer] * widths[layer + 1]].reshape(widths[layer + 1], widths[layer])
        b = full[W.size :]
        with self.ledger.borrow("buffers", (T, max(part.size for part in every)), full.dtype) as room:
            self._own_part(k, room[self.tensor.rank])
            with self.tensor.booked_as(CONTROL):
                self.tensor.all_gather(room.reshape(-1))
            for part, values in zip(every, room, strict=True):
                weights = part.outputs * part.inputs
                W[part.rows, part.columns] = values[:weights].reshape(part.outputs, part.inputs)
                b[part.biases] = values[weights : part.size]

    def _own_part(self, k: int, out: np.ndarray) -> None:
        """Fill `out` with what this rank holds of a layer, from the data-parallel ranks' slices."""
        source = self.states.get("master", self.parameters)
        buckets = self.layout.buckets(k)
        with (
            self.comm.booked_as(CONTROL),
            self.ledger.borrow("buffers", max(bucket.size for bucket in buckets), out.dtype) as room,
        ):
            for bucket in buckets:
                full, weights = room[: bucket.size], out[bucket.start : bucket.stop]
                full[bucket.part] = self.own(source, bucket)
                self.comm.all_gather(full)
                weights[:] = full[: weights.size]
                if self.parameters.size == self.layout.padded:
                    _check_same(self.parameters[bucket.full], weights)


def _check_same(parameters: np.ndarray, weights: np.ndarray) -> None:
    """What several ranks hold must be the same on all of them."""
    if parameters[: weights.size].tobytes() != weights.astype(parameters.dtype).tobytes():
        raise RuntimeError("this rank's parameters differ from the weights that the ranks own")


def _straggler(config: Config, rank: int) -> Straggler | None:
    if config.straggler is None or config.straggler[0] != rank:
        return None
    return Straggler(config.straggler[1])
