"""The command `plan`: what a model would hold, send and take on a cluster, at each stage, however it offloads."""

import argparse
import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

from zerosim import deepspeed, machine, models
from zerosim.commands.common import Commands, ProgressLine
from zerosim.commands.output import door_of, is_first, parse_size
from zerosim.deepspeed import DeepSpeed
from zerosim.errors import InputError
from zerosim.jsonfile import write_json
from zerosim.machine import MACHINES, Machine
from zerosim.models import PRESETS
from zerosim.plan import (
    CHECKPOINTS,
    RECOMPUTE,
    Plan,
    Subject,
    Workload,
    called,
    deepspeed_estimates,
    mlp,
    plans,
    recommend,
    subject_of,
)
from zerosim.report import console_text, make_folder, plain_table
from zerosim.transport import Transport
from zerosim.words import counted

SCHEMA = "zerosim.plan/1"
FILES = ("plan.json", "plan.csv", "plan.png", "plan.svg")

_SHAPE = ("layers", "hidden", "heads", "vocab", "ffn")
_NETWORK = {
    "gpus_per_node": "ranks_per_node",
    "bandwidth_inside": "bandwidth_inside",
    "bandwidth_between": "bandwidth_between",
    "links": "links",
}
_BYTES = ("memory", "host_memory", "nvme")
_RATES = ("flops", "memory_bandwidth", "host_bandwidth", "host_memory_bandwidth", "nvme_bandwidth")
_WORK = [field.name for field in dataclasses.fields(Workload)]


def add(commands: Commands) -> None:
    """Describe the command and its flags."""
    text = "plan a training: memory, traffic and time of each stage and offload, for your model on your cluster"
    p = commands.add_parser("plan", help=text, description=text, allow_abbrev=False)
    p.set_defaults(run=run, parser=p)
    number = {"metavar": "X", "default": None}

    model = p.add_argument_group("model (one of these)")
    model.add_argument("--model", metavar="NAME|PATH", help=f"a config.json, or one of {', '.join(PRESETS)}")
    model.add_argument("--parameters", metavar="P", help="only their number: 7.5e9")
    model.add_argument(
        "--layers", type=int, metavar="L", help="a transformer of L blocks, with --hidden; GPT-2's parts"
    )
    model.add_argument("--hidden", type=int, metavar="H", help="its width")
    model.add_argument("--heads", type=int, metavar="A", help="its attention heads")
    model.add_argument("--vocab", type=int, metavar="V", help="its vocabulary (default: 50257)")
    model.add_argument("--ffn", type=int, metavar="F", help="width of its feed-forward part (default: 4 H)")
    model.add_argument("--widths", metavar="64,256,10", help="an MLP as train has it, inputs first")

    cluster = p.add_argument_group("cluster")
    cluster.add_argument("--gpus", type=int, metavar="N", help="devices (default: 64)")
    cluster.add_argument("--cluster", metavar="NAME", help=f"{', '.join(MACHINES)} (default: dgx-h100)")
    cluster.add_argument("--memory", metavar="BYTES", help="of a device: 80e9, 80GB, 80GiB (default: the cluster's)")
    cluster.add_argument("--gpus-per-node", type=int, metavar="M", help="devices on a node")
    cluster.add_argument("--flops", help="peak operations per second of a device", **number)
    cluster.add_argument("--memory-bandwidth", help="bytes per second of a device's memory", **number)
    cluster.add_argument("--bandwidth-inside", help="bytes per second of a device inside its node", **number)
    cluster.add_argument("--bandwidth-between", help="bytes per second of a link between nodes", **number)
    cluster.add_argument("--links", type=int, metavar="K", help="such links per node")
    cluster.add_argument("--host-memory", metavar="BYTES", help="of a node")
    cluster.add_argument("--host-bandwidth", help="bytes per second between a device and its host", **number)
    cluster.add_argument("--host-memory-bandwidth", help="bytes per second of a node's memory", **number)
    cluster.add_argument("--nvme", metavar="BYTES", help="of a node")
    cluster.add_argument("--nvme-bandwidth", help="bytes per second of a node's drives", **number)

    work = p.add_argument_group("training")
    work.add_argument("--deepspeed", metavar="FILE.json", help="a DeepSpeed configuration; flags prevail")
    work.add_argument("--seq", type=int, metavar="S", help="tokens of a sequence (default: the model's most, to 4096)")
    work.add_argument("--micro-batch", type=int, metavar="B", help="sequences per rank and micro-step (default: 1)")
    work.add_argument("--grad-accum", type=int, metavar="G", help="micro-steps of a step (default: 1)")
    work.add_argument("--batch-size", type=int, metavar="B", help="sequences per step over all ranks, instead")
    work.add_argument("--tensor-parallel", type=int, metavar="T", help="devices that share each layer (default: 1)")
    work.add_argument(
        "--sequence-parallel", action="store_const", const=True, help="they share the rest of the activations too"
    )
    work.add_argument("--precision", metavar="fp32|fp16|bf16", help="(default: bf16)")
    work.add_argument("--optimizer", metavar="NAME", help="sgd, momentum, adam, adamw (default: adam)")
    work.add_argument(
        "--convention", metavar="NAME", help="who counts states: zero, deepspeed, infinity, megatron (default: zero)"
    )
    work.add_argument(
        "--recompute", metavar="|".join(RECOMPUTE), help="activations computed again in backward (default: selective)"
    )
    work.add_argument(
        "--checkpoints",
        metavar="|".join(CHECKPOINTS),
        help="with full recomputation and tensor parallelism: ZeRO-R's Pa and Pa+cpu (default: whole)",
    )
    work.add_argument("--bucket", type=int, metavar="ELEMENTS", help="of gradients (default: the largest layer)")
    work.add_argument(
        "--overlap", action=argparse.BooleanOptionalAction, default=None, help="send while computing (default: yes)"
    )
    work.add_argument(
        "--secondary", type=int, metavar="R", help="hpZ: ranks that share a second copy of the parameters"
    )
    for what in ("weights", "gradients"):
        work.add_argument(
            f"--quantized-{what}", action="store_const", const=True, help=f"ZeRO++'s q{what[0]}Z at stage 3"
        )
    work.add_argument("--efficiency", type=float, metavar="E", help="of the peak, that is reached (default: 0.45)")
    work.add_argument("--usable", type=float, metavar="U", help="of memory, that is the model's (default: 0.9)")

    output = p.add_argument_group("output")
    output.add_argument("--out", metavar="DIR", help="write plan.json, plan.csv and the figures there")
    output.add_argument("--csv", action="store_true", help="print CSV on standard output, and nothing else there")
    output.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Print the plans, or write them; only the first rank does."""
    if arguments.csv and arguments.json:
        raise InputError("csv, json: both want standard output; give one of them (--out DIR writes both)")
    first = is_first(transport)
    made = door_of(transport).agreed(lambda: _made(arguments) if first else None)
    if made is None:
        return
    report, found = made
    if arguments.out is not None:
        _write(report, arguments.out)
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    elif arguments.csv:
        print(_csv(report), end="")
    else:
        print(_text(report, found))
        if arguments.out is not None:
            print(f"Written: plan.json, plan.csv and the figures, in {arguments.out}")


def _made(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Plan]]:
    """The report and the plans in it. Raises InputError for what cannot be planned, or written."""
    settings = None if arguments.deepspeed is None else deepspeed.read(arguments.deepspeed)
    subject, cluster = _subject(arguments), _machine(arguments)
    work = _workload(arguments, settings, subject)
    if arguments.out is not None:
        if not arguments.out:
            raise InputError("out: '' must be the name of a folder")
        make_folder(arguments.out, *FILES)
    chosen = ((settings.stage, _offload_of(settings)),) if settings else ()
    found = plans(subject, cluster, work, chosen)
    return _report(subject, cluster, work, settings, found), found


# what is asked for ---------------------------------------------------------------------------------------------------


def _subject(arguments: argparse.Namespace) -> Subject:
    shape = {name: getattr(arguments, name) for name in _SHAPE if getattr(arguments, name) is not None}
    ways = {
        "--model": arguments.model,
        "--parameters": arguments.parameters,
        "--layers": shape or None,
        "--widths": arguments.widths,
    }
    given = [way for way, value in ways.items() if value is not None]
    if len(given) != 1:
        said = f"{' and '.join(given)} are both given" if given else "no model is given"
        if shape and "--layers" in given and "layers" not in shape:
            said = f"{', '.join(f'--{name}' for name in shape)} is for --layers and --hidden"
        raise InputError(f"model: {said}; give one of --model, --parameters, --layers with --hidden, or --widths")
    if arguments.model is not None:
        return subject_of(models.find(arguments.model))
    if arguments.parameters is not None:
        return subject_of(models.from_count(_number("parameters", arguments.parameters)))
    if arguments.widths is not None:
        parts = [part.strip() for part in arguments.widths.split(",")]
        if not all(part.isdecimal() and len(part) < 10 for part in parts):
            raise InputError(f"widths: {arguments.widths[:60]!r} must be whole numbers with commas between")
        return mlp(tuple(map(int, parts)))
    if "layers" not in shape or "hidden" not in shape:
        raise InputError("model: --layers and --hidden go together, and heads, vocab and ffn with them")
    seq = {} if arguments.seq is None else {"seq": arguments.seq}
    return subject_of(models.from_shape(**shape, **seq))


def _machine(arguments: argparse.Namespace) -> Machine:
    found = machine.find("dgx-h100" if arguments.cluster is None else arguments.cluster)
    read = dict.fromkeys(_BYTES, _size) | dict.fromkeys(_RATES, _number)
    device: dict[str, Any] = {
        name: reader(name, text) for name, reader in read.items() if (text := getattr(arguments, name)) is not None
    }
    network: dict[str, Any] = {
        field: value if isinstance(value, int) else _number(flag, value)
        for flag, field in _NETWORK.items()
        if (value := getattr(arguments, flag)) is not None
    }
    for field, value in network.items():
        if value > 1e18:
            raise InputError(f"{field}: it must be 1e18 at most")
    if "flops" in device:
        device["flops_fp32"] = device["flops"]
    return dataclasses.replace(found, network=dataclasses.replace(found.network, **network), **device)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name}: {text!r} is no number; say 7.5e9, …") from None


def _size(name: str, text: str) -> float:
    if name != "memory" and text.strip() == "0":
        return 0.0
    try:
        return parse_size(text)
    except InputError as error:
        raise InputError(f"{name}{str(error).removeprefix('bytes')}") from None


def _workload(arguments: argparse.Namespace, settings: DeepSpeed | None, subject: Subject) -> Workload:
    given = {name: value for name in _WORK if (value := getattr(arguments, name, None)) is not None}
    if "seq" not in given and subject.model and subject.model.seq:
        given["seq"] = min(subject.model.seq, 4096)
    if settings is not None:
        sizes = {name: given[name] for name in ("gpus", "tensor_parallel") if name in given}
        given = _from_deepspeed(settings, subject, Workload(**sizes).ranks) | given
    work = Workload(**given)
    if arguments.batch_size is not None:
        if arguments.micro_batch is not None and arguments.grad_accum is not None:
            raise InputError("batch_size: it follows from --micro-batch and --grad-accum; give two of the three")
        work = _with_batch(work, arguments.batch_size, arguments.grad_accum is not None)
    return work


def _from_deepspeed(settings: DeepSpeed, subject: Subject, N: int) -> dict[str, Any]:
    """The file's settings in the planner's words; buckets and thresholds count elements in both."""
    batch = (settings.train_batch_size, settings.micro_batch_size, settings.grad_accum)
    _, micro, accumulation = deepspeed.batch(settings, N) if any(batch) else (None, 1, 1)
    tensors = subject.model.tensors if subject.model else None
    open_ = {name.partition(".")[0] for name in settings.auto}
    precision = {} if open_ & {"fp16", "bf16", "bfloat16"} else {"precision": settings.precision}
    return {
        **precision,
        "micro_batch": micro,
        "grad_accum": accumulation,
        "optimizer": settings.optimizer or "adam",
        "convention": "deepspeed",
        "bucket": settings.reduce_bucket_size,
        "overlap": settings.overlap_comm,
        "prefetch": min(settings.prefetch_bucket_size, settings.max_live_parameters),
        "persistence": sum(t.size * t.times for t in tensors or () if t.size <= settings.persistence_threshold),
        "secondary": settings.hpz_partition_size if settings.hpz_partition_size > 1 else 0,
        "reduce_scatter": settings.reduce_scatter,
        "quantized_weights": settings.quantized_weights,
        "quantized_gradients": settings.quantized_gradients,
    }


def _with_batch(work: Workload, batch_size: int, accumulates: bool) -> Workload:
    """Let accumulation, or where that is given the micro-batch, make up the global batch."""
    each = work.ranks * (work.grad_accum if accumulates else work.micro_batch)
    if batch_size < 1 or batch_size % each:
        raise InputError(
            f"batch_size: {counted(batch_size, 'sequence')} cannot be shared by "
            f"{counted(work.ranks, 'data-parallel rank')} in micro-batches of {work.micro_batch}; it must be a "
            f"multiple of {each}"
        )
    rest = batch_size // each
    if accumulates:
        return dataclasses.replace(work, micro_batch=rest)
    return dataclasses.replace(work, grad_accum=rest)


# what is said --------------------------------------------------------------------------------------------------------


def _report(
    subject: Subject, cluster: Machine, work: Workload, settings: DeepSpeed | None, found: list[Plan]
) -> dict[str, Any]:
    best, reason = recommend(found)
    if (best is None or best.offload != "none") and work.recompute != "full" and found[0].bytes["activations"]:
        other, _ = recommend(plans(subject, cluster, dataclasses.replace(work, recompute="full")))
        if other and (best is None or not best.seconds or other.offload == "none"):
            reason += f"; with --recompute full, {called(other)} is the answer"
    sizes = ("layers", "hidden", "heads", "vocab", "seq")
    model = {name: getattr(subject.model, name, None) for name in sizes} if subject.model else {}
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "model": {
            "name": subject.name,
            "parameters": subject.parameters,
            "active_parameters": subject.active,
            **({"widths": list(subject.widths)} if subject.widths else model),
            "source": subject.source,
        },
        "cluster": cluster.asdict(),
        "workload": dataclasses.asdict(work),
        "plans": [one.asdict() for one in found],
        "recommended": {"stage": best and best.stage, "offload": best and best.offload, "reason": reason},
        "assumptions": _assumptions(subject, cluster, work, found[0].bytes["activations"] is not None),
    }
    if work.convention == "deepspeed":
        report["estimators"] = deepspeed_estimates(subject, cluster, work)
    if settings is not None:
        used = _USED | ({"zero_optimization.reduce_scatter"} if settings.stage == 1 else set())
        report["deepspeed"] = {
            "stage": settings.stage,
            "offload": _offload_of(settings),
            "used": [name for name in settings.given if name in used],
            "not_used": [name for name in settings.given if name not in used] + list(settings.not_used),
            "auto": list(settings.auto),
        }
    return report


_ZERO: tuple[str, ...] = (
    "stage",
    "reduce_bucket_size",
    "overlap_comm",
    "offload_optimizer.device",
    "offload_param.device",
)
_ZERO += ("cpu_offload", "cpu_offload_params", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
_ZERO += ("stage3_max_live_parameters", "zero_hpz_partition_size", "zero_quantized_weights")
_USED = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer.type"}
_USED |= {"fp16.enabled", "bf16.enabled", "bfloat16.enabled", "zero_optimization.zero_quantized_gradients"}
_USED |= {f"zero_optimization.{name}" for name in _ZERO}
"""Keys of DeepSpeed's that a plan depends on; clipping, for one, moves a few bytes."""


def _offload_of(settings: DeepSpeed) -> str:
    places = {"optimizer": settings.offload_optimizer, "parameters": settings.offload_param}
    return ",".join(f"{what}:{where}" for what, where in places.items() if where) or "none"


def _assumptions(subject: Subject, cluster: Machine, work: Workload, known: bool) -> list[str]:
    """What the figures rest on; `known` says whether the activations are among them."""
    w, g, K = work.per_parameter()
    peak = cluster.flops_fp32 if work.precision == "fp32" else cluster.flops
    model, network = subject.model, cluster.network
    tokens = "rows" if subject.widths else f"{work.seq} tokens" if work.seq else "no --seq"
    whose = "--convention " + work.convention if work.precision != "fp32" else "fp32 needs no master copy"
    buckets = ("two buckets of {} parameters" if work.overlap else "a bucket of {} parameters").format(
        f"{work.bucket:,}" if work.bucket else "the largest layer's"
    )
    layers = "two layers" if work.overlap else "a layer"
    return [
        f"states: {w} + {g} + {K} bytes per parameter, gradient and optimizer states ({whose})",
        f"activations: micro-batch {work.micro_batch}, {tokens}"
        + (
            ""
            if subject.widths
            else f", recompute {work.recompute}, checkpoints {work.checkpoints}; Korthikanti et al."
        )
        if known
        else "activations: NOT KNOWN, and left out; they need --seq, --layers, --hidden, without recomputation --heads",
        f"buffers: {buckets}; at stage 3 also {layers} gathered"
        + ("" if subject.widths or (model and model.tensors) else "; layers taken as equal, 32 or more"),
        f"{100 * work.usable:.0f} % of memory is the model's (--usable)",
        f"computing: {100 * work.efficiency:.0f} % of {peak / 1e12:g} TFLOPS (--efficiency, --flops)"
        + ("" if work.seq or subject.widths else "; operations are not known without --seq"),
        f"sending: rings at {network.bandwidth_inside / 1e9:g} GB/s inside nodes of {network.ranks_per_node}, "
        f"{counted(network.links, 'link')} of {network.bandwidth_between / 1e9:g} GB/s between (--bandwidth-inside, "
        "--bandwidth-between, --links)",
        f"updating: {cluster.memory_bandwidth / 1e9:g} GB/s of a device's memory, "
        f"{cluster.host_memory_bandwidth / 1e9:g} of a node's; offload: {cluster.host_bandwidth / 1e9:g} GB/s per "
        f"device, {cluster.nvme_bandwidth / 1e9:g} of a node's NVMe (--memory-bandwidth, --host-memory-bandwidth, …)",
        "hidden: gradients behind the backward pass, what is gathered behind the pass that uses it, half of the "
        "offload (--no-overlap)"
        if work.overlap
        else "hidden: nothing (--overlap)",
        *(
            ["tensor parallelism: what it sends is NOT KNOWN, and left out"]
            if work.tensor_parallel > 1 and not (model and model.layers and work.seq)
            else []
        ),
        "not in it: pipeline parallelism, loading data, writing checkpoints, what a failure costs",
    ]


_HEAD = {"parameters": "par", "gradients": "grad", "optimizer_states": "optim", "activations": "act", "buffers": "buf"}


def _text(report: dict[str, Any], found: list[Plan]) -> str:
    model, work, yours = report["model"], report["workload"], report.get("deepspeed")
    estimators = report.get("estimators", {}).items()
    row = "row" if "widths" in model else "sequence"
    sized = model["name"] != f"{model['parameters']:,} parameters"
    ranks = work["gpus"] // work["tensor_parallel"]
    most = max(value for one in found for value in one.bytes.values() if value is not None)
    divisor, unit = next(((size, name) for size, name in _SIZES if most >= 10 * size), (1.0, "B"))

    def mark(one: Plan) -> str:
        if yours and (one.stage, one.offload) == (yours["stage"], yours["offload"]):
            return f"{one.stage} *"
        return str(one.stage)

    slowest = max((one.seconds["total"] for one in found if one.seconds), default=1.0)
    second, clock = (1.0, "seconds") if slowest >= 10 else (1e-3, "milliseconds")

    memory = _empty(("st", "offload", *_HEAD.values(), "total", "sent", "fits"))
    time = _empty(("st", "offload", "comp", "upd", "comm", "offl", "hid", "step", "largest", "GPUs"))
    for one in found:
        cells = [one.bytes[name] for name in (*_HEAD, "total")] + [sum(one.traffic.values())]
        shown = ["?" if value is None else _figure(value / divisor) for value in cells]
        fits = "no" if not one.fits else "yes" if None not in cells else "yes?"
        memory.add_row(mark(one), _short(one.offload), *shown, fits)
        names = ("compute", "optimizer", "communication", "offload", "hidden", "total")
        parts = [_figure(one.seconds[name] / second) if one.seconds else "?" for name in names]
        least = "none" if one.smallest_gpus is None else f"{one.smallest_gpus:,}"
        time.add_row(mark(one), _short(one.offload), *parts, _count(one.largest_model), least)
    recommended = report["recommended"]
    said = "Recommended: none" if recommended["stage"] is None else f"Recommended: stage {recommended['stage']}"
    if recommended["stage"] is not None and recommended["offload"] != "none":
        said += f", {_short(recommended['offload'])} offloaded"
    parts = [
        (f"{model['name']}: {model['parameters']:,} parameters" if sized else model["name"])
        + (f", {model['active_parameters']:,} active" if model["active_parameters"] != model["parameters"] else "")
        + f"; {counted(work['gpus'], 'device')} of {_figure(report['cluster']['memory'] / 1e9)} GB "
        f"({report['cluster']['name']})"
        + f", {counted(ranks, 'data-parallel rank')}; {work['precision']}, {work['optimizer']}; "
        f"{counted(work['micro_batch'] * work['grad_accum'] * ranks, row)} per step.",
        f"Per device, in {unit}; sent per step, to other devices, the host and NVMe and back, in {unit}:",
        memory,
        f"A step's {clock}: compute, update, communicate, offload, less what is hidden; the largest model that fits, "
        "with these activations; the fewest devices that do:",
        time,
        f"{said}: {recommended['reason']}.",
        "",
        "Assumptions:",
        *(f"- {line}" for line in report["assumptions"]),
    ]
    if "estimators" in report:
        gib = (f"{name}: {one['device'] / 2**30:.2f} and {one['host'] / 2**30:.2f}" for name, one in estimators)
        parts += [f"DeepSpeed's own estimators, GiB per device and per host, by stage and offload: {'; '.join(gib)}."]
    if yours:
        parts += [f"* the configuration's own. Not used of it: {', '.join(yours['not_used']) or 'nothing'}."]
        if yours["auto"]:
            parts += [f"Left to be filled in (auto), and planned as the flags say: {', '.join(yours['auto'])}."]
    return console_text(*parts)


def _empty(titles: tuple[str, ...]) -> Any:

    table = plain_table()
    for title in titles:
        table.add_column(title, justify="left" if title in ("st", "offload", "fits") else "right", no_wrap=True)
    return table


_SIZES = ((1e18, "EB"), (1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def _short(offload: str) -> str:
    """ "optimizer:cpu,parameters:cpu" is "opt+par cpu"."""
    if offload == "none":
        return "none"
    places = dict(part.split(":") for part in offload.split(","))
    if len(set(places.values())) == 1 and len(places) == 2:
        return f"opt+par {places['optimizer']}"
    return " ".join(f"{what[:3]} {where}" for what, where in places.items())


def _figure(value: float) -> str:
    """Three digits."""
    value = float(f"{value:.3g}")
    if value == 0:
        return "0"
    if value < 0.001:
        return f"{value:.0e}"
    return f"{value:.{max(0, min(3, 2 - math.floor(math.log10(value))))}f}"


def _count(number: float) -> str:
    """Parameters with three digits: 7.5e9 is "7.50B"."""
    if not math.isfinite(number):
        return "any"
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{_figure(number / size)}{name}"
    return f"{number:.0f}"


def _csv(report: dict[str, Any]) -> str:
    """A line for each plan; all figures in bytes and seconds, and what is not known is empty."""
    text = io.StringIO()
    rows = [
        {
            **{name: one[name] for name in ("stage", "offload")},
            **{f"bytes_{name}": value for name, value in one["bytes"].items()},
            **{name: one[name] for name in ("host_bytes", "nvme_bytes", "traffic_bytes", "seconds_per_step", "fits")},
            **{name: one[name] for name in ("largest_model", "smallest_gpus")},
        }
        for one in report["plans"]
    ]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(report: dict[str, Any], out: str) -> None:
    folder = Path(out)
    write_json(report, folder / "plan.json")
    (folder / "plan.csv").write_text(_csv(report), encoding="utf-8")
    progress = ProgressLine()
    progress.say("drawing the figure")
    from zerosim import figures

    try:
        figures.save(figures.plan(report), folder, "plan")
    finally:
        progress.done()
