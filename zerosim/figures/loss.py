"""The loss of every step, a curve per stage: where stages agree to the bit, one curve lies on the other."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def loss(report: dict[str, Any]) -> "Figure":
    """Draw the training loss by step, thick to thin so that equal curves all show, and the held-out loss by epoch."""
    from zerosim.figures.style import new_figure, pen, subject

    figure, axes = new_figure()
    hashes = [run["weights_sha256"] for run in report["runs"]]
    for at, run in enumerate(report["runs"]):
        steps = range(1, len(run["loss"]) + 1)
        values = [float("nan") if value is None else value for value in run["loss"]]
        same = [str(r["stage"]) for r in report["runs"][:at] if r["weights_sha256"] == hashes[at]]
        name = f"stage {run['stage']}" + (f" (= {', '.join(same)}, to the bit)" if same else "")
        width = 1.6 + 3.4 * (len(hashes) - 1 - at)
        axes.plot(
            steps,
            values,
            label=name,
            marker="." if len(values) == 1 else "",
            **pen(run["stage"], width),
        )
    last = report["runs"][-1]
    ends, held_out, step = [], [], 0
    for epoch in last["epochs"]:
        step += epoch["steps"]
        if epoch["test_loss"] is not None:
            ends.append(step)
            held_out.append(epoch["test_loss"])
    if ends:
        axes.plot(
            ends, held_out, "o", color="black", markerfacecolor="white", label=f"held-out rows, stage {last['stage']}"
        )
    if all(value is None or value > 0 for run in report["runs"] for value in run["loss"]):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(f"Training loss, {report['data']['name']}\n{subject(report)}")
    axes.legend()
    return figure
