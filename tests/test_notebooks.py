"""The course: every notebook, as it is stored and as it runs; what its cells and exercises are made of."""

import functools
import json
import math
import re
import sys
import time
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from zerosim import exercises, notebook
from zerosim.errors import Failed, InputError
from zerosim.exercises.verdict import Wrong, exercise, in_time, wanted
from zerosim.myths import CLAIMS
from zerosim.stages import zero1, zero2

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SAYS = {
    "08_myths": [*(f"({name})" for name in CLAIMS), "Epoch 10/10, Loss: ", "ends with [ 1.25  0.75  0.15 -0.15]"],
}
"""What a notebook must print, besides running."""


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def text_of(cells):
    return "\n".join("".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_as_it_is_stored(path):
    """Without outputs; it opens with its question and with what the reader will be able to do; predict, then run."""
    import nbformat

    nbformat.validate(nbformat.read(path, as_version=4))
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))
    opening = "".join(cells(path, "markdown")[0]["source"])
    assert re.match(r"# .*\?\n", opening)
    assert "you will be able to" in opening
    assert re.search(r"\d\d minutes", opening)
    assert len(re.findall(r"\*\*Predict", text_of(cells(path, "markdown")))) >= 2
    assert "!" not in {line[:1] for line in text_of(cells(path, "code")).splitlines()}, "ranks run through the helper"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    """From top to bottom on a fresh kernel: nothing warns, nothing is left behind, no exercise is solved already."""
    import nbclient
    import nbformat

    book = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the kernel's own libraries warn of
        nbclient.NotebookClient(book, timeout=90, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    assert [words for words in SAYS.get(path.stem, ()) if words not in said] == []
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert list(tmp_path.iterdir()) == []
    checks = re.findall(r"^(?:exercises\.)?(check_\w+)\(", text_of(cells(path, "code")), re.M)
    verdicts = [output["data"]["text/plain"] for output in outputs if output.output_type == "execute_result"]
    assert 2 <= len(checks) <= 4 or path.stem.startswith("optional")
    assert sum(text.startswith("Not yet: ") for text in verdicts) == len(checks)
    assert set(checks) <= set(exercises.__all__)


def test_a_job(tmp_path):
    job = notebook.mpirun(3, "train", "--stage", 1, "--hidden", 8, "--steps", 2, "--checkpoint", tmp_path / "c")
    assert job.report["world_size"] == 3
    assert job.text.startswith("3 ranks (mpi)")
    assert job.command.startswith("mpirun -n 3 python -m zerosim train --stage 1 --hidden 8")
    assert len(set(job.processes)) == 3
    folder = job.folder
    assert folder.exists()
    del job
    assert not folder.exists()


def test_a_job_that_fails():
    with pytest.raises(Failed, match=r"train --stage 7: exit status 2\nzerosim: stages: there is no stage 7"):
        notebook.mpirun(2, "train", "--stage", 7)
    with pytest.raises(InputError, match="there is no command 'trian'"):
        notebook.mpirun(2, "trian")


def test_a_job_that_does_not_end(tmp_path):
    (tmp_path / "waits.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(100)\n")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="not over after 1 s; it was killed"):
        notebook.mpirun(2, str(tmp_path / "waits.py"), timeout=1)
    assert time.monotonic() - began < 50, "it was not waited for"


def test_a_job_without_mpi(monkeypatch):
    monkeypatch.setenv("ZEROSIM_WITHOUT_MPI", "1")
    job = notebook.mpirun(3, "train", "--stage", 1, "--hidden", 8, "--steps", 2)
    assert job.command == "python -m zerosim train --stage 1 --hidden 8 --steps 2 --ranks 3"
    assert (job.report["backend"], job.report["world_size"]) == ("threads", 3)
    with pytest.raises(InputError, match="this needs 2 processes of MPI, and ZEROSIM_WITHOUT_MPI is set"):
        notebook.mpirun(2, "mine.py")
    with pytest.raises(InputError, match="--ranks 4 besides N = 3: leave --ranks out"):
        notebook.Job(3, "train", "--ranks", 4)
    shown = notebook.mpirun(1, "collectives", "check", "ring", "--ranks", 3)
    assert shown.command == "python -m zerosim collectives check ring --ranks 3", "those ranks are the formulas'"
    monkeypatch.setenv("ZEROSIM_WITHOUT_MPI", "0")
    job = notebook.mpirun(2, "train", "--stage", 1, "--hidden", 8, "--steps", 2)
    assert (job.report["backend"], job.report["world_size"]) == ("mpi", 2)


@pytest.mark.parametrize("N", [0, -1, 1.5, True, "2", None])
def test_a_job_on_so_many_ranks(N):
    with pytest.raises(InputError, match=f"{N!r} ranks: a whole number of 1 or more is needed"):
        notebook.mpirun(N, "train")


def test_code_beside_code(capsys):
    notebook.diff(zero1.allocate, zero2.allocate, context=0)
    said = capsys.readouterr().out
    assert said.startswith("--- zerosim.stages.zero1\n+++ zerosim.stages.zero2\n")
    assert '-    rank.gradients = rank.zeros("gradients", layout.padded)' in said
    notebook.source(zero1.allocate)
    assert capsys.readouterr().out.startswith("def allocate(rank: Rank)")


def test_predicted_beside_counted(capsys):
    notebook.compare({"bytes": 300, "verb": "all_reduce"}, {"bytes": 200, "verb": "all_reduce", "messages": 6})
    head, bytes_, verb, messages = capsys.readouterr().out.splitlines()
    assert head.split() == ["predicted", "counted"]
    assert bytes_.endswith("you said 1.5 times as much")
    assert verb.endswith("as predicted")
    assert messages.endswith("not predicted")
    notebook.compare({"GB": 31.25}, {"GB": 31.2}, "formula")
    assert capsys.readouterr().out.splitlines()[0].split() == ["predicted", "formula"]


@pytest.mark.parametrize(
    ("said", "value", "how"),
    [
        (31.25, 31.2, "as predicted"),  # more exact than what is shown
        (31.3, 31.2, "you said 0.32 % too much"),
        (31, 31.2, "you said 0.64 % too little"),
        (127.9, 128, "as predicted"),
        (2.9, 3, "you said 3.3 % too little"),
        (1.5, 2, "you said 0.75 times as much"),
        (1000, 1024, "you said 2.3 % too little"),
        ("1,024", 1024, "as predicted"),
        ("four", 4, "a number was asked for"),
        (0, 4, "otherwise"),
        (4, 0, "otherwise"),
        (0, 0, "as predicted"),
        (np.float32(0.5), 0.5, "as predicted"),
        (1 / 3, 1 / 3, "as predicted"),
        (0.333333, 1 / 3, "as predicted"),
        (0.33, 1 / 3, "you said 1 % too little"),
        (4187, 4187.5, "you said 0.012 % too little"),
        (math.inf, 4187.5, "you said inf times as much"),
        (math.nan, 4187.5, "otherwise"),
        (True, "yes", "as predicted"),
        (" Yes", "yes", "as predicted"),
        ("no", True, "otherwise"),
        ("allocate,  step", "allocate step", "as predicted"),
        ("Optimizer_states", "optimizer_states", "as predicted"),
        ("optimizer states", "optimizer_states", "as predicted"),
        (["allocate", "step"], "allocate step", "as predicted"),
        ([2, 3], "2 3", "as predicted"),
        (False, "false", "as predicted"),
        ("4/3", 4 / 3, "as predicted"),
        (Fraction(4, 3), 4 / 3, "as predicted"),
        (Decimal("2.5"), 2.5, "as predicted"),
        ("halving and bruck", "halving = bruck", "as predicted"),
        (1, "yes", "otherwise"),
        ([3, 3], [3, 3], "as predicted"),
    ],
)
def test_how_a_prediction_is(said, value, how, capsys):
    notebook.compare({"it": said}, {"it": value})
    assert capsys.readouterr().out.splitlines()[1].endswith(f"  {how}")


@exercise
def check_double(function):
    wanted(function, "x")
    for x in range(5):
        if (got := in_time(function, x, seconds=1)) != 2 * x:
            raise Wrong(f"of {x} it returns {got}")
    return "0 to 4"


def divides(x):
    return x * 2 // (x - 3) * (x - 3)


def for_ever(x):
    while True:
        pass


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (lambda x: x + x, "Right: 0 to 4"),
        (lambda x: x * x, "Not yet: of 1 it returns 1"),
        (functools.partial(divmod, 4), r"Not yet: of 0 .*|Not yet: ZeroDivisionError.*"),
        (functools.partial(lambda a, b, c: a, 1), r"Not yet: partial\(b, c\) must take \(x\)"),
        (abs, "Not yet: of 1 it returns 1"),
        (lambda x: sys.exit(), r"Not yet: it leaves the program \(exit\); it must return, in line \d+ of yours.*"),
        (lambda: 0, r"Not yet: <lambda>\(\) must take \(x\)"),
        (3, r"Not yet: this is int, and must be a function of \(x\)"),
        (
            divides,
            r"Not yet: ZeroDivisionError: integer .* by zero, in line \d+ of yours: return x \* 2 // \(x - 3\).*",
        ),
        (for_ever, "Not yet: it has not ended after 1 s: is there a loop without an end[?]"),
    ],
)
def test_a_verdict(solution, says):
    verdict = check_double(solution)
    assert bool(verdict) == says.startswith("Right")
    assert re.fullmatch(says, repr(verdict))
