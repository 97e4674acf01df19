"""A book of the report: bytes that were counted, per rank, and beside them the formula's."""

from typing import Any

_KINDS = ("measured", "formula_per_rank")


def total_at_rest(run: dict[str, Any]) -> tuple[int, int, bool]:
    """Return bytes at rest of the fullest rank, the formula's, and whether all classes of all ranks equal it."""
    return fullest(run["memory"]["at_rest"])


def total_sent(run: dict[str, Any]) -> tuple[int, int, bool]:
    """Return bytes sent per step by the busiest rank to all groups, the formula's, and whether all are equal."""
    books = [run["traffic"]["per_step"], *run["traffic"]["model_parallel"].values()]
    sums = {
        kind: [sum(map(total, own)) for own in zip(*(book[kind] for book in books), strict=True)] for kind in _KINDS
    }
    return max(sums[_KINDS[0]]), max(sums[_KINDS[1]]), all(fullest(book)[2] for book in books)


def sent_on_average(run: dict[str, Any]) -> float:
    """Return bytes sent per step by the busiest rank, where not all steps are alike the mean of them."""
    return max(run["sync"]["sent"]["measured"]) / run["steps"] if "sync" in run else total_sent(run)[0]


def fullest(book: dict[str, Any]) -> tuple[int, int, bool]:
    """Return the greatest total of a rank, the formula's, and whether all of all ranks are equal."""
    measured, formula = (book[kind] for kind in _KINDS)
    return max(map(total, measured)), max(map(total, formula)), measured == formula


def total(bytes_: dict[str, int] | int) -> int:
    """Return the sum over classes or verbs."""
    return bytes_ if isinstance(bytes_, int) else sum(bytes_.values())


def updates_here(run: dict[str, Any]) -> int:
    """Return how many steps have updated the weights in this run, those before a checkpoint not counted."""
    return run["steps"] - run["skipped_steps"] - run.get("resumed", {}).get("updates", 0)
