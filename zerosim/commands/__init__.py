"""The commands of `python -m zerosim`, a module each: `add` describes its flags, `run` does it."""

from types import ModuleType

from zerosim.commands import collectives, train

COMMANDS: dict[str, ModuleType] = {"train": train, "collectives": collectives}

__all__ = ["COMMANDS"]
