"""Numbers that a solution predicts: in which case one differs, by what factor, and which mistake it is known by."""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from zerosim.exercises.verdict import Wrong, in_time


class Case(NamedTuple):
    """What a solution is asked, what is right, and what known mistakes would make of it."""

    name: str
    """As a message says it: "stage 2 on 3 ranks"."""
    args: tuple[Any, ...]
    right: Any
    """A number; or None, if there is none and the solution must say so."""
    mistakes: Mapping[str, Any]
    """By the sentence that explains it."""
    unit: str = "bytes"
    none: str = ""
    """What to say of None where there is a number; empty: None is no answer in this exercise."""


def expect(function: Callable[..., Any], cases: Iterable[Case], within: float = 0) -> int:
    """Return how many cases there were; raise Wrong for the first one that a solution gets wrong.

    `within` is how far from right is right too. Where several mistakes would explain that case, the one that explains
    the most of the other wrong ones is named; among equals, the first. What is no number is refused at once.
    """
    answers = []
    for case in cases:
        got = in_time(function, *case.args)
        if got is None and case.right is not None and case.none:
            raise Wrong(f"{case.name}: you say None, and {case.none}")
        answers.append((case, None if got is case.right is None else number(got, case.name)))
    wrong = [(case, got) for case, got in answers if not _same(got, case.right, within)]
    if wrong:
        case, got = wrong[0]
        assert got is not None, "None is an answer only where it is right"
        known = [why for why, value in case.mistakes.items() if _same(got, value, within)]
        explained = {why: sum(_same(g, c.mistakes.get(why, math.nan), within) for c, g in wrong) for why in known}
        why = max(known, key=lambda each: explained[each], default="")
        raise Wrong(f"{case.name}: {_beside(got, case.right, case.unit)}" + (f". {why}" if why else ""))
    return len(answers)


def number(value: Any, where: str) -> float | int:
    """Return a solution's answer as an int or a float. Raises Wrong if it is no number."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | Decimal):
        raise Wrong(f"{where}: it returns {answer(value)}, and must return a number")
    try:
        converted = float(value)
    except (OverflowError, ValueError):  # a signalling NaN of decimal, say
        raise Wrong(f"{where}: it returns a number that is too large, or none") from None
    return int(value) if isinstance(value, numbers.Integral) else converted


def whole(value: Any, where: str) -> int:
    """Return a solution's answer as an int. Raises Wrong if it is no whole number."""
    got = number(value, where)
    if not float(got).is_integer():
        raise Wrong(f"{where}: it returns {answer(value)}, and must return a whole number")
    return int(got)


def answer(value: Any) -> str:
    """What a solution has returned, as a message says it."""
    return "nothing (None)" if value is None else f"{value!r:.60}"


def _same(a: float | None, b: float | None, within: float) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=within)


def _beside(got: float, right: float | None, unit: str) -> str:
    """Both numbers, and the factor between them where there is one."""
    if right is None:
        return f"you say {_text(got)} {unit}, and no number is right: return None"
    times = f", {got / right:.4g} times as much" if right and math.isfinite(got) else ""
    return f"you say {_text(got)} {unit}, and it is {_text(right)}{times}"


def _text(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.2f}"
