"""The whole model's weights, gathered from all ranks a layer at a time: no rank needs room for all of them."""

from collections.abc import Iterator

import numpy as np

from zerosim.comm import CONTROL
from zerosim.parallel import parts
from zerosim.rank import Rank


def weights(rank: Rank) -> Iterator[np.ndarray]:
    """Yield each layer's full-precision weights, W row by row, then b, the same on every rank.

    All ranks call it together. The array is lent until the next one.
    """
    sizes = [part.size for part in parts(rank.model.widths)]
    with rank.ledger.borrow("buffers", max(sizes), rank.precision.compute) as room:
        for layer, size in enumerate(sizes):
            full = room[:size]
            p = rank.grid.pipeline_rank(layer, len(sizes))
            if p == rank.pipe.rank:
                _layer(rank, layer, full)
            with rank.pipe.booked_as(CONTROL):
                rank.pipe.broadcast(full, p)
            yield full


def _layer(rank: Rank, layer: int, full: np.ndarray) -> None:
    """Fill `full` with a layer, from the tensor-parallel ranks' parts of it."""
    k, T, widths = layer - rank.model.parts[0].layer, rank.tensor.size, rank.model.widths
    if T == 1:
        _part(rank, k, full)
        return
    every = [parts(widths, T, t, range(layer, layer + 1))[0] for t in range(T)]
    W = full[: widths[layer] * widths[layer + 1]].reshape(widths[layer + 1], widths[layer])
    b = full[W.size :]
    with rank.ledger.borrow("buffers", (T, max(part.size for part in every)), full.dtype) as room:
        _part(rank, k, room[rank.tensor.rank])
        with rank.tensor.booked_as(CONTROL):
            rank.tensor.all_gather(room.reshape(-1))
        for part, values in zip(every, room, strict=True):
            size = part.outputs * part.inputs
            W[part.rows, part.columns] = values[:size].reshape(part.outputs, part.inputs)
            b[part.biases] = values[size : part.size]


def _part(rank: Rank, k: int, out: np.ndarray) -> None:
    """Fill `out` with what this rank holds of a layer, from the data-parallel ranks' slices."""
    source = rank.states.get("master", rank.parameters)
    buckets = rank.layout.buckets(k)
    with (
        rank.comm.booked_as(CONTROL),
        rank.ledger.borrow("buffers", max(bucket.size for bucket in buckets), out.dtype) as room,
    ):
        for bucket in buckets:
            full, own = room[: bucket.size], out[bucket.start : bucket.stop]
            full[bucket.part] = rank.own(source, bucket)
            rank.comm.all_gather(full)
            own[:] = full[: own.size]
            if rank.parameters.size == rank.layout.padded:
                _check_same(rank.parameters[bucket.full], own)


def _check_same(parameters: np.ndarray, weights: np.ndarray) -> None:
    """What several ranks hold must be the same on all of them."""
    if parameters[: weights.size].tobytes() != weights.astype(parameters.dtype).tobytes():
        raise RuntimeError("this rank's parameters differ from the weights that the ranks own")
