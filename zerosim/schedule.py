"""How micro-batches go through the layers: a schedule is data, and one interpreter runs it for every stage of ZeRO.

A rank that holds all layers takes each micro-batch forward and at once back. On a pipeline each rank holds some of the
layers; a micro-batch goes forward from rank to rank, and its gradient back.
"""

from collections.abc import Callable, Iterator

import numpy as np

from zerosim.activations import Held
from zerosim.rank import Rank

Forward = Callable[[Rank, int, np.ndarray], np.ndarray]
"""A stage's way through one layer: (rank, layer, input) to activations."""

Backward = Callable[[Rank, int, np.ndarray, np.ndarray, bool], None]
"""And back: (rank, layer, input, gradient of the outputs, whether to add); the input becomes its own gradient."""


def one_by_one(M: int) -> Iterator[tuple[str, int]]:
    """Each of M micro-batches forward and back."""
    for m in range(M):
        yield "forward", m
        yield "backward", m


def gpipe(M: int) -> Iterator[tuple[str, int]]:
    """All M micro-batches forward, then all back (Huang et al. 2019, arXiv:1811.06965, section 2.3).

    On every rank of the pipeline alike. They go back in the same order, so that their gradients are added as in
    `one_by_one`.
    """
    for direction in ("forward", "backward"):
        for m in range(M):
            yield direction, m


def forward_backward(rank: Rank, batch: np.ndarray, forward: Forward, backward: Backward) -> float:
    """Take this rank's rows of a global batch through its layers; return their summed loss (0 if it does not know)."""
    loss = 0.0
    rows = rank.micro_batches(batch)
    running: dict[int, Held] = {}
    for direction, m in (one_by_one if rank.pipe.size == 1 else gpipe)(len(rows)):
        rank.phase(direction)
        if direction == "forward":
            running[m] = Held(rank, rows[m])
            loss += _forward(rank, running[m], forward)
        else:
            _backward(rank, running.pop(m), forward, backward, add=m > 0)
    return loss


def _forward(rank: Rank, held: Held, forward: Forward) -> float:
    held.reserve()
    _enter(rank, held)
    for k in rank.model.layers:
        with rank.layer(k):
            held.arrays[k + 1] = forward(rank, k, held.arrays[k])
        held.put_away(k)
    if rank.model.last:
        return rank.loss(held.arrays[k + 1], held.rows)
    _hand_on(rank, held, k + 1, +1)
    return 0.0


def _backward(rank: Rank, held: Held, forward: Forward, backward: Backward, add: bool) -> None:
    n = len(rank.model.layers)
    if not rank.model.last:
        rank.pipe.recv(held.take(n, rank.model.parts[-1].outputs), rank.pipe.rank + 1)
    for first in reversed(range(0, n, rank.keep_every)):
        segment = range(first, min(first + rank.keep_every, n))
        held.bring_back(first)
        if len(segment) > 1:
            rank.phase("recompute")
        for k in segment[:-1]:
            with rank.layer(k):
                held.arrays[k + 1] = forward(rank, k, held.arrays[k])
            rank.recomputed += 1
        if len(segment) > 1:
            rank.phase("backward")
        for k in reversed(segment):
            with rank.layer(k):
                backward(rank, k, held.arrays[k], held.arrays[k + 1], add)
            held.release(k + 1)
    if rank.model.first:
        held.release(0)
    else:
        _hand_on(rank, held, 0, -1)


def outputs(rank: Rank, rows: np.ndarray, forward: Forward) -> np.ndarray | None:
    """Return the model's outputs for these rows, which the caller releases; None on a rank without the last layer."""
    held = Held(rank, rows)
    _enter(rank, held)
    for k in rank.model.layers:
        held.arrays[k + 1] = forward(rank, k, held.arrays[k])
        held.release(k)
    if rank.model.last:
        return held.arrays[k + 1]
    _hand_on(rank, held, k + 1, +1)
    return None


# from rank to rank ---------------------------------------------------------------------------------------------------


def _enter(rank: Rank, held: Held) -> None:
    """The input of this rank's first layer: rows of the data, or what the pipeline rank before has made of them."""
    x = held.take(0, rank.model.parts[0].inputs)
    if rank.model.first:
        rank.load(held.rows, x)
    else:
        rank.pipe.recv(x, rank.pipe.rank - 1)


def _hand_on(rank: Rank, held: Held, k: int, step: int) -> None:
    rank.pipe.send(held.arrays[k], rank.pipe.rank + step)
    held.release(k)
