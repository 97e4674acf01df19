"""The planner: what each stage of ZeRO would hold, send and take for a model on a cluster, from the formulas alone.

Nothing here is measured. Where a run can be made, the same formulas are held against it (`zerosim.report`); a test
holds these plans against runs, to the byte.
"""

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from zerosim import formulas
from zerosim.errors import InputError
from zerosim.machine import Machine
from zerosim.models import Model
from zerosim.report import si

RECOMPUTE = ("none", "selective", "full")
CHECKPOINTS = ("whole", "partitioned", "cpu")

VARIANTS = (
    (0, "none"),
    (1, "none"),
    (2, "none"),
    (3, "none"),
    (1, "optimizer:cpu"),
    (2, "optimizer:cpu"),
    (3, "optimizer:cpu"),
    (3, "optimizer:cpu,parameters:cpu"),
    (3, "optimizer:nvme"),
    (3, "optimizer:nvme,parameters:cpu"),
    (3, "optimizer:nvme,parameters:nvme"),
)
"""(stage, what is offloaded where), the simpler first: whatever stays on the devices, then what their hosts hold."""

ALIKE = 0.1
"""Predicted times that differ by less than this share are taken as equal."""

BUCKET = 500_000_000
"""Elements of DeepSpeed's buckets, if a configuration does not say otherwise (deepspeed/runtime/zero/config.py)."""

UNKNOWN_LAYERS = 32

MOST = {"gpus": 10**9, "tensor_parallel": 10**6, "micro_batch": 10**9, "grad_accum": 10**9, "seq": 10**9}
"""Sizes beyond these were mistyped."""

_DEVICES = 2**24
"""The most devices that the smallest number is looked for among."""


@dataclass(frozen=True)
class Subject:
    """What is trained: its size, and the sizes that activations and operations depend on where they are known."""

    name: str
    parameters: int
    active: int
    """Parameters that a token, or a row, meets."""
    units: tuple[tuple[int, int], ...]
    """(parameters, how many of them) of what is gathered at a time: a transformer's blocks, an MLP's layers."""
    model: Model | None = None
    widths: tuple[int, ...] = ()
    """Of an MLP, inputs first."""
    source: str = ""


@dataclass(frozen=True)
class Workload:
    """How it is trained. A sequence is a row for an MLP. Raises InputError for what cannot be."""

    gpus: int = 64
    tensor_parallel: int = 1
    micro_batch: int = 1
    """Sequences per data-parallel rank and micro-step."""
    grad_accum: int = 1
    seq: int | None = None
    """Tokens in a sequence."""
    precision: str = "bf16"
    optimizer: str = "adam"
    convention: str = "zero"
    """Who counts the model states: see `formulas.CONVENTIONS`."""
    recompute: str = "selective"
    checkpoints: str = "whole"
    """With full recomputation: on each tensor-parallel device "whole", "partitioned" (Pa), or so on the "cpu"."""
    sequence_parallel: bool = False
    bucket: int = 0
    """Elements of a bucket; 0: the largest unit."""
    overlap: bool = True
    efficiency: float = 0.45
    """Of the peak, that products reach."""
    usable: float = 0.9
    """Of memory, that is left for the model: the rest is the context's, fragments and libraries."""
    secondary: int = 0
    """Devices that share ZeRO++'s second copy of the parameters (hpZ); 0: there is none."""
    reduce_scatter: bool = True
    """At stage 1; without it gradients are all-reduced, and the parameters gathered besides."""
    quantized_weights: bool = False
    quantized_gradients: bool = False
    persistence: int = 0
    """Parameters that stage 3 keeps whole on every rank."""
    prefetch: int | None = None
    """Elements that stage 3 has gathered ahead; None: as many as the largest unit has."""

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if not (_whole(value, 1) and value <= most) and not (name == "seq" and value is None):
                raise InputError(f"{name}: {_brief(value)} must be a whole number from 1 to {most:,}")
        for name in ("bucket", "secondary", "persistence"):
            if not (_whole(getattr(self, name), 0) and getattr(self, name) <= 10**15):
                raise InputError(f"{name}: {_brief(getattr(self, name))} must be a whole number from 0 to 1e15")
        for name, known in (
            ("precision", ("fp32", "fp16", "bf16")),
            ("optimizer", tuple(formulas.MOMENTS)),
            ("convention", ("zero", "deepspeed", "infinity", "megatron")),
            ("recompute", RECOMPUTE),
            ("checkpoints", CHECKPOINTS),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name}: {getattr(self, name)!r} is not known; choose from {', '.join(known)}")
        if self.checkpoints != "whole" and self.recompute != "full":
            raise InputError(f"checkpoints: {self.checkpoints} needs recompute full: there are none without it")
        for name in ("efficiency", "usable"):
            if not 0.001 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: {getattr(self, name)!r} must be from 0.001 to 1")
        if self.gpus % self.tensor_parallel:
            raise InputError(
                f"gpus: {self.gpus} cannot be divided by tensor_parallel {self.tensor_parallel}; "
                "their quotient is the number of data-parallel ranks"
            )
        if self.secondary and self.ranks % self.secondary:
            raise InputError(f"secondary: {self.ranks} data-parallel ranks cannot be divided by {self.secondary}")

    @property
    def ranks(self) -> int:
        """N, the data-parallel ranks."""
        return self.gpus // self.tensor_parallel

    def per_parameter(self) -> tuple[int, int, int]:
        """Return (w, g, K): bytes of a parameter, of its gradient and of its optimizer states."""
        K = formulas.K(self.optimizer, self.precision)
        if self.precision == "fp32":
            return formulas.WIDTH["fp32"], formulas.WIDTH["fp32"], K
        name = f"megatron-{self.precision}" if self.convention == "megatron" else self.convention
        w, g, K_adam = formulas.CONVENTIONS[name]
        return w, g, K_adam - formulas.K("adam", self.precision) + K


@dataclass(frozen=True)
class Plan:
    """One stage with one way of offloading. Bytes are per device, unless said; None: not known."""

    stage: int
    offload: str
    bytes: dict[str, int | None]
    """By memory class, and "total", which leaves out what is not known."""
    host_bytes: int
    """Per node."""
    nvme_bytes: int
    """Per node."""
    traffic: dict[str, int]
    """Sent per device and step: "data_parallel", "tensor_parallel", "host" and "nvme" (both ways)."""
    seconds: dict[str, float] | None
    """Of a step: "compute", "optimizer", "communication", "offload", what of the last two is "hidden" behind computing
    and what of each is not, "communication_exposed" and "offload_exposed"; "total"."""
    fits: bool
    why_not: str
    """Which memory is too small; empty if it fits."""
    largest_model: float
    """Parameters that would just fit, with this model's activations and buffers."""
    smallest_gpus: int | None
    """Devices that would just do, each with the same micro-batch; None: no number of them."""

    def asdict(self) -> dict[str, Any]:
        """Return what the JSON report says of it."""
        values = dataclasses.asdict(self)
        parts = values.pop("seconds")
        return values | {
            "traffic_bytes": sum(self.traffic.values()),
            "seconds_per_step": parts and parts["total"],
            "seconds": parts,
        }


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:40]}…"


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# what is trained -----------------------------------------------------------------------------------------------------


def subject_of(model: Model) -> Subject:
    """Return a transformer as the planner sees it: a unit for each block, and for each module outside of them.

    Of a model of which only the number of parameters is known, layers are taken as `UNKNOWN_LAYERS` equal ones, none
    larger than DeepSpeed's bucket.
    """
    if model.tensors is None:
        most = min(BUCKET, -(-model.parameters // UNKNOWN_LAYERS))
        whole, rest = divmod(model.parameters, most)
        units: tuple[tuple[int, int], ...] = ((most, whole),) + (((rest, 1),) if rest else ())
        return Subject(model.name, model.parameters, model.active_parameters, units, model, (), model.source)
    blocks: Counter[tuple[str, int]] = Counter()
    for tensor in model.tensors:
        head, star, _ = tensor.name.partition(".*")
        copies = tensor.copies[0] if star else 1
        blocks[head if star else tensor.module, copies] += tensor.size * tensor.times // copies
    units = tuple((size, copies) for (_, copies), size in blocks.items())
    return Subject(model.name, model.parameters, model.active_parameters, units, model, (), model.source)


def mlp(widths: tuple[int, ...]) -> Subject:
    """Return an MLP as `train` has it, of these layer widths, inputs first. Raises InputError for what cannot be."""
    if len(widths) < 2 or not all(_whole(width, 1) for width in widths):
        raise InputError(f"widths: {widths!r} must be two whole numbers of 1 or more at least: inputs and outputs")
    units = tuple((formulas.parameters(pair), 1) for pair in pairwise(widths))
    Psi = formulas.parameters(widths)
    return Subject(f"MLP {' x '.join(map(str, widths))}", Psi, Psi, units, None, widths, "the widths given")


# one plan ------------------------------------------------------------------------------------------------------------


def plans(subject: Subject, machine: Machine, work: Workload, more: tuple[tuple[int, str], ...] = ()) -> list[Plan]:
    """Return a plan for each of `VARIANTS`, and `more` of their form. Raises InputError for what cannot be shared."""
    model, t = subject.model, work.tensor_parallel
    if t > 1 and subject.widths:
        raise InputError(f"tensor_parallel: {t} devices cannot share an MLP's layers here")
    if t > 1 and model and model.heads and model.heads % t:
        raise InputError(f"tensor_parallel: {t} devices cannot share {model.heads} heads; it must divide them")
    found = sorted(dict.fromkeys((*VARIANTS, *more)), key=_simplicity)
    return [plan(subject, machine, work, *which) for which in found]


def _simplicity(which: tuple[int, str]) -> tuple[int, int, int]:
    """NVMe is less simple than the host, two things offloaded than one, a higher stage than a lower."""
    stage, offload = which
    return offload.count("nvme"), offload.count(":"), stage


def plan(subject: Subject, machine: Machine, work: Workload, stage: int, offload: str) -> Plan:
    """Return what a stage with one way of offloading, one of `VARIANTS`, needs and takes."""
    held = _memory(subject, work, stage, offload)
    limits = _limits(held, machine, work)
    short = [f"{name} lacks {si(needed - there)}" for name, (needed, there) in limits.items() if needed > there]
    traffic = _traffic(subject, work, stage, offload)
    return Plan(
        stage,
        offload,
        {**held.device, "total": held.total},
        limits["the host"][0],
        limits["NVMe"][0],
        traffic,
        _seconds(subject, machine, work, stage, offload, traffic),
        not short,
        "; ".join(short),
        _largest_model(subject, machine, work, stage, offload),
        _smallest_gpus(subject, machine, work, stage, offload),
    )


@dataclass(frozen=True)
class _Held:
    device: dict[str, int | None]
    host: int
    """Per device."""
    nvme: int

    @property
    def total(self) -> int:
        return sum(value for value in self.device.values() if value is not None)


def _limits(held: _Held, machine: Machine, work: Workload) -> dict[str, tuple[int, float]]:
    """(bytes needed, bytes there) on the device, and for all devices of a node on its host and on its NVMe."""
    per_node = min(machine.network.ranks_per_node, work.gpus)
    return {
        "the device": (held.total, work.usable * machine.memory),
        "the host": (held.host * per_node, work.usable * machine.host_memory),
        "NVMe": (held.nvme * per_node, machine.nvme),
    }


def _padded(subject: Subject, work: Workload) -> int:
    """Psi of one device's part of the model, each unit rounded up to a multiple of N."""
    N, t = work.ranks, work.tensor_parallel
    return sum(-(-size // (N * t)) * N * times for size, times in subject.units)


def _largest(subject: Subject) -> int:
    return max(size for size, _ in subject.units)


def _memory(subject: Subject, work: Workload, stage: int, offload: str) -> _Held:
    N, (w, g, K) = work.ranks, work.per_parameter()
    states = formulas.model_states(stage, _padded(subject, work), N, w, K, g)
    held = {name: float(size) for name, size in states._asdict().items()}
    away, places = {"cpu": 0.0, "nvme": 0.0}, _places(offload)
    leaving = {"optimizer": ("optimizer_states", "gradients") if stage >= 2 else ("optimizer_states",)}
    for what, names in (leaving | {"parameters": ("parameters",)}).items():
        if places[what]:  # the gradients leave the device as they are reduced
            away[places[what]] += sum(held[name] for name in names)
            held |= dict.fromkeys(names, 0.0)
    if work.checkpoints == "cpu":
        away["cpu"] += _checkpoints(subject, work)
    if stage == 3:
        second = _padded(subject, work) / work.secondary if work.secondary else 0.0
        held["parameters"] += w * (second + work.persistence * (1 - 1 / N))
    others = {"activations": _activations(subject, work), "buffers": _buffers(subject, work, stage)}
    whole = {name: None if size is None else math.ceil(size) for name, size in (held | others).items()}
    return _Held(whole, math.ceil(away["cpu"]), math.ceil(away["nvme"]))


def _places(offload: str) -> dict[str, str]:
    """Where optimizer and parameters are: "optimizer:cpu,parameters:nvme"; "" on the device."""
    places = {"optimizer": "", "parameters": ""}
    if offload != "none":
        places |= dict(part.split(":") for part in offload.split(","))
    return places


def _sequence(subject: Subject, work: Workload) -> int | None:
    return work.seq or (subject.model.seq if subject.model else None)


def _activations(subject: Subject, work: Workload) -> float | None:
    """Bytes at the end of the forward pass; with full recomputation also those of the block at work."""
    w, b = work.per_parameter()[0], work.micro_batch
    if subject.widths:
        return float(w * b * sum(subject.widths))
    model, s = subject.model, _sequence(subject, work)
    if model is None or s is None or not (model.layers and model.hidden):
        return None
    if work.recompute == "none" and not model.heads:
        return None  # the scores of each head
    h, t, heads, head = model.hidden, work.tensor_parallel, model.heads or 1, model.head_dim or model.hidden

    def block(recompute: str) -> float:
        nbytes = formulas.layer_activations(
            s,
            b,
            h,
            heads,
            t,
            work.sequence_parallel,
            recompute,
            query=heads * head / h,
            kv=(model.kv_heads or heads) * head / h,
            ffn=(model.ffn or 4 * h) * (model.experts_per_token or 1) / h,
            matrices=3 if model.gated else 2,
            cross=model.cross_layers / (model.layers or 1),
        )
        return nbytes * w / 2

    logits = formulas.logits(s, b, h, model.vocab, t) if model.vocab else 0.0
    if work.recompute != "full":
        return model.layers * block(work.recompute) + logits
    kept = 0.0 if work.checkpoints == "cpu" else _checkpoints(subject, work)
    return kept + block("none") + logits


def _checkpoints(subject: Subject, work: Workload) -> float:
    """Bytes of activation checkpoints per device, wherever they are."""
    model, s, w = subject.model, _sequence(subject, work), work.per_parameter()[0]
    if model is None or s is None or not (model.layers and model.hidden):
        return 0.0
    cut = work.tensor_parallel if work.checkpoints != "whole" else 1
    return float(formulas.activation_checkpoints(model.hidden, work.micro_batch, s, model.layers, MP=cut, w=w))


def _buffers(subject: Subject, work: Workload, stage: int) -> float:
    """Bytes of what is on its way: a bucket of gradients; at stage 3 also a gathered unit, and the next one."""
    w, g, _ = work.per_parameter()
    largest = _largest(subject) / work.tensor_parallel
    bucket = min(work.bucket or largest, subject.parameters / work.tensor_parallel)
    reducing = g * bucket * (2 if work.overlap else 1)
    if stage < 3:
        return reducing
    ahead = (largest if work.prefetch is None else work.prefetch) if work.overlap else 0
    return reducing + w * (largest + ahead)


def _largest_model(subject: Subject, machine: Machine, work: Workload, stage: int, offload: str) -> float:
    """Parameters whose states fill what this model's activations and buffers leave of the tightest memory."""
    held = _memory(subject, work, stage, offload)
    other = (held.device["activations"] or 0) + (held.device["buffers"] or 0)
    limits = _limits(held, machine, work)
    device, there = limits.pop("the device")
    if there < other:
        return 0.0
    pools = ((device - other, there - other), *limits.values())
    return subject.parameters * min(there / needed for needed, there in pools if needed)


def _smallest_gpus(subject: Subject, machine: Machine, work: Workload, stage: int, offload: str) -> int | None:
    """Devices that would do, by bisection: more of them never need more memory each."""
    t = work.tensor_parallel * max(1, work.secondary)

    def fits(ranks: int) -> bool:
        there = dataclasses.replace(work, gpus=ranks * t)
        limits = _limits(_memory(subject, there, stage, offload), machine, there)
        return all(needed <= there for needed, there in limits.values())

    ranks = 1
    while not fits(ranks):
        ranks *= 2
        if ranks * t > _DEVICES:
            return None
    low = ranks // 2
    while ranks - low > 1:
        middle = (low + ranks) // 2
        low, ranks = (low, middle) if fits(middle) else (middle, ranks)
    return ranks * t


# traffic and time ----------------------------------------------------------------------------------------------------


def _data_parallel(subject: Subject, work: Workload, stage: int) -> tuple[float, float]:
    """Bytes per device and step among all data-parallel ranks, and among those that share hpZ's second copy."""
    N, k, w, Psi = work.ranks, work.grad_accum, work.per_parameter()[0], _padded(subject, work)
    if stage < 3:
        first = "reduce_scatter" if work.reduce_scatter else "all_reduce"
        return float(formulas.bytes_per_rank(stage, Psi, N, w, k, first)), 0.0
    volume = formulas.zeropp_volume(work.quantized_weights, False, work.quantized_gradients)
    near = volume.pop("backward_all_gather") if work.secondary else 0.0
    share = (work.secondary - 1) / work.secondary if work.secondary else 0.0
    return k * w * Psi * sum(volume.values()) * (N - 1) / N, k * w * Psi * near * share


def _traffic(subject: Subject, work: Workload, stage: int, offload: str) -> dict[str, int]:
    N, t, k, w = work.ranks, work.tensor_parallel, work.grad_accum, work.per_parameter()[0]
    Psi, places = _padded(subject, work), _places(offload)
    data = sum(_data_parallel(subject, work, stage))
    model, s, tensor = subject.model, _sequence(subject, work), 0.0
    if t > 1 and model and s and model.layers and model.hidden:
        elements = formulas.model_parallel_volume(model.hidden, work.micro_batch, s) * model.layers * k
        share = 1.0 if work.recompute == "full" else 2 / 3
        tensor = float(w * elements * share * (t - 1) / t)
    host = nvme = 0.0
    if places["optimizer"]:  # out go the gradients, of each micro-step where they do not stay, and in the parameters
        host += float(formulas.offload_traffic(Psi / N, w)) * ((k + 1) / 2 if stage >= 2 else 1)
    if places["optimizer"] == "nvme":
        nvme += 2.0 * work.per_parameter()[2] * Psi / N
    if work.checkpoints == "cpu":
        host += k * formulas.pa_cpu_traffic(_checkpoints(subject, work))
    if places["parameters"]:
        host += 2.0 * k * w * Psi / N
    if places["parameters"] == "nvme":
        nvme += (2.0 * k + 1) * w * Psi / N
    sent = {"data_parallel": data, "tensor_parallel": tensor, "host": host, "nvme": nvme}
    return {what: math.ceil(nbytes) for what, nbytes in sent.items()}


def _seconds(
    subject: Subject, machine: Machine, work: Workload, stage: int, offload: str, traffic: dict[str, int]
) -> dict[str, float] | None:
    todo = operations(subject, work)
    if todo is None:
        return None
    compute = todo / speed(machine, work)
    updating = update(subject, machine, work, stage, offload)
    network = machine.network
    sending = _sending(subject, machine, work, stage)
    hidden = 0.0
    if work.overlap:  # gradients behind the backward pass, what is gathered behind the pass that uses it
        behind = {"forward": compute / 3, "backward": 2 * compute / 3}
        hidden = sum(min(seconds, behind[phase]) for phase, seconds in sending.items())
    data = sum(sending.values())
    near = work.tensor_parallel <= network.ranks_per_node
    tensor = traffic["tensor_parallel"] / (network.bandwidth_inside if near else network.bandwidth_between)
    per_node = min(network.ranks_per_node, work.gpus)
    moving = traffic["host"] / machine.host_bandwidth + traffic["nvme"] * per_node / machine.nvme_bandwidth
    moved_hidden = min(moving / 2, max(0.0, compute - hidden)) if work.overlap else 0.0
    return {
        "compute": compute,
        "optimizer": updating,
        "communication": data + tensor,
        "offload": moving,
        "hidden": hidden + moved_hidden,
        "communication_exposed": data + tensor - hidden,
        "offload_exposed": moving - moved_hidden,
        "total": compute + updating + data + tensor + moving - hidden - moved_hidden,
    }


def speed(machine: Machine, work: Workload) -> float:
    """Floating-point operations per second that products reach on a device."""
    return (machine.flops_fp32 if work.precision == "fp32" else machine.flops) * work.efficiency


def operations(subject: Subject, work: Workload) -> float | None:
    """Floating-point operations per device and step."""
    k, b, t = work.grad_accum, work.micro_batch, work.tensor_parallel
    full = work.recompute == "full"
    if subject.widths:
        return float(formulas.flops(subject.active, k * b, recompute=False))
    s, model = _sequence(subject, work), subject.model
    if s is None:
        return None
    tokens = k * b * s
    todo = float(formulas.flops(subject.active, tokens, full))
    if model and model.layers and model.hidden:
        again, width = work.recompute != "none", (model.heads or 1) * (model.head_dim or model.hidden)
        todo += float(formulas.attention_flops(model.layers + model.cross_layers, width, s, tokens, again))
    return todo / t


def link(machine: Machine, work: Workload) -> tuple[float, float]:
    """Return (latency of a collective, bandwidth of a rank) for data-parallel ranks: rings inside, then between nodes.

    The ranks of a node share its links; a ring crosses between two nodes once, so all links carry rings at a time.
    """
    network = machine.network
    per_node = max(1, network.ranks_per_node // work.tensor_parallel)
    inside = min(per_node, work.ranks)
    nodes = -(-work.ranks // per_node)
    if nodes == 1:
        return (inside - 1) * network.alpha_inside, network.bandwidth_inside
    sharing = min(work.tensor_parallel, network.ranks_per_node)
    alpha = (inside - 1) * network.alpha_inside + (nodes - 1) * network.alpha_between
    return alpha, min(network.bandwidth_inside, network.links * network.bandwidth_between / sharing)


def _sending(subject: Subject, machine: Machine, work: Workload, stage: int) -> dict[str, float]:
    """Seconds of the data-parallel ranks' traffic, by the pass of the model that it belongs to.

    A stage that gathers once does so for the next forward pass; stage 3 gathers in both passes. With accumulation, what
    is reduced or gathered in each micro-step takes its time in each of them.
    """
    k, t = work.grad_accum, work.tensor_parallel
    alpha, bandwidth = link(machine, work)
    buckets = sum(times for _, times in subject.units)
    if work.bucket and stage < 3:
        buckets = max(1, -(-subject.parameters // (t * work.bucket)))
    far, near = _data_parallel(subject, work, stage)
    inside = machine.network.bandwidth_inside if work.secondary <= machine.network.ranks_per_node else bandwidth
    passes = formulas.passes(stage, k)
    reduced = passes.get("all_reduce", 0) * 2 + passes.get("reduce_scatter", 0)
    if stage == 1 and not work.reduce_scatter:
        reduced = 2
    gathered = passes.get("all_gather", 0)
    each = far / (reduced + gathered) / bandwidth + buckets * alpha
    if stage < 3:
        return {"backward": reduced * each, "forward": gathered * each}
    if work.secondary:
        far_passes = reduced + gathered / 2
        each = far / far_passes / bandwidth + buckets * alpha
        return {"backward": reduced * each + near / inside + k * buckets * alpha, "forward": gathered / 2 * each}
    return {"backward": (reduced + gathered / 2) * each, "forward": gathered / 2 * each}


def update(subject: Subject, machine: Machine, work: Workload, stage: int, offload: str) -> float:
    """Seconds to read the gradient, read and write the states and write the parameters, at the memory's bandwidth."""
    w, g, K = work.per_parameter()
    elements = _padded(subject, work) / (work.ranks if stage >= 1 else 1)
    touched = (g + 2 * K + w) * elements
    if _places(offload)["optimizer"]:
        per_node = min(machine.network.ranks_per_node, work.gpus)
        return touched * per_node / machine.host_memory_bandwidth
    return touched / machine.memory_bandwidth


# the answer ----------------------------------------------------------------------------------------------------------


def deepspeed_estimates(subject: Subject, machine: Machine, work: Workload) -> dict[str, dict[str, int]]:
    """Return what DeepSpeed's own estimators say, by stage and offload: bytes per "host" and per "device".

    They know no tensor parallelism; for stage 3 they need the model's largest module, without which it is left out.
    """
    per_node = min(machine.network.ranks_per_node, work.ranks)
    where: dict[str, Any] = {"per_node": per_node, "nodes": -(-work.ranks // per_node)}
    found = {
        "2, none": formulas.deepspeed_zero2(subject.parameters, **where, offload=False),
        "2, optimizer:cpu": formulas.deepspeed_zero2(subject.parameters, **where),
    }
    if subject.model and subject.model.largest_module:
        sizes = (subject.parameters, subject.model.largest_module)
        for name, offload, parameters in (
            ("3, none", False, False),
            ("3, optimizer:cpu", True, False),
            ("3, optimizer:cpu,parameters:cpu", True, True),
        ):
            found[name] = formulas.deepspeed_zero3(*sizes, **where, offload=offload, offload_parameters=parameters)
    return {name: estimate._asdict() for name, estimate in found.items()}


def recommend(found: list[Plan]) -> tuple[Plan | None, str]:
    """Return the plan to take and the reason: of those that fit, the simplest of those that are about the fastest.

    Plans come in order of simplicity. Times of a tenth more than the fastest are no different to a model like this.
    """
    fitting = [one for one in found if one.fits]
    if not fitting:
        enough = [one for one in found if one.smallest_gpus]
        if not enough:
            return None, "nothing fits, on any number of devices; what is left to change: " + CHANGES
        least = min(enough, key=lambda one: one.smallest_gpus or 0)
        return None, f"nothing fits; the fewest devices that do are {least.smallest_gpus:,}, for {called(least)}"
    if any(one.seconds is None for one in fitting):
        return fitting[0], "the simplest that fits; the time of a step is not known"
    fastest = min(_total(one) for one in fitting)
    best = next(one for one in fitting if _total(one) <= (1 + ALIKE) * fastest)
    reason = f"the simplest of those that fit and are within {100 * ALIKE:.0f} % of the fastest"
    if len(fitting) == 1:
        reason = "the only one that fits"
    if not (simpler := found[: found.index(best)]):
        return best, reason
    last = simpler[-1]
    more = (
        f"is {100 * (_total(last) / _total(best) - 1):.0f} % slower" if last.fits else f"does not fit: {last.why_not}"
    )
    return best, f"{reason}; {called(last)}, which is simpler, {more}"


CHANGES = "--recompute full, --tensor-parallel, a smaller --seq, --micro-batch or --bucket"


def called(one: Plan) -> str:
    """A plan's name: "stage 3 with optimizer:cpu"."""
    return f"stage {one.stage}" + (f" with {one.offload}" if one.offload != "none" else " without offload")


def _total(one: Plan) -> float:
    return one.seconds["total"] if one.seconds else math.inf
