"""Averaging parameters and averaging gradients: where they are the same, where not, and what they send."""

import json

import numpy as np
import pytest
from conftest import run_zerosim, small_data, train_on
from safetensors.numpy import load_file

import zerosim
from zerosim import figures, formulas
from zerosim.optim import RULES

SETTINGS = {"precision": "fp64", "batch_size": 17, "steps": 6, "stages": (0,), "lr": 0.02}


def trained(tmp_path, N, **settings):
    """The weights after a training, as one vector."""
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
    train_on(N, small_data(rows=80), **{**SETTINGS, **settings}, save=str(file))
    return np.concatenate([value.ravel() for value in load_file(file).values()])


@pytest.mark.parametrize("N", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("optimizer", RULES)
def test_where_it_is_averaging_gradients(tmp_path, optimizer, N):
    """Each step, if the step is linear in the gradient; also with 17 rows, of which ranks have unequally many."""
    gradients = trained(tmp_path, N, optimizer=optimizer)
    each = trained(tmp_path, N, optimizer=optimizer, sync="average")
    seldom = trained(tmp_path, N, optimizer=optimizer, sync="average", sync_every=3)
    moved = np.abs(gradients - trained(tmp_path, N, optimizer=optimizer, lr=0.0)).max()
    linear = optimizer in ("sgd", "momentum")
    assert (np.abs(each - gradients).max() < 1e-13) == (linear or N == 1)
    assert (np.abs(seldom - gradients).max() > 1e-6 * moved) == (N > 1)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("N", "every", "steps"), [(1, 2, 4), (2, 1, 3), (3, 2, 5), (4, 3, 9), (7, 4, 3), (8, 2, 4)])
def test_books(N, every, steps, precision):
    """An averaging is an all-reduce of the full-precision weights; the last step is followed by one anyway."""
    settings = {"precision": precision, "sync": "average", "sync_every": every, "steps": steps, "bucket": 20}
    records = train_on(N, **settings)
    (run,) = records.runs
    assert records.config.stages == (0,)
    assert len(run.drifts) == -(-steps // every)
    each = sum(formulas.traffic(0, records.widths, N, "fp32", 20).values())
    assert run.averaging == [len(run.drifts) * each] * N
    report = zerosim.build_report(records)
    sent = report["runs"][0]["traffic"]
    assert sent["per_step"]["measured"] == sent["per_step"]["formula_per_rank"]
    assert sent["per_step"]["measured"][0]["all_reduce"] == (each if steps >= every else 0)
    assert sent["messages"] == sent["messages_formula"]
    assert sent["sent_equals_received"]
    rest = report["runs"][0]["memory"]["at_rest"]
    assert rest["measured"] == rest["formula_per_rank"]
    assert "Books: bytes held and bytes sent equal" in zerosim.format_report(report)


def test_ranks_drift_apart_between_averagings():
    """The longer they are left alone the further; one rank drifts from nobody, nor do ranks with the same rows."""
    far = [train_on(4, sync="average", sync_every=H, **SETTINGS).runs[0].drifts[0] for H in (1, 3, 6)]
    assert far[0] < far[1] < far[2]
    assert train_on(1, sync="average", sync_every=3, **SETTINGS).runs[0].drifts == [(0.0, 0.0)] * 2
    x = np.repeat(np.random.default_rng(0).standard_normal((12, 5)), 4, axis=0)
    same = zerosim.make_dataset("same", x, x[:, :2])
    settings = {**SETTINGS, "batch_size": 16, "test_fraction": 0.0, "shuffle": False, "sync": "average"}
    assert train_on(4, same, **settings).runs[0].drifts == [(0.0, 0.0)] * 6


def test_the_drift_is_the_distance_from_the_mean():
    """Of two ranks that step once with SGD: half the learning rate times the difference of their gradients."""
    settings = {**SETTINGS, "optimizer": "sgd", "steps": 1, "batch_size": 16, "hidden": (), "test_fraction": 0.0}
    data = small_data("regression", rows=16)
    (run,) = train_on(2, data, sync="average", shuffle=False, **settings).runs
    (none,) = train_on(2, data, sync="average", shuffle=False, **{**settings, "lr": 0.0}).runs
    from zerosim.rank import Rank
    from zerosim.stages import STAGES
    from zerosim.transport.threads import alone

    both = []
    for first in (0, 1):
        rank = Rank(alone(), zerosim.Config(**{**settings, "stages": (0,), "batch_size": 8}), data)
        STAGES[0].allocate(rank)
        STAGES[0].step(rank, np.arange(first, 16, 2))
        both.append(rank.gradients.copy())
    gap = 0.02 * (both[0] - both[1]) / 2
    assert run.drifts[0] == pytest.approx((np.abs(gap).max(), np.linalg.norm(gap)))
    assert none.drifts == [(0.0, 0.0)]


def test_the_figure_says_why_the_last_averaging_is_near():
    """6 steps, averaged every 4: the last point comes 2 steps after the one before."""
    report = zerosim.build_report(train_on(2, sync="average", sync_every=4, steps=6))
    above = figures.sync(report).axes[0]
    assert [text.get_text() for text in above.texts] == ["at the end,\nafter 2 steps only"]
    assert "largest single weight" in [text.get_text() for text in above.get_legend().get_texts()]
    assert not figures.sync(zerosim.build_report(train_on(2, sync="average", sync_every=3, steps=6))).axes[0].texts


def test_evaluation_is_of_one_model_and_changes_nothing():
    """An epoch ends between two averagings: evaluated is the average of the ranks, and training goes on as it was."""
    data, settings = small_data(rows=64), {**SETTINGS, "steps": None, "sync": "average", "batch_size": 16}
    two = train_on(2, data, epochs=2, sync_every=4, **settings).runs[0]
    one = train_on(2, data, steps=6, **{k: v for k, v in settings.items() if k != "steps"}, sync_every=4).runs[0]
    assert two.loss == one.loss
    early = train_on(2, data, epochs=1, sync_every=4, **settings).runs[0]
    assert early.epochs[0] == two.epochs[0]
    assert len(early.drifts) == 1, "3 steps, and one average at the end"


def test_under_mpirun(tmp_path):
    words = ["--sync", "average", "--sync-every", 4, "--steps", 10, "--hidden", 16, "--clip-norm", 0.5, "--json"]
    done = run_zerosim(3, "train", *words, cwd=tmp_path, figures=True)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["sync"]["after_steps"] == [4, 8, 10]
    assert run["sync"]["sent"]["measured"] == run["sync"]["sent"]["formula_per_rank"]
    assert (tmp_path / "zerosim-out" / "sync.png").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sync": "weights"}, "choose from gradients, average"),
        ({"sync_every": 2}, "averaged in every step"),
        ({"sync": "average", "sync_every": 0}, "sync_every"),
        ({"sync": "average", "stages": (1,)}, "stage 0 is the only one"),
        ({"sync": "average", "tensor_parallel": 2}, "tensor_parallel"),
    ],
)
def test_bad_input(settings, words):
    with pytest.raises(zerosim.InputError, match=words):
        zerosim.Config(**settings)
