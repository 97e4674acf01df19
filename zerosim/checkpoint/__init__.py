"""Checkpoints of a sharded training: each rank writes what it owns, and any number of ranks at any stage reads it.

    DIR/step-00000040/
        rank-0000.safetensors    "parameters" (in full precision), "momentum", "variance": what rank 0 owns, end to end
        rank-0001.safetensors    …
        manifest.json            settings, position, layout, history; and length and SHA-256 of each shard, and its own

At every stage a rank writes its own slices, no more, so a checkpoint does not know the stage. The layout says which
elements of the model each shard has (`shards`); a reader takes those that it needs, from whichever shard has them. A
checkpoint is written aside and renamed when everything is on the disk: it is there whole, or not at all.
"""

from zerosim.checkpoint.onefile import consolidate
from zerosim.checkpoint.reader import Checkpoint, folders, open_checkpoint, resumed
from zerosim.checkpoint.restore import restore
from zerosim.checkpoint.writer import Checkpoints

__all__ = ["Checkpoint", "Checkpoints", "consolidate", "folders", "open_checkpoint", "restore", "resumed"]
