"""What the figures share: colours that colour-blind readers can tell apart (Okabe and Ito 2008), axes in bytes.

A class of memory, a verb, a phase has the same colour and the same hatching in every figure; the hatching tells them
apart where there is no colour. No two that one figure may show share both.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter

from zerosim.figures.sheet import SLIDE
from zerosim.words import counted

YELLOW = "#F0E442"
"""White lines are not seen on it, nor is it on white: it needs dark ones, and a dark edge."""

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
    "recompute": YELLOW,
    "backward": "#CC79A7",
    "reduce": "#E69F00",
    "update": "#009E73",
    "gather": "#0072B2",
    "network": "#636363",
}
PARTS = {"compute": "#56B4E9", "update": "#009E73", "exposed": "#D55E00", "offload": YELLOW, "waiting": "#636363"}
"""Of a step's time."""
SIDES = {"zerosim": "#56B4E9", "PyTorch": "#CC79A7"}
"""Of a contest."""

COLOURS = {**CLASSES, **VERBS, **GROUPS, **PHASES, **PARTS, **SIDES}
HATCHES = {
    "gradients": "//",
    "reduce_scatter": "//",
    "reduce": "//",
    "optimizer_states": "\\\\",
    "update": "++",
    "activations": "xx",
    "tensor": "xx",
    "offload": "xx",
    "all_reduce": "--",
    "backward": "o",
    "buffers": "..",
    "network": "..",
    "waiting": "..",
    "pipeline": "||",
    "exposed": "||",
    "PyTorch": "||",
    "recompute": "xx",
}
"""Of those that are not plain."""

WAIT = "#E4E4E4"
"""A rank that waits for another one."""
STAGES = ("#000000", "#56B4E9", "#D55E00", YELLOW)

COMPLETE, SENT, WRONG = "#009E73", "#D55E00", "#B00020"
"""A slice that holds every rank's contribution, the frame of one that is sent, and words on a mistake."""
_LINES: list[tuple[str, Any, str]] = [
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", (0, (8, 2)), "D"),
    ("#E69F00", (0, (5, 1.5, 1, 1.5, 1, 1.5)), "v"),
    ("#56B4E9", "-", "P"),
    ("#882255", "--", "X"),
    ("#332288", "-.", "*"),
    ("#D55E00", (0, (1, 1)), "<"),
    ("#0072B2", (0, (1, 1)), ">"),
    ("#009E73", (0, (3, 1, 1, 1)), "h"),
    ("#E69F00", (0, (8, 2)), "p"),
]
_ALWAYS = ("ring", "halving", "pairwise", "bruck", "doubling", "binomial", "hierarchical", "neighbour")


def lines(names: list[str]) -> dict[str, dict[str, Any]]:
    """How each algorithm's curve is drawn, as a line's properties: colour, dash and mark.

    The project's own algorithms have the same in every figure, none of them shared; native is black.
    """
    others = iter(_LINES[len(_ALWAYS) :] * len(names))
    found = {
        name: ("black", "-", ".")
        if name == "native"
        else _LINES[_ALWAYS.index(name.partition(":")[0])]
        if name.partition(":")[0] in _ALWAYS
        else next(others)
        for name in names
    }
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.7, "markersize": 12}
    return {
        name: {"color": colour, "linestyle": dash, "marker": mark, **edge}
        for name, (colour, dash, mark) in found.items()
    }


def pen(stage: int, width: float = 2.8) -> dict[str, Any]:
    """How a stage's curve is drawn, as a line's properties: with a dark edge, for yellow is hard to see on white."""
    from matplotlib.patheffects import Normal, Stroke

    edge = [Stroke(linewidth=width + 1.8, foreground="#333333"), Normal()]
    return {"color": STAGES[stage], "linewidth": width, "path_effects": edge, "solid_capstyle": "butt"}


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Centres of labels of these sizes: in this order, none on another, near where they are wanted, from low to high.

    Where there is no room for all, they reach below `low`.
    """
    centres: list[float] = []
    for at, size in zip(wanted, sizes, strict=True):
        free = centres[-1] + sizes[len(centres) - 1] / 2 if centres else low
        centres.append(max(at, free + size / 2))
    for i in reversed(range(len(centres))):
        free = centres[i + 1] - sizes[i + 1] / 2 if i + 1 < len(centres) else high
        centres[i] = min(centres[i], free - sizes[i] / 2)
    return centres


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
    lines = "#333333" if COLOURS[name] == YELLOW else "white"
    own = {"facecolor": COLOURS[name], "hatch": HATCHES.get(name, ""), "edgecolor": lines}
    return {**own, "linewidth": 0, **more}


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
