"""Where measurement and formula meet: the report as JSON (docs: README), and the table on the terminal."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import zerosim
from zerosim import formulas
from zerosim.collectives import AUTO, NATIVE, VERBS
from zerosim.collectives.auto import choice
from zerosim.errors import InputError
from zerosim.jsonfile import write_json
from zerosim.train import Records, Run

SCHEMA = "zerosim.report/1"


def build_report(records: Records) -> dict[str, Any]:
    """Return the report of a training: what was measured, and beside it what the formulas say. JSON types only.

    All memory and traffic is in bytes; "measured" was counted, "formula" comes from `zerosim.formulas` alone.
    """
    hashes = {run.weights_sha256 for run in records.runs}
    return {
        "schema": SCHEMA,
        "zerosim": zerosim.__version__,
        "world_size": records.world_size,
        "backend": records.backend,
        "config": records.config.asdict(),
        "model": {
            "layers": records.widths,
            "parameters": records.parameters,
            "padded_parameters": records.padded_parameters,
        },
        "data": records.data,
        "runs": [_run(records, run) for run in records.runs],
        "identical_weights": len(hashes) == 1,
    }


def _run(records: Records, run: Run) -> dict[str, Any]:
    config, L, N = records.config, records.widths, records.world_size
    at_rest = formulas.at_rest(run.stage, L, N, config.precision, config.optimizer)
    traffic = [_traffic(run, records, rank) for rank in range(N)]
    memory = {
        "at_rest": {"measured": run.at_rest, "formula": at_rest},
        "peak": {"measured": run.peak},
        "timeline": run.timeline,
    }
    if "interpreter" in run.witnesses:
        memory["traced_peak"] = [witness["peak"] for witness in run.witnesses["interpreter"]]
    return {
        "stage": run.stage,
        "loss": run.loss,
        "epochs": run.epochs,
        "steps": len(run.loss),
        "skipped_steps": run.skipped_steps,
        "final_loss_scale": run.final_loss_scale,
        "weights_sha256": run.weights_sha256,
        "largest_difference": run.largest_difference,
        "memory": memory,
        "traffic": {
            "modelled": config.collective == NATIVE,
            "collectives": {str(nbytes): name for nbytes, name in run.who},
            "per_step": {
                "measured": [{verb: sent.get(verb, 0) for verb in VERBS} for sent in run.sent_per_step],
                "formula": max(traffic, key=lambda sent: sum(sent.values())),
                "formula_per_rank": traffic,
            },
            "control": run.control,
            "messages": run.messages_per_step,
            "messages_formula": [_messages(run, records, rank) for rank in range(N)],
            "sent": run.sent,
            "received": run.received,
            "sent_equals_received": sum(run.sent) == sum(run.received),
        },
        "witnesses": run.witnesses,
        "time": run.seconds,
    }


def _traffic(run: Run, records: Records, rank: int) -> dict[str, int]:
    """What a rank should send in a step, by verb: the formula's word, or for a reader's algorithm its exchanges'."""
    config, L, N = records.config, records.widths, records.world_size
    if records.slices_sent is not None:
        slice_bytes = formulas.WIDTH[config.precision] * (formulas.padded_parameters(L, N) // N)
        times = formulas.passes(run.stage, config.grad_accum)
        sent = {verb: n * records.slices_sent[verb][rank] * slice_bytes for verb, n in times.items()}
    else:
        collective = _collective(config.collective, N)
        sent = formulas.traffic(run.stage, L, N, config.precision, config.bucket, config.grad_accum, collective, rank)
    return {verb: sent.get(verb, 0) for verb in VERBS}


def _messages(run: Run, records: Records, rank: int) -> int | None:
    """How many messages a rank should send in a step; None where no formula says so."""
    config, L, N = records.config, records.widths, records.world_size
    if config.collective == NATIVE or records.slices_sent is not None:
        return None
    collective = _collective(config.collective, N)
    return formulas.messages(run.stage, L, N, config.precision, config.bucket, config.grad_accum, collective, rank)


def _collective(name: str, N: int) -> formulas.Collective:
    """What the formulas take: a name, or for auto the choice by size."""
    return partial(choice, N=N) if name == AUTO else name


def write_report(report: dict[str, Any], folder: str | Path) -> Path:
    """Write report.json into an existing folder and return its path."""
    return write_json(report, Path(folder) / "report.json")


def make_folder(name: str, *files: str) -> Path:
    """Make the folder for the artifacts, if need be. Raises InputError if it, or any of `files`, cannot be written."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"out {name}: cannot write to this folder ({reason})") from None
    for file in files:
        if (folder / file).is_dir():
            raise InputError(f"out {name}: {file} is a folder there, where a file of that name is to be written")
    return folder


# the table -----------------------------------------------------------------------------------------------------------


def si(nbytes: float) -> str:
    """Bytes with four digits, in powers of 1000: 1360064 is "1.360 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 999.95 or unit == "TB":
            break
        nbytes /= 1000
    decimals = 0 if unit == "B" else max(0, 4 - len(str(int(nbytes))))
    return f"{nbytes:.{decimals}f} {unit}"


def binary(nbytes: float) -> str:
    """Bytes in powers of 1024: 4096 is "4 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024 or unit == "GiB":
            break
        nbytes /= 1024
    return f"{nbytes:.4g} {unit}"


def total_at_rest(run: dict[str, Any]) -> tuple[int, int, bool]:
    """Return bytes at rest of the fullest rank, the formula's, and whether all classes of all ranks equal it."""
    measured, formula = run["memory"]["at_rest"]["measured"], run["memory"]["at_rest"]["formula"]
    return max(sum(m.values()) for m in measured), sum(formula.values()), all(m == formula for m in measured)


def total_sent(run: dict[str, Any]) -> tuple[int, int, bool]:
    """Return bytes sent per step by the busiest rank, the formula's, and whether all verbs of all ranks equal it."""
    step = run["traffic"]["per_step"]
    measured, formula = step["measured"], step["formula"]
    return max(sum(m.values()) for m in measured), sum(formula.values()), measured == step["formula_per_rank"]


def format_report(report: dict[str, Any], width: int = 80) -> str:
    """Return the table and the lines below it as text, at most `width` columns wide."""
    from rich import box
    from rich.table import Table

    config, model, data = report["config"], report["model"], report["data"]
    regression = data["task"] == "regression"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nstage", justify="right", no_wrap=True)
    modelled = report["runs"][0]["traffic"]["modelled"]
    for what, how in (("memory at rest", "counted"), ("sent per step", "modelled" if modelled else "counted")):
        table.add_column(f"{what}\n{how} = formula", justify="center", no_wrap=True)
    table.add_column("last\nloss", justify="right", no_wrap=True)
    table.add_column("test\nloss" if regression else "test\naccuracy", justify="right", no_wrap=True)
    table.add_column("weights\nsha256", no_wrap=True)
    for run in report["runs"]:
        table.add_row(
            str(run["stage"]),
            equation(*total_at_rest(run)),
            equation(*total_sent(run)),
            _number(run["loss"][-1]),
            _number(run["epochs"][-1]["test_loss" if regression else "test_accuracy"]),
            run["weights_sha256"][:8],
        )
    ranks = "rank" if report["world_size"] == 1 else "ranks"
    layers = " x ".join(map(str, model["layers"]))
    heading = (
        f"{report['world_size']} {ranks} ({report['backend']}), layers {layers}: {model['parameters']:,} parameters "
        f"({model['padded_parameters'] - model['parameters']} more as padding), {config['optimizer']}, "
        f"{config['precision']}; {data['train_rows']} rows of {data['name']}, {config['batch_size']} per step, "
        f"{report['runs'][0]['steps']} steps. Bytes are per rank."
    )
    return console_text(heading, table, *_verdicts(report), *_witnesses(report), width=width)


def console_text(*parts: Any, width: int = 80) -> str:
    """Return tables and lines of text as plain text, at most `width` columns wide."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    text = StringIO()
    console = Console(
        file=text, width=width, color_system=None, highlight=False, force_jupyter=False, markup=False, emoji=False
    )
    for part in parts:
        console.print(part, end="" if isinstance(part, Table) else "\n")
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _witnesses(report: dict[str, Any]) -> list[Any]:
    """What the witnesses say as shares of what was counted, of the rank where it is farthest from 1; and the floors."""
    from rich import box
    from rich.table import Table

    called = list(report["runs"][0]["witnesses"])
    if not called:
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("stage", "", "counted", *called):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for run in report["runs"]:
        for what, counted in _counted(run).items():
            said = {name: [own.get(what) for own in run["witnesses"][name]] for name in called}
            if any(numbers[0] is not None for numbers in said.values()):
                cells = [_farthest(numbers, counted) for numbers in said.values()]
                table.add_row(str(run["stage"]), what.replace("_", " "), si(max(counted)), *cells)
    lines = ["Witnesses, as shares of what was counted, on the rank where they are farthest from 1:", table]
    if "os" in called:
        own = report["runs"][0]["witnesses"]["os"][0]
        lines.append(
            f"os: above the floor of libraries and data on rank 0, {si(own['floor_written'])} of written pages at rest "
            f"and {si(own['floor_resident'])} resident at the peak."
        )
    if "wire" in called:
        lines.append("wire: over TCP, from the first step to the last evaluation, with what MPI adds to a message.")
    return lines


def _counted(run: dict[str, Any]) -> dict[str, list[int]]:
    """What the ledger and the door counted of that on which witnesses are heard, per rank."""
    wire = run["witnesses"].get("wire", [])
    return {
        "at_rest": [sum(own.values()) for own in run["memory"]["at_rest"]["measured"]],
        "peak": [own["total"] for own in run["memory"]["peak"]["measured"]],
        "sent": [own["counted_sent"] for own in wire],
        "received": [own["counted_received"] for own in wire],
    }


def _farthest(said: list[int | None], counted: list[int]) -> str:
    """The share farthest from 1; "=" says that all are equal to the byte."""
    if said[0] is None:
        return ""
    if said == counted:
        return "="
    shares = [a / b if b else math.inf for a, b in zip(said, counted, strict=True) if a is not None and (a or b)]
    return f"{max(shares, key=lambda share: abs(share - 1)):.4f}"


def _verdicts(report: dict[str, Any]) -> list[str]:
    runs = report["runs"]
    lines = [_weights_line(report)]
    lines.append(_books_line(report))
    if report["config"]["collective"] == AUTO:
        lines.append(_choices_line(report))
    skipped = {run["stage"]: run["skipped_steps"] for run in runs if run["skipped_steps"]}
    if skipped:
        stages = ", ".join(f"{n} at stage {stage}" for stage, n in skipped.items())
        lines.append(f"Skipped steps: {stages} (a gradient overflowed in fp16; every rank skipped together).")
    return lines


def _choices_line(report: dict[str, Any]) -> str:
    """Who moved buckets of which sizes."""
    sizes: dict[str, list[int]] = {}
    for nbytes, name in report["runs"][0]["traffic"]["collectives"].items():
        sizes.setdefault(name, []).append(int(nbytes))
    spans = (
        f"{name} for buckets of {si(min(own))}" + (f" to {si(max(own))}" if min(own) < max(own) else "")
        for name, own in sizes.items()
    )
    return f"Collectives, picked by size: {', '.join(spans)}."


def _books_line(report: dict[str, Any]) -> str:
    runs, collective = report["runs"], report["config"]["collective"]
    books = all(total_at_rest(run)[2] and total_sent(run)[2] for run in runs)
    balance = all(run["traffic"]["sent_equals_received"] for run in runs)
    if not (books and balance):
        return (
            "Books: THEY DIFFER: "
            + ("" if books else "what was counted is not what the formulas say (the rows marked ≠). ")
            + ("" if balance else "Not all bytes sent were received.")
        )
    if runs[0]["traffic"]["modelled"]:
        return (
            "Books: bytes held equal the formulas on every rank; what MPI's own collectives send cannot be seen: those "
            "bytes are modelled, as the ring's, and not counted."
        )
    formulas = f"the formulas (for traffic, the exchanges of {collective})" if ".py" in collective else "the formulas"
    return f"Books: bytes held and bytes sent equal {formulas} on every rank; all bytes sent were received."


def _weights_line(report: dict[str, Any]) -> str:
    groups: dict[str, list[str]] = {}
    for run in report["runs"]:
        groups.setdefault(run["weights_sha256"], []).append(str(run["stage"]))
    if len(report["runs"]) == 1:
        return f"Weights: sha256 {report['runs'][0]['weights_sha256']}."
    if len(groups) == 1:
        return f"Weights: identical to the bit at stages {', '.join(groups.popitem()[1])}."
    same = "; ".join("stages " + " = ".join(g) if len(g) > 1 else f"stage {g[0]} alone" for g in groups.values())
    if report["config"]["grad_accum"] > 1:
        largest = max(run["largest_difference"] for run in report["runs"])
        return (
            f"Weights: to the bit, {same}. With accumulation stages 0 and 1 add over micro-steps first, 2 and 3 over "
            f"ranks first, so the pairs differ by rounding: by {largest:.1e} at the most."
        )
    if report["config"]["collective"] == NATIVE:
        largest = max(run["largest_difference"] for run in report["runs"])
        return (
            f"Weights: to the bit, {same}. MPI's own collectives each add in an order of their own, so stages differ "
            f"by rounding: by {largest:.1e} at the most."
        )
    return f"Weights: NOT identical: to the bit, {same}."


def equation(counted: int, formula: int, equal: bool) -> str:
    """Bytes counted beside the formula's, 19 columns wide; `equal` says whether they are."""
    return f"{si(counted):>8} {'=' if equal else '≠'} {si(formula):<8}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"
