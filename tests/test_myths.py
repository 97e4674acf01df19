"""The myths: experiments on several numbers of ranks and seeds, and verdicts that follow whatever they measured."""

import copy
import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import run_zerosim
from test_cli import assert_one_line

from zerosim import formulas, myths
from zerosim.errors import InputError
from zerosim.myths.claims import either, settle, threshold
from zerosim.pruning import Pruner
from zerosim.stages import zero1, zero2, zero3

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "08_myths.ipynb"
WORLDS = [(2, 5), (3, 1), (4, 0), (8, 2)]

EXPECTED = {
    "prunes": "false",
    "averages": "false",
    "same-average": "only if the optimizer is sgd or momentum",
    "every-h": "only if H is 1",
    "faster": "false",
    "one-rank": "false",
    "clipping": "false",
    "forgotten-n": "only if the optimizer is sgd or momentum",
    "model-parallel": "false",
    "larger-batch": "only if it is tensor parallelism or a pipeline",
    "pruning-free": "only if it is counted in memory at rest",
    "pruning-saves": "false",
    "n-times": "only if counted at stage 3, at rest",
    "fp16": "false",
    "larger-world": "only if layers are large beside N: here it held from 22 parameters on, failed at 21, held at some "
    "of fewer",
    "costs": "only if the stage is 3",
    "three-psi": "only if gradients are all-reduced",
    "bytes": "false",
    "ranks": "false",
    "accumulation": "only if the stage is 0, 1 or 2",
    "buckets": "false",
}
"""By claim: the verdict on any number of ranks."""


shared = {}


@pytest.fixture(scope="module", autouse=True)
def reports(once):
    """Each report is made once, whichever process of the tests needs it first."""
    shared["once"] = once


@cache
def report(N, seed):
    return shared["once"](f"myths-{N}-{seed}", lambda: myths.check(myths.Lab(N, seed)))


def found(N, seed, name):
    return next(each for each in report(N, seed)["claims"] if each["name"] == name)


def numbers(name):
    """The numbers of an experiment, to be changed."""
    return copy.deepcopy(found(4, 0, name)["numbers"])


# the experiments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("N", "seed"), WORLDS)
def test_verdicts_hold_for_any_ranks_and_seed(N, seed):
    verdicts = {each["name"]: each["verdict"] for each in report(N, seed)["claims"]}
    assert list(verdicts) == list(myths.CLAIMS)
    peak, all_reduce = verdicts.pop("peak"), verdicts.pop("all-reduce")
    assert verdicts == EXPECTED
    assert re.fullmatch(
        r"only if the largest layer is small enough: here it held up to \S+ % of the parameters, failed from \S+ on",
        peak,
    )
    assert all_reduce == ("false" if N == 2 else "only if the algorithm is doubling or binomial")


@pytest.mark.parametrize(("N", "seed"), WORLDS)
def test_bytes_are_the_formulas(N, seed):
    """The counts that a closed form exists for, held against it."""
    three = found(N, seed, "three-psi")["numbers"]
    assert three["sent"] == three["formula"]
    L, G = [64, 24, 10], (1, 2, 4)
    for stage, by_micro_steps in found(N, seed, "accumulation")["numbers"]["sent"].items():
        expected = {str(k): sum(formulas.traffic(int(stage), L, N, "fp16", k=k).values()) for k in G}
        assert by_micro_steps == expected
    for n, nbytes in found(N, seed, "ranks")["numbers"]["sent"].items():
        assert nbytes == formulas.traffic(0, L, int(n), "fp16")["all_reduce"]
    for precision, nbytes in found(N, seed, "bytes")["numbers"]["sent"].items():
        assert nbytes == formulas.traffic(0, L, N, precision)["all_reduce"]
    at_rest = {str(s): sum(formulas.at_rest(s, L, N, "fp16", "adam").values()) for s in range(4)}
    assert found(N, seed, "n-times")["numbers"]["at_rest"] == at_rest
    for model in found(N, seed, "larger-world")["numbers"]["models"]:
        for stage, held in model["at_rest"].items():
            widths = [model["parameters"] - 1, 1]
            assert held == {n: sum(formulas.at_rest(int(stage), widths, int(n), "fp16", "adam").values()) for n in held}


@pytest.mark.parametrize("N", [2, 4, 5, 9])
def test_no_size_refutes_the_bound_of_a_larger_world(N):
    """By the formulas, which know every size: from the bound on memory falls with N, and not at the one that failed."""
    sizes = sorted({1, 2, 3, 4, 8, N})

    def falls(P):
        held = [[sum(formulas.at_rest(s, [P - 1, 1], n, "fp16", "adam").values()) for n in sizes] for s in (1, 2, 3)]
        return all(a > b for own in held for a, b in pairwise(own))

    verdict = myths.check(myths.Lab(N), "larger-world")["claims"][0]["verdict"]
    held, failed = map(int, re.search(r"held from (\d+) parameters on, failed at (\d+)", verdict).groups())
    assert all(falls(P) for P in range(held, 1000))
    assert not falls(failed)
    assert N > 4 or held == failed + 1


@pytest.mark.parametrize(("N", "seed"), WORLDS)
def test_the_bound_of_the_peak_is_tight(N, seed):
    """The models on both sides of it differ by one unit."""
    models = found(N, seed, "peak")["numbers"]["models"]
    lower = [own["peak"]["3"] < own["peak"]["2"] for own in models]
    turn = lower.index(True)
    assert lower == [False] * turn + [True] * (len(lower) - turn)
    failed, held = (own["layers"] for own in models[turn - 1 : turn + 1])
    assert held == [*failed[:2], failed[2] + 1, failed[3]]


def test_every_gradient_is_counted():
    prunes = found(4, 0, "prunes")["numbers"]
    assert 0 < prunes["smallest"] < prunes["gradients"] <= formulas.parameters([64, 24, 10])
    assert set(prunes["reached"]) == {"0", "1", "2", "3"}
    assert all(
        own == {"all": prunes["gradients"], "smallest": prunes["smallest"]} for own in prunes["reached"].values()
    )
    asked = prunes["reached_if_half_is_pruned"]
    assert 0 < asked["all"] <= formulas.parameters([64, 24, 10]) / 2
    assert asked["smallest"] == 0


def test_averaging_of_momentum_is_linear():
    """With H = 1 the mean of N momenta is the momentum of the mean: only what is not linear tells them apart."""
    averages = found(3, 1, "averages")["numbers"]
    away = {name: own["difference"] / own["move"] for name, own in averages.items()}
    assert 0 < away["sgd"] < 1e-12
    assert 0 < away["momentum"] < 1e-12
    assert away["adam"] > 0.01
    every = found(3, 1, "every-h")["numbers"]
    assert every["1"] == averages["sgd"]
    assert every["4"]["difference"] > 1e-6 * every["4"]["move"]


def test_rows_and_products_of_each_system():
    """At stage 3 each rank's rows go through all layers; in the other systems all rows through a part of the model."""
    numbers = found(3, 1, "model-parallel")["numbers"]
    whole = 64 * 24 + 24 * 24 + 24 * 24 + 24 * 10
    assert (numbers["rows"], numbers["weights"]) == (32, whole)
    stage3, tensor, pipeline = numbers["systems"].values()
    assert [own["rows_by_layer"] for own in stage3] == [dict.fromkeys("0123", rows) for rows in (11, 11, 10)]
    assert [own["products"] for own in stage3] == [rows * whole for rows in (11, 11, 10)]
    assert [own["rows_by_layer"] for own in tensor] == [dict.fromkeys("0123", 32)] * 3
    assert [own["products"] for own in tensor] == [32 * whole // 3] * 3
    assert [[*own["rows_by_layer"].items()] for own in pipeline] == [[("0", 32)], [("1", 32)], [("2", 32), ("3", 32)]]
    assert [own["products"] for own in pipeline] == [32 * 64 * 24, 32 * 24 * 24, 32 * (24 * 24 + 24 * 10)]


@pytest.mark.parametrize(("N", "seed"), WORLDS)
def test_what_travels_is_the_formulas(N, seed):
    for system, by_change in found(N, seed, "larger-batch")["numbers"]["systems"].items():
        for (rows, width), own in zip([(1, 24), (2, 24), (1, 48)], by_change.values(), strict=True):
            L, B = [64, *[width] * (N - 1 + N % 2), 10], 32 * rows
            T, P = N if system == "tensor parallelism" else 1, N if system == "a pipeline" else 1
            places = [formulas.Place(T, rank % T, P, rank % P) for rank in range(N)]
            stage3 = T == P == 1
            data = sum(formulas.traffic(3, L, N, "fp32").values()) if stage3 else 0
            tensor = max(sum(formulas.tensor_traffic(L, [B], 4, "ring", place).values()) for place in places)
            pipeline = max(formulas.pipeline_traffic(L, [B], 4, place)["send"] for place in places)
            assert own["sent"] == {"data": data, "tensor": tensor, "pipeline": pipeline}
            mine = formulas.micro_rows(B, N if stage3 else 1, 0)
            assert own["activations"] == max(formulas.activations_peak(L, mine, 4, at)["device"] for at in places)


@pytest.mark.parametrize(("N", "seed"), WORLDS)
def test_pruning_costs_what_the_formulas_say(N, seed):
    """Memory at rest stays; what is sent grows by the norms of the groups alone."""
    L = [64, 24, 10]
    norms = formulas.pruning_traffic(sum(formulas.groups(L, "row")), N)
    free, saves = (found(N, seed, name)["numbers"] for name in ("pruning-free", "pruning-saves"))
    plain, frozen, zeroed = free["kinds"].values()
    assert plain["at_rest"] == frozen["at_rest"] == zeroed["at_rest"]
    assert frozen["sent"] == zeroed["sent"] == plain["sent"] + norms
    assert len({own["weights_sha256"] for own in free["kinds"].values()}) == 3
    for stage, own in saves["not pruned"].items():
        assert own["at_rest"] == sum(formulas.at_rest(int(stage), L, N, "fp32", "adam").values())
        assert own["sent"] == sum(formulas.traffic(int(stage), L, N, "fp32").values())
        assert saves["frozen"][stage] == {"at_rest": own["at_rest"], "sent": own["sent"] + norms}


# the verdicts --------------------------------------------------------------------------------------------------------


def contrary(name):
    """Numbers as they would be if the experiment had come out otherwise, and what then is to be said."""
    n = numbers(name)
    if name == "prunes":
        n["reached"]["2"]["smallest"] -= 1
        yield n, "only if the stage is 2"
        other = numbers(name)
        other["weights_sha256"]["3"] = "other"
        yield other, "only if the stage is 3"
    elif name == "averages":
        for own in n.values():
            own.update(as_averaged_gradients=False, difference=0.0)
        yield n, "true"
    elif name in ("same-average", "every-h"):
        yield {key: {**own, "difference": 0.0} for key, own in n.items()}, "true"
        yield {key: {**own, "difference": own["move"]} for key, own in n.items()}, "false"
    elif name == "faster":
        n["loss"]["1"][7] -= 1e-9
        yield n, "only if the stage is 1"
    elif name == "one-rank":
        yield {**n, "difference": dict.fromkeys(n["difference"], 0.0)}, "true"
    elif name == "clipping":
        n["weights_sha256"].update({stage: stage for stage in "123"})
        yield n, "true"
    elif name == "forgotten-n":
        for own in n["optimizers"].values():
            own["difference"] = own["move"]
        yield n, "true"
    elif name == "model-parallel":
        for own in n["systems"]["stage 3"]:
            own["products"] //= 4
        yield n, "true"
        n["systems"]["stage 3"][2]["products"] *= 4
        yield n, "only if the rank is 0, 1 or 3"
    elif name == "larger-batch":
        n["systems"]["stage 3"]["twice the rows"]["sent"]["data"] += 1
        yield n, "true"
        yield {**n, "systems": {key: dict.fromkeys(own, own["as it is"]) for key, own in n["systems"].items()}}, "false"
    elif name == "pruning-free":
        for own in n["kinds"].values():
            own.update(sent=1, loss=0.5, test_accuracy=0.9)
        yield n, "true"
        n["kinds"]["zeroed"].update(at_rest=10**9, sent=2, test_accuracy=0.8)
        yield n, "only if it is counted in the loss"
    elif name == "pruning-saves":
        n["frozen"]["2"]["at_rest"] -= 1
        yield n, "only if the stage is 2"
    elif name == "n-times":
        yield {**n, "peak": dict(n["at_rest"])}, "only if counted at stage 3, at rest or stage 3, at the peak"
        yield {**n, "at_rest": dict.fromkeys(n["at_rest"], 1), "peak": dict.fromkeys(n["peak"], 1)}, "false"
    elif name == "peak":
        for own in n["models"]:
            own["peak"]["3"] = own["peak"]["2"] + 1
        yield n, "false"
        for own in n["models"]:
            own["peak"]["3"] = own["peak"]["2"] - 1
        yield n, "true"
    elif name == "fp16":
        for own in n.values():
            own["fp16"]["per_parameter"] = own["fp32"]["per_parameter"] / 2
        yield n, "true"
    elif name == "larger-world":
        for own in n["models"]:
            own["at_rest"] = {"1": {"1": 3, "2": 2}, "2": {"1": 3, "2": 2}}
        yield n, "true"
        for own in n["models"]:
            own["at_rest"]["1"]["2"] = 3
        yield n, "false"
    elif name == "costs":
        yield dict.fromkeys(n, 100), "false"
        yield {**n, "1": n["3"], "2": n["3"]}, "true"
    elif name == "three-psi":
        n["sent"]["reduce_scatter"] = n["sent"]["all_reduce"]
        yield n, "true"
        yield {**n, "sent": dict.fromkeys(n["sent"], 1)}, "false"
    elif name == "bytes":
        n["sent"]["fp16"] //= 2
        yield n, "only if numbers are fp16"
    elif name == "ranks":
        yield {**n, "sent": dict.fromkeys(n["sent"], 7)}, "only if it is counted per rank"
    elif name == "accumulation":
        n["sent"]["3"] = dict.fromkeys(n["sent"]["3"], 5)
        yield n, "true"
        n["sent"] = {stage: {k: 5 * int(k) for k in own} for stage, own in n["sent"].items()}
        yield n, "false"
    elif name == "all-reduce":
        yield {**n, "two": 1}, "true"
        yield {**n, "two": 10**9}, "false"
    elif name == "buckets":
        yield {key: {**own, "sent": 9 - i} for i, (key, own) in enumerate(n.items())}, "true"


@pytest.mark.parametrize("name", myths.CLAIMS)
def test_the_verdict_follows_the_numbers(name):
    claim, measured = myths.CLAIMS[name], found(4, 0, name)
    again = claim.verdict(json.loads(json.dumps(numbers(name))))
    assert (again.word, again.measured) == (measured["verdict"], measured["measured"])
    cases = 0
    for changed, word in contrary(name):
        cases += 1
        verdict = claim.verdict(changed)
        assert verdict.word == word != measured["verdict"]
        assert verdict.measured.endswith(".")
    assert cases


def verdicts_of(*names):
    return {each["name"]: each["verdict"] for each in myths.check(myths.Lab(3, 1), *names)["claims"]}


def test_a_stage_that_prunes_is_found_out(monkeypatch):
    reduce = zero2.reduce

    def pruning(rank, bucket, *more):
        reduce(rank, bucket, *more)
        own = rank.gradients[bucket.shard]
        own[np.abs(own) < 1e-3] = 0

    monkeypatch.setattr(zero2, "reduce", pruning)
    assert verdicts_of("prunes", "faster") == dict.fromkeys(("prunes", "faster"), "only if the stage is 2")


def test_a_stage_that_sends_twice_is_found_out(monkeypatch):
    step = zero1.step

    def wasteful(rank, batch):
        done = step(rank, batch)
        rank.comm.all_gather(*rank.buckets(rank.parameters))
        return done

    monkeypatch.setattr(zero1, "step", wasteful)
    assert verdicts_of("costs", "three-psi") == {"costs": "only if the stage is 1 or 3", "three-psi": "true"}


def test_a_stage_that_sends_activations_is_found_out(monkeypatch):
    step = zero3.step

    def talkative(rank, batch):
        done = step(rank, batch)
        rank.comm.all_gather(np.zeros(rank.comm.size * len(batch), np.float32))
        return done

    monkeypatch.setattr(zero3, "step", talkative)
    assert verdicts_of("larger-batch") == {"larger-batch": "true"}


def test_pruning_that_is_not_done_is_found_out(monkeypatch):
    def update(pruner, optimizer, pieces, *arrays):
        optimizer.step(*arrays, pruner._ledger)

    monkeypatch.setattr(Pruner, "update", update)
    told = verdicts_of("pruning-free")["pruning-free"]
    assert told == "only if it is counted in memory at rest, the loss or test accuracy"


def test_the_sentence_follows_the_numbers():
    n = numbers("averages")
    n["adam"]["as_averaged_gradients"] = False
    assert "do NOT end" in myths.CLAIMS["averages"].verdict(n).measured
    n = numbers("one-rank")
    n["difference"]["3"] = n["move"] / 2
    assert "MORE than rounding" in myths.CLAIMS["one-rank"].verdict(n).measured


def test_words():
    assert either(["a"]) == "a"
    assert either(["a", "b", "c"]) == "a, b or c"
    assert settle("x is", {1: True, 2: True}) == "true"
    assert settle("x is", {1: False, 2: False}) == "false"
    assert settle("x is", {1: True, 2: False, 3: True}) == "only if x is 1 or 3"


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        ("YYN", "only if it is short: here it held up to 2 m, failed from 3 on"),
        ("NYY", "only if it is short: here it held from 2 m on, failed up to 1"),
        ("YNYN", "only if it is short: here it held up to 1 m, failed at 2, held at some of more"),
        ("NYNY", "only if it is short: here it held from 4 m on, failed at 3, held at some of fewer"),
        ("YNY", "only if tried at 1 m or 3 m"),
        ("NYN", "only if tried at 2 m"),
        ("YY", "true"),
        ("N", "false"),
    ],
)
def test_a_threshold_says_what_was_tried(holds, said):
    cases = [(value, kind == "Y") for value, kind in enumerate(holds, 1)]
    assert threshold("it is short", " m", cases) == threshold("it is short", " m", cases[::-1]) == said


# the command ---------------------------------------------------------------------------------------------------------


def test_report_and_table():
    whole = report(4, 0)
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert {key: whole[key] for key in ("schema", "ranks", "backend", "seed")} == {
        "schema": "zerosim.myths/1",
        "ranks": 4,
        "backend": "threads",
        "seed": 0,
    }
    for each in whole["claims"]:
        assert list(each) == ["name", "claim", "numbers", "measured", "verdict", "source"]
        assert each["numbers"]
        assert each["source"]
        assert each["verdict"] in ("true", "false") or each["verdict"].startswith("only if ")
    text = myths.format_myths(whole)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"({name})" in text for name in myths.CLAIMS)
    assert "…" not in text


def test_command(typed, tmp_path):
    done = run_zerosim(0, "myths", "bytes", "three-psi", "--ranks", 3, "--seed", 1, "--out", "o", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 Psi means 2 Psi" in done.stdout
    assert "Numbers: o/myths.json" in done.stdout
    assert done.stderr.count("(1 of 2)") <= 1
    written = json.loads((tmp_path / "o" / "myths.json").read_text())
    assert written["claims"] == [found(3, 1, "bytes"), found(3, 1, "three-psi")]
    done = typed("myths", "bytes", "--json")
    assert json.loads(done.stdout)["claims"] == [found(4, 0, "bytes")]
    done = typed("myths", "--list")
    assert all(claim.text.split()[0] in done.stdout and name in done.stdout for name, claim in myths.CLAIMS.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o"]


def test_the_list_as_json(typed):
    listed = json.loads(typed("myths", "--list", "--json").stdout)["claims"]
    assert {each["name"]: (each["claim"], each["source"]) for each in listed} == {
        name: (claim.text, claim.source) for name, claim in myths.CLAIMS.items()
    }


def test_under_mpi_the_same(tmp_path):
    """Fewer ranks than mpirun's, as many, and more: the numbers are those of ranks in one process."""
    names = [
        "prunes",
        "averages",
        "one-rank",
        "model-parallel",
        "larger-batch",
        "pruning-saves",
        "larger-world",
        "ranks",
    ]
    names += ["all-reduce"]
    done = run_zerosim(3, "myths", *names, "--seed", 1, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    under = json.loads(done.stdout)
    assert (under["ranks"], under["backend"]) == (3, "mpi")
    assert under["claims"] == [found(3, 1, name) for name in names]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prnues"], ["'prnues'", "is prunes meant"]),
        (["bytes", "nothing-like-it"], ["nothing-like-it", "three-psi"]),
        (["--ranks", 1], ["1 must be 2 to 16"]),
        (["--ranks", 17], ["17 must be 2 to 16"]),
        (["--seed", -1], ["seed", "0 or more"]),
        (["--out", "/dev/null/x", "bytes"], ["out", "cannot write"]),
    ],
)
def test_bad_input(words, said, typed):
    assert_one_line(typed("myths", *words), said)


def test_bad_input_under_mpi(tmp_path):
    assert_one_line(run_zerosim(2, "myths", "--ranks", 2, cwd=tmp_path), ["--ranks 2", "mpirun has started 2"])
    assert_one_line(run_zerosim(2, "myths", "prnues", cwd=tmp_path), ["is prunes meant"])
    assert_one_line(run_zerosim(1, "myths", "bytes", cwd=tmp_path), ["1 must be 2 to 16"])


def test_from_python():
    with pytest.raises(InputError, match="is bytes meant"):
        myths.check(myths.Lab(2), "byte")
    said = []
    again = myths.check(myths.Lab(2, 5, tell=said.append), "bytes", "bytes")
    assert again["claims"] == [found(2, 5, "bytes")]
    assert said[0] == "bytes (1 of 1): training on 2 ranks"
