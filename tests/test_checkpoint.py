"""Checkpoints: whole or not there, the same bits at the same N, the same states on any ranks, and damage is seen."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import run_zerosim, small_data, train_on

import zerosim
from zerosim import figures, weightfile
from zerosim.checkpoint import open_checkpoint, restore, resumed
from zerosim.checkpoint.manifest import MANIFEST, seal
from zerosim.checkpoint.shards import first_elements, shard_runs
from zerosim.data import convert
from zerosim.errors import Failed, Finished
from zerosim.formulas import at_rest
from zerosim.parallel import Grid
from zerosim.precision import precision
from zerosim.rank import Rank
from zerosim.stages import STAGES
from zerosim.transport import connect

RANKS = (1, 2, 3, 4, 7, 8)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What is on the disk after a loss of power no test here can see; the call is counted in one of them."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def go_on(N, folder, data=None, **changes):
    """Train on from a checkpoint on N in-process ranks."""
    config = resumed(str(folder), N, **changes)
    return zerosim.run_threads(N, lambda comm: zerosim.train(config, comm, data=data or small_data()))[0]


def without_last(folder):
    """Take the newest checkpoint away, so that the one before it is."""
    shutil.rmtree(sorted(folder.iterdir())[-1])
    return folder


def assert_same_run(one, other):
    assert one.weights_sha256 == other.weights_sha256
    assert one.loss == other.loss
    assert one.epochs == other.epochs
    assert (one.skipped_steps, one.final_loss_scale) == (other.skipped_steps, other.final_loss_scale)
    assert one.pruning == other.pruning or one.pruning["pruned"] == other.pruning["pruned"]


# the same bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("N", [1, 3, 4])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, N, precision, optimizer):
    """At each stage, from the middle of an epoch (2 steps each) and from its end in turn; all losses are there."""
    number = N + len(precision) + len(optimizer)
    for stage in range(4):
        every = 4 + (number + stage) % 2
        folder = tmp_path / str(stage)
        settings = {"stages": (stage,), "steps": 7, "precision": precision, "optimizer": optimizer}
        whole = train_on(N, checkpoint=str(folder), checkpoint_every=every, keep=9, **settings)
        assert {epoch["steps"] for epoch in whole.runs[0].epochs} == {1, 2}
        rest = go_on(N, without_last(folder), checkpoint=None, checkpoint_every=None)
        assert rest.runs[0].resumed["step"] == every
        assert_same_run(whole.runs[0], rest.runs[0])


@pytest.mark.parametrize(
    ("N", "settings"),
    [
        (2, {"grad_accum": 2, "clip_norm": 0.1}),
        (3, {"slices": (1, 3, 2), "bucket": 10, "collective": "pairwise"}),
        (4, {"tensor_parallel": 2, "precision": "fp16"}),
        (4, {"pipeline": 2, "grad_accum": 2, "checkpoint_activations": True}),
        (2, {"prune_groups": 0.5, "prune_mode": "zero", "prune_by": 4}),
        (2, {"prune_groups": 0.3, "precision": "fp32", "shuffle": False}),
        (2, {"precision": "fp16", "lr": 3.0}),
    ],
)
def test_with_other_settings_too(tmp_path, N, settings):
    both = {"stages": (2,), "steps": 9, "hidden": (6, 5), "batch_size": 18, **settings}
    whole = train_on(N, checkpoint=str(tmp_path / "c"), checkpoint_every=5, **both)
    rest = go_on(N, without_last(tmp_path / "c"), checkpoint=None, checkpoint_every=None)
    assert_same_run(whole.runs[0], rest.runs[0])


def test_skipped_steps_and_the_loss_scale_are_taken_up(tmp_path):
    """Rows so large that fp16 overflows at first: the scale falls several times before and after the checkpoint."""
    data = small_data(scale=200.0)
    settings = {"precision": "fp16", "steps": 12, "stages": (1,), "lr": 1e-4}
    whole = train_on(2, data, checkpoint=str(tmp_path / "c"), checkpoint_every=4, keep=4, **settings)
    for _ in range(2):
        without_last(tmp_path / "c")
    rest = go_on(2, tmp_path / "c", data, checkpoint=None, checkpoint_every=None)
    assert rest.runs[0].resumed["step"] == 4
    assert whole.runs[0].skipped_steps > 4
    assert_same_run(whole.runs[0], rest.runs[0])


def test_a_run_can_be_made_longer(tmp_path):
    """Its last checkpoint goes on for more steps, as one that was as long from the beginning, cut epoch or not."""
    long = train_on(2, stages=(3,), steps=9)
    train_on(2, stages=(3,), steps=5, checkpoint=str(tmp_path / "c"))
    rest = go_on(2, tmp_path / "c", steps=9)
    assert_same_run(long.runs[0], rest.runs[0])
    assert [path.name for path in sorted((tmp_path / "c").iterdir())] == ["step-00000008", "step-00000009"]
    early = train_on(2, stages=(3,), steps=None, epochs=9, target_loss=100.0, checkpoint=str(tmp_path / "e"))
    assert early.runs[0].stopped == "target_loss"
    with pytest.raises(Finished, match="the training is over after 2 steps"):
        go_on(2, tmp_path / "e")


# other ranks, another stage ------------------------------------------------------------------------------------------

HIDDEN, BUCKET = (9, 6), 20
WIDTHS = [5, *HIDDEN, 3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints by (N, stage) and the states in full that the first of their ranks, reading alone, has of each."""
    made = {}

    def checkpoint(N, stage, **settings):
        key = (N, stage, *settings.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("c")
            train_on(N, stages=(stage,), steps=3, checkpoint=str(folder), **{"hidden": HIDDEN, **settings})
            made[key] = folder, full_states(folder)
        return made[key]

    return checkpoint


def full_states(folder):
    """All that is in a checkpoint, by the names of its tensors, put together from the files by themselves."""
    from safetensors.numpy import load_file

    checkpoint = open_checkpoint(str(folder))
    own = checkpoint.manifest
    states = {}
    for rank in range(own.grid.size):
        runs = shard_runs(own.widths, own.grid, own.bucket, rank)
        numbers = np.concatenate([np.arange(s, s + n) for s, n in zip(runs.starts, runs.lengths, strict=True)] or [[]])
        for name, values in load_file(checkpoint.folder / own.shards[rank].file).items():
            states.setdefault(name, np.full(first_elements(own.widths)[-1], np.nan, values.dtype))
            assert np.isnan(states[name][numbers.astype(int)]).all(), "each element is one rank's"
            states[name][numbers.astype(int)] = values
    assert not any(np.isnan(values).any() for values in states.values())
    return states


def load_on(M, folder, stage, **changes):
    """What each of M ranks has after loading at a stage: (numbers, states, parameters, peak of the ledger)."""
    config = resumed(str(folder), M, stages=(stage,), bucket=BUCKET, checkpoint=None, checkpoint_every=None, **changes)
    config = dataclasses.replace(config, test_fraction=0.25)

    def load(comm):
        numerics = precision(config.precision)
        rank = Rank(connect(comm), config, convert(small_data(), numerics.dtype, numerics.compute))
        STAGES[stage].allocate(rank)
        restore(rank, open_checkpoint(str(folder)))
        runs = shard_runs(WIDTHS, rank.grid, BUCKET, rank.world.rank)
        pairs = zip(runs.starts, runs.lengths, strict=True)
        numbers = np.concatenate([np.zeros(0, int), *(np.arange(s, s + n) for s, n in pairs)])
        own = {name: values(rank, vector) for name, vector in {"weights": rank.parameters, **rank.states}.items()}
        longest = max(bucket.part.stop - bucket.part.start for bucket in rank.layout.buckets())
        return numbers, own, rank.ledger.peak["total"], longest * numerics.compute.itemsize, rank.optimizer.t

    return zerosim.run_threads(M, load)


def values(rank, vector):
    """A rank's own numbers in a vector, without padding."""
    own = [np.asarray(rank.own(vector, b))[: max(0, b.stop - b.start - b.part.start)] for b in rank.layout.buckets()]
    return np.concatenate(own)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("N", RANKS)
def test_any_ranks_at_any_stage_read_it(saved, N, stage):
    """Each pair of ranks with each stage of both: the same states to the bit, never more held than share and slice.

    The stage that reads takes turns, so that each of three among ranks and stages, before and after, meet.
    """
    folder, states = saved(N, stage)
    for i, M in enumerate(RANKS):
        t = (i + RANKS.index(N) + stage) % 4
        seen = np.zeros(len(states["parameters"]), int)
        for rank, (numbers, own, peak, slice_, step) in enumerate(load_on(M, folder, t)):
            seen[numbers] += 1
            np.testing.assert_array_equal(own["master"], states["parameters"][numbers])
            np.testing.assert_array_equal(own["weights"], states["parameters"][numbers].astype(np.float16))
            for name in ("momentum", "variance"):
                np.testing.assert_array_equal(own[name], states[name][numbers])
            share = sum(at_rest(t, WIDTHS, M, "fp16", "adam", rank=rank).values())
            assert peak == share + slice_, "its share and one slice in full precision"
            assert step == open_checkpoint(str(folder)).manifest.state["optimizer"]["t"]
        assert (seen == 1).all()


@pytest.mark.parametrize(
    "grid",
    [
        {"tensor_parallel": 2},
        {"tensor_parallel": 3, "pipeline": 2},
        {"pipeline_layers": (2, 1)},
        {"slices": (3, 1, 1, 1, 1, 2)},
        {"slices": (1, 5), "tensor_parallel": 3},
    ],
)
def test_any_grid_reads_that_of_any_other(saved, grid):
    for other in ({}, {"tensor_parallel": 2, "pipeline": 3}, {"slices": (1, 2, 3, 4, 5, 6), "bucket": 7}):
        folder, states = saved(6, 2, precision="fp32", optimizer="momentum", **other)
        plain = {"tensor_parallel": 1, "pipeline": 1, "pipeline_layers": None, "slices": None}
        seen = np.zeros(len(states["parameters"]), int)
        for numbers, own, *_ in load_on(6, folder, 3, **{**plain, **grid}):
            seen[numbers] += 1
            np.testing.assert_array_equal(own["weights"], states["parameters"][numbers])
            np.testing.assert_array_equal(own["momentum"], states["momentum"][numbers])
        assert (seen == 1).all()


def test_numbers_of_elements_by_hand():
    """A layer of 2 inputs and 4 outputs between two tensor-parallel ranks: two rows each, then two biases."""
    runs = [shard_runs([2, 4, 2], Grid(2, 2), 0, rank) for rank in (0, 1)]
    assert [[(int(s), int(n)) for s, n in zip(*own, strict=True)] for own in runs] == [
        [(0, 4), (8, 2), (12, 2), (16, 2), (20, 2)],  # W0, b0; of W1 two columns of each row, and its b
        [(4, 4), (10, 2), (14, 2), (18, 2)],
    ]


# whole or not there --------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """As if the machine had gone."""


def crash_at(monkeypatch, number):
    """Let the `number`-th call that changes the disk be the last one; return the list of calls."""
    calls = []

    def wrap(owner, name):
        real = getattr(owner, name)

        def call(*args, **options):
            calls.append(name)
            if len(calls) == number:
                raise Crash
            if len(calls) > number:
                raise Crash  # a machine that has gone does nothing more
            return real(*args, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (Path, "mkdir"),
        (Path, "rename"),
        (Path, "unlink"),
        (Path, "write_text"),
        (os, "replace"),
        (os, "fsync"),
        (shutil, "rmtree"),
        (weightfile.TensorWriter, "_put"),
    ):
        wrap(owner, name)
    return calls


def test_a_crash_at_any_instant_leaves_whole_checkpoints(tmp_path):
    """A run that dies at any call by which a checkpoint comes to be: what is there is whole, and goes on to the bit."""
    settings = {"stages": (1,), "steps": 3, "checkpoint_every": 1, "keep": 1}
    whole = train_on(1, **settings, checkpoint=str(tmp_path / "whole"))
    number, died = 0, True
    while died:
        number += 1
        folder = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            calls = crash_at(patch, number)
            try:
                zerosim.train(config_of(folder, settings), data=small_data())
                died = False
            except Crash:
                pass
        found = sorted(path.name for path in folder.glob("step-*")) if folder.exists() else []
        for name in found:
            open_checkpoint(str(folder / name)).verify()
        if not died:
            break
        assert len(found) <= 2, "one, and the one that takes its place"
        if found and found[-1] == "step-00000003":
            continue  # it died after its last checkpoint
        rest = zerosim.train(resumed(str(folder)) if found else config_of(folder, settings), data=small_data())
        assert rest.runs[0].weights_sha256 == whole.runs[0].weights_sha256
        assert [path.name for path in folder.iterdir()] == ["step-00000003"], "nothing of the crash is left"
    assert number > 40
    assert {"fsync", "rename", "replace", "rmtree", "_put"} <= set(calls)


def config_of(folder, settings):
    small = {"test_fraction": 0.25, "hidden": (7,), "batch_size": 16}
    return zerosim.Config(**small, **settings, checkpoint=str(folder))


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Each file, then the folder aside, is flushed before the rename, and the folder that has the new name after it."""
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: (calls.append("rename"), rename(self, to))[1])
    zerosim.train(config_of(tmp_path / "c", {"stages": (0,), "steps": 1}), data=small_data())
    before, after = calls[: calls.index("rename")], calls[calls.index("rename") + 1 :]
    assert [Path(call).name.split(".")[0] for call in before[:2]] == ["rank-0000", "manifest"]
    assert [Path(call).name[:15] for call in before[2:]] == [".step-00000001."]
    assert [Path(call).name for call in after] == ["c"]


def test_a_full_disk_is_told_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    put, written = weightfile.TensorWriter._put, []

    def full(self, octets):
        written.append(len(octets))
        if len(written) > 60:
            raise OSError(28, "No space left on device")
        put(self, octets)

    monkeypatch.setattr(weightfile.TensorWriter, "_put", full)
    with pytest.raises(
        Failed, match=r"cannot be written \(No space left on device\); the newest whole one is .*step-0"
    ):
        train_on(2, stages=(2,), steps=9, checkpoint=str(tmp_path / "c"), checkpoint_every=1, keep=3)
    monkeypatch.undo()
    left = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert left
    assert all(name.startswith("step-") for name in left), "nothing half done"
    for name in left:
        open_checkpoint(str(tmp_path / "c" / name)).verify()


def test_the_last_are_kept(tmp_path):
    train_on(2, stages=(2,), steps=7, checkpoint=str(tmp_path / "c"), checkpoint_every=2, keep=3)
    assert [path.name[-1] for path in sorted((tmp_path / "c").iterdir())] == ["4", "6", "7"]
    train_on(2, stages=(2,), steps=5, checkpoint=str(tmp_path / "d"), keep=9)
    assert [path.name[-1] for path in sorted((tmp_path / "d").iterdir())] == ["2", "4", "5"], "after each epoch"


# damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    train_on(2, stages=(2,), steps=4, checkpoint=str(folder), checkpoint_every=2)
    return folder


@pytest.fixture
def copy(good, tmp_path):
    shutil.copytree(good, tmp_path / "c")
    return tmp_path / "c" / "step-00000004"


def flip(path, at):
    octets = bytearray(path.read_bytes())
    octets[at] ^= 4
    path.write_bytes(octets)


def rewrite(folder, change):
    """Change the manifest, and seal it again: somebody means it."""
    value = json.loads((folder / MANIFEST).read_text())
    change(value)
    (folder / MANIFEST).write_text(json.dumps(seal({k: v for k, v in value.items() if k != "sha256"})))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: flip(c / "rank-0001.safetensors", -3), "its SHA-256 is not the manifest's.* the one before it is"),
        (lambda c: flip(c / "rank-0000.safetensors", 9), "rank-0000.safetensors: its SHA-256 is not the manifest's"),
        (lambda c: os.truncate(c / "rank-0001.safetensors", 100), "it has 100 bytes; the manifest says"),
        (lambda c: (c / "rank-0000.safetensors").unlink(), "rank-0000.safetensors: there is no such file"),
        (lambda c: flip(c / MANIFEST, 200), "not JSON|SHA-256 is not that of its contents|schema|not text"),
        (lambda c: (c / MANIFEST).unlink(), "cannot be read"),
        (lambda c: (c / MANIFEST).write_text("{}"), "its schema is None"),
        (lambda c: (c / MANIFEST).write_text("[1]"), "one JSON object"),
        (
            lambda c: shutil.copy(c.parent / "step-00000002" / MANIFEST, c / MANIFEST),
            "it is of step 2, in a folder named step-00000004",
        ),
        (
            lambda c: rewrite(c, lambda m: m["shards"][1].update(file="../../rank-0001.safetensors")),
            "rank 1's shard is '../../rank-0001.safetensors'",
        ),
        (lambda c: rewrite(c, lambda m: m["shards"][1].update(file="/etc/passwd")), "it must be rank-0001.safetensors"),
        (lambda c: rewrite(c, lambda m: m["shards"].pop()), "1 shards, 2 ranks"),
        (
            lambda c: rewrite(c, lambda m: (m["model"].update(layers=[10**9, 10**9]), m["config"].update(hidden=[]))),
            "too short for the model",
        ),
        (lambda c: rewrite(c, lambda m: m["model"].update(layers=[5, 8, 3])), "not those of the settings"),
        (lambda c: rewrite(c, lambda m: m.update(precision="fp64")), "not those of the settings"),
        (
            lambda c: rewrite(c, lambda m: m.update(tensors=["momentum"])),
            "the tensors of adam are parameters, momentum",
        ),
        (lambda c: rewrite(c, lambda m: m.update(tensors=["parameters"] * 3)), "the tensors of adam are"),
        (lambda c: rewrite(c, lambda m: m["config"].update(optimizer="lion")), "not understood"),
        (lambda c: rewrite(c, lambda m: m["layout"].update(tensor_parallel=0)), "not understood"),
        (lambda c: rewrite(c, lambda m: m.update(state=[])), "not understood"),
        (lambda c: rewrite(c, lambda m: m["state"]["loss"].pop()), "3 losses"),
        (lambda c: rewrite(c, lambda m: m.update(run="another")), "belongs to another run"),
        (lambda c: rewrite(c, lambda m: m["position"].update(stage=7)), "no stage 7"),
        (lambda c: rewrite(c, lambda m: m["state"]["optimizer"].update(t=0)), "0 steps of the optimizer"),
        (lambda c: rewrite(c, lambda m: m["state"]["loss_scale"].update(value=3.3)), "no loss scale"),
        (lambda c: rewrite(c, lambda m: m["layout"].update(slices=[1, 3])), "is not .* numbers"),
        (lambda c: rewrite(c, lambda m: m["config"].update(nonsense=1)), "nonsense in its manifest is not known"),
    ],
)
def test_damage_is_seen_before_any_training(copy, damage, words):
    damage(copy)
    with pytest.raises(zerosim.InputError, match=words):
        go_on(2, copy, steps=9)


def test_a_link_out_of_the_folder_is_not_followed(copy, tmp_path):
    shutil.move(copy / "rank-0001.safetensors", tmp_path / "elsewhere")
    (copy / "rank-0001.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(zerosim.InputError, match="no file of its own"):
        go_on(2, copy, steps=9)


def test_shards_of_another_run_are_seen(copy, tmp_path):
    """The same sizes, the same step, whole by itself: but of another seed."""
    train_on(2, stages=(2,), steps=4, seed=5, checkpoint=str(tmp_path / "other"))
    other = tmp_path / "other" / "step-00000004"
    shutil.copy(other / "rank-0001.safetensors", copy / "rank-0001.safetensors")
    with pytest.raises(zerosim.InputError, match="SHA-256 is not the manifest's"):
        go_on(2, copy, steps=9)


def test_the_one_before_is_named_if_the_newest_is_damaged(copy):
    os.truncate(copy / "rank-0000.safetensors", 9)
    with pytest.raises(zerosim.InputError, match=r"has 9 bytes; .* the one before it is .*step-00000002"):
        go_on(2, copy.parent, steps=9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": "sgd"}, "it was made with optimizer adam, which cannot become sgd"),
        ({"hidden": (8,)}, "it was made with hidden 7"),
        ({"precision": "fp32"}, "precision fp16"),
        ({"batch_size": 8}, "batch_size 16"),
        ({"seed": 1}, "seed 0"),
        ({"init": "w.safetensors"}, "the weights of a training that goes on"),
        ({"stages": (0, 1)}, "one stage at a time"),
        ({"sync": "average", "stages": (0,)}, "states of their own"),
    ],
)
def test_what_cannot_go_on_is_refused(copy, changes, words):
    with pytest.raises(zerosim.InputError, match=words):
        go_on(2, copy, **{"steps": 9, **changes})


def test_what_a_checkpoint_names_is_neither_run_nor_written(copy, tmp_path):
    """Somebody else's manifest may say anything: its collective in a file is not run, and nothing is saved for it."""
    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    rewrite(copy, lambda m: m["config"].update(collective=f"{tmp_path}/evil.py:f"))
    with pytest.raises(zerosim.InputError, match="no file is run because a checkpoint names it"):
        go_on(2, copy, steps=9)
    rewrite(
        copy, lambda m: m["config"].update(collective="ring", save=str(tmp_path / "saved"), out=str(tmp_path / "o"))
    )
    config = resumed(str(copy), 2)
    assert (config.save, config.out) == (None, "zerosim-out")


def test_pruning_begins_after_a_checkpoint(copy):
    """The steps before have pruned nothing; books, raster and figure are of all of them."""
    report = zerosim.build_report(go_on(2, copy, steps=9, prune_groups=0.5))
    assert [sum(map(int, cells.split())) for cells in report["runs"][0]["pruning"]["record"]["pruned"]][:4] == [0] * 4
    own = report["runs"][0]["pruning"]["traffic"]
    assert own["measured"] == own["formula_per_rank"]
    assert figures.pruning(report) is not None


@pytest.mark.parametrize("name", ["", 5, None])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(zerosim.InputError, match="must be the name of a folder"):
        resumed(name)


def test_other_rows_are_refused(copy):
    with pytest.raises(zerosim.InputError, match="made with other data"):
        go_on(2, copy, small_data(seed=2), steps=9)


def test_a_folder_with_other_checkpoints_is_refused(copy, tmp_path):
    with pytest.raises(
        zerosim.InputError, match="the newest there is step-00000004, which this run does not go on from"
    ):
        train_on(2, stages=(2,), checkpoint=str(copy.parent))
    with pytest.raises(zerosim.InputError, match="the newest there is step-00000004"):
        go_on(2, copy.with_name("step-00000002"), steps=9)
    go_on(2, copy.with_name("step-00000002"), steps=9, checkpoint=str(tmp_path / "new"))
    (tmp_path / "file").write_text("")
    with pytest.raises(zerosim.InputError, match="cannot be written"):
        train_on(2, stages=(2,), checkpoint=str(tmp_path / "file" / "c"))
    with pytest.raises(zerosim.InputError, match="there is no such folder"):
        resumed(str(tmp_path / "nowhere"))
    with pytest.raises(zerosim.InputError, match="holds no checkpoint"):
        resumed(str(tmp_path))


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    """The second is refused while the first is running, and touches nothing of it; then it may go on from it."""
    config = config_of(tmp_path / "c", {"stages": (1,), "steps": 4, "checkpoint_every": 2})
    refused = []

    def meanwhile(stage, step, steps, loss):
        with pytest.raises(zerosim.InputError, match="another run is writing there"):
            zerosim.train(config, data=small_data())
        refused.append(step)

    zerosim.train(config, data=small_data(), progress=meanwhile)
    assert refused == [1, 2, 3, 4]
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert zerosim.train(resumed(str(tmp_path / "c"), steps=5), data=small_data()).runs[0].resumed["step"] == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint": "c"}, "one stage at a time"),
        ({"checkpoint": "c", "stages": (0,), "sync": "average"}, "states of their own"),
        ({"checkpoint_every": 3}, "no effect without checkpoint"),
        ({"checkpoint": "c", "stages": (1,), "checkpoint_every": 0}, "checkpoint_every"),
        ({"checkpoint": "c", "stages": (1,), "keep": 0}, "keep"),
        ({"checkpoint": "", "stages": (1,)}, "name of a file or folder"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(zerosim.InputError, match=words):
        zerosim.Config(**settings)


# under mpirun --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("N", "M"), [(2, 3), (4, 4)])
def test_under_mpirun(tmp_path, N, M):
    small = ["--hidden", "16", "--stage", "3", "--json"]
    done = run_zerosim(N, "train", *small, "--steps", 9, "--checkpoint", "c", "--checkpoint-every", 6, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)["runs"][0]
    shutil.rmtree(tmp_path / "c" / "step-00000009")
    done = run_zerosim(M, "train", "--resume", "c", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rest = json.loads(done.stdout)["runs"][0]
    assert rest["loss"][:6] == whole["loss"][:6]
    np.testing.assert_allclose(rest["loss"], whole["loss"], rtol=1e-3)
    if N == M:
        assert rest["weights_sha256"] == whole["weights_sha256"]
    flip(tmp_path / "c" / "step-00000009" / "rank-0000.safetensors", -1)
    done = run_zerosim(M, "train", "--resume", "c", "--steps", 12, cwd=tmp_path)
    assert done.returncode == 2
    assert "rank-0000.safetensors: its SHA-256 is not the manifest's" in done.stderr
    assert done.stderr.count("\n") == 1
