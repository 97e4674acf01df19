"""Memory by stage and class: at rest beside the formula's marks, and at the peak of a step."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.report import si

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def memory(report: dict[str, Any]) -> "Figure":
    """Draw stacked bars per stage, for the fullest rank: at rest (wide) and at the peak (narrow)."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from zerosim.figures.style import CLASSES, in_bytes, label, look, new_figure, subject

    figure, axes = new_figure()
    for at, run in enumerate(report["runs"]):
        rest = max(run["memory"]["at_rest"]["measured"], key=lambda m: sum(m.values()))
        peak = max(run["memory"]["peak"]["measured"], key=lambda m: m["total"])
        formula = run["memory"]["at_rest"]["formula"]
        for x, width, held, alpha in ((at - 0.17, 0.44, rest, 1.0), (at + 0.25, 0.3, peak, 0.55)):
            bottom = 0
            for cls in CLASSES:
                axes.bar(x, held[cls], width, bottom, **look(cls, alpha=alpha))
                bottom += held[cls]
            axes.annotate(si(bottom), (x, bottom), (0, 5), textcoords="offset points", ha="center", fontsize="small")
        level = 0
        for cls in ("parameters", "gradients", "optimizer_states"):
            level += formula[cls]
            axes.plot([at - 0.41, at + 0.09], [level, level], color="black", linewidth=2.4)
    axes.set_xticks(range(len(report["runs"])), [f"stage {run['stage']}" for run in report["runs"]])
    in_bytes(axes)
    axes.set_ylabel("bytes per rank")
    axes.set_title(f"Memory at rest (wide) and at the peak of a step (narrow)\n{subject(report)}")
    handles: list[Any] = [Patch(**look(cls), label=label(cls)) for cls in reversed(CLASSES)]
    handles.append(Line2D([], [], color="black", linewidth=2.4, label="formula"))
    figure.legend(handles=handles, loc="outside right upper")
    return figure
