"""The gallery: each bug is caught by its instrument, for several N and seeds, and by no other than is said here."""

import ast
import contextlib
import io
import json
import re
import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import run_zerosim
from test_cli import assert_one_line

import zerosim
from zerosim import gallery
from zerosim.errors import Failed, InputError
from zerosim.gallery import BUGS, INSTRUMENTS, NAIVE, instruments
from zerosim.myths.lab import Lab

WORLDS = [(2, 5), (3, 1), (4, 0)]

EXPECTED = {
    "mean-twice": "one-rank gradient",
    "mean-forgotten": "one-rank gradient",
    "mean-of-means": "one-rank gradient",
    "local-norm": "bits ranks one-rank",
    "clip-before-unscale": "gradient",
    "overflow-alone": "bits ranks gradient",
    "last-micro-step": "bits one-rank gradient",
    "keeps-gradient": "held",
    "all-reduce-and-slice": "sent",
    "whole-vector": "sent",
    "cluster-and-rank": "sent",
    "wrong-owner": "one-rank gradient proof",
    "rank-zero": "bits ranks one-rank gradient",
    "gather-too-early": "bits ranks one-rank",
    "same-rows": "one-rank gradient",
    "own-order": "bits ranks sent",
    "step-per-shard": "bits",
}
"""By bug: the instruments that catch it, the loss apart."""


@cache
def lab(N, seed):
    return Lab(N, seed)


@cache
def found(name, N=4, seed=0):
    return gallery.run(name, lab=lab(N, seed))


def test_every_bug_is_here():
    assert list(BUGS) == list(EXPECTED)
    assert {bug.instrument for bug in BUGS.values()} == INSTRUMENTS.keys() - {NAIVE}


@pytest.mark.parametrize("name", BUGS)
@pytest.mark.parametrize(("N", "seed"), WORLDS)
def test_a_bug_is_caught_by_its_instruments(name, N, seed):
    result = found(name, N, seed)
    assert [instrument for instrument, reading in result.right.items() if not reading.holds] == []
    caught = [instrument for instrument in result.caught_by if instrument != NAIVE]
    if (name, N) == ("own-order", 2):
        assert result.broken == result.right, "a + b is b + a"
    else:
        assert caught == EXPECTED[name].split()
        assert BUGS[name].instrument in caught


def test_the_loss_falls_all_the_same():
    assert [name for name in BUGS if NAIVE in found(name).caught_by] == ["overflow-alone"]
    assert found("overflow-alone").broken["loss"].numbers["first_and_last"]["0"][1] is None, "NaN at stage 0"
    for name in ("all-reduce-and-slice", "whole-vector", "keeps-gradient", "cluster-and-rank"):
        for instrument in ("loss", "bits", "one-rank", "gradient"):
            assert found(name).broken[instrument] == found(name).right[instrument], "not one bit is different"


# the symptoms, as numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("N", "seed"), WORLDS)
def test_how_many_bytes_too_many(N, seed):
    def sent(name, stage, verb):
        numbers = found(name, N, seed).broken["sent"].numbers
        return {rank[verb] / numbers["steps"] for rank in numbers["counted"][str(stage)]}, numbers["formula"][stage]

    counted, formula = sent("whole-vector", 1, "reduce_scatter")
    assert counted == {N * formula["reduce_scatter"]}
    counted, formula = sent("all-reduce-and-slice", 1, "all_reduce")
    assert counted == {2 * formula["reduce_scatter"]}
    counted, formula = sent("cluster-and-rank", 0, "all_reduce")
    assert counted == {N * formula["all_reduce"]}
    numbers = found("cluster-and-rank", N, seed).broken["sent"].numbers
    assert numbers["booked"] > numbers["arrived"], "what is booked has not arrived: the count is wrong, not the program"
    numbers = found("whole-vector", N, seed).broken["sent"].numbers
    assert numbers["booked"] == numbers["arrived"]


@pytest.mark.parametrize(("N", "seed"), WORLDS)
def test_how_large_a_gradient(N, seed):
    off = {name: found(name, N, seed).broken["gradient"].numbers["off"] for name in BUGS}
    assert off["mean-twice"] == pytest.approx(1 - 1 / N, rel=1e-3)
    assert off["mean-forgotten"] == pytest.approx(N - 1, rel=0.1)
    assert 1e-3 < off["mean-of-means"] < 0.1
    assert off["clip-before-unscale"] == pytest.approx(1, rel=0.01), "almost nothing is left"


def test_how_many_bytes_are_held():
    counted = found("keeps-gradient").broken["held"].numbers["counted"]
    for one, two in zip(counted["1"], counted["2"], strict=True):
        assert one == two, "stage 2 holds what stage 1 holds"


def test_a_part_of_the_weights_is_never_updated():
    with gallery.broken("rank-zero"):
        seen = instruments.Experiment(lab(4, 0), {}).seen[1]
    for rank, own in enumerate(seen):
        moved = any((a != b).any() for a, b in zip(own.before, own.after, strict=True))
        assert moved == (rank > 0)


# the mechanism -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_small_and_leaves_no_trace(name):
    bug = BUGS[name]
    code, right = bug.target.__code__, bug.right
    ast.parse(bug.wrong)
    assert 1 <= sum(line.startswith(("+", "-")) for line in bug.diff()) <= 11
    assert all(line == "" or line[0] in "+- @" for line in bug.diff())

    def fails_on_the_way():
        with gallery.broken(name):
            assert bug.target.__code__ is not code
            raise KeyError

    with pytest.raises(KeyError):
        fails_on_the_way()
    assert bug.target.__code__ is code
    assert bug.right == right


def test_a_bug_whose_lines_have_changed_says_so():
    bug = replace(BUGS["same-rows"], edits=(("return rows", "return nothing"),))
    with pytest.raises(ValueError, match=r"same-rows: zerosim\.data\.share has 'return rows' 0 times, not once"):
        _ = bug.wrong


def test_a_fix_is_judged():
    bug = BUGS["mean-forgotten"]
    result = gallery.run(bug.name, lab=lab(3, 1), fix=bug.right)
    assert result.fixed
    assert result.fix == result.right
    result = gallery.run(bug.name, lab=lab(3, 1), fix=bug.wrong.replace("len(rows)", "(len(rows) * self.comm.size)"))
    assert not result.fixed
    assert result.caught(result.fix) == ["one-rank", "gradient"], "that is the mean of means"
    assert "yours" in gallery.format_result(result)
    assert not found(bug.name).fixed


def share(batch, rank, N):
    """As `zerosim.data.share`, in a reader's own words."""
    chosen = np.arange(rank, len(batch), N)
    return batch[chosen]


def test_a_fix_may_be_a_function():
    result = gallery.run("same-rows", lab=lab(3, 1), fix=share)
    assert result.fixed
    assert result.fix == result.right


@pytest.mark.parametrize(
    ("fix", "said"),
    [
        ("def other(batch, rank, N):\n    return batch", "must define a function share"),
        ("def share(batch):\n    return batch", r"arguments \(batch: .*, rank: int, N: int\)"),
    ],
)
def test_a_fix_of_something_else(fix, said):
    with pytest.raises(ValueError, match=said):
        gallery.run("same-rows", lab=lab(3, 1), fix=fix)


def test_ranks_that_wait_for_ever_are_woken(monkeypatch):
    monkeypatch.setattr(instruments, "PATIENCE", 0.2)

    def run(comm):
        return instruments._in_time(comm, lambda: comm.recv(np.zeros(1), 0) if comm.rank else "done")

    assert zerosim.run_threads(2, run) == ["done", None]
    monkeypatch.setattr(instruments, "_see", lambda lab, comm, *more: comm.recv(np.zeros(1), 0))
    with pytest.raises(Failed, match="for ever"):
        instruments.Experiment(lab(2, 5), {})


# the command ---------------------------------------------------------------------------------------------------------


def test_table():
    text = gallery.format_gallery([found(name) for name in BUGS])
    assert max(map(len, text.splitlines())) <= 80
    assert "The loss falls all the same in 16 of 17." in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split() and line.split()[0] in BUGS}
    for name, marks in rows.items():
        caught = [instrument for instrument, mark in zip(INSTRUMENTS, marks, strict=True) if mark == "x"]
        assert caught == found(name).caught_by
    assert rows.keys() == BUGS.keys()


@pytest.mark.parametrize("name", BUGS)
def test_page(name):
    text, bug = gallery.format_result(found(name)), BUGS[name]
    words = " ".join(text.split())
    assert all(line in text for line in bug.diff())
    assert all(" ".join(part.split()) in words for part in (bug.title, bug.symptom, bug.lesson))
    assert text.count("CAUGHT: ") == len(found(name).caught_by)
    assert max(len(line) for line in text.splitlines() if line not in bug.diff()) <= 80


def test_command(typed):
    done = typed("gallery", "keeps-gradient", "--ranks", 2, "--seed", 5, "--json")
    report = json.loads(done.stdout)
    assert (report["schema"], report["ranks"], report["seed"]) == ("zerosim.gallery/1", 2, 5)
    assert report == json.loads(json.dumps(gallery.report([found("keeps-gradient", 2, 5)])))
    done = typed("gallery", "same-rows")
    assert done.stdout == gallery.format_result(found("same-rows")) + "\n"
    assert all(line.startswith("same-rows: running the ") for line in done.stderr.splitlines())
    done = typed("gallery", "--list")
    assert all(name in done.stdout for name in BUGS)
    listed = json.loads(typed("gallery", "--list", "--json").stdout)["bugs"]
    assert [each["name"] for each in listed] == list(BUGS)


def test_everything_is_json():
    report = gallery.report([found(name) for name in BUGS])
    assert json.loads(json.dumps(report, allow_nan=False))["bugs"][0]["caught_by"] == ["one-rank", "gradient"]


# without their names -------------------------------------------------------------------------------------------------


def test_numbers_are_all_bugs_in_orders_that_tell_nothing():
    turns = [[gallery.unnamed(n + 1 + len(BUGS) * turn).name for n in range(len(BUGS))] for turn in range(3)]
    assert all(set(turn) == set(BUGS) for turn in turns)
    assert list(BUGS) not in turns
    assert turns[0] != turns[1] != turns[2] != turns[0]
    assert gallery.unnamed(7).name == "wrong-owner", (
        "a number that a lecturer has given out means the same bug tomorrow"
    )


@pytest.mark.parametrize("number", range(1, len(BUGS) + 1))
def test_a_page_without_a_name_gives_nothing_away(number):
    bug = gallery.unnamed(number)
    result = gallery.run(number, lab=lab(4, 0))
    assert result.caught_by == found(bug.name).caught_by
    text = gallery.format_result(result)
    assert max(map(len, text.splitlines())) <= 80
    assert " ".join(bug.noticed.split()) in " ".join(text.split())
    assert text.count("CAUGHT: ") == len(result.caught_by) > 0
    shown = text + json.dumps(gallery.report([result])) + repr(result)
    secret = (bug.name, bug.title, bug.lesson, bug.seen, bug.place, *bug.diff())
    assert [text for text in secret if text.strip() and text in shown] == []


def test_what_one_notices_is_so():
    """Where it says more than the instruments: of one rank, and of SGD at all stages."""
    config = {"hidden": (8,), "precision": "fp32", "steps": 3}
    alone = Lab(2)

    def moved(name, stage):
        def run(comm):
            rank = alone.rank(comm, stage, alone.config(**config))
            before = rank.parameters.copy()
            for batch in alone.batches(alone.config(**config)):
                instruments.STAGES[stage].step(rank, batch)
            return bool((before != rank.parameters).any())

        with gallery.broken(name):
            return zerosim.run_threads(1, run)[0]

    assert [moved("rank-zero", stage) for stage in range(4)] == [False] * 4
    assert [moved("mean-twice", stage) for stage in range(4)] == [True] * 4
    with gallery.broken("step-per-shard"):
        for optimizer, kinds in (("sgd", 1), ("adam", 2)):
            runs = alone.train(2, optimizer=optimizer, **config).runs
            assert len({run.weights_sha256 for run in runs}) == kinds
            assert runs[0].weights_sha256 == runs[3].weights_sha256


def test_a_bug_without_a_name_can_be_written_and_mended():
    """By whoever finds the function; who guesses another one hears no more than that."""
    number = next(n for n in range(1, 18) if gallery.unnamed(n).name == "same-rows")
    right = gallery.run(number, lab=lab(3, 1), fix=share)
    assert right.fixed
    guess = gallery.source(zerosim.data.share).replace("rank::N", "::N")
    assert gallery.run(number, lab=lab(3, 1), fix=guess).fix == right.broken, "who can write it has understood it"
    for other in (zerosim.optim.Optimizer.step, zerosim.stages.zero1.step, "def step(rank, batch):\n    pass"):
        with pytest.raises(ValueError, match=f"^bug {number} is not in that function$"):
            gallery.run(number, lab=lab(3, 1), fix=other)
    with gallery.broken(number):
        assert len(zerosim.data.share(np.arange(6), 0, 2)) == 3
        assert zerosim.data.share(np.arange(6), 1, 2)[0] == 0


def test_blind_command(typed):
    number = next(n for n in range(1, 18) if gallery.unnamed(n).name == "same-rows")
    done = typed("gallery", "--blind", number)
    assert done.returncode == 0
    assert done.stdout == gallery.format_result(gallery.run(number, lab=lab(4, 0))) + "\n"
    assert "same-rows" not in done.stdout + done.stderr
    done = typed("gallery", "--blind", number, "--reveal")
    assert done.stdout == f"Bug {number}:\n\n" + gallery.format_result(found("same-rows")) + "\n"
    (entry,) = json.loads(typed("gallery", "--blind", number, "--json").stdout)["bugs"]
    assert list(entry) == ["number", "noticed", "settings", "right", "broken", "caught_by"]
    (entry,) = json.loads(typed("gallery", "--blind", number, "--reveal", "--json").stdout)["bugs"]
    assert entry["name"] == "same-rows"
    order = next(n for n in range(1, 18) if gallery.unnamed(n).name == "own-order")
    assert "On 2 ranks no instrument finds it." in typed("gallery", "--blind", order, "--ranks", 2).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--blind", "seven"], ["--blind", "'seven'"]),
        (["--blind"], ["--blind", "expected one argument"]),
        (["--blind", 0], ["blind: 0 must be 1 or more"]),
        (["--blind", -3], ["blind: -3 must be 1 or more"]),
        (["--blind", 3, "same-rows"], ["--blind hides", "same-rows tells"]),
        (["--blind", 3, "--list"], ["--blind hides", "--list tells"]),
        (["--reveal"], ["--reveal needs --blind NUMBER"]),
        (["same-rows", "--reveal"], ["--reveal needs --blind NUMBER"]),
        (["mean-twcie"], ["'mean-twcie'", "is mean-twice meant"]),
        (["nothing-like-it"], ["there is no bug", "whole-vector"]),
        (["--ranks", 1], ["1 must be 2 to 16"]),
        (["--ranks", 17], ["17 must be 2 to 16"]),
        (["--seed", -1], ["seed", "0 or more"]),
    ],
)
def test_bad_input(words, said, typed):
    assert_one_line(typed("gallery", *words), said)


def test_not_under_mpi(tmp_path):
    assert_one_line(run_zerosim(2, "gallery", "mean-twice", cwd=tmp_path), ["leave mpirun out"])


def test_the_readme_tells_the_truth(tmp_path):
    """Its table is this one, and its Python prints what it says."""
    readme = (Path(__file__).parent.parent / "README.md").read_text().partition("## A gallery of bugs")[2]
    table = gallery.format_gallery([found(name) for name in BUGS]).partition("\n\n")[2]
    assert table.strip() in readme
    code, blind = re.findall(r"```python\n(.*?)```", readme.partition("\n## ")[0], re.S)
    names = {}
    exec(code, names)
    result = names["result"]
    assert f"# {result.fixed} {result.caught(result.fix)}:" in code
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        (tmp_path / "blind.py").write_text(blind)  # a function's source is looked up in its file
        runpy.run_path(str(tmp_path / "blind.py"))
    assert printed.getvalue().split() == re.findall(r"print\(.*# (\w+)", blind)


def test_from_python():
    with pytest.raises(InputError, match="is same-rows meant"):
        gallery.run("same-row")
    with pytest.raises(InputError, match="no bug"), gallery.broken("none"):
        pass
