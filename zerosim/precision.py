"""What a number is stored, sent and computed in: fp32, or fp16 and bf16 with fp32 master weights.

In mixed precision (Micikevicius et al. 2018, arXiv:1710.03740; ZeRO, section 3.1) parameters, gradients and activations
are stored and sent in two bytes, products are summed in float32, and the optimizer works on a float32 master copy.
fp16 has a small range, so the loss is multiplied by a scale that is found while training; bf16 has float32's range
and needs none.
"""

from dataclasses import dataclass

import numpy as np


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


def decode(source: np.ndarray, out: np.ndarray) -> None:
    """Copy `source` to `out`, a contiguous array of a wider type and the same shape: exact, and fast for float16.

    NumPy decodes float16 a number at a time. Here its bits are moved to where float32 has them, which leaves the
    exponent too small by 112, and one multiplication makes that good, for subnormal numbers too. What was inf or nan
    comes out as 65536 or more, which float16 does not have; then NumPy does it.
    """
    if (source.dtype, out.dtype) != (np.float16, np.float32) or not out.size:
        out[...] = source
        return
    bits = out.view(np.int32)
    np.left_shift(source.view(np.int16), 13, out=bits, dtype=np.int32)
    np.bitwise_and(bits, np.int32(~0x70000000), out=bits)  # the sign was extended over the exponent
    np.multiply(out, np.float32(2.0**112), out=out)
    if out.max() >= 65536 or out.min() <= -65536:
        out[...] = source


class LossScale:
    """The dynamic loss scale: halved when a gradient overflows, doubled after 2000 steps without.

    The numbers are those of PyTorch's GradScaler, whose first scale is 2**16 too. A scale that is off stays 1.
    """

    def __init__(self, on: bool) -> None:
        self.on = on
        self.value = 2.0**16 if on else 1.0
        self._good_steps = 0

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
