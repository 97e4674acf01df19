"""M_D: what lives long goes to memory allocated beforehand, in one piece, and leaves the rest to what lives short.

(ZeRO, arXiv:1910.02054, sections 3.2 and 6.3.) Where activations are checkpointed, the forward pass keeps some and
drops those between them; the backward pass keeps gradients and drops activations that were computed again, and buffers.
Here the same real step is taken four times, at stage 2 as in the paper: with checkpoints and gradients each where it is
made, or in a chunk that was there before. What the ledger booked is then placed in one arena.
"""

from collections.abc import Collection
from typing import Any, cast

import numpy as np

from zerosim import arena, formulas
from zerosim.arena import Block
from zerosim.bench.shared import Task, Tell, together
from zerosim.rank import Rank
from zerosim.report import equation, si
from zerosim.residual.shared import Record, Settings, new_table, record
from zerosim.transport import Transport
from zerosim.words import counted

STAGE = 2

WAYS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "gradients": ("gradients",),
    "checkpoints": ("checkpoints",),
    "both (M_D)": ("checkpoints", "gradients"),
}
"""By name, what has a chunk of its own."""


class AsMade:
    """This rank's shard of gradients in pieces: a bucket's slice is an array that is taken when it is first asked for.

    It stands in for `Rank.gradients` at stage 2, which goes through them bucket by bucket.
    """

    def __init__(self, rank: Rank) -> None:
        self.size = rank.layout.shard
        self._rank = rank
        self._slices: dict[int, np.ndarray] = {}

    def __getitem__(self, where: slice) -> np.ndarray:
        """Return the slice of a bucket."""
        if where.start not in self._slices:
            self._slices[where.start] = self._rank.zeros("gradients", where.stop - where.start)
        return self._slices[where.start]


def step(transport: Transport, task: Task, chunks: Collection[str]) -> Record:
    """Take a real step with all ranks and return this one's record; `chunks` are "checkpoints", "gradients" or both."""

    def prepare(rank: Rank) -> None:
        rank.contiguous = "checkpoints" in chunks
        if "gradients" not in chunks:
            rank.ledger.release(rank.gradients)
            rank.gradients = cast(np.ndarray, AsMade(rank))

    return record(transport, task, STAGE, prepare=prepare)


def measure(transport: Transport, settings: Settings, tell: Tell) -> list[dict[str, Any]]:
    """Return a row per order of the hidden layers and way of allocating: the arena that this rank's step needs."""
    rows: list[dict[str, Any]] = []
    for order, hidden in orders(settings).items():
        task = settings.task(hidden, checkpoint=True)
        own, blocks = [], []
        for way, chunks in WAYS.items():
            tell(f"defragmentation: layers {order}, in chunks {way}")
            taken = step(transport, task, chunks)
            blocks.append(placed(taken))
            own.append({"order": order, "way": way, **_row(transport, task, taken, blocks[-1], chunks, settings.fit)})
        smallest = min(row["arena"] for row in own)
        for row, found in zip(own, blocks, strict=True):
            full = arena.fails(found, smallest, settings.fit)
            row["in_the_smallest_arena"] = full and {"limit": smallest, **vars(full)}
            row["same_bits"] = row["weights_sha256"] == own[0]["weights_sha256"]
        rows += own
    return rows


def orders(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Return the hidden widths as given and, if that is another model, from the last to the first."""
    both = {"as given": settings.hidden, "mirrored": settings.hidden[::-1]}
    return both if settings.hidden != settings.hidden[::-1] else {"as given": settings.hidden}


def placed(taken: Record) -> list[Block]:
    """Return the arrays of a step; activations that wait from the forward for the backward pass are of class "kept"."""
    turn = next(at for at, name in taken.phases if name == "backward")
    return [
        block._replace(cls="kept") if block.cls == "activations" and block.begin < turn <= block.end else block
        for block in arena.blocks(taken.events)
    ]


def _row(
    transport: Transport, task: Task, taken: Record, blocks: list[Block], chunks: Collection[str], fit: str
) -> dict[str, Any]:
    found, L, N, rows = arena.replay(blocks, fit), task.widths, transport.size, task.rows
    every = task.config((STAGE,), N).checkpoint_activations or 1
    checkpoints = formulas.checkpoints(L, rows, formulas.WIDTH[task.precision], every)
    gradients = formulas.at_rest(STAGE, L, N, task.precision, task.optimizer)["gradients"]
    outputs = formulas.WIDTH[task.precision] * rows * L[-1]
    begins = min(block.begin for block in blocks if block.cls == "kept")
    first = {"gradients": begins, "checkpoints": begins + 1}
    return {
        "layers": list(L),
        "every": every,
        "long_lived": {
            "measured": together(transport, sum(b.nbytes for b in blocks if b.cls in ("kept", "gradients"))),
            "formula": checkpoints + outputs + gradients,
        },
        "beforehand": {
            "measured": together(transport, sum(_beforehand(blocks, name, first[name]) for name in chunks)),
            "formula": sum({"checkpoints": checkpoints, "gradients": gradients}[name] for name in chunks),
        },
        "peak": taken.peak,
        "arena": found.size,
        "worst_moment": found.worst,
        "weights_sha256": taken.weights_sha256,
        "moments": max(block.end for block in blocks),
        "phases": [[at, name] for at, name in taken.phases],
        "blocks": [list(block) for block in blocks],
        "addresses": found.addresses,
    }


def _beforehand(blocks: list[Block], name: str, before: int) -> int:
    """Bytes of a chunk: of what was taken before any other activation or gradient."""
    cls = "kept" if name == "checkpoints" else name
    return sum(block.nbytes for block in blocks if block.cls == cls and block.begin < before)


def show(rows: list[dict[str, Any]], settings: Settings) -> list[Any]:
    """Return the section as text and tables."""
    arenas = new_table(
        "<\nlayers",
        "<\nin chunks",
        "^allocated beforehand\ncounted = formula",
        "peak\nheld",
        "\narena",
        "above\nthe peak",
    )
    ends = new_table("<\nlayers", "<\nin chunks", "\nasked for", "free\nin all", "of the\narena", "free in\none piece")
    for row in rows:
        above = f"{100 * (row['arena'] / row['peak'] - 1):+.1f} %"
        arenas.add_row(row["order"], row["way"], _equation(row["beforehand"]), si(row["peak"]), si(row["arena"]), above)
        ends.add_row(row["order"], row["way"], *_end(row["in_the_smallest_arena"]))
    equal = all(_equal(row[name]) for row in rows for name in ("long_lived", "beforehand"))
    same = all(row["same_bits"] for row in rows)
    return [
        f"Defragmentation (M_D): a step of stage {STAGE} on rank 0, its arrays in one arena, {settings.fit} fit; "
        f"layers as given {' x '.join(map(str, rows[0]['layers']))}, {counted(settings.rows, 'row')} per rank, "
        f"fp32, the input of one layer in {rows[0]['every']} kept. Checkpoints and gradients are each made where there "
        "is room, or in a chunk allocated beforehand; the smallest arena in which the step fits:",
        arenas,
        "In the smallest of the four arenas, where the others stop:",
        ends,
        ("Books: what lives long, and the chunks, equal the formulas, to the byte. " if equal else "")
        + ("" if equal else "Books: THEY DIFFER: what was counted is not what the formulas say (marked ≠). ")
        + f"Bits: {'all ways' if same else 'the ways do NOT'} end with the same weights.",
        *(_verdict([row for row in rows if row["order"] == order]) for order in orders(settings)),
    ]


def _equal(pair: dict[str, Any]) -> bool:
    return set(pair["measured"]) == {pair["formula"]}


def _equation(pair: dict[str, Any]) -> str:
    return equation(max(pair["measured"]), pair["formula"], _equal(pair))


def _end(end: dict[str, Any] | None) -> tuple[str, ...]:
    if end is None:
        return ("it fits", "", "", "")
    return si(end["asked"]), si(end["free"]), f"{100 * end['free'] / end['limit']:.1f} %", si(end["greatest"])


def _verdict(rows: list[dict[str, Any]]) -> str:
    """Say what M_D does to gaps, to what is held, and so to the arena."""
    before, after = rows[0], rows[-1]
    gaps = [si(row["arena"] - row["peak"]) for row in (before, after)]
    held, size = (100 * (after[name] / before[name] - 1) for name in ("peak", "arena"))
    return (
        f"Layers {before['order']}: M_D changes what is lost in gaps from {gaps[0]} to {gaps[1]}, the peak of what is "
        f"held by {held:+.1f} % (a chunk is there before it is full, and until it is empty), and so the arena by "
        f"{size:+.1f} %."
    )
