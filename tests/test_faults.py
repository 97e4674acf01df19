"""Bad days: ranks that are killed, raise, are signalled or cannot write. Nothing hangs, and what was whole goes on."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import mpirun, run_zerosim

import zerosim
from zerosim.checkpoint import open_checkpoint, resumed
from zerosim.checkpoint.manifest import checkpoints
from zerosim.notebook import Job

SOON = 15
"""Seconds in which a job must be over when a rank is."""

RUN = ["--hidden", "24", "--steps", "60", "--no-shuffle", "--test-fraction", "0.9", "--batch-size", "48"]
SETTINGS = {"hidden": (24,), "steps": 60, "shuffle": False, "test_fraction": 0.9, "batch_size": 48}


@pytest.fixture(scope="module")
def bits():
    """The hash of the weights with which the run above ends on 3 ranks, whatever the stage."""
    config = zerosim.Config(**SETTINGS, stages=(2,))
    return zerosim.run_threads(3, lambda comm: zerosim.train(config, comm))[0].runs[0].weights_sha256


def begun(folder, *words):
    """Begin a training on 3 ranks with checkpoints in `folder`/c, and wait until it says its processes."""
    job = Job(3, "train", *RUN, "--checkpoint", folder / "c", *words)
    assert len(job.processes) == 3
    return job


def go_on(folder, N=3):
    """Verify all checkpoints in a folder, go on from the newest, or from nothing, and return the hash at the end."""
    found = checkpoints(folder)
    for one in found:
        open_checkpoint(str(one)).verify()
    if found and open_checkpoint(str(folder)).manifest.step == 60:
        shutil.rmtree(found[-1])
        found.pop()
    settings = {**SETTINGS, "stages": (2,), "checkpoint": str(folder)}
    config = resumed(str(folder), N) if found else zerosim.Config(**settings)
    return zerosim.run_threads(N, lambda comm: zerosim.train(config, comm))[0].runs[0].weights_sha256


def test_a_rank_killed_at_any_instant(tmp_path, bits, kill):
    """SIGKILL, half of the time with checkpoints at every step: the job ends, and the newest goes on to the same bits.

    `pytest tests/test_faults.py --kills 50` does it 50 times.
    """
    chance = random.Random(kill)
    job = begun(tmp_path, "--stage", chance.randrange(4), "--checkpoint-every", chance.choice([1, 7]), "--keep", 2)
    time.sleep(chance.uniform(0, 1.2))
    victim = chance.randrange(3)
    try:
        job.signal(signal.SIGKILL, rank=victim)
    except ProcessLookupError:
        assert job.end(SOON) == 0, "it was over"
    else:
        status, said = job.end(SOON), job.text + job.said
        assert status or "Report" in said
        assert not status or f"PID {job.processes[victim]} RUNNING" in said or "(signal 9)" in said
    assert go_on(tmp_path / "c") == bits


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_mpirun(tmp_path, bits, number, status):
    job = begun(tmp_path, "--stage", 3, "--checkpoint-every", 50)
    job.wait_for("stage 3: step 1 of")
    job.signal(number)
    assert job.end(SOON) == status
    line = job.wait_for("zerosim: ")
    step = int(re.search(rf"{number.name} has ended the run after step (\d+) of 60; --resume (\S+) goes on", line)[1])
    assert open_checkpoint(str(tmp_path / "c")).manifest.step == step
    assert "Traceback" not in job.said
    assert go_on(tmp_path / "c") == bits


AS_IT_BEGINS = """
import os, signal, sys, threading
def watch(frame, event, argument):
    if (os.path.basename(frame.f_code.co_filename), frame.f_code.co_name) == ({file!r}, {function!r}):
        sys.setprofile(None)
        send = lambda: os.kill(os.getpid(), {number})
        threading.Timer({delay}, send).start() if {delay} else send()
if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
    sys.setprofile(watch)
"""


@pytest.mark.parametrize(
    ("file", "function", "delay", "number"),
    [
        ("formulas.py", "<module>", 0, signal.SIGINT),  # while Python imports zerosim
        ("formulas.py", "<module>", 0, signal.SIGTERM),
        ("__main__.py", "_main", 0, signal.SIGINT),
        ("mpi.py", "__init__", 0, signal.SIGTERM),  # MPI has not begun
        ("mpi.py", "__init__", 0.01, signal.SIGINT),  # it begins, or the others are waited for
        ("mpi.py", "__init__", 0.03, signal.SIGTERM),
        ("mpi.py", "__init__", 0.1, signal.SIGINT),
        ("mpi.py", "send", 0, signal.SIGINT),  # the first message
        ("train.py", "train", 0, signal.SIGTERM),
        ("zero1.py", "step", 0, signal.SIGINT),
    ],
)
def test_a_signal_to_one_rank_as_it_begins(tmp_path, file, function, delay, number):
    """Whether MPI has begun or not, whoever else has been told: the job ends, and not as if all were well."""
    (tmp_path / "sitecustomize.py").write_text(
        AS_IT_BEGINS.format(number=int(number), file=file, function=function, delay=delay)
    )
    words = ["train", *RUN, "--steps", 100000, "--stage", 1]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_zerosim(3, *words, cwd=tmp_path, timeout=2 * SOON, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode
    assert "Traceback" not in done.stderr


def test_a_signal_to_ranks_in_one_process(tmp_path):
    command = [sys.executable, "-m", "zerosim", "train", *RUN, "--steps", "100000", "--ranks", "2", "--stage", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert "step 1 of" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=SOON)
        finally:
            process.kill()
    assert process.returncode == 143
    assert re.search(r"SIGTERM has ended the run after step \d+ of 100000; nothing was saved", said)


FAILING = """
import sys
import zerosim.__main__
from zerosim.{module} import {owner}
real, calls = {owner}.{method}, []
def fails(self, *words, **options):
    calls.append(1)
    if len(calls) == {after} and {rank} == 1:
        {what}
    return real(self, *words, **options)
{owner}.{method} = fails
sys.exit(zerosim.__main__.main(sys.argv[1:]))
"""


def run_failing(folder, **how):
    (folder / "fails.py").write_text(FAILING.format(**how))
    started = time.monotonic()
    done = mpirun(3, "fails.py", "train", *RUN, "--stage", 2, "--checkpoint", "c", "--checkpoint-every", 3, cwd=folder)
    assert time.monotonic() - started < 2 * SOON
    return done


@pytest.mark.parametrize(
    ("module", "owner", "method", "after", "rank"),
    [
        ("rank", "Rank", "update", 40, "self.world.rank"),
        ("comm", "Comm", "reduce_scatter", 30, "self.rank"),
        ("checkpoint.writer", "Checkpoints", "_vectors", 9, "self._rank.world.rank"),
    ],
)
def test_a_rank_that_raises(tmp_path, bits, module, owner, method, after, rank):
    """In an update, in a collective, in the middle of a checkpoint: its traceback, from it alone, and the end."""
    what = "raise RuntimeError('a bad day')"
    done = run_failing(tmp_path, module=module, owner=owner, method=method, after=after, rank=rank, what=what)
    assert done.returncode, "1, unless mpirun mixes in the status of those whom it ends"
    assert "zerosim: rank 1 of 3 failed" in done.stderr
    assert done.stderr.count("RuntimeError: a bad day") == 1
    assert checkpoints(tmp_path / "c")
    assert go_on(tmp_path / "c") == bits


def test_a_rank_whose_disk_is_full(tmp_path, bits):
    """The kernel refuses what one rank writes: one line on standard error, status 1; earlier checkpoints are good."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, {resource.RLIM_INFINITY}))"
    done = run_failing(
        tmp_path,
        module="checkpoint.writer",
        owner="Checkpoints",
        method="_vectors",
        after=9,
        rank="self._rank.world.rank",
        what=limit,
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("zerosim")]
    assert len(said) == 1
    assert re.search(r"c: cannot be written \(File too large\); the newest whole one is c/step-0", said[0])
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "c").glob(".*"))
    assert go_on(tmp_path / "c") == bits


def test_a_loss_that_is_no_number(tmp_path):
    """Without loss scaling the run stops at once; the checkpoints before it are those of a training that was sound."""
    words = ["--precision", "fp32", "--optimizer", "sgd", "--lr", "1e15", "--stage", 1, "--steps", 30]
    done = run_zerosim(2, "train", *RUN, *words, "--checkpoint", "c", "--checkpoint-every", 1, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"zerosim: stage 1, step \d+: the loss is (nan|inf)", done.stderr)
    newest = open_checkpoint(str(tmp_path / "c"))
    newest.verify()
    assert all(loss is not None for loss in newest.manifest.state["loss"])
