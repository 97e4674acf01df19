"""Every knob of a training run, checked once; from Python, from the command line or from a JSON file."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from zerosim.collectives import NATIVE, find
from zerosim.errors import InputError
from zerosim.jsonfile import read_json
from zerosim.optim import BETA1, BETA2, EPSILON, MOMENTUM, RULES
from zerosim.precision import NAMES as PRECISIONS
from zerosim.witness import WITNESSES

LEARNING_RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 0.001, "adamw": 0.001}
WEIGHT_DECAYS = {"sgd": 0.0, "momentum": 0.0, "adam": 0.0, "adamw": 0.01}


@dataclass(frozen=True)
class Config:
    """The settings of a run, named as the flags of `train`. Raises InputError for one that cannot be.

    What is left at None takes a default of its own: `lr` and `weight_decay` the optimizer's, `epochs` 10 unless `steps`
    is given, `test_fraction` what the files set apart for testing, else 0.2; `clip_norm` None does not clip.
    """

    stages: tuple[int, ...] = (0, 1, 2, 3)
    data: str = "digits"
    hidden: tuple[int, ...] = (256, 256)
    optimizer: str = "adam"
    lr: float | None = None
    weight_decay: float | None = None
    precision: str = "fp16"
    batch_size: int = 64
    grad_accum: int = 1
    clip_norm: float | None = None
    epochs: int | None = None
    steps: int | None = None
    test_fraction: float | None = None
    collective: str = "ring"
    bucket: int = 0
    seed: int = 0
    shuffle: bool = True
    init: str | None = None
    save: str | None = None
    out: str = "zerosim-out"
    trace_memory: bool = False
    witness: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def settle(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        _one_of("optimizer", self.optimizer, RULES)
        _one_of("precision", self.precision, PRECISIONS)
        if not isinstance(self.collective, str):
            raise InputError(f"collective: {self.collective!r} must be a name")
        if self.collective != NATIVE:
            try:
                find(self.collective)
            except ValueError as error:
                raise InputError(f"collective: {error}") from None
        settle("stages", _whole_numbers("stages", self.stages))
        settle("hidden", _whole_numbers("hidden", self.hidden))
        if not self.stages:
            raise InputError("stages: none is named; choose from 0, 1, 2, 3")
        for stage in self.stages:
            if stage not in (0, 1, 2, 3):
                raise InputError(f"stages: there is no stage {stage}; choose from 0, 1, 2, 3")
            if self.stages.count(stage) > 1:
                raise InputError(f"stages: stage {stage} is named twice")
        for width in self.hidden:
            if width < 1:
                raise InputError(f"hidden: a layer of width {width} cannot be; every width must be 1 or more")
        for name in ("batch_size", "grad_accum", "epochs", "steps"):
            _whole(name, getattr(self, name), 1, optional=name in ("epochs", "steps"))
        for name in ("bucket", "seed"):
            _whole(name, getattr(self, name), 0)
        if self.epochs is not None and self.steps is not None:
            raise InputError("epochs and steps are both given; give one of them")
        if self.epochs is None and self.steps is None:
            settle("epochs", 10)
        settle("lr", _real("lr", LEARNING_RATES[self.optimizer] if self.lr is None else self.lr))
        decay = WEIGHT_DECAYS[self.optimizer] if self.weight_decay is None else self.weight_decay
        settle("weight_decay", _real("weight_decay", decay))
        if self.clip_norm is not None:
            settle("clip_norm", _real("clip_norm", self.clip_norm))
            if not self.clip_norm:
                raise InputError("clip_norm: 0 would stop all training; it must be greater (leave it out not to clip)")
        if self.test_fraction is not None:
            settle("test_fraction", _real("test_fraction", self.test_fraction))
            if self.test_fraction >= 1:
                raise InputError(
                    f"test_fraction: {self.test_fraction:g} leaves nothing to train on; it must be below 1"
                )
        if isinstance(self.witness, str):
            settle("witness", [name.strip() for name in self.witness.split(",")])
        if not isinstance(self.witness, (list, tuple)):
            raise InputError(f"witness: {self.witness!r} must be a list of {', '.join(WITNESSES)}")
        for name in self.witness:
            _one_of("witness", name, WITNESSES)
        settle("witness", tuple(dict.fromkeys(self.witness)))
        for name in ("shuffle", "trace_memory"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: {getattr(self, name)!r} must be true or false")
        for name in ("data", "out", "init", "save"):
            value = getattr(self, name)
            if not ((isinstance(value, str) and value) or (value is None and name in ("init", "save"))):
                raise InputError(f"{name}: {value!r} must be the name of a file or folder")

    @property
    def witnesses(self) -> tuple[str, ...]:
        """The witnesses that are called, by name; to trace memory is to call the interpreter."""
        return tuple(dict.fromkeys((*(("interpreter",) if self.trace_memory else ()), *self.witness)))

    def asdict(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


FIELDS = tuple(field.name for field in dataclasses.fields(Config))


def read_config_file(path: str, N: int) -> dict[str, Any]:
    """Return the settings in a JSON file, under the names of `Config`.

    The keys are zerosim's own or DeepSpeed's (train_batch_size, zero_optimization.stage, …). Raises InputError for a
    key that is not understood: a setting that is ignored would be a lie. N ranks tell DeepSpeed's micro-batch size.
    """
    what = f"config {path}"
    raw = read_json(path, what)
    settings: dict[str, Any] = {}

    def put(name: str, value: Any, key: str) -> None:
        if name in settings and settings[name] != value:
            raise InputError(f"{what}: {key} gives {name} = {value!r}, another key gives {settings[name]!r}")
        settings[name] = value

    micro = None
    for key, value in raw.items():
        if key in ("stage", "stages"):
            put("stages", [value] if isinstance(value, int) else value, key)
        elif key in FIELDS and not isinstance(value, dict):
            put(key, value, key)
        elif key == "train_micro_batch_size_per_gpu":
            micro = _whole(f"{what}: {key}", value, 1)
        elif key in _DEEPSPEED:
            put(_DEEPSPEED[key], None if key == "gradient_clipping" and value == 0 else value, key)
        elif key in _DEEPSPEED_SECTIONS:
            if not isinstance(value, dict):
                raise InputError(f"{what}: {key} must be an object, as in DeepSpeed's own files")
            for name, inner in _DEEPSPEED_SECTIONS[key](what, value).items():
                put(name, inner, key)
        else:
            raise InputError(f"{what}: the key {key!r} is not understood; known are {', '.join(_known_keys())}")
    if micro is not None:
        accumulation = _whole(f"{what}: grad_accum", settings.get("grad_accum", 1), 1)
        put("batch_size", micro * accumulation * N, f"train_micro_batch_size_per_gpu on {N} ranks")
    return settings


_DEEPSPEED = {
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "grad_accum",
    "gradient_clipping": "clip_norm",
}


def _zero_section(what: str, section: dict[str, Any]) -> dict[str, Any]:
    _only(f"{what}: zero_optimization", section, ("stage", "reduce_bucket_size"))
    names = {"stage": "stages", "reduce_bucket_size": "bucket"}
    return {names[k]: [v] if k == "stage" else v for k, v in section.items()}


def _fp16_section(what: str, section: dict[str, Any]) -> dict[str, Any]:
    _only(f"{what}: fp16", section, ("enabled", "loss_scale", "initial_scale_power"))
    for key, only in (("loss_scale", 0), ("initial_scale_power", 16)):
        if section.get(key, only) != only:
            raise InputError(
                f"{what}: fp16.{key} can only be {only} here: the loss scale is dynamic and starts at 2**16"
            )
    return _enabled(f"{what}: fp16", section, "fp16")


def _bf16_section(what: str, section: dict[str, Any]) -> dict[str, Any]:
    _only(f"{what}: bf16", section, ("enabled",))
    return _enabled(f"{what}: bf16", section, "bf16")


def _enabled(what: str, section: dict[str, Any], precision: str) -> dict[str, Any]:
    if not isinstance(section.get("enabled"), bool):
        raise InputError(f"{what}.enabled must be true or false")
    return {"precision": precision} if section["enabled"] else {}


def _optimizer_section(what: str, section: dict[str, Any]) -> dict[str, Any]:
    _only(f"{what}: optimizer", section, ("type", "params"))
    kind, params = section.get("type"), section.get("params", {})
    if not isinstance(kind, str) or kind.lower() not in ("adam", "adamw", "sgd"):
        raise InputError(f"{what}: optimizer.type {kind!r} is not understood; known are Adam, AdamW, SGD")
    if not isinstance(params, dict):
        raise InputError(f"{what}: optimizer.params must be an object")
    name = kind.lower()
    _only(f"{what}: optimizer.params", params, ("lr", "weight_decay", "momentum" if name == "sgd" else "betas", "eps"))
    if name == "sgd" and params.get("momentum"):
        name = "momentum"
    for key, only in (("momentum", MOMENTUM), ("betas", [BETA1, BETA2]), ("eps", EPSILON)):
        if params.get(key) and params[key] != only:
            raise InputError(f"{what}: optimizer.params.{key} can only be {only} here")
    return {"optimizer": name, **{k: params[k] for k in ("lr", "weight_decay") if k in params}}


_DEEPSPEED_SECTIONS = {
    "zero_optimization": _zero_section,
    "fp16": _fp16_section,
    "bf16": _bf16_section,
    "optimizer": _optimizer_section,
}


def _known_keys() -> list[str]:
    return ["stage", *FIELDS, *_DEEPSPEED, "train_micro_batch_size_per_gpu", *_DEEPSPEED_SECTIONS]


def _only(what: str, section: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in section:
        if key not in known:
            raise InputError(f"{what}.{key} is not understood; known are {', '.join(known)}")


def _one_of(name: str, value: Any, known: Any) -> None:
    if value not in tuple(known):
        raise InputError(f"{name}: {value!r} is not known; choose from {', '.join(known)}")


def _whole(name: str, value: Any, least: int, optional: bool = False) -> Any:
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}: {value!r} must be a whole number of {least} or more")
    return value


def _whole_numbers(name: str, value: Any) -> tuple[int, ...]:
    """From a sequence, or from text as on the command line: "256,256", or "" for none."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if value.strip() else []
        try:
            value = [int(part) for part in value]
        except ValueError:
            raise InputError(f"{name}: {','.join(value)!r} must be whole numbers with commas between") from None
    if not isinstance(value, (list, tuple)) or any(isinstance(v, bool) or not isinstance(v, int) for v in value):
        raise InputError(f"{name}: {value!r} must be a list of whole numbers")
    return tuple(value)


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise InputError(f"{name}: {value!r} must be a finite number of 0 or more")
    return float(value)
