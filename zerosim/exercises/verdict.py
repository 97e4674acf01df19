"""What a check says: right, or the first thing that is wrong. A check is a function that raises Wrong."""

import functools
import inspect
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zerosim.errors import InputError
from zerosim.exercises.ranks import not_ended, raise_in


class Wrong(Exception):
    """What a solution does that it should not, in the terms of the lesson: which rank, which slice, how many bytes."""


@dataclass(frozen=True)
class Verdict:
    """Whether a solution is right, and why not or what was tried."""

    right: bool
    why: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return f"{'Right' if self.right else 'Not yet'}: {self.why}"


def exercise(check: Callable[..., str]) -> Callable[..., Verdict]:
    """Make a check of a function that raises Wrong, or returns what was tried.

    Whatever a solution raises is a verdict too, with the solution's own line.
    """

    @functools.wraps(check)
    def checked(*solution: Any, **settings: Any) -> Verdict:
        try:
            return Verdict(True, check(*solution, **settings))
        except Wrong as wrong:
            return Verdict(False, str(wrong))
        except (AssertionError, InputError) as refused:
            return Verdict(False, str(refused) or f"an assertion fails{_where(refused, solution)}")
        except SystemExit as error:
            return Verdict(False, f"it leaves the program (exit); it must return{_where(error, solution)}")
        except Exception as error:
            return Verdict(False, f"{type(error).__name__}: {error}{_where(error, solution)}")

    return checked


def in_time(function: Callable[..., Any], *args: Any, seconds: float = 20) -> Any:
    """Return function(*args); raise what it raises, and Wrong if it has not ended after so many seconds."""
    result: list[Any] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            result.append(function(*args))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise_in(thread, SystemExit)
        raise Wrong(f"it {not_ended(seconds)}")
    if raised:
        raise raised[0]
    return result[0]


def wanted(function: Any, *names: str) -> None:
    """Raise Wrong unless this is a function that takes these arguments, whatever it calls them."""
    if not callable(function):
        raise Wrong(f"this is {type(function).__name__}, and must be a function of ({', '.join(names)})")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return
    try:
        signature.bind(*names)
    except TypeError:
        called = getattr(function, "__name__", type(function).__name__)
        raise Wrong(f"{called}{signature} must take ({', '.join(names)})") from None


def _where(error: BaseException, solution: tuple[Any, ...]) -> str:
    """Say in which line of the solution's own file, or of its cell, it was raised; nothing if in none of it."""
    codes = (getattr(inspect.unwrap(getattr(each, "func", each)), "__code__", None) for each in solution)
    files = {code.co_filename for code in codes if code}
    own = [place for place in traceback.extract_tb(error.__traceback__) if place.filename in files]
    return f", in line {own[-1].lineno} of yours: {own[-1].line}" if own else ""
