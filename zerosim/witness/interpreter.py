"""The interpreter as a witness: tracemalloc sees every array that NumPy allocates.

At rest it adds up NumPy's own domain, so Python's objects do not count. A peak is kept for all domains together only;
so what a step rises above its own end is added to the arrays at rest. Python's objects that are there at the end and
were not at the peak are taken off with it: some 10 kB in the first two steps, whose timeline is written down, so that
after two steps of a small model the ledger is that much above this witness. From the third step on it is below, by some
6 kB of messages.
"""

import tracemalloc

import numpy as np

from zerosim.witness.witness import Witness


class Interpreter(Witness):
    """Counts allocations from before the model states on; it slows the run down."""

    def before_allocation(self) -> None:
        """See `Witness`."""
        tracemalloc.start()
        self._at_rest = self._rise = 0

    def before_step(self) -> None:
        """See `Witness`."""
        tracemalloc.reset_peak()

    def after_step(self) -> None:
        """See `Witness`."""
        now, peak = tracemalloc.get_traced_memory()
        self._rise = max(self._rise, peak - now)

    def at_rest(self) -> None:
        """See `Witness`."""
        arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
        snapshot = tracemalloc.take_snapshot().filter_traces([arrays])
        self._at_rest = sum(trace.size for trace in snapshot.traces)

    def close(self) -> None:
        """See `Witness`."""
        tracemalloc.stop()

    def testimony(self) -> dict[str, int]:
        """Return the arrays "at_rest", and at the greatest "peak" of a step."""
        return {"at_rest": self._at_rest, "peak": self._at_rest + self._rise}
