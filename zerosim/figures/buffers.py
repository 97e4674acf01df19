"""Buffers against the width of the model: one bucket per layer, and a constant one; marks counted, lines formula."""

from typing import TYPE_CHECKING, Any

import numpy as np

from zerosim import formulas
from zerosim.figures.sheet import slide
from zerosim.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {"per_layer": ("o", "#D55E00", 14, 7.0), "constant": ("s", "#0072B2", 8, 2.4)}
"""Mark, colour, and the sizes of mark and line: the first is drawn below the second and shows where they agree."""


@slide
def buffers(result: dict[str, Any]) -> "Figure":
    """Draw the section `buffers` of what `residual` reports: a panel per stage."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    from zerosim.figures.style import headline, new_figure

    rows, settings = result["sections"]["buffers"], result["settings"]
    stages = sorted({row["stage"] for row in rows})
    figure, panels = new_figure(1, len(stages), sharey=True)
    names = {"per_layer": "one bucket per layer", "constant": f"buckets of {settings['bucket']:,} elements"}
    for axes, stage in zip(panels, stages, strict=True):
        own = sorted((row for row in rows if row["stage"] == stage), key=lambda row: row["width"])
        widths = [row["width"] for row in own]
        alone = {"marker": "_", "markersize": 24} if len(widths) == 1 else {}  # a line through one point is not seen
        between = np.unique(np.geomspace(widths[0], widths[-1], 60).round().astype(int)).tolist()
        for kind, (mark, colour, size, width) in _KINDS.items():
            expected = [_formula(result, stage, kind, h, own[0]) for h in between]
            axes.plot(between, expected, color=colour, linewidth=width, markeredgewidth=width, **alone)
            axes.plot(widths, [max(row[kind]["measured"]) for row in own], mark, color=colour, markersize=size)
        axes.plot(widths, [row["fused_formula"] for row in own], "--", color="#555555", linewidth=2, **alone)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(EngFormatter("B"))
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.minorticks_off()
        axes.set_xlabel("width of two hidden layers")
        axes.set_title(f"stage {stage}" + (": a whole layer is gathered, too" if stage == 3 else ""))
    panels[0].set_ylabel("peak of buffers on the fullest rank")
    handles = [
        *(
            Line2D([], [], color=colour, marker=mark, markersize=size, linewidth=width, label=names[kind])
            for kind, (mark, colour, size, width) in _KINDS.items()
        ),
        Line2D([], [], color="#555555", linestyle="--", label="all gradients fused (formula)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    ranks = counted(result["ranks"], "rank")
    title = (
        f"Buffers in one step: marks counted, lines formula; {ranks}, {counted(settings['rows'], 'row')} per rank, fp32"
    )
    headline(figure, title)
    return figure


def _formula(result: dict[str, Any], stage: int, kind: str, width: int, row: dict[str, Any]) -> int:
    settings = result["settings"]
    L = [row["layers"][0], width, width, row["layers"][-1]]
    bucket = settings["bucket"] if kind == "constant" else 0
    return formulas.working_buffers(stage, L, result["ranks"], settings["rows"], bucket)
