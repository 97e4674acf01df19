"""The promises of zerosim as instruments: each takes a short training, and says in numbers whether it holds.

They look at the program from outside and know of no bug. Everything is measured at all four stages, on ranks within
this process; the rows of a batch are one more than N divides, so that ranks have unequally many.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from zerosim import formulas
from zerosim.collectives import VERBS, find
from zerosim.collectives.check import trace
from zerosim.config import Config
from zerosim.data import Dataset
from zerosim.errors import Failed
from zerosim.myths.claims import either
from zerosim.myths.lab import Lab, largest
from zerosim.schedule import outputs
from zerosim.stages import STAGES, zero0
from zerosim.transport import Transport
from zerosim.words import counted

ROWS = 32
"""Rows of a batch, about."""
ROUNDING = 1e-9
"""A difference of float64 weights, as a share of the way they went, up to which it is rounding."""
SLOPE = {"fp16": 0.02}
"""How far a gradient may be from the finite difference, as a share of it, where numbers are rounded to float16 ..."""
SLOPE_ELSE = 1e-3
"""... and where not."""
DIRECTIONS, NEAR = 6, 1e-6
"""Random directions along which slopes are compared, and how far the finite difference goes."""
TRIES = 20
"""Steps until one is not skipped for an overflow."""
PATIENCE = 60
"""Seconds until ranks that have not come to an end are taken to wait for ever."""

R = TypeVar("R")


@dataclass(frozen=True)
class Reading:
    """What an instrument says: whether its promise `holds`, a phrase with the numbers, and the numbers (JSON types)."""

    holds: bool
    said: str
    numbers: dict[str, Any]


class Seen(NamedTuple):
    """What one rank did in a few steps at one stage."""

    loss: list[float]
    before: list[np.ndarray]
    """This rank's slice of each bucket's full-precision weights, at first ..."""
    after: list[np.ndarray]
    """... and at the end."""
    lengths: list[int]
    """Elements of each bucket, without padding."""
    whole: str
    """A hash of what every rank should have alike: parameters that all hold, and the loss scale."""
    held: dict[str, int]
    sent: dict[str, int]
    """Bytes of the whole run, by verb."""
    out: int
    """All bytes handed to the transport."""
    come: int


class Experiment:
    """A training that shows something: a lab, settings, and what to make of the digits, if anything."""

    def __init__(self, lab: Lab, settings: dict[str, Any], data: Callable[[Dataset], Dataset] | None = None) -> None:
        self.lab, self.N = lab, lab.N
        self.data = data(lab.digits) if data else lab.digits
        rows = ROWS // lab.N * lab.N + 1
        usual = {"optimizer": "adam", "lr": 0.02, "steps": 6, "batch_size": rows}
        self.config = lab.config(**{**usual, **settings})
        self.seen = self._on(lab.N, self.config)
        """By stage, then by rank."""

    def sgd(self, N: int, **settings: Any) -> list[list[Seen]]:
        """Take steps of plain SGD, whose step is the gradient, on N ranks: Adam hides a gradient of a wrong size."""
        return self._on(N, replace(self.config, optimizer="sgd", **settings))

    def _on(self, N: int, config: Config) -> list[list[Seen]]:
        everyone = self.lab.on(N, lambda comm: _in_time(comm, lambda: self._all_stages(comm, config)))
        if None in everyone:
            raise Failed(f"ranks wait for one another for ever: no end after {PATIENCE} s")
        return [list(ranks) for ranks in zip(*everyone, strict=True)]

    def _all_stages(self, comm: Transport, config: Config) -> list[Seen]:
        return [_see(self.lab, comm, stage, config, self.data) for stage in range(4)]


def _in_time(comm: Transport, function: Callable[[], R]) -> R:
    """Return function(); after `PATIENCE` seconds wake all ranks, whose results are then None."""
    timer = threading.Timer(PATIENCE, comm.abort)
    timer.daemon = True
    timer.start()
    try:
        return function()
    finally:
        timer.cancel()


def _see(lab: Lab, comm: Transport, stage: int, config: Config, data: Dataset) -> Seen:
    """Take the steps at a stage; if it is one step only, again and again until it is not skipped by all ranks."""
    with np.errstate(over="ignore", invalid="ignore"):
        rank = lab.rank(comm, stage, config, data=data)
        before = [own.copy() for own in rank.own_weights()]
        loss = []
        for batch in lab.batches(config):
            for _ in range(TRIES if config.steps == 1 else 1):
                total, updated = STAGES[stage].step(rank, batch)
                if config.steps != 1 or any(rank.comm.sum(float(updated))):
                    break
            loss.append(total / config.batch_size)
    alike = rank.parameters.tobytes() if rank.parameters.size == rank.layout.padded else b""
    return Seen(
        loss=loss,
        before=before,
        after=[own.copy() for own in rank.own_weights()],
        lengths=[bucket.stop - bucket.start for bucket in rank.layout.buckets()],
        whole=hashlib.sha256(alike + str(rank.loss_scale.value).encode()).hexdigest(),
        held=dict(rank.ledger.now),
        sent={verb: rank.comm.sent[verb] for verb in VERBS},
        out=rank.doors.moved()[0],
        come=rank.doors.moved()[1],
    )


def _weights(ranks: Sequence[Seen], which: str = "after") -> np.ndarray:
    """All weights, put together from the slices that ranks own, without padding."""
    buckets = zip(*(getattr(seen, which) for seen in ranks), strict=True)
    return np.concatenate(
        [np.concatenate(slices)[:length] for slices, length in zip(buckets, ranks[0].lengths, strict=True)]
    )


def _number(value: float) -> float | None:
    """A number as JSON takes it: None if it is not finite."""
    return value if math.isfinite(value) else None


# the instruments -----------------------------------------------------------------------------------------------------


def loss(e: Experiment) -> Reading:
    """What everybody looks at: the loss of the last step is below that of the first, at all stages."""
    ends = [(ranks[0].loss[0], ranks[0].loss[-1]) for ranks in e.seen]
    first, last = max(ends, key=lambda pair: (not math.isfinite(pair[1]), pair[1]))
    said = f"{first:.4f} to {last:.4f} in {counted(e.config.steps or 0, 'step')}"
    numbers = {str(stage): [_number(loss) for loss in pair] for stage, pair in enumerate(ends)}
    return Reading(all(last < first for first, last in ends), said, {"first_and_last": numbers})


def bits(e: Experiment) -> Reading:
    """Stages that add in the same order end with the same weights: all, with micro-steps 0 and 1, and 2 and 3."""
    sums = [hashlib.sha256(_weights(ranks).tobytes()).hexdigest() for ranks in e.seen]
    holds = sums[0] == sums[1] and sums[2] == sums[3] and (e.config.grad_accum > 1 or sums[1] == sums[2])
    said = "all stages: " + sums[0][:6] if len(set(sums)) == 1 else "by stage: " + " ".join(text[:6] for text in sums)
    return Reading(holds, said, {"weights_sha256": {str(stage): text for stage, text in enumerate(sums)}})


def ranks(e: Experiment) -> Reading:
    """Every rank holds the same parameters, where all are held, and the same loss scale."""
    kinds = {str(stage): len({seen.whole for seen in everyone}) for stage, everyone in enumerate(e.seen)}
    apart = [stage for stage, n in kinds.items() if n > 1]
    where = f"stage{'s' * (len(apart) > 1)} {either(apart, 'and')}" if apart else ""
    most = max(kinds.values())
    said = f"{most} different among {e.N} at {where}" if apart else f"all {e.N} alike at all stages"
    return Reading(not apart, said, {"different": kinds})


def one_rank(e: Experiment) -> Reading:
    """SGD in float64 goes to the same weights on N ranks and on one, but for rounding."""
    settings = {"precision": "fp64", "lr": 0.05, "steps": 2}
    pairs = [
        (_weights(n), _weights(n, "before"), _weights(one))
        for n, one in zip(e.sgd(e.N, **settings), e.sgd(1, **settings), strict=True)
    ]
    way = max(largest(end - start) for end, start, _ in pairs)
    share = max(largest(end - one) for end, _, one in pairs) / (way or 1.0)
    return Reading(share < ROUNDING, f"differs by {share:.2g} of the way", {"difference": _number(share)})


def gradient(e: Experiment) -> Reading:
    """A step of SGD is the slope of the loss, by finite differences in float64; a limit not reached changes nothing."""
    clip = None if e.config.clip_norm is None else 100.0
    seen = e.sgd(e.N, lr=1.0, steps=1, clip_norm=clip, weight_decay=0.0)
    start = _weights(seen[0], "before")
    with np.errstate(over="ignore"):
        used = start.astype(np.float16 if e.config.precision == "fp16" else start.dtype).astype(np.float64)
    directions = np.random.default_rng([e.lab.seed, 3]).standard_normal((DIRECTIONS, start.size))
    slopes = e.lab.on(1, lambda comm: _slopes(e, comm, used, directions))[0]
    steps = [directions @ (start - _weights(ranks)).astype(np.float64) for ranks in seen]
    off = max(float(np.linalg.norm(step - slopes) / np.linalg.norm(slopes)) for step in steps)
    tolerance = SLOPE.get(e.config.precision, SLOPE_ELSE)
    return Reading(off < tolerance, f"off by {off:.2g} of its size", {"off": _number(off), "tolerance": tolerance})


def _slopes(e: Experiment, comm: Transport, weights: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The slope of the mean loss of the first batch along each direction, forward passes only, on one rank."""
    config = replace(e.config, precision="fp64", optimizer="sgd", grad_accum=1)
    rank = e.lab.rank(comm, 0, config, data=e.data)
    batch = next(e.lab.batches(config))

    def mean_loss(at: np.ndarray) -> float:
        rank.parameters[:] = at
        made = outputs(rank, batch, zero0.forward)
        assert made is not None
        total = rank.loss(made, batch)
        rank.ledger.release(made)
        return total / batch.size

    ahead, behind = ([mean_loss(weights + way * d) for d in directions] for way in (NEAR, -NEAR))
    return (np.array(ahead) - np.array(behind)) / (2 * NEAR)


def held(e: Experiment) -> Reading:
    """Bytes at rest of each rank equal the formula's, in each class."""
    model, c = [e.data.x.shape[1], *e.config.hidden, e.data.outputs], e.config
    formula = [formulas.at_rest(stage, model, e.N, c.precision, c.optimizer) for stage in range(4)]
    return _book([[seen.held for seen in ranks] for ranks in e.seen], formula, 1)


def sent(e: Experiment) -> Reading:
    """Bytes that each rank sends in a step equal the formula's, by verb; and all that was booked has arrived."""
    model, c = [e.data.x.shape[1], *e.config.hidden, e.data.outputs], e.config
    none = dict.fromkeys(VERBS, 0)
    formula = [none | formulas.traffic(stage, model, e.N, c.precision, k=c.grad_accum) for stage in range(4)]
    book = _book([[seen.sent for seen in ranks] for ranks in e.seen], formula, c.steps or 1)
    out, come = (sum(getattr(seen, what) for ranks in e.seen for seen in ranks) for what in ("out", "come"))
    lost = "" if out == come else f"; {out:,} B booked, {come:,} arrived"
    return Reading(book.holds and not lost, book.said + lost, {**book.numbers, "booked": out, "arrived": come})


def _book(counted: list[list[dict[str, int]]], formula: list[dict[str, int]], steps: int) -> Reading:
    """Counted beside the formula's bytes: where they first differ, or the totals of the fullest rank at each stage."""
    numbers = {"counted": {str(s): ranks for s, ranks in enumerate(counted)}, "formula": formula, "steps": steps}
    for stage, ranks in enumerate(counted):
        for rank, own in enumerate(ranks):
            excess = {what: own[what] / steps - expected for what, expected in formula[stage].items()}
            if any(excess.values()):
                what = max(excess, key=lambda what: excess[what])
                n, expected = own[what] / steps, formula[stage][what]
                times = f", {n / expected:.4g} times" if expected else ""
                said = f"{what} at stage {stage}, rank {rank}: {n:,.0f} B, formula {expected:,}{times}"
                whole, by_formula = sum(own.values()) / steps, sum(formula[stage].values())
                more = f"; in all {whole:,.0f}, formula {by_formula:,}" if (n, expected) != (whole, by_formula) else ""
                return Reading(False, said + more, numbers)
    totals = " ".join(f"{sum(own.values()):,}" for own in formula)
    return Reading(True, f"by stage: {totals} B, as the formula", numbers)


def proof(e: Experiment) -> Reading:
    """The ring, followed without data: each slice ends where it belongs, with every rank's part in it once."""
    wrong = []
    for verb in VERBS:
        try:
            trace(find("ring").generator(verb), verb, e.N)
        except ValueError as error:
            wrong.append(f"{verb}: {error}")
    return Reading(not wrong, wrong[0] if wrong else "right for all verbs", {"wrong": wrong})


INSTRUMENTS: dict[str, Callable[[Experiment], Reading]] = {
    "loss": loss,
    "bits": bits,
    "ranks": ranks,
    "one-rank": one_rank,
    "gradient": gradient,
    "held": held,
    "sent": sent,
    "proof": proof,
}
"""By name, in the order in which they are shown. The first one is no promise: it is what people look at."""
