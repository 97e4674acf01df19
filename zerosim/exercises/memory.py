"""Where the memory goes: predicted by a solution, held against what a training's ledger has booked."""

import functools
from collections.abc import Callable
from typing import Any

from zerosim import formulas
from zerosim.exercises.numbers import Case, expect
from zerosim.exercises.verdict import exercise, wanted
from zerosim.myths.lab import Lab, at_rest
from zerosim.words import counted

RANKS = (1, 2, 3, 4, 7)
HIDDEN = ((20,), (21, 13))
"""Hidden widths: on 4 ranks the second model shows whether each layer is padded, or all of them together."""


@functools.cache
def lab() -> Lab:
    """Where the checks train: in-process ranks, no training twice."""
    return Lab(N=1)


def widths(hidden: tuple[int, ...]) -> tuple[int, ...]:
    """Layer widths of a model for the built-in digits, inputs first."""
    return (64, *hidden, 10)


def called(L: tuple[int, ...]) -> str:
    """A model's name: "layers 64 x 20 x 10"."""
    return f"layers {' x '.join(map(str, L))}"


@exercise
def check_bytes_per_parameter(function: Callable[[str, str], Any]) -> str:
    """Check function(precision, optimizer): bytes at rest per parameter on one rank, all three kinds of states.

    Each combination is trained, and the bytes that the ledger holds are divided by the parameters.
    """
    wanted(function, "precision", "optimizer")
    cases = (_per_parameter(p, o) for p in ("fp16", "bf16", "fp32") for o in ("adam", "sgd", "momentum", "adamw"))
    return f"{expect(function, cases)} combinations of precision and optimizer, each trained; the ledger holds as much"


def _per_parameter(precision: str, optimizer: str) -> Case:
    records = lab().train(stages=(0,), hidden=HIDDEN[0], precision=precision, optimizer=optimizer, steps=1)
    w, moments = formulas.WIDTH[precision], formulas.MOMENTS[optimizer]
    K, adam = formulas.K(optimizer, precision), formulas.K("adam", precision)
    if precision in formulas.MIXED:
        mistakes = {
            "The optimizer states are missing: K is not 0": 2 * w,
            "The fp32 master copy is missing: in mixed precision it is one of the optimizer states": 2 * w + K - 4,
            "The optimizer states are counted as wide as the parameter; they are in fp32": 2 * w + w * (moments + 1),
            "The gradient is counted in fp32; here it is as wide as the parameter (DeepSpeed counts it so)": w + 4 + K,
        }
    else:
        mistakes = {
            "The optimizer states are missing: K is not 0": 2 * w,
            "In fp32 there is no master copy: the parameters are in full precision already": 2 * w + K + 4,
            "The parameter and the gradient are counted in 2 bytes, as in mixed precision; in fp32 they take 4": 4 + K,
        }
    mistakes |= {
        "One of parameter and gradient is missing": w + K,
        f"That is Adam's K = {adam}; the moments that {optimizer} keeps per parameter: {moments}": 2 * w + adam,
        f"A number per parameter is missing; the moments that {optimizer} keeps: {moments}": 2 * w + K - 4,
        f"That is a number per parameter too many; the moments that {optimizer} keeps: {moments}": 2 * w + K + 4,
    }
    right = at_rest(records.runs[0]) / records.parameters
    return Case(f"{precision}, {optimizer}", (precision, optimizer), right, mistakes, "bytes per parameter")


@exercise
def check_memory_at_rest(function: Callable[[int, list[int], int], Any]) -> str:
    """Check function(stage, sizes, N): bytes at rest on a rank, for layers of so many elements, in fp16 with Adam.

    Each case is trained, and the number must be what the ledger of the fullest rank holds after the last step.
    """
    wanted(function, "stage", "sizes", "N")
    cases = (_at_rest(stage, widths(hidden), N) for hidden in HIDDEN for N in RANKS for stage in range(4))
    return (
        f"{expect(function, cases)} cases, {RANKS[0]} to {RANKS[-1]} ranks: what each rank's ledger holds, to the byte"
    )


def _at_rest(stage: int, L: tuple[int, ...], N: int) -> Case:
    run = lab().train(N, hidden=L[1:-1], precision="fp16", batch_size=28, steps=1).runs[stage]
    sizes, states = formulas.layer_sizes(L), formulas.states_per_rank
    Psi, padded = sum(sizes), formulas.padded_parameters(L, N)
    together, whole = -(-Psi // N) * N, sum(formulas.model_states(stage, Psi, 1))
    uncut = [formulas.model_states(0, Psi, N), formulas.model_states(stage, padded, N)]
    mistakes = {
        "K is missing: the optimizer states are 12 bytes per parameter": states(stage, padded, N, K=0),
        "The fp32 master copy is missing: K is 12, not 8": states(stage, padded, N, K=8),
        "Gradients are counted in fp32; they are fp16, as the parameters": states(stage, padded, N, g=4),
        "Padding is forgotten: each layer is rounded up to a multiple of N, so that its slices are equal": states(
            stage, Psi, N
        ),
        "What does not divide by N is rounded down; each layer is rounded up to a multiple of N": sum(
            int(one) for one in formulas.model_states(stage, Psi, N)
        ),
        "Padding is for each layer by itself, not once for all of them together": states(stage, together, N),
        "Padding is in what is held whole, too: the full vectors have it as well as the slices": sum(
            whole if whole == full else cut
            for whole, full, cut in zip(uncut[0], formulas.model_states(stage, Psi, N), uncut[1], strict=True)
        ),
        f"Nothing is divided by N: stage {stage} cuts {_cut(stage)}": states(0, padded, N),
        f"Everything is divided by N, as at stage 3; stage {stage} cuts {_cut(stage)}": states(3, padded, N),
        f"That is what stage {stage - 1} holds; stage {stage} cuts {_cut(stage)}": states(stage - 1, padded, N),
        f"That is what stage {stage + 1} holds; stage {stage} cuts {_cut(stage)}": states(stage + 1, padded, N),
        "That is all ranks together; the question is one of them": N * states(stage, padded, N),
        "That is elements, or bytes of one kind only: 2 + 2 + 12 bytes stand for each parameter": whole / 16,
    }
    return Case(f"stage {stage} on {counted(N, 'rank')}, {called(L)}", (stage, sizes, N), at_rest(run), mistakes)


def _cut(stage: int) -> str:
    return ("nothing", "the optimizer states", "gradients and optimizer states", "all three")[stage]


@exercise
def check_activations(function: Callable[[tuple[int, ...], int, int], Any]) -> str:
    """Check function(widths, B, N): the most bytes of activations that a rank holds in a step, in fp16.

    `widths` are the layers' with the inputs first, B the rows of a step over all N ranks. Each case is trained.
    """
    wanted(function, "widths", "B", "N")
    cases = (_activations(widths(hidden), B, N) for hidden in HIDDEN for N in (1, 2, 4, 7) for B in (28, 30))
    return f"{expect(function, cases)} cases: the most that the ledgers of 1 to 7 ranks held under activations"


def _activations(L: tuple[int, ...], B: int, N: int) -> Case:
    run = lab().train(N, stages=(0,), hidden=L[1:-1], precision="fp16", batch_size=B, steps=1).runs[0]
    rows, numbers = -(-B // N), sum(L)
    mistakes = {
        "The model's inputs are missing: the first layer's backward pass needs them": 2 * rows * (numbers - L[0]),
        "The outputs are missing: the loss is made from them": 2 * rows * (numbers - L[-1]),
        "Inputs and outputs are missing: they are held as well as what lies between": 2 * rows * sum(L[1:-1]),
        "That is for the whole batch; a rank has every N-th of its rows": 2 * B * numbers,
        "A rank has whole rows: if N does not divide the batch, some have one more": 2 * B / N * numbers,
        "Rounded down: if N does not divide the batch, some ranks have a row more": 2 * (B // N) * numbers,
        "In fp16 an activation takes 2 bytes, not 4": 4 * rows * numbers,
        "That is elements: in fp16 each takes 2 bytes": rows * numbers,
        "That is the widest layer only; all inputs wait for the backward pass": 2 * rows * max(L),
        "That is one row; a rank has several": 2 * numbers,
    }
    right = max(run.activations["device"])
    return Case(f"{called(L)}, {B} rows on {counted(N, 'rank')}", (L, B, N), right, mistakes)
