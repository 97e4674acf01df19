"""A map of an arena: each array a rectangle, as wide as it lives and as high as it is long, where it was placed."""

from typing import TYPE_CHECKING, Any

from zerosim.report import si

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLANS = {"together": "as it comes", "by_class": "long-lived apart, in a region allocated beforehand"}


def arena(result: dict[str, Any]) -> "Figure":
    """Draw the section `defragmentation` of what `residual` reports: stage 3, as it comes and with M_D."""
    from matplotlib.patches import Patch

    from zerosim.figures.style import CLASSES, label, new_figure

    rows = [row for row in result["sections"]["defragmentation"] if row["stage"] == 3]
    figure, grid = new_figure(len(rows), 2, size=(11, 1.2 + 3.6 * len(rows)), sharey=True, squeeze=False)
    for panels, row in zip(grid, rows, strict=True):
        for axes, plan in zip(panels, _PLANS, strict=True):
            _map(axes, row, plan)
        panels[0].set_ylabel("address")
    most = max(plan["arena"] for row in rows for plan in row["plans"].values())
    grid[0, 0].set_ylim(0, 1.09 * most)
    for axes in grid[-1]:
        axes.set_xlabel("takes and releases")
    handles = [Patch(color=colour, label=label(cls)) for cls, colour in CLASSES.items()]
    handles.append(Patch(facecolor="white", edgecolor="#999999", hatch="////", label="free"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    settings, ranks = result["settings"], "1 rank" if result["ranks"] == 1 else f"{result['ranks']} ranks"
    title = (
        f"One step of stage 3 in one arena, {settings['fit']} fit; rank 0 of {ranks}, {settings['rows']} rows per rank"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _map(axes: Any, row: dict[str, Any], name: str) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Rectangle

    from zerosim.figures.style import CLASSES, in_bytes

    plan, moments = row["plans"][name], row["moments"]
    size, peak = plan["arena"], row["peak"]
    axes.add_patch(Rectangle((0, 0), moments, size, facecolor="white", edgecolor="#BBBBBB", hatch="////", linewidth=0))
    boxes = [
        [(begin, at), (end, at), (end, at + nbytes), (begin, at + nbytes)]
        for (_, nbytes, begin, end), at in zip(row["blocks"], plan["addresses"], strict=True)
    ]
    colours = [CLASSES[cls] for cls, *_ in row["blocks"]]
    axes.add_collection(PolyCollection(boxes, facecolor=colours, edgecolor="white", linewidth=0.3))
    in_bytes(axes)
    axes.set_xlim(0, moments)
    axes.axhline(size, color="black", linewidth=1.2)
    axes.axhline(peak, color="black", linewidth=1, linestyle="--")
    if plan["reserved"]:
        axes.axhline(plan["reserved"], color="black", linewidth=0.8, linestyle=":")
    text = f"arena {si(size)} ({100 * (size / peak - 1):+.1f} %), peak held (dashed) {si(peak)}"
    axes.annotate(text, (0, size), (3, 2), textcoords="offset points", fontsize=8)
    axes.set_title(f"layers {row['order']}: {_PLANS[name]}", loc="left", fontsize=10)
