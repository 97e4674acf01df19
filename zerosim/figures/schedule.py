"""A step on two streams, computing and sending: two rows for each stage, and what of sending is exposed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.report import text_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def schedule(steps: Mapping[int, Sequence[Any]], subject: str) -> "Figure":
    """Draw by stage the spans of `zerosim.overlap.schedule`; `subject` says of what and where."""
    from matplotlib.patches import Patch

    from zerosim.figures.style import headline, look, new_figure

    figure, axes = new_figure()
    whole = max(span.end for spans in steps.values() for span in spans)
    ticks: dict[int, str] = {}
    for at, (stage, spans) in enumerate(steps.items()):
        rows = {"compute": 3 * at, "network": 3 * at + 1}
        ticks |= {row: f"stage {stage}: compute" if stream == "compute" else "send" for stream, row in rows.items()}
        for span in spans:
            like = look(span.what, linewidth=0.8)
            axes.barh(rows[span.stream], 1e3 * (span.end - span.start), 0.9, 1e3 * span.start, **like)
        end = max(span.end for span in spans)
        computed, sent = (sum(s.end - s.start for s in spans if s.stream == stream) for stream in rows)
        text = f"{text_seconds(end)}; {text_seconds(sent)} of sending,\n{text_seconds(end - computed)} exposed"
        place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "fontsize": "small"}
        axes.annotate(text, (1e3 * end, 3 * at + 0.5), **place)
        axes.plot([1e3 * end] * 2, [3 * at - 0.6, 3 * at + 1.6], color="black")
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.44e3 * whole)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.05e3 * whole])
    axes.spines["bottom"].set_bounds(0, 1e3 * whole)
    axes.set_xlabel("milliseconds into the step, modelled")
    drawn = {span.what for spans in steps.values() for span in spans}
    order = ("forward", "backward", "update", "all_reduce", "reduce_scatter", "all_gather")
    handles = [Patch(**look(what), label=what) for what in order if what in drawn]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize="small")
    headline(figure, f"A step overlaps sending with computing as far as its order allows\n{subject}")
    return figure
