"""The exercises of 04_what_it_sends: right solutions pass, and a mistake is told by its name."""

import re
from fractions import Fraction

import numpy as np
import pytest

from zerosim import exercises

PASSES = ((1, 0, 1, 0), (1, 0, 1, 0), (0, 1, 1, 0), (0, 1, 0, 2))
"""By stage: passes over all parameters in a step, in each micro-step, and the same for gathering."""


def passes(stage, k):
    once, each, gather_once, gather_each = PASSES[stage]
    return once + each * k + gather_once + gather_each * k


def sent(stage, sizes, N, k, padding=True, passes=passes):
    Psi = sum(-(-size // N) * N for size in sizes) if padding else sum(sizes)
    return 2 * passes(stage, k) * Fraction(Psi * (N - 1), N)


def slice_by_slice(stage, sizes, N, k):
    return sum(2 * passes(stage, k) * (N - 1) * int(np.ceil(size / N)) for size in sizes)


def convert(convention, verb, S, N, seconds):
    share = (2 if verb == "all_reduce" else 1) * (N - 1) / N
    return {
        "sent": S * share,
        "sent and received": 2 * S * share,
        "cluster": N * S * share,
        "algbw": S / seconds,
        "busbw": S / seconds * share,
    }[convention]


def but(convention, wrong):
    """`convert` with another formula for one convention."""
    return lambda name, *given: wrong(*given) if name == convention else convert(name, *given)


def counter(log, N, reduce_scatter=1, all_gather=None, all_reduce=2):
    factors = {"reduce_scatter": reduce_scatter, "all_gather": all_gather or N, "all_reduce": all_reduce}
    return sum(factors[verb] * nbytes * (N - 1) / N for verb, nbytes in log)


@pytest.mark.parametrize(
    ("check", "solution"),
    [
        ("check_bytes_sent", sent),
        ("check_bytes_sent", slice_by_slice),
        ("check_convert", convert),
        ("check_convert", lambda *given: np.float64(convert(*given))),
        ("check_counter", counter),
        ("check_counter", lambda log, N: sum(round(counter([entry], N)) for entry in log)),
    ],
)
def test_right(check, solution):
    verdict = getattr(exercises, check)(solution)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (
            lambda s, z, N, k: sent(s, z, N, k, passes=lambda s, k: 2 * k),
            r"stage 3 on 2 ranks, 1 micro-step, layers 64 x 20 x 10: .*0\.6667 times.* second all-gather",
        ),
        (lambda s, z, N, k: 2 * passes(s, k) * sum(z), r"stage 0 on 1 rank, .* it is 0\. .*\(N - 1\) / N"),
        (lambda s, z, N, k: sent(s, z, N, k, padding=False), "on 3 ranks, .*Padding is forgotten"),
        (lambda s, z, N, k: int(sent(s, z, N, k, padding=False)), "rounded down"),
        (lambda s, z, N, k: sent(s, z, N, k) / 2, "That is elements"),
        (lambda s, z, N, k: 2 * sent(s, z, N, k), "That is twice as much"),
        (lambda s, z, N, k: N * sent(s, z, N, k), "all ranks together"),
        (lambda s, z, N, k: sent(s, z, N, 1), "stage 2 on 2 ranks, 3 micro-steps, .*each of them reduces"),
        (lambda s, z, N, k: k * sent(s, z, N, 1), "stage 0 on 2 ranks, 3 micro-steps, .*and reduce once"),
        (
            lambda s, z, N, k: sent(s, z, N, k, passes=lambda s, k: k + 2 if s == 3 else passes(s, k)),
            "stage 3 on 2 ranks, 3 micro-steps, .*nothing stays",
        ),
        (
            lambda s, z, N, k: sent(s, z, N, k, passes=lambda s, k: 2 * k if s == 2 else passes(s, k)),
            "stage 2 on 2 ranks, 3 micro-steps, .*gathered once in a step",
        ),
        (
            lambda s, z, N, k: sent(s, z, N, k, passes=lambda s, k: passes(s, k) + (s == 1)),
            "stage 1 on 2 ranks, 1 micro-step, .*This is 3 Psi: at stage 1",
        ),
    ],
)
def test_wrong_bytes_sent(solution, says):
    verdict = exercises.check_bytes_sent(solution)
    assert not verdict
    assert re.search(says, repr(verdict)), verdict


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (but("sent", lambda verb, S, N, t: S), "sent of .* the vector; a rank keeps"),
        (but("sent", lambda verb, S, N, t: 2 * S * (N - 1) / N), "the factor of another verb"),
        (but("sent and received", lambda verb, S, N, t: convert("sent", verb, S, N, t)), "one direction"),
        (but("cluster", lambda verb, S, N, t: 2 * convert("cluster", verb, S, N, t)), "where it arrives"),
        (but("cluster", lambda verb, S, N, t: convert("sent", verb, S, N, t)), "That is one rank"),
        (but("algbw", lambda verb, S, N, t: S / t * (1 + (verb == "all_reduce"))), "algbw of all_reduce.*DeepSpeed's"),
        (but("algbw", lambda verb, S, N, t: convert("busbw", verb, S, N, t)), "That is the bus bandwidth"),
        (but("busbw", lambda verb, S, N, t: S / t), "That is the algorithm bandwidth"),
        (
            but("busbw", lambda verb, S, N, t: convert("busbw", verb, S, N, t) * (N if verb[0] == "r" else 1)),
            "busbw of reduce_scatter, .*N times as much",
        ),
        (but("busbw", lambda verb, S, N, t: 2 * S / t * (N - 1) / N), "factor of another verb"),
    ],
)
def test_wrong_conversions(solution, says):
    verdict = exercises.check_convert(solution)
    assert not verdict
    assert re.search(says, repr(verdict)), verdict


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (lambda log, N: counter(log, N, reduce_scatter=N), "stage 1 on 4 ranks, .*reduce-scatters count N times"),
        (lambda log, N: counter(log, N, all_gather=1), "all-gathers count too little"),
        (lambda log, N: counter(log, N, all_reduce=1), "stage 0 on 4 ranks, .*2 \\(N - 1\\) / N of the vector"),
        (lambda log, N: N * counter(log, N), "for the cluster"),
        (lambda log, N: sum(nbytes for _, nbytes in log), "what was handed in"),
        (lambda log, N: counter(log, N) * N / (N - 1), r"(own slice does not travel|ZeroDivisionError)"),
        (lambda log, N: counter([e for e in log if e[0] != "all_gather"], N), "all-gathers are missing"),
    ],
)
def test_wrong_counters(solution, says):
    verdict = exercises.check_counter(solution)
    assert not verdict
    assert re.search(says, repr(verdict)), verdict
