"""The largest model that fits a device's memory, by number of ranks, beside models that there are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from zerosim import formulas
from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def room(models: Sequence[tuple[str, int]], memory: float, device: str) -> "Figure":
    """Draw a curve per stage, `zerosim.formulas.largest_model`, and a line for each (name, parameters) of `models`."""
    from zerosim.figures.published import curve
    from zerosim.figures.style import new_figure, source

    figure, axes = new_figure()
    N = np.geomspace(1, 1024, 201)
    for name, parameters in models:
        axes.axhline(parameters, color="#8C8C8C", linewidth=1.4, linestyle="--", zorder=0)
        text = f"{name}, {_size(parameters)}"
        axes.annotate(text, (1024, parameters), (-6, 5), textcoords="offset points", ha="right", fontsize="small")
    for stage in range(4):
        bound = np.broadcast_to(formulas.largest_model(stage, memory, N), N.shape)
        curve(axes, N, bound, stage, f"stage {stage}: {_size(bound[-1])}")
    axes.set_xscale("log", base=2)
    axes.set_xticks([4**i for i in range(6)], [str(4**i) for i in range(6)])
    axes.set_xlim(1, 1024)
    axes.set_yscale("log")
    axes.set_yticks([10.0**i for i in range(9, 13)], ["1 B", "10 B", "100 B", "1 T"])
    axes.set_ylim(bottom=0.8e9)
    axes.minorticks_off()
    axes.set_xlabel("data-parallel ranks N")
    axes.set_ylabel("parameters")
    axes.set_title("Only stage 3 lets the largest model grow with the number of ranks")
    source(
        figure,
        f"Curves: model states of 2 + 2 + 12 bytes per parameter alone fill {memory / 1e9:g} GB per device ({device}); "
        "activations and buffers come on top. Dashed: models by their parameters.",
    )
    return figure


def _size(parameters: float) -> str:
    return f"{parameters / 1e12:.3g} T" if parameters >= 1e12 else f"{parameters / 1e9:.3g} B"
