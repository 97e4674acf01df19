"""Checkpointing, P_a and P_a+cpu: what waits for backward is computed again, shared out, or moved to the host.

(ZeRO, arXiv:1910.02054, sections 3.2 and 6.1; Chen et al. 2016, arXiv:1604.06174.) Real steps of the same model, its
layers cut over as many of the ranks as can be (tensor parallelism), for only then do ranks hold activations alike.
"""

import dataclasses
from typing import Any

from zerosim.bench.shared import Tell
from zerosim.report import build_report, equation, si
from zerosim.residual.shared import Settings, new_table
from zerosim.train import train
from zerosim.transport import Transport
from zerosim.words import counted

STEPS = 2

WAYS: dict[str, dict[str, Any]] = {
    "all kept": {},
    "checkpoints": {"checkpoint_activations": True},
    "P_a": {"partition_activations": True},
    "checkpoints, P_a": {"checkpoint_activations": True, "partition_activations": True},
    "checkpoints, P_a+cpu": {
        "checkpoint_activations": True,
        "partition_activations": True,
        "cpu_checkpointing": True,
    },
}
"""By name, what is asked of `train`; without tensor parallelism P_a has nothing to share out."""


def measure(transport: Transport, settings: Settings, tell: Tell) -> list[dict[str, Any]]:
    """Return a row per way: bytes at the most on the fullest rank, layers and operations of a step, bytes sent."""
    task, N = settings.task(settings.hidden), transport.size
    T = max(n for n in range(1, N + 1) if N % n == 0 and n <= min(task.widths))
    usual = dataclasses.replace(task.config((0,), N, STEPS), tensor_parallel=T, batch_size=settings.rows * (N // T))
    rows, hashes = [], set()
    for name, asked in WAYS.items():
        if T == 1 and asked.get("partition_activations"):
            continue
        tell(f"activations: {name}")
        records = train(dataclasses.replace(usual, **asked), transport, task.data(N))
        (run,) = build_report(records)["runs"]
        hashes.add(run["weights_sha256"])
        books = run["memory"]["activations"]
        rows.append(
            {
                "way": name,
                "tensor_parallel": T,
                "every": records.config.checkpoint_activations or 1,
                "books": books,
                "operations": max(own["operations"] for own in records.runs[0].work),
                "tensor_traffic": run["traffic"]["model_parallel"].get("tensor"),
                "same_bits": len(hashes) == 1,
            }
        )
    return rows


def show(rows: list[dict[str, Any]], settings: Settings) -> list[Any]:
    """Return the section as text and a table."""
    table = new_table(
        "<\n", "^activations\ncounted = formula", "on the\nhost", "layers\nagain", "oper-\nations", "tensor\ntraffic"
    )
    first = rows[0]
    for row in rows:
        books = row["books"]
        device, expected = max(books["device"]["measured"]), max(books["device"]["formula_per_rank"])
        sent = row["tensor_traffic"]
        table.add_row(
            row["way"],
            equation(device, expected, books["device"]["measured"] == books["device"]["formula_per_rank"]),
            si(max(books["host"]["measured"])),
            str(max(books["recomputed"]["measured"])),
            f"{row['operations'] / first['operations']:.2f} x",
            si(max(sum(own.values()) for own in sent["measured"])) if sent else "-",
        )
    equal = all(book["measured"] == book["formula_per_rank"] for row in rows for book in row["books"].values())
    same = all(row["same_bits"] for row in rows)
    T = first["tensor_parallel"]
    return [
        f"Activations at the most in a step, on the fullest rank; {counted(len(settings.hidden), 'hidden layer')}, "
        f"{counted(settings.rows, 'row')}, fp32, cut over {counted(T, 'tensor-parallel rank')}; checkpoints: one "
        f"layer's input in {rows[1]['every']} is kept.",
        table,
        ("Books: all of it equals the formulas, to the byte. " if equal else "Books: THEY DIFFER from the formulas. ")
        + ("Bits: all ways end with the same weights." if same else "Bits: the ways do NOT end with the same weights."),
        *([] if T > 1 else ["P_a is left out: on this number of ranks no two hold the same activations."]),
    ]
