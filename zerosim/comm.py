"""The one door: only here do bytes leave or reach a rank, and here they are counted.

A verb runs an algorithm's exchanges over a transport. Vectors are cut into N equal slices; rank r owns slice r. Sums
are made here, in the dtype that travels, for MPI knows no float16.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from zerosim.collectives import ALGORITHMS, Exchange
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.transport import Transport

CONTROL = "control"
"""The book for what is not the paper's traffic: the loss, the norm, evaluation, and what the report gathers."""


class Comm:
    """One rank's door. Scratch is taken from `ledger`; `collective` names the algorithm.

    `sent` and `messages` count bytes and messages by verb ("control" for those); `received` counts all bytes that the
    transport says have arrived, and `seconds` the time spent inside.
    """

    def __init__(self, transport: Transport, ledger: Ledger, collective: str = "ring") -> None:
        self.rank, self.size = transport.rank, transport.size
        self._transport, self._ledger = transport, ledger
        self._algorithm = ALGORITHMS[collective]
        self._book: str | None = None
        self.sent: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.received = 0
        self.seconds = 0.0

    # the three verbs -------------------------------------------------------------------------------------------------

    def reduce_scatter(self, vector: np.ndarray) -> np.ndarray:
        """Sum `vector` (N equal slices) over the ranks and return the own slice, a view; the others are spoilt."""
        self._run("reduce_scatter", self._algorithm.reduce_scatter(self.rank, self.size), vector)
        return vector.reshape(self.size, -1)[self.rank]

    def all_gather(self, vector: np.ndarray) -> None:
        """Fill `vector` (N equal slices) with each rank's own slice of it."""
        self._run("all_gather", self._algorithm.all_gather(self.rank, self.size), vector)

    def all_reduce(self, vector: np.ndarray) -> None:
        """Sum `vector` (N equal slices) over the ranks: a reduce_scatter, then an all_gather."""
        with self.booked_as("all_reduce"):
            self.reduce_scatter(vector)
            self.all_gather(vector)

    # a few numbers ---------------------------------------------------------------------------------------------------

    def sum(self, *numbers: float) -> list[float]:
        """Return each number's sum over the ranks, in float64, added in the order of ranks: the same bits on all."""
        with self.booked_as(CONTROL), self._ledger.borrow("buffers", (self.size, len(numbers)), np.float64) as table:
            table[self.rank] = numbers
            self.all_gather(table.reshape(-1))
            return [float(total) for total in table.sum(axis=0)]

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        """Return every rank's payload, on every rank; they may differ in length."""
        with self.booked_as(CONTROL):
            lengths = np.zeros(self.size, np.int64)
            lengths[self.rank] = len(payload)
            self.all_gather(lengths)
            table = np.zeros((self.size, max(1, lengths.max())), np.uint8)
            table[self.rank, : len(payload)] = np.frombuffer(payload, np.uint8)
            self.all_gather(table.reshape(-1))
            return [row[:length].tobytes() for row, length in zip(table, lengths, strict=True)]

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

    def _run(self, verb: str, exchanges: Iterable[Exchange], vector: np.ndarray) -> None:
        started = time.perf_counter()
        book = self._book or verb
        slices = vector.reshape(self.size, -1)
        for exchange in exchanges:
            if exchange.reduce:
                self._add_incoming(book, exchange, slices)
            else:
                self._sendrecv(book, exchange, slices[exchange.send], slices[exchange.recv])
        self.seconds += time.perf_counter() - started

    def _add_incoming(self, book: str, exchange: Exchange, slices: np.ndarray) -> None:
        with self._ledger.borrow("buffers", slices.shape[1], slices.dtype) as incoming:
            self._sendrecv(book, exchange, slices[exchange.send], incoming)
            mine = slices[exchange.recv]
            np.add(mine, incoming, out=mine)

    def _sendrecv(self, book: str, exchange: Exchange, send: np.ndarray, recv: np.ndarray) -> None:
        self.sent[book] += send.nbytes
        self.messages[book] += 1
        self.received += self._transport.sendrecv(send, exchange.to, recv, exchange.source)
