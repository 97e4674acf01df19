"""PyTorch as a witness: the same initial weights, rows and optimizer, trained there; the weights are compared."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zerosim import whole
from zerosim.bench.shared import Task, Trainee
from zerosim.comm import Comm
from zerosim.ledger import Ledger
from zerosim.peer import PEERS, Peer, check, gloo
from zerosim.transport.mpi import MPITransport

SCHEMA = "zerosim.witness.torch/1"


def compare(
    transport: MPITransport,
    task: Task,
    stages: Sequence[int],
    optimizers: Sequence[str],
    steps: int,
    seed: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Train `steps` steps with each of `optimizers` at each of `stages`, here and in PyTorch, in float32.

    Returns, for each, the largest |difference| of a weight at the end, the largest |weight|, and the largest |change|
    of a weight by the training, beside which a difference is to be seen. JSON types, the same on all ranks.
    """
    rows: list[dict[str, Any]] = []
    door = Comm(transport, Ledger())
    door.agreed(check)
    tell("loading PyTorch")
    with gloo(door):
        import torch

        for name in optimizers:
            for stage in stages:
                tell(f"stage {stage}, {name}")
                rows.append(_compare(transport, replace(task, optimizer=name, seed=seed), stage, steps))
    return {
        "schema": SCHEMA,
        "ranks": transport.size,
        "task": task.asdict(),
        "torch": torch.__version__,
        "steps": steps,
        "seed": seed,
        "comparisons": rows,
    }


def _compare(transport: MPITransport, task: Task, stage: int, steps: int) -> dict[str, Any]:
    N, rank = transport.size, transport.rank
    trainee = Trainee(transport, task, stage)
    first = _weights(trainee)
    lr = trainee.rank.config.lr or 0.0
    peer = Peer(stage, list(task.widths), task.optimizer, lr, rank, N, lambda k: first[k])
    data, batch = task.data(N), task.rows * N
    try:
        for step in range(steps):
            rows = np.random.default_rng([task.seed, step]).permutation(len(data.x))[:batch]
            trainee.step(rows)
            mine = rows[rank::N]
            peer.step(np.ascontiguousarray(data.x[mine], np.float32), data.y[mine].astype(np.int64), batch)
        ours, theirs = _weights(trainee), peer.weights()
    finally:
        peer.close()
    return {
        "stage": stage,
        "peer": PEERS[stage],
        "optimizer": task.optimizer,
        "largest_difference": _largest(ours, theirs),
        "largest_weight": max(float(np.abs(a).max()) for layer in ours for a in layer),
        "largest_move": _largest(ours, first),
    }


Weights = list[tuple[np.ndarray, np.ndarray]]


def _weights(trainee: Trainee) -> Weights:
    """Copies of W and b of every layer, gathered from all ranks."""
    layers = [weights.copy() for weights in whole.weights(trainee.rank)]
    return [trainee.rank.model.views(k, layer) for k, layer in enumerate(layers)]


def _largest(a: Weights, b: Weights) -> float:
    return max(float(np.abs(x - y).max()) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))
