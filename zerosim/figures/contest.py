"""Explicit collectives beside the MPI library's own, as measured: the ratio of times, and the bandwidth."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.report import binary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@slide
def contest(result: dict[str, Any]) -> "Figure":
    """Draw what `collectives bench` reports: time / native's time (below 1 is faster), and busbw, by size."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    from zerosim.figures.style import headline, lines, new_figure

    figure, (left, right) = new_figure(1, 2)
    rows = result["sizes"]
    sizes = [row["bytes"] for row in rows]
    names = list(rows[0]["collectives"])
    for name, like in lines(names).items():
        cells = [row["collectives"][name] for row in rows]
        marks = {**like, "linewidth": 2, "label": name}
        left.plot(sizes, [cell["ratio_to_native"] for cell in cells], **marks)
        right.plot(sizes, [cell["busbw"] for cell in cells], **marks)
    copy = [row["collectives"][names[0]]["busbw"] * row["collectives"][names[0]]["seconds"]["median"] for row in rows]
    bound = [moved / row["copy"]["median"] for moved, row in zip(copy, rows, strict=True)]
    right.plot(sizes, bound, color="#636363", linewidth=2.4, linestyle=":", label="memory copy")
    left.set_yscale("log", base=2)
    low, high = left.get_ylim()
    left.set_yticks([tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20) if low <= tick <= high])
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    right.set_yscale("log")
    right.yaxis.set_major_formatter(EngFormatter("B/s"))
    left.set_ylabel("time / native's time, median of pairs")
    right.set_ylabel("bus bandwidth as nccl-tests defines it")
    for axes in (left, right):
        axes.set_xscale("log", base=4)
        axes.xaxis.set_major_formatter(lambda value, _: binary(value))
        axes.set_xlabel("bytes of the whole vector")
    left.set_title("Time as a share of the MPI library's own")
    right.set_title("Bus bandwidth")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    headline(figure, f"{result['verb']}, {result['precision']}, on {result['ranks']} MPI ranks, measured")
    return figure
