"""Taking a training up again: parameters, optimizer states and all that a step depends on."""

import numpy as np

from zerosim.checkpoint.reader import Checkpoint
from zerosim.checkpoint.shards import whole
from zerosim.errors import InputError
from zerosim.rank import Rank


def restore(rank: Rank, checkpoint: Checkpoint) -> None:
    """Fill the optimizer states that a stage has allocated, and set step number, loss scale and record of pruning.

    Parameters and master weights have been filled by `zerosim.initial`. What is read goes straight where it stays.
    Raises InputError for a record of pruning that is none.
    """
    own = checkpoint.manifest
    with checkpoint:
        for name, state in rank.states.items():
            if name != "master":
                for layer, first, where in rank.layout.elements(slice(None), state.size == rank.layout.padded):
                    read_part(rank, checkpoint, name, layer, first, state[where])
    rank.optimizer.t = own.state["optimizer"]["t"]
    rank.loss_scale.resume(**own.state["loss_scale"])
    if rank.pruner:
        try:
            rank.pruner.resume(own.state["pruning"], own.step)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"checkpoint {checkpoint.folder}: its record of pruning is not understood ({error})"
            ) from None


def read_part(rank: Rank, checkpoint: Checkpoint, name: str, layer: int, first: int, out: np.ndarray) -> None:
    """Fill `out` with elements of one of the rank's layers, from its element `first` on."""
    done = 0
    for starts, length in whole(rank.model.widths, rank.model.parts[layer], first, first + out.size):
        for start in starts.tolist():
            checkpoint.read(name, start, out[done : done + length])
            done += length
