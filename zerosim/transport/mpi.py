"""Ranks as MPI processes, through mpi4py. Bytes go out as bytes: MPI knows no float16."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from zerosim.errors import InputError
from zerosim.transport import Transport, Waits

_LAUNCHED_SIZE = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
_LAUNCHED_RANK = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


give_way = getattr(os, "sched_yield", lambda: None)
"""Called while waiting: the rank that is waited for may need this core."""

PATIENCE, NAP = 20, 1e-4
"""Where there are more ranks than cores, who has asked so often sleeps for so many seconds between two times."""


def _cores(neighbours: Any) -> int:
    """How many cores the processes of a communicator, all on one machine, may use together.

    Each says its own, for a job may have bound them to different ones.
    """
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len(set().union(*neighbours.allgather(set(own))))


def _octets(array: np.ndarray) -> np.ndarray:
    """What MPI can take as bytes: a type that NumPy does not have, such as bfloat16, only in disguise."""
    return array if array.dtype.isbuiltin == 1 else array.view(np.uint8)


def _add(incoming: Any, mine: Any, dtype: np.dtype) -> None:
    """Add for MPI what MPI cannot; the arguments are its buffers."""
    mine = np.frombuffer(mine, dtype)
    np.add(np.frombuffer(incoming, dtype), mine, out=mine)


def launched_rank() -> int | None:
    """Return the rank that mpirun, mpiexec or srun put in the environment; None: started by none of them."""
    return next((int(os.environ[name]) for name in _LAUNCHED_RANK if os.environ.get(name, "").isdigit()), None)


def end_all(status: int) -> NoReturn:
    """End every process that mpirun started, without a word, wherever this one has got to.

    On its way to an ordinary end it would wait in MPI_Finalize for the others. Before MPI_Init, when the others wait
    for it there, MPICH's mpirun ends them if this one dies of a signal, but not if it ends with a status.
    """
    sys.stdout.flush()
    MPI: Any = sys.modules.get("mpi4py.MPI")
    if hasattr(MPI, "COMM_WORLD") and MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.COMM_WORLD.Abort(status)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(status)


class MPITransport:
    """This process's end of an mpi4py communicator (default: MPI.COMM_WORLD), which is duplicated.

    `crowded` says whether there are more ranks than cores on this machine; None: that is found out.
    """

    backend = "mpi"

    def __init__(self, comm: Any = None, crowded: bool | None = None) -> None:
        from mpi4py import MPI

        world = MPI.COMM_WORLD if comm is None else comm
        self._comm = world.Dup()
        self.rank, self.size = world.rank, world.size
        neighbours = world.Split_type(MPI.COMM_TYPE_SHARED)
        self.here = neighbours.size
        self._crowded = self.here > _cores(neighbours) if crowded is None else crowded
        neighbours.Free()
        self._MPI, self._byte, self._status = MPI, MPI.BYTE, MPI.Status()
        self._types: dict[np.dtype, tuple[Any, Any]] = {}
        self.waits = Waits(self.size)
        self._parts: dict[tuple[int, ...], MPITransport] = {}

    def send(self, array: np.ndarray, to: int) -> Any:
        """See `zerosim.transport.Transport`."""
        return to, self._comm.Isend([_octets(array), self._byte], to)

    def recv(self, array: np.ndarray, source: int) -> int:
        """See `Transport`. The bytes that arrived are MPI's own count."""
        status = self._status
        request = self._comm.Irecv([_octets(array), self._byte], source)
        self._until(lambda: request.Test(status), source)
        return status.Get_count(self._byte)

    def wait(self, sending: Any) -> None:
        """See `Transport`."""
        to, request = sending
        self._until(request.Test, to)

    def _until(self, done: Callable[[], bool], partner: int) -> None:
        if done():
            return
        began = time.perf_counter()
        asked = 0
        while not done():
            asked += 1
            if self._crowded and asked > PATIENCE:
                time.sleep(NAP)
            else:
                give_way()
        self.waits.over(partner, began)

    def part(self, ranks: Sequence[int]) -> Transport:
        """See `Transport`."""
        if list(ranks) == list(range(self.size)):
            return self
        key = tuple(ranks)
        if key not in self._parts:
            group = self._comm.group.Incl(list(ranks))
            comm = self._comm.Create_group(group)
            self._parts[key] = MPITransport(comm, self._crowded)
            comm.Free()
            group.Free()
        return self._parts[key]

    def sleep_until_all(self) -> None:
        """Wait for all ranks without keeping a core busy."""
        barrier = self._comm.Ibarrier()
        while not barrier.Test():
            time.sleep(0.005)

    def barrier(self) -> None:
        """Wait for all ranks, as the MPI library does it; benchmarks start from here."""
        self._comm.Barrier()

    def native(
        self, verb: str, vector: np.ndarray, out: np.ndarray | None = None, counts: Sequence[int] | None = None
    ) -> None:
        """Do a verb on a vector of N slices by the MPI library's own collective.

        The slices have so many elements each, if None as equally many as can be.

        MPI sums float32, float64 and whole numbers. It knows no 16-bit floats: those travel as they are, and the
        library calls back here to add them. reduce_scatter puts the own slice into `out`, or else into the vector.
        """
        MPI, comm = self._MPI, self._comm
        N, n, data = self.size, vector.size, _octets(vector)
        if counts is None:
            counts = [n * (rank + 1) // N - n * rank // N for rank in range(N)]
        equal = len(set(counts)) == 1
        datatype, add = self._type_and_sum(vector.dtype)
        if verb == "all_reduce":
            comm.Allreduce(MPI.IN_PLACE, [data, n, datatype], add)
        elif verb == "all_gather" and equal:
            comm.Allgather(MPI.IN_PLACE, [data, counts[0], datatype])
        elif verb == "all_gather":
            comm.Allgatherv(MPI.IN_PLACE, [data, counts, None, datatype])
        else:
            own = sum(counts[: self.rank])
            room = np.empty(counts[self.rank], vector.dtype) if out is None else out
            mine = [_octets(room), counts[self.rank], datatype]
            if equal:
                comm.Reduce_scatter_block([data, counts[0], datatype], mine, add)
            else:
                comm.Reduce_scatter([data, n, datatype], mine, counts, add)
            if out is None:
                vector[own : own + room.size] = room

    def _type_and_sum(self, dtype: np.dtype) -> tuple[Any, Any]:
        if dtype not in self._types:
            self._types[dtype] = (
                (dtype.char, self._MPI.SUM)
                if dtype.isbuiltin == 1 and dtype != np.float16
                else (
                    self._byte.Create_contiguous(dtype.itemsize).Commit(),
                    self._MPI.Op.Create(lambda a, b, _: _add(a, b, dtype), commute=True),
                )
            )
        return self._types[dtype]

    def abort(self) -> None:
        """Print this rank's traceback and end every process of the world with status 1."""
        if self.size == 1:
            return
        sys.stdout.flush()
        error = sys.exception()
        if isinstance(error, KeyboardInterrupt):  # all ranks are told at once: no tracebacks
            end_all(getattr(error, "status", 130))
        why = f"failed:\n{traceback.format_exc()}"
        if isinstance(error, self._MPI.Exception):
            why = f"could not send or receive ({error}): another rank may be gone"
        print(f"zerosim: rank {self.rank} of {self.size} {why}", file=sys.stderr, flush=True)
        self._comm.Abort(1)


def world() -> MPITransport:
    """Return this process's place in MPI.COMM_WORLD.

    Raises InputError if there is no MPI library, or if mpirun and mpi4py belong to different ones, in which case
    every process would take itself for the only one.
    """
    try:
        transport = MPITransport()
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"no MPI library for mpi4py ({reason}): install zerosim[mpi], or use --ranks N") from None
    started = max((int(os.environ[name]) for name in _LAUNCHED_SIZE if os.environ.get(name, "").isdigit()), default=1)
    if transport.size == 1 and started > 1:
        raise InputError(
            f"mpirun started {started} processes, but MPI sees one: "
            "mpirun and mpi4py must belong to the same MPI library"
        )
    return transport
