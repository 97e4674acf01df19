"""`collectives show`: the exchanges of an algorithm, step by step, as text, pictures and an animation."""

import argparse
import re
from pathlib import Path

from zerosim import formulas
from zerosim.collectives import NOBODY, Exchange, NotForN, Slices
from zerosim.collectives.check import Trace, Wrong, trace
from zerosim.commands.collectives.shared import algorithm_and_verb, checked_ranks
from zerosim.commands.common import ProgressLine
from zerosim.commands.output import agreed_folder, door_of, is_first
from zerosim.errors import InputError
from zerosim.report import console_text
from zerosim.transport import Transport
from zerosim.words import counted

CELLS, WORDS = 12, 9
"""Most ranks for which each rank's slices are printed, and what it sends and receives beside them."""


def run(arguments: argparse.Namespace, transport: Transport | None) -> int:
    """Print and draw the exchanges; of a wrong algorithm, those until it goes wrong. Return the exit status."""
    N = checked_ranks(arguments.ranks, 128)
    door = door_of(transport)
    algorithm, verb = door.agreed(algorithm_and_verb, arguments.algorithm, arguments.verb)
    first = is_first(transport)
    agreed_folder(door, arguments.out)
    wrong = None
    try:
        traced = trace(algorithm.generator(verb), verb, N)
    except Wrong as error:
        wrong, traced = error, error.so_far
    except NotForN as error:
        raise InputError(f"{algorithm.name}: {error}") from None
    if first:
        print(_text(traced, algorithm.name + algorithm.whose(verb)))
        if wrong:
            print(console_text(f"\nWRONG: {wrong}.\n"))
        _draw(traced, algorithm.name, arguments.out, str(wrong or ""))
    return int(wrong is not None)


def _draw(traced: Trace, name: str, folder: str, wrong: str) -> None:
    from zerosim import figures

    progress = ProgressLine()
    file = f"{re.sub('[^A-Za-z0-9]+', '-', Path(name).name)}-{traced.verb.replace('_', '-')}-{traced.N}"
    made, left_out = [], []
    try:
        progress.say("drawing the exchanges")
        figures.save(figures.exchanges(traced, name, wrong), folder, file)
        made += [f"{file}.png", f"{file}.svg"]
    except ValueError as error:
        left_out.append(str(error))
    try:
        progress.say("drawing the animation")
        figures.travel(traced, name, Path(folder) / f"{file}.gif")
        made.append(f"{file}.gif")
    except ValueError as error:
        left_out.append(str(error))
    finally:
        progress.done()
    if made:
        print(f"Pictures in {folder}:", *made, sep="\n  ")
    for reason in left_out:
        print(console_text(f"Left out: {reason}."))


def _text(traced: Trace, name: str) -> str:
    """The exchanges as text of at most 80 columns; for many ranks, what rank 0 does."""
    N, rounds = traced.N, traced.rounds
    sent = traced.slices_sent()
    exchanges, share, _ = formulas.lower_bound(traced.verb, N)
    each = f"each rank sends {sent[0]}" if min(sent) == max(sent) else f"ranks send {min(sent)} to {max(sent)}"
    heading = console_text(
        f"{traced.verb} by {name} on {counted(N, 'rank')}: {counted(len(rounds), 'exchange')} (at least "
        f"{exchanges}); {each} slices of 1/{N} of the vector (at least {share * N})."
    )
    if N > CELLS:
        lines = [f"exchange {s:<5} {_words(row[0], N)}"[:80] for s, row in enumerate(rounds)]
        return "\n".join([heading, "", "What rank 0 does:", *lines])
    width = len(str(N)) + 2
    lines = [
        heading,
        "",
        "Cells: how many ranks' contributions a slice holds; [ ]: it has just come.",
        "",
        f"{'slice':<20}" + "".join(f"{number:>{width - 1}} " for number in range(N)).rstrip(),
    ]
    for s, held in enumerate(traced.held):
        for rank in range(N):
            exchange = rounds[s - 1][rank] if s else None
            came = exchange.recv.numbers(N) if exchange and exchange.source != NOBODY else []
            cells = "".join(_cell(held[rank][number].bit_count(), number in came, width) for number in range(N))
            label = "" if rank else f"exchange {s - 1}" if s else "at first"
            words = f"  {_words(exchange, N)}" if exchange and N <= WORDS else ""
            lines.append(f"{label:<12} rank {rank:<2}{cells}{words}".rstrip()[:80])
        lines.append("")
    if len(rounds) == len(traced.held):  # the last one is wrong
        lines += [
            f"{'' if rank else f'exchange {len(rounds) - 1}':<12} rank {rank:<2} {_words(exchange, N)}"[:80]
            for rank, exchange in enumerate(rounds[-1])
        ]
    return "\n".join(lines)


def _cell(count: int, came: bool, width: int) -> str:
    text = str(count) if count else "."
    return f"[{text:>{width - 2}}]" if came else f" {text:>{width - 2}} "


def _words(exchange: Exchange, N: int) -> str:
    words = []
    if exchange.to != NOBODY:
        words.append(f"sends {_set(exchange.send, N)} to {exchange.to}")
    if exchange.source != NOBODY:
        words.append(f"{'adds' if exchange.reduce else 'takes'} {_set(exchange.recv, N)} from {exchange.source}")
    return ", ".join(words) or "waits"


def _set(slices: Slices, N: int) -> str:
    """Slices in few letters: 3, 0-3, 0,2,4."""
    numbers = slices.numbers(N)
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))
