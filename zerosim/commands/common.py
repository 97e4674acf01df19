"""What the commands share: their parser, their place among the ranks, the line that shows progress."""

import argparse
import difflib
import math
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from zerosim.errors import InputError
from zerosim.transport import Transport
from zerosim.transport.mpi import world

Commands = Any
"""What argparse's add_subparsers returns: a command adds its parser to it, with `run` and `parser` as defaults."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors: one line, from one rank."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(message)


def parts_of(parser: argparse.ArgumentParser, names: str) -> Callable[[str, Any, str], argparse.ArgumentParser]:
    """Give a command sub-commands, `names` with | between; the function returned adds one: its name, `run` and text."""
    command = parser.prog.split()[-1]
    what = ", ".join(names.split("|")[:-1]) + (" or " if "|" in names else "") + names.split("|")[-1]

    def nothing(arguments: argparse.Namespace, transport: Transport | None) -> None:
        raise InputError(f"{command}: say what: {what} (see {command} --help)")

    parser.set_defaults(run=nothing, parser=parser)
    parts = parser.add_subparsers(dest="part", metavar=names)

    def part(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = parts.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run, parser=sub)
        return sub

    return part


def unknown(word: str, parser: argparse.ArgumentParser) -> str:
    """What to say of a word that `parser` has left over."""
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    close = difflib.get_close_matches(word.split("=")[0], flags, 1)
    kind = "flag" if word.startswith("-") else "argument"
    command = parser.prog.split("zerosim ")[-1]
    return f"the {kind} {word} is not known" + (f"; is {close[0]} meant?" if close else f"; see {command} --help")


def add_ranks(parser: argparse.ArgumentParser, to: Any, more: str = "") -> None:
    """Give a parser, or a group of it, the flag for what `place` does; `instead_of_mpi` says that it has it."""
    to.add_argument("--ranks", type=int, metavar="N", help=f"N in-process ranks instead of MPI's{more}")
    parser.set_defaults(instead_of_mpi=True)


def place(ranks: int | None, transport: Transport | None) -> Transport | None:
    """Return this process's place among MPI's ranks, or None if --ranks asks for ranks within this process.

    `transport` is the place that mpirun gave it, if mpirun started it.
    """
    if ranks is None:
        return transport or world()
    if ranks < 1:
        raise InputError(f"ranks: {ranks} must be 1 or more")
    if transport and (transport.size > 1 or ranks > 1):
        raise InputError(
            f"ranks: --ranks {ranks} asks for ranks in one process, but mpirun has started {transport.size}; "
            "use one or the other"
        )
    return None


class ProgressLine:
    """A line that says how far the work is: rewritten in place on a terminal, else a new one every few seconds.

    What is over in a few seconds leaves no line in a file: there it would stand among the results, as one of them.
    """

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._every = 0.1 if self._live else 3.0
        self._said = -math.inf if self._live else time.monotonic()
        self._began = False
        self.before = ""
        """A line to say before the first step of a training."""

    def __call__(self, stage: int, step: int, steps: int, loss: float) -> None:
        """Show how far a training is (`zerosim.train.Progress`)."""
        if self.before:
            self.done()
            print(self.before, file=sys.stderr, flush=True)
            self.before = ""
        self.tell(f"stage {stage}: step {step} of {steps}, loss {loss:.4f}", last=step == steps or not self._began)

    def tell(self, text: str, last: bool = False) -> None:
        """Show `text`, unless it is too soon; the last text of a series is always shown."""
        if last or time.monotonic() - self._said >= self._every:
            self.say(text)

    def say(self, text: str) -> None:
        """Show `text` as where things stand."""
        self._began = True
        self._said = time.monotonic()
        end = "" if self._live else "\n"
        print(f"\r{text:<70}" if self._live else text, end=end, file=sys.stderr, flush=True)

    def done(self) -> None:
        """Leave the line."""
        if self._live and self._began:
            print(f"\r{'':<70}\r", end="", file=sys.stderr, flush=True)
