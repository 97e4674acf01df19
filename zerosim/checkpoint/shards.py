"""Which elements of a model lie in which shard, and where: runs of consecutive elements, end to end.

The elements of a model are numbered layer by layer: W row by row, then b, as in the whole model and without padding. So
a number means the same on every grid of ranks, with every bucket and every share.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from zerosim.mlp import rectangles
from zerosim.parallel import Grid, Part, parts
from zerosim.partition import Layout


class Runs(NamedTuple):
    """Runs of elements, in the order in which they lie in a shard."""

    starts: np.ndarray
    """The first element of each, int64."""
    lengths: np.ndarray

    @property
    def size(self) -> int:
        """Elements in all."""
        return int(self.lengths.sum())


def first_elements(widths: list[int]) -> list[int]:
    """Return the number of each layer's first element, and that after the last layer's last."""
    ends = [0]
    for part in parts(widths):
        ends.append(ends[-1] + part.size)
    return ends


def shard_runs(widths: list[int], grid: Grid, bucket: int, rank: int) -> Runs:
    """Return what a rank owns of a model, in the order of its slices."""
    t, d, p = grid.place(rank)
    held = parts(widths, grid.tensor, t, grid.layers(p, len(widths) - 1))
    return owned(widths, held, Layout([part.size for part in held], grid.shares, d, bucket))


def owned(widths: list[int], held: list[Part], layout: Layout) -> Runs:
    """Return what a rank owns that holds these parts, cut in this way."""
    pieces = [
        piece
        for layer, first, where in layout.elements(slice(None), full=False)
        for piece in whole(widths, held[layer], first, first + where.stop - where.start)
    ]
    starts = np.concatenate([np.zeros(0, np.int64), *(start for start, _ in pieces)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(np.full(len(start), n, np.int64) for start, n in pieces)])
    begins = np.ones(len(starts), bool)
    begins[1:] = starts[1:] != (starts + lengths)[:-1]
    at = np.flatnonzero(begins)
    return Runs(starts[at], np.add.reduceat(lengths, at) if len(at) else lengths)


def whole(widths: list[int], part: Part, first: int, stop: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield elements `first` to `stop` of a part of a layer as (numbers in the model, so many from each on)."""
    offset, inputs, outputs = first_elements(widths)[part.layer], widths[part.layer], widths[part.layer + 1]
    weights = part.inputs * part.outputs
    for _, rows, columns in rectangles(first, min(stop, weights), part.inputs, part.outputs):
        row, column = part.rows.start + rows.start, part.columns.start + columns.start
        width, height = columns.stop - columns.start, rows.stop - rows.start
        if width == inputs:
            yield np.array([offset + row * inputs]), width * height
        else:
            yield offset + np.arange(row, row + height) * inputs + column, width
    if stop > weights:
        begin = max(first, weights)
        yield np.array([offset + inputs * outputs + part.biases.start + begin - weights]), stop - begin


class Index:
    """Finds elements of a model in shards that lie on a grid of ranks, whatever that grid was."""

    def __init__(self, widths: list[int], grid: Grid, bucket: int) -> None:
        every = [shard_runs(widths, grid, bucket, rank) for rank in range(grid.size)]
        self.sizes = [runs.size for runs in every]
        """Elements of each shard."""
        starts = np.concatenate([runs.starts for runs in every])
        order = np.argsort(starts, kind="stable")
        self._starts = starts[order]
        self._lengths = np.concatenate([runs.lengths for runs in every])[order]
        self._shards = np.repeat(np.arange(grid.size), [len(runs.starts) for runs in every])[order]
        self._at = np.concatenate([np.cumsum(runs.lengths) - runs.lengths for runs in every])[order]

    def find(self, start: int, count: int) -> Iterator[tuple[int, slice, slice]]:
        """Yield where `count` elements from `start` on lie: (shard, place in it, place among those asked for)."""
        run = int(np.searchsorted(self._starts, start, side="right")) - 1
        done = 0
        while done < count:
            skip = start + done - int(self._starts[run])
            length = min(int(self._lengths[run]) - skip, count - done)
            at = int(self._at[run]) + skip
            yield int(self._shards[run]), slice(at, at + length), slice(done, done + length)
            done += length
            run += 1
