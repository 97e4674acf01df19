"""One exchange: what a rank sends to whom, and what it takes from whom, in one step of a collective."""

from typing import NamedTuple


class Exchange(NamedTuple):
    """Send slice `send` to rank `to` and receive slice `recv` from rank `source`, at the same time.

    With `reduce` the slice received is added to the one that is here; otherwise it takes its place. Slices and ranks
    are numbered 0 to N - 1.
    """

    to: int
    send: int
    source: int
    recv: int
    reduce: bool
