"""Weights in safetensors files: `layers.0.weight` (outputs, inputs), `layers.0.bias` (outputs,), and so on."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from zerosim.errors import InputError


def shapes(widths: list[int]) -> dict[str, list[int]]:
    """Return name and shape of each tensor of an MLP, in the order of its parameters."""
    result = {}
    for k, (inputs, outputs) in enumerate(pairwise(widths)):
        result[f"layers.{k}.weight"] = [outputs, inputs]
        result[f"layers.{k}.bias"] = [outputs]
    return result


@contextmanager
def open_weights(path: str, widths: list[int]) -> Iterator[Any]:
    """Open a file of weights for a model of the given widths, to be read slice by slice.

    Raises InputError if the file is none, or does not fit the model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise InputError(f"init {path}: there is no such file") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"init {path}: not a safetensors file ({' '.join(str(error).split())})") from None
    expected = shapes(widths)
    with file:
        names = set(file.keys())
        for name, shape in expected.items():
            if name not in names:
                raise InputError(f"init {path}: it has no {name}; the model has {len(widths) - 1} layers")
            part = file.get_slice(name)
            if part.get_shape() != shape:
                raise InputError(f"init {path}: {name} is {part.get_shape()}, the model needs {shape}")
            if part.get_dtype() not in ("F16", "F32", "F64"):
                raise InputError(f"init {path}: {name} is {part.get_dtype()}; F32 is needed")
        if extra := names - expected.keys():
            raise InputError(f"init {path}: {min(extra)} is not part of the model ({len(widths) - 1} layers)")
        yield file


class WeightWriter:
    """Writes a file of weights from chunks in the order of the parameters; it appears, whole, when the block ends.

    The safetensors library writes only what is in memory at once, and here no rank may hold the whole model; so the
    format's header (its length in 8 bytes, then JSON) is written here and the numbers follow as they come.
    """

    def __init__(self, path: str, widths: list[int], dtype: np.dtype) -> None:
        self._path = Path(path)
        self._aside = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        self._dtype = dtype.newbyteorder("<")
        header: dict[str, Any] = {"__metadata__": {"format": "np"}}
        offset = 0
        for name, shape in shapes(widths).items():
            end = offset + int(np.prod(shape)) * dtype.itemsize
            header[name] = {"dtype": f"F{8 * dtype.itemsize}", "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text

    def __enter__(self) -> "WeightWriter":
        self._file = open(self._aside, "wb")
        self._file.write(self._head)
        return self

    def write(self, chunk: np.ndarray) -> None:
        """Append the next parameters, padding left out."""
        self._file.write(np.ascontiguousarray(chunk, self._dtype).data)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if error is None:
            os.replace(self._aside, self._path)
        else:
            self._aside.unlink()


def check_writable(path: str) -> None:
    """Raise InputError if no file can be made at `path`."""
    target = Path(path)
    aside = target.with_name(f"{target.name}.{os.getpid()}.part")
    if target.is_dir():
        raise InputError(f"save {path}: this is a folder; give the name of a file")
    try:
        aside.touch()
        aside.unlink()
    except (OSError, ValueError) as error:
        raise InputError(f"save {path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
