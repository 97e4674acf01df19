"""Gradient-magnitude pruning: in each step the groups whose gradient is smallest are frozen, or set to zero.

ZeRO does not do this. It is built here because popular accounts say that it does, so that it can be measured: ZeRO
keeps every bit of the training, this changes it. Groups are chosen by the magnitude of their gradient, as meProp (Sun
et al. 2017, arXiv:1706.06197) chooses elements in back propagation; pruning to make a model smaller is older and asks
what a weight is worth once it is trained (LeCun, Denker, Solla 1990, Optimal Brain Damage).

    group       a layer; or a row: an output unit's row of W and its element of b; or SIZE elements of a layer, W row by
                row and then b, of which the last group of a layer has what is left
    norm        L2, of the mean gradient of the global batch, without the loss scale, before clipping
    chosen      the floor(q groups) with the smallest norms, of the whole model; of equal norms the lower number first
    freeze      this step changes neither the group's weights nor its optimizer states
    zero        the same, and the weights, master copy included, are set to 0

Each rank squares the pieces of groups that lie in its own slices, in float64, and the ranks add up one vector of a
number per group. A group may cross slices, buckets and ranks; all stages have the same slices, so all ranks choose the
same groups at every stage. Memory at rest is what it is without pruning, and so is the traffic of gradients: a gradient
must be made and reduced before its norm is known.

Decided, where more than one thing could be done:

- q is taken as it is written in decimal: 0.29 of 100 groups are 29, though the nearest double times 100 is below. It
  must choose at least one group. The norm is not divided by the size of the group: short groups are chosen sooner.
- A step that is skipped because of an overflow chooses nothing and sends nothing for it. Without a loss scale a norm
  may be infinite, or no number: such groups are the largest.
- The factor of --clip-norm is that of the whole gradient, chosen groups included: nothing is chosen when it is made.
- A frozen group is not decayed either. The optimizer's step number is one for all, so Adam's bias correction goes on.
  To set a group's gradient to 0 would be something else: momentum and decay would still move its weights.
- A zeroed group is chosen anew in each step, and trained on where it is not chosen. But a hidden unit whose row and
  bias are 0 passes nothing on and no gradient comes back: its norm is 0, the smallest, and it stays chosen.
- Padding belongs to no group. With tensor parallelism a group is that of the whole model, wherever its pieces lie.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from zerosim.comm import Comm
from zerosim.config import Config
from zerosim.errors import InputError
from zerosim.ledger import Ledger
from zerosim.optim import Optimizer
from zerosim.parallel import Part
from zerosim.partition import Bucket, without_padding
from zerosim.precision import decode

BOOK = "pruning"
"""What the sums of squares are booked as."""

BLOCK = 16384
"""Elements handled at a time: their group numbers and copies of their states lie beside them."""

CELLS = 256
"""Cells of the record of a step: of more groups, neighbours share one."""


class Groups:
    """The groups of a model of these layer widths, inputs first, numbered from 0 in the order of its weights.

    `by` is "layer", "row", or the elements of a group.
    """

    def __init__(self, widths: list[int], by: str | int) -> None:
        self._widths, self._by = widths, by
        self.per_layer = [self._of((inputs + 1) * outputs, outputs) for inputs, outputs in pairwise(widths)]
        self._first = [0, *accumulate(self.per_layer)]
        self.count = self._first[-1]

    def _of(self, elements: int, rows: int) -> int:
        if isinstance(self._by, int):
            return -(-elements // self._by)
        return 1 if self._by == "layer" else rows

    def chosen(self, quantile: float) -> int:
        """How many are chosen in a step. Raises InputError if none would be."""
        n = int(Fraction(str(quantile)) * self.count)
        if n < 1:
            raise InputError(
                f"prune_groups: {quantile:g} of {self.count} groups by {self._by} is less than one group; it must be "
                f"1/{self.count} or more, or the groups smaller"
            )
        return n

    def numbers(self, part: Part, first: int, out: np.ndarray, ledger: Ledger) -> None:
        """Write the group of each element, from `first` on, of what a rank holds of a layer; `out` is of integers."""
        inputs, outputs = self._widths[part.layer], self._widths[part.layer + 1]
        weights = part.inputs * part.outputs
        W = out[: max(0, weights - first)]
        b = out[W.size :]
        _count_from(W, first)
        _count_from(b, max(first, weights) - weights + part.rows.start)
        if self._by == "layer":
            out.fill(0)
        elif self._by == "row":
            W //= part.inputs
            W += part.rows.start
        else:
            if part.inputs < inputs:  # of each row the rank has a part
                with ledger.borrow("buffers", W.size, W.dtype) as rows:
                    np.floor_divide(W, part.inputs, out=rows)
                    rows *= inputs - part.inputs
                    W += rows
            W += part.rows.start * inputs + part.columns.start
            b += inputs * outputs
            out //= self._by
        out += self._first[part.layer]


def _count_from(out: np.ndarray, first: int) -> None:
    """Write first, first + 1, … in place."""
    out.fill(1)
    out[:1] = first
    np.cumsum(out, out=out)


class Pruner:
    """What one rank does to prune, and the record of it, which is the same on every rank.

    `parts` is what the rank holds of each of its layers, `world` the door to all ranks. The records are no part of the
    training, and not in the ledger: as the losses are not.
    """

    def __init__(
        self, groups: Groups, quantile: float, mode: str, parts: list[Part], world: Comm, ledger: Ledger
    ) -> None:
        self._groups, self._chosen, self._zero = groups, groups.chosen(quantile), mode == "zero"
        self._parts, self._world, self._ledger = parts, world, ledger
        self._pruned = np.zeros(0, bool)
        self._cells = -(-groups.count // CELLS)
        self._times = np.zeros(groups.count, np.int64)
        self._latest: tuple[np.ndarray, int] | None = None
        self._record: list[list[int]] = []
        self._without: list[int] = []

    # a step ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def choosing(self, gradients: Iterable[tuple[Bucket, np.ndarray]]) -> Iterator[None]:
        """Choose the groups of this step; `update` leaves them out while the `with` block lasts.

        `gradients` are this rank's slices of the summed gradient, each with its bucket. All ranks call it together.
        """
        with self._ledger.borrow("buffers", self._groups.count, bool) as pruned:
            self._choose(gradients, pruned)
            self._pruned = pruned
            try:
                yield
            finally:
                self._pruned = np.zeros(0, bool)

    def _choose(self, gradients: Iterable[tuple[Bucket, np.ndarray]], pruned: np.ndarray) -> None:
        n, N = self._groups.count, self._world.size
        with self._ledger.borrow("buffers", -(-n // N) * N, np.float64) as squares:
            squares.fill(0)
            for bucket, gradient in gradients:
                self._add_squares(bucket, without_padding(bucket, gradient), squares)
            self._world.add_up(squares, BOOK)
            np.fmin(squares, np.inf, out=squares)  # what is no number becomes the largest
            pruned.fill(False)
            pruned[np.argsort(squares[:n], kind="stable")[: self._chosen]] = True
            without = n - np.count_nonzero(squares[:n])
        self._times += pruned
        starts = np.arange(0, n, self._cells)
        self._latest = np.add.reduceat(pruned, starts, dtype=np.int64), int(without)

    def _add_squares(self, bucket: Bucket, gradient: np.ndarray, squares: np.ndarray) -> None:
        """Add the squares of the own slice of a bucket to those of their groups."""
        first = bucket.start + bucket.part.start
        for start in range(0, gradient.size, BLOCK):
            self._add_block(bucket.layer, first + start, gradient[start : start + BLOCK], squares)

    def _add_block(self, k: int, first: int, gradient: np.ndarray, squares: np.ndarray) -> None:
        with (
            self._ledger.borrow("buffers", gradient.size, np.intp) as numbers,
            self._ledger.borrow("buffers", gradient.size, np.float64) as square,
        ):
            self._groups.numbers(self._parts[k], first, numbers, self._ledger)
            decode(gradient, square, self._ledger)
            square *= square
            np.add.at(squares, numbers, square)

    def update(
        self,
        optimizer: Optimizer,
        pieces: Iterable[tuple[int, int, slice]],
        parameters: np.ndarray,
        gradients: np.ndarray,
        states: dict[str, np.ndarray],
        factor: float,
    ) -> None:
        """Let the optimizer update all but the chosen groups; the arrays are equally long.

        `pieces` say what lies where in them: (layer, its first element there, slice). See `Optimizer.step`.
        """
        for k, first, where in pieces:
            for start in range(where.start, where.stop, BLOCK):
                at = slice(start, min(start + BLOCK, where.stop))
                own = {name: state[at] for name, state in states.items()}
                self._update_block(
                    optimizer, k, first + start - where.start, parameters[at], gradients[at], own, factor
                )

    def _update_block(
        self,
        optimizer: Optimizer,
        k: int,
        first: int,
        parameters: np.ndarray,
        gradients: np.ndarray,
        states: dict[str, np.ndarray],
        factor: float,
    ) -> None:
        """Update a block and put back what was chosen: no element of an update needs another, so that leaves it out."""
        weights = [parameters, *(state for name, state in states.items() if name == "master")]
        kept = [state for name, state in states.items() if name != "master"] + ([] if self._zero else weights)
        with ExitStack() as stack:
            chosen = stack.enter_context(self._ledger.borrow("buffers", parameters.size, bool))
            self._mark(k, first, chosen)
            before = [stack.enter_context(self._ledger.borrow("buffers", a.size, a.dtype)) for a in kept]
            for array, copy in zip(kept, before, strict=True):
                copy[...] = array
            optimizer.step(parameters, gradients, states, factor, self._ledger)
            for array, copy in zip(kept, before, strict=True):
                np.copyto(array, copy, where=chosen)
            for array in weights if self._zero else ():
                np.copyto(array, 0, where=chosen)

    def _mark(self, k: int, first: int, out: np.ndarray) -> None:
        """Write which elements of layer k, from `first` on, belong to chosen groups."""
        with self._ledger.borrow("buffers", out.size, np.intp) as numbers:
            self._groups.numbers(self._parts[k], first, numbers, self._ledger)
            np.take(self._pruned, numbers, out=out, mode="clip")

    # the record ------------------------------------------------------------------------------------------------------

    def end_step(self) -> None:
        """Take note of a step, in which groups were chosen or, if it was skipped, were not."""
        cells, without = self._latest or (np.zeros(-(-self._groups.count // self._cells), np.int64), 0)
        self._record.append(cells.tolist())
        self._without.append(without)
        self._latest = None

    def resume(self, record: dict[str, Any] | None, steps: int) -> None:
        """Go on after so many steps, from what `record` returned; with other groups nothing has been pruned so far.

        Raises ValueError for a record that is not of so many steps.
        """
        if record is None or len(record["times"]) != len(self._times):
            self._record = [[0] * -(-self._groups.count // self._cells) for _ in range(steps)]
            self._without = [0] * steps
            return
        self._record, self._without = list(record["pruned"]), list(record["without_gradient"])
        self._times[:] = record["times"]
        if not len(self._record) == len(self._without) == steps:
            raise ValueError(f"{len(self._record)} steps, {steps} are wanted")

    def record(self) -> dict[str, Any]:
        """Return what was done so far, in JSON types (README)."""
        return {
            "groups_per_layer": self._groups.per_layer,
            "groups_per_cell": self._cells,
            "pruned": self._record,
            "without_gradient": self._without,
            "times": self._times.tolist(),
        }


def pruner(config: Config, widths: list[int], parts: list[Part], world: Comm, ledger: Ledger) -> Pruner | None:
    """Return a rank's pruner for these settings; None if nothing is to be pruned."""
    if config.prune_groups is None:
        return None
    groups = Groups(widths, config.prune_by or "row")
    return Pruner(groups, config.prune_groups, config.prune_mode or "freeze", parts, world, ledger)
