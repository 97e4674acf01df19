"""The one door: only here do bytes leave or reach a rank, and here they are counted.

A verb runs an algorithm's exchanges over a transport. Vectors are cut into N slices, as equal as can be, or by shares
that the door was given; rank r owns slice r. Sums are made here, each rounded to the dtype that travels, for MPI knows
no float16.

What is to be summed goes in segments: several are sent off at once, and while one is added the next is on its way,
through a scratch that stays in the processor's cache. So a slice of any size needs no more room.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from zerosim.collectives import ALGORITHMS, NATIVE, VERBS, Algorithm, NotForN, find, prove
from zerosim.collectives.moves import Message, Move, Pairs, move, span
from zerosim.errors import Failed, InputError
from zerosim.ledger import Ledger
from zerosim.precision import add
from zerosim.transport import Transport
from zerosim.transport.watched import Listener, Span, Watched

CONTROL = "control"
"""The book for what is not the paper's traffic: the loss, the norm, evaluation, and what the report gathers."""

RING, FEW = ALGORITHMS["ring"], ALGORITHMS["bruck"]
"""What native collectives are booked as, and what gathers a few numbers."""

SEGMENT = 1 << 20
"""Bytes that are summed at a time; measured: larger ones leave the cache, smaller ones cost more messages."""


def chosen(collective: str, N: int, verbs: Iterable[str] = VERBS) -> Algorithm | str:
    """Return the algorithm of that name for these verbs on N ranks, or "native"; a reader's own is proved first.

    Raises InputError if there is none, if it is not for so many ranks, or if it is wrong.
    """
    if collective == NATIVE:
        return NATIVE
    try:
        algorithm = find(collective)
        if not algorithm.proven:
            prove(algorithm, N)
        for verb in verbs:
            try:
                next(algorithm.exchanges(verb, 0, N), None)
            except NotForN as error:
                raise ValueError(f"{verb}: {error}") from None
    except ValueError as error:
        raise InputError(f"collective {collective}: {error}") from None
    return algorithm


def open_door(
    transport: Transport,
    ledger: Ledger,
    collective: Algorithm | str = "ring",
    shares: int | Sequence[int] | None = None,
) -> "Comm":
    """Return a rank's door for what was `chosen`, or for a name. Raises InputError if there is no such door."""
    if collective == NATIVE:
        return NativeComm(transport, ledger, shares)
    algorithm = chosen(collective, transport.size) if isinstance(collective, str) else collective
    return Comm(transport, ledger, algorithm, shares)


class Letter(NamedTuple):
    """A message of one vector of several."""

    vector: int
    """Its number among those that go together."""
    partner: int
    where: slice
    pieces: Pairs
    """See `zerosim.collectives.moves.Message`; the room is one for all vectors."""
    reduce: bool
    after: int
    """Number of the letter sent in this turn that must have gone out before this one is added; -1: none."""
    last: bool
    """Whether it is a vector's last exchange."""


class Call(NamedTuple):
    """What a door is called for, as it begins."""

    at: float
    verb: str
    book: str
    sent: int
    """Bytes in that book until then."""
    received: int
    """Bytes of all books until then."""


class Plan(NamedTuple):
    """What a verb does for vectors of certain sizes, together."""

    who: list[str]
    """The algorithm of each."""
    room: int
    """Elements."""
    turns: list[tuple[list[Letter], list[Letter]]]
    """What goes out and what comes in, exchange by exchange."""
    sums_own: bool
    """Whether the last exchange of a single vector sums its own slice, the whole of it, and nothing else."""


class Comm:
    """One rank's door. Scratch is taken from `ledger`; `collective` is the algorithm or its name.

    `shares` are how many parts each rank's slice is of the vectors that the three verbs move; or N, for one each.
    `sent` and `messages` count bytes and messages by verb ("control" for those); `received` counts all bytes that the
    transport says have arrived, and `seconds` the time spent inside. `who` says which algorithm moved vectors of so
    many bytes, control aside.
    """

    modelled = False
    """Whether what is booked is a model's and not counted."""

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        collective: Algorithm | str = "ring",
        shares: int | Sequence[int] | None = None,
    ) -> None:
        self.rank, self.size = transport.rank, transport.size
        self.shares = transport.size if shares is None else shares if isinstance(shares, int) else tuple(shares)
        self.algorithm = find(collective) if isinstance(collective, str) else collective
        self._transport, self._ledger = transport, ledger
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._book: str | None = None
        self._listeners: list[tuple[str, Listener]] = []
        self.sent: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.received = 0
        self.seconds = 0.0
        self.who: dict[int, str] = {}

    # the three verbs -------------------------------------------------------------------------------------------------

    def reduce_scatter(self, *vectors: np.ndarray, out: np.ndarray | None = None) -> None:
        """Sum each vector (N slices) over the ranks into its own slice; what else is in it is spoilt.

        The own slice of a single vector can go to `out` instead.
        """
        self._verb("reduce_scatter", vectors, out)

    def all_gather(self, *vectors: np.ndarray) -> None:
        """Fill each vector (N slices) with each rank's own slice of it."""
        self._verb("all_gather", vectors)

    def all_reduce(self, *vectors: np.ndarray) -> None:
        """Sum each vector over the ranks, with the same bits on all of them and the same as by reduce_scatter."""
        self._verb("all_reduce", vectors)

    # a few numbers ---------------------------------------------------------------------------------------------------

    def sum(self, *numbers: float) -> list[float]:
        """Return each number's sum over the ranks, in float64, added in the order of ranks: the same bits on all."""
        return [float(total) for total in self.numbers(*numbers).sum(axis=0)]

    def numbers(self, *numbers: float) -> np.ndarray:
        """Return every rank's numbers, (N, numbers), in float64."""
        with self.booked_as(CONTROL), self._ledger.borrow("buffers", (self.size, len(numbers)), np.float64) as table:
            table[self.rank] = numbers
            self._gather(table.reshape(-1))
            return table.copy()

    def add_up(self, vector: np.ndarray, book: str) -> None:
        """Sum a vector of few numbers (N slices) over the ranks, by exchanges, with the same bits on all of them."""
        with self.booked_as(book):
            self._run(FEW, "reduce_scatter", [vector], self.size)
            self._gather(vector)

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        """Return every rank's payload, on every rank; they may differ in length."""
        with self.booked_as(CONTROL):
            lengths = np.zeros(self.size, np.int64)
            lengths[self.rank] = len(payload)
            self._gather(lengths)
            table = np.zeros((self.size, max(1, lengths.max())), np.uint8)
            table[self.rank, : len(payload)] = np.frombuffer(payload, np.uint8)
            self._gather(table.reshape(-1))
            return [row[:length].tobytes() for row, length in zip(table, lengths, strict=True)]

    def collect_bytes(self, payload: bytes) -> list[bytes]:
        """Return every rank's payload on rank 0, and nothing on the others: for what is bulky, and needed once."""
        with self.booked_as(CONTROL):
            lengths = [int(length) for (length,) in self.numbers(len(payload))]
            if self.rank > 0:
                self.send(np.frombuffer(payload, np.uint8), 0)
                return []
            collected = [payload]
            for source in range(1, self.size):
                room = np.empty(lengths[source], np.uint8)
                self.recv(room, source)
                collected.append(room.tobytes())
            return collected

    def gather_values(self, value: Any) -> list[Any]:
        """Return every rank's value, on every rank; JSON types only."""
        return [json.loads(text) for text in self.gather_bytes(json.dumps(value).encode())]

    def _gather(self, vector: np.ndarray) -> None:
        """Gather a few numbers: what counts is how few messages follow one another, for any N."""
        self._run(FEW, "all_gather", [vector], self.size)

    # from rank to rank -----------------------------------------------------------------------------------------------

    def send(self, array: np.ndarray, to: int) -> None:
        """Send a contiguous array to one rank, which calls `recv`, and wait until it has gone out."""
        call = self._begin("send")
        self._transport.wait(self._transport.send(array, to))
        self.sent[call.book] += array.nbytes
        self.messages[call.book] += 1
        self._end(call)

    def recv(self, array: np.ndarray, source: int) -> None:
        """Receive into a contiguous array what one rank sends."""
        call = self._begin("recv")
        self.received += self._transport.recv(array, source)
        self._end(call)

    def broadcast(self, array: np.ndarray, root: int) -> None:
        """Send the root's contiguous array to all others, one after the other."""
        if self.rank != root:
            self.recv(array, root)
            return
        for to in range(self.size):
            if to != root:
                self.send(array, to)

    def swap(self, partner: int, mine: np.ndarray, theirs: np.ndarray) -> None:
        """Exchange one array with one rank, which does the same; to measure what a message takes."""
        sending = self._transport.send(mine, partner)
        self.received += self._transport.recv(theirs, partner)
        self._transport.wait(sending)
        self.sent[CONTROL] += mine.nbytes
        self.messages[CONTROL] += 1

    def agreed(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args); but if it raises InputError or Failed on any rank, raise the first on every rank.

        Any other exception ends all ranks: none of them would hear of it otherwise.
        """
        result, message = None, ""
        try:
            result = function(*args)
        except (InputError, Failed) as error:
            message = f"{'Failed' if isinstance(error, Failed) else 'InputError'} {error}"
        except BaseException:
            self._transport.abort()
            raise
        for text in self.gather_bytes(message.encode()):
            if text:
                kind, _, words = text.decode().partition(" ")
                raise {"Failed": Failed, "InputError": InputError}[kind](words)
        return result

    def on_first(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args) on the first rank and None on the others; what it raises is raised as by `agreed`."""
        return self.agreed(function, *args) if self.rank == 0 else self.agreed(lambda: None)

    @contextmanager
    def watched(self, group: str, ranks: Sequence[int], listener: Listener) -> Iterator[None]:
        """Let a listener see every message and every call inside the block.

        `group` is what this door is called there, and `ranks` are its ranks, numbered as in the world.
        """
        outer = self._transport
        self._transport = Watched(outer, ranks, listener)
        self._listeners.append((group, listener))
        try:
            yield
        finally:
            self._listeners.pop()
            self._transport = outer

    # the count -------------------------------------------------------------------------------------------------------

    @contextmanager
    def booked_as(self, book: str) -> Iterator[None]:
        """Book all that is sent inside the block under this name; the outermost block decides."""
        outer = self._book
        self._book = outer or book
        try:
            yield
        finally:
            self._book = outer

    def _begin(self, verb: str) -> Call:
        book = self._book or verb
        return Call(time.perf_counter(), verb, book, self.sent[book], self.received)

    def _end(self, call: Call, who: Sequence[str] = ()) -> None:
        """Count the time of a call, and tell it to those who listen; `who` are the algorithms."""
        ended = time.perf_counter()
        self.seconds += ended - call.at
        for group, listener in self._listeners:
            details = {
                "group": group,
                "book": call.book,
                "sent": self.sent[call.book] - call.sent,
                "received": self.received - call.received,
                **({"algorithm": ", ".join(dict.fromkeys(who))} if who else {}),
            }
            listener.span(Span(call.verb, "call", call.at, ended, details))

    # how an exchange is made -----------------------------------------------------------------------------------------

    def own(self, vector: np.ndarray) -> np.ndarray:
        """Return the own slice of a vector of N slices, a view."""
        return vector[span(self.rank, 1, self.shares, vector.size)]

    def _verb(self, verb: str, vectors: Sequence[np.ndarray], out: np.ndarray | None = None) -> None:
        for group in [vectors] if len(vectors) == 1 else _short_ones_together(vectors):
            plan = self._run(self.algorithm, verb, group, self.shares, out)
            if self._book is None:
                for who, vector in zip(plan.who, group, strict=True):
                    self.who[vector.nbytes] = who

    def _run(
        self,
        algorithm: Algorithm,
        verb: str,
        vectors: Sequence[np.ndarray],
        shares: int | Sequence[int],
        out: np.ndarray | None = None,
    ) -> Plan:
        """Do a verb on several vectors, exchange by exchange, and return the plan."""
        call = self._begin(verb)
        plan = self._plan(algorithm, verb, vectors, shares)
        straight = out if plan.sums_own else None
        if plan.room:
            with self._ledger.borrow("buffers", plan.room, vectors[0].dtype) as room:
                self._follow(plan.turns, call.book, vectors, room, straight)
        else:
            self._follow(plan.turns, call.book, vectors, vectors[0], straight)
        if out is not straight and out is not None:
            out[...] = self.own(vectors[0])
        self._end(call, plan.who)
        return plan

    def _plan(
        self, algorithm: Algorithm, verb: str, vectors: Sequence[np.ndarray], shares: int | Sequence[int]
    ) -> Plan:
        """Return what a verb takes and does for vectors like these; worked out once."""
        key = algorithm.name, verb, shares, vectors[0].itemsize, *[vector.size for vector in vectors]
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._work_out(algorithm, verb, vectors, shares)
        return plan

    def _work_out(
        self, algorithm: Algorithm, verb: str, vectors: Sequence[np.ndarray], shares: int | Sequence[int]
    ) -> Plan:
        who: list[str] = []
        turns: list[tuple[list[Letter], list[Letter]]] = []
        at = 0
        sums_own = False
        for number, vector in enumerate(vectors):
            mover = algorithm.for_bytes(vector.nbytes, self.size)
            who.append(mover.name)
            segment = max(1, SEGMENT // vector.itemsize)
            moves = [move(e, shares, vector.size, segment) for e in mover.exchanges(verb, self.rank, self.size)]
            moves[1::2] = [step.backwards() for step in moves[1::2]]  # what was touched last is still in the cache
            turns += [([], []) for _ in range(len(moves) - len(turns))]
            for turn, step in enumerate(moves):
                sends, recvs = turns[turn]
                first = len(sends)
                sends += [Letter(number, step.to, *_moved(m, at), False, -1, False) for m in step.sends]
                recvs += [
                    Letter(
                        number,
                        step.source,
                        *_moved(m, at),
                        step.reduce,
                        first + i if step.swaps else -1,
                        step is moves[-1],
                    )
                    for i, m in enumerate(step.recvs)
                ]
            at += max((step.room for step in moves), default=0)
            sums_own = len(vectors) == 1 and bool(moves) and self._sums_own(moves[-1], vector)
        return Plan(who, at, turns, sums_own)

    def _sums_own(self, step: Move, vector: np.ndarray) -> bool:
        """Whether a move adds to the own slice, the whole of it, and to nothing else."""
        own = span(self.rank, 1, self.shares, vector.size)
        pieces = [piece for message in step.recvs for piece, _ in message.pieces]
        inside = all(own.start <= piece.start and piece.stop <= own.stop for piece in pieces)
        whole = sum(piece.stop - piece.start for piece in pieces) == own.stop - own.start
        return step.reduce and inside and whole

    def _follow(
        self,
        turns: list[tuple[list[Letter], list[Letter]]],
        book: str,
        vectors: Sequence[np.ndarray],
        room: np.ndarray,
        out: np.ndarray | None,
    ) -> None:
        """Exchange by exchange: send messages off, take in those that come, wait until all that was sent is taken.

        With `out`, the last exchange's sums go there, where they are to stay, and not to the own slice.
        """
        recv, wait = self._transport.recv, self._transport.wait
        octets = messages = arrived = 0
        for sends, recvs in turns:
            sent: list[Any] = []
            for letter in sends[:WINDOW]:
                octets += self._send(letter, vectors, room, sent)
            for number, source, where, pieces, reduce, after, last in recvs:
                vector = vectors[number]
                if not pieces:
                    arrived += recv(vector[where], source)
                else:
                    arrived += recv(room[where], source)
                    if after >= 0:
                        wait(sent[after])
                    for piece, spot in pieces:
                        mine = vector[piece]
                        if not reduce:
                            mine[:] = room[spot]
                        elif last and out is not None:
                            first = span(self.rank, 1, self.shares, vector.size).start
                            add(mine, room[spot], out[piece.start - first : piece.stop - first], self._ledger)
                        else:
                            add(mine, room[spot], mine, self._ledger)
                if len(sent) < len(sends):
                    octets += self._send(sends[len(sent)], vectors, room, sent)
            while len(sent) < len(sends):  # to one from whom less comes
                wait(sent[len(sent) - WINDOW])
                octets += self._send(sends[len(sent)], vectors, room, sent)
            for sending in sent:
                wait(sending)
            messages += len(sent)
        self.sent[book] += octets
        self.messages[book] += messages
        self.received += arrived

    def _send(self, letter: Letter, vectors: Sequence[np.ndarray], room: np.ndarray, sent: list[Any]) -> int:
        """Send a letter off, add what `wait` takes to `sent`, and return its bytes."""
        vector = vectors[letter.vector]
        for piece, spot in letter.pieces:
            room[spot] = vector[piece]
        message = room[letter.where] if letter.pieces else vector[letter.where]
        sent.append(self._transport.send(message, letter.partner))
        return message.nbytes


def _moved(message: Message, at: int) -> tuple[slice, Pairs]:
    """Where a message lies, and its pieces, if its vector's part of the room begins at element `at`."""
    if not message.pieces:
        return message.where, ()
    pieces = tuple((piece, slice(spot.start + at, spot.stop + at)) for piece, spot in message.pieces)
    return slice(message.where.start + at, message.where.stop + at), pieces


WINDOW = 16
"""Messages of a rank on their way at the most: networks take a limited number that nobody has received yet.

So many vectors may share their exchanges, too; such a vector is one message.
"""


def _short_ones_together(vectors: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Group neighbours of at most `SEGMENT` bytes together: ranks then wait for one another once for all of them."""
    group: list[np.ndarray] = []
    for vector in vectors:
        if len(group) == WINDOW or (group and sum(one.nbytes for one in group) + vector.nbytes > SEGMENT):
            yield group
            group = []
        group.append(vector)
    if group:
        yield group


class NativeComm(Comm):
    """A door whose verbs are the MPI library's own collectives.

    What the library sends cannot be seen from here. It is booked as if by the ring, which sends the least that is
    possible, without messages, and marked as modelled. A few numbers still go by exchanges, and are counted.
    """

    modelled = True

    def __init__(self, transport: Transport, ledger: Ledger, shares: int | Sequence[int] | None = None) -> None:
        super().__init__(transport, ledger, shares=shares)
        native = getattr(transport, "native", None)
        if native is None:
            raise InputError("collective native: in-process ranks have no MPI library; start them with mpirun")
        self._native: Callable[..., None] = native

    def _verb(self, verb: str, vectors: Sequence[np.ndarray], out: np.ndarray | None = None) -> None:
        for vector in vectors:
            self._do(verb, vector, out)

    def _do(self, verb: str, vector: np.ndarray, out: np.ndarray | None) -> None:
        call = self._begin(verb)
        counts = [cut.stop - cut.start for cut in (span(r, 1, self.shares, vector.size) for r in range(self.size))]
        if verb != "reduce_scatter":
            self._native(verb, vector, vector, counts)
        elif out is not None:
            self._native(verb, vector, out, counts)
        else:
            with self._ledger.borrow("buffers", counts[self.rank], vector.dtype) as room:
                self._native(verb, vector, room, counts)
                self.own(vector)[...] = room
        turns = self._plan(RING, verb, [vector], self.shares).turns
        elements = sum(letter.where.stop - letter.where.start for sends, _ in turns for letter in sends)
        self.sent[call.book] += elements * vector.itemsize
        self.received += elements * vector.itemsize
        self._end(call, [NATIVE])
