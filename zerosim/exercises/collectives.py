"""Exercises on collectives: write both halves of a ring, say what it costs, and for which sizes it is the fastest."""

from collections.abc import Callable, Iterable
from itertools import islice
from math import inf, isclose, log

import numpy as np

from zerosim import formulas
from zerosim.collectives import NOBODY, Algorithm, Exchange, Generator, check
from zerosim.collectives.moves import span
from zerosim.comm import Comm
from zerosim.exercises.numbers import answer, number
from zerosim.exercises.verdict import Wrong, exercise, in_time, wanted
from zerosim.ledger import Ledger
from zerosim.transport import Transport
from zerosim.transport.threads import run_threads
from zerosim.words import counted

NUMBERS = (4, 2, 3, 5, 6, 7, 8, 1)
"""Of ranks that a ring is tried for: first 4, as in the lesson's pictures."""

ELEMENTS = 5
"""Of a slice, where real numbers travel."""


@exercise
def check_all_gather(all_gather: Generator) -> str:
    """Check a generator of (rank, N) that yields the exchanges of an all_gather on a ring."""
    return _ring(all_gather, "all_gather")


@exercise
def check_reduce_scatter(reduce_scatter: Generator) -> str:
    """Check a generator of (rank, N) that yields the exchanges of a reduce_scatter on a ring."""
    return _ring(reduce_scatter, "reduce_scatter")


def _ring(generator: Generator, verb: str) -> str:
    wanted(generator, "rank", "N")
    for N in NUMBERS:
        try:
            in_time(_prove, generator, verb, N)
        except Wrong as wrong:
            raise Wrong(f"N = {N}: {wrong}") from None
    return (
        f"on 1 to {max(NUMBERS)} ranks, with real numbers too; each sends N - 1 slices, the least there is, and only "
        "to a neighbour"
    )


def _prove(generator: Generator, verb: str, N: int) -> None:
    for rank in range(N):
        exchanges = generator(rank, N)
        if isinstance(exchanges, Exchange) or not isinstance(exchanges, Iterable):
            raise Wrong(
                f"it returns {answer(exchanges)}; it must yield, an Exchange(to=, send=, source=, recv=, reduce=) each "
                "time"
            )
        for _ in islice(exchanges, 64 * N):  # what the reader's lines raise is raised here as it is
            pass
    try:
        run = check.trace(generator, verb, N)
    except check.Wrong as error:
        raise Wrong(f"{error}{_hint(error.so_far) if hasattr(error, 'so_far') else ''}") from None
    sent = run.slices_sent()
    rank = sent.index(max(sent))
    enough = int(formulas.lower_bound(verb, N)[1] * N)
    if sent[rank] > enough:
        raise Wrong(f"right, but rank {rank} sends {counted(sent[rank], 'slice')} where {enough} would do{_waste(run)}")
    for s, row in enumerate(run.rounds):
        for rank, exchange in enumerate(row):
            if exchange.to != NOBODY and (exchange.to - rank) % N not in (1, N - 1):
                raise Wrong(
                    f"right, and no slice too many, but in exchange {s} rank {rank} sends to rank {exchange.to}: on a "
                    f"ring it has links to ranks {(rank - 1) % N} and {(rank + 1) % N} only"
                )
    _with_numbers(generator, verb, N)


def _hint(run: check.Trace) -> str:
    """Say what the reader may have had in mind."""
    own = [e.send.numbers(run.N) == [rank] for row in run.rounds for rank, e in enumerate(row) if e.to != NOBODY]
    if run.verb == "all_gather" and len(run.rounds) > 1 and own and all(own):
        return ". Every rank sends its own slice each time: what came in the exchange before must go on"
    complete = [[i for i in range(run.N) if row[i].bit_count() == run.N] for row in run.held[-1]]
    if run.verb == "reduce_scatter" and all(len(slices) == 1 for slices in complete):
        shifts = {(slices[0] - rank) % run.N for rank, slices in enumerate(complete)}
        if len(shifts) == 1:
            where = ", ".join(f"slice {slices[0]} on rank {rank}" for rank, slices in enumerate(complete))
            return f". All sums are complete, but on the wrong ranks: {where}. Which slice must a rank send first?"
    return ""


def _waste(run: check.Trace) -> str:
    whole = all(e.send.count == run.N for row in run.rounds for e in row if e.to != NOBODY)
    if whole and run.N > 1:
        return f": each message is the whole vector, {run.N} slices"
    return f": there are {counted(len(run.rounds), 'exchange')}" if len(run.rounds) >= run.N else ""


def _with_numbers(generator: Generator, verb: str, N: int) -> None:
    """Let in-process ranks move real numbers by it, through the door that counts."""
    algorithm, n = Algorithm("yours", {verb: generator}, proven=False), ELEMENTS * N
    whole = np.arange(n, dtype=np.float32)

    def run(comm: Transport) -> tuple[np.ndarray, int]:
        door, own = Comm(comm, Ledger(), algorithm), span(comm.rank, 1, N, n)
        vector = np.full_like(whole, -1)
        vector[own] = whole[own]
        if verb == "all_gather":
            door.all_gather(vector)
            return vector - whole, door.sent[verb]
        vector[:] = whole * (comm.rank + 1)
        door.reduce_scatter(vector)
        return vector[own] - whole[own] * sum(range(1, N + 1)), door.sent[verb]

    for rank, (difference, sent) in enumerate(run_threads(N, run)):
        if difference.any() or sent != (N - 1) * ELEMENTS * whole.itemsize:
            raise Wrong(
                f"the exchanges were right, but when numbers travelled, rank {rank} had sent {sent} bytes and "
                f"ended with {np.count_nonzero(difference)} wrong ones: does the function remember an earlier call?"
            )


# what it costs -------------------------------------------------------------------------------------------------------


@exercise
def check_ring_cost(seconds: Callable[[int, float, float, float, float], float]) -> str:
    """Check the time of a ring's all_reduce as a function of (N, n, alpha, beta, gamma), n in bytes."""
    wanted(seconds, "N", "n", "alpha", "beta", "gamma")
    for N in (4, 2, 3, 8, 64, 1024):
        _coefficients(seconds, N)
        for n, alpha, beta, gamma in ((1e3, 20e-6, 8e-10, 1e-10), (1e9, 3e-6, 1e-11, 2e-12)):
            said = number(in_time(seconds, N, n, alpha, beta, gamma), f"N = {N}, n = {n:g}")
            right = formulas.collective_seconds("all_reduce", "ring", N, n, alpha, beta, gamma)
            if not isclose(said, right, rel_tol=1e-9):
                raise Wrong(
                    f"N = {N}, n = {n:g}: each term is right alone, but all together they are {said:g} s and must be "
                    f"{right:g} s: they are added, for a rank sends, then adds, then sends again"
                )
    return "alpha, beta and gamma, for 2 to 1024 ranks, as the formula has them"


def _coefficients(seconds: Callable[..., float], N: int) -> None:
    """Ask for one term at a time: with alpha = 1 s and the others 0, say."""
    n = 8e6
    terms = ("alpha", 1.0), ("n beta", n), ("n gamma", n)
    both, half = (formulas.coefficients(verb, "ring", N) for verb in ("all_reduce", "reduce_scatter"))
    for i, (term, unit) in enumerate(terms):
        said = number(in_time(seconds, N, n, *(float(i == j) for j in range(3))), f"N = {N}, n = {n:g}") / unit
        right = float(both[i])
        if isclose(said, right, rel_tol=1e-9):
            continue
        known = [
            (float(half[i]), "that is the reduce_scatter; the all_gather after it takes as much again"),
            (0.0, "this term is missing"),
            (right * N / (N - 1), "a rank's own slice stays where it is: N - 1 of N go, not N"),
        ]
        if i > 0:
            known += [
                (right * N, "that is a whole vector in each message; a slice is n / N"),
                (
                    right / n,
                    "that does not grow with n: a message of n bytes takes n beta, n bytes are added in n gamma",
                ),
                (
                    2 * right,
                    "the second half, all_gather, copies and adds nothing" if i == 2 else "that is twice as much",
                ),
            ]
        else:
            known += [(right * n, "latency does not grow with n"), (1.0, "each exchange waits for the one before it")]
        why = next((f": {words}" for value, words in known if isclose(said, value, rel_tol=1e-9)), "")
        raise Wrong(f"N = {N}: {said:.4g} times {term}, and it is {both[i]} = {right:.4g} times{why}")


@exercise
def check_crossover(size: Callable[[int, float, float], float]) -> str:
    """Check the bytes, as a function of (N, alpha, beta), from which on a ring is faster than recursive doubling.

    For all_reduce, N a power of two from 4 on, and sums that take no time.
    """
    wanted(size, "N", "alpha", "beta")
    for N in (4, 8, 64, 1024):
        for alpha, beta in ((20e-6, 8e-10), (3e-6, 3e-12)):
            where = f"N = {N}, alpha = {alpha:g}, beta = {beta:g}"
            n = number(in_time(size, N, alpha, beta), where)
            if not abs(n - _meet(*_terms(N), alpha, beta)) <= 1:
                raise Wrong(f"{where}: {_not_there(N, alpha, beta, n)}")
    return "at your size both take the same time, to within a byte, for 4 to 1024 ranks on two networks"


def _not_there(N: int, alpha: float, beta: float, n: float) -> str:
    messages, share, lg = _terms(N)
    known = [
        (_meet(messages, share, log(N), alpha, beta), "lg is the logarithm to base 2"),
        (_meet(messages / 2, share / 2, lg, alpha, beta), "that is the ring's reduce_scatter alone"),
        (_meet(messages, share, 2 * lg, alpha, beta), "doubling needs no second half: its sums are everywhere already"),
        (_meet(messages, share, lg, alpha, 1 / beta), "beta is in seconds per byte, not bytes per second"),
    ]
    for value, words in known:
        if isclose(n, value, rel_tol=1e-9, abs_tol=float(abs(value) > 100)):
            return f"you say {n:,.6g} bytes: {words}"
    if not 0 < n < inf:
        return f"you say {n:g} bytes, and a vector has some. Which has fewer messages, which fewer bytes?"
    ring, doubling = (
        formulas.collective_seconds("all_reduce", name, N, n, alpha, beta) for name in ("ring", "doubling")
    )
    ahead = "ring" if ring < doubling else "doubling"
    return f"at your {n:,.6g} bytes the ring takes {ring:.4g} s and doubling {doubling:.4g} s: {ahead} is ahead there"


def _terms(N: int) -> tuple[float, float, float]:
    """A ring's messages and its share of n, and how many vectors doubling sends, each in a message."""
    (messages, share, _), (lg, _, _) = (formulas.coefficients("all_reduce", name, N) for name in ("ring", "doubling"))
    return float(messages), float(share), float(lg)


def _meet(messages: float, share: float, lg: float, alpha: float, beta: float) -> float:
    """Where messages alpha + share n beta is lg (alpha + n beta)."""
    return (messages - lg) * alpha / ((lg - share) * beta) if lg != share else 0.0
