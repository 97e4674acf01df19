"""A step beside PyTorch's: the same model and rows, one thread per rank, contestants in turn in the same processes.

What PyTorch sends goes through gloo's TCP sockets; MPI's ranks use shared memory, unless the program was told to go
over TCP too. Peak memory is the operating system's word on both, above what the process held before the contestant was
made, in a few steps of their own after the timing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from zerosim.bench.shared import Task, Tell, Trainee, in_turn, of_stage, slowest, spread, together
from zerosim.comm import Comm
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.peer import OPTIMIZERS, PEERS, Peer, check, gloo
from zerosim.transport.mpi import MPITransport
from zerosim.witness import system, wire

SCHEMA = "zerosim.bench.torch/1"
_STEPS = 3


def bench(
    transport: MPITransport, task: Task, stages: tuple[int, ...], budget: float, over_tcp: bool, tell: Tell
) -> dict[str, Any]:
    """Time a step at each of `stages` and of its peer, about `budget` seconds for each pair. Raises InputError."""
    door = Comm(transport, Ledger())
    door.agreed(check)
    if task.optimizer not in OPTIMIZERS:
        raise InputError(f"optimizer: {task.optimizer!r} has no peer here; choose from {', '.join(OPTIMIZERS)}")
    door.agreed(system.check)
    tell("loading PyTorch")
    with gloo(door):
        import torch

        rows = [_stage(transport, task, stage, budget, over_tcp, of_stage(tell, stage)) for stage in stages]
    return {
        "schema": SCHEMA,
        "ranks": transport.size,
        "task": task.asdict(),
        "torch": torch.__version__,
        "wire": "tcp" if over_tcp else "shared memory",
        "stages": rows,
    }


class _Theirs:
    """A peer that takes the same step again and again."""

    def __init__(self, transport: MPITransport, task: Task, stage: int) -> None:
        data = task.data(transport.size)
        mine = slice(transport.rank, task.rows * transport.size, transport.size)
        self._x = np.ascontiguousarray(data.x[mine], np.float32)
        self._y = np.ascontiguousarray(data.y[mine], np.int64)
        self._batch = task.rows * transport.size
        lr = task.config((stage,), transport.size).lr or 0.0
        self._peer = Peer(stage, list(task.widths), task.optimizer, lr, transport.rank, transport.size)
        self.close = self._peer.close

    def step(self) -> None:
        """Take a step."""
        self._peer.step(self._x, self._y, self._batch)


def _stage(
    transport: MPITransport, task: Task, stage: int, budget: float, over_tcp: bool, tell: Tell
) -> dict[str, Any]:
    ours, theirs = Trainee(transport, task, stage), _Theirs(transport, task, stage)
    everyone = together(transport, in_turn(transport, {"ours": ours.step, "theirs": theirs.step}, budget, tell))
    a, b = slowest(everyone, "ours"), slowest(everyone, "theirs")
    theirs.close()
    del ours, theirs
    tell("memory")
    mine = {
        "ours": _held_and_sent(transport, partial(Trainee, transport, task, stage)),
        "theirs": _held_and_sent(transport, partial(_Theirs, transport, task, stage)),
    }
    witnessed = together(transport, mine)
    sides: dict[str, dict[str, Any]] = {}
    for name, taken in (("ours", a), ("theirs", b)):
        own = [rank[name] for rank in witnessed]
        sides[name] = {"seconds": spread(taken), **{what: max(one[what] for one in own) for what in own[0]}}
    if not over_tcp:
        sides["ours"]["bytes_on_the_wire"] = None
    return {
        "stage": stage,
        "peer": PEERS[stage],
        "repetitions": len(a),
        "ratio": float(np.median(a / b)),
        **sides,
    }


def _held_and_sent(transport: MPITransport, make: Callable[[], Any]) -> dict[str, Any]:
    """What a contestant takes in a few steps: peak resident bytes, and bytes sent per step through sockets."""
    system.settle()
    floor = system.resident()
    contestant = make()
    system.settle()
    ours = contestant.rank if isinstance(contestant, Trainee) else None
    if ours:
        ours.ledger.reset_peak()
    peak = sent = counted = earlier = 0
    for step in range(_STEPS):
        transport.barrier()
        system.forget_peak()
        before, _ = wire.counters()
        contestant.step()
        if ours:
            counted, earlier = ours.comm.sent.total() - ours.comm.sent["control"], counted
        peak = max(peak, system.peak_resident() - floor)
        transport.barrier()
        sent = wire.counters()[0] - before if step else 0  # the first one makes connections
    seen = {"peak_resident": peak, "bytes_on_the_wire": sent}
    if ours:
        return seen | {"peak_counted": ours.ledger.peak["total"], "bytes_counted": counted - earlier}
    contestant.close()
    return seen
