"""The loop: for each stage, allocate, step through the batches, evaluate, and record what was counted."""

import dataclasses
import hashlib
import json
import math
import signal
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from zerosim import whole
from zerosim.blas import one_thread
from zerosim.checkpoint import Checkpoints, open_checkpoint, restore
from zerosim.checkpoint.manifest import check_same
from zerosim.checkpoint.reader import the_one_before
from zerosim.collectives import VERBS, Algorithm
from zerosim.comm import CONTROL, Comm, chosen, open_door
from zerosim.config import Config
from zerosim.data import Dataset, batches, convert, load, share, split
from zerosim.errors import Diverged, Failed, Finished, InputError, Interrupted
from zerosim.heap import give_back, keep
from zerosim.ledger import Ledger
from zerosim.parallel import GROUPS, Grid, parts
from zerosim.partition import without_padding
from zerosim.precision import precision
from zerosim.pruning import BOOK, Groups
from zerosim.rank import Rank
from zerosim.room import check_states
from zerosim.schedule import outputs
from zerosim.spans import Spans
from zerosim.stages import STAGES, local
from zerosim.trace import Traced, tracing
from zerosim.transport import Transport, connect
from zerosim.watch import Watch
from zerosim.weightfile import check_writable, open_weights, weight_writer
from zerosim.witness import WITNESSES, Witness
from zerosim.words import counted

Progress = Callable[[int, int, int, float], None]
"""Called on rank 0 after each step: stage, step from 1, steps in all, loss."""


@dataclass
class Run:
    """What was measured in the run of one stage; the same on every rank, but for `recorded`.

    Lists "per rank" are in the order of ranks.
    """

    stage: int
    loss: list[float | None] = field(default_factory=list)
    """Mean over the global batch, a number per step; None where it was not finite (an overflow)."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    """Which setting ended the training: "epochs", "steps", "target_loss" or "patience"."""
    drifts: list[tuple[float, float]] = field(default_factory=list)
    """At each averaging of parameters: the greatest distance of a rank's parameter from the mean, and the root mean
    square over the ranks of the distance of all their parameters."""
    resumed: dict[str, Any] | None = None
    """The checkpoint that the run went on from: "folder", "step", "stage" and "ranks", and "peak", the most that each
    rank held while it read, in bytes; None if it began anew."""
    checkpoints: list[list[dict[str, Any]]] = field(default_factory=list)
    """What each rank wrote in each: "step", "seconds", and "tensors" and "file" in bytes."""
    averaging: list[int] = field(default_factory=list)
    """Per rank: bytes sent in the whole run to average parameters."""
    skipped_steps: int = 0
    final_loss_scale: float = 1.0
    weights_sha256: str = ""
    largest_difference: float = 0.0
    """Greatest |difference| of a weight from the first stage's; measured where orders of sums differ."""
    at_rest: list[dict[str, int]] = field(default_factory=list)
    """Per rank: bytes by memory class, after the last step."""
    peak: list[dict[str, int]] = field(default_factory=list)
    """Per rank: bytes by memory class and "total", at the greatest total within any step."""
    sent_per_step: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    """By group of ranks ("data", "tensor", "pipeline"), per rank: bytes sent by verb in each step; where parameters are
    averaged every H steps, in such a step. (All are alike.)"""
    messages_per_step: list[int] = field(default_factory=list)
    control: list[int] = field(default_factory=list)
    """Per rank: bytes sent in the whole run for loss, norm, overflow flags, evaluation and the weights' hash."""
    activations: dict[str, list[Any]] = field(default_factory=dict)
    """Per rank, in each step: greatest bytes on the "device" and on the "host", whenever that was; "recomputed" layers;
    bytes moved "to_host" and "from_host"."""
    sent: list[int] = field(default_factory=list)
    """Per rank: all bytes handed to the transport."""
    received: list[int] = field(default_factory=list)
    """Per rank: all bytes that the transport says have arrived."""
    who: list[tuple[int, str]] = field(default_factory=list)
    """(bytes of a bucket, the algorithm that moved it), in ascending order."""
    witnesses: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    """By witness, per rank: its testimony, in bytes (`zerosim.witness`)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Medians over the steps, on rank 0: "seconds_per_step", "compute", "communicate", of which "waiting", "update",
    and "slept", by a straggler."""
    work: list[dict[str, Any]] = field(default_factory=list)
    """Per rank, in a step: "operations", elements "updated", the seconds of both, "compute" and "update", and seconds
    "waited_for" each rank."""
    recorded: list[list[Any]] = field(default_factory=list, compare=False)
    """Per rank: what it did in the step of the timeline (`zerosim.transport.watched.Entry`). On rank 0 alone, and only
    where ranks wait for one another by design (`Config.waits`)."""
    pruning: dict[str, Any] = field(default_factory=dict)
    """`zerosim.pruning.Pruner.record`, "zero_weights" of the whole model, and bytes "sent" for it per rank."""
    timeline: dict[str, Any] = field(default_factory=dict)
    """One step of rank 0: "seconds" of each change, bytes by class after it, and the "phases" with their beginnings."""


@dataclass
class Records:
    """All that a call of `train` measured, and what it ran."""

    config: Config
    world_size: int
    backend: str
    widths: list[int]
    parameters: int
    padded_parameters: int
    """Elements of all tensor-parallel and pipeline ranks that make a model together."""
    data: dict[str, Any]
    runs: list[Run]
    slices_sent: dict[int, dict[str, list[list[list[int]]]]] | None = None
    """Of a reader's own collective, which no formula knows: the slices that each of N ranks sends, by N and verb."""

    @property
    def grid(self) -> Grid:
        """Where the ranks stand."""
        return self.config.grid(self.world_size)


Signalled = Callable[[], int]
"""Returns the number of the signal that has asked for the end, 0 if none has."""


def train(
    config: Config,
    comm: Any = None,
    data: Dataset | None = None,
    progress: Progress | None = None,
    signalled: Signalled | None = None,
    traced: Traced | None = None,
) -> Records:
    """Train at each of `config.stages`, one after the other, and return what was counted, the same on every rank.

    `comm` is what `run_threads` hands to its function, or an mpi4py communicator; None is a world of one rank. `data`
    takes the place of `config.data`. `traced` is given the trace on rank 0, if one is asked for; without it, the trace
    is written to the file at once. Raises InputError, on all ranks together, if the data or a file does not fit the
    settings, Diverged if the loss is no longer finite, Failed if a checkpoint cannot be written, Interrupted if one is
    `signalled` to end. If a single rank raises anything, the others are ended: under MPI with its traceback and
    MPI_Abort, in `run_threads` by an exception in the caller.
    """
    transport = connect(comm)
    if transport.backend == "mpi":
        keep()
    try:
        with one_thread() if transport.backend == "mpi" else nullcontext():
            return _train(transport, config, data, progress, signalled, traced)
    except (InputError, Failed):
        raise
    except BaseException:
        transport.abort()
        raise


def _train(
    transport: Transport,
    config: Config,
    data: Dataset | None,
    progress: Progress | None,
    signalled: Signalled | None,
    traced: Traced | None,
) -> Records:
    outside = Comm(transport, Ledger())
    data, collective = outside.agreed(_prepare, config, data, transport)
    rows = split(data, config.test_fraction, config.seed)
    if config.test_fraction is None:
        config = dataclasses.replace(config, test_fraction=data.own_test / len(data.x) or 0.2)
    if config.resume is not None:
        config = outside.agreed(_resume, config, data, transport)
    runs: list[Run] = []
    reference: list[np.ndarray] = []
    progress = progress if transport.rank == 0 else None
    with tracing(config, outside, transport.backend, traced) as spans:
        for stage in config.stages:
            with np.errstate(over="ignore", invalid="ignore"):
                rank = Rank(transport, config, data, collective)
                rank.signalled = signalled or rank.signalled
                with spans.stage(rank, stage) if spans else nullcontext():
                    runs.append(_run_stage(stage, rank, outside, rows, progress, spans))
                if config.grad_accum > 1 or rank.comm.modelled:
                    reference = reference or [own.copy() for own in rank.own_weights()]
                    pairs = zip(reference, rank.own_weights(), strict=True)
                    difference = max(float(np.max(np.abs(a - b))) for a, b in pairs)
                    runs[-1].largest_difference = max(outside.gather_values(difference))
    return Records(
        config=config,
        world_size=transport.size,
        backend=transport.backend,
        widths=rank.model.widths,
        parameters=sum(part.size for part in parts(rank.model.widths)),
        padded_parameters=sum(outside.gather_values(rank.layout.padded if rank.comm.rank == 0 else 0)),
        data={
            "name": data.name,
            "rows": len(data.x),
            "train_rows": len(rows[0]),
            "test_rows": len(rows[1]),
            "task": "regression" if data.classes is None else "classification",
            "classes": data.classes,
        },
        runs=runs,
        slices_sent=_slices_sent(collective, rank.grid),
    )


def _slices_sent(collective: Algorithm | str, grid: Grid) -> dict[int, dict[str, list[list[list[int]]]]] | None:
    if isinstance(collective, str) or collective.proven:
        return None
    return {
        N: {verb: [collective.slices_sent(verb, rank, N) for rank in range(N)] for verb in VERBS}
        for N in (grid.data, grid.tensor)
    }


def _prepare(config: Config, data: Dataset | None, transport: Transport) -> tuple[Dataset, Algorithm | str]:
    """Load the data, choose the collective, and check all that can be wrong before anything is trained."""
    if config.witnesses and transport.backend == "threads" and transport.size > 1:
        which = "trace_memory" if config.trace_memory else "witness"
        raise InputError(f"{which}: no witness can tell in-process ranks apart; use mpirun, or one rank")
    grid = _grid(config, transport.size)
    if config.batch_size < grid.data * config.grad_accum:
        raise InputError(
            f"batch_size: a batch of {counted(config.batch_size, 'row')} is too small for "
            f"{counted(grid.data, 'rank')} with {counted(config.grad_accum, 'micro-step')} each; it must be "
            f"{grid.data * config.grad_accum} or more"
        )
    for N in [n for n in (grid.tensor, grid.data) if n > 1] or [grid.data]:
        collective = chosen(config.collective, N)
    open_door(transport, Ledger(), collective)
    numerics = precision(config.precision)
    data = convert(data or load(config.data), numerics.dtype, numerics.compute)
    train_rows = len(split(data, config.test_fraction, config.seed)[0])
    if config.batch_size > train_rows:
        raise InputError(f"batch_size: {config.batch_size} is more than the {train_rows} rows there are to train on")
    widths = [data.x.shape[1], *config.hidden, data.outputs]
    _check_parts(config, widths, transport.size)
    check_states(config.stages, widths, grid, config.precision, config.optimizer, transport.here)
    if config.prune_groups is not None:
        Groups(widths, config.prune_by or "row").chosen(config.prune_groups)
    if config.init is not None:
        with open_weights(config.init, widths):
            pass
    if config.save is not None and transport.rank == 0:
        check_writable(config.save)
    if config.trace is not None and transport.rank == 0:
        check_writable(config.trace, "trace")
    return data, collective


def _grid(config: Config, size: int) -> Grid:
    """Where the ranks stand. Raises InputError if they cannot be shared out."""
    T, P = config.tensor_parallel, config.pipeline
    if size % (T * P):
        each = " x ".join(f"{n} {name}" for name, n in (("tensor-parallel", T), ("pipeline", P)) if n > 1)
        raise InputError(
            f"{counted(size, 'rank')} cannot be shared out among {each} ranks; their number must be a multiple of "
            f"{T * P}"
        )
    grid = config.grid(size)
    if grid.slices is not None and len(grid.slices) != grid.data:
        raise InputError(
            f"slices: {','.join(map(str, grid.slices))} are for {len(grid.slices)} data-parallel ranks; "
            f"there are {grid.data}"
        )
    return grid


def _resume(config: Config, data: Dataset, transport: Transport) -> Config:
    """Look at the whole checkpoint before anything is trained, each rank at its part, and return which one it is."""
    assert config.resume is not None
    checkpoint = open_checkpoint(config.resume)
    check_same(checkpoint.manifest, config, data.description, f"resume {checkpoint.folder}")
    if checkpoint.manifest.widths != [data.x.shape[1], *config.hidden, data.outputs]:
        raise InputError(f"resume {checkpoint.folder}: its layers {checkpoint.manifest.widths} do not fit the data")
    try:
        checkpoint.verify(range(transport.rank, checkpoint.manifest.grid.size, transport.size))
    except InputError as error:
        raise the_one_before(error, checkpoint.folder) from None
    return dataclasses.replace(config, resume=str(checkpoint.folder))


def _check_parts(config: Config, widths: list[int], size: int) -> None:
    """Raise InputError if a rank would have no layer, or nothing of one, or if there is no such rank."""
    n, T, P = len(widths) - 1, config.tensor_parallel, config.pipeline
    if config.straggler is not None and config.straggler[0] >= size:
        raise InputError(
            f"straggler: there is no rank {config.straggler[0]}; the last of {counted(size, 'rank')} is {size - 1}"
        )
    if config.pipeline_layers and sum(config.pipeline_layers) != n:
        counts = ",".join(map(str, config.pipeline_layers))
        raise InputError(
            f"pipeline_layers: {counts} are {counted(sum(config.pipeline_layers), 'layer')}; the model has {n}"
        )
    if n < P:
        raise InputError(f"pipeline: {P} ranks are too many for {counted(n, 'layer')}; each needs one at least")
    for width in widths[1::2]:  # these are cut
        if width < T:
            raise InputError(f"tensor_parallel: {T} ranks are too many for a layer of width {width}")


# one stage -----------------------------------------------------------------------------------------------------------


def _run_stage(
    number: int,
    rank: Rank,
    outside: Comm,
    rows: tuple[np.ndarray, np.ndarray],
    progress: Progress | None,
    spans: Spans | None,
) -> Run:
    config, run = rank.config, Run(number)
    stage = local if config.sync == "average" else STAGES[number]
    with ExitStack() as stack:
        witnesses = {name: outside.agreed(WITNESSES[name], outside) for name in config.witnesses}
        if any(witness.rehearses for witness in witnesses.values()):
            _rehearse(stage, rank, outside, rows[0])
        for witness in witnesses.values():
            stack.callback(witness.close)
        _let_look(witnesses, "before_allocation", outside)
        with rank.doors.span("allocate"):
            outside.agreed(stage.allocate, rank)
        with rank.doors.span("resume") if config.resume is not None else nullcontext():
            taken_up = _take_up(run, rank)
        saver = Checkpoints(rank, number) if config.checkpoint is not None else None
        if saver:
            stack.callback(saver.close)
        give_back()
        _let_look(witnesses, "after_allocation", outside)
        before = outside.sent.total(), outside.received
        watch = Watch(rank, list(witnesses.values()), len(run.loss), spans)
        watch.updates = taken_up
        _train_and_evaluate(run, stage, rank, watch, rows, progress, saver)
        if rank.apart:
            local.average(rank)
        run.drifts = rank.drifts
        run.averaging = outside.gather_values(rank.comm.sent["all_reduce"] if rank.drifts else 0)
        at_rest = dict(rank.ledger.now)
        sent, received = rank.doors.moved()
        after = outside.sent.total() + sent, outside.received + received
        _let_look(witnesses, "at_rest", outside)
        testimony = {name: witness.testimony() for name, witness in witnesses.items()}
    if "wire" in testimony:
        testimony["wire"] |= {"counted_sent": after[0] - before[0], "counted_received": after[1] - before[1]}
    run.skipped_steps = len(run.loss) - watch.updates
    run.final_loss_scale = rank.loss_scale.value
    who = {(size, name) for own in outside.gather_values(list(rank.comm.who.items())) for size, name in own}
    run.who = sorted(who)
    with rank.doors.span("hash and save" if config.save is not None else "hash"):
        run.weights_sha256 = _hash_and_save(rank)
    everyone = outside.gather_values(
        [
            at_rest,
            watch.peak,
            watch.sent,
            watch.messages,
            watch.activations,
            watch.work(),
            sum(door.sent[CONTROL] for door in rank.doors.values()),
            *rank.doors.moved(),
            testimony,
        ],
    )
    columns = [list(column) for column in zip(*everyone, strict=True)]
    run.at_rest, run.peak, sent_per_step, run.messages_per_step, activations, run.work = columns[:6]
    run.control, run.sent, run.received = columns[6:-1]
    run.activations = {what: [own[what] for own in activations] for what in activations[0]}
    run.sent_per_step = {group: [own[group] for own in sent_per_step] for group in GROUPS}
    run.witnesses = {name: [rank_[name] for rank_ in columns[-1]] for name in testimony}
    run.pruning = _pruning(rank, outside)
    run.checkpoints = outside.gather_values(saver.written) if saver else []
    run.seconds, run.timeline = outside.gather_values([watch.medians(), watch.timeline])[0]
    if config.waits:
        run.recorded = [json.loads(text) for text in outside.collect_bytes(json.dumps(watch.recorded).encode())]
    return run


def _pruning(rank: Rank, outside: Comm) -> dict[str, Any]:
    """What was pruned, how many weights are 0 at the end, and bytes sent for it per rank; nothing where none is."""
    if rank.pruner is None:
        return {}
    own = [without_padding(bucket, w) for bucket, w in rank.slices(rank.states.get("master", rank.parameters))]
    zeros = sum(w.size - int(np.count_nonzero(w)) for w in own)
    everyone = outside.gather_values([zeros, rank.world.sent[BOOK]])
    sent = [bytes_ for _, bytes_ in everyone]
    return {**rank.pruner.record(), "zero_weights": sum(n for n, _ in everyone), "sent": sent}


def _train_and_evaluate(
    run: Run,
    stage: ModuleType,
    rank: Rank,
    watch: Watch,
    rows: tuple[np.ndarray, np.ndarray],
    progress: Progress | None,
    saver: Checkpoints | None,
) -> None:
    config = rank.config
    per_epoch = len(rows[0]) // config.batch_size
    steps = config.steps or (config.epochs or 0) * per_epoch
    every = config.checkpoint_every or per_epoch

    def save(last: bool) -> None:
        """Write a checkpoint if one is due; end if a signal has asked for it."""
        done = len(run.loss)
        written = None
        if saver and (last or rank.ending or done % every == 0):
            whole = run.epochs[: done // per_epoch]  # the last one may have been cut short
            history = {"loss": run.loss, "epochs": whole, "updates": watch.updates, "batch": done % per_epoch}
            with rank.doors.span("checkpoint"):
                written = saver.save(done, history)
        if rank.ending and not last:
            rest = f"; --resume {written} goes on" if written else "; nothing was saved, for no --checkpoint was given"
            name = signal.Signals(rank.ending).name
            raise Interrupted(f"{name} has ended the run after step {done} of {steps}{rest}", rank.ending)

    if len(run.epochs) != len(run.loss) // per_epoch:
        raise InputError(
            f"resume {config.resume}: it has {counted(len(run.epochs), 'epoch')} in "
            f"{counted(len(run.loss), 'step')}, and an epoch of this "
            f"training has {per_epoch}"
        )
    if len(run.loss) >= steps or _over(config, run):
        raise Finished(
            f"resume {config.resume}: the training is over after {counted(len(run.loss), 'step')}; ask for "
            "more with steps or epochs, or make one file of its weights with 'checkpoint consolidate'"
        )
    while not run.stopped:
        epoch, begin = len(run.epochs) + 1, len(run.epochs) * per_epoch
        shuffled = batches(rows[0], config.batch_size, epoch, config.seed, config.shuffle)[: steps - begin]
        for number, batch in enumerate(shuffled[len(run.loss) - begin :], len(run.loss) - begin + 1):
            loss = watch.step(stage, batch) / config.batch_size
            _check_loss(rank, loss, run.stage, len(run.loss) + 1)
            run.loss.append(loss if math.isfinite(loss) else None)
            if progress:
                progress(run.stage, len(run.loss), steps, loss)
            if number < len(shuffled):
                save(last=False)
        with rank.doors.span("evaluation"):
            run.epochs.append(_epoch(epoch, run.loss[begin:], rank, stage, rows))
        give_back()
        run.stopped = _over(config, run) or ("" if len(run.loss) < steps else "steps" if config.steps else "epochs")
        save(last=bool(run.stopped))


def _take_up(run: Run, rank: Rank) -> int:
    """Go on from the checkpoint, if there is one; return how many steps have updated the weights so far."""
    if rank.config.resume is None:
        return 0
    checkpoint = open_checkpoint(rank.config.resume)
    restore(rank, checkpoint)
    own, state = checkpoint.manifest, checkpoint.manifest.state
    run.loss, run.epochs = list(state["loss"]), list(state["epochs"])
    run.resumed = {
        "folder": rank.config.resume,
        "step": own.step,
        "stage": own.stage,
        "ranks": own.grid.size,
        "updates": state["updates"],
        "peak": rank.world.gather_values(rank.ledger.peak["total"]),
    }
    return state["updates"]


def _over(config: Config, run: Run) -> str:
    """Return which setting ends the training after an epoch; "": none does."""
    return (run.epochs and _enough(config, [epoch["train_loss"] for epoch in run.epochs])) or ""


def _enough(config: Config, losses: list[float | None]) -> str | None:
    """Return which setting ends the training, from the loss on all training rows after each epoch; None: none does.

    Every rank has the same losses, so all of them stop together. One that is not finite is no improvement.
    """
    known = [math.inf if loss is None else loss for loss in losses]
    if config.target_loss is not None and known[-1] <= config.target_loss:
        return "target_loss"
    best = known.index(min(known))
    if config.patience is not None and len(known) - 1 - best >= config.patience:
        return "patience"
    return None


def _rehearse(stage: ModuleType, rank: Rank, outside: Comm, rows: np.ndarray) -> None:
    """Take one step that nothing remembers, so that the libraries have taken what memory they keep."""
    stand_in = rank.stand_in()
    outside.agreed(stage.allocate, stand_in)
    stage.step(stand_in, rows[: rank.config.batch_size])


def _let_look(witnesses: dict[str, Witness], what: str, outside: Comm) -> None:
    """Tell the witnesses what has happened, while no rank sends anything."""
    if witnesses:
        outside.sum(0)
        for witness in witnesses.values():
            getattr(witness, what)()
        outside.sum(0)


def _check_loss(rank: Rank, loss: float, stage: int, step: int) -> None:
    """Stop a run that cannot recover. With loss scaling a step may overflow, but not at every scale."""
    if not rank.loss_scale.on and not math.isfinite(loss):
        raise Diverged(f"stage {stage}, step {step}: the loss is {loss}; try a smaller learning rate or scaled data")
    if rank.loss_scale.value < 2.0**-24:
        raise Diverged(f"stage {stage}, step {step}: the gradient overflows at every loss scale; try another precision")


# evaluation and weights ----------------------------------------------------------------------------------------------


def _epoch(
    epoch: int, losses: list[float | None], rank: Rank, stage: ModuleType, rows: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """The record of an epoch: the mean of its steps' losses, then both parts of the data with its last weights."""
    finite = [loss for loss in losses if loss is not None]
    with rank.comm.booked_as(CONTROL), local.as_one(rank):
        train_loss, train_accuracy = evaluate(rank, stage, rows[0])
        test_loss, test_accuracy = evaluate(rank, stage, rows[1])
    return {
        "epoch": epoch,
        "steps": len(losses),
        "loss": sum(finite) / len(finite) if finite else None,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
    }


def evaluate(rank: Rank, stage: ModuleType, rows: np.ndarray) -> tuple[float | None, float | None]:
    """Return mean loss and accuracy (None for regression) over rows, each rank taking its share; None without rows."""
    if not rows.size:
        return None, None
    loss = correct = 0.0
    chunk = max(rank.config.batch_size, 256 * rank.comm.size)
    with ExitStack() as stack:
        for door in rank.doors.values():
            stack.enter_context(door.booked_as(CONTROL))
        for start in range(0, rows.size, chunk):
            mine = share(rows[start : start + chunk], rank.comm.rank, rank.comm.size)
            made = outputs(rank, mine, stage.forward)
            if made is not None:
                correct += rank.correct(made, mine) if rank.data.classes is not None else 0.0
                loss += rank.loss(made, mine)
                rank.ledger.release(made)
                del made
    loss, correct = rank.sum([loss, correct])
    mean = loss / rows.size
    return mean if math.isfinite(mean) else None, correct / rows.size if rank.data.classes is not None else None


def _hash_and_save(rank: Rank) -> str:
    """Return SHA-256 of the full-precision weights, in layer order, little-endian; save them if that is asked for."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        writer = None
        if rank.config.save is not None and rank.world.rank == 0:
            writer = stack.enter_context(weight_writer(rank.config.save, rank.model.widths, rank.precision.compute))
        for weights in whole.weights(rank):
            digest.update(np.ascontiguousarray(weights, weights.dtype.newbyteorder("<")).data)
            if writer:
                writer.write(weights)
    return digest.hexdigest()
