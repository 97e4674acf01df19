"""Residual states: an arena's invariants against a checker of its own, buffers to the byte, and the command."""

import json

import numpy as np
import pytest
from conftest import run_zerosim
from test_cli import assert_one_line

from zerosim import arena, formulas
from zerosim.arena import Arena, Block, Full
from zerosim.ledger import CLASSES, Event, Ledger
from zerosim.residual import Settings, defragmentation
from zerosim.residual.shared import record
from zerosim.transport.threads import run_threads

SMALL = ["--hidden", "8,16,24,40", "--widths", "12,40", "--bucket", 500, "--rows", 30]


# the arena -----------------------------------------------------------------------------------------------------------


def random_events(seed):
    """A record of 60 entries: takes and releases at random, arrays of no bytes among them, some never released."""
    random = np.random.default_rng(seed)
    live, events = {}, []
    for name in range(60):
        if live and random.random() < 0.45:
            array = random.choice(list(live))
            cls, nbytes = live.pop(array)
            events.append(Event(0.0, cls, -nbytes, int(array)))
        else:
            live[name] = str(random.choice(CLASSES)), int(random.integers(0, 25))
            events.append(Event(0.0, *live[name], name))
    return events


def tape(blocks, addresses, length=4000):
    """Play a record on a tape with a cell for each byte: yield (block, the tape before it is taken)."""
    cells = np.zeros(length, int)
    for moment in range(max(b.end for b in blocks) + 1):
        for number, block in enumerate(blocks):
            where = slice(addresses[number], addresses[number] + block.nbytes)
            if block.end == moment:
                assert (cells[where] == number + 1).all()
                cells[where] = 0
        for number, block in enumerate(blocks):
            if block.begin == moment:
                yield number, cells
                where = slice(addresses[number], addresses[number] + block.nbytes)
                assert not cells[where].any(), "two live blocks overlap"
                cells[where] = number + 1


def holes(cells, start, stop):
    """The free pieces between two addresses, as (length, address), by looking at each cell."""
    found, at = [], start
    while at < stop:
        end = at
        while end < stop and not cells[end]:
            end += 1
        if end > at:
            found.append((end - at, at))
        at = end + 1
    return found


@pytest.mark.parametrize("fit", arena.FITS)
@pytest.mark.parametrize("seed", range(25))
def test_random_records_against_a_tape(seed, fit):
    blocks = arena.blocks(random_events(seed))
    found = arena.replay(blocks, fit=fit)
    most = top = 0
    for number, cells in tape(blocks, found.addresses):
        nbytes, address = blocks[number].nbytes, found.addresses[number]
        end = int(np.flatnonzero(cells)[-1]) + 1 if cells.any() else 0
        gaps = [hole for hole in holes(cells, 0, end) if hole[0] >= nbytes]
        expected = min(gaps, key=lambda h: h[1] if fit == "first" else h)[1] if gaps else end
        assert address == expected
        top = max(top, address + nbytes)
        most = max(most, int(np.count_nonzero(cells)) + nbytes)
    assert found.size == top
    assert arena.peak(blocks) == most <= found.size
    assert blocks[[b.begin for b in blocks].index(found.worst)].nbytes > 0


@pytest.mark.parametrize("fit", arena.FITS)
@pytest.mark.parametrize("seed", range(25))
def test_the_smallest_arena_is_the_smallest(seed, fit):
    """It fits, with one byte less it does not, and what is said of the failure is what a tape shows."""
    blocks = arena.blocks(random_events(seed))
    found = arena.replay(blocks, fit=fit)
    assert arena.replay(blocks, fit=fit, limit=found.size) == found
    assert arena.fails(blocks, found.size, fit=fit) is None
    for limit in (found.size - 1, arena.peak(blocks) - 1):
        full = arena.fails(blocks, limit, fit=fit)
        assert full is not None
        assert full.greatest < full.asked
        assert full.greatest <= full.free
    first = next(
        (number, [h[0] for h in holes(cells, 0, limit)])
        for number, cells in tape(blocks, found.addresses)
        if found.addresses[number] + blocks[number].nbytes > limit
    )
    assert (full.asked, full.free, full.greatest) == (blocks[first[0]].nbytes, sum(first[1]), max(first[1], default=0))


@pytest.mark.parametrize("seed", range(25))
def test_a_region_apart(seed):
    """Blocks of the two kinds stay on their sides of a border, and nothing overlaps."""
    blocks = arena.blocks(random_events(seed))
    for apart in (
        arena.long_lived(blocks, ("activations", "gradients")),
        arena.long_lived(blocks, moments=20),
        arena.long_lived(blocks, ("buffers",), 10),
        frozenset(range(len(blocks))),
    ):
        found = arena.replay(blocks, apart)
        assert [number for number, _ in tape(blocks, found.addresses)] == sorted(range(len(blocks)))
        for number, (block, address) in enumerate(zip(blocks, found.addresses, strict=True)):
            below = number in apart
            assert address + block.nbytes <= found.reserved if below else address >= found.reserved
        assert found.size >= arena.peak(blocks)
        kinds = [[b for i, b in enumerate(blocks) if (i in apart) is side] for side in (True, False)]
        assert found.size >= sum(arena.peak(kind) for kind in kinds)
        assert found.reserved == (arena.replay(kinds[0]).size if kinds[0] else 0)
        assert arena.fails(blocks, found.size, apart) is None
        assert arena.fails(blocks, found.size - 1, apart) is not None


def test_rules_for_what_is_long_lived():
    blocks = [Block("activations", 1, 0, 9), Block("activations", 1, 1, 3), Block("buffers", 1, 2, 8)]
    assert arena.long_lived(blocks, ("activations",)) == {0, 1}
    assert arena.long_lived(blocks, moments=6) == {0, 2}
    assert arena.long_lived(blocks, ("activations",), 6) == {0}
    assert arena.long_lived(blocks) == {0, 1, 2}


def test_fragmentation_and_its_cure_by_hand():
    """The paper's case: arrays that are dropped, of 10, 11, 12 and 13 bytes, in turn with ones of 12 that are kept."""
    events = []
    for i, nbytes in enumerate((10, 11, 12, 13)):
        entries = [(nbytes, 2 * i), (12, 2 * i + 1), (-nbytes, 2 * i)]
        events += [Event(0.0, "activations", change, array) for change, array in entries]
    blocks = arena.blocks(events)
    found = arena.replay(blocks)
    assert found.addresses == [0, 10, 22, 33, 45, 57, 69, 45], "only the last one that is kept fits in a gap, of 12"
    assert (found.size, found.worst, arena.peak(blocks)) == (82, 9, 4 * 12 + 13)
    full = arena.fails(blocks, 81)
    assert (full.asked, full.free, full.greatest) == (13, 81 - 3 * 12, 12), "more than half of it is free"
    assert arena.replay(blocks, [1, 3, 5, 7]) == ([48, 0, 48, 12, 48, 24, 48, 36], 61, 48, 9)
    by_lifetime = arena.long_lived(blocks, moments=3)
    assert by_lifetime == {1, 3, 5}
    assert arena.replay(blocks, by_lifetime).size == 61


def test_nested_lifetimes_never_fragment():
    events = [Event(0.0, "buffers", size, size) for size in (3, 9, 1, 7)]
    events += [Event(0.0, "buffers", -size, size) for size in (7, 1, 9, 3)]
    blocks = arena.blocks(events)
    assert arena.replay(blocks).size == arena.peak(blocks) == 20


def test_what_an_arena_refuses():
    with pytest.raises(ValueError, match="first, best"):
        Arena("worst")
    with pytest.raises(ValueError, match="not taken"):
        arena.blocks([Event(0.0, "buffers", -4, 1)])
    with pytest.raises(ValueError, match="not taken"):
        arena.blocks([Event(0.0, "buffers", 8, 1), Event(0.0, "buffers", -4, 1)])
    small = Arena(limit=10)
    assert small.take(6) == 0
    with pytest.raises(Full, match="5 bytes find no place: 4 are free"):
        small.take(5)
    with pytest.raises(ValueError, match="not in list"):
        small.release(0, 5)


def test_a_record_names_its_arrays():
    ledger = Ledger()
    kept = ledger.take("parameters", 10, np.float32)
    with ledger.recording() as events:
        with ledger.borrow("buffers", 3, np.float64):
            more = ledger.take("activations", 5, np.float32)
        ledger.release(more)
    assert [(e.cls, e.change) for e in ledger.held()] == [("parameters", kept.nbytes)]
    assert [(e.cls, e.change) for e in events] == [
        ("buffers", 24),
        ("activations", 20),
        ("buffers", -24),
        ("activations", -20),
    ]
    assert events[0].array == events[2].array != events[1].array == events[3].array == id(more)
    assert [block[1:] for block in arena.blocks(events)] == [(24, 0, 2), (20, 1, 3)]


# real steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("N", [1, 2, 3, 4])
def test_a_real_step_in_an_arena(N, stage):
    """The record's peak is the ledger's, no arena is smaller, and at its end only the model states are left."""
    task = Settings(rows=40).task((8, 16, 24, 40))
    for events, peak in run_threads(N, lambda comm: record(comm, task, stage)):
        blocks = arena.blocks(events)
        assert arena.peak(blocks) == peak
        kept = dict.fromkeys(CLASSES, 0)
        end = max(block.end for block in blocks)
        for block in blocks:
            kept[block.cls] += block.nbytes if block.end == end and block.begin < 4 else 0
        assert kept == formulas.at_rest(stage, task.widths, N, "fp32", "adam")
        for fit in arena.FITS:
            plans = defragmentation.placed(blocks, fit)["plans"]
            for plan in plans.values():
                assert plan["arena"] >= peak
                assert [number for number, _ in tape(blocks, plan["addresses"], plan["arena"])]
            assert plans["best_lifetime"]["arena"] <= min(plans["together"]["arena"], plans["by_lifetime"]["arena"])


def test_steps_do_not_add_up():
    """Between steps only the model states live, at the bottom: several steps need what the largest of them needs."""
    task = Settings(rows=40).task((8, 16, 24, 40))

    def size(*rows):
        events, _ = run_threads(2, lambda comm: record(comm, task, 3, rows))[0]
        return arena.replay(arena.blocks(events)).size

    each = {rows: size(rows) for rows in (40, 7, 90)}
    assert each[7] < each[40] < each[90]
    assert size(40, 7, 90, 7, 40) == each[90]


def test_where_a_region_helps_and_where_not():
    """At stage 3, layers that grow leave gaps too small for the next; stage 2 takes and releases in order."""
    settings = Settings(hidden=tuple(range(16, 129, 16)), widths=(8,), rows=64)
    rows = run_threads(4, lambda comm: defragmentation.measure(comm, settings, lambda text: None))[0]
    assert [(row["stage"], row["order"]) for row in rows] == [
        (2, "as given"),
        (3, "as given"),
        (2, "mirrored"),
        (3, "mirrored"),
    ]
    before, after = ([row["plans"][name]["arena"] for row in rows] for name in ("together", "by_class"))
    assert before[0] == rows[0]["peak"]
    assert before[1] > rows[1]["peak"]
    assert after[1] < before[1]
    assert after[3] > before[3]
    full = rows[1]["plans"]["together"]["arena_of_the_peak"]
    assert full["free"] >= full["asked"] > full["greatest"]
    assert rows[0]["plans"]["together"]["arena_of_the_peak"] is None


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("N", [1, 2, 3, 4, 7, 8])
def test_buffers_equal_the_formula(N, stage):
    for hidden, bucket, rows in [
        ((12, 40), 0, 30),
        ((12, 40), 100, 30),
        ((33, 1, 17), 7, 5),
        ((), 0, 3),
        ((1,), 1, 1),
        ((300,), 0, 40),
        ((5, 300), 64, 200),
        ((320, 320), 0, 8),
    ]:
        task = Settings(rows=rows).task(hidden, bucket)
        everyone = run_threads(N, lambda comm, task=task: record(comm, task, stage).highest("buffers"))
        formula = formulas.working_buffers(stage, task.widths, N, rows, bucket)
        assert max(everyone) == formula, (hidden, bucket, rows)


@pytest.mark.parametrize("bucket", [0, 600_000, 65536])
@pytest.mark.parametrize("stage", [2, 3])
def test_buffers_where_a_slice_is_longer_than_a_segment(stage, bucket):
    task = Settings(rows=2).task((1024, 1024), bucket)
    everyone = run_threads(2, lambda comm: record(comm, task, stage).highest("buffers"))
    assert everyone == [formulas.working_buffers(stage, task.widths, 2, 2, bucket)] * 2


@pytest.mark.parametrize("N", [16, 17, 24])
def test_buffers_where_the_loss_takes_the_most(N):
    """One row per rank and a bucket of one element per rank: what the ranks agree on is larger than either."""
    task = Settings(rows=1).task((), 1)
    everyone = run_threads(N, lambda comm: record(comm, task, 2).highest("buffers"))
    assert max(everyone) == formulas.working_buffers(2, task.widths, N, 1, 1) > 16 * N


def test_a_constant_bucket_bounds_buffers_at_stage_2_only():
    growing, constant, gathered = (
        [formulas.working_buffers(stage, (64, h, h, 10), 4, 16, bucket) for h in (512, 1024, 2048)]
        for stage, bucket in ((2, 0), (2, 4096), (3, 4096))
    )
    assert growing[0] < growing[1] < growing[2]
    assert constant == [4 * 4096 + 4096, 4 * 4096 + 4096, 2048 * 16], "the last one is a mask of inputs"
    assert [b - a for a, b in zip(constant, gathered, strict=True)] == [4 * (h + 1) * h for h in (512, 1024, 2048)]


# the command ---------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path):
    done = run_zerosim(0, "residual", "--ranks", 3, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout
    assert "≠" not in done.stdout
    assert "to the byte" in done.stdout
    assert "6.000 GB for 1.5 B (section 3.2), 12.00 GB for 3 B (section 6.2)" in " ".join(done.stdout.split())
    folder = tmp_path / "zerosim-out"
    for name in ("residual-arena", "residual-buffers"):
        assert (folder / f"{name}.svg").stat().st_size > 0
        header = (folder / f"{name}.png").read_bytes()
        assert header.startswith(b"\x89PNG")
        at = header.index(b"pHYs") + 4
        assert int.from_bytes(header[at : at + 4], "big") == round(200 / 0.0254)
    result = json.loads((folder / "residual.json").read_text())
    assert result["schema"] == "zerosim.residual/1"
    for row in result["sections"]["buffers"]:
        assert row["fused_formula"] == 4 * row["parameters"] == 4 * formulas.parameters(row["layers"])
        for kind in ("per_layer", "constant"):
            assert len(row[kind]["measured"]) == 3
            assert max(row[kind]["measured"]) == row[kind]["formula"]
    ways = {row["way"]: row for row in result["sections"]["activations"]}
    assert len(ways) == 5
    for row in ways.values():
        assert row["same_bits"]
        assert all(book["measured"] == book["formula_per_rank"] for book in row["books"].values())
    assert max(ways["P_a"]["books"]["device"]["measured"]) < max(ways["all kept"]["books"]["device"]["measured"])
    assert min(ways["checkpoints, P_a+cpu"]["books"]["host"]["measured"]) > 0
    assert ways["checkpoints"]["operations"] > ways["all kept"]["operations"]
    for row in result["sections"]["defragmentation"]:
        blocks = [Block(*block) for block in row["blocks"]]
        assert row["peak"] == arena.peak(blocks)
        for plan in row["plans"].values():
            assert plan["arena"] >= row["peak"]
            assert [number for number, _ in tape(blocks, plan["addresses"], plan["arena"])]
            assert plan["one_byte_less"]["greatest"] < plan["one_byte_less"]["asked"]
            assert (plan["arena_of_the_peak"] is None) == (plan["arena"] == row["peak"])


def test_mpi_and_threads_hold_the_same(tmp_path):
    results = []
    for n, words in ((2, []), (0, ["--ranks", 2])):
        done = run_zerosim(n, "residual", *words, *SMALL, "--fit", "best", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert [result.pop("backend") for result in results] == ["mpi", "threads"]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--hidden", ""], ["hidden", "1 or more"]),
        (["--hidden", "8,x"], ["hidden", "8,x"]),
        (["--widths", "0"], ["widths", "'0'"]),
        (["--widths", "8,8"], ["widths", "more than once"]),
        (["--bucket", "0"], ["bucket", "1 or more"]),
        (["--rows", "0"], ["rows", "1 or more"]),
        (["--rows", "10000000000"], ["rows", "too many"]),
        (["--widths", "10000000"], ["stage 2", "too many"]),
        (["--fit", "worst"], ["worst", "first, best"]),
        (["--ranks", "0"], ["ranks", "1 or more"]),
        (["--bukcet", "3"], ["--bukcet", "--bucket"]),
    ],
)
def test_bad_input(tmp_path, words, expected):
    assert_one_line(run_zerosim(0, "residual", *words, cwd=tmp_path), expected)


def test_bad_input_under_mpirun(tmp_path):
    assert_one_line(run_zerosim(2, "residual", "--fit", "worst", cwd=tmp_path), ["worst", "first, best"])
    (tmp_path / "file").write_text("")
    assert_one_line(run_zerosim(2, "residual", *SMALL, "--out", "file", cwd=tmp_path), ["out file"])
    assert_one_line(run_zerosim(2, "residual", "--ranks", 2, cwd=tmp_path), ["ranks", "mpirun"])


def test_one_width_and_one_layer(tmp_path):
    """A model that is its own mirror image stands there once."""
    done = run_zerosim(0, "residual", "--hidden", "8", "--widths", "8", "--rows", 4, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["sections"]["defragmentation"]
    assert [row["order"] for row in rows] == ["as given", "as given"]
