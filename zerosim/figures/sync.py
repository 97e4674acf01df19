"""How far apart ranks drift that average their parameters, and what the loss does meanwhile."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sync(report: dict[str, Any]) -> "Figure | None":
    """Draw each averaging's drift over the steps, and the loss; None if gradients are averaged."""
    from zerosim.figures.style import new_figure, plain, subject

    run = report["runs"][0]
    if "sync" not in run:
        return None
    own, loss = run["sync"], run["loss"]
    figure, (above, below) = new_figure(2, 1, size=(9, 6), sharex=True)
    above.plot(own["after_steps"], own["drift"], "o-", color="#D55E00", markersize=4, label="all weights (norm)")
    single = {"color": "#0072B2", "markersize": 4, "label": "largest single weight"}
    above.plot(own["after_steps"], own["largest_drift"], "s--", **single)
    if min(own["largest_drift"]) > 0:
        above.set_yscale("log")
    last = own["after_steps"][-1] - (own["after_steps"][-2] if len(own["after_steps"]) > 1 else 0)
    if last < own["every"]:
        text = f"at the end,\nafter {last} step{'s' * (last > 1)} only"
        where = own["after_steps"][-1], own["drift"][-1]
        above.annotate(text, where, (-8, -2), textcoords="offset points", ha="right", va="top", fontsize=9)
    above.set_ylabel("distance from the mean\nbefore averaging")
    above.legend(frameon=False)
    below.plot(range(1, len(loss) + 1), [float("nan") if one is None else one for one in loss], color="black")
    below.set_ylabel("loss")
    below.set_xlabel("step")
    for axes in (above, below):
        plain(axes)
    figure.suptitle(
        f"Parameters averaged every {own['every']} steps; {subject(report)}", x=0.01, ha="left", fontsize=11
    )
    return figure
