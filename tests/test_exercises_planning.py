"""The exercises of 07_to_a_trillion: right solutions pass, and a mistake is told by its name."""

import math
import re
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from zerosim import exercises


def per_parameter(stage, N, K=12):
    return sum(Fraction(width) / (N if stage >= first else 1) for width, first in ((2, 3), (2, 2), (K, 1)))


def largest(stage, memory, N, K=12):
    return memory / per_parameter(stage, N, K)


def least(Psi, memory, N, K=12, stages=(0, 1, 2, 3)):
    return next((stage for stage in stages if Psi * per_parameter(stage, N, K) <= memory), None)


def devices(stage, Psi, memory, K=12, rounded=math.ceil):
    kept = Psi * (0, 4, 2, 0)[stage]
    if stage == 0:
        return 1 if (4 + K) * Psi <= memory else None
    cut = Psi * (0, K, 2 + K, 4 + K)[stage]
    return None if kept >= memory else rounded(cut / (memory - kept))


@pytest.mark.parametrize(
    ("check", "solution"),
    [
        ("check_largest_model", largest),
        ("check_largest_model", lambda *given: int(largest(*given))),
        ("check_least_stage", least),
        ("check_least_stage", lambda Psi, memory, N: None if (s := least(Psi, memory, N)) is None else np.int64(s)),
        ("check_devices", devices),
        ("check_devices", lambda *given: None if (N := devices(*given)) is None else float(N)),
    ],
)
def test_right(check, solution):
    verdict = getattr(exercises, check)(solution)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("check", "solution", "says"),
    [
        ("check_largest_model", lambda s, m, N: m / 2, "weights alone"),
        ("check_largest_model", lambda s, m, N: np.array([m, m]), r"it returns array\(.*, and must return a number"),
        ("check_largest_model", lambda s, m, N: Decimal(m) / 2, "weights alone"),
        ("check_largest_model", lambda s, m, N: 10**400, "it returns a number that is too large"),
        ("check_largest_model", lambda s, m, N: sys.exit(3), r"it leaves the program .*, in line \d+ of yours: .*exit"),
        ("check_largest_model", lambda s, m, N: m / 16, r"stage 1, 64 devices of 32\.00 GB: .*N is missing"),
        ("check_largest_model", lambda s, m, N: N * m / 16, "stage 0, 64 devices of .*: .*That is for stage 3"),
        ("check_largest_model", lambda s, m, N: largest(s, m, N, K=0), "optimizer states are missing"),
        ("check_largest_model", lambda s, m, N: largest(s, m, N, K=8), "not 8"),
        ("check_largest_model", lambda s, m, N: largest(s, m, N) / 1e9, "billions"),
        ("check_largest_model", lambda s, m, N: largest(s, m, N) * 1.024**3, "powers of 1024"),
        ("check_largest_model", lambda s, m, N: largest(max(0, s - 1), m, N), "stage 1, .*plain data parallelism"),
        ("check_least_stage", lambda Psi, m, N: 3, "you say stage 3, and stage 0 fits already"),
        ("check_least_stage", lambda Psi, m, N: least(Psi, m, N, K=0), "Without the optimizer states it would fit"),
        ("check_least_stage", lambda Psi, m, N: least(Psi, N * m, 1), "All devices together have the room"),
        ("check_least_stage", lambda Psi, m, N: least(Psi, m * 0.999, N), "exactly as much as there is"),
        ("check_least_stage", lambda Psi, m, N: 3 if (s := least(Psi, m, N)) is None else s, "even stage 3 needs"),
        ("check_least_stage", lambda Psi, m, N: least(Psi, m, N, stages=(3, 2, 1, 0)), "least stage is asked for"),
        ("check_least_stage", lambda Psi, m, N: True, "returns True, and must return a number"),
        ("check_least_stage", lambda Psi, m, N: 4, "stages are 0, 1, 2 and 3"),
        ("check_devices", lambda s, Psi, m: devices(s, Psi, m, rounded=int), "round up, not down"),
        ("check_devices", lambda s, Psi, m: devices(s, Psi, m, rounded=float), "Devices are whole"),
        ("check_devices", lambda s, Psi, m: devices(s, Psi, m, rounded=lambda x: int(x) + 1), "fits on one fewer"),
        ("check_devices", lambda s, Psi, m: devices(3, Psi, m), "stage 1, .*keeps 4 bytes of each parameter"),
        ("check_devices", lambda s, Psi, m: devices(s, Psi, m, K=0), "optimizer states are missing"),
        (
            "check_devices",
            lambda s, Psi, m: None,
            r"stage 3, 7.5 billion .*: you say None, and 4 devices will do: each then needs 30\.00 GB of 32\.00 GB",
        ),
        (
            "check_devices",
            lambda s, Psi, m: None if (s, Psi) == (0, 2e9) else devices(s, Psi, m),
            "you say None, and one device will do: each then needs 32.00 GB, exactly as much as there is",
        ),
        ("check_devices", lambda s, Psi, m: 0 if (s, Psi) == (0, 2e9) else devices(s, Psi, m), "One device at least"),
        (
            "check_devices",
            lambda s, Psi, m: devices(s, Psi, m) or 10**9,
            r"you say 1,000,000,000 devices, and no number",
        ),
        (
            "check_devices",
            lambda s, Psi, m: devices(s, Psi, m) or math.ceil(14 * Psi / (m - 2 * Psi)),
            "return None",
        ),
    ],
)
def test_wrong(check, solution, says):
    verdict = getattr(exercises, check)(solution)
    assert not verdict
    assert re.search(says, repr(verdict)), verdict
