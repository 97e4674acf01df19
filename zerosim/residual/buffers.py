"""C_B: a buffer that holds all gradients at once grows with the model; a bucket of constant size does not.

(ZeRO, arXiv:1910.02054, sections 3.2 and 6.2.) Measured is the peak of the class `buffers` in a real step, with one
bucket for each layer, which grows with the layer, and with buckets of constant size.
"""

from typing import Any

from zerosim import formulas
from zerosim.bench.shared import Tell, together
from zerosim.report import equation, si
from zerosim.residual.shared import Settings, new_table, record
from zerosim.transport import Transport
from zerosim.words import counted

STAGES = (2, 3)

PAPER = ((1_500_000_000, "3.2"), (3_000_000_000, "6.2"))
"""Parameters of the models whose fused buffer the paper speaks of, and where."""


def measure(transport: Transport, settings: Settings, tell: Tell) -> list[dict[str, Any]]:
    """Return a row per stage and width: bytes of buffers at their peak, measured on each rank, and by the formula."""
    rows = []
    for stage in STAGES:
        for width in settings.widths:
            tell(f"buffers: stage {stage}, width {width}")
            rows.append(_row(transport, settings, stage, width))
    return rows


def _row(transport: Transport, settings: Settings, stage: int, width: int) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": stage, "width": width}
    for name, bucket in (("per_layer", 0), ("constant", settings.bucket)):
        task, N = settings.task((width, width), bucket), transport.size
        measured = together(transport, record(transport, task, stage).highest("buffers"))
        formula = formulas.working_buffers(stage, task.widths, N, settings.rows, bucket)
        row[name] = {"measured": measured, "formula": formula}
    row["layers"] = list(task.widths)
    row["parameters"] = formulas.parameters(task.widths)
    row["fused_formula"] = formulas.fused_buffer(row["parameters"])
    return row


def show(rows: list[dict[str, Any]], settings: Settings) -> list[Any]:
    """Return the section as text and a table."""
    constant = formulas.constant_buffer(PAPER[0][0], settings.bucket)
    table = new_table(
        "\nstage",
        "\nwidth",
        "\nparameters",
        "^one bucket per layer\ncounted = formula",
        f"^{settings.bucket:,} elements\ncounted = formula",
        "all fused\nformula",
    )
    for row in rows:
        pairs = [_equation(row[name]) for name in ("per_layer", "constant")]
        fused = si(row["fused_formula"])
        table.add_row(str(row["stage"]), str(row["width"]), f"{row['parameters']:,}", *pairs, fused)
    equal = all(_most(row[name]) == row[name]["formula"] for row in rows for name in ("per_layer", "constant"))
    papers = ", ".join(f"{si(formulas.fused_buffer(Psi))} for {Psi / 1e9:g} B (section {at})" for Psi, at in PAPER)
    return [
        "Constant-size buffers (C_B): buffers at their peak in a step, on the rank with the most; two hidden layers of "
        f"each width, {counted(settings.rows, 'row')} per rank, fp32.",
        table,
        "Books: buffers counted equal the formula, to the byte."
        if equal
        else "Books: THEY DIFFER: what was counted is not what the formula says (marked ≠).",
        "Stage 2: a bucket per layer grows with the layer; one of constant size does not (of all else only the mask of "
        "a layer's inputs grows, with its width). Stage 3 gathers a whole layer into a buffer, whatever the bucket is: "
        "there a constant bucket bounds the gradient's part, and the peak still grows with the layer.",
        f"By formula, the paper's fused fp32 buffer of all gradients: {papers}; one of {settings.bucket:,} elements "
        f"takes {si(constant)} for either.",
    ]


def _most(pair: dict[str, Any]) -> int:
    return max(pair["measured"])


def _equation(pair: dict[str, Any]) -> str:
    return equation(_most(pair), pair["formula"], _most(pair) == pair["formula"])
