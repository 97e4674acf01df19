"""An animation: slices travel between ranks that sit in a circle, and fill up."""

from math import cos, pi, sin
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zerosim.collectives import NOBODY
from zerosim.collectives.check import Trace
from zerosim.figures.sheet import slide
from zerosim.words import counted

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_RANKS, MOST_EXCHANGES = 12, 40
"""More than this is refused: nobody could follow it."""

_WIDE = 1.7
"""Ranks sit on an ellipse, so many times as wide as it is high."""

STEPS, PAUSE, FRAME = 8, 3, 83
"""Frames that a slice is on its way, and that one rests between exchanges; milliseconds of a frame."""


@slide
def travel(trace: Trace, name: str, path: str | Path) -> None:
    """Write an animated GIF of a collective. Raises ValueError for more ranks or exchanges than one can follow."""
    if trace.N > MOST_RANKS or len(trace.rounds) > MOST_EXCHANGES:
        raise ValueError(
            f"{trace.N} ranks with {len(trace.rounds)} exchanges are too many for an animation; "
            f"up to {MOST_RANKS} and {MOST_EXCHANGES} can be followed"
        )
    stage = _Stage(trace, name)
    pictures, milliseconds = [], []
    for s in range(len(trace.held)):
        last = s >= len(trace.rounds)
        for frame in range(1 if last else STEPS):
            stage.show(s, frame / STEPS)
            pictures.append(stage.picture())
            milliseconds.append(FRAME * (1 if frame else 4 * PAUSE if last else PAUSE))
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)


class _Stage:
    """The picture: drawn once; from frame to frame only cells move and fill."""

    def __init__(self, trace: Trace, name: str) -> None:
        from matplotlib.collections import PolyCollection

        from zerosim.figures.style import new_figure, slice_colours

        N = trace.N
        self._trace, self._name = trace, name
        self._places = [(_WIDE * sin(2 * pi * r / N), cos(2 * pi * r / N)) for r in range(N)]
        self._cell = min(0.2, 1.5 * sin(pi / max(N, 2)) / N / 1.08)
        self._colours = slice_colours(N)
        self.figure, self._axes = new_figure()
        self.figure.set_layout_engine("none")
        self.figure.set_dpi(72)
        axes = self._axes
        axes.set_position((0.02, 0.02, 0.96, 0.84))
        axes.set_axis_off()
        axes.set_ylim(-1.3, 1.4)
        axes.set_aspect("equal")
        axes.set_xlim(-2.74, 2.74)
        for rank, (x, y) in enumerate(self._places):
            axes.text(
                x,
                y + self._cell * 0.75,
                f"rank {rank}",
                ha="center",
                va="bottom",
                fontsize="medium" if N <= 8 else "small",
            )
        corners = [self._corner(r, number) for r in range(N) for number in range(N)]
        frames = [_box(*corner, self._cell, 1.0) for corner in corners]
        axes.add_collection(PolyCollection(frames, facecolor="white", edgecolor="black", linewidth=0.4))
        self._fill = axes.add_collection(PolyCollection(frames, facecolor=self._colours * N))
        self._moving = axes.add_collection(PolyCollection([], facecolor="white", edgecolor="black", zorder=3))
        self._moving_fill = axes.add_collection(PolyCollection([], zorder=4))

    def show(self, s: int, way: float) -> None:
        """Show exchange s, with what is sent `way` of the way (0 to 1)."""
        trace, N = self._trace, self._trace.N
        self._fill.set_verts(
            [
                _box(*self._corner(rank, number), self._cell, trace.held[s][rank][number].bit_count() / N)
                for rank in range(N)
                for number in range(N)
            ]
        )
        boxes, fills, colours = [], [], []
        for rank, exchange in enumerate(trace.rounds[s] if s < len(trace.rounds) and way else []):
            for number in exchange.send.numbers(N) if exchange.to != NOBODY else ():
                (x0, y0), (x1, y1) = self._corner(rank, number), self._corner(exchange.to, number)
                bow = 0.08 * sin(pi * way)  # aside, so that swaps do not lie on one another
                x, y = x0 + (x1 - x0) * way + bow * (y1 - y0), y0 + (y1 - y0) * way - bow * (x1 - x0)
                boxes.append(_box(x, y, self._cell, 1.0))
                fills.append(_box(x, y, self._cell, trace.held[s][rank][number].bit_count() / N))
                colours.append(self._colours[number])
        self._moving.set_verts(boxes)
        self._moving_fill.set_verts(fills)
        self._moving_fill.set_facecolor(colours)
        where = f"exchange {s}" if s < len(trace.rounds) else f"done after {counted(len(trace.rounds), 'exchange')}"
        self._axes.set_title(
            f"{trace.verb} by {self._name}, {counted(N, 'rank')}, {where}\n"
            "a colour per slice, as full as ranks are added in it",
        )

    def picture(self) -> "Image":
        """Return what is shown now."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL.Image import fromarray

        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    def _corner(self, rank: int, number: int) -> tuple[float, float]:
        x, y = self._places[rank]
        return x + (number - self._trace.N / 2) * self._cell * 1.08, y - self._cell / 2


def _box(x: float, y: float, cell: float, level: float) -> list[tuple[float, float]]:
    return [(x, y), (x + cell, y), (x + cell, y + cell * level), (x, y + cell * level)]
