"""What the terminal shows of a report, from the finished report alone: tables, and verdicts below them."""

import math
from statistics import median
from typing import TYPE_CHECKING, Any

from zerosim import formulas
from zerosim.collectives import AUTO, NATIVE
from zerosim.report.books import fullest, total_at_rest, total_sent, updates_here
from zerosim.report.text import beside, console_text, equation, number, plain_table, si, text_seconds
from zerosim.words import counted

if TYPE_CHECKING:
    from rich.table import Table


def format_report(report: dict[str, Any], width: int = 80) -> str:
    """Return the table and the lines below it as text, at most `width` columns wide."""
    parts = (*_parts(report), *_shares(report), *_waiting(report), *_verdicts(report), *_witnesses(report))
    return console_text(_heading(report), _stages(report), *parts, width=width)


def _heading(report: dict[str, Any]) -> str:
    """What was trained, and on which ranks."""
    config, model, data, grid = report["config"], report["model"], report["data"], report["grid"]
    layers = " x ".join(map(str, model["layers"]))
    more = model["padded_parameters"] - model["parameters"]
    standing = ", ".join(
        f"{grid[name]} {name.replace('_', '-')}" for name in ("tensor_parallel", "data_parallel", "pipeline")
    )
    in_parts = grid["data_parallel"] < report["world_size"]
    return (
        f"{counted(report['world_size'], 'rank')} ({report['backend']}{': ' + standing if in_parts else ''}), "
        f"layers {layers}: {model['parameters']:,} parameters ({more} more as padding), {config['optimizer']}, "
        f"{config['precision']}; {data['train_rows']} rows of {data['name']}, {config['batch_size']} per step, "
        f"{counted(report['runs'][0]['steps'], 'step')}. Bytes are per rank."
    )


def _stages(report: dict[str, Any]) -> "Table":
    """Return the table with a row per stage."""
    regression = report["data"]["task"] == "regression"
    table = plain_table()
    table.add_column("\nstage", justify="right", no_wrap=True)
    for what, how in _columns(report["runs"][0]):
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
    return table


def _columns(run: dict[str, Any]) -> tuple[tuple[str, str], tuple[str, str]]:
    """What is held and what is sent, and how that is known."""
    sent = "sent to average" if "sync" in run else "sent per step"
    return ("memory at rest", "counted"), (sent, "modelled" if run["traffic"]["modelled"] else "counted")


# model parallelism ---------------------------------------------------------------------------------------------------


def _parts(report: dict[str, Any]) -> list[Any]:
    """Of each part of the model: its layers, and what the ranks that hold it send to those that hold others."""
    run = report["runs"][-1]
    books = run["traffic"]["model_parallel"]
    if not books:
        return []
    table = plain_table()
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
        cells = [equation(*fullest({k: _of(v, ranks) for k, v in book.items()})) for book in books.values()]
        table.add_row(str(p), str(t), f"{own[0]}" + (f"-{own[-1]}" if len(own) > 1 else ""), si(held), *cells)
    return [
        f"Parts of the model at stage {run['stage']}, the fullest rank of each, and what it sends in a step:",
        table,
    ]


def _of(book: Any, ranks: list[int]) -> Any:
    """Those ranks' part of a list per rank."""
    return [book[rank] for rank in ranks] if isinstance(book, list) else book


# unequal slices ------------------------------------------------------------------------------------------------------


def _shares(report: dict[str, Any]) -> list[Any]:
    """Of each data-parallel rank, where slices are unequal: its share, and what it holds and sends for that."""
    run, shares = report["runs"][-1], report["grid"]["shares"]
    if len(set(shares)) == 1 or run["stage"] == 0:
        return []
    table = plain_table(2)
    for title in ("data\nrank", "\nowns"):
        table.add_column(title, justify="right", no_wrap=True)
    for what, how in _columns(run):
        table.add_column(f"{what}\n{how} = formula", justify="center", no_wrap=True)
    for d, share in enumerate(shares):
        ranks = [rank for rank, place in enumerate(report["grid"]["ranks"]) if place["data"] == d]
        books = (run["memory"]["at_rest"], run["traffic"]["per_step"])
        cells = [equation(*fullest({k: _of(v, ranks) for k, v in book.items()})) for book in books]
        table.add_row(str(d), f"{share} of {sum(shares)}", *cells)
    return [f"Slices of unequal length at stage {run['stage']}, and what owning them takes:", table]


# who waits for whom --------------------------------------------------------------------------------------------------


def waits(report: dict[str, Any]) -> bool:
    """Whether ranks wait for one another by design: then the report has a step on the virtual clock."""
    return report["runs"][-1]["time"]["virtual"] is not None


def _waiting(report: dict[str, Any]) -> list[Any]:
    """Who waits for whom, and how long: of the last run, as counted and on the virtual clock."""
    if not waits(report):
        return []
    run = report["runs"][-1]
    time, virtual = run["time"], run["time"]["virtual"]
    table = plain_table(2)
    for title in ("\nrank", "virtual clock:\nbusy", "\nnetwork", "\nwaits", "\nmost for", "measured:\nwaits"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("\nmost for", justify="right", no_wrap=True)
    for rank, (clock, measured) in enumerate(zip(virtual["ranks"], time["waited_for"], strict=True)):
        table.add_row(
            str(rank),
            *(text_seconds(seconds) for seconds in (clock["busy"], clock["network"], sum(clock["waited_for"]))),
            _most(clock["waited_for"]),
            text_seconds(sum(measured)),
            _most(measured),
        )
    lines = [f"Who waits for whom in a step of stage {run['stage']}:", table, *_bubble_lines(report)]
    if run["traffic"]["modelled"]:
        lines.append("MPI's own collectives are not on the virtual clock: what they send cannot be seen.")
    return lines


def _bubble_lines(report: dict[str, Any]) -> list[str]:
    """How long pipeline ranks are idle in a step: by the formula, and on the virtual clock."""
    P, M, virtual = report["grid"]["pipeline"], report["config"]["grad_accum"], report["runs"][-1]["time"]["virtual"]
    if P == 1:
        return []
    idle = 1 - sum(c["busy"] for c in virtual["ranks"]) / (len(virtual["ranks"]) * virtual["seconds_per_step"])
    return [
        f"Bubble: {P} pipeline ranks with {M:,} micro-batch{'es' if M > 1 else ''} are idle for "
        f"{formulas.bubble(P, M):.1%} of a step if all take equally long; with these layers, and with the update, "
        f"for {idle:.1%} on the virtual clock."
    ]


def _most(waited_for: list[float]) -> str:
    return f"rank {max(range(len(waited_for)), key=waited_for.__getitem__)}" if any(waited_for) else "-"


# verdicts ------------------------------------------------------------------------------------------------------------


def _verdicts(report: dict[str, Any]) -> list[str]:
    lines = [_weights_line(report), _books_line(report)]
    more = (
        _choices_lines,
        _sync_lines,
        _stopped_lines,
        _resumed_lines,
        _checkpoints_lines,
        _activations_lines,
        _pruning_lines,
        _skipped_lines,
    )
    return lines + [line for verdict in more for line in verdict(report)]


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
            f"Weights: to the bit, {same}. Stages 0 and 1 add a micro-step's gradient before it is reduced, 2 and 3 "
            f"after that: the pairs round at other places, and end up to {largest:.1e} apart."
        )
    if report["config"]["collective"] == NATIVE:
        largest = max(run["largest_difference"] for run in report["runs"])
        return (
            f"Weights: to the bit, {same}. MPI's own collectives each add in an order of their own, so stages differ "
            f"by rounding: by {largest:.1e} at the most."
        )
    return f"Weights: NOT identical: to the bit, {same}."


def _books_line(report: dict[str, Any]) -> str:
    runs, collective = report["runs"], report["config"]["collective"]
    books = all(fullest(book)[2] for run in runs for book in _books(run))
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
    what = f"the formulas (for traffic, the exchanges of {collective})" if ".py" in collective else "the formulas"
    return f"Books: bytes held and bytes sent equal {what} on every rank; all bytes sent were received."


def _books(run: dict[str, Any]) -> list[dict[str, Any]]:
    books = [run["memory"]["at_rest"], run["traffic"]["per_step"], *run["traffic"]["model_parallel"].values()]
    if "sync" in run:
        books.append(run["sync"]["sent"])
    if run["pruning"]:
        books.append(run["pruning"]["traffic"])
    if run.get("resumed"):
        books.append(run["resumed"]["peak"])
    return books + _written(run)


def _written(run: dict[str, Any]) -> list[dict[str, Any]]:
    """A book for each checkpoint: bytes of tensors per rank."""
    tensors = run.get("checkpoints", {}).get("tensors", {"measured": []})
    return [{**tensors, "measured": own} for own in tensors["measured"]]


def _choices_lines(report: dict[str, Any]) -> list[str]:
    """Who moved buckets of which sizes, if that was left to choose."""
    if report["config"]["collective"] != AUTO:
        return []
    sizes: dict[str, list[int]] = {}
    for nbytes, name in report["runs"][0]["traffic"]["collectives"].items():
        sizes.setdefault(name, []).append(int(nbytes))
    spans = (
        f"{name} for buckets of {si(min(own))}" + (f" to {si(max(own))}" if min(own) < max(own) else "")
        for name, own in sizes.items()
    )
    return [f"Collectives, picked by size: {', '.join(spans)}."]


def _sync_lines(report: dict[str, Any]) -> list[str]:
    """What averaging parameters has sent, and how far it has let the ranks drift apart."""
    sync = report["runs"][0].get("sync")
    if sync is None:
        return []
    sent, gradients = (max(one) for one in (sync["sent"]["measured"], sync["averaging_gradients_formula"]))
    return [
        f"Averaged: parameters, {counted(len(sync['drift']), 'time')}, after every {counted(sync['every'], 'step')} "
        f"and the last one. The "
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
        "patience": f"the loss on the training rows was lowest {counted(config['patience'] or 0, 'epoch')} before",
    }
    return [f"Stopped after epoch {n} at stage {', '.join(own)}: {why[what]}." for (what, n), own in alike.items()]


def _resumed_lines(report: dict[str, Any]) -> list[str]:
    """Which checkpoint the run went on from, if it did."""
    lines = []
    for run in report["runs"]:
        if own := run.get("resumed"):
            ranks = counted(own["ranks"], "rank")
            peak, formula, equal = fullest(own["peak"])
            lines.append(
                f"Resumed: after step {own['step']}, from {own['folder']}, which {ranks} wrote at stage "
                f"{own['stage']}. While it was read a rank held up to {beside(peak, formula, equal)} "
                f"(counted = formula): its share and one slice."
            )
    return lines


def _checkpoints_lines(report: dict[str, Any]) -> list[str]:
    """What was written, and where the newest is."""
    lines = []
    for run in report["runs"]:
        if own := run.get("checkpoints"):
            written, tensors = own["written"], [fullest(book) for book in _written(run)]
            equal = all(same for _, _, same in tensors)
            each = beside(max(n for n, _, _ in tensors), tensors[-1][1], equal)
            lines.append(
                f"Checkpoints: {len(written)} written (the last {report['config']['keep']} are kept); "
                f"the newest is {own['folder']}/{own['newest']}. In each, the fullest rank wrote {each} of tensors "
                f"(counted = formula); one took {1e3 * median(own['seconds']):.1f} ms (median)."
            )
    return lines


def _activations_lines(report: dict[str, Any]) -> list[str]:
    """What is kept of activations, if anything was asked of them."""
    config, books = report["config"], report["runs"][-1]["memory"]["activations"]
    if not (config["checkpoint_activations"] or config["partition_activations"] or config["cpu_checkpointing"]):
        return []
    equal = all(book["measured"] == book["formula_per_rank"] for book in books.values())
    most = {what: si(max(book["measured"])) for what, book in books.items()}
    again = counted(max(books["recomputed"]["measured"]), "layer")
    text = f"Activations: at the most {most['device']} on the fullest rank; {again} computed again in a step"
    if config["cpu_checkpointing"]:
        text += f", {most['host']} on the host, {most['to_host']} to it in a step and {most['from_host']} back"
    return [f"{text}; {'equal to' if equal else 'NOT EQUAL TO'} the formulas on every rank."]


def _pruning_lines(report: dict[str, Any]) -> list[str]:
    """What was pruned at the last stage, what it cost, and what it did not save."""
    run = report["runs"][-1]
    if not run["pruning"]:
        return []
    own, updates = run["pruning"], updates_here(run)
    done = "frozen" if own["mode"] == "freeze" else "set to 0"
    sent, formula, equal = fullest(own["traffic"])
    each = beside(sent / max(1, updates), formula / max(1, updates), equal)
    where = "" if report["identical_weights"] else f" at stage {run['stage']}"
    return [
        f"Pruning{where}: in each step the {own['pruned']['formula']} of {counted(own['groups'], 'group')} by "
        f"{own['by']} with the smallest gradients were {done}; {counted(own['always'], 'group')} in every step, "
        f"{own['never']} in none. {counted(own['without_gradient'][-1], 'group')} had no gradient at all in the last "
        f"step. At the end {100 * own['zero_share']:.2f} % of the weights are exactly 0.",
        f"Pruning is no part of ZeRO and changes the training. It saves no memory at rest and no gradient traffic, for "
        f"a gradient must be made and reduced before its norm is known; the norms cost each rank {each} per step.",
    ]


def _skipped_lines(report: dict[str, Any]) -> list[str]:
    skipped = [f"{run['skipped_steps']} at stage {run['stage']}" for run in report["runs"] if run["skipped_steps"]]
    if not skipped:
        return []
    return [f"Skipped steps: {', '.join(skipped)} (a gradient overflowed in fp16; every rank skipped together)."]


# witnesses -----------------------------------------------------------------------------------------------------------


def _witnesses(report: dict[str, Any]) -> list[Any]:
    """What the witnesses say as shares of what was counted, of the rank where it is farthest from 1; and the floors."""
    called = list(report["runs"][0]["witnesses"])
    if not called:
        return []
    table = plain_table(2)
    for title in ("stage", "", "counted", *called):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for run in report["runs"]:
        for what, books in _counted(run).items():
            said = {name: [own.get(what) for own in run["witnesses"][name]] for name in called}
            if any(numbers[0] is not None for numbers in said.values()):
                cells = [_farthest(numbers, books) for numbers in said.values()]
                table.add_row(str(run["stage"]), what.replace("_", " "), si(max(books)), *cells)
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
