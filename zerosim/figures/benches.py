"""What the benchmarks measured: a step's parts beside its floor's, PyTorch beside each stage, cost by ranks."""

from typing import TYPE_CHECKING, Any

from zerosim.figures.sheet import slide
from zerosim.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARTS = {
    "compute": ("products", "compute", "compute"),
    "update": ("optimizer", "update", "update"),
    "communicate": ("copy", "exposed", "messages"),
    "waiting": (None, "waiting", "waiting"),
}
"""By part of a step: the part of the floor that it cannot go below, what it looks like, the name."""


@slide
def step(result: dict[str, Any]) -> "Figure":
    """Draw what `bench step` reports: for each stage the step's parts stacked, and the floor's in pale beside them."""
    from zerosim.figures.style import look, new_figure, source

    figure, axes = new_figure()
    rows = result["stages"]
    for place, row in enumerate(rows):
        height = below = 0.0
        for part, (least, like, name) in _PARTS.items():
            value = 1e3 * row["split"][part]
            axes.bar(place - 0.22, value, 0.42, height, **look(like, label=None if place else name))
            height += value
            if least:
                value = 1e3 * row["floor"][least]["median"]
                axes.bar(place + 0.22, value, 0.42, below, **look(like, alpha=0.45))
                below += value
        axes.annotate(f"{row['ratio_to_floor']:.2f} x floor", (place - 0.22, height), ha="center", va="bottom")
        axes.annotate("floor", (place + 0.22, below), ha="center", va="bottom", color="#555555")
    axes.set_xticks(range(len(rows)), [f"stage {row['stage']}" for row in rows])
    axes.set_ylabel("ms per step")
    highest = max(max(sum(row["split"].values()), row["floor"]["seconds"]) for row in rows)
    axes.set_ylim(0, 1.12e3 * highest)
    axes.set_title("A step's parts, as measured; beside them (pale) its floor's")
    figure.legend(loc="outside right upper")
    source(
        figure,
        f"{_subject(result)}, {counted(result['task']['rows_per_rank'], 'row')} per rank, medians. Floor, which a step "
        "can hardly go below: the bare products, one pass over the bytes of the optimizer, a memory copy of the bytes "
        "sent.",
    )
    return figure


@slide
def peers(result: dict[str, Any]) -> "Figure":
    """Draw what `bench torch` reports: time per step and peak memory of each stage and of its peer."""
    from zerosim.figures.style import in_bytes, look, new_figure, source

    figure, (left, right) = new_figure(1, 2)
    rows = result["stages"]
    for axes, measure, scale in ((left, "seconds", 1e3), (right, "peak_resident", 1)):
        for side, shift, name in (("ours", -0.2, "zerosim"), ("theirs", 0.2, "PyTorch")):
            values = [row[side][measure] for row in rows]
            heights = [scale * (value["median"] if isinstance(value, dict) else value) for value in values]
            axes.bar([place + shift for place in range(len(rows))], heights, 0.38, **look(name, label=name))
            if measure == "seconds" and side == "ours":
                for place, (height, row) in enumerate(zip(heights, rows, strict=True)):
                    axes.annotate(f"{row['ratio']:.2f} x", (place, height), ha="right", va="bottom", fontsize="small")
        names = [f"stage {row['stage']}\n{_narrow(row['peer'])}" for row in rows]
        axes.set_xticks(range(len(rows)), names, fontsize="small")
        axes.margins(y=0.12)
    left.set_ylabel("ms per step")
    right.set_ylabel("peak resident memory per rank")
    in_bytes(right)
    left.set_title("Time of a step, and its share of PyTorch's", fontsize="medium")
    right.set_title("Peak above what the process held before", fontsize="medium")
    source(
        figure,
        f"{_subject(result)}, {counted(result['task']['rows_per_rank'], 'row')} per rank; "
        f"PyTorch {result['torch'].partition('+')[0]} over gloo, zerosim over {result['wire']}",
    )
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


@slide
def scale(result: dict[str, Any]) -> "Figure":
    """Draw what `bench scale` reports: per rank, bytes at rest, bytes sent and time of a step by number of ranks.

    The marks are counted, the lines are the formulas'.
    """
    from zerosim.figures.style import STAGES, in_bytes, new_figure, pen, source

    figure, axes = new_figure(1, 3)
    ranks = [row["ranks"] for row in result["ranks"]]
    for at, first in enumerate(result["ranks"][0]["runs"]):
        stage = first["stage"]
        runs = [row["runs"][at] for row in result["ranks"]]
        mark = {"color": STAGES[stage], "marker": "osD^"[stage], "markeredgecolor": "black", "markersize": 10}
        for panel, what in zip(axes, ("at_rest", "sent"), strict=False):
            panel.plot(ranks, [run[f"{what}_formula"] for run in runs], **pen(stage))
            panel.plot(ranks, [run[what] for run in runs], linestyle="none", **mark)
        times = [1e3 * run["seconds_per_step"] for run in runs]
        axes[2].plot(ranks, times, **pen(stage))
        axes[2].plot(ranks, times, linestyle="none", label=f"stage {stage}", **mark)
    titles = ("bytes at rest per rank", "bytes sent per rank\nand step", "time of a step, ms")
    for panel, title in zip(axes, titles, strict=True):
        if panel is not axes[2]:
            in_bytes(panel)
        panel.set_ylim(bottom=0)
        panel.set_xscale("log", base=2)
        panel.set_xticks(ranks, [str(N) for N in ranks])
        panel.minorticks_off()
        panel.set_xlabel("ranks")
        panel.set_title(title, fontsize="medium")
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    source(
        figure,
        f"{result['task']['parameters']:,} parameters, {result['task']['optimizer']}, {result['task']['precision']}, "
        f"{counted(result['task']['rows_per_rank'], 'row')} per rank, all ranks on one machine ({result['backend']}). "
        "Bytes: marks are counted, lines the formulas'.",
    )
    return figure


@slide
def checkpoints(result: dict[str, Any]) -> "Figure":
    """Draw what `bench checkpoint` reports, by the model's size: bytes per rank, and the time to write and to read.

    Bytes: the marks are counted, the lines are the formula's. Times: each beside that of plain files.
    """
    from zerosim.figures.style import CLASSES, new_figure, source

    figure, axes = new_figure(1, 3)
    sizes = [size["parameters"] for size in result["sizes"]]
    colours = ["#000000", *CLASSES.values()]
    for at, first in enumerate(result["sizes"][0]["ranks"]):
        rows, N = [size["ranks"][at] for size in result["sizes"]], first["ranks"]
        style = {"color": colours[at % len(colours)], "marker": "osD^v"[at % 5]}
        name = counted(N, "rank")
        formula = [max(row["tensors"]["formula_per_rank"]) for row in rows]
        axes[0].plot(sizes, formula, color=style["color"])
        axes[0].plot(sizes, [max(row["tensors"]["measured"]) for row in rows], linestyle="none", label=name, **style)
        for panel, what in zip(axes[1:], ("write", "read"), strict=True):
            panel.plot(sizes, [row[what]["seconds"]["median"] for row in rows], **style)
            floor = [row[what]["plain"]["median"] for row in rows]
            panel.plot(sizes, floor, color=style["color"], linestyle=":")
    axes[1].plot([], [], color="#555555", linestyle=":", label="plain files")
    titles = ("tensors written,\nfullest rank", "time to write", "time to read\nand verify")
    for panel, title, unit in zip(axes, titles, ("B", "s", "s"), strict=True):
        _logarithmic(panel, unit, sizes)
        panel.set_title(title, fontsize="medium")
    kinds = [axes[i].get_legend_handles_labels() for i in (0, 1)]
    figure.legend(*(one + other for one, other in zip(*kinds, strict=True)), loc="outside upper right", ncols=6)
    source(
        figure,
        f"{result['optimizer']}, {result['precision']}, stage {result['stage']}, all ranks on one machine "
        f"({result['backend']}). Bytes: marks are counted, lines the formula's. Dotted: each rank writes and syncs, or "
        "reads, one plain file.",
    )
    return figure


def _logarithmic(panel: Any, unit: str, sizes: list[int]) -> None:
    """Logarithmic both ways: parameters, and bytes or seconds."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(sizes, [f"{size / 1e6:.2g} M" if size >= 1e6 else f"{size / 1e3:.3g} k" for size in sizes])
    panel.xaxis.set_minor_formatter(NullFormatter())
    low, high = panel.get_ylim()
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(EngFormatter(unit))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("parameters")
    panel.grid(which="major", color="#E4E4E4", linewidth=0.8)
    panel.set_axisbelow(True)


def _narrow(peer: str) -> str:
    """A peer's name in lines short enough to stand beside the next one's."""
    for before, after in (
        (" + ", "\n+ "),
        (" SHARD", "\nSHARD"),
        ("Redundancy", "\nRedundancy\n"),
        ("D_GRAD", "D_\nGRAD"),
        (" FULL", "\nFULL"),
    ):
        peer = peer.replace(before, after)
    return peer


def _subject(result: dict[str, Any]) -> str:
    task = result["task"]
    ranks = counted(result["ranks"], "rank")
    return f"{task['parameters']:,} parameters on {ranks}, {task['optimizer']}, {task['precision']}"
