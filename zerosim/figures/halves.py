"""An all-reduce as a reduce-scatter and then an all-gather: what each rank holds before, between and after."""

from typing import TYPE_CHECKING, Any

from zerosim.collectives.check import Held, Trace
from zerosim.figures.sheet import slide
from zerosim.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 3.8
"""Between two pictures, in cells."""


@slide
def halves(first: Trace, second: Trace, name: str) -> "Figure":
    """Draw the beginning and the end of a reduce-scatter, and the end of an all-gather of what it has left.

    Numbers and shades say how many ranks are added in a slice. What the first half leaves unfinished is not needed any
    more and left out.
    """
    from zerosim.figures.style import headline, new_figure

    N, whole = first.N, (1 << first.N) - 1
    between = [[mask if mask == whole else 0 for mask in row] for row in first.held[-1]]
    owner = [next(rank for rank in range(N) if between[rank][number]) for number in range(N)]
    after = [
        [between[owner[number]][number] if mask else 0 for number, mask in enumerate(row)] for row in second.held[-1]
    ]
    figure, axes = new_figure()
    pictures = {"own gradients": first.held[0], "one sum each": between, "all sums": after}
    for at, (title, held) in enumerate(pictures.items()):
        _cells(axes, at * (N + _GAP), title, held)
    for at, trace in enumerate((first, second), 1):
        x = at * (N + _GAP) - _GAP / 2
        arrow = {"arrowstyle": "simple,head_width=1.4,head_length=1.2", "color": "black"}
        axes.annotate("", (x + 0.75, N / 2), (x - 0.95, N / 2), arrowprops=arrow)
        axes.text(x - 0.1, N / 2 - 0.45, trace.verb, ha="center", va="bottom")
        sent = f"each rank sends\n{max(trace.slices_sent())}/{N} of the vector"
        axes.text(x - 0.1, N / 2 + 0.45, sent, ha="center", va="top", fontsize="small")
    axes.set_xlim(-0.9, 3 * N + 2 * _GAP)
    axes.set_ylim(N + 1.1, -1)
    axes.set_aspect("equal")
    axes.set_axis_off()
    headline(
        figure,
        f"An all_reduce is a reduce_scatter and then an all_gather ({name}, {counted(N, 'rank')})\n"
        "Stages 1 and 2 update between the halves, each rank its slice",
    )
    return figure


def _cells(axes: Any, left: float, title: str, held: Held) -> None:
    """What each rank (row) holds of each slice (column)."""
    from matplotlib.patches import Rectangle

    from zerosim.figures.style import shade

    N = len(held)
    for rank, row in enumerate(held):
        for number, mask in enumerate(row):
            count = mask.bit_count()
            axes.add_patch(Rectangle((left + number, rank), 1, 1, facecolor=shade(count, N), edgecolor="#BBBBBB"))
            colour, text = "white" if count > N / 2 else "black", str(count or "")
            axes.text(left + number + 0.5, rank + 0.5, text, ha="center", va="center", color=colour)
        axes.text(left - 0.15, rank + 0.5, f"{rank}", ha="right", va="center", fontsize="small")
        axes.text(left + rank + 0.5, N + 0.1, f"{rank}", ha="center", va="top", fontsize="small")
    axes.text(left + N / 2, -0.25, title, ha="center", va="bottom")
    axes.text(left + N / 2, N + 0.5, "slice", ha="center", va="top", fontsize="small")
    if not left:
        axes.text(-0.85, N / 2, "rank", ha="right", va="center", rotation=90, fontsize="small")
