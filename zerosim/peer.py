"""The same training in PyTorch over gloo, to compare with: the same model, loss and optimizers, one thread per rank.

Each stage has its counterpart there, set up as its users would for speed. What differs from the stages here:
ZeroRedundancyOptimizer deals out whole arrays to the ranks and not slices, so their shares are unequal; and FSDP keeps
no more than a slice of the parameters between two steps, with SHARD_GRAD_OP too, which gathers them once per step.

PyTorch is an extra and takes seconds to load: it is imported where it is needed, never with this module.
"""

import ctypes
import gc
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np

from zerosim.comm import Comm
from zerosim.errors import InputError

PEERS: dict[int, str] = {0: "DDP", 1: "DDP + ZeroRedundancyOptimizer", 2: "FSDP SHARD_GRAD_OP", 3: "FSDP FULL_SHARD"}
"""PyTorch's counterpart of each stage of ZeRO."""

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
"""Names here, and the classes of torch.optim."""

TIMEOUT = timedelta(seconds=60)
"""How long a rank waits for one that does not answer."""

_HOST = "127.0.0.1"
_INTERFACE = "GLOO_SOCKET_IFNAME"


# the process group ---------------------------------------------------------------------------------------------------


@contextmanager
def gloo(comm: Comm) -> Iterator[None]:
    """Make the ranks of `comm` PyTorch's default process group inside a `with` block, over the loopback interface.

    PyTorch is held to one thread meanwhile. Raises InputError, on all ranks together, if there is no PyTorch with gloo,
    or if the ranks are not processes of one machine. If one rank alone leaves the block by an exception, the others
    raise RuntimeError where they wait for it, after `TIMEOUT`; `Transport.abort` ends them sooner.
    """
    torch = comm.agreed(_torch)
    _check_one_machine(comm)
    store = _meet(comm)
    distributed, threads = torch.distributed, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _loopback():
            distributed.init_process_group("gloo", store=store, rank=comm.rank, world_size=comm.size, timeout=TIMEOUT)
        yield
        distributed.barrier()  # nobody hangs up while another still listens
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        torch.set_num_threads(threads)


def check() -> None:
    """Raise InputError if PyTorch is not installed; it is not loaded for that."""
    if find_spec("torch") is None:
        raise InputError("torch: PyTorch is not installed: pip install 'zerosim[torch]'")


def _torch() -> Any:
    check()
    import torch
    import torch.distributed

    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        raise InputError(
            "torch: this PyTorch was built without gloo; pip install 'zerosim[torch]' brings one that has it"
        )
    return torch


def _check_one_machine(comm: Comm) -> None:
    """PyTorch has one process group per process, and this one is to be on the loopback interface."""
    hosts, processes = zip(*(text.split(b"\0") for text in comm.gather_bytes(_address())), strict=True)
    if len(set(hosts)) > 1:
        raise InputError("torch: the ranks are on several machines; the comparison is for ranks of one machine")
    if len(set(processes)) < comm.size:
        raise InputError("torch: in-process ranks cannot run PyTorch, which wants a process each; start with mpirun")


def _address() -> bytes:
    return f"{socket.gethostname()}\0{os.getpid()}".encode()


def _meet(comm: Comm) -> Any:
    """Return a store where all ranks meet: rank 0 serves it on a free port, which it tells the others."""
    server = comm.agreed(_open_port) if comm.rank == 0 else comm.agreed(lambda: None)
    port = int(comm.gather_bytes(str(server.getsockname()[1]).encode() if server else b"")[0])
    return comm.agreed(_store, comm, port, server)


def _open_port() -> socket.socket:
    try:
        return socket.create_server((_HOST, 0))
    except OSError as error:
        raise InputError(f"torch: no free port on {_HOST}: {error.strerror}") from None


def _store(comm: Comm, port: int, server: socket.socket | None) -> Any:
    from torch.distributed import TCPStore

    try:
        if server is None:
            return TCPStore(_HOST, port, comm.size, is_master=False, timeout=TIMEOUT)
        return TCPStore(
            _HOST,
            port,
            comm.size,
            is_master=True,
            timeout=TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=server.detach(),  # PyTorch's own socket would be open to the network
        )
    except RuntimeError as error:
        raise InputError(f"torch: the ranks do not meet at {_HOST}:{port}: {str(error).splitlines()[0]}") from None


@contextmanager
def _loopback() -> Iterator[None]:
    """Let gloo use the loopback interface, where there is one of a usual name; else it takes the host name's."""
    before = os.environ.get(_INTERFACE)
    names = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if names:
        os.environ[_INTERFACE] = names.pop()
    try:
        yield
    finally:
        os.environ.pop(_INTERFACE, None)
        if before is not None:
            os.environ[_INTERFACE] = before


# the training --------------------------------------------------------------------------------------------------------


class Peer:
    """One rank's part of a training in PyTorch, float32 on the CPU; to be used inside `gloo`, by all ranks alike.

    `stage` is one of `PEERS`, `widths` are those of the layers, inputs first, and `optimizer` is one of `OPTIMIZERS`
    with learning rate `lr` and PyTorch's defaults. `weights(k)` returns W (outputs, inputs) and b (outputs,) of layer k
    in float32, the same on all ranks; left out, PyTorch draws them, the same on all ranks too. Each layer is an FSDP
    unit, and is sharded as soon as it is made. Raises InputError if there is no PyTorch, stage or optimizer like that.
    """

    def __init__(
        self,
        stage: int,
        widths: list[int],
        optimizer: str,
        lr: float,
        rank: int,
        size: int,
        weights: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        if stage not in PEERS:
            raise InputError(f"torch: there is no stage {stage}; it must be one of {', '.join(map(str, PEERS))}")
        if optimizer not in OPTIMIZERS:
            raise InputError(f"torch: no peer for optimizer {optimizer}; it must be one of {', '.join(OPTIMIZERS)}")
        torch = _torch()
        self.stage, self.rank, self.size = stage, rank, size
        self._torch, self._layers, units = torch, [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for k, (inputs, outputs) in enumerate(pairwise(widths)):
                layer = torch.nn.Linear(inputs, outputs)
                if weights is not None:
                    with torch.no_grad():
                        for parameter, values in zip(_parameters(layer), weights(k), strict=True):
                            parameter.copy_(torch.tensor(values))
                self._layers.append(layer)
                units += [self._sharded(layer) if stage >= 2 else layer, torch.nn.ReLU()]
        model = torch.nn.Sequential(*units[:-1])
        if stage >= 2:
            self._model = self._sharded(model)
        else:
            self._model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        self._optimizer = self._update_rule(getattr(torch.optim, OPTIMIZERS[optimizer]), lr)

    def _sharded(self, module: Any) -> Any:
        from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

        strategy = ShardingStrategy.SHARD_GRAD_OP if self.stage == 2 else ShardingStrategy.FULL_SHARD
        with warnings.catch_warnings():  # a single rank has nothing to shard, and that is as it should be
            warnings.filterwarnings("ignore", "FSDP is switching to use `NO_SHARD`")
            warnings.filterwarnings("ignore", "The `NO_SHARD` sharding strategy is deprecated")
            return FullyShardedDataParallel(module, sharding_strategy=strategy, device_id=self._torch.device("cpu"))

    def _update_rule(self, rule: Any, lr: float) -> Any:
        if self.stage != 1:
            return rule(self._model.parameters(), lr=lr, fused=True)
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(
            self._model.parameters(), rule, parameters_as_bucket_view=True, lr=lr, fused=True
        )

    def step(self, x: np.ndarray, y: np.ndarray, batch: int) -> float:
        """Take a training step on this rank's rows of a global batch of `batch` rows; return their summed loss.

        `x` (rows, inputs) is float32 and `y` (rows,) holds class numbers in int64; both are read in place. The loss is
        the cross-entropy, and its gradient the mean's over the global batch, also if ranks have unequally many rows.
        """
        torch = self._torch
        self._optimizer.zero_grad(set_to_none=True)
        logits = self._model(torch.from_numpy(x))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="sum")
        (loss * (self.size / batch)).backward()  # DDP and FSDP take the mean over the ranks
        self._optimizer.step()
        return float(loss.detach())

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return copies of W (outputs, inputs) and b (outputs,) of each layer in float32, whole, on every rank.

        All ranks must call it together.
        """
        if self.stage < 2:
            return self._copies()
        with self._model.summon_full_params(self._model, writeback=False):
            return self._copies()

    def _copies(self) -> list[tuple[np.ndarray, np.ndarray]]:
        # copied by PyTorch: FSDP could not free what NumPy has once had in view
        return [(W.detach().clone().numpy(), b.detach().clone().numpy()) for W, b in map(_parameters, self._layers)]

    def close(self) -> None:
        """Give the memory of model, gradients and optimizer states back to the system; this is the last call."""
        for layer in self._layers:
            vars(layer).clear()  # FSDP leaves views here, with a way back to its parameters that gc cannot see
        self._layers.clear()
        self._model = self._optimizer = None
        gc.collect()
        trim = getattr(ctypes.pythonapi, "malloc_trim", None)  # the GNU C library keeps what was freed
        if trim is not None:
            trim(0)


def _parameters(layer: Any) -> tuple[Any, Any]:
    return layer.weight, layer.bias
