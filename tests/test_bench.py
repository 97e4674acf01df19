"""The benchmarks: what they report is whole and true; never how long anything takes."""

import json
import os

import numpy as np
import pytest
from conftest import in_one_job, mpirun, run_zerosim
from test_cli import assert_one_line

from zerosim import formulas

SMALL = ["--layers", "20,30,40,5", "--rows", 6]


def report(done, path):
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert path.with_suffix(".png").exists()
    assert path.with_suffix(".svg").exists()
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize(
    ("n", "precision", "optimizer"), [(1, "fp32", "sgd"), (2, "fp16", "adam"), (3, "bf16", "adamw")]
)
def test_step(tmp_path, n, precision, optimizer):
    words = [*SMALL, "--precision", precision, "--optimizer", optimizer, "--collective", "ring", "--seconds", 0.1]
    done = run_zerosim(n, "bench", "step", *words, cwd=tmp_path)
    result = report(done, tmp_path / "zerosim-out" / "bench-step")
    assert [row["stage"] for row in result["stages"]] == [0, 1, 2, 3]
    for row in result["stages"]:
        assert row["repetitions"] >= 7
        assert row["bytes_sent"] == sum(formulas.traffic(row["stage"], [20, 30, 40, 5], n, precision).values())
        parts = [row["floor"][name]["median"] for name in ("products", "optimizer", "copy")]
        assert row["floor"]["seconds"] == pytest.approx(sum(parts))
        assert row["ratio_to_floor"] == pytest.approx(row["seconds"]["median"] / row["floor"]["seconds"])
        assert all(seconds >= 0 for seconds in row["split"].values())
        assert n > 1 or row["split"]["waiting"] == 0
        assert f"{row['ratio_to_floor']:.2f}" in done.stdout


def test_collectives_is_the_laboratorys(tmp_path):
    words = ["ring", "--bytes", "1KiB", "--seconds", 0.05, "--json"]
    result = json.loads(run_zerosim(2, "bench", "collectives", *words, cwd=tmp_path).stdout)
    assert list(result["sizes"][0]["collectives"]) == ["native", "ring"]


@pytest.mark.parametrize("n", [0, 5])
def test_scale(tmp_path, n):
    """In one process and under mpirun: the books equal the formulas for each number of ranks."""
    done = run_zerosim(n, "bench", "scale", *SMALL, "--ranks", "1,3,5", "--steps", 2, cwd=tmp_path)
    result = report(done, tmp_path / "zerosim-out" / "bench-scale")
    assert [row["ranks"] for row in result["ranks"]] == [1, 3, 5]
    assert result["backend"] == ("mpi" if n else "threads")
    for row in result["ranks"]:
        assert row["identical_weights"]
        for run in row["runs"]:
            assert run["books_equal"]
            held = formulas.at_rest(run["stage"], [20, 30, 40, 5], row["ranks"], "fp32", "adam")
            assert run["at_rest"] == run["at_rest_formula"] == sum(held.values())
            assert run["sent"] == run["sent_formula"]
    assert "Books: bytes held and sent equal" in done.stdout


def test_scale_goes_to_32_in_one_process(tmp_path):
    done = run_zerosim(0, "bench", "scale", *SMALL, "--steps", 2, "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert [row["ranks"] for row in result["ranks"]] == [1, 2, 4, 8, 16, 32]
    assert all(run["books_equal"] for row in result["ranks"] for run in row["runs"])


BAD = [
    ("bench", ["step", "collectives", "torch", "scale", "checkpoint"]),
    ("bench step --layers 20", ["layers", "two widths"]),
    ("bench step --layers 20,x", ["layers", "whole numbers"]),
    ("bench step --layers 20,1", ["layers", "2 or more"]),
    ("bench step --rows 0", ["rows", "1 or more"]),
    ("bench step --stages 4", ["stages", "0, 1, 2, 3"]),
    ("bench step --precision fp8", ["precision", "fp32"]),
    ("bench step --optimizer adamx", ["optimizer", "adamw"]),
    ("bench step --collective rnig", ["collective", "ring"]),
    ("bench step --seconds 0", ["seconds"]),
    ("bench step --wire radio", ["wire", "tcp"]),
    ("bench step --sceonds 1", ["--seconds"]),
    ("bench scale --ranks 1,2,64", ["ranks", "64"]),
    ("bench scale --ranks 1,2,2", ["ranks", "more than once"]),
    ("bench step --layers 900000,900000,2", ["stage 0", "too many for this machine"]),
    ("bench scale --ranks 1 --layers 900000,900000,2", ["stage 0", "on one rank"]),
    ("bench scale --steps 1", ["steps", "2 or more"]),
    ("witness", ["torch"]),
    ("witness torch --steps 0", ["steps", "1 or more"]),
    ("witness torch --optimizer adam", ["--optimizer"]),
]


@pytest.fixture(scope="module")
def refused(once, tmp_path_factory):
    """How each bad input ended on two ranks."""
    folder = tmp_path_factory.mktemp("bad")
    return once("bench", lambda: in_one_job(2, [(words.split(), folder) for words, _ in BAD], folder / "job"))


@pytest.mark.parametrize("case", range(len(BAD)), ids=[words for words, _ in BAD])
def test_bad_input(refused, case):
    assert_one_line(refused[case], BAD[case][1])


@pytest.mark.parametrize("words", ["bench step", "bench torch", "witness torch"])
def test_without_mpirun(tmp_path, words):
    done = run_zerosim(0, *words.split(), *(["--ranks", 2] if words == "bench step" else []), cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_without_pytorch(tmp_path):
    """What to install is said on one line, by one rank."""
    try:
        import torch  # noqa: F401
    except ImportError:
        for words in (["bench", "torch"], ["witness", "torch"]):
            assert_one_line(run_zerosim(2, *words, cwd=tmp_path), ["PyTorch", "zerosim[torch]"])


# with PyTorch, where it is installed (the extra zerosim[torch]) ------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_pytorch_trains_the_same(tmp_path, n):
    pytest.importorskip("torch")
    words = ["--layers", "12,33,17,4", "--rows", 5, "--steps", 6, "--seed", 3, "--json"]
    done = run_zerosim(n, "witness", "torch", *words, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["comparisons"]
    assert len(rows) == 8
    for row in rows:
        assert row["largest_move"] > 1e-3
        assert row["largest_difference"] < 1e-6 * np.ceil(row["largest_weight"])


def test_pytorch_beside_each_stage(tmp_path):
    pytest.importorskip("torch")
    done = run_zerosim(2, "bench", "torch", *SMALL, "--seconds", 0.2, "--wire", "tcp", cwd=tmp_path, timeout=240)
    result = report(done, tmp_path / "zerosim-out" / "bench-torch")
    for row in result["stages"]:
        assert row["ratio"] > 0
        assert row["ours"]["bytes_on_the_wire"] >= row["ours"]["bytes_counted"]
        assert row["theirs"]["bytes_on_the_wire"] > 0


BOUND = """
import os, sys
from mpi4py import MPI
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[MPI.COMM_WORLD.rank % len(cores)]})
from zerosim.transport.mpi import MPITransport
sys.stdout.write(f"{MPITransport()._crowded}\\n")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are bound to cores on Linux only")
@pytest.mark.parametrize("n", [2, 3])
def test_ranks_bound_to_a_core_each_know_how_many_there_are(n):
    """A rank that waits gives its core away only where there are more ranks than cores, not where each has its own."""
    done = mpirun(n, "-c", BOUND)
    assert done.stdout.split() == [str(n > len(os.sched_getaffinity(0)))] * n, done.stderr
