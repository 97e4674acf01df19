"""Claims about the mathematics: what ZeRO does to gradients, to parameters and to the training."""

from typing import Any

import numpy as np

from zerosim.comm import Comm
from zerosim.config import Config
from zerosim.ledger import Ledger
from zerosim.myths.claims import Numbers, Verdict, claim, either, series, settle
from zerosim.myths.lab import COURSE, ROWS, Lab, largest, weights
from zerosim.optim import RULES
from zerosim.rank import Rank
from zerosim.transport import Transport

ROUNDING = 1e-12
"""A difference of float64 numbers, as a share of what they moved, up to which it is rounding."""
SHOWS = 0.1
"""A difference, as a share of the way that the weights went, from which on it can be seen."""
EVERY = 4
"""Steps between two averages of parameters, where a training is to differ from ZeRO's."""


@claim(
    "prunes",
    "ZeRO prunes small gradients",
    source="heard in popular write-ups; ZeRO, section 2.2.3: the optimization method is not changed",
)
def prunes(lab: Lab) -> Numbers:
    """Count which gradients reach the optimizer in one step, the smallest tenth apart; and hash a training's end.

    Also where the smaller half is pruned indeed: had ZeRO pruned, the count would show it.
    """
    config = lab.config(steps=1)
    pruned = lab.config(steps=1, prune_groups=0.5, prune_by=1)

    def count(comm: Transport) -> dict[str, Any]:
        size = np.abs(lab.stepped(comm, 0, config).gradients)
        limit = np.quantile(size[size > 0], 0.1)
        small = (size > 0) & (size <= limit)
        return {
            "gradients": int(np.count_nonzero(size)),
            "smallest": int(small.sum()),
            "limit": float(limit),
            "reached": {str(stage): reached(comm, stage, config, small) for stage in range(4)},
            "reached_if_half_is_pruned": reached(comm, 0, pruned, small),
        }

    def reached(comm: Transport, stage: int, config: Config, small: np.ndarray) -> dict[str, int]:
        rank = lab.stepped(comm, stage, config)
        every = smallest = 0
        for bucket in rank.layout.buckets():
            moved = rank.own(rank.states["momentum"], bucket) != 0
            every += int(np.count_nonzero(moved))
            smallest += int(np.count_nonzero(moved & rank.own(small, bucket)))
        all_, low = Comm(comm, Ledger()).sum(every, smallest)
        return {"all": int(all_), "smallest": int(low)}

    runs = lab.train(**COURSE).runs
    return {
        **lab.on(lab.N, count)[0],
        "steps": len(runs[0].loss),
        "weights_sha256": {str(run.stage): run.weights_sha256 for run in runs},
    }


@prunes.judge
def _(n: Numbers) -> Verdict:
    everything = {"all": n["gradients"], "smallest": n["smallest"]}
    pruned = {
        stage: reached != everything or n["weights_sha256"][stage] != n["weights_sha256"]["0"]
        for stage, reached in n["reached"].items()
        if stage != "0"
    }
    reached = min(reached["all"] for reached in n["reached"].values())
    low = min(reached["smallest"] for reached in n["reached"].values())
    asked = n["reached_if_half_is_pruned"]
    return Verdict(
        settle("the stage is", pruned),
        f"Of {n['gradients']} gradients {reached} reach the optimizer at every stage, of the smallest tenth "
        f"{low} of {n['smallest']} ({asked['all']} and {asked['smallest']} where pruning of half is asked for); after "
        f"{n['steps']} steps {_same_bits(n['weights_sha256'])}.",
    )


@claim(
    "averages",
    "ZeRO averages parameters",
    source="heard in popular write-ups; ZeRO, section 7.2.1: gradients are reduce-scattered",
)
def averages(lab: Lab) -> Numbers:
    """Compare ZeRO's weights with those of averaged gradients (stage 0) and of parameters averaged at each step."""
    return {optimizer: _against_averaging(lab, optimizer, every=1) for optimizer in RULES}


@averages.judge
def _(n: Numbers) -> Verdict:
    gradients = all(own["as_averaged_gradients"] for own in n.values())
    cases = {name: own["difference"] == 0 and not own["as_averaged_gradients"] for name, own in n.items()}
    return Verdict(
        settle("the optimizer is", cases),
        f"Stages 1 to 3 {'end' if gradients else 'do NOT end'} with the bits of averaged gradients; from parameters "
        f"averaged at each step they differ by {_away(n)} of the way that weights went.",
    )


@claim(
    "same-average",
    "Averaging parameters at each step is the same as averaging gradients",
    source="Stich 2019, arXiv:1805.09767: local SGD with H = 1",
)
def same_average(lab: Lab) -> Numbers:
    """Measure how far weights are from ZeRO's if every rank steps by itself and parameters are averaged each time."""
    return averages.measure(lab)


@same_average.judge
def _(n: Numbers) -> Verdict:
    rounding = {name: own["difference"] < ROUNDING * own["move"] for name, own in n.items()}
    return Verdict(
        settle("the optimizer is", rounding),
        f"Weights differ by {_away(n)} of the way they went; up to {ROUNDING:g} is rounding.",
    )


@claim(
    "every-h",
    "Averaging parameters every H steps is the same as averaging gradients",
    source="Stich 2019, arXiv:1805.09767: local SGD",
)
def every_h(lab: Lab) -> Numbers:
    """Measure the same with plain SGD, which is linear in the gradient, for averages that are fewer and fewer."""
    return {str(H): _against_averaging(lab, "sgd", H) for H in (1, 2, 4)}


@every_h.judge
def _(n: Numbers) -> Verdict:
    return Verdict(
        settle("H is", {H: own["difference"] < ROUNDING * own["move"] for H, own in n.items()}),
        f"With SGD and H = {series({H: H for H in n})} weights differ by "
        f"{series({H: own['difference'] / own['move'] for H, own in n.items()}, '{:.2g}')} of the way they went; up to "
        f"{ROUNDING:g} is rounding.",
    )


def _against_averaging(lab: Lab, optimizer: str, every: int) -> dict[str, Any]:
    """Compare the weights of stages 1 to 3 with stage 0's, and with those of parameters averaged each `every` steps.

    In float64, so that rounding is told from the rest.
    """
    config = lab.config(optimizer=optimizer, precision="fp64", steps=4, batch_size=ROWS * lab.N)

    def zero(comm: Transport) -> tuple[np.ndarray, list[np.ndarray]]:
        first = weights(lab.rank(comm, 0, config))
        return first, [weights(lab.stepped(comm, stage, config)) for stage in range(4)]

    def run() -> dict[str, Any]:
        lab.tell(f"averaging parameters ({optimizer}, H = {every})")
        first, by_stage = lab.once(("averaging", optimizer), lambda: lab.on(lab.N, zero)[0])
        averaged = lab.on(lab.N, lambda comm: lab.averaged(comm, config, every))[0]
        return {
            "as_averaged_gradients": all(np.array_equal(own, by_stage[0]) for own in by_stage[1:]),
            "difference": largest(averaged - by_stage[1]),
            "move": largest(by_stage[1] - first),
        }

    return lab.once(("averaging", optimizer, every), run)


@claim(
    "faster",
    "ZeRO changes the course of training, or its result",
    source="ZeRO, section 2.2.3: convergence is not affected",
)
def faster(lab: Lab) -> Numbers:
    """Train at each stage; note the loss of each step and the accuracy. And once with local SGD, which does differ."""
    runs = lab.train(**COURSE).runs
    averaged = lab.train(stages=(0,), sync="average", sync_every=EVERY, **COURSE).runs[0]
    return {
        "loss": {str(run.stage): run.loss for run in runs},
        "test_accuracy": {str(run.stage): run.epochs[-1]["test_accuracy"] for run in runs},
        "averaged_every": EVERY,
        "averaged": averaged.loss,
    }


@faster.judge
def _(n: Numbers) -> Verdict:
    loss, accuracy = n["loss"], n["test_accuracy"]
    differs = {s: (loss[s], accuracy[s]) != (loss["0"], accuracy["0"]) for s in loss if s != "0"}
    ends = series({s: own[-1] for s, own in loss.items()}, "{:.6f}")
    same = sum(all(own[i] == loss["0"][i] for own in loss.values()) for i in range(len(loss["0"])))
    return Verdict(
        settle("the stage is", differs),
        f"Of {len(loss['0'])} steps {same} have the same loss to the bit at all stages; the last ones are {ends}, and "
        f"{n['averaged'][-1]:.6f} where parameters are averaged instead, every {n['averaged_every']} steps.",
    )


@claim(
    "one-rank", "N ranks end with the same bits as one", source="Goldberg 1991, doi:10.1145/103162.103163: sums round"
)
def one_rank(lab: Lab) -> Numbers:
    """Train with SGD in float64, on the same global batches, on 1 and on other numbers of ranks."""
    config = lab.config(optimizer="sgd", precision="fp64", steps=4)
    everyone = {N: lab.on(N, lambda comm: weights(lab.stepped(comm, 1, config)))[0] for N in lab.sizes}
    return {
        "move": largest(everyone[1] - lab.on(1, lambda comm: weights(lab.rank(comm, 1, config)))[0]),
        "difference": {str(N): largest(own - everyone[1]) for N, own in everyone.items() if N > 1},
    }


@one_rank.judge
def _(n: Numbers) -> Verdict:
    share = max(n["difference"].values()) / n["move"]
    return Verdict(
        settle("the ranks are", {N: difference == 0 for N, difference in n["difference"].items()}),
        f"On {series({N: N for N in n['difference']})} ranks weights differ from one rank's by at most {share:.0e} of "
        f"the way they went: {'rounding' if share < ROUNDING else 'MORE than rounding'}.",
    )


@claim(
    "clipping",
    "Sharded gradients can only be clipped approximately",
    source="Pascanu et al. 2013, arXiv:1211.5063: the norm is a sum of squares, and sums can be shared",
)
def clipping(lab: Lab) -> Numbers:
    """Train with SGD, with and without a limit to the gradient's norm, at each stage."""
    clipped, free = (lab.train(optimizer="sgd", clip_norm=limit).runs for limit in (0.1, None))
    return {
        "weights_sha256": {str(run.stage): run.weights_sha256 for run in clipped},
        "unclipped_sha256": {str(run.stage): run.weights_sha256 for run in free},
    }


@clipping.judge
def _(n: Numbers) -> Verdict:
    clipped, free = n["weights_sha256"], n["unclipped_sha256"]
    acts = sum(clipped[stage] != free[stage] for stage in clipped)
    return Verdict(
        settle("the stage is", {stage: own != clipped["0"] for stage, own in clipped.items() if stage != "0"}),
        f"The limit changes the weights at {acts} of {len(clipped)} stages, and {_same_bits(clipped)}.",
    )


class _Forgetful(Rank):
    """Forgets that a mean over N ranks is divided by N."""

    def agree(self, loss: float, alone: bool = False) -> tuple[float, float | None]:
        """As `Rank.agree`, with a gradient that is N times too large."""
        loss, factor = super().agree(loss, alone)
        return loss, None if factor is None else factor * self.comm.size


@claim(
    "forgotten-n",
    "A gradient N times too large shows in the weights",
    source="Kingma and Ba 2015, arXiv:1412.6980, section 2.1: Adam's step does not depend on the gradient's scale",
)
def forgotten_n(lab: Lab) -> Numbers:
    """Train with each optimizer, in float64, once rightly and once with the sum over ranks in place of the mean."""

    def difference(optimizer: str) -> dict[str, float]:
        config = lab.config(optimizer=optimizer, precision="fp64", lr=1e-3, weight_decay=0.0, steps=4)

        def compare(comm: Transport) -> dict[str, float]:
            first = weights(lab.rank(comm, 1, config))
            right, wrong = (weights(lab.stepped(comm, 1, config, kind)) for kind in (Rank, _Forgetful))
            return {
                "difference": float(np.linalg.norm(wrong - right)),
                "move": float(np.linalg.norm(right - first)),
            }

        return lab.on(lab.N, compare)[0]

    return {"ranks": lab.N, "optimizers": {optimizer: difference(optimizer) for optimizer in RULES}}


@forgotten_n.judge
def _(n: Numbers) -> Verdict:
    shows = {name: own["difference"] >= SHOWS * own["move"] for name, own in n["optimizers"].items()}
    return Verdict(
        settle("the optimizer is", shows),
        f"With {n['ranks']} times the gradient weights differ by {_away(n['optimizers'])} of the way they went.",
    )


def _away(n: Numbers) -> str:
    """By optimizer, the difference as a share of the way that weights went."""
    return either([f"{own['difference'] / own['move']:.2g} ({name})" for name, own in n.items()], "and")


def _same_bits(hashes: dict[str, str]) -> str:
    same = [stage for stage, own in hashes.items() if own == hashes["0"]]
    if len(same) == len(hashes):
        return "weights are identical to the bit at all stages"
    return f"weights are identical to the bit at stages {either(same, 'and')} alone"
