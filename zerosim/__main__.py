"""The command line: parse, call, print. Exit status 0 done, 2 bad input (one line from one rank), 1 anything else."""

import argparse
import contextlib
import difflib
import io
import json
import sys
import time
from typing import NoReturn

import zerosim
from zerosim.collectives import ALGORITHMS
from zerosim.comm import Comm
from zerosim.config import Config, read_config_file
from zerosim.data import size
from zerosim.errors import Diverged, InputError
from zerosim.ledger import Ledger
from zerosim.optim import RULES
from zerosim.report import build_report, format_report, make_folder, write_report
from zerosim.train import Progress, Records, train
from zerosim.transport import Transport
from zerosim.transport.mpi import launched_rank, world
from zerosim.transport.threads import alone, run_threads

COMMANDS = ("train",)

SLOW_TO_READ = 20_000_000
"""Bytes of data from which on the reading is announced."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m zerosim",
        description="Train a small model at the four stages of ZeRO over MPI ranks, and count every byte.",
        epilog="Start it with 'mpirun -n 4' before it for 4 ranks, or with --ranks 4 for 4 ranks in one process.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zerosim {zerosim.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    text = "train at each stage and report; without a COMMAND this is what is done"
    p = commands.add_parser("train", help=text, description=text, allow_abbrev=False)
    p.set_defaults(command="train")

    run = p.add_argument_group("what to run")
    run.add_argument(
        "--stages", "--stage", metavar="0,1,2,3", help="stages of ZeRO, one after the other (default: all)"
    )
    run.add_argument("--ranks", type=int, metavar="N", help="N in-process ranks instead of MPI's")
    run.add_argument(
        "--config", metavar="FILE.json", help="the same settings from a file; DeepSpeed's key names are understood"
    )
    run.add_argument("--collective", metavar="|".join(ALGORITHMS), help="who moves the bytes (default: ring)")
    run.add_argument(
        "--bucket",
        type=int,
        metavar="ELEMENTS",
        help="greatest bucket, cut at multiples of the ranks; 0: one per layer (default)",
    )
    run.add_argument(
        "--trace-memory",
        action="store_const",
        const=True,
        help="also let the interpreter count the memory of each step (slow)",
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
    training.add_argument("--epochs", type=int, metavar="E", help="passes over the data (default: 10)")
    training.add_argument("--steps", type=int, metavar="S", help="steps, instead of --epochs")

    output = p.add_argument_group("output")
    output.add_argument("--out", metavar="DIR", help="folder for report.json and the figures (default: zerosim-out)")
    output.add_argument(
        "--json", action="store_true", help="print the report on standard output, and nothing else there"
    )
    return parser


def parse(argv: list[str]) -> argparse.Namespace | str:
    """Return the arguments, or the text of --help or --version. Raises InputError for what is not understood."""
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version")):
        argv = ["train", *argv]
    parser = _parser()
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise InputError(f"there is no command {argv[0]!r}; there is {', '.join(COMMANDS)} (see --help)")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            arguments, unknown = parser.parse_known_args(argv)
    except SystemExit:
        return printed.getvalue()
    if unknown:
        raise InputError(_unknown(unknown[0], parser))
    return arguments


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    subparsers = parser._subparsers._group_actions[0].choices["train"]  # type: ignore[union-attr, index]
    flags = [flag for action in subparsers._actions for flag in action.option_strings if flag.startswith("--")]
    close = difflib.get_close_matches(word.split("=")[0], flags, 1)
    kind = "flag" if word.startswith("-") else "argument"
    return f"the {kind} {word} is not known" + (f"; is {close[0]} meant?" if close else "; see train --help")


def settings(arguments: argparse.Namespace, N: int) -> Config:
    """Return the settings of a run on N ranks: the file's, and over them the flags'. Raises InputError."""
    given = {
        k: v for k, v in vars(arguments).items() if v is not None and k not in ("command", "config", "ranks", "json")
    }
    if arguments.precision == "fp64":
        raise InputError("precision: 'fp64' is not known; choose from fp32, fp16, bf16")
    values = read_config_file(arguments.config, N) if arguments.config is not None else {}
    if given.keys() & {"epochs", "steps"}:
        values = {k: v for k, v in values.items() if k not in ("epochs", "steps")}
    return Config(**{**values, **given})


def place(ranks: int | None, transport: Transport | None) -> Transport | None:
    """Return this process's place among MPI's ranks, or None if --ranks asks for ranks within this process.

    `transport` is the place that mpirun gave it, if mpirun started it.
    """
    if ranks is None:
        return transport or world()
    if ranks < 1:
        raise InputError(f"ranks: {ranks} must be 1 or more")
    if transport and (transport.size > 1 or ranks > 1):
        raise InputError(
            f"ranks: --ranks {ranks} asks for ranks in one process, but mpirun has started {transport.size}; "
            "use one or the other"
        )
    return None


class _ProgressLine:
    """A line that says how far the work is: rewritten in place on a terminal, else a new one every few seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._every = 0.1 if self._live else 3.0
        self._said = 0.0
        self._began = False

    def __call__(self, stage: int, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        if self._began and step < steps and now - self._said < self._every:
            return
        self._said = now
        self.say(f"stage {stage}: step {step} of {steps}, loss {loss:.4f}")

    def say(self, text: str) -> None:
        """Show `text` as where things stand."""
        self._began = True
        end = "" if self._live else "\n"
        print(f"\r{text:<70}" if self._live else text, end=end, file=sys.stderr, flush=True)

    def done(self) -> None:
        """Leave the line."""
        if self._live and self._began:
            print(f"\r{'':<70}\r", end="", file=sys.stderr, flush=True)


def run_train(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Do what `train` is asked for, on MPI's ranks or, without a transport, on ranks within this process."""
    progress = _ProgressLine()
    N = transport.size if transport else arguments.ranks
    first = transport is None or transport.rank == 0
    door = Comm(transport or alone(), Ledger())
    config = door.agreed(settings, arguments, N)
    door.agreed(make_folder if first else str, config.out)
    if first and size(config.data) > SLOW_TO_READ:
        progress.say(f"reading {config.data}")
    try:
        records = _train(config, transport, N, progress)
        if not first:
            return
        report = build_report(records)
        folder = make_folder(config.out)
        path = write_report(report, folder)
        progress.say("drawing the figures")
        from zerosim import figures

        names = figures.write(report, folder)
    finally:
        progress.done()
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
        return
    print(format_report(report))
    print(f"Report: {path}")
    print(f"Figures: {', '.join(names)} (.png and .svg, beside it)")
    if config.save:
        print(f"Weights of stage {config.stages[-1]}: {config.save}")


def _train(config: Config, transport: Transport | None, N: int, progress: Progress) -> Records:
    if transport:
        return train(config, transport, progress=progress)
    return run_threads(N, lambda comm: train(config, comm, progress=progress))[0]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    first = launched_rank() in (None, 0)
    try:
        transport = world() if launched_rank() is not None else None
        arguments = parse(sys.argv[1:] if argv is None else argv)
        if not isinstance(arguments, str):
            run_train(arguments, place(arguments.ranks, transport))
        elif first:
            print(arguments, end="")
    except KeyboardInterrupt:
        print("\nzerosim: interrupted", file=sys.stderr, flush=True)
        return 130
    except (InputError, Diverged) as error:
        if first:
            print(f"zerosim: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
