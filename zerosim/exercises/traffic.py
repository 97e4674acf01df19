"""What a step sends: predicted by a solution, held against what the doors of real collectives have counted."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from zerosim import formulas
from zerosim.collectives import VERBS
from zerosim.comm import Comm
from zerosim.exercises.memory import HIDDEN, RANKS, called, lab, widths
from zerosim.exercises.numbers import Case, expect
from zerosim.exercises.verdict import exercise, wanted
from zerosim.ledger import Ledger
from zerosim.stages import STAGES
from zerosim.transport import Transport
from zerosim.transport.threads import run_threads
from zerosim.words import counted

CONVENTIONS = ("sent", "sent and received", "cluster", "algbw", "busbw")
"""Bytes that a rank sends; that and what it receives; what all ranks send; and bytes per second as nccl-tests has them:
the whole vector over the time, and that times `formulas.bus_factor` (NVIDIA nccl-tests, doc/PERFORMANCE.md)."""

Log = list[tuple[str, int]]
"""(verb, bytes of the tensor that a rank hands in): of an all_gather that is its own slice, else the whole vector."""


@exercise
def check_bytes_sent(function: Callable[[int, list[int], int, int], Any]) -> str:
    """Check function(stage, sizes, N, k): bytes that a rank sends in a step of k micro-steps, in fp16.

    `sizes` are the elements of each layer, without padding. Each case is trained, and the number must be what the
    rank's door has counted; what is sent for the loss and for overflow flags is no part of it.
    """
    wanted(function, "stage", "sizes", "N", "k")
    models = [(1, hidden) for hidden in HIDDEN] + [(3, HIDDEN[0])]
    cases = (_sent(stage, widths(hidden), N, k) for k, hidden in models for N in RANKS for stage in range(4))
    return (
        f"{expect(function, cases)} cases, {RANKS[0]} to {RANKS[-1]} ranks, 1 and 3 micro-steps: what the doors count"
    )


def _sent(stage: int, L: tuple[int, ...], N: int, k: int) -> Case:
    settings: dict[str, Any] = {"hidden": L[1:-1], "precision": "fp16", "batch_size": 28, "steps": 1}
    if k > 1:
        settings["grad_accum"] = k
    run = lab().train(N, **settings).runs[stage]
    sizes, padded = formulas.layer_sizes(L), formulas.padded_parameters(L, N)
    right = sum(run.sent_per_step["data"][0].values())
    once = 2 * padded * (N - 1) / N  # one pass over all parameters
    mistakes = {
        "That is for many ranks: of each vector a rank sends (N - 1) / N": 2 * formulas.volume_in_all(stage, padded, k),
        "That is elements: in fp16 each takes 2 bytes": right / 2,
        "Padding is forgotten: each layer is rounded up to a multiple of N": formulas.bytes_per_rank(
            stage, sum(sizes), N, k=k
        ),
        "The fraction is rounded down; each layer is rounded up to a multiple of N before it is cut": int(
            formulas.bytes_per_rank(stage, sum(sizes), N, k=k)
        ),
        **_passes(stage, k, once),
        "That is twice as much: what is received counted too, or 4 bytes for a number of fp16": 2 * right,
        "That is all ranks together; the question is one of them": N * right,
        "That is once over all parameters: an all-reduce is a reduce-scatter and an all-gather": once,
    }
    name = f"stage {stage} on {counted(N, 'rank')}, {counted(k, 'micro-step')}, {called(L)}"
    return Case(name, (stage, sizes, N, k), right, mistakes)


def _passes(stage: int, k: int, once: float) -> dict[str, float]:
    """Wrong numbers of passes over all parameters, each as `once`."""
    missing = "The micro-steps are missing: from stage 2 on each of them reduces, at stage 3 it also gathers twice"
    if stage == 3:
        return {
            "This is 2 Psi: the paper's 3 Psi for stage 3 has a second all-gather, for the backward pass": 2 * k * once,
            "Stage 3 gathers in each micro-step, for nothing stays; that is k reductions and 2 gathers": (k + 2) * once,
            "Stage 3 reduces in each micro-step; that is one reduction and 2 k gathers": (2 * k + 1) * once,
            missing: 3 * once,
        }
    if stage == 2:
        return {
            "This is 3 Psi: only stage 3 gathers twice; an all-reduce is a reduce-scatter and an all-gather": 3 * once,
            "At stage 2 only reducing is repeated: parameters are gathered once in a step, (k + 1) Psi": 2 * k * once,
            missing: 2 * once,
        }
    return {
        "This is 3 Psi: at stage 1 a reduce-scatter is enough; 3 Psi is with a whole all-reduce": 3 * once,
        "Stages 0 and 1 add up the micro-steps where they are, and reduce once": 2 * k * once,
        "Stages 0 and 1 have the whole gradient, so micro-steps are added before anything is sent": (k + 1) * once,
    }


@exercise
def check_convert(function: Callable[[str, str, int, int, float], Any]) -> str:
    """Check function(convention, verb, S, N, seconds), a number for each of `CONVENTIONS`.

    S are the bytes of the whole vector. Bytes are held against what the doors of N ranks counted for that verb.
    """
    wanted(function, "convention", "verb", "S", "N", "seconds")
    cases = (
        _converted(convention, verb, 168 * N, N, seconds)
        for convention in CONVENTIONS
        for verb in VERBS
        for N, seconds in ((4, 0.25), (7, 0.5), (2, 1e-3))
    )
    return f"{expect(function, cases)} cases, the bytes as counted by the doors"


def _converted(convention: str, verb: str, S: int, N: int, seconds: float) -> Case:
    sent, received, everyone = _moved(verb, S, N)
    factor = {name: float(formulas.bus_factor(name, N)) for name in VERBS}
    other = factor["all_gather" if verb == "all_reduce" else "all_reduce"]
    known: dict[str, tuple[float, dict[str, float]]] = {
        "sent": (
            sent,
            {
                "That is the vector; a rank keeps its own slice to itself": S,
                "That is for many ranks; exactly it is 2 (N - 1) / N of the vector": 2 * S,
                f"That is the factor of another verb: {_share(verb)}": S * other,
                "That is one slice; N - 1 of them are sent": S / N,
                f"S is the whole vector already, not a rank's slice: {_share(verb)}": S * N * factor[verb],
            },
        ),
        "sent and received": (
            sent + received,
            {
                "That is one direction; here both are counted": sent,
                "That is the vector twice; a rank's own slice does not travel": 2 * S,
            },
        ),
        "cluster": (
            everyone,
            {
                "That is one rank; here all N are added": sent,
                "Each byte is counted where it is sent and where it arrives": 2 * everyone,
                "That is N vectors; each rank sends a little less": N * S,
            },
        ),
        "algbw": (
            S / seconds,
            {
                "That is the bus bandwidth; the algorithm bandwidth is the vector over the time": sent / seconds,
                "Twice as much: so DeepSpeed's comms logger has it for an all_reduce; nccl-tests: S / t": 2
                * S
                / seconds,
                "That is a rank's slice; S is the whole vector, for each verb": S / N / seconds,
                "That is N vectors; S is the whole vector already": S * N / seconds,
            },
        ),
        "busbw": (
            S / seconds * factor[verb],
            {
                "That is the algorithm bandwidth; the bus bandwidth has a factor that depends on verb and N": S
                / seconds,
                "That is for many ranks; exactly the factor is 2 (N - 1) / N": 2 * S / seconds,
                f"That is the factor of another verb: {_share(verb)}": S / seconds * other,
                "That is N times as much: S is the whole vector already": S / seconds * factor[verb] * N,
            },
        ),
    }
    right, mistakes = known[convention]
    name = f"{convention} of {verb}, S = {S} on {N} ranks in {seconds} s"
    unit = "bytes per second" if convention.endswith("bw") else "bytes"
    return Case(name, (convention, verb, S, N, seconds), right, mistakes, unit)


def _share(verb: str) -> str:
    return f"of {verb} a rank sends {'2 ' if verb == 'all_reduce' else ''}(N - 1) / N"


@functools.cache
def _moved(verb: str, S: int, N: int) -> tuple[int, int, int]:
    """Bytes that rank 0 sends and receives for a vector of S bytes, and what all ranks send, as counted."""

    def move(comm: Transport) -> tuple[int, int]:
        door = Comm(comm, Ledger())
        getattr(door, verb)(np.zeros(S // 4, np.float32))
        return door.sent[verb], door.received

    ranks = run_threads(N, move)
    return *ranks[0], sum(sent for sent, _ in ranks)


@functools.cache
def log_of_a_step(stage: int, N: int, k: int = 1) -> tuple[Log, int]:
    """Take a real step on N in-process ranks; return rank 0's log of collectives and the bytes its door has counted.

    The log is what a tool sees that wraps a library's collectives: what they are called with.
    """
    config = lab().config(hidden=HIDDEN[1], precision="fp16", stages=(stage,), grad_accum=k, steps=1)

    def step(comm: Transport) -> tuple[Log, int]:
        rank, log = lab().rank(comm, stage, config), Log()
        for verb in VERBS:
            setattr(rank.comm, verb, _logging(verb, rank.comm, log))
        for batch in lab().batches(config):
            STAGES[stage].step(rank, batch)
        return log, sum(rank.comm.sent[verb] for verb in VERBS)

    return run_threads(N, step)[0]


def _logging(verb: str, door: Comm, log: Log) -> Callable[..., None]:
    call = getattr(door, verb)

    def logged(*vectors: np.ndarray, **where: Any) -> None:
        log.extend((verb, (door.own(vector) if verb == "all_gather" else vector).nbytes) for vector in vectors)
        call(*vectors, **where)

    return logged


@exercise
def check_counter(function: Callable[[Log, int], Any]) -> str:
    """Check function(log, N): bytes that a rank sends in a step, made from its `Log` of collectives.

    The logs are of real steps at each stage, and the number must be what that rank's door has counted.
    """
    wanted(function, "log", "N")
    tried = expect(function, _logs([(N, k) for N in (4, 3, 7, 1) for k in (1, 2)]))
    return f"the logs of {tried} steps, at four stages on 1 to 7 ranks: what the door has counted"


def _logs(settings: Sequence[tuple[int, int]]) -> Iterator[Case]:
    for stage in range(4):
        for N, k in settings:
            log, sent = log_of_a_step(stage, N, k)
            total = {verb: sum(nbytes for name, nbytes in log if name == verb) for verb in VERBS}
            whole, scattered, slices = (total[verb] for verb in ("all_reduce", "reduce_scatter", "all_gather"))
            share = (N - 1) / N
            mistakes = {
                "The reduce-scatters count N times too much: what a rank hands in is the whole vector already": sent
                + (N - 1) * scattered * share,
                "The all-gathers count too little: a rank hands in one slice, and sends N - 1 slices on": sent
                - slices * (N - 1)
                + slices * share,
                "An all-reduce is a reduce-scatter and an all-gather: 2 (N - 1) / N of the vector": sent
                - whole * share,
                "That is for the cluster; the question is one rank": N * sent,
                "That is what was handed in; what is sent depends on the verb and on N": whole + scattered + slices,
                "The (N - 1) / N is missing: a rank's own slice does not travel": sent / share if share else 0,
                "The reduce-scatters are missing": sent - scattered * share,
                "The all-gathers are missing": sent - slices * (N - 1),
            }
            name = f"a step at stage {stage} on {counted(N, 'rank')}, {counted(k, 'micro-step')}"
            yield Case(name, (list(log), N), sent, mistakes)
