"""A run as a file that ui.perfetto.dev and chrome://tracing open: the Chrome trace event format.

    {"displayTimeUnit": "ms", "otherData": {…}, "traceEvents": [{"name": …, "ph": …, "ts": …, "pid": …, "tid": …}, …]}

A rank is a process there (`pid`) of one thread. What it did is a complete event ("ph": "X") with its beginning `ts` and
its length `dur`; events nest, and an enclosing one comes first. What its ledger holds of a class is a counter ("C").
Source: Trace Event Format, Google, the document to which Perfetto's page "Visualizing external trace formats" points.

Times are microseconds since the run began, in whole eighths: these are exact in binary, so that events nest after
whatever a reader does with them.

Clocks of other processes are set against rank 0's as Cristian does (1989, "Probabilistic clock synchronization"): a
rank asks rank 0 for the time and takes the answer to be of the middle of the round trip, so it is wrong by half a round
trip at the most. Of several, the shortest counts. This is done before and after the run; in between, the difference is
taken to change evenly.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import zerosim
from zerosim.collectives import NATIVE
from zerosim.comm import CONTROL, Comm
from zerosim.config import Config
from zerosim.errors import Failed, Finished
from zerosim.jsonfile import write_whole
from zerosim.spans import Spans, carried
from zerosim.transport.watched import Span

Traced = Callable[[list[str]], None]
"""Called on rank 0, when all ranks are done or have failed together, with the pieces of the file's text."""

ROUND_TRIPS = 20
"""To ask for the time; measured: on one machine the shortest of so many is about that of a hundred."""


class Reading(NamedTuple):
    """A rank's clock beside rank 0's, both in seconds."""

    at: float
    """By the rank's clock."""
    offset: float
    """To be added to it for rank 0's."""
    round_trip: float


def read_clock(door: Comm, backend: str) -> Reading:
    """Set this rank's clock against that of rank 0. All ranks call it together."""
    best = Reading(time.perf_counter(), 0.0, 0.0)
    if backend == "threads":  # one process has one clock
        return best
    room = np.zeros(1)
    with door.booked_as(CONTROL):
        for rank in range(1, door.size):
            trips = [_ask(door, rank, room) for _ in range(ROUND_TRIPS)]
            if door.rank == rank:
                best = min(trips, key=lambda trip: trip.round_trip)
    return best


def _ask(door: Comm, rank: int, room: np.ndarray) -> Reading:
    """Let one rank ask rank 0 for the time; only what that rank returns means anything."""
    began = time.perf_counter()
    if door.rank == rank:
        door.send(room, 0)
        door.recv(room, 0)
    elif door.rank == 0:
        door.recv(room, rank)
        room[0] = time.perf_counter()
        door.send(room, rank)
    ended = time.perf_counter()
    middle = (began + ended) / 2
    return Reading(middle, room[0] - middle, ended - began)


@contextmanager
def tracing(config: Config, door: Comm, backend: str, traced: Traced | None = None) -> Iterator[Spans | None]:
    """Give this rank what listens to it inside the block, if a trace is asked for, and hand the trace to `traced`.

    If all ranks fail together in the block, it is a trace of what was done until then. Without `traced` it is written
    to its file.
    """
    if config.trace is None or config.trace_steps is None:
        yield None
        return
    first, spans = read_clock(door, backend), Spans(config.trace_steps)
    finish = partial(_hand_over, config, door, backend, spans, first, traced or partial(write_trace, path=config.trace))
    try:
        yield spans
    except Finished:
        raise
    except Failed:
        finish()
        raise
    finish()


def _hand_over(config: Config, door: Comm, backend: str, spans: Spans, first: Reading, traced: Traced) -> None:
    clocks = first, read_clock(door, backend)
    origin = min(door.numbers(_adjusted(clocks, first.at))[:, 0])
    readings = door.gather_values(clocks)
    text = ",\n".join(json.dumps(event) for event in _events(config, door.rank, spans, clocks, origin))
    about = {"displayTimeUnit": "ms", "otherData": _about(config, door, backend, readings)}
    pieces = [json.dumps(about)[:-1], ', "traceEvents": [']
    for number, events in enumerate(door.collect_bytes(text.encode())):
        pieces += [",\n" if number else "\n", events.decode()]
    door.on_first(traced, [*pieces, "\n]}\n"])


def _about(config: Config, door: Comm, backend: str, readings: list[Any]) -> dict[str, Any]:
    trips = [max(Reading(*one).round_trip for one in of_rank) for of_rank in readings]
    return {
        "zerosim": zerosim.__version__,
        "ranks": door.size,
        "backend": backend,
        "traced_steps_per_stage": config.trace_steps,
        "clocks": "one process, one clock" if backend == "threads" else "set against rank 0's, as Cristian does",
        "clock_uncertainty_us": [round(1e6 * trip / 2, 3) for trip in trips],
        "clock_offset_us": [[round(1e6 * Reading(*one).offset, 3) for one in of_rank] for of_rank in readings],
        "config": config.asdict(),
    }


# events --------------------------------------------------------------------------------------------------------------


def _adjusted(clocks: tuple[Reading, Reading], at: float) -> float:
    """Return when it was by rank 0's clock."""
    first, last = clocks
    share = (at - first.at) / (last.at - first.at)
    return at + first.offset + share * (last.offset - first.offset)


def _events(
    config: Config, rank: int, spans: Spans, clocks: tuple[Reading, Reading], origin: float
) -> Iterator[dict[str, Any]]:
    place = {"pid": rank, "tid": 0}
    for name, args in (
        ("process_name", {"name": f"rank {rank}"}),
        ("process_sort_index", {"sort_index": rank}),
        ("thread_name", {"name": "main"}),
    ):
        yield {"name": name, "ph": "M", "ts": 0, **place, "args": args}

    def micros(at: float) -> float:
        return round((_adjusted(clocks, at) - origin) * 8e6) / 8

    timed = [(micros(span.began), micros(span.ended), span) for span in spans.spans]
    outside_first = sorted(reversed(timed), key=lambda one: (one[0], -one[1]))
    for began, ended, span in outside_first:
        name, kind, args = _described(span, config.sync == "average")
        yield {"name": name, "cat": kind, "ph": "X", "ts": began, "dur": ended - began, **place, "args": args}
    for level in spans.levels:
        name = f"{level.place}{level.cls}"
        yield {"name": name, "ph": "C", "ts": micros(level.at), **place, "args": {"bytes": level.nbytes}}


def _described(span: Span, averaged: bool) -> tuple[str, str, dict[str, Any]]:
    """Return a span's name, category and arguments; control is told apart by its name."""
    if span.kind != "call":
        return span.name, span.kind, span.details
    cls = carried(span.details, averaged)
    args = {"verb": span.name, "class": cls, **span.details}
    if args.get("algorithm") == NATIVE:
        args["modelled"] = True
    return (f"{span.name} ({cls})" if cls == CONTROL else span.name), cls, args


# the file ------------------------------------------------------------------------------------------------------------


def write_trace(pieces: list[str], path: str) -> None:
    """Write a trace to its file, whole or not at all. Raises Failed if it cannot be written."""
    try:
        write_whole(pieces, Path(path))
    except OSError as error:
        raise Failed(f"trace {path}: cannot be written ({error.strerror or error})") from None
