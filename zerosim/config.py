"""Every knob of a training run, checked once; from Python, from the command line or from a JSON file."""

import dataclasses
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

from zerosim import deepspeed
from zerosim.cluster import THIS_MACHINE, Cluster
from zerosim.cluster import find as find_cluster
from zerosim.collectives import NATIVE, find
from zerosim.deepspeed import DeepSpeed
from zerosim.errors import InputError
from zerosim.jsonfile import read_json
from zerosim.optim import BETA1, BETA2, EPSILON, MOMENTUM, RULES
from zerosim.parallel import Grid
from zerosim.precision import NAMES as PRECISIONS
from zerosim.witness import WITNESSES
from zerosim.words import counted

SYNCS = ("gradients", "average")
"""What the ranks average: gradients, in every step, or parameters, every `sync_every` steps."""
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 0.001, "adamw": 0.001}
WEIGHT_DECAYS = {"sgd": 0.0, "momentum": 0.0, "adam": 0.0, "adamw": 0.01}


@dataclass(frozen=True)
class Config:
    """The settings of a run, named as the flags of `train`. Raises InputError for one that cannot be.

    What is left at None takes a default of its own: `stages` all four, or with `sync` "average" 0 alone; `lr` and
    `weight_decay` the optimizer's; `epochs` 10 unless `steps` is given; `test_fraction` what the files set apart for
    testing, else 0.2. `clip_norm` None does not clip, `target_loss` and `patience` None do not stop early,
    `prune_groups` None does not prune, else `prune_by` is "row" and `prune_mode` "freeze". `checkpoint_activations`
    True takes about the square root of the number of layers, but 2 at the least. `slices` None makes all slices equal.
    `cluster` is given as such, or as the name of a preset or of a JSON file, which is read at once and only then.

    With `trace` the first `trace_steps` steps of each stage are traced into that file, None 25.

    With `checkpoint` one is written every `checkpoint_every` steps, None after each epoch; the last `keep` are kept.
    """

    stages: tuple[int, ...] = None  # type: ignore[assignment]
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
    target_loss: float | None = None
    patience: int | None = None
    steps: int | None = None
    test_fraction: float | None = None
    collective: str = "ring"
    bucket: int = 0
    slices: tuple[int, ...] | None = None
    seed: int = 0
    shuffle: bool = True
    init: str | None = None
    save: str | None = None
    checkpoint: str | None = None
    checkpoint_every: int | None = None
    keep: int = 2
    resume: str | None = None
    out: str = "zerosim-out"
    trace: str | None = None
    trace_steps: int | None = None
    trace_memory: bool = False
    witness: tuple[str, ...] = ()
    tensor_parallel: int = 1
    pipeline: int = 1
    pipeline_layers: tuple[int, ...] | None = None
    checkpoint_activations: int | None = None
    partition_activations: bool = False
    cpu_checkpointing: bool = False
    straggler: tuple[int, float] | None = None
    cluster: Cluster = "dgx-a100"  # type: ignore[assignment]
    sync: str = "gradients"
    sync_every: int = 1
    prune_groups: float | None = None
    prune_by: str | int | None = None
    prune_mode: str | None = None

    def __post_init__(self) -> None:
        self._settle_stages()
        self._settle_model_and_data()
        self._settle_optimizer()
        self._settle_batches()
        self._settle_end()
        self._settle_ranks()
        self._settle_activations()
        self._settle_waiting()
        self._settle_witnesses()
        self._settle_pruning()
        self._check_sync()
        self._check_files()
        self._check_checkpoints()
        self._settle_trace()

    def _settle(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _settle_stages(self) -> None:
        if self.stages is None:
            self._settle("stages", (0,) if self.sync == "average" else (0, 1, 2, 3))
        self._settle("stages", _whole_numbers("stages", self.stages))
        if not self.stages:
            raise InputError("stages: none is named; choose from 0, 1, 2, 3")
        for stage in self.stages:
            if stage not in (0, 1, 2, 3):
                raise InputError(f"stages: there is no stage {stage}; choose from 0, 1, 2, 3")
            if self.stages.count(stage) > 1:
                raise InputError(f"stages: stage {stage} is named twice")

    def _settle_model_and_data(self) -> None:
        self._settle("hidden", _whole_numbers("hidden", self.hidden))
        for width in self.hidden:
            if width < 1:
                raise InputError(f"hidden: a layer of width {width} cannot be; every width must be 1 or more")
        _one_of("precision", self.precision, PRECISIONS)
        _whole("seed", self.seed, 0)
        _yes_or_no("shuffle", self.shuffle)
        if self.test_fraction is not None:
            self._settle("test_fraction", _real("test_fraction", self.test_fraction))
            if self.test_fraction >= 1:
                raise InputError(
                    f"test_fraction: {self.test_fraction:g} leaves nothing to train on; it must be below 1"
                )

    def _settle_optimizer(self) -> None:
        _one_of("optimizer", self.optimizer, RULES)
        self._settle("lr", _real("lr", LEARNING_RATES[self.optimizer] if self.lr is None else self.lr))
        decay = WEIGHT_DECAYS[self.optimizer] if self.weight_decay is None else self.weight_decay
        self._settle("weight_decay", _real("weight_decay", decay))
        if self.clip_norm is not None:
            self._settle("clip_norm", _real("clip_norm", self.clip_norm))
            if not self.clip_norm:
                raise InputError("clip_norm: 0 would stop all training; it must be greater (leave it out not to clip)")

    def _settle_batches(self) -> None:
        for name in ("batch_size", "grad_accum"):
            _whole(name, getattr(self, name), 1)

    def _settle_end(self) -> None:
        """When the training is over."""
        for name in ("epochs", "steps", "patience"):
            _whole(name, getattr(self, name), 1, optional=True)
        if self.epochs is not None and self.steps is not None:
            raise InputError("epochs and steps are both given; give one of them")
        if self.epochs is None and self.steps is None:
            self._settle("epochs", 10)
        if self.target_loss is not None:
            self._settle("target_loss", _real("target_loss", self.target_loss))

    def _settle_ranks(self) -> None:
        """Who stands where, and who moves the bytes."""
        if not isinstance(self.collective, str):
            raise InputError(f"collective: {self.collective!r} must be a name")
        if self.collective != NATIVE:
            try:
                find(self.collective)
            except ValueError as error:
                raise InputError(f"collective: {error}") from None
        _whole("bucket", self.bucket, 0)
        for name in ("tensor_parallel", "pipeline"):
            _whole(name, getattr(self, name), 1)
        if self.slices is not None:
            self._settle("slices", _whole_numbers("slices", self.slices))
            if not self.slices or min(self.slices) < 1:
                raise InputError("slices: each data-parallel rank owns one part at least, as in 2,1,1")
        if self.pipeline_layers is not None:
            self._settle_pipeline(_whole_numbers("pipeline_layers", self.pipeline_layers))

    def _settle_pipeline(self, counts: tuple[int, ...]) -> None:
        if not counts or min(counts) < 1:
            raise InputError("pipeline_layers: each pipeline rank needs one layer at least, as in 1,2")
        if self.pipeline not in (1, len(counts)):
            raise InputError(f"pipeline_layers: {counted(len(counts), 'number')}, but pipeline is {self.pipeline}")
        self._settle("pipeline_layers", counts)
        self._settle("pipeline", len(counts))

    def _settle_activations(self) -> None:
        if self.checkpoint_activations is False:
            self._settle("checkpoint_activations", None)
        if self.checkpoint_activations is True:
            self._settle("checkpoint_activations", max(2, round(math.sqrt(len(self.hidden) + 1))))
        _whole("checkpoint_activations", self.checkpoint_activations, 1, optional=True)
        for name in ("partition_activations", "cpu_checkpointing"):
            _yes_or_no(name, getattr(self, name))
        if self.partition_activations and self.tensor_parallel == 1:
            raise InputError(
                "partition_activations: without tensor parallelism no two ranks hold the same activations; "
                "give tensor_parallel too"
            )

    def _settle_waiting(self) -> None:
        """Who is slow, and on whose network; a cluster's file is read here, once."""
        if self.straggler is not None:
            self._settle("straggler", _straggler(self.straggler))
        if self.cluster == THIS_MACHINE:
            raise InputError(
                "cluster: this-machine is measured by 'collectives bench'; give its collectives-bench.json"
            )
        if isinstance(self.cluster, str):
            self._settle("cluster", find_cluster(self.cluster))
        if not isinstance(self.cluster, Cluster):
            raise InputError(f"cluster: {self.cluster!r} must be a name or a file")

    def _settle_witnesses(self) -> None:
        _yes_or_no("trace_memory", self.trace_memory)
        if isinstance(self.witness, str):
            self._settle("witness", [name.strip() for name in self.witness.split(",")])
        if not isinstance(self.witness, (list, tuple)):
            raise InputError(f"witness: {self.witness!r} must be a list of {', '.join(WITNESSES)}")
        for name in self.witness:
            _one_of("witness", name, WITNESSES)
        self._settle("witness", tuple(dict.fromkeys(self.witness)))

    def _settle_pruning(self) -> None:
        by, mode = self.prune_by, self.prune_mode
        if self.prune_groups is None:
            for name, value in (("prune_by", by), ("prune_mode", mode)):
                if value is not None:
                    raise InputError(
                        f"{name}: {value!r} has no effect without prune_groups; give that too, or leave it out"
                    )
            return
        quantile = _real("prune_groups", self.prune_groups)
        if not 0 < quantile < 1:
            raise InputError(f"prune_groups: {quantile:g} must be above 0 and below 1 (leave it out not to prune)")
        by = "row" if by is None else int(by) if isinstance(by, str) and by.isdecimal() and len(by) < 20 else by
        if by not in ("layer", "row") and (not isinstance(by, int) or not _is_whole(by) or by < 1):
            raise InputError(
                f"prune_by: {by!r} is not known; choose layer, row, or a whole number of elements, 1 or more"
            )
        mode = "freeze" if mode is None else mode
        _one_of("prune_mode", mode, ("freeze", "zero"))
        for name, own in (("prune_groups", quantile), ("prune_by", by), ("prune_mode", mode)):
            self._settle(name, own)

    def _check_sync(self) -> None:
        _one_of("sync", self.sync, SYNCS)
        _whole("sync_every", self.sync_every, 1)
        if self.sync == "gradients":
            if self.sync_every != 1:
                raise InputError("sync_every: gradients are averaged in every step; sync average has a choice")
            return
        if self.stages != (0,):
            raise InputError(
                "sync average: every rank steps by itself, so it holds everything: stage 0 is the only one"
            )
        if self.prune_groups is not None:
            raise InputError("sync average: ranks with gradients of their own would prune other groups; leave one out")
        if self.tensor_parallel > 1 or self.pipeline > 1:
            raise InputError("sync average: it is not for tensor_parallel or pipeline; leave them out")

    def _check_files(self) -> None:
        for name in ("data", "out", "init", "save", "checkpoint", "resume", "trace"):
            value = getattr(self, name)
            if not ((isinstance(value, str) and value) or (value is None and name not in ("data", "out"))):
                raise InputError(f"{name}: {value!r} must be the name of a file or folder")

    def _check_checkpoints(self) -> None:
        _whole("checkpoint_every", self.checkpoint_every, 1, optional=True)
        _whole("keep", self.keep, 1)
        for name in ("resume", "checkpoint"):
            if getattr(self, name) is not None and len(self.stages) > 1:
                raise InputError(f"{name}: it is for one stage at a time; choose one, as with stage 2")
            if getattr(self, name) is not None and self.sync == "average":
                raise InputError(f"{name}: ranks that average parameters have states of their own; leave one out")
        if self.checkpoint is None and self.checkpoint_every is not None:
            raise InputError("checkpoint_every: it has no effect without checkpoint; give that too, or leave it out")
        if self.resume is not None and self.init is not None:
            raise InputError("init: the weights of a training that goes on are the checkpoint's; leave it out")

    def _settle_trace(self) -> None:
        _whole("trace_steps", self.trace_steps, 1, optional=True)
        if self.trace is None:
            if self.trace_steps is not None:
                raise InputError("trace_steps: it has no effect without trace; give that too, or leave it out")
            return
        if self.trace_steps is None:
            self._settle("trace_steps", 25)
        others = {"save": self.save, "init": self.init, "data": self.data, "out": os.path.join(self.out, "report.json")}
        for name, file in others.items():
            if file and os.path.realpath(file) == os.path.realpath(self.trace):
                raise InputError(f"trace {self.trace}: it would be written over {name}'s {file}; give another name")

    def grid(self, size: int) -> Grid:
        """Return where `size` ranks stand."""
        return Grid(size, self.tensor_parallel, self.pipeline, self.pipeline_layers, self.slices)

    @property
    def waits(self) -> bool:
        """Whether ranks wait for one another by design: on a pipeline, for a straggler, or for longer slices."""
        return self.pipeline > 1 or self.straggler is not None or len(set(self.slices or ())) > 1

    @property
    def witnesses(self) -> tuple[str, ...]:
        """The witnesses that are called, by name; to trace memory is to call the interpreter."""
        return tuple(dict.fromkeys((*(("interpreter",) if self.trace_memory else ()), *self.witness)))

    def asdict(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        values = {name: getattr(self, name) for name in FIELDS} | {"cluster": self.cluster.name}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


FIELDS = tuple(field.name for field in dataclasses.fields(Config))


def read_config_file(path: str, N: int) -> dict[str, Any]:
    """Return the settings in a JSON file, under the names of `Config`.

    The keys are zerosim's own or DeepSpeed's (train_batch_size, zero_optimization.stage, …). Raises InputError for a
    key that is not understood and for one of DeepSpeed's that cannot be done: a setting that is ignored would be a lie.
    N ranks tell DeepSpeed's micro-batch size.
    """
    what = f"config {path}"
    settings: dict[str, Any] = {}
    others: dict[str, Any] = {}

    def put(name: str, value: Any, key: str) -> None:
        if name in settings and settings[name] != value:
            raise InputError(f"{what}: {key} gives {name} = {value!r}, another key gives {settings[name]!r}")
        settings[name] = value

    sections = {key.partition(".")[0] for key in deepspeed.KEYS if "." in key}
    for key, value in read_json(path, what).items():
        if key in ("stage", "stages"):
            put("stages", [value] if isinstance(value, int) else value, key)
        elif key in FIELDS and not (isinstance(value, dict) and key in sections):
            put(key, value, key)
        else:
            others[key] = value
    theirs = deepspeed.understand(others, what)
    for key in theirs.given:
        name, value = _DEEPSPEED.get(key), getattr(theirs, deepspeed.KEYS[key].field)
        if name is not None:
            put(name, [value] if name == "stages" else value, key)
    for key in ("fp16", "bf16", "bfloat16"):
        if others.get(key) is not None:
            put("precision", theirs.precision, key)
    _refuse(theirs, settings)
    if theirs.micro_batch_size is not None:
        rows, accumulation = (_whole(f"{what}: {k}", settings.get(k), 1, True) for k in ("batch_size", "grad_accum"))
        whole = dataclasses.replace(theirs, train_batch_size=rows, grad_accum=accumulation)
        settings["batch_size"], _, settings["grad_accum"] = deepspeed.batch(whole, N)
    return settings


_DEEPSPEED = {
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "grad_accum",
    "gradient_clipping": "clip_norm",
    "zero_optimization.stage": "stages",
    "zero_optimization.reduce_bucket_size": "bucket",
    "optimizer.type": "optimizer",
    "optimizer.params.lr": "lr",
    "optimizer.params.weight_decay": "weight_decay",
}

_PLAN = "plan --deepspeed FILE says what it would cost"

_DONE: dict[str, tuple[Any, str]] = {
    "loss_scale": (0, "the loss scale is dynamic here"),
    "initial_scale_power": (16, "the loss scale starts at 2**16 here"),
    "betas": ((BETA1, BETA2), "Adam has PyTorch's defaults here"),
    "eps": (EPSILON, "Adam has PyTorch's defaults here"),
    "momentum": (MOMENTUM, "momentum is fixed here"),
    "overlap_comm": (False, f"this program computes and sends in turn; {_PLAN}"),
    "reduce_scatter": (True, "this program reduces by reduce_scatter from stage 1 on"),
    "prefetch_bucket_size": (0, f"this program gathers a layer when it is needed; {_PLAN}"),
    "persistence_threshold": (0, f"this program shards every tensor at stage 3; {_PLAN}"),
    "max_live_parameters": (0, f"this program releases a layer as soon as it is used; {_PLAN}"),
    "offload_optimizer": (None, f"this program does not offload; {_PLAN}"),
    "offload_param": (None, f"this program does not offload; {_PLAN}"),
    "hpz_partition_size": (1, f"this program keeps no second copy of the parameters; {_PLAN}"),
    "quantized_weights": (False, f"this program does not quantize; {_PLAN}"),
    "quantized_gradients": (False, f"this program does not quantize; {_PLAN}"),
}
"""What a run does anyway, by the field of `DeepSpeed`, and why nothing else can be asked for."""


def _refuse(theirs: DeepSpeed, settings: dict[str, Any]) -> None:
    """Raise InputError for the first of DeepSpeed's keys that a run with these settings would not do as it says."""
    for key in theirs.auto:
        wants = deepspeed.KEYS[key].wants if key in deepspeed.KEYS else "an object"
        raise InputError(f'{theirs.name}: {key} is "auto", which only Hugging Face\'s Trainer fills in; give {wants}')

    bucket = settings.get("bucket", 0)
    done = {**_DONE, "allgather_bucket_size": (bucket, "this program gathers in the buckets that it reduces in")}
    if settings.get("stages") == [0]:
        del done["reduce_scatter"]  # neither DeepSpeed's stage 0 nor ours asks
    if theirs.optimizer != "momentum":
        del done["momentum"]
    for key in theirs.given:
        field = deepspeed.KEYS[key].field
        if field in done and getattr(theirs, field) != done[field][0]:
            only, why = done[field]
            value, only = (deepspeed.said("none" if v is None else v) for v in (getattr(theirs, field), only))
            raise InputError(f"{theirs.name}: {key}: {value} cannot be done, only {only}: {why}")

    for key in theirs.not_used:
        section = key.rpartition(".")[0]
        if section.endswith(("offload_optimizer", "offload_param")) and f"{section}.device" in theirs.given:
            continue  # it says how to offload, and the device says that nothing is
        if key in deepspeed.KEYS:
            raise InputError(f"{theirs.name}: {key} has no effect with the other keys as they are; leave it out")
        known = ("stage", *FIELDS, *deepspeed.siblings(key)) if not section else deepspeed.siblings(key)
        raise InputError(
            f"{theirs.name}: the key {key!r} is not understood; known are {', '.join(dict.fromkeys(known))}"
        )


def _one_of(name: str, value: Any, known: Any) -> None:
    if value not in tuple(known):
        raise InputError(f"{name}: {value!r} is not known; choose from {', '.join(known)}")


def _yes_or_no(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InputError(f"{name}: {value!r} must be true or false")


def _whole(name: str, value: Any, least: int, optional: bool = False) -> Any:
    if value is None and optional:
        return None
    if not _is_whole(value) or value < least:
        raise InputError(f"{name}: {value!r} must be a whole number of {least} or more, and less than 2^63")
    return value


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number that other programs take too: beyond 64 bits it was mistyped."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _whole_numbers(name: str, value: Any) -> tuple[int, ...]:
    """From a sequence, or from text as on the command line: "256,256", or "" for none."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if value.strip() else []
        try:
            value = [int(part) for part in value]
        except ValueError:
            raise InputError(f"{name}: {','.join(value)!r} must be whole numbers with commas between") from None
    if not isinstance(value, (list, tuple)) or not all(map(_is_whole, value)):
        raise InputError(f"{name}: {value!r} must be a list of whole numbers")
    return tuple(value)


def _straggler(value: Any) -> tuple[int, float]:
    """From [rank, factor], or from text as on the command line: "2:3.5"."""
    try:
        rank, factor = value.split(":") if isinstance(value, str) else value
        place: Any = int(rank) if isinstance(value, str) else rank
        times: Any = float(factor) if isinstance(value, str) else factor
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"straggler: {value!r} must be RANK:FACTOR, like 2:3.5") from None
    _whole("straggler: the rank", place, 0)
    if isinstance(times, bool) or not isinstance(times, (int, float)) or not 1 <= times <= sys.float_info.max:
        raise InputError(f"straggler: the factor {times!r} must be a finite number of 1 or more")
    return place, float(times)


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise InputError(f"{name}: {value!r} must be a finite number of 0 or more")
    return float(value)
