"""DeepSpeed's JSON configuration: what it says of memory, traffic and time, under this program's names.

Nothing is decided here: `train --config` refuses what it cannot do (`zerosim.config`), `plan --deepspeed` computes with
all of it. Keys and defaults are those of deepspeed/runtime/config.py, constants.py, precision_config.py and
zero/config.py, with zero/offload_config.py.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zerosim.errors import InputError
from zerosim.jsonfile import read_json


@dataclass(frozen=True)
class DeepSpeed:
    """The settings that matter here. Each field: DeepSpeed's key, what it means, the default if it is not given."""

    name: str = "deepspeed"
    """What a complaint begins with: where the settings are from."""
    train_batch_size: int | None = None
    """train_batch_size: rows of one update, over all ranks and micro-steps; none."""
    micro_batch_size: int | None = None
    """train_micro_batch_size_per_gpu: rows of one rank in one micro-step; none."""
    grad_accum: int | None = None
    """gradient_accumulation_steps: micro-steps of one update; none. `batch` fills in what is missing of the three."""
    clip_norm: float | None = None
    """gradient_clipping: the greatest norm of the whole gradient; 0, which does not clip and is None here."""
    precision: str = "fp32"
    """fp16.enabled, bf16.enabled (once bfloat16.enabled): "fp16", "bf16", or "fp32" if both are off; off."""
    loss_scale: float = 0
    """fp16.loss_scale: a loss scale that stays; 0, which is a dynamic one."""
    initial_scale_power: int = 16
    """fp16.initial_scale_power: the dynamic loss scale starts at 2 to this power; 16."""
    optimizer: str | None = None
    """optimizer.type: "adam", "adamw", "sgd", or "momentum" for SGD that has some; none, the training script has it.

    As in DeepSpeed (engine.py, _configure_basic_optimizer), the type Adam decays weights as AdamW does and is "adamw"
    here, unless optimizer.params.adam_w_mode is false; without weight decay they are the same, and it is "adam".
    """
    lr: float | None = None
    """optimizer.params.lr; the optimizer's, None."""
    weight_decay: float | None = None
    """optimizer.params.weight_decay; the optimizer's, None."""
    betas: tuple[float, float] | None = None
    """optimizer.params.betas of Adam and AdamW; the optimizer's, None."""
    eps: float | None = None
    """optimizer.params.eps of Adam and AdamW; the optimizer's, None."""
    momentum: float | None = None
    """optimizer.params.momentum of SGD; the optimizer's, None."""
    stage: int = 0
    """zero_optimization.stage; 0."""
    reduce_bucket_size: int = 500_000_000
    """zero_optimization.reduce_bucket_size: elements of a gradient that are reduced at a time; 5e8."""
    allgather_bucket_size: int = 500_000_000
    """zero_optimization.allgather_bucket_size: elements that stages 1 and 2 gather at a time; 5e8."""
    prefetch_bucket_size: int = 50_000_000
    """zero_optimization.stage3_prefetch_bucket_size: elements that stage 3 gathers before they are needed; 5e7."""
    persistence_threshold: int = 100_000
    """zero_optimization.stage3_param_persistence_threshold: stage 3 keeps tensors of as many elements, or fewer, whole;
    1e5."""
    max_live_parameters: int = 1_000_000_000
    """zero_optimization.stage3_max_live_parameters: elements that stage 3 may have gathered at a time; 1e9."""
    overlap_comm: bool = False
    """zero_optimization.overlap_comm: gradients are sent while others are computed; true at stage 3 only."""
    contiguous_gradients: bool = True
    """zero_optimization.contiguous_gradients: gradients are copied into one buffer as they come; true."""
    reduce_scatter: bool = True
    """zero_optimization.reduce_scatter: a rank receives its own part of the sum, not the whole; true."""
    offload_optimizer: str | None = None
    """zero_optimization.offload_optimizer.device (once cpu_offload: true): "cpu", "nvme"; "none", None here."""
    offload_param: str | None = None
    """zero_optimization.offload_param.device (once cpu_offload_param: true): "cpu", "nvme"; "none", None here."""
    hpz_partition_size: int = 1
    """zero_optimization.zero_hpz_partition_size: ranks that share ZeRO++'s second copy of the parameters; 1, none."""
    quantized_weights: bool = False
    """zero_optimization.zero_quantized_weights: ZeRO++ gathers parameters quantized; false."""
    quantized_gradients: bool = False
    """zero_optimization.zero_quantized_gradients: ZeRO++ reduces gradients quantized; false."""
    given: tuple[str, ...] = ()
    """Keys that are there and are used, dotted, in the file's order."""
    auto: tuple[str, ...] = ()
    """Keys that would be used but are "auto", for Hugging Face's Trainer to fill in; they count as not given."""
    not_used: tuple[str, ...] = ()
    """Keys that are there and are not used, dotted, in the file's order; a section that is not used is one of them."""


# one key -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A key that is understood: the field that takes it, what its value must be, and how it is taken."""

    field: str
    wants: str
    take: Callable[[Any], Any]
    """From JSON; raises ValueError for what cannot be."""


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError
    return value


def _size(value: Any) -> int:
    """Take 5e8 too, as DeepSpeed does: JSON's numbers with an exponent are floats in Python."""
    number = _real(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _count(value: Any) -> int:
    if _size(value) < 1:
        raise ValueError
    return int(value)


def _betas(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2 or max(map(_real, value)) >= 1:
        raise ValueError
    return value[0], value[1]


def _device(value: Any) -> str | None:
    return None if _one_of(value, "none", "cpu", "nvme") == "none" else value


def _one_of(value: Any, *known: Any) -> Any:
    if isinstance(value, bool) or value not in known:
        raise ValueError
    return value


def _type(value: Any) -> str:
    return _one_of(value.lower() if isinstance(value, str) else value, *PARAMS)


_FLAG, _SIZE, _COUNT = "true or false", "a whole number, 0 or more", "a whole number, 1 or more"
_REAL, _DEVICE = "a finite number, 0 or more", '"cpu", "nvme" or "none"'

PARAMS = {
    "adam": ("lr", "weight_decay", "betas", "eps", "adam_w_mode"),
    "adamw": ("lr", "weight_decay", "betas", "eps"),
    "sgd": ("lr", "weight_decay", "momentum"),
}
"""What is used of optimizer.params, by optimizer.type in lower case."""

KEYS = {
    "train_batch_size": Key("train_batch_size", _COUNT, _count),
    "train_micro_batch_size_per_gpu": Key("micro_batch_size", _COUNT, _count),
    "gradient_accumulation_steps": Key("grad_accum", _COUNT, _count),
    "gradient_clipping": Key("clip_norm", _REAL, lambda value: _real(value) or None),
    "fp16.enabled": Key("precision", _FLAG, _flag),
    "fp16.loss_scale": Key("loss_scale", _REAL, _real),
    "fp16.initial_scale_power": Key("initial_scale_power", _SIZE, _size),
    "bf16.enabled": Key("precision", _FLAG, _flag),
    "bfloat16.enabled": Key("precision", _FLAG, _flag),
    "optimizer.type": Key("optimizer", "Adam, AdamW or SGD", _type),
    "optimizer.params.lr": Key("lr", _REAL, _real),
    "optimizer.params.weight_decay": Key("weight_decay", _REAL, _real),
    "optimizer.params.betas": Key("betas", "a list of two numbers, from 0 to below 1", _betas),
    "optimizer.params.eps": Key("eps", _REAL, _real),
    "optimizer.params.momentum": Key("momentum", _REAL, _real),
    "optimizer.params.adam_w_mode": Key("optimizer", _FLAG, _flag),
    "zero_optimization.stage": Key("stage", "0, 1, 2 or 3", lambda value: int(_one_of(value, 0, 1, 2, 3))),
    "zero_optimization.reduce_bucket_size": Key("reduce_bucket_size", _SIZE, _size),
    "zero_optimization.allgather_bucket_size": Key("allgather_bucket_size", _SIZE, _size),
    "zero_optimization.stage3_prefetch_bucket_size": Key("prefetch_bucket_size", _SIZE, _size),
    "zero_optimization.stage3_param_persistence_threshold": Key("persistence_threshold", _SIZE, _size),
    "zero_optimization.stage3_max_live_parameters": Key("max_live_parameters", _SIZE, _size),
    "zero_optimization.overlap_comm": Key("overlap_comm", _FLAG, _flag),
    "zero_optimization.contiguous_gradients": Key("contiguous_gradients", _FLAG, _flag),
    "zero_optimization.reduce_scatter": Key("reduce_scatter", _FLAG, _flag),
    "zero_optimization.offload_optimizer.device": Key("offload_optimizer", _DEVICE, _device),
    "zero_optimization.cpu_offload": Key("offload_optimizer", _FLAG, lambda value: "cpu" if _flag(value) else None),
    "zero_optimization.offload_param.device": Key("offload_param", _DEVICE, _device),
    "zero_optimization.cpu_offload_param": Key("offload_param", _FLAG, lambda value: "cpu" if _flag(value) else None),
    "zero_optimization.zero_hpz_partition_size": Key("hpz_partition_size", _SIZE, lambda value: _size(value) or 1),
    "zero_optimization.zero_quantized_weights": Key("quantized_weights", _FLAG, _flag),
    "zero_optimization.zero_quantized_gradients": Key("quantized_gradients", _FLAG, _flag),
}
"""All keys that are understood, dotted."""

SECTIONS = {name[:at] for name in KEYS for at, character in enumerate(name) if character == "."}
"""Keys that hold others."""

_KNOWN = SECTIONS | KEYS.keys()


def siblings(name: str) -> list[str]:
    """Return what is understood in the section of a dotted key, without the section's own name."""
    section = name[: name.rfind(".") + 1]
    return list(dict.fromkeys(key.removeprefix(section).partition(".")[0] for key in KEYS if key.startswith(section)))


# a file --------------------------------------------------------------------------------------------------------------


def read(path: str) -> DeepSpeed:
    """Return the settings in one of DeepSpeed's JSON files. Raises InputError as `understand` does."""
    what = f"deepspeed {path}"
    return understand(read_json(path, what), what)


def understand(values: dict[str, Any], what: str) -> DeepSpeed:
    """Return the settings in a configuration; a key that is null is not given. Complaints begin with `what`.

    Raises InputError, which names the dotted key, for a wrong type, for a number, stage, device or optimizer that
    cannot be, and for what DeepSpeed's documentation rules out: fp16 with bf16, offloading and ZeRO++ at other stages
    than theirs. A key that is not understood is no error: it is listed in `not_used`.
    """
    found = dict(_walk(what, values))
    idle = set(_idle(found))
    auto = tuple(name for name, value in found.items() if name not in idle and name in _KNOWN and value == "auto")
    taken = {
        name: _taken(what, name, value)
        for name, value in found.items()
        if name in KEYS and name not in idle and name not in auto
    }
    fields = {KEYS[name].field: value for name, value in taken.items()}
    fields |= {"precision": _precision(what, taken), "optimizer": _optimizer(taken)}
    fields.setdefault("overlap_comm", fields.get("stage") == 3)
    not_used = tuple(name for name in found if name not in taken and name not in auto)
    settings = DeepSpeed(name=what, given=tuple(taken), auto=auto, not_used=not_used, **fields)
    _check_offload(settings, values.get("zero_optimization"))
    _check_stage(settings)
    return settings


def _walk(what: str, values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of all keys, sections opened where what they hold is understood.

    A key that has a dot itself is quoted, so that it is taken for no other.
    """
    for key, value in values.items():
        name = prefix + (key if key.isprintable() and "." not in key else json.dumps(key))
        if value is None and name in _KNOWN:
            continue
        if name not in SECTIONS or value == "auto":
            yield name, value
        elif isinstance(value, dict):
            yield from _walk(what, value, f"{name}.")
        else:
            raise InputError(f"{what}: {name} is {said(value)}; it must be an object, as in DeepSpeed's own files")


def _idle(found: dict[str, Any]) -> Iterator[str]:
    """Yield keys that are understood, and that another one leaves without effect."""
    kind = found.get("optimizer.type")
    used = PARAMS.get(kind.lower(), ()) if isinstance(kind, str) else ()
    for name in found:
        section, _, key = name.rpartition(".")
        if section == "optimizer.params" and key not in used:
            yield name
        if section == "bfloat16" and any(other.startswith("bf16.") for other in found):
            yield name


def _taken(what: str, name: str, value: Any) -> Any:
    try:
        return KEYS[name].take(value)
    except (ValueError, OverflowError):
        raise InputError(f"{what}: {name} is {said(value)}; it must be {KEYS[name].wants}") from None


def _precision(what: str, taken: dict[str, Any]) -> str:
    fp16 = taken.get("fp16.enabled")
    bf16 = taken.get("bf16.enabled", taken.get("bfloat16.enabled"))
    if fp16 and bf16:
        raise InputError(f"{what}: fp16.enabled and bf16.enabled are both true; one of them must be false")
    return "fp16" if fp16 else "bf16" if bf16 else "fp32"


def _optimizer(taken: dict[str, Any]) -> str | None:
    kind = taken.get("optimizer.type")
    params = {name.removeprefix("optimizer.params."): value for name, value in taken.items()}
    if kind == "sgd" and params.get("momentum"):
        return "momentum"
    if kind == "adam" and params.get("weight_decay") and params.get("adam_w_mode", True):
        return "adamw"
    return kind


def said(value: Any) -> str:
    """Return a value as the file has it, if that is not long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_offload(settings: DeepSpeed, zero: Any) -> None:
    """Refuse a section without a device, and the old name of a section beside it, as DeepSpeed does."""
    for section, old in (("offload_optimizer", "cpu_offload"), ("offload_param", "cpu_offload_param")):
        name, where = f"zero_optimization.{section}", zero.get(section) if isinstance(zero, dict) else None
        if isinstance(where, dict) and where.get("device") is None:
            raise InputError(f"{settings.name}: {name} has no device; it must be {_DEVICE}")
        if where is not None and f"zero_optimization.{old}" in settings.given:
            raise InputError(f"{settings.name}: zero_optimization.{old} is the old name of {section}; give one of them")


_FROM_STAGE = {
    "offload_optimizer": 1,
    "offload_param": 3,
    "hpz_partition_size": 3,
    "quantized_weights": 3,
    "quantized_gradients": 3,
}


def _check_stage(settings: DeepSpeed) -> None:
    """Refuse what works at later stages only (documentation: Configuration JSON, ZeRO and offloading; ZeRO++)."""
    for name in settings.given:
        field = KEYS[name].field
        value = getattr(settings, field)
        least = 3 if value == "nvme" else _FROM_STAGE.get(field, 0)
        if settings.stage < least and value != getattr(DeepSpeed, field):
            said = f'{name} "{value}"' if name.endswith(".device") else name
            needs = f"stage {least}" + (" or more" if least < 3 else "")
            raise InputError(f"{settings.name}: {said} needs zero_optimization.{needs}, and it is {settings.stage}")


# batches -------------------------------------------------------------------------------------------------------------


def batch(settings: DeepSpeed, N: int) -> tuple[int, int, int]:
    """Return (train_batch_size, micro_batch_size, grad_accum) on N data-parallel ranks: the first is the product.

    What is not given is filled in as DeepSpeed does (runtime/config.py, _set_batch_related_parameters): accumulation is
    1 unless the two others say otherwise. Raises InputError, with the three numbers and N, if they do not fit, and if
    neither batch size is given.
    """
    total, micro, accumulation = settings.train_batch_size, settings.micro_batch_size, settings.grad_accum
    if total is None and micro is None:
        raise InputError(
            f"{settings.name}: train_batch_size or train_micro_batch_size_per_gpu must be given, as a whole number"
        )
    if accumulation is None:
        accumulation = total // micro // N if total and micro else 1
    if micro is None:
        micro = (total or 0) // N // accumulation
    product = micro * accumulation * N
    if total is not None and total != product:
        raise InputError(
            f"{settings.name}: train_batch_size {total} must be the product of train_micro_batch_size_per_gpu "
            f"{micro}{_filled(settings.micro_batch_size)}, gradient_accumulation_steps "
            f"{accumulation}{_filled(settings.grad_accum)} and {N} ranks, which is {product}"
        )
    return product, micro, accumulation


def _filled(given: int | None) -> str:
    return " (filled in)" if given is None else ""
