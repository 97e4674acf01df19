"""Where measurement and formula meet: the report as JSON (docs: README), and the table on the terminal."""

import math
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import zerosim
from zerosim import formulas
from zerosim.cluster import find as find_cluster
from zerosim.collectives import AUTO, NATIVE, VERBS
from zerosim.collectives.auto import choice
from zerosim.config import Config
from zerosim.errors import InputError
from zerosim.jsonfile import write_json
from zerosim.train import Records, Run
from zerosim.virtual import replay

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
        "activations": _activations(run, records),
    }
    if "interpreter" in run.witnesses:
        memory["traced_peak"] = [witness["peak"] for witness in run.witnesses["interpreter"]]
    return {
        "stage": run.stage,
        "loss": run.loss,
        "epochs": run.epochs,
        "steps": len(run.loss),
        "stopped": run.stopped,
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
        **({"sync": _sync(run, records)} if records.config.sync == "average" else {}),
        "pruning": _pruning(records, run),
        "witnesses": run.witnesses,
        "time": {
            **run.seconds,
            "waited_for": [own["waited_for"] for own in run.work],
            "virtual": _virtual(run, records),
        },
    }


def _sync(run: Run, records: Records) -> dict[str, Any]:
    """How parameters were averaged, and what that sent in all, beside what averaging gradients would have sent."""
    config, L, D, S = records.config, records.widths, records.grid.data, len(run.loss)

    def all_reduced(precision: str, rank: int) -> int:
        collective = _collective(records, D)
        return _total(formulas.traffic(0, L, D, precision, config.bucket, collective=collective, rank=rank))

    each = [all_reduced(_precision_sent(config), rank) for rank in range(D)]
    return {
        "every": config.sync_every,
        "after_steps": [min(n * config.sync_every, S) for n in range(1, len(run.drifts) + 1)],
        "largest_drift": [largest for largest, _ in run.drifts],
        "drift": [norm for _, norm in run.drifts],
        "sent": {"measured": run.averaging, "formula_per_rank": [len(run.drifts) * one for one in each]},
        "averaging_gradients_formula": [S * all_reduced(config.precision, rank) for rank in range(D)],
    }


def _virtual(run: Run, records: Records) -> dict[str, Any]:
    """The recorded step on a virtual clock, at the rates at which the ranks worked, on the network of a cluster."""
    cluster, straggler = find_cluster(records.config.cluster), records.config.straggler
    operation, update = (
        sum(own[seconds] for own in run.work) / max(1, sum(own[count] for own in run.work))
        for seconds, count in (("compute", "operations"), ("update", "updated"))
    )
    clocks = replay(run.recorded, operation, update, cluster, dict([straggler] if straggler else []))
    return {
        "cluster": cluster.name,
        "seconds_per_operation": operation,
        "seconds_per_update": update,
        "seconds_per_step": max(clock.now for clock in clocks),
        "ranks": [
            {
                "seconds": clock.now,
                "busy": clock.busy,
                "network": clock.network,
                "waited_for": [clock.waits.get(other, 0.0) for other in range(records.world_size)],
                "spans": [list(span) for span in clock.spans],
            }
            for clock in clocks
        ],
    }


def _activations(run: Run, records: Records) -> dict[str, Any]:
    """What each rank keeps of activations in a step: the most at any time, what is made again, what goes to host."""
    config, L, w = records.config, records.widths, formulas.WIDTH[records.config.precision]
    how, formula = _kept(config), []
    for rank in range(records.world_size):
        place, d = _place(records, rank), records.grid.place(rank)[1]
        rows = formulas.micro_rows(config.batch_size, records.grid.data, d, config.grad_accum)
        moved = formulas.kept_on_host(L, rows, w, place, how)
        again = len(rows) * len(formulas.recomputed(len(formulas.layer_sizes(L, place)), how.every))
        peak = formulas.activations_peak(L, rows, w, place, how)
        formula.append({**peak, "recomputed": again, "to_host": moved, "from_host": moved})
    return {
        what: {"measured": measured, "formula_per_rank": [own[what] for own in formula]}
        for what, measured in run.activations.items()
    }


def _kept(config: Config) -> formulas.Kept:
    return formulas.Kept(config.checkpoint_activations or 1, config.partition_activations, config.cpu_checkpointing)


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


def _total(bytes_: Sent | int) -> int:
    return bytes_ if isinstance(bytes_, int) else sum(bytes_.values()) if bytes_ else 0


def _model_parallel(records: Records) -> list[str]:
    sizes = {"tensor": records.grid.tensor, "pipeline": records.grid.pipeline}
    return [group for group, size in sizes.items() if size > 1]


def _place(records: Records, rank: int) -> formulas.Place:
    """Which part of the model a rank holds, as the formulas take it."""
    t, _, p = records.grid.place(rank)
    return formulas.Place(records.grid.tensor, t, records.grid.pipeline, p, records.grid.counts)


def _traffic(run: Run, records: Records, group: str, rank: int) -> Sent:
    """What a rank should send in a step, by verb: the formula's word, or for a reader's algorithm its exchanges'."""
    config, L, D, place = records.config, records.widths, records.grid.data, _place(records, rank)
    d, w = records.grid.place(rank)[1], formulas.WIDTH[config.precision]
    rows = formulas.micro_rows(config.batch_size, D, d, config.grad_accum)
    if group == "pipeline":
        return formulas.pipeline_traffic(L, rows, w, place)
    if group == "tensor":
        sent = formulas.tensor_traffic(L, rows, w, _collective(records, place.T), place, _kept(config))
    else:
        every, precision = _kept(config).every, _precision_sent(config)
        collective, k = _collective(records, D), config.grad_accum
        sent = formulas.traffic(run.stage, L, D, precision, config.bucket, k, collective, d, place, every)
        if config.sync == "average" and len(run.loss) < config.sync_every:
            sent = dict.fromkeys(sent, 0)
    return sent and {verb: sent.get(verb, 0) for verb in VERBS}


def _messages(run: Run, records: Records, rank: int) -> int | None:
    """How many messages a rank should send in a step; None where no formula says so."""
    config, grid = records.config, records.grid
    if config.collective == NATIVE or records.slices_sent is not None or grid.size > grid.data:
        return None
    if config.sync == "average" and len(run.loss) < config.sync_every:
        return 0
    collective, k, every = _collective(records, grid.data), config.grad_accum, _kept(config).every
    precision = _precision_sent(config)
    return formulas.messages(
        run.stage, records.widths, grid.data, precision, config.bucket, k, collective, rank, every=every
    )


def _precision_sent(config: Config) -> str:
    """The precision of what ranks send: where parameters are averaged, it is their full one."""
    return "fp32" if config.sync == "average" and config.precision in formulas.MIXED else config.precision


def _collective(records: Records, N: int) -> formulas.Collective:
    """What the formulas take: a name, for auto the choice by size, for a reader's own what its exchanges send."""
    if records.slices_sent is not None:
        return records.slices_sent[N]
    name = records.config.collective
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
            equation(*total_at_rest(run)),
            equation(*total_sent(run)),
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
        f"layers {layers}: {model['parameters']:,} parameters ({more} more as padding), {config['optimizer']}, "
        f"{config['precision']}; {data['train_rows']} rows of {data['name']}, {config['batch_size']} per step, "
        f"{report['runs'][0]['steps']} steps. Bytes are per rank."
    )
    parts = (*_parts(report), *_waiting(report), *_verdicts(report), *_witnesses(report))
    return console_text(heading, table, *parts, width=width)


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
        cells = [equation(*_fullest({k: _of(v, ranks) for k, v in book.items()})) for book in books.values()]
        table.add_row(str(p), str(t), f"{own[0]}" + (f"-{own[-1]}" if len(own) > 1 else ""), si(held), *cells)
    return [
        f"Parts of the model at stage {run['stage']}, the fullest rank of each, and what it sends in a step:",
        table,
    ]


def waits(report: dict[str, Any]) -> bool:
    """Whether ranks wait for one another by design: on a pipeline, or for a straggler."""
    return report["grid"]["pipeline"] > 1 or report["config"]["straggler"] is not None


def _waiting(report: dict[str, Any]) -> list[Any]:
    """Who waits for whom, and how long: of the last run, as counted and on the virtual clock."""
    from rich import box
    from rich.table import Table

    if not waits(report):
        return []
    run, grid = report["runs"][-1], report["grid"]
    time, virtual = run["time"], run["time"]["virtual"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("\nrank", "virtual clock:\nbusy", "\nnetwork", "\nwaits", "\nmost for", "measured:\nwaits"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("\nmost for", justify="right", no_wrap=True)
    for rank, (clock, measured) in enumerate(zip(virtual["ranks"], time["waited_for"], strict=True)):
        table.add_row(
            str(rank),
            *(f"{1e3 * seconds:.3f} ms" for seconds in (clock["busy"], clock["network"], sum(clock["waited_for"]))),
            _most(clock["waited_for"]),
            f"{1e3 * sum(measured):.3f} ms",
            _most(measured),
        )
    lines: list[Any] = [f"Who waits for whom in a step of stage {run['stage']}:", table]
    if grid["pipeline"] > 1:
        P, M = grid["pipeline"], report["config"]["grad_accum"]
        idle = 1 - sum(c["busy"] for c in virtual["ranks"]) / (len(virtual["ranks"]) * virtual["seconds_per_step"])
        lines.append(
            f"Bubble: {P} pipeline ranks with {M} micro-batch{'es' if M > 1 else ''} are idle for "
            f"{formulas.bubble(P, M):.1%} of a step if all take equally long; with these layers, and with the update, "
            f"for {idle:.1%} on the virtual clock."
        )
    return lines


def _most(waited_for: list[float]) -> str:
    return f"rank {max(range(len(waited_for)), key=waited_for.__getitem__)}" if any(waited_for) else "-"


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
    lines += _sync_line(report)
    lines += _stopped_lines(report)
    lines += _activations_line(report)
    if runs[-1]["pruning"]:
        lines += _pruning_lines(report)
    skipped = {run["stage"]: run["skipped_steps"] for run in runs if run["skipped_steps"]}
    if skipped:
        stages = ", ".join(f"{n} at stage {stage}" for stage, n in skipped.items())
        lines.append(f"Skipped steps: {stages} (a gradient overflowed in fp16; every rank skipped together).")
    return lines


def _sync_line(report: dict[str, Any]) -> list[str]:
    """What averaging parameters has sent, and how far it has let the ranks drift apart."""
    sync = report["runs"][0].get("sync")
    if sync is None:
        return []
    sent, gradients = (max(one) for one in (sync["sent"]["measured"], sync["averaging_gradients_formula"]))
    return [
        f"Averaged: parameters, {len(sync['drift'])} times, after every {sync['every']} steps and the last one. The "
        f"table has such a step's bytes; in the whole run it is {si(sent)} per rank, where averaging gradients takes "
        f"{si(gradients)}. Before it a rank's weights were up to {max(sync['drift']):.2g} away from their mean (root "
        f"mean square over the ranks), a single weight up to {max(sync['largest_drift']):.2g}."
    ]


def _stopped_lines(report: dict[str, Any]) -> list[str]:
    """Which runs ended before their last epoch, and why: a line for all that ended alike."""
    config, alike = report["config"], dict[tuple[str, int], list[str]]()
    for run in report["runs"]:
        if run["stopped"] in ("target_loss", "patience"):
            alike.setdefault((run["stopped"], len(run["epochs"])), []).append(str(run["stage"]))
    why = {
        "target_loss": f"the loss on the training rows has reached {config['target_loss']}",
        "patience": f"the loss on the training rows was lowest {config['patience']} epochs before",
    }
    return [f"Stopped after epoch {n} at stage {', '.join(own)}: {why[what]}." for (what, n), own in alike.items()]


def _activations_line(report: dict[str, Any]) -> list[str]:
    """What is kept of activations, if anything was asked of them."""
    config, books = report["config"], report["runs"][-1]["memory"]["activations"]
    if not (config["checkpoint_activations"] or config["partition_activations"] or config["cpu_checkpointing"]):
        return []
    equal = all(book["measured"] == book["formula_per_rank"] for book in books.values())
    most = {what: si(max(book["measured"])) for what, book in books.items()}
    again = max(books["recomputed"]["measured"])
    text = f"Activations: at the most {most['device']} on the fullest rank; {again} layers computed again in a step"
    if config["cpu_checkpointing"]:
        text += f", {most['host']} on the host, {most['to_host']} to it in a step and {most['from_host']} back"
    return [f"{text}; {'equal to' if equal else 'NOT EQUAL TO'} the formulas on every rank."]


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
    if "sync" in run:
        books.append(run["sync"]["sent"])
    if run["pruning"]:
        books.append(run["pruning"]["traffic"])
    return books


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


def equation(counted: int, formula: int | None, equal: bool) -> str:
    """Bytes counted beside the formula's, 19 columns wide; `equal` says whether they are."""
    if formula is None:
        return si(counted)
    return f"{si(counted):>8} {'=' if equal else '≠'} {si(formula):<8}"


def number(value: float | None) -> str:
    """A loss or a share with four decimals."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"
