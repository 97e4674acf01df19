"""The exercises on collectives: right solutions, written in different ways, and the mistakes that are likely."""

import math
import re

import pytest

from zerosim import formulas
from zerosim.collectives import NOBODY, Exchange, Slices, pairwise, ring
from zerosim.exercises import check_all_gather, check_crossover, check_reduce_scatter, check_ring_cost


def ring_like(verb, steps=lambda N: N - 1, **changes):
    """The ring's exchanges with something changed: fields as functions of (rank, N, s)."""

    def generator(rank, N):
        for s in range(steps(N)):
            first = rank if verb == "all_gather" else rank - 1
            fields = {
                "to": (rank + 1) % N,
                "send": (first - s) % N,
                "source": (rank - 1) % N,
                "recv": (first - 1 - s) % N,
                "reduce": verb == "reduce_scatter",
            }
            yield Exchange(**fields | {name: change(rank, N, s) for name, change in changes.items()})

    return generator


def to_the_left(verb):
    def generator(rank, N):
        for s in range(1, N):
            right, left = (rank + 1) % N, (rank - 1) % N
            if verb == "all_gather":
                yield Exchange(left, (rank + s - 1) % N, right, (rank + s) % N)
            else:
                yield Exchange(left, (rank + s) % N, right, (rank + 1 + s) % N, True)

    return generator


def one_rank_only(rank, N):
    """With an if on the rank, whole sets of slices, and an exchange in which nothing happens."""
    if N > 1:
        yield from (Exchange(e.to, Slices(e.send, 1), e.source, e.recv, 0) for e in ring.all_gather(rank, N))
    yield Exchange()


@pytest.mark.parametrize("solution", [ring_like("all_gather"), to_the_left("all_gather"), one_rank_only])
def test_all_gather_is_right(solution):
    assert check_all_gather(solution), repr(check_all_gather(solution))


@pytest.mark.parametrize("solution", [ring_like("reduce_scatter"), to_the_left("reduce_scatter")])
def test_reduce_scatter_is_right(solution):
    assert check_reduce_scatter(solution), repr(check_reduce_scatter(solution))


def everything_each_time(rank, N):
    for _ in range(N - 1):
        yield Exchange((rank + 1) % N, Slices(0, N), (rank - 1) % N, Slices(0, N))


def all_to_one(rank, N):
    for s in range(1, N):
        yield Exchange((rank + s) % N, rank, (rank - s) % N, (rank - s) % N)


def no_exchange(rank, N): ...


def divides(rank, N):
    yield Exchange((rank + 1) // (N - 4), 0, 0, 0)


def of_one_argument(rank):
    yield Exchange()


def for_ever(rank, N):
    while rank < N:
        rank -= 1
        yield Exchange()


calls = []


def with_a_memory(rank, N):
    """Right when it is looked at, and one slice short when numbers travel."""
    calls.append(rank)
    yield from list(ring.all_gather(rank, N))[: N - 1 if len(calls) <= 8 else 1]


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (
            ring_like("all_gather", send=lambda rank, N, s: (rank + 1 - s) % N),
            "exchange 0: rank 3 sends slice 0 to rank 0",
        ),
        (
            ring_like("all_gather", send=lambda rank, N, s: (rank + s) % N, recv=lambda rank, N, s: (rank - 1 + s) % N),
            "exchange 1: slice 0 comes from rank 3 to rank 0, but rank 3 has nothing of it yet",
        ),
        (
            ring_like("all_gather", send=lambda rank, N, s: rank, recv=lambda rank, N, s: (rank - 1) % N),
            r"slice 1 on rank 0 is not there; .*what came in the exchange before must go on",
        ),
        (ring_like("all_gather", lambda N: N - 2), r"at the end \(2 exchanges\) slice 1 on rank 0 is not there"),
        (
            ring_like("all_gather", lambda N: N),
            "right, but rank 0 sends 4 slices where 3 would do: there are 4 exchanges",
        ),
        (ring_like("all_gather", reduce=lambda rank, N, s: True), "to be added, but there is nothing of it here yet"),
        (everything_each_time, "rank 3 has nothing of it yet"),
        (all_to_one, r"no slice too many, but in exchange 1 rank 0 sends to rank 2: .*ranks 3 and 1 only"),
        (
            ring_like("all_gather", source=lambda rank, N, s: (rank + 1) % N),
            "rank 0 sends to rank 1, which waits for rank 2",
        ),
        (no_exchange, r"N = 4: it returns nothing \(None\); it must yield, an Exchange"),
        (lambda rank, N: Exchange(1, 0, 1, 1), r"N = 4: it returns Exchange\(to=1, .*; it must yield, an Exchange"),
        (divides, r"ZeroDivisionError: .*, in line \d+ of yours: yield Exchange"),
        (of_one_argument, r"of_one_argument\(rank\) must take \(rank, N\)"),
        (for_ever, "more than 256 exchanges; does the loop end"),
        (with_a_memory, "does the function remember an earlier call"),
    ],
)
def test_all_gather_is_wrong(solution, says):
    verdict = check_all_gather(solution)
    assert not verdict
    assert re.search(says, repr(verdict))


def all_reduce(rank, N):
    yield from ring.reduce_scatter(rank, N)
    yield from ring.all_gather(rank, N)


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (
            ring_like(
                "reduce_scatter", send=lambda rank, N, s: (rank - s) % N, recv=lambda rank, N, s: (rank - 1 - s) % N
            ),
            "All sums are complete, but on the wrong ranks: slice 1 on rank 0, slice 2 on rank 1",
        ),
        (ring_like("reduce_scatter", reduce=lambda rank, N, s: False), "rank 0's contribution is lost"),
        (
            ring_like("reduce_scatter", lambda N: N - 2),
            "slice 0 on rank 0 lacks the contribution of ranks 1, 2, 3; that slice never came",
        ),
        (ring_like("reduce_scatter", lambda N: N), "which is already in it: it counts twice"),
        (all_reduce, "right, but rank 0 sends 6 slices where 3 would do: there are 6 exchanges"),
        (pairwise.reduce_scatter, "on a ring it has links to ranks 3 and 1 only"),
        (lambda rank, N: iter([Exchange(NOBODY)]), "slice 0 on rank 0 lacks the contribution of ranks 1, 2, 3"),
    ],
)
def test_reduce_scatter_is_wrong(solution, says):
    verdict = check_reduce_scatter(solution)
    assert not verdict
    assert says in repr(verdict)


def seconds(N, n, alpha, beta, gamma):
    return 2 * (N - 1) * (alpha + n / N * beta) + (N - 1) * n * gamma / N


def test_ring_cost_is_right():
    assert check_ring_cost(seconds)
    assert check_ring_cost(
        lambda *a: sum(formulas.collective_seconds(v, "ring", *a) for v in ("reduce_scatter", "all_gather"))
    )


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (
            lambda N, n, a, b, g: (N - 1) * (a + n / N * (b + g)),
            "3 times alpha, and it is 6 = 6 times: that is the reduce_scatter",
        ),
        (lambda N, n, a, b, g: 2 * (N - 1) * (a + n * b) + n * g, "a whole vector in each message; a slice is n / N"),
        (lambda N, n, a, b, g: 2 * (N - 1) * (a + n / N * (b + g)), "all_gather, copies and adds nothing"),
        (lambda N, n, a, b, g: 2 * N * (a + n / N * b) + n * g, "a rank's own slice stays where it is"),
        (lambda N, n, a, b, g: a + 2 * (N - 1) / N * n * (b + g), "each exchange waits for the one before it"),
        (
            lambda N, n, a, b, g: 2 * (N - 1) * (a + n / N * b),
            "0 times n gamma, and it is 3/4 = 0.75 times: this term is missing",
        ),
        (lambda N, n, a, b, g: 2 * (N - 1) * max(a, n / N * b, n / N * g / 2), "they are added"),
        (lambda N, n, a, b, g: None, "it returns nothing (None), and must return a number"),
        (lambda *given: str(seconds(*given)), "it returns '6.0', and must return a number"),
    ],
)
def test_ring_cost_is_wrong(solution, says):
    assert says in repr(check_ring_cost(solution))


def crossing(N, alpha, beta, lg=math.log2, share=1.0):
    messages, doublings = 2 * share * (N - 1), lg(N)
    return (messages - doublings) * alpha / ((doublings - messages / N) * beta)


def by_halves(N, alpha, beta):
    """Search for it."""
    low, high = 0.0, 1e12

    def ahead(n):
        ring, doubling = (
            formulas.collective_seconds("all_reduce", name, N, n, alpha, beta) for name in ("ring", "doubling")
        )
        return doubling - ring

    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if ahead(middle) > 0 else (middle, high)
    return high


def test_crossover_is_right():
    assert check_crossover(crossing)
    assert check_crossover(by_halves)
    assert check_crossover(lambda *given: math.ceil(crossing(*given)))
    assert check_crossover(lambda *given: int(crossing(*given)))


@pytest.mark.parametrize(
    ("solution", "says"),
    [
        (lambda N, a, b: crossing(N, a, b, lg=math.log), "lg is the logarithm to base 2"),
        (lambda N, a, b: crossing(N, a, b, share=0.5), "that is the ring's reduce_scatter alone"),
        (lambda N, a, b: crossing(N, a, 1 / b), "seconds per byte, not bytes per second"),
        (lambda N, a, b: -crossing(N, a, b), "bytes, and a vector has some. Which has fewer messages"),
        (lambda N, a, b: math.inf, "you say inf bytes, and a vector has some"),
        (lambda N, a, b: 1e308, "at your 1e+308 bytes the ring takes"),
        (lambda N, a, b: crossing(N, a, b) + 2, "at your 200,002 bytes the ring takes"),
        (lambda N, a, b: str(crossing(N, a, b)), "and must return a number"),
        (lambda N, a, b: 10 * crossing(N, a, b), "s: ring is ahead there"),
        (lambda N, a, b: crossing(N, a, b) / 3, "s: doubling is ahead there"),
    ],
)
def test_crossover_is_wrong(solution, says):
    assert says in repr(check_crossover(solution))
