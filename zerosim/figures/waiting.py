"""Who waits for whom: a step on the virtual clock, a row per rank, and beside it the seconds that were measured."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import SLIDE, slide
from zerosim.report import DRAWN, text_seconds, waits

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def waiting(report: dict[str, Any]) -> "Figure | None":
    """Draw the step of the last run; None if no rank waits for another one by design."""
    from matplotlib.patches import Patch

    from zerosim.figures.style import PHASES, WAIT, headline, look, new_figure, subject

    if not waits(report):
        return None
    run = report["runs"][-1]
    clocks = run["time"]["virtual"]["ranks"][:DRAWN]
    figure, (axes, beside) = new_figure(
        1, 2, size=(SLIDE[0], max(SLIDE[1], 2.5 + 0.5 * len(clocks))), sharey=True, gridspec_kw={"width_ratios": [4, 1]}
    )
    whole = max(end for clock in clocks for _, end, _, _ in clock["spans"])
    unit, size = ("seconds", 1.0) if whole >= 1 else ("milliseconds", 1e3)
    for rank, clock in enumerate(clocks):
        for start, end, what, partner in clock["spans"]:
            _span(axes, rank, size * start, size * end, what, partner, size * whole)
    axes.set_yticks(range(len(clocks)), [_name(report, rank) for rank in range(len(clocks))])
    axes.invert_yaxis()
    axes.set_xlim(0, size * whole)
    axes.set_xlabel(f"{unit} on the virtual clock ({run['time']['virtual']['cluster']})")
    measured = [sum(own) for own in run["time"]["waited_for"][:DRAWN]]
    beside.barh(range(len(clocks)), measured, 0.7, color=WAIT, linewidth=0)
    for rank, seconds in enumerate(measured):
        place = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
        beside.annotate(text_seconds(seconds), (seconds, rank), **place)
    beside.set_xlim(0, 1.7 * max([*measured, 1e-6]))
    beside.set_xticks([0])
    beside.set_xlabel("waited,\nas measured")
    names = {what for clock in clocks for _, _, what, _ in clock["spans"]}
    handles = [Patch(**look(name), label=name) for name in PHASES if name in names]
    handles.append(Patch(color=WAIT, label="waits for the rank of that number"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    headline(figure, f"A step of stage {run['stage']}: {subject(report)}")
    return figure


def _span(axes: Any, rank: int, start: float, end: float, what: str, partner: int, whole: float) -> None:
    from zerosim.figures.style import PHASES, WAIT, look

    like = look(what) if what in PHASES else {"color": WAIT if what == "wait" else "white"}
    axes.barh(rank, end - start, 0.7, start, **like)
    if what == "wait" and end - start > 0.025 * whole:
        axes.annotate(str(partner), ((start + end) / 2, rank), ha="center", va="center", fontsize="small")


def _name(report: dict[str, Any], rank: int) -> str:
    """The rank, its place in the grid if there is one, and whether it was made slow."""
    place, grid, slow = report["grid"]["ranks"][rank], report["grid"], report["config"]["straggler"]
    sizes = {"tensor": "tensor_parallel", "data": "data_parallel", "pipeline": "pipeline"}
    where = ", ".join(f"{group} {place[group]}" for group, size in sizes.items() if grid[size] > 1)
    several = sum(grid[size] > 1 for size in sizes.values()) > 1
    name = f"rank {rank}" + (f" ({where})" if several else "")
    return f"{name}\n{slow[1]:g} times slower" if slow and slow[0] == rank else name
