"""The operating system as a witness: the pages that this process has written to, and its peak resident memory.

Both have a floor, what Python, NumPy, BLAS, MPI and the data hold. It is measured after a rehearsal, a step of the same
stage that is thrown away, for libraries take memory when they are first used, and keep it. Linux only: /proc (proc(5)).
"""

import gc
from pathlib import Path
from typing import Any

from zerosim.errors import InputError
from zerosim.heap import give_back
from zerosim.witness.witness import Witness

_PROC = Path("/proc/self")


def private_dirty() -> int:
    """Bytes of pages that this process alone has and has written to (Private_Dirty of /proc/self/smaps_rollup)."""
    return _field(_PROC / "smaps_rollup", "Private_Dirty")


def resident() -> int:
    """Bytes of this process in memory, libraries and shared memory included (VmRSS of /proc/self/status)."""
    return _field(_PROC / "status", "VmRSS")


def peak_resident() -> int:
    """The greatest `resident` since `forget_peak` (VmHWM of /proc/self/status)."""
    return _field(_PROC / "status", "VmHWM")


def forget_peak() -> None:
    """Let the peak begin anew from what is resident now."""
    (_PROC / "clear_refs").write_text("5")


def settle() -> None:
    """Free what nobody refers to, and give it back to the system."""
    gc.collect()
    give_back()


def check() -> None:
    """Raise InputError if this system does not say what is needed."""
    try:
        private_dirty()
        resident()
        forget_peak()
        peak_resident()
    except (OSError, ValueError, StopIteration):
        raise InputError("witness os: it reads /proc/self/smaps_rollup and clear_refs, which Linux has") from None


def _field(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


class System(Witness):
    """Asks the operating system for this process's memory."""

    rehearses = True

    def __init__(self, door: Any) -> None:
        check()
        self._peak = self._at_rest = 0

    def before_allocation(self) -> None:
        """See `Witness`."""
        settle()
        self._dirty_floor, self._resident_floor = private_dirty(), resident()

    def before_step(self) -> None:
        """See `Witness`."""
        forget_peak()

    def after_step(self) -> None:
        """See `Witness`."""
        self._peak = max(self._peak, peak_resident())

    def at_rest(self) -> None:
        """See `Witness`."""
        settle()
        self._at_rest = private_dirty()

    def testimony(self) -> dict[str, int]:
        """Return "at_rest" and "peak" above their floors, and the floors: of written pages, and of what is resident."""
        return {
            "at_rest": self._at_rest - self._dirty_floor,
            "peak": self._peak - self._resident_floor,
            "floor_written": self._dirty_floor,
            "floor_resident": self._resident_floor,
        }
