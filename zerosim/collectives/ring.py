"""Ring algorithms: N - 1 exchanges, each moves one slice of 1/N to the right.

Bandwidth-optimal: each rank sends (N - 1) / N of the vector, the least that is possible, whatever N is, and only to its
neighbour. The price is N - 1 times alpha.
Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, JPDC 69 (2009).
"""

from collections.abc import Iterator
from typing import Any

from zerosim.collectives.exchange import Exchange


def reduce_scatter(rank: Any, N: int) -> Iterator[Exchange]:
    """Before exchange s, slice rank-1-s holds the sum of s+1 ranks here; at the end slice `rank` holds all N.

    Cost: (N-1) alpha + (N-1)/N n beta + (N-1)/N n gamma.
    """
    for s in range(N - 1):
        yield Exchange(
            to=(rank + 1) % N, send=(rank - 1 - s) % N, source=(rank - 1) % N, recv=(rank - 2 - s) % N, reduce=True
        )


def all_gather(rank: Any, N: int) -> Iterator[Exchange]:
    """Before exchange s, slices rank-s to rank are here; at the end all N are.

    Cost: (N-1) alpha + (N-1)/N n beta (Thakur, Rabenseifner, Gropp 2005, section 4.1).
    """
    for s in range(N - 1):
        yield Exchange(
            to=(rank + 1) % N, send=(rank - s) % N, source=(rank - 1) % N, recv=(rank - 1 - s) % N, reduce=False
        )
