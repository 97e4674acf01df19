"""What the figures share: colours that colour-blind readers can tell apart (Okabe and Ito 2008), axes in bytes.

A class of memory, a verb, a phase has the same colour and the same hatching in every figure; the hatching tells them
apart where there is no colour.
"""

from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter

from zerosim.figures.sheet import SLIDE
from zerosim.words import counted

CLASSES = {
    "parameters": "#0072B2",
    "gradients": "#E69F00",
    "optimizer_states": "#009E73",
    "activations": "#CC79A7",
    "buffers": "#636363",
}
VERBS = {"all_reduce": "#D55E00", "reduce_scatter": "#E69F00", "all_gather": "#0072B2"}
GROUPS = {"tensor": "#CC79A7", "pipeline": "#56B4E9"}
"""What model-parallel ranks send to one another."""
PHASES = {
    "forward": "#56B4E9",
    "recompute": "#F0E442",
    "backward": "#0072B2",
    "reduce": "#E69F00",
    "update": "#009E73",
    "gather": "#D55E00",
    "network": "#636363",
}
PARTS = {"compute": "#0072B2", "update": "#009E73", "exposed": "#D55E00", "offload": "#CC79A7", "waiting": "#636363"}
"""Of a step's time."""

COLOURS = {**CLASSES, **VERBS, **GROUPS, **PHASES, **PARTS}
HATCHES = {
    "gradients": "//",
    "reduce_scatter": "//",
    "reduce": "//",
    "optimizer_states": "\\\\",
    "update": "\\\\",
    "activations": "xx",
    "tensor": "xx",
    "offload": "xx",
    "all_reduce": "--",
    "backward": "--",
    "buffers": "..",
    "network": "..",
    "waiting": "..",
    "pipeline": "||",
    "gather": "||",
    "exposed": "||",
    "recompute": "++",
}
"""Of those that are not plain."""

WAIT = "#E4E4E4"
"""A rank that waits for another one."""
STAGES = ("#000000", "#56B4E9", "#D55E00", "#F0E442")

COMPLETE, SENT, WRONG = "#009E73", "#D55E00", "#B00020"
"""A slice that holds every rank's contribution, the frame of one that is sent, and words on a mistake."""
_DASHES = ("-", "--", "-.", (0, (8, 2)), (0, (5, 1.5, 1, 1.5, 1, 1.5)))
_LINES: list[tuple[str, Any]] = [
    (colour, _DASHES[i % len(_DASHES)])
    for i, colour in enumerate(2 * ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"))
]
_ALWAYS = ("ring", "halving", "pairwise", "bruck", "doubling", "binomial", "hierarchical", "neighbour")


def lines(names: list[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dash of each algorithm's curve: the project's own have the same in every figure, native is black."""
    others = iter(_LINES[len(_ALWAYS) :] * len(names))
    return {
        name: ("black", "-")
        if name == "native"
        else _LINES[_ALWAYS.index(name.partition(":")[0])]
        if name.partition(":")[0] in _ALWAYS
        else next(others)
        for name in names
    }


def shade(count: int, N: int) -> Any:
    """The colour of a slice with `count` of N contributions: white for none, darker blue for more, green for all."""
    from matplotlib import colormaps

    if count == N:
        return COMPLETE
    return colormaps["Blues"](0.1 + 0.7 * count / N) if count else "white"


def slice_colours(N: int) -> list[Any]:
    """A colour for each of N slices."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.95 * i / max(1, N - 1)) for i in range(N)]


def look(name: str, **more: Any) -> dict[str, Any]:
    """How an area that stands for this class, verb, phase or part is filled, as a patch's properties; and `more`."""
    own = {"facecolor": COLOURS[name], "hatch": HATCHES.get(name, ""), "edgecolor": "white", "linewidth": 0}
    return own | more


def label(name: str) -> str:
    """A name as a reader writes it: optimizer_states is "optimizer states"."""
    return name.replace("_", " ")


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = SLIDE, **shared: Any) -> tuple[Figure, Any]:
    """Return a figure for a slide, and its axes."""
    import matplotlib

    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.subplots(rows, columns, **shared)
    for one in figure.axes:  # ticks are made as they are needed, when others' settings may hold
        one.tick_params(labelsize=matplotlib.rcParams["font.size"])
    return figure, axes


def headline(figure: Figure, text: str, **more: Any) -> None:
    """Write a title over all panels, in as many lines as it takes."""
    figure.suptitle("\n".join(fill(line, 92) for line in text.splitlines()), x=0.01, ha="left", **more)


def source(figure: Figure, text: str) -> None:
    """Say in small words below the axes what was drawn, and from where it is."""
    figure.supxlabel(fill(text, 125), x=0.01, ha="left", fontsize="small", color="#444444")


def in_bytes(axes: Axes) -> None:
    """Label the y axis in bytes, powers of 1000."""
    axes.yaxis.set_major_formatter(EngFormatter("B"))
    axes.set_ylim(bottom=0)


def subject(report: dict[str, Any]) -> str:
    """What was run, in one line."""
    config, model, N = report["config"], report["model"], report["world_size"]
    ranks = counted(N, "rank")
    grid = report["grid"]
    if grid["data_parallel"] < N:
        parts = {"tensor": "tensor_parallel", "data": "data_parallel", "pipeline": "pipeline"}
        ranks += f" ({' x '.join(f'{grid[size]} {group}' for group, size in parts.items() if grid[size] > 1)})"
    return f"{model['parameters']:,} parameters on {ranks}, {config['optimizer']}, {config['precision']}"
