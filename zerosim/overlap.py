"""A step on two streams of a device, one that computes and one that sends: what overlaps, and what stays exposed.

Units (a transformer's blocks, an MLP's layers) go forward and back one after the other. A stage's collectives are on
the other stream: a gradient's after the unit's backward pass, a gathered unit's before the pass that uses it. What
stages 1 and 2 gather after the update is needed by the next forward pass, and so it is in this step's. Memory limits
what can be ahead: stage 3 gathers the next unit while one is used, and stages 2 and 3 reduce one unit's gradient while
the next one's is computed, no more.

The seconds are the planner's (`zerosim.plan`): its operations, its link, its update. A unit's share of the operations
is taken as its share of the parameters. Without overlap the sum is the planner's, to rounding, which is a test. With
overlap the planner's is a bound below: it hides whatever there is time for, in whatever order.
"""

from typing import Any, NamedTuple

from zerosim import plan
from zerosim.errors import InputError
from zerosim.machine import Machine
from zerosim.plan import Subject, Workload

COMPUTE, NETWORK = "compute", "network"
"""The streams."""


class Job(NamedTuple):
    """Something to do on a stream, after what was issued there before and after the jobs of these numbers."""

    stream: str
    what: str
    """ "forward", "backward", "update", or a verb."""
    unit: int
    """-1: all of them."""
    seconds: float
    after: tuple[int, ...]


class Span(NamedTuple):
    """What a stream did, in seconds from the beginning of the step."""

    stream: str
    what: str
    unit: int
    start: float
    end: float


def schedule(subject: Subject, machine: Machine, work: Workload, stage: int) -> list[Span]:
    """Return what both streams do in one step; one thing at a time if `work.overlap` is False.

    Raises InputError for what is not modelled.
    """
    spans: list[Span] = []
    free = {COMPUTE: 0.0, NETWORK: 0.0}
    for job in jobs(subject, machine, work, stage):
        done = [spans[i].end for i in job.after]
        start = max(free[job.stream], *done, 0.0) if work.overlap else max(free.values())
        free[job.stream] = start + job.seconds
        spans.append(Span(job.stream, job.what, job.unit, start, free[job.stream]))
    return spans


def summary(spans: list[Span]) -> dict[str, float]:
    """Return the seconds of a step in all, those that each stream is at work, and what of sending is exposed."""
    busy = {stream: sum(s.end - s.start for s in spans if s.stream == stream) for stream in (COMPUTE, NETWORK)}
    total = max(span.end for span in spans)
    return {"total": total, **busy, "exposed": total - busy[COMPUTE]}


def jobs(subject: Subject, machine: Machine, work: Workload, stage: int) -> list[Job]:
    """Return the jobs of a step in the order in which they are issued, which is one for a single stream too."""
    units = [size for size, times in subject.units for _ in range(times)]
    compute = _compute(subject, machine, work) / sum(units)
    share = {"forward": compute / 3, "backward": 2 * compute / 3, "update": 0.0}
    once = [_once(size, machine, work) for size in units]
    visits = _visits(len(units), work.grad_accum, stage)
    issued: list[Job] = []
    number: dict[tuple[str, int], int] = {}  # of a job, by what it is and for which visit

    def issue(what: str, visit: int, stream: str, unit: int, seconds: float, *after: tuple[str, int]) -> None:
        number[what, visit] = len(issued)
        issued.append(Job(stream, what, unit, seconds, tuple(number[one] for one in after if one in number)))

    for v, (what, unit, _, verb) in enumerate(visits):
        for ahead in range(v, min(v + 2, len(visits))):
            if visits[ahead].gathers and ("all_gather", ahead) not in number:
                room = [(done, ahead - 2) for done in ("forward", "backward") if stage == 3]
                issue("all_gather", ahead, NETWORK, visits[ahead].unit, once[visits[ahead].unit], *room)
        room = [("reduce_scatter", v - 2)] if stage >= 2 else []
        issue(what, v, COMPUTE, unit, share[what] * units[unit], ("all_gather", v), *room)
        if verb:
            times = 2 if verb == "all_reduce" else 1  # reduce-scatter, and all-gather
            issue(verb, v, NETWORK, unit, times * once[unit], (what, v))
    reduced = [one for one in number if one[0] in ("all_reduce", "reduce_scatter")]
    issue("update", len(visits), COMPUTE, -1, plan.update(subject, machine, work, stage, "none"), *reduced)
    return issued


class _Visit(NamedTuple):
    what: str
    unit: int
    gathers: bool
    verb: str
    """Of the gradient's collective, if there is one."""


def _visits(units: int, k: int, stage: int) -> list[_Visit]:
    """Every pass through every unit in a step of k micro-steps, with the collectives that `formulas.passes` counts."""
    verb = "all_reduce" if stage == 0 else "reduce_scatter"
    return [
        _Visit(what, unit, *collectives)
        for m in range(k)
        for what, order, collectives in (
            ("forward", range(units), (stage == 3 or (stage > 0 and m == 0), "")),
            ("backward", reversed(range(units)), (stage == 3, verb if stage >= 2 or m == k - 1 else "")),
        )
        for unit in order
    ]


def _compute(subject: Subject, machine: Machine, work: Workload) -> float:
    """Seconds of the passes of one micro-step. Raises InputError for what is not modelled."""
    todo = plan.operations(subject, work)
    if todo is None:
        raise InputError("schedule: the operations of this model are not known")
    standard: dict[str, Any] = {"tensor_parallel": 1, "bucket": 0, "secondary": 0, "reduce_scatter": True}
    for name, value in {**standard, "quantized_weights": False, "quantized_gradients": False}.items():
        if getattr(work, name) != value:
            raise InputError(f"schedule: {name} is {getattr(work, name)}; only {value} is modelled here")
    return todo / plan.speed(machine, work) / work.grad_accum


def _once(size: int, machine: Machine, work: Workload) -> float:
    """Seconds in which a unit, rounded up to a multiple of N, is reduce-scattered or all-gathered."""
    N, w = work.ranks, work.per_parameter()[0]
    alpha, bandwidth = plan.link(machine, work)
    return w * -(-size // N) * (N - 1) / bandwidth + alpha
