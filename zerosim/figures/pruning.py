"""Which groups were pruned in which step, as a raster below the loss: pruned again and again, or in turn."""

from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pruning(report: dict[str, Any]) -> "Figure | None":
    """Draw the last stage's loss by step and below it, dark, the groups that were pruned; the lines part the layers.

    Where groups are many, a cell is several neighbours, the darker the more of them were pruned. A step that was
    skipped prunes nothing. None if nothing is pruned.
    """
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    from zerosim.figures.style import new_figure, plain, subject

    run = report["runs"][-1]
    if not run["pruning"]:
        return None
    own, steps = run["pruning"], len(run["loss"])
    figure, (above, below) = new_figure(2, size=(8, 5.5), sharex=True, height_ratios=(1, 2))
    values = [float("nan") if value is None else value for value in run["loss"]]
    above.plot(range(1, steps + 1), values, color="black", marker="." if steps == 1 else "")
    above.set_ylabel("loss")
    plain(above)

    width, groups = own["record"]["groups_per_cell"], own["groups"]
    counts = np.array([[int(n) for n in cells.split()] for cells in own["record"]["pruned"]]).T
    sizes = np.minimum(width, groups - width * np.arange(len(counts)))
    edges = np.append(width * np.arange(len(counts)), groups)
    below.pcolormesh(
        np.arange(steps + 1) + 0.5, edges, counts / sizes[:, None], cmap="Blues", vmin=0, vmax=1, rasterized=True
    )
    for end in list(accumulate(own["groups_per_layer"]))[:-1]:
        below.axhline(end, color="#D55E00", linewidth=1)
    below.set_ylim(groups, 0)
    below.set_ylabel(f"group{'' if own['by'] == 'layer' else ', layer after layer'}")
    below.set_xlabel("step")
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    done = "frozen" if own["mode"] == "freeze" else "set to 0"
    title = (
        f"{own['pruned']['formula']} of {groups} groups by {own['by']} {done} in each step (dark), stage {run['stage']}"
    )
    figure.suptitle(f"{title}\n{subject(report)}", x=0.01, ha="left", fontsize=11)
    return figure
