"""How the commands print and write what they found: sizes, times and rates as text, a table, JSON and a figure."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from zerosim.comm import Comm
from zerosim.commands.common import ProgressLine
from zerosim.errors import InputError
from zerosim.jsonfile import write_json
from zerosim.ledger import Ledger
from zerosim.report import make_folder, si
from zerosim.transport import Transport
from zerosim.transport.threads import alone

_UNITS = {"": 1, "B": 1, "KB": 1000}
_UNITS |= {f"{prefix}B": 1000**i for i, prefix in enumerate("kMGT", 1)}
_UNITS |= {f"{prefix}iB": 1024**i for i, prefix in enumerate("KMGT", 1)}


def parse_size(text: str) -> float:
    """Return bytes from "1e9", "64MiB" or "1 GB". Raises InputError."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    try:
        number = float(match[1]) * _UNITS[match[2]] if match else 0.0
    except (KeyError, ValueError):
        number = 0.0
    if not 1 <= number <= 1e15:
        raise InputError(f"bytes: {text!r} is no size; say 1e9, 4KiB, 64MiB, 1GB, … (1 B to 1e15 B)")
    return number


def is_first(transport: Transport | None) -> bool:
    """Whether this process prints."""
    return transport is None or transport.rank == 0


def door_of(transport: Transport | None) -> Comm:
    """Return a door to agree through, without mpirun that of a world of one rank."""
    return Comm(transport or alone(), Ledger())


def quiet(text: str) -> None:
    """Say nothing: another rank shows the progress."""


def printable(text: Any) -> str:
    """A file's text as a terminal can be given it."""
    return "".join(char if char.isprintable() else "?" for char in str(text or ""))


def text_rate(rate: float | None) -> str:
    """Bytes per second, in powers of 1000."""
    return "-" if rate is None else f"{si(rate)}/s"


def agreed_folder(door: Comm, out: str, *files: str) -> None:
    """Have the first rank make the folder --out for these files. Raises InputError on all ranks."""
    door.on_first(make_folder, out, *files)


def make_folder_for(name: str, door: Comm, out: str) -> None:
    """Make the folder --out for NAME.json and its figure; see `agreed_folder`."""
    agreed_folder(door, out, *(f"{name}{ending}" for ending in (".json", ".png", ".svg")))


def publish(result: dict[str, Any], draw: Any, table: str, name: str, arguments: argparse.Namespace) -> None:
    """Print a result, as JSON or as the table, and write it as NAME.json and as a figure into the folder --out.

    `draw` makes the figure; or it is several by name.
    """
    from zerosim import figures

    drawn = draw if isinstance(draw, dict) else {name: draw}
    progress = ProgressLine()
    try:
        path = write_json(result, Path(arguments.out) / f"{name}.json")
        progress.say("drawing the figure" + "s" * (len(drawn) > 1))
        for each, make in drawn.items():
            figures.save(make(result), arguments.out, each)
    finally:  # on a full disk too
        progress.done()
        print(json.dumps(result, allow_nan=False) if arguments.json else table)
    if not arguments.json:
        what = "Figure" + "s" * (len(drawn) > 1)
        print(f"Numbers: {path}\n{what}: {', '.join(drawn)} (.png and .svg, beside it)")
