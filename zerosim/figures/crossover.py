"""Time against size on a modelled cluster: a curve per algorithm, the bound below, and where the fastest changes."""

from math import log
from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def crossover(timing: dict[str, Any]) -> "Figure":
    """Draw what `collectives time` reports: seconds by bytes of the whole vector, both logarithmic."""
    from matplotlib.ticker import EngFormatter

    from zerosim.figures.style import lines, new_figure, spread

    figure, axes = new_figure()
    sweep = timing["sweep"]
    style = lines(list(sweep["seconds"]))
    drawn: dict[tuple[float, ...], list[str]] = {}
    for name, seconds in sweep["seconds"].items():
        drawn.setdefault(tuple(round(s, 15) for s in seconds), []).append(name)
    for i, (seconds, names) in enumerate(drawn.items()):
        apart = (0.03 + 0.13 * i / len(drawn), 0.13)  # marks of curves that lie on each other do not
        axes.plot(sweep["bytes"], seconds, markevery=apart, **style[names[0]])
    axes.fill_between(sweep["bytes"], sweep["bound"], color="#DDDDDD", linewidth=0)
    axes.text(0.98, 0.03, "below the lower bound", transform=axes.transAxes, ha="right", fontsize="small")
    low, high = min(sweep["bound"]) / 2, 1.5 * max(map(max, drawn))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(sweep["bytes"][0], sweep["bytes"][-1])
    axes.set_ylim(low, high)
    ends = sorted(drawn, key=lambda seconds: seconds[-1])
    heights = [log(seconds[-1] / low) / log(high / low) for seconds in ends]
    texts = ["\n= ".join(drawn[seconds]) for seconds in ends]
    places = spread(heights, [(19 * text.count("\n") + 24) / 430 for text in texts], 0, 1.02)
    for seconds, text, height, place in zip(ends, texts, heights, places, strict=True):
        colour = style[drawn[seconds][0]]["color"]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        beside = {"xycoords": "axes fraction", "textcoords": "axes fraction"}
        axes.annotate("", (1, height), (1.03, place), arrowprops=line, **beside)
        axes.annotate(text, (1, height), (1.035, place), va="center", **beside)
    for crossing in timing["crossovers"]:
        axes.axvline(crossing["bytes"], color="black", linewidth=1.4, linestyle=":")
    edges = [sweep["bytes"][0], *(c["bytes"] for c in timing["crossovers"]), sweep["bytes"][-1]]
    for name, low, high in zip(timing["fastest"], edges, edges[1:], strict=False):
        axes.annotate(
            name,
            ((low * high) ** 0.5, 1),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.yaxis.set_major_formatter(EngFormatter("s"))
    axes.set_xlabel("bytes of the whole vector")
    axes.set_ylabel(f"time of one {timing['verb']}, modelled")
    axes.set_title(
        f"Time of one {timing['verb']} by size, {counted(timing['ranks'], 'rank')} of {timing['cluster']['name']}; "
        "on top, the fastest",
        pad=32,
    )
    return figure
