"""The naive way, so that one sees why not: sum the whole vector up a binomial tree to rank 0, and send it down again.

2 ceil(lg N) exchanges of the whole vector, one after the other on the longest path, while most ranks wait.
Source: Thakur, Rabenseifner, Gropp, Optimization of collective communication operations in MPICH, IJHPCA 19 (2005),
sections 4.2 (broadcast) and 4.5 (reduce).
"""

from collections.abc import Iterator
from typing import Any

from zerosim.collectives.exchange import NOBODY, Exchange, Slices, distances, where


def all_reduce(rank: Any, N: int) -> Iterator[Exchange]:
    """Before the exchange at distance d on the way up, multiples of d hold the sum of d ranks, from theirs on.

    On the way down, they hold the whole sum after it.
    Cost: ceil(lg N) (alpha + n beta + n gamma) + ceil(lg N) (alpha + n beta).
    """
    whole = Slices(0, N)
    for d in distances(N):
        child, parent = rank % (2 * d) == d, (rank % (2 * d) == 0) & (rank + d < N)
        yield Exchange(
            to=where(child, rank - d, NOBODY),
            send=whole,
            source=where(parent, rank + d, NOBODY),
            recv=whole,
            reduce=True,
        )
    for d in reversed(distances(N)):
        child, parent = rank % (2 * d) == d, (rank % (2 * d) == 0) & (rank + d < N)
        yield Exchange(
            to=where(parent, rank + d, NOBODY),
            send=whole,
            source=where(child, rank - d, NOBODY),
            recv=whole,
            reduce=False,
        )
