"""How far apart ranks drift that average their parameters, and what the loss does meanwhile."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def sync(report: dict[str, Any]) -> "Figure | None":
    """Draw each averaging's drift over the steps, and the loss; None if gradients are averaged."""
    from zerosim.figures.style import headline, new_figure, subject

    run = report["runs"][0]
    if "sync" not in run:
        return None
    own, loss = run["sync"], run["loss"]
    figure, (above, below) = new_figure(2, 1, sharex=True)
    above.plot(own["after_steps"], own["drift"], "o-", color="#D55E00", markersize=7, label="all weights (norm)")
    single = {"color": "#0072B2", "markersize": 7, "label": "largest single weight"}
    above.plot(own["after_steps"], own["largest_drift"], "s--", **single)
    if min(own["largest_drift"]) > 0:
        above.set_yscale("log")
    last = own["after_steps"][-1] - (own["after_steps"][-2] if len(own["after_steps"]) > 1 else 0)
    if last < own["every"]:
        text = f"at the end,\nafter {last} step{'s' * (last > 1)} only"
        where = own["after_steps"][-1], own["drift"][-1]
        above.annotate(text, where, (-8, -2), textcoords="offset points", ha="right", va="top", fontsize="small")
    above.set_ylabel("distance from the mean\nbefore averaging")
    above.legend()
    below.plot(range(1, len(loss) + 1), [float("nan") if one is None else one for one in loss], color="black")
    below.set_ylabel("loss")
    below.set_xlabel("step")
    often = "each step" if own["every"] == 1 else f"every {own['every']} steps"
    headline(figure, f"Parameters averaged {often}; {subject(report)}")
    return figure
