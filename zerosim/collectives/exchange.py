"""One exchange: what a rank sends to whom, and what it takes from whom, in one step of a collective.

A vector is cut in N slices, numbered 0 to N - 1. Ranks and slices are whole numbers, or NumPy arrays of them with a
number for each rank: an algorithm does arithmetic on `rank` only, so that the same lines serve one rank or all.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

VERBS = ("reduce_scatter", "all_gather", "all_reduce")

NOBODY = -1
"""As `to`: nothing is sent in this exchange. As `source`: nothing is received."""


class Slices(NamedTuple):
    """`count` slices: start, start + stride, start + 2 stride, …, all modulo N."""

    start: Any
    count: Any
    stride: Any = 1

    def numbers(self, N: int) -> list[int]:
        """Return the slices' numbers, in the order in which they travel; for one rank."""
        return [(int(self.start) + i * int(self.stride)) % N for i in range(int(self.count))]


class Exchange(NamedTuple):
    """Send slices `send` to rank `to` and receive slices `recv` from rank `source`, at the same time.

    With `reduce` the slices received are added to those that are here; otherwise they take their place. `send` and
    `recv` are a slice's number, or `Slices`. What is sent is what was here before the exchange. Without a partner
    nothing goes or comes: Exchange() only keeps step with the others, for all ranks have equally many exchanges.
    """

    to: Any = NOBODY
    send: Any = 0
    source: Any = NOBODY
    recv: Any = 0
    reduce: Any = False


Generator = Callable[[Any, int], Iterator[Exchange]]
"""An algorithm for one verb: called with (rank, N), it yields the exchanges of that rank, or of all ranks at once."""


def as_slices(which: Any) -> Slices:
    """Return `send` or `recv` of an exchange as Slices."""
    return which if isinstance(which, Slices) else Slices(which, 1)


class NotForN(ValueError):
    """Raised by an algorithm, before its first exchange, that is not for so many ranks, with the reason."""


def power_of_two(N: int, what: str) -> None:
    """Raise NotForN if N is not a power of two."""
    if N & (N - 1):
        raise NotForN(f"{what} needs a power of two ranks, which {N} is not: partners differ in one bit of the rank")


def distances(N: int) -> list[int]:
    """Return 1, 2, 4, … below N."""
    return [1 << k for k in range((N - 1).bit_length())]


def where(condition: Any, this: Any, other: Any) -> Any:
    """Return `this` where the condition holds and `other` elsewhere, for one rank or for all."""
    return np.where(condition, this, other)
