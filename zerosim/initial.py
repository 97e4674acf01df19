"""Initial weights, drawn or read bucket by bucket, so that no rank ever holds more than it keeps and one bucket.

They depend on the seed and the layer alone, never on N, rank, stage or bucket.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt
from typing import Any

import numpy as np

from zerosim.errors import InputError
from zerosim.partition import Bucket
from zerosim.rank import Rank
from zerosim.weightfile import open_weights


def weights(rank: Rank) -> Iterator[tuple[Bucket, np.ndarray]]:
    """Yield (bucket, its full-precision weights, padded with zeros) in order; the array is lent until the next one.

    Weights are normal with variance 2 / inputs (He et al. 2015, arXiv:1502.01852, section 2.2) and biases 0, or they
    are read from the file of the setting `init`.
    """
    largest = max(bucket.size for bucket in rank.layout.buckets())
    with _source(rank) as fill, rank.ledger.borrow("buffers", largest, rank.precision.compute) as room:
        for bucket in rank.layout.buckets():
            values = room[: bucket.size]
            fill(bucket.layer, bucket.start, values[: bucket.stop - bucket.start])
            values[bucket.stop - bucket.start :] = 0
            yield bucket, values


class _Fill:
    """Draws elements `start` and on of layer k; must be called in the order of the elements."""

    def __init__(self, widths: list[int], seed: int) -> None:
        self._widths, self._seed = widths, seed

    def __call__(self, k: int, start: int, out: np.ndarray) -> None:
        inputs, outputs = self._widths[k], self._widths[k + 1]
        if start == 0:
            self._random = np.random.default_rng([self._seed, 0, k])
        drawn = out[: max(0, inputs * outputs - start)]
        self._random.standard_normal(out=drawn, dtype=out.dtype)
        drawn *= sqrt(2 / inputs)
        out[drawn.size :] = 0


class _Read(_Fill):
    """Reads elements `start` and on of layer k from an open safetensors file, rows at a time."""

    def __init__(self, widths: list[int], file: Any, path: str) -> None:
        self._widths, self._file, self._path = widths, file, path

    def __call__(self, k: int, start: int, out: np.ndarray) -> None:
        inputs, outputs = self._widths[k], self._widths[k + 1]
        stop = start + out.size
        boundary = inputs * outputs
        if start < boundary:
            end = min(stop, boundary)
            first, last = start // inputs, -(-end // inputs)
            rows = self._file.get_slice(f"layers.{k}.weight")[first:last]
            out[: end - start] = rows.reshape(-1)[start - first * inputs : end - first * inputs]
        if stop > boundary:
            begin = max(start, boundary)
            bias = self._file.get_slice(f"layers.{k}.bias")
            out[begin - start :] = bias[begin - boundary : stop - boundary]
        if not np.isfinite(out).all():
            raise InputError(f"init {self._path}: layer {k} has a value that is not finite")


@contextmanager
def _source(rank: Rank) -> Iterator[_Fill]:
    if rank.config.init is None:
        yield _Fill(rank.model.widths, rank.config.seed)
        return
    with open_weights(rank.config.init, rank.model.widths) as file:
        yield _Read(rank.model.widths, file, rank.config.init)
