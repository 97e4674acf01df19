"""Words for numbers and names, as messages and figures say them."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from zerosim.errors import InputError

T = TypeVar("T")


def counted(number: int, what: str) -> str:
    """1 rank, 2 ranks, 1,024 ranks."""
    return f"{number} {what}" if number == 1 else f"{number:,} {what}s"


def meant(name: str, known: Iterable[str]) -> str:
    """The one of the names that are known which may be meant, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"is {close[0]} meant?" if close else f"there are {', '.join(known)}"


def picked(command: str, what: str, names: Iterable[str], known: Mapping[str, T]) -> list[T]:
    """Return what these names stand for, each once, or all if there are none.

    Raises InputError, as from a command, for a name that is not known, with the one that may be meant.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in known:
            raise InputError(f"{command}: there is no {what} {name!r}; {meant(name, known)}")
    return [known[name] for name in names] if names else list(known.values())
