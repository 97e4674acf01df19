"""The command `checkpoint`: what is in one, is it whole, and all of it in one file."""

import argparse
import json
from pathlib import Path
from typing import Any

from zerosim.checkpoint import Checkpoint, consolidate, folders, open_checkpoint
from zerosim.comm import Comm
from zerosim.commands.common import Commands, ProgressLine, parts_of
from zerosim.commands.output import door_of, is_first, printable
from zerosim.errors import Failed, InputError
from zerosim.report import console_text, plain_table, si
from zerosim.transport import Transport
from zerosim.weightfile import check_writable
from zerosim.words import counted

SCHEMA = "zerosim.checkpoint.inspect/1"


def add(commands: Commands) -> None:
    """Describe the command, its sub-commands and their flags."""
    text = "look into checkpoints, verify them, make one file of one"
    p = commands.add_parser("checkpoint", help=text, description=text, allow_abbrev=False)
    part = parts_of(p, "inspect|verify|consolidate")

    q = part("inspect", _inspect, "what is in a checkpoint; of several in a folder: which there are, and the newest")
    q.add_argument("dir", metavar="DIR", help="the folder of one checkpoint, or of several")
    q.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")

    q = part("verify", _verify, "read every byte of a checkpoint, or of several in a folder: is it what was written?")
    q.add_argument("dir", metavar="DIR", help="the folder of one checkpoint, or of several")

    q = part("consolidate", _consolidate, "verify a checkpoint and write its weights to one file, as train --save does")
    q.add_argument(
        "dir", metavar="DIR", help="the folder of one checkpoint, or of several, of which the newest is taken"
    )
    q.add_argument("file", metavar="FILE", help="the safetensors file to write; train --init takes it")
    text = "the optimizer's states too, as momentum.layers.0.weight, …; --init takes a file without them"
    q.add_argument("--states", action="store_true", help=text)


# inspect -------------------------------------------------------------------------------------------------------------


def _inspect(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Print what there is, from manifests and the lengths of files; no shard is read."""
    door = door_of(transport)
    found = door.on_first(_looked_at, arguments.dir)
    if door.rank == 0:
        result = {"schema": SCHEMA, "checkpoints": found}
        print(json.dumps(result, allow_nan=False) if arguments.json else _text(found))


def _looked_at(name: str) -> list[dict[str, Any]]:
    """Return what is known of each checkpoint, or its "error". Raises InputError if none of them can be read."""
    found: list[dict[str, Any]] = []
    for folder in folders(name):
        try:
            found.append({"folder": str(folder), "error": None, **_contents(Checkpoint(folder))})
        except InputError as error:
            found.append({"folder": str(folder), "error": str(error)})
    if all(one["error"] for one in found):
        raise InputError(found[-1]["error"])
    return found


def _contents(checkpoint: Checkpoint) -> dict[str, Any]:
    own, grid = checkpoint.manifest, checkpoint.manifest.grid
    width = len(own.tensors) * checkpoint.dtype.itemsize
    places = (dict(zip(("tensor", "data", "pipeline"), grid.place(rank), strict=True)) for rank in range(grid.size))
    return {
        "run": own.run,
        "step": own.step,
        "epochs_done": len(own.state["epochs"]),
        "stage": own.stage,
        "layers": own.widths,
        "parameters": checkpoint.first[-1],
        "precision": own.precision,
        "optimizer": own.config.get("optimizer"),
        "ranks": grid.size,
        "tensor_parallel": grid.tensor,
        "data_parallel": grid.data,
        "pipeline": grid.pipeline,
        "shares": [1] * grid.data if isinstance(grid.shares, int) else [*grid.shares],
        "bucket": own.bucket,
        "tensors": own.tensors,
        "dtype": str(checkpoint.dtype),
        "bytes": checkpoint.nbytes,
        "shards": [
            {
                **place,
                "file": shard.file,
                "elements": n,
                "tensors": n * width,
                "bytes": shard.bytes,
                "sha256": shard.sha256,
            }
            for place, shard, n in zip(places, own.shards, checkpoint.elements, strict=True)
        ],
    }


def _text(found: list[dict[str, Any]]) -> str:
    newest = [one for one in found if not one["error"]][-1]
    several = [f"{len(found)} checkpoints:", _several(found)]
    several += [printable(f"{one['error']}.") for one in found if one["error"]]
    return console_text(*(several if len(found) > 1 else []), *_heading(newest), _shards(newest))


def _several(found: list[dict[str, Any]]) -> Any:
    """A row for each checkpoint in the folder."""
    table = plain_table(2)
    for title in ("checkpoint", "step", "epochs", "stage", "ranks", "bytes", "run"):
        left = title in ("checkpoint", "run")
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for one in found:
        name = Path(one["folder"]).name
        if one["error"]:
            table.add_row(name, "NOT WHOLE")
        else:
            numbers = (str(one[what]) for what in ("step", "epochs_done", "stage", "ranks"))
            table.add_row(name, *numbers, si(one["bytes"]), printable(one["run"])[:8])
    return table


def _heading(one: dict[str, Any]) -> list[str]:
    shares, ranks = one["shares"], counted(one["ranks"], "rank")
    if one["data_parallel"] < one["ranks"]:
        sizes = one["tensor_parallel"], one["data_parallel"], one["pipeline"]
        ranks += " ({} tensor-parallel, {} data-parallel, {} pipeline)".format(*sizes)
    slices = "equal slices" if len(set(shares)) == 1 else f"slices in the proportion {':'.join(map(str, shares))}"
    bucket = f"buckets of {counted(one['bucket'], 'element')}" if one["bucket"] else "a bucket per layer"
    epochs = f"{counted(one['epochs_done'], 'epoch')} done"
    lines = (
        f"{one['folder']}: step {one['step']}, {epochs}, written at stage {one['stage']}; run {one['run']}.",
        f"Layers {' x '.join(map(str, one['layers']))}: {one['parameters']:,} parameters; {one['precision']}, "
        f"{one['optimizer']}. {ranks}, {slices}, {bucket}. Of what each rank owns: {', '.join(one['tensors'])}, in "
        f"{one['dtype']}:",
    )
    return [printable(line) for line in lines]


def _shards(one: dict[str, Any]) -> Any:
    """A row for each shard, and the sum."""
    apart = [group for group, size in (("tensor", "tensor_parallel"), ("pipeline", "pipeline")) if one[size] > 1]
    unequal = len(set(one["shares"])) > 1
    apart += ["data"] if apart or unequal else []
    table = plain_table(2)
    for title in ("rank", *apart, *(["owns"] if unequal else []), "elements", "tensors", "file"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("sha256", no_wrap=True)
    for rank, shard in enumerate(one["shards"]):
        cells = [str(shard[group]) for group in apart]
        cells += [f"{one['shares'][shard['data']]} of {sum(one['shares'])}"] if unequal else []
        sizes = (f"{shard['elements']:,}", si(shard["tensors"]), si(shard["bytes"]))
        table.add_row(str(rank), *cells, *sizes, printable(shard["sha256"])[:8])
    sums = [sum(shard[what] for shard in one["shards"]) for what in ("elements", "tensors", "bytes")]
    table.add_row("all", *[""] * (len(apart) + unequal), f"{sums[0]:,}", si(sums[1]), si(sums[2]))
    return table


# verify --------------------------------------------------------------------------------------------------------------


def _verify(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Read each checkpoint, under mpirun each rank its part. Raises InputError if one is not whole."""
    door, progress, wrong = door_of(transport), ProgressLine(), list[str]()
    found = door.gather_values(door.on_first(lambda: [*map(str, folders(arguments.dir))]))[0]
    for folder in found:
        try:
            checkpoint = door.agreed(Checkpoint, Path(folder))
            read = _read(checkpoint, door, progress)
        except InputError as error:
            wrong.append(str(error))
            continue
        finally:
            progress.done()
        if is_first(transport):
            shards = counted(len(checkpoint.manifest.shards), "shard")
            print(f"{folder} is whole: {read:,} bytes read in {shards}", flush=True)
    if wrong:
        more = f"; {len(wrong) - 1} more of {len(found)} are not whole" if len(wrong) > 1 else ""
        raise InputError(f"{wrong[-1]}{more}")


def _read(checkpoint: Checkpoint, door: Comm, progress: ProgressLine) -> int:
    """Verify a checkpoint, each rank its part, and return the bytes read by all. Raises InputError on all ranks."""
    ranks = range(door.rank, checkpoint.manifest.grid.size, door.size)
    mine = sum(checkpoint.manifest.shards[rank].bytes for rank in ranks)
    count = _Counter(f"verifying {checkpoint.folder.name}", mine, progress if door.rank == 0 else None)
    door.agreed(checkpoint.verify, ranks, count)
    return int(door.sum(count.done)[0])


class _Counter:
    """Counts bytes, and shows how far they are."""

    def __init__(self, what: str, total: int, progress: ProgressLine | None) -> None:
        self._what, self._total, self._progress = what, total, progress
        self.done = 0

    def __call__(self, nbytes: int) -> None:
        self.done += nbytes
        if self._progress and self._total > _LARGE:
            self._progress.tell(f"{self._what}: {si(self.done)} of {si(self._total)}")


_LARGE = 50_000_000
"""Bytes from which on progress is shown."""


# consolidate ---------------------------------------------------------------------------------------------------------


def _consolidate(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Verify, under mpirun each rank its part; then the first rank writes."""
    door, progress = door_of(transport), ProgressLine()
    checkpoint = door.agreed(open_checkpoint, arguments.dir)
    door.on_first(_check_file, arguments, checkpoint)
    try:
        _read(checkpoint, door, progress)
        done = door.on_first(_written, arguments, checkpoint, progress)
    finally:
        progress.done()
    if done:
        sha256, nbytes = done
        own = checkpoint.manifest
        what = ", ".join(own.tensors) if arguments.states else "parameters"
        layers = counted(len(own.widths) - 1, "layer")
        print(f"Step {own.step} of {checkpoint.folder}: {what} of {layers}, {checkpoint.dtype}.")
        print(f"Weights: sha256 {sha256}.\n{arguments.file}: {nbytes:,} bytes")


def _check_file(arguments: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Raise InputError if the file cannot be written, or should not be."""
    what = f"consolidate {arguments.file}"
    if Path(arguments.file).resolve().is_relative_to(checkpoint.folder.resolve()):
        raise InputError(f"{what}: it would lie within the checkpoint; give another place")
    if arguments.states and checkpoint.manifest.tensors == ["parameters"]:
        raise InputError("states: the optimizer has none; leave --states out")
    check_writable(arguments.file, "consolidate")


def _written(arguments: argparse.Namespace, checkpoint: Checkpoint, progress: ProgressLine) -> tuple[str, int]:
    """Write the file; what the system refuses is Failed."""
    tensors = len(checkpoint.manifest.tensors) if arguments.states else 1
    total = checkpoint.first[-1] * checkpoint.dtype.itemsize * tensors
    try:
        return consolidate(checkpoint, arguments.file, arguments.states, _Counter("writing", total, progress))
    except OSError as error:
        raise Failed(f"consolidate {arguments.file}: cannot be written ({error.strerror or error})") from None
