"""The command `train`: each stage in turn, then the report, the figures and the table."""

import argparse
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from zerosim.checkpoint import resumed
from zerosim.collectives import NAMES
from zerosim.comm import Comm
from zerosim.commands.common import Commands, ProgressLine, add_ranks, place
from zerosim.commands.output import agreed_folder, door_of, is_first
from zerosim.config import FIELDS, Config, read_config_file
from zerosim.data import size
from zerosim.errors import Failed, InputError
from zerosim.heap import keep
from zerosim.optim import RULES
from zerosim.report import build_report, console_text, format_report, make_folder, write_report
from zerosim.signals import remembered
from zerosim.trace import Traced, write_trace
from zerosim.train import Progress, Records, Signalled, train
from zerosim.transport import Transport
from zerosim.transport.threads import run_threads

SLOW_TO_READ = 20_000_000
"""Bytes of data from which on the reading is announced."""


def add(commands: Commands) -> None:
    """Describe the command and its flags."""
    text = "train at each stage and report; without a COMMAND this is what is done"
    p = commands.add_parser("train", help=text, description=text, allow_abbrev=False)
    p.set_defaults(run=run, parser=p)

    what = p.add_argument_group("what to run")
    what.add_argument(
        "--stages", "--stage", metavar="0,1,2,3", help="stages of ZeRO, one after the other (default: all)"
    )
    add_ranks(p, what)
    what.add_argument(
        "--config", metavar="FILE.json", help="the same settings from a file; DeepSpeed's key names are understood"
    )
    what.add_argument(
        "--collective",
        metavar="NAME",
        help=f"who moves the bytes: {', '.join(NAMES)} (default: ring); see 'collectives list'",
    )
    what.add_argument(
        "--bucket",
        type=int,
        metavar="ELEMENTS",
        help="greatest bucket, cut at multiples of the ranks; 0: one per layer (default)",
    )
    what.add_argument(
        "--slices",
        metavar="2,1,1",
        help="parts of each bucket that each data-parallel rank owns (default: one each, equal slices)",
    )
    what.add_argument(
        "--tensor-parallel", type=int, metavar="T", help="cut each layer over T ranks, as Megatron-LM does (default: 1)"
    )
    what.add_argument(
        "--pipeline",
        type=int,
        metavar="P",
        help="put the layers on P ranks, one after the other; --grad-accum says how many micro-batches (default: 1)",
    )
    what.add_argument(
        "--pipeline-layers",
        metavar="1,2",
        help="how many layers each pipeline rank has (default: as equally many as can be)",
    )
    what.add_argument(
        "--straggler",
        metavar="RANK:FACTOR",
        help="make one rank slower: it sleeps between its messages, and its virtual clock runs slower too",
    )
    what.add_argument(
        "--cluster",
        metavar="NAME|FILE.json",
        help="whose network the virtual clock of a straggler or a pipeline has (default: dgx-a100)",
    )
    what.add_argument(
        "--trace-memory",
        action="store_const",
        const=True,
        help="also let the interpreter count the memory of each step (slow)",
    )
    what.add_argument(
        "--witness",
        metavar="os,wire",
        help="also ask the operating system for memory (os), the kernel's TCP sockets for bytes (wire); Linux",
    )

    model = p.add_argument_group("model and data")
    model.add_argument(
        "--data",
        metavar="digits|FILE.npz|FILE.csv|DIR",
        help="built-in digits (default); .npz with x and y; CSV with a header, target last; a folder of IDX files",
    )
    model.add_argument("--hidden", metavar="256,256", help='hidden widths; "" for a linear model (default: 256,256)')
    model.add_argument(
        "--test-fraction",
        type=float,
        metavar="F",
        help="rows held out for testing, drawn with the seed (default: 0.2, or the files' own test rows)",
    )
    model.add_argument("--seed", type=int, metavar="S", help="for weights, held-out rows and shuffling (default: 0)")
    model.add_argument(
        "--shuffle",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="shuffle rows in each epoch (default: yes)",
    )
    model.add_argument("--init", metavar="FILE", help="initial weights, safetensors")
    model.add_argument("--save", metavar="FILE", help="where to save the weights of the last stage run, safetensors")

    training = p.add_argument_group("training")
    training.add_argument("--optimizer", metavar="|".join(RULES), help="(default: adam)")
    training.add_argument(
        "--lr", type=float, metavar="LR", help="learning rate (default: 0.001; 0.02 for momentum, 0.1 for sgd)"
    )
    training.add_argument(
        "--weight-decay", type=float, metavar="W", help="on every parameter (default: 0; 0.01 for adamw)"
    )
    training.add_argument(
        "--precision", metavar="fp32|fp16|bf16", help="fp16 and bf16 keep fp32 master weights (default: fp16)"
    )
    training.add_argument("--batch-size", type=int, metavar="B", help="rows per step over all ranks (default: 64)")
    training.add_argument(
        "--grad-accum", type=int, metavar="G", help="micro-steps that share the rows of a step (default: 1)"
    )
    training.add_argument(
        "--clip-norm", type=float, metavar="C", help="greatest norm of the whole gradient (default: no limit)"
    )
    training.add_argument(
        "--checkpoint-activations",
        nargs="?",
        type=int,
        const=True,
        metavar="K",
        help="keep the input of every K-th layer, and compute the others again in backward (default: keep all; without "
        "K: the square root of the layers, 2 at the least)",
    )
    training.add_argument(
        "--partition-activations",
        action="store_const",
        const=True,
        help="tensor-parallel ranks keep a part each of what they hold alike, and gather it before backward (Pa)",
    )
    training.add_argument(
        "--cpu-checkpointing",
        action="store_const",
        const=True,
        help="activations wait for backward in the host's memory (with --partition-activations: Pa+cpu)",
    )
    training.add_argument(
        "--sync",
        metavar="gradients|average",
        help="what ranks average: gradients, or parameters after steps of their own (local SGD; stage 0 only)",
    )
    training.add_argument(
        "--sync-every", type=int, metavar="H", help="with --sync average: after every H steps (default: 1)"
    )
    training.add_argument(
        "--prune-groups",
        type=float,
        metavar="QUANTILE",
        help="prune this share of the groups of parameters in each step, those with the smallest gradients; no part "
        "of ZeRO (default: off)",
    )
    training.add_argument(
        "--prune-by", metavar="layer|row|SIZE", help="what a group is: SIZE is in elements of a layer (default: row)"
    )
    training.add_argument(
        "--prune-mode",
        metavar="freeze|zero",
        help="leave the weights of a pruned group as they are, or set them to 0 (default: freeze)",
    )
    training.add_argument("--epochs", type=int, metavar="E", help="passes over the data (default: 10)")
    training.add_argument(
        "--target-loss", type=float, metavar="X", help="stop when the loss on all training rows is X or less"
    )
    training.add_argument("--patience", type=int, metavar="E", help="stop when that loss has not fallen for E epochs")
    training.add_argument("--steps", type=int, metavar="S", help="steps, instead of --epochs")

    output = p.add_argument_group("output")
    output.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="write checkpoints of one stage into DIR/step-…, from which --resume goes on",
    )
    output.add_argument(
        "--checkpoint-every", type=int, metavar="K", help="every K steps, and at the end (default: after each epoch)"
    )
    output.add_argument("--keep", type=int, metavar="M", help="keep the last M checkpoints (default: 2)")
    output.add_argument(
        "--resume",
        metavar="DIR",
        help="go on from a checkpoint, or from the newest one in a folder, with its settings unless others are given; "
        "on any number of ranks, at any stage",
    )
    output.add_argument(
        "--trace",
        metavar="FILE.json",
        help="write what each rank did, and when, in the Chrome trace event format, for ui.perfetto.dev or "
        "chrome://tracing",
    )
    output.add_argument(
        "--trace-steps", type=int, metavar="S", help="trace the first S steps of each stage (default: 25)"
    )
    output.add_argument("--out", metavar="DIR", help="folder for report.json and the figures (default: zerosim-out)")
    output.add_argument(
        "--figures", action=argparse.BooleanOptionalAction, default=True, help="draw the figures (default: yes)"
    )
    output.add_argument(
        "--json", action="store_true", help="print the report on standard output, and nothing else there"
    )


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Train on MPI's ranks or, with --ranks, on ranks within this process. `transport` is the place mpirun gave it."""
    transport = place(arguments.ranks, transport)
    keep()
    progress = ProgressLine()
    N = transport.size if transport else arguments.ranks
    first, door = is_first(transport), door_of(transport)
    config = door.agreed(settings, arguments, N)
    agreed_folder(door, config.out, "report.json")
    if config.checkpoint is not None and door.size > 1 and transport:
        progress.before = _processes(door)
    if first and size(config.data) > SLOW_TO_READ:
        progress.say(f"reading {config.data}")
    trace: list[str] = []
    try:
        with remembered() as signalled:
            records = _train(config, transport, N, progress, signalled, trace.extend)
    except Failed:
        progress.done()
        _trace_of_what_was_done(trace, config)
        raise
    finally:
        progress.done()
    if not first:
        return
    report = build_report(records)
    try:
        written = _write(report, make_folder(config.out), progress, arguments.figures)
    finally:  # on a full disk too
        print(json.dumps(report, allow_nan=False) if arguments.json else format_report(report))
    if not arguments.json:
        print(written)
        if config.save:
            print(f"Weights of stage {config.stages[-1]}: {config.save}")
    if config.trace:  # last: a disk that it fills has the report
        write_trace(trace, config.trace)
        if not arguments.json:
            print(_where(config.trace))


def _trace_of_what_was_done(trace: list[str], config: Config) -> None:
    """Write the trace of a run that has ended early; what went wrong with the run is still to be said after it."""
    if not (trace and config.trace):
        return
    line = _where(config.trace)
    try:
        write_trace(trace, config.trace)
    except Failed as error:
        line = f"zerosim: {error}"
    print(line, file=sys.stderr, flush=True)


def _where(trace: str) -> str:
    return console_text(f"Trace: {trace} (open it in ui.perfetto.dev or chrome://tracing)")


def _processes(door: Comm) -> str:
    """Say which process is which rank: of a process that is killed, mpirun tells the number alone."""
    everyone = door.gather_values([os.getpid(), socket.gethostname()])
    return "process " + ", ".join(f"{pid} on {host} is rank {rank}" for rank, (pid, host) in enumerate(everyone))


def _train(
    config: Config, transport: Transport | None, N: int, progress: Progress, signalled: Signalled, traced: Traced
) -> Records:
    def run(comm: Transport) -> Records:
        return train(config, comm, progress=progress, signalled=signalled, traced=traced)

    return run(transport) if transport else run_threads(N, run)[0]


def _write(report: dict[str, Any], folder: Path, progress: ProgressLine, drawn: bool) -> str:
    """Write report.json and, if they are to be drawn, the figures beside it; return a line for each."""
    path = write_report(report, folder)
    if not drawn:
        return console_text(f"Report: {path}")
    progress.say("drawing the figures")
    from zerosim import figures

    try:
        names = figures.write(report, folder)
    finally:
        progress.done()
    return console_text(f"Report: {path}", f"Figures: {', '.join(names)} (.png and .svg, beside it)")


def settings(arguments: argparse.Namespace, N: int) -> Config:
    """Return the settings of a run on N ranks: the file's, and over them the flags'. Raises InputError."""
    given = {k: v for k, v in vars(arguments).items() if v is not None and k in FIELDS}
    if arguments.precision == "fp64":
        raise InputError("precision: 'fp64' is not known; choose from fp32, fp16, bf16")
    values = read_config_file(arguments.config, N) if arguments.config is not None else {}
    if given.keys() & {"epochs", "steps"}:
        values = {k: v for k, v in values.items() if k not in ("epochs", "steps")}
    both = {**values, **given}
    if (name := both.pop("resume", None)) is not None:
        return resumed(name, N, **both)
    return Config(**both)
