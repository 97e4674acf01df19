"""Arrays that are in no book: the interpreter's tracer says which of a reader's lines has made one that still lives."""

import linecache
import os
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import zerosim
from zerosim.exercises.verdict import Wrong

SMALL = 256
"""Bytes that a line may hold in arrays of its own: a few numbers, no slice of a layer."""

LOOKS = 4
"""How often an array must be seen, 50 ms apart, to be held."""

FRAMES = 12
"""Of the stack, kept for each allocation: NumPy's functions call one another."""

_NUMPY, ZEROSIM = (f"{Path(package.__file__ or '').parent}{os.sep}" for package in (np, zerosim))


@contextmanager
def traced() -> Iterator[Callable[[str], None]]:
    """Trace what is allocated inside the block, and give it a function look(when).

    It raises Wrong if there are arrays that neither NumPy nor zerosim has made for itself: made in lines of a reader's,
    since the block began. What the ledger lends is zerosim's. It sees the arrays of all ranks in this process.
    """
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start(FRAMES)
    before = _held()
    try:
        yield lambda when: _look(before, when)
    finally:
        if not already:
            tracemalloc.stop()


def _held() -> Counter[tuple[str, int, int]]:
    """How many arrays there are, by the file and the line that has made them, and by their bytes."""
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    held: Counter[tuple[str, int, int]] = Counter()
    for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces:
        if (line := _maker(trace.traceback)) is not None:
            held[*line, trace.size] += 1
    return held


def _maker(stack: tracemalloc.Traceback) -> tuple[str, int] | None:
    """The innermost line that is not NumPy's; None if it is zerosim's."""
    for frame in reversed(stack):
        if not frame.filename.startswith(_NUMPY):
            return None if frame.filename.startswith(ZEROSIM) else (frame.filename, frame.lineno)
    return None


def _look(before: Counter[tuple[str, int, int]], when: str) -> None:
    """Look several times: another rank may be in the midst of an expression, whose arrays are gone a moment later."""
    held = _held() - before
    for _ in range(LOOKS - 1):
        if held:
            time.sleep(0.05)
            held &= _held() - before
    total: Counter[tuple[str, int]] = Counter()
    for (file, number, nbytes), arrays in held.items():
        total[file, number] += arrays * nbytes
    for (file, number), nbytes in total.most_common(1):
        if nbytes > SMALL:
            largest = max(size for *line, size in held if line == [file, number])
            raise Wrong(
                f"an array of {largest:,} bytes that no book shows is held {when}; line {number} of yours has made it: "
                f'{linecache.getline(file, number).strip()}. Room is borrowed, with rank.ledger.borrow("buffers", '
                "elements, dtype), so that it is counted and given back"
            )
