"""The figures for lectures: sizes, words, colours, and what they show is what was counted."""

import json
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import run_zerosim
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from test_cli import assert_one_line

from zerosim import figures, formulas, lecture, machine, models, overlap, plan
from zerosim.errors import InputError
from zerosim.figures import style

FOLDER = Path(__file__).parent.parent / "figures"
CLASSES = ("parameters", "gradients", "optimizer_states")


@pytest.fixture(scope="module")
def data():
    return lecture.Data()


@pytest.fixture(scope="module")
def drawn(data):
    """Every slide as a figure, laid out and rendered once, at few dots per inch."""
    found = {}
    for name, slide in lecture.SLIDES.items():
        found[name] = slide.draw(data)
        found[name].set_dpi(50)
        FigureCanvasAgg(found[name]).draw()
    return found


# what one sees -------------------------------------------------------------------------------------------------------


def words(figure):
    """All text that is seen: of ticks, only those within the view."""
    ticks = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    ticks |= {tick.label1, tick.label2}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in ticks]
    return [text for text in shown if text.axes is None or text.axes.get_visible()]


def extents(figure):
    renderer = figure.canvas.get_renderer()
    return [(text, text.get_window_extent(renderer)) for text in words(figure)]


def overlapping(figure):
    """Pairs of texts that lie on each other by more than the air around letters."""
    air = 3 / 72 * figure.dpi
    return [
        (a.get_text(), b.get_text())
        for (a, here), (b, there) in combinations(extents(figure), 2)
        if min(here.x1, there.x1) - max(here.x0, there.x0) > air
        and min(here.y1, there.y1) - max(here.y0, there.y0) > air
    ]


@pytest.mark.parametrize("name", lecture.SLIDES)
def test_a_slide_can_be_read(drawn, name):
    figure = drawn[name]
    assert figure.get_figwidth() / figure.get_figheight() == pytest.approx(16 / 9)
    seen = extents(figure)
    assert len(seen) >= 8
    assert overlapping(figure) == []
    for text, box in seen:
        assert text.get_fontsize() >= 14, text.get_text()
        assert box.x0 >= 0, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()


def test_the_check_of_words_sees_a_collision():
    figure, axes = style.new_figure()
    axes.text(0.5, 0.5, "one word")
    FigureCanvasAgg(figure).draw()
    assert overlapping(figure) == []
    axes.text(0.52, 0.5, "another")
    FigureCanvasAgg(figure).draw()
    assert overlapping(figure) == [("one word", "another")]


def test_a_class_looks_the_same_everywhere(drawn):
    found = 0
    for name, figure in drawn.items():
        for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())):
            for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
                what = text.get_text().replace(" ", "_")
                if what in style.COLOURS:
                    assert handle.get_facecolor() == to_rgba(style.COLOURS[what]), name
                    assert (handle.get_hatch() or "") == style.HATCHES.get(what, ""), name
                    found += 1
    assert found > 20


DEFICIENCIES = {  # Machado, Oliveira, Fernandes 2009, severity 1, for linear RGB
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(colour, deficiency):
    """CIE L*a*b* of a colour as such an eye sees it (D65)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ seen / (0.9505, 1, 1.089), 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(
    "palette", [style.CLASSES, style.VERBS, style.PHASES, style.PARTS, dict(enumerate(style.STAGES))]
)
def test_colours_can_be_told_apart(palette, deficiency):
    """By everybody, or by their hatching; red and green could not be."""
    for a, b in combinations(palette, 2):
        if style.HATCHES.get(a, "") == style.HATCHES.get(b, ""):
            assert np.linalg.norm(lab(palette[a], deficiency) - lab(palette[b], deficiency)) > 15, (a, b)
    for a, b in combinations(style.CLASSES, 2):
        assert np.linalg.norm(lab(style.CLASSES[a], deficiency) - lab(style.CLASSES[b], deficiency)) > 15, (a, b)


# what they show is what was counted, and what formulas say ------------------------------------------------------------


def bars(axes):
    return [bar for bar in axes.patches if isinstance(bar, Rectangle)]


def of_class(axes, cls, measure=Rectangle.get_height):
    """The bars of a class, in the order in which they were drawn; those of full colour."""
    return [measure(bar) for bar in bars(axes) if bar.get_facecolor() == to_rgba(style.COLOURS[cls])]


def test_memory_is_what_was_counted_and_the_formula(drawn, data):
    L = data.report["model"]["layers"]
    for cls in CLASSES:
        heights = of_class(drawn["memory"].axes[0], cls)
        assert heights == [run["memory"]["at_rest"]["measured"][0][cls] for run in data.report["runs"]]
        assert heights == [formulas.at_rest(s, L, lecture.RANKS, "fp16", "adam")[cls] for s in range(4)]


def test_traffic_is_what_was_counted_and_the_formula(drawn, data):
    L = data.report["model"]["layers"]
    for verb in style.VERBS:
        expected = [formulas.traffic(s, L, lecture.RANKS, "fp16").get(verb, 0) for s in range(4)]
        assert of_class(drawn["traffic"].axes[0], verb) == expected


def test_ownership_is_a_partition(drawn, data):
    """What is filled is what was counted; sharded classes are held once among the ranks, without gaps."""
    for stage, axes in enumerate(drawn["ownership"].axes):
        measured = data.report["runs"][stage]["memory"]["at_rest"]["measured"]
        for first, cls in enumerate(CLASSES):
            own = [bar for bar in bars(axes) if bar.get_facecolor() == to_rgba(style.COLOURS[cls])]
            assert [bar.get_width() for bar in own] == pytest.approx([held[cls] for held in measured])
            if stage + first >= 3:
                ends = [bar.get_x() + bar.get_width() for bar in own[:-1]]
                assert ends == pytest.approx([bar.get_x() for bar in own[1:]])


def test_accumulation_is_counted_on_its_curves(drawn):
    lines = drawn["accumulation"].axes[0].lines
    for stage, marker in enumerate("osD^"):
        (marks,) = (line for line in lines if line.get_marker() == marker and len(line.get_xdata()) > 1)
        share = (lecture.RANKS - 1) / lecture.RANKS
        expected = [share * formulas.volume_in_all(stage, 1, k) for k in lecture.MICRO_STEPS]
        assert list(marks.get_ydata()) == expected


def test_precision_is_counted_and_the_formula(drawn):
    axes = drawn["mixed-precision"].axes[0]
    assert of_class(axes, "optimizer_states") == [formulas.K(o, p) for p, o in lecture.KINDS]
    assert of_class(axes, "parameters") == of_class(axes, "gradients") == [formulas.WIDTH[p] for p, _ in lecture.KINDS]


def test_table1_has_every_printed_cell(drawn, data):
    cells = [row for row in data.rows if row["id"].startswith("zero.t1.")]
    texts = [text.get_text() for text in drawn["table1"].axes[0].texts]
    small = sorted(text.get_text() for text in drawn["table1"].axes[0].texts if text.get_weight() != "bold")
    assert sorted(f"{row['published']:g}" for row in cells) == [text for text in small if text]
    assert len(texts) == 2 * 6 * 9


def test_the_timeline_is_the_same_each_time(data):
    again = lecture.Data()
    for run, other in zip(data.report["runs"], again.report["runs"], strict=True):
        assert {c: run["memory"]["timeline"][c] for c in CLASSES} == {
            c: other["memory"]["timeline"][c] for c in CLASSES
        }
    one, two = (figures.timeline(source.report, by_changes=True) for source in (data, again))
    for axes, others in zip(one.axes, two.axes, strict=True):
        assert [text.get_text() for text in axes.texts] == [text.get_text() for text in others.texts]
        assert [line.get_xdata() for line in axes.lines] == [line.get_xdata() for line in others.lines]


def test_all_reduce_in_halves(drawn):
    """N ranks with N own parts, then N sums, then N times N."""
    counts = [text.get_text() for text in drawn["all-reduce-in-halves"].axes[0].texts if text.get_ha() == "center"]
    N = lecture.RANKS
    assert sum(text == "1" for text in counts) == N * N + 3  # and the slices' number 1
    assert sum(text == f"{N}" for text in counts) == N + N * N
    assert sum("3/4 of the vector" in text for text in counts) == 2


# a step on two streams -----------------------------------------------------------------------------------------------


WORK = plan.Workload(gpus=16, micro_batch=64, precision="bf16")
CASES = [
    (plan.mlp((512,) * 5), machine.find("dgx-a100"), WORK),
    (plan.mlp((300, 4000, 17)), machine.find("dgx-2"), replace(WORK, gpus=48, grad_accum=3, precision="fp16")),
    (
        plan.subject_of(models.PRESETS["gpt2"]),
        machine.find("dgx-2"),
        replace(WORK, gpus=64, micro_batch=1, grad_accum=2),
    ),
    (plan.mlp((64, 64)), machine.find("dgx-a100"), replace(WORK, gpus=1)),
    (lecture.Data().subject, lecture.Data().machine, lecture.Data().work),
]


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].name.replace(" ", ""))
def test_a_step_on_two_streams_beside_the_planner(case, stage):
    """One thing at a time it is the planner's sum; with overlap it lies between the planner's and that sum."""
    subject, where, work = case
    planned = plan.plan(subject, where, work, stage, "none").seconds
    alone = replace(work, overlap=False)
    summed = plan.plan(subject, where, alone, stage, "none").seconds
    apart, together = (overlap.summary(overlap.schedule(subject, where, w, stage)) for w in (alone, work))
    assert apart["total"] == pytest.approx(summed["total"], rel=1e-9)
    assert apart["network"] == pytest.approx(planned["communication"], rel=1e-9, abs=1e-15)
    assert apart["exposed"] == pytest.approx(apart["network"], rel=1e-9, abs=1e-12)
    little = 1e-9 * apart["total"]
    assert max(together["compute"], together["network"]) <= together["total"] + little
    assert planned["total"] <= together["total"] + little
    assert together["total"] <= apart["total"] + little


@pytest.mark.parametrize("stage", range(4))
def test_a_stream_does_one_thing_at_a_time_and_in_order(data, stage):
    """Collectives are as many as `formulas.passes` counts, each on the right side of the pass that it belongs to."""
    work = replace(data.work, grad_accum=2)
    spans, todo = (f(data.subject, data.machine, work, stage) for f in (overlap.schedule, overlap.jobs))
    for stream in (overlap.COMPUTE, overlap.NETWORK):
        own = [span for span in spans if span.stream == stream]
        assert all(before.end <= after.start + 1e-12 for before, after in pairwise(own))
    units = len(data.subject.units)
    counts = {verb: sum(job.what == verb for job in todo) for verb in style.VERBS}
    assert {verb: n // units for verb, n in counts.items() if n} == formulas.passes(stage, 2)
    for job in todo:
        needed = [todo[i] for i in job.after]
        if job.what in ("all_reduce", "reduce_scatter"):
            assert [(one.what, one.unit) for one in needed] == [("backward", job.unit)]
        if job.what in ("forward", "backward") and stage == 3:
            assert ("all_gather", job.unit) in [(one.what, one.unit) for one in needed]
    held = [(span.start, 1) for span in spans if span.what == "all_gather"]
    held += [(span.end, -1) for span in spans if span.what in ("forward", "backward")]
    if stage == 3:  # a unit that is used and the next one, no more
        assert max(np.cumsum([change for _, change in sorted(held)])) == 2


def test_the_figure_of_a_step_shows_the_spans(drawn, data):
    ends = sorted(bar.get_x() + bar.get_width() for bar in bars(drawn["overlap"].axes[0]))
    assert ends == pytest.approx(sorted(1e3 * span.end for spans in data.steps.values() for span in spans))


@pytest.mark.parametrize("setting", [{"tensor_parallel": 2}, {"bucket": 100}, {"quantized_weights": True}])
def test_what_is_not_modelled_is_refused(data, setting):
    subject = plan.subject_of(models.PRESETS["gpt2"])
    with pytest.raises(InputError, match=next(iter(setting))):
        overlap.schedule(subject, data.machine, replace(WORK, **setting), 3)


# the command, and what is in the repository ---------------------------------------------------------------------------


def test_the_command_makes_one(tmp_path, data):
    """Whoever makes it: the same bytes."""
    done = run_zerosim(0, "figures", "figure1", "--out", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "README.md",
        *(f"figure1.{ending}" for ending in ("png", "svg", "json")),
    }
    lecture.make(lecture.SLIDES["figure1"], data, tmp_path)
    for ending in ("png", "svg", "json"):
        assert (tmp_path / f"figure1.{ending}").read_bytes() == (tmp_path / "here" / f"figure1.{ending}").read_bytes()


def test_the_command_lists(tmp_path):
    done = run_zerosim(0, "figures", "--list", cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines() if line][2:] == list(lecture.SLIDES)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("memori", ["memori", "memory"]), ("figure1 --out afile", ["out afile", "cannot write"])],
)
def test_bad_input(tmp_path, arguments, expected):
    (tmp_path / "afile").touch()
    assert_one_line(run_zerosim(0, "figures", *arguments.split(), cwd=tmp_path), expected)


@pytest.mark.parametrize("name", lecture.SLIDES)
def test_what_is_in_the_repository(data, name):
    """Each slide, in its size, with the caption and the setting that it would be given now, and on the list."""
    slide, listed = lecture.SLIDES[name], (FOLDER / "README.md").read_text()
    said = json.loads((FOLDER / f"{name}.json").read_text())
    assert (said["caption"], said["setting"]) == (slide.caption(data), json.loads(json.dumps(slide.setting(data))))
    with Image.open(FOLDER / f"{name}.png") as image:
        assert image.size == (2666, 1500)
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert "<text" in (FOLDER / f"{name}.svg").read_text(), "words stay words"
    assert all((FOLDER / file).stat().st_size < 500_000 and (file in listed or "json" in file) for file in slide.files)
    assert said["caption"] in listed
    assert said["command"] in listed
