"""The command `residual`: what a step holds besides the model states, and what ZeRO-R does about it."""

import argparse
from typing import Any

from zerosim import figures
from zerosim.arena import FITS
from zerosim.blas import one_thread
from zerosim.commands.bench.shared import whole_numbers
from zerosim.commands.common import Commands, ProgressLine, add_ranks, place
from zerosim.commands.output import agreed_folder, door_of, is_first, publish, quiet
from zerosim.heap import keep
from zerosim.report import console_text
from zerosim.residual import SECTIONS, Settings, measure
from zerosim.transport import Transport
from zerosim.transport.threads import run_threads
from zerosim.words import counted

FIGURES = {"residual-arena": figures.arena, "residual-buffers": figures.buffers}

_STANDARD = Settings()


def add(commands: Commands) -> None:
    """Describe the command and its flags."""
    text = "what a step holds besides the model states: activations, buffers, and gaps between them (ZeRO-R)"
    p = commands.add_parser("residual", help=text, description=text, allow_abbrev=False)
    p.set_defaults(run=run, parser=p)
    hidden, widths = (",".join(map(str, numbers)) for numbers in (_STANDARD.hidden, _STANDARD.widths))
    add_ranks(p, p)
    p.add_argument(
        "--hidden", default=hidden, metavar="A,B,C", help=f"hidden widths for activations (default: {hidden})"
    )
    p.add_argument("--widths", default=widths, metavar="A,B", help=f"hidden widths for buffers (default: {widths})")
    p.add_argument(
        "--bucket",
        type=int,
        default=_STANDARD.bucket,
        metavar="ELEMENTS",
        help=f"the bucket of constant size (default: {_STANDARD.bucket})",
    )
    p.add_argument(
        "--rows",
        type=int,
        default=_STANDARD.rows,
        metavar="R",
        help=f"rows per rank and step (default: {_STANDARD.rows})",
    )
    p.add_argument(
        "--fit",
        default=_STANDARD.fit,
        metavar="|".join(FITS),
        help="the first gap that is large enough, or the smallest",
    )
    text = "folder for the figures and the numbers (default: zerosim-out)"
    p.add_argument("--out", default="zerosim-out", metavar="DIR", help=text)
    p.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Measure on MPI's ranks or, with --ranks, on ranks within this process; print the tables, draw the figures."""
    transport = place(arguments.ranks, transport)
    N = transport.size if transport else arguments.ranks
    door, first = door_of(transport), is_first(transport)
    settings = door.agreed(_settings, arguments, N, transport)
    files = (f"{name}{ending}" for name in FIGURES for ending in (".png", ".svg"))
    agreed_folder(door, arguments.out, "residual.json", *files)
    progress = ProgressLine()
    keep()
    try:
        result = _measure(settings, transport, N, progress.tell if first else quiet)
    finally:
        progress.done()
    if first:
        publish(result, FIGURES, _text(result, settings), "residual", arguments)


def _settings(arguments: argparse.Namespace, N: int, transport: Transport | None) -> Settings:
    """Return what the flags ask for. Raises InputError."""
    settings = Settings(
        whole_numbers("hidden", arguments.hidden),
        whole_numbers("widths", arguments.widths),
        arguments.bucket,
        arguments.rows,
        arguments.fit,
    )
    settings.check(N, transport.here if transport else N)
    return settings


def _measure(settings: Settings, transport: Transport | None, N: int, tell: Any) -> dict[str, Any]:
    if transport is None:
        return run_threads(N, lambda comm: measure(comm, settings, tell if comm.rank == 0 else quiet))[0]
    try:
        with one_thread():
            return measure(transport, settings, tell)
    except BaseException:
        transport.abort()
        raise


def _text(result: dict[str, Any], settings: Settings) -> str:
    parts: list[Any] = [f"Residual states on {counted(result['ranks'], 'rank')} ({result['backend']}), Adam."]
    for name, section in SECTIONS.items():
        parts += ["", *section.show(result["sections"][name], settings)]
    return console_text(*parts)
