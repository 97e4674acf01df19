"""One contiguous memory: a block needs as many free bytes in one piece as it is long, and not only somewhere.

The ledger counts bytes; here what it counted is placed at addresses, in the order in which it was taken and released.
Where short-lived and long-lived blocks take turns, the long-lived ones stand between the gaps that the others leave,
and a large block may find no gap though enough is free in all. That is fragmentation (ZeRO, arXiv:1910.02054, section
3.2). What mends it (M_D, section 6.3): the long-lived blocks go to a region of their own, allocated beforehand.

Time is counted in takes and releases; addresses and sizes are bytes.
"""

from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from zerosim.ledger import CLASSES, Event

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
    """The addresses from `base` to `limit` (None: without end), and which of them are taken.

    A gap lies between blocks, or below the first one. Only if no gap is large enough a block goes above all others, so
    `size`, the greatest extent so far, is what the same blocks need in the same order: with one byte less, `take`
    raises Full.
    """

    def __init__(self, fit: str = "first", base: int = 0, limit: int | None = None) -> None:
        if fit not in FITS:
            raise ValueError(f"fit: {fit!r} is not known; choose from {', '.join(FITS)}")
        self._fit, self._base, self._limit = fit, base, limit
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
        self.size = max(self.size, address + nbytes - self._base)
        return address

    def release(self, address: int, nbytes: int) -> None:
        """Free the block of that many bytes at that address. Raises ValueError if there is none."""
        self._taken.remove((address, address + nbytes))

    def free(self, limit: int) -> tuple[int, int]:
        """Return the bytes that are free below an address above all blocks: in all, and the most in one piece."""
        pieces = [stop - start for start, stop in self._gaps()] + [limit - self._top()]
        return sum(pieces), max(pieces)

    def _top(self) -> int:
        return self._taken[-1][1] if self._taken else self._base

    def _gaps(self) -> Iterator[tuple[int, int]]:
        below = self._base
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


def long_lived(found: Sequence[Block], classes: Collection[str] = CLASSES, moments: int = 0) -> frozenset[int]:
    """Return the numbers of the blocks of these classes that live for so many moments at the least.

    With `classes` alone it is the paper's rule, with `moments` alone a rule by measured lifetime.
    """
    return frozenset(i for i, b in enumerate(found) if b.cls in classes and b.end - b.begin >= moments)


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
    """The smallest arena in which the record fits, the region of the long-lived blocks included."""
    reserved: int
    """Of these, the region of the long-lived blocks, at the bottom; 0 if there is none."""
    worst: int
    """The moment at which a block first reached the arena's upper end."""


def replay(found: Sequence[Block], apart: Collection[int] = (), fit: str = "first", limit: int | None = None) -> Replay:
    """Place blocks as they are taken and released, those with the numbers `apart` in a region of their own.

    That region is as large as they need, no larger. Raises Full if the arena may not exceed `limit` bytes and does not
    suffice; what is then said to be free is so in both regions, and in one piece in the one where the block belongs.
    If the region alone does not fit, that is said of it alone.
    """
    reserved = replay([found[i] for i in sorted(apart)], fit=fit, limit=limit).size if apart else 0
    below, above = Arena(fit, 0, reserved), Arena(fit, reserved, limit)
    addresses = [0] * len(found)
    worst = 0
    for number, taken in _entries(found):
        block, arena = found[number], below if number in apart else above
        if not taken:
            arena.release(addresses[number], block.nbytes)
            continue
        before = arena.size
        try:
            addresses[number] = arena.take(block.nbytes)
        except Full as full:
            raise Full(full.asked, full.free + below.free(reserved)[0], full.greatest) from None
        if arena.size > before and arena is above:
            worst = block.begin
    return Replay(addresses, reserved + above.size, reserved, worst)


def fails(found: Sequence[Block], limit: int, apart: Collection[int] = (), fit: str = "first") -> Full | None:
    """Return how a record fails in an arena of `limit` bytes; None if it fits."""
    try:
        replay(found, apart, fit, limit)
    except Full as full:
        return full
    return None


def _entries(found: Sequence[Block]) -> list[tuple[int, bool]]:
    """(number of a block, whether it is taken or released), in the order of the record."""
    taken = [(block.begin, 1, i) for i, block in enumerate(found)]
    released = [(block.end, 0, i) for i, block in enumerate(found)]
    return [(i, bool(kind)) for _, kind, i in sorted(taken + released)]
