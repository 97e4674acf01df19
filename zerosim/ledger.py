"""Bytes held by one rank, by class: every array that outlives an expression is taken from here.

`take` and `release` are the two entries of the book; `borrow` is both around a `with` block. The book is held against
the interpreter: an array that was released must be dead by the next `take`, or that `take` raises. So a name that
keeps a released array alive (a loop variable, say) is an error at once and not a peak that the book does not show.
"""

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

CLASSES = ("parameters", "gradients", "optimizer_states", "activations", "buffers")


class Ledger:
    """Bytes now and at the peak, by class, for one place (a rank's memory).

    `now` maps each of `CLASSES` to bytes held now; `peak` is a copy of `now` at the moment of the greatest total, with
    that total under "total"; `most` is the most that each class has held, whenever that was. All figures are bytes.
    """

    def __init__(self) -> None:
        self.now: dict[str, int] = dict.fromkeys(CLASSES, 0)
        self._total = 0
        self._held: dict[int, str] = {}
        self._released: list[weakref.ref] = []
        self._events: list[tuple[float, str, int]] | None = None
        self.reset_peak()

    def take(self, cls: str, shape: Any, dtype: Any) -> np.ndarray:
        """Return a new array, not initialised, booked under `cls` until it is given to `release`.

        Raises RuntimeError if an array released before is still referenced, KeyError for an unknown class.
        """
        self._check_released()
        array = np.empty(shape, dtype)
        self._held[id(array)] = cls
        self._book(cls, array.nbytes)
        return array

    def release(self, array: np.ndarray) -> None:
        """Book `array` off. The caller lets go of it; the next `take` checks that everyone has."""
        cls = self._held.pop(id(array))
        self._book(cls, -array.nbytes)
        self._released.append(weakref.ref(array))

    def borrow(self, cls: str, shape: Any, dtype: Any) -> "_Loan":
        """Take an array for the length of a `with` block."""
        return _Loan(self, cls, shape, dtype)

    def reset_peak(self) -> None:
        """Forget the peaks so far: they are what is held now."""
        self.peak = {**self.now, "total": self._total}
        self.most = dict(self.now)

    @contextmanager
    def recording(self) -> Iterator[list[tuple[float, str, int]]]:
        """Collect what is booked inside the block: (time.perf_counter() in seconds, class, change in bytes)."""
        events: list[tuple[float, str, int]] = []
        self._events = events
        try:
            yield events
        finally:
            self._events = None

    def _book(self, cls: str, nbytes: int) -> None:
        self.now[cls] = now = self.now[cls] + nbytes
        self._total = total = self._total + nbytes
        if nbytes > 0:
            if now > self.most[cls]:
                self.most[cls] = now
            if total > self.peak["total"]:
                self.peak = {**self.now, "total": total}
        if self._events is not None:
            self._events.append((time.perf_counter(), cls, nbytes))

    def _check_released(self) -> None:
        for reference in self._released:
            if (array := reference()) is not None:
                raise RuntimeError(
                    f"{array.nbytes} bytes of {array.dtype} {array.shape} were released but are still referenced"
                )
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
        ledger._book(self._cls, array.nbytes)
        return array

    def __exit__(self, *error: object) -> None:
        ledger, array = self._ledger, self._array
        ledger._book(self._cls, -array.nbytes)
        ledger._released.append(weakref.ref(array))
        del self._array
