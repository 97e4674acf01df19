"""A training step at each stage, and its floor: the same products, passes and copies with nothing around them.

The floor of a step is the sum of three times, measured in turn with the step itself:

    products    NumPy's matrix products of the same shapes, forward and backward, in the computing dtype
    update      one pass over the bytes that the optimizer has to read and write, as few operations as touch them all
    copy        copying as many bytes in memory as the rank sends in a step

A step that does this work in NumPy, one thing after the other, can hardly take less.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from zerosim.bench.shared import Task, Tell, Trainee, in_turn, of_stage, slowest, spread, together
from zerosim.transport.mpi import MPITransport
from zerosim.watch import durations

SCHEMA = "zerosim.bench.step/1"

PARTS = ("compute", "update", "communicate", "waiting")
"""What a step's time is split in: that of the slowest rank in the repetition that took the median; waiting for other
ranks is no part of communicate here."""

FLOOR = ("products", "optimizer", "copy")


def bench(transport: MPITransport, task: Task, stages: tuple[int, ...], budget: float, tell: Tell) -> dict[str, Any]:
    """Time a step at each of `stages`, about `budget` seconds for each."""
    rows = [_stage(transport, task, stage, budget, of_stage(tell, stage)) for stage in stages]
    return {"schema": SCHEMA, "ranks": transport.size, "task": task.asdict(), "stages": rows}


def _stage(transport: MPITransport, task: Task, stage: int, budget: float, tell: Tell) -> dict[str, Any]:
    trainee = Trainee(transport, task, stage)
    trainee.step()
    sent = trainee.rank.comm.sent.total() - trainee.rank.comm.sent["control"]
    floor = _Floor(task, trainee, stage, sent)
    actions = {"step": partial(_step, trainee)} | {name: getattr(floor, name) for name in FLOOR}
    everyone = together(transport, in_turn(transport, actions, budget, tell))
    step, least = slowest(everyone, "step"), {name: slowest(everyone, name) for name in FLOOR}
    floor_seconds = sum(float(np.median(taken)) for taken in least.values())
    middle = int(np.argsort(step)[len(step) // 2])
    shown = max((mine["step"][middle] for mine in everyone), key=lambda one: one["seconds"])
    split = {part: shown[part] for part in PARTS}
    return {
        "stage": stage,
        "repetitions": len(step),
        "seconds": spread(step),
        "split": split,
        "floor": {"seconds": floor_seconds, **{name: spread(taken) for name, taken in least.items()}},
        "ratio_to_floor": float(np.median(step)) / floor_seconds,
        "bytes_sent": max(together(transport, sent)),
        "peak_memory": max(together(transport, trainee.rank.ledger.peak["total"])),
    }


def _step(trainee: Trainee) -> dict[str, float]:
    trainee.step()
    split = durations(trainee.rank.phases)
    return {part: split[part] for part in PARTS} | {"communicate": split["communicate"] - split["waiting"]}


class _Floor:
    """What a step cannot do without, on arrays of its own."""

    def __init__(self, task: Task, trainee: Trainee, stage: int, sent: int) -> None:
        rank = trainee.rank
        compute, dtype, rows = rank.precision.compute, rank.precision.dtype, task.rows
        self._x = [np.ones((width, rows), compute) for width in task.widths]
        self._y = [np.empty((width, rows), compute) for width in task.widths]
        self._W = [np.ones((b, a), compute) for a, b in pairwise(task.widths)]
        self._dW = [np.empty((b, a), compute) for a, b in pairwise(task.widths)]
        n = rank.layout.padded if stage == 0 else rank.layout.shard
        self._p, self._g = np.ones(n, dtype), np.ones(n, dtype)
        self._states = [np.ones(n, compute) for _ in rank.states]
        self._sent = sent
        self._from, self._to = (np.ones(min(max(1, sent), 1 << 26), np.uint8) for _ in range(2))

    def products(self) -> None:
        """W x, dy x' and W' dy of every layer; the first one's input needs no gradient."""
        for k, W in enumerate(self._W):
            np.matmul(W, self._x[k], out=self._y[k + 1])
        for k, W in reversed(list(enumerate(self._W))):
            np.matmul(self._x[k + 1], self._x[k].T, out=self._dW[k])
            if k:
                np.matmul(W.T, self._x[k + 1], out=self._y[k])

    def optimizer(self) -> None:
        """Read the gradient, write the parameters, read and write the states, a master copy among them."""
        if self._p.dtype == self._W[0].dtype:
            np.add(self._p, self._g, out=self._p)
        else:
            np.copyto(self._p, self._g)
        for state in self._states:
            np.multiply(state, 1, out=state)

    def copy(self) -> None:
        """Copy what is sent."""
        for start in range(0, self._sent, self._from.size):
            length = min(self._from.size, self._sent - start)
            np.copyto(self._to[:length], self._from[:length])
