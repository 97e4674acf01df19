"""Plans: the largest model, the least stage, the fewest devices; of the states alone, 2 + 2 + 12 bytes, no padding."""

import math
from collections.abc import Callable
from typing import Any

from zerosim import formulas
from zerosim.exercises.numbers import Case, expect, number
from zerosim.exercises.verdict import Wrong, exercise, in_time, wanted
from zerosim.report import si
from zerosim.words import counted


@exercise
def check_largest_model(function: Callable[[int, float, int], Any]) -> str:
    """Check function(stage, memory, N): the parameters whose states fill `memory` bytes of each of N devices.

    To within one parameter. The cases with 32 GB and N = 64 are the first row of ZeRO's table 2.
    """
    wanted(function, "stage", "memory", "N")
    memories = ((32e9, 1), (32e9, 64), (80e9, 3), (80e9, 1024))
    cases = (_largest(stage, memory, N) for memory, N in memories for stage in range(4))
    return f"{expect(function, cases, within=1)} cases, the first row of the paper's table 2 among them"


def _largest(stage: int, memory: float, N: int) -> Case:
    right = formulas.largest_model(stage, memory, N)
    mistakes = {
        "That is for the weights alone; gradients and optimizer states are held too": memory / 2,
        "The optimizer states are missing: K is 12 bytes per parameter": formulas.largest_model(stage, memory, N, K=0),
        "The fp32 master copy is missing: K is 12, not 8": formulas.largest_model(stage, memory, N, K=8),
        "N is missing: that is what plain data parallelism has room for; the other stages cut states by N": memory / 16,
        "That is for stage 3, the only one that cuts all 16 bytes by N": N * memory / 16,
        **{f"That is for stage {other}": formulas.largest_model(other, memory, N) for other in (1, 2)},
        "That is billions of parameters; return parameters": right / 1e9,
        "GB are powers of 1000 here, GiB are powers of 1024": right * 1.024**3,
    }
    return Case(
        f"stage {stage}, {counted(N, 'device')} of {si(memory)}",
        (stage, memory, N),
        right,
        mistakes,
        "parameters",
    )


@exercise
def check_least_stage(function: Callable[[float, float, int], Any]) -> str:
    """Check function(Psi, memory, N): the least stage whose states fit in each of N devices; None if none does."""
    wanted(function, "Psi", "memory", "N")
    cases = (
        (1.5e9, 32e9, 1),
        (100e9, 80e9, 64),
        (7.5e9, 80e9, 64),
        (20e9, 80e9, 8),
        (1e12, 80e9, 64),
        (4e9, 64e9, 8),
        (128e9, 32e9, 64),
        (128e9, 32e9, 63),
        (13e9, 32e9, 64),
        (1e12, 80e9, 1024),
    )
    for case in cases:
        _check_stage(in_time(function, *case), *case)
    return f"{len(cases)} models and clusters, also where exactly as much is needed as there is"


def _check_stage(got: Any, Psi: float, memory: float, N: int) -> None:
    needed = [formulas.states_per_rank(stage, Psi, N) for stage in range(4)]
    right = next((stage for stage in range(4) if needed[stage] <= memory), None)
    where = f"{Psi / 1e9:g} billion parameters on {counted(N, 'device')} of {si(memory)}"
    if got is None and right is None:
        return
    if got is None:
        exactly = ", exactly as much as there is" if needed[right or 0] == memory else ""
        raise Wrong(f"{where}: you say None, and stage {right} needs {si(needed[right or 0])}{exactly}: it fits")
    said = number(got, where)
    if said not in range(4):
        raise Wrong(f"{where}: you say {said}, and stages are 0, 1, 2 and 3")
    if right is None:
        raise Wrong(f"{where}: you say stage {said}, and even stage 3 needs {si(needed[3])}: return None")
    if said > right:
        exactly = ", exactly as much as there is" if needed[right] == memory else ""
        raise Wrong(
            f"{where}: you say stage {said}, and stage {right} fits already, with {si(needed[right])}{exactly}. "
            "The least stage is asked for: it is the simplest, and stage 3 sends half as much again"
        )
    if said < right:
        short = needed[int(said)]
        raise Wrong(
            f"{where}: you say stage {said}, which needs {si(short)} on each device. {_forgotten(Psi, memory, N, said)}"
        )


def _forgotten(Psi: float, memory: float, N: int, stage: float) -> str:
    """Which part of the states must have been left out if it was to fit."""
    if formulas.states_per_rank(stage, Psi, N, K=0) <= memory:
        return "Without the optimizer states it would fit: K is 12 bytes per parameter"
    if formulas.states_per_rank(3, Psi, N) <= memory:
        return "All devices together have the room, but what a stage does not cut is on each of them whole"
    return "It does not fit"


@exercise
def check_devices(function: Callable[[int, float, float], Any]) -> str:
    """Check function(stage, Psi, memory): the fewest devices whose memory holds the states; None if no number does."""
    wanted(function, "stage", "Psi", "memory")
    cases = (
        (3, 7.5e9, 32e9),
        (3, 1e12, 80e9),
        (3, 1e12, 32e9),
        (1, 7.5e9, 32e9),
        (2, 13e9, 32e9),
        (0, 2e9, 32e9),
        (1, 7.5e9, 30e9),
        (2, 1e12, 80e9),
        (0, 7.5e9, 80e9),
        (1, 13e9, 60e9),
    )
    tried = expect(function, (_devices(*case) for case in cases))
    return f"{tried} cases, among them a trillion parameters, and some that no number of devices holds"


def _devices(stage: int, Psi: float, memory: float) -> Case:
    right, kept = _fewest(stage, Psi, memory), formulas.states_per_rank(stage, Psi, math.inf)
    cut = formulas.states_per_rank(stage, Psi, 1) - kept
    per_parameter = kept / Psi
    mistakes: dict[str, Any] = {
        f"That is for stage 3; stage {stage} keeps {per_parameter:g} bytes of each parameter on every device": _fewest(
            3, Psi, memory
        ),
        "The optimizer states are missing: K is 12 bytes per parameter": math.ceil(4 * Psi / memory),
        "That is for the weights alone": math.ceil(2 * Psi / memory),
        "Devices are whole: round up": cut / (memory - kept) if memory != kept else math.inf,
        "One device at least there must be": 0,
    }
    if right is None:
        none = f"What every device keeps, {si(kept)}, leaves no room for the rest on any number of devices"
        mistakes[none] = math.ceil(cut / (memory - kept)) if memory != kept else math.inf
    if right is not None:
        mistakes["On so many it does not fit yet: round up, not down"] = right - 1 if right > 1 else math.nan
        mistakes["It fits on one fewer: where it divides, nothing is left over"] = right + 1
    return Case(
        f"stage {stage}, {Psi / 1e9:g} billion parameters, {si(memory)}",
        (stage, Psi, memory),
        right,
        mistakes,
        "devices",
        "" if right is None else _enough(stage, Psi, memory, right),
    )


def _enough(stage: int, Psi: float, memory: float, N: int) -> str:
    needed = formulas.states_per_rank(stage, Psi, N)
    exactly = ", exactly as much as there is" if needed == memory else f" of {si(memory)}"
    return f"{'one device' if N == 1 else f'{N:,} devices'} will do: each then needs {si(needed)}{exactly}"


def _fewest(stage: int, Psi: float, memory: float) -> int | None:
    """The fewest devices, by looking for them."""
    if formulas.states_per_rank(stage, Psi, 1) <= memory:
        return 1
    if formulas.states_per_rank(stage, Psi, math.inf) >= memory:
        return None
    N = 2
    while formulas.states_per_rank(stage, Psi, N) > memory:
        N *= 2
    low = N // 2
    while N - low > 1:
        middle = (low + N) // 2
        low, N = (low, middle) if formulas.states_per_rank(stage, Psi, middle) <= memory else (middle, N)
    return N
