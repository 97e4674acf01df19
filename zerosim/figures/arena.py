"""A map of an arena: each array a rectangle, as wide as it lives and as high as it is long, where it was placed."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.report import si
from zerosim.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WAYS = {"nothing": "each array where there is room", "both (M_D)": "what lives long in chunks (M_D)"}
_LABELS = {"kept": "activations kept for backward", "activations": "activations, short-lived"}
_ORDER = ("parameters", "optimizer_states", "gradients", "buffers", "kept", "activations")


@slide
def arena(result: dict[str, Any]) -> "Figure":
    """Draw the section `defragmentation` of what `residual` reports: a step as it comes, and with M_D."""
    from matplotlib.patches import Patch

    from zerosim.figures.style import headline, label, new_figure

    rows = {(row["order"], row["way"]): row for row in result["sections"]["defragmentation"]}
    orders = list(dict.fromkeys(order for order, _ in rows))
    figure, grid = new_figure(len(orders), 2, sharey=True, squeeze=False)
    for panels, order in zip(grid, orders, strict=True):
        for axes, way in zip(panels, _WAYS, strict=True):
            _map(axes, rows[order, way])
        panels[0].set_ylabel("address")
    grid[0, 0].set_ylim(0, 1.3 * max(row["arena"] for row in rows.values()))
    for axes in grid[-1]:
        axes.set_xlabel("takes and releases")
    handles = [Patch(**_look(kind), label=_LABELS.get(kind, label(kind))) for kind in _ORDER]
    handles.append(Patch(facecolor="white", edgecolor="#999999", hatch="////", label="free"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    settings, ranks = result["settings"], counted(result["ranks"], "rank")
    first = next(iter(rows.values()))
    title = (
        f"One step of stage 2 in one arena, {settings['fit']} fit; rank 0 of {ranks}, "
        f"{counted(settings['rows'], 'row')} per rank, the input of one layer in {first['every']} kept"
    )
    headline(figure, title)
    return figure


def _map(axes: Any, row: dict[str, Any]) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Rectangle

    from zerosim.figures.style import in_bytes

    moments, size, peak = row["moments"], row["arena"], row["peak"]
    axes.add_patch(Rectangle((0, 0), moments, size, facecolor="white", edgecolor="#CCCCCC", hatch="////", linewidth=0))
    for kind in _ORDER:
        boxes = [
            [(begin, at), (end, at), (end, at + nbytes), (begin, at + nbytes)]
            for (own, nbytes, begin, end), at in zip(row["blocks"], row["addresses"], strict=True)
            if own == kind
        ]
        axes.add_collection(PolyCollection(boxes, **_look(kind)))
    in_bytes(axes)
    axes.set_xlim(0, moments)
    axes.axhline(size, color="black", linewidth=2)
    axes.axhline(peak, color="black", linewidth=2, linestyle="--")
    above = f"{100 * (size / peak - 1):.1f} % above the peak held (dashed)"
    text = f"arena {si(size)}, " + (above if size > peak else "the peak held")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    axes.annotate(text, (0, size), (4, 6), textcoords="offset points", fontsize="small", bbox=box)
    axes.set_title(f"layers {row['order']}: {_WAYS[row['way']]}", fontsize="medium", pad=26)
    _phases(axes, row["phases"], moments)


def _phases(axes: Any, phases: list[list[Any]], end: int) -> None:
    """Name the parts of the step above the panel; what is computed again belongs to backward."""
    begins = [next(at for at, name in phases if name == part) for part in ("forward", "backward", "update")]
    for part, start, stop in zip(("forward", "backward", "update"), begins, [*begins[1:], end], strict=True):
        if start > phases[0][0]:
            axes.axvline(start, color="black", linewidth=1, alpha=0.6)
        place = ("data", "axes fraction")
        axes.annotate(
            part,
            ((start + stop) / 2, 1),
            (0, 3),
            xycoords=place,
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )


def _look(kind: str) -> dict[str, Any]:
    """As the class looks everywhere; of activations, the kept ones dark, the others light and plain."""
    from zerosim.figures.style import look

    if kind == "kept":
        return look("activations", facecolor="#8E2A66", linewidth=0.3)
    return look(kind, linewidth=0.3, **({"facecolor": "#E8B9D3", "hatch": ""} if kind == "activations" else {}))
