"""How micro-batches go through the layers: a schedule is data, and one interpreter runs it for every stage of ZeRO.

A rank that holds all layers takes each micro-batch forward and at once back. On a pipeline each rank holds some of the
layers; a micro-batch goes forward from rank to rank, and its gradient back.
"""

from collections.abc import Callable, Iterator

import numpy as np

from zerosim.rank import Rank

Forward = Callable[[Rank, int, np.ndarray], np.ndarray]
"""A stage's way through one layer: (rank, layer, input) to activations."""

Backward = Callable[[Rank, int, np.ndarray, np.ndarray, bool], None]
"""And back: (rank, layer, input, gradient of the outputs, whether to add); the input becomes its own gradient."""

Held = dict[int, np.ndarray]
"""A micro-batch on its way: the inputs of layers by their numbers, and the outputs of the last one."""


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
            running[m] = held = _forward(rank, rows[m], forward)
            if rank.model.last:
                loss += rank.loss(held[len(held) - 1], rows[m])
        else:
            _backward(rank, running.pop(m), rows[m], backward, add=m > 0)
    return loss


def _forward(rank: Rank, rows: np.ndarray, forward: Forward) -> Held:
    held = {0: _enter(rank, rows)}
    for k in rank.model.layers:
        held[k + 1] = forward(rank, k, held[k])
    if not rank.model.last:
        _hand_on(rank, held, k + 1, +1)
    return held


def _backward(rank: Rank, held: Held, rows: np.ndarray, backward: Backward, add: bool) -> None:
    n = len(rank.model.layers)
    if not rank.model.last:
        held[n] = _receive(rank, rank.model.parts[-1].outputs, rows, +1)
    for k in reversed(rank.model.layers):
        backward(rank, k, held[k], held[k + 1], add)
        rank.ledger.release(held.pop(k + 1))
    if rank.model.first:
        rank.ledger.release(held.pop(0))
    else:
        _hand_on(rank, held, 0, -1)


def outputs(rank: Rank, rows: np.ndarray, forward: Forward) -> np.ndarray | None:
    """Return the model's outputs for these rows, which the caller releases; None on a rank without the last layer."""
    held = {0: _enter(rank, rows)}
    for k in rank.model.layers:
        held[k + 1] = forward(rank, k, held[k])
        rank.ledger.release(held.pop(k))
    if rank.model.last:
        return held[k + 1]
    _hand_on(rank, held, k + 1, +1)
    return None


# from rank to rank ---------------------------------------------------------------------------------------------------


def _enter(rank: Rank, rows: np.ndarray) -> np.ndarray:
    """The input of this rank's first layer: the data, or what the pipeline rank before has made of them."""
    return rank.load(rows) if rank.model.first else _receive(rank, rank.model.parts[0].inputs, rows, -1)


def _receive(rank: Rank, width: int, rows: np.ndarray, step: int) -> np.ndarray:
    array = rank.ledger.take("activations", (width, rows.size), rank.precision.dtype)
    rank.pipe.recv(array, rank.pipe.rank + step)
    return array


def _hand_on(rank: Rank, held: Held, k: int, step: int) -> None:
    rank.pipe.send(held[k], rank.pipe.rank + step)
    rank.ledger.release(held.pop(k))
