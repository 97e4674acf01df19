"""Solutions of the exercises on claims, right ones and wrong ones."""

import math
import re

import pytest

from zerosim import build_report, formulas
from zerosim.exercises import check_experiment, check_judge, check_refutes
from zerosim.myths.claims import Verdict, settle


def experiment(lab, total=lambda ranks: max(sum(own.values()) for own in ranks), accumulate=True):
    def count(k, stage):
        (run,) = lab.train(stages=(stage,), grad_accum=k if accumulate else 1).runs
        return total(run.sent_per_step["data"])

    return {str(k): {str(stage): count(k, stage) for stage in (2, 3)} for k in (1, 2, 4)}


def by_report(lab):
    numbers = {1: {}, 2: {}, 4: {}}
    for k, own in numbers.items():
        for run in build_report(lab.train(stages=(2, 3), grad_accum=k))["runs"]:
            own[run["stage"]] = float(sum(run["traffic"]["per_step"]["measured"][0].values()))
    return numbers


def computed(lab):
    def sent(k, stage):
        return sum(formulas.traffic(stage, [64, 24, 10], lab.N, "fp32", k=k).values())

    return {str(k): {str(stage): sent(k, stage) for stage in (2, 3)} for k in (1, 2, 4)}


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (experiment, "Right: counted on 2 and 3 ranks"),
        (by_report, "Right"),
        (lambda lab: None, "Not yet: it returns nothing .None.; it must return"),
        (lambda lab: {"1": experiment(lab)["1"]}, "Not yet: it returns micro-steps 1 and stages 2, 3; it must return"),
        (lambda lab: experiment(lab, accumulate=False), ".*2 micro-steps, stage 2: .* did grad_accum reach the train"),
        (
            lambda lab: experiment(lab, lambda ranks: sum(sum(own.values()) for own in ranks)),
            ".*that is what all 2 rank",
        ),
        (
            lambda lab: experiment(lab, lambda ranks: ranks[0]["all_gather"]),
            ".*that is one verb only; there are reduce_scatter and all_gather",
        ),
        (lambda lab: experiment(lab, lambda ranks: sum(ranks[0].values()) // 4), ".*those are elements"),
        (computed, ".*it returns the same numbers: they are computed, not counted"),
    ],
)
def test_experiment(solution, says):
    assert re.match(says, repr(check_experiment(solution)))


def judge(numbers, holds=lambda own: 2 * own["3"] == 3 * own["2"], said="{}"):
    return Verdict(settle("micro-steps are", {k: holds(own) for k, own in numbers.items()}), said.format(numbers))


def by_hand(numbers):
    good = [k for k, own in numbers.items() if own["3"] / own["2"] == 1.5]
    word = "true" if len(good) == 3 else "false" if not good else f"only if there are {' or '.join(good)} micro-steps"
    return Verdict(word, "; ".join(f"{k}: {own['3']} against {own['2']}" for k, own in numbers.items()))


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (judge, "Right: right of 5 sets of numbers"),
        (by_hand, "Right"),
        (
            lambda n: Verdict(
                judge(n).word.replace("micro-steps", "stage 3 sends 1.5 times (3 : 2) stage 2 with"), f"{n}"
            ),
            "Right",
        ),
        (lambda numbers: None, "Not yet: it returns nothing .None.; it must be a Verdict"),
        (
            lambda numbers: Verdict("only if micro-steps are 1", str(numbers)),
            ".*never gathers twice.*holds for none of 3",
        ),
        (
            lambda numbers: Verdict("false", str(numbers)),
            ".*of the measured numbers it says 'false'.*1.5 with 1, 2 with 2",
        ),
        (lambda numbers: judge(numbers, lambda own: own["3"] > own["2"]), ".*says 'true'.* so it holds for 1 of 3"),
        (
            lambda n: judge(n, lambda own: round(own["3"] / own["2"], 2) == 1.5),
            ".*one byte more than 3 : 2 it says 'true'",
        ),
        (lambda n: judge(n, said="Stage 3 sends more."), ".*says the same sentence, 'Stage 3 sends more.'"),
        (lambda numbers: Verdict("perhaps", ""), ".*it says 'perhaps'; a verdict is"),
        (
            lambda numbers: Verdict(re.sub(r"are .*", "are few", judge(numbers).word), str(numbers)),
            ".*it holds for 1, and the verdict must say so",
        ),
    ],
)
def test_judge(solution, says):
    assert re.match(says, repr(check_judge(solution)))


def no_more(numbers):
    numbers["3"] = numbers["0"]


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (no_more, "Right: with one number otherwise"),
        (lambda numbers: {**numbers, "0": 10**9}, "Right"),
        (lambda numbers: None, "Not yet: 2 ranks: nothing has changed; of .* the judge says 'only if the stage is 3'"),
        (lambda numbers: {**numbers, "1": 1, "3": 1}, ".*the numbers of stages 1 and 3 have changed; one must do"),
        (
            lambda numbers: {**numbers, "1": 10**9},
            ".*1,000,000,000 bytes at stage 1 the judge says 'only if the stage is 1 or 3'",
        ),
        (lambda numbers: {**numbers, "3": 10**9}, ".*the judge says 'only if the stage is 3'"),
        (lambda numbers: {**numbers, "3": -1}, ".*no step of stage 3 can send -1 bytes, so that refutes nothing"),
        (lambda numbers: {**numbers, "3": "a lot"}, ".*2 ranks, stage 3: it returns 'a lot', and must return a number"),
        (lambda numbers: {**numbers, "3": math.nan}, ".*2 ranks, stage 3: it returns nan, and must return a whole"),
        (lambda numbers: {"3": 0}, ".*there are numbers for stages 3; they must be those of 0, 1, 2, 3"),
    ],
)
def test_refutes(solution, says):
    assert re.match(says, repr(check_refutes(solution)))
