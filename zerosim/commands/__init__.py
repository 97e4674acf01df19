"""The commands of `python -m zerosim`, a module each: `add` describes its flags, `run` does it."""

from types import ModuleType

from zerosim.commands import (
    bench,
    check,
    checkpoint,
    collectives,
    figures,
    gallery,
    myths,
    plan,
    residual,
    train,
    witness,
)

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "checkpoint": checkpoint,
    "plan": plan,
    "check": check,
    "myths": myths,
    "gallery": gallery,
    "collectives": collectives,
    "bench": bench,
    "figures": figures,
    "residual": residual,
    "witness": witness,
}

__all__ = ["COMMANDS"]
