"""SIGINT and SIGTERM ask for the end. In a training the first one is remembered until a step is over.

What was told to ignore them, as nohup does, goes on ignoring them.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

ASKED = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM has come, where nobody waits for the end of a step."""

    status = 143


def deadly_while_loading() -> None:
    """In `python -m zerosim`, let SIGINT kill at once until the command line begins, as SIGTERM does anyway.

    In the middle of its imports Python would end with a traceback and a status, and mpirun would not end the others.
    """
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # -m: still looking
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def raised() -> Iterator[None]:
    """Inside the block, SIGINT raises KeyboardInterrupt and SIGTERM Terminated."""
    with _handled({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _terminate}):
        yield


@contextmanager
def remembered() -> Iterator[Callable[[], int]]:
    """Inside the block, remember the first signal that asks for the end; yields what returns its number, or 0.

    mpirun hands a signal on to all its ranks. What was done with these signals before is done again after the first one
    has come, and after the block.
    """
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        put_back()

    with _handled(dict.fromkeys(ASKED, hear)) as put_back:
        yield lambda: heard[0] if heard else 0


@contextmanager
def _handled(handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]]) -> Iterator[Callable[[], None]]:
    """Handle signals so inside the block; yields what ends that before. Other threads than the main one hear none."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in handlers}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, handlers[number])
    try:
        yield put_back
    finally:
        put_back()


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
