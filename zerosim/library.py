"""ZeRO's first stage for a training loop of your own: plain optimizers, and a wrapper that shares out their states.

    optimizer = zerosim.ZeroRedundancyOptimizer(zerosim.SGD(parameters, lr=0.01), comm)
    ...                        # each rank makes the gradient of the mean over its own rows
    optimizer.step()           # averages gradients, updates this rank's slices, gathers all parameters
    optimizer.zero_grad()

The names are PyTorch's (torch.optim, torch.distributed.optim.ZeroRedundancyOptimizer). PyTorch's wrapper shares out
whole tensors and leaves the averaging to DistributedDataParallel; this one cuts every tensor into N slices, as
`zerosim.stages.zero1` does, and averages too.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from zerosim import optim
from zerosim.comm import Comm
from zerosim.ledger import Ledger
from zerosim.partition import Bucket, Layout
from zerosim.transport import connect


class Parameter:
    """An array to be trained, float32 or float64 (copied), and its gradient of the same shape, or None."""

    def __init__(self, data: Any) -> None:
        data = np.asarray(data)
        self.data = np.array(data, data.dtype if data.dtype in (np.float32, np.float64) else np.float32, order="C")
        self.grad: np.ndarray | None = None

    def flat_gradient(self) -> np.ndarray:
        """Return the gradient as a vector. Raises ValueError if there is none, or one of another shape."""
        if self.grad is None:
            raise ValueError(f"a parameter of shape {self.data.shape} has no gradient; set its grad before step()")
        gradient = np.asarray(self.grad, self.data.dtype)
        if gradient.shape != self.data.shape:
            raise ValueError(f"a parameter of shape {self.data.shape} has a gradient of shape {gradient.shape}")
        return gradient.reshape(-1)


class Optimizer:
    """A rule of `zerosim.optim` for a list of parameters. States are made at the first step.

    Raises ValueError for no parameters, or for parameters of several dtypes.
    """

    rule = ""
    lr = 0.001
    weight_decay = 0.0

    def __init__(
        self, parameters: Iterable[Parameter], lr: float | None = None, weight_decay: float | None = None
    ) -> None:
        self.parameters = list(parameters)
        dtypes = {parameter.data.dtype for parameter in self.parameters}
        if len(dtypes) != 1:
            raise ValueError("an optimizer needs parameters, all of one dtype" + f"; not {sorted(map(str, dtypes))}")
        self.lr = self.lr if lr is None else lr
        self.weight_decay = self.weight_decay if weight_decay is None else weight_decay
        self._ledger = Ledger()
        self._updater = self.updater()
        self._states: list[dict[str, np.ndarray]] = []

    @property
    def started(self) -> bool:
        """Whether there has been a step, so that there are states."""
        return self._updater.t > 0

    def updater(self) -> optim.Optimizer:
        """Return the rule with these settings, at step 0."""
        return optim.Optimizer(self.rule, self.lr, self.weight_decay, mixed=False)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Update every parameter with its gradient, in place."""
        gradients = [parameter.flat_gradient() for parameter in self.parameters]
        if not self.started:
            self._states = [{name: np.zeros_like(gradient) for name in self._updater.states} for gradient in gradients]
        self._updater.t += 1
        for parameter, gradient, states in zip(self.parameters, gradients, self._states, strict=True):
            self._updater.step(parameter.data.reshape(-1), gradient, states, 1.0, self._ledger)


class SGD(Optimizer):
    """Plain gradient descent (`zerosim.optim.sgd`)."""

    rule, lr = "sgd", 0.001


class Momentum(Optimizer):
    """Heavy-ball momentum, 0.9 (`zerosim.optim.momentum`)."""

    rule, lr = "momentum", 0.001


class Adam(Optimizer):
    """Adam (`zerosim.optim.adam`)."""

    rule = "adam"


class AdamW(Optimizer):
    """Adam with decoupled weight decay (`zerosim.optim.adamw`)."""

    rule, weight_decay = "adamw", 0.01


class ZeroRedundancyOptimizer:
    """An optimizer whose states are shared out among the ranks of `comm`: each rank holds 1/N of them (ZeRO, stage 1).

    `comm` is what `run_threads` hands to its function, an mpi4py communicator, or None, a world of one rank. All ranks
    make it, and call `step`, together, for parameters of the same shapes. Raises ValueError if the optimizer has
    stepped already: then this rank holds all states.
    """

    def __init__(self, optimizer: Optimizer, comm: Any = None) -> None:
        if optimizer.started:
            raise ValueError("the optimizer has stepped and holds all states already; wrap it before its first step")
        transport = connect(comm)
        self.optimizer = optimizer
        self._ledger = Ledger()
        self._door = Comm(transport, self._ledger)
        self._updater = optimizer.updater()
        sizes = [parameter.data.size for parameter in optimizer.parameters]
        self._layout = Layout(sizes, transport.size, transport.rank)
        self._dtype = optimizer.parameters[0].data.dtype
        self._states = {}
        for name in self._updater.states:
            self._states[name] = self._ledger.take("optimizer_states", self._layout.shard, self._dtype)
            self._states[name].fill(0)

    @property
    def held(self) -> dict[str, int]:
        """Bytes that this rank holds for the optimizer now, by memory class; parameters and gradients are yours."""
        return dict(self._ledger.now)

    @property
    def sent(self) -> dict[str, int]:
        """Bytes that this rank has sent so far, by verb."""
        return dict(self._door.sent)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """Average the ranks' gradients, update this rank's slice of each parameter, and gather all slices."""
        gradients = [parameter.flat_gradient() for parameter in self.optimizer.parameters]
        self._updater.t += 1
        for bucket, gradient in zip(self._layout.buckets(), gradients, strict=True):
            self._update(bucket, self.optimizer.parameters[bucket.layer].data.reshape(-1), gradient)

    def _update(self, bucket: Bucket, weights: np.ndarray, gradient: np.ndarray) -> None:
        with self._ledger.borrow("buffers", (2, bucket.size), self._dtype) as (new, mean):
            for padded, values in ((new, weights), (mean, gradient)):
                padded[: values.size] = values
                padded[values.size :] = 0
            self._door.reduce_scatter(mean)
            states = {name: state[bucket.shard] for name, state in self._states.items()}
            self._updater.step(new[bucket.part], mean[bucket.part], states, 1 / self._door.size, self._ledger)
            self._door.all_gather(new)
            weights[:] = new[: weights.size]
