"""What a number is stored, sent and computed in: fp32, or fp16 and bf16 with fp32 master weights.

In mixed precision (Micikevicius et al. 2018, arXiv:1710.03740; ZeRO, section 3.1) parameters, gradients and activations
are stored and sent in two bytes, products are summed in float32, and the optimizer works on a float32 master copy.
fp16 has a small range, so the loss is multiplied by a scale that is found while training; bf16 has float32's range
and needs none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from zerosim.ledger import Ledger


@dataclass(frozen=True)
class Precision:
    """The two dtypes of a run: `dtype` to store and send, `compute` to multiply, add and update in."""

    name: str
    dtype: np.dtype
    compute: np.dtype
    loss_scaling: bool = False

    @property
    def mixed(self) -> bool:
        """Whether master weights are kept beside the parameters."""
        return self.dtype != self.compute


def precision(name: str) -> Precision:
    """Return the precision called fp32, fp16, bf16, or fp64 (a test mode: everything in float64).

    Raises KeyError for any other name.
    """
    if name == "bf16":
        import ml_dtypes

        return Precision(name, np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32))
    return {
        "fp64": Precision("fp64", np.dtype(np.float64), np.dtype(np.float64)),
        "fp32": Precision("fp32", np.dtype(np.float32), np.dtype(np.float32)),
        "fp16": Precision("fp16", np.dtype(np.float16), np.dtype(np.float32), loss_scaling=True),
    }[name]


NAMES = ("fp32", "fp16", "bf16", "fp64")


BLOCK = 65536
"""Elements that pass through scratch at a time: a block and its scratch stay in the processor's cache."""

FEW = 1024
"""Elements up to which NumPy's own float16, slow as it is, takes less time than a dozen calls."""


def blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Cut arrays of one shape in the same way, into parts of about `BLOCK` elements: runs of rows, or of elements."""
    if 0 < arrays[0].size <= BLOCK:
        yield arrays
        return
    if all(array.flags.c_contiguous for array in arrays):
        arrays = tuple(array.reshape(-1) for array in arrays)
    rows = len(arrays[0])
    if arrays[0].size > BLOCK * rows:
        for row in zip(*arrays, strict=True):
            yield from blocks(*row)
        return
    step = max(1, BLOCK * rows // max(1, arrays[0].size))
    for start in range(0, rows, step):
        yield tuple(array[start : start + step] for array in arrays)


def decode(source: np.ndarray, out: np.ndarray, ledger: Ledger, factor: float = 1.0) -> None:
    """Write `source` times a positive `factor` to `out`, of the computing dtype and the same shape; exact for factor 1.

    NumPy decodes float16 a number at a time. Here, a block at a time, its bits are moved to where float32 has them,
    which leaves the exponent too small by 112; that is made good in one of two ways. What was inf or nan comes out as
    65536 or more, which float16 does not have; then NumPy does it.
    """
    if source.dtype.char + out.dtype.char == "ef" and source.size > FEW:  # NumPy's names for float16 and float32
        if source.size <= BLOCK:
            _from_half(source, out, factor, None)
            return
        with ledger.borrow("buffers", BLOCK, np.int32) as scratch:
            for part, to in blocks(source, out):
                slow = scratch[: part.size].reshape(part.shape) if _many_subnormal(part) else None
                _from_half(part, to, factor, slow)
        return
    for part, to in blocks(source, out):
        if factor == 1.0:
            to[...] = part
        else:
            np.multiply(part, np.asarray(factor, out.dtype), out=to, dtype=out.dtype)


def encode(source: np.ndarray, out: np.ndarray, ledger: Ledger) -> None:
    """Round `source`, of the computing dtype, to `out`, of the same shape: to nearest, ties to even, as NumPy does."""
    if source.dtype.char + out.dtype.char != "fe" or source.size <= FEW:
        for part, to in blocks(source, out):
            to[...] = part
        return
    with ledger.borrow("buffers", (2, min(BLOCK, source.size)), np.int32) as scratch:
        for part, to in blocks(source, out):
            _to_half(part, to, *scratch[:, : part.size].reshape(2, *part.shape))


def add(mine: np.ndarray, incoming: np.ndarray, out: np.ndarray, ledger: Ledger) -> None:
    """Write the sum of two vectors of the dtype that travels to a third, which may be one of them, rounded once.

    NumPy, too, adds float16 in float32, but a number at a time.
    """
    if mine.dtype.char != "e" or mine.size <= 2 * FEW:
        np.add(mine, incoming, out=out)
        return
    with ledger.borrow("buffers", (2, min(BLOCK, mine.size)), np.float32) as scratch:
        for a, b, to in blocks(mine, incoming, out):
            a_, b_ = scratch[:, : a.size]
            decode(a, a_, ledger)
            decode(b, b_, ledger)
            a_ += b_
            encode(a_, to, ledger)


def finite(numbers: np.ndarray, ledger: Ledger) -> bool:
    """Return whether no number of a float16 vector is inf or nan: none has all bits of the exponent set."""
    with ledger.borrow("buffers", min(BLOCK, numbers.size), np.int16) as scratch:
        for (part,) in blocks(numbers.view(np.int16)):
            if np.bitwise_and(part, 0x7FFF, out=scratch[: part.size]).max() >= 0x7C00:
                return False
    return True


# IEEE 754 as integers: float32 has 8 bits of exponent above 23 of fraction, float16 has 5 above 10. Where many numbers
# are, float32's subnormal range is kept out of: some processors take ten times as long there
_EXPONENT, _SIGN = np.int32(0x7F800000), np.int32(-(1 << 31))
_SMALLEST = np.int32((127 - 14) << 23)
"""2^-14, the smallest normal float16: below it, numbers are 2^-24 apart."""
_TOO_LARGE = np.int32((127 + 16) << 23)
_MAGIC = np.int32((13 << 23) + 2048)
"""Makes of 2^e the number 2^(e + 13) + 2^(e + 1), whose neighbours are 2^(e - 10) away, as those of 2^e in float16."""
_HALF_SIGN = np.int32(~0x7FFF)
_MOVED, _GAP, _LATER = np.int32(0x0FFFE000), np.int32(~0x70000000), np.int32(112 << 23)
_SAMPLE = 61
"""Where it is worth it, one in so many numbers is looked at, to choose the faster way."""


def _from_half(source: np.ndarray, out: np.ndarray, factor: float, scratch: np.ndarray | None) -> None:
    bits, half = out.view(np.int32), source.view(np.int16)
    np.copyto(bits, half)
    np.left_shift(bits, 13, out=bits)
    up = 1.0
    if scratch is not None:
        _add_112(bits, half, scratch)
    else:
        np.bitwise_and(bits, _GAP, out=bits)  # the sign was extended over the exponent
        up = factor if factor < 1.0 else 1.0  # 2^112 times a larger one might be too large
        np.multiply(out, np.float32(2.0**112 * up), out=out)
    flat = out.reshape(-1)
    if flat @ flat >= (65536 * up) ** 2 and max(flat.max(), -flat.min()) >= 65536 * up:  # the square costs less
        out[...] = source
        up = 1.0
    if factor != up:
        np.multiply(out, np.float32(factor), out=out)


def _many_subnormal(source: np.ndarray) -> bool:
    sample = source.view(np.int16)[..., ::_SAMPLE] & np.int16(0x7FFF)
    sample -= np.int16(1)  # zero, which is no subnormal number, becomes the largest
    return bool(np.count_nonzero(sample.view(np.uint16) < 0x3FF) * 50 > sample.size)


def _add_112(bits: np.ndarray, half: np.ndarray, scratch: np.ndarray) -> None:
    """Add 112 to the exponent; of a subnormal f = 2^-15 (1 + fraction) that makes, the value is f + (f - 2^-14)."""
    numbers, low = bits.view(np.float32), scratch.view(np.float32)
    np.bitwise_and(bits, _MOVED, out=bits)
    np.add(bits, _LATER, out=bits)
    np.subtract(numbers, np.float32(2.0**-14), out=low)
    np.minimum(low, 0, out=low)
    np.add(numbers, low, out=numbers)
    np.copyto(scratch, half)
    np.bitwise_and(scratch, _SIGN, out=scratch)
    np.bitwise_or(bits, scratch, out=bits)


def _to_half(source: np.ndarray, out: np.ndarray, m: np.ndarray, t: np.ndarray) -> None:
    """Round by adding a number so large that float32 itself drops what float16 cannot hold.

    What is left in the sum's lowest bits is float16's fraction, its leading 1 included, and `_MAGIC`'s 2048; the
    exponent that is added to them is too large by 126, and 126 times 1024 and 2048 together are 0 in 16 bits.
    """
    bits = source.view(np.int32)
    np.bitwise_and(bits, _EXPONENT, out=m)
    if m.size and m.max() >= _TOO_LARGE:  # inf, nan, and what becomes inf
        out[...] = source
        return
    np.maximum(m, _SMALLEST, out=m)
    np.add(m, _MAGIC, out=m)
    np.bitwise_and(bits, ~_SIGN, out=t)
    np.add(t.view(np.float32), m.view(np.float32), out=t.view(np.float32))
    np.right_shift(m, 13, out=m)
    np.add(t, m, out=t)
    np.right_shift(bits, 16, out=m)
    np.bitwise_and(m, _HALF_SIGN, out=m)
    np.add(t, m, out=t)
    np.copyto(out.view(np.int16), t, casting="unsafe")


class LossScale:
    """The dynamic loss scale: halved when a gradient overflows, doubled after 2000 steps without.

    The numbers are those of PyTorch's GradScaler, whose first scale is 2**16 too. A scale that is off stays 1.
    """

    def __init__(self, on: bool) -> None:
        self.on = on
        self.value = 2.0**16 if on else 1.0
        self._good_steps = 0

    def state(self) -> dict[str, Any]:
        """Return what `resume` goes on from."""
        return {"value": self.value, "good_steps": self._good_steps}

    def resume(self, value: float, good_steps: int) -> None:
        """Go on from another's `state`."""
        self.value, self._good_steps = float(value), good_steps

    def update(self, overflowed: bool) -> None:
        """Take note of one step."""
        if not self.on:
            return
        if overflowed:
            self.value /= 2
            self._good_steps = 0
        else:
            self._good_steps += 1
            if self._good_steps == 2000:
                self.value *= 2
                self._good_steps = 0
