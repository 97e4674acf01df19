"""Who stands where, and which part of which layer that makes a rank's: tensor, data and pipeline parallelism together.

    rank = (p D + d) T + t

t is the place among T tensor-parallel ranks, which are the nearest, for they send the most; d that among D
data-parallel ranks, p that among P pipeline ranks (Narayanan et al. 2021, arXiv:2104.04473, section 3). ZeRO works
among the D ranks that hold the same part of the model.
"""

import math
from dataclasses import dataclass

from zerosim.collectives.moves import span

GROUPS = ("data", "tensor", "pipeline")
"""The groups of ranks that a rank works with."""


@dataclass(frozen=True)
class Grid:
    """`size` ranks as a grid of `tensor` (T) by D by `pipeline` (P); T times P divides the size.

    `counts` are how many layers each pipeline rank has; None: as equally many as can be. `slices` are how many parts
    each data-parallel rank owns of every bucket; None: one.
    """

    size: int
    tensor: int = 1
    pipeline: int = 1
    counts: tuple[int, ...] | None = None
    slices: tuple[int, ...] | None = None

    @property
    def data(self) -> int:
        """D: how many ranks hold the same part of the model."""
        return self.size // (self.tensor * self.pipeline)

    @property
    def shares(self) -> int | tuple[int, ...]:
        """How those D ranks share out what ZeRO cuts: D, for equal slices, or each one's parts, in lowest terms."""
        if self.slices is None or len(set(self.slices)) == 1:
            return self.data
        unit = math.gcd(*self.slices)
        return tuple(share // unit for share in self.slices)

    def place(self, rank: int) -> tuple[int, int, int]:
        """Return (t, d, p) of a rank."""
        return rank % self.tensor, rank // self.tensor % self.data, rank // (self.tensor * self.data)

    def rank(self, t: int, d: int, p: int) -> int:
        """Return the rank at a place."""
        return (p * self.data + d) * self.tensor + t

    def groups(self, rank: int) -> dict[str, list[int]]:
        """Return the ranks that this one works with, itself among them, by "tensor", "data" and "pipeline"."""
        t, d, p = self.place(rank)
        return {
            "tensor": [self.rank(i, d, p) for i in range(self.tensor)],
            "data": [self.rank(t, i, p) for i in range(self.data)],
            "pipeline": [self.rank(t, d, i) for i in range(self.pipeline)],
        }

    def layers(self, p: int, n: int) -> range:
        """Return which of n layers pipeline rank p holds: consecutive ones."""
        if self.counts:
            first = sum(self.counts[:p])
            return range(first, first + self.counts[p])
        own = span(p, 1, self.pipeline, n)
        return range(own.start, own.stop)

    def pipeline_rank(self, layer: int, n: int) -> int:
        """Return which pipeline rank holds one of n layers."""
        return next(p for p in range(self.pipeline) if layer in self.layers(p, n))


@dataclass(frozen=True)
class Part:
    """What one rank holds of a layer: rows and columns of W, and elements of b."""

    layer: int
    """Its number in the whole model."""
    rows: slice
    columns: slice
    biases: slice
    cut: str
    """"whole", or cut by "column" or by "row", as Megatron-LM calls it, which writes W transposed: "column" cuts
    the outputs (our rows), "row" the inputs (our columns)."""

    @property
    def outputs(self) -> int:
        """Rows of W here."""
        return self.rows.stop - self.rows.start

    @property
    def inputs(self) -> int:
        """Columns of W here."""
        return self.columns.stop - self.columns.start

    @property
    def size(self) -> int:
        """Elements: W row by row, then b."""
        return self.inputs * self.outputs + self.biases.stop - self.biases.start


def parts(widths: list[int], T: int = 1, t: int = 0, layers: range | None = None) -> list[Part]:
    """Return what tensor-parallel rank t of T holds of `layers` (all, if None) of a model of these widths.

    Even layers are cut by column, odd ones by row, so that the two of a pair need one all-reduce between them forward
    and one backward (Shoeybi et al. 2019, arXiv:1909.08053, section 3). Every number is held once: a row-cut layer's b
    is the first rank's, where Megatron-LM has it on every rank.
    """
    result = []
    for k in range(len(widths) - 1) if layers is None else layers:
        cut = "whole" if T == 1 else "row" if k % 2 else "column"
        inputs, outputs = widths[k], widths[k + 1]
        rows = span(t, 1, T, outputs) if cut == "column" else slice(0, outputs)
        columns = span(t, 1, T, inputs) if cut == "row" else slice(0, inputs)
        biases = slice(0, 0) if cut == "row" and t > 0 else rows
        result.append(Part(k, rows, columns, biases, cut))
    return result
