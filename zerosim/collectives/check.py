"""An algorithm proved without data: who holds whose contribution to which slice, exchange after exchange.

What a rank holds of a slice is a set of contributors. A sum unites two sets that must have nothing in common, or a
contribution would count twice. At the end each slice that the verb promises must hold every rank's contribution. The
first exchange that breaks a rule is named, with the rank and the slice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from zerosim.collectives.exchange import NOBODY, Exchange, Generator, NotForN, Slices, as_slices
from zerosim.words import counted

_PACKAGE = str(Path(__file__).parent)

Held = list[list[int]]
"""held[rank][slice]: the contributors to what the rank holds of the slice, as the bits of a whole number."""


class Wrong(ValueError):
    """An algorithm breaks a rule: at which exchange (from 0), on which rank, which slice."""

    so_far: "Trace"
    """The run until then, the wrong exchange included; set by `trace`."""


@dataclass(frozen=True)
class Trace:
    """A whole run of an algorithm without data: `held[s]` before exchange s, `rounds[s][rank]` the exchange itself.

    `held` has one more entry than `rounds`, what is held at the end; but for a run that stopped at a wrong exchange.
    """

    verb: str
    N: int
    rounds: list[list[Exchange]]
    held: list[Held]

    def slices_sent(self) -> list[int]:
        """Return how many slices each rank sends in all."""
        return [sum(row[r].send.count for row in self.rounds if row[r].to != NOBODY) for r in range(self.N)]


def trace(generator: Generator, verb: str, N: int) -> Trace:
    """Run an algorithm for `verb` on N ranks without data. Raises Wrong if it breaks a rule or ends short.

    Raises NotForN, with the algorithm's own reason, if it is not for N ranks.
    """
    so_far = Trace(verb, N, [], [_at_first(verb, N)])
    try:
        rounds = _rounds(generator, N)
        for s, exchanges in enumerate(rounds):
            so_far.rounds.append(exchanges)
            for rank, exchange in enumerate(exchanges):
                _check_pair(s, rank, exchange, exchanges, N)
            so_far.held.append(_after(s, exchanges, so_far.held[-1], N))
        _check_end(verb, N, so_far.held[-1], rounds)
    except Wrong as error:
        error.so_far = so_far
        raise
    return so_far


def all_ranks(generator: Generator, N: int) -> Iterator[Exchange]:
    """Yield the exchanges of all N ranks at once, each field an array with a number per rank or one number for all.

    An algorithm that takes one rank only (it has an `if` on the rank, say) is asked rank by rank. Raises NotForN,
    with the algorithm's own reason, if it is not for N ranks.
    """
    done = 0
    try:
        for exchange in generator(np.arange(N), N):
            yield exchange
            done += 1
        return
    except NotForN:
        raise
    except (TypeError, ValueError, IndexError):
        pass
    by_rank = zip(*(generator(rank, N) for rank in range(N)), strict=True)
    for exchanges in islice(by_rank, done, None):
        yield _stack(exchanges)


def _stack(exchanges: tuple[Exchange, ...]) -> Exchange:
    send, recv = ([as_slices(getattr(e, field)) for e in exchanges] for field in ("send", "recv"))
    columns = [
        Slices(*(np.array([int(part) for part in parts]) for parts in zip(*sets, strict=True))) for sets in (send, recv)
    ]
    to, source = (np.array([int(getattr(e, field)) for e in exchanges]) for field in ("to", "source"))
    return Exchange(to, columns[0], source, columns[1], np.array([bool(e.reduce) for e in exchanges]))


def verb_of(generator: Generator) -> str:
    """Return the verb that an algorithm is for, by what it does on a few ranks; the likeliest if it is wrong."""
    for N in (4, 2, 3, 8, 6):
        try:
            rounds = _rounds(generator, N)
        except ValueError:
            continue
        if not any(e.reduce for exchanges in rounds for e in exchanges):
            return "all_gather"
        for verb in ("all_reduce", "reduce_scatter"):
            try:
                trace(generator, verb, N)
            except ValueError:
                continue
            return verb
        return "reduce_scatter" if all(e.reduce for exchanges in rounds for e in exchanges) else "all_reduce"
    return "reduce_scatter"


# the rules -----------------------------------------------------------------------------------------------------------


def _rounds(generator: Generator, N: int) -> list[list[Exchange]]:
    """Ask for the exchanges rank by rank, as plain numbers, and return them exchange by exchange."""
    columns = [_column(generator, rank, N) for rank in range(N)]
    rounds = []
    for s, exchanges in enumerate(zip_longest(*columns)):
        if None in exchanges:
            short = exchanges.index(None)
            raise Wrong(
                f"rank {short} has {counted(s, 'exchange')}, others have more: all ranks must have equally many, and "
                "one that has nothing to do yields Exchange()"
            )
        rounds.append(list(exchanges))
    return rounds


def _column(generator: Generator, rank: int, N: int) -> list[Exchange]:
    exchanges = []
    try:
        for s, exchange in enumerate(generator(rank, N)):
            if s > 64 * N:
                raise Wrong(f"rank {rank}: more than {64 * N} exchanges; does the loop end")
            exchanges.append(_plain(s, rank, exchange, N))
    except (NotForN, Wrong):
        raise
    except (Exception, SystemExit) as error:
        raise Wrong(f"rank {rank} of {N}: {describe(error)}") from None
    return exchanges


def describe(error: BaseException) -> str:
    """Return what went wrong in a reader's file, and where: "ZeroDivisionError: division by zero (mine.py, line 7)"."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    if isinstance(error, TypeError) and "positional argument" in text:
        text += "; it must be a function of (rank, N)"
    if isinstance(error, TypeError) and "not iterable" in text:
        text += "; it returns no exchanges: is there a yield"
    path, line = getattr(error, "filename", None), getattr(error, "lineno", None)
    step = error.__traceback__
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            path, line = step.tb_frame.f_code.co_filename, step.tb_lineno
        step = step.tb_next
    return f"{text} ({path}, line {line})" if path and line else text


def _plain(s: int, rank: int, exchange: Any, N: int) -> Exchange:
    """Return an exchange in whole numbers. Raises Wrong for what is none, or out of range."""
    at = f"exchange {s}, rank {rank}"
    if not isinstance(exchange, Exchange):
        raise Wrong(f"{at}: {exchange!r} was yielded, which is no Exchange")
    partners = []
    for what in ("to", "source"):
        partner = _whole(at, what, getattr(exchange, what))
        if not NOBODY <= partner < N or partner == rank:
            raise Wrong(f"{at}: {what} is {partner}; it must be another of the {N} ranks, from 0 on, or NOBODY")
        partners.append(partner)
    sets = []
    for what, partner in zip(("send", "recv"), partners, strict=True):
        if partner == NOBODY:
            sets.append(Slices(0, 0))
            continue
        slices = as_slices(getattr(exchange, what))
        start, count, stride = (_whole(at, what, part) for part in slices)
        if not 0 <= start < N:
            raise Wrong(f"{at}: {what} is slice {start}; slices are numbered 0 to {N - 1}")
        if not 1 <= count <= N or len(set(Slices(start, count, stride).numbers(N))) < count:
            raise Wrong(
                f"{at}: {what} is {count} slices from {start} in strides of {stride}; 1 to {N} different ones can be"
            )
        sets.append(Slices(start, count, stride))
    return Exchange(partners[0], sets[0], partners[1], sets[1], bool(exchange.reduce))


def _whole(at: str, what: str, value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu":
            return int(value)
        raise Wrong(f"{at}: {what} is {value!r}; it must be a whole number") from None


def _check_pair(s: int, rank: int, e: Exchange, exchanges: list[Exchange], N: int) -> None:
    """What a rank sends must be what its partner waits for, and the other way round; or both wait for ever."""
    if e.to != NOBODY and exchanges[e.to].source != rank:
        raise Wrong(f"exchange {s}: rank {rank} sends to rank {e.to}, which waits for {_name(exchanges[e.to].source)}")
    if e.source == NOBODY:
        return
    other = exchanges[e.source]
    if other.to != rank:
        raise Wrong(f"exchange {s}: rank {rank} waits for rank {e.source}, which sends to {_name(other.to)}")
    sent, expected = other.send.numbers(N), e.recv.numbers(N)
    if sent != expected:
        raise Wrong(
            f"exchange {s}: rank {e.source} sends {_slices(sent)} to rank {rank}, "
            f"which takes it for {_slices(expected)}"
        )
    if other.reduce != e.reduce:
        raise Wrong(f"exchange {s}: rank {rank} has reduce={e.reduce}, rank {e.source} has reduce={other.reduce}")


def _after(s: int, exchanges: list[Exchange], before: Held, N: int) -> Held:
    after = [list(row) for row in before]
    for rank, e in enumerate(exchanges):
        for number in e.recv.numbers(N) if e.source != NOBODY else ():
            here, comes = before[rank][number], before[e.source][number]
            at = f"exchange {s}: slice {number} comes from rank {e.source} to rank {rank}"
            if not comes:
                raise Wrong(f"{at}, but rank {e.source} has nothing of it yet")
            if e.reduce and not here:
                raise Wrong(f"{at} to be added, but there is nothing of it here yet")
            if e.reduce and here & comes:
                raise Wrong(f"{at} with {_ranks(here & comes)}'s contribution, which is already in it: it counts twice")
            if not e.reduce and here & ~comes:
                raise Wrong(
                    f"{at} and takes the place of what is here, so {_ranks(here & ~comes)}'s contribution is lost"
                )
            after[rank][number] = here | comes if e.reduce else comes
    return after


def _at_first(verb: str, N: int) -> Held:
    """all_gather begins with each rank's own slice, complete; the others with a contribution to every slice."""
    if verb == "all_gather":
        return [[(1 << N) - 1 if number == rank else 0 for number in range(N)] for rank in range(N)]
    return [[1 << rank] * N for rank in range(N)]


def _check_end(verb: str, N: int, held: Held, rounds: list[list[Exchange]]) -> None:
    everyone = (1 << N) - 1
    for rank in range(N):
        for number in range(N) if verb != "reduce_scatter" else (rank,):
            have = held[rank][number]
            if have == everyone:
                continue
            last = [
                s for s, row in enumerate(rounds) if row[rank].source != NOBODY and number in row[rank].recv.numbers(N)
            ]
            since = f"last came in exchange {last[-1]}" if last else "never came"
            what = f"lacks the contribution of {_ranks(everyone & ~have)}" if have else "is not there"
            promised = "slice r on rank r" if verb == "reduce_scatter" else "every slice on every rank"
            raise Wrong(
                f"at the end ({counted(len(rounds), 'exchange')}) slice {number} on rank {rank} {what}; that slice "
                f"{since}, and {verb} promises {promised}"
            )


def contributors(mask: int) -> list[int]:
    """Return the ranks in a set of contributors."""
    return [rank for rank in range(mask.bit_length()) if mask >> rank & 1]


def _ranks(mask: int) -> str:
    ranks = contributors(mask)
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _slices(numbers: list[int]) -> str:
    return f"slice {numbers[0]}" if len(numbers) == 1 else f"slices {', '.join(map(str, numbers))}"


def _name(rank: int) -> str:
    return "nobody" if rank == NOBODY else f"rank {rank}"
