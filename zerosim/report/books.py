"""A book of the report: bytes that were counted, per rank, and beside them the formula's."""

from typing import Any


def total_at_rest(run: dict[str, Any]) -> tuple[int, int, bool]:
    """Return bytes at rest of the fullest rank, the formula's, and whether all classes of all ranks equal it."""
    return fullest(run["memory"]["at_rest"])


def total_sent(run: dict[str, Any]) -> tuple[int, int, bool]:
    """Return bytes sent per step by the busiest rank, the formula's, and whether all verbs of all ranks equal it."""
    return fullest(run["traffic"]["per_step"])


def fullest(book: dict[str, Any]) -> tuple[int, int, bool]:
    """Return the greatest total of a rank, the formula's, and whether all of all ranks are equal."""
    measured, formula = book["measured"], book["formula_per_rank"]
    return max(map(total, measured)), max(map(total, formula)), measured == formula


def total(bytes_: dict[str, int] | int) -> int:
    """Return the sum over classes or verbs."""
    return bytes_ if isinstance(bytes_, int) else sum(bytes_.values())
