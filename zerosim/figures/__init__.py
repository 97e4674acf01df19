"""Pictures of a report (`zerosim.build_report`, or a report.json that was loaded): measured, and the formula's marks.

Each function returns a matplotlib Figure; in a notebook the last line of a cell shows it (after %matplotlib inline).
"""

from pathlib import Path
from typing import Any

from zerosim.figures.loss import loss
from zerosim.figures.memory import memory
from zerosim.figures.timeline import timeline
from zerosim.figures.traffic import traffic

FIGURES = {"memory": memory, "traffic": traffic, "loss": loss, "timeline": timeline}

__all__ = ["FIGURES", "loss", "memory", "timeline", "traffic", "write"]


def write(report: dict[str, Any], folder: str | Path) -> list[str]:
    """Draw all figures of a report into a folder, as PNG and SVG, and return their names."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "zerosim"}):
        for name, draw in FIGURES.items():
            figure = draw(report)
            figure.savefig(Path(folder) / f"{name}.png", dpi=150)
            figure.set_layout_engine("none")  # keep the layout that the PNG was given
            figure.savefig(Path(folder) / f"{name}.svg", metadata={"Date": None})
    return list(FIGURES)
