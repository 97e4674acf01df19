"""The model: a linear map or an MLP, forward and backward written by hand.

A layer is y = relu(W x + b), the last one without relu; no layer but the last makes it a linear model. A column is a
row of the data, so that what a panel of W makes is one piece of memory. Shapes:

    x (inputs, rows)    W (outputs, inputs)    b (outputs,)    y (outputs, rows)

A layer's parameters are one vector: W row by row, then b. A rank may hold consecutive layers only (`Part`): what comes
into the first of them is then another rank's. Numbers are stored in one dtype and computed in another (the
same in fp32). Where they differ, panels of W of about `PANEL` elements are decoded to scratch, multiplied there, and
the result is encoded where it belongs, so that no array of a layer's size is needed for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from zerosim.ledger import Ledger
from zerosim.parallel import Part, parts
from zerosim.precision import decode, encode

PANEL = 1 << 18
"""Elements of a weight matrix handled at a time, whole rows or columns, where they go through scratch."""


class MLP:
    """A stack of dense layers of the given widths, inputs first.

    `dtype` is what parameters, gradients and activations are stored in, `compute` what products are summed in. All
    scratch comes from `ledger`. The methods take a layer's number `k` and its parameters as one vector, which may be
    longer than the layer (padding is not looked at). `held` is what this rank holds, if not the whole model.
    """

    def __init__(
        self, widths: list[int], dtype: np.dtype, compute: np.dtype, ledger: Ledger, held: list[Part] | None = None
    ) -> None:
        self.widths = widths
        self.dtype, self.compute, self.ledger = dtype, compute, ledger
        self.parts = held or parts(widths)
        self.layers = range(len(self.parts))
        """Numbers of the layers held, from 0."""
        self.sizes = [part.size for part in self.parts]
        self.operations = 0
        """Multiplications and additions in products so far."""
        self.first, self.last = self.parts[0].layer == 0, self.parts[-1].layer == len(widths) - 2
        """Whether the model's first and its last layer are held."""

    def views(self, k: int, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return W (outputs, inputs) and b (outputs,) as views of layer k's parameters."""
        inputs, outputs = self.parts[k].inputs, self.parts[k].outputs
        return parameters[: outputs * inputs].reshape(outputs, inputs), parameters[outputs * inputs : self.sizes[k]]

    def has_relu(self, k: int) -> bool:
        """Whether there is a relu after layer k: after all but the model's last."""
        return not self.last or k < self.layers[-1]

    def _most(self, length: int, scratch: bool = False) -> int:
        """How many rows or columns of this length are handled at a time: all, if nothing goes through scratch."""
        return max(1, PANEL // length) if scratch or self.dtype != self.compute else max(self.widths)

    # forward ---------------------------------------------------------------------------------------------------------

    def forward(self, k: int, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return y = relu(W x + b) as a new array of activations, which the caller releases; no relu at the end."""
        _, b = self.views(k, parameters)
        relu = self.has_relu(k)
        return self.product(k, parameters, x, lambda rows, y: self.activate(y, b[rows], relu))

    def product(
        self, k: int, parameters: np.ndarray, x: np.ndarray, then: Callable[[slice, np.ndarray], None] | None = None
    ) -> np.ndarray:
        """Return W x as a new array of activations; `then` is called with each panel of rows, before it is rounded."""
        W, _ = self.views(k, parameters)
        y = self.ledger.take("activations", (W.shape[0], x.shape[1]), self.dtype)
        with self._decoded(x) as x_:
            for rows in panels(W.shape[0], self._most(W.shape[1])):
                self._product_panel(W[rows], x_, y[rows], then and partial(then, rows))
        return y

    def _product_panel(
        self, W: np.ndarray, x: np.ndarray, y: np.ndarray, then: Callable[[np.ndarray], None] | None
    ) -> None:
        with self._decoded(W) as W_, self._encoding(y) as y_:
            self._multiply(W_, x, y_)
            if then:
                then(y_)

    @staticmethod
    def activate(y: np.ndarray, b: np.ndarray, relu: bool) -> None:
        """Add the bias to W x, and apply the relu if there is one, in place."""
        y += b[:, None]
        if relu:
            np.maximum(y, 0, out=y)

    # backward --------------------------------------------------------------------------------------------------------

    def parameter_gradient(
        self, x: np.ndarray, dy: np.ndarray, start: int, stop: int, out: np.ndarray, add: bool = False
    ) -> None:
        """Write, or add, elements `start` to `stop` of a layer's gradient (dW = dy x' row by row, then db) to `out`.

        `x` and `dy` are the layer's input and the gradient of its output before relu; `out` may be longer, and what is
        beyond is set to 0.
        """
        weights = x.shape[0] * dy.shape[0]
        self._weight_gradient(x, dy, start, min(stop, weights), out, add)
        if stop > weights:
            first = max(start, weights)
            self._bias_gradient(dy[first - weights : stop - weights], out[first - start : stop - start], add)
        out[stop - start :] = 0

    def _weight_gradient(
        self, x: np.ndarray, dy: np.ndarray, start: int, stop: int, out: np.ndarray, add: bool
    ) -> None:
        with self._decoded(x) as x_:
            for at, rows, columns in rectangles(start, stop, x.shape[0], self._most(x.shape[0], add)):
                height, width = rows.stop - rows.start, columns.stop - columns.start
                dW = out[at - start : at - start + height * width].reshape(height, width)
                self._weight_panel(dy[rows], x_[columns], dW, add)

    def _weight_panel(self, dy: np.ndarray, x: np.ndarray, dW: np.ndarray, add: bool) -> None:
        with self._decoded(dy) as dy_, self._encoding(dW, add) as dW_:
            self._multiply(dy_, x.T, dW_)

    def _bias_gradient(self, dy: np.ndarray, db: np.ndarray, add: bool) -> None:
        with self._decoded(dy) as dy_, self._encoding(db, add) as db_:
            np.sum(dy_, axis=1, out=db_)

    def input_gradient(self, k: int, parameters: np.ndarray, dy: np.ndarray, x: np.ndarray) -> None:
        """Replace layer k's input `x`, the relu of the layer before, by its gradient, W' dy where x > 0 and else 0.

        The model's own input is data and needs none.
        """
        if self.parts[k].layer == 0:
            return
        W, _ = self.views(k, parameters)
        with self._decoded(dy) as dy_:
            for columns in panels(W.shape[1], self._most(W.shape[0])):
                self._input_panel(dy_, W[:, columns], x[columns])

    def _input_panel(self, dy: np.ndarray, W: np.ndarray, x: np.ndarray) -> None:
        with self.ledger.borrow("buffers", x.shape, bool) as alive:
            np.greater(x.view(f"i{x.itemsize}"), 0, out=alive)  # the sign is the same, and 16-bit floats are slow
            with self._decoded(W) as W_, self._encoding(x) as dx:
                self._multiply(W_.T, dy, dx)
                dx *= alive

    @contextmanager
    def all_outputs(self, outputs: np.ndarray) -> Iterator[np.ndarray]:
        """The model's outputs where a rank makes some of them: here, all; what becomes of them is put back."""
        yield outputs

    # loss ------------------------------------------------------------------------------------------------------------

    def cross_entropy(self, logits: np.ndarray, y: np.ndarray, scale: float) -> float:
        """Return the softmax cross-entropy summed over rows; `logits` become their gradient times `scale`.

        `logits` has the shape (classes, rows), and `y` holds a class number for each row. The gradient of a row's loss
        is softmax(logits) - onehot(y).
        """
        rows = np.arange(y.size)
        with self._decoded(logits) as z:
            z -= z.max(axis=0)
            loss = -np.sum(z[y, rows], dtype=np.float64)
            np.exp(z, out=z)
            sums = z.sum(axis=0)
            loss += np.sum(np.log(sums), dtype=np.float64)
            z /= sums
            z[y, rows] -= 1
            z *= scale
            logits[:] = z
        return float(loss)

    def squared_error(self, outputs: np.ndarray, y: np.ndarray, scale: float) -> float:
        """Return the squared error, a mean over outputs summed over rows; `outputs` become its gradient times `scale`.

        `outputs` has the shape (outputs, rows), `y` (rows, outputs). The gradient of a row's loss is
        2 (output - y) / number of outputs.
        """
        with self._decoded(outputs) as z:
            z -= y.T
            loss = float(np.einsum("ij,ij->", z, z, dtype=np.float64)) / y.shape[1]
            z *= scale * 2 / y.shape[1]
            outputs[:] = z
        return loss

    def _multiply(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        np.matmul(a, b, out=out)
        self.operations += 2 * a.shape[1] * out.size

    # the two ways between storage and arithmetic ---------------------------------------------------------------------

    @contextmanager
    def _decoded(self, array: np.ndarray) -> Iterator[np.ndarray]:
        """The array in the computing dtype: itself, or a copy in scratch."""
        if array.dtype == self.compute:
            yield array
            return
        with self.ledger.borrow("buffers", array.shape, self.compute) as scratch:
            decode(array, scratch, self.ledger)
            yield scratch

    @contextmanager
    def _encoding(self, target: np.ndarray, add: bool = False) -> Iterator[np.ndarray]:
        """An array in the computing dtype that `target` takes, or adds, when the block ends: itself, or scratch."""
        if target.dtype == self.compute and not add:
            yield target
            return
        with self.ledger.borrow("buffers", target.shape, self.compute) as scratch:
            yield scratch
            if add:
                self._add_to(scratch, target)
            encode(scratch, target, self.ledger)

    def _add_to(self, scratch: np.ndarray, target: np.ndarray) -> None:
        with self._decoded(target) as before:
            scratch += before


def panels(n: int, most: int) -> Iterator[slice]:
    """Cut range(n) into slices of at most `most`."""
    for start in range(0, n, most):
        yield slice(start, min(start + most, n))


def rectangles(start: int, stop: int, width: int, most: int) -> Iterator[tuple[int, slice, slice]]:
    """Cut elements `start` to `stop` of a matrix of the given width into rectangles of at most `most` rows.

    Yields (first element, rows, columns): a part of a row where the range begins or ends inside one, whole rows
    between.
    """
    while start < stop:
        row, column = divmod(start, width)
        whole = (stop - start) // width
        if column or not whole:
            end = min(width, column + stop - start)
            yield start, slice(row, row + 1), slice(column, end)
            start += end - column
        else:
            rows = min(whole, most)
            yield start, slice(row, row + rows), slice(0, width)
            start += rows * width
