"""A plan: what each stage and offload holds on a device, beside its memory, and what a step's time is made of."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TIME = {
    "compute": ("#0072B2", "compute"),
    "optimizer": ("#009E73", "update"),
    "communication_exposed": ("#D55E00", "sending, exposed"),
    "offload_exposed": ("#CC79A7", "offload, exposed"),
}


def plan(report: dict[str, Any]) -> "Figure":
    """Draw what `plan` reports: memory by class for each plan, pale where it does not fit, and the time of a step."""
    from zerosim.figures.style import new_figure

    rows, work, model = report["plans"], report["workload"], report["model"]
    timed = all(row["seconds"] for row in rows)
    figure, axes = new_figure(2 if timed else 1, 1, size=(10, 7.5 if timed else 4.8), sharex=True, squeeze=False)
    _memory(axes[0][0], report)
    if timed:
        _time(axes[1][0], rows)
    names = [f"stage {row['stage']}\n{_lines(row['offload'])}" for row in rows]
    axes[-1][0].set_xticks(range(len(rows)), names, fontsize=8)
    axes[0][0].set_title(
        f"{model['name']} ({model['parameters']:,} parameters) on {work['gpus']:,} devices "
        f"({report['cluster']['name']}), {work['precision']}, {work['optimizer']}",
        loc="left",
        fontsize=11,
    )
    return figure


def _memory(axes: "Axes", report: dict[str, Any]) -> None:
    """Bars by class; those that reach far above a device's memory are cut, and their totals written."""
    from zerosim.figures.style import CLASSES, in_bytes, label
    from zerosim.report import si

    rows, there, best = report["plans"], report["cluster"]["memory"], report["recommended"]
    top = 1.15 * min(2 * there, max(there, *(row["bytes"]["total"] for row in rows)))
    for place, row in enumerate(rows):
        height = 0.0
        for name, colour in CLASSES.items():
            value = row["bytes"][name] or 0
            axes.bar(place, value, 0.7, bottom=height, color=colour, alpha=1.0 if row["fits"] else 0.4)
            height += value
        chosen = (row["stage"], row["offload"]) == (best["stage"], best["offload"])
        said = si(row["bytes"]["total"]) + ("" if row["fits"] else "\ntoo much") + ("\nadvised" if chosen else "")
        axes.annotate(
            said,
            (place, min(height, 0.98 * top)),
            ha="center",
            va="bottom" if height < 0.9 * top else "top",
            fontsize=8,
            weight="bold" if chosen else "normal",
        )
    axes.axhline(there, color="black", linewidth=1, label="a device's memory")
    axes.axhline(report["workload"]["usable"] * there, color="black", linewidth=1, linestyle="--", label="usable")
    _legend(axes, {label(name): colour for name, colour in CLASSES.items()})
    in_bytes(axes)
    axes.set_ylim(0, top)
    axes.set_ylabel("bytes per device")


def _time(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    from zerosim.figures.style import plain

    for place, row in enumerate(rows):
        height, seconds = 0.0, row["seconds"]
        for name, (colour, _) in _TIME.items():
            axes.bar(place, seconds[name], 0.7, bottom=height, color=colour, alpha=1.0 if row["fits"] else 0.4)
            height += seconds[name]
    _legend(axes, {name: colour for colour, name in _TIME.values()})
    axes.set_ylabel("seconds per step, predicted")
    plain(axes)


def _legend(axes: "Axes", colours: dict[str, str]) -> None:
    """Full colours, whatever is pale in the bars, and then the lines."""
    from matplotlib.patches import Patch

    lines, _ = axes.get_legend_handles_labels()
    patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axes.legend(handles=[*patches, *lines], frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _lines(offload: str) -> str:
    return (
        ""
        if offload == "none"
        else offload.replace("optimizer:", "opt. ").replace("parameters:", "par. ").replace(",", "\n")
    )
