"""When a training ends: at its last epoch or step, at a loss that is low enough, or when it no longer falls."""

import json

import pytest
from conftest import run_zerosim, train_on

import zerosim
from zerosim.train import _enough

SETTINGS = {"steps": None, "hidden": (6,), "lr": 0.03, "precision": "fp32"}


@pytest.mark.parametrize("N", [1, 2, 3, 4, 7, 8])
def test_target_loss_ends_all_stages_at_the_same_epoch(N):
    """The first epoch whose loss on all training rows is low enough is the last one, and so says the report."""
    free = train_on(N, epochs=6, **SETTINGS)
    losses = [epoch["train_loss"] for epoch in free.runs[0].epochs]
    target = sorted(losses)[2]
    first = next(i for i, loss in enumerate(losses, 1) if loss <= target)
    assert first < 6
    records = train_on(N, epochs=6, target_loss=target, **SETTINGS)
    assert [len(run.epochs) for run in records.runs] == [first] * 4
    assert {run.stopped for run in records.runs} == {"target_loss"}
    assert [run.loss for run in records.runs] == [free.runs[0].loss[: len(run.loss)] for run in records.runs]
    text = " ".join(zerosim.format_report(zerosim.build_report(records)).split())
    assert f"Stopped after epoch {first} at stage 0, 1, 2, 3: the loss on the training rows has reached" in text
    assert {run.stopped for run in free.runs} == {"epochs"}
    assert "Stopped" not in zerosim.format_report(zerosim.build_report(free))


@pytest.mark.parametrize("patience", [1, 3])
def test_patience(patience):
    """With a learning rate of 0 the first epoch stays the best."""
    records = train_on(2, epochs=9, patience=patience, **{**SETTINGS, "lr": 0.0})
    assert [len(run.epochs) for run in records.runs] == [1 + patience] * 4
    assert {run.stopped for run in records.runs} == {"patience"}


@pytest.mark.parametrize(
    ("losses", "settings", "expected"),
    [
        ([3.0, 2.0, 1.0], {"patience": 1}, None),
        ([3.0, 2.0, 2.0], {"patience": 1}, "patience"),
        ([3.0, 1.0, 2.0, 1.5], {"patience": 3}, None),
        ([3.0, 1.0, 2.0, 1.5], {"patience": 2}, "patience"),
        ([3.0, None, None], {"patience": 2}, "patience"),
        ([None, 2.0], {"patience": 1}, None),
        ([2.0, 0.5], {"target_loss": 0.5, "patience": 1}, "target_loss"),
        ([0.4, 0.6], {"target_loss": 0.5}, None),
        ([1.0], {}, None),
    ],
)
def test_enough(losses, settings, expected):
    assert _enough(zerosim.Config(**settings), losses) == expected


def test_steps_prevail_over_the_end_of_an_epoch(tmp_path):
    words = ["--stages", "0,2", "--steps", "30", "--target-loss", "0", "--patience", "50", "--json", "--hidden", "8"]
    report = json.loads(run_zerosim(3, "train", *words, cwd=tmp_path).stdout)
    assert [run["stopped"] for run in report["runs"]] == ["steps"] * 2
    assert [run["steps"] for run in report["runs"]] == [30] * 2


@pytest.mark.parametrize(
    "words", [["--target-loss", "-1"], ["--target-loss", "nan"], ["--patience", "0"], ["--patience", "1.5"]]
)
def test_bad_input(typed, words):
    done = typed("train", *words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words[0].strip("-").replace("-", "_") in done.stderr.replace("-", "_")
