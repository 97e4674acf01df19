"""The report as JSON: what was measured, and beside it what the formulas say (README, "What you see")."""

from collections import Counter
from functools import partial
from typing import Any

import zerosim
from zerosim import formulas
from zerosim.checkpoint.manifest import folder_name
from zerosim.collectives import AUTO, NATIVE, VERBS
from zerosim.collectives.auto import choice
from zerosim.config import Config
from zerosim.report.books import total
from zerosim.train import Records, Run
from zerosim.virtual import Span, replay

SCHEMA = "zerosim.report/1"
DRAWN = 16
"""Ranks whose step is drawn (`zerosim.figures.waiting`): more rows cannot be read, and are left out of the report."""


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
        "shares": [1] * grid.data if isinstance(grid.shares, int) else [*grid.shares],
        "ranks": [{"tensor": t, "data": d, "pipeline": p, "layers": [*grid.layers(p, n)]} for t, d, p in places],
    }


def _run(records: Records, run: Run) -> dict[str, Any]:
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
        "memory": _memory(records, run),
        "traffic": _traffic(records, run),
        **({"sync": _sync(records, run)} if records.config.sync == "average" else {}),
        **({"resumed": _resumed(records, run, run.resumed)} if run.resumed else {}),
        **({"checkpoints": _checkpoints(records, run)} if run.checkpoints else {}),
        "pruning": _pruning(records, run),
        "witnesses": run.witnesses,
        "time": {
            **run.seconds,
            "slept": [own["slept"] for own in run.work],
            "waited_for": [own["waited_for"] for own in run.work],
            "virtual": _virtual(records, run),
        },
    }


def _place(records: Records, rank: int) -> formulas.Place:
    """Which part of the model a rank holds, as the formulas take it."""
    t, _, p = records.grid.place(rank)
    return formulas.Place(records.grid.tensor, t, records.grid.pipeline, p, records.grid.counts)


def _places(records: Records) -> list[tuple[formulas.Place, int]]:
    """Of each rank: which part of the model it holds, and its place among those that hold the same."""
    ranks = range(records.grid.size)
    return [(_place(records, rank), records.grid.place(rank)[1]) for rank in ranks]


def _micro_rows(records: Records, rank: int) -> list[int]:
    """How many rows a rank has in each micro-batch."""
    config, (_, d, _) = records.config, records.grid.place(rank)
    return formulas.micro_rows(config.batch_size, records.grid.data, d, config.grad_accum)


def _kept(config: Config) -> formulas.Kept:
    return formulas.Kept(config.checkpoint_activations or 1, config.partition_activations, config.cpu_checkpointing)


# memory --------------------------------------------------------------------------------------------------------------


def _memory(records: Records, run: Run) -> dict[str, Any]:
    config, L, grid = records.config, records.widths, records.grid
    at_rest = [
        formulas.at_rest(run.stage, L, grid.shares, config.precision, config.optimizer, place, d)
        for place, d in _places(records)
    ]
    memory = {
        "at_rest": {"measured": run.at_rest, "formula": max(at_rest, key=total), "formula_per_rank": at_rest},
        "peak": {"measured": run.peak},
        "timeline": run.timeline,
        "activations": _activations(records, run),
    }
    if "interpreter" in run.witnesses:
        memory["traced_peak"] = [witness["peak"] for witness in run.witnesses["interpreter"]]
    return memory


def _activations(records: Records, run: Run) -> dict[str, Any]:
    """What each rank keeps of activations in a step: the most at any time, what is made again, what goes to host."""
    L, w = records.widths, formulas.WIDTH[records.config.precision]
    how, formula = _kept(records.config), []
    for rank in range(records.world_size):
        place, rows = _place(records, rank), _micro_rows(records, rank)
        moved = formulas.kept_on_host(L, rows, w, place, how)
        again = len(rows) * len(formulas.recomputed(len(formulas.layer_sizes(L, place)), how.every))
        peak = formulas.activations_peak(L, rows, w, place, how)
        formula.append({**peak, "recomputed": again, "to_host": moved, "from_host": moved})
    return {
        what: {"measured": measured, "formula_per_rank": [own[what] for own in formula]}
        for what, measured in run.activations.items()
    }


# traffic -------------------------------------------------------------------------------------------------------------

Sent = dict[str, int]
"""Bytes by verb."""


def _traffic(records: Records, run: Run) -> dict[str, Any]:
    return {
        "modelled": records.config.collective == NATIVE,
        "collectives": {str(nbytes): name for nbytes, name in run.who},
        "per_step": _per_step(records, run, "data"),
        "model_parallel": {group: _per_step(records, run, group) for group in _model_parallel(records)},
        "control": run.control,
        "messages": run.messages_per_step,
        "messages_formula": [_messages(records, run, rank) for rank in range(records.world_size)],
        "sent": run.sent,
        "received": run.received,
        "sent_equals_received": sum(run.sent) == sum(run.received),
    }


def _per_step(records: Records, run: Run, group: str) -> dict[str, Any]:
    """What each rank sends to a group in a step, by verb."""
    verbs = ("send",) if group == "pipeline" else VERBS
    formula = [_SENT[group](records, run, rank) for rank in range(records.world_size)]
    formula = [{verb: sent.get(verb, 0) for verb in verbs} for sent in formula]
    return {
        "measured": [{verb: sent.get(verb, 0) for verb in verbs} for sent in run.sent_per_step[group]],
        "formula": max(formula, key=total),
        "formula_per_rank": formula,
    }


def _collective(records: Records, N: int) -> formulas.Collective:
    """What the formulas take: a name, for auto the choice by size, for a reader's own what its exchanges send."""
    if records.slices_sent is not None:
        return records.slices_sent[N]
    name = records.config.collective
    return partial(choice, N=N) if name == AUTO else name


# what data-parallel ranks send ---------------------------------------------------------------------------------------


def _among_data(records: Records, run: Run, rank: int) -> Sent:
    """What ZeRO sends in a step, or in one in which parameters are averaged."""
    config, N = records.config, records.grid.shares
    precision, k, every = _precision_sent(config), config.grad_accum, _kept(config).every
    collective, d, place = _collective(records, records.grid.data), records.grid.place(rank)[1], _place(records, rank)
    sent = formulas.traffic(run.stage, records.widths, N, precision, config.bucket, k, collective, d, place, every)
    return dict.fromkeys(sent, 0) if _never_averaged(records, run) else sent


def _messages(records: Records, run: Run, rank: int) -> int | None:
    """How many messages a rank should send in a step; None where MPI's own collectives send them."""
    config, grid, L = records.config, records.grid, records.widths
    if config.collective == NATIVE:
        return None
    if _never_averaged(records, run):
        return 0
    w, k, precision = formulas.WIDTH[config.precision], config.grad_accum, _precision_sent(config)
    collective, d = _collective(records, grid.data), grid.place(rank)[1]
    place, how = _place(records, rank), _kept(config)
    return (
        formulas.messages(run.stage, L, grid.shares, precision, config.bucket, k, collective, d, place, how.every)
        + formulas.tensor_messages(L, _micro_rows(records, rank), w, _collective(records, place.T), place, how)
        + formulas.pipeline_messages(k, place)
    )


def _precision_sent(config: Config) -> str:
    """The precision of what ranks send: where parameters are averaged, it is their full one."""
    return "fp32" if config.sync == "average" and config.precision in formulas.MIXED else config.precision


def _never_averaged(records: Records, run: Run) -> bool:
    """Whether parameters are averaged every so many steps, and the training was over before."""
    return records.config.sync == "average" and len(run.loss) < records.config.sync_every


# what model-parallel ranks send --------------------------------------------------------------------------------------


def _model_parallel(records: Records) -> list[str]:
    """The groups in which ranks hold different parts of the model."""
    sizes = {"tensor": records.grid.tensor, "pipeline": records.grid.pipeline}
    return [group for group, size in sizes.items() if size > 1]


def _among_tensor(records: Records, run: Run, rank: int) -> Sent:
    """What Megatron-LM's f and g send in a step."""
    place, w = _place(records, rank), formulas.WIDTH[records.config.precision]
    collective, how = _collective(records, place.T), _kept(records.config)
    return formulas.tensor_traffic(records.widths, _micro_rows(records, rank), w, collective, place, how)


def _along_pipeline(records: Records, run: Run, rank: int) -> Sent:
    """What a rank sends to those that hold the layers before and after its own."""
    place, w = _place(records, rank), formulas.WIDTH[records.config.precision]
    return formulas.pipeline_traffic(records.widths, _micro_rows(records, rank), w, place)


_SENT = {"data": _among_data, "tensor": _among_tensor, "pipeline": _along_pipeline}
"""What a rank should send to a group in a step: the formula's word, for a reader's algorithm its exchanges'."""


# averaging parameters ------------------------------------------------------------------------------------------------


def _sync(records: Records, run: Run) -> dict[str, Any]:
    """How parameters were averaged, and what that sent in all, beside what averaging gradients would have sent."""
    config, L, grid, S = records.config, records.widths, records.grid, len(run.loss)
    D = grid.data

    def all_reduced(precision: str, rank: int) -> int:
        collective = _collective(records, D)
        return total(formulas.traffic(0, L, grid.shares, precision, config.bucket, collective=collective, rank=rank))

    each = [all_reduced(_precision_sent(config), rank) for rank in range(D)]
    return {
        "every": config.sync_every,
        "after_steps": [min(n * config.sync_every, S) for n in range(1, len(run.drifts) + 1)],
        "largest_drift": [largest for largest, _ in run.drifts],
        "drift": [norm for _, norm in run.drifts],
        "sent": {"measured": run.averaging, "formula_per_rank": [len(run.drifts) * one for one in each]},
        "averaging_gradients_formula": [S * all_reduced(config.precision, rank) for rank in range(D)],
    }


# checkpoints ---------------------------------------------------------------------------------------------------------


def _resumed(records: Records, run: Run, resumed: dict[str, Any]) -> dict[str, Any]:
    """What the run went on from, and the most that each rank held while it read."""
    config, grid = records.config, records.grid
    formula = [
        formulas.loading_peak(
            run.stage,
            records.widths,
            grid.shares,
            config.precision,
            config.optimizer,
            config.bucket,
            place,
            d,
        )
        for place, d in _places(records)
    ]
    return {**resumed, "peak": {"measured": resumed["peak"], "formula_per_rank": formula}}


def _checkpoints(records: Records, run: Run) -> dict[str, Any]:
    """What was written: of each checkpoint the slowest rank's seconds, and each rank's bytes of tensors and in all."""
    config, L, grid = records.config, records.widths, records.grid
    each = list(zip(*run.checkpoints, strict=True))
    formula = [
        formulas.checkpoint_tensors(L, grid.shares, config.precision, config.optimizer, config.bucket, place, d)
        for place, d in _places(records)
    ]
    steps = [ranks[0]["step"] for ranks in each]
    return {
        "folder": config.checkpoint,
        "newest": folder_name(steps[-1]),
        "written": steps,
        "seconds": [max(own["seconds"] for own in ranks) for ranks in each],
        "tensors": {
            "measured": [[own["tensors"] for own in ranks] for ranks in each],
            "formula_per_rank": formula,
        },
        "files": [[own["file"] for own in ranks] for ranks in each],
    }


# pruning -------------------------------------------------------------------------------------------------------------


def _pruning(records: Records, run: Run) -> dict[str, Any] | None:
    """What was pruned and what it sent, in the whole run; None where nothing is."""
    config, own = records.config, run.pruning
    if not own:
        return None
    by, quantile = config.prune_by or "row", config.prune_groups or 0.0
    G, updates = sum(formulas.groups(records.widths, by)), len(run.loss) - run.skipped_steps
    here = updates - (run.resumed["updates"] if run.resumed else 0)  # not those before a checkpoint
    sent = {"sent": here * formulas.pruning_traffic(G, records.world_size)}
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
        **({"record": _raster(own)} if run is records.runs[-1] else {}),
    }


def _raster(own: dict[str, Any]) -> dict[str, Any]:
    """What the figure of the last run draws: it is as long as the training."""
    return {
        "groups_per_cell": own["groups_per_cell"],
        "pruned": [" ".join(map(str, cells)) for cells in own["pruned"]],
    }


# who waits for whom --------------------------------------------------------------------------------------------------


def _from(first: float, spans: list[Span]) -> list[list[Any]]:
    return [[start - first, end - first, what, partner] for start, end, what, partner in spans]


def _virtual(records: Records, run: Run) -> dict[str, Any] | None:
    """The recorded step on a virtual clock, at the rates at which the ranks worked, on the network of a cluster.

    It follows on the same step, so that a rank which is late with one is waited for in the next. None if none was
    recorded. Spans are what the figure of the last run draws.
    """
    if not run.recorded:
        return None
    last = run is records.runs[-1]
    cluster, straggler = records.config.cluster, records.config.straggler
    operation, update = (
        sum(own[seconds] for own in run.work) / max(1, sum(own[count] for own in run.work))
        for seconds, count in (("compute", "operations"), ("update", "updated"))
    )
    clocks = replay(run.recorded, operation, update, cluster, dict([straggler] if straggler else []), before=1)
    first = min(clock.began for clock in clocks)
    return {
        "cluster": cluster.name,
        "seconds_per_operation": operation,
        "seconds_per_update": update,
        "seconds_per_step": max(clock.now for clock in clocks) - max(clock.began for clock in clocks),
        "ranks": [
            {
                "seconds": clock.now - clock.began,
                "busy": clock.busy,
                "network": clock.network,
                "waited_for": [clock.waits.get(other, 0.0) for other in range(records.world_size)],
                **({"spans": _from(first, clock.spans)} if last and rank < DRAWN else {}),
            }
            for rank, clock in enumerate(clocks)
        ],
    }
