"""The commands of `python -m zerosim`, a module each: `add` describes its flags, `run` does it.

A command is loaded when it is asked for: what the others need is not, on any rank.
"""

from importlib import import_module
from types import ModuleType

COMMANDS = (
    "train",
    "checkpoint",
    "plan",
    "check",
    "myths",
    "gallery",
    "collectives",
    "bench",
    "figures",
    "residual",
    "witness",
)


def command(name: str) -> ModuleType:
    """Return the module of a command."""
    return import_module(f"zerosim.commands.{name}")
