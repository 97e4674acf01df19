"""Bytes sent per step by stage and verb, beside the formula's marks and the paper's 2 Psi and 3 Psi."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.formulas import WIDTH
from zerosim.report import si

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def traffic(report: dict[str, Any]) -> "Figure":
    """Draw stacked bars per stage, for the busiest rank. The lines are the paper's volumes, which hold for large N."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from zerosim.figures.style import GROUPS, VERBS, in_bytes, look, new_figure, subject

    figure, axes = new_figure()
    groups = report["runs"][0]["traffic"]["model_parallel"]
    for at, run in enumerate(report["runs"]):
        sent, formula = _busiest(run["traffic"])
        bottom = level = 0
        for what in (*VERBS, *GROUPS):
            axes.bar(at, sent.get(what, 0), 0.6, bottom, **look(what))
            bottom += sent.get(what, 0)
            if formula.get(what):
                level += formula[what]
                axes.plot([at - 0.34, at + 0.34], [level, level], color="black", linewidth=2.4)
        axes.annotate(si(bottom), (at, bottom), (0, 5), textcoords="offset points", ha="center", fontsize="small")
    Psi = report["model"]["parameters"] * WIDTH[report["config"]["precision"]]
    averages = report["config"]["sync"] == "average"
    equal = not groups and len(set(report["grid"]["shares"])) == 1
    for times in (2, 3) if equal and not averages else ():
        axes.axhline(times * Psi, color="black", linewidth=1.4, linestyle="--", zorder=0)
        axes.annotate(
            f"{times} Ψ",
            (1, times * Psi),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
        )
    axes.set_xticks(range(len(report["runs"])), [f"stage {run['stage']}" for run in report["runs"]])
    axes.margins(y=0.12)
    in_bytes(axes)
    axes.set_ylabel("bytes sent per rank and step")
    k = report["config"]["grad_accum"]
    title = "Traffic of a step" if k == 1 else f"Traffic of a step of {k} micro-steps"
    if averages:
        title = f"Traffic of a step after which parameters are averaged, one in {report['config']['sync_every']}"
    axes.set_title(f"{title}\n{subject(report)}")
    handles: list[Any] = [Patch(**look(verb), label=verb) for verb in VERBS]
    handles += [Patch(**look(group), label=f"{group} parallel") for group in groups]
    handles.append(Line2D([], [], color="black", linewidth=2.4, label="formula, (N - 1) / N" if equal else "formula"))
    if equal and not averages:
        name = "paper, large N\n(Ψ: the parameters' bytes)"
        handles.append(Line2D([], [], color="black", linewidth=1.4, linestyle="--", label=name))
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _busiest(traffic: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """What the rank that sends the most sends, by verb and by group of model-parallel ranks; and what it should."""
    step, groups = traffic["per_step"], traffic["model_parallel"]
    measured = [
        {**verbs, **{group: sum(book["measured"][rank].values()) for group, book in groups.items()}}
        for rank, verbs in enumerate(step["measured"])
    ]
    rank = max(range(len(measured)), key=lambda rank: sum(measured[rank].values()))
    totals = {group: sum(book["formula_per_rank"][rank].values()) for group, book in groups.items()}
    return measured[rank], {**step["formula_per_rank"][rank], **totals}
