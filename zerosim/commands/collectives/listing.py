"""`collectives list`: the algorithms and what they cost, from the closed forms."""

import argparse
import json
from typing import Any

from zerosim import formulas
from zerosim.collectives import VERBS
from zerosim.commands.collectives.shared import checked_ranks
from zerosim.commands.output import is_first
from zerosim.report import console_text, plain_table
from zerosim.transport import Transport

_SIGNS = {
    "ceil_lg(N)": "⌈lg N⌉",
    "floor_lg(N)": "⌊lg N⌋",
    "lg(N)": "lg N",
    " * ": " ",
    "//": "/",
    " / ": "/",
    "- 1": "-1",
}

_LEGEND = """
Cost on the longest path: alpha x exchanges + beta x bytes sent + gamma x bytes added, for a vector of n bytes on N \
ranks: alpha is a message's latency, beta the time of a byte on its way, gamma of a byte added. The column N = {N}: \
exchanges, sent / n. m ranks are on a node (in that column, m = 2 if that divides N, else 1); f = 0 if N is a power of \
two, else 1. What an algorithm lacks is made of what it has, or is the ring's."""


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Print the table."""
    N = checked_ranks(arguments.ranks, 2**20)
    rows = [_row(verb, name, N) for verb, name in formulas.COSTS]
    if not is_first(transport):
        return
    print(json.dumps({"ranks": N, "algorithms": rows}) if arguments.json else _table(rows, N))


def _row(verb: str, name: str, N: int) -> dict[str, Any]:
    only = formulas.RESTRICTIONS.get((verb, name), "any")
    fits = {"N = 2^k": N & (N - 1) == 0, "N even": N % 2 == 0 or N == 1}.get(only, True)
    m = 2 if N % 2 == 0 else 1
    values = formulas.coefficients(verb, f"{name}:{m}" if name == "hierarchical" else name, N) if fits else ()
    alpha, beta, gamma = formulas.COSTS[verb, name]
    return {
        "verb": verb,
        "algorithm": name + (":m" if name == "hierarchical" else ""),
        "exchanges": alpha,
        "sent": beta,
        "added": gamma,
        "ranks": only,
        "values": [float(value) for value in values],
    }


def _table(rows: list[dict[str, Any]], N: int) -> str:

    parts: list[Any] = []
    for verb in VERBS:
        table = plain_table()
        for title in (verb, "exchanges", "sent / n", "added / n"):
            table.add_column(title, no_wrap=True)
        table.add_column(f"N = {N}", no_wrap=True, justify="right")
        table.add_column("for N", no_wrap=True)
        for row in rows:
            if row["verb"] == verb:
                value = f"{row['values'][0]:g}, {row['values'][1]:.3g}" if row["values"] else "-"
                terms = (_pretty(row[column]) for column in ("exchanges", "sent", "added"))
                table.add_row(row["algorithm"], *terms, value, row["ranks"].replace("m divides N", "m x nodes"))
        parts.append(table)
    parts.append(_LEGEND.format(N=N))
    return console_text(*parts)


def _pretty(term: str) -> str:
    for name, sign in _SIGNS.items():
        term = term.replace(name, sign)
    return term.replace(" -1", "-1")
