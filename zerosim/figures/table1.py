"""ZeRO's table 1 as a table: what the formula gives in each cell, the printed number, and which cells fit a device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zerosim import formulas
from zerosim.figures.sheet import slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STAGES = {1: "$P_{os}$", 2: "$P_{os+g}$", 3: "$P_{os+g+p}$"}


@slide
def table1(rows: Sequence[dict[str, Any]], memory: float) -> "Figure":
    """Draw gigabytes per device by N, model and stage. `rows` are published numbers, `zerosim.published.shipped`."""
    from matplotlib.patches import Rectangle

    from zerosim.figures.style import COMPLETE, headline, new_figure, source

    printed = {
        (row["inputs"]["Psi"], row["inputs"]["N"], row["inputs"]["stage"]): row["published"]
        for row in rows
        if str(row["id"]).startswith("zero.t1.")
    }
    models, ranks = (sorted({key[i] for key in printed}) for i in (0, 1))
    columns = [(Psi, stage) for Psi in models for stage in _STAGES]
    figure, axes = new_figure()
    for y, N in enumerate(ranks):
        for x, (Psi, stage) in enumerate(columns):
            held = formulas.states_per_rank(stage, Psi, N, K=12)
            fits = {"facecolor": COMPLETE, "alpha": 0.3} if held <= memory else {"facecolor": "white"}
            axes.add_patch(Rectangle((x, y), 1, 1, edgecolor="#BBBBBB", **fits))
            said = printed.get((Psi, N, stage))
            axes.text(x + 0.5, y + 0.36, _gigabytes(held), ha="center", va="center", weight="bold")
            text = "" if said is None else f"{said:g}"
            axes.text(x + 0.5, y + 0.75, text, ha="center", va="center", fontsize="small", color="#444444")
    for at in range(0, len(columns) + 1, len(_STAGES)):
        axes.axvline(at, color="black", linewidth=2)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(ranks), 0)
    axes.set_yticks([y + 0.5 for y in range(len(ranks))], [f"N = {N:g}" for N in ranks])
    axes.xaxis.tick_top()
    names = [f"{_size(Psi)}\n{_STAGES[stage]}" if stage == 2 else _STAGES[stage] for Psi, stage in columns]
    axes.set_xticks([x + 0.5 for x in range(len(columns))], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    headline(
        figure,
        "Model states per device in GB: what fits depends on the stage and on the number of ranks\n"
        f"Green: fits in {memory / 1e9:g} GB",
    )
    source(
        figure,
        "Bold: the formulas, 2 + 2 + 12 bytes per parameter. Below: as printed in Rajbhandari et al.: ZeRO, "
        "arXiv:1910.02054, table 1, where the file of published numbers has the cell.",
    )
    return figure


def _gigabytes(nbytes: float) -> str:
    """Four digits, or all before the point."""
    value = nbytes / 1e9
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _size(Psi: float) -> str:
    return f"{Psi / 1e12:g} T" if Psi >= 1e12 else f"{Psi / 1e9:g} B"
