"""Claims about traffic: how many bytes leave a rank in a step."""

from itertools import pairwise
from typing import Any

import numpy as np

from zerosim import formulas
from zerosim.collectives import ALGORITHMS
from zerosim.comm import Comm, chosen
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.myths.claims import Numbers, Verdict, claim, either, series, settle
from zerosim.myths.lab import ROWS, Lab, sent
from zerosim.report import si
from zerosim.transport import Transport


@claim(
    "costs",
    "Every stage pays for its memory with traffic",
    source="ZeRO, sections 7.2.1 and 7.2.2",
)
def costs(lab: Lab) -> Numbers:
    """Count the bytes of a step at each stage."""
    return {str(run.stage): sent(run) for run in lab.train(precision="fp16").runs}


@costs.judge
def _(n: Numbers) -> Verdict:
    shares = series({stage: own / n["0"] for stage, own in n.items()}, "{:.3g}")
    return Verdict(
        settle("the stage is", {stage: own > n["0"] for stage, own in n.items() if stage != "0"}),
        f"A rank sends {si(n['0'])} in a step at stage 0; stages {series({s: s for s in n})} send {shares} times that.",
    )


@claim(
    "three-psi",
    "Stage 1 costs 3 Psi",
    source="ZeRO, section 7.2.1; DeepSpeed's post of 17 March 2020, which changed from one to the other: 1.5x to 1x",
)
def three_psi(lab: Lab) -> Numbers:
    """Count stage 1's bytes as it is, and with an all_reduce of the gradients before the all_gather of parameters."""
    config = lab.config(precision="fp16")

    def all_reduced(comm: Transport) -> int:
        rank = lab.rank(comm, 1, config)
        rank.comm.all_reduce(*rank.buckets(rank.gradients))
        rank.comm.all_gather(*rank.buckets(rank.parameters))
        return rank.comm.sent.total()

    records = lab.train(precision="fp16")
    Psi, N = records.padded_parameters, lab.N
    return {
        "ranks": N,
        "padded_parameters": Psi,
        "width": formulas.WIDTH["fp16"],
        "sent": {
            "reduce_scatter": sent(records.runs[1]),
            "all_reduce": max(lab.on(N, all_reduced)),
        },
        "formula": {
            verb: formulas.bytes_per_rank(1, Psi, N, 2, stage1=verb) for verb in ("reduce_scatter", "all_reduce")
        },
    }


@three_psi.judge
def _(n: Numbers) -> Verdict:
    per_psi = n["width"] * n["padded_parameters"] * (n["ranks"] - 1)
    times = {verb: nbytes * n["ranks"] / per_psi for verb, nbytes in n["sent"].items()}
    how = {"reduce_scatter": "reduce-scattered", "all_reduce": "all-reduced"}
    return Verdict(
        settle("gradients are", {how[verb]: own == 3 for verb, own in times.items()}),
        f"A rank sends {times['reduce_scatter']:.3g} Psi (N - 1) / N elements if gradients are reduce-scattered, "
        f"{times['all_reduce']:.3g} if they are all-reduced before parameters are gathered.",
    )


@claim("bytes", "2 Psi means 2 Psi bytes", source="ZeRO, section 7.1: elements")
def two_psi(lab: Lab) -> Numbers:
    """Count the bytes of a step of plain data parallelism in each precision."""
    runs = {name: lab.train(precision=name, stages=(0,)) for name in ("fp32", "fp16", "bf16")}
    return {
        "ranks": lab.N,
        "padded_parameters": runs["fp32"].padded_parameters,
        "sent": {name: sent(records.runs[0]) for name, records in runs.items()},
    }


@two_psi.judge
def _(n: Numbers) -> Verdict:
    unit = n["padded_parameters"] * (n["ranks"] - 1)
    factors = {name: nbytes * n["ranks"] / unit for name, nbytes in n["sent"].items()}
    each = either([f"{factor:.3g} Psi (N - 1) / N ({name})" for name, factor in factors.items()], "and")
    return Verdict(
        settle("numbers are", {name: factor == 2 for name, factor in factors.items()}),
        f"A rank sends {each} bytes.",
    )


@claim("ranks", "What is sent does not depend on the number of ranks", source="ZeRO, section 7.1: 2 Psi, for large N")
def ranks(lab: Lab) -> Numbers:
    """Count the bytes of a step of plain data parallelism on several numbers of ranks."""
    records = {N: lab.train(N, precision="fp16", stages=(0,)) for N in lab.sizes}
    return {
        "width": formulas.WIDTH["fp16"],
        "padded_parameters": {str(N): own.padded_parameters for N, own in records.items()},
        "sent": {str(N): sent(own.runs[0]) for N, own in records.items()},
        "sent_by_all": {str(N): sum(own.runs[0].sent) - sum(own.runs[0].control) for N, own in records.items()},
        "steps": len(records[1].runs[0].loss),
    }


@ranks.judge
def _(n: Numbers) -> Verdict:
    shares = {N: nbytes / (2 * n["width"] * n["padded_parameters"][N]) for N, nbytes in n["sent"].items()}
    first, last = "2", max(shares, key=int)
    in_all = {N: nbytes / n["steps"] for N, nbytes in n["sent_by_all"].items()}
    constant = {
        "per rank": len(set(n["sent"].values())) == 1,
        "by all together": len(set(n["sent_by_all"].values())) == 1,
    }
    return Verdict(
        settle("it is counted", constant),
        f"On {series({N: N for N in shares})} ranks a rank sends {series(shares, '{:.3g}')} of 2 w Psi; all together "
        f"send {si(in_all[first])} on {first} and {si(in_all[last])} on {last}.",
    )


ACCUMULATION = (1, 2, 4)


@claim(
    "accumulation",
    "Accumulating gradients saves traffic at every stage",
    source="DeepSpeed issue 2252: stages 2 and 3 reduce after every micro-step",
)
def accumulation(lab: Lab) -> Numbers:
    """Count the bytes of a step with more and more micro-steps of the same number of rows."""
    rows = {k: ROWS * lab.N * k for k in ACCUMULATION}
    trained = {k: lab.train(precision="fp16", grad_accum=k, batch_size=rows[k], steps=1) for k in ACCUMULATION}
    return {
        "rows": {str(k): own for k, own in rows.items()},
        "sent": {str(s): {str(k): sent(own.runs[s]) for k, own in trained.items()} for s in range(4)},
    }


@accumulation.judge
def _(n: Numbers) -> Verdict:
    few, many = min(n["rows"], key=int), max(n["rows"], key=int)
    per_row = {s: {k: own[k] / n["rows"][k] for k in own} for s, own in n["sent"].items()}
    saved = {s: own[many] < own[few] for s, own in per_row.items()}
    per_step = series({s: own[many] / own[few] for s, own in n["sent"].items()}, "{:.3g}")
    shares = series({s: own[many] / own[few] for s, own in per_row.items()}, "{:.3g}")
    return Verdict(
        settle("the stage is", saved),
        f"{many} micro-steps send {per_step} times the bytes of {few} at stages {series({s: s for s in saved})}; per "
        f"row that is {shares}.",
    )


@claim(
    "all-reduce",
    "An all-reduce sends more than a reduce-scatter and an all-gather",
    source="Thakur, Rabenseifner, Gropp 2005, section 4.5",
)
def all_reduce(lab: Lab) -> Numbers:
    """Count an all_reduce by each algorithm for N ranks, and a reduce_scatter and an all_gather by the ring."""
    elements = 1000 * lab.N

    def count(comm: Transport) -> dict[str, int]:
        counted = {}
        for name, algorithm in ALGORITHMS.items():
            takes = ["all_reduce"] if "all_reduce" in algorithm.own else ["reduce_scatter", "all_gather"]
            try:
                door = Comm(comm, Ledger(), chosen(name, comm.size, takes))
            except InputError:
                continue  # not for so many ranks
            door.all_reduce(np.ones(elements, np.float32))
            counted[name] = door.sent.total()
        door = Comm(comm, Ledger())
        vector = np.ones(elements, np.float32)
        door.reduce_scatter(vector)
        door.all_gather(vector)
        return {**counted, "the two": door.sent.total()}

    everyone = lab.on(lab.N, count)
    most = {name: max(own[name] for own in everyone) for name in everyone[0]}
    return {"vector": 4 * elements, "two": most.pop("the two"), "all_reduce": most}


@all_reduce.judge
def _(n: Numbers) -> Verdict:
    by_bytes: dict[int, list[str]] = {}
    for name, nbytes in n["all_reduce"].items():
        by_bytes.setdefault(nbytes, []).append(name)
    each = "; ".join(f"{si(nbytes)} by {either(names, 'and')}" for nbytes, names in sorted(by_bytes.items()))
    return Verdict(
        settle("the algorithm is", {name: nbytes > n["two"] for name, nbytes in n["all_reduce"].items()}),
        f"Of a vector of {si(n['vector'])} the two send {si(n['two'])}, an all-reduce {each}.",
    )


@claim("buckets", "Larger buckets send fewer bytes", source="ZeRO, section 6.2: buckets are for efficiency")
def buckets(lab: Lab) -> Numbers:
    """Count bytes and messages of a step at stage 2 with buckets of more and more elements."""

    def counted(bucket: int) -> dict[str, Any]:
        run = lab.train(precision="fp16", stages=(2,), bucket=bucket).runs[0]
        return {"sent": sent(run), "messages": max(run.messages_per_step)}

    sizes = [lab.N * 16, lab.N * 64, 0]
    return {str(bucket) if bucket else "a layer": counted(bucket) for bucket in sizes}


@buckets.judge
def _(n: Numbers) -> Verdict:
    fewer = {b: n[b]["sent"] < n[a]["sent"] for a, b in pairwise(n)}
    return Verdict(
        settle("they hold", fewer),
        f"With buckets of {series({name: name for name in n})} a rank sends "
        f"{series({name: si(own['sent']) for name, own in n.items()})}, in "
        f"{series({name: own['messages'] for name, own in n.items()})} messages.",
    )
