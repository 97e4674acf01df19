"""An all-reduce as a reduce-scatter and then an all-gather: what each rank holds before, between and after."""

from typing import TYPE_CHECKING, Any

from zerosim.collectives.check import Trace
from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def halves(first: Trace, second: Trace, name: str) -> "Figure":
    """Draw the beginning and the end of a reduce-scatter, and the end of the all-gather that goes on from there.

    Numbers and shades say how many ranks are added in a slice; what the first half has left over is drawn as nothing.
    """
    from matplotlib.patches import Rectangle

    from zerosim.figures.style import headline, new_figure, shade

    N = first.N
    between = [
        [mask if number == rank else 0 for number, mask in enumerate(row)] for rank, row in enumerate(first.held[-1])
    ]
    after = [
        [first.held[-1][number][number] if mask else 0 for number, mask in enumerate(row)] for row in second.held[-1]
    ]
    panels = {
        "every rank has its own gradient": first.held[0],
        "each rank has one sum": between,
        "all have all sums": after,
    }
    figure, grid = new_figure(1, 3, gridspec_kw={"wspace": 0.4})
    for axes, (title, held) in zip(grid, panels.items(), strict=True):
        for rank, row in enumerate(held):
            for number, mask in enumerate(row):
                count = mask.bit_count()
                axes.add_patch(Rectangle((number, rank), 1, 1, facecolor=shade(count, N), edgecolor="#BBBBBB"))
                colour = "white" if count > N / 2 else "black"
                axes.text(number + 0.5, rank + 0.5, str(count or ""), ha="center", va="center", color=colour)
        axes.set_xlim(0, N)
        axes.set_ylim(N, 0)
        axes.set_aspect("equal")
        axes.set_xticks([i + 0.5 for i in range(N)], [str(i) for i in range(N)])
        axes.set_yticks([i + 0.5 for i in range(N)], [str(i) for i in range(N)])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("slice")
    grid[0].set_ylabel("rank")
    for axes, trace in zip(grid[1:], (first, second), strict=True):
        _arrow(axes, trace)
    headline(
        figure,
        f"An all_reduce is a reduce_scatter and then an all_gather ({name}, {N} ranks)\n"
        "Stages 1 to 3 put the update between the halves, where each rank has the sum of one slice",
    )
    return figure


def _arrow(axes: Any, trace: Trace) -> None:
    """From the panel on the left to this one: the verb, and what it sends."""
    sent = f"{max(trace.slices_sent())}/{trace.N} Ψ"
    place = {"xycoords": "axes fraction", "ha": "center"}
    axes.annotate(
        "", (-0.13, 0.5), (-0.42, 0.5), xycoords="axes fraction", arrowprops={"arrowstyle": "simple", "color": "black"}
    )
    axes.annotate(trace.verb, (-0.27, 0.6), fontsize="small", **place)
    axes.annotate(f"each rank\nsends {sent}", (-0.27, 0.28), fontsize="small", **place)
