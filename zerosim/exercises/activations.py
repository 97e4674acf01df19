"""What waits for backward, how far apart to keep it, and where arrays find room."""

from bisect import insort
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zerosim import formulas
from zerosim.arena import Arena, Block, blocks
from zerosim.bench.shared import Task
from zerosim.exercises.numbers import number, whole
from zerosim.exercises.verdict import Wrong, exercise, in_time, wanted
from zerosim.residual.shared import record
from zerosim.transport.threads import alone

MODELS = (
    ((20, 8, 8, 8, 8, 5), 6, "fp32"),
    ((4, 16, 2, 16, 2, 16, 2, 3), 5, "fp16"),
    ((3, 4, 5, 6, 7, 8, 9, 30, 2), 4, "fp32"),
)
"""Layer widths, rows and precision of steps that are taken."""


@exercise
def check_kept_activations(function: Callable[[Sequence[int], int, int, int], Any]) -> str:
    """`function(L, rows, w, every)` returns the greatest bytes of activations in a step on one rank.

    L are the layer widths, inputs first, w the bytes of a number; the input of every `every`-th layer is kept. What it
    says is compared with what the ledger of a rank booked in a real step.
    """
    wanted(function, "L", "rows", "w", "every")
    steps = 0
    for L, rows, precision in MODELS:
        w = formulas.WIDTH[precision]
        for every in range(1, len(L)):
            steps += 1
            task = Task(L, rows, precision, "sgd", "ring", checkpoint_activations=every)
            held = record(alone(), task, 0).highest("activations")
            where = f"layers {' x '.join(map(str, L))}, {rows} rows of {w} bytes a number, every = {every}"
            if (got := number(in_time(function, L, rows, w, every), where)) != held:
                raise Wrong(
                    f"{where}: you say {got:,}, the rank held {held:,} bytes{_about(got, held, L, rows, w, every)}"
                )
    return f"{steps} real steps of {len(MODELS)} models, to the byte"


def _segments(L: Sequence[int], rows: int, w: int, every: int) -> list[tuple[int, int, int]]:
    """Bytes on the way back, segment by segment: kept before it, its own layers' inputs, its output's gradient."""
    n, sizes = len(L) - 1, [w * rows * width for width in L]
    ends = [(first, min(first + every, n)) for first in range(0, n, every)]
    return [(sum(sizes[:first:every]), sum(sizes[first:end]), sizes[end]) for first, end in ends]


def _about(got: float, held: int, L: Sequence[int], rows: int, w: int, every: int) -> str:
    """Say what a wrong number is, or what there is at the peak."""
    segments = _segments(L, rows, w, every)
    fullest = max(range(len(segments)), key=lambda i: sum(segments[i]))
    first, last = fullest * every, min((fullest + 1) * every, len(L) - 1) - 1
    kept, own, gradient = segments[fullest]
    there = f"when backward comes to layers {first} to {last}" if last > first else f"in layer {first}'s backward pass"
    known = [
        (held // w, f"those are numbers, of {w} bytes each"),
        (held // rows, f"that is one row's; there are {rows}"),
        (
            formulas.activations_peak(L, [rows], w)["device"],
            "so much is held if every input is kept; here only some are",
        ),
        (
            max(before + inputs for before, inputs, _ in segments),
            f"{there}, the gradient of their output, {gradient} bytes, is there besides their inputs",
        ),
        (
            formulas.checkpoints(L, rows, w, every),
            f"that is what waits between forward and backward; {there}, their inputs are all there again",
        ),
        (
            max(inputs + output for _, inputs, output in segments),
            f"{there}, the inputs kept of the layers before, {kept} bytes, still wait",
        ),
        (
            formulas.checkpoints(L, rows, w, every) + max(inputs + output for _, inputs, output in segments),
            f"{there}, what was kept of layers behind is gone, and the segment's first input is counted twice",
        ),
    ]
    what = next((what for other, what in known if other == got), "")
    return f": {what}" if what else f": {there}, {kept} bytes kept before, {own} of inputs, {gradient} of a gradient"


@exercise
def check_every(function: Callable[[Sequence[int], int, int, int], Any]) -> str:
    """`function(L, rows, w, limit)` returns the K with the fewest layers computed again that fits, None if none does.

    With the input of every K-th layer kept, a step's activations may not be more than `limit` bytes.
    """
    wanted(function, "L", "rows", "w", "limit")
    cases = 0
    for L in ((64, *[64] * 15, 10), (8, 64, 8, 64, 8, 64, 8, 64, 10), (5, 4, 3, 2), (400, 10, 10, 10, 10, 10, 10, 10)):
        rows, w, layers = 8, 4, range(1, len(L))
        peaks = {k: formulas.activations_peak(L, [rows], w, how=formulas.Kept(k))["device"] for k in layers}
        for limit in sorted({limit for peak in peaks.values() for limit in (peak, peak - 1)}):
            cases += 1
            _choice(in_time(function, L, rows, w, limit), L, rows, w, limit, peaks)
    return f"{cases} limits for 4 models"


def _choice(got: Any, L: Sequence[int], rows: int, w: int, limit: int, peaks: dict[int, int]) -> None:
    shape = " x ".join(map(str, L[:4])) + (" x …" if len(L) > 4 else "")
    what = f"layers {shape} ({len(L) - 1}), {rows} rows of {w} bytes a number, limit {limit:,} bytes"
    again = {k: len(formulas.recomputed(len(L) - 1, k)) for k, peak in peaks.items() if peak <= limit}
    best = min(again, key=lambda k: again[k], default=None)
    if got is None:
        if best is not None:
            raise Wrong(f"{what}: it returns None, but K = {best} fits, with {peaks[best]:,} bytes")
        return
    if (k := whole(got, what)) not in peaks:
        raise Wrong(f"{what}: there is no K = {k}; it is 1 to {len(L) - 1}")
    if peaks[k] > limit:
        kept = formulas.checkpoints(L, rows, w, k)
        hint = f": what is kept fits, {kept:,}, and a segment computed again comes on top" if kept <= limit else ""
        other = f"; K = {best} fits" if best else "; none fits: None"
        raise Wrong(f"{what}: with K = {k} a step holds {peaks[k]:,} bytes{hint}{other}")
    if best is not None and again[k] > again[best]:
        other = f"K = {best} fits too, and computes {again[best]}"
        raise Wrong(f"{what}: K = {k} fits, and computes {again[k]} layers again; {other}")


@exercise
def check_first_fit(function: Callable[[list[tuple[int, int]], int], Any]) -> str:
    """`function(taken, nbytes)` returns the address of a new block: the lowest gap that is large enough, or on top.

    `taken` are the (start, stop) of the blocks that there are, by address; addresses begin at 0. The blocks are those
    of real steps and of random ones.
    """
    wanted(function, "taken", "nbytes")
    task = Task((8, 64, 8, 64, 8, 64, 10), 16, "fp32", "adam", "ring", checkpoint_activations=3)
    step = blocks(record(alone(), task, 2).events)
    chance = np.random.default_rng(0)
    drawn = [Block("", int(n), i, int(i + 1 + life)) for i, (n, life) in enumerate(chance.integers(1, 9, (300, 2)))]
    places = sum(in_time(_replay, function, found) for found in (step, drawn))
    return f"{places} blocks are where first fit puts them"


def _replay(function: Callable[[list[tuple[int, int]], int], Any], found: list[Block]) -> int:
    right, taken = Arena("first"), list[tuple[int, int]]()
    moments = sorted([(b.begin, 1, i) for i, b in enumerate(found)] + [(b.end, 0, i) for i, b in enumerate(found)])
    at: dict[int, int] = {}
    for _, begins, i in moments:
        nbytes = found[i].nbytes
        if begins:
            at[i] = right.take(nbytes)
            _place(function(list(taken), nbytes), at[i], taken, nbytes)
            insort(taken, (at[i], at[i] + nbytes))
        else:
            right.release(at[i], nbytes)
            taken.remove((at[i], at[i] + nbytes))
    return len(found)


def _place(got: Any, right: int, taken: list[tuple[int, int]], nbytes: int) -> None:
    if (address := whole(got, f"{nbytes} bytes")) == right:
        return
    top = taken[-1][1] if taken else 0
    what = f"{nbytes} bytes beside {taken if len(taken) < 7 else f'{len(taken)} blocks'}: you say {address}"
    gap = min((start for start, _ in taken if start > right), default=None)
    where = f"the gap from {right} to {gap} has room" if gap is not None else f"it must go on top, to {right}"
    if address < 0:
        raise Wrong(f"{what}; addresses begin at 0")
    if over := next(((a, b) for a, b in taken if a < address + nbytes and address < b), None):
        raise Wrong(f"{what}, which lies on the block from {over[0]} to {over[1]}; {where}")
    if address >= top and gap is not None:
        exact = ", exactly as long as it is" if gap - right == nbytes else ""
        below = ", below the first block" if right == 0 else ""
        raise Wrong(f"{what}, on top; {where}{exact}{below}")
    if address > top:
        raise Wrong(f"{what}, {address - top} bytes above the others; {where}")
    if gap is not None and right < address < gap:
        raise Wrong(f"{what}, in the midst of a gap; {where}, and a block goes to its beginning")
    raise Wrong(f"{what}, a gap that fits, perhaps better; but first fit takes the lowest address: {where}")
