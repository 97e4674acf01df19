"""Bruck's algorithm: ceil(lg N) exchanges for every N, not for powers of two only, and as few bytes as the ring's.

Run backwards, with sums for copies, an all_gather is a reduce_scatter; so the same lines, read from the end, give one
that takes ceil(lg N) exchanges for every N.
Source: Bruck, Ho, Kipnis, Upfal, Weathersby, Efficient algorithms for all-to-all communications in multiport
message-passing systems, IEEE TPDS 8 (1997); backwards: Träff, arXiv:2410.14234 (2024).
"""

from collections.abc import Iterator
from typing import Any

from zerosim.collectives.exchange import Exchange, Slices, distances


def all_gather(rank: Any, N: int) -> Iterator[Exchange]:
    """Before the exchange at distance d, the d slices from `rank` on are here.

    Cost: ceil(lg N) alpha + (N-1)/N n beta (Thakur, Rabenseifner, Gropp 2005, section 4.1).
    """
    for d in distances(N):
        count = min(d, N - d)
        yield Exchange(
            to=(rank - d) % N,
            send=Slices(rank, count),
            source=(rank + d) % N,
            recv=Slices((rank + d) % N, count),
            reduce=False,
        )


def reduce_scatter(rank: Any, N: int) -> Iterator[Exchange]:
    """After the exchange at distance d, only the d slices from `rank` on are still to be summed here.

    Cost: ceil(lg N) alpha + (N-1)/N n beta + (N-1)/N n gamma.
    """
    for d in reversed(distances(N)):
        count = min(d, N - d)
        yield Exchange(
            to=(rank + d) % N,
            send=Slices((rank + d) % N, count),
            source=(rank - d) % N,
            recv=Slices(rank, count),
            reduce=True,
        )
