"""What one step holds, moment by moment: a panel per stage, classes stacked, phases named."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def timeline(report: dict[str, Any]) -> "Figure":
    """Draw the bytes that rank 0 held during one step of each stage, by class, over time."""
    from matplotlib.patches import Patch

    from zerosim.figures.style import CLASSES, in_bytes, label, new_figure, subject

    runs = [run for run in report["runs"] if run["memory"]["timeline"]]
    columns = min(2, max(1, len(runs)))
    rows = -(-max(1, len(runs)) // columns)
    figure, grid = new_figure(rows, columns, size=(10, 0.9 + 2.6 * rows), sharey=True, squeeze=False)
    for axes in grid.flat[len(runs) :]:
        axes.set_visible(False)
    for axes, run in zip(grid.flat, runs, strict=False):
        line = run["memory"]["timeline"]
        milliseconds = [1000 * t for t in line["seconds"]]
        axes.stackplot(
            milliseconds, [line[cls] for cls in CLASSES], colors=list(CLASSES.values()), step="post", linewidth=0
        )
        formula = sum(run["memory"]["at_rest"]["formula_per_rank"][0].values())
        axes.axhline(formula, color="black", linewidth=1, linestyle="--")
        axes.set_xlim(0, milliseconds[-1])
        axes.set_title(f"stage {run['stage']}", loc="left", fontsize=10, pad=16)
        _phases(axes, line["phases"], milliseconds[-1])
        in_bytes(axes)
    for axes in grid[-1]:
        axes.set_xlabel("milliseconds into the step")
    for axes in grid[:, 0]:
        axes.set_ylabel("bytes on rank 0")
    handles = [Patch(color=colour, label=label(cls)) for cls, colour in CLASSES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(f"Memory in one step (dashed: formula at rest); {subject(report)}", x=0.01, ha="left", fontsize=11)
    return figure


def _phases(axes: Any, phases: list[list[Any]], end: float) -> None:
    """Name each phase above the panel where it is long enough for its name."""
    begins = [1000 * begin for begin, _ in phases]
    for (_, name), start, stop in zip(phases, begins, [*begins[1:], end], strict=True):
        if start > 0:
            axes.axvline(start, color="black", linewidth=0.4, alpha=0.5)
        if stop - start > 0.0145 * len(name) * end:
            axes.annotate(
                name,
                ((start + stop) / 2, 1),
                (0, 2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color="#444444",
            )
