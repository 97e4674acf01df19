"""Pairwise exchange: N - 1 exchanges; each slice goes straight to its owner, every time to another one.

As few bytes as the ring's, and each slice travels once instead of N - 1 times, but to every rank and not to the
neighbour only: fine on a switch, and a crowd on the links between nodes.
Source: Thakur, Rabenseifner, Gropp, Optimization of collective communication operations in MPICH, IJHPCA 19 (2005),
section 4.4.
"""

from collections.abc import Iterator
from typing import Any

from zerosim.collectives.exchange import Exchange


def reduce_scatter(rank: Any, N: int) -> Iterator[Exchange]:
    """Before exchange s, slice `rank` holds the sum of ranks rank-s+1 to rank here.

    Cost: (N-1) alpha + (N-1)/N n beta + (N-1)/N n gamma.
    """
    for s in range(1, N):
        yield Exchange(to=(rank + s) % N, send=(rank + s) % N, source=(rank - s) % N, recv=rank, reduce=True)
