"""What an exchange means for a vector of so many elements: which elements go, and where those that come belong.

Slice i of n elements is elements n i / N to n (i + 1) / N, rounded down: all equally long if N divides n.
"""

from typing import NamedTuple

from zerosim.collectives.exchange import NOBODY, Exchange, Slices, as_slices


class Arrival(NamedTuple):
    """A message that is received in the room, and where its elements belong."""

    room: slice
    """Elements of the room."""
    targets: tuple[tuple[slice, slice], ...]
    """(elements of the vector, elements of the room), in turn."""


class Move(NamedTuple):
    """An exchange of one rank, for one vector. With a room, a scratch of so many elements, where it is needed."""

    to: int
    pack: tuple[slice, ...]
    """Pieces of the vector, in elements, to be copied into the room and sent from there; empty: sent in place."""
    sends: tuple[slice, ...]
    """The messages to send: elements of the room if it was packed there, and else of the vector."""
    source: int
    recvs: tuple[slice, ...]
    """The messages received straight into the vector: elements of it."""
    arrivals: tuple[Arrival, ...]
    """The messages received in the room."""
    reduce: bool
    swaps: bool
    """Whether what comes may be added only when what was there has gone out: the same elements go and come."""
    room: int
    """Elements of room that it takes."""


def span(first: int, count: int, N: int, n: int) -> slice:
    """Where slices `first` to `first` + `count` lie in a vector of n elements."""
    return slice(n * first // N, n * (first + count) // N)


def move(exchange: Exchange, N: int, n: int, segment: int) -> Move:
    """Return what an exchange of one of N ranks means for a vector of n elements.

    A message has `segment` elements at the most. What is sent lies in place if it is one piece that nothing is received
    into, or that is added to only; and what is received goes in place if it is one piece and nothing is added.
    """
    to, source = int(exchange.to), int(exchange.source)
    send = _pieces(exchange.send, N, n) if to != NOBODY else ()
    recv = _pieces(exchange.recv, N, n) if source != NOBODY else ()
    clash = any(a.start < b.stop and b.start < a.stop for a in send for b in recv)
    swaps = clash and exchange.reduce and send == recv and len(send) == 1
    packed = _length(send) if len(send) > 1 or (clash and not swaps) else 0
    messages = _cut(_length(send), segment) if to != NOBODY else []
    incoming = _cut(_length(recv), segment) if source != NOBODY else []
    in_place = not exchange.reduce and len(recv) == 1
    scratch = 0 if in_place else max((part.stop - part.start for part in incoming), default=0)
    return Move(
        to=to,
        pack=send if packed else (),
        sends=tuple(_shift(part, 0 if packed else send[0].start) for part in messages),
        source=source,
        recvs=tuple(_shift(part, recv[0].start) for part in incoming) if in_place else (),
        arrivals=() if in_place else tuple(_arrival(recv, part, packed) for part in incoming),
        reduce=exchange.reduce,
        swaps=swaps,
        room=packed + scratch,
    )


def _pieces(which: Slices, N: int, n: int) -> tuple[slice, ...]:
    """Slices as elements; neighbours are joined."""
    joined: list[slice] = []
    for number in as_slices(which).numbers(N):
        piece = span(number, 1, N, n)
        if joined and joined[-1].stop == piece.start:
            joined[-1] = slice(joined[-1].start, piece.stop)
        else:
            joined.append(piece)
    return tuple(joined)


def _length(pieces: tuple[slice, ...]) -> int:
    return sum(piece.stop - piece.start for piece in pieces)


def _cut(length: int, segment: int) -> list[slice]:
    """Cut a length in segments; nothing is one empty segment, for it is by messages that ranks keep in step."""
    return [slice(at, min(at + segment, length)) for at in range(0, max(1, length), segment)]


def _shift(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _arrival(pieces: tuple[slice, ...], part: slice, room: int) -> Arrival:
    """Where a part of what is received is taken in, from element `room` of the room on, and where it belongs."""
    targets, at = [], 0
    for piece in pieces:
        first, last = max(part.start, at), min(part.stop, at + piece.stop - piece.start)
        if first < last:
            there, here = piece.start - at, room - part.start
            targets.append((slice(first + there, last + there), slice(first + here, last + here)))
        at += piece.stop - piece.start
    return Arrival(slice(room, room + part.stop - part.start), tuple(targets))
