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
        axes.set_title(f"stage {run['stage']}", pad=26)
        begins = [bisect_left(line["seconds"], t) if by_changes else 1000 * t for t, _ in line["phases"]]
        _phases(axes, begins, [name for _, name in line["phases"]], at[-1])
        in_bytes(axes)
    for axes in grid[-1]:
        axes.set_xlabel("takes and releases of memory" if by_changes else "milliseconds into the step")
    for axes in grid[:, 0]:
        axes.set_ylabel("bytes on rank 0")
    handles = [Patch(**look(cls), label=label(cls)) for cls in CLASSES]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    headline(figure, f"Memory in one step (dashed: formula at rest)\n{subject(report)}")
    return figure


def _phases(axes: Any, begins: list[float], names: list[str], end: float) -> None:
    """Name each phase above the panel where it is long enough for its name."""
    for name, start, stop in zip(names, begins, [*begins[1:], end], strict=True):
        if start > 0:
            axes.axvline(start, color="black", linewidth=0.8, alpha=0.6)
        if stop - start > 0.025 * len(name) * end:
            axes.annotate(
                name,
                ((start + stop) / 2, 1),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize="small",
                color="#444444",
            )
