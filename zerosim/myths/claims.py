"""A claim is three things: words, an experiment that measures, and a judge that sees nothing but the numbers.

    @claim("bytes", "2 Psi means 2 Psi bytes", source="ZeRO, section 7.1")
    def two_psi(lab):
        return {...}            # what was counted

    @two_psi.judge
    def _(numbers):
        return Verdict(...)     # what follows from it

No verdict is written down beforehand: had the experiment come out otherwise, so would the verdict.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zerosim.myths.lab import Lab

Numbers = dict[str, Any]
"""What an experiment measured, as JSON takes it: the keys of objects are text."""

TRUE, FALSE = "true", "false"


@dataclass(frozen=True)
class Verdict:
    """`word` is "true", "false" or "only if ..."; `measured` is one sentence made from the numbers."""

    word: str
    measured: str


class Claim:
    """A claim by the name it is picked by, its text, its source, and its experiment (`claim` makes one)."""

    def __init__(self, name: str, text: str, source: str, measure: Callable[[Lab], Numbers]) -> None:
        self.name, self.text, self.source = name, text, source
        self._measure = measure
        self._judge: Callable[[Numbers], Verdict]

    def measure(self, lab: Lab) -> Numbers:
        """Run the experiment on the ranks of a lab, with all of them; return the numbers, the same on every rank."""
        return self._measure(lab)

    def judge(self, function: Callable[[Numbers], Verdict]) -> Callable[[Numbers], Verdict]:
        """Take a function as the claim's judge (a decorator)."""
        self._judge = function
        return function

    def verdict(self, numbers: Numbers) -> Verdict:
        """Return what follows from the numbers, whoever measured them."""
        return self._judge(numbers)


CLAIMS: dict[str, Claim] = {}
"""All claims by name, in the order in which they are run."""


def claim(name: str, text: str, source: str) -> Callable[[Callable[[Lab], Numbers]], Claim]:
    """Return a decorator that makes an experiment a claim and puts it into `CLAIMS`."""

    def register(measure: Callable[[Lab], Numbers]) -> Claim:
        made = CLAIMS[name] = Claim(name, text, source, measure)
        return made

    return register


# what judges share ---------------------------------------------------------------------------------------------------


def settle(what: str, cases: Mapping[Any, bool]) -> str:
    """Return "true" if a claim holds in all cases, "false" if in none, else "only if `what` case, case or case"."""
    if len(set(cases.values())) == 1:
        return TRUE if all(cases.values()) else FALSE
    return f"only if {what} {either([str(case) for case, holds in cases.items() if holds])}"


def threshold(what: str, unit: str, cases: list[tuple[float, bool]]) -> str:
    """Return what a claim that holds for some values says: "only if `what` at most X `unit`", or "at least".

    X is the last value at which it held. "true" or "false" if it holds for all or for none, and "only if" with all
    values at which it holds where no bound tells them apart.
    """
    held, failed = ([value for value, holds in cases if holds is kind] for kind in (True, False))
    if held and failed and max(held) < min(failed):
        return f"only if {what} at most {max(held):.3g}{unit}"
    if held and failed and min(held) > max(failed):
        return f"only if {what} at least {min(held):.3g}{unit}"
    return settle(what, {f"{value:.3g}{unit}": holds for value, holds in cases})


def either(words: list[str], conjunction: str = "or") -> str:
    """Return "a", "a or b", "a, b or c"."""
    return f" {conjunction} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def series(values: Mapping[str, Any], form: str = "{}") -> str:
    """Return the values as "1, 2 and 3"; how each is written is `form`."""
    return either([form.format(value) for value in values.values()], "and")
