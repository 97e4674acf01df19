"""What an optimizer keeps, the scale of the loss, and a step that all ranks skip or none."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from zerosim.comm import Comm
from zerosim.config import Config
from zerosim.data import Dataset, convert, make_dataset
from zerosim.exercises.numbers import answer, number
from zerosim.exercises.ranks import on_ranks
from zerosim.exercises.verdict import Wrong, exercise, in_time, wanted
from zerosim.formulas import MIXED, MOMENTS
from zerosim.ledger import Ledger
from zerosim.optim import RULES
from zerosim.precision import LossScale, precision
from zerosim.rank import Rank
from zerosim.stages import zero0
from zerosim.transport import Transport
from zerosim.transport.threads import alone

RANKS = (1, 2, 3, 4, 7)
AFTER = 2000
"""Steps without an overflow after which the scale is doubled (`zerosim.precision.LossScale`)."""


@exercise
def check_k(function: Callable[[str, str], Any]) -> str:
    """`function(optimizer, precision)` returns bytes of optimizer states per parameter, as a rank holds them."""
    wanted(function, "optimizer", "precision")
    data = make_dataset("a plane", np.zeros((4, 3)), np.zeros((4, 1)))
    for optimizer, numerics in itertools.product(RULES, ("fp32", "fp16", "bf16")):
        rank = _allocated(optimizer, numerics, data)
        held, Psi = rank.ledger.now["optimizer_states"], rank.layout.padded
        got = number(in_time(function, optimizer, numerics), f"{optimizer} in {numerics}")
        if got != held // Psi:
            raise Wrong(
                f"{optimizer} in {numerics}: you say {got:g}; a rank of {Psi} parameters holds {held} bytes of "
                f"optimizer states, {held // Psi} each{_about_k(got, held // Psi, optimizer, numerics)}"
            )
    return f"{len(RULES)} optimizers in 3 precisions, as allocated"


def _allocated(optimizer: str, numerics: str, data: Dataset) -> Rank:
    config, chosen = Config(optimizer=optimizer, precision=numerics, hidden=(), batch_size=4), precision(numerics)
    rank = Rank(alone(), config, convert(data, chosen.dtype, chosen.compute))
    zero0.allocate(rank)
    return rank


def _about_k(got: float, held: int, optimizer: str, numerics: str) -> str:
    """Say what a wrong number is."""
    moments, mixed = MOMENTS[optimizer], numerics in MIXED
    known = [
        (mixed, 4 * moments, "the master copy of the parameter in fp32 is missing, 4 bytes"),
        (mixed and moments, 4 + 2 * moments, "moments are kept in fp32, 4 bytes each, though the parameter has 2"),
        (mixed, 2 * moments, "moments are kept in fp32, 4 bytes each, and so is a master copy"),
        (mixed, 2 + 2 * moments, "master copy and moments are kept in fp32, 4 bytes each"),
        (
            mixed,
            held + 4,
            "neither parameter and gradient (2 + 2) nor a gradient in fp32, which lives for a block, count",
        ),
        (not mixed, held + 8, "parameter and gradient, 4 + 4, are no optimizer states"),
        (not mixed, held + 4, "fp32 needs no master copy: the parameter is one"),
        (held, held // 4, "those are arrays, each of them in fp32, 4 bytes"),
    ]
    return next((f": {what}" for there, other, what in known if there and other == got), "")


@exercise
def check_loss_scale(function: Callable[[float, int, bool], Any]) -> str:
    """`function(scale, good_steps, overflowed)` returns the next (scale, good_steps); the first are (2**16, 0).

    The scales must be those of `zerosim.precision.LossScale`; what is counted in good_steps is the function's own.
    """
    wanted(function, "scale", "good_steps", "overflowed")
    chance = np.random.default_rng(0)
    histories = {
        "no overflow at all": np.zeros(2 * AFTER + 5, bool),
        "an overflow in each step": np.ones(12, bool),
        "an overflow after 1500 steps": np.arange(2 * AFTER) == 1500,
        "an overflow as the scale was to be doubled": np.arange(2 * AFTER) == AFTER - 1,
        "overflows at random": chance.random(5 * AFTER) < 1 / AFTER,
    }
    for what, history in histories.items():
        in_time(_follow, function, what, history.tolist())
    return f"{sum(map(len, histories.values())):,} steps of {len(histories)} trainings"


def _follow(function: Callable[[float, int, bool], Any], what: str, history: list[bool]) -> None:
    true = LossScale(on=True)
    scale, good = true.value, 0
    last, why = 0, "beginning"
    for step, overflowed in enumerate(history, 1):
        before = true.value
        true.update(overflowed)
        returned = function(scale, good, overflowed)
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise Wrong(
                f"it returns {answer(returned)}; it must return two things, the scale and the count of good steps"
            )
        scale, good = number(returned[0], f"{what}, step {step}, the scale"), returned[1]
        if scale != true.value:
            raise Wrong(
                f"{what}, step {step}: the scale was {before:g} and must be {true.value:g}, yours is "
                f"{scale}{_about_scale(scale, before, true.value, overflowed, step - last, why)}"
            )
        if true.value != before:
            last, why = step, "overflow" if overflowed else "doubling"


def _about_scale(got: Any, before: float, right: float, overflowed: bool, since: int, why: str) -> str:
    if overflowed:
        return ": this step has overflowed, so the scale is halved" + (", not doubled" if got == 2 * before else "")
    if right == 2 * before:
        return f": {since} steps without an overflow since the {why}, this one included, so the scale is doubled now"
    if got == 2 * before:
        anew = "" if why == "beginning" else f"; with the {why} the count of good steps begins anew"
        return f": {_steps(since)} without an overflow since the {why}, not {AFTER}{anew}"
    return ": nothing overflowed and it is not yet time to double, so the scale stays" if got != before else ""


def _steps(number: int) -> str:
    return "1 step" if number == 1 else f"{number} steps"


@exercise
def check_agree(function: Callable[[Comm, np.ndarray], Any]) -> str:
    """`function(comm, gradient)` returns on every rank whether to skip: if any rank's slice holds inf or nan.

    `comm` is a `zerosim.comm.Comm`, `gradient` the rank's own slice, float16, which stays as it is.
    """
    wanted(function, "comm", "gradient")
    cases = 0
    for N in RANKS:
        for bad in _cases(N):
            cases += 1
            _judge(function, N, bad)
    return f"{cases} cases on {', '.join(map(str, RANKS))} ranks"


def _cases(N: int) -> list[dict[int, float]]:
    """By rank, the number that is not finite in its slice."""
    one = [{r: value} for r in range(N) for value in (math.inf, math.nan)]
    return [{}, *one, {r: math.inf for r in range(N)}, {r: (-1) ** r * math.inf for r in range(N)}]


def _judge(function: Callable[[Comm, np.ndarray], Any], N: int, bad: dict[int, float]) -> None:
    def decide(transport: Transport) -> tuple[Any, int, bool]:
        comm, r = Comm(transport, Ledger()), transport.rank
        gradient = np.full(2048, 60000, np.float16)
        gradient[r] = bad.get(r, 0)
        before = gradient.copy()
        with np.errstate(all="ignore"):
            said = function(comm, gradient)
        return said, comm.sent.total(), np.array_equal(gradient, before, equal_nan=True)

    skip: list[bool] = []
    total = 0
    where = f"N = {N}, " + (
        "; ".join(f"{value} in rank {r}'s slice" for r, value in bad.items()) or "no slice has overflowed"
    )
    for r, (said, sent, kept) in enumerate(on_ranks(N, decide, seconds=3)):
        if not isinstance(said, bool | int | float | np.generic) and getattr(said, "size", 0) != 1:
            raise Wrong(f"{where}: rank {r} returns {answer(said)}; it must return True (skip) or False")
        if not kept:
            raise Wrong(f"{where}: rank {r}'s slice is changed, but the optimizer needs it: verbs sum in place")
        if sent >= 4096:
            raise Wrong(f"{where}: rank {r} sends {sent:,} bytes, as much as slices; a number for each rank is enough")
        skip.append(bool(said))
        total += sent
    if len(set(skip)) > 1:
        raise Wrong(
            f"{where}: rank {skip.index(True)} skips the step and rank {skip.index(False)} does not: from now on they "
            "have other loss scales and other numbers of steps, and the weights are of two steps at once"
        )
    if skip[0] and not bad:
        raise Wrong(f"{where}: all ranks skip. 2,048 numbers of 60000 are finite, though their sum in fp16 is not")
    if bad and not skip[0]:
        hint = {0: "", 1: "; nan is no inf, and is not finite either"}[int(any(map(math.isnan, bad.values())))]
        if len(set(bad.values())) > 1:
            hint = "; the sum of inf and -inf is nan"
        raise Wrong(f"{where}: no rank skips, and the optimizer would write it into the weights{hint}")
    if bad and N > 1 and not total:
        raise Wrong(f"{where}: no rank sends a byte through comm, so none can know what the others have")
