"""Closed forms, in the symbols of the ZeRO paper, each with its place. Imports nothing of zerosim.

Psi   parameters                     w   bytes of a parameter on the device and on the wire (2 in mixed precision)
N     data-parallel ranks            K   bytes of optimizer state per parameter (12 for Adam in mixed precision)
k     micro-steps per step           L   the layer widths, inputs first: [64, 256, 10]

ZeRO = Rajbhandari, Rasley, Ruwase, He: ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
arXiv:1910.02054v3, SC20.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
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


def passes(stage: int, k: int = 1) -> dict[str, int]:
    """How often each verb goes over all parameters in one step (ZeRO, section 7), with k micro-steps.

    Stages 0 and 1 reduce once, stage 2 reduces in each micro-step, stage 3 gathers twice in each as well.
    """
    return [
        {"all_reduce": 1},
        {"reduce_scatter": 1, "all_gather": 1},
        {"reduce_scatter": k, "all_gather": 1},
        {"reduce_scatter": k, "all_gather": 2 * k},
    ][stage]


def volume(stage: int, Psi: float, k: int = 1) -> dict[str, float]:
    """Elements a rank sends in one step for large N, by verb (ZeRO, section 7: 2 Psi, and 3 Psi at stage 3).

    An all_reduce is Psi to reduce and Psi to gather. With k micro-steps: 2 Psi, 2 Psi, (k + 1) Psi, 3 k Psi.
    """
    return {verb: times * Psi * (2 if verb == "all_reduce" else 1) for verb, times in passes(stage, k).items()}


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


Collective = str | Callable[[int], str]
"""A name of `--collective`, or what names one for a bucket of so many bytes."""


def buckets(L: Sequence[int], N: int, bucket: int = 0) -> list[int]:
    """Elements of each bucket, padded, in order: a layer, or a layer cut at multiples of N.

    A cut bucket has at most `bucket` elements (0: no limit), but N at the least, one for each rank.
    """
    sizes = []
    for a, b in pairwise(L):
        padded = -(-(a + 1) * b // N) * N
        cut = max(N, bucket // N * N) if bucket else padded
        sizes += [cut] * (padded // cut) + [padded % cut] * (padded % cut > 0)
    return sizes


def traffic(
    stage: int,
    L: Sequence[int],
    N: int,
    precision: str,
    bucket: int = 0,
    k: int = 1,
    collective: Collective = "ring",
    rank: int = 0,
) -> dict[str, int]:
    """Bytes a rank sends in one step, exactly, by verb: `passes` times the slices that an algorithm sends.

    With an algorithm that meets the bandwidth bound that is `volume` of the padded parameters times w (N - 1) / N.
    """
    w, total = WIDTH[precision], dict.fromkeys(passes(stage, k), 0)
    for verb, times, elements in _exchanges(stage, L, N, w, bucket, k, collective, rank):
        total[verb] += times * elements * w
    return total


def messages(
    stage: int,
    L: Sequence[int],
    N: int,
    precision: str,
    bucket: int = 0,
    k: int = 1,
    collective: Collective = "ring",
    rank: int = 0,
) -> int:
    """Messages a rank sends in one step: for each bucket and pass, those of the algorithm, none above SEGMENT bytes."""
    w = WIDTH[precision]
    exchanges = _exchanges(stage, L, N, w, bucket, k, collective, rank)
    return sum(times * -(-elements * w // SEGMENT) for _, times, elements in exchanges)


def _exchanges(
    stage: int, L: Sequence[int], N: int, w: int, bucket: int, k: int, collective: Collective, rank: int
) -> Iterator[tuple[str, int, int]]:
    """Yield (verb, how often in a step, elements sent) of each exchange of each bucket in which the rank sends."""
    for size in buckets(L, N, bucket):
        name = collective if isinstance(collective, str) else collective(size * w)
        for verb, times in passes(stage, k).items():
            for slices in slices_sent(name, verb, N, rank):
                yield verb, times, slices * (size // N)


# collectives ---------------------------------------------------------------------------------------------------------

SEGMENT = 1 << 20
"""Greatest message of a collective in bytes; longer ones are sent in several."""


def slices_sent(collective: str, verb: str, N: int, rank: int = 0) -> list[int]:
    """How many slices of 1/N of the vector a rank sends, in each exchange in which it sends any.

    The sources are those of `COSTS`. `collective` is a name of `--collective`; native ones are modelled as the ring.
    What an algorithm lacks is made of what it has: all_reduce is reduce_scatter and all_gather; where all_reduce alone
    is given, it serves as reduce_scatter; all else is the ring's.
    """
    name, _, m = collective.partition(":")
    lg = (N - 1).bit_length()  # rounded up
    doubled = [min(2**i, N - 2**i) for i in range(lg)]
    one_by_one = [1] * (N - 1)
    if name == "hierarchical":
        inside, between = [N // int(m)] * (int(m) - 1), [1] * (N // int(m) - 1)
        reduced, gathered = inside + between, between + inside
    else:
        reduced = {"halving": doubled[::-1], "bruck": doubled[::-1]}.get(name, one_by_one)
        neighbour = [1] * (N > 1) + [2] * (N // 2 - 1)
        gathered = {"halving": doubled, "doubling": doubled, "bruck": doubled, "neighbour": neighbour}.get(
            name, one_by_one
        )
    if name == "doubling":
        F = 2 ** (N.bit_length() - 1)
        paired = rank < 2 * (N - F)
        reduced = [N] if paired and rank % 2 == 0 else [N] * (F.bit_length() - 1 + paired)
    if name == "binomial":
        children = [d for d in (2**i for i in range(lg)) if rank % (2 * d) == 0 and rank + d < N]
        reduced = [N] * ((rank > 0) + len(children))
    if verb == "all_gather":
        return gathered
    whole = name in ("doubling", "binomial")
    return reduced if verb == "reduce_scatter" or whole else reduced + gathered


_SHARE = "(N - 1) / N"

COSTS: dict[tuple[str, str], tuple[str, str, str]] = {
    ("reduce_scatter", "ring"): ("N - 1", _SHARE, _SHARE),
    ("reduce_scatter", "halving"): ("lg(N)", _SHARE, _SHARE),
    ("reduce_scatter", "pairwise"): ("N - 1", _SHARE, _SHARE),
    ("reduce_scatter", "bruck"): ("ceil_lg(N)", _SHARE, _SHARE),
    ("reduce_scatter", "hierarchical"): ("m + N / m - 2", _SHARE, _SHARE),
    ("all_gather", "ring"): ("N - 1", _SHARE, "0"),
    ("all_gather", "doubling"): ("lg(N)", _SHARE, "0"),
    ("all_gather", "bruck"): ("ceil_lg(N)", _SHARE, "0"),
    ("all_gather", "neighbour"): ("N // 2", _SHARE, "0"),
    ("all_gather", "hierarchical"): ("m + N / m - 2", _SHARE, "0"),
    ("all_reduce", "ring"): ("2 * (N - 1)", "2 * (N - 1) / N", _SHARE),
    ("all_reduce", "halving"): ("2 * lg(N)", "2 * (N - 1) / N", _SHARE),
    ("all_reduce", "pairwise"): ("2 * (N - 1)", "2 * (N - 1) / N", _SHARE),
    ("all_reduce", "bruck"): ("2 * ceil_lg(N)", "2 * (N - 1) / N", _SHARE),
    ("all_reduce", "neighbour"): ("N - 1 + N // 2", "2 * (N - 1) / N", _SHARE),
    ("all_reduce", "hierarchical"): ("2 * (m + N / m - 2)", "2 * (N - 1) / N", _SHARE),
    ("all_reduce", "doubling"): ("floor_lg(N) + 2 * f", "floor_lg(N) + 2 * f", "floor_lg(N) + f"),
    ("all_reduce", "binomial"): ("2 * ceil_lg(N)", "2 * ceil_lg(N)", "ceil_lg(N)"),
}
"""By verb and algorithm, the longest path's coefficients of alpha, of n beta and of n gamma, for `coefficients`.

alpha is the time of a message without length, beta that of a byte on its way, gamma that of a byte added, n the vector
in bytes; every rank sends and receives at the same time. lg is the logarithm to base 2, m the ranks on a node, f is 0
if N is a power of two and else 1.

Thakur, Rabenseifner, Gropp: Optimization of collective communication operations in MPICH, IJHPCA 19 (2005), sections
4.1 (all_gather), 4.4 (reduce_scatter), 4.5 (all_reduce); Bruck backwards: Träff, arXiv:2410.14234; neighbour exchange:
Chen et al., HPC-Asia 2005; two levels: Cho et al., BlueConnect, MLSys 2019.
"""

RESTRICTIONS = {
    ("reduce_scatter", "halving"): "N = 2^k",
    ("all_gather", "halving"): "N = 2^k",
    ("all_gather", "doubling"): "N = 2^k",
    ("all_reduce", "halving"): "N = 2^k",
    ("all_gather", "neighbour"): "N even",
    ("all_reduce", "neighbour"): "N even",
    **{(verb, "hierarchical"): "m divides N" for verb in ("reduce_scatter", "all_gather", "all_reduce")},
}
"""By verb and algorithm: the only N for which it is; left out: any."""


def coefficients(verb: str, collective: str, N: int) -> tuple[Fraction, Fraction, Fraction]:
    """The coefficients of alpha, n beta and n gamma in `COSTS` for N ranks, exactly. Raises KeyError if not there."""
    name, _, m = collective.partition(":")
    floor_lg = N.bit_length() - 1
    names = {
        "N": Fraction(N),
        "m": Fraction(int(m or 1)),
        "f": Fraction(N & (N - 1) > 0),
        "lg": lambda _: Fraction(floor_lg),
        "floor_lg": lambda _: Fraction(floor_lg),
        "ceil_lg": lambda _: Fraction((N - 1).bit_length()),
    }
    alpha, beta, gamma = (Fraction(eval(text, {"__builtins__": {}}, names)) for text in COSTS[verb, name])
    return alpha, beta, gamma


def lower_bound(verb: str, N: int) -> tuple[Fraction, Fraction, Fraction]:
    """Coefficients of alpha, n beta and n gamma below which no algorithm for N ranks can go, each taken alone.

    Chan, Heimlich, Purkayastha, van de Geijn: Collective communication: theory, practice, and experience, Concurrency
    and Computation 19 (2007), table I; for the bytes of an all_reduce also Patarasuk and Yuan, JPDC 69 (2009).
    """
    share = Fraction(N - 1, N)
    return Fraction((N - 1).bit_length()), share * (2 if verb == "all_reduce" else 1), share * (verb != "all_gather")


def bus_factor(verb: str, N: int) -> Fraction:
    """busbw / algbw, with algbw = bytes of the whole vector / time (NVIDIA nccl-tests, doc/PERFORMANCE.md)."""
    return Fraction(N - 1, N) * (2 if verb == "all_reduce" else 1)
