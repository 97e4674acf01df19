"""Traffic against micro-steps: marks counted, lines the formulas of `zerosim.formulas.volume`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zerosim import formulas
from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def accumulation(points: Sequence[dict[str, Any]]) -> "Figure":
    """Draw what each rank sends in one step, in units of the parameters' bytes, by the number of micro-steps.

    `points` are what `zerosim.anchor.count` returns, on one number of ranks, for several `grad_accum`.
    """
    from matplotlib.ticker import MultipleLocator

    from zerosim.figures.published import curve
    from zerosim.figures.style import STAGES, new_figure, source

    figure, axes = new_figure()
    N, steps = points[0]["ranks"], sorted({point["grad_accum"] for point in points})
    texts = {0: "stages 0 and 1: 2", 1: "", 2: "stage 2: k + 1", 3: "stage 3: 3 k"}
    for stage in range(4):
        share = [formulas.volume_in_all(stage, 1, k) * (N - 1) / N for k in steps]
        curve(axes, steps, share, stage, texts[stage], 7 if stage == 0 else 2.8)
        own = {point["grad_accum"]: point for point in points if point["stage"] == stage}
        sent = [_sent(own[k]) for k in steps]
        axes.plot(steps, sent, "osD^"[stage], color=STAGES[stage], markeredgecolor="black", markersize=11, zorder=4)
    axes.plot([], [], "o", color="white", markeredgecolor="black", markersize=11, label=f"counted on {N} ranks")
    axes.plot([], [], color="#555555", label="formula, (N - 1)/N of what is written beside it")
    axes.set_xticks(steps)
    axes.yaxis.set_major_locator(MultipleLocator(3))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("micro-steps k in a step")
    axes.set_ylabel("sent per rank and step, in Ψ")
    axes.set_title("Accumulation makes a step of stages 2 and 3 send more, of stages 0 and 1 not")
    axes.legend(loc="upper left")
    first = points[0]
    source(
        figure,
        f"An MLP of {first['parameters']:,} parameters, {first['optimizer']}, {first['precision']}, ring; Ψ is the "
        "bytes of its parameters.",
    )
    return figure


def _sent(point: dict[str, Any]) -> float:
    """What the busiest rank sends, in units of all parameters once."""
    return (
        max(sum(own.values()) for own in point["sent"])
        / formulas.WIDTH[point["precision"]]
        / point["padded_parameters"]
    )
