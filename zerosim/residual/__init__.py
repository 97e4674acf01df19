"""Residual states, what a step holds besides the model states: a module for each way of ZeRO-R to hold less.

(ZeRO, arXiv:1910.02054, section 6.) A section's `measure` is called by every rank and returns rows, JSON types only,
measurement beside formula; `show` makes text and tables of them. A new section is a new module, named here.
"""

from types import ModuleType
from typing import Any

from zerosim.bench.shared import Tell
from zerosim.residual import activations, buffers, defragmentation
from zerosim.residual.shared import Settings
from zerosim.transport import Transport

SCHEMA = "zerosim.residual/1"

SECTIONS: dict[str, ModuleType] = {
    "activations": activations,
    "buffers": buffers,
    "defragmentation": defragmentation,
}

__all__ = ["SCHEMA", "SECTIONS", "Settings", "measure"]


def measure(transport: Transport, settings: Settings, tell: Tell) -> dict[str, Any]:
    """Return every section's rows; each rank calls it, and what it says of other ranks is the same on all of them."""
    return {
        "schema": SCHEMA,
        "backend": transport.backend,
        "ranks": transport.size,
        "settings": settings.asdict(),
        "sections": {name: section.measure(transport, settings, tell) for name, section in SECTIONS.items()},
    }
