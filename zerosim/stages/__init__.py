"""The four stages of ZeRO, one file each: `allocate` is what a rank holds, `step` is what it does.

`forward` is one layer's forward pass as that stage does it. The same phases stand in the same order in every file, so
that a diff of two of them is the difference between two stages. `local` has the same shape and is no stage of ZeRO.
"""

from types import ModuleType

from zerosim.stages import local, zero0, zero1, zero2, zero3

STAGES: tuple[ModuleType, ...] = (zero0, zero1, zero2, zero3)

__all__ = ["STAGES", "local"]
