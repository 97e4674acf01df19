"""Model parallelism: T x D x P ranks do the mathematics of one rank, and their books equal the formulas."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
from conftest import run_zerosim, small_data, train_on

import zerosim
from zerosim import figures, formulas
from zerosim.cluster import PRESETS
from zerosim.virtual import replay

HIDDEN = (12, 8, 9)
SETTINGS = {"hidden": HIDDEN, "batch_size": 22, "steps": 5, "grad_accum": 2, "optimizer": "sgd", "lr": 0.05}
GRIDS = [(T, D, P) for T in (1, 2, 4) for P in (1, 2, 4) for D in (1, 2, 3) if T * D * P <= 16]


def data(task):
    return small_data(task, rows=80, features=6, outputs=5)


def read(path):
    from safetensors.numpy import load_file

    return load_file(path)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """Weights of one rank, by task, precision and clipping."""
    made = {}

    def weights(task, precision, clip_norm):
        key = (task, precision, clip_norm)
        if key not in made:
            file = tmp_path_factory.mktemp("one") / "w.safetensors"
            train_on(1, data(task), **SETTINGS, stages=(0,), precision=precision, clip_norm=clip_norm, save=str(file))
            made[key] = read(file)
        return made[key]

    return weights


def assert_books(records):
    report = zerosim.build_report(records)
    for run in report["runs"]:
        traffic = run["traffic"]
        assert zerosim.report.total_sent(run)[2]
        books = [run["memory"]["at_rest"], traffic["per_step"], *traffic["model_parallel"].values()]
        for book in books:
            assert book["measured"] == book["formula_per_rank"]
        assert sum(traffic["sent"]) == sum(traffic["received"])
        assert traffic["messages"] == traffic["messages_formula"]
    return report


@pytest.mark.parametrize(
    ("grid", "task"),
    [
        (grid, task)
        for number, grid in enumerate(GRIDS)
        for task in ("classification", "regression")
        if np.prod(grid) < 9 or task == ("classification", "regression")[number % 2]
    ],
)
def test_every_grid_does_the_mathematics_of_one_rank(tmp_path, one_rank, grid, task):
    """In float64 to 1e-12, clipped (which needs the norm of the whole gradient), at every stage, with the same bits.

    Grids of 9 ranks and more do one task of the two, in turn.
    """
    T, D, P = grid
    file = tmp_path / "w.safetensors"
    settings = {**SETTINGS, "precision": "fp64", "clip_norm": 0.3, "tensor_parallel": T, "pipeline": P}
    records = train_on(T * D * P, data(task), save=str(file), **settings)
    for name, value in one_rank(task, "fp64", 0.3).items():
        np.testing.assert_allclose(read(file)[name], value, rtol=0, atol=1e-12)
    hashes = [run.weights_sha256 for run in records.runs]
    assert hashes[0] == hashes[1]
    assert hashes[2] == hashes[3]
    assert_books(records)


# activations ---------------------------------------------------------------------------------------------------------

DEEP = (8, 12, 7, 9, 10, 6)


@cache
def plainly(N, **settings):
    return train_on(N, data("classification"), **settings)


@pytest.mark.parametrize(("every", "turn"), [(None, False), (2, True), (3, False), (7, True)])
@pytest.mark.parametrize(
    ("T", "D", "P", "precision"),
    [(1, 1, 1, "fp32"), (1, 3, 1, "bf16"), (2, 2, 1, "fp16"), (3, 1, 1, "fp32"), (1, 2, 2, "fp16"), (2, 1, 3, "fp32")],
)
def test_checkpointing_keeps_every_bit(T, D, P, every, turn, precision):
    """Whatever is kept, cut, put away or made again: same weights, and books that equal the formulas.

    Kept inputs are put away or not; cut or not with each of both, in turn.
    """
    settings = {
        "hidden": DEEP,
        "batch_size": 25,
        "steps": 2,
        "grad_accum": 2,
        "precision": precision,
        "tensor_parallel": T,
        "pipeline": P,
    }
    plain = plainly(T * D * P, **settings)
    for cpu, partition in {(False, turn and T > 1), (True, not turn and T > 1)}:
        how = {"checkpoint_activations": every, "cpu_checkpointing": cpu, "partition_activations": partition}
        records = train_on(T * D * P, data("classification"), **settings, **how)
        for one, other in zip(plain.runs, records.runs, strict=True):
            assert one.weights_sha256 == other.weights_sha256
            assert one.loss == other.loss
        report = assert_books(records)
        for run in report["runs"]:
            for what, book in run["memory"]["activations"].items():
                assert book["measured"] == book["formula_per_rank"], (what, how)


def test_checkpointing_lowers_the_peak_and_computes_again():
    """Of 16 equal layers every 4th input is kept: far less is held, and 12 of 16 layers are computed twice."""
    settings = {"hidden": (32,) * 15, "precision": "fp32", "stages": (0, 3), "batch_size": 64, "steps": 2}
    wide = small_data(rows=200, features=32, outputs=32)
    plain, kept = (train_on(2, wide, **settings, checkpoint_activations=how) for how in (None, True))
    assert kept.config.checkpoint_activations == 4
    for before, after in zip(plain.runs, kept.runs, strict=True):
        assert max(after.activations["device"]) < 0.6 * max(before.activations["device"])
        assert (before.activations["recomputed"], after.activations["recomputed"]) == ([0, 0], [12, 12])
        assert after.work[0]["operations"] > before.work[0]["operations"]
    gathers = [run.sent_per_step["data"][0]["all_gather"] for run in (plain.runs[1], kept.runs[1])]
    assert gathers[1] == pytest.approx(gathers[0] * 44 / 32, rel=0.01), "each layer computed again is gathered again"


# other settings of a grid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collective", ["ring", "halving", "pairwise", "doubling", "bruck", "auto", "hierarchical:2"])
def test_grids_with_every_algorithm(collective):
    """Also of vectors that tensor-parallel ranks cannot cut equally, and with slices that are not to be equal."""
    for hidden, slices in (((8, 8, 8), None), ((5, 9, 5), (1, 3))):
        settings = {"hidden": hidden, "batch_size": 23, "precision": "fp16", "collective": collective}
        records = train_on(8, data("classification"), tensor_parallel=4, bucket=50, slices=slices, **settings)
        assert len({run.weights_sha256 for run in records.runs}) == 1
        assert_books(records)


@pytest.mark.parametrize(
    ("N", "settings"),
    [
        (2, {"slices": (7, 1), "grad_accum": 2}),
        (3, {"slices": (1, 2, 3), "bucket": 20}),
        (4, {"slices": (4, 2, 2, 1), "clip_norm": 0.1}),
        (6, {"slices": (5, 1), "tensor_parallel": 3}),
        (6, {"slices": (1, 1, 4), "pipeline": 2, "grad_accum": 2}),
        (3, {"slices": (2, 1, 1), "checkpoint_activations": True, "collective": "pairwise"}),
    ],
)
def test_uneven_slices(tmp_path, one_rank, N, settings):
    """One rank's mathematics, the same bits at every stage, and books that equal the formulas of unequal shares."""
    file = tmp_path / "w.safetensors"
    both = {**SETTINGS, "grad_accum": 1, "precision": "fp64", **settings}
    train_on(N, data("regression"), save=str(file), stages=(3,), **both)
    train_on(
        1,
        data("regression"),
        save=str(one := tmp_path / "one.safetensors"),
        stages=(0,),
        **SETTINGS | {"precision": "fp64", "clip_norm": settings.get("clip_norm")},
    )
    for name, value in read(one).items():
        np.testing.assert_allclose(read(file)[name], value, rtol=0, atol=1e-12)
    for precision, optimizer in (("fp16", "adam"), ("bf16", "momentum")):
        records = train_on(N, data("classification"), **{**both, "precision": precision, "optimizer": optimizer})
        hashes = [run.weights_sha256 for run in records.runs]
        assert hashes[0] == hashes[1]
        assert hashes[2] == hashes[3]
        assert both["grad_accum"] > 1 or hashes[0] == hashes[2]
        shares = assert_books(records)["grid"]["shares"]
        assert shares == list(settings["slices"])
        for stage, cls in ((1, "optimizer_states"), (2, "gradients"), (3, "parameters")):
            held = records.runs[stage].at_rest
            for rank, share in enumerate(shares):
                whole, own = (
                    sum(held[other][cls] for other in range(N) if records.grid.place(other)[1] == d) for d in (0, rank)
                )
                assert own * shares[0] == whole * share, "in proportion"


@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (2, 1, 1)])
@pytest.mark.parametrize("T", [1, 2])
def test_uneven_layers_on_a_pipeline(one_rank, tmp_path, T, counts):
    file = tmp_path / "w.safetensors"
    settings = {**SETTINGS, "precision": "fp64", "pipeline_layers": counts, "tensor_parallel": T}
    records = train_on(T * 2 * len(counts), data("regression"), save=str(file), **settings)
    for name, value in one_rank("regression", "fp64", None).items():
        np.testing.assert_allclose(read(file)[name], value, rtol=0, atol=1e-12)
    report = assert_books(records)
    assert [len(rank["layers"]) for rank in report["grid"]["ranks"]][:: 2 * T] == list(counts)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_all_stages_end_with_the_same_bits_on_a_grid(optimizer, precision):
    settings = {"hidden": HIDDEN, "batch_size": 24, "steps": 4, "clip_norm": 0.2, "bucket": 30}
    records = train_on(
        8, data("classification"), optimizer=optimizer, precision=precision, tensor_parallel=2, **settings
    )
    assert len({run.weights_sha256 for run in records.runs}) == 1
    both = train_on(
        8, data("classification"), optimizer=optimizer, precision=precision, tensor_parallel=2, pipeline=2, **settings
    )
    assert len({run.weights_sha256 for run in both.runs}) == 1
    assert_books(both)


def test_accumulation_on_a_grid_agrees_in_pairs():
    settings = {"hidden": HIDDEN, "batch_size": 24, "precision": "fp64", "grad_accum": 2, "tensor_parallel": 2}
    a, b, c, d = (run.weights_sha256 for run in train_on(4, data("classification"), **settings).runs)
    assert (a, c) == (b, d)
    assert a != c, "the pairs add in different orders"
    assert len({run.weights_sha256 for run in train_on(2, data("classification"), **settings).runs}) == 1


def test_a_pipeline_keeps_the_bits_of_one_rank_with_as_many_micro_batches():
    """The gradients of micro-batches are added in the same order, and a layer's products are the same."""
    settings = {"hidden": HIDDEN, "batch_size": 24, "grad_accum": 4, "precision": "fp16"}
    one, four = (train_on(P, data("classification"), pipeline=P, **settings) for P in (1, 4))
    assert [run.weights_sha256 for run in one.runs] == [run.weights_sha256 for run in four.runs]


def test_a_clipped_pipeline_agrees_to_the_last_bit(tmp_path):
    """The norm is summed over pipeline ranks, so in another order than on one rank."""
    settings = {"hidden": (40, 30, 20), "batch_size": 16, "grad_accum": 4, "precision": "fp64", "stages": (0,)}
    files = [tmp_path / f"{P}.safetensors" for P in (1, 2)]
    for P, file in enumerate(files, 1):
        train_on(P, small_data(), pipeline=P, clip_norm=0.05, optimizer="momentum", save=str(file), **settings)
    one, two = map(read, files)
    for name, value in one.items():
        assert value.dtype == np.float64
        np.testing.assert_allclose(two[name], value, rtol=0, atol=1e-15)


def test_weights_from_a_file_fit_any_grid(tmp_path):
    """Saved on one grid, loaded on another, saved again without learning: the same file."""
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    settings = {"hidden": HIDDEN, "batch_size": 24, "precision": "fp32"}
    train_on(4, data("classification"), save=str(first), tensor_parallel=2, pipeline=2, **settings)
    train_on(
        6, data("classification"), init=str(first), save=str(second), lr=0.0, tensor_parallel=3, bucket=9, **settings
    )
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("N", "settings", "words"),
    [
        (4, {"tensor_parallel": 3}, "multiple of 3"),
        (6, {"tensor_parallel": 2, "pipeline": 2}, "2 tensor-parallel x 2 pipeline"),
        (4, {"pipeline": 4, "hidden": (3,)}, "4 ranks are too many for 2 layers"),
        (4, {"tensor_parallel": 4, "hidden": (3,)}, "layer of width 3"),
        (2, {"tensor_parallel": 2, "hidden": (8, 6), "data": small_data("regression", outputs=1)}, "layer of width 1"),
        (4, {"pipeline_layers": (1, 2), "hidden": (3,)}, "the model has 2"),
        (2, {"straggler": (2, 3.0)}, "there is no rank 2"),
        (3, {"slices": (2, 1)}, "for 2 data-parallel ranks; there are 3"),
        (4, {"slices": (2, 1, 1, 1), "tensor_parallel": 2}, "for 4 data-parallel ranks; there are 2"),
        (
            4,
            {"tensor_parallel": 4, "batch_size": 3, "grad_accum": 4},
            "a batch of 3 rows is too small for 1 rank with 4 micro-steps",
        ),
    ],
)
def test_what_does_not_fit_is_refused(N, settings, words):
    with pytest.raises(zerosim.InputError, match=words):
        train_on(N, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"pipeline": True}, "pipeline"),
        ({"pipeline_layers": (1, 0)}, "one layer at least"),
        ({"pipeline_layers": (1, 1), "pipeline": 3}, "pipeline is 3"),
        ({"slices": (2, 0)}, "one part at least"),
        ({"slices": ()}, "one part at least"),
        ({"slices": "two,1"}, "whole numbers"),
        ({"partition_activations": True}, "give tensor_parallel too"),
        ({"checkpoint_activations": 0}, "checkpoint_activations"),
        ({"straggler": "1:0.5"}, "1 or more"),
        ({"straggler": "1:nan"}, "finite number of 1 or more"),
        ({"straggler": [1.7, 2]}, "whole number"),
        ({"straggler": [True, 2]}, "whole number"),
        ({"straggler": [float("inf"), 2]}, "whole number"),
        ({"straggler": {}}, "RANK:FACTOR"),
        ({"cluster": 5}, "a name or a file"),
        ({"cluster": None}, "a name or a file"),
        ({"slices": {}}, "list of whole numbers"),
        ({"straggler": "one:2"}, "RANK:FACTOR"),
        ({"cluster": "mars"}, "not known"),
        ({"cluster": "this-machine"}, "collectives bench"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(zerosim.InputError, match=words):
        zerosim.Config(**settings)


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (4, ["--tensor-parallel", 2, "--stage", 2]),
        (4, ["--tensor-parallel", 2, "--pipeline", 2, "--grad-accum", 4, "--stages", "0,3"]),
        (3, ["--tensor-parallel", 3, "--checkpoint-activations", "--partition-activations", "--cpu-checkpointing"]),
        (2, ["--pipeline-layers", "2,1", "--grad-accum", 2, "--straggler", "1:2", "--collective", "native"]),
        (3, ["--slices", "3,1,2", "--stages", "1,3"]),
    ],
)
def test_grids_under_mpirun(tmp_path, n, words):
    done = run_zerosim(n, "train", "--hidden", "24,16", "--steps", 3, "--json", *words, cwd=tmp_path, figures=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["backend"] == "mpi"
    for run in report["runs"]:
        books = [run["memory"]["at_rest"], run["traffic"]["per_step"], *run["traffic"]["model_parallel"].values()]
        for book in (*books, *run["memory"]["activations"].values()):
            assert book["measured"] == book["formula_per_rank"]
        assert run["traffic"]["sent_equals_received"]
    names = {file.name for file in (tmp_path / "zerosim-out").iterdir()}
    assert ("waiting.png" in names) == any(w in words for w in ("--pipeline", "--pipeline-layers", "--slices"))


def test_the_recorded_step_is_one_that_updates():
    """Of a run that begins with skipped steps, the timeline and the virtual clock have the first one that counts."""
    records = train_on(2, small_data(scale=40.0), precision="fp16", steps=16, stages=(1,), lr=1e-4)
    assert records.runs[0].skipped_steps > 2
    assert all(work["updated"] > 0 for work in records.runs[0].work)


# who waits for whom --------------------------------------------------------------------------------------------------


def link(alpha=0.0, bandwidth=1e12):
    return dataclasses.replace(
        PRESETS["dgx-a100"], ranks_per_node=64, alpha_inside=alpha, bandwidth_inside=bandwidth, name="test"
    )


def test_a_replayed_step_by_hand():
    """Rank 1 takes 3 s before it sends what rank 0 waits for after 1 s; the message takes 0.5 s and 2 s more."""
    events = [
        [("phase", "forward", 0, 5, 0), ("recv", 1, 8, 15, 0), ("phase", "end", 0, 25, 0)],
        [("phase", "forward", 0, 0, 0), ("send", 0, 8, 10, 0), ("phase", "end", 0, 10, 0)],
    ]
    first, second = replay(events, 0.1, 0.0, link(alpha=0.5, bandwidth=4.0), {1: 3.0})
    assert first.spans == [
        (0.0, 1.0, "forward", -1),
        (1.0, 3.0, "wait", 1),
        (3.0, 5.5, "network", 1),
        (5.5, 6.5, "forward", -1),
    ]
    assert (first.now, first.busy, first.network, first.waits) == (6.5, 2.0, 2.5, {1: 2.0})
    assert (second.now, second.busy, second.waits) == (3.0, 3.0, {})


def test_a_wait_is_followed_to_its_cause():
    """Rank 2 needs what rank 1 sends when it has what rank 0 sends after 5 s: for 5 s both wait for rank 0.

    Of rank 1's own work, another 2 s, rank 2 waits for that; and if the step is repeated, rank 0 is ahead.
    """
    events = [
        [("phase", "forward", 0, 0, 0), ("send", 1, 8, 5, 0), ("phase", "end", 0, 5, 0)],
        [("phase", "forward", 0, 0, 0), ("recv", 0, 8, 0, 0), ("send", 2, 8, 2, 0), ("phase", "end", 0, 2, 0)],
        [("phase", "forward", 0, 0, 0), ("recv", 1, 8, 1, 0), ("phase", "end", 0, 1, 0)],
    ]
    clocks = replay(events, 1.0, 0.0, link(bandwidth=1e300), {})
    assert [clock.waits for clock in clocks] == [{}, {0: 5.0}, {0: 4.0, 1: 2.0}]
    assert [clock.now for clock in clocks] == [5.0, 7.0, 7.0]
    again = replay(events, 1.0, 0.0, link(bandwidth=1e300), {}, before=1)
    assert [clock.began for clock in again] == [5.0, 7.0, 7.0]
    assert [clock.waits for clock in again] == [{}, {0: 3.0}, {0: 2.0, 1: 2.0}]
    assert again[2].spans == [(7.0, 8.0, "forward", -1), (8.0, 10.0, "wait", 0), (10.0, 12.0, "wait", 1)]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_who_owns_more_is_waited_for(stage):
    """An update takes long here: at stages 1 and 2 for its parameters, at 3 in the next step, for its first layer."""
    records = train_on(3, data("classification"), stages=(stage,), hidden=(64,), slices=(1, 4, 1), precision="fp32")
    first, second, third = replay(records.runs[0].recorded, 1e-9, 1.0, link(), {}, before=1)
    share = records.padded_parameters / 6
    for clock in (first, third):
        assert clock.waits[1] == pytest.approx(3 * share, rel=1e-3)
    assert sum(second.waits.values()) < 1e-3 * share


def test_a_message_that_nobody_sends_does_not_hang_the_replay():
    with pytest.raises(RuntimeError, match="never sent"):
        replay([[("recv", 1, 8, 0, 0)], []], 1.0, 1.0, link(), {})


@pytest.mark.parametrize("M", [1, 2, 5, 16])
@pytest.mark.parametrize("P", [2, 3, 4])
def test_the_bubble_of_equal_ranks_is_gpipes(P, M):
    """P equal layers on P ranks over a network that takes no time: idle for (P - 1) / (M + P - 1) of a step.

    The first layer's input needs no gradient, so the formula is met by the layers behind it: rank 0 works less.
    """
    width = 16
    records = train_on(
        P,
        small_data(rows=16 * M + 16, features=width, outputs=width),
        hidden=(width,) * (P - 1),
        pipeline=P,
        grad_accum=M,
        batch_size=8 * M,
        stages=(0,),
        precision="fp32",
        optimizer="sgd",
        test_fraction=0.0,
    )
    clocks = replay(records.runs[0].recorded, 1.0, 0.0, link(alpha=0.0, bandwidth=1e300), {})
    forward = 2 * (width * width) * 8
    backward = 2 * forward
    length = (M + P - 1) * (forward + backward) - (forward if P == 1 else 0)
    assert max(clock.now for clock in clocks) == pytest.approx(length - (backward - forward), rel=1e-9)
    last = clocks[-1]
    assert last.busy == M * (forward + backward)
    assert 1 - last.busy / length == pytest.approx(formulas.bubble(P, M))


def test_a_straggler_is_waited_for():
    """On the virtual clock all others wait for it, through as many ranks as it takes; really, it has slept."""
    slow = 2
    records = train_on(4, stages=(0,), hidden=(64, 64), batch_size=40, straggler=(slow, 10.0), test_fraction=0.0)
    run = zerosim.build_report(records)["runs"][0]
    ranks = run["time"]["virtual"]["ranks"]
    assert ranks[slow]["busy"] > 8 * max(own["busy"] for rank, own in enumerate(ranks) if rank != slow)
    waits = [sum(own["waited_for"]) for own in ranks]
    assert min(wait for rank, wait in enumerate(waits) if rank != slow) > 5 * waits[slow]
    for own in ranks[:slow] + ranks[slow + 1 :]:
        assert max(range(4), key=own["waited_for"].__getitem__) == slow
    assert run["time"]["slept"][slow] > 0
    assert sum(run["time"]["slept"]) == run["time"]["slept"][slow], "nobody else has"
    text = zerosim.format_report(zerosim.build_report(records))
    assert "Who waits for whom" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_step_is_replayed_where_ranks_wait_by_design():
    """Recorded on every rank, collected on the first; what is drawn of it is in the report of the last run alone."""
    config = zerosim.Config(stages=(0, 3), hidden=(7,), batch_size=16, steps=2, straggler=(1, 2.0))
    first, second = zerosim.run_threads(2, lambda comm: zerosim.train(config, comm, data=small_data()))
    assert first == second
    assert [[len(run.recorded) for run in own.runs] for own in (first, second)] == [[2, 2], [0, 0]]
    clocks = [run["time"]["virtual"]["ranks"] for run in zerosim.build_report(first)["runs"]]
    assert [["spans" in clock for clock in own] for own in clocks] == [[False, False], [True, True]]
    assert figures.waiting(zerosim.build_report(first)) is not None
    assert "Who waits" not in zerosim.format_report(zerosim.build_report(second))

    plain = zerosim.build_report(train_on(2, stages=(0,)))
    assert plain["runs"][0]["time"]["virtual"] is None
    assert figures.waiting(plain) is None


def test_a_cluster_of_ones_own_is_read_once(tmp_path):
    """When the settings are made: what becomes of the file during a training is all one."""
    file = tmp_path / "slow.json"
    values = {k: v for k, v in link(bandwidth=1.0).asdict().items() if k not in ("name", "source")}
    file.write_text(json.dumps(values))
    config = zerosim.Config(stages=(0,), hidden=(7,), batch_size=16, steps=1, straggler=(1, 1.0), cluster=str(file))
    file.unlink()
    records = zerosim.run_threads(2, lambda comm: zerosim.train(config, comm, data=small_data()))[0]
    report = zerosim.build_report(records)
    virtual = report["runs"][0]["time"]["virtual"]
    assert report["config"]["cluster"] == virtual["cluster"] == str(file)
    assert virtual["seconds_per_step"] > 60, "a byte takes a second"
