"""Who owns which slice: the parameters as one padded vector, cut into buckets, each bucket into N slices.

    layers    |  W0 b0            |  W1 b1                      |  W2 b2    |
    buckets   |  bucket 0         |  bucket 1    |  bucket 2    |  bucket 3 |     a bucket never spans two layers
    slices    | 0  | 1  | 2  | 3  | 0 | 1 | 2| 3 | 0 | 1 | 2| 3 | 0| 1| 2| 3|     slice r of each bucket is rank r's

Slices are equal, or in one proportion in every bucket: rank r's are as many parts as its share says. Padding lives here
only: zeros at the end of a layer, so that each of its buckets is a multiple of the parts, N if slices are equal. Rank
r's shard is its slices, one after the other, without gaps. All four stages use the same buckets and slices, so each
number is summed over the ranks in the same order at every stage.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np


@dataclass(frozen=True)
class Bucket:
    """One bucket, as this rank sees it. All positions are in elements."""

    layer: int
    start: int
    """The bucket holds elements `start` to `stop` of its layer, weights then biases, padding not counted."""
    stop: int
    full: slice
    """Where it lies, with its padding, in the full vector."""
    within: slice
    """Where it lies, with its padding, in its layer's part of the full vector."""
    part: slice
    """Where this rank's slice of it lies in the bucket."""
    own: slice
    """Where this rank's slice of it lies in the full vector."""
    shard: slice
    """Where this rank's slice of it lies in this rank's shard."""

    @property
    def size(self) -> int:
        """Elements, padding included: all slices together."""
        return self.full.stop - self.full.start


class Layout:
    """The full vector of `sizes` (elements per layer) cut for `rank` of `N`, or of ranks with such shares.

    `bucket` is the greatest bucket in elements (0: one bucket per layer). A cut bucket is the greatest multiple of the
    parts (N, or the sum of the shares) that is not larger, and at least one element for each, so that only the last
    bucket of a layer is padded.
    """

    def __init__(self, sizes: list[int], N: int | Sequence[int], rank: int, bucket: int = 0) -> None:
        shares = [1] * N if isinstance(N, int) else N
        self._parts, self._before, self._share = sum(shares), sum(shares[:rank]), shares[rank]
        self._ends = [*accumulate(shares, initial=0)]
        self.parameters = sum(sizes)
        self._layers: list[slice] = []
        self._buckets: list[list[Bucket]] = []
        offset = 0
        for layer, size in enumerate(sizes):
            padded = -(-size // self._parts) * self._parts
            cut = max(self._parts, bucket - bucket % self._parts) if bucket else padded
            self._layers.append(slice(offset, offset + padded))
            self._buckets.append(
                [self._bucket(layer, size, offset, at, min(cut, padded - at)) for at in range(0, padded, cut)]
            )
            offset += padded
        self.padded = offset
        self.shard = offset // self._parts * self._share
        self._starts = [bucket.full.start for bucket in self.buckets()]

    def _bucket(self, layer: int, size: int, offset: int, at: int, length: int) -> Bucket:
        width = length // self._parts * self._share
        part = length // self._parts * self._before
        own = offset + at + part
        before = (offset + at) // self._parts * self._share
        return Bucket(
            layer=layer,
            start=at,
            stop=min(at + length, size),
            full=slice(offset + at, offset + at + length),
            within=slice(at, at + length),
            part=slice(part, part + width),
            own=slice(own, own + width),
            shard=slice(before, before + width),
        )

    def layer(self, k: int) -> slice:
        """Where layer `k` lies, with its padding, in the full vector."""
        return self._layers[k]

    def layer_size(self, k: int) -> int:
        """Elements of layer `k`, padding included."""
        return self._layers[k].stop - self._layers[k].start

    def cuts(self, bucket: Bucket) -> list[slice]:
        """Where each rank's slice of a bucket lies in it."""
        unit = bucket.size // self._parts
        return [slice(unit * first, unit * last) for first, last in pairwise(self._ends)]

    def elements(self, where: slice, full: bool) -> Iterator[tuple[int, int, slice]]:
        """Yield (layer, its first element there, place) of each run of elements, without padding, in part of a vector.

        `where` is that part of the full vector, or of this rank's shard; the places count from its beginning.
        """
        start, stop, _ = where.indices(self.padded if full else self.shard)
        reached = start if full else start * self._parts // self._share
        for bucket in self.buckets()[bisect_right(self._starts, reached) - 1 :]:
            there, before = (bucket.full, 0) if full else (bucket.shard, bucket.part.start)
            if there.start >= stop:
                return
            first = max(there.start, start)
            last = min(there.stop, stop, there.start + bucket.stop - bucket.start - before)
            if first < last:
                yield bucket.layer, bucket.start + before + first - there.start, slice(first - start, last - start)

    def buckets(self, k: int | None = None) -> list[Bucket]:
        """The buckets of layer `k`, or of all layers, in the order of the full vector."""
        if k is not None:
            return self._buckets[k]
        return [bucket for layer in self._buckets for bucket in layer]


def without_padding(bucket: Bucket, own: np.ndarray) -> np.ndarray:
    """Return what of a rank's slice of a bucket, or of its beginning, are elements of the layer."""
    return own[: max(0, bucket.stop - bucket.start - bucket.part.start)]
