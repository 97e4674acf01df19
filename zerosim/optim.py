"""SGD, momentum, Adam and AdamW: elementwise and in place, so that a shard is enough.

That is why ZeRO can cut the optimizer states at all: no element of an update needs another. The definitions and the
defaults are PyTorch's (torch.optim.SGD, Adam, AdamW), so that runs can be compared.

p parameters   g gradient   m first moment or momentum   v second moment   t step, from 1   h scratch

What an update costs is passes over memory, so each rule makes as few as it can, and a block's passes are all made
before the next block's. Adam keeps its moments as sums, without the factors 1 - beta: m is that of the paper divided by
0.1, v by 0.001, and one factor at the end makes both good.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np

from zerosim.ledger import Ledger
from zerosim.precision import BLOCK, decode, encode

MOMENTUM = 0.9
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Hyper:
    """What an update rule needs besides arrays: learning rate, weight decay, and the number of the step."""

    lr: float
    weight_decay: float
    t: int


def sgd(p: np.ndarray, g: np.ndarray, h: np.ndarray, hyper: Hyper) -> None:
    """p <- p - lr (g + decay p)."""
    g = _decayed(p, g, h, hyper)
    np.multiply(g, hyper.lr, out=h)
    p -= h


def momentum(p: np.ndarray, g: np.ndarray, h: np.ndarray, hyper: Hyper, m: np.ndarray) -> None:
    """Heavy-ball momentum without dampening: m <- 0.9 m + g, p <- p - lr m."""
    g = _decayed(p, g, h, hyper)
    m *= MOMENTUM
    m += g
    np.multiply(m, hyper.lr, out=h)
    p -= h


def adam(p: np.ndarray, g: np.ndarray, h: np.ndarray, hyper: Hyper, m: np.ndarray, v: np.ndarray) -> None:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1) with weight decay added to the gradient."""
    _adam(p, _decayed(p, g, h, hyper), h, hyper, m, v)


def adamw(p: np.ndarray, g: np.ndarray, h: np.ndarray, hyper: Hyper, m: np.ndarray, v: np.ndarray) -> None:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""
    p *= 1 - hyper.lr * hyper.weight_decay
    _adam(p, g, h, hyper, m, v)


def _adam(p: np.ndarray, g: np.ndarray, h: np.ndarray, hyper: Hyper, m: np.ndarray, v: np.ndarray) -> None:
    """m <- 0.9 m + g, v <- 0.999 v + g g, p <- p - rate m / (sqrt(v) + epsilon / root); g may lie in h.

    `root` times sqrt(v) is that of the paper, bias corrected; so is `rate` times `root` times m.
    """
    root = sqrt((1 - BETA2) / (1 - BETA2**hyper.t))
    rate = hyper.lr * (1 - BETA1) / (1 - BETA1**hyper.t) / root
    m *= BETA1
    m += g
    v *= BETA2
    np.multiply(g, g, out=h)
    v += h
    np.sqrt(v, out=h)
    h += EPSILON / root
    np.divide(m, h, out=h)
    h *= rate
    p -= h


def _decayed(p: np.ndarray, g: np.ndarray, h: np.ndarray, hyper: Hyper) -> np.ndarray:
    """Return g + decay p, in the scratch; without decay, g itself, which is never written to."""
    if not hyper.weight_decay:
        return g
    np.multiply(p, hyper.weight_decay, out=h)
    h += g
    return h


RULES: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "sgd": (sgd, ()),
    "momentum": (momentum, ("momentum",)),
    "adam": (adam, ("momentum", "variance")),
    "adamw": (adamw, ("momentum", "variance")),
}
"""By name: the rule, and the states that it keeps for each parameter."""


class Optimizer:
    """A rule and its settings. The arrays belong to the caller; the step number `t` alone is kept here."""

    def __init__(self, name: str, lr: float, weight_decay: float, mixed: bool) -> None:
        self._rule, self._moments = RULES[name]
        self._lr, self._weight_decay = lr, weight_decay
        self.states = (("master",) if mixed else ()) + self._moments
        """Names of the state arrays: with mixed precision the fp32 master copy is one of them."""
        self.t = 0
        self.updated = 0
        """Elements updated so far."""

    def step(
        self,
        parameters: np.ndarray,
        gradients: np.ndarray,
        states: dict[str, np.ndarray],
        factor: float,
        ledger: Ledger,
    ) -> None:
        """Update `parameters` with `factor` times `gradients`, in place; all arrays have the same length.

        `factor` undoes the loss scale and applies the clipping. With a master copy among the states, that is what is
        updated, in its own precision, and `parameters` takes its rounded value.
        """
        weights = states.get("master", parameters)
        self.updated += weights.size
        hyper = Hyper(self._lr, self._weight_decay, self.t)
        block = min(BLOCK, weights.size)
        as_it_is = gradients.dtype == weights.dtype and factor == 1.0
        with ledger.borrow("buffers", (1 if as_it_is else 2, block), weights.dtype) as scratch:
            for start in range(0, weights.size, block):
                at = slice(start, min(start + block, weights.size))
                h, g = scratch[0, : at.stop - at.start], gradients[at]
                if not as_it_is:
                    decode(g, scratch[1, : g.size], ledger, factor)
                    g = scratch[1, : g.size]
                self._rule(weights[at], g, h, hyper, *(states[name][at] for name in self._moments))
                if weights is not parameters:
                    encode(weights[at], parameters[at], ledger)


def sum_of_squares(gradients: np.ndarray, dtype: np.dtype, ledger: Ledger) -> float:
    """Return the sum of squares, made in the computing dtype; inf or nan if any element is, and else finite."""
    total = 0.0
    block = min(BLOCK, gradients.size)
    with ledger.borrow("buffers", block, dtype) as scratch:
        for start in range(0, gradients.size, block):
            part = gradients[start : start + block]
            g = scratch[: part.size]
            decode(part, g, ledger)
            g *= g
            squares = float(g.sum())
            total += squares if isfinite(squares) else float(np.sum(np.square(part, dtype=np.float64)))
    return total
