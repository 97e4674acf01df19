"""The myths: experiments on several numbers of ranks and seeds, and verdicts that follow whatever they measured."""

import copy
import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import run_zerosim
from test_cli import assert_one_line

from zerosim import formulas, myths
from zerosim.errors import InputError
from zerosim.myths.claims import either, settle, threshold
from zerosim.stages import zero1, zero2

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
    "n-times": "only if counted at stage 3, at rest",
    "fp16": "false",
    "larger-world": "only if the smallest layer has at least 250 parameters",
    "costs": "only if the stage is 3",
    "three-psi": "only if gradients are all-reduced",
    "bytes": "false",
    "ranks": "false",
    "accumulation": "only if the stage is 0, 1 or 2",
    "buckets": "false",
}
"""By claim: the verdict on any number of ranks."""


@cache
def report(N, seed):
    return myths.check(myths.Lab(N, seed))


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
    assert peak.startswith("only if the largest layer has at most ")
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
            widths = [1, 1] if model["smallest_layer"] == 2 else L
            assert held == {n: sum(formulas.at_rest(int(stage), widths, int(n), "fp16", "adam").values()) for n in held}


def test_every_gradient_is_counted():
    prunes = found(4, 0, "prunes")["numbers"]
    assert 0 < prunes["smallest"] < prunes["gradients"] <= formulas.parameters([64, 24, 10])
    assert set(prunes["reached"]) == {"0", "1", "2", "3"}
    assert all(
        own == {"all": prunes["gradients"], "smallest": prunes["smallest"]} for own in prunes["reached"].values()
    )


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


def test_rows_and_products_of_stage_3():
    ranks = found(3, 1, "model-parallel")["numbers"]["ranks"]
    rows = [own["rows_by_layer"]["0"] for own in ranks]
    assert rows == [11, 11, 10]
    assert [own["products"] for own in ranks] == [n * (64 * 24 + 24 * 24 + 24 * 10) for n in rows]


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
        for own in n["ranks"]:
            own["products"] //= 4
        yield n, "true"
        n["ranks"][2]["products"] *= 4
        yield n, "only if the rank is 0, 1 or 3"
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
        n["models"][0]["at_rest"]["1"]["2"] = n["models"][1]["at_rest"]["1"]["2"] = 3
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
    assert threshold("x is", " m", [(1, True), (2, True), (3, False)]) == "only if x is at most 2 m"
    assert threshold("x is", " m", [(1, False), (2, True), (3, True)]) == "only if x is at least 2 m"
    assert threshold("x is", " m", [(1, True), (2, False), (3, True)]) == "only if x is 1 m or 3 m"
    assert threshold("x is", " m", [(1, True), (3, True)]) == "true"


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


def test_command(tmp_path):
    done = run_zerosim(0, "myths", "bytes", "three-psi", "--ranks", 3, "--seed", 1, "--out", "o", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 Psi means 2 Psi" in done.stdout
    assert "Numbers: o/myths.json" in done.stdout
    assert "(1 of 2)" in done.stderr
    written = json.loads((tmp_path / "o" / "myths.json").read_text())
    assert written["claims"] == [found(3, 1, "bytes"), found(3, 1, "three-psi")]
    done = run_zerosim(0, "myths", "bytes", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["claims"] == [found(4, 0, "bytes")]
    done = run_zerosim(0, "myths", "--list", cwd=tmp_path)
    assert all(claim.text.split()[0] in done.stdout and name in done.stdout for name, claim in myths.CLAIMS.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o"]


def test_under_mpi_the_same(tmp_path):
    """Fewer ranks than mpirun's, as many, and more: the numbers are those of ranks in one process."""
    names = ["prunes", "averages", "one-rank", "model-parallel", "larger-world", "ranks", "all-reduce"]
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
def test_bad_input(words, said, tmp_path):
    assert_one_line(run_zerosim(0, "myths", *words, cwd=tmp_path), said)


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


def test_notebook(tmp_path):
    """It is stored without outputs, opens with a question, and runs from top to bottom on a fresh kernel."""
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "?" in notebook.cells[0].source.splitlines()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the kernel's own libraries warn of
        nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path}}).execute()
    text = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert all(f"({name})" in text for name in myths.CLAIMS)
    assert text.count("Epoch 10/10, Loss: ") == 2
    assert "ends with [ 1.25  0.75  0.15 -0.15]" in text
