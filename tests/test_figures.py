"""The figures for lectures: sizes, words, colours, and what they show is what was counted."""

import json
from copy import deepcopy
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import run_zerosim
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text
from PIL import Image
from test_cli import assert_one_line

from zerosim import collectives, figures, formulas, lecture, machine, models, overlap, plan
from zerosim.config import Config
from zerosim.errors import InputError
from zerosim.figures import style
from zerosim.report import build_report
from zerosim.train import train
from zerosim.transport.threads import run_threads

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
        found[name] = rendered(slide.draw(data))
    return found


def rendered(figure):
    figure.set_dpi(50)
    FigureCanvasAgg(figure).draw()
    return figure


def times(seconds, **more):
    return {"seconds": {"median": seconds}, "plain": {"median": seconds / 3}, **more}


TASK = {"parameters": 10_020_874, "rows_per_rank": 64, "precision": "fp32", "optimizer": "adam"}
PEERS = ("DDP", "DDP + ZeroRedundancyOptimizer", "FSDP SHARD_GRAD_OP", "FSDP FULL_SHARD")


def parts(stage):
    split = {"compute": 0.036, "update": 0.011 + 0.002 * stage, "communicate": 0.008, "waiting": 0.003}
    floor = {name: {"median": 0.5 * split[part]} for name, part in zip(("products", "copy"), split, strict=False)}
    floor |= {"optimizer": {"median": 0.01}, "seconds": 0.037}
    return {"stage": stage, "split": split, "floor": floor, "ratio_to_floor": 1.21}


def beside(stage):
    ours, theirs = ({**times(0.06 * k), "peak_resident": k * 10**8} for k in (1, 2 + stage))
    return {"stage": stage, "peer": PEERS[stage], "ours": ours, "theirs": theirs, "ratio": 1 / (2 + stage)}


def by_ranks(N):
    books = [{"at_rest": 10**7 // (1 + s * N), "sent": s * N} for s in range(4)]
    formula = [{f"{what}_formula": value for what, value in book.items()} for book in books]
    return {
        "ranks": N,
        "runs": [{"stage": s, "seconds_per_step": 0.01 * N, **books[s], **formula[s]} for s in range(4)],
    }


def by_size(size):
    took = {"write": times(1e-7 * size), "read": times(5e-8 * size)}
    books = {N: {key: [12 * size // N] for key in ("measured", "formula_per_rank")} for N in (1, 2, 4)}
    return {"parameters": size, "ranks": [{"ranks": N, "tensors": book, **took} for N, book in books.items()]}


def contestants(size):
    names = ("native", "ring", "halving", "pairwise", "bruck", "doubling", "binomial")
    cells = [{"ratio_to_native": 1 + 0.2 * i, "busbw": 1e3 * size**0.7, **times(1e-6)} for i in range(len(names))]
    return {"bytes": size, "collectives": dict(zip(names, cells, strict=True)), "copy": {"median": 1e-7}}


MEASURED = {  # as the commands report them; the numbers are made up
    "step": lambda: figures.step({"ranks": 2, "task": TASK, "stages": [parts(stage) for stage in range(4)]}),
    "peers": lambda: figures.peers(
        {"ranks": 2, "task": TASK, "torch": "2.14", "wire": "tcp", "stages": [beside(stage) for stage in range(4)]}
    ),
    "scale": lambda: figures.scale(
        {"task": TASK, "backend": "threads", "ranks": [by_ranks(N) for N in (1, 2, 4, 8, 16, 32)]}
    ),
    "checkpoints": lambda: figures.checkpoints(
        {**TASK, "stage": 3, "backend": "threads", "sizes": [by_size(n) for n in (118_282, 669_706, 5_824_522)]}
    ),
    "contest": lambda: figures.contest(
        {**TASK, "ranks": 4, "verb": "all_reduce", "sizes": [contestants(4**i) for i in range(5, 15)]}
    ),
}


def planned(tmp_path):
    done = run_zerosim(0, "plan", "--model", "llama-2-7b", "--gpus", 16, "--json", "--out", "here", cwd=tmp_path)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def waits():
    """A report in which ranks wait for each other, of as many micro-steps as have no room for all their names."""
    config = Config(stages=(2,), steps=2, hidden=(32, 32), straggler=(2, 3.0), pipeline=2, grad_accum=4)
    return build_report(run_threads(4, lambda comm: train(config, comm))[0])


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


def assert_readable(figure):
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
    lines = [line for axes in figure.axes for line in axes.lines if line.get_linestyle() != "None"]
    for line in (line for line in lines if line.get_color() != "white"):  # white ones part bars
        assert line.get_linewidth() >= 1
        assert contrast(line.get_color()) > 2 or line.get_path_effects(), "a bright line has a dark edge"


def contrast(colour):
    """With white, as WCAG 2 defines it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


@pytest.mark.parametrize("name", lecture.SLIDES)
def test_a_slide_can_be_read(drawn, name):
    assert_readable(drawn[name])


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_measured_is_drawn_like_the_slides(name):
    figure = rendered(MEASURED[name]())
    assert_readable(figure)
    assert_nothing_looks_alike(figure)


def test_waits_are_drawn_like_the_slides(waits):
    for figure in (figures.waiting(waits), figures.timeline(waits)):
        assert_readable(rendered(figure))
        assert_nothing_looks_alike(figure)


def test_other_figures_are_drawn_like_the_slides(tmp_path, data):
    for figure in (figures.plan(planned(tmp_path)), figures.efficiency(data.rows), figures.loss(data.report)):
        assert_readable(rendered(figure))
        assert_nothing_looks_alike(figure)


def patches(figure):
    """What the legends tell apart by areas: looks by name."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    pairs = [pair for one in legends for pair in zip(one.get_texts(), one.legend_handles, strict=True)]
    return {
        text.get_text(): (handle.get_facecolor(), handle.get_hatch() or "")
        for text, handle in pairs
        if isinstance(handle, Patch)
    }


def assert_nothing_looks_alike(figure):
    looks = patches(figure)
    for a, b in combinations(looks, 2):
        assert looks[a] != looks[b], (a, b)


@pytest.mark.parametrize("name", lecture.SLIDES)
def test_nothing_in_a_slide_looks_like_another_thing(drawn, name):
    if name not in ("ring", "all-reduce-in-halves"):  # frames and shades, not areas of a class
        assert_nothing_looks_alike(drawn[name])


def test_every_phase_is_named(drawn, data, waits):
    """On each panel, and of many micro-steps each name once at least."""
    for axes, run in zip(drawn["timeline-by-stage"].axes, data.report["runs"], strict=True):
        expected = [name for _, name in run["memory"]["timeline"]["phases"] if name != "end"]
        assert [text.get_text() for text in axes.texts if text.get_text()] == expected
    names = {name for _, name in waits["runs"][0]["memory"]["timeline"]["phases"]}
    (axes,) = figures.timeline(waits).axes
    assert {text.get_text() for text in axes.texts if text.get_text()} == names - {"end"}


@pytest.mark.parametrize("k", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("stages", [1, 4])
def test_names_of_phases_have_room(data, k, stages):
    """Whatever the widths, and with the names that there may be: long ones, and one phase of nearly all the step."""
    report = deepcopy(data.report)
    del report["runs"][stages:]
    for run in report["runs"]:
        line = run["memory"]["timeline"]
        end = line["seconds"][-1]
        names = ["forward", "recompute", "backward"] * k + ["reduce", "update", "gather", "end"]
        line["phases"] = [[end * (at / len(names)) ** (run["stage"] + 0.5), name] for at, name in enumerate(names)]
    figure = rendered(figures.timeline(report))
    assert_readable(figure)
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts if text.get_text()} == set(names) - {"end"}


def test_labels_are_spread():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.uniform(0.01, 0.15, rng.integers(1, 8))
        wanted = np.sort(rng.uniform(0, 1, len(sizes)))
        centres = np.array(style.spread(wanted.tolist(), sizes.tolist(), 0, 1))
        assert np.all(np.diff(centres) >= (sizes[1:] + sizes[:-1]) / 2 - 1e-12)
        assert centres[-1] + sizes[-1] / 2 <= 1 + 1e-12
        if sizes.sum() <= 1:
            assert centres[0] - sizes[0] / 2 >= -1e-12
    assert style.spread([0.2, 0.5, 0.9], [0.1] * 3, 0, 1) == [0.2, 0.5, 0.9], "where there is room they stay"


def test_each_algorithm_has_its_own_curve(drawn):
    """By colour and by mark, so in grey and whatever colours one sees."""
    looks = style.lines(["native", *collectives.ALGORITHMS, "hierarchical:2", "hierarchical:8"])
    assert looks["hierarchical:2"] == looks.pop("hierarchical:8")
    for what in ("color", "marker"):
        assert len({look[what] for look in looks.values()}) == len(looks), what
    for a, b in combinations(looks.values(), 2):
        if a["linestyle"] == b["linestyle"]:
            for deficiency in DEFICIENCIES:
                assert np.linalg.norm(lab(a["color"], deficiency) - lab(b["color"], deficiency)) > 14, (a, b)
    (axes,) = drawn["crossovers"].axes
    curves = [line for line in axes.lines if line.get_marker() != "None"]
    assert len({line.get_color() for line in curves}) == len({line.get_marker() for line in curves}) == len(curves) == 5
    assert {"ring", "halving", "doubling", "binomial", "hierarchical:8"} <= {text.get_text() for text in axes.texts}


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
    "grey": [[0.2126, 0.7152, 0.0722]] * 3,
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


TOGETHER = {  # what one figure may show
    "memory": style.CLASSES,
    "traffic": style.VERBS | style.GROUPS,
    "step": style.PHASES,
    "time": style.PARTS,
    "contest": style.SIDES,
    "streams": {what: style.COLOURS[what] for what in ("forward", "backward", "update", *style.VERBS)},
    "plan": style.CLASSES | {part: colour for part, colour in style.PARTS.items() if part != "waiting"},
    "stages": dict(enumerate(style.STAGES)),
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("palette", TOGETHER.values(), ids=TOGETHER)
def test_colours_can_be_told_apart(palette, deficiency):
    """By everybody and in grey, or by their hatching; red and green could not be."""
    for a, b in combinations(palette, 2):
        if style.HATCHES.get(a, "") == style.HATCHES.get(b, ""):
            assert np.linalg.norm(lab(palette[a], deficiency) - lab(palette[b], deficiency)) > 15, (a, b)


@pytest.mark.parametrize("deficiency", [name for name in DEFICIENCIES if name != "grey"])
def test_classes_can_be_told_apart_by_colour(deficiency):
    for a, b in combinations(style.CLASSES, 2):
        assert np.linalg.norm(lab(style.CLASSES[a], deficiency) - lab(style.CLASSES[b], deficiency)) > 15, (a, b)


def test_one_blue_is_of_parameters():
    """They, and what gathers them; what is computed or sent beside them has another colour."""
    blue = {what for what, colour in style.COLOURS.items() if colour == style.CLASSES["parameters"]}
    assert blue == {"parameters", "all_gather", "gather"}


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
        assert [list(line.get_xdata()) for line in axes.lines] == [list(line.get_xdata()) for line in others.lines]


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
def test_bad_input(typed, tmp_path, arguments, expected):
    (tmp_path / "afile").touch()
    assert_one_line(typed("figures", *arguments.split()), expected)


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
