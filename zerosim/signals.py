"""SIGINT and SIGTERM ask for the end: the first is remembered until a step is over, a second one ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def remembered() -> Iterator[Callable[[], int]]:
    """Inside the block, remember the first signal that asks for the end; yields what returns its number, or 0.

    mpirun hands a signal on to all its ranks. What was done with these signals before is done again after the first one
    has come, and after the block. Outside the main thread, which alone hears signals, nothing is changed.
    """
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        put_back()

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, hear) for number in ASKED}
    try:
        yield lambda: heard[0] if heard else 0
    finally:
        put_back()
