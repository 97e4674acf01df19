"""Bytes held by one rank, by class: every array that outlives an expression is taken from here.

`take` and `release` are the two entries of the book; `borrow` is both around a `with` block. The book is held against
the interpreter: an array that was released must be dead by the next `take`, or that `take` raises. So a name that
keeps a released array alive (a loop variable, say) is an error at once and not a peak that the book does not show.
"""

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

CLASSES = ("parameters", "gradients", "optimizer_states", "activations", "buffers")


class Event(NamedTuple):
    """An entry of the book."""

    at: float
    """time.perf_counter(), in seconds."""
    cls: str
    change: int
    """Bytes: more than 0 when an array is taken, less when it is released."""
    array: int
    """Which array: its id(), which no other has until it is released."""


class StillReferenced(RuntimeError):
    """An array was released and something still refers to it: the array."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(f"{array.nbytes} bytes of {array.dtype} {array.shape} were released but are still referenced")
        self.array = array


class Ledger:
    """Bytes now and at the peak, by class, for one place (a rank's memory).

    `now` maps each of `CLASSES` to bytes held now; `peak` is a copy of `now` at the moment of the greatest total, with
    that total under "total"; `most` is the most that each class has held, whenever that was. All figures are bytes.
    """

    def __init__(self) -> None:
        self.now: dict[str, int] = dict.fromkeys(CLASSES, 0)
        self._total = 0
        self._held: dict[int, tuple[str, int]] = {}
        self._released: list[weakref.ref] = []
        self._events: list[Event] | None = None
        self.reset_peak()

    def take(self, cls: str, shape: Any, dtype: Any) -> np.ndarray:
        """Return a new array, not initialised, booked under `cls` until it is given to `release`.

        Raises StillReferenced if an array released before is, KeyError for an unknown class.
        """
        self._check_released()
        array = np.empty(shape, dtype)
        self._held[id(array)] = cls, array.nbytes
        self._book(cls, array.nbytes, array)
        return array

    def release(self, array: np.ndarray) -> None:
        """Book `array` off. The caller lets go of it; the next `take` checks that everyone has."""
        cls, nbytes = self._held.pop(id(array))
        self._book(cls, -nbytes, array)
        self._released.append(weakref.ref(array))

    def borrow(self, cls: str, shape: Any, dtype: Any) -> "_Loan":
        """Take an array for the length of a `with` block."""
        return _Loan(self, cls, shape, dtype)

    def reset_peak(self) -> None:
        """Forget the peaks so far: they are what is held now."""
        self.peak = {**self.now, "total": self._total}
        self.most = dict(self.now)

    def held(self) -> list[Event]:
        """Return the arrays taken and not released yet, as if they were taken now; loans are not among them."""
        now = time.perf_counter()
        return [Event(now, cls, nbytes, array) for array, (cls, nbytes) in self._held.items()]

    @contextmanager
    def recording(self) -> Iterator[list[Event]]:
        """Collect what is booked inside the block; if somebody collects around it, they get it too, when it ends."""
        events: list[Event] = []
        outer, self._events = self._events, events
        try:
            yield events
        finally:
            self._events = outer
            if outer is not None:
                outer += events

    def _book(self, cls: str, nbytes: int, array: np.ndarray) -> None:
        self.now[cls] = now = self.now[cls] + nbytes
        self._total = total = self._total + nbytes
        if nbytes > 0:
            if now > self.most[cls]:
                self.most[cls] = now
            if total > self.peak["total"]:
                self.peak = {**self.now, "total": total}
        if self._events is not None:
            self._events.append(Event(time.perf_counter(), cls, nbytes, id(array)))

    def _check_released(self) -> None:
        for reference in self._released:
            if (array := reference()) is not None:
                raise StillReferenced(array)
        self._released.clear()


class _Loan:
    """What `borrow` returns: a context manager as light as can be, for a step enters dozens."""

    __slots__ = ("_array", "_cls", "_ledger", "_terms")

    def __init__(self, ledger: Ledger, cls: str, *terms: Any) -> None:
        self._ledger, self._cls, self._terms = ledger, cls, terms

    def __enter__(self) -> np.ndarray:
        ledger = self._ledger
        if ledger._released:
            ledger._check_released()
        array = self._array = np.empty(*self._terms)
        ledger._book(self._cls, array.nbytes, array)
        return array

    def __exit__(self, *error: object) -> None:
        ledger, array = self._ledger, self._array
        ledger._book(self._cls, -array.nbytes, array)
        ledger._released.append(weakref.ref(array))
        del self._array
