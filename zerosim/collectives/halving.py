"""Rabenseifner's algorithm: recursive halving, then recursive doubling. lg N exchanges each way, N a power of two.

As few bytes as the ring's, in lg N messages instead of N - 1: the partners are first far apart and swap half of the
vector, then nearer and swap a quarter, and so on.
Source: Rabenseifner, Optimization of collective reduction operations, ICCS 2004, LNCS 3036; Thakur, Rabenseifner,
Gropp, Optimization of collective communication operations in MPICH, IJHPCA 19 (2005), sections 4.4 and 4.5.
"""

from collections.abc import Iterator
from typing import Any

from zerosim.collectives.doubling import all_gather as all_gather
from zerosim.collectives.exchange import Exchange, Slices, distances, power_of_two


def reduce_scatter(rank: Any, N: int) -> Iterator[Exchange]:
    """Before the exchange at distance d, the 2d slices of this rank's block of 2d hold sums of N/2d ranks each.

    The partner's half of them goes to the partner, this rank's half comes in return.
    Cost: lg N alpha + (N-1)/N n beta + (N-1)/N n gamma.
    """
    power_of_two(N, "recursive halving")
    for d in reversed(distances(N)):
        partner = rank ^ d
        yield Exchange(
            to=partner, send=Slices(partner // d * d, d), source=partner, recv=Slices(rank // d * d, d), reduce=True
        )
