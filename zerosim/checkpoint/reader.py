"""Reading a checkpoint: looked at in full before anything is trained, then read element by element as needed."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from zerosim.checkpoint.manifest import MANIFEST, NOT_THEIRS, STEP, checkpoints, read_manifest
from zerosim.checkpoint.shards import Index, first_elements
from zerosim.config import FIELDS, Config
from zerosim.errors import InputError
from zerosim.precision import precision

_BLOCK = 1 << 20
"""Bytes that are hashed at a time."""

_CHUNK = 1 << 16
"""Elements that are read at a time."""

Told = Callable[[int], None]
"""Called with the number of bytes just read."""


def nobody(nbytes: int) -> None:
    """Hear of nothing (`Told`)."""


class Checkpoint:
    """One checkpoint on the disk. Raises InputError if its files are not those of its manifest.

    `verify` reads all of them. In a `with` block shards are open, and `read` takes elements from them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        own = self.manifest
        self.dtype = precision(own.precision).compute
        """Of all tensors."""
        for shard in own.shards:
            self._check_file(folder / shard.file, shard.bytes)
        self.first = first_elements(own.widths)
        """The number of each layer's first element, and the number of elements in all."""
        least = self.first[-1] * len(own.tensors) * self.dtype.itemsize
        if self.nbytes < least:
            raise InputError(f"checkpoint {folder / MANIFEST}: its shards are too short for the model")

    @cached_property
    def _index(self) -> Index:
        return Index(self.manifest.widths, self.manifest.grid, self.manifest.bucket)

    @property
    def elements(self) -> list[int]:
        """Elements of each tensor in each shard."""
        return self._index.sizes

    def _check_file(self, path: Path, nbytes: int) -> None:
        if not path.exists():
            raise InputError(f"checkpoint {path}: there is no such file")
        if path.is_symlink() or not path.is_file():
            raise InputError(f"checkpoint {path}: it is no file of its own")
        if (there := path.stat().st_size) != nbytes:
            raise InputError(f"checkpoint {path}: it has {there} bytes; the manifest says {nbytes}")

    @property
    def nbytes(self) -> int:
        """Bytes of all shards together."""
        return sum(shard.bytes for shard in self.manifest.shards)

    def verify(self, ranks: range | None = None, tell: Told = nobody) -> None:
        """Read shards (all, if None) and raise InputError for the first that is not what was written."""
        from safetensors import SafetensorError, safe_open

        own = self.manifest
        for rank in range(own.grid.size) if ranks is None else ranks:
            path = self.folder / own.shards[rank].file
            try:
                if _sha256(path, tell) != own.shards[rank].sha256:
                    raise InputError(f"checkpoint {path}: its SHA-256 is not the manifest's: it was changed or damaged")
                with safe_open(path, framework="numpy") as file:
                    self._check_tensors(path, file, rank)
            except (OSError, SafetensorError) as error:
                raise InputError(f"checkpoint {path}: cannot be read ({' '.join(str(error).split())})") from None

    def _check_tensors(self, path: Path, file: Any, rank: int) -> None:
        own, metadata = self.manifest, file.metadata() or {}
        if (metadata.get("run"), metadata.get("step")) != (own.run, str(own.step)):
            raise InputError(f"checkpoint {path}: it belongs to another run or step than the manifest")
        for name in own.tensors:
            part = file.get_slice(name) if name in file.keys() else None  # noqa: SIM118
            expected = ([self.elements[rank]], f"F{8 * self.dtype.itemsize}")
            if part is None or (part.get_shape(), part.get_dtype()) != expected:
                raise InputError(f"checkpoint {path}: {name} is not {expected[0][0]} numbers of {self.dtype}")

    def __enter__(self) -> "Checkpoint":
        self._stack, self._open = ExitStack(), dict[int, dict[str, Any]]()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.clear()
        self._stack.close()

    def read(self, name: str, start: int, out: np.ndarray) -> None:
        """Fill `out`, (n,), with elements of a tensor, from number `start` of the model on.

        They go through the library's own memory, no more than _CHUNK at a time.
        """
        for at in range(0, out.size, _CHUNK):
            part = out[at : at + _CHUNK]
            for shard, where, there in self._index.find(start + at, part.size):
                part[there] = self._tensor(shard, name)[where]

    def _tensor(self, shard: int, name: str) -> Any:
        if shard not in self._open:
            from safetensors import safe_open

            file = safe_open(self.folder / self.manifest.shards[shard].file, framework="numpy")
            self._stack.enter_context(file)
            self._open[shard] = {name: file.get_slice(name) for name in self.manifest.tensors}
        return self._open[shard][name]


def _sha256(path: Path, tell: Told) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            tell(len(block))
    return digest.hexdigest()


def folders(name: str) -> list[Path]:
    """Return the folder of one checkpoint, or those in a folder of several, the oldest first. Raises InputError."""
    folder = Path(name)
    try:
        if (folder / MANIFEST).exists() or STEP.fullmatch(folder.name):
            return [folder if folder.name else folder.resolve()]
        found = checkpoints(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not found:
        kind = "holds no checkpoint (step-…)" if folder.is_dir() else "there is no such folder"
        raise InputError(f"checkpoint {name}: {kind}")
    return found


def open_checkpoint(name: str) -> Checkpoint:
    """Return a checkpoint by its folder, or the newest in a folder of several. Raises InputError if there is none."""
    folder = folders(name)[-1]
    try:
        return Checkpoint(folder)
    except InputError as error:
        raise the_one_before(error, folder) from None


def the_one_before(error: InputError, folder: Path) -> InputError:
    """Return an error about a checkpoint that also names the one before it, if there is one."""
    found = checkpoints(folder.parent)
    older = [path for path in found if path.name < folder.name]
    return InputError(f"{error}; the one before it is {older[-1]}" if older else str(error))


def resumed(name: str, ranks: int | None = None, **changes: Any) -> Config:
    """Return the settings with which the training of a checkpoint goes on, with `changes`. Raises InputError.

    It goes on writing checkpoints beside that one. Where `ranks` are others than those that wrote it, unequal slices
    are made equal.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"resume: {name!r} must be the name of a folder")
    checkpoint = open_checkpoint(name)
    manifest = checkpoint.manifest
    settings = {key: value for key, value in manifest.config.items() if key in FIELDS}
    if unknown := manifest.config.keys() - settings.keys():
        raise InputError(f"checkpoint {name}: the setting {min(unknown)} in its manifest is not known")
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if changes.get(one) is not None:
            settings[other] = None
    settings = {key: value for key, value in settings.items() if key not in NOT_THEIRS}
    if ".py" in str(settings.get("collective")) and "collective" not in changes:
        raise InputError(
            f"resume {name}: its collective is {settings['collective']}; no file is run because a checkpoint names it: "
            "give collective too"
        )
    settings["checkpoint"] = str(checkpoint.folder.parent)
    if ranks not in (None, manifest.grid.size):
        settings["slices"] = None
    if "pipeline" in changes and "pipeline_layers" not in changes:
        settings["pipeline_layers"] = None
    return Config(**{**settings, "init": None, **changes, "resume": name})
