"""Lint, format and types, with the project's own settings; and what the README says is what there is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_zerosim

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("words", ["ruff check .", "ruff format --check .", "mypy"])
def test_tool(words):
    done = subprocess.run([sys.executable, "-m", *words.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_names_every_flag(tmp_path):
    flags = set(re.findall(r"--[a-z][a-z-]+", run_zerosim(0, "train", "--help", cwd=tmp_path).stdout)) - {
        "--no-shuffle"
    }
    readme = (ROOT / "README.md").read_text()
    assert [flag for flag in sorted(flags) if flag not in readme and flag != "--help"] == []


def test_readme_python_runs(tmp_path, monkeypatch):
    """The README's Python, as it stands there."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block.replace("%matplotlib inline\n", ""), "README.md", "exec"), {})


def test_ci_types_what_the_readme_says():
    command = re.search(r"^.*\[mpi,test\].*pytest$", (ROOT / "README.md").read_text(), re.M)[0]
    assert command in (ROOT / ".ci" / "run").read_text()
