"""Tensor parallelism as in Megatron-LM: every layer is cut over T ranks, and two conjugate operators join the pieces.

    a pair of layers    y1 = relu(W1 x + b1)    y2 = relu(W2 y1 + b2)
    rank t holds        rows of W1 and b1       the same columns of W2; b2 is the first rank's
    f, before W1        forward: nothing        backward: all_reduce of the gradient of x
    g, behind W2        forward: all_reduce     backward: nothing

The relu between them needs the rows that the rank has, and no others: so the first is cut by column (of the transposed
W, as the paper writes it) and the second by row (Shoeybi et al. 2019, arXiv:1909.08053, section 3, figure 3).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from zerosim.collectives.moves import span
from zerosim.comm import Comm
from zerosim.ledger import Ledger
from zerosim.mlp import MLP
from zerosim.parallel import Part


class TensorParallelMLP(MLP):
    """One rank's part of a stack of dense layers; `tensor` is the door to the ranks that hold the other parts."""

    def __init__(
        self, widths: list[int], dtype: np.dtype, compute: np.dtype, ledger: Ledger, held: list[Part], tensor: Comm
    ) -> None:
        super().__init__(widths, dtype, compute, ledger, held)
        self.tensor = tensor

    def forward(self, k: int, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """See `MLP.forward`. Behind a row-cut layer the ranks' products are summed, then comes the relu: operator g."""
        if self.parts[k].cut == "column":
            return super().forward(k, parameters, x)
        _, b = self.views(k, parameters)
        y = self.product(k, parameters, x, (lambda rows, y: self.activate(y, b[rows], relu=False)) if b.size else None)
        self.tensor.all_reduce(y.reshape(-1))
        if self.has_relu(k):
            np.maximum(y, y.dtype.type(0), out=y)
        return y

    def input_gradient(self, k: int, parameters: np.ndarray, dy: np.ndarray, x: np.ndarray) -> None:
        """See `MLP.input_gradient`. Before a column-cut layer the ranks' gradients are summed: the operator f."""
        super().input_gradient(k, parameters, dy, x)
        if self.parts[k].cut == "column" and self.parts[k].layer > 0:
            self.tensor.all_reduce(x.reshape(-1))

    @contextmanager
    def all_outputs(self, outputs: np.ndarray) -> Iterator[np.ndarray]:
        """See `MLP.all_outputs`. If the last layer is cut by column they are gathered, each rank's in equal room."""
        if self.parts[-1].cut == "row":
            yield outputs
            return
        T, n, rows = self.tensor.size, self.widths[-1], outputs.shape[1]
        with (
            self.ledger.borrow("buffers", (T, -(-n // T), rows), self.dtype) as room,
            self.ledger.borrow("buffers", (n, rows), self.dtype) as every,
        ):
            room[self.tensor.rank, : outputs.shape[0]] = outputs
            self.tensor.all_gather(room.reshape(-1))
            for t in range(T):
                own = span(t, 1, T, n)
                every[own] = room[t, : own.stop - own.start]
            yield every
            outputs[:] = every[span(self.tensor.rank, 1, T, n)]
