"""Solutions of the exercises on activations, right ones and wrong ones."""

import math
import re

import numpy as np
import pytest

from zerosim import formulas
from zerosim.exercises import check_every, check_first_fit, check_kept_activations


def segments(L, rows, w, every):
    n, sizes = len(L) - 1, [w * rows * width for width in L]
    for first in range(0, n, every):
        end = min(first + every, n)
        yield sizes[:first:every], sizes[first:end], sizes[end]


def peak(L, rows, w, every):
    return max(sum(before) + sum(inputs) + out for before, inputs, out in segments(L, rows, w, every))


def by_formula(L, rows, w, every):
    return np.int64(formulas.activations_peak(L, [rows], w, how=formulas.Kept(every))["device"])


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (peak, "Right: 20 real steps of 3 models, to the byte"),
        (by_formula, "Right"),
        (
            lambda L, rows, w, every: None,
            "Not yet: layers 20 x 8 x .*: it returns nothing .None., and must return a number",
        ),
        (lambda *model: peak(*model) // model[2], ".*those are numbers, of 4 bytes each"),
        (lambda *model: peak(*model) // model[1], ".*that is one row's; there are 6"),
        (
            lambda *model: peak(*model) if model[3] < 3 else formulas.checkpoints(*model),
            ".*every = 3: .*: that is what waits between forward and backward; when backward comes to layers 0 to 2",
        ),
        (formulas.checkpoints, ".*every = 1: .*in layer 4's backward pass, the gradient of their output, 120 bytes"),
        (lambda L, rows, w, every: peak(L, rows, w, 1), ".*every = 2: .*: so much is held if every input is kept"),
        (
            lambda *model: max(sum(before) + sum(inputs) for before, inputs, _ in segments(*model)),
            ".*in layer 4's backward pass, the gradient of their output, 120 bytes, is there besides",
        ),
        (
            lambda *model: max(sum(inputs) + out for _, inputs, out in segments(*model)),
            ".*every = 1: you say 672, the rank held 1,368 bytes: .* the layers before, .* bytes, still wait",
        ),
        (
            lambda *model: formulas.checkpoints(*model) + max(sum(i) + out for _, i, out in segments(*model)),
            ".*what was kept of layers behind is gone",
        ),
        (lambda *model: 1, ".*you say 1, the rank held .*: in layer 4's backward pass, 1056 bytes kept before, 192 of"),
    ],
)
def test_activations(solution, says):
    assert re.match(says, repr(check_kept_activations(solution)))


def choose(L, rows, w, limit):
    fits = [k for k in range(1, len(L)) if by_formula(L, rows, w, k) <= limit]
    return min(fits, key=lambda k: len(formulas.recomputed(len(L) - 1, k)), default=None)


def one_by_one(L, rows, w, limit):
    """K rises, and with it the layers computed again: the first that fits will do."""
    return next((np.int64(k) for k in range(1, len(L)) if peak(L, rows, w, k) <= limit), None)


def least(L, rows, w, limit):
    best = min(range(1, len(L)), key=lambda k: peak(L, rows, w, k))
    return best if peak(L, rows, w, best) <= limit else None


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (choose, "Right: .* limits for 4 models"),
        (one_by_one, "Right"),
        (lambda *case: None, "Not yet: layers 64 x 64 x 64 x 64 x … .16., .*: it returns None, but K = 4 fits"),
        (
            lambda L, rows, w, limit: math.isqrt(len(L) - 1),
            ".*with K = 4 a step holds .* comes on top; none fits: None",
        ),
        (least, ".*: K = 4 fits, and computes 12 layers again; K = 3 fits too, and computes 10"),
        (
            lambda L, rows, w, limit: next(k for k in range(1, len(L)) if formulas.checkpoints(L, rows, w, k) <= limit),
            ".*: what is kept fits, .*, and a segment computed again comes on top",
        ),
        (lambda L, rows, w, limit: 0, ".*there is no K = 0; it is 1 to 16"),
        (lambda L, rows, w, limit: math.sqrt(len(L)), r".*it returns 4\.12.*, and must return a whole number"),
    ],
)
def test_every(solution, says):
    assert re.match(says, repr(check_every(solution)))


def first_fit(taken, nbytes, fits=lambda gap, nbytes: gap >= nbytes, begin=0):
    below = begin
    for start, stop in taken:
        if fits(start - below, nbytes):
            return below
        below = stop
    return below


def from_gaps(taken, nbytes):
    starts = [0, *(stop for _, stop in taken)]
    ends = [*(start for start, _ in taken), math.inf]
    return np.int64(min(a for a, b in zip(starts, ends, strict=True) if b - a >= nbytes))


def best_fit(taken, nbytes):
    gaps = zip([0, *(stop for _, stop in taken)], [*(start for start, _ in taken), math.inf], strict=True)
    return min((gap for gap in gaps if gap[1] - gap[0] >= nbytes), key=lambda gap: (gap[1] - gap[0], gap[0]))[0]


def above_the_first(taken, nbytes):
    return first_fit(taken[1:], nbytes, begin=taken[0][1]) if taken else 0


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (first_fit, "Right: .* blocks are where first fit puts them"),
        (from_gaps, "Right"),
        (lambda taken, nbytes: None, "Not yet: .* bytes: it returns nothing .None., and must return a number"),
        (lambda taken, nbytes: taken[-1][1] if taken else 0, ".*on top; the gap from .* to .* has room"),
        (lambda taken, n: first_fit(taken, n, lambda gap, n: gap > n), ".*has room, exactly as long as it is"),
        (above_the_first, ".*has room.*, below the first block"),
        (best_fit, ".*a gap that fits, perhaps better; but first fit takes the lowest address"),
        (lambda taken, n: first_fit(taken, n, lambda gap, n: gap > 0), ".*which lies on the block from"),
        (lambda taken, nbytes: 0, ".*you say 0, which lies on the block from 0 to"),
        (lambda taken, n: first_fit(taken, n) + bool(taken), ".* bytes above the others; it must go on top, to"),
        (lambda taken, nbytes: -1, ".*addresses begin at 0"),
    ],
)
def test_first_fit(solution, says):
    assert re.match(says, repr(check_first_fit(solution)))
