"""Claims about parallelism: what a rank computes and sends at stage 3, and where the model really is parallel.

                          rows of the batch     layers                         what travels
    stage 3               its own               whole, gathered and released   weights and gradients
    tensor parallelism    all                   a part of each                 activations and their gradients
    pipeline              all                   some, whole                    activations and their gradients

All three run the same model on as many ranks, and every number is counted there.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from zerosim import formulas
from zerosim.comm import CONTROL
from zerosim.config import Config
from zerosim.mlp import MLP
from zerosim.myths.claims import Numbers, Verdict, claim, either, series, settle
from zerosim.myths.lab import Lab
from zerosim.parallel import GROUPS
from zerosim.rank import Rank
from zerosim.report import si
from zerosim.stages import STAGES
from zerosim.tensor_parallel import TensorParallelMLP
from zerosim.transport import Transport

WIDTH = 24
"""Of each hidden layer."""
SYSTEMS = {"stage 3": 3, "tensor parallelism": 0, "a pipeline": 0}
"""What is compared, and its stage of ZeRO: where all ranks make up one model, none holds what another does."""


class _Counting(MLP):
    """Counts the multiplications of its forward passes, and the rows of each layer."""

    def __init__(self, *made_of: Any) -> None:
        super().__init__(*made_of)
        self.products = 0
        self.rows: dict[str, int] = {}

    def forward(self, k: int, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """As `MLP.forward`."""
        y = super().forward(k, parameters, x)
        layer = str(self.parts[k].layer)
        self.products += y.shape[0] * x.size
        self.rows[layer] = self.rows.get(layer, 0) + x.shape[1]
        return y


class _CountingTensorParallel(_Counting, TensorParallelMLP):
    """The same of a tensor-parallel rank's part."""


def _counting(rank: Rank) -> _Counting:
    """Return a model like the rank's, which counts."""
    model = rank.model
    made_of = model.widths, model.dtype, model.compute, model.ledger, model.parts
    return _CountingTensorParallel(*made_of, rank.tensor) if rank.tensor.size > 1 else _Counting(*made_of)


def _config(lab: Lab, system: str, rows: int = 1, width: int = WIDTH) -> Config:
    """Return the settings of one step in a system that all of the lab's ranks make up.

    There is a layer for each rank of a pipeline at least, and they are even in number, so that none is cut by its few
    outputs. `rows` times the usual batch.
    """
    hidden = (width,) * (lab.N - 1 + lab.N % 2)
    kind = {"tensor parallelism": {"tensor_parallel": lab.N}, "a pipeline": {"pipeline": lab.N}}.get(system, {})
    return lab.config(hidden=hidden, steps=1, batch_size=rows * lab.config().batch_size, **kind)


def _step(lab: Lab, system: str, rows: int = 1, width: int = WIDTH) -> list[dict[str, Any]]:
    """Take a step in a system; return what each rank held, multiplied with, kept and sent."""
    config, stage = _config(lab, system, rows, width), SYSTEMS[system]

    def step(comm: Transport) -> dict[str, Any]:
        rank = lab.rank(comm, stage, config)
        model = rank.model = _counting(rank)
        STAGES[stage].step(rank, next(lab.batches(config)))
        doors = {group: rank.doors[group].sent for group in GROUPS}
        return {
            "held": rank.parameters.size,
            "rows_by_layer": model.rows,
            "products": model.products,
            "activations": rank.ledger.most["activations"],
            "sent": {group: sent.total() - sent[CONTROL] for group, sent in doors.items()},
        }

    def run() -> list[dict[str, Any]]:
        lab.tell(f"a step ({system})")
        return lab.on(lab.N, step)

    return lab.once((system, rows, width), run)


def _widths(lab: Lab, width: int = WIDTH) -> list[int]:
    return [lab.digits.x.shape[1], *_config(lab, "stage 3", width=width).hidden, lab.digits.outputs]


@claim(
    "model-parallel",
    "Stage 3 is model parallelism, for no rank holds the model",
    source="ZeRO, sections 1 and 4.1: ZeRO-DP is data parallelism; Shoeybi et al. 2019, arXiv:1909.08053; Huang et al. "
    "2019, arXiv:1811.06965",
)
def model_parallel(lab: Lab) -> Numbers:
    """Count what each rank holds and multiplies in one step: at stage 3, and with tensor and pipeline parallelism."""
    widths = _widths(lab)
    return {
        "rows": _config(lab, "stage 3").batch_size,
        "parameters": formulas.parameters(widths),
        "weights": sum(a * b for a, b in pairwise(widths)),
        "systems": {system: _step(lab, system) for system in SYSTEMS},
    }


@model_parallel.judge
def _(n: Numbers) -> Verdict:
    def shares(system: str) -> list[float]:
        """Of the model's multiplications for the rows that it sees, those that each rank makes."""
        return [own["products"] / (_rows(own) * n["weights"]) for own in n["systems"][system]]

    def told(system: str) -> tuple[str, str, str, str]:
        ranks = n["systems"][system]
        return (
            _spread([100 * own["held"] / n["parameters"] for own in ranks], "{:.0f}") + " %",
            _spread([_rows(own) for own in ranks]),
            _spread([100 * share for share in shares(system)], "{:.0f}") + " %",
            si(max(own["activations"] for own in ranks)),
        )

    held, rows, weights, kept = told("stage 3")
    others = "; ".join(
        "{} {}, {} rows with {}, {}".format(where, *told(system))
        for where, system in (("in tensor parallelism", "tensor parallelism"), ("on a pipeline", "a pipeline"))
    )
    return Verdict(
        settle("the rank is", {rank: share < 1 for rank, share in enumerate(shares("stage 3"))}),
        f"At stage 3 a rank holds {held} of the parameters, multiplies {rows} of {n['rows']} rows with {weights} of "
        f"the weights and keeps up to {kept} of activations; {others}.",
    )


def _rows(own: dict[str, Any]) -> int:
    return max(own["rows_by_layer"].values())


def _spread(values: list[Any], form: str = "{}") -> str:
    """From the least to the greatest, or one if they read alike."""
    ends = dict.fromkeys(form.format(end(values)) for end in (min, max))
    return " to ".join(ends)


CHANGES: dict[str, dict[str, int]] = {
    "as it is": {},
    "twice the rows": {"rows": 2},
    "twice as wide": {"width": 2 * WIDTH},
}
"""How the step is changed."""


@claim(
    "larger-batch",
    "With a larger batch ranks send more",
    source="ZeRO, section 7.2: what it sends is a multiple of Psi; Shoeybi et al. 2019, arXiv:1909.08053, section 3: "
    "activations are all-reduced",
)
def larger_batch(lab: Lab) -> Numbers:
    """Count what a rank sends and keeps of activations in each system; with twice the rows; with twice the width."""

    def counted(system: str, change: dict[str, int]) -> dict[str, Any]:
        ranks = _step(lab, system, **change)
        sent = {group: max(own["sent"][group] for own in ranks) for group in GROUPS}
        return {"sent": sent, "activations": max(own["activations"] for own in ranks)}

    return {
        "parameters": {str(width): formulas.parameters(_widths(lab, width)) for width in (WIDTH, 2 * WIDTH)},
        "systems": {system: {how: counted(system, change) for how, change in CHANGES.items()} for system in SYSTEMS},
    }


@larger_batch.judge
def _(n: Numbers) -> Verdict:
    once, rows, wide = CHANGES
    sent = {system: {how: sum(own["sent"].values()) for how, own in by.items()} for system, by in n["systems"].items()}
    kept = {system: own[rows]["activations"] / own[once]["activations"] for system, own in n["systems"].items()}
    narrow, wider = n["parameters"].values()

    def times(how: str) -> str:
        return series({system: own[how] / own[once] for system, own in sent.items()}, "{:.3g}")

    return Verdict(
        settle("it is", {system: own[rows] > own[once] for system, own in sent.items()}),
        f"With twice the rows a rank sends {times(rows)} times as much ({either(list(sent), 'and')}) and keeps "
        f"{series(kept, '{:.3g}')} times the activations; with layers twice as wide, {wider / narrow:.3g} times the "
        f"parameters, it sends {times(wide)} times as much.",
    )
