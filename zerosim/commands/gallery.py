"""The command `gallery`: mistakes that people made, run beside the right program, and what finds them."""

import argparse
import json

from zerosim import gallery
from zerosim.commands.collectives.shared import checked_ranks, checked_seed
from zerosim.commands.common import Commands, ProgressLine
from zerosim.errors import InputError
from zerosim.myths.lab import Lab
from zerosim.transport import Transport

RANKS = 4
MOST = 16


def add(commands: Commands) -> None:
    """Describe the command and its flags."""
    text = "run real bugs beside the right program: symptom, code, the test that catches it, lesson"
    p = commands.add_parser("gallery", help=text, description=text, allow_abbrev=False)
    p.set_defaults(run=run, parser=p)
    p.add_argument("bugs", nargs="*", metavar="BUG", help="names of bugs, a page for each (default: a table of all)")
    p.add_argument("--list", action="store_true", help="list the bugs by name, and run nothing")
    p.add_argument(
        "--blind",
        type=int,
        metavar="NUMBER",
        help=f"a bug without its name, for whoever is to find it: what one notices, and what the instruments say; "
        f"1 to {len(gallery.BUGS)} are all bugs, in an order that tells nothing, and greater numbers all of them again",
    )
    p.add_argument("--reveal", action="store_true", help="with --blind: the page of that bug, with its name and code")
    p.add_argument("--ranks", type=int, default=RANKS, metavar="N", help=f"in-process ranks (default: {RANKS})")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="for weights and batches (default: 0)")
    p.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Run the bugs and print a table of all of them, or a page for each that was named."""
    names: list[str | int] = [bug.name for bug in gallery.chosen(*arguments.bugs)]
    if arguments.blind is not None:
        if arguments.bugs or arguments.list:
            names_some = "--list" if arguments.list else arguments.bugs[0]
            raise InputError(f"gallery: --blind hides a bug's name, and {names_some} tells; use one or the other")
        name = gallery.unnamed(arguments.blind).name
        names = [name if arguments.reveal else arguments.blind]
    elif arguments.reveal:
        raise InputError("gallery: --reveal needs --blind NUMBER; a bug that is named hides nothing")
    if transport is not None and transport.size > 1:
        raise InputError("gallery: bugs are run on ranks in one process; leave mpirun out, and say --ranks")
    if arguments.list:
        print(json.dumps(gallery.listing()) if arguments.json else gallery.format_bugs())
        return
    N, seed = checked_ranks(arguments.ranks, MOST, least=2), checked_seed(arguments.seed)
    progress = ProgressLine()
    try:
        lab = Lab(N, seed, tell=progress.tell)
        results = [gallery.run(name, lab=lab) for name in names]
    finally:
        progress.done()
    if arguments.json:
        print(json.dumps(gallery.report(results), allow_nan=False))
    elif arguments.bugs or arguments.blind is not None:
        if arguments.reveal:
            print(f"Bug {arguments.blind}:\n")
        print("\n\n".join(gallery.format_result(result) for result in results))
    else:
        print(gallery.format_gallery(results))
