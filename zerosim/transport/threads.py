"""Ranks as threads of one process, for notebooks and tests: the same code above the door, no MPI needed."""

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from zerosim.blas import one_thread
from zerosim.transport import Waits


class Aborted(RuntimeError):
    """Raised in a rank that waits for another one which has failed."""


class ThreadWorld:
    """The mailboxes between N threads: one for each pair and direction, and one for the receipts."""

    def __init__(self, N: int) -> None:
        self.size = N
        self.letters: list[list[SimpleQueue[Any]]] = [[SimpleQueue() for _ in range(N)] for _ in range(N)]
        self.receipts: list[list[SimpleQueue[Any]]] = [[SimpleQueue() for _ in range(N)] for _ in range(N)]

        self._parts: dict[tuple[int, ...], ThreadWorld] = {}
        self._lock = threading.Lock()
        self._aborted = False

    def part(self, ranks: tuple[int, ...]) -> "ThreadWorld":
        """Return the world of these ranks, the same for each of them."""
        with self._lock:
            part = self._parts.setdefault(ranks, ThreadWorld(len(ranks)))
        if self._aborted:
            part.abort()
        return part

    def abort(self) -> None:
        """Wake every rank that waits; whoever takes from a mailbox from now on fails."""
        self._aborted = True
        with self._lock:
            parts = list(self._parts.values())
        for part in parts:
            part.abort()
        for boxes in (*self.letters, *self.receipts):
            for box in boxes:
                box.put(Aborted)

    @staticmethod
    def take(box: SimpleQueue, partner: int, waits: Waits) -> Any:
        """Return a letter or a receipt of a partner; if it had to be waited for, that is booked."""
        try:
            letter = box.get_nowait()
        except Empty:
            began = time.perf_counter()
            letter = box.get()
            waits.over(partner, began)
        if letter is Aborted:
            box.put(Aborted)
            raise Aborted("another rank failed")
        return letter


class ThreadTransport:
    """One thread's end of a `ThreadWorld`."""

    backend = "threads"

    def __init__(self, world: ThreadWorld, rank: int) -> None:
        self._world = world
        self.rank, self.size, self.here = rank, world.size, world.size
        self.waits = Waits(world.size)
        self._parts: dict[tuple[int, ...], ThreadTransport] = {}
        self._sent, self._confirmed = [0] * world.size, [0] * world.size

    def send(self, array: np.ndarray, to: int) -> tuple[int, int]:
        """See `Transport`. The receiver copies straight from this array, then gives a receipt."""
        self._world.letters[to][self.rank].put(array)
        self._sent[to] += 1
        return to, self._sent[to]

    def recv(self, array: np.ndarray, source: int) -> int:
        """See `Transport`."""
        letter = self._take(self._world.letters[self.rank][source], source)
        array[...] = letter
        arrived = letter.nbytes
        del letter  # the sender may let go of its array as soon as it has the receipt
        self._world.receipts[source][self.rank].put(None)
        return arrived

    def wait(self, sending: tuple[int, int]) -> None:
        """See `Transport`. Receipts come in the order of letters, but may be asked for in any."""
        to, number = sending
        while self._confirmed[to] < number:
            self._take(self._world.receipts[self.rank][to], to)
            self._confirmed[to] += 1

    def part(self, ranks: Sequence[int]) -> "ThreadTransport":
        """See `Transport`."""
        if list(ranks) == list(range(self.size)):
            return self
        key = tuple(ranks)
        if key not in self._parts:
            self._parts[key] = ThreadTransport(self._world.part(key), key.index(self.rank))
        return self._parts[key]

    def _take(self, box: SimpleQueue, partner: int) -> Any:
        return self._world.take(box, partner, self.waits)

    def abort(self) -> None:
        """Wake the other ranks; `run_threads` raises this rank's exception in the caller."""
        self._world.abort()


def alone() -> ThreadTransport:
    """Return a world of one rank, in the calling thread."""
    return ThreadTransport(ThreadWorld(1), 0)


def run_threads(N: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call `function(comm, *args)` in N threads, one for each rank, and return the results in the order of ranks.

    `comm` is what `zerosim.train` takes. BLAS is held to one thread meanwhile, for N of them compute at a time. If a
    rank raises, the others are woken and end, and its exception is raised here with the rank's number as a note.
    """
    if isinstance(N, bool) or not isinstance(N, int) or N < 1:
        raise ValueError(f"{N!r} ranks: a whole number of 1 or more is needed")
    world = ThreadWorld(N)
    results: list[Any] = [None] * N
    failures: list[tuple[int, BaseException]] = []

    def run(rank: int) -> None:
        try:
            results[rank] = function(ThreadTransport(world, rank), *args)
        except BaseException as error:
            if not isinstance(error, Aborted):
                failures.append((rank, error))
            world.abort()

    with one_thread():
        threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(N)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            world.abort()
            raise
    if failures:
        rank, error = failures[0]
        error.add_note(f"(on rank {rank} of {N})")
        raise error
    return results
