"""M_D: long-lived blocks in a region of their own, allocated beforehand, leave the rest to the short-lived ones.

(ZeRO, arXiv:1910.02054, sections 3.2 and 6.3.) What the ledger booked in a real step is placed in one arena, as it
comes and with such a region. At stage 3 gathered layers are short-lived, and activations, which are taken in turn with
them, live until the backward pass. The paper copies a long-lived block into its region once it is made; here it is made
there.
"""

from collections.abc import Collection, Sequence
from typing import Any

from zerosim import arena
from zerosim.arena import Block
from zerosim.bench.shared import Tell
from zerosim.ledger import CLASSES
from zerosim.report import si
from zerosim.residual.shared import Settings, new_table, record
from zerosim.transport import Transport

STAGES = (2, 3)

LONG = tuple(cls for cls in CLASSES if cls != "buffers")
"""Long-lived, as the paper has it: activations that are kept and gradients; and the model states, which never go."""

SHARE = 10
"""Long-lived, as measured: what lives for a tenth of the record."""

PLANS = {
    "together": "as it\ncomes",
    "by_class": "apart,\nby class",
    "by_lifetime": "apart, by\nlifetime",
    "best_lifetime": "apart, in\nhindsight",
}


def measure(transport: Transport, settings: Settings, tell: Tell) -> list[dict[str, Any]]:
    """Return a row per stage and order of the hidden layers: the arenas that a step of this rank needs, in bytes."""
    rows = []
    for order, hidden in orders(settings).items():
        for stage in STAGES:
            tell(f"defragmentation: stage {stage}, layers {order}")
            task = settings.task(hidden)
            events, peak = record(transport, task, stage)
            row = {"stage": stage, "order": order, "layers": list(task.widths), "peak": peak}
            rows.append(row | placed(arena.blocks(events), settings.fit))
    return rows


def orders(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Return the hidden widths as given and, if that is another model, from the last to the first."""
    both = {"as given": settings.hidden, "mirrored": settings.hidden[::-1]}
    return both if settings.hidden != settings.hidden[::-1] else {"as given": settings.hidden}


def placed(blocks: Sequence[Block], fit: str) -> dict[str, Any]:
    """Return the blocks of a record (class, bytes, begin, end), and what each plan of placing them needs."""
    moments = max(block.end for block in blocks)
    lifetimes = sorted({block.end - block.begin for block in blocks})
    splits = {least: arena.long_lived(blocks, moments=least) for least in lifetimes}
    best = min(splits, key=lambda least: arena.replay(blocks, splits[least], fit).size)
    plans = {
        "together": _plan(blocks, (), fit),
        "by_class": _plan(blocks, arena.long_lived(blocks, LONG), fit) | {"classes": list(LONG)},
        "by_lifetime": _lifetime(blocks, -(-moments // SHARE), fit),
        "best_lifetime": _lifetime(blocks, best, fit),
    }
    return {"moments": moments, "blocks": [list(block) for block in blocks], "plans": plans}


def _lifetime(blocks: Sequence[Block], least: int, fit: str) -> dict[str, Any]:
    return _plan(blocks, arena.long_lived(blocks, moments=least), fit) | {"least_lifetime": least}


def _plan(blocks: Sequence[Block], apart: Collection[int], fit: str) -> dict[str, Any]:
    found = arena.replay(blocks, apart, fit)
    limits = {"one_byte_less": found.size - 1, "arena_of_the_peak": arena.peak(blocks)}
    failures = {name: arena.fails(blocks, limit, apart, fit) for name, limit in limits.items()}
    return {
        "arena": found.size,
        "reserved": found.reserved,
        "worst_moment": found.worst,
        "addresses": found.addresses,
        **{name: full and {"limit": limits[name], **vars(full)} for name, full in failures.items()},
    }


def show(rows: list[dict[str, Any]], settings: Settings) -> list[Any]:
    """Return the section as text and tables."""
    arenas = new_table("\nstage", "<\nlayers", "\npeak held", "\narena", *PLANS.values())
    for row in rows:
        size = si(row["plans"]["together"]["arena"])
        above = [f"{100 * (plan['arena'] / row['peak'] - 1):+.1f} %" for plan in row["plans"].values()]
        arenas.add_row(str(row["stage"]), row["order"], si(row["peak"]), size, *above)
    ends = new_table(
        "\nstage", "<\nlayers", "<\nplaced", "\nasked for", "free\nin all", "of the\narena", "free in\none piece"
    )
    for row in rows:
        for name in ("together", "by_class"):
            ends.add_row(str(row["stage"]), row["order"], PLANS[name].replace("\n", " "), *_end(row["plans"][name]))
    return [
        f"Defragmentation (M_D): a step's arrays on rank 0, placed in one arena, {settings.fit} fit; layers as given "
        f"{' x '.join(map(str, rows[0]['layers']))}, {settings.rows} rows per rank, fp32. The smallest arena in which "
        "the step fits as it comes, and how far above the peak the arenas are:",
        arenas,
        f"apart: long-lived arrays have a region of their own, allocated beforehand. By class: {_listed(LONG)}; by "
        f"lifetime: what lives for 1/{SHARE} of all takes and releases; in hindsight: from the lifetime on that suits "
        "best. In an arena of the peak's bytes, which would do if a block could lie in several pieces (free in all: in "
        "both regions):",
        ends,
        *_verdict(rows),
    ]


def _end(plan: dict[str, Any]) -> tuple[str, ...]:
    end = plan["arena_of_the_peak"]
    if end is None:
        return ("it fits", "", "", "")
    return si(end["asked"]), si(end["free"]), f"{100 * end['free'] / end['limit']:.1f} %", si(end["greatest"])


def _verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Say where a region by class helps, where it costs, and where it changes nothing."""
    said: dict[str, list[str]] = {"helps": [], "costs": [], "changes nothing": []}
    for row in rows:
        before, after = (row["plans"][name]["arena"] for name in ("together", "by_class"))
        what = "helps" if after < before else "costs" if after > before else "changes nothing"
        change = f" ({100 * (after - before) / before:+.1f} %)" if after != before else ""
        said[what].append(f"stage {row['stage']} {row['order']}{change}")
    return [
        f"The region {', '.join(f'{what} at {_listed(where)}' for what, where in said.items() if where)}.",
        "It helps where a larger block always comes after long-lived ones and finds no gap. It costs where the two "
        "kinds are at their most at different times, for then neither can use the other's bytes.",
    ]


def _listed(names: Sequence[str]) -> str:
    names = [name.replace("_", " ") for name in names]
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
