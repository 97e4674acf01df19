"""The papers' figures and tables as our curves: printed numbers are diamonds on them, counted ones circles.

Each function draws one slide. `rows` are published numbers as `zerosim.published.shipped` returns them; `points` are
what `zerosim.anchor.count` returns, counted in fp16 with Adam.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zerosim import formulas
from zerosim.figures.sheet import slide
from zerosim.report import si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]

_ZERO = "Rajbhandari et al.: ZeRO, arXiv:1910.02054"
_INFINITY = "Rajbhandari et al.: ZeRO-Infinity, arXiv:2104.07857"

_WHITE: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white", "markeredgecolor": "black"}
_PRINTED = {"marker": "D", "markersize": 8, "markeredgewidth": 2, "zorder": 5, **_WHITE}
_COUNTED = {"marker": "o", "markersize": 14, "markeredgewidth": 2, "zorder": 4, **_WHITE}
_GREY = "#555555"
_ASIDE = {50: 0.15, 80: 0.62}
"""How high in a panel there is room for words on so many percent."""
_MOST = 1024
"""Ranks to which the curves are drawn, as far as table 1 goes."""


@slide
def figure1(rows: Rows) -> "Figure":
    """ZeRO's figure 1: bytes of model states per device, bars for 7.5 billion parameters, N = 64, K = 12."""
    from zerosim.figures.style import in_bytes, label, look, new_figure, source

    figure, axes = new_figure()
    totals = {row["inputs"]["stage"]: f"{row['published']:g}" for row in rows if row["id"].startswith("zero.fig1.")}
    for stage, printed in sorted(totals.items()):
        stage = int(stage)
        height = 0.0
        for name, value in formulas.model_states(stage, 7.5e9, 64)._asdict().items():
            axes.bar(stage, value, 0.6, bottom=height, label=None if stage else label(name), **look(name))
            height += value
        for above, text, weight in ((7, f"published: {printed} GB", "normal"), (30, si(height), "bold")):
            at = {"xytext": (0, above), "textcoords": "offset points", "ha": "center"}
            axes.annotate(text, (stage, height), weight=weight, **at)
    edges = [[stage - 0.37 for stage in range(4)], [stage + 0.37 for stage in range(4)]]
    axes.hlines(
        [1e9 * float(totals[stage]) for stage in range(4)],
        *edges,
        color="black",
        linewidth=1.8,
        label="published total",
    )
    baseline, os, os_g, os_g_p = "(2 + 2 + K) Ψ", "(2 + 2 + K/N) Ψ", "(2 + (2 + K)/N) Ψ", "(2 + 2 + K) Ψ/N"
    names = (f"baseline\n{baseline}", f"$P_{{os}}$\n{os}", f"$P_{{os+g}}$\n{os_g}", f"$P_{{os+g+p}}$\n{os_g_p}")
    axes.set_xticks(range(4), [f"stage {stage}: {name}" for stage, name in enumerate(names)])
    in_bytes(axes)
    axes.set_ylim(0, 138e9)
    axes.legend(loc="upper right")
    _words(axes, "Each stage shares out one more class of model states among the devices", "", "bytes per device")
    source(
        figure, f"Ψ = 7.5 billion parameters, N = 64 devices, K = 12. Bold: the formula. Published: {_ZERO}, figure 1."
    )
    return figure


@slide
def states(points: Rows, rows: Rows) -> "Figure":
    """ZeRO's table 1 for every N: bytes of model states per parameter and rank, a curve per stage."""
    from zerosim.figures.style import new_figure, source

    figure, axes = new_figure()
    N = np.geomspace(1, _MOST, 201)
    for stage, text in enumerate(("2 + 2 + 12", "2 + 2 + 12/N", "2 + (2 + 12)/N", "(2 + 2 + 12)/N")):
        curve(axes, N, formulas.states_per_rank(stage, 1, N), stage, f"stage {stage}: {text}")
    held = [max(sum(own.values()) for own in point["at_rest"]) / point["padded_parameters"] for point in points]
    axes.plot([point["ranks"] for point in points], held, **_COUNTED, label=_counted(points))
    printed = _of(rows, "zero.t1.")
    per_parameter = [1e9 * row["published"] / row["inputs"]["Psi"] for row in printed]
    name = "published: table 1, per parameter"
    axes.plot([row["inputs"]["N"] for row in printed], per_parameter, **_PRINTED, label=name)
    axes.set_yscale("log", base=2)
    axes.set_yticks([4.0**i for i in range(-3, 3)], ["1/64", "1/16", "1/4", "1", "4", "16"])
    _by_ranks(axes)
    axes.legend(loc="lower left")
    title = "Memory per parameter: only stage 3 keeps shrinking as ranks are added"
    _words(axes, title, "data-parallel ranks N", "bytes at rest per parameter, on a rank")
    source(figure, f"Curves: the formulas with 2 + 2 + 12 bytes. Published: {_ZERO}, table 1.")
    return figure


@slide
def largest(rows: Rows) -> "Figure":
    """ZeRO's table 2: the largest model by number of devices, 32 GB each, N = 64 times 1 to 16 model-parallel ones."""
    from zerosim.figures.style import STAGES, new_figure, source

    figure, axes = new_figure()
    ways = np.array([1, 2, 4, 8, 16])
    table = _of(rows, "zero.t2.")
    for stage in range(4):
        bound = formulas.largest_model(stage, 32e9, 64, MP=ways)
        curve(axes, 64 * ways, bound, stage, f"stage {stage}: {bound[0] / 1e9:.3g} B × MP")
        ours = [row for row in table if row["inputs"]["stage"] == stage]
        marks = {False: _PRINTED, True: {**_PRINTED, "marker": "x", "markersize": 12, "markeredgewidth": 3}}
        for trained, mark in marks.items():
            found = sorted((row["inputs"]["MP"], 1e9 * row["published"]) for row in ours if _trained(row) == trained)
            if found:
                color = {"markeredgecolor": STAGES[stage]} if trained else {}
                axes.plot([64 * MP for MP, _ in found], [size for _, size in found], **{**mark, **color})
            if found and trained:
                shares = [100 * size / formulas.largest_model(stage, 32e9, 64, MP=MP) for MP, size in found]
                at = {"xytext": (14, -3), "textcoords": "offset points", "va": "top", "color": _GREY}
                said = f"trained: {min(shares):.0f} to {max(shares):.0f} % of it"
                axes.annotate(said, (64 * found[-1][0], found[-1][1]), **at)
    axes.plot([], [], **_PRINTED, label="published bound")
    axes.plot([], [], "x", color=_GREY, markersize=9, markeredgewidth=2.4, label="largest that was trained (published)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(64 * ways, [f"{64 * way}\nMP {way}" for way in ways])
    axes.set_yscale("log")
    axes.set_yticks([10.0**i for i in range(9, 13)], ["1 B", "10 B", "100 B", "1 T"])
    axes.minorticks_off()
    axes.legend(loc="upper left")
    title = "On 64 ranks, stage 3 has room for 64 times what plain data parallelism has"
    _words(axes, title, "devices: 64 data-parallel ranks of MP model-parallel devices each", "parameters")
    source(figure, f"Curves: what fills 32 GB with 2 + 2 + 12 bytes per parameter. Published: {_ZERO}, table 2.")
    return figure


@slide
def volume(points: Rows) -> "Figure":
    """ZeRO's section 7 for every N: elements that a rank sends in a step, per parameter, a curve per stage."""
    from zerosim.figures.style import new_figure, source

    figure, axes = new_figure()
    N = np.geomspace(1, _MOST, 201)
    for limit in (2, 3):
        axes.axhline(limit, color="black", linewidth=1.6, linestyle=":", zorder=0)
    # three stages send the same: their curves lie on each other, so the lower ones are wider
    for stage, width in enumerate((17, 10, 3, 3)):
        text = {2: "stages 0, 1, 2:\n2 (N - 1)/N", 3: "stage 3:\n3 (N - 1)/N"}.get(stage, "")
        curve(axes, N, formulas.bytes_per_rank(stage, 1, N, w=1), stage, text, width)
    sent = [max(sum(own.values()) for own in point["sent"]) / _bytes(point) for point in points]
    axes.plot([point["ranks"] for point in points], sent, **_COUNTED, label=_counted(points))
    _by_ranks(axes)
    axes.set_yticks(range(4))
    axes.set_ylim(-0.12, 3.25)
    axes.legend(loc="lower right")
    title = "Stages 1 and 2 send no more than plain data parallelism, stage 3 half as much again"
    _words(axes, title, "data-parallel ranks N", "elements sent per parameter, rank and step")
    source(
        figure, f"Curves: the formulas. Dotted: the limits for large N, published as 2 Ψ and 3 Ψ: {_ZERO}, section 7."
    )
    return figure


@slide
def efficiency(rows: Rows) -> "Figure":
    """ZeRO-Infinity's figure 3: the share of 70 TFLOPS that moving the states at a bandwidth leaves, three panels."""
    from matplotlib import colormaps
    from matplotlib.ticker import EngFormatter, LogLocator, PercentFormatter

    from zerosim.figures.style import headline, new_figure, source

    figure, panels = new_figure(1, 3, sharey=True, gridspec_kw={"wspace": 0.06})
    batches = {f"batch {b}": {"b": b, "s": 1024} for b in (1, 2, 4, 8, 16)}
    widths = {f"width {h}K": {"h": 1024 * h} for h in (2, 8, 16, 32, 64)}
    kinds = (
        ("parameters", "parameters and gradients", (1e9, 1e12), batches),
        ("optimizer", "optimizer states", (1e10, 1e13), batches),
        ("activations", "activation checkpoints", (1e8, 1e11), widths),
    )
    dashes: list[Any] = ["-", "--", "-.", ":", (0, (8, 2))]
    for axes, (what, title, span, sizes) in zip(panels, kinds, strict=True):
        bandwidth = np.geomspace(*span, 201)
        for i, (name, size) in enumerate(sizes.items()):
            share = formulas.infinity_efficiency(what, bandwidth, **size)
            axes.plot(bandwidth, share, color=colormaps["viridis"](0.76 - 0.19 * i), linestyle=dashes[i], label=name)
        for row in (row for row in _of(rows, "inf.f3", "inf.act8k") if row["inputs"]["what"] == what):
            _statement(axes, row)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(EngFormatter("B/s"))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize="small")
        axes.xaxis.set_major_locator(LogLocator(numticks=3))
        _words(axes, title, "bandwidth", "")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    panels[0].set_ylabel("efficiency, nothing overlapped")
    title = "Optimizer states need the most bandwidth to stay efficient, activation checkpoints the least"
    headline(figure, title)
    source(
        figure,
        f"Curves: the formulas, peak 70 TFLOPS, batches of sequences of 1024 tokens. Diamonds: {_INFINITY}, "
        "sections 4.2 (figure 3) and 5.2.3.",
    )
    return figure


# what the figures share ----------------------------------------------------------------------------------------------


def _of(rows: Rows, *beginnings: str) -> list[dict[str, Any]]:
    return [row for row in rows if str(row.get("id")).startswith(beginnings)]


def _trained(row: dict[str, Any]) -> bool:
    """Whether the number is a measurement, for which ours is a bound."""
    return row.get("rounding") == "bound"


def curve(axes: "Axes", x: Any, y: Any, stage: int, text: str, width: float = 2.8) -> None:
    """A stage's curve, its name at the right end."""
    from zerosim.figures.style import pen

    axes.plot(x, y, **pen(stage, width))
    axes.annotate(text, (x[-1], y[-1]), (14, 0), textcoords="offset points", va="center")


def _statement(axes: "Axes", row: dict[str, Any]) -> None:
    """A published "over so many percent at this bandwidth", and a line from it to our curve."""
    from matplotlib.ticker import EngFormatter

    inputs, said = row["inputs"], row["published"] / 100
    bandwidth = inputs["bandwidth"]
    size = f"width {inputs['h'] / 1024:g}K" if "h" in inputs else f"batch {inputs['b']:g}"
    ours = formulas.infinity_efficiency(**inputs)
    axes.plot([bandwidth, bandwidth], [said, ours], color="black", linewidth=1.4, zorder=4)
    axes.plot(bandwidth, said, **_PRINTED)
    axes.annotate(
        f"over {100 * said:.0f} %:\n{size}, {EngFormatter('B/s')(bandwidth)}",
        (bandwidth, said),
        (0.98, _ASIDE.get(row["published"], 0.36)),
        textcoords="axes fraction",
        ha="right",
        multialignment="left",
        fontsize="small",
        va="top",
        arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 1.2},
    )


def _bytes(point: dict[str, Any]) -> int:
    """All parameters once, on the wire."""
    return formulas.WIDTH[point["precision"]] * point["padded_parameters"]


def _counted(points: Rows) -> str:
    if not points:
        return "counted"
    ranks = [point["ranks"] for point in points]
    return f"counted: {points[0]['parameters']:,} parameters, {min(ranks)} to {max(ranks)} ranks"


def _by_ranks(axes: "Axes") -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.8, 1.2 * _MOST)
    axes.set_xticks([4**i for i in range(6)], [str(4**i) for i in range(6)])
    axes.minorticks_off()


def _words(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
