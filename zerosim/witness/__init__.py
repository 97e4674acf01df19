"""Witnesses: instruments that know nothing of the ledger and the door, and count the same bytes.

    interpreter   Python's own tracer of allocations: every NumPy array at rest, and the peak of a step
    os            the operating system: the pages that this process has written to, and the peak of what is resident
    wire          the kernel's network counters: what this process's own sockets have sent and received

A witness is told what happens and gives its testimony at the end, in bytes. What it says is never put into a book: it
stands beside the book in the report.
"""

from zerosim.witness.interpreter import Interpreter
from zerosim.witness.system import System
from zerosim.witness.wire import Wire, over_tcp
from zerosim.witness.witness import Witness

WITNESSES: dict[str, type[Witness]] = {"interpreter": Interpreter, "os": System, "wire": Wire}

__all__ = ["WITNESSES", "Witness", "over_tcp"]
