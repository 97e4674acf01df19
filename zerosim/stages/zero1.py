"""Stage 1, P_os: optimizer states are sharded; gradients are reduce-scattered, new parameters all-gathered."""

import numpy as np

from zerosim import initial
from zerosim.rank import Rank
from zerosim.schedule import forward_backward


def allocate(rank: Rank) -> None:
    """Hold full parameters, full gradients and a shard of the optimizer states: (2 + 2 + K / N) Psi bytes."""
    layout = rank.layout
    rank.parameters = rank.zeros("parameters", layout.padded)
    rank.gradients = rank.zeros("gradients", layout.padded)
    rank.states = {name: rank.zeros("optimizer_states", layout.shard) for name in rank.optimizer.states}
    initial.fill(rank)


def forward(rank: Rank, k: int, x: np.ndarray) -> np.ndarray:
    """Return layer k's activations from its input."""
    return rank.model.forward(k, rank.parameters[rank.layout.layer(k)], x)


def backward(rank: Rank, k: int, x: np.ndarray, dy: np.ndarray, add: bool) -> None:
    """Write layer k's gradient, or add it to that of the micro-steps before; the input x becomes its own gradient."""
    for bucket in rank.layout.buckets(k):
        rank.model.parameter_gradient(x, dy, bucket.start, bucket.stop, rank.gradients[bucket.full], add)
    rank.model.input_gradient(k, rank.parameters[rank.layout.layer(k)], dy, x)


def step(rank: Rank, batch: np.ndarray) -> tuple[float, bool]:
    """Train on this rank's rows of a global batch; return its summed loss, and whether the weights were updated."""
    loss = forward_backward(rank, batch, forward, backward)

    rank.phase("reduce")
    rank.comm.reduce_scatter(*rank.buckets(rank.gradients))

    rank.phase("update")
    loss, factor = rank.agree(loss)
    if factor is not None:
        with rank.pruning():
            for bucket in rank.layout.buckets():
                rank.update(bucket.own, bucket.own, bucket.shard, factor)

    rank.phase("gather")  # after a skipped step too: what is sent does not depend on the data
    rank.comm.all_gather(*rank.buckets(rank.parameters))
    return loss, factor is not None
