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
    """Return "only if `what`: here it held up to X `unit`, failed from Y on", or "from X on, failed up to Y".

    X and Y are tried values next to one another: a bound lies between them. If the claim also held somewhere beyond Y,
    that is said. "true" or "false" if it holds for all or for none; if it holds at both ends, or at neither, but not
    throughout, the values at which it held.
    """
    cases = sorted(cases)
    small = cases[0][1]
    if small == cases[-1][1]:
        return settle("tried at", {f"{value:.3g}{unit}": holds for value, holds in cases})
    inward = cases if small else cases[::-1]
    first = [holds for _, holds in inward].index(False)
    held, failed = (f"{value:.3g}" for value, _ in inward[first - 1 : first + 1])
    if any(holds for _, holds in inward[first:]):
        beyond = f"failed at {failed}, held at some of {'more' if small else 'fewer'}"
    else:
        beyond = f"failed from {failed} on" if small else f"failed up to {failed}"
    return f"only if {what}: here it held {f'up to {held}{unit}' if small else f'from {held}{unit} on'}, {beyond}"


def either(words: list[str], conjunction: str = "or") -> str:
    """Return "a", "a or b", "a, b or c"."""
    return f" {conjunction} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def series(values: Mapping[str, Any], form: str = "{}") -> str:
    """Return the values as "1, 2 and 3"; how each is written is `form`."""
    return either([form.format(value) for value in values.values()], "and")
