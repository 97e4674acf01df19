"""Lint, format and types, with the project's own settings; and what the README says is what there is."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import run_zerosim

from zerosim import published

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("words", ["ruff check .", "ruff format --check .", "mypy"])
def test_tool(words):
    done = subprocess.run([sys.executable, "-m", *words.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_names_every_flag(typed):
    helps = [["train"], *(["collectives", part] for part in ("list", "show", "check", "time", "bench"))]
    helps += [*(["bench", part] for part in ("step", "collectives", "torch", "scale", "checkpoint"))]
    helps += [["witness", "torch"], *(["checkpoint", part] for part in ("inspect", "verify", "consolidate"))]
    helps += [["plan"], ["check"], ["residual"], ["myths"], ["gallery"]]
    helps += [["plan"], ["check"], ["residual"], ["myths"], ["figures"]]
    texts = [typed(*words, "--help").stdout for words in helps]
    assert all(len(text) > 200 for text in texts)
    flags = set(re.findall(r"--[a-z][a-z-]+", "".join(texts))) - {"--no-shuffle"}
    readme = (ROOT / "README.md").read_text()
    assert [flag for flag in sorted(flags) if flag not in readme and flag != "--help"] == []


def readme_python():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_readme_algorithm_is_right(tmp_path):
    """The README's examples of an algorithm of one's own, with the README's own command."""
    (tmp_path / "mine.py").write_text("".join(readme_python()[:2]))
    for name, verb in (("to_the_left", "reduce_scatter"), ("star", "all_reduce")):
        done = run_zerosim(0, "collectives", "check", f"mine.py:{name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"{verb} by mine.py:{name}: right for N = 1-33" in done.stdout


def test_readme_python_runs_in_a_notebook(tmp_path):
    """The README's Python, as it stands there: it prints the table and shows the figure."""
    import nbclient
    import nbformat

    (code,) = (block for block in readme_python() if "figures.memory" in block)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the kernel's own libraries warn of
        nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = notebook.cells[0].outputs
    assert any("identical to the bit at stages 0, 3" in output.get("text", "") for output in outputs)
    assert "image/png" in outputs[-1]["data"]


def test_readme_rows_and_arrays():
    """The README's row of a paper agrees, and its arrays are what they are said to be."""
    rows = re.search(r"```json\n(\[.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    assert [found.status for found in published.check(published._rows(rows, "README"))] == ["agrees"]
    (code,) = (block for block in readme_python() if "meshgrid" in block)
    exec(code, names := {})
    assert names["held"].shape == names["sent"].shape == (4, 2500, 10)


def test_readme_table_of_a_grid_is_of_its_command(tmp_path):
    """The table of the parts of the model comes from the command above it, whatever the number of steps."""
    section = (ROOT / "README.md").read_text().partition("## Model parallelism")[2].partition("\n## ")[0]
    command = re.search(r"mpirun -n (\d) python -m zerosim (.*?) +# 2 x 1 x 2", section)
    done = run_zerosim(0, *command[2].split(), "--ranks", command[1], "--steps", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (table,) = re.findall(r"```\n( pipe .*?)```", section, re.S)
    assert table in done.stdout


def test_ci_types_what_the_readme_says():
    command = re.search(r"^.*\[mpi,test\].*pytest$", (ROOT / "README.md").read_text(), re.M)[0]
    assert command in (ROOT / ".ci" / "run").read_text()
