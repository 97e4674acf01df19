"""A plan: what each stage and offload holds on a device, beside its memory, and what a step's time is made of."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TIME = {
    "compute": ("compute", "compute"),
    "optimizer": ("update", "update"),
    "communication_exposed": ("exposed", "sending, exposed"),
    "offload_exposed": ("offload", "offload, exposed"),
}
"""By part of the seconds: what it looks like, and its name."""


@slide
def plan(report: dict[str, Any]) -> "Figure":
    """Draw what `plan` reports: memory by class for each plan, pale where it does not fit, and the time of a step."""
    from zerosim.figures.style import headline, new_figure

    rows, work, model = report["plans"], report["workload"], report["model"]
    timed = all(row["seconds"] for row in rows)
    figure, axes = new_figure(2 if timed else 1, 1, sharex=True, squeeze=False)
    _memory(axes[0][0], report)
    if timed:
        _time(axes[1][0], rows)
    names = [f"stage {row['stage']}\n{_lines(row['offload'])}" for row in rows]
    axes[-1][0].set_xticks(range(len(rows)), names, fontsize="small")
    axes[-1][0].set_xlim(-0.55, len(rows) - 0.45)
    headline(
        figure,
        f"{model['name']} ({model['parameters']:,} parameters) on {counted(work['gpus'], 'device')} "
        f"({report['cluster']['name']}), {work['precision']}, {work['optimizer']}",
    )
    return figure


def _memory(axes: "Axes", report: dict[str, Any]) -> None:
    """Bars by class; those that reach far above a device's memory are cut, and their totals written."""
    from zerosim.figures.style import CLASSES, in_bytes, label, look
    from zerosim.report import si

    rows, there, best = report["plans"], report["cluster"]["memory"], report["recommended"]
    top = 1.45 * min(2 * there, max(there, *(row["bytes"]["total"] for row in rows)))
    for place, row in enumerate(rows):
        height = 0.0
        for name in CLASSES:
            value = row["bytes"][name] or 0
            axes.bar(place, value, 0.7, height, **look(name, alpha=1.0 if row["fits"] else 0.4))
            height += value
        chosen = (row["stage"], row["offload"]) == (best["stage"], best["offload"])
        said = si(row["bytes"]["total"]) + ("" if row["fits"] else "\ntoo much") + ("\nadvised" if chosen else "")
        axes.annotate(
            said,
            (place, min(height, 0.98 * top)),
            ha="center",
            va="bottom" if height < 0.9 * top else "top",
            fontsize="small",
            weight="bold" if chosen else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )
    axes.axhline(there, color="black", linewidth=1.8, label="a device's memory")
    axes.axhline(report["workload"]["usable"] * there, color="black", linewidth=1.8, linestyle="--", label="usable")
    _legend(axes, {name: label(name) for name in CLASSES})
    in_bytes(axes)
    axes.set_ylim(0, top)
    axes.set_ylabel("bytes per device")


def _time(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    from zerosim.figures.style import look

    for place, row in enumerate(rows):
        height, seconds = 0.0, row["seconds"]
        for name, (part, _) in _TIME.items():
            axes.bar(place, seconds[name], 0.7, height, **look(part, alpha=1.0 if row["fits"] else 0.4))
            height += seconds[name]
    _legend(axes, dict(_TIME.values()))
    axes.set_ylabel("seconds per step")


def _legend(axes: "Axes", names: dict[str, str]) -> None:
    """Full colours, whatever is pale in the bars, and then the lines."""
    from matplotlib.patches import Patch

    from zerosim.figures.style import look

    lines, _ = axes.get_legend_handles_labels()
    patches = [Patch(**look(part), label=name) for part, name in names.items()]
    axes.legend(
        handles=[*patches, *lines],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        fontsize="small",
        columnspacing=1.2,
    )


def _lines(offload: str) -> str:
    return (
        ""
        if offload == "none"
        else offload.replace("optimizer:", "opt. ").replace("parameters:", "par. ").replace(",", "\n")
    )
