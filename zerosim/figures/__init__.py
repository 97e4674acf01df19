"""Pictures of a report (`zerosim.build_report`, or a report.json that was loaded): measured, and the formula's marks.

Each function returns a matplotlib Figure; in a notebook the last line of a cell shows it (after %matplotlib inline).
`memory`, `traffic`, `loss`, `timeline`, `sync`, `pruning` and `waiting` draw a training; `exchanges`, `crossover` and
`contest` collectives, and `travel` animates one; `step`, `peers`, `scale` and `checkpoints` benchmarks; `plan` a plan;
`schedule` a step on two streams; `arena` and `buffers` residual states; `ownership`, `halves`, `accumulation`,
`precision` and `room` what lectures need besides; `figure1`, `table1`, `states`, `largest`, `volume` and `efficiency`
what the papers print.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosim.figures.arena import arena
from zerosim.figures.benches import checkpoints, peers, scale, step
from zerosim.figures.buffers import buffers
from zerosim.figures.contest import contest
from zerosim.figures.crossover import crossover
from zerosim.figures.exchanges import exchanges
from zerosim.figures.halves import halves
from zerosim.figures.loss import loss
from zerosim.figures.memory import memory
from zerosim.figures.micro import accumulation
from zerosim.figures.ownership import ownership
from zerosim.figures.plan import plan
from zerosim.figures.precision import precision
from zerosim.figures.pruning import pruning
from zerosim.figures.published import efficiency, figure1, largest, states, volume
from zerosim.figures.room import room
from zerosim.figures.schedule import schedule
from zerosim.figures.sheet import STYLE
from zerosim.figures.sync import sync
from zerosim.figures.table1 import table1
from zerosim.figures.timeline import timeline
from zerosim.figures.traffic import traffic
from zerosim.figures.travel import travel
from zerosim.figures.waiting import waiting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[[dict[str, Any]], "Figure | None"]] = {
    "memory": memory,
    "traffic": traffic,
    "loss": loss,
    "timeline": timeline,
    "sync": sync,
    "pruning": pruning,
    "waiting": waiting,
}
"""Of a training; one that has nothing to say of a report draws none."""

__all__ = [
    "FIGURES",
    "accumulation",
    "arena",
    "buffers",
    "checkpoints",
    "contest",
    "crossover",
    "efficiency",
    "exchanges",
    "figure1",
    "halves",
    "largest",
    "loss",
    "memory",
    "ownership",
    "peers",
    "plan",
    "precision",
    "pruning",
    "room",
    "save",
    "scale",
    "schedule",
    "states",
    "step",
    "sync",
    "table1",
    "timeline",
    "traffic",
    "travel",
    "volume",
    "waiting",
    "write",
]


def write(report: dict[str, Any], folder: str | Path) -> list[str]:
    """Draw all figures of a report into a folder, as PNG and SVG, and return their names."""
    written = []
    for name, draw in FIGURES.items():
        if figure := draw(report):
            save(figure, folder, name)
            written.append(name)
    return written


def save(figure: "Figure", folder: str | Path, name: str, dpi: int = 100) -> None:
    """Write a figure into a folder as NAME.png and NAME.svg; the same figure gives the same bytes."""
    import matplotlib
    from PIL import Image

    if engine := figure.get_layout_engine():  # once: each file would lay out and draw the figure a second time
        engine.execute(figure)
        figure.set_layout_engine(None)
    with matplotlib.rc_context(STYLE):
        figure.savefig(pixels := BytesIO(), format="rgba", dpi=dpi)
        width, height = (int(inches * dpi) for inches in figure.get_size_inches())
        figure.savefig(Path(folder) / f"{name}.svg", metadata={"Date": None})
    image = Image.frombytes("RGBA", (width, height), pixels.getvalue()).convert("RGB")
    few = image.quantize(256, dither=Image.Dither.NONE)  # 256 colours are enough, and take half the bytes
    few.save(Path(folder) / f"{name}.png", optimize=True, dpi=(dpi, dpi))
