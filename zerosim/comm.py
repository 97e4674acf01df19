"""The one door: only here do bytes leave or reach a rank, and here they are counted.

A verb runs an algorithm's exchanges over a transport. Vectors are cut into N slices, as equal as can be; rank r owns
slice r. Sums are made here, each rounded to the dtype that travels, for MPI knows no float16.

What is to be summed goes in segments: several are sent off at once, and while one is added the next is on its way,
through a scratch that stays in the processor's cache. So a slice of any size needs no more room.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from zerosim.collectives import ALGORITHMS, NATIVE, VERBS, Algorithm, NotForN, find, prove
from zerosim.collectives.moves import Message, Move, move, span
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.precision import add
from zerosim.transport import Transport

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


def open_door(transport: Transport, ledger: Ledger, collective: Algorithm | str = "ring") -> "Comm":
    """Return a rank's door for what was `chosen`, or for a name. Raises InputError if there is no such door."""
    if collective == NATIVE:
        return NativeComm(transport, ledger)
    algorithm = chosen(collective, transport.size) if isinstance(collective, str) else collective
    return Comm(transport, ledger, algorithm)


class Plan(NamedTuple):
    """What a verb does for vectors of one size."""

    who: str
    """The algorithm's name."""
    room: int
    """Elements."""
    moves: list[Move]
    sums_own: bool
    """Whether the last move sums the own slice, the whole of it, and nothing else."""


class _Task(NamedTuple):
    """A vector on its way through the moves of a verb."""

    moves: list[Move]
    vector: np.ndarray
    room: np.ndarray
    out: np.ndarray | None


class Comm:
    """One rank's door. Scratch is taken from `ledger`; `collective` is the algorithm or its name.

    `sent` and `messages` count bytes and messages by verb ("control" for those); `received` counts all bytes that the
    transport says have arrived, and `seconds` the time spent inside. `who` says which algorithm moved vectors of so
    many bytes, control aside.
    """

    modelled = False
    """Whether what is booked is a model's and not counted."""

    def __init__(self, transport: Transport, ledger: Ledger, collective: Algorithm | str = "ring") -> None:
        self.rank, self.size = transport.rank, transport.size
        self.algorithm = find(collective) if isinstance(collective, str) else collective
        self._transport, self._ledger = transport, ledger
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._book: str | None = None
        self.sent: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.received = 0
        self.seconds = 0.0
        self.who: dict[int, str] = {}

    @property
    def waited(self) -> float:
        """Seconds so far, of those inside, in which this rank waited for others."""
        return self._transport.waited

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
        with self.booked_as(CONTROL), self._ledger.borrow("buffers", (self.size, len(numbers)), np.float64) as table:
            table[self.rank] = numbers
            self._gather(table.reshape(-1))
            return [float(total) for total in table.sum(axis=0)]

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

    def _gather(self, vector: np.ndarray) -> None:
        """Gather a few numbers: what counts is how few messages follow one another, for any N."""
        self._run(FEW, "all_gather", [vector])

    def swap(self, partner: int, mine: np.ndarray, theirs: np.ndarray) -> None:
        """Exchange one array with one rank, which does the same; to measure what a message takes."""
        sending = self._transport.send(mine, partner)
        self.received += self._transport.recv(theirs, partner)
        self._transport.wait(sending)
        self.sent[CONTROL] += mine.nbytes
        self.messages[CONTROL] += 1

    def agreed(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args); but if it raises InputError on any rank, raise the first such error on every rank."""
        result, message = None, ""
        try:
            result = function(*args)
        except InputError as error:
            message = str(error)
        for text in self.gather_bytes(message.encode()):
            if text:
                raise InputError(text.decode())
        return result

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

    # how an exchange is made -----------------------------------------------------------------------------------------

    def own(self, vector: np.ndarray) -> np.ndarray:
        """Return the own slice of a vector of N slices, a view."""
        return vector[span(self.rank, 1, self.size, vector.size)]

    def _verb(self, verb: str, vectors: Sequence[np.ndarray], out: np.ndarray | None = None) -> None:
        for group in [vectors] if len(vectors) == 1 else _short_ones_together(vectors):
            plans = self._run(self.algorithm, verb, group, out)
            if self._book is None:
                for plan, vector in zip(plans, group, strict=True):
                    self.who[vector.nbytes] = plan.who

    def _run(
        self, algorithm: Algorithm, verb: str, vectors: Sequence[np.ndarray], out: np.ndarray | None = None
    ) -> list[Plan]:
        """Do a verb on several vectors, exchange by exchange, and return what was planned for each."""
        started = time.perf_counter()
        plans = [self._plan(algorithm, verb, vector) for vector in vectors]
        elements = sum([plan.room for plan in plans])
        if elements:
            with self._ledger.borrow("buffers", elements, vectors[0].dtype) as room:
                self._follow(_tasks(plans, vectors, room, out), self._book or verb)
        else:
            self._follow(_tasks(plans, vectors, None, out), self._book or verb)
        if out is not None and not plans[0].sums_own:
            out[...] = self.own(vectors[0])
        self.seconds += time.perf_counter() - started
        return plans

    def _plan(self, algorithm: Algorithm, verb: str, vector: np.ndarray) -> Plan:
        """Return what a verb takes and does for vectors like this one; worked out once."""
        key = algorithm.name, verb, vector.size, vector.itemsize
        plan = self._plans.get(key)
        if plan is None:
            who = algorithm.for_bytes(vector.nbytes, self.size)
            segment = max(1, SEGMENT // vector.itemsize)
            moves = [move(e, self.size, vector.size, segment) for e in who.exchanges(verb, self.rank, self.size)]
            moves[1::2] = [step.backwards() for step in moves[1::2]]  # what was touched last is still in the cache
            room = max((step.room for step in moves), default=0)
            sums_own = bool(moves) and self._sums_own(moves[-1], vector)
            plan = self._plans[key] = Plan(who.name, room, moves, sums_own)
        return plan

    def _sums_own(self, step: Move, vector: np.ndarray) -> bool:
        """Whether a move adds to the own slice, the whole of it, and to nothing else."""
        own = span(self.rank, 1, self.size, vector.size)
        pieces = [piece for message in step.recvs for piece, _ in message.pieces]
        inside = all(own.start <= piece.start and piece.stop <= own.stop for piece in pieces)
        whole = sum(piece.stop - piece.start for piece in pieces) == own.stop - own.start
        return step.reduce and inside and whole

    def _follow(self, tasks: list["_Task"], book: str) -> None:
        """Exchange by exchange: send messages off, take in those that come, wait until all that was sent is taken."""
        for turn in range(max(len(task.moves) for task in tasks)):
            flights = []
            for task in tasks:
                if turn < len(task.moves):
                    step = task.moves[turn]
                    to_go = iter(step.sends[WINDOW:])
                    flights.append((task, step, to_go, self._send(task, step, step.sends[:WINDOW], book)))
            for task, step, to_go, sent in flights:
                for message in step.recvs:
                    self._receive(task, step, message, sent)
                    if (following := next(to_go, None)) is not None:
                        sent += self._send(task, step, (following,), book)
                for message in to_go:  # what goes to one from whom nothing comes
                    self._transport.wait(sent.pop(0))
                    sent += self._send(task, step, (message,), book)
            for _, _, _, sent in flights:
                for sending in sent:
                    self._transport.wait(sending)

    def _send(self, task: "_Task", step: Move, messages: Iterable[Message], book: str) -> list[Any]:
        """Send messages of a move off, and return what `wait` takes of each."""
        vector, room, sent = task.vector, task.room, []
        for where, pieces in messages:
            for piece, spot in pieces:
                room[spot] = vector[piece]
            message = room[where] if pieces else vector[where]
            sent.append(self._transport.send(message, step.to))
            self.sent[book] += message.nbytes
            self.messages[book] += 1
        return sent

    def _receive(self, task: "_Task", step: Move, message: Message, sent: list[Any]) -> None:
        """Take in a message of a move. With `out`, the last move's sums go there, and not to the own slice.

        Where the same elements go out and come in, what was `sent` first must have gone before they are added to.
        """
        vector, room, recv = task.vector, task.room, self._transport.recv
        where, pieces = message
        self.received += recv(room[where] if pieces else vector[where], step.source)
        if not pieces:
            return
        if step.swaps:
            self._transport.wait(sent.pop(0))
        out = task.out if step is task.moves[-1] else None
        first = self.rank * vector.size // self.size
        for piece, spot in pieces:
            mine = vector[piece]
            if out is not None:
                add(mine, room[spot], out[piece.start - first : piece.stop - first], self._ledger)
            elif step.reduce:
                add(mine, room[spot], mine, self._ledger)
            else:
                mine[:] = room[spot]


def _tasks(
    plans: list[Plan], vectors: Sequence[np.ndarray], room: np.ndarray | None, out: np.ndarray | None
) -> list[_Task]:
    """Give each vector its moves, and its part of the room."""
    tasks, at = [], 0
    for plan, vector in zip(plans, vectors, strict=True):
        own_room = vector if room is None else room[at : at + plan.room]
        tasks.append(_Task(plan.moves, vector, own_room, out if plan.sums_own else None))
        at += plan.room
    return tasks


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

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        super().__init__(transport, ledger)
        native = getattr(transport, "native", None)
        if native is None:
            raise InputError("collective native: in-process ranks have no MPI library; start them with mpirun")
        self._native: Callable[[str, np.ndarray, np.ndarray], None] = native

    def _verb(self, verb: str, vectors: Sequence[np.ndarray], out: np.ndarray | None = None) -> None:
        for vector in vectors:
            self._do(verb, vector, out)

    def _do(self, verb: str, vector: np.ndarray, out: np.ndarray | None) -> None:
        started = time.perf_counter()
        if verb != "reduce_scatter":
            self._native(verb, vector, vector)
        elif out is not None:
            self._native(verb, vector, out)
        else:
            with self._ledger.borrow("buffers", self.own(vector).size, vector.dtype) as room:
                self._native(verb, vector, room)
                self.own(vector)[...] = room
        moves = self._plan(RING, verb, vector).moves
        elements = sum(message.where.stop - message.where.start for step in moves for message in step.sends)
        self.sent[self._book or verb] += elements * vector.itemsize
        self.received += elements * vector.itemsize
        self.seconds += time.perf_counter() - started
