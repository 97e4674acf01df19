"""`collectives time`: all algorithms on a modelled cluster, and where the fastest changes."""

import argparse
from typing import Any

from zerosim import cluster, figures
from zerosim.bench.collectives import measure
from zerosim.collectives import ALGORITHMS
from zerosim.commands.collectives.shared import checked_ranks, checked_verb, right_algorithm, short_name
from zerosim.commands.common import ProgressLine
from zerosim.commands.output import door_of, is_first, make_folder_for, parse_size, publish, text_rate
from zerosim.report import console_text, plain_table, si, text_seconds
from zerosim.timing import compare
from zerosim.transport import Transport
from zerosim.words import counted


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Print the table, draw the figure, write the numbers."""
    N = checked_ranks(arguments.ranks, 16384, least=2)
    door = door_of(transport)
    first = is_first(transport)
    nbytes = parse_size(arguments.bytes)
    verb = checked_verb(arguments.verb)
    where = (
        measure(transport)
        if arguments.cluster == cluster.THIS_MACHINE
        else door.agreed(cluster.find, arguments.cluster)
    )
    names = arguments.algorithms or _all_for(where, N, verb)
    chosen = [door.agreed(right_algorithm, name, N) for name in names]
    make_folder_for("collectives-time", door, arguments.out)
    if not first:
        return
    progress = ProgressLine()
    try:
        timing = compare(chosen, verb, N, where, nbytes, progress.tell)
    finally:
        progress.done()
    publish(timing, figures.crossover, _table(timing), "collectives-time", arguments)


def _all_for(where: cluster.Cluster, N: int, verb: str) -> list[str]:
    """All algorithms with exchanges of their own for the verb; two levels where there are nodes of several ranks."""
    names = [name for name, algorithm in ALGORITHMS.items() if not algorithm.whose(verb)]
    return names + ([f"hierarchical:{where.ranks_per_node}"] if 1 < where.ranks_per_node < N else [])


def _table(timing: dict[str, Any]) -> str:

    table = plain_table()
    closed = any(row["formula"] is not None for row in timing["algorithms"])
    for title in ("algorithm", "time,\nvirtual clock", "closed\nform", "times the\nlower bound", "algbw", "busbw"):
        if closed or "closed" not in title:
            table.add_column(title, justify="left" if title == "algorithm" else "right", no_wrap=True)
    for row in timing["algorithms"]:
        cells = [short_name(row["algorithm"]), text_seconds(row["seconds"])]
        if closed:
            cells.append("-" if row["formula"] is None else text_seconds(row["formula"]))
        times = row["times_the_bound"]
        cells += ["-" if times is None else f"{times:.3g}", *(text_rate(row[k]) for k in ("algbw", "busbw"))]
        table.add_row(*cells)
    where = timing["cluster"]
    node = f"{where['ranks_per_node']} on a node" if where["ranks_per_node"] > 1 else "one kind of link"
    bound = text_seconds(timing["bound"])
    parts: list[Any] = [
        f"{timing['verb']} of {si(timing['bytes'])} on {counted(timing['ranks'], 'rank')} of {where['name']} ({node}); "
        f"lower bound {bound} (Chan et al. 2007; Patarasuk and Yuan 2009; for nodes and their links too).",
        table,
    ]
    parts += [f"Not for {counted(timing['ranks'], 'rank')}: {name}: {why}." for name, why in timing["refused"].items()]
    if len(timing["algorithms"]) > 1:
        when = "for the shortest vectors" if timing["crossovers"] else "for vectors of any length"
        steps = [f"{short_name(timing['fastest'][0])} is the fastest {when}"]
        steps += [f"{short_name(c['to'])} from {si(c['bytes'])} on" for c in timing["crossovers"]]
        parts.append("; ".join(steps) + ".")
    between = f"{text_seconds(where['alpha_between'])} and {text_rate(where['bandwidth_between'])}"
    if where["ranks_per_node"] > 1:
        inside = f"{text_seconds(where['alpha_inside'])} and {text_rate(where['bandwidth_inside'])}"
        links = counted(where["links"], "link")
        links = f"Inside a node {inside} per rank, between nodes {between} per link, {links} to a node"
        if where["links"] > 1 and timing["ranks"] > where["ranks_per_node"]:
            parts.append(
                "A ring passes from node to node over one link at a time; libraries run several rings at once, as "
                "hierarchical does over all links."
            )
    else:
        links = f"A message takes {between}"
    parts.append(f"{links}; sums at {text_rate(where['bandwidth_sum'])}; per direction.")
    parts.append(f"Source: {where['source']}")
    return console_text(*parts)
