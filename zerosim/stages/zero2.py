"""Stage 2, P_os+g: gradients are sharded too; each is reduce-scattered in backward, and only a slice stays."""

import numpy as np

from zerosim import initial
from zerosim.partition import Bucket
from zerosim.rank import Rank
from zerosim.schedule import forward_backward


def allocate(rank: Rank) -> None:
    """Hold full parameters, a shard of the gradients and of the optimizer states: (2 + (2 + K) / N) Psi bytes."""
    layout = rank.layout
    rank.parameters = rank.zeros("parameters", layout.padded)
    rank.gradients = rank.zeros("gradients", layout.shard)
    rank.states = {name: rank.zeros("optimizer_states", layout.shard) for name in rank.optimizer.states}
    initial.fill(rank)


def forward(rank: Rank, k: int, x: np.ndarray) -> np.ndarray:
    """Return layer k's activations from its input."""
    return rank.model.forward(k, rank.parameters[rank.layout.layer(k)], x)


def backward(rank: Rank, k: int, x: np.ndarray, dy: np.ndarray, add: bool) -> None:
    """Reduce layer k's gradient bucket by bucket; the input x becomes its own gradient."""
    for bucket in rank.layout.buckets(k):
        reduce(rank, bucket, x, dy, add)
    rank.model.input_gradient(k, rank.parameters[rank.layout.layer(k)], dy, x)


def reduce(rank: Rank, bucket: Bucket, x: np.ndarray, dy: np.ndarray, add: bool) -> None:
    """Write this rank's slice of one bucket's gradient, or add it; the whole bucket lives in this block only."""
    with rank.ledger.borrow("buffers", bucket.size, rank.precision.dtype) as gradient:
        rank.model.parameter_gradient(x, dy, bucket.start, bucket.stop, gradient)
        if add:
            rank.comm.reduce_scatter(gradient)
            rank.accumulate(rank.gradients[bucket.shard], gradient[bucket.part])
        else:
            rank.comm.reduce_scatter(gradient, out=rank.gradients[bucket.shard])


def step(rank: Rank, batch: np.ndarray) -> tuple[float, bool]:
    """Train on this rank's rows of a global batch; return its summed loss, and whether the weights were updated."""
    loss = forward_backward(rank, batch, forward, backward)

    rank.phase("reduce")  # done, bucket by bucket, in backward

    rank.phase("update")
    loss, factor = rank.agree(loss)
    if factor is not None:
        with rank.pruning():
            for bucket in rank.layout.buckets():
                rank.update(bucket.own, bucket.shard, bucket.shard, factor)

    rank.phase("gather")  # after a skipped step too: what is sent does not depend on the data
    rank.comm.all_gather(*rank.buckets(rank.parameters))
    return loss, factor is not None
