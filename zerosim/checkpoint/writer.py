"""Writing checkpoints: aside, to the disk, then renamed; a crash at any instant leaves whole ones only."""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zerosim
from zerosim.checkpoint.manifest import (
    MANIFEST,
    NOT_THEIRS,
    SCHEMA,
    checkpoints,
    folder_name,
    read_manifest,
    seal,
    shard_name,
)
from zerosim.checkpoint.shards import shard_runs
from zerosim.errors import Failed, InputError
from zerosim.jsonfile import write_json
from zerosim.partition import without_padding
from zerosim.rank import Rank
from zerosim.weightfile import TensorWriter


class Checkpoints:
    """The checkpoints of a run in the folder of the setting `checkpoint`. All ranks call each method together.

    Raises InputError if the folder cannot be written, or has checkpoints that the run would not go on from.
    """

    def __init__(self, rank: Rank, stage: int) -> None:
        self._rank, self._stage = rank, stage
        self._folder = Path(rank.config.checkpoint or "")
        self._descriptor: int | None = None
        try:
            run = rank.world.on_first(self._begin)
        except BaseException:
            self.close()
            raise
        self._run: str = rank.world.gather_values(run)[0]
        self.written: list[dict[str, Any]] = []
        """Of each: "step", "seconds", and on this rank "tensors" and "file" in bytes."""

    def _begin(self) -> str:
        """Make the folder, sweep up what a crash left, and name the run."""
        resume = self._rank.config.resume
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            for left in self._folder.glob(".step-*.part"):
                shutil.rmtree(left)
            probe = self._folder / f".step-{os.getpid()}.part"
            probe.mkdir()
            probe.rmdir()
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"checkpoint {self._folder}: cannot be written ({_reason(error)})") from None
        found = checkpoints(self._folder)
        if found and (resume is None or found[-1].resolve() != Path(resume).resolve()):
            raise InputError(
                f"checkpoint {self._folder}: the newest there is {found[-1].name}, which this run does not go on from; "
                "resume from it, or give another folder"
            )
        return read_manifest(Path(resume)).run if resume else uuid.uuid4().hex

    def _lock(self) -> None:
        """Take the folder for this run alone, until `close` or the end of the process, whatever that is."""
        try:
            import fcntl
        except ImportError:  # a system without locks
            return
        self._descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"checkpoint {self._folder}: another run is writing there; wait for its end, or give another folder"
            ) from None
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise

    def close(self) -> None:
        """Let others write into the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # one checkpoint --------------------------------------------------------------------------------------------------

    def save(self, step: int, history: dict[str, Any]) -> Path:
        """Write the checkpoint of a step, and return its folder when it is whole and on the disk.

        `history` goes into the manifest as it is, with the rest of what a training needs. Raises Failed, on all ranks,
        if it cannot be written; the checkpoints before it are what they were.
        """
        started, door = time.perf_counter(), self._rank.world
        aside = self._folder / f".{folder_name(step)}.{self._run[:8]}.part"
        try:
            door.on_first(self._written, aside.mkdir)
            shard, tensors = door.agreed(self._written, lambda: self._write_shard(aside, step))
            shards = door.gather_values({"bytes": shard.nbytes, "sha256": shard.sha256})
            door.on_first(self._written, lambda: self._finish(aside, step, history, shards))
        except Failed:
            if door.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        seconds = time.perf_counter() - started
        self.written.append({"step": step, "seconds": seconds, "tensors": tensors, "file": shard.nbytes})
        return self._folder / folder_name(step)

    def _written(self, function: Callable[[], Any]) -> Any:
        """Call a function that writes; what the system refuses is Failed."""
        try:
            return function()
        except OSError as error:
            newest = checkpoints(self._folder)
            rest = f"; the newest whole one is {newest[-1]}" if newest else "; there is no whole one yet"
            raise Failed(f"checkpoint {self._folder}: cannot be written ({_reason(error)}){rest}") from None

    def _write_shard(self, aside: Path, step: int) -> tuple[TensorWriter, int]:
        """Write this rank's slices of all that the optimizer goes on from, and return bytes of tensors too."""
        rank = self._rank
        vectors = self._vectors()
        metadata = {"run": self._run, "step": str(step), "rank": str(rank.world.rank)}
        size = shard_runs(rank.model.widths, rank.grid, rank.config.bucket, rank.world.rank).size
        shapes = {name: (rank.precision.compute, (size,)) for name in vectors}
        with TensorWriter(aside / shard_name(rank.world.rank), shapes, metadata) as file:
            for vector in vectors.values():
                for bucket, own in rank.slices(vector):
                    file.write(without_padding(bucket, own))
        return file, size * len(vectors) * rank.precision.compute.itemsize

    def _vectors(self) -> dict[str, Any]:
        states = dict(self._rank.states)
        return {"parameters": states.pop("master", self._rank.parameters), **states}

    def _finish(self, aside: Path, step: int, history: dict[str, Any], shards: list[dict[str, Any]]) -> None:
        """Put the manifest beside the shards, and the whole in its place; then let go of the oldest."""
        for rank, shard in enumerate(shards):
            file = aside / shard_name(rank)
            if not file.exists() or file.stat().st_size != shard["bytes"]:
                raise Failed(
                    f"checkpoint {file}: rank {rank} wrote it, but it is not here; all ranks must share a folder"
                )
        write_json(seal(self._manifest(step, history, shards)), aside / MANIFEST)
        _sync(aside / MANIFEST)
        _sync(aside)
        aside.rename(self._folder / folder_name(step))
        _sync(self._folder)
        for old in checkpoints(self._folder)[: -self._rank.config.keep]:
            dying = old.with_name(f".{old.name}.old.part")
            old.rename(dying)
            _sync(self._folder)  # it loses its name before it loses a file
            shutil.rmtree(dying)

    def _manifest(self, step: int, history: dict[str, Any], shards: list[dict[str, Any]]) -> dict[str, Any]:
        rank, config, grid = self._rank, self._rank.config, self._rank.grid
        epoch = len(history["epochs"]) + 1
        return {
            "schema": SCHEMA,
            "zerosim": zerosim.__version__,
            "run": self._run,
            "config": {name: value for name, value in config.asdict().items() if name not in NOT_THEIRS},
            "model": {"layers": rank.model.widths},
            "layout": {
                "ranks": grid.size,
                "tensor_parallel": grid.tensor,
                "pipeline": grid.pipeline,
                "pipeline_layers": grid.counts,
                "slices": grid.slices,
                "bucket": config.bucket,
            },
            "precision": rank.precision.name,
            "tensors": list(self._vectors()),
            "data": rank.data.description,
            "position": {"stage": self._stage, "step": step, "epoch": epoch, "batch": history.pop("batch")},
            "random": {"shuffle": config.shuffle, "numpy": {"default_rng": [config.seed, 2, epoch]}},
            "state": {
                **history,
                "optimizer": {"t": rank.optimizer.t},
                "loss_scale": rank.loss_scale.state(),
                "pruning": rank.pruner.record() if rank.pruner else None,
            },
            "shards": [{"file": shard_name(r), **shard} for r, shard in enumerate(shards)],
        }


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
