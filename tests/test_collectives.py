"""Every collective algorithm: proved without data, run with data, counted, timed on a model, and refused when wrong."""

import dataclasses
import json
import os
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import in_one_job, mpirun, run_zerosim, small_data, train_on
from contract import check
from test_cli import assert_one_line

import zerosim
from zerosim import clock, cluster, comm, formulas, timing
from zerosim.bench.collectives import measure
from zerosim.collectives import ALGORITHMS, NOBODY, VERBS, Exchange, NotForN, Slices, find
from zerosim.collectives.auto import choice
from zerosim.collectives.check import Wrong, all_ranks, contributors, trace, verb_of
from zerosim.collectives.exchange import as_slices
from zerosim.comm import Comm
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.precision import precision

NAMES = [*ALGORITHMS, "hierarchical:1", "hierarchical:2", "hierarchical:3", "hierarchical:4"]
MEETS_THE_BOUND = [name for name in NAMES if name not in ("doubling", "binomial")]


def fits(name, verb, N):
    """Whether an algorithm is for N ranks, by what the table of `collectives list` says."""
    family, _, m = name.partition(":")
    if family == "hierarchical":
        return N % int(m) == 0
    only = formulas.RESTRICTIONS.get((verb, family), "")
    return {"N = 2^k": N & (N - 1) == 0, "N even": N % 2 == 0 or N == 1}.get(only, True)


def usable(name, N):
    """Whether all verbs are for N ranks."""
    return all(fits(name, verb, N) for verb in VERBS)


# without data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_contribution_exactly_once(name):
    """For N up to 33; and each algorithm is refused for exactly those N that the table says."""
    algorithm = find(name)
    for verb in algorithm.own.keys() | {"all_reduce"}:
        for N in range(1, 34):
            if fits(name, verb, N):
                end = trace(algorithm.generator(verb), verb, N).held[-1]
                promised = [(r, s) for r in range(N) for s in range(N) if verb != "reduce_scatter" or r == s]
                assert all(contributors(end[r][s]) == list(range(N)) for r, s in promised)
            else:
                with pytest.raises(NotForN, match=r"needs|not filled"):
                    trace(algorithm.generator(verb), verb, N)


@pytest.mark.parametrize("name", NAMES)
def test_one_rank_and_all_ranks_at_once_are_the_same_lines(name):
    algorithm = find(name)
    for N in (n for n in range(1, 18) if usable(name, n)):
        for verb in VERBS:
            at_once = list(all_ranks(algorithm.generator(verb), N))
            for rank in range(N):
                alone = list(algorithm.exchanges(verb, rank, N))
                assert len(alone) == len(at_once)
                for one, every in zip(alone, at_once, strict=True):
                    assert (int(one.to), int(one.source), one.reduce) == (
                        np.broadcast_to(every.to, N)[rank],
                        np.broadcast_to(every.source, N)[rank],
                        every.reduce,
                    )
                    for mine, theirs in ((one.send, every.send), (one.recv, every.recv)):
                        expected = [int(np.broadcast_to(part, N)[rank]) for part in as_slices(theirs)]
                        assert [int(part) for part in as_slices(mine)] == expected


def test_an_algorithm_for_one_rank_at_a_time_is_asked_rank_by_rank():
    def star(rank, N):
        """All send to rank 0, one after the other; written with an `if`."""
        whole = Slices(0, N)
        for other in range(1, N):
            if rank == 0:
                yield Exchange(NOBODY, whole, other, whole, True)
            else:
                yield Exchange(to=0, send=whole, reduce=True) if rank == other else Exchange()

    exchanges = list(all_ranks(star, 5))
    assert [int(e.source[0]) for e in exchanges] == [1, 2, 3, 4]
    assert [e.to.tolist() for e in exchanges][1] == [NOBODY, NOBODY, 0, NOBODY, NOBODY]
    (seconds,) = clock.seconds(iter(exchanges), 5, DYADIC, np.array([2.0**33]))
    assert seconds == 4 * (2**-17 + 1 + 0.25), "rank 0 takes four vectors, one after the other, and adds each"


@pytest.mark.parametrize("name", NAMES)
def test_the_verb_is_seen_from_what_is_done(name):
    for verb, generator in find(name).own.items():
        assert verb_of(generator) == verb or name == "hierarchical:1"


def ring_with(**wrong):
    """The ring's reduce_scatter, with some fields of its exchanges replaced by functions of (rank, N, s)."""

    def generator(rank, N):
        for s in range(N - 1):
            right = Exchange((rank + 1) % N, (rank - 1 - s) % N, (rank - 1) % N, (rank - 2 - s) % N, True)
            yield right._replace(**{field: value(rank, N, s) for field, value in wrong.items()})

    return generator


def short(rank, N):
    yield from list(ring_with()(rank, N))[:-1]


def uneven(rank, N):
    yield from list(ring_with()(rank, N))[: N - 1 - (rank == 2)]


def around_again(rank, N):
    yield from ring_with()(rank, N)
    yield Exchange((rank + 1) % N, rank, (rank - 1) % N, (rank - 1) % N, True)


def leaves(rank, N):
    yield from ring_with()(rank, N)
    raise SystemExit(0)


def too_late(rank, N):
    yield from ring_with()(rank, N)
    int("abc")


def takes_rank_alone(rank):
    yield Exchange()


def without_yield(rank, N):
    return None


def endless(rank, N):
    while True:
        yield Exchange((rank + 1) % N, rank, (rank - 1) % N, (rank - 1) % N, False)


def no_exchange(rank, N):
    yield rank


@pytest.mark.parametrize(
    ("generator", "verb", "words"),
    [
        (
            ring_with(recv=lambda r, N, s: (r - 1 - s) % N),
            "reduce_scatter",
            "exchange 0: rank 3 sends slice 2 to rank 0, ",
        ),
        (
            ring_with(to=lambda r, N, s: (r + 2) % N),
            "reduce_scatter",
            "exchange 0: rank 0 sends to rank 2, which waits",
        ),
        (
            ring_with(source=lambda r, N, s: NOBODY if (r, s) == (1, 2) else (r - 1) % N),
            "reduce_scatter",
            "exchange 2: rank 0 sends to rank 1, which waits for nobody",
        ),
        (ring_with(to=lambda r, N, s: r + 1), "reduce_scatter", "exchange 0, rank 3: to is 4"),
        (ring_with(to=lambda r, N, s: r), "reduce_scatter", "exchange 0, rank 0: to is 0"),
        (ring_with(send=lambda r, N, s: r - 1 - s), "reduce_scatter", "exchange 0, rank 0: send is slice -1"),
        (ring_with(send=lambda r, N, s: 0.5), "reduce_scatter", "send is 0.5; it must be a whole number"),
        (ring_with(send=lambda r, N, s: Slices(0, 9)), "reduce_scatter", "9 slices"),
        (ring_with(send=lambda r, N, s: Slices(0, 3, 2)), "reduce_scatter", "in strides of 2"),
        (ring_with(send=lambda r, N, s: 1 // 0), "reduce_scatter", "ZeroDivisionError"),
        (ring_with(reduce=lambda r, N, s: r != 1), "reduce_scatter", "reduce=False"),
        (ring_with(reduce=lambda r, N, s: s != 1), "reduce_scatter", "exchange 1: .*rank 0's contribution is lost"),
        (ring_with(), "all_reduce", "slice 1 on rank 0 lacks the contribution of ranks 1, 2, 3|lacks the contribution"),
        (
            ring_with(),
            "all_gather",
            "exchange 0: slice 2 comes from rank 3 to rank 0, but rank 3 has nothing of it yet",
        ),
        (short, "reduce_scatter", "slice 0 on rank 0 lacks the contribution of rank 1; that slice last|lacks the"),
        (uneven, "reduce_scatter", r"rank 2 has 2 exchanges, others have more: .* yields Exchange\(\)"),
        (around_again, "reduce_scatter", "exchange 3: .* it counts twice"),
        (endless, "all_gather", "does the loop end"),
        (leaves, "reduce_scatter", r"SystemExit: 0 \(.*test_collectives.py, line"),
        (too_late, "reduce_scatter", r"ValueError: invalid literal .* \(.*test_collectives.py, line"),
        (takes_rank_alone, "all_gather", "must be a function of .rank, N."),
        (without_yield, "all_gather", "is there a yield"),
        (no_exchange, "all_gather", "which is no Exchange"),
    ],
)
def test_a_wrong_algorithm_is_told_where(generator, verb, words):
    with pytest.raises(Wrong, match=words) as caught:
        trace(generator, verb, 4)
    so_far = caught.value.so_far
    assert len(so_far.held) in (len(so_far.rounds), len(so_far.rounds) + 1)


# with data -----------------------------------------------------------------------------------------------------------


def cut(elements, shares, rank):
    """Where a rank's slice lies."""
    before = sum(shares[:rank])
    return slice(elements * before // sum(shares), elements * (before + shares[rank]) // sum(shares))


def run_verbs(transport, name, elements, dtype, seed=0, shares=None):
    """Return what a rank has after each verb, from random numbers; and what was sent, by verb."""
    door = Comm(transport, Ledger(), name, shares)
    N, rank = door.size, door.rank
    mine = np.random.default_rng([seed, rank]).standard_normal(elements).astype(dtype)
    reduced, gathered, summed = mine.copy(), np.zeros_like(mine), mine.copy()
    own = cut(elements, shares or [1] * N, rank)
    door.reduce_scatter(reduced)
    out = np.full_like(mine[own], 9)
    Comm(transport, Ledger(), name, shares).reduce_scatter(mine.copy(), out=out)
    np.testing.assert_array_equal(out.view(np.uint8), reduced[own].view(np.uint8))
    gathered[own] = mine[own]
    door.all_gather(gathered)
    door.all_reduce(summed)
    assert not any(door._ledger.now.values()), "no scratch is left"
    return mine, reduced[own], gathered, summed, dict(door.sent), door.received, sum(door.sent.values())


@pytest.mark.parametrize(
    ("N", "dtype"),
    [(N, dtype) for N in range(1, 18) for dtype in ("fp32", "fp16", "bf16", "fp64") if N <= 8 or dtype == "fp32"],
)
def test_right_sums(N, dtype):
    """Of whole slices, uneven ones, one element in all, and none: right, and the same bits on every rank and verb."""
    dtype = precision(dtype).dtype
    tolerance = {2: 0.05 if dtype != np.float16 else 5e-3, 4: 1e-6, 8: 1e-14}[dtype.itemsize] * N
    for name in (n for n in NAMES if usable(n, N)):
        for elements in (0, 1, 3 * N, 3 * N + 2):
            ranks = zerosim.run_threads(N, run_verbs, name, elements, dtype)
            total = sum(mine.astype(float) for mine, *_ in ranks)
            parts = [mine[elements * r // N : elements * (r + 1) // N] for r, (mine, *_) in enumerate(ranks)]
            for rank, (_, reduced, gathered, summed, *_) in enumerate(ranks):
                np.testing.assert_allclose(summed.astype(float), total, atol=tolerance)
                np.testing.assert_array_equal(summed, ranks[0][3], f"{name}: ranks differ")
                own = slice(elements * rank // N, elements * (rank + 1) // N)
                np.testing.assert_array_equal(reduced, summed[own], f"{name}: reduce_scatter adds in another order")
                np.testing.assert_array_equal(gathered, np.concatenate(parts))
            assert sum(r[5] for r in ranks) == sum(r[6] for r in ranks), "sent is received"


@pytest.mark.parametrize("N", [1, 2, 3, 4, 6, 7, 8])
def test_slices_of_any_share(N):
    """Sums, order and bytes with slices of unequal length, in as many elements as there are parts, and in others."""
    shares = [1 + (3 * rank) % 5 for rank in range(N)]
    for name in (n for n in NAMES if usable(n, N)):
        for elements in (4 * sum(shares), 4 * sum(shares) + 3, 2):
            ranks = zerosim.run_threads(N, run_verbs, name, elements, np.dtype(np.float32), 0, shares)
            total = sum(mine.astype(float) for mine, *_ in ranks)
            everything = np.concatenate([mine[cut(elements, shares, r)] for r, (mine, *_) in enumerate(ranks)])
            lengths = [len(np.arange(elements)[cut(elements, shares, r)]) for r in range(N)]
            for rank, (_, reduced, gathered, summed, sent, *_) in enumerate(ranks):
                np.testing.assert_allclose(summed, total, atol=1e-5)
                np.testing.assert_array_equal(summed, ranks[0][3])
                np.testing.assert_array_equal(reduced, summed[cut(elements, shares, rank)])
                np.testing.assert_array_equal(gathered, everything)
                for verb in VERBS:
                    which = formulas.slices_sent(name, verb, N, rank)
                    assert sent.get(verb, 0) == 4 * sum(lengths[i] for slices in which for i in slices), (name, verb)
            assert sum(r[5] for r in ranks) == sum(r[6] for r in ranks)


@pytest.mark.parametrize("N", [1, 2, 3, 4, 6, 7, 8, 9, 16])
def test_bytes_sent_are_the_closed_form(N):
    for name in (n for n in NAMES if usable(n, N)):
        ranks = zerosim.run_threads(N, run_verbs, name, 5 * N, np.dtype(np.float32))
        for rank, (*_, sent, _, _) in enumerate(ranks):
            assert {verb: sent.get(verb, 0) for verb in VERBS} == {
                verb: 20 * sum(map(len, formulas.slices_sent(name, verb, N, rank))) for verb in VERBS
            }
            if name in MEETS_THE_BOUND:
                for verb in VERBS:
                    assert Fraction(sent.get(verb, 0), 20 * N) == formulas.lower_bound(verb, N)[1]


def test_long_slices_go_in_segments(monkeypatch):
    """The same bits and bytes in any segments, in less room; and as many messages as the formula says."""
    monkeypatch.setattr(comm, "SEGMENT", 24)
    monkeypatch.setattr(formulas, "SEGMENT", 24)

    def run(transport, name):
        door = Comm(transport, ledger := Ledger(), name)
        vector = np.random.default_rng(transport.rank).standard_normal(20 * door.size).astype(np.float32)
        door.all_reduce(vector)
        return vector, door.messages["all_reduce"], ledger.peak["buffers"]

    for N in (2, 3, 4, 8):
        for name in (n for n in NAMES if usable(n, N)):
            ranks = zerosim.run_threads(N, run, name)
            monkeypatch.setattr(comm, "SEGMENT", 1 << 20)
            whole = zerosim.run_threads(N, run, name)
            monkeypatch.setattr(comm, "SEGMENT", 24)
            for rank, (vector, messages, peak) in enumerate(ranks):
                np.testing.assert_array_equal(vector, whole[rank][0])
                assert messages == sum(-(-len(n) * 20 // 6) for n in formulas.slices_sent(name, "all_reduce", N, rank))
                assert peak <= 24 * (1 if name in ("ring", "halving", "pairwise", "doubling", "binomial") else N)


MPI_SCRIPT = """
import json, sys
import numpy as np
from mpi4py import MPI
from test_collectives import NAMES, cut, run_verbs, usable
from zerosim.comm import open_door
from zerosim.ledger import Ledger
from zerosim.precision import precision
from zerosim.transport.mpi import MPITransport

transport = MPITransport()
N, rank = transport.size, transport.rank
for number in ("fp32", "fp16", "bf16"):
    dtype = precision(number).dtype
    long = 700_001 if N <= 4 or number == "fp32" else 9998
    for elements, shares in [(n, [1] * N) for n in (0, 1, 4 * N, 4 * N + 3, long)] + [(9999, range(1, N + 1))]:
        total = None
        shares = [*shares]
        for name in (n for n in NAMES if usable(n, N)):
            mine, reduced, gathered, summed, *_ = run_verbs(transport, name, elements, dtype, 0, shares)
            if total is None:
                total = sum(np.random.default_rng([0, r]).standard_normal(elements).astype(dtype).astype(float)
                            for r in range(N))
            close = dict(rtol=0, atol={"fp32": 1e-5, "fp16": 0.05, "bf16": 0.4}[number])
            np.testing.assert_allclose(summed.astype(float), total, **close)
            own = cut(elements, shares, rank)
            np.testing.assert_array_equal(reduced, summed[own])
            np.testing.assert_array_equal(gathered[own], mine[own])
        native = open_door(transport, Ledger(), "native", shares)
        a, b, c = mine.copy(), mine.copy(), np.zeros_like(mine)
        c[own] = mine[own]
        native.all_reduce(a)
        b_out = np.empty_like(b[own])
        native.reduce_scatter(b.copy(), out=b_out)
        native.reduce_scatter(b)
        np.testing.assert_array_equal(b_out.view(np.uint8), b[own].view(np.uint8))
        np.testing.assert_allclose(b[own].astype(float), total[own], **close)
        native.all_gather(c)
        np.testing.assert_allclose(a.astype(float), total, **close)
        np.testing.assert_array_equal(c, gathered)
print("right")
"""


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_on_real_mpi(tmp_path, n):
    """Every algorithm that is for n ranks, and MPI's own; up to three segments, on 8 ranks in fp32 alone."""
    script = tmp_path / "verbs.py"
    script.write_text(MPI_SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = mpirun(n, script, cwd=tmp_path, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("right") == n


# in training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("N", "number", "names"),
    [
        *((N, number, NAMES) for N in (1, 2, 3, 4) for number in ("fp32", "fp16", "bf16")),
        *((8, number, NAMES[i::3]) for i, number in enumerate(("fp32", "fp16", "bf16"))),
    ],
)
def test_same_bits_and_books_with_every_algorithm(N, number, names):
    """In each precision on up to 4 ranks; on 8 they take turns."""
    for name in (n for n in names if usable(n, N)):
        records = train_on(N, collective=name, precision=number, clip_norm=0.5, bucket=11, steps=3)
        assert len({run.weights_sha256 for run in records.runs}) == 1, name
        report = zerosim.build_report(records)
        for run in report["runs"]:
            assert run["traffic"]["per_step"]["measured"] == run["traffic"]["per_step"]["formula_per_rank"], name
            assert run["traffic"]["messages"] == run["traffic"]["messages_formula"], name
            assert run["traffic"]["sent_equals_received"]
        if name in MEETS_THE_BOUND:
            assert list(check(report)) == []


OWN = """
from zerosim.collectives import Exchange

def left(rank, N):
    for s in range(N - 1):
        yield Exchange((rank - 1) % N, (rank + 1 + s) % N, (rank + 1) % N, (rank + 2 + s) % N, True)

def all_gather(rank, N):
    for s in range(N - 1):
        if s % 2 == 5:
            return
        yield Exchange((rank + 1) % N, (rank - s) % N, (rank - 1) % N, (rank - 1 - s) % N, False)
"""


def test_a_readers_own_algorithm_trains(typed, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    words = ["train", "--steps", "3", "--hidden", "9", "--json", "--no-figures"]
    commands = [[*words, "--collective", collective] for collective in ("own.py:left", "own.py")]
    mpi = in_one_job(3, [(own, tmp_path) for own in commands], tmp_path / "job")
    threads = [typed(*own, "--ranks", "3") for own in commands]
    for done in (*mpi, *threads):
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["identical_weights"]
        assert list(check(report, [0, 1, 2, 3], 3)) == []


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_native(tmp_path, n):
    words = ["--collective", "native", "--steps", "4", "--hidden", "31", "--bucket", "101", "--no-figures"]
    several = [[*words, "--precision", number, "--out", number] for number in ("fp32", "fp16", "bf16")]
    for own, done in zip(several, in_one_job(n, [(own, tmp_path) for own in several], tmp_path / "job"), strict=True):
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / own[-1] / "report.json").read_text())
        assert list(check(report, [0, 1, 2, 3], n)) == []
        for run in report["runs"]:
            assert run["traffic"]["modelled"] is True
            assert abs(run["loss"][-1] - report["runs"][0]["loss"][-1]) < 0.02
        assert "modelled = formula" in done.stdout
        assert "not counted" in " ".join(done.stdout.split())


def test_a_file_that_is_written_again_is_read_again(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    assert set(find(str(file)).own) == {"all_gather"}
    assert find(f"{file}:left").own.keys() == {"reduce_scatter"}
    file.write_text(OWN.replace("def all_gather", "def reduce_scatter"))
    os.utime(file, ns=(1, 1))
    assert set(find(str(file)).own) == {"reduce_scatter"}


def test_a_file_that_changes_while_training_changes_nothing(tmp_path):
    """It is read once: all stages, all ranks and the report go by what was proved at the beginning."""
    file = tmp_path / "own.py"
    file.write_text(OWN)
    config = zerosim.Config(collective=f"{file}:left", hidden=(7,), batch_size=16, steps=4)

    def gone(stage, step, steps, loss):
        file.unlink(missing_ok=True)

    records = zerosim.run_threads(3, lambda comm: zerosim.train(config, comm, small_data(), gone))[0]
    report = zerosim.build_report(records)
    assert report["identical_weights"]
    assert list(check(report)) == []


@pytest.mark.parametrize("N", [1, 2, 3, 4, 7, 8])
def test_auto_picks_by_size(N):
    """The same at every stage, so the same bits; the books follow the choice; and the report says what was picked."""
    short, middle, long = 32 << 10, 1 << 20, 8 << 20
    assert choice(short, N) == choice(middle, N) == "bruck" if N & (N - 1) else choice(short, N) == "doubling"
    assert choice(long, N) == "ring"
    records = train_on(N, collective="auto", hidden=(300, 200), precision="fp32", steps=2)
    report = zerosim.build_report(records)
    assert list(check(report, [0, 1, 2, 3], N)) == []
    sizes = {4 * -(-(a + 1) * b // N) * N for a, b in pairwise(records.widths)}
    for run in report["runs"]:
        assert run["traffic"]["collectives"] == {str(size): choice(size, N) for size in sorted(sizes)}
        assert run["traffic"]["messages"] == run["traffic"]["messages_formula"]
    assert "picked by size: " + choice(min(sizes), N) in " ".join(zerosim.format_report(report).split())


def test_auto_has_the_bits_of_what_it_picks():
    for N, name in ((2, "doubling"), (3, "bruck")):
        hashes = [
            train_on(N, collective=collective, precision="fp16").runs[0].weights_sha256 for collective in ("auto", name)
        ]
        assert hashes[0] == hashes[1]


def test_native_needs_mpi():
    with pytest.raises(InputError, match="mpirun"):
        train_on(2, collective="native")


# on a modelled cluster -----------------------------------------------------------------------------------------------

DYADIC = cluster.Cluster(
    "dyadic", 1, 2.0**-17, 2.0**33, 2.0**-17, 2.0**33, 1, 2.0**35, "powers of two, so sums are exact"
)


@pytest.mark.parametrize(("verb", "name"), formulas.COSTS)
def test_virtual_time_is_the_closed_form_exactly(verb, name):
    """Also inside one node, and for every N up to 40."""
    inside = dataclasses.replace(DYADIC, ranks_per_node=64, alpha_between=1.0, bandwidth_between=1.0)
    for N in range(1, 41):
        full = name if name != "hierarchical" else f"hierarchical:{next(m for m in (4, 3, 2, 1) if N % m == 0)}"
        if not fits(full, verb, N):
            continue
        for where in (DYADIC, inside):
            n = N * 2**12
            exchanges = all_ranks(find(full).generator(verb), N)
            a, b, c = formulas.coefficients(verb, full, N)
            exact = a * Fraction(1, 2**17) + b * n * Fraction(1, 2**33) + c * n * Fraction(1, 2**35)
            assert clock.seconds(exchanges, N, where, np.array([n]))[0] == exact
            assert timing.closed_form(verb, full, N, where, n) == float(exact)


def test_the_closed_forms_of_the_literature():
    """Thakur, Rabenseifner, Gropp 2005, written out once more, for p = 16 and n = 1 MB."""
    p, lg = 16, 4
    for verb, name, expected in (
        ("all_gather", "ring", (p - 1, (p - 1) / p, 0)),
        ("all_gather", "doubling", (lg, (p - 1) / p, 0)),
        ("all_gather", "bruck", (lg, (p - 1) / p, 0)),
        ("reduce_scatter", "halving", (lg, (p - 1) / p, (p - 1) / p)),
        ("reduce_scatter", "pairwise", (p - 1, (p - 1) / p, (p - 1) / p)),
        ("all_reduce", "doubling", (lg, lg, lg)),
        ("all_reduce", "halving", (2 * lg, 2 * (p - 1) / p, (p - 1) / p)),
        ("all_reduce", "ring", (2 * (p - 1), 2 * (p - 1) / p, (p - 1) / p)),
        ("all_reduce", "binomial", (2 * lg, 2 * lg, lg)),
    ):
        assert tuple(map(float, formulas.coefficients(verb, name, p))) == expected
    assert tuple(formulas.coefficients("all_reduce", "doubling", 6)) == (4, 4, 3), "two exchanges more for N = 6"


def test_virtual_time_of_two_nodes_by_hand():
    """2 nodes of 2 ranks, ring all_gather of 4 slices of 1 byte: ranks 1 and 3 send over the slow links each time."""
    where = cluster.Cluster("two", 2, 1.0, 1.0, 10.0, 0.5, 1, 1.0, "")
    (seconds,) = clock.seconds(all_ranks(find("ring").generator("all_gather"), 4), 4, where, np.array([4.0]))
    assert seconds == 3 * (10 + 2)
    (crowded,) = clock.seconds(all_ranks(find("pairwise").generator("reduce_scatter"), 4), 4, where, np.array([4.0]))
    # exchanges 1 and 3: one message a node crosses (12); exchange 2: both ranks of a node share its link (10 + 2 * 2)
    assert crowded == (12 + 1) + (14 + 1) + (12 + 1)


def one_rank_after_the_other(name, verb, N, where, nbytes):
    """The virtual clock once more, in plain loops over ranks."""
    now, m = [0.0] * N, where.ranks_per_node
    for exchanges in zip(*(find(name).exchanges(verb, rank, N) for rank in range(N)), strict=True):
        arrives = {}
        for rank, e in enumerate(exchanges):
            source = int(e.source)
            if source == NOBODY:
                continue
            took = as_slices(e.recv).count * nbytes / N
            if source // m == rank // m:
                arrives[rank] = max(now[rank], now[source]) + where.alpha_inside + took / where.bandwidth_inside
                continue
            leave = [r for r, o in enumerate(exchanges) if r // m == source // m and o.to != NOBODY]
            enter = [r for r, o in enumerate(exchanges) if r // m == rank // m and o.source != NOBODY]
            leave = [r for r in leave if int(exchanges[r].to) // m != r // m]
            enter = [r for r in enter if int(exchanges[r].source) // m != r // m]
            share = max(1, len(leave) / where.links, len(enter) / where.links)
            arrives[rank] = max(now[rank], now[source]) + where.alpha_between + took * share / where.bandwidth_between
        then = list(now)
        for rank, e in enumerate(exchanges):
            if rank in arrives:
                then[rank] = arrives[rank]
            if e.to != NOBODY:
                then[rank] = max(then[rank], arrives[int(e.to)])
            if rank in arrives and e.reduce:
                then[rank] += as_slices(e.recv).count * nbytes / N / where.bandwidth_sum
        now = then
    return max(now)


@pytest.mark.parametrize("N", [4, 6, 8, 12, 16])
def test_virtual_time_on_nodes_one_rank_after_the_other(N):
    where = cluster.Cluster("nodes", 4, 3e-6, 2e11, 1.1e-5, 2.5e10, 3, 1.3e11, "")
    for name in (n for n in NAMES if usable(n, N)):
        for verb in VERBS:
            sizes = np.array([1e3, 7e6, 3e9])
            seconds = clock.seconds(all_ranks(find(name).generator(verb), N), N, where, sizes)
            expected = [one_rank_after_the_other(name, verb, N, where, size) for size in sizes]
            np.testing.assert_allclose(seconds, expected, rtol=1e-12)


def test_a_ring_of_4096_ranks():
    where = cluster.PRESETS["ethernet-100"]
    (seconds,) = clock.seconds(all_ranks(find("ring").generator("all_reduce"), 4096), 4096, where, np.array([1e9]))
    assert seconds == pytest.approx(timing.closed_form("all_reduce", "ring", 4096, where, 1e9), rel=1e-9)


def test_nothing_beats_the_lower_bound():
    sizes = np.logspace(2, 10, 9)
    for where in (*cluster.PRESETS.values(), DYADIC):
        for N in (2, 16, 24, 64):
            for name in (n for n in (*ALGORITHMS, "hierarchical:8") if usable(n, N)):
                for verb in VERBS:
                    seconds = clock.seconds(all_ranks(find(name).generator(verb), N), N, where, sizes)
                    assert (seconds >= timing.lower_bound(verb, N, where, sizes) * (1 - 1e-12)).all(), (
                        where.name,
                        name,
                    )


def test_bits_and_bytes_are_kept_apart():
    assert cluster.gigabits(10) == 1.25e9
    assert cluster.gigabytes(10) == 8 * cluster.gigabits(10)
    assert cluster.PRESETS["ethernet-10"].bandwidth_between == 1.25e9
    assert cluster.PRESETS["ethernet-100"].bandwidth_between == 12.5e9
    dgx2 = cluster.PRESETS["dgx-2"]
    assert (dgx2.bandwidth_inside, dgx2.bandwidth_between, dgx2.links) == (300e9, 12.5e9, 8), "as the ZeRO paper has it"
    assert dgx2.bandwidth_between == cluster.gigabits(100), "EDR is 100 Gb/s"
    assert cluster.PRESETS["dgx-a100"].bandwidth_between == 25e9
    assert cluster.PRESETS["dgx-h100"].bandwidth_between == 50e9
    assert all(len(preset.source) > 40 for preset in cluster.PRESETS.values())


def test_nccl_tests_factors():
    assert formulas.bus_factor("all_reduce", 8) == Fraction(2 * 7, 8)
    assert formulas.bus_factor("all_gather", 8) == formulas.bus_factor("reduce_scatter", 8) == Fraction(7, 8)


def test_two_levels_use_all_links_of_a_node():
    where, size = cluster.PRESETS["dgx-a100"], np.array([1e10])
    times = {
        name: clock.seconds(all_ranks(find(name).generator("all_reduce"), 64), 64, where, size)[0]
        for name in ("ring", "hierarchical:8")
    }
    assert times["ring"] > 4 * times["hierarchical:8"]


def test_this_machine_is_measured():
    here = measure(None)
    assert here.alpha_inside > 0
    assert here.bandwidth_inside > 1e6
    assert "measured now" in here.source


# the command ---------------------------------------------------------------------------------------------------------


def lines_of(done, status=0):
    assert done.returncode == status, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80, done.stdout
    return " ".join(done.stdout.split())


def test_list(tmp_path):
    for n in (0, 2):
        text = lines_of(run_zerosim(n, "collectives", "list", "--ranks", 16, cwd=tmp_path))
        assert text.count("hierarchical:m") == 3
        assert "8, 1.88" in text, "halving: 2 lg 16 exchanges, 2 * 15 / 16"
    rows = json.loads(run_zerosim(0, "collectives", "list", "--ranks", 6, "--json", cwd=tmp_path).stdout)["algorithms"]
    assert len(rows) == len(formulas.COSTS)
    assert [row["values"] for row in rows if row["algorithm"] == "halving"] == [[], []]


def test_show(typed, tmp_path):
    from PIL import Image

    text = lines_of(typed("collectives", "show", "ring"))
    assert "6 exchanges (at least 2); each rank sends 6 slices of 1/4 of the vector (at least 6)" in text
    assert "exchange 0 rank 0 1 1 [2] 1 sends 3 to 1, adds 2 from 3" in text
    out = tmp_path / "zerosim-out"
    assert (out / "ring-all-reduce-4.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "ring-all-reduce-4.svg").read_bytes().startswith(b"<?xml")
    with Image.open(out / "ring-all-reduce-4.gif") as animation:
        assert animation.n_frames > 6 * 5
    for words in (["hierarchical:4", "--ranks", 16], ["bruck", "--ranks", 40], ["neighbour"]):
        text = lines_of(typed("collectives", "show", *words))
        assert "WRONG" not in text
        assert ("too many" in text) == (words[-1] in (16, 40))
    assert "all_gather by neighbour" in text


def test_check_of_a_readers_own(typed, tmp_path):
    (tmp_path / "own.py").write_text(OWN + "\ndef bad(rank, N):\n    yield from list(left(rank, N))[1:]\n")
    text = lines_of(typed("collectives", "check", "own.py:left"))
    assert "reduce_scatter by own.py:left: right for N = 1-33" in text
    assert "the fewest bytes possible" in text
    text = lines_of(run_zerosim(2, "collectives", "check", "own.py:bad", cwd=tmp_path), status=1)
    assert "WRONG for 2 ranks" in text
    assert text.count("WRONG") == 1
    text = lines_of(typed("collectives", "check", "own.py:left", "--verb", "all_gather"), 1)
    assert "exchange 0: slice 0 comes from rank 1 to rank 0, but rank 1 has nothing of it yet" in text
    text = lines_of(typed("collectives", "show", "own.py:bad"), status=1)
    assert "WRONG: at the end" in text
    assert "right for N = 1-2, 4, 8, 16, 32" in lines_of(typed("collectives", "check", "halving"))


def test_time(typed, tmp_path):
    words = ["collectives", "time", "--cluster", "dgx-a100", "--ranks", 1024, "--bytes", "1e9"]
    text = lines_of(typed(*words))
    assert "hierarchical:8 from" in text
    timed = json.loads((tmp_path / "zerosim-out" / "collectives-time.json").read_text())
    assert timed["schema"] == "zerosim.collectives.time/1"
    assert timed["algorithms"][0]["algorithm"] == "hierarchical:8"
    assert timed["fastest"] == ["doubling", "halving", "hierarchical:8"]
    for name in ("png", "svg"):
        assert (tmp_path / "zerosim-out" / f"collectives-time.{name}").stat().st_size > 10_000
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "lab.json").write_text(
        json.dumps({k: v for k, v in DYADIC.asdict().items() if k not in ("name", "source")})
    )
    words = ["collectives", "time", "ring", "own.py:left", "--cluster", "lab.json", "--ranks", 6, "--bytes", "6MiB"]
    done = run_zerosim(3, *words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["algorithm"]: row for row in json.loads(done.stdout)["algorithms"]}
    assert rows["ring"]["seconds"] == rows["ring"]["formula"] == rows["own.py:left"]["seconds"]
    assert rows["own.py:left"]["formula"] is None


@pytest.mark.parametrize("n", [2, 3])
def test_bench(tmp_path, n):
    (tmp_path / "own.py").write_text(OWN)
    names = ["ring", "bruck", "own.py:left"]
    kinds = [("all_reduce", "fp32"), ("reduce_scatter", "bf16"), ("all_gather", "fp16")]
    words = ["collectives", "bench", *names, "--bytes", "1KiB,3MiB", "--seconds", "0.05"]
    several = [[*words, "--verb", verb, "--precision", number, "--out", verb] for verb, number in kinds]
    all_done = in_one_job(n, [(own, tmp_path) for own in several], tmp_path / "job")
    for (verb, number), done in zip(kinds, all_done, strict=True):
        lines_of(done)
        result = json.loads((tmp_path / verb / "collectives-bench.json").read_text())
        assert result["schema"] == "zerosim.collectives.bench/1"
        assert (result["ranks"], result["precision"], len(result["sizes"])) == (n, number, 2)
        for row in result["sizes"]:
            assert list(row["collectives"]) == ["native", *names]
            for cell in row["collectives"].values():
                assert cell["algbw"] * cell["seconds"]["median"] == pytest.approx(row["bytes"])
                assert cell["busbw"] / cell["algbw"] == pytest.approx(float(formulas.bus_factor(verb, n)))
            assert row["collectives"]["native"]["ratio_to_native"] == 1
        assert (tmp_path / verb / "collectives-bench.png").exists()


BAD = [
    ([], "list, show, check, time or bench"),
    (["lits"], "lits"),
    (["show"], "ALGORITHM"),
    (["show", "rnig"], "rnig"),
    (["show", "native"], "native"),
    (["show", "halving", "--ranks", "6"], "power of two"),
    (["show", "ring", "--ranks", "0"], "ranks"),
    (["show", "ring", "--verb", "broadcast"], "broadcast"),
    (["show", "nofile.py:f"], "nofile.py"),
    (["check", "ring", "--ranks", "many"], "many"),
    (["time", "--cluster", "dgx-9"], "dgx-h100"),
    (["time", "--cluster", "none.json"], "none.json"),
    (["time", "--bytes", "12 furlongs"], "furlongs"),
    (["time", "--ranks", "6", "halving"], "power of two"),
    (["time", "--ranks", "1"], "2 to"),
    (["check", "halving", "--ranks", "3"], "power of two"),
    (["time", "exits.py:f"], "SystemExit"),
    (["check", "exits.py:f"], "SystemExit"),
    (["time", "wrong.py:f", "--ranks", "96"], "sends to nobody"),
    (["show", "raises.py:f"], "raises.py, line 1"),
    (["list", "--rank", "3"], "--ranks"),
    (["bench"], "mpirun"),
]
BAD_BENCH = [
    (["ring", "--bytes", "1TB"], "two vectors"),
    (["native"], "explicit"),
    (["rnig"], "rnig"),
    (["wrong.py:f"], "sends to nobody"),
    (["ring", "--precision", "fp8"], "fp8"),
    (["ring", "--seconds", "0"], "seconds"),
]


def bad_files(folder):
    (folder / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "raises.py").write_text("1 / 0\n")
    (folder / "wrong.py").write_text(
        "from zerosim.collectives import Exchange\n"
        "def f(rank, N):\n"
        "    yield Exchange(source=(rank + 1) % N, recv=rank, reduce=True)\n"
    )


@pytest.fixture(scope="module")
def refused(once, tmp_path_factory):
    """How each bad input ended on two ranks, those of the benchmark last."""

    def run():
        bad_files(folder := tmp_path_factory.mktemp("bad"))
        commands = [words if words != ["bench"] else ["lits"] for words, _ in BAD]  # on two ranks bench is good input
        commands += [["bench", *words] for words, _ in BAD_BENCH]
        return in_one_job(2, [(["collectives", *words], folder) for words in commands], folder / "job")

    return once("collectives", run)


@pytest.mark.parametrize("case", range(len(BAD)), ids=[" ".join(words) for words, _ in BAD])
def test_bad_input(typed, tmp_path, refused, case):
    words, expected = BAD[case]
    bad_files(tmp_path)
    assert_one_line(typed("collectives", *words), [expected])
    if words != ["bench"]:
        assert_one_line(refused[case], [expected])


@pytest.mark.parametrize("n", [2, 3])
def test_bench_of_all_that_are_for_so_many_ranks(tmp_path, n):
    expected = {
        "reduce_scatter": ["ring", "halving", "pairwise", "bruck"],
        "all_gather": ["ring", "halving", "bruck", "doubling", "neighbour"],
        "all_reduce": ["ring", "halving", "pairwise", "bruck", "doubling", "binomial"],
    }
    words = ["collectives", "bench", "--bytes", "3KiB", "--seconds", "0.05", "--json"]
    commands = [([*words, "--verb", verb], tmp_path) for verb in expected]
    for (verb, those), done in zip(expected.items(), in_one_job(n, commands, tmp_path / "job"), strict=True):
        assert done.returncode == 0, done.stderr
        names = list(json.loads(done.stdout)["sizes"][0]["collectives"])
        assert names == ["native", *(name for name in those if fits(name, verb, n))]


@pytest.mark.parametrize("case", range(len(BAD_BENCH)), ids=[" ".join(words) for words, _ in BAD_BENCH])
def test_bad_input_of_bench(refused, case):
    assert_one_line(refused[len(BAD) + case], [BAD_BENCH[case][1]])


def test_bad_clusters(tmp_path):
    fields = {k: v for k, v in DYADIC.asdict().items() if k not in ("name", "source")}
    for change, word in (
        ({"links": 0}, "links"),
        ({"bandwidth_inside": -1}, "bandwidth_inside"),
        ({"alpha_between": "fast"}, "alpha_between"),
        ({"colour": 3}, "colour"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**fields, **change}))
        with pytest.raises(InputError, match=word):
            cluster.find(str(tmp_path / "bad.json"))


def test_output_that_nobody_reads_to_the_end(tmp_path):
    """As with `| head -1`: no traceback."""
    command = f"{sys.executable} -m zerosim collectives show ring --ranks 8 | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_data_of_a_report_names_the_collective():
    report = zerosim.build_report(train_on(2, small_data(), collective="bruck", steps=1))
    assert report["config"]["collective"] == "bruck"
