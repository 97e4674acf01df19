"""Which algorithm for how many bytes: few messages for short vectors, few bytes for long ones.

The same for every verb, so that a bucket's numbers are added in the same order at every stage. The sizes where one
takes over were measured on 2 to 4 ranks of one machine (`collectives bench`); the order is that of the theory: Thakur,
Rabenseifner and Gropp (2005), section 5.
"""

SHORT = 128 << 10
LONG = 8 << 20
"""Bytes of the whole vector up to which it is short, and from which on it is long."""


def choice(nbytes: int, N: int) -> str:
    """Return the name of the algorithm for a vector of so many bytes on N ranks."""
    if nbytes >= LONG:
        return "ring"
    if N & (N - 1):
        return "bruck"
    return "doubling" if nbytes <= SHORT else "halving"
