"""Claims about pruning groups of small gradients, measured where it is done; ZeRO does not do it (`prunes`)."""

from typing import Any

from zerosim.myths.claims import Numbers, Verdict, claim, series, settle
from zerosim.myths.lab import COURSE, Lab, at_rest, sent
from zerosim.train import Run

SHARE = 0.5
"""Of the groups are pruned in each step."""
MODES: dict[str, dict[str, str]] = {
    "not pruned": {},
    "frozen": {"prune_mode": "freeze"},
    "zeroed": {"prune_mode": "zero"},
}
"""What becomes of these groups, by settings."""


def _settings(kind: str) -> dict[str, Any]:
    return {**MODES[kind], "prune_groups": SHARE} if MODES[kind] else {}


def _sent(run: Run) -> float:
    """Return the bytes of a step that the busiest rank sent, with what it takes to choose the groups."""
    return sent(run) + max(run.pruning.get("sent", [0])) / len(run.loss)


@claim(
    "pruning-free",
    "Pruning groups of small gradients is free",
    source="heard in popular write-ups; Sun et al. 2017, arXiv:1706.06197, prune in back propagation, and by element",
)
def pruning_free(lab: Lab) -> Numbers:
    """Train at stage 2 as ZeRO does, and with half of the groups frozen or zeroed in each step; note what it costs."""

    def trained(kind: str) -> dict[str, Any]:
        run = lab.train(stages=(2,), **COURSE, **_settings(kind)).runs[0]
        return {
            "loss": run.epochs[-1]["train_loss"],
            "test_accuracy": run.epochs[-1]["test_accuracy"],
            "weights_sha256": run.weights_sha256,
            "at_rest": at_rest(run),
            "sent": _sent(run),
        }

    return {"steps": COURSE["steps"], "share": SHARE, "kinds": {kind: trained(kind) for kind in MODES}}


@pruning_free.judge
def _(n: Numbers) -> Verdict:
    plain, frozen, zeroed = n["kinds"].values()
    pruned = {"frozen": frozen, "zeroed": zeroed}

    def no_more(what: str) -> bool:
        return all(own[what] <= plain[what] for own in pruned.values())

    def times(what: str) -> str:
        return series({kind: own[what] / plain[what] for kind, own in pruned.items()}, "{:.3g}")

    cases = {
        "memory at rest": no_more("at_rest"),
        "bytes sent": no_more("sent"),
        "the loss": no_more("loss"),
        "test accuracy": all(own["test_accuracy"] >= plain["test_accuracy"] for own in pruned.values()),
    }
    accuracies = series({kind: own["test_accuracy"] for kind, own in n["kinds"].items()}, "{:.3g}")
    same = sum(own["weights_sha256"] == plain["weights_sha256"] for own in pruned.values())
    return Verdict(
        settle("it is counted in", cases),
        f"After {n['steps']} steps the loss is {plain['loss']:.3g}, with {100 * n['share']:g} % of the groups frozen "
        f"{frozen['loss']:.3g}, with them zeroed {zeroed['loss']:.3g}; the test accuracy {accuracies}; memory at rest "
        f"is {times('at_rest')} times, what is sent {times('sent')} times ZeRO's; {same} of {len(pruned)} end with its "
        "bits.",
    )


@claim(
    "pruning-saves",
    "Pruning small gradients is what saves memory",
    source="ZeRO, section 5: states are partitioned",
)
def pruning_saves(lab: Lab) -> Numbers:
    """Count memory at rest and traffic at each stage, without pruning and with half of the groups frozen."""
    return {
        kind: {
            str(run.stage): {"at_rest": at_rest(run), "sent": _sent(run)} for run in lab.train(**_settings(kind)).runs
        }
        for kind in ("not pruned", "frozen")
    }


@pruning_saves.judge
def _(n: Numbers) -> Verdict:
    plain, pruned = n["not pruned"], n["frozen"]

    def times(what: str) -> str:
        return series({stage: own[what] / plain[stage][what] for stage, own in pruned.items()}, "{:.3g}")

    cut = series({s: own["at_rest"] / plain["0"]["at_rest"] for s, own in plain.items() if s != "0"}, "{:.3g}")
    return Verdict(
        settle("the stage is", {stage: own["at_rest"] < plain[stage]["at_rest"] for stage, own in pruned.items()}),
        f"Without pruning stages {series({s: s for s in plain if s != '0'})} hold {cut} times what stage 0 holds at "
        f"rest; pruned, stages {series({s: s for s in plain})} hold {times('at_rest')} times what they hold without, "
        f"and send {times('sent')} times as much.",
    )
