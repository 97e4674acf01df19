"""The manifest of a checkpoint: one JSON object, checked field by field before anything in it is used.

It ends with its own SHA-256, and it names the SHA-256 of each shard: so a flipped bit anywhere is seen.
"""

import hashlib
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerosim.config import Config
from zerosim.errors import InputError
from zerosim.jsonfile import read_json
from zerosim.optim import RULES
from zerosim.parallel import Grid
from zerosim.precision import precision

SCHEMA = "zerosim.checkpoint/1"
MANIFEST = "manifest.json"

STEP = re.compile(r"step-[0-9]{8,}")
"""The names of checkpoints."""


def folder_name(step: int) -> str:
    """Return the name of the folder of a checkpoint."""
    return f"step-{step:08d}"


def shard_name(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"rank-{rank:04d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    try:
        found = [path for path in folder.iterdir() if STEP.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(found, key=lambda path: int(path.name[5:]))


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with its own SHA-256."""
    return {**manifest, "sha256": _digest(manifest)}


def _digest(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Shard:
    """What the manifest says of a rank's file."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint before its shards are opened."""

    run: str
    """Which training it is of: the same in all its checkpoints and shards."""
    config: dict[str, Any]
    widths: list[int]
    grid: Grid
    bucket: int
    precision: str
    tensors: list[str]
    data: dict[str, Any]
    """Of the rows: "rows" and "sha256"."""
    stage: int
    step: int
    state: dict[str, Any]
    """What a training needs besides tensors: history, optimizer, loss scale, and what was pruned."""
    shards: list[Shard]


def read_manifest(folder: Path) -> Manifest:
    """Return a checkpoint's manifest. Raises InputError for one that is not whole or not what it should be."""
    path = folder / MANIFEST
    what = f"checkpoint {path}"
    value = read_json(str(path), what)
    if value.get("schema") != SCHEMA:
        raise InputError(f"{what}: its schema is {value.get('schema')!r}; this program reads {SCHEMA}")
    if value.get("sha256") != _digest(value):
        raise InputError(f"{what}: its SHA-256 is not that of its contents: it was changed or damaged")
    try:
        manifest = _understood(value)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        raise InputError(f"{what}: not understood ({type(error).__name__}: {error})") from None
    if folder_name(manifest.step) != folder.name:
        raise InputError(f"{what}: it is of step {manifest.step}, in a folder named {folder.name}")
    for rank, shard in enumerate(manifest.shards):
        if shard.file != shard_name(rank):
            raise InputError(f"{what}: rank {rank}'s shard is {shard.file!r}; it must be {shard_name(rank)}, beside it")
    return manifest


def _understood(value: dict[str, Any]) -> Manifest:
    layout, model, position = value["layout"], value["model"], value["position"]
    config = dict(value["config"])
    numbers = [layout[name] for name in ("ranks", "tensor_parallel", "pipeline", "bucket")]
    numbers += [*model["layers"], position["stage"], position["step"]]
    numbers += [*(layout["slices"] or []), *(layout["pipeline_layers"] or [])]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a size is no whole number of 0 or more")
    ranks, T, P, bucket = numbers[:4]
    if position["stage"] > 3:
        raise ValueError(f"there is no stage {position['stage']}")
    if min(ranks, T, P, *model["layers"]) < 1 or ranks % (T * P) or len(value["shards"]) != ranks:
        raise ValueError(f"{len(value['shards'])} shards, {ranks} ranks, {T} tensor-parallel, {P} pipeline")
    counts, slices = (tuple(layout[name]) if layout[name] else None for name in ("pipeline_layers", "slices"))
    grid = Grid(ranks, T, P, counts, slices)
    n = len(model["layers"]) - 1
    if (counts and (len(counts) != P or sum(counts) != n)) or (
        slices and (len(slices) != grid.data or not min(slices))
    ):
        raise ValueError("the layout does not fit the model and the ranks")
    if n < P or any(width < T for width in model["layers"][1::2]):
        raise ValueError("the ranks are too many for the model")
    own = value["precision"]
    precision(own)
    _check_settings(config, model["layers"], own, value["tensors"])
    return Manifest(
        run=str(value["run"]),
        config={name: config[name] for name in config},
        widths=model["layers"],
        grid=grid,
        bucket=bucket,
        precision=own,
        tensors=value["tensors"],
        data={"rows": int(value["data"]["rows"]), "sha256": str(value["data"]["sha256"])},
        stage=position["stage"],
        step=position["step"],
        state=_state(value["state"], position["step"]),
        shards=[Shard(str(one["file"]), int(one["bytes"]), str(one["sha256"])) for one in value["shards"]],
    )


def _check_settings(config: dict[str, Any], widths: list[int], own: str, tensors: list[str]) -> None:
    """Check that what is said twice is said alike."""
    moments = RULES[config["optimizer"]][1]
    if tensors != ["parameters", *moments]:
        raise ValueError(f"the tensors of {config['optimizer']} are {', '.join(('parameters', *moments))}")
    if config["precision"] != own or config["hidden"] != widths[1:-1]:
        raise ValueError("precision or layers are not those of the settings")


_EPOCH = ("epoch", "steps", "loss", "train_loss", "train_accuracy", "test_loss", "test_accuracy")


def _state(state: dict[str, Any], step: int) -> dict[str, Any]:
    """Check what a training takes up again."""
    if len(state["loss"]) != step or not 0 <= state["updates"] <= step:
        raise ValueError(f"{len(state['loss'])} losses and {state['updates']} updates in {step} steps")
    for number in (state["updates"], state["optimizer"]["t"], state["loss_scale"]["good_steps"]):
        if type(number) is not int or not 0 <= number <= step:
            raise ValueError(f"{number!r} is no count of steps")
    if state["optimizer"]["t"] != state["updates"]:
        raise ValueError(f"{state['optimizer']['t']} steps of the optimizer in {state['updates']} updates")
    scale = state["loss_scale"]
    if scale.keys() != {"value", "good_steps"} or not (_is_number(scale["value"]) and _is_power_of_two(scale["value"])):
        raise ValueError(f"{scale!r} is no loss scale")
    numbers = [*state["loss"]]
    for number, epoch in enumerate(state["epochs"], 1):
        if epoch["epoch"] != number:
            raise ValueError(f"epoch {epoch['epoch']!r} is in the place of epoch {number}")
        numbers += [epoch[name] for name in _EPOCH]
    if not isinstance(state["pruning"], dict | None):
        raise ValueError("the record of pruning is none")
    if not all(number is None or _is_number(number) for number in numbers):
        raise ValueError("a loss or an accuracy is no number")
    return state


def _is_power_of_two(value: float) -> bool:
    return value > 0 and math.frexp(value)[0] == 0.5


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


NOT_THEIRS = ("cluster", "out", "resume", "save", "trace", "trace_steps")
"""Settings that a checkpoint does not bring along: what is written where is for whoever goes on to say."""

FIXED = ("hidden", "optimizer", "precision", "batch_size", "seed", "shuffle", "test_fraction")
"""Settings that a training cannot change on its way: the states would be another training's."""


def check_same(manifest: Manifest, config: Config, data: dict[str, Any], what: str) -> None:
    """Raise InputError if a training with these settings and rows is not the one that the checkpoint is of."""
    now = config.asdict()
    for name in FIXED:
        then = manifest.config.get(name)
        if now[name] != then:
            raise InputError(f"{what}: it was made with {name} {_said(then)}, which cannot become {_said(now[name])}")
    if manifest.data != data:
        raise InputError(f"{what}: it was made with other data ({manifest.data['rows']} rows; here are {data['rows']})")


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
