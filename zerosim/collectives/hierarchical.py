"""Two levels, for nodes with several ranks: rings inside each node, then rings between nodes.

With m ranks on each of N/m nodes, rank = node m + local. Inside, each local rank first sums the slices that end on its
like on any node; so between nodes only 1/m of the vector goes out of each rank, over all of a node's links at once. In
all, the bytes are the ring's; but only (N/m - 1) / N of the vector per rank crosses the slower links.
Source: Cho, Finkler, Serrano, Kung, Hunter, BlueConnect: Decomposing all-reduce for deep learning on heterogeneous
network hierarchy, MLSys 2019, here with two levels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zerosim.collectives.exchange import Exchange, NotForN, Slices


def reduce_scatter(rank: Any, N: int, m: int) -> Iterator[Exchange]:
    """First, slices local, local + m, local + 2m, … become sums over the node; then slice `rank` over all nodes.

    Cost: (m-1) alpha + (m-1)/m n (beta + gamma) inside, (N/m-1) alpha + (N/m-1)/N n (beta + gamma) between nodes.
    """
    node, local, nodes = rank // m, rank % m, N // m
    for s in range(m - 1):
        yield Exchange(
            to=node * m + (local + 1) % m,
            send=Slices((local - 1 - s) % m, nodes, m),
            source=node * m + (local - 1) % m,
            recv=Slices((local - 2 - s) % m, nodes, m),
            reduce=True,
        )
    for s in range(nodes - 1):
        yield Exchange(
            to=(rank + m) % N,
            send=(rank - (1 + s) * m) % N,
            source=(rank - m) % N,
            recv=(rank - (2 + s) * m) % N,
            reduce=True,
        )


def all_gather(rank: Any, N: int, m: int) -> Iterator[Exchange]:
    """First, slices local, local + m, … come from the other nodes; then the node's ranks share theirs.

    Cost: (N/m-1) alpha + (N/m-1)/N n beta between nodes, (m-1) alpha + (m-1)/m n beta inside.
    """
    node, local, nodes = rank // m, rank % m, N // m
    for s in range(nodes - 1):
        yield Exchange(
            to=(rank + m) % N,
            send=(rank - s * m) % N,
            source=(rank - m) % N,
            recv=(rank - (1 + s) * m) % N,
            reduce=False,
        )
    for s in range(m - 1):
        yield Exchange(
            to=node * m + (local + 1) % m,
            send=Slices((local - s) % m, nodes, m),
            source=node * m + (local - 1) % m,
            recv=Slices((local - 1 - s) % m, nodes, m),
            reduce=False,
        )


@dataclass(frozen=True)
class OnNodes:
    """One of the above for nodes of m ranks, as an algorithm of (rank, N)."""

    verb: Callable[[Any, int, int], Iterator[Exchange]]
    m: int

    def __call__(self, rank: Any, N: int) -> Iterator[Exchange]:
        """Yield the exchanges. Raises NotForN if N ranks do not fill whole nodes."""
        if N % self.m:
            raise NotForN(f"nodes of {self.m} ranks are not filled by {N}")
        yield from self.verb(rank, N, self.m)
