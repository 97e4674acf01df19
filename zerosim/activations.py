"""What a rank keeps of a micro-batch between forward and backward, and where: activation checkpoints (ZeRO-R).

    layers            |   0   |   1   |   2   |   3   |        every = 2
    inputs kept       x0              x2              (x4)     x1 and x3 are dropped, and computed again on the way back

Checkpointing keeps the input of every k-th layer only (Chen et al. 2016, arXiv:1604.06174). Tensor-parallel ranks hold
some inputs alike: partitioned (Pa), each keeps 1/T of them, and they gather them before backward; with Pa+cpu the part
waits in the host's memory (ZeRO, section 6.1). With `Rank.contiguous` they are copied to one chunk of memory, allocated
beforehand (M_D, section 6.3). None of it changes a bit.
"""

import numpy as np

from zerosim.collectives.moves import span
from zerosim.ledger import Ledger
from zerosim.rank import Rank


class Held:
    """The arrays of one micro-batch on a rank: by number, the input of each layer, and behind them the last outputs."""

    def __init__(self, rank: Rank, rows: np.ndarray) -> None:
        self.rank, self.rows = rank, rows
        self.arrays: dict[int, np.ndarray] = {}
        self.chunk: np.ndarray | None = None
        """Room for all that will be kept, in one piece; None: each array stays where it was made."""

    def reserve(self) -> None:
        """Before anything else is taken: allocate the chunk, if there is to be one. It holds whole inputs only."""
        if self.rank.contiguous:
            assert not self.rank.config.partition_activations
            assert not self.rank.config.cpu_checkpointing
            widths = [part.inputs for part in self.rank.model.parts[:: self.rank.keep_every]]
            self.chunk = self.rank.ledger.take("activations", sum(widths) * self.rows.size, self.rank.precision.dtype)
            self._filled = 0

    def take(self, k: int, width: int) -> np.ndarray:
        """Return room for array k, (width, rows)."""
        self.arrays[k] = self.rank.ledger.take("activations", (width, self.rows.size), self.rank.precision.dtype)
        return self.arrays[k]

    def release(self, k: int) -> None:
        """Let go of array k; the chunk goes with the last array in it."""
        array = self.arrays.pop(k)
        if self.chunk is None or array.base is not self.chunk:
            self.rank.ledger.release(array)
        elif k == 0:
            self.rank.ledger.release(self.chunk)
            self.chunk = None

    def put_away(self, k: int) -> None:
        """Layer k has used its input: keep it, or a part of it, here or in the host's memory; or drop it."""
        if k % self.rank.keep_every:
            self.release(k)
            return
        if self.chunk is not None:
            self._copy(k, self.chunk)
            return
        if self.rank.partitions(k):
            whole = self.arrays[k].reshape(-1)
            part = self.rank.ledger.take("activations", self._own(whole).size, whole.dtype)
            part[:] = self._own(whole)
            del whole
            self.release(k)
            self.arrays[k] = part
        if self.rank.config.cpu_checkpointing:
            self._move(k, self.rank.ledger, self.rank.host, "to_host")

    def bring_back(self, k: int) -> None:
        """Have the whole input of layer k here again."""
        if self.rank.config.cpu_checkpointing:
            self._move(k, self.rank.host, self.rank.ledger, "from_host")
        if self.rank.partitions(k):
            part = self.arrays[k]
            whole = self.take(k, self.rank.model.parts[k].inputs).reshape(-1)
            self._own(whole)[:] = part
            self.rank.ledger.release(part)
            del part
            self.rank.tensor.all_gather(whole)

    def _copy(self, k: int, chunk: np.ndarray) -> None:
        """Move array k to the chunk, behind what is there."""
        array = self.arrays[k]
        start, self._filled = self._filled, self._filled + array.size
        place = chunk[start : self._filled].reshape(array.shape)
        place[...] = array
        del array
        self.release(k)
        self.arrays[k] = place

    def _own(self, whole: np.ndarray) -> np.ndarray:
        return whole[span(self.rank.tensor.rank, 1, self.rank.tensor.size, whole.size)]

    def _move(self, k: int, source: Ledger, target: Ledger, way: str) -> None:
        array = self.arrays[k]
        self.arrays[k] = target.take("activations", array.shape, array.dtype)
        self.arrays[k][...] = array
        source.release(array)
        self.rank.host_traffic[way] += array.nbytes
