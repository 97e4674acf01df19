"""The command line: parse, call, print. Exit status 0 done, 2 bad input (one line from one rank), 1 anything else."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterable

import zerosim
from zerosim.commands import COMMANDS, command
from zerosim.commands.common import Parser, unknown
from zerosim.errors import Failed, InputError
from zerosim.signals import raised
from zerosim.transport.mpi import end_all, launched_rank, world
from zerosim.witness import over_tcp
from zerosim.words import meant


def _parser(names: Iterable[str]) -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m zerosim",
        description="Train a small model at the four stages of ZeRO over MPI ranks, and count every byte.",
        epilog="Start it with 'mpirun -n 4' before it for 4 ranks, or with --ranks 4 for 4 ranks in one process.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zerosim {zerosim.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in names:
        command(name).add(commands)
    return parser


def parse(argv: list[str]) -> argparse.Namespace | str:
    """Return the arguments, or the text of --help or --version. Raises InputError for what is not understood."""
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version")):
        argv = ["train", *argv]
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise InputError(f"there is no command {argv[0]!r}; {meant(argv[0], COMMANDS)} (see --help)")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            arguments, left_over = _parser([argv[0]] if argv[0] in COMMANDS else COMMANDS).parse_known_args(argv)
    except SystemExit:
        return printed.getvalue()
    if left_over:
        raise InputError(unknown(left_over[0], arguments.parser))
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        with raised():
            return _main(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt as error:
        print("\nzerosim: interrupted", file=sys.stderr, flush=True)
        status = getattr(error, "status", 130)
        if launched_rank() is not None:
            end_all(status)  # the others may not have been told
        return status


def _main(argv: list[str]) -> int:
    first = launched_rank() in (None, 0)
    try:
        arguments = parse(argv)
        if isinstance(arguments, str):
            if first:
                print(arguments, end="")
            return 0
        if (
            "wire" in (getattr(arguments, "witness", None) or "").split(",")
            or getattr(arguments, "wire", None) == "tcp"
        ):
            over_tcp()
        transport = world() if launched_rank() is not None else None
        return arguments.run(arguments, transport) or 0
    except BrokenPipeError:  # whoever reads has seen enough, as with | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a file that went away
        place = f"{error.filename2 or error.filename}: " if error.filename else ""
        print(f"zerosim: {place}{error.strerror or error}", file=sys.stderr, flush=True)
        return 1
    except (InputError, Failed) as error:
        if first:
            print(f"zerosim: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, InputError) else error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
