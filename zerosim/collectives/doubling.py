"""Recursive doubling: lg N exchanges with partners at distance 1, 2, 4, …

For all_gather, what is swapped doubles each time. For all_reduce, the whole vector is swapped each time: lg N times its
bytes, so wasteful for a long vector and the fastest for a short one, where only the number of messages counts.
Source: Thakur, Rabenseifner, Gropp, Optimization of collective communication operations in MPICH, IJHPCA 19 (2005),
sections 4.1 and 4.5; for N that is no power of two, section 4.5 and Rabenseifner (ICCS 2004).
"""

from collections.abc import Iterator
from typing import Any

from zerosim.collectives.exchange import NOBODY, Exchange, Slices, distances, power_of_two, where


def all_gather(rank: Any, N: int) -> Iterator[Exchange]:
    """Before the exchange at distance d, the d slices of this rank's block of d are here.

    Cost: lg N alpha + (N-1)/N n beta.
    """
    power_of_two(N, "recursive doubling of slices")
    for d in distances(N):
        partner = rank ^ d
        yield Exchange(
            to=partner, send=Slices(rank // d * d, d), source=partner, recv=Slices(partner // d * d, d), reduce=False
        )


def all_reduce(rank: Any, N: int) -> Iterator[Exchange]:
    """Before the exchange at distance d, the whole vector holds the sum over this rank's block of d.

    If N is no power of two, let F be the next one below: in N - F pairs of neighbours the even rank first gives its
    vector to the odd one, waits while F ranks double, and is given the result: two exchanges more.
    Cost: lg N (alpha + n beta + n gamma); else (lg F + 2)(alpha + n beta) + (lg F + 1) n gamma.
    """
    whole = Slices(0, N)
    F = 1 << (N.bit_length() - 1)
    pairs = N - F
    paired, even = rank < 2 * pairs, rank % 2 == 0
    gives, takes = where(paired & even, rank + 1, NOBODY), where(paired & ~even, rank - 1, NOBODY)
    if pairs:
        yield Exchange(to=gives, send=whole, source=takes, recv=whole, reduce=True)
    number = where(paired, rank // 2, rank - pairs)
    for d in distances(F):
        other = number ^ d
        partner = where(paired & even, NOBODY, where(other < pairs, 2 * other + 1, other + pairs))
        yield Exchange(to=partner, send=whole, source=partner, recv=whole, reduce=True)
    if pairs:
        yield Exchange(to=takes, send=whole, source=gives, recv=whole, reduce=False)
