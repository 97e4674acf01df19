"""Whether there is room in memory: looked at before the work, for the kernel ends what takes too much."""

import os
from collections.abc import Sequence

from zerosim import formulas
from zerosim.errors import InputError
from zerosim.parallel import Grid

_SHARE = 0.9
"""Of the memory that can be filled: libraries and the system need some too."""


def check_room(what: str, nbytes: int, here: int) -> None:
    """Raise InputError, which says `what` it is, if `here` ranks on this machine cannot hold `nbytes` each."""
    there = _memory()
    if there and nbytes * here > _SHARE * there:
        where = f"on each of {here} ranks" if here > 1 else "on one rank"
        raise InputError(f"{what}: {nbytes:,} bytes {where} are too many for this machine, which has {there:,}")


def check_states(
    stages: Sequence[int], L: Sequence[int], grid: Grid, precision: str, optimizer: str, here: int
) -> None:
    """Raise InputError if `here` ranks cannot hold the states of a model; what a step needs besides comes on top.

    `L` are the layer widths, inputs first.
    """
    places = map(grid.place, range(min(here, grid.size)))
    held = [(formulas.Place(grid.tensor, t, grid.pipeline, p, grid.counts), d) for t, d, p in places]
    for stage in stages:
        states = max(
            sum(formulas.at_rest(stage, L, grid.shares, precision, optimizer, place, d).values()) for place, d in held
        )
        what = f"stage {stage}: the states of {formulas.parameters(L):,} parameters"
        padded = sum(formulas.padded_parameters(L, grid.shares, place) for place in {place for place, _ in held})
        if padded > 2 * formulas.parameters(L):
            what += f", padded to {padded:,} for slices in that proportion,"
        check_room(what, states, min(here, grid.size))


def _memory() -> int:
    """Bytes of memory there are for this process: the machine's, its control group's or its own; 0 if nobody says."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    try:
        with open("/sys/fs/cgroup/memory.max") as limit:
            there = min(there, int(limit.read()))
    except (OSError, ValueError):
        pass
    return min(there, _limit() or there)


def _limit() -> int:
    """Bytes of address space that this process may have (ulimit -v); 0 if nobody says."""
    try:
        import resource
    except ImportError:
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 0 if soft == resource.RLIM_INFINITY else soft
