"""Algorithms compared on a modelled cluster: virtual times, closed forms, lower bounds, crossovers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from zerosim import clock, formulas
from zerosim.cluster import Cluster
from zerosim.collectives import Algorithm, NotForN
from zerosim.collectives.check import all_ranks
from zerosim.errors import InputError
from zerosim.words import counted

SCHEMA = "zerosim.collectives.time/1"


def compare(
    algorithms: list[Algorithm], verb: str, N: int, where: Cluster, nbytes: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Time algorithms on a modelled cluster for `nbytes`, and for a range of sizes to see where the fastest changes.

    Returns JSON types; all times in seconds. Raises InputError if none of the algorithms is for N ranks.
    """
    points = 43 if N <= 1024 else 7
    sizes = np.unique(np.append(np.logspace(2, max(9, np.ceil(np.log10(nbytes))), points), nbytes))
    curves, refused = {}, {}
    for algorithm in algorithms:
        say = partial(_say, progress, algorithm.name, N)
        try:
            curves[algorithm.name] = clock.seconds(all_ranks(algorithm.generator(verb), N), N, where, sizes, say)
        except NotForN as error:
            refused[algorithm.name] = str(error)
    if not curves:
        raise InputError(f"time: {next(iter(refused.values()))}")
    bound = lower_bound(verb, N, where, sizes)
    at = int(np.searchsorted(sizes, nbytes))
    rows = []
    for name, seconds in curves.items():
        rate = nbytes / float(seconds[at]) if seconds[at] else None
        rows.append(
            {
                "algorithm": name,
                "seconds": float(seconds[at]),
                "formula": closed_form(verb, name, N, where, nbytes),
                "times_the_bound": float(seconds[at] / bound[at]) if bound[at] else None,
                "algbw": rate,
                "busbw": rate and rate * float(formulas.bus_factor(verb, N)),
            }
        )
    names = list(curves)
    best = [names[i] for i in np.argmin(list(curves.values()), axis=0)]
    changes = [i for i in range(1, len(sizes)) if best[i] != best[i - 1]]
    return {
        "schema": SCHEMA,
        "verb": verb,
        "ranks": N,
        "bytes": nbytes,
        "cluster": where.asdict(),
        "bound": float(bound[at]),
        "algorithms": sorted(rows, key=lambda row: row["seconds"]),
        "refused": refused,
        "fastest": [best[i] for i in (0, *changes)],
        "crossovers": [
            {"bytes": _crossing(sizes, curves[best[i - 1]], curves[best[i]], i), "to": best[i]} for i in changes
        ],
        "sweep": {
            "bytes": sizes.tolist(),
            "seconds": {name: seconds.tolist() for name, seconds in curves.items()},
            "bound": bound.tolist(),
        },
    }


def _say(progress: Callable[[str], None], name: str, N: int, exchange: int) -> None:
    progress(f"{name} on {counted(N, 'rank')}: exchange {exchange}")


def _crossing(sizes: np.ndarray, before: np.ndarray, after: np.ndarray, i: int) -> float:
    """Where two curves cross between sizes i - 1 and i, taken as straight lines between them."""
    gap0, gap1 = before[i - 1] - after[i - 1], before[i] - after[i]
    share = float(gap0 / (gap0 - gap1)) if gap0 != gap1 else 1.0
    return float(sizes[i - 1] + (sizes[i] - sizes[i - 1]) * min(1.0, max(0.0, share)))


def closed_form(verb: str, name: str, N: int, where: Cluster, nbytes: float) -> float | None:
    """Seconds by the closed form, where there is one: one kind of link between all ranks, and not a reader's own."""
    link = where.one_link(N)
    if link is None or (verb, name.partition(":")[0]) not in formulas.COSTS:
        return None
    exchanges, sent, added = (float(value) for value in formulas.coefficients(verb, name, N))
    return exchanges * link[0] + sent * nbytes / link[1] + added * nbytes / where.bandwidth_sum


def lower_bound(verb: str, N: int, where: Cluster, nbytes: np.ndarray) -> np.ndarray:
    """Seconds that no algorithm can beat: the greatest of the bounds on messages, on a rank's bytes, on a node's bytes.

    Between nodes, the bound on a rank's bytes holds for whole nodes, with all their links.
    """
    messages, share, _ = (float(value) for value in formulas.lower_bound(verb, N))
    _, across, _ = (float(value) for value in formulas.lower_bound(verb, -(-N // where.ranks_per_node)))
    alpha, bandwidth = where.one_link(N) or (
        min(where.alpha_inside, where.alpha_between),
        max(where.bandwidth_inside, where.bandwidth_between),
    )
    node = across * nbytes / (where.links * where.bandwidth_between)
    return np.maximum.reduce([np.full(len(nbytes), messages * alpha), share * nbytes / bandwidth, node])
