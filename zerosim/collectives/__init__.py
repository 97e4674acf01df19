"""Collective algorithms, each a list of exchanges: arithmetic on `rank`, no data, no transport.

    reduce_scatter   ring  halving   pairwise  bruck             hierarchical
    all_gather       ring  doubling            bruck  neighbour  hierarchical
    all_reduce       each reduce_scatter with an all_gather; doubling and binomial on the whole vector

One list serves four times: `zerosim.comm` runs it, `check` proves it without data, `zerosim.figures` draws it,
`zerosim.clock` times it on a modelled cluster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from zerosim.collectives import auto, binomial, bruck, doubling, halving, hierarchical, neighbour, pairwise, ring
from zerosim.collectives.check import trace
from zerosim.collectives.custom import load
from zerosim.collectives.exchange import NOBODY, VERBS, Exchange, Generator, NotForN, Slices, as_slices


@dataclass(frozen=True)
class Algorithm:
    """An algorithm by name, with the generators that it has of its own."""

    name: str
    own: dict[str, Generator]
    """By verb."""
    proven: bool = True
    """Whether it is one of the project's, which the tests prove for every N; a reader's is proved before it is used."""

    def exchanges(self, verb: str, rank: Any, N: int) -> Iterator[Exchange]:
        """Yield the exchanges of a verb, for one rank or for an array of all.

        What an algorithm does not have is made of what it has. all_reduce is its reduce_scatter, then its all_gather.
        Without a reduce_scatter, its all_reduce serves, and of the sum each rank keeps its slice. So sums are added in
        the same order by all_reduce and by reduce_scatter. What is still missing is the ring's. Raises ValueError,
        with the reason, if it is not for N ranks.
        """
        if verb in self.own:
            return self.own[verb](rank, N)
        if verb == "all_gather":
            return ring.all_gather(rank, N)
        if verb == "reduce_scatter":
            return self.own["all_reduce"](rank, N) if "all_reduce" in self.own else ring.reduce_scatter(rank, N)
        return chain(self.exchanges("reduce_scatter", rank, N), self.exchanges("all_gather", rank, N))

    def for_bytes(self, nbytes: int, N: int) -> "Algorithm":
        """Return who moves a vector of so many bytes on N ranks: this algorithm."""
        return self

    def generator(self, verb: str) -> Generator:
        """Return the exchanges of a verb as a function of (rank, N). Raises KeyError for what is no verb."""
        return partial(self.exchanges, {verb: verb for verb in VERBS}[verb])

    def whose(self, verb: str) -> str:
        """Say whose exchanges a verb's are, where they are not all the algorithm's own."""
        if verb in self.own or verb == "all_reduce":
            return ""
        return (
            " (its all_reduce)"
            if verb == "reduce_scatter" and "all_reduce" in self.own
            else " (it has none: the ring's)"
        )

    def slices_sent(self, verb: str, rank: int, N: int) -> list[list[int]]:
        """Return which slices a rank sends, in each exchange in which it sends any."""
        return [
            as_slices(exchange.send).numbers(N)
            for exchange in self.exchanges(verb, rank, N)
            if int(exchange.to) != NOBODY
        ]


class Auto(Algorithm):
    """Picks an algorithm by size; its own exchanges are those for long vectors."""

    def __init__(self) -> None:
        super().__init__(AUTO, ALGORITHMS[auto.choice(auto.LONG, 1)].own)

    def for_bytes(self, nbytes: int, N: int) -> Algorithm:
        """See `Algorithm`."""
        return ALGORITHMS[auto.choice(nbytes, N)]


def _of(name: str, module: Any) -> Algorithm:
    return Algorithm(name, {verb: getattr(module, verb) for verb in VERBS if hasattr(module, verb)})


ALGORITHMS: dict[str, Algorithm] = {
    name: _of(name, module)
    for name, module in (
        ("ring", ring),
        ("halving", halving),
        ("pairwise", pairwise),
        ("bruck", bruck),
        ("doubling", doubling),
        ("neighbour", neighbour),
        ("binomial", binomial),
    )
}
"""By the name of the flag `--collective`. "hierarchical" is made by `find`: it depends on the ranks per node."""

NATIVE = "native"
"""The name that stands for the MPI library's own collectives."""

AUTO = "auto"
"""The name that stands for a choice by size."""

NAMES = (*ALGORITHMS, "hierarchical:M", AUTO, NATIVE, "FILE.py:NAME")


def find(name: str, verb: str | None = None) -> Algorithm:
    """Return the algorithm called `name`: a key of ALGORITHMS, "hierarchical:M" with M ranks per node, "auto", or
    "FILE.py:NAME" or "FILE.py", a function, or all functions named as a verb, in a file of the reader's.

    `verb` says what a reader's function is meant for, where neither its name nor what it does tells. Raises ValueError
    if there is no such algorithm.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name == AUTO:
        return Auto()
    kind, _, argument = name.partition(":")
    if kind == "hierarchical" and argument.isdecimal() and int(argument):
        m = int(argument)
        return Algorithm(name, {verb: hierarchical.OnNodes(getattr(hierarchical, verb), m) for verb in VERBS[:2]})
    if kind == "hierarchical":
        raise ValueError(f"{name!r}: how many ranks are on a node? Say hierarchical:4 for 4")
    if kind.endswith(".py"):
        return Algorithm(name, load(kind, argument, verb), proven=False)
    raise ValueError(f"{name!r} is not known; choose from {', '.join(NAMES)}")


PROVEN = 64
"""Most ranks for which a reader's algorithm is proved before it is used; for more, it is proved for fewer."""


def prove(algorithm: Algorithm, N: int) -> None:
    """Check an algorithm without data for N ranks. Raises ValueError, which says what is wrong where.

    For more than PROVEN ranks the proof would take long: it is done for the greatest number up to that for which the
    algorithm is.
    """
    for verb, generator in algorithm.own.items():
        for n in [N] if N <= PROVEN else range(PROVEN, 0, -1):
            try:
                trace(generator, verb, n)
                break
            except NotForN:
                if n == N:
                    raise


__all__ = [
    "ALGORITHMS",
    "AUTO",
    "NAMES",
    "NATIVE",
    "NOBODY",
    "VERBS",
    "Algorithm",
    "Exchange",
    "Generator",
    "NotForN",
    "Slices",
    "find",
    "prove",
]
