"""One file from many shards: the whole model's tensors, by name, a chunk at a time."""

import hashlib
from pathlib import Path

import numpy as np

from zerosim.checkpoint.reader import Checkpoint, Told, nobody
from zerosim.weightfile import TensorWriter, shapes

_CHUNK = 1 << 18
"""Elements in memory at a time."""


def consolidate(checkpoint: Checkpoint, path: str | Path, states: bool = False, tell: Told = nobody) -> tuple[str, int]:
    """Write a checkpoint's parameters, in full precision, as `--init` takes them: the file that `--save` writes.

    With `states` the optimizer's tensors follow, as `momentum.layers.0.weight` and so on. Returns the SHA-256 of the
    weights, as a report has it, and the bytes of the file. Raises OSError if it cannot be written.
    """
    own, elements = checkpoint.manifest, checkpoint.first[-1]
    names = own.tensors if states else ["parameters"]
    tensors = {
        ("" if name == "parameters" else f"{name}.") + part: (checkpoint.dtype, shape)
        for name in names
        for part, shape in shapes(own.widths).items()
    }
    digest, room = hashlib.sha256(), np.empty(min(_CHUNK, elements), checkpoint.dtype)
    with checkpoint, TensorWriter(path, tensors) as file:
        for name in names:
            for start in range(0, elements, room.size):
                part = room[: elements - start]
                checkpoint.read(name, start, part)
                file.write(part)
                if name == "parameters":
                    digest.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).data)
                tell(part.nbytes)
    return digest.hexdigest(), file.nbytes
