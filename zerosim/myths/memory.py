"""Claims about memory: what a rank holds between two steps, and at the peak of one."""

from itertools import pairwise
from typing import Any

import numpy as np

from zerosim import formulas
from zerosim.data import Dataset, make_dataset
from zerosim.myths.claims import Numbers, Verdict, claim, either, series, settle, threshold
from zerosim.myths.lab import SIZES, Lab, at_rest
from zerosim.report import si
from zerosim.train import Run
from zerosim.transport import Transport


def peak(run: Run) -> int:
    """Return the bytes at the peak of a step of the fullest rank, as counted."""
    return max(own["total"] for own in run.peak)


def activations(run: Run) -> int:
    """Return the most bytes of activations that the first rank held within a step, as counted."""
    return max(run.timeline["activations"])


ROWS = 32
"""Rows per rank, as far as the digits go: so many that activations are more than an optimizer's scratch."""


@claim("n-times", "ZeRO makes memory N times smaller", source="ZeRO, section 5 and figure 1: model states, at stage 3")
def n_times(lab: Lab) -> Numbers:
    """Count the memory of each stage at rest and at the peak, and the activations."""
    rows = min(ROWS, len(lab.digits.x) // 2 // lab.N)
    records = lab.train(precision="fp16", batch_size=rows * lab.N)
    return {
        "ranks": lab.N,
        "at_rest": {str(run.stage): at_rest(run) for run in records.runs},
        "peak": {str(run.stage): peak(run) for run in records.runs},
        "activations": {str(run.stage): activations(run) for run in records.runs},
    }


@n_times.judge
def _(n: Numbers) -> Verdict:
    def times(what: str) -> dict[str, float]:
        return {stage: n[what]["0"] / own for stage, own in n[what].items() if stage != "0"}

    cases = {
        f"stage {stage}, {words}": ratio == n["ranks"]
        for what, words in (("at_rest", "at rest"), ("peak", "at the peak"))
        for stage, ratio in times(what).items()
    }
    return Verdict(
        settle("counted at", cases),
        f"On {n['ranks']} ranks stage 0 holds {series(times('at_rest'), '{:.3g}')} times what stages "
        f"{series({s: s for s in times('peak')})} hold at rest, {series(times('peak'), '{:.3g}')} times at the peak; "
        f"of activations {series(times('activations'), '{:.3g}')} times.",
    )


WIDTH = 64
"""Units of a hidden layer where memory at the peak is counted; the first layer is the largest, and always the same."""
MODELS: tuple[tuple[int, ...], ...] = ((), (WIDTH, 1), (WIDTH, WIDTH), (WIDTH,) * 8)
"""Hidden widths from one layer, which is the whole model, to many alike."""
NARROW = (2,)
"""Hidden widths of a model of another shape: the share of the largest layer is not all that counts."""


@claim(
    "peak",
    "Stage 3 always needs less memory than stage 2",
    source="ZeRO, section 5.3, says so of states at rest; Zhao et al., PyTorch FSDP, arXiv:2304.11277, section 3.2.1, "
    "counts the gathered unit",
)
def peaks(lab: Lab) -> Numbers:
    """Count memory at rest and at the peak at stages 2 and 3, for models of which one layer is less and less.

    Between the second hidden layer's narrowest and widest the width at which it turns is found by halving.
    """

    def counted(hidden: tuple[int, ...]) -> dict[str, Any]:
        records = lab.train(stages=(2, 3), hidden=hidden)
        sizes = [formulas.parameters(pair) for pair in pairwise(records.widths)]
        return {
            "layers": records.widths,
            "share_of_largest_layer": max(sizes) / sum(sizes),
            "at_rest": {str(run.stage): at_rest(run) for run in records.runs},
            "peak": {str(run.stage): peak(run) for run in records.runs},
        }

    models = [counted(hidden) for hidden in MODELS]
    narrow, wide = 1, WIDTH
    if not _lower(models[1]) and _lower(models[2]):
        while wide - narrow > 1:
            width = (narrow + wide) // 2
            models.append(counted((WIDTH, width)))
            narrow, wide = (narrow, width) if _lower(models[-1]) else (width, wide)
    return {"models": sorted(models, key=lambda own: -own["share_of_largest_layer"]), "narrow": counted(NARROW)}


def _lower(model: dict[str, Any]) -> bool:
    """Whether stage 3's peak is below stage 2's."""
    return model["peak"]["3"] < model["peak"]["2"]


@peaks.judge
def _(n: Numbers) -> Verdict:
    models, narrow = n["models"], n["narrow"]
    cases = [(100 * own["share_of_largest_layer"], _lower(own)) for own in models]
    rest = sum(own["at_rest"]["3"] < own["at_rest"]["2"] for own in models)
    ratios = [own["peak"]["3"] / own["peak"]["2"] for own in models]
    return Verdict(
        threshold("the largest layer is small enough", " % of the parameters", cases),
        f"At rest it holds less in {rest} of {len(models)} models; at the peak {max(ratios):.2f} times stage 2's where "
        f"the largest layer is {cases[ratios.index(max(ratios))][0]:.0f} % of the model, {min(ratios):.2f} times where "
        f"it is {cases[ratios.index(min(ratios))][0]:.0f} %. In a model of another shape, {narrow['layers'][1]} hidden "
        f"units and {100 * narrow['share_of_largest_layer']:.0f} %, it is "
        f"{narrow['peak']['3'] / narrow['peak']['2']:.2f} times.",
    )


@claim(
    "fp16",
    "Training in fp16 needs half the memory of fp32",
    source="ZeRO, section 3.1: 2 + 2 + 12 bytes; Micikevicius et al. 2018, arXiv:1710.03740, section 3.1",
)
def half(lab: Lab) -> Numbers:
    """Count bytes per parameter at rest and the activations, in both precisions, for several optimizers."""

    def counted(optimizer: str, precision: str) -> dict[str, Any]:
        records = lab.train(optimizer=optimizer, precision=precision, stages=(0,))
        run = records.runs[0]
        return {"per_parameter": at_rest(run) / records.padded_parameters, "activations": activations(run)}

    return {
        optimizer: {precision: counted(optimizer, precision) for precision in ("fp32", "fp16")}
        for optimizer in ("sgd", "momentum", "adam")
    }


@half.judge
def _(n: Numbers) -> Verdict:
    cases = {name: own["fp16"]["per_parameter"] * 2 <= own["fp32"]["per_parameter"] for name, own in n.items()}
    each = either(
        [f"{own['fp16']['per_parameter']:g} and {own['fp32']['per_parameter']:g} ({name})" for name, own in n.items()],
        "and",
    )
    shares = {name: own["fp16"]["activations"] / own["fp32"]["activations"] for name, own in n.items()}
    return Verdict(
        settle("the optimizer is", cases),
        f"Bytes per parameter at rest in fp16 and fp32: {each}; of activations {max(shares.values()):.3g} times as "
        "much.",
    )


EACH, MOST = 64, 256
"""Sizes of a layer: all up to the first, and up to the second those that are padded most."""


def _sizes(most_ranks: int) -> list[int]:
    """Return how many parameters a layer has in turn: one more than a multiple of N is padded by N - 1."""
    return [*range(2, EACH + 1), *(P for P in range(EACH + 1, MOST + 1) if P % most_ranks == 1)]


def _plane(parameters: int) -> Dataset:
    """Rows whose linear model, of one output, has so many parameters: a weight per input, and the bias."""
    x = np.zeros((max(SIZES), parameters - 1))
    return make_dataset("a plane", x, x.sum(axis=1, keepdims=True))


@claim(
    "larger-world",
    "With more ranks each holds less",
    source="ZeRO, table 1, for states that N divides; slices are padded to equal sizes",
)
def larger_world(lab: Lab) -> Numbers:
    """Count what is allocated on more and more ranks, at stages 1 to 3, for models of one layer of each size."""
    config = lab.config(precision="fp16", hidden=())
    planes = {P: _plane(P) for P in _sizes(max(lab.sizes))}

    def held(comm: Transport) -> dict[tuple[int, int], int]:
        return {
            (P, stage): sum(lab.rank(comm, stage, config, data=plane).ledger.now.values())
            for P, plane in planes.items()
            for stage in (1, 2, 3)
        }

    fullest = {}
    for N in lab.sizes:
        lab.tell(f"allocating {len(planes)} models on {N} ranks")
        everyone = lab.on(N, held)
        fullest[N] = {which: max(own[which] for own in everyone) for which in everyone[0]}
    return {
        "models": [
            {
                "parameters": P,
                "at_rest": {str(s): {str(N): own[P, s] for N, own in fullest.items()} for s in (1, 2, 3)},
            }
            for P in planes
        ]
    }


@larger_world.judge
def _(n: Numbers) -> Verdict:
    def falls(held: dict[str, int]) -> bool:
        return all(held[a] > held[b] for a, b in pairwise(held))

    sizes = [own["parameters"] for own in n["models"]]
    cases = [(own["parameters"], all(falls(held) for held in own["at_rest"].values())) for own in n["models"]]
    small = min(n["models"], key=lambda own: own["parameters"])
    held = small["at_rest"]["2"]
    return Verdict(
        threshold("layers are large beside N", " parameters", cases),
        f"Of {len(sizes)} models of one layer, {min(sizes)} to {max(sizes)} parameters, it holds for "
        f"{sum(holds for _, holds in cases)}; of {small['parameters']} parameters, padded to N, a rank at stage 2 "
        f"holds {series({N: si(own) for N, own in held.items()})} on {series({N: N for N in held})} ranks.",
    )
