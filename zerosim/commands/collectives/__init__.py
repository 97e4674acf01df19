"""The command `collectives`, the laboratory: list, show, check, time and bench the algorithms that move the bytes."""

import argparse
from typing import Any

from zerosim import cluster
from zerosim.collectives import VERBS
from zerosim.commands.collectives import bench, check, listing, show, time
from zerosim.commands.common import Commands, parts_of

SIZES = "1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB,256MiB"


def add(commands: Commands) -> None:
    """Describe the command, its sub-commands and their flags."""
    text = "the laboratory of collectives: list, show, check, time and bench the algorithms"
    own = "or FILE.py:NAME, a function of your own"
    p = commands.add_parser("collectives", help=text, description=text, allow_abbrev=False)
    part = parts_of(p, "list|show|check|time|bench")

    q = part("list", listing.run, "a table of the algorithms: steps, bytes per rank, cost, for which numbers of ranks")
    _flag(q, "--ranks", "the formulas' values for N ranks (default: 8)", int, 8)
    _json(q)

    q = part("show", show.run, "the exchanges of an algorithm, step by step, here and as PNG, SVG and animated GIF")
    q.add_argument("algorithm", metavar="ALGORITHM", help=f"a name from the list, {own}")
    _flag(q, "--ranks", "number of ranks (default: 4)", int, 4)
    _verb(q)
    _flag(q, "--out", "folder for the pictures (default: zerosim-out)", str, "zerosim-out")

    q = part(
        "check", check.run, "prove an algorithm without data: each slice holds each rank's contribution exactly once"
    )
    q.add_argument("algorithm", metavar="ALGORITHM", help=f"a name from the list, {own}")
    _flag(q, "--ranks", "check for N ranks only (default: each number from 1 to 33)", int, None)
    _verb(q)

    q = part(
        "time", time.run, "all algorithms on a modelled cluster, with a virtual clock, and where the fastest changes"
    )
    q.add_argument("algorithms", metavar="ALGORITHM", nargs="*", help=f"names from the list (default: all), {own}")
    named = ", ".join((*cluster.PRESETS, cluster.THIS_MACHINE))
    _flag(q, "--cluster", f"{named}, or a JSON file (default: dgx-a100)", str, "dgx-a100")
    _flag(q, "--ranks", "number of ranks (default: 64)", int, 64)
    _flag(q, "--bytes", "of the whole vector: 1e9, 64MiB, … (default: 1e9)", str, "1e9")
    _verb(q)
    _flag(q, "--out", "folder for the figure and the numbers (default: zerosim-out)", str, "zerosim-out")
    _json(q)

    q = part(
        "bench", bench.run, "under mpirun: the explicit algorithms against the MPI library's own, measured in pairs"
    )
    bench_flags(q)


def bench_flags(q: argparse.ArgumentParser) -> None:
    """Describe the flags of `collectives bench`, which is `bench collectives` too."""
    own = "or FILE.py:NAME, a function of your own"
    usual = "ring halving pairwise bruck doubling binomial"
    q.add_argument("algorithms", metavar="ALGORITHM", nargs="*", help=f"names from the list (default: {usual}), {own}")
    _flag(q, "--bytes", f"sizes of the whole vector (default: {SIZES})", str, SIZES)
    _verb(q)
    _flag(q, "--precision", "fp32, fp16 or bf16 (default: fp32)", str, "fp32")
    _flag(q, "--seconds", "about how long each size takes (default: 3)", float, 3.0)
    _flag(q, "--out", "folder for the figure and the numbers (default: zerosim-out)", str, "zerosim-out")
    _json(q)


_METAVARS = {"--ranks": "N", "--out": "DIR", "--bytes": "SIZE", "--cluster": "NAME", "--precision": "fp32|fp16|bf16"}


def _flag(parser: argparse.ArgumentParser, flag: str, text: str, kind: Any, default: Any) -> None:
    parser.add_argument(flag, type=kind, default=default, metavar=_METAVARS.get(flag, "S"), help=text)


def _verb(parser: argparse.ArgumentParser) -> None:
    text = f"{', '.join(VERBS)} (default: all_reduce; for an algorithm that only gathers, and for yours, what it does)"
    parser.add_argument("--verb", metavar="VERB", help=text)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")
