"""Where measurement and formula meet: the report as JSON (docs: README), and the table on the terminal."""

import math
import os
from collections import Counter
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
        "grid": _grid(records),
        "model": {
            "layers": records.widths,
            "parameters": records.parameters,
            "padded_parameters": records.padded_parameters,
        },
        "data": records.data,
        "runs": [_run(records, run) for run in records.runs],
        "identical_weights": len(hashes) == 1,
    }


def _grid(records: Records) -> dict[str, Any]:
    """Where each rank stands, and which layers are its."""
    grid, n = records.grid, len(records.widths) - 1
    places = [grid.place(rank) for rank in range(grid.size)]
    return {
        "tensor_parallel": grid.tensor,
        "data_parallel": grid.data,
        "pipeline": grid.pipeline,
        "ranks": [{"tensor": t, "data": d, "pipeline": p, "layers": [*grid.layers(p, n)]} for t, d, p in places],
    }


def _run(records: Records, run: Run) -> dict[str, Any]:
    config, L, ranks = records.config, records.widths, range(records.world_size)
    D, place = records.grid.data, partial(_place, records)
    at_rest = [formulas.at_rest(run.stage, L, D, config.precision, config.optimizer, place(rank)) for rank in ranks]
    traffic = {group: [_traffic(run, records, group, rank) for rank in ranks] for group in run.sent_per_step}
    memory = {
        "at_rest": {"measured": run.at_rest, "formula": max(at_rest, key=_total), "formula_per_rank": at_rest},
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
            "per_step": _per_step(run, traffic, "data"),
            "model_parallel": {group: _per_step(run, traffic, group) for group in _model_parallel(records)},
            "control": run.control,
            "messages": run.messages_per_step,
            "messages_formula": [_messages(run, records, rank) for rank in ranks],
            "sent": run.sent,
            "received": run.received,
            "sent_equals_received": sum(run.sent) == sum(run.received),
        },
        "pruning": _pruning(records, run),
        "witnesses": run.witnesses,
        "time": run.seconds,
    }


def _pruning(records: Records, run: Run) -> dict[str, Any] | None:
    """What was pruned and what it sent, in the whole run; None where nothing is."""
    config, own = records.config, run.pruning
    if not own:
        return None
    by, quantile = config.prune_by or "row", config.prune_groups or 0.0
    G, updates = sum(formulas.groups(records.widths, by)), len(run.loss) - run.skipped_steps
    sent = {"sent": updates * formulas.pruning_traffic(G, records.world_size)}
    histogram = sorted(Counter(own["times"]).items())
    return {
        "mode": config.prune_mode,
        "by": by,
        "quantile": quantile,
        "groups": len(own["times"]),
        "groups_formula": G,
        "groups_per_layer": own["groups_per_layer"],
        "pruned": {"measured": [sum(cells) for cells in own["pruned"]], "formula": formulas.pruned_groups(G, quantile)},
        "without_gradient": own["without_gradient"],
        "never": own["times"].count(0),
        "always": own["times"].count(updates) if updates else 0,
        "histogram": [{"times": times, "groups": n} for times, n in histogram],
        "zero_weights": own["zero_weights"],
        "zero_share": own["zero_weights"] / records.parameters,
        "traffic": {
            "measured": [{"sent": n} for n in own["sent"]],
            "formula": sent,
            "formula_per_rank": [sent] * records.world_size,
        },
        "record": {
            "groups_per_cell": own["groups_per_cell"],
            "pruned": [" ".join(map(str, cells)) for cells in own["pruned"]],
        },
    }


Sent = dict[str, int] | None
"""Bytes by verb; None where no formula says so."""


def _per_step(run: Run, formula: dict[str, list[Sent]], group: str) -> dict[str, Any]:
    verbs = ("send",) if group == "pipeline" else VERBS
    return {
        "measured": [{verb: sent.get(verb, 0) for verb in verbs} for sent in run.sent_per_step[group]],
        "formula": max(formula[group], key=_total),
        "formula_per_rank": formula[group],
    }


def _total(bytes_: Sent) -> int:
    return sum(bytes_.values()) if bytes_ else 0


def _model_parallel(records: Records) -> list[str]:
    sizes = {"tensor": records.grid.tensor, "pipeline": records.grid.pipeline}
    return [group for group, size in sizes.items() if size > 1]


def _place(records: Records, rank: int) -> formulas.Place:
    """Which part of the model a rank holds, as the formulas take it."""
    t, _, p = records.grid.place(rank)
    return formulas.Place(records.grid.tensor, t, records.grid.pipeline, p)


def _traffic(run: Run, records: Records, group: str, rank: int) -> Sent:
    """What a rank should send in a step, by verb: the formula's word, or for a reader's algorithm its exchanges'."""
    config, L, D, place = records.config, records.widths, records.grid.data, _place(records, rank)
    d, w = records.grid.place(rank)[1], formulas.WIDTH[config.precision]
    rows = formulas.micro_rows(config.batch_size, D, d, config.grad_accum)
    if group == "pipeline":
        return formulas.pipeline_traffic(L, rows, w, place)
    sent: Sent
    if records.slices_sent is not None:
        if group == "tensor":
            return None
        slice_bytes = w * (formulas.padded_parameters(L, D, place) // D)
        times = formulas.passes(run.stage, config.grad_accum)
        sent = {verb: n * records.slices_sent[verb][d] * slice_bytes for verb, n in times.items()}
    elif group == "tensor":
        sent = formulas.tensor_traffic(L, rows, w, _collective(config.collective, place.T), place)
    else:
        collective = _collective(config.collective, D)
        sent = formulas.traffic(
            run.stage, L, D, config.precision, config.bucket, config.grad_accum, collective, d, place
        )
    return sent and {verb: sent.get(verb, 0) for verb in VERBS}


def _messages(run: Run, records: Records, rank: int) -> int | None:
    """How many messages a rank should send in a step; None where no formula says so."""
    config, grid = records.config, records.grid
    if config.collective == NATIVE or records.slices_sent is not None or grid.size > grid.data:
        return None
    collective = _collective(config.collective, grid.data)
    return formulas.messages(
        run.stage, records.widths, grid.data, config.precision, config.bucket, config.grad_accum, collective, rank
    )


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


def total_at_rest(run: dict[str, Any]) -> tuple[int, int | None, bool]:
    """Return bytes at rest of the fullest rank, the formula's, and whether all classes of all ranks equal it."""
    return _fullest(run["memory"]["at_rest"])


def total_sent(run: dict[str, Any]) -> tuple[int, int | None, bool]:
    """Return bytes sent per step by the busiest rank, the formula's, and whether all verbs of all ranks equal it."""
    return _fullest(run["traffic"]["per_step"])


def _fullest(book: dict[str, Any]) -> tuple[int, int | None, bool]:
    """Return the greatest total of a rank, the formula's, and whether all of all ranks are equal.

    None, and True, where no formula says anything.
    """
    measured, formula = book["measured"], book["formula_per_rank"]
    counted = max(map(_total, measured))
    if None in formula:
        return counted, None, True
    return counted, max(map(_total, formula)), measured == formula


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
            _equation(*total_at_rest(run)),
            _equation(*total_sent(run)),
            number(run["loss"][-1]),
            number(run["epochs"][-1]["test_loss" if regression else "test_accuracy"]),
            run["weights_sha256"][:8],
        )
    ranks = "rank" if report["world_size"] == 1 else "ranks"
    layers = " x ".join(map(str, model["layers"]))
    grid, more = report["grid"], model["padded_parameters"] - model["parameters"]
    standing = ", ".join(
        f"{grid[name]} {name.replace('_', '-')}" for name in ("tensor_parallel", "data_parallel", "pipeline")
    )
    in_parts = grid["data_parallel"] < report["world_size"]
    heading = (
        f"{report['world_size']} {ranks} ({report['backend']}{': ' + standing if in_parts else ''}), "
        f"layers {layers}: {model['parameters']:,} parameters "
        f"({more} more as padding{' and as biases that several ranks hold' if grid['tensor_parallel'] > 1 else ''}), "
        f"{config['optimizer']}, "
        f"{config['precision']}; {data['train_rows']} rows of {data['name']}, {config['batch_size']} per step, "
        f"{report['runs'][0]['steps']} steps. Bytes are per rank."
    )
    return console_text(heading, table, *_parts(report), *_verdicts(report), *_witnesses(report), width=width)


def _parts(report: dict[str, Any]) -> list[Any]:
    """Of each part of the model: its layers, and what the ranks that hold it send to those that hold others."""
    from rich import box
    from rich.table import Table

    run = report["runs"][-1]
    books = run["traffic"]["model_parallel"]
    if not books:
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("pipe\nrank", "tensor\nrank", "\nlayers", "at rest,\ncounted"):
        table.add_column(title, justify="right", no_wrap=True)
    for group in books:
        table.add_column(f"{group} traffic\ncounted = formula", justify="center", no_wrap=True)
    places: dict[tuple[int, int], list[int]] = {}
    for rank, place in enumerate(report["grid"]["ranks"]):
        places.setdefault((place["pipeline"], place["tensor"]), []).append(rank)
    for (p, t), ranks in places.items():
        own = report["grid"]["ranks"][ranks[0]]["layers"]
        held = max(sum(run["memory"]["at_rest"]["measured"][rank].values()) for rank in ranks)
        cells = [_equation(*_fullest({k: _of(v, ranks) for k, v in book.items()})) for book in books.values()]
        table.add_row(str(p), str(t), f"{own[0]}" + (f"-{own[-1]}" if len(own) > 1 else ""), si(held), *cells)
    return [
        f"Parts of the model at stage {run['stage']}, the fullest rank of each, and what it sends in a step:",
        table,
    ]


def _of(book: Any, ranks: list[int]) -> Any:
    """Those ranks' part of a list per rank."""
    return [book[rank] for rank in ranks] if isinstance(book, list) else book


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
    if runs[-1]["pruning"]:
        lines += _pruning_lines(report)
    skipped = {run["stage"]: run["skipped_steps"] for run in runs if run["skipped_steps"]}
    if skipped:
        stages = ", ".join(f"{n} at stage {stage}" for stage, n in skipped.items())
        lines.append(f"Skipped steps: {stages} (a gradient overflowed in fp16; every rank skipped together).")
    return lines


def _pruning_lines(report: dict[str, Any]) -> list[str]:
    """What was pruned at the last stage, what it cost, and what it did not save."""
    run = report["runs"][-1]
    own, updates = run["pruning"], run["steps"] - run["skipped_steps"]
    done = "frozen" if own["mode"] == "freeze" else "set to 0"
    sent, formula, equal = _fullest(own["traffic"])
    each = f"{si(sent / max(1, updates))} {'=' if equal else '≠'} {si((formula or 0) / max(1, updates))}"
    where = "" if report["identical_weights"] else f" at stage {run['stage']}"
    return [
        f"Pruning{where}: in each step the {own['pruned']['formula']} of {own['groups']} groups by {own['by']} with "
        f"the smallest gradients were {done}; {own['always']} groups in every step, {own['never']} in none. "
        f"{own['without_gradient'][-1]} groups had no gradient at all in the last step. "
        f"At the end {100 * own['zero_share']:.2f} % of the weights are exactly 0.",
        f"Pruning is no part of ZeRO and changes the training. It saves no memory at rest and no gradient traffic, for "
        f"a gradient must be made and reduced before its norm is known; the norms cost each rank {each} per step.",
    ]


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


def _books(run: dict[str, Any]) -> list[dict[str, Any]]:
    books = [run["memory"]["at_rest"], run["traffic"]["per_step"], *run["traffic"]["model_parallel"].values()]
    return [*books, run["pruning"]["traffic"]] if run["pruning"] else books


def _books_line(report: dict[str, Any]) -> str:
    runs, collective = report["runs"], report["config"]["collective"]
    books = all(_fullest(book)[2] for run in runs for book in _books(run))
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


def _equation(counted: int, formula: int | None, equal: bool) -> str:
    if formula is None:
        return si(counted)
    return f"{si(counted):>8} {'=' if equal else '≠'} {si(formula):<8}"


def number(value: float | None) -> str:
    """A loss or a share with four decimals."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"
