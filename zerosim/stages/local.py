"""Local SGD: every rank steps on its own gradient, and every H steps parameters are averaged, not gradients.

This is not ZeRO, and not what plain data parallelism does; it is stage 0 with another way to keep the ranks together
(Stich 2019, arXiv:1805.09767; McMahan et al. 2017, arXiv:1602.05629). Optimizer states are never averaged.

A rank's gradient is N s_r / B, with s_r the sum over its rows and B the rows of the global batch. So the mean over the
ranks is sum_r s_r / B, the gradient of the global batch, also where ranks have unequally many rows; and where a step
is linear in the gradient (SGD, momentum), averaging parameters after each step (H = 1) is averaging gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from zerosim.precision import encode
from zerosim.rank import Rank
from zerosim.schedule import forward_backward
from zerosim.stages.zero0 import allocate, backward, forward

__all__ = ["allocate", "as_one", "average", "backward", "forward", "step"]


def step(rank: Rank, batch: np.ndarray) -> tuple[float, bool]:
    """Train on this rank's rows of a global batch; return its summed loss, and whether the weights were updated."""
    loss = forward_backward(rank, batch, forward, backward)

    rank.phase("reduce")  # nothing to do: the gradient stays this rank's own

    rank.phase("update")
    loss, factor = rank.agree(loss, alone=True)
    if factor is not None:
        rank.update(slice(None), slice(None), slice(None), factor)

    rank.phase("gather")  # after a skipped step too: what is sent does not depend on the data
    rank.apart += 1
    if rank.apart == rank.config.sync_every:
        average(rank)
    return loss, factor is not None


def average(rank: Rank) -> None:
    """Average the full-precision weights over the ranks, and note how far apart they were."""
    weights = rank.states.get("master", rank.parameters)
    distances = [_average(rank, bucket) for bucket in rank.buckets(weights)]
    if rank.precision.mixed:
        encode(weights, rank.parameters, rank.ledger)
    table = rank.comm.numbers(max(largest for largest, _ in distances), sum(squares for _, squares in distances))
    rank.drifts.append((float(table[:, 0].max()), float(np.sqrt(table[:, 1].sum() / rank.comm.size))))
    rank.apart = 0


def _average(rank: Rank, bucket: np.ndarray) -> tuple[float, float]:
    """Average a bucket; return how far this rank was from the mean: at the most, and the sum of squares."""
    with rank.ledger.borrow("buffers", bucket.size, bucket.dtype) as own:
        own[:] = bucket
        rank.comm.all_reduce(bucket)
        bucket /= rank.comm.size
        own -= bucket
        np.abs(own, out=own)
        return float(own.max()), float(np.einsum("i,i->", own, own, dtype=np.float64))


@contextmanager
def as_one(rank: Rank) -> Iterator[None]:
    """Give every rank the average of all ranks' parameters for the length of a `with` block, to evaluate one model."""
    if rank.apart == 0:
        yield
        return
    own = rank.parameters
    with rank.ledger.borrow("buffers", own.size, rank.precision.compute) as mean:
        mean[:] = rank.states.get("master", own)
        rank.comm.all_reduce(*rank.buckets(mean))
        mean /= rank.comm.size
        with rank.ledger.borrow("buffers", own.size, own.dtype) as rounded:
            encode(mean, rounded, rank.ledger)
            rank.parameters = rounded
            try:
                yield
            finally:
                rank.parameters = own
                del rounded
