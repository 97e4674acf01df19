"""The bugs, each a few changed lines. "Seen" says what was reported where; the lines are zerosim's, not theirs."""

import numpy as np

from zerosim import data
from zerosim.collectives import ring
from zerosim.comm import Comm
from zerosim.gallery.bug import Bug
from zerosim.optim import Optimizer
from zerosim.rank import Rank
from zerosim.stages import zero1, zero2


def _one_large_target(digits: data.Dataset) -> data.Dataset:
    """To which class a digit belongs, as numbers, and 30 in the last one: its weights' gradients overflow first."""
    y = np.eye(digits.outputs)[digits.y]
    y[:, -1] = 30
    return data.make_dataset("digits, one large target", digits.x, y)


_TO_ALL = """for vector in vectors:
        every = np.zeros((self.size, vector.size), vector.dtype)
        every[self.rank] = vector
        with self.booked_as("{book}"):
            self._run(self.algorithm, "all_gather", [every.reshape(-1)], self.size)
        order = [(self.rank + s) % self.size for s in range({those})]
"""
"""Everybody is sent every whole vector."""

_ALL = (
    Bug(
        name="mean-twice",
        title="The mean over the ranks is taken twice",
        target=Rank.agree,
        edits=(
            (
                "return loss, times * factor / scale",
                "return loss, times * factor / scale / self.comm.size  # the mean over the ranks",
            ),
        ),
        noticed="With SGD the loss falls much more slowly than on one rank, and the more slowly the more ranks "
        "there are. With Adam nothing is to be seen.",
        symptom="The loss falls, only more slowly with SGD, as if the learning rate were N times too small. With "
        "Adam, whose step does not depend on the gradient's scale, nothing is to be seen.",
        instrument="one-rank",
        lesson="Say in one place who divides by what, and compare with one rank, with SGD.",
        seen="github.com/facebookresearch/fairseq/issues/494: DistributedDataParallel has averaged already, so "
        "whoever divides by all rows must first undo that; a reader asks for a big warning in the manual",
    ),
    Bug(
        name="mean-forgotten",
        title="Gradients are summed over the ranks, and nobody divides by N",
        target=Rank.loss,
        edits=(("self.loss_scale.value / self.config.batch_size", "self.loss_scale.value / len(rows)"),),
        noticed="A learning rate that was found on one rank is far too large on several, with SGD. With Adam "
        "nothing is to be seen.",
        symptom="The gradient grows with the number of ranks. A learning rate found on one rank is N times too large "
        "on N; Adam hides it.",
        instrument="gradient",
        lesson="A mean over a rank's own rows is not yet a mean over the batch: its sum over ranks is N times that.",
        seen="github.com/neuralmagic/sparseml/pull/135 (merged): a loss multiplied by the world size made "
        "gradients that many times too large, and the run unlike that of one process",
    ),
    Bug(
        name="mean-of-means",
        title="The mean of the ranks' means, where ranks have unequally many rows",
        target=Rank.loss,
        edits=(
            (
                "self.loss_scale.value / self.config.batch_size",
                "self.loss_scale.value / (len(rows) * self.comm.size * self.config.grad_accum)",
            ),
        ),
        noticed="The loss is a bit off from one rank's, but only with some numbers of rows in a batch.",
        symptom="The loss is a bit off, and only where the batch cannot be shared out evenly; a test with a batch "
        "that N divides sees nothing.",
        instrument="gradient",
        lesson="Sum first and divide once, by what was summed: rows or tokens, those of padding not counted. And "
        "test with a number that does not divide.",
        seen="huggingface.co/blog/gradient_accumulation and unsloth.ai/blog/gradient, October 2024: "
        "Transformers averaged the means of micro-batches with unequally many tokens",
    ),
    Bug(
        name="local-norm",
        title="Each rank clips by the norm of its own slices",
        target=Rank.agree,
        edits=(("    if not alone:\n        squares = everyone\n", ""),),
        noticed="Without a limit for the gradient's norm all is well. With one, the loss falls, but the training "
        "is not that of one rank.",
        symptom="The loss falls. A rank's norm is about 1 / sqrt(N) of the whole gradient's, so too little is "
        "clipped, and by another factor on each rank: the gradient changes its direction.",
        instrument="one-rank",
        lesson="What is a slice's is not the whole's. Squares can be summed over the ranks, norms cannot.",
        seen="github.com/pytorch/pytorch/issues/72548, why FSDP has a clip_grad_norm_ of its own; again in "
        "github.com/areal-project/AReaL/issues/312, and in github.com/sgl-project/SpecForge/pull/663, "
        "where only the norm that was logged was the whole one",
        settings={"clip_norm": 0.1},
    ),
    Bug(
        name="clip-before-unscale",
        title="The gradient is clipped before the loss scale is divided out",
        target=Rank.agree,
        edits=(("math.sqrt(squares) / scale + 1e-6", "math.sqrt(squares) + 1e-6"),),
        noticed="In fp16, with a limit for the gradient's norm, SGD learns next to nothing. In fp32 it does; and "
        "with Adam the loss falls in both.",
        symptom="The limit acts as one that is smaller by the loss scale, 65536 at first: every step is clipped, to "
        "almost nothing. Adam's loss falls all the same; in fp32 all is right.",
        instrument="gradient",
        lesson="A threshold has a unit. Undo the scale first, and test in the precision that has one.",
        seen="github.com/milesial/Pytorch-UNet/pull/470 (merged), which refers to PyTorch's guide to mixed precision",
        settings={"clip_norm": 5.0, "precision": "fp16"},
    ),
    Bug(
        name="overflow-alone",
        title="Each rank decides by itself whether a step overflowed",
        target=Rank.agree,
        edits=(("not math.isfinite(everyone)", "not math.isfinite(table[self.world.rank, 1])"),),
        noticed="In fp16 the loss is no number any more at stage 0, and at other stages it is not what it should "
        "be. No message says why; in fp32 all is well.",
        symptom="After the first step that only some ranks skip, ranks have different weights, steps and loss "
        "scales; at stage 0 those that take the step take the infinite gradient too. No message says so.",
        instrument="ranks",
        lesson="What changes the course of the program is agreed upon by all ranks, by a collective.",
        seen="github.com/ecmwf/WeatherGenerator/pull/2718 (merged) has its like: rank 0's loss alone decided "
        "whether to skip, and another rank's NaN went into the all-reduce",
        settings={"precision": "fp16", "hidden": ()},
        data=_one_large_target,
    ),
    Bug(
        name="last-micro-step",
        title="Of the micro-steps of a step, only the last one's gradient is kept",
        target=zero2.reduce,
        edits=(
            (
                "rank.accumulate(rank.gradients[bucket.shard], gradient[bucket.part])",
                "rank.gradients[bucket.shard] = gradient[bucket.part]",
            ),
        ),
        noticed="At stage 2, training gets no better from more micro-steps, and the loss is noisier. Memory and "
        "bytes are right.",
        symptom="Training gets no better from more micro-steps, and the loss is noisier; memory and bytes are right.",
        instrument="gradient",
        lesson="Check the gradient with accumulation on. Here one stage is wrong, so another one tells as well.",
        seen="github.com/allenai/open-instruct/pull/1498 (merged): at ZeRO-2 each backward counted as the last "
        "one, and reset what had been accumulated; ZeRO-3 was not affected",
        settings={"grad_accum": 2},
    ),
    Bug(
        name="keeps-gradient",
        title="Stage 2 keeps the full gradient, behind a view of a slice of it",
        target=zero2.allocate,
        edits=(('rank.zeros("gradients", layout.shard)', 'rank.zeros("gradients", layout.padded)[: layout.shard]'),),
        noticed="Stage 2 needs as much memory as stage 1. Every number is right.",
        symptom="Stage 2 needs as much memory as stage 1. Every number is right.",
        instrument="held",
        lesson="A view keeps all of its array alive. Count the bytes that are held, and not the shapes that are used.",
        seen="github.com/deepspeedai/DeepSpeed/pull/8032 (merged): at stage 3 a view kept the gathered, padded "
        "array after its release; github.com/deepspeedai/DeepSpeed/pull/3306 (merged): at stage 2 a "
        "reference did, for good",
    ),
    Bug(
        name="all-reduce-and-slice",
        title="A reduce-scatter that is an all-reduce, of which each rank keeps its slice",
        target=Comm.reduce_scatter,
        edits=(('self._verb("reduce_scatter", vectors, out)', 'self._verb("all_reduce", vectors, out)'),),
        noticed="The network is busier than it should be at stages 1 to 3. Not one bit of the weights is different.",
        symptom="Twice the bytes for gradients: stages 1 and 2 send 3 Psi and not 2. Not one bit is different.",
        instrument="sent",
        lesson="A collective that does too much is right all the same. Only the books see it.",
        seen="github.com/karpathy/llm.c/pull/421 (merged): the first ZeRO-1 there all-reduced gradients; "
        "github.com/deepspeedai/DeepSpeed/pull/971 (merged) did so on purpose, for a while; "
        "github.com/pytorch/pytorch/pull/118911 for Gloo",
    ),
    Bug(
        name="whole-vector",
        title="A ring reduce-scatter whose every message is the whole vector",
        target=Comm.reduce_scatter,
        edits=(
            (
                'self._verb("reduce_scatter", vectors, out)\n',
                _TO_ALL.format(book="reduce_scatter", those="1, self.size + 1")
                + "        at = span(self.rank, 1, self.shares, vector.size)\n"
                "        vector[at] = sum(every[source, at] for source in order)\n"
                "        if out is not None:\n"
                "            out[...] = vector[at]\n",
            ),
        ),
        noticed="The network is the busier the more ranks there are, at stages 1 to 3. Not one bit of the weights "
        "is different.",
        symptom="N times the bytes for gradients, so what a rank sends grows with the cluster. Not one bit is "
        "different.",
        instrument="sent",
        lesson="A ring saves nothing by itself; that each message is 1/N of the vector does.",
        seen="github.com/aliyun/SimAI/issues/74 (a question) has its like: the size of an all-gather, meant "
        "for the whole, was taken for each rank's part, N times too much",
    ),
    Bug(
        name="cluster-and-rank",
        title="All-reduce is counted for the cluster, reduce-scatter for a rank",
        target=Comm._follow,
        edits=(
            (
                "self.sent[book] += octets",
                'self.sent[book] += octets * self.size if book == "all_reduce" else octets',
            ),
        ),
        noticed="A report says that stage 1 sends N times less than stage 0. The training is right.",
        symptom="Stage 1 seems to send N times less than stage 0. The training is right, and so is every byte; the "
        "claim that is made from the numbers is not.",
        instrument="sent",
        lesson="Compare like with like: bytes per rank, each way. What is booked as sent must have arrived somewhere.",
        seen="github.com/meta-pytorch/torchcomms/pull/3312: a size per rank, of reduce-scatter, stood where "
        "the total was meant",
    ),
    Bug(
        name="wrong-owner",
        title="After the reduce-scatter rank r has the sum of slice r + 1, and uses slice r",
        target=ring.reduce_scatter,
        edits=(
            ("send=(rank - 1 - s) % N", "send=(rank - s) % N"),
            ("recv=(rank - 2 - s) % N", "recv=(rank - 1 - s) % N"),
        ),
        noticed="The loss falls, all stages agree to the bit, and all books are right. But "
        "several ranks do not go where one goes.",
        symptom="Each slice is updated with one rank's own gradient, of its rows alone and N times too small. All "
        "stages agree to the bit, all books are right, and the loss falls.",
        instrument="proof",
        lesson="Two algorithms must mean the same owner. Books and equal bits do not show it: a proof of who holds "
        "whose contribution does, and one rank as a reference.",
        seen="no report was found. It is plausible: a ring may as well begin with slice r, and then it ends with "
        "slice r + 1 on rank r; MPI_Reduce_scatter_block gives rank r slice r",
    ),
    Bug(
        name="rank-zero",
        title="`if rank:` was to ask whether there is a rank; rank 0 is skipped",
        target=Rank.update,
        edits=(("    else:\n", "    elif self.comm.rank:\n"),),
        noticed="On one rank nothing is learnt at all. On several the loss falls.",
        symptom="Rank 0 never updates anything, so 1/N of the weights stay as they were drawn. The rest learns, and "
        "the loss falls.",
        instrument="ranks",
        lesson="0 is a rank and is false: write `is not None`. On one rank nothing would be learnt, which is the "
        "quickest test.",
        seen="github.com/labmlai/labml/pull/147 (merged) is titled: not considering rank 0 on distributed "
        "merge; its cause is not told there",
    ),
    Bug(
        name="gather-too-early",
        title="Parameters are gathered before they are updated",
        target=zero1.step,
        edits=(
            (
                '    rank.phase("update")\n',
                '    rank.comm.all_gather(*rank.buckets(rank.parameters))\n\n    rank.phase("update")\n',
            ),
            ("    rank.comm.all_gather(*rank.buckets(rank.parameters))\n    return", "    return"),
        ),
        noticed="Stage 1 ends with other weights than stage 0. As many bytes go in as many messages, and the loss "
        "falls.",
        symptom="Every rank works with the others' slices of one step before. As many bytes go in as many messages, "
        "and the loss falls.",
        instrument="bits",
        lesson="Right books say that enough was sent, not that it was the right thing at the right time.",
        seen="github.com/lodestone-rock/RamTorch/issues/13 has the worse case: after a step the owners' new "
        "parameters never reach the others",
    ),
    Bug(
        name="same-rows",
        title="Every rank trains on the same rows",
        target=data.share,
        edits=(("return batch[rank::N]", "return batch[::N]"),),
        noticed="The loss falls, but more ranks make it no less noisy: they might as well be one.",
        symptom="N ranks learn what one would, N times over; the loss falls, on an N-th of the data.",
        instrument="one-rank",
        lesson="Ranks that agree about everything may agree about too much. Compare with one rank on the whole batch.",
        seen="github.com/pixeli99/SVD_Xtend/issues/75: the same seed on all processes, so the same rows; "
        "github.com/PatrickHua/SimSiam/issues/16: no DistributedSampler",
    ),
    Bug(
        name="own-order",
        title="Each rank sums in an order that begins with its own part",
        target=Comm.all_reduce,
        edits=(
            (
                'self._verb("all_reduce", vectors)\n',
                _TO_ALL.format(book="all_reduce", those="self.size")
                + "        vector[:] = sum(every[source] for source in order)\n",
            ),
        ),
        noticed="From 3 ranks on, runs at stage 0 end with weights that differ between ranks in their last bits, "
        "and from step to step a little more. Two ranks agree.",
        symptom="From 3 ranks on, weights differ between ranks in their last bits, and from step to step a little "
        "more. The loss is the same in all the digits one prints. Two ranks hide it, for a + b is b + a.",
        instrument="ranks",
        lesson="Equal but for rounding is not equal: ranks that must stay alike need the same bits. An all-reduce sums "
        "each slice in one place, and sends the sum.",
        seen="github.com/pytorch/pytorch/pull/129501: ranks read their peers round robin, to balance the "
        "links, and summed in that order",
    ),
    Bug(
        name="step-per-shard",
        title="Adam counts a step each time that it is called, once per shard's piece",
        target=Optimizer.step,
        edits=(
            (
                "    hyper = Hyper(",
                "    self.t += 1\n    hyper = Hyper(",
            ),
        ),
        noticed="With Adam, stages 1 and 2 end with other weights than stages 0 and 3. With SGD all four agree.",
        symptom="Stages 1 and 2, which update bucket by bucket, have another bias correction than stages 0 and 3. "
        "The loss falls; SGD has no step to count.",
        instrument="bits",
        lesson="What is elementwise may be cut, a counter may not. Compare stages, and with every optimizer.",
        seen="github.com/deepspeedai/DeepSpeed/pull/1823 (merged): stage 3 calls Adam for each sub-group, and "
        "one counter served all",
    ),
)

BUGS: dict[str, Bug] = {bug.name: bug for bug in _ALL}
"""All bugs by name, in the order in which they are shown."""
