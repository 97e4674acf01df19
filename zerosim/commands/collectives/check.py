"""`collectives check`: an algorithm proved without data, for each number of ranks."""

import argparse
from fractions import Fraction

from zerosim import formulas
from zerosim.collectives import Algorithm, NotForN
from zerosim.collectives.check import Wrong, trace
from zerosim.commands.collectives.shared import algorithm_and_verb, checked_ranks
from zerosim.commands.output import door_of, is_first
from zerosim.errors import InputError
from zerosim.report import console_text
from zerosim.transport import Transport
from zerosim.words import counted


def run(arguments: argparse.Namespace, transport: Transport | None) -> int:
    """Print what is right and what is wrong, and return the exit status: 1 if anything is wrong."""
    numbers = [*range(2, 34), 1] if arguments.ranks is None else [checked_ranks(arguments.ranks, 128)]
    door = door_of(transport)
    algorithm, verb = door.agreed(algorithm_and_verb, arguments.algorithm, arguments.verb)
    first = is_first(transport)
    status = 0
    for each in [verb] if arguments.verb else algorithm.own:
        text, wrong = _proof(algorithm, each, numbers)
        status |= wrong
        if wrong and not arguments.verb and not algorithm.proven and each not in algorithm.name:
            text += f" It was taken for {_article(each)} by what it does; --verb says what it is meant to be."
        if first:
            print(console_text(f"{each} by {algorithm.name}{algorithm.whose(each)}: {text}"))
    return status


def _proof(algorithm: Algorithm, verb: str, numbers: list[int]) -> tuple[str, bool]:
    """Return what is to be said of an algorithm, and whether it is wrong."""
    right, refused, worst = [], {}, Fraction(0)
    for N in numbers:
        try:
            run = trace(algorithm.generator(verb), verb, N)
        except Wrong as error:
            return f"WRONG for {counted(N, 'rank')}: {error}.", True
        except NotForN as error:
            refused[N] = str(error)
            continue
        right.append(N)
        if N > 1:
            worst = max(worst, Fraction(max(run.slices_sent()), N) / formulas.lower_bound(verb, N)[1])
    if not right:
        raise InputError(f"{algorithm.name}: {next(iter(refused.values()))}")
    slices = "slice r on rank r" if verb == "reduce_scatter" else "every slice on every rank"
    text = f"right for N = {_numbers(sorted(right))}: {slices} holds each rank's contribution exactly once."
    if worst:
        bytes_ = (
            "the fewest bytes possible" if worst == 1 else f"up to {float(worst):.3g} times the fewest bytes possible"
        )
        text += f" The busiest rank sends {bytes_}."
    if refused:
        text += f" Not for N = {_numbers(list(refused))}: {next(iter(refused.values()))}."
    return text, False


def _article(verb: str) -> str:
    return f"{'a' if verb.startswith('r') else 'an'} {verb}"


def _numbers(numbers: list[int]) -> str:
    """1, 2, 3, 4, 7 as "1-4, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
