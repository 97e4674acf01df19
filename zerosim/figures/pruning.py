"""Which groups were pruned in which step, as a raster below the loss: pruned again and again, or in turn."""

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def pruning(report: dict[str, Any]) -> "Figure | None":
    """Draw the last stage's loss by step and below it, dark, the groups that were pruned; the lines part the layers.

    Where groups are many, a cell is several neighbours, the darker the more of them were pruned. A step that was
    skipped prunes nothing. None if nothing is pruned.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    from zerosim.figures.style import headline, new_figure, subject

    run = report["runs"][-1]
    if not run["pruning"]:
        return None
    own, steps = run["pruning"], len(run["loss"])
    figure, (above, below) = new_figure(2, sharex=True, height_ratios=(1, 2))
    values = [float("nan") if value is None else value for value in run["loss"]]
    above.plot(range(1, steps + 1), values, color="black", marker="." if steps == 1 else "")
    above.set_ylabel("loss")

    width, groups = own["record"]["groups_per_cell"], own["groups"]
    counts = np.array([[int(n) for n in cells.split()] for cells in own["record"]["pruned"]]).T
    sizes = np.minimum(width, groups - width * np.arange(len(counts)))
    edges = np.append(width * np.arange(len(counts)), groups)
    below.pcolormesh(
        np.arange(steps + 1) + 0.5, edges, counts / sizes[:, None], cmap="Blues", vmin=0, vmax=1, rasterized=True
    )
    _name_layers(below, own["groups_per_layer"], groups)
    shades = {1: "pruned", 0: "not"}
    if width > 1:
        shades = {count: f"{count}" for count in _shown(width)}
        shades[width] = f"{width} of {width} neighbours pruned"
    handles = [
        Patch(facecolor=colormaps["Blues"](count / width), edgecolor="#999999", label=name)
        for count, name in shades.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    below.set_ylim(groups, 0)
    below.set_ylabel(f"group{'' if own['by'] == 'layer' else ', layer after layer'}")
    below.set_xlabel("step")
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    done = "frozen" if own["mode"] == "freeze" else "set to 0"
    title = (
        f"{own['pruned']['formula']} of {groups} groups by {own['by']} {done} in each step (dark), stage {run['stage']}"
    )
    headline(figure, f"{title}\n{subject(report)}")
    return figure


def _shown(width: int) -> list[int]:
    """How many of so many neighbours are pruned where the legend has a shade: each number, or five of many."""
    return list(range(width, -1, -1)) if width < 5 else [round(width * part / 4) for part in range(4, -1, -1)]


def _name_layers(axes: Any, counts: list[int], groups: int) -> None:
    """Part the layers by lines, and name beside the panel those that are not too close to the one named before."""
    named = float(-groups)
    for layer, (begin, end) in enumerate(pairwise(accumulate(counts, initial=0))):
        if begin:
            axes.axhline(begin, color="#D55E00", linewidth=1.5)
        middle = (begin + end) / 2
        if middle - named > groups / 25:
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(f"layer {layer}", (1, middle), (5, 0), va="center", fontsize="small", **place)
            named = middle
