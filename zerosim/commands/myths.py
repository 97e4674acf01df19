"""The command `myths`: what one hears about ZeRO, each claim measured on the spot."""

import argparse
import json
from pathlib import Path

from zerosim import myths
from zerosim.commands.collectives.shared import checked_ranks, checked_seed
from zerosim.commands.common import Commands, ProgressLine, add_ranks, place
from zerosim.commands.output import agreed_folder, door_of, is_first, quiet
from zerosim.jsonfile import write_json
from zerosim.transport import Transport
from zerosim.transport.mpi import MPITransport

RANKS = 4
MOST = 16


def add(commands: Commands) -> None:
    """Describe the command and its flags."""
    text = "run what one hears about ZeRO as small experiments: claim, measurement, verdict, source"
    p = commands.add_parser("myths", help=text, description=text, allow_abbrev=False)
    p.set_defaults(run=run, parser=p)
    p.add_argument("claims", nargs="*", metavar="CLAIM", help="names of claims (default: all)")
    p.add_argument("--list", action="store_true", help="list the claims by name, and run nothing")
    add_ranks(p, p, f" (default: {RANKS})")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="for weights and batches (default: 0)")
    p.add_argument("--out", metavar="DIR", help="write myths.json there")
    p.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Run the experiments and print a table of claims, measurements and verdicts."""
    first = is_first(transport)
    myths.picked(arguments.claims)
    if arguments.list:
        if first:
            print(json.dumps(myths.listing()) if arguments.json else myths.format_claims())
        return
    ranks = RANKS if arguments.ranks is None and transport is None else arguments.ranks
    world = place(ranks, transport)
    N = checked_ranks(world.size if world else ranks, MOST, least=2)
    seed = checked_seed(arguments.seed)
    if arguments.out is not None:
        agreed_folder(door_of(world), arguments.out, "myths.json")
    progress = ProgressLine()
    try:
        among = world if isinstance(world, MPITransport) else None
        lab = myths.Lab(N, seed, among, tell=progress.tell if first else quiet)
        report = myths.check(lab, *arguments.claims)
    finally:
        progress.done()
    if not first:
        return
    try:
        path = write_json(report, Path(arguments.out) / "myths.json") if arguments.out is not None else None
    finally:  # on a full disk too
        print(json.dumps(report, allow_nan=False) if arguments.json else myths.format_myths(report))
    if path and not arguments.json:
        print(f"Numbers: {path}")
