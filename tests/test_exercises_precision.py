"""Solutions of the exercises on precision and optimizers, right ones and wrong ones."""

import re

import numpy as np
import pytest

from zerosim.exercises import check_agree, check_k, check_loss_scale

MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}


def k(optimizer, precision):
    return 4 * MOMENTS[optimizer] + (0 if precision == "fp32" else 4)


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (k, "Right: 4 optimizers in 3 precisions"),
        (lambda optimizer, precision: float(4 * (MOMENTS[optimizer] + (precision != "fp32"))), "Right"),
        (lambda o, p: ..., "Not yet: sgd in fp32: it returns Ellipsis, and must return a number"),
        (lambda o, p: 4 * MOMENTS[o], "Not yet: sgd in fp16: you say 0; .* the master copy .* is missing, 4 bytes"),
        (lambda o, p: 4 * MOMENTS[o] + 4, "Not yet: sgd in fp32: you say 4; .* fp32 needs no master copy"),
        (
            lambda o, p: 4 * MOMENTS[o] if p == "fp32" else 4 + 2 * MOMENTS[o],
            "Not yet: momentum in fp16: you say 6; .* holds 32 bytes of optimizer states, 8 each: moments are kept in",
        ),
        (
            lambda o, p: k(o, p) + (0 if p == "fp32" else 4),
            "Not yet: .* nor a gradient in fp32, which lives for a block, count",
        ),
        (
            lambda o, p: k(o, p) + (8 if p == "fp32" else 4),
            "Not yet: sgd in fp32: you say 8; .* parameter and gradient, 4 [+] 4",
        ),
        (lambda o, p: k(o, p) // 4, "Not yet: sgd in fp16: you say 1; .* those are arrays"),
    ],
)
def test_k(solution, says):
    assert re.match(says, repr(check_k(solution)))


def scale_of(after=2000, anew=True, again=True, down=2, up=2):
    def step(scale, good_steps, overflowed):
        if overflowed:
            return scale / down, 0 if anew else good_steps
        if good_steps + 1 == after or (not again and good_steps + 1 > after):
            return scale * up, 0 if again else good_steps + 1
        return scale, good_steps + 1

    return step


def counts_down(scale, left, overflowed):
    """The same, with another idea of what is counted."""
    if overflowed:
        return np.float64(scale) * 0.5, 0
    return [scale * 2, 0] if left == -1999 else [scale, left - 1]


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (scale_of(), "Right: .* steps of 5 trainings"),
        (counts_down, "Right"),
        (lambda *state: None, "Not yet: it returns nothing .None.; it must return two things"),
        (lambda scale, good, overflowed: (scale, good), ".*step 2000: .* so the scale is doubled now"),
        (scale_of(after=1999), ".*step 1999: .* 1999 steps without an overflow since the beginning, not 2000"),
        (scale_of(after=2001), ".*step 2000: the scale was 65536 and must be 131072, yours is 65536"),
        (scale_of(anew=False), ".*1500 steps, step 2001: .* with the overflow the count of good steps begins anew"),
        (
            scale_of(again=False),
            ".*step 2001: .* 1 step without an overflow since the doubling, not 2000; with the dou",
        ),
        (scale_of(down=1), ".*in each step, step 1: .* this step has overflowed, so the scale is halved"),
        (scale_of(down=0.5), ".*in each step, step 1: .* halved, not doubled"),
    ],
)
def test_loss_scale(solution, says):
    assert re.match(says, repr(check_loss_scale(solution)))


def agreed(comm, gradient):
    return any(comm.gather_values(bool(np.isinf(gradient).any() or np.isnan(gradient).any())))


def sum_of_flags(comm, gradient):
    return comm.sum(0.0 if np.isfinite(gradient).all() else 1.0)[0] > 0


def all_reduced(comm, gradient):
    flags = np.full(comm.size, not np.isfinite(gradient).all(), np.float32)
    comm.all_reduce(flags)
    return flags[0]


def if_overflowed(comm, gradient):
    return not np.isfinite(gradient).all() and comm.sum(1.0)[0] > 0


def first_only(comm, gradient):
    return bool(comm.numbers(not np.isfinite(gradient).all())[0, 0])


def in_place(comm, gradient):
    comm.all_reduce(gradient)
    return not np.isfinite(gradient).all()


def whole_slices(comm, gradient):
    return not all(np.isfinite(np.frombuffer(own, np.float16)).all() for own in comm.gather_bytes(gradient.tobytes()))


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (agreed, "Right: 49 cases on 1, 2, 3, 4, 7 ranks"),
        (sum_of_flags, "Right"),
        (all_reduced, "Right"),
        (lambda comm, gradient: None, "Not yet: N = 1, no slice has overflowed: rank 0 returns nothing"),
        (lambda comm, g: not np.isfinite(g).all(), ".*N = 2, inf in rank 0's slice: rank 0 skips .* and rank 1 does"),
        (
            if_overflowed,
            "Not yet: Stuck: after 3 s rank 0 still waits for a message that no rank sends: all .*, in line .* of y.*",
        ),
        (first_only, ".*N = 2, inf in rank 1's slice: no rank skips"),
        (lambda comm, g: comm.sum(np.isinf(g).any())[0] > 0, ".*nan in rank 0's slice: no rank skips.*nan is no inf"),
        (lambda comm, g: np.isinf(comm.sum(g.max())[0]), ".*no rank skips.*nan"),
        (lambda comm, g: not np.isfinite(comm.sum(g.sum())[0]), ".*no slice has overflowed: all ranks skip. 2,048 num"),
        (in_place, ".*rank 0's slice is changed, but the optimizer needs it"),
        (whole_slices, ".*rank 0 sends 4,.* bytes, as much as slices"),
        (lambda comm, gradient: False, ".*N = 1, inf in rank 0's slice: no rank skips"),
    ],
)
def test_agree(solution, says):
    assert re.match(says, repr(check_agree(solution)))
