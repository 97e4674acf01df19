"""The exercises of 01_where_does_the_memory_go: right solutions pass, and a mistake is told by its name."""

import re
from fractions import Fraction

import numpy as np
import pytest

from zerosim import exercises


def per_parameter(precision, optimizer):
    kept = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}[optimizer]
    return 4 + 4 + 4 * kept if precision == "fp32" else 2 + 2 + 4 * (1 + kept)


def at_rest(stage, sizes, N, round_up=True, K=12):
    Psi = sum(-(-size // N) * N for size in sizes) if round_up else Fraction(sum(sizes))
    return sum(width * Psi / (N if stage >= first else 1) for width, first in ((2, 3), (2, 2), (K, 1)))


def activations(widths, B, N):
    return 2 * -(-B // N) * sum(widths)


@pytest.mark.parametrize(
    ("check", "solution"),
    [
        ("check_bytes_per_parameter", per_parameter),
        ("check_bytes_per_parameter", lambda p, o: np.float32(per_parameter(p, o))),
        ("check_memory_at_rest", at_rest),
        (
            "check_memory_at_rest",  # slice by slice, in NumPy's integers
            lambda stage, sizes, N: sum(
                np.ceil(np.array(sizes) / N).astype(int).sum() * width * (1 if stage >= first else N)
                for width, first in ((2, 3), (2, 2), (12, 1))
            ),
        ),
        ("check_activations", activations),
        ("check_activations", lambda widths, B, N: np.array([float(activations(widths, B, N))])),
    ],
)
def test_right(check, solution):
    verdict = getattr(exercises, check)(solution)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (lambda p, o: ..., "fp16, adam: it returns Ellipsis, and must return a number"),
        (lambda p, o: None, r"it returns nothing \(None\)"),
        (lambda p, o: 16, r"fp16, sgd: you say 16 bytes per parameter, and it is 8, 2 times .*Adam's K = 12"),
        (lambda p, o: per_parameter(p, o) - 4 * (p != "fp32"), "fp16, adam: .*the fp32 master copy is missing"),
        (lambda p, o: per_parameter(p, o) + 4 * (p == "fp32"), "fp32, adam: .*there is no master copy"),
        (lambda p, o: per_parameter(p, o) + 2 * (p != "fp32"), "gradient is counted in fp32"),
        (lambda p, o: 2 if p != "fp32" else 4, r"0\.125 times as much"),
        (lambda p, o: per_parameter(p, "adam"), "fp16, sgd: .*Adam's K"),
    ],
)
def test_wrong_bytes_per_parameter(solution, says):
    verdict = exercises.check_bytes_per_parameter(solution)
    assert not verdict
    assert re.search(says, repr(verdict), re.I), verdict


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (lambda s, z, N: at_rest(s, z, N, K=0), "stage 0 on 1 rank, .* K is missing"),
        (lambda s, z, N: at_rest(s, z, N, K=8), "master copy is missing"),
        (
            lambda s, z, N: at_rest(s, z, N, round_up=False),
            r"stage 0 on 3 ranks, layers 64 x 20 x 10: you say 24,160 bytes, and it is 24,192.*Padding is forgotten",
        ),
        (
            lambda s, z, N: sum(w * sum(z) // (N if s >= f else 1) for w, f in ((2, 3), (2, 2), (12, 1))),
            "is rounded down",
        ),
        (
            lambda s, z, N: at_rest(s, [-(-sum(z) // N) * N], N),
            "stage 0 on 3 ranks, layers 64 x 21 x 13 x 10: .* for each layer by itself",
        ),
        (lambda s, z, N: at_rest(0, z, N), "stage 1 on 2 ranks, .*Nothing is divided by N: stage 1 cuts the optimizer"),
        (lambda s, z, N: at_rest(3, z, N), "stage 0 on 2 ranks, .*Everything is divided by N"),
        (lambda s, z, N: at_rest(max(0, s - 1), z, N), "stage 1 on 2 ranks, "),
        (lambda s, z, N: at_rest(min(3, s + (s == 1)), z, N), "That is what stage 2 holds; stage 1 cuts the optimizer"),
        (lambda s, z, N: N * at_rest(s, z, N), "all ranks together"),
        (
            lambda s, z, N: sum(
                w * (at_rest(0, z, N) / 16 / N if s >= f else sum(z)) for w, f in ((2, 3), (2, 2), (12, 1))
            ),
            "on 3 ranks, .*Padding is",
        ),
    ],
)
def test_wrong_memory_at_rest(solution, says):
    verdict = exercises.check_memory_at_rest(solution)
    assert not verdict
    assert re.search(says, repr(verdict)), verdict


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (lambda L, B, N: activations(L[1:], B, N), "28 rows on 1 rank: .*inputs are missing"),
        (lambda L, B, N: activations(L[:-1], B, N), "outputs are missing"),
        (lambda L, B, N: activations(L, B, 1), "28 rows on 2 ranks: .*whole batch"),
        (lambda L, B, N: 2 * B / N * sum(L), "30 rows on 4 ranks: .*A rank has whole rows"),
        (lambda L, B, N: 2 * (B // N) * sum(L), "30 rows on 4 ranks: .*Rounded down"),
        (lambda L, B, N: 2 * activations(L, B, N), "2 bytes, not 4"),
        (lambda L, B, N: activations(L, B, N) / 2, "That is elements"),
        (lambda L, B, N: 2 * B * max(L), "widest layer only"),
    ],
)
def test_wrong_activations(solution, says):
    verdict = exercises.check_activations(solution)
    assert not verdict
    assert re.search(says, repr(verdict)), verdict
