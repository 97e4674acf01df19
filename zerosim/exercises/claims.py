"""Claims: what to measure, what follows from it, and what would refute it."""

import copy
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from zerosim.exercises.numbers import answer, number, whole
from zerosim.exercises.verdict import Wrong, exercise, in_time, wanted
from zerosim.myths import CLAIMS, Lab
from zerosim.train import Records
from zerosim.words import counted

MICRO_STEPS = (1, 2, 4)


class _Doubled(Lab):
    """A laboratory in which every rank sends twice as much at stage 3."""

    def train(self, *args: Any, **settings: Any) -> Records:
        records = super().train(*args, **settings)
        return replace(records, runs=[_twice(run) if run.stage == 3 else run for run in records.runs])


@functools.cache
def _lab(N: int, kind: type[Lab] = Lab) -> Lab:
    """A laboratory that is used again, for it takes no training twice."""
    return kind(N=N)


def _twice(run: Any) -> Any:
    sent = {
        group: [{verb: 2 * n for verb, n in own.items()} for own in ranks] for group, ranks in run.sent_per_step.items()
    }
    return replace(run, sent_per_step=sent)


def _sent(lab: Lab, k: int, stage: int) -> list[dict[str, int]]:
    """Bytes by verb that each rank sends in a step of k micro-steps."""
    (run,) = lab.train(stages=(stage,), grad_accum=k).runs
    return run.sent_per_step["data"]


@exercise
def check_experiment(function: Callable[[Lab], Any]) -> str:
    """`function(lab)` counts what the busiest rank sends in a step at stages 2 and 3, with 1, 2 and 4 micro-steps.

    It returns bytes by micro-steps and stage, such as {"1": {"2": 300, "3": 450}, ...}. Compared with what rings of 2
    and 3 ranks sent; and where ranks send twice as much at stage 3, the experiment must see it.
    """
    wanted(function, "lab")
    for lab in (_lab(2), _lab(3)):
        got = _numbers(in_time(function, lab, seconds=60), "it")
        for k in MICRO_STEPS:
            for stage in (2, 3):
                ranks = _sent(lab, k, stage)
                most = max(sum(own.values()) for own in ranks)
                where = f"{counted(lab.N, 'rank')}, {counted(k, 'micro-step')}, stage {stage}"
                if (mine := number(got[str(k)][str(stage)], where)) != most:
                    raise Wrong(
                        f"{where}: you say {mine:,}, the busiest rank sent "
                        f"{most:,} bytes in a step{_about(mine, ranks, _sent(lab, 1, stage))}"
                    )
    again = _numbers(in_time(function, _lab(3, _Doubled), seconds=60), "it")
    if again == got:
        raise Wrong(
            "in a laboratory where ranks send twice as much at stage 3 it returns the same numbers: they are computed, "
            "not counted; an experiment that cannot come out otherwise shows nothing"
        )
    return "counted on 2 and 3 ranks, and it sees it if ranks send more"


def _numbers(value: Any, who: str) -> dict[str, dict[str, Any]]:
    """Return the numbers with keys as text. Raises Wrong for another shape."""
    form = 'it must return {"1": {"2": bytes, "3": bytes}, "2": {...}, "4": {...}}: by micro-steps, then by stage'
    try:
        numbers = {str(k): {str(stage): n for stage, n in own.items()} for k, own in value.items()}
    except AttributeError:
        raise Wrong(f"{who} returns {answer(value)}; {form}") from None
    if numbers.keys() != {str(k) for k in MICRO_STEPS} or any(own.keys() != {"2", "3"} for own in numbers.values()):
        stages = sorted({stage for own in numbers.values() for stage in own})
        raise Wrong(f"{who} returns micro-steps {', '.join(numbers)} and stages {', '.join(stages)}; {form}")
    return numbers


def _about(got: float, ranks: list[dict[str, int]], single: list[dict[str, int]]) -> str:
    """Say what a wrong number is."""
    most = max(sum(own.values()) for own in ranks)
    known = [
        (sum(sum(own.values()) for own in ranks), f"that is what all {len(ranks)} ranks sent together"),
        (most // 4, "those are elements; in fp32 they have 4 bytes each"),
        (
            max(sum(own.values()) for own in single),
            "so much is a step of one micro-step: did grad_accum reach the training?",
        ),
        *(
            (max(own[verb] for own in ranks), f"that is one verb only; there are {' and '.join(ranks[0])}")
            for verb in ranks[0]
        ),
    ]
    return next((f": {what}" for other, what in known if other == got), "")


@exercise
def check_judge(function: Callable[[Any], Any]) -> str:
    """`function(numbers)` returns the Verdict on "Stage 3 sends half as much again as stage 2", from the numbers alone.

    The numbers are those of `check_experiment`; the verdict is "true", "false" or "only if ..." with the numbers of
    micro-steps for which it holds. It is judged with the numbers of a real run, and with others.
    """
    wanted(function, "numbers")
    real = {
        str(k): {str(stage): max(sum(own.values()) for own in _sent(_lab(2), k, stage)) for stage in (2, 3)}
        for k in MICRO_STEPS
    }
    said = {}
    for what, numbers in _others(real):
        verdict = in_time(function, copy.deepcopy(numbers))
        word, measured = getattr(verdict, "word", None), getattr(verdict, "measured", None)
        if not isinstance(word, str) or not isinstance(measured, str):
            raise Wrong(f"it returns {answer(verdict)}; it must be a Verdict(word, measured)")
        _judged(word, numbers, what)
        said[what] = measured
    if len(set(said.values())) < len(said):
        raise Wrong(
            f"of other numbers it says the same sentence, {measured!r}: make it of the numbers, so that one can check"
        )
    return f"right of {len(said)} sets of numbers, the measured ones among them"


def _others(real: dict[str, dict[str, int]]) -> Iterator[tuple[str, dict[str, dict[str, int]]]]:
    """The numbers of a real run, and changed ones in which the claim holds for other micro-steps."""
    yield "the measured numbers", real
    yield "numbers of a ZeRO that never gathers twice", {k: {"2": own["2"], "3": own["2"]} for k, own in real.items()}
    yield "numbers that are 3 : 2 throughout", {k: {"2": 200 + 2 * i, "3": 300 + 3 * i} for i, k in enumerate(real)}
    yield "one byte more than 3 : 2", {k: {"2": 2000, "3": 3000 + (k == "1")} for k in real}
    yield "numbers of other micro-steps", {k: {"2": 40, "3": 60 if k != "1" else 80} for k in real}


def _judged(word: str, numbers: dict[str, dict[str, int]], what: str) -> None:
    holds = [k for k, own in numbers.items() if 2 * own["3"] == 3 * own["2"]]
    ratios = ", ".join(f"{own['3'] / own['2']:.4g} with {k}" for k, own in numbers.items())
    right = "true" if len(holds) == len(numbers) else "only if" if holds else "false"
    there = f"of {what} it says {word!r}. Stage 3 sends, in times of stage 2: {ratios} micro-steps"
    if word not in ("true", "false") and not word.startswith("only if"):
        raise Wrong(f'it says {word!r}; a verdict is "true", "false" or "only if ..."')
    if not word.startswith(right):
        raise Wrong(f"{there}; so it holds for {' and '.join(holds) or 'none'} of {len(numbers)}: that is {right!r}")
    others = r"stages? \d|\d+\.\d+|\d+ ?: ?\d+"  # numbers in a verdict that are no micro-steps
    if right == "only if" and re.findall(r"\d+", re.sub(others, "", word)) != holds:
        raise Wrong(
            f"{there}; it holds for {' and '.join(holds)}, and the verdict must say so: settle(what, cases) does"
        )


@exercise
def check_refutes(function: Callable[[dict[str, int]], Any]) -> str:
    """`function(numbers)` changes one number of those measured for the claim "costs" so that the verdict is "false".

    It may change them in place, or return others.
    """
    wanted(function, "numbers")
    claim = CLAIMS["costs"]
    for N in (2, 3):
        measured = claim.measure(_lab(N))
        before, numbers = claim.verdict(measured), dict(measured)
        returned = in_time(function, numbers)
        after = returned if isinstance(returned, dict) else numbers
        if after.keys() != measured.keys():
            raise Wrong(f"there are numbers for stages {', '.join(after)}; they must be those of {', '.join(measured)}")
        after = {stage: whole(nbytes, f"{counted(N, 'rank')}, stage {stage}") for stage, nbytes in after.items()}
        changed = [stage for stage in measured if after[stage] != measured[stage]]
        if not changed:
            raise Wrong(f"{N} ranks: nothing has changed; of {measured} the judge says {before.word!r}")
        if len(changed) > 1:
            raise Wrong(f"{N} ranks: the numbers of stages {' and '.join(changed)} have changed; one must do")
        if (nbytes := after[changed[0]]) <= 0:
            raise Wrong(f"{N} ranks: no step of stage {changed[0]} can send {nbytes} bytes, so that refutes nothing")
        verdict = claim.verdict(after)
        if verdict.word != "false":
            raise Wrong(
                f"{N} ranks: with {nbytes:,} bytes at stage {changed[0]} the judge says {verdict.word!r}: "
                f"{verdict.measured}"
            )
    return "with one number otherwise, no stage pays for its memory"
