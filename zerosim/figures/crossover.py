"""Time against size on a modelled cluster: a curve per algorithm, the bound below, and where the fastest changes."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def crossover(timing: dict[str, Any]) -> "Figure":
    """Draw what `collectives time` reports: seconds by bytes of the whole vector, both logarithmic."""
    from matplotlib.ticker import EngFormatter

    from zerosim.figures.style import lines, new_figure

    figure, axes = new_figure()
    sweep = timing["sweep"]
    style = lines(list(sweep["seconds"]))
    drawn: dict[tuple[float, ...], list[str]] = {}
    for name, seconds in sweep["seconds"].items():
        drawn.setdefault(tuple(round(s, 15) for s in seconds), []).append(name)
    for seconds, names in drawn.items():
        colour, dash = style[names[0]]
        label = " = ".join(names)
        axes.plot(sweep["bytes"], seconds, color=colour, linestyle=dash, linewidth=2, label=label)
    axes.fill_between(sweep["bytes"], sweep["bound"], color="#DDDDDD", linewidth=0, label="below the lower bound")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(sweep["bytes"][0], sweep["bytes"][-1])
    axes.set_ylim(bottom=min(sweep["bound"]) / 2)
    for crossing in timing["crossovers"]:
        axes.axvline(crossing["bytes"], color="black", linewidth=0.8, linestyle=":")
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
        f"{timing['verb']} on {timing['ranks']} ranks of {timing['cluster']['name']}; on top, the fastest",
        pad=32,
    )
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
