"""One contiguous memory: a block needs as many free bytes in one piece as it is long, and not only somewhere.

The ledger counts bytes; here what it counted is placed at addresses, in the order in which it was taken and released.
Where short-lived and long-lived blocks take turns, the long-lived ones stand between the gaps that the others leave,
and a large block may find no gap though enough is free in all. That is fragmentation (ZeRO, arXiv:1910.02054, sections
3.2 and 6.3).

Time is counted in takes and releases; addresses and sizes are bytes.
"""

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from zerosim.ledger import Event

FITS = ("first", "best")
"""Which of the gaps that are large enough is taken: the one with the lowest address, or the smallest."""


class Block(NamedTuple):
    """One array from take to release: it lives in the moments `begin` to `end`, `end` not included."""

    cls: str
    nbytes: int
    begin: int
    end: int


class Full(Exception):
    """No gap is large enough: `asked` bytes, where `free` are free in all, but only `greatest` in one piece."""

    def __init__(self, asked: int, free: int, greatest: int) -> None:
        super().__init__(f"{asked} bytes find no place: {free} are free, but only {greatest} in one piece")
        self.asked, self.free, self.greatest = asked, free, greatest


class Arena:
    """The addresses from 0 to `limit` (None: without end), and which of them are taken.

    A gap lies between blocks, or below the first one. Only if no gap is large enough a block goes above all others, so
    `size`, the greatest extent so far, is what the same blocks need in the same order: with one byte less, `take`
    raises Full.
    """

    def __init__(self, fit: str = "first", limit: int | None = None) -> None:
        if fit not in FITS:
            raise ValueError(f"fit: {fit!r} is not known; choose from {', '.join(FITS)}")
        self._fit, self._limit = fit, limit
        self._taken: list[tuple[int, int]] = []
        self.size = 0

    def take(self, nbytes: int) -> int:
        """Return the address of a new block of 1 byte or more. Raises Full if there is no room for it."""
        gaps = [gap for gap in self._gaps() if gap[1] - gap[0] >= nbytes]
        if gaps:
            address = gaps[0][0] if self._fit == "first" else min(gaps, key=lambda gap: (gap[1] - gap[0], gap[0]))[0]
        else:
            address = self._top()
            if self._limit is not None and address + nbytes > self._limit:
                raise Full(nbytes, *self.free(self._limit))
        insort(self._taken, (address, address + nbytes))
        self.size = max(self.size, address + nbytes)
        return address

    def release(self, address: int, nbytes: int) -> None:
        """Free the block of that many bytes at that address. Raises ValueError if there is none."""
        self._taken.remove((address, address + nbytes))

    def free(self, limit: int) -> tuple[int, int]:
        """Return the bytes that are free below an address above all blocks: in all, and the most in one piece."""
        pieces = [stop - start for start, stop in self._gaps()] + [limit - self._top()]
        return sum(pieces), max(pieces)

    def _top(self) -> int:
        return self._taken[-1][1] if self._taken else 0

    def _gaps(self) -> Iterator[tuple[int, int]]:
        below = 0
        for start, stop in self._taken:
            if start > below:
                yield below, start
            below = stop


def blocks(events: Iterable[Event]) -> list[Block]:
    """Return the arrays that were taken in a record, in order; what is never released lives until the record's end.

    Arrays of no bytes are left out. Raises ValueError if one is released that was not taken, or with another size.
    """
    found: list[Block] = []
    live: dict[int, int] = {}
    moment = 0
    for event in events:
        if event.change > 0:
            live[event.array] = len(found)
            found.append(Block(event.cls, event.change, moment, -1))
        elif event.change < 0:
            number = live.pop(event.array, None)
            if number is None or found[number].nbytes != -event.change:
                raise ValueError(f"{-event.change} bytes of {event.cls} are released that were not taken")
            found[number] = found[number]._replace(end=moment)
        moment += event.change != 0
    for number in live.values():
        found[number] = found[number]._replace(end=moment)
    return found


def peak(found: Sequence[Block]) -> int:
    """Return the greatest sum of bytes that live at one moment: no arena can be smaller."""
    held = most = 0
    for number, taken in _entries(found):
        held += found[number].nbytes if taken else -found[number].nbytes
        most = max(most, held)
    return most


class Replay(NamedTuple):
    """Where each block of a record was placed."""

    addresses: list[int]
    size: int
    """The smallest arena in which the record fits."""
    worst: int
    """The moment at which a block first reached its upper end."""


def replay(found: Sequence[Block], fit: str = "first", limit: int | None = None) -> Replay:
    """Place blocks as they are taken and released. Raises Full if the arena may not exceed `limit` bytes and does."""
    arena = Arena(fit, limit)
    addresses = [0] * len(found)
    worst = 0
    for number, taken in _entries(found):
        block, before = found[number], arena.size
        if taken:
            addresses[number] = arena.take(block.nbytes)
        else:
            arena.release(addresses[number], block.nbytes)
        if arena.size > before:
            worst = block.begin
    return Replay(addresses, arena.size, worst)


def fails(found: Sequence[Block], limit: int, fit: str = "first") -> Full | None:
    """Return how a record fails in an arena of `limit` bytes; None if it fits."""
    try:
        replay(found, fit, limit)
    except Full as full:
        return full
    return None


def _entries(found: Sequence[Block]) -> list[tuple[int, bool]]:
    """(number of a block, whether it is taken or released), in the order of the record."""
    taken = [(block.begin, 1, i) for i, block in enumerate(found)]
    released = [(block.end, 0, i) for i, block in enumerate(found)]
    return [(i, bool(kind)) for _, kind, i in sorted(taken + released)]
