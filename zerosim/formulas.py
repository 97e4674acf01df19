"""Closed forms, in the symbols of the papers, each with its place. Imports nothing of zerosim.

Psi   parameters                     w   bytes of a parameter on the device and on the wire (2 in mixed precision)
N     data-parallel ranks            g   bytes of a gradient, the same as w unless said
k     micro-steps per step           K   bytes of optimizer state per parameter (12 for Adam in mixed precision)
L     the layer widths of an MLP, inputs first: [64, 256, 10]

A transformer has `layers` blocks of width h with a heads, sees b sequences of s tokens at a time, and may be cut in t
by tensor parallelism (MP in ZeRO's papers). Results are bytes, elements, or fractions of 1, as each docstring says.
Closed forms take NumPy arrays as well as numbers. Where N may be a sequence too, slices are unequal: it has each rank's
share, a whole number of parts.

ZeRO = Rajbhandari, Rasley, Ruwase, He: ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
arXiv:1910.02054v3, SC20. The other sources stand where they are used.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

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


def full_width(precision: str) -> int:
    """Bytes of a parameter in full precision: in mixed precision that of the master copy (ZeRO, section 3.1)."""
    return WIDTH["fp32" if precision in MIXED else precision]


CONVENTIONS = {
    "zero": (2, 2, 12),
    "deepspeed": (2, 4, 12),
    "infinity": (2, 2, 16),
    "megatron-fp16": (2, 2, 16),
    "megatron-bf16": (2, 4, 12),
    "megatron-fp32": (4, 4, 8),
}
"""(w, g, K) for Adam, by who counts. They disagree about gradients, which the optimizer needs in fp32:

zero            2 + 2 + 12 = 16: fp32 gradients live for a moment only (ZeRO, section 3.1)
deepspeed       2 + 4 + 12 = 18: fp32 gradients instead of fp16's (DeepSpeed, docs/code-docs/source/memory.rst)
infinity        2 + 2 + 16 = 20: fp16 and fp32 gradients (ZeRO-Infinity, section 3; MT-NLG, arXiv:2201.11990, 2.1)
megatron-…      20, 18 and 16; sharded 4 + 16 / N, 6 + 12 / N and 8 + 8 / N, which is stage 1 (Megatron Core's
                documentation, Distributed Optimizer; the name is the parameters' type, in bf16 gradients are fp32)
"""

Number = Any
"""An int, a float, or a NumPy array of them."""


def _plain(value: Any) -> Number:
    """What NumPy makes of plain numbers as a plain number again."""
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value


class States(NamedTuple):
    """Bytes of the model states, by memory class."""

    parameters: Number
    gradients: Number
    optimizer_states: Number


def model_states(
    stage: Number, Psi: Number, N: Number, w: Number = 2, K: Number = 12, g: Number | None = None
) -> States:
    """Bytes at rest per rank: parameters, gradients, optimizer states (ZeRO, section 5 and figure 1).

    Stage 0 holds (w + g + K) Psi; stage 1 cuts the optimizer states by N, stage 2 the gradients too, stage 3 all.
    """
    p, gradients, o = (_plain(np.where(np.greater_equal(stage, s), N, 1)) for s in (3, 2, 1))
    return States(w * Psi / p, (w if g is None else g) * Psi / gradients, K * Psi / o)


def states_per_rank(
    stage: Number, Psi: Number, N: Number = 1, w: Number = 2, K: Number = 12, g: Number | None = None
) -> Number:
    """Bytes at rest per rank in all: the sum of `model_states` (ZeRO, figure 1 and table 1)."""
    return sum(model_states(stage, Psi, N, w, K, g))


def states_as(convention: str, stage: Number, Psi: Number, N: Number = 1) -> Number:
    """Bytes at rest per rank as one of `CONVENTIONS` counts them."""
    w, g, K = CONVENTIONS[convention]
    return states_per_rank(stage, Psi, N, w, K, g)


def largest_model(
    stage: Number,
    memory: Number,
    N: Number,
    w: Number = 2,
    K: Number = 12,
    g: Number | None = None,
    MP: Number = 1,
    decimals: int | None = None,
) -> Number:
    """Parameters whose states alone fill `memory` bytes of each device, with MP-way model parallelism (ZeRO, table 2).

    That table rounds billions of parameters to one decimal before it multiplies them by MP: `decimals` does.
    """
    Psi = memory / states_per_rank(stage, 1, N, w, K, g)
    return MP * (Psi if decimals is None else _plain(np.round(Psi / 1e9, decimals)) * 1e9)


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


def volume_in_all(stage: Number, Psi: Number, k: Number = 1, stage1: str = "reduce_scatter") -> Number:
    """Elements a rank sends in one step for large N: the sum of `volume` (ZeRO, section 7).

    Stage 1 can also all_reduce the gradients and then all_gather the parameters: 3 Psi (`stage1` "all_reduce").
    """
    each = [sum(volume(n, 1, k).values()) for n in range(4)]
    each[1] += {"reduce_scatter": 0, "all_reduce": 1}[stage1]
    return Psi * _plain(np.select([np.equal(stage, n) for n in range(4)], each, np.nan))


def bytes_per_rank(
    stage: Number, Psi: Number, N: Number, w: Number = 2, k: Number = 1, stage1: str = "reduce_scatter"
) -> Number:
    """Bytes a rank sends in one step, exactly where N divides Psi: (N - 1) / N of w times `volume_in_all`.

    The ring meets that, and nothing can be below (`lower_bound`).
    """
    return w * volume_in_all(stage, Psi, k, stage1) * (N - 1) / N


def bytes_in_all(
    stage: Number, Psi: Number, N: Number, w: Number = 2, k: Number = 1, stage1: str = "reduce_scatter"
) -> Number:
    """Bytes sent in one step by all N ranks together."""
    return N * bytes_per_rank(stage, Psi, N, w, k, stage1)


class Place(NamedTuple):
    """Which part of a model a rank holds: tensor-parallel rank t of T, pipeline rank p of P.

    `counts` are how many layers each pipeline rank has; None: rank p has those from n p / P on, rounded down.
    """

    T: int = 1
    t: int = 0
    P: int = 1
    p: int = 0
    counts: tuple[int, ...] | None = None


WHOLE = Place()


def layer_sizes(L: Sequence[int], place: Place = WHOLE) -> list[int]:
    """Elements of each layer that a rank holds.

    Tensor parallelism cuts the outputs of even layers, with their biases, and the inputs of odd ones (Shoeybi et al.
    2019, arXiv:1909.08053, section 3), whose biases the first rank has.
    """
    return [
        _width(L, k, place) * _width(L, k + 1, place) + (0 if k % 2 and place.t else _width(L, k + 1, place))
        for k in _layers(L, place)
    ]


def _layers(L: Sequence[int], place: Place) -> range:
    n, p = len(L) - 1, place.p
    if place.counts:
        return range(sum(place.counts[:p]), sum(place.counts[: p + 1]))
    return range(n * p // place.P, n * (p + 1) // place.P)


def _width(L: Sequence[int], k: int, place: Place) -> int:
    """How many of the numbers between layers k - 1 and k a rank has: its part of them behind an even layer."""
    T, t = place.T, place.t
    return L[k] * (t + 1) // T - L[k] * t // T if k % 2 else L[k]


def parameters(L: Sequence[int]) -> int:
    """Psi of an MLP: each layer has a weight per input and output and a bias per output."""
    return sum((a + 1) * b for a, b in pairwise(L))


Ranks = int | Sequence[int]
"""N ranks with equal slices; or how many parts each rank's slices are."""


def _parts(N: Ranks) -> int:
    return N if isinstance(N, int) else sum(N)


def padded_parameters(L: Sequence[int], N: Ranks, place: Place = WHOLE) -> int:
    """Psi with each layer rounded up to a multiple of N, which is what cutting it in N equal slices takes."""
    return sum(-(-size // _parts(N)) * _parts(N) for size in layer_sizes(L, place))


def at_rest(
    stage: int, L: Sequence[int], N: Ranks, precision: str, optimizer: str, place: Place = WHOLE, rank: int = 0
) -> dict[str, int]:
    """Bytes at rest per rank, exactly, by memory class: `model_states` of the padded parameters.

    A rank that owns s of U parts holds what one of U / s ranks with equal slices would. Activations and buffers live
    within a step, so at rest there are none.
    """
    Psi, share = padded_parameters(L, N, place), 1 if isinstance(N, int) else N[rank]
    states = model_states(stage, Psi, Fraction(_parts(N), share), WIDTH[precision], K(optimizer, precision))
    p, g, o = (int(x) for x in states)
    return {"parameters": p, "gradients": g, "optimizer_states": o, "activations": 0, "buffers": 0}


Collective = str | Callable[[int], str] | Mapping[str, Sequence[Sequence[Sequence[int]]]]
"""A name of `--collective`; or what names one for a vector of so many bytes; or by verb and rank `slices_sent`."""


def buckets(L: Sequence[int], N: Ranks, bucket: int = 0, place: Place = WHOLE) -> list[list[int]]:
    """Elements of each bucket of each layer, padded, in order: a layer, or a layer cut at multiples of N.

    A cut bucket has at most `bucket` elements (0: no limit), but N at the least, one for each rank.
    """
    layers, parts = [], _parts(N)
    for size in layer_sizes(L, place):
        padded = -(-size // parts) * parts
        cut = max(parts, bucket // parts * parts) if bucket else padded
        layers.append([cut] * (padded // cut) + [padded % cut] * (padded % cut > 0))
    return layers


def traffic(
    stage: int,
    L: Sequence[int],
    N: Ranks,
    precision: str,
    bucket: int = 0,
    k: int = 1,
    collective: Collective = "ring",
    rank: int = 0,
    place: Place = WHOLE,
    every: int = 1,
) -> dict[str, int]:
    """Bytes a rank sends in one step, exactly, by verb: `passes` times the slices that an algorithm sends.

    With an algorithm that meets the bandwidth bound, and equal slices, that is `volume` of the padded parameters times
    w (N - 1) / N.
    """
    w, total = WIDTH[precision], dict.fromkeys(passes(stage, k), 0)
    for verb, times, elements in _exchanges(stage, L, N, w, bucket, k, collective, rank, place, every):
        total[verb] += times * elements * w
    return total


def messages(
    stage: int,
    L: Sequence[int],
    N: Ranks,
    precision: str,
    bucket: int = 0,
    k: int = 1,
    collective: Collective = "ring",
    rank: int = 0,
    place: Place = WHOLE,
    every: int = 1,
) -> int:
    """Messages a rank sends in one step: for each bucket and pass, those of the algorithm, none above SEGMENT bytes."""
    w = WIDTH[precision]
    exchanges = _exchanges(stage, L, N, w, bucket, k, collective, rank, place, every)
    return sum(times * _segments(elements * w) for _, times, elements in exchanges)


def _segments(nbytes: int) -> int:
    """Messages in which so many bytes go: one at the least, for messages keep ranks in step."""
    return max(1, -(-nbytes // SEGMENT))


def _exchanges(
    stage: int,
    L: Sequence[int],
    N: Ranks,
    w: int,
    bucket: int,
    k: int,
    collective: Collective,
    rank: int,
    place: Place,
    every: int,
) -> Iterator[tuple[str, int, int]]:
    """Yield (verb, how often in a step, elements sent) of each exchange of each bucket in which the rank sends.

    A layer that is computed again at stage 3 is gathered again too.
    """
    layers = buckets(L, N, bucket, place)
    again = recomputed(len(layers), every)
    for layer, sizes in enumerate(layers):
        for size, alike in Counter(sizes).items():
            for verb, times in passes(stage, k).items():
                more = k if verb == "all_gather" and stage == 3 and layer in again else 0
                for elements in _sent(collective, verb, size, w, N, rank):
                    yield verb, alike * (times + more), elements


def _sent(collective: Collective, verb: str, n: int, w: int, N: Ranks, rank: int) -> list[int]:
    """Elements of a vector of n that a rank sends in each exchange in which it sends any.

    Slices that cannot be as N says are from n times the parts before them, divided by all parts, rounded down.
    """
    shares = [1] * N if isinstance(N, int) else N
    ends = [n * parts // sum(shares) for parts in accumulate(shares, initial=0)]
    if isinstance(collective, Mapping):
        sent = collective[verb][rank]
    else:
        name = collective if isinstance(collective, str) else collective(n * w)
        sent = slices_sent(name, verb, len(shares), rank)
    return [sum(ends[i + 1] - ends[i] for i in slices) for slices in sent]


# checkpoints ---------------------------------------------------------------------------------------------------------


def owned(L: Sequence[int], N: Ranks, bucket: int = 0, place: Place = WHOLE, rank: int = 0) -> int:
    """Elements that a rank owns, padding not counted: its slice of each bucket, less what of that is padding.

    A layer's padding is shorter than N and lies at the end of its last bucket.
    """
    parts, shares = _parts(N), [1] * N if isinstance(N, int) else N
    before, after = (sum(shares[:r]) for r in (rank, rank + 1))
    elements = 0
    for size, sizes in zip(layer_sizes(L, place), buckets(L, N, bucket, place), strict=True):
        padded, last = sum(sizes), sizes[-1]
        begin, end = last // parts * before, last // parts * after
        elements += padded // parts * (after - before) - max(0, end - max(begin, last - (padded - size)))
    return elements


def checkpoint_tensors(
    L: Sequence[int],
    N: Ranks,
    precision: str,
    optimizer: str,
    bucket: int = 0,
    place: Place = WHOLE,
    rank: int = 0,
) -> int:
    """Bytes of tensors that a rank writes in a checkpoint, at any stage: full-precision parameters and moments.

    Of what it owns, each number once, without padding: 4 + 4 `MOMENTS` bytes for each element, 12 with Adam (in mixed
    precision these are the optimizer states, the fp32 master copy among them: ZeRO, section 3.1).
    """
    return owned(L, N, bucket, place, rank) * full_width(precision) * (1 + MOMENTS[optimizer])


def loading_peak(
    stage: int,
    L: Sequence[int],
    N: Ranks,
    precision: str,
    optimizer: str,
    bucket: int = 0,
    place: Place = WHOLE,
    rank: int = 0,
) -> int:
    """Greatest bytes a rank holds while it takes its states from a checkpoint: `at_rest` and a full-precision slice.

    That slice is the longest that it reads: of its own at stage 3, of any rank below, where it holds all parameters.
    """
    share = 1 if isinstance(N, int) else N[rank] if stage == 3 else max(N)
    longest = max(size for sizes in buckets(L, N, bucket, place) for size in sizes) // _parts(N) * share
    return sum(at_rest(stage, L, N, precision, optimizer, place, rank).values()) + full_width(precision) * longest


# activations of an MLP -----------------------------------------------------------------------------------------------


def recomputed(n: int, every: int = 1) -> list[int]:
    """Which of n layers are computed again in backward, if the input of every `every`-th is kept.

    All but the last of each segment, whose output is the next input that is kept (Chen et al. 2016, arXiv:1604.06174,
    section 4).
    """
    return [k for k in range(n - 1) if (k + 1) % every]


class Kept(NamedTuple):
    """How activations wait for backward."""

    every: int = 1
    """The input of every so many-th layer is kept (activation checkpointing)."""
    partitioned: bool = False
    """Each tensor-parallel rank keeps 1/T of what they hold alike (ZeRO, section 6.1: Pa)."""
    host: bool = False
    """In the host's memory (with `partitioned`, Pa+cpu)."""


ALL_KEPT = Kept()


class _Way(NamedTuple):
    """What one micro-batch holds in bytes: at each moment on its way forward and back, and while it waits between."""

    forward: list[int]
    waiting: int
    waiting_on_host: int
    backward: list[int]


def activations_peak(
    L: Sequence[int], rows: Sequence[int], w: int, place: Place = WHOLE, how: Kept = ALL_KEPT
) -> dict[str, int]:
    """Greatest bytes of activations in a step, on the "device" and on the "host", for micro-batches of so many rows.

    Without a pipeline a micro-batch goes back as soon as it has gone forward; on one (GPipe) all of them wait.
    """
    ways = [_way(L, r, w, place, how) for r in rows]
    if place.P == 1:
        return {
            "device": max(max(way.forward + way.backward) for way in ways),
            "host": max(way.waiting_on_host for way in ways),
        }
    waiting = [way.waiting for way in ways]
    forward = max(sum(waiting[:m]) + max(way.forward) for m, way in enumerate(ways))
    backward = max(sum(waiting[m + 1 :]) + max(way.backward) for m, way in enumerate(ways))
    return {"device": max(forward, backward), "host": sum(way.waiting_on_host for way in ways)}


def _way(L: Sequence[int], r: int, w: int, place: Place, how: Kept) -> _Way:
    """A layer holds its input and its output, and behind it are the inputs kept so far.

    On the way back all inputs of a segment are there, with the gradient of its output, before the first of them goes.
    Where an input is cut or put together again, the whole and the part are there at once.
    """
    layers = _layers(L, place)
    whole = [w * r * _width(L, k, place) for k in (*layers, layers.stop)]
    kept = [w * _kept(r * _width(L, k, place), i, k, place, how) for i, k in enumerate(layers)]
    here = [0] * len(kept) if how.host else kept
    forward, backward = [], []
    for i in range(len(kept)):
        forward.append(sum(here[:i]) + whole[i] + whole[i + 1] + _beside(whole[i], kept[i]))
    for first in range(0, len(kept), how.every):
        end = min(first + how.every, len(kept))
        backward.append(sum(here[:first]) + sum(whole[first : end + 1]))
        backward.append(sum(here[:first]) + whole[first] + _beside(whole[first], kept[first]) + whole[end])
    outputs = whole[-1] if place.p == place.P - 1 else 0
    return _Way(forward, sum(here) + outputs, sum(kept) if how.host else 0, backward)


def _kept(elements: int, i: int, k: int, place: Place, how: Kept) -> int:
    """Elements kept of the input of layer k, a rank's i-th. Tensor-parallel ranks have those of even layers alike."""
    if i % how.every:
        return 0
    if how.partitioned and k % 2 == 0:
        return elements * (place.t + 1) // place.T - elements * place.t // place.T
    return elements


def _beside(whole: int, part: int) -> int:
    """Bytes of a part that is held beside the whole for a moment."""
    return part if part < whole else 0


def checkpoints(L: Sequence[int], rows: int, w: int, every: int = 1) -> int:
    """Bytes of the inputs that wait for backward, if every `every`-th layer's is kept, of a micro-batch of `rows` rows.

    So much M_D allocates beforehand, in one piece (ZeRO, section 6.3).
    """
    return w * rows * sum(L[:-1:every])


def kept_on_host(L: Sequence[int], rows: Sequence[int], w: int, place: Place = WHOLE, how: Kept = ALL_KEPT) -> int:
    """Bytes of activations moved to the host in one step, and as many back (ZeRO, section 8: Pa+cpu)."""
    return sum(_way(L, r, w, place, how).waiting_on_host for r in rows)


# model parallelism ---------------------------------------------------------------------------------------------------


def micro_rows(B: int, N: int, rank: int, k: int = 1) -> list[int]:
    """Rows of each of a rank's k micro-batches: of B rows it has each N-th, and of those a micro-batch each k-th."""
    mine = len(range(rank, B, N))
    return [len(range(m, mine, k)) for m in range(k)]


def tensor_traffic(
    L: Sequence[int],
    rows: Sequence[int],
    w: int,
    collective: Collective = "ring",
    place: Place = WHOLE,
    how: Kept = ALL_KEPT,
) -> dict[str, int]:
    """Bytes a tensor-parallel rank sends in one step, exactly, by verb, for micro-batches of so many rows.

    A pair of layers all-reduces its outputs forward and the gradient of its inputs backward (Shoeybi et al. 2019,
    arXiv:1909.08053, section 3), and its outputs once more if they are computed again; the model's input needs no
    gradient, and outputs that are cut are gathered, each rank's in equal room. Partitioned inputs are gathered before
    backward (ZeRO, section 8: one all-gather for each).
    """
    sent = {"all_reduce": 0, "all_gather": 0}
    for verb, elements in _joins(L, rows, place, how):
        sent[verb] += w * sum(_sent(collective, verb, elements, w, place.T, place.t))
    return sent


def tensor_messages(
    L: Sequence[int],
    rows: Sequence[int],
    w: int,
    collective: Collective = "ring",
    place: Place = WHOLE,
    how: Kept = ALL_KEPT,
) -> int:
    """Messages of a step of a tensor-parallel rank: those of the algorithm in each collective of `tensor_traffic`."""
    joins = _joins(L, rows, place, how)
    each = (n for verb, elements in joins for n in _sent(collective, verb, elements, w, place.T, place.t))
    return sum(_segments(n * w) for n in each)


def _joins(L: Sequence[int], rows: Sequence[int], place: Place, how: Kept) -> Iterator[tuple[str, int]]:
    """Yield (verb, elements of the vector) of each collective of a step of a tensor-parallel rank."""
    if place.T == 1:
        return
    layers = _layers(L, place)
    again = recomputed(len(layers), how.every)
    for r in rows:
        for i, k in enumerate(layers):
            if k % 2:
                yield from [("all_reduce", L[k + 1] * r)] * (1 + (i in again))
            elif k > 0:
                yield "all_reduce", L[k] * r
            if how.partitioned and k % 2 == 0 and i % how.every == 0:
                yield "all_gather", L[k] * r
            if k == len(L) - 2 and k % 2 == 0:
                yield "all_gather", place.T * -(-L[-1] // place.T) * r


def pipeline_traffic(L: Sequence[int], rows: Sequence[int], w: int, place: Place = WHOLE) -> dict[str, int]:
    """Bytes a pipeline rank sends in one step: a micro-batch's outputs forward, the gradient of its inputs back."""
    layers, width = _layers(L, place), 0
    if place.p < place.P - 1:
        width += _width(L, layers.stop, place)
    if place.p > 0:
        width += _width(L, layers.start, place)
    return {"send": width * sum(rows) * w}


def pipeline_messages(k: int, place: Place = WHOLE) -> int:
    """Messages a pipeline rank sends in a step of k micro-batches: one for each, to the next rank and the last."""
    return k * ((place.p < place.P - 1) + (place.p > 0))


def bubble(P: Number, M: Number) -> Number:
    """Share of a step in which a pipeline rank is idle, with M micro-batches: (P - 1) / (M + P - 1).

    Where all ranks take equally long (Huang et al. 2019, arXiv:1811.06965, section 2.3: O((K - 1) / (M + K - 1))).
    """
    return (P - 1) / (M + P - 1)


# pruning -------------------------------------------------------------------------------------------------------------


def groups(L: Sequence[int], by: str | int) -> list[int]:
    """Groups of each layer of an MLP: one by "layer", one for each output by "row", or of so many elements each.

    The last group of a layer has what is left.
    """
    return [1 if by == "layer" else b if by == "row" else -(-(a + 1) * b // int(by)) for a, b in pairwise(L)]


def pruned_groups(G: int, quantile: float) -> int:
    """How many of G groups are pruned in a step: floor(q G), for q as it is written in decimal."""
    return int(Fraction(repr(quantile)) * G)


def pruning_traffic(G: int, N: int) -> int:
    """Bytes a rank sends for the norms of G groups: a float64 for each, summed over N ranks and gathered again.

    That is 2 (N - 1) / N of 8 G bytes, the least there can be (`lower_bound`), G rounded up to a multiple of N.
    """
    return 2 * (N - 1) * -(-G // N) * 8


# collectives ---------------------------------------------------------------------------------------------------------

SEGMENT = 1 << 20
"""Greatest message of a collective in bytes; longer ones are sent in several."""


def slices_sent(collective: str, verb: str, N: int, rank: int = 0) -> list[list[int]]:
    """Which of the vector's N slices a rank sends, in each exchange in which it sends any.

    The sources are those of `COSTS`. `collective` is a name of `--collective`; native ones are modelled as the ring.
    What an algorithm lacks is made of what it has: all_reduce is reduce_scatter and all_gather; where all_reduce alone
    is given, it serves as reduce_scatter; all else is the ring's.
    """
    name, _, m = collective.partition(":")
    if verb == "all_gather":
        return _gathered(name, N, rank, m)
    if name in ("doubling", "binomial"):
        return [[*range(N)]] * _whole_vectors(name, N, rank)
    reduced = _reduced(name, N, rank, m)
    return reduced if verb == "reduce_scatter" else reduced + _gathered(name, N, rank, m)


def _reduced(name: str, N: int, rank: int, m: str) -> list[list[int]]:
    """What a rank gives away of the vector, of which its own slice remains."""
    powers = [2**i for i in range((N - 1).bit_length())]
    if name == "halving":
        return [_block(rank ^ d, d) for d in reversed(powers)]
    if name == "bruck":
        return [[(rank + d + i) % N for i in range(min(d, N - d))] for d in reversed(powers)]
    if name == "pairwise":
        return [[(rank + i) % N] for i in range(1, N)]
    if name == "hierarchical":
        size = int(m)
        inside = [[*range((rank - i) % size, N, size)] for i in range(1, size)]
        return inside + [[(rank - i) % N] for i in range(size, N, size)]
    return [[(rank - i) % N] for i in range(1, N)]


def _gathered(name: str, N: int, rank: int, m: str) -> list[list[int]]:
    """What a rank passes on, of which its own slice comes first."""
    powers = [2**i for i in range((N - 1).bit_length())]
    if name in ("halving", "doubling"):
        return [_block(rank, d) for d in powers]
    if name == "bruck":
        return [[(rank + i) % N for i in range(min(d, N - d))] for d in powers]
    if name == "neighbour":
        away = [(s + 1) // 2 * 2 * (-1) ** (s + rank) for s in range(N // 2 - 1)]
        return [[rank]] * (N > 1) + [[(rank // 2 * 2 + pair + i) % N for i in (0, 1)] for pair in away]
    if name == "hierarchical":
        size = int(m)
        between = [[(rank - i) % N] for i in range(0, N - size, size)]
        return between + [[*range((rank - i) % size, N, size)] for i in range(size - 1)]
    return [[(rank - i) % N] for i in range(N - 1)]


def _block(rank: int, d: int) -> list[int]:
    return [*range(rank // d * d, rank // d * d + d)]


def _whole_vectors(name: str, N: int, rank: int) -> int:
    """How often a rank sends the whole vector."""
    if name == "doubling":
        F = 2 ** (N.bit_length() - 1)
        paired = rank < 2 * (N - F)
        return 1 if paired and rank % 2 == 0 else F.bit_length() - 1 + paired
    powers = [2**i for i in range((N - 1).bit_length())]
    return (rank > 0) + sum(rank % (2 * d) == 0 and rank + d < N for d in powers)


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


def collective_seconds(
    verb: str, collective: str, N: int, n: Number, alpha: Number, beta: Number, gamma: Number = 0
) -> Number:
    """Seconds for a vector of n bytes on N ranks: `coefficients` times alpha, n beta and n gamma."""
    messages, sent, added = (float(value) for value in coefficients(verb, collective, N))
    return messages * alpha + sent * n * beta + added * n * gamma


def lower_bound(verb: str, N: int) -> tuple[Fraction, Fraction, Fraction]:
    """Coefficients of alpha, n beta and n gamma below which no algorithm for N ranks can go, each taken alone.

    Chan, Heimlich, Purkayastha, van de Geijn: Collective communication: theory, practice, and experience, Concurrency
    and Computation 19 (2007), table I; for the bytes of an all_reduce also Patarasuk and Yuan, JPDC 69 (2009).
    """
    share = Fraction(N - 1, N)
    return Fraction((N - 1).bit_length()), share * (2 if verb == "all_reduce" else 1), share * (verb != "all_gather")


def bus_factor(verb: str, N: int) -> Fraction:
    """busbw / algbw, with algbw = bytes of the whole vector / time (NVIDIA nccl-tests, doc/PERFORMANCE.md).

    `verb` is all_reduce, reduce_scatter, all_gather, all_to_all, broadcast or reduce.
    """
    if verb in ("broadcast", "reduce"):
        return Fraction(1)
    return Fraction(N - 1, N) * (2 if verb == "all_reduce" else 1)


# a transformer -------------------------------------------------------------------------------------------------------


def transformer_parameters(layers: Number, h: Number, vocab: Number = 0, positions: Number = 0) -> Number:
    """Psi of a transformer without biases and norms: 12 layers h^2, and h for each token and position it knows.

    4 h^2 of a block are attention, 8 h^2 the feed-forward part (ZeRO-Infinity, section 3, equation 1; the paper leaves
    the embedding away, ZeRO's table 4 comes out with it).
    """
    return 12 * layers * h**2 + (vocab + positions) * h


def flops(Psi: Number, tokens: Number, recompute: bool = True) -> Number:
    """Floating-point operations of a step: 2 per parameter and token forward, 4 backward, and 2 more to recompute.

    8 Psi tokens with activation checkpointing (ZeRO-Infinity, section 4.1). What attention does beyond its
    parameters is not in it: see `attention_flops`.
    """
    return (8 if recompute else 6) * Psi * tokens


def attention_flops(layers: Number, h: Number, s: Number, tokens: Number, recompute: bool = True) -> Number:
    """Operations of a step that no parameter stands for: scores and their use, 4 s h per token and layer forward.

    (Narayanan et al.: Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM,
    arXiv:2104.04473, appendix: 96 b s l h^2 (s / 6h) with recomputation.) A causal mask is not made use of.
    """
    return (4 if recompute else 3) * 4 * layers * s * h * tokens


# activations ---------------------------------------------------------------------------------------------------------


def activations(h: Number, b: Number, s: Number, layers: Number, w: Number = 2) -> Number:
    """Bytes of a transformer's activations, 12 h b s layers elements (ZeRO, section 3.2 and its footnote 3)."""
    return w * 12 * h * b * s * layers


def activation_checkpoints(
    h: Number, b: Number, s: Number, layers: Number, ci: Number = 1, MP: Number = 1, w: Number = 2
) -> Number:
    """Bytes of a checkpoint of h b s elements every `ci` blocks (ZeRO-Infinity, section 3, equation 3).

    Pa cuts them by MP (ZeRO, section 6.1: partitioned activation checkpointing); Pa+cpu moves them to the host.
    """
    return w * h * b * s * layers / ci / MP


def activations_checkpointed(h: Number, b: Number, s: Number, layers: Number, w: Number = 2) -> Number:
    """`activations` / sqrt(layers), if about the root of them is kept (Chen et al., arXiv:1604.06174; ZeRO, 3.2)."""
    return activations(h, b, s, layers, w) / _plain(np.sqrt(layers))


def recompute_overhead() -> float:
    """The share that recomputing adds to a step: a forward pass to a forward and a backward one, 1/3 (ZeRO, 3.2)."""
    return 1 / 3


def layer_activations(
    s: Number,
    b: Number,
    h: Number,
    a: Number,
    t: Number = 1,
    sequence_parallel: bool = False,
    recompute: str = "none",
    query: Number = 1,
    kv: Number = 1,
    ffn: Number = 4,
    matrices: Number = 2,
    cross: Number = 0,
) -> Number:
    """Bytes of activations of a transformer block in 16-bit precision; recompute "none", "selective" or "full".

    34 s b h + 5 a s^2 b; tensor parallelism cuts all but 10 s b h by t, sequence parallelism those too; selective
    recomputation leaves 5 a s^2 b away, a full one keeps the block's input, 2 s b h (Korthikanti et al., Reducing
    Activation Recomputation in Large Transformer Models, arXiv:2205.05198, table 2 and equations 1 to 6).

    That is a GPT block. By the same count (section 4.1) for others: queries of width `query` h, keys and values of
    width `kv` h, a feed-forward part of width `ffn` h (of all experts that a token meets) with 2 `matrices`, or 3 if it
    is gated, and a share `cross` of blocks that attend to an encoder too.
    """
    if recompute == "full":
        return 2 * s * b * h
    scores = {"none": 5 * a * s / h, "selective": 0}[recompute]
    whole, cut = 10 + 5 * cross, (1 + cross) * (4 * query + 4 * kv + scores) + 2 * matrices * ffn
    return s * b * h * ((whole + cut) / t if sequence_parallel else whole + cut / t)


def logits(s: Number, b: Number, h: Number, vocab: Number, t: Number = 1) -> Number:
    """Bytes of activations after the last block: its norm's and the output layer's input, and the logits in fp32.

    4 s b h (1 + vocab / h) / t (Korthikanti et al., section 4.3).
    """
    return 4 * s * b * h * (1 + vocab / h) / t


def attention_share(a: Number, s: Number, h: Number) -> Number:
    """5 a s / h: activations that grow with s^2, in the unit in which the others are 34 (Korthikanti et al., 5)."""
    return 5 * a * s / h


def selective_saving(a: Number, s: Number, h: Number) -> Number:
    """The share of a block's activations that selective recomputation saves (Korthikanti et al., section 5)."""
    return attention_share(a, s, h) / (34 + attention_share(a, s, h))


# model parallelism and ZeRO-R ----------------------------------------------------------------------------------------


def partitioned(total: Number, N: Number) -> Number:
    """What each of N ranks has of `total`, as of activation checkpoints with Pa (ZeRO, section 6.1)."""
    return total / N


def model_parallel_volume(h: Number = 1, b: Number = 1, s: Number = 1) -> Number:
    """Elements a rank sends per block for Megatron's model parallelism: 6 all_reduces of h b s, 12 h b s (ZeRO, 8).

    Two in the forward pass, two in its repetition, two in the backward pass.
    """
    return 6 * 2 * h * b * s


def pa_overhead() -> float:
    """The share that Pa adds to that: one all_gather of h b s, 1 / 12 (ZeRO, section 8)."""
    return 1 / 12


def fused_buffer(Psi: Number, w: Number = 4) -> Number:
    """Bytes of a buffer that holds all gradients at once, in fp32; constant buffers (C_B) bound it (ZeRO, 6.2)."""
    return w * Psi


def constant_buffer(Psi: Number, elements: Number, w: Number = 4) -> Number:
    """Bytes of such a buffer of a fixed size, C_B, however large the model is (ZeRO, section 6.2)."""
    return w * _plain(np.minimum(Psi, elements))


BLOCK = 65536
"""Elements of a shard that this program's optimizer works on at a time."""


def working_buffers(stage: int, L: Sequence[int], N: int, rows: int, bucket: int = 0) -> int:
    """Bytes of buffers at their peak in a step of this program at stage 2 or 3, exactly, on the rank with the most.

    In fp32, with rings, without clipping or accumulation, for `rows` rows per rank; `bucket` as in `buckets`. The peak
    is the greatest of what lives at different moments: the rows as they are read; a layer's backward pass, in which a
    bucket of gradients is reduced through one slice of it, of `SEGMENT` bytes at the most, and then, to go further
    back, a mask of the layer's inputs is made; the optimizer's block; the three numbers that ranks agree on. Stage 3
    holds in all of a layer's passes its parameters, gathered, whatever the bucket is.
    """
    w, few, moments = 4, 3 * 8, [4 * rows * L[0]]
    for k, (a, b) in enumerate(pairwise(L)):
        cut, layer = buckets((a, b), N, bucket)[0][0], padded_parameters((a, b), N)
        reduce = w * cut + (min(w * cut // N, SEGMENT) if N > 1 else 0)
        mask = a * rows if k > 0 else 0
        moments.append(max(reduce, mask) + (w * layer if stage == 3 else 0))
        moments.append(w * min(BLOCK, (padded_parameters(L, N) if stage == 3 else cut) // N))
    wrapped = max((min(2**i, N - 2**i) for i in range(1, (N - 1).bit_length())), default=0)
    return max(*moments, few * (N + wrapped * (wrapped > 1)))


def pa_cpu_traffic(checkpoints: Number) -> Number:
    """Bytes between device and host for Pa+cpu: the device's checkpoints, out and in again (ZeRO, section 8)."""
    return 2 * checkpoints


def weights(Psi: Number, w: Number = 2) -> Number:
    """Bytes of the parameters alone."""
    return w * Psi


# ZeRO-Offload --------------------------------------------------------------------------------------------------------
# Ren et al.: ZeRO-Offload: Democratizing Billion-Scale Model Training, arXiv:2101.06840


def offload_reduction(left: Number) -> Number:
    """How many times less memory the states take on the device with `left` bytes per parameter there (table 1).

    16 are left with nothing on the host, 14 with the gradients there, 4 with the update and fp32 states, 2 with both.
    """
    return 16 / left


def offload_traffic(Psi: Number = 1, w: Number = 2) -> Number:
    """Bytes between device and host in a step: gradients out, parameters in, 4 Psi; no strategy has less (3.3)."""
    return 2 * w * Psi


# ZeRO-Infinity -------------------------------------------------------------------------------------------------------
# Rajbhandari et al.: ZeRO-Infinity: Breaking the GPU Memory Wall for Extreme Scale Deep Learning, arXiv:2104.07857


def infinity_states(layers: Number, h: Number, nodes: Number = 1) -> Number:
    """Bytes per node of all model states, 20 per parameter: 240 layers h^2 (section 3, equation 2)."""
    return 20 * transformer_parameters(layers, h) / nodes


def infinity_activations(h: Number, b: Number, s: Number, layers: Number, a: Number) -> Number:
    """Bytes of all activations: 2 b s layers (16 h + 2 a s) (section 3, figure 2a)."""
    return working_memory_activations(h, b, s, a, ci=layers)


def working_memory_states(h: Number) -> Number:
    """Bytes for the parameters and gradients of a block's largest matrix, h x 4 h: 4 h 4 h (section 3, equation 4)."""
    return 4 * h * 4 * h


def working_memory_activations(h: Number, b: Number, s: Number, a: Number, ci: Number = 1) -> Number:
    """Bytes of the activations between two checkpoints: 2 b s ci (16 h + 2 a s) (section 3, equation 5).

    Printed without the factor 2; figure 2a comes out with it.
    """
    return 2 * b * s * ci * (16 * h + 2 * a * s)


def arithmetic_intensity(what: str, b: Number = 1, s: Number = 1, h: Number = 1, ci: Number = 1) -> Number:
    """Operations per byte moved: s b for "parameters" (and gradients), s b / 4 for "optimizer", 24 h ci "activations".

    (Section 4.1, equations 9 to 11.)
    """
    return {"parameters": s * b, "optimizer": s * b / 4, "activations": 24 * h * ci}[what]


def efficiency(intensity: Number, bandwidth: Number, peak: Number = 70e12) -> Number:
    """The share of `peak` operations per second that is left, with nothing overlapped, at `bandwidth` bytes/s.

    intensity bandwidth / (intensity bandwidth + peak) (section 4, equation 6). 70 TFLOPS is what the paper takes as a
    V100's achievable peak (section 4.2).
    """
    return intensity * bandwidth / (intensity * bandwidth + peak)


def infinity_efficiency(
    what: str, bandwidth: Number, peak: Number = 70e12, b: Number = 1, s: Number = 1, h: Number = 1, ci: Number = 1
) -> Number:
    """`efficiency` at the `arithmetic_intensity` of what is moved (section 4.2, figure 3)."""
    return efficiency(arithmetic_intensity(what, b, s, h, ci), bandwidth, peak)


def bandwidth_to_hide(intensity: Number, peak: Number = 70e12) -> Number:
    """Bytes per second at which moving takes as long as computing, and so can be hidden behind it: peak / intensity."""
    return peak / intensity


# ZeRO++, MiCS, FSDP --------------------------------------------------------------------------------------------------


def zeropp_volume(qwz: bool = True, hpz: bool = True, qgz: bool = True) -> dict[str, float]:
    """Elements of 16 bits, per parameter, that cross nodes in a step: ZeRO-3's passes, and what ZeRO++ leaves of them.

    Weights in 8 bits (qwZ), a secondary copy within the node for the backward pass (hpZ), gradients in 4 bits (qgZ)
    (Wang et al.: ZeRO++, arXiv:2306.10209, table 1).
    """
    return {
        "forward_all_gather": 0.5 if qwz else 1.0,
        "backward_all_gather": 0.0 if hpz else 0.5 if qwz else 1.0,
        "reduce_scatter": 0.25 if qgz else 1.0,
    }


def zeropp_volume_in_all(qwz: bool = True, hpz: bool = True, qgz: bool = True) -> float:
    """The sum of `zeropp_volume`: 3, or 0.75 with all three (ZeRO++, table 1)."""
    return sum(zeropp_volume(qwz, hpz, qgz).values())


def zeropp_reduction() -> float:
    """How many times less than ZeRO-3 crosses nodes: 4 (ZeRO++, abstract)."""
    return zeropp_volume_in_all(False, False, False) / zeropp_volume_in_all()


def qgz_volume(M: Number, per_node: Number, Z: Number, hops: int = 2) -> Number:
    """Bytes that leave a node when M bytes of gradients on each of its ranks, Z times smaller, are reduced all-to-all.

    One hop: every rank sends all of its own, M per_node / Z; two: they are reduced inside the node first, M / Z
    (ZeRO++, section 3.3).
    """
    return M * (per_node if hops == 1 else 1) / Z


def hpz_states(Psi: Number, N: Number, secondary: Number, w: Number = 2, K: Number = 12) -> Number:
    """Bytes at rest per rank at stage 3 with a second copy of the parameters in `secondary` parts (ZeRO++, 3.2).

    (w + w + K) Psi / N + w Psi / secondary.
    """
    return (2 * w + K) * Psi / N + w * Psi / secondary


def hpz_memory(Psi: Number, N: Number, secondary: Number, w: Number = 2, K: Number = 12) -> Number:
    """How many times stage 3's states hpZ takes as the paper counts: the primary w Psi / N left out (ZeRO++, 3.2)."""
    return (hpz_states(Psi, N, secondary, w, K) - w * Psi / N) / ((2 * w + K) * Psi / N)


def mics_states(Psi: Number, group: Number, w: Number = 2, K: Number = 12) -> Number:
    """Bytes at rest per rank if states are sharded within groups and the same in each (MiCS, section 3.2).

    Zhang et al.: MiCS: Near-linear Scaling for Training Gigantic Model on Public Cloud, arXiv:2205.00119.
    """
    return (2 * w + K) * Psi / group


def mics_memory(N: Number, group: Number) -> Number:
    """How many times stage 3's states MiCS takes: N / group (ZeRO++, section 3.2, compares)."""
    return N / group


def mics_saving(p: Number, per_node: Number) -> Number:
    """The share of an all_gather between nodes that gathering inside them saves: 1 - (p - k) / (p - 1) (MiCS, 3.3)."""
    return 1 - (p - per_node) / (p - 1)


def fsdp_volume(W: Number, F: str = "full", G: Number = 8, M: Number = 1, as_printed: bool = False) -> Number:
    """Elements per rank and step that leave it, of a model of M, on W ranks; G are on a host ("hybrid").

    "replicated" 2 M (W - 1) / W, "full" sharding 3 M (W - 1) / W; "hybrid" shards inside a host and reduces between:
    2 (M / G) (H - 1) / H on H = W / G hosts by the ring, for which 2 M (W - 1) / (G W) is printed, more than a ring
    needs (Zhao et al.: PyTorch FSDP, arXiv:2304.11277, section 3.2.2).
    """
    if F == "hybrid":
        return 2 * M * (W - 1) / (G * W) if as_printed else 2 * M * (W / G - 1) / W
    return {"replicated": 2, "full": 3}[F] * M * (W - 1) / W


def fsdp_peak(units: Sequence[Number], F: Number) -> Number:
    """Parameters held at most: every unit's shard, and the largest unit gathered (PyTorch FSDP, section 3.2.1)."""
    return sum(units) / F + max(units)


# DeepSpeed's estimators ----------------------------------------------------------------------------------------------
# deepspeed/runtime/zero/stage_1_and_2.py and stage3.py: estimate_zero2_model_states_mem_needs, estimate_zero3_… . Whole
# bytes, multiplied in the same order; they print GiB and call them GB.


class Estimate(NamedTuple):
    """Bytes of host memory per node, and of device memory per device."""

    host: int
    device: int


def deepspeed_zero2(
    Psi: Number, per_node: int = 1, nodes: int = 1, offload: bool = True, factor: float = 1.5, older: bool = False
) -> Estimate:
    """What DeepSpeed estimates for stage 2.

    Per device 2 Psi + 18 Psi / N: 2 and 4 for 16- and 32-bit gradients, 12 for the optimizer. The `older` code, and the
    documentation to this day, have 4 Psi + 16 Psi / N.
    """
    N = per_node * nodes
    if offload:
        return Estimate(int(Psi * max(4 * N, 16) * factor), int(2 * Psi))
    device = 4 * Psi + int(16 * Psi / N) if older else 2 * Psi + int(18 * Psi / N)
    return Estimate(int(Psi * 4 * per_node * factor), int(device))


def deepspeed_zero3(
    Psi: Number,
    largest: Number,
    per_node: int = 1,
    nodes: int = 1,
    offload: bool = True,
    offload_parameters: bool = True,
    zero_init: bool = True,
    factor: float = 1.5,
) -> Estimate:
    """What DeepSpeed estimates for stage 3.

    `largest` are the parameters of the largest module, of which 4 bytes each are there at a time. Without `zero_init`
    every process builds the whole model in fp32 first. Offloading parameters needs the optimizer offloaded.
    """
    N, share, device = per_node * nodes, 1 / nodes, 4 * largest
    if not offload:
        built = (largest if zero_init else Psi) * 4 * per_node * factor
        return Estimate(int(built), int(device + int(18 * Psi / N)))
    bytes_each = 18 if offload_parameters else 16
    host = Psi * bytes_each * share if zero_init else Psi * max(4 * per_node, bytes_each * share)
    return Estimate(int(host * factor), int(device if offload_parameters else device + int(2 * Psi / N)))


# small change --------------------------------------------------------------------------------------------------------


def ratio(a: Number, b: Number) -> Number:
    """a / b."""
    return a / b


def speed_up(new: Number, old: Number) -> Number:
    """new / old - 1: 0.29 is 29 % faster."""
    return new / old - 1


def aggregate(count: Number, each: Number) -> Number:
    """What `count` devices have together: count times each."""
    return count * each


def training_days(minutes: Number, times: Number) -> Number:
    """Days for `times` as much work as takes so many minutes."""
    return minutes * times / 60 / 24
