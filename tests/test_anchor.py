"""Counted points: the books of a run, the closed forms and the planner are the same bytes; the figures show them."""

import json

import numpy as np
import pytest
from conftest import run_zerosim
from test_cli import assert_one_line

from zerosim import anchor, figures, formulas, machine, published
from zerosim.errors import InputError
from zerosim.plan import Workload, mlp, plan

SETTINGS = [
    # precision, optimizer, micro-steps
    ("fp16", "adam", 1),
    ("fp32", "sgd", 1),
    ("bf16", "adamw", 1),
    ("fp16", "momentum", 1),
    ("fp16", "adam", 2),
    ("fp32", "adam", 3),
]
RANKS = (1, 2, 3, 4, 7, 8)
CLASSES = ("parameters", "gradients", "optimizer_states")
NAMES = [f"check-{name}" for name in ("figure1", "states", "largest", "volume", "efficiency")]


@pytest.fixture(scope="module")
def points():
    return anchor.count()


@pytest.fixture(scope="module")
def rows():
    return published.shipped()


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: "-".join(map(str, setting)))
def counted(request):
    precision, optimizer, k = request.param
    found = anchor.count(ranks=RANKS, precision=precision, optimizer=optimizer, grad_accum=k)
    assert [(one["ranks"], one["stage"]) for one in found] == [(N, stage) for N in RANKS for stage in range(4)]
    return found


def test_the_books_are_the_closed_forms(counted):
    """To the byte, on every rank, of the padded parameters."""
    for one in counted:
        stage, N, k, w = one["stage"], one["ranks"], one["grad_accum"], formulas.WIDTH[one["precision"]]
        Psi, K = one["padded_parameters"], formulas.K(one["optimizer"], one["precision"])
        assert one["parameters"] == formulas.parameters(anchor.WIDTHS)
        assert Psi == formulas.padded_parameters(anchor.WIDTHS, N)
        assert (Psi > one["parameters"]) == (N in (3, 4, 7, 8))
        held = {**formulas.model_states(stage, Psi, N, w, K)._asdict(), "activations": 0, "buffers": 0}
        assert one["at_rest"] == [held] * N
        sent = formulas.bytes_per_rank(stage, Psi, N, w, k)
        assert [sum(own.values()) for own in one["sent"]] == [sent] * N
        verbs = {verb: elements * w * (N - 1) / N for verb, elements in formulas.volume(stage, Psi, k).items()}
        assert N == 1 or one["sent"] == [verbs] * N


def test_the_planner_says_the_same(counted):
    """What a plan of the MLP has at rest and sends is what the run had and sent: one set of formulas for both."""
    for one in counted:
        work = Workload(
            gpus=one["ranks"],
            precision=one["precision"],
            optimizer=one["optimizer"],
            grad_accum=one["grad_accum"],
            convention="zero",
        )
        planned = plan(mlp(anchor.WIDTHS), machine.find("dgx-2"), work, one["stage"], "none")
        for own in one["at_rest"]:
            assert {name: planned.bytes[name] for name in CLASSES} == {name: own[name] for name in CLASSES}
        for own in one["sent"]:
            assert planned.traffic == {"data_parallel": sum(own.values()), "tensor_parallel": 0, "host": 0, "nvme": 0}


def test_points_are_plain_and_progress_is_told():
    heard = []
    found = anchor.count((5, 3), (1, 2), tell=heard.append)
    assert heard == ["counting on 1 rank", "counting on 2 ranks"]
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(InputError):
        anchor.count((5, 3), (1,), optimizer="adamx")


# figures -------------------------------------------------------------------------------------------------------------


def marked(axes, label):
    """The points drawn under a name of the legend that begins so."""
    (line,) = (line for line in axes.lines if str(line.get_label()).startswith(label))
    return list(zip(*map(list, line.get_data()), strict=True))


def curves(axes, of=201, styles=("-",)):
    return [line for line in axes.lines if len(line.get_xdata()) == of and line.get_linestyle() in styles]


def test_figure1(rows):
    axes = figures.figure1(rows).axes[0]
    assert len(axes.patches) == 4 * 3
    texts = " ".join(text.get_text() for text in axes.texts)
    for stage, printed in enumerate((120, 31.4, 16.6, 1.9)):
        ours = formulas.states_per_rank(stage, 7.5e9, 64) / 1e9
        assert abs(ours - printed) <= 0.05
        assert max(bar.get_y() + bar.get_height() for bar in axes.patches[3 * stage :][:3]) == pytest.approx(1e9 * ours)
        assert f"published: {printed} GB" in texts


def test_states(points, rows):
    """A curve per stage, on which the counted points lie exactly and the printed cells up to their rounding."""
    axes = figures.states(points, rows).axes[0]
    assert [line.get_ydata()[0] for line in curves(axes)] == [16] * 4
    assert [line.get_ydata()[-1] for line in curves(axes)] == pytest.approx([16, 4 + 12 / 1024, 2 + 14 / 1024, 1 / 64])
    at = [(one["ranks"], formulas.states_per_rank(one["stage"], 1, one["ranks"])) for one in points]
    assert marked(axes, "counted") == at
    cells = [row for row in rows if row["id"].startswith("zero.t1.")]
    assert len(cells) > 30
    for row, (N, per_parameter) in zip(cells, marked(axes, "published"), strict=True):
        ours = formulas.states_per_rank(row["inputs"]["stage"], 1, N)
        assert per_parameter == pytest.approx(ours, rel=0.03)


def test_figures_show_what_was_counted(points, rows):
    """Not what should have been: a point that is off is drawn off its curve."""
    off = [*points[:-1], {**points[-1], "at_rest": [{"parameters": 10**6}], "sent": [{"all_gather": 10**5}]}]
    Psi = points[-1]["padded_parameters"]
    assert marked(figures.states(off, rows).axes[0], "counted")[-1] == (8, 10**6 / Psi)
    assert marked(figures.volume(off).axes[0], "counted")[-1] == (8, 10**5 / (2 * Psi))


def test_largest(rows):
    axes = figures.largest(rows).axes[0]
    bounds = [line for line in curves(axes, 5) if line.get_marker() == "None"]
    assert [line.get_ydata()[0] for line in bounds] == pytest.approx([2e9, 7.64e9, 14.4e9, 128e9], rel=1e-2)
    found = [
        (x, y, line.get_marker()) for line in axes.lines for x, y in line.get_xydata() if line.get_marker() != "None"
    ]
    table = [row for row in rows if row["id"].startswith("zero.t2.")]
    assert len(found) == len(table) > 20
    for row in table:
        marker = "x" if ".meas." in row["id"] else "D"
        assert (64 * row["inputs"]["MP"], 1e9 * row["published"], marker) in found


def test_volume(points):
    axes = figures.volume(points).axes[0]
    assert [line.get_ydata()[-1] * 1024 / 1023 for line in curves(axes)] == pytest.approx([2, 2, 2, 3])
    limits = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert limits == [2, 3]
    at = [(one["ranks"], (2 + (one["stage"] == 3)) * (one["ranks"] - 1) / one["ranks"]) for one in points]
    assert marked(axes, "counted") == at


def test_efficiency(rows):
    """Every statement is "over so much": its mark is below our curve."""
    figure = figures.efficiency(rows)
    assert len(figure.axes) == 3
    each = [curves(axes, styles=("-", "--", "-.", ":")) for axes in figure.axes]
    assert [len(own) for own in each] == [5, 5, 5]
    said = [row for row in rows if row["id"] in ("inf.f3a", "inf.f3b", "inf.f3c", "inf.act8k")]
    marks = [line.get_xydata()[0] for axes in figure.axes for line in axes.lines if line.get_marker() == "D"]
    assert len(said) == len(marks) == 4
    for row, (bandwidth, share) in zip(said, marks, strict=True):
        assert (bandwidth, 100 * share) == (row["inputs"]["bandwidth"], row["published"])
        assert share < formulas.infinity_efficiency(**row["inputs"])
    assert all(np.all(np.diff(line.get_ydata()) > 0) for own in each for line in own)


def test_drawn_twice_the_files_are_the_same(tmp_path, points, rows):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        figures.save(figures.states(points, rows), tmp_path / folder, "states")
    for name in ("states.png", "states.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# the command ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 2])
def test_the_command(tmp_path, n):
    """Under mpirun too the figures are drawn once."""
    done = run_zerosim(n, "check", "--out", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        f"{n}.{end}" for n in NAMES for end in ("png", "svg")
    }
    assert done.stdout.count("Figures, as .png and .svg in here:") == 1
    assert done.stdout.rstrip().endswith(", ".join(NAMES))
    assert done.stderr.count("counting on 1 rank") <= 1
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert (tmp_path / "here" / "check-figure1.png").read_bytes().startswith(b"\x89PNG")


def test_json_stays_alone(tmp_path):
    """Of one's own rows too, and the exit status is theirs."""
    row = {"id": "mine", "formula": "ratio", "inputs": {"a": 1, "b": 3}, "published": 0.34}
    (tmp_path / "mine.json").write_text(json.dumps([row]))
    done = run_zerosim(0, "check", "mine.json", "--json", "--out", ".", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout)["counts"] == {"differs": 1}
    assert len(list(tmp_path.glob("check-*"))) == 10


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("check none.json --out afile", ["out afile", "cannot write"]),
        ("check none.json --out taken", ["out taken", "check-volume.svg", "is a folder"]),
        ("check --formulas --out here", ["formulas", "out"]),
    ],
)
@pytest.mark.parametrize("n", [0, 2])
def test_bad_input(tmp_path, n, words, expected):
    """Before a row is evaluated or looked for."""
    (tmp_path / "afile").touch()
    (tmp_path / "taken" / "check-volume.svg").mkdir(parents=True)
    assert_one_line(run_zerosim(n, *words.split(), cwd=tmp_path), expected)
    assert not (tmp_path / "here").exists()


def test_without_out_nothing_is_written(tmp_path):
    assert run_zerosim(0, "check", cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []
