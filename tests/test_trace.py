"""A trace, read again as a viewer reads it, beside the report of the same run, which is counted elsewhere."""

import json
import threading
import time
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest
from conftest import run_zerosim, small_data

import zerosim
from zerosim import trace
from zerosim.__main__ import main
from zerosim.comm import Comm
from zerosim.errors import Diverged, Interrupted
from zerosim.ledger import CLASSES, Ledger

MOVED = {"parameters", "gradients", "activations", "control", "pruning"}
"""The categories of calls at a door."""


def read(path):
    """Return the events of a trace, checked for what the format and its viewers ask for."""
    text = path.read_text()
    whole = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert isinstance(whole["otherData"], dict)
    events = whole["traceEvents"]
    for event in events:
        assert {"name", "ph", "ts", "pid", "tid"} <= event.keys()
        assert event["ph"] in "XCM"
        assert event["ts"] >= 0
        assert event["ts"] * 8 == int(event["ts"] * 8)
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {rank: f"rank {rank}" for rank in range(whole["otherData"]["ranks"])}
    return events


def spans(events, rank, **wanted):
    """The complete events of a rank, those with these fields."""
    mine = [e for e in events if e["ph"] == "X" and e["pid"] == rank]
    return [e for e in mine if all(e[field] == value for field, value in wanted.items())]


def check_nesting(events, rank):
    """As a viewer builds its tracks: in the order of the file, each inside what is still open, or after it."""
    latest, still_open = 0.0, []
    for event in spans(events, rank):
        begin, end = event["ts"], event["ts"] + event["dur"]
        assert event["dur"] >= 0
        assert begin >= latest, "the file is in the order of time"
        latest = begin
        while still_open and still_open[-1] <= begin and not end <= still_open[-1]:
            still_open.pop()
        assert not still_open or end <= still_open[-1], event
        still_open.append(end)


def inside(event, outer):
    return outer["ts"] <= event["ts"] and event["ts"] + event["dur"] <= outer["ts"] + outer["dur"]


def sent_in(events, rank, outer, group):
    """Bytes by verb, without control and pruning, that a rank sent to a group in a span."""
    calls = [e for e in spans(events, rank) if e["cat"] in MOVED - {"control", "pruning"} and inside(e, outer)]
    sent = Counter()
    for call in calls:
        if call["args"]["group"] == group:
            sent[call["args"]["verb"]] += call["args"]["sent"]
    return {verb: n for verb, n in sent.items() if n}


def check(events, report, steps=None):
    """Hold a trace against the report of the run, of which it has all steps if `steps` is None."""
    N = report["world_size"]
    for rank in range(N):
        check_nesting(events, rank)
        stages = spans(events, rank, cat="stage")
        assert [stage["name"] for stage in stages] == [f"stage {run['stage']}" for run in report["runs"]]
        for stage, run in zip(stages, report["runs"], strict=True):
            check_stage(events, rank, stage, run, steps or run["steps"])


def check_stage(events, rank, stage, run, steps):
    taken = [step for step in spans(events, rank, cat="step") if inside(step, stage)]
    assert [step["name"] for step in taken] == [f"step {n}" for n in range(1, steps + 1)]
    for step in taken:
        for group, books in {"data": run["traffic"]["per_step"], **run["traffic"]["model_parallel"]}.items():
            sent = sent_in(events, rank, step, group)
            if "sync" not in run:
                assert sent == {verb: n for verb, n in books["measured"][rank].items() if n}
                assert sent == {verb: n for verb, n in books["formula_per_rank"][rank].items() if n}
        check_phases(events, rank, step)
    if steps < run["steps"]:
        (rest,) = (e for e in spans(events, rank, cat="not traced") if inside(e, stage))
        assert rest["name"] == f"from step {steps + 1} on: not traced"
        return
    calls = [e for e in spans(events, rank) if e["cat"] in MOVED and inside(e, stage)]
    assert sum(call["args"]["sent"] for call in calls) == run["traffic"]["sent"][rank]
    assert sum(call["args"]["received"] for call in calls) == run["traffic"]["received"][rank]
    control = sum(call["args"]["sent"] for call in calls if call["args"]["book"] == "control")
    assert control == run["traffic"]["control"][rank]
    check_memory(events, rank, stage, taken, run)


def check_phases(events, rank, step):
    phases = [e for e in spans(events, rank, cat="phase") if inside(e, step)]
    assert [p["name"] for p in phases][-3:] == ["reduce", "update", "gather"]
    for before, after in pairwise(phases):
        assert before["ts"] + before["dur"] == after["ts"], "without gaps"


def check_memory(events, rank, stage, steps, run):
    """The counters' greatest total within the steps is the ledger's peak; their last values are what rests."""
    held, peak = dict.fromkeys(CLASSES, 0), 0
    changes = [e for e in events if e["ph"] == "C" and e["pid"] == rank and e["name"] in CLASSES]
    end = steps[-1]["ts"] + steps[-1]["dur"]
    for change in changes:
        if stage["ts"] <= change["ts"] <= stage["ts"] + stage["dur"]:
            if change["ts"] <= end:
                held[change["name"]] = change["args"]["bytes"]
            if any(step["ts"] <= change["ts"] <= step["ts"] + step["dur"] for step in steps):
                peak = max(peak, sum(held.values()))
    assert peak == run["memory"]["peak"]["measured"][rank]["total"]
    assert held == run["memory"]["at_rest"]["measured"][rank]


def traced(tmp_path, N, **settings):
    """Train with a trace on in-process ranks; return its events and the report."""
    path = tmp_path / "trace.json"
    config = zerosim.Config(
        **{"hidden": (9, 7), "batch_size": 16, "steps": 3, "test_fraction": 0.25, "trace": str(path), **settings}
    )
    data = small_data()
    records = zerosim.run_threads(N, lambda comm: zerosim.train(config, comm, data=data))[0]
    return read(path), zerosim.build_report(records)


@pytest.mark.parametrize("N", [1, 2, 3, 4])
def test_what_a_trace_has_is_what_the_report_has(tmp_path, N):
    events, report = traced(tmp_path, N)
    check(events, report)
    layers = Counter(e["name"] for e in spans(events, 0, cat="layer"))
    assert layers == {f"layer {k}": 2 * 3 * 4 for k in range(3)}, "forward and back in each step of each stage"
    moved = {(e["args"]["verb"], e["cat"]) for e in spans(events, 0) if e["cat"] in MOVED}
    verbs = {("all_reduce", "gradients"), ("reduce_scatter", "gradients"), ("all_gather", "parameters")}
    assert moved - {("all_gather", "control")} == verbs


def test_a_trace_changes_nothing(tmp_path):
    _, report = traced(tmp_path, 3, stages=(2,))
    config = zerosim.Config(hidden=(9, 7), batch_size=16, steps=3, test_fraction=0.25, stages=(2,))
    plain = zerosim.build_report(zerosim.run_threads(3, lambda comm: zerosim.train(config, comm, data=small_data()))[0])
    for run in (*report["runs"], *plain["runs"]):
        del run["time"], run["memory"]["timeline"]
    assert report["runs"] == plain["runs"]


@pytest.mark.parametrize(
    ("N", "settings"),
    [
        (4, {"tensor_parallel": 2, "pipeline": 2, "grad_accum": 2, "precision": "fp32", "stages": (1, 3)}),
        (2, {"tensor_parallel": 2, "partition_activations": True, "cpu_checkpointing": True, "stages": (2,)}),
        (3, {"straggler": (1, 3.0), "collective": "pairwise", "checkpoint_activations": 2, "stages": (3,)}),
        (3, {"sync": "average", "sync_every": 2, "optimizer": "sgd", "steps": 5}),
        (2, {"prune_groups": 0.5, "clip_norm": 1.0, "slices": (3, 1), "bucket": 20}),
    ],
)
def test_with_what_else_a_run_can_do(tmp_path, N, settings):
    events, report = traced(tmp_path, N, **settings)
    check(events, report)
    kinds = {e["cat"] for e in spans(events, 1)}
    assert ("sleep" in kinds) == ("straggler" in settings)
    assert ("pruning" in kinds) == ("prune_groups" in settings)
    assert ("activations" in kinds) == ("tensor_parallel" in settings)
    if "sync" in settings:
        assert "gradients" not in kinds
        steps = spans(events, 1, cat="step")
        sent = [sent_in(events, 1, step, "data").get("all_reduce", 0) for step in steps]
        each = report["runs"][0]["traffic"]["per_step"]["formula_per_rank"][1]["all_reduce"]
        assert sent == [0, each, 0, each, 0]
    if "straggler" in settings:
        waited = Counter()
        for wait in spans(events, 0, cat="wait"):
            waited[wait["name"]] += wait["dur"]
        assert waited.keys() <= {"wait for rank 1", "wait for rank 2"}
    if settings.get("cpu_checkpointing"):
        assert any(e["name"] == "host activations" and e["args"]["bytes"] for e in events)


def test_the_first_steps_and_checkpoints(tmp_path):
    events, report = traced(
        tmp_path, 2, steps=9, trace_steps=4, stages=(2,), checkpoint=str(tmp_path / "ckpt"), checkpoint_every=2
    )
    check(events, report, steps=4)
    assert len(spans(events, 0, name="checkpoint")) == 2
    events, report = traced(tmp_path, 2, steps=11, trace_steps=1, stages=(2,), resume=str(tmp_path / "ckpt"))
    (step,) = spans(events, 1, cat="step")
    assert step["name"] == "step 10"
    assert len(spans(events, 1, name="resume")) == 1


def test_under_mpirun(tmp_path):
    words = ["--stages", "0,3", "--hidden", "20", "--steps", 4, "--trace", "t.json", "--json"]
    done = run_zerosim(3, "train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report, events = json.loads(done.stdout), read(tmp_path / "t.json")
    check(events, report)
    about = json.loads((tmp_path / "t.json").read_text())["otherData"]
    for offsets, uncertainty in zip(about["clock_offset_us"], about["clock_uncertainty_us"], strict=True):
        assert all(abs(offset) <= uncertainty + 0.002 for offset in offsets), "one machine's processes share a clock"
    begins = [spans(events, rank, name="step 1")[0]["ts"] for rank in range(3)]
    ends = [spans(events, rank, name="step 1")[0] for rank in range(3)]
    assert max(begins) < min(e["ts"] + e["dur"] for e in ends), "no rank is done before another has begun"


def test_clocks_that_differ(monkeypatch):
    """Ranks whose clocks are seconds apart find that out, to half a round trip."""
    ahead = {"rank 0": 0.0, "rank 1": 5.0, "rank 2": -1000.0}
    real = time.perf_counter
    clock = SimpleNamespace(perf_counter=lambda: real() + ahead[threading.current_thread().name])
    monkeypatch.setattr(trace, "time", clock)
    for reading, skew in zip(
        zerosim.run_threads(3, lambda comm: trace.read_clock(Comm(comm, Ledger()), "mpi")), ahead.values(), strict=True
    ):
        assert abs(reading.offset + skew) <= reading.round_trip / 2 + 1e-9
        assert reading.round_trip < 1


# runs that end early, and files that cannot be --------------------------------------------------------------------


def test_an_interrupted_run_leaves_its_trace(tmp_path):
    calls = Counter()

    def signalled():
        calls[threading.current_thread().name] += 1
        return 15 if calls[threading.current_thread().name] > 2 else 0

    path = tmp_path / "t.json"
    config = zerosim.Config(hidden=(7,), batch_size=16, steps=9, test_fraction=0.25, trace=str(path))
    with pytest.raises(Interrupted):
        zerosim.run_threads(2, lambda comm: zerosim.train(config, comm, data=small_data(), signalled=signalled))
    assert [step["name"] for step in spans(read(path), 1, cat="step")] == ["step 1", "step 2", "step 3"]


SHORT = ("train", "--ranks", "2", "--hidden", "8", "--stage", "1", "--steps", "3")


def test_a_diverged_run_leaves_its_trace(tmp_path, capsys):
    path, words = tmp_path / "t.json", ["--lr", "1e30", "--optimizer", "sgd", "--precision", "fp32"]
    assert main([*SHORT, *words, "--trace", str(path), "--out", str(tmp_path)]) == Diverged.status
    said = capsys.readouterr()
    assert said.out == ""
    assert f"Trace: {path}" in " ".join(said.err.split())
    steps = spans(read(path), 0, cat="step")
    assert f"step {len(steps)}: the loss" in said.err


def test_a_full_disk_has_the_report(tmp_path, capsys, monkeypatch):
    def full(pieces, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trace, "write_whole", full)
    monkeypatch.setattr("zerosim.figures.write", lambda report, folder: [])
    path = tmp_path / "t.json"
    assert main([*SHORT, "--trace", str(path), "--out", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"zerosim: trace {path}: cannot be written (No space left on device)"
    assert json.loads(said.out) == json.loads((tmp_path / "report.json").read_text())
    assert main([*SHORT, "--trace", str(path), "--out", str(tmp_path), "--lr", "1e30", "--optimizer", "sgd"]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--trace", "no-such-folder/t.json"], "trace no-such-folder/t.json: cannot be written"),
        (["--trace", "."], "trace .: this is a folder"),
        (["--trace", "/dev/null"], "trace /dev/null: this is a pipe or a device"),
        (["--trace", ""], "trace: '' must be the name of a file"),
        (["--trace", "out/report.json"], "would be written over out's out/report.json"),
        (["--trace", "w", "--save", "w"], "would be written over save's w"),
        (["--trace", "t.json", "--trace-steps", "0"], "trace_steps: 0 must be a whole number of 1 or more"),
        (["--trace", "t.json", "--trace-steps", "x"], "argument --trace-steps: invalid int value"),
        (["--trace-steps", "3"], "trace_steps: it has no effect without trace"),
    ],
)
def test_bad_input(tmp_path, capsys, monkeypatch, words, complaint):
    """One line, before anything is trained."""
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--out", "out", *words]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert complaint in line
    assert said.out == ""
