"""What one step holds, moment by moment: a panel per stage, classes stacked, phases named."""

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def timeline(report: dict[str, Any], by_changes: bool = False) -> "Figure":
    """Draw the bytes that rank 0 held during one step of each stage, by class, over time.

    With `by_changes` the axis counts takes and releases instead: it is the same in every run.
    """
    from matplotlib.patches import Patch

    from zerosim.figures.style import CLASSES, headline, in_bytes, label, look, new_figure, subject

    runs = [run for run in report["runs"] if run["memory"]["timeline"]]
    columns = min(2, max(1, len(runs)))
    rows = -(-max(1, len(runs)) // columns)
    figure, grid = new_figure(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(runs) :]:
        axes.set_visible(False)
    for axes, run in zip(grid.flat, runs, strict=False):
        line = run["memory"]["timeline"]
        at = list(range(len(line["seconds"]))) if by_changes else [1000 * t for t in line["seconds"]]
        areas = axes.stackplot(at, [line[cls] for cls in CLASSES], step="post")
        for area, cls in zip(areas, CLASSES, strict=True):
            area.set(**look(cls))
        formula = sum(run["memory"]["at_rest"]["formula_per_rank"][0].values())
        axes.axhline(formula, color="black", linewidth=2, linestyle="--")
        axes.set_xlim(0, at[-1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # 0, not 0.0, which would touch the y axis's 0 B
        axes.set_title(f"stage {run['stage']}", pad=38)
        begins = [bisect_left(line["seconds"], t) if by_changes else 1000 * t for t, _ in line["phases"]]
        _phases(axes, begins, [name for _, name in line["phases"]], at[-1], 860 / columns)
        in_bytes(axes)
    for axes in grid[-1]:
        axes.set_xlabel("takes and releases of memory" if by_changes else "milliseconds into the step")
    for axes in grid[:, 0]:
        axes.set_ylabel("bytes on rank 0")
    handles = [Patch(**look(cls), label=label(cls)) for cls in CLASSES]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    headline(figure, f"Memory in one step (dashed: formula at rest)\n{subject(report)}")
    return figure


def _phases(axes: Any, begins: list[float], names: list[str], end: float, room: float) -> None:
    """Name the phases above the panel, `room` points wide: a bar over each, and a line to it from its name.

    Names stand beside each other, so that one may stand beside its phase. Where there is no room for all (a step of
    many micro-steps has each phase many times), the longest of each name is named, and others as there is room.
    """
    from zerosim.figures.style import spread

    spans = [
        (name, start / end, stop / end) for name, start, stop in zip(names, begins, [*begins[1:], end], strict=True)
    ][: -1 if names[-1] == "end" else None]
    for i, (start, stop) in enumerate((start, stop) for _, start, stop in spans if stop > start):
        bar = {"color": ("#222222", "#999999")[i % 2], "linewidth": 5, "solid_capstyle": "butt", "clip_on": False}
        axes.plot([start, stop], [1, 1], transform=axes.transAxes, **bar)
    for start in sorted({start for _, start, _ in spans} - {0}):
        axes.axvline(start * end, color="black", linewidth=1, alpha=0.6)
    by_length = sorted(spans, key=lambda span: span[1] - span[2])
    first = {name: span for span in reversed(by_length) for name in span[:1]}
    chosen: list[tuple[str, float, float]] = []
    for span in [*first.values(), *(span for span in by_length if span is not first[span[0]])]:
        if sum(_width(name) for name, _, _ in [*chosen, span]) <= room:
            chosen.append(span)
    chosen.sort(key=spans.index)
    middles = [(start + stop) / 2 for _, start, stop in chosen]
    places = spread(middles, [_width(name) / room for name, _, _ in chosen], 0, 1)
    for (name, _, _), middle, place in zip(chosen, middles, places, strict=True):
        line = {"arrowstyle": "-", "color": "#444444", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
        above = {"xycoords": "axes fraction", "textcoords": ("axes fraction", "offset points"), "ha": "center"}
        axes.annotate("", (middle, 1), (place, 16), arrowprops=line, **above)
        axes.annotate(name, (place, 1), (place, 17), fontsize="small", color="#222222", **above)


def _width(name: str) -> float:
    """Points that a small name takes, with the air around it."""
    return 8.4 * len(name) + 8
