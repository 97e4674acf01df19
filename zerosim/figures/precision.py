"""Bytes per parameter by optimizer and precision: where K = 12 and the 16 bytes of mixed precision come from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zerosim import formulas
from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOMENTS = ("momentum", "variance")


@slide
def precision(points: Sequence[dict[str, Any]]) -> "Figure":
    """Draw a bar for each of the points of stage 0 (`zerosim.anchor.count`): classes as counted, marks the formula's.

    The optimizer's states are cut by the formula into the fp32 master copy and the moments; the marks are the sums.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from zerosim.figures.style import label, look, new_figure, source

    figure, axes = new_figure()
    names = []
    for at, point in enumerate(points):
        w, full = formulas.WIDTH[point["precision"]], formulas.full_width(point["precision"])
        moments, K = formulas.MOMENTS[point["optimizer"]], formulas.K(point["optimizer"], point["precision"])
        bottom = level = 0.0
        for cls, part in zip(("parameters", "gradients", "optimizer_states"), (w, w, K), strict=True):
            held = point["at_rest"][0][cls] / point["padded_parameters"]
            axes.bar(at, held, 0.78, bottom, **look(cls))
            bottom, level = bottom + held, level + part
            axes.plot([at - 0.45, at + 0.45], [level, level], color="black", linewidth=2.4)
        said = [("w", w), ("g", w)] + [("master", full)] * (full * moments < K)
        said += [(name, full) for name in _MOMENTS[:moments]]
        height = 0.0
        for name, nbytes in said:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
            axes.text(at, height + nbytes / 2, f"{name} {nbytes}", ha="center", va="center", fontsize="small", bbox=box)
            height += nbytes
            axes.plot([at - 0.39, at + 0.39], [height, height], color="white", linewidth=1.5, zorder=1.5)
        axes.annotate(f"{bottom:g}", (at, bottom), (0, 4), textcoords="offset points", ha="center", weight="bold")
        names.append(f"{point['precision']}\n{point['optimizer']}")
    axes.set_xticks(range(len(points)), names)
    axes.set_yticks(range(0, 17, 4))
    axes.set_ylim(0, 17.5)
    axes.set_ylabel("bytes per parameter at rest, stage 0")
    axes.set_title("Adam holds as much in mixed precision as in fp32")
    handles: list[Any] = [
        Patch(**look(cls), label=label(cls)) for cls in ("optimizer_states", "gradients", "parameters")
    ]
    handles.append(Line2D([], [], color="black", linewidth=2.4, label="formula"))
    figure.legend(handles=handles, loc="outside right upper")
    source(
        figure,
        f"Bars: counted, an MLP of {points[0]['parameters']:,} parameters on 1 rank. w: parameter, g: gradient, "
        "master: fp32 copy of the parameter, which only mixed precision has.",
    )
    return figure
