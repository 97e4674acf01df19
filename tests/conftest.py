"""What the tests share: ranks in threads, ranks under mpirun, and small data."""

import os
import subprocess
import sys
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
