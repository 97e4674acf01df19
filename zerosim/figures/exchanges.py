"""A collective, exchange by exchange: what each rank holds of each slice, and who sends what to whom."""

from textwrap import wrap
from typing import TYPE_CHECKING, Any

from zerosim.collectives import NOBODY
from zerosim.collectives.check import Trace
from zerosim.figures.sheet import SLIDE, slide
from zerosim.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RANKS, MOST_PANELS = 32, 24
"""More ranks than this are refused; of more exchanges, as many are left out, evenly."""


@slide
def exchanges(trace: Trace, name: str, wrong: str = "") -> "Figure":
    """Draw a panel before each exchange and one at the end: rows are ranks, columns slices, shades how much is summed.

    Orange frames are sent in that exchange, along the arrows. `wrong` says, in red, what is wrong with the last one.
    Raises ValueError for more ranks than can be read.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from zerosim.figures.style import COMPLETE, SENT, WRONG, headline, shade

    panels = _panels(len(trace.held))
    columns = min(4 if len(panels) <= 8 else 6, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = _grid(rows, columns, trace.N)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, s in zip(grid.flat, panels, strict=False):
        _panel(axes, trace, s)
    left_out = f", {len(trace.held) - len(panels)} of {len(trace.held)} panels left out"
    title = f"{trace.verb} by {name} on {counted(trace.N, 'rank')}{left_out * (len(panels) < len(trace.held))}"
    lines = [f"{title}; rows: ranks, columns: slices", *wrap(f"WRONG: {wrong}." if wrong else "", 90)]
    headline(figure, "\n".join(lines), color=WRONG if wrong else "black")
    handles: list[Any] = [
        Patch(facecolor=shade(1, max(2, trace.N)), edgecolor="#BBBBBB", label="one rank's part"),
        Patch(facecolor=shade(max(1, trace.N - 1), trace.N), label="more added"),
        Patch(facecolor=COMPLETE, label="complete"),
        Patch(facecolor="none", edgecolor=SENT, linewidth=3, label="sent in this exchange"),
        Line2D([], [], color=SENT, marker=">", label="from rank to rank"),
    ]
    if trace.N < 3:
        del handles[1]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize="small")
    if wrong:
        last = grid.flat[len(panels) - 1]
        last.set_title(last.get_title("left") + ": WRONG", color=WRONG)
    return figure


def _panels(number: int) -> list[int]:
    if number <= MOST_PANELS:
        return list(range(number))
    return sorted({round(i * (number - 1) / (MOST_PANELS - 1)) for i in range(MOST_PANELS)})


def _grid(rows: int, columns: int, N: int) -> tuple["Figure", Any]:
    from zerosim.figures.style import new_figure

    if N > MOST_RANKS:
        raise ValueError(f"{N} ranks are too many to draw; up to {MOST_RANKS} can be read")
    times = max(1.0, columns / 4, rows / 2)  # a slide has room for eight panels; of more, it is larger
    return new_figure(rows, columns, size=(times * SLIDE[0], times * SLIDE[1]), squeeze=False)


def _panel(axes: "Axes", trace: Trace, s: int) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.patheffects import Normal, Stroke

    from zerosim.figures.style import SENT, shade

    N, held = trace.N, trace.held[s]
    counts = [[held[rank][number].bit_count() for number in range(N)] for rank in range(N)]
    cells = [_square(number, rank, 0.0) for rank in range(N) for number in range(N)]
    colours = [shade(count, N) for row in counts for count in row]
    axes.add_collection(PolyCollection(cells, facecolor=colours, edgecolor="#999999", linewidth=0.7))
    for rank, row in enumerate(counts if N <= 8 else []):
        for number, count in enumerate(row):
            colour = "white" if count > N / 2 else "black"
            text = str(count) if count else ""
            axes.text(number + 0.5, rank + 0.5, text, ha="center", va="center", fontsize="small", color=colour)
    sent = []
    for rank, exchange in enumerate(trace.rounds[s] if s < len(trace.rounds) else ()):
        if exchange.to == NOBODY:
            continue
        sent += [_square(number, rank, 0.08) for number in exchange.send.numbers(N)]
        axes.add_patch(
            FancyArrowPatch(
                (N + 0.12, rank + 0.5),
                (N + 0.12, exchange.to + 0.5),
                connectionstyle=f"arc3,rad={-0.45 if exchange.to > rank else 0.45}",
                arrowstyle="-|>",
                mutation_scale=13,
                color=SENT,
                linewidth=1.8,
            )
        )
    halo = [Stroke(linewidth=5.5, foreground="white"), Normal()]  # in grey print orange on green is not seen
    axes.add_collection(PolyCollection(sent, facecolor="none", edgecolor=SENT, linewidth=2.6, path_effects=halo))
    axes.set_xlim(0, N * 1.3)
    axes.set_ylim(N, 0)
    axes.set_aspect("equal")
    ticks = range(0, N, 1 if N <= 8 else 4)
    axes.set_xticks([t + 0.5 for t in ticks], [str(t) for t in ticks], fontsize="small")
    axes.set_yticks([t + 0.5 for t in ticks], [str(t) for t in ticks], fontsize="small")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    axes.set_ylabel("rank" if s == 0 else "", fontsize="small")
    where = "at the end" if s == len(trace.rounds) else f"before exchange {s}"
    axes.set_title(where)


def _square(x: float, y: float, inset: float) -> list[tuple[float, float]]:
    left, right, top, bottom = x + inset, x + 1 - inset, y + inset, y + 1 - inset
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
