"""`checkpoint inspect`, `verify` and `consolidate`; what a run says of its checkpoints; and their benchmark."""

import json
from itertools import pairwise

import numpy as np
import pytest
from conftest import run_zerosim, small_data, train_on
from contract import check
from safetensors.numpy import load_file
from test_cli import assert_one_line

import zerosim
from zerosim import formulas
from zerosim.__main__ import main
from zerosim.checkpoint import resumed

WIDTHS = [5, 7, 3]  # of conftest's small data and model


def written(folder, N=3, every=2, **settings):
    """Train for 4 steps with a checkpoint every 2, and return the report."""
    settings = {"stages": (2,), "precision": "fp32", "checkpoint": str(folder), "checkpoint_every": every, **settings}
    return zerosim.build_report(train_on(N, **settings))


@pytest.fixture
def say(capsys):
    """Run the command in this process and return (exit status, what it printed, what it complained of)."""

    def run(*words):
        capsys.readouterr()
        status = main(["checkpoint", *map(str, words)])
        done = capsys.readouterr()
        assert max(map(len, done.out.splitlines()), default=0) <= 80 or "--json" in words or words[0] != "inspect"
        assert status == 0 or len(done.err.splitlines()) == 1
        return status, done.out, done.err

    return run


# the formula, and what a run says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", [0, 1, 5, 13, 10**9])
@pytest.mark.parametrize("N", [1, 2, 3, 4, 7, 8, (2, 1), (1, 3, 1, 2), (5, 1, 1)])
def test_owned_from_first_principles(N, bucket):
    """Number the places of each padded layer, cut them as a ring of ranks would, and count those below its size."""
    shares = [1] * N if isinstance(N, int) else N
    for L in ([5, 7, 3], [1, 1], [2, 1, 1, 9], [4, 11, 6]):
        for T in (1, 2) if min(L) > 1 else (1,):
            for t in range(T):
                place = formulas.Place(T, t)
                expected = [0] * len(shares)
                for size in formulas.layer_sizes(L, place):
                    padded = np.arange(-(-size // sum(shares)) * sum(shares))
                    cut = max(sum(shares), bucket // sum(shares) * sum(shares)) if bucket else len(padded)
                    for at in range(0, len(padded), cut):
                        parts = np.split(padded[at : at + cut], sum(shares))
                        for rank, share in enumerate(shares):
                            own, parts = parts[:share], parts[share:]
                            expected[rank] += sum(int((part < size).sum()) for part in own)
                own = [formulas.owned(L, N, bucket, place, rank) for rank in range(len(shares))]
                assert own == expected
                assert sum(own) == sum(formulas.layer_sizes(L, place))


@pytest.mark.parametrize(
    ("N", "settings"),
    [
        (1, {}),
        (2, {"optimizer": "sgd", "precision": "fp16"}),
        (3, {"optimizer": "momentum", "bucket": 5, "stages": (0,)}),
        (4, {"slices": (1, 2, 1, 3), "stages": (3,), "bucket": 9}),
        (4, {"tensor_parallel": 2, "precision": "bf16", "bucket": 4, "stages": (1,)}),
        (6, {"tensor_parallel": 2, "slices": (3, 1, 1), "stages": (3,)}),
        (6, {"pipeline": 2, "grad_accum": 2, "optimizer": "adamw", "slices": (1, 1, 4)}),
        (8, {"stages": (3,), "precision": "fp16"}),
    ],
)
def test_bytes_written_equal_the_formula(tmp_path, N, settings):
    report = written(tmp_path, N, **settings)
    own, config = report["runs"][0]["checkpoints"], report["config"]
    assert own["written"] == [2, 4]
    assert own["newest"] == "step-00000004"
    assert len(own["seconds"]) == 2
    assert min(own["seconds"]) > 0
    assert own["tensors"]["measured"] == [own["tensors"]["formula_per_rank"]] * 2
    w = 4 * (1 + {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}[config["optimizer"]])
    assert sum(own["tensors"]["formula_per_rank"]) == w * sum((a + 1) * b for a, b in pairwise(WIDTHS))
    for rank in range(N):
        file = tmp_path / own["newest"] / f"rank-{rank:04d}.safetensors"
        assert own["files"][1][rank] == file.stat().st_size
        assert own["tensors"]["measured"][1][rank] == sum(array.nbytes for array in load_file(file).values())


def test_the_report_says_it_where_asked_for(tmp_path):
    report = written(tmp_path / "a", every=None, steps=6)
    assert list(check(report)) == []
    assert "resumed" not in report["runs"][0]
    text = zerosim.format_report(report, width=400)
    tensors = max(report["runs"][0]["checkpoints"]["tensors"]["formula_per_rank"])
    assert f"Checkpoints: 3 written (the last 2 are kept); the newest is {tmp_path}/a/step-00000006" in text
    assert f"wrote {tensors} B = {tensors} B of tensors" in text
    plain = zerosim.build_report(train_on(2, stages=(1,), precision="fp32"))
    assert not plain["runs"][0].keys() & {"checkpoints", "resumed"}
    assert "heckpoint" not in zerosim.format_report(plain)
    config = resumed(str(tmp_path / "a"), 2, stages=(3,), steps=7, checkpoint=None)
    data = small_data()
    again = zerosim.build_report(zerosim.run_threads(2, lambda comm: zerosim.train(config, comm, data))[0])
    assert "checkpoints" not in again["runs"][0]
    folder = str(tmp_path / "a" / "step-00000006")
    own = dict(again["runs"][0]["resumed"])
    peak = own.pop("peak")
    assert own == {"folder": folder, "step": 6, "stage": 2, "ranks": 3, "updates": 6}
    assert peak["measured"] == peak["formula_per_rank"]
    assert min(peak["measured"]) > max(sum(own.values()) for own in again["runs"][0]["memory"]["at_rest"]["measured"])
    text = zerosim.format_report(again, width=400)
    assert f"Resumed: after step 6, from {folder}, which 3 ranks wrote at stage 2." in text


def test_a_difference_would_be_said(tmp_path):
    report = written(tmp_path)
    report["runs"][0]["checkpoints"]["tensors"]["measured"][0][1] += 4
    text = " ".join(zerosim.format_report(report).split())
    assert "Books: THEY DIFFER" in text
    assert " B ≠ " in text


# inspect -------------------------------------------------------------------------------------------------------------


def test_inspect(tmp_path, say):
    report = written(tmp_path / "c", 6, tensor_parallel=2, slices=(2, 1, 1), bucket=8)
    for name in ("c", "c/step-00000004"):
        status, text, _ = say("inspect", tmp_path / name)
        assert status == 0
        assert "2 checkpoints:" in text if name == "c" else "checkpoints:" not in text
        flat = " ".join(text.split())
        assert "step 4, 2 epochs done, written at stage 2" in flat
        assert "Layers 5 x 7 x 3: 66 parameters; fp32, adam. 6 ranks (2 tensor-parallel, 3 data-parallel" in flat
        assert "slices in the proportion 2:1:1, buckets of 8 elements" in flat
        assert "parameters, momentum, variance, in float32" in flat
    result = json.loads(say("inspect", tmp_path / "c", "--json")[1])
    assert [one["step"] for one in result["checkpoints"]] == [2, 4]
    newest, own = result["checkpoints"][-1], report["runs"][0]["checkpoints"]
    assert [shard["tensors"] for shard in newest["shards"]] == own["tensors"]["formula_per_rank"]
    assert [shard["bytes"] for shard in newest["shards"]] == own["files"][-1]
    assert newest["bytes"] == sum(own["files"][-1])
    assert [shard["elements"] for shard in newest["shards"]] == [n // 12 for n in own["tensors"]["formula_per_rank"]]
    assert [(s["tensor"], s["data"], s["pipeline"]) for s in newest["shards"]][:3] == [(0, 0, 0), (1, 0, 0), (0, 1, 0)]


def test_inspect_shows_the_rest_where_one_is_not_whole(tmp_path, say):
    written(tmp_path)
    (tmp_path / "step-00000004" / "manifest.json").write_text("{}")
    status, text, _ = say("inspect", tmp_path)
    assert status == 0
    assert "NOT WHOLE" in text
    assert "its schema is None" in text
    assert "step 2, 1 epoch done" in " ".join(text.split())
    assert "schema" in json.loads(say("inspect", tmp_path, "--json")[1])["checkpoints"][1]["error"]
    assert say("inspect", tmp_path / "step-00000004")[0] == 2


# verify --------------------------------------------------------------------------------------------------------------


def flip(path, at=-5):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_verify(tmp_path, say):
    report = written(tmp_path)
    first, second = (sum(own) for own in report["runs"][0]["checkpoints"]["files"])
    assert say("verify", tmp_path / "step-00000002")[1].endswith(f"is whole: {first:,} bytes read in 3 shards\n")
    status, text, _ = say("verify", tmp_path)
    assert status == 0
    assert [line.split(" is whole: ")[1] for line in text.splitlines()] == [
        f"{n:,} bytes read in 3 shards" for n in (first, second)
    ]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: flip(folder / "rank-0001.safetensors"), ["rank-0001", "SHA-256"]),
        (lambda folder: flip(folder / "rank-0000.safetensors", 3), ["rank-0000", "SHA-256"]),
        (lambda folder: flip(folder / "manifest.json", 50), ["manifest.json"]),
        (lambda folder: (folder / "rank-0002.safetensors").unlink(), ["rank-0002", "no such file"]),
        (lambda folder: (folder / "rank-0002.safetensors").write_bytes(b"short"), ["rank-0002", "5 bytes"]),
    ],
)
def test_verify_finds_damage(tmp_path, say, damage, words):
    """The others are verified all the same."""
    written(tmp_path)
    damage(tmp_path / "step-00000002")
    status, text, complaint = say("verify", tmp_path)
    assert status == 2
    assert "step-00000004 is whole" in text
    assert "step-00000002" not in text
    assert all(word in complaint for word in ["step-00000002", *words])
    damage(tmp_path / "step-00000004")
    status, text, complaint = say("verify", tmp_path)
    assert (status, text) == (2, "")
    assert "step-00000004" in complaint
    assert "1 more of 2 are not whole" in complaint
    status, _, complaint = say("consolidate", tmp_path, tmp_path / "file")
    assert status == 2
    assert all(word in complaint for word in words)
    assert not (tmp_path / "file").exists()


# consolidate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("N", "settings"),
    [
        (1, {"optimizer": "sgd", "precision": "bf16"}),
        (2, {"precision": "fp64"}),
        (3, {"stages": (3,), "precision": "fp16", "bucket": 6}),
        (4, {"slices": (3, 1, 1, 2), "stages": (0,)}),
        (6, {"tensor_parallel": 3, "stages": (3,), "precision": "fp16"}),
        (4, {"tensor_parallel": 2, "pipeline": 2, "grad_accum": 2}),
        (8, {"stages": (1,), "optimizer": "momentum"}),
    ],
)
def test_consolidate_writes_what_save_does(tmp_path, say, N, settings):
    saved, made = tmp_path / "saved", tmp_path / "made"
    sha256 = written(tmp_path / "c", N, save=str(saved), **settings)["runs"][0]["weights_sha256"]
    status, text, _ = say("consolidate", tmp_path / "c", made)
    assert status == 0
    assert sha256 in text
    assert f"{saved.stat().st_size:,} bytes" in text
    assert made.read_bytes() == saved.read_bytes()
    again = train_on(2, stages=(3,), precision=settings.get("precision", "fp32"), init=str(made), lr=0.0, steps=1)
    assert again.runs[0].weights_sha256 == sha256


@pytest.mark.parametrize("chunk", [1 << 18, 7])
def test_states_by_name(tmp_path, say, monkeypatch, chunk):
    """Put together by hand from three shards: of each layer, padded to a multiple of 3, a third after the other."""
    monkeypatch.setattr("zerosim.checkpoint.onefile._CHUNK", chunk)
    written(tmp_path / "c")
    assert say("consolidate", tmp_path / "c", tmp_path / "made", "--states")[0] == 0
    made = load_file(tmp_path / "made")
    shards = [load_file(tmp_path / "c" / "step-00000004" / f"rank-000{rank}.safetensors") for rank in range(3)]
    names = [f"layers.{k}.{part}" for k in range(2) for part in ("weight", "bias")]
    assert set(made) == {f"{which}{name}" for which in ("", "momentum.", "variance.") for name in names}
    for tensor, which in (("parameters", ""), ("momentum", "momentum."), ("variance", "variance.")):
        begin = [0, 0, 0]
        for k, (a, b) in enumerate(pairwise(WIDTHS)):
            size = (a + 1) * b
            third = -(-size // 3)
            pieces = []
            for rank in range(3):
                length = max(0, min(size, third * (rank + 1)) - third * rank)
                pieces.append(shards[rank][tensor][begin[rank] : begin[rank] + length])
                begin[rank] += length
            layer = np.concatenate(pieces)
            np.testing.assert_array_equal(made[f"{which}layers.{k}.weight"], layer[: a * b].reshape(b, a))
            np.testing.assert_array_equal(made[f"{which}layers.{k}.bias"], layer[a * b :])
            assert layer.any()


# under mpirun, and bad input -----------------------------------------------------------------------------------------


def test_under_mpirun_one_rank_prints(tmp_path):
    """Each reads its part of the shards, of which there are more than ranks."""
    report = written(tmp_path / "c", 5, save=str(tmp_path / "saved"))
    total = sum(report["runs"][0]["checkpoints"]["files"][-1])
    done = run_zerosim(3, "checkpoint", "inspect", "c", cwd=tmp_path)
    assert done.stdout.count("5 ranks") == 1, done.stderr
    done = run_zerosim(3, "checkpoint", "verify", "c/step-00000004", cwd=tmp_path)
    assert done.stdout.count(f"is whole: {total:,} bytes read in 5 shards") == 1, done.stderr
    done = run_zerosim(3, "checkpoint", "consolidate", "c", "made", cwd=tmp_path)
    assert done.stdout.count("made: ") == 1, done.stderr
    assert (tmp_path / "made").read_bytes() == (tmp_path / "saved").read_bytes()
    flip(tmp_path / "c" / "step-00000004" / "rank-0004.safetensors")
    assert_one_line(run_zerosim(3, "checkpoint", "verify", "c/step-00000004", cwd=tmp_path), ["rank-0004", "SHA-256"])


def test_bad_input(tmp_path, say):
    written(tmp_path / "c")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    written(tmp_path / "s", optimizer="sgd")
    newest = tmp_path / "c" / "step-00000004"
    for words, expected in (
        ([], ["inspect, verify or consolidate"]),
        (["insepct", tmp_path], ["insepct"]),
        (["inspect"], ["DIR"]),
        (["inspect", tmp_path / "none"], ["none", "no such folder"]),
        (["verify", tmp_path / "empty"], ["empty", "no checkpoint"]),
        (["verify", tmp_path / "file"], ["file", "no such folder"]),
        (["verify", tmp_path / "c", "--jsno"], ["--jsno"]),
        (["consolidate", tmp_path / "c"], ["FILE"]),
        (["consolidate", tmp_path / "c", tmp_path / "empty"], ["empty", "folder"]),
        (["consolidate", tmp_path / "c", tmp_path / "none" / "x"], ["cannot be written"]),
        (["consolidate", tmp_path / "c", newest / "rank-0000.safetensors"], ["within the checkpoint"]),
        (["consolidate", tmp_path / "s", tmp_path / "x", "--states"], ["states", "has none"]),
    ):
        status, text, complaint = say(*words)
        assert (status, text) == (2, ""), words
        assert all(word in complaint for word in expected), complaint
    assert say("verify", tmp_path / "c")[0] == 0, "nothing of that has touched the checkpoint"


# the benchmark -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "stage", "optimizer"), [(0, 3, "adam"), (3, 0, "momentum")])
def test_bench(tmp_path, n, stage, optimizer):
    words = ["--widths", "9,16", "--ranks", "1,3", "--seconds", 0.05, "--stage", stage, "--optimizer", optimizer]
    done = run_zerosim(n, "bench", "checkpoint", *words, "--precision", "fp16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout
    out = tmp_path / "zerosim-out"
    assert sorted(path.name for path in out.iterdir()) == [f"bench-checkpoint.{end}" for end in ("json", "png", "svg")]
    result = json.loads((out / "bench-checkpoint.json").read_text())
    assert result["backend"] == ("mpi" if n else "threads")
    assert [size["layers"] for size in result["sizes"]] == [[784, w, w, 10] for w in (9, 16)]
    for size in result["sizes"]:
        assert [row["ranks"] for row in size["ranks"]] == [1, 3]
        for row in size["ranks"]:
            assert row["tensors"]["measured"] == row["tensors"]["formula_per_rank"]
            assert sum(row["tensors"]["measured"]) == size["parameters"] * {"adam": 12, "momentum": 8}[optimizer]
            assert all(a > b for a, b in zip(row["files"], row["tensors"]["measured"], strict=True))
            assert row["repetitions"] >= 7
            for what in ("write", "read"):
                assert row[what]["ratio"] > 0
            assert row["verify"]["median"] <= row["read"]["seconds"]["median"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--widths 0", ["widths", "1 or more"]),
        ("--widths 900000", ["stage 3", "too many"]),
        ("--ranks 1,1", ["ranks", "more than once"]),
        ("--ranks 1000", ["ranks", "256"]),
        ("--stage 4", ["stage", "0, 1, 2, 3"]),
        ("--stage 1,2", ["stage", "one of"]),
        ("--precision fp8", ["precision"]),
        ("--optimizer lion", ["optimizer", "adamw"]),
        ("--seconds 0", ["seconds"]),
    ],
)
def test_bench_bad_input(tmp_path, capsys, words, expected):
    assert main(["bench", "checkpoint", *words.split(), "--out", str(tmp_path)]) == 2
    complaint = capsys.readouterr().err
    assert len(complaint.splitlines()) == 1
    assert all(word in complaint for word in expected), complaint
