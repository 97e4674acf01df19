"""Who owns what at rest: for each stage and rank, its slices of parameters, gradients, optimizer states."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.report import si

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CLASSES = ("parameters", "gradients", "optimizer_states")


@slide
def ownership(report: dict[str, Any]) -> "Figure":
    """Draw a panel per stage and a row per rank; widths are bytes. Rank r's slice is the r-th, as `partition` says.

    How much is filled is what was counted: the whole of a class, or the part of it that the rank holds.
    """
    from matplotlib.patches import Patch

    from zerosim.figures.style import headline, label, look, new_figure, subject

    N, runs = report["world_size"], report["runs"]
    whole = {cls: max(held[cls] for run in runs for held in run["memory"]["at_rest"]["measured"]) for cls in _CLASSES}
    columns = min(2, len(runs))
    figure, grid = new_figure(-(-len(runs) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes, run in zip(grid.flat, runs, strict=False):
        measured = run["memory"]["at_rest"]["measured"]
        for rank, held in enumerate(measured):
            left = 0.0
            for cls in _CLASSES:
                axes.barh(rank, whole[cls], 0.8, left, facecolor="none", edgecolor="#BBBBBB", linewidth=1)
                begin = 0 if held[cls] == whole[cls] else sum(other[cls] for other in measured[:rank])
                axes.barh(rank, held[cls], 0.8, left + begin, **look(cls))
                left += whole[cls] + 0.02 * sum(whole.values())
        totals = {si(sum(held.values())) for held in measured}
        axes.set_title(f"stage {run['stage']}: {' or '.join(sorted(totals))} on each rank")
        axes.set_yticks(range(N), [f"rank {rank}" for rank in range(N)])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    grid[0, 0].invert_yaxis()
    handles = [Patch(**look(cls), label=label(cls)) for cls in _CLASSES]
    handles.append(Patch(facecolor="none", edgecolor="#BBBBBB", linewidth=1, label="held by other ranks"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    headline(figure, f"Who holds what at rest; widths are bytes, as counted\n{subject(report)}")
    return figure
