"""Neighbour exchange: N/2 exchanges with the left and the right neighbour in turn, N even.

Half as many messages as the ring's, as few bytes, and still only neighbours talk.
Source: Chen, Zhang, Zhang, Yuan, Performance evaluation of allgather algorithms on terascale Linux cluster with fast
Ethernet, HPC-Asia 2005.
"""

from collections.abc import Iterator
from typing import Any

from zerosim.collectives.exchange import Exchange, NotForN, Slices, where


def all_gather(rank: Any, N: int) -> Iterator[Exchange]:
    """Before exchange s > 0, s pairs of slices are here; the pair that came last goes on to the other neighbour.

    Cost: N/2 alpha + (N-1)/N n beta.
    """
    if N == 1:
        return
    if N % 2:
        raise NotForN(f"neighbour exchange needs an even number of ranks, which {N} is not: neighbours pair up")
    step = where(rank % 2 == 0, 1, -1)
    pair = newest = rank // 2 * 2
    yield Exchange(to=rank + step, send=rank, source=rank + step, recv=rank + step, reduce=False)
    for s in range(1, N // 2):
        side = step if s % 2 == 0 else -step
        partner = (rank + side) % N
        coming = (pair + side * (s + s % 2)) % N
        yield Exchange(to=partner, send=Slices(newest, 2), source=partner, recv=Slices(coming, 2), reduce=False)
        newest = coming
