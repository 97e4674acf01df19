"""Collectives timed for real: the explicit ones beside the MPI library's own, in pairs, in one run.

Each repetition lets every contestant do the same once, on data that was rewritten just before, or caches flatter the
small sizes. Native is MPI's bare call; the explicit ones go through the door, counting included. A contestant's time is
that of its slowest rank; its ratio to native is the median over repetitions of the two times of the same repetition.
Beside it stands the bound: the time in which every rank at once merely copies as many bytes, in memory, as the verb has
to move.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from zerosim.bench.shared import LEAST, MOST, spread, together
from zerosim.cluster import THIS_MACHINE, Cluster
from zerosim.collectives import NATIVE, Algorithm
from zerosim.collectives.moves import span
from zerosim.comm import Comm
from zerosim.errors import InputError
from zerosim.formulas import bus_factor
from zerosim.ledger import Ledger
from zerosim.precision import precision
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport

SCHEMA = "zerosim.collectives.bench/1"

Contestant = Callable[[np.ndarray], Any]


def bench(
    transport: MPITransport,
    verb: str,
    sizes: list[int],
    algorithms: list[Algorithm],
    number: str,
    budget: float,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Time a verb by the `algorithms` and by native, for vectors of about `sizes` bytes of `number` (fp32, …).

    Each size takes about `budget` seconds, and 7 repetitions at the least. Returns JSON types, the same on all ranks:
    all times in seconds, bandwidths in bytes per second. Raises InputError if there is nothing to compare.
    """
    if transport.size == 1:
        raise InputError("bench: one rank moves nothing; start it with mpirun -n 4")
    contestants: dict[str, Contestant] = {NATIVE: partial(transport.native, verb)}
    for algorithm in algorithms:
        contestants[algorithm.name] = getattr(Comm(transport, Ledger(), algorithm), verb)
    dtype = precision(number).dtype
    rows = []
    for nbytes in sizes:
        elements = max(1, nbytes // dtype.itemsize // transport.size) * transport.size
        times = _contest(transport, contestants, verb, elements, dtype, budget, progress)
        rows.append(_row(verb, transport.size, elements * dtype.itemsize, times))
    return {
        "schema": SCHEMA,
        "verb": verb,
        "ranks": transport.size,
        "precision": number,
        "cluster": measure(transport).asdict(),
        "sizes": rows,
    }


def _contest(
    transport: MPITransport,
    contestants: dict[str, Contestant],
    verb: str,
    elements: int,
    dtype: np.dtype,
    budget: float,
    progress: Callable[[str], None],
) -> dict[str, np.ndarray]:
    """Return each contestant's times, and "copy"'s, a number per repetition: the slowest rank's."""
    control = Comm(transport, Ledger())
    N, rank = transport.size, transport.rank
    source, vector = np.full(elements, 1 + rank % 2, dtype), np.empty(elements, dtype)
    moved = int(bus_factor(verb, N) * elements)
    times: dict[str, list[float]] = {name: [] for name in (*contestants, "copy")}
    repetitions, done = MOST, -1  # one is not counted: the first touch of memory, the plans
    began = time.perf_counter()
    while done < repetitions:
        for name in times:
            np.copyto(vector, source)
            transport.barrier()
            started = time.perf_counter()
            if name == "copy":
                for at in range(0, moved, elements):
                    np.copyto(vector[: moved - at], source[: moved - at])
            else:
                contestants[name](vector)
            times[name].append(time.perf_counter() - started)
            if done < 0 and name != "copy":
                _check(name, verb, vector, rank, N)
        done += 1
        if done in (0, 1):  # ranks must agree on how often; rank 0's clock decides
            spent, began = time.perf_counter() - began, time.perf_counter()
            (spent,) = control.sum(spent if rank == 0 else 0.0)
            repetitions = max(LEAST, min(MOST, int(budget / spent)))
        progress(f"{verb} of {elements * dtype.itemsize:,} bytes: {done} of {repetitions}")
    everyone = together(transport, times)
    return {name: np.max([mine[name] for mine in everyone], axis=0)[1:] for name in times}


def _check(name: str, verb: str, vector: np.ndarray, rank: int, N: int) -> None:
    """A contestant that is wrong is not fast."""
    n = vector.size
    if verb == "all_gather":
        right = all((vector[span(r, 1, N, n)] == 1 + r % 2).all() for r in range(N))
    else:
        own = slice(None) if verb == "all_reduce" else span(rank, 1, N, n)
        right = bool((vector[own] == sum(1 + r % 2 for r in range(N))).all())
    if not right:
        raise RuntimeError(f"{name}: the {verb} of {vector.nbytes} bytes is wrong on rank {rank}")


def _row(verb: str, N: int, nbytes: int, times: dict[str, np.ndarray]) -> dict[str, Any]:
    native, copy = times[NATIVE], times["copy"]
    row: dict[str, Any] = {"bytes": nbytes, "repetitions": len(native), "copy": spread(copy), "collectives": {}}
    for name, taken in times.items():
        if name == "copy":
            continue
        median = float(np.median(taken))
        row["collectives"][name] = {
            "seconds": spread(taken),
            "ratio_to_native": float(np.median(taken / native)),
            "ratio_to_copy": float(np.median(taken / copy)),
            "algbw": nbytes / median,
            "busbw": nbytes / median * float(bus_factor(verb, N)),
        }
    return row


# the machine as a cluster --------------------------------------------------------------------------------------------

_SHORT, _LONG, _WARM_UP, _TIMES = 8, 1 << 22, 10, 101


def measure(transport: Transport | None) -> Cluster:
    """Measure alpha, beta and gamma of this machine: exchanges of 8 bytes and 4 MiB of ranks 0 and 1, sums of 4 MiB.

    Without a transport, or with a single rank, between two in-process ranks. All ranks return the same figures.
    """
    if transport is None or transport.size < 2:
        from zerosim.transport.threads import run_threads

        alpha, beta, gamma = run_threads(2, _measure)[0]
        how = "between two in-process ranks (start it under mpirun to measure MPI)"
    else:
        alpha, beta, gamma = _measure(transport)
        how = f"between ranks 0 and 1 of {transport.size} ({transport.backend})"
    return Cluster(
        THIS_MACHINE,
        ranks_per_node=1,
        alpha_inside=alpha,
        bandwidth_inside=1 / beta,
        alpha_between=alpha,
        bandwidth_between=1 / beta,
        links=1,
        bandwidth_sum=1 / gamma,
        source=f"measured now {how}: medians of {_TIMES} exchanges of 8 bytes and of 4 MiB, and of sums of 4 MiB; "
        "one kind of link, as if each rank had a node of its own.",
    )


def _measure(transport: Transport) -> tuple[float, float, float]:
    door = Comm(transport, Ledger())
    here, there = np.ones(_LONG // 4, np.float32), np.ones(_LONG // 4, np.float32)
    seconds = {}
    for size in (_SHORT, _LONG):
        part = slice(0, size // 4)
        if transport.rank < 2:
            seconds[size] = _median(partial(door.swap, 1 - transport.rank, here[part], there[part]))
    mine = [0.0, 0.0, 0.0]
    if transport.rank == 0:
        seconds_sum = _median(lambda: np.add(here, there, out=here))
        mine = [seconds[_SHORT], (seconds[_LONG] - seconds[_SHORT]) / (_LONG - _SHORT), seconds_sum / _LONG]
    alpha, beta, gamma = (max(value, 1e-15) for value in door.sum(*mine))
    return alpha, beta, gamma


def _median(action: Callable[[], Any]) -> float:
    taken = []
    for _ in range(_WARM_UP + _TIMES):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[_WARM_UP:]))
