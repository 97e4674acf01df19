"""Stage 3, P_os+g+p: parameters are sharded too; a layer is gathered when it is needed, and released."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from zerosim import initial
from zerosim.partition import Bucket
from zerosim.rank import Rank
from zerosim.schedule import forward_backward


def allocate(rank: Rank) -> None:
    """Hold a shard of the parameters, the gradients and the optimizer states: (2 + 2 + K) Psi / N bytes."""
    layout = rank.layout
    rank.parameters = rank.zeros("parameters", layout.shard)
    rank.gradients = rank.zeros("gradients", layout.shard)
    rank.states = {name: rank.zeros("optimizer_states", layout.shard) for name in rank.optimizer.states}
    initial.fill(rank)


@contextmanager
def gathered(rank: Rank, k: int) -> Iterator[np.ndarray]:
    """Layer k's parameters from all ranks, for the length of a `with` block."""
    with rank.ledger.borrow("buffers", rank.layout.layer_size(k), rank.precision.dtype) as weights:
        for bucket in rank.layout.buckets(k):
            weights[bucket.within][bucket.part] = rank.parameters[bucket.shard]
        rank.comm.all_gather(*(weights[bucket.within] for bucket in rank.layout.buckets(k)))
        yield weights


def forward(rank: Rank, k: int, x: np.ndarray) -> np.ndarray:
    """Return layer k's activations from its input; the layer is gathered, used and released."""
    with gathered(rank, k) as weights:
        return rank.model.forward(k, weights, x)


def backward(rank: Rank, k: int, x: np.ndarray, dy: np.ndarray, add: bool) -> None:
    """Reduce layer k's gradient bucket by bucket; the input x becomes its own gradient.

    The layer is gathered again, used and released: every layer, as in the paper, though the first one's parameters are
    not needed to go back further.
    """
    with gathered(rank, k) as weights:
        for bucket in rank.layout.buckets(k):
            reduce(rank, bucket, x, dy, add)
        rank.model.input_gradient(k, weights, dy, x)


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
            rank.update(slice(None), slice(None), slice(None), factor)

    rank.phase("gather")  # not now: each layer when it is needed
    return loss, factor is not None
