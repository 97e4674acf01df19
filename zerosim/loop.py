"""ZeRO for a training loop of one's own, by PyTorch's names: parameters, optimizers, and a wrapper that shards them.

    optimizer = ZeroRedundancyOptimizer(SGD(model.parameters, lr=0.01), comm)
    optimizer.zero_grad()
    loss = model.backward(x, y)
    optimizer.step()

The wrapper is stage 1 (`zerosim.stages.zero1`), gradients averaged included: PyTorch's class of that name leaves these
to DistributedDataParallel. It slices every parameter in N where PyTorch's gives whole parameters to ranks.
"""

import hashlib
import json
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np

from zerosim.comm import Comm
from zerosim.config import Config
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.mlp import MLP
from zerosim.optim import Optimizer
from zerosim.partition import Layout
from zerosim.transport import connect


class Parameter:
    """An array that is trained, a copy of `data`: float32 or float64, of any shape. `grad` is None, or like `data`.

    What is assigned to `data` is written into it, so that it stays where an optimizer has put it. Raises InputError if
    `data` is empty or of another dtype.
    """

    def __init__(self, data: Any) -> None:
        array = np.array(_array("Parameter: data", data), order="C")
        _check_dtype("Parameter", array.dtype)
        if not array.size:
            raise InputError(f"Parameter: the shape {array.shape} has no element; it must have one or more")
        self._data = array
        self.grad: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        """The values."""
        return self._data

    @data.setter
    def data(self, values: Any) -> None:
        self._data[...] = values

    def move(self, vector: np.ndarray) -> None:
        """Keep the values in this vector from now on."""
        vector[:] = self._data.reshape(-1)
        self._data = vector.reshape(self._data.shape)


class PlainOptimizer:
    """Updates a list of parameters by one of `zerosim.optim.RULES`, whose states it takes at the first step.

    `lr` and `weight_decay` left at None are `zerosim.Config`'s; momentum is 0.9, Adam's betas are 0.9 and 0.999, its
    epsilon 1e-8. Raises InputError if there are no parameters, if they are not of one dtype, or for a setting that
    cannot be.
    """

    name = ""

    def __init__(
        self, parameters: Iterable[Parameter], lr: float | None = None, weight_decay: float | None = None
    ) -> None:
        self.parameters = _listed(parameters)
        _check_parameters(self.parameters)
        config = Config(optimizer=self.name, lr=lr, weight_decay=weight_decay)
        self.lr, self.weight_decay = config.lr or 0.0, config.weight_decay or 0.0
        self.rule = Optimizer(self.name, self.lr, self.weight_decay, mixed=False)
        self.dtype = self.parameters[0].data.dtype
        self.ledger = Ledger()
        self.states: list[dict[str, np.ndarray]] = []
        """For each parameter, once there has been a step: vectors by name."""
        self.wrapped = False

    @property
    def held(self) -> dict[str, int]:
        """Bytes held by class: the states alone, for parameters and gradients are the caller's."""
        return dict(self.ledger.now)

    def zero_grad(self) -> None:
        """Set every gradient to zeros, to be added to or replaced. Raises InputError if a wrapper has taken over."""
        self._check_own("zero_grad")
        for parameter in self.parameters:
            parameter.grad = np.zeros_like(parameter.data)

    def step(self) -> None:
        """Update every parameter with its gradient. Raises InputError if one is missing or unlike its parameter."""
        self._check_own("step")
        gradients = _gradients(self.parameters)
        self.states = self.states or [take_states(self, parameter.data.size) for parameter in self.parameters]
        self.rule.t += 1
        for parameter, gradient, states in zip(self.parameters, gradients, self.states, strict=True):
            self.rule.step(parameter.data.reshape(-1), gradient.reshape(-1), states, 1.0, self.ledger)

    def _check_own(self, method: str) -> None:
        """Raise InputError if a wrapper has these parameters and their gradients: they lie in its vectors."""
        if self.wrapped:
            raise InputError(f"{method}: this optimizer is wrapped; call {method}() of its ZeroRedundancyOptimizer")


class SGD(PlainOptimizer):
    """p <- p - lr (g + weight_decay p)."""

    name = "sgd"


class Momentum(PlainOptimizer):
    """Heavy-ball momentum, torch.optim.SGD with momentum 0.9."""

    name = "momentum"


class Adam(PlainOptimizer):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980)."""

    name = "adam"


class AdamW(PlainOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    name = "adamw"


class ZeroRedundancyOptimizer:
    """A plain optimizer whose states are sharded over the ranks of `comm`: stage 1, P_os (ZeRO, section 5.1).

    `comm` is what `zerosim.run_threads` hands to its function, or an mpi4py communicator; None is a world of one rank.
    All ranks make the wrapper and call its methods together, and begin with the same parameters. These move into one
    padded vector (`zerosim.partition.Layout`), of which `Parameter.data` are views from then on.

    Raises InputError, on all ranks, if the optimizer is none, is wrapped already or has stepped, or if ranks differ;
    and on its own if `comm` is no communicator.
    """

    def __init__(self, optimizer: PlainOptimizer, comm: Any = None) -> None:
        _check_made(comm)  # in PyTorch a class stands there: parameters, optimizer_class
        self._ledger = Ledger()
        self._comm = Comm(connect(comm), self._ledger)
        self._comm.agreed(_check_plain, optimizer)
        self._optimizer, self._parameters = optimizer, optimizer.parameters
        self._check_alike()
        optimizer.wrapped, optimizer.ledger = True, self._ledger
        sizes = [parameter.data.size for parameter in self._parameters]
        self.layout = Layout(sizes, self._comm.size, self._comm.rank)
        self._vector = self._zeros("parameters")
        self._gradients = self._zeros("gradients")
        for bucket, parameter in zip(self.layout.buckets(), self._parameters, strict=True):
            parameter.move(self._vector[bucket.full][: bucket.stop])
            parameter.grad = None
        self._states = take_states(optimizer, self.layout.shard)

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self._comm.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._comm.size

    @property
    def held(self) -> dict[str, int]:
        """Bytes that this rank holds now, by class; an array of yours that is a `grad` is not among them."""
        return dict(self._ledger.now)

    @property
    def sent(self) -> dict[str, int]:
        """Bytes that this rank has sent so far, by verb; "control" is for checks and for `mean`."""
        return dict(self._comm.sent)

    def zero_grad(self) -> None:
        """Set every gradient to zeros, to be added to or replaced."""
        self._gradients.fill(0)
        for bucket, parameter in zip(self.layout.buckets(), self._parameters, strict=True):
            parameter.grad = self._gradients[bucket.full][: bucket.stop].reshape(parameter.data.shape)

    def step(self) -> None:
        """Average the gradients over the ranks, update the own slices, and gather all parameters.

        The gradients are used up: sums are made in their place, so every `grad` is None afterwards. Raises InputError,
        on all ranks, if any rank's gradient is missing or unlike its parameter.
        """
        gradients, buckets = self._comm.agreed(_gradients, self._parameters), self.layout.buckets()
        for bucket, parameter, gradient in zip(buckets, self._parameters, gradients, strict=True):
            self._gradients[bucket.full][: bucket.stop] = gradient.reshape(-1)  # padding is 0, and so are its sums
            parameter.grad = None
        self._comm.reduce_scatter(*[self._gradients[bucket.full] for bucket in buckets])
        rule = self._optimizer.rule
        rule.t += 1
        for bucket in buckets:
            states = {name: state[bucket.shard] for name, state in self._states.items()}
            own = bucket.own
            rule.step(self._vector[own], self._gradients[own], states, 1 / self._comm.size, self._ledger)
        self._comm.all_gather(*[self._vector[bucket.full] for bucket in buckets])

    def mean(self, number: float) -> float:
        """Return the mean of a number (a loss) over the ranks: the same bits on all of them."""
        return self._comm.sum(number)[0] / self._comm.size

    def _zeros(self, cls: str) -> np.ndarray:
        vector = self._ledger.take(cls, self.layout.padded, self._optimizer.dtype)
        vector.fill(0)
        return vector

    def _check_alike(self) -> None:
        """Raise InputError on all ranks if not all of them begin with the same: they would differ forever."""
        plain = self._optimizer
        shapes = [parameter.data.shape for parameter in self._parameters]
        settings = [plain.name, plain.lr, plain.weight_decay, str(plain.dtype), shapes]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for parameter in self._parameters:
            digest.update(parameter.data.data)
        everyone = self._comm.gather_bytes(digest.digest())
        for rank, theirs in enumerate(everyone):
            if theirs != everyone[0]:
                raise InputError(
                    f"ZeroRedundancyOptimizer: parameters or settings of rank {rank} are not those of rank 0; "
                    "all ranks must begin with the same (the same seed, say)"
                )


class Linear:
    """The model y = W x + b for classification, with the passes of `zerosim.mlp.MLP`.

    `parameters` is a list of one: W (outputs, inputs) row by row, then b. W is normal with variance 2 / inputs, as in
    `zerosim.train` with the same seed, and b 0. Raises InputError for a width below 1, a seed below 0, or a dtype other
    than float32 and float64.
    """

    def __init__(self, inputs: int, outputs: int, seed: int = 0, dtype: Any = np.float32) -> None:
        inputs, outputs = _whole("inputs", inputs, 1), _whole("outputs", outputs, 1)
        seed = _whole("seed", seed, 0)
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            raise InputError(f"Linear: dtype is {dtype!r}; it must be float32 or float64") from None
        _check_dtype("Linear", dtype)
        self._mlp = MLP([inputs, outputs], dtype, dtype, Ledger())
        vector = np.zeros(self._mlp.sizes[0], dtype)
        W, _ = self._mlp.views(0, vector)
        np.random.default_rng([seed, 0, 0]).standard_normal(out=W, dtype=W.dtype)
        W *= np.sqrt(2 / inputs)
        self.parameters = [Parameter(vector)]

    def backward(self, x: np.ndarray, y: np.ndarray) -> float:
        """Return the softmax cross-entropy, a mean over rows, and add its gradient to the parameter's `grad`.

        `x` has the shape (rows, inputs), `y` holds a class number for each row, from 0 to outputs - 1. Raises
        InputError for any other, and for no rows; `grad` is then as it was.
        """
        (parameter,) = self.parameters
        x, y = self._checked(x, y)
        if parameter.grad is None:
            parameter.grad = np.zeros_like(parameter.data)
        _gradients(self.parameters)
        logits = self._mlp.forward(0, parameter.data, x)
        loss = self._mlp.cross_entropy(logits, y, 1 / y.size) / y.size
        self._mlp.parameter_gradient(x, logits, 0, parameter.data.size, parameter.grad, add=True)
        self._mlp.ledger.release(logits)
        return loss

    def _checked(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return x as `MLP` has it, (inputs, rows), and y, both of this rank alone: each rank has its own rows."""
        inputs, outputs = self._mlp.widths
        x, y = _array("Linear: x", x), _array("Linear: y", y)
        if x.dtype.kind not in "fiub" or x.ndim != 2 or x.shape[1] != inputs:
            raise InputError(f"Linear: x is {x.dtype} {x.shape}; it must be numbers of the shape (rows, {inputs})")
        if not len(x):
            raise InputError("Linear: x has no rows; every rank's part of a batch must have one or more")
        if y.dtype.kind not in "iu" or y.shape != (len(x),):
            raise InputError(
                f"Linear: y is {y.dtype} {y.shape}; it must be class numbers, integers, of the shape ({len(x)},)"
            )
        if (wrong := (y < 0) | (y >= outputs)).any():
            row = int(wrong.argmax())
            raise InputError(f"Linear: y[{row}] is {y[row]}; classes must be numbered 0 to {outputs - 1}")
        return np.asarray(x, self.parameters[0].data.dtype).T, y


def take_states(optimizer: PlainOptimizer, elements: int) -> dict[str, np.ndarray]:
    """Take an optimizer's states for so many elements from its ledger, as zeros."""
    states = {
        name: optimizer.ledger.take("optimizer_states", elements, optimizer.dtype) for name in optimizer.rule.states
    }
    for state in states.values():
        state.fill(0)
    return states


def _array(what: str, values: Any) -> np.ndarray:
    """Return the values as an array. Raises InputError if they are none, such as rows of different lengths."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError):
        raise InputError(f"{what} is no array; its rows must have equal lengths") from None


def _check_dtype(what: str, dtype: np.dtype) -> None:
    if dtype not in (np.float32, np.float64):
        raise InputError(f"{what}: {dtype} cannot be trained; it must be float32 or float64")


def _whole(name: str, value: Any, least: int) -> int:
    """Return a whole number, NumPy's too. Raises InputError for anything else, and below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"Linear: {name} is {value!r}; it must be a whole number of {least} or more")
    return int(value)


def _listed(parameters: Any) -> list[Parameter]:
    try:
        return list(parameters)
    except TypeError:
        hint = "model.parameters" if hasattr(parameters, "parameters") else "[parameter]"
        found = type(parameters).__name__
        raise InputError(f"parameters: {found} is no list; it must be one of zerosim.Parameter, as {hint}") from None


def _check_parameters(parameters: list[Parameter]) -> None:
    if not parameters:
        raise InputError("parameters: the list is empty; an optimizer needs one parameter or more")
    for i, parameter in enumerate(parameters):
        if not isinstance(parameter, Parameter):
            raise InputError(f"parameters[{i}]: {type(parameter).__name__} must be a zerosim.Parameter")
    if len(set(map(id, parameters))) < len(parameters):
        raise InputError("parameters: one is in the list twice; each must be there once")
    dtypes = sorted({str(parameter.data.dtype) for parameter in parameters})
    if len(dtypes) > 1:
        raise InputError(f"parameters: {' and '.join(dtypes)} are mixed; all must be of one dtype")


def _check_made(what: Any) -> None:
    """Raise InputError for a class of optimizers, whether it is given for the optimizer or after it."""
    if isinstance(what, type) and issubclass(what, PlainOptimizer):
        name = what.__name__
        raise InputError(
            f"ZeroRedundancyOptimizer: {name} is a class; give the optimizer made of it and then the communicator, "
            f"as in ZeroRedundancyOptimizer({name}(parameters, lr=0.01), comm)"
        )


def _check_plain(optimizer: Any) -> None:
    _check_made(optimizer)
    if not isinstance(optimizer, PlainOptimizer):
        raise InputError(
            f"ZeroRedundancyOptimizer: {type(optimizer).__name__} must be zerosim.SGD, Momentum, Adam or AdamW"
        )
    if optimizer.wrapped or optimizer.rule.t:
        done = "is wrapped already" if optimizer.wrapped else "has stepped and holds whole states"
        raise InputError(f"ZeroRedundancyOptimizer: this optimizer {done}; it must be a new one")


def _gradients(parameters: list[Parameter]) -> list[np.ndarray]:
    """Return every parameter's gradient. Raises InputError if one is missing, or of another shape or dtype."""
    gradients = []
    for i, parameter in enumerate(parameters):
        grad, data = parameter.grad, parameter.data
        if grad is None:
            raise InputError(f"parameters[{i}]: grad is missing; call zero_grad(), and set or add to it, before step()")
        array = isinstance(grad, np.ndarray | np.generic)  # arithmetic makes NumPy scalars of arrays without dimensions
        if not array or (grad.dtype, grad.shape) != (data.dtype, data.shape):
            found = f"{grad.dtype} {grad.shape}" if array else type(grad).__name__
            raise InputError(f"parameters[{i}]: grad is {found}; it must be {data.dtype} {data.shape} as data is")
        gradients.append(grad)
    return gradients
