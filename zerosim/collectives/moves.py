"""What an exchange means for a vector of so many elements: which elements go, and where those that come belong.

Slice i of n elements is elements n i / N to n (i + 1) / N, rounded down: all equally long if N divides n. Where slices
are to be unequal, each has a share, a whole number of parts, and of the parts the same holds.
"""

from collections.abc import Sequence
from typing import NamedTuple

from zerosim.collectives.exchange import NOBODY, Exchange, Slices, as_slices

Pairs = tuple[tuple[slice, slice], ...]
"""(elements of the vector, elements of the room), in turn."""


class Message(NamedTuple):
    """One message of an exchange, sent from or received into the vector itself, or a room beside it."""

    where: slice
    """Elements of the vector; or of the room, if there are `pieces`."""
    pieces: Pairs
    """What the room takes from the vector, or gives to it; empty: the message needs no room."""


class Move(NamedTuple):
    """An exchange of one rank, for one vector. With a room, a scratch of so many elements, where it is needed."""

    to: int
    sends: tuple[Message, ...]
    source: int
    recvs: tuple[Message, ...]
    reduce: bool
    swaps: bool
    """Whether what comes may be added only when what was there has gone out: the same elements go and come."""
    room: int
    """Elements of room that it takes."""

    def backwards(self) -> "Move":
        """Return the same with its messages in the opposite order, on all ranks alike."""
        return self._replace(sends=self.sends[::-1], recvs=self.recvs[::-1])


def span(first: int, count: int, N: int | Sequence[int], n: int) -> slice:
    """Where slices `first` to `first` + `count` lie in a vector of n elements, which has N slices, or such shares."""
    if not isinstance(N, int):
        first, count, N = sum(N[:first]), sum(N[first : first + count]), sum(N)
    return slice(n * first // N, n * (first + count) // N)


def move(exchange: Exchange, N: int | Sequence[int], n: int, segment: int) -> Move:
    """Return what an exchange of one of N ranks, or of ranks with such shares, means for a vector of n elements.

    A message has `segment` elements at the most. It is sent from where it lies, and received where it belongs, unless
    it is of several pieces, or to be added, or would be overwritten on its way: then it goes through the room.
    """
    to, source = int(exchange.to), int(exchange.source)
    send = _pieces(exchange.send, N, n) if to != NOBODY else ()
    recv = _pieces(exchange.recv, N, n) if source != NOBODY else ()
    clash = any(a.start < b.stop and b.start < a.stop for a in send for b in recv)
    swaps = clash and exchange.reduce and send == recv and len(send) == 1
    sends, packed = [], 0
    for part in _cut(send, segment):
        message, room = _message(send, part, packed, through_room=clash and not swaps)
        sends.append(message)
        packed += room
    recvs, scratch = [], 0
    for part in _cut(recv, segment):
        message, room = _message(recv, part, packed, through_room=exchange.reduce)
        recvs.append(message)
        scratch = max(scratch, room)
    return Move(to, tuple(sends), source, tuple(recvs), exchange.reduce, swaps, packed + scratch)


def _pieces(which: Slices, N: int | Sequence[int], n: int) -> tuple[slice, ...]:
    """Slices as elements; neighbours are joined."""
    joined: list[slice] = []
    for number in as_slices(which).numbers(N if isinstance(N, int) else len(N)):
        piece = span(number, 1, N, n)
        if joined and joined[-1].stop == piece.start:
            joined[-1] = slice(joined[-1].start, piece.stop)
        else:
            joined.append(piece)
    return tuple(joined)


def _cut(pieces: tuple[slice, ...], segment: int) -> list[slice]:
    """Cut pieces, laid end to end, in segments; nothing is one empty segment, for messages keep ranks in step."""
    length = sum(piece.stop - piece.start for piece in pieces)
    return [slice(at, min(at + segment, length)) for at in range(0, max(1, length), segment)] if pieces else []


def _message(pieces: tuple[slice, ...], part: slice, room: int, through_room: bool) -> tuple[Message, int]:
    """Return the message for a part of pieces laid end to end, and the room that it takes, from element `room` on."""
    pairs, at = [], 0
    for piece in pieces:
        first, last = max(part.start, at), min(part.stop, at + piece.stop - piece.start)
        if first < last:
            there, here = piece.start - at, room - part.start
            pairs.append((slice(first + there, last + there), slice(first + here, last + here)))
        at += piece.stop - piece.start
    if not pairs:
        return Message(slice(pieces[0].start, pieces[0].start), ()), 0
    if len(pairs) == 1 and not through_room:
        return Message(pairs[0][0], ()), 0
    length = part.stop - part.start
    return Message(slice(room, room + length), tuple(pairs)), length
