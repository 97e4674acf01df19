"""Pruning: the same groups and bits at every stage, as one plain NumPy rank chooses them; counts and books exact."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from conftest import run_zerosim, small_data, train_on
from contract import check

import zerosim
from zerosim import figures, formulas, pruning
from zerosim.data import batches, split
from zerosim.optim import RULES

RANKS = (1, 2, 3, 4, 7, 8)
KINDS = [("layer", "freeze"), ("row", "zero"), ("row", "freeze"), (4, "zero"), (1, "freeze")]


def hashes(records):
    return [run.weights_sha256 for run in records.runs]


def assert_same_choices_and_books(records, pairs=False):
    """At all stages, or with accumulation at each pair of them."""
    groups = (records.runs[:2], records.runs[2:]) if pairs else (records.runs,)
    for runs in groups:
        assert all(run.pruning == runs[0].pruning for run in runs)
        assert len({run.weights_sha256 for run in runs}) == 1
    report = zerosim.build_report(records)
    if records.config.precision != "fp64" and records.grid.data == records.world_size:
        assert list(check(report)) == []
    for run in report["runs"]:
        traffic, own = run["traffic"], run["pruning"]
        assert traffic["messages"] == traffic["messages_formula"]
        assert own["traffic"]["measured"] == own["traffic"]["formula_per_rank"]
        assert own["groups"] == own["groups_formula"] == sum(own["groups_per_layer"])
        updates = run["steps"] - run["skipped_steps"]
        assert sorted(own["pruned"]["measured"]) == [0] * run["skipped_steps"] + [own["pruned"]["formula"]] * updates
        assert sum(h["groups"] for h in own["histogram"]) == own["groups"]
        assert sum(h["times"] * h["groups"] for h in own["histogram"]) == own["pruned"]["formula"] * updates
        assert traffic["sent_equals_received"]
    return report


@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("N", RANKS)
def test_same_bits_at_every_stage(N, optimizer):
    """Each optimizer on each number of ranks, with two of the kinds of groups and of the precisions in turn."""
    number = RANKS.index(N) + [*RULES].index(optimizer)
    precisions = ("fp16", "fp32", "bf16", "fp64")
    for turn in (number, number + 2):
        (by, mode), precision = KINDS[turn % 5], precisions[(turn + N) % 4]
        settings = {"prune_groups": 0.5, "prune_by": by, "prune_mode": mode, "weight_decay": 0.01}
        assert_same_choices_and_books(train_on(N, optimizer=optimizer, precision=precision, **settings))


@pytest.mark.parametrize(("hidden", "bucket"), [((), 1), ((), 13), ((11, 2, 13), 5), ((11, 2, 13), 50)])
@pytest.mark.parametrize("N", RANKS)
def test_groups_cross_slices_and_buckets(N, hidden, bucket):
    """What is chosen does not depend on how the vector is cut: as on one rank with whole layers, in float64."""
    for by in ("row", 3):
        settings = {"hidden": hidden, "precision": "fp64", "prune_groups": 0.4, "prune_by": by, "optimizer": "sgd"}
        settings |= {"steps": 2}
        records = train_on(N, bucket=bucket, **settings)
        assert_same_choices_and_books(records)
        whole = train_on(1, stages=(0,), **settings)
        for key in ("pruned", "times", "without_gradient"):
            assert records.runs[0].pruning[key] == whole.runs[0].pruning[key]


@pytest.mark.parametrize(("N", "k", "bucket"), [(1, 3, 0), (2, 2, 7), (3, 5, 0), (7, 2, 9)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_accumulation_agrees_in_pairs(N, k, bucket, precision):
    settings = {"grad_accum": k, "bucket": bucket, "precision": precision, "batch_size": 28}
    records = train_on(N, optimizer="momentum", lr=0.01, prune_groups=0.5, prune_by=5, **settings)
    assert_same_choices_and_books(records, pairs=True)


@pytest.mark.parametrize(
    ("N", "collective"),
    [(6, "pairwise"), (6, "bruck"), (6, "auto"), (4, "doubling"), (4, "halving")],
)
def test_every_collective(N, collective):
    records = train_on(N, collective=collective, prune_groups=0.5)
    assert_same_choices_and_books(records)


def test_a_block_is_no_border(monkeypatch):
    settings = {"hidden": (40, 40), "prune_by": 7, "prune_groups": 0.6, "precision": "bf16"}
    before = train_on(3, **settings)
    monkeypatch.setattr("zerosim.pruning.BLOCK", 11)
    after = train_on(3, **settings)
    assert hashes(before) == hashes(after)
    assert before.runs[0].pruning == after.runs[0].pruning
    assert before.runs[0].pruning["groups_per_cell"] == 2
    assert_same_choices_and_books(after)


# an implementation that shares no code with the one above: one rank, whole matrices, dense float64 -------------------


def reference(data, config, path):
    """Train from the weights in `path`; return the weights as one vector per layer, and the sets chosen by step."""
    from safetensors.numpy import load_file

    file, x, y = load_file(path), np.asarray(data.x, float), np.asarray(data.y)
    n = len(file) // 2
    p = [np.hstack([file[f"layers.{k}.weight"].ravel(), file[f"layers.{k}.bias"]]) for k in range(n)]
    shapes = [file[f"layers.{k}.weight"].shape for k in range(n)]
    state = [{"m": np.zeros_like(v), "v": np.zeros_like(v)} for v in p]
    labels = [[group(config.prune_by, e, *shape) for e in range(v.size)] for v, shape in zip(p, shapes, strict=True)]
    names = sorted({(k, label) for k in range(n) for label in labels[k]})
    count = int(Fraction(str(config.prune_groups)) * len(names))
    rows, history = split(data, config.test_fraction, config.seed)[0], []
    order = [b for epoch in (1, 2, 3) for b in batches(rows, config.batch_size, epoch, config.seed, config.shuffle)]
    for t, batch in enumerate(order[: config.steps], 1):
        g = gradients(p, shapes, x[batch], y[batch])
        norms = {name: 0.0 for name in names}
        for k in range(n):
            for label, value in zip(labels[k], g[k], strict=True):
                norms[k, label] += value * value
        chosen = set(sorted(names, key=lambda name: (np.sqrt(norms[name]), name))[:count])
        history.append([int(name in chosen) for name in names])
        whole = np.sqrt(sum(np.sum(v * v) for v in g))
        factor = min(1.0, config.clip_norm / (whole + 1e-6)) if config.clip_norm else 1.0
        for k in range(n):
            free = np.array([(k, label) not in chosen for label in labels[k]])
            step(p[k], factor * g[k], state[k], free, t, config)
            if config.prune_mode == "zero":
                p[k][~free] = 0
    return p, history


def group(by, element, outputs, inputs):
    if by == "layer":
        return 0
    if by == "row":
        return element // inputs if element < inputs * outputs else element - inputs * outputs
    return element // by


def gradients(p, shapes, x, y):
    inputs, h = [], x
    for k, (v, (o, i)) in enumerate(zip(p, shapes, strict=True)):
        inputs.append(h)
        h = h @ v[: o * i].reshape(o, i).T + v[o * i :]
        h = np.maximum(h, 0) if k < len(p) - 1 else h
    e = np.exp(h - h.max(1, keepdims=True))
    d = (e / e.sum(1, keepdims=True) - np.eye(h.shape[1])[y]) / len(x)
    g = []
    for v, (o, i), h in zip(p[::-1], shapes[::-1], inputs[::-1], strict=True):
        g.insert(0, np.hstack([(d.T @ h).ravel(), d.sum(0)]))
        d = (d @ v[: o * i].reshape(o, i)) * (h > 0)
    return g


def step(p, g, state, free, t, config):
    """An optimizer of the free elements, from the textbook."""
    m, v, lr, decay = state["m"], state["v"], config.lr, config.weight_decay
    w = p.copy()
    if config.optimizer == "adamw":
        w = w - lr * decay * w
    else:
        g = g + decay * p
    if config.optimizer == "sgd":
        new_m, new_v, w = m, v, w - lr * g
    elif config.optimizer == "momentum":
        new_m, new_v = 0.9 * m + g, v
        w = w - lr * new_m
    else:
        new_m, new_v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - lr * (new_m / (1 - 0.9**t)) / (np.sqrt(new_v / (1 - 0.999**t)) + 1e-8)
    p[free], m[free], v[free] = w[free], new_m[free], new_v[free]


@pytest.mark.parametrize("clip_norm", [None, 0.3])
@pytest.mark.parametrize(("by", "mode"), KINDS)
@pytest.mark.parametrize("optimizer", RULES)
def test_agrees_with_one_plain_rank(tmp_path, optimizer, by, mode, clip_norm):
    from safetensors.numpy import load_file

    data, first = small_data(), tmp_path / "first.safetensors"
    train_on(1, data, stages=(0,), precision="fp64", steps=1, lr=0.0, save=str(first))
    settings = {"optimizer": optimizer, "clip_norm": clip_norm, "weight_decay": 0.02, "precision": "fp64", "steps": 5}
    settings |= {"prune_groups": 0.4 if by != "layer" else 0.5, "prune_by": by, "prune_mode": mode, "init": str(first)}
    for N, stage in ((1, 1), (3, 3), (4, 2)):  # what one stage chooses, all of them do
        last = tmp_path / "last.safetensors"
        records = train_on(N, data, save=str(last), stages=(stage,), **settings)
        p, history = reference(data, dataclasses.replace(records.config, stages=(0,)), first)
        run, file = records.runs[-1], load_file(last)
        assert run.pruning["pruned"] == history
        assert run.pruning["times"] == np.sum(history, axis=0).tolist()
        for k, v in enumerate(p):
            own = np.hstack([file[f"layers.{k}.weight"].ravel(), file[f"layers.{k}.bias"]])
            np.testing.assert_allclose(own, v, rtol=0, atol=1e-12)
        assert run.pruning["zero_weights"] == sum(int(np.count_nonzero(v == 0)) for v in p)


# parts of a model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["layer", "row", 5])
@pytest.mark.parametrize(("T", "D", "P"), [(2, 1, 1), (1, 2, 2), (2, 2, 2), (4, 1, 2), (3, 1, 1)])
def test_groups_are_of_the_whole_model(T, D, P, by):
    """With tensor and pipeline parallelism: chosen as on one rank."""
    settings = {"hidden": (12, 8, 9), "precision": "fp64", "batch_size": 22, "prune_groups": 0.5, "prune_by": by}
    records = train_on(T * D * P, tensor_parallel=T, pipeline=P, grad_accum=2, **settings)
    assert_same_choices_and_books(records, pairs=True)
    one = train_on(1, stages=(0,), grad_accum=2, **settings).runs[0]
    for run in records.runs:
        assert run.pruning["pruned"] == one.pruning["pruned"]
        assert run.pruning["zero_weights"] == one.pruning["zero_weights"]
        np.testing.assert_allclose(run.loss, one.loss, rtol=1e-12)


# edges ---------------------------------------------------------------------------------------------------------------


def test_skipped_steps_choose_nothing_and_send_nothing():
    """The loss scale is too large at first, as in test_promises."""
    x = np.full((8, 2), 0.01)
    x[[2, 6]] = 5.0
    data = zerosim.make_dataset("spike", x, x[:, :1] * 3)
    settings = {"hidden": (), "batch_size": 4, "test_fraction": 0.0, "shuffle": False, "lr": 1e-6}
    records = train_on(4, data, precision="fp16", prune_groups=0.5, prune_by=1, steps=12, **settings)
    skipped = records.runs[0].skipped_steps
    assert 0 < skipped < 12
    assert_same_choices_and_books(records)
    assert [sum(cells) for cells in records.runs[0].pruning["pruned"][:skipped]] == [0] * skipped
    early = train_on(4, data, precision="fp16", prune_groups=0.5, prune_by=1, steps=2, **settings)
    report = assert_same_choices_and_books(early)
    assert early.runs[0].pruning["sent"] == [0] * 4
    assert "0 B =" in zerosim.format_report(report)


def test_a_frozen_group_keeps_weights_and_states():
    """All but one element of the model frozen: nothing else moves, though there is momentum and decay to move it."""
    from zerosim.rank import Rank
    from zerosim.stages import STAGES
    from zerosim.transport.threads import run_threads

    elements = 6 * 7 + 8 * 3
    config = zerosim.Config(
        hidden=(7,), prune_groups=1 - 0.5 / elements, prune_by=1, precision="fp32", optimizer="adamw", batch_size=16
    )
    data = zerosim.data.convert(small_data(), np.dtype(np.float32), np.dtype(np.float32))

    def moved(transport):
        result = []
        for stage in STAGES:
            rank = Rank(transport, config, data)
            stage.allocate(rank)
            vectors = [rank.parameters, *rank.states.values()]
            before = [vector.copy() for vector in vectors]
            stage.step(rank, np.arange(16))
            assert rank.ledger.now["buffers"] == 0
            result.append([int(np.count_nonzero(a != b)) for a, b in zip(before, vectors, strict=True)])
        return result

    full, one, two, three = np.sum(run_threads(3, moved), axis=0).tolist()
    assert full == [3, 3, 3]
    assert one == two == [3, 1, 1]
    assert three == [1, 1, 1]


def test_ties_go_to_the_lower_number():
    """Rows that are zero, and inputs that are: many groups have no gradient."""
    x = np.zeros((16, 3))
    data = zerosim.make_dataset("zeros", x, np.arange(16) % 2)
    records = train_on(2, data, hidden=(), prune_groups=0.25, prune_by=1, steps=1, test_fraction=0.0)
    assert records.runs[0].pruning["pruned"] == [[1, 1, 0, 0, 0, 0, 0, 0]]


def test_a_zeroed_hidden_row_stays_dead():
    records = train_on(2, hidden=(20,), steps=12, prune_groups=0.5, prune_mode="zero", precision="fp32", epochs=None)
    own = records.runs[0].pruning
    hidden = own["groups_per_layer"][0]
    always = [n for n, times in enumerate(own["times"][:hidden]) if times == 12]
    assert always
    assert own["without_gradient"][-1] >= len(always)
    assert own["zero_weights"] >= 6 * len(always)


def test_q_is_decimal():
    assert formulas.pruned_groups(100, 0.29) == 29
    assert formulas.pruned_groups(10, 0.3) == 3
    assert int(0.29 * 100) == 28, "which is what a double alone would give"
    assert formulas.groups([5, 7, 3], 4) == [11, 6]


def test_memory_at_rest_and_gradient_traffic_are_as_without():
    plain, pruned = train_on(4), train_on(4, prune_groups=0.5)
    for a, b in zip(plain.runs, pruned.runs, strict=True):
        assert a.at_rest == b.at_rest
        assert a.sent_per_step == b.sent_per_step
        assert a.control == b.control
        assert a.weights_sha256 != b.weights_sha256
        assert (a.pruning, sum(b.pruning["sent"]) > 0) == ({}, True)
    one, two = zerosim.build_report(plain), zerosim.build_report(pruned)
    text = zerosim.compare(plain=one, pruned=two)
    assert "prune_groups: -, 0.5" in text
    assert max(map(len, text.splitlines())) <= 80
    assert one["runs"][0]["pruning"] is None
    assert zerosim.compare(a=one, b=one).endswith("All settings are the same.")


def test_a_wrong_book_is_told():
    report = zerosim.build_report(train_on(2, prune_groups=0.5))
    assert "THEY DIFFER" not in zerosim.format_report(report)
    report["runs"][0]["pruning"]["traffic"]["measured"][1]["sent"] += 1
    assert "THEY DIFFER" in zerosim.format_report(report)


# from the command line -----------------------------------------------------------------------------------------------

SMALL = ("--hidden", "12,9", "--steps", 6, "--batch-size", 32)


def test_under_mpirun(tmp_path):
    reports = []
    for n, ranks in ((3, []), (0, ["--ranks", 3])):
        words = ["train", *ranks, *SMALL, "--prune-groups", 0.25, "--prune-by", 10, "--prune-mode", "zero"]
        done = run_zerosim(n, *words, cwd=tmp_path, figures=n > 0)
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "identical to the bit at stages 0, 1, 2, 3" in done.stdout
        assert "equal the formulas on every rank" in done.stdout
        assert "Pruning is no part of ZeRO" in done.stdout
        assert (tmp_path / "zerosim-out" / "pruning.png").read_bytes().startswith(b"\x89PNG")
        reports.append(json.loads((tmp_path / "zerosim-out" / "report.json").read_text()))
        assert list(check(reports[-1], [0, 1, 2, 3], 3)) == []
    for mpi, threads in zip(*(report["runs"] for report in reports), strict=True):
        assert mpi["pruning"] == threads["pruning"]
        assert mpi["weights_sha256"] == threads["weights_sha256"]


def test_native_collectives(tmp_path):
    """The norms are still summed by exchanges, with the same bits on all ranks."""
    done = run_zerosim(3, "train", *SMALL, "--collective", "native", "--prune-groups", 0.5, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for run in json.loads(done.stdout)["runs"]:
        assert run["pruning"]["traffic"]["measured"] == run["pruning"]["traffic"]["formula_per_rank"]
        assert set(run["pruning"]["pruned"]["measured"]) <= {0, run["pruning"]["pruned"]["formula"]}


def test_figure_shows_the_record():
    records = train_on(3, prune_groups=0.5, steps=5)
    report = zerosim.build_report(records)
    above, below = figures.pruning(report).axes
    assert len(above.lines[0].get_xdata()) == 5
    mesh = np.asarray(below.collections[0].get_array()).reshape(-1, 5)
    np.testing.assert_array_equal(mesh, np.array(records.runs[-1].pruning["pruned"]).T)


@pytest.mark.parametrize(("neighbours", "shades"), [(2, 3), (3, 4), (9, 5)])
def test_the_legend_has_the_shades_of_the_raster(monkeypatch, neighbours, shades):
    monkeypatch.setattr(pruning, "CELLS", -(-10 // neighbours))
    figure = figures.pruning(zerosim.build_report(train_on(1, prune_groups=0.5, steps=5, stages=(0,))))
    (legend,) = figure.legends
    named = {patch.get_facecolor() for patch in legend.get_patches()}
    mesh = figure.axes[1].collections[0]
    assert len(named) == len(legend.get_texts()) == shades
    if neighbours < 5:
        whole = mesh.get_array()[:-1]  # in the last cell there may be fewer
        assert {tuple(colour) for colour in mesh.to_rgba(whole).reshape(-1, 4)} <= named


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prune_groups": 0.0}, ["prune_groups", "above 0"]),
        ({"prune_groups": 1.0}, ["prune_groups", "below 1"]),
        ({"prune_groups": float("nan")}, ["prune_groups", "finite"]),
        ({"prune_groups": "half"}, ["prune_groups", "half"]),
        ({"prune_groups": 0.5, "prune_by": "unit"}, ["prune_by", "unit", "row"]),
        ({"prune_groups": 0.5, "prune_by": 0}, ["prune_by", "0", "1 or more"]),
        ({"prune_groups": 0.5, "prune_by": "-3"}, ["prune_by", "-3"]),
        ({"prune_groups": 0.5, "prune_by": True}, ["prune_by", "True"]),
        ({"prune_groups": 0.5, "prune_by": ["row"]}, ["prune_by", "row"]),
        ({"prune_groups": 0.5, "prune_mode": "drop"}, ["prune_mode", "drop", "freeze, zero"]),
        ({"prune_by": "row"}, ["prune_by", "no effect", "prune_groups"]),
        ({"prune_mode": "zero"}, ["prune_mode", "no effect"]),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(zerosim.InputError) as error:
        zerosim.Config(**settings)
    assert all(word in str(error.value) for word in words)


def test_bad_input_from_every_rank_at_once(tmp_path):
    done = run_zerosim(2, "train", "--prune-groups", 0.3, "--prune-by", "layer", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "0.3 of 3 groups by layer is less than one group" in line
