"""What the tests share: ranks in threads, ranks under mpirun, and small data."""

import fcntl
import json
import os
import pickle
import subprocess
import sys
from functools import reduce
from operator import or_
from pathlib import Path
from types import SimpleNamespace

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile zerosim again, each of them

import numpy as np
import pytest

import zerosim
from zerosim.__main__ import main

MPIRUN = Path(sys.executable).parent / "mpirun"


def mpirun(n, *words, timeout=60, **options):
    """Run python with these words on n MPI ranks (0: without mpirun) and return the finished process, text captured."""
    launcher = [str(MPIRUN) if MPIRUN.exists() else "mpirun", "-n", str(n)] if n else []
    return subprocess.run(
        [*launcher, sys.executable, *map(str, words)], capture_output=True, text=True, timeout=timeout, **options
    )


def run_zerosim(n, *words, figures=False, **options):
    """Run a command on n MPI ranks; a training draws its figures only if the test is about them."""
    trains = not words or str(words[0]).startswith("--") or words[0] == "train"
    return mpirun(n, "-m", "zerosim", *words, *["--no-figures"] * (trains and not figures), **options)


ONE_JOB = """
import json, os, sys
from pathlib import Path
from zerosim.__main__ import main
from zerosim.transport.mpi import launched_rank

for number, (words, folder) in enumerate(json.loads(Path("commands.json").read_text())):
    place = f"{os.getcwd()}/{number}.{launched_rank()}"
    for descriptor, end in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{place}.{end}", os.O_WRONLY | os.O_CREAT), descriptor)
    here = os.getcwd()
    os.chdir(folder)
    status = main(words)
    sys.stdout.flush()
    os.chdir(here)
    Path(f"{place}.status").write_text(str(status))
"""


def in_one_job(n, commands, folder, timeout=120):
    """Run commands one after the other on the same n MPI ranks: to start those takes longer than most of them.

    `commands` are (words, folder to run in). Returns what each ended with and printed as mpirun's own: of several
    statuses it ends with all their bits. None: a rank did not get to the end; mpi4py then ends the others.
    """
    commands = [([*map(str, words)], str(where)) for words, where in commands]
    folder.mkdir(parents=True)
    (folder / "commands.json").write_text(json.dumps(commands))
    try:
        job = mpirun(n, "-m", "mpi4py", "-c", ONE_JOB, cwd=folder, timeout=timeout)
        last_words = f"the job ended with {job.returncode}: {job.stderr}"
    except subprocess.TimeoutExpired:
        last_words = f"the job was not over after {timeout} seconds"

    def read(name):
        return (folder / name).read_text() if (folder / name).exists() else ""

    def ended(number):
        statuses = [read(f"{number}.{rank}.status") for rank in range(n)]
        out, err = ("".join(read(f"{number}.{rank}.{end}") for rank in range(n)) for end in ("out", "err"))
        if not all(statuses):
            return SimpleNamespace(returncode=None, stdout=out, stderr=err + last_words)
        return SimpleNamespace(returncode=reduce(or_, map(int, statuses)), stdout=out, stderr=err)

    return [ended(number) for number in range(len(commands))]


def small_data(task="classification", rows=48, features=5, outputs=3, seed=1, scale=1.0):
    """Rows that a small model can learn something of."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, features)) * scale
    y = x @ random.standard_normal((features, outputs))
    if task == "classification":
        y = y.argmax(axis=1)
        y[:outputs] = range(outputs)
    return zerosim.make_dataset("small", x, y)


def train_on(N, data=None, **settings):
    """Train on N in-process ranks and return the records (every rank's must be the same)."""
    config = zerosim.Config(**{"test_fraction": 0.25, "hidden": (7,), "batch_size": 16, "steps": 4, **settings})
    data = data or small_data()
    everyone = zerosim.run_threads(N, lambda comm: zerosim.train(config, comm, data=data))
    assert all(records == everyone[0] for records in everyone)
    return everyone[0]


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Make what many tests look at once for all processes of the tests: who comes later waits for it and reads it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def once(name, make):
        file = folder / f"{name}.pickle"
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                file.write_bytes(pickle.dumps(make()))
        return pickle.loads(file.read_bytes())

    return once


@pytest.fixture
def npz(tmp_path):
    """Write arrays to an .npz file and return its path."""

    def write(name="data.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """Type a command in an empty folder; it runs within this process, and what it prints is returned as a process's."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        status = main([*map(str, words)])
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=printed.out, stderr=printed.err)

    return run


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=6, help="how many runs test_faults kills at a random instant")


def pytest_generate_tests(metafunc):
    if "kill" in metafunc.fixturenames:
        metafunc.parametrize("kill", range(metafunc.config.getoption("kills")))
