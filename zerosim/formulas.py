"""Closed forms, in the symbols of the ZeRO paper, each with its place. Imports nothing of zerosim.

Psi   parameters                     w   bytes of a parameter on the device and on the wire (2 in mixed precision)
N     data-parallel ranks            K   bytes of optimizer state per parameter (12 for Adam in mixed precision)
k     micro-steps per step           L   the layer widths, inputs first: [64, 256, 10]

ZeRO = Rajbhandari, Rasley, Ruwase, He: ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
arXiv:1910.02054v3, SC20.
"""

from collections.abc import Sequence
from itertools import pairwise

WIDTH = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}
"""w: bytes of a parameter and of a gradient, by precision. fp64 is a test mode of this program."""

MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""Numbers that an optimizer keeps per parameter: none, the momentum, or momentum and variance."""

MIXED = ("fp16", "bf16")
"""Precisions that keep fp32 master weights among the optimizer states."""


def K(optimizer: str, precision: str) -> int:
    """Bytes of optimizer state per parameter (ZeRO, section 3.1: 4 + 4 + 4 = 12 for Adam in mixed precision).

    Mixed precision keeps an fp32 master copy of the parameters beside the moments; fp32 needs none.
    """
    if precision in MIXED:
        return 4 + 4 * MOMENTS[optimizer]
    return WIDTH[precision] * MOMENTS[optimizer]


def model_states(stage: int, Psi: float, N: float, w: float = 2, K: float = 12) -> tuple[float, float, float]:
    """Bytes at rest per rank: parameters, gradients, optimizer states (ZeRO, section 5 and figure 1).

    Stage 0 holds (w + w + K) Psi; stage 1 cuts the optimizer states by N, stage 2 the gradients too, stage 3 all.
    """
    p, g, o = (N if stage >= s else 1 for s in (3, 2, 1))
    return w * Psi / p, w * Psi / g, K * Psi / o


def volume(stage: int, Psi: float, k: int = 1) -> dict[str, float]:
    """Elements a rank sends in one step for large N, by verb (ZeRO, section 7: 2 Psi, and 3 Psi at stage 3).

    With k micro-steps stages 0 and 1 reduce once, stage 2 reduces in each micro-step, stage 3 gathers twice in each
    as well: 2 Psi, 2 Psi, (k + 1) Psi, 3 k Psi.
    """
    return [
        {"all_reduce": 2 * Psi},
        {"reduce_scatter": Psi, "all_gather": Psi},
        {"reduce_scatter": k * Psi, "all_gather": Psi},
        {"reduce_scatter": k * Psi, "all_gather": 2 * k * Psi},
    ][stage]


def parameters(L: Sequence[int]) -> int:
    """Psi of an MLP: each layer has a weight per input and output and a bias per output."""
    return sum((a + 1) * b for a, b in pairwise(L))


def padded_parameters(L: Sequence[int], N: int) -> int:
    """Psi with each layer rounded up to a multiple of N, which is what cutting it in N equal slices takes."""
    return sum(-(-(a + 1) * b // N) * N for a, b in pairwise(L))


def at_rest(stage: int, L: Sequence[int], N: int, precision: str, optimizer: str) -> dict[str, int]:
    """Bytes at rest per rank, exactly, by memory class: `model_states` of the padded parameters.

    Activations and buffers live within a step, so at rest there are none.
    """
    states = model_states(stage, padded_parameters(L, N), N, WIDTH[precision], K(optimizer, precision))
    p, g, o = (int(x) for x in states)
    return {"parameters": p, "gradients": g, "optimizer_states": o, "activations": 0, "buffers": 0}


def traffic(stage: int, L: Sequence[int], N: int, precision: str, k: int = 1) -> dict[str, int]:
    """Bytes each rank sends in one step, exactly, by verb: `volume` of the padded parameters times w (N - 1) / N.

    An all_gather or a reduce_scatter that meets the bandwidth bound sends N - 1 of the N slices from each rank; an
    all_reduce is one of each (Patarasuk and Yuan 2009, section 3; Thakur, Rabenseifner, Gropp 2005, section 4).
    """
    sent = WIDTH[precision] * (padded_parameters(L, N) // N) * (N - 1)
    return {verb: int(times) * sent for verb, times in volume(stage, 1, k).items()}


def messages(stage: int, L: Sequence[int], N: int, bucket: int = 0, k: int = 1) -> int:
    """Messages each rank sends in one step with the ring: N - 1 for each bucket and pass over the parameters.

    A bucket of at most `bucket` elements (0: no limit) is cut at multiples of N and holds N elements at the least.
    """
    buckets = 0
    for a, b in pairwise(L):
        padded = -(-(a + 1) * b // N) * N
        buckets += -(-padded // max(N, bucket // N * N)) if bucket else 1
    return int(sum(volume(stage, 1, k).values())) * buckets * (N - 1)
