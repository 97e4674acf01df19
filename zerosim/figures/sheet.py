"""The style sheet: every figure is a slide of 16:9, its smallest words readable from the last row, whoever draws it."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

SLIDE = (40 / 3, 7.5)
"""Inches, width and height: a slide of 16:9 as presentation programs have it, so a point here is a point there."""

STYLE: Any = {
    "font.size": 17,
    "axes.titlesize": 19,
    "figure.titlesize": 19,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2.8,
    "lines.markersize": 9,
    "hatch.linewidth": 1.2,
    "svg.fonttype": "none",  # words stay words, to be found and changed
    "svg.hashsalt": "zerosim",
}
"""matplotlib's settings for all figures. "small" words have 14 points, no figure has smaller ones."""


P = ParamSpec("P")
R = TypeVar("R")


def slide(draw: Callable[P, R]) -> Callable[P, R]:
    """Have a function draw by the style sheet."""

    @wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn
