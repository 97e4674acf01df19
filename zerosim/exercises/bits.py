"""What ranks have after a step, and where it first differs from what they should have: which rank, which slice, why."""

from dataclasses import dataclass

import numpy as np

from zerosim.config import Config
from zerosim.exercises.verdict import Wrong
from zerosim.partition import Bucket, Layout, without_padding


@dataclass(frozen=True)
class After:
    """What a rank has after allocation or after a step: copies of its arrays, and what its books say.

    `sent` is by verb, `now` and `most` (of the step) by memory class, all in bytes.
    """

    layout: Layout
    parameters: np.ndarray
    gradients: np.ndarray
    states: dict[str, np.ndarray]
    loss: float
    updated: bool
    sent: dict[str, int]
    now: dict[str, int]
    most: dict[str, int]

    def own(self, vector: np.ndarray, bucket: Bucket) -> np.ndarray:
        """This rank's slice of a bucket, without padding, in a full vector or in its shard."""
        return without_padding(bucket, vector[bucket.own if vector.size == self.layout.padded else bucket.shard])


def same(mine: list[After], right: list[After], before: list[After], reference: str, config: Config) -> None:
    """Compare all ranks after a step with what the reference has. Raises Wrong for the first difference."""
    for rank, (own, other) in enumerate(zip(mine, right, strict=True)):
        _sizes(rank, own)
        for bucket in own.layout.buckets():
            for name, vector in {"parameters": own.parameters, **own.states}.items():
                wanted = other.parameters if name == "parameters" else other.states[name]
                if not np.array_equal(own.own(vector, bucket), other.own(wanted, bucket), equal_nan=True):
                    what = name if name == "parameters" else f"optimizer state {name!r}"
                    why = _why(own, other, before[rank], bucket, reference, config)
                    where = f"slice {rank} of layer {bucket.layer}'s {what}, rank {rank}'s own,"
                    raise Wrong(f"{where} is not {reference}'s: {why}")
        if own.updated != other.updated:
            words = ("overflows, and the update is skipped", "is finite, and they update")
            raise Wrong(f"rank {rank} says updated = {own.updated}; on all ranks a gradient {words[other.updated]}")
        if not np.isclose(own.loss, other.loss, rtol=1e-5, equal_nan=True):
            raise Wrong(f"rank {rank} returns the loss {own.loss:.6g}; summed over all ranks it is {other.loss:.6g}")
    _copies(mine, before)


def _sizes(rank: int, own: After) -> None:
    for name, vector in {"parameters": own.parameters, "gradients": own.gradients, **own.states}.items():
        if vector.shape not in ((own.layout.padded,), (own.layout.shard,)):
            raise Wrong(
                f"rank {rank}'s {name} have shape {vector.shape}: layout.padded = {own.layout.padded} for all, "
                f"layout.shard = {own.layout.shard} for a shard"
            )


def _copies(mine: list[After], before: list[After]) -> None:
    """What a rank has of other ranks' slices must be what those have."""
    for rank, own in enumerate(mine):
        if own.parameters.size != own.layout.padded:
            continue
        for number, bucket in enumerate(own.layout.buckets()):
            for owner, cut in enumerate(own.layout.cuts(bucket)):
                theirs = mine[owner].layout.buckets()[number]
                wanted = mine[owner].own(mine[owner].parameters, theirs)
                have, had = (each.parameters[bucket.full][cut][: wanted.size] for each in (own, before[rank]))
                if not np.array_equal(have, wanted):
                    stale = ": it is as before the step, and nothing has brought the new one" * np.array_equal(
                        have, had
                    )
                    raise Wrong(
                        f"rank {rank}'s copy of slice {owner} of layer {bucket.layer} is not rank {owner}'s{stale}"
                    )


def _why(own: After, other: After, before: After, bucket: Bucket, reference: str, config: Config) -> str:
    """Say at which point it went wrong."""
    if not other.sent:  # no step has been taken
        return "allocate must end with initial.fill(rank)"
    if not (wrong := [each for each in own.layout.buckets() if not _alike(own, other, each)]):
        if not other.updated:
            return "a gradient has overflowed, so rank.agree gives None for the factor, and all ranks skip the update"
        if np.array_equal(own.own(own.parameters, bucket), before.own(before.parameters, bucket)):
            return "its gradient is right, but it has not been updated"
        return "its gradient is right; which slices does rank.update take, and with which factor?"
    if not np.isclose(own.loss, other.loss, rtol=1e-5, equal_nan=True):
        return f"nor is its loss ({own.loss:.6g}, not {other.loss:.6g}): forward has computed with other parameters"
    if other.sent["all_reduce"] and not own.sent["all_reduce"] + own.sent["reduce_scatter"]:
        return "no gradient has been sent, so its own is that of this rank's rows alone"
    where = bucket if bucket in wrong else wrong[-1]
    gradient = "its gradient" if where is bucket else f"its gradient is right, but layer {where.layer}'s"
    ratio = _ratio(own.own(own.gradients, where), other.own(other.gradients, where))
    if ratio is not None and abs(ratio - 1) < 0.01:
        return (
            f"{gradient} is {reference}'s but for rounding. The same numbers are added, in another order or in another "
            "precision: is the loss divided more than once, or a micro-step's gradient added before it is reduced?"
        )
    if ratio is not None:
        return (
            f"{gradient} is {ratio:.3g} times {reference}'s. The loss is divided by the rows of the global batch once, "
            "before backward; after that, ranks add"
        )
    if config.grad_accum > 1:
        return f"{gradient} is not the sum over ranks and micro-steps: where `add` is true, add to what is there"
    return f"{gradient} is not the sum over all ranks"


def _alike(own: After, other: After, bucket: Bucket) -> bool:
    """Whether a rank has the right gradient of its slice of a bucket."""
    one, another = own.own(own.gradients, bucket), other.own(other.gradients, bucket)
    return np.array_equal(one, another, equal_nan=True)


def _ratio(gradient: np.ndarray, wanted: np.ndarray) -> float | None:
    """How many times as large a gradient is as it should be, if it is that in all its elements."""
    some = wanted != 0
    with np.errstate(all="ignore"):
        ratios = gradient[some].astype(float) / wanted[some].astype(float)
    alike = ratios.size and np.isfinite(ratios).all() and ratios.min() * 1.02 >= ratios.max() > 0
    return float(ratios.mean()) if alike else None
