"""What the figures share: colours that colour-blind readers can tell apart (Okabe and Ito 2008), axes in bytes."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

CLASSES = {
    "parameters": "#0072B2",
    "gradients": "#E69F00",
    "optimizer_states": "#009E73",
    "activations": "#CC79A7",
    "buffers": "#8C8C8C",
}
VERBS = {"all_reduce": "#D55E00", "reduce_scatter": "#E69F00", "all_gather": "#0072B2"}
STAGES = ("#000000", "#56B4E9", "#D55E00", "#F0E442")


def label(name: str) -> str:
    """A name as a reader writes it: optimizer_states is "optimizer states"."""
    return name.replace("_", " ")


def new_figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (8, 4.5), **shared: Any
) -> tuple[Figure, Any]:
    """Return a figure for a slide, and its axes."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **shared)


def plain(axes: Axes) -> None:
    """Leave away the frame's upper and right line."""
    axes.spines[["top", "right"]].set_visible(False)


def in_bytes(axes: Axes) -> None:
    """Label the y axis in bytes, powers of 1000."""
    axes.yaxis.set_major_formatter(EngFormatter("B"))
    axes.set_ylim(bottom=0)
    plain(axes)


def subject(report: dict[str, Any]) -> str:
    """What was run, in one line."""
    config, model, N = report["config"], report["model"], report["world_size"]
    ranks = "1 rank" if N == 1 else f"{N} ranks"
    return f"{model['parameters']:,} parameters on {ranks}, {config['optimizer']}, {config['precision']}"
