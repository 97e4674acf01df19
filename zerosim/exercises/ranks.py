"""A reader's code on in-process ranks: one that waits for ever, or computes for ever, is ended and named."""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from zerosim.transport import Transport
from zerosim.transport.threads import Aborted, run_threads


class Stuck(Exception):
    """Raised where a rank waits, or where it loops, when its time is over."""


def on_ranks(N: int, function: Callable[[Transport], Any], seconds: float = 20) -> list[Any]:
    """Call `function(comm)` on N in-process ranks and return the results; raise what the first to fail raises.

    Raises Stuck, with the traceback of a rank that has not ended, after so many seconds.
    """
    ranks: dict[int, tuple[Transport, threading.Thread]] = {}
    late: list[Exception] = []

    def run(comm: Transport) -> Any:
        ranks[comm.rank] = comm, threading.current_thread()
        try:
            return function(comm)
        except Aborted as error:
            words = "for a message that no rank sends: all ranks must call the same verbs in the same order"
            late.append(
                Stuck(f"after {seconds:g} s rank {comm.rank} still waits {words}").with_traceback(error.__traceback__)
            )
            raise
        except _Ended as error:
            late.append(Stuck(f"rank {comm.rank} {not_ended(seconds)}").with_traceback(error.__traceback__))

    def end() -> None:
        for comm, _ in list(ranks.values()):
            comm.abort()
        for _, thread in list(ranks.values()):
            thread.join(0.1)
            if thread.is_alive():  # it waits for nobody
                raise_in(thread, _Ended)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        results = run_threads(N, run)
    finally:
        timer.cancel()
    if late:
        raise late[-1]
    return results


def raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Make a thread raise; it cannot be killed from outside."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(error))


def not_ended(seconds: float) -> str:
    """What to say of code that computes for too long."""
    return f"has not ended after {seconds:g} s: is there a loop without an end?"


class _Ended(BaseException):
    """Raised in a rank from outside."""
