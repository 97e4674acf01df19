"""Weights in safetensors files: `layers.0.weight` (outputs, inputs), `layers.0.bias` (outputs,), and so on."""

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from zerosim.errors import InputError
from zerosim.outside import check_file
from zerosim.words import counted


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
        check_file(path, f"init {path}")
        file = safe_open(path, framework="numpy")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"init {path}: there is no such file") from None
    except (OSError, ValueError, MemoryError, SafetensorError) as error:
        raise InputError(f"init {path}: not a safetensors file ({' '.join(str(error).split())})") from None
    expected = shapes(widths)
    with file:
        names = set(file.keys())
        for name, shape in expected.items():
            if name not in names:
                raise InputError(f"init {path}: it has no {name}; the model has {counted(len(widths) - 1, 'layer')}")
            part = file.get_slice(name)
            if part.get_shape() != shape:
                raise InputError(f"init {path}: {name} is {part.get_shape()}, the model needs {shape}")
            if part.get_dtype() not in ("F16", "F32", "F64"):
                raise InputError(f"init {path}: {name} is {part.get_dtype()}; F32 is needed")
        if extra := names - expected.keys():
            raise InputError(
                f"init {path}: {min(extra)} is not part of the model ({counted(len(widths) - 1, 'layer')})"
            )
        yield file


class TensorWriter:
    """Writes a safetensors file from chunks in the order of its tensors; at the end it appears, whole, on the disk.

    `tensors` are name, dtype and shape of each. `sha256` is that of the file, `nbytes` its length, when the `with`
    block has ended. The safetensors library writes only what is in memory at once, and here no rank may hold the whole
    model; so the format's header (its length in 8 bytes, then JSON) is written here and the numbers follow as they
    come.
    """

    def __init__(
        self,
        path: str | Path,
        tensors: Mapping[str, tuple[np.dtype, Sequence[int]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._path = Path(path)
        self._aside = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        header: dict[str, Any] = {"__metadata__": {"format": "np", **(metadata or {})}}
        offset = 0
        for name, (dtype, shape) in tensors.items():
            end = offset + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": f"F{8 * dtype.itemsize}", "shape": [*shape], "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text
        self._digest = hashlib.sha256()
        self.nbytes = 0

    def __enter__(self) -> "TensorWriter":
        self._file = open(self._aside, "wb")
        try:
            self._put(self._head)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def write(self, chunk: np.ndarray) -> None:
        """Append the next numbers, of the dtype that the header says."""
        self._put(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)

    def _put(self, octets: bytes | memoryview) -> None:
        self._file.write(octets)
        self._digest.update(octets)
        self.nbytes += len(octets)

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        return self._digest.hexdigest()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._aside, self._path)
        finally:
            try:
                self._file.close()
            finally:
                self._aside.unlink(missing_ok=True)


def weight_writer(path: str | Path, widths: list[int], dtype: np.dtype) -> TensorWriter:
    """Return the writer of a file of weights, which is given them in the order of the parameters."""
    return TensorWriter(path, {name: (dtype, shape) for name, shape in shapes(widths).items()})


def check_writable(path: str, what: str = "save") -> None:
    """Raise InputError, which says `what` wants it, if no file can be made at `path`."""
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "a pipe or a device"
            raise InputError(f"{what} {path}: this is {kind}; give the name of a file")
        aside = target.with_name(f"{target.name}.{os.getpid()}.part")
        aside.touch()
        aside.unlink()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
