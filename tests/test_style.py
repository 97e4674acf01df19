"""Lint, format and types, with the project's own settings; and what the README says is what there is."""

import re
import subprocess
import sys
import warnings
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


def test_readme_python_runs_in_a_notebook(tmp_path):
    """The README's Python, as it stands there: it prints the table and shows the figure."""
    import nbclient
    import nbformat

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the kernel's own libraries warn of
        nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = notebook.cells[0].outputs
    assert any("identical to the bit at stages 0, 3" in output.get("text", "") for output in outputs)
    assert "image/png" in outputs[-1]["data"]


def test_ci_types_what_the_readme_says():
    command = re.search(r"^.*\[mpi,test\].*pytest$", (ROOT / "README.md").read_text(), re.M)[0]
    assert command in (ROOT / ".ci" / "run").read_text()
