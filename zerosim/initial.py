"""Initial weights, drawn or read slice by slice, so that no rank ever holds more than it keeps and one slice.

They depend on the seed and the layer alone, never on N, rank, stage or bucket.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from zerosim.checkpoint.reader import open_checkpoint
from zerosim.checkpoint.restore import read_part
from zerosim.errors import InputError
from zerosim.mlp import rectangles
from zerosim.rank import Rank
from zerosim.weightfile import open_weights


def fill(rank: Rank) -> None:
    """Write the parameters that a rank holds, and the master weights if there are any; padding is left at 0.

    Weights are normal with variance 2 / inputs (He et al. 2015, arXiv:1502.01852, section 2.2) and biases 0, or they
    are read from the file of the setting `init`, or from the checkpoint of `resume`.
    """
    vectors = [rank.parameters, *(rank.states[name] for name in rank.states if name == "master")]
    full = [vector.size == rank.layout.padded for vector in vectors]
    cuts = [(bucket, rank.layout.cuts(bucket) if any(full) else [bucket.part]) for bucket in rank.layout.buckets()]
    longest = max(cut.stop - cut.start for _, own in cuts for cut in own)
    with _source(rank) as source, rank.ledger.borrow("buffers", longest, rank.precision.compute) as room:
        for bucket, own in cuts:
            for cut in own:
                start, stop = bucket.start + cut.start, min(bucket.start + cut.stop, bucket.stop)
                values = room[: max(0, stop - start)]
                if values.size:
                    source(bucket.layer, start, values)
                for vector, whole in zip(vectors, full, strict=True):
                    if whole:
                        vector[bucket.full][cut][: values.size] = values
                    elif cut == bucket.part:
                        vector[bucket.shard][: values.size] = values


class _Fill:
    """Fills elements `start` and on of what a rank holds of layer k; it is called in the order of the elements."""

    def __init__(self, rank: Rank) -> None:
        self._parts = rank.model.parts

    def __call__(self, k: int, start: int, out: np.ndarray) -> None:
        part = self._parts[k]
        weights, stop = part.inputs * part.outputs, start + out.size
        for at, rows, columns in rectangles(start, min(stop, weights), part.inputs, out.size):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            values = out[at - start : at - start + height * width].reshape(height, width)
            first = part.columns.start
            self.weight(
                part.layer, _moved(rows, part.rows.start), slice(first + columns.start, first + columns.stop), values
            )
        if stop > weights:
            begin = max(start, weights)
            self.bias(part.layer, _moved(slice(begin - weights, stop - weights), part.rows.start), out[begin - start :])

    def weight(self, layer: int, rows: slice, columns: slice, out: np.ndarray) -> None:
        """Fill a rectangle of W, whose rows never go back."""
        raise NotImplementedError

    def bias(self, layer: int, rows: slice, out: np.ndarray) -> None:
        """Fill elements of b."""
        raise NotImplementedError


def _moved(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)


class _Draw(_Fill):
    """Draws every row of W in turn, and keeps of it what is asked for; `row` is room for the longest one."""

    def __init__(self, rank: Rank, row: np.ndarray) -> None:
        super().__init__(rank)
        self._widths, self._seed, self._room = rank.model.widths, rank.config.seed, row
        self._layer, self._next = -1, 0

    def weight(self, layer: int, rows: slice, columns: slice, out: np.ndarray) -> None:
        """See `_Fill`."""
        inputs = self._widths[layer]
        if layer != self._layer:
            self._layer, self._next = layer, 0
            self._random = np.random.default_rng([self._seed, 0, layer])
            self._row = self._room[:inputs]
        if rows.start == self._next and columns == slice(0, inputs):  # whole rows: at once
            self._random.standard_normal(out=out, dtype=out.dtype)
            self._next = rows.stop
        else:
            for row, target in zip(range(rows.start, rows.stop), out, strict=True):
                while self._next <= row:
                    self._random.standard_normal(out=self._row, dtype=out.dtype)
                    self._next += 1
                target[:] = self._row[columns]
        out *= sqrt(2 / inputs)

    def bias(self, layer: int, rows: slice, out: np.ndarray) -> None:
        """See `_Fill`."""
        out[:] = 0


class _Read(_Fill):
    """Reads from an open safetensors file."""

    def __init__(self, rank: Rank, file: Any) -> None:
        super().__init__(rank)
        self._file, self._path = file, rank.config.init

    def weight(self, layer: int, rows: slice, columns: slice, out: np.ndarray) -> None:
        """See `_Fill`."""
        out[...] = self._file.get_slice(f"layers.{layer}.weight")[rows, columns]
        self._check(layer, out)

    def bias(self, layer: int, rows: slice, out: np.ndarray) -> None:
        """See `_Fill`."""
        out[:] = self._file.get_slice(f"layers.{layer}.bias")[rows]
        self._check(layer, out)

    def _check(self, layer: int, out: np.ndarray) -> None:
        if not np.isfinite(out).all():
            raise InputError(f"init {self._path}: layer {layer} has a value that is not finite")


@contextmanager
def _source(rank: Rank) -> Iterator[Callable[[int, int, np.ndarray], None]]:
    if rank.config.resume is not None:
        with open_checkpoint(rank.config.resume) as checkpoint:
            yield partial(read_part, rank, checkpoint, "parameters")
        return
    if rank.config.init is None:
        with rank.ledger.borrow("buffers", max(rank.model.widths), rank.precision.compute) as row:
            yield _Draw(rank, row)
        return
    with open_weights(rank.config.init, rank.model.widths) as file:
        yield _Read(rank, file)
