"""Residual states: an arena's invariants against a checker of its own, buffers to the byte, and the command."""

import json
import subprocess
from itertools import pairwise

import numpy as np
import pytest
from conftest import run_zerosim, train_on
from test_cli import assert_one_line

from zerosim import arena, figures, formulas
from zerosim.__main__ import main
from zerosim.arena import Arena, Block, Full
from zerosim.commands.output import quiet
from zerosim.figures.sheet import SLIDE
from zerosim.ledger import CLASSES, Event, Ledger
from zerosim.rank import Rank
from zerosim.residual import Settings, buffers, defragmentation
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
    cured = [Event(0.0, "activations", 48, -1)]
    for i, nbytes in enumerate((10, 11, 12, 13)):
        entries = [(nbytes, 2 * i), (12, 2 * i + 1), (-12, 2 * i + 1), (-nbytes, 2 * i)]
        cured += [Event(0.0, "activations", change, array) for change, array in entries]
    assert arena.replay(arena.blocks(cured)).size == 48 + 13 + 12 < 82, "copied to a chunk, with room for one to copy"


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
    for taken in run_threads(N, lambda comm: record(comm, task, stage)):
        blocks = arena.blocks(taken.events)
        assert arena.peak(blocks) == taken.peak
        kept = dict.fromkeys(CLASSES, 0)
        end = max(block.end for block in blocks)
        for block in blocks:
            kept[block.cls] += block.nbytes if block.end == end and block.begin < 4 else 0
        assert kept == formulas.at_rest(stage, task.widths, N, "fp32", "adam")
        for fit in arena.FITS:
            found = arena.replay(blocks, fit)
            assert found.size >= taken.peak
            assert [number for number, _ in tape(blocks, found.addresses, found.size)]


@pytest.mark.parametrize("N", [1, 2, 3, 4, 7, 8])
def test_checkpoints_and_gradients_in_chunks(N):
    """On each rank: what is kept, array by array; chunks to the byte; nothing overlaps; and all steps do the same."""
    settings = Settings(hidden=(8, 16, 24, 40, 12, 30), rows=20)
    widths = (64, *settings.hidden, 10)
    slices = [-(-(a + 1) * b // N) for a, b in pairwise(widths)]
    plain = run_threads(N, lambda comm: record(comm, settings.task(settings.hidden), 2))
    for rank, rows in enumerate(run_threads(N, lambda comm: defragmentation.measure(comm, settings, quiet))):
        assert [row["way"] for row in rows] == 2 * list(defragmentation.WAYS)
        assert {row["weights_sha256"] for row in rows[:4]} == {plain[rank].weights_sha256}
        for row in rows:
            assert row["same_bits"]
            assert row["every"] == 3
            for name in ("long_lived", "beforehand"):
                assert row[name]["measured"] == N * [row[name]["formula"]]
            blocks = [Block(*block) for block in row["blocks"]]
            assert arena.peak(blocks) == row["peak"] <= row["arena"]
            assert [number for number, _ in tape(blocks, row["addresses"], row["arena"])]
        for row, chunks in zip(rows, defragmentation.WAYS.values(), strict=False):
            kept, gradients = ([b[1] for b in row["blocks"] if b[0] == kind] for kind in ("kept", "gradients"))
            inputs = [4 * 20 * width for width in (64, 24, 30)]
            assert kept == [*([sum(inputs)] if "checkpoints" in chunks else inputs), 4 * 20 * 10]
            assert gradients == [4 * n for n in ([sum(slices)] if "gradients" in chunks else slices[::-1])]
            expected = sum(inputs) * ("checkpoints" in chunks) + 4 * sum(slices) * ("gradients" in chunks)
            assert row["beforehand"]["formula"] == expected


def arenas_of(hidden):
    """By order of the layers, the four arenas of a step on 4 ranks: a list of (arena, gaps, how it ends)."""
    rows = run_threads(4, lambda comm: defragmentation.measure(comm, Settings(hidden=hidden), quiet))[0]
    found = {}
    for row in rows:
        end = row["in_the_smallest_arena"]
        found.setdefault(row["order"], []).append((row["arena"], row["arena"] - row["peak"], end))
    return found


def test_where_chunks_help():
    """Wide and narrow layers in turn: nearly no gaps are left, and a third of an arena was free and of no use."""
    for ways in arenas_of((64, 256) * 4).values():
        (before, gaps, end), *_, (after, fewer, fits) = ways
        assert after < 0.92 * before
        assert fewer < gaps / 10
        assert fits is None
        assert end["free"] > 0.3 * end["limit"]
        assert end["free"] > end["asked"] > end["greatest"]


def test_where_chunks_cost():
    """Layers that grow: the checkpoints' chunk helps. Mirrored, a chunk is there for nothing when most is held."""
    found = arenas_of(tuple(range(8, 97, 8)))
    (growing, *_), _, (checkpoints, *_), (both, gaps, _) = found["as given"]
    assert checkpoints < both < growing
    assert gaps == 0
    (before, *_), *_, (after, gaps, end) = found["mirrored"]
    assert after > before
    assert gaps == 0
    assert end is not None


@pytest.mark.parametrize(
    ("stage", "settings"),
    [(0, {}), (1, {"tensor_parallel": 2}), (2, {"grad_accum": 3}), (3, {"pipeline": 2, "grad_accum": 3})],
)
def test_a_chunk_of_checkpoints_changes_no_bit(monkeypatch, stage, settings):
    """On a pipeline several micro-batches wait, each in a chunk of its own; at rest none is left."""
    usual = {"hidden": (7, 9, 5, 6, 8), "stages": (stage,), "checkpoint_activations": 2, **settings}
    before = train_on(4, **usual).runs[0]
    monkeypatch.setattr(Rank, "contiguous", True)
    after = train_on(4, **usual).runs[0]
    assert after.weights_sha256 == before.weights_sha256
    assert all(own["activations"] == 0 for own in after.at_rest)
    assert max(after.activations["device"]) > max(before.activations["device"]), "room is there before it is needed"


def test_steps_do_not_add_up():
    """Between steps only the model states live, at the bottom: several steps need what the largest of them needs."""
    task = Settings(rows=40).task((8, 16, 24, 40))

    def size(*rows):
        taken = run_threads(2, lambda comm: record(comm, task, 3, rows))[0]
        return arena.replay(arena.blocks(taken.events)).size

    each = {rows: size(rows) for rows in (40, 7, 90)}
    assert each[7] < each[40] < each[90]
    assert size(40, 7, 90, 7, 40) == each[90]


# WHERE


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


@pytest.mark.parametrize("widths", [(16,), (16, 32)])
def test_every_line_of_the_figure_is_seen(widths):
    """With one width, too, where a line has one point; and where both buckets take the same, marks and lines nest."""
    settings = Settings(widths=widths, rows=4)
    rows = run_threads(2, lambda comm: buffers.measure(comm, settings, quiet))[0]
    result = {"ranks": 2, "settings": settings.asdict(), "sections": {"buffers": rows}}
    for axes in figures.buffers(result).axes:
        assert len(axes.lines) == 5
        assert all(len(line.get_xdata()) > 1 or line.get_marker() not in ("", "None") for line in axes.lines)
        growing, constant = (axes.lines[i : i + 2] for i in (0, 2))
        np.testing.assert_array_equal(growing[0].get_ydata(), constant[0].get_ydata())
        assert growing[0].get_linewidth() > constant[0].get_linewidth()
        assert growing[1].get_markersize() > constant[1].get_markersize()


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
        assert int.from_bytes(header[16:20], "big") == round(100 * SLIDE[0]), "pixels across, of the slide at 100 dpi"
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
    sections = result["sections"]["defragmentation"]
    for row in sections:
        blocks = [Block(*block) for block in row["blocks"]]
        assert row["peak"] == arena.peak(blocks) <= row["arena"] == arena.replay(blocks).size
        assert arena.fails(blocks, row["arena"] - 1) is not None
        end, same = row["in_the_smallest_arena"], [r for r in sections if r["order"] == row["order"]]
        smallest = min(other["arena"] for other in same)
        assert (end is None) == (row["arena"] == smallest)
        assert end is None or end["greatest"] < end["asked"]


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
def test_bad_input(tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    ranks = [] if "--ranks" in words else ["--ranks", "1"]
    status = main(["residual", *ranks, *words])
    assert_one_line(subprocess.CompletedProcess(words, status, *capsys.readouterr()), expected)


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
    assert [row["order"] for row in rows] == ["as given"] * 4
