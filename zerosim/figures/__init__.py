"""Pictures of a report (`zerosim.build_report`, or a report.json that was loaded): measured, and the formula's marks.

Each function returns a matplotlib Figure; in a notebook the last line of a cell shows it (after %matplotlib inline).
`memory`, `traffic`, `loss` and `timeline` draw a training, `pruning` one that prunes; `exchanges`, `crossover`
and `contest` collectives, and `travel` animates one; `step`, `peers` and `scale` benchmarks; `plan` a plan;
`figure1`, `states`, `largest`, `volume` and `efficiency` what the papers print.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosim.figures.benches import peers, scale, step
from zerosim.figures.contest import contest
from zerosim.figures.crossover import crossover
from zerosim.figures.exchanges import exchanges
from zerosim.figures.loss import loss
from zerosim.figures.memory import memory
from zerosim.figures.plan import plan
from zerosim.figures.pruning import pruning
from zerosim.figures.published import efficiency, figure1, largest, states, volume
from zerosim.figures.timeline import timeline
from zerosim.figures.traffic import traffic
from zerosim.figures.travel import travel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = {"memory": memory, "traffic": traffic, "loss": loss, "timeline": timeline}

__all__ = [
    "FIGURES",
    "contest",
    "crossover",
    "efficiency",
    "exchanges",
    "figure1",
    "largest",
    "loss",
    "memory",
    "peers",
    "plan",
    "pruning",
    "save",
    "scale",
    "states",
    "step",
    "timeline",
    "traffic",
    "travel",
    "volume",
    "write",
]


def write(report: dict[str, Any], folder: str | Path) -> list[str]:
    """Draw all figures of a report into a folder, as PNG and SVG, and return their names."""
    figures = {**FIGURES, "pruning": pruning} if report["runs"][-1]["pruning"] else FIGURES
    for name, draw in figures.items():
        save(draw(report), folder, name)
    return list(figures)


def save(figure: "Figure", folder: str | Path, name: str) -> None:
    """Write a figure into a folder as NAME.png and NAME.svg; the same figure gives the same bytes."""
    import matplotlib

    if engine := figure.get_layout_engine():  # once: each file would lay out and draw the figure a second time
        engine.execute(figure)
        figure.set_layout_engine(None)
    with matplotlib.rc_context({"svg.hashsalt": "zerosim"}):
        figure.savefig(Path(folder) / f"{name}.png", dpi=150)
        figure.savefig(Path(folder) / f"{name}.svg", metadata={"Date": None})
