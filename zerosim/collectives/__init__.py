"""Collective algorithms, each a list of exchanges: arithmetic on `rank`, no data, no transport."""

from types import ModuleType

from zerosim.collectives import ring
from zerosim.collectives.exchange import Exchange

ALGORITHMS: dict[str, ModuleType] = {"ring": ring}
"""By the name of the flag `--collective`: a module with the generators reduce_scatter and all_gather."""

__all__ = ["ALGORITHMS", "Exchange"]
