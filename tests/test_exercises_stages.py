"""The exercises on the stages: right solutions, written in different ways, and the mistakes that are likely."""

import re
from contextlib import contextmanager

import numpy as np
import pytest

from zerosim import initial
from zerosim.exercises import check_stage_1, check_stage_2, check_stage_3
from zerosim.schedule import forward_backward
from zerosim.stages import zero0, zero1, zero2, zero3


def allocate(gradients, states, fill=initial.fill, cls="gradients"):
    """What a rank holds: parameters in full, the others in full ("padded") or its shard ("shard")."""

    def allocate(rank):
        rank.parameters = rank.zeros("parameters", rank.layout.padded)
        rank.gradients = rank.zeros(cls, getattr(rank.layout, gradients))
        elements = getattr(rank.layout, states)
        rank.states = {name: rank.zeros("optimizer_states", elements) for name in rank.optimizer.states}
        fill(rank)

    return allocate


# stage 1 -------------------------------------------------------------------------------------------------------------


def stage_1(
    reduce=lambda rank: rank.comm.reduce_scatter(*rank.buckets(rank.gradients)),
    gather=lambda rank: rank.comm.all_gather(*rank.buckets(rank.parameters)),
    own=lambda bucket: bucket.own,
    times=1.0,
    returned=lambda loss, own, updated: (loss, updated),
):
    """Stage 1's step with something changed."""

    def step(rank, batch):
        own_loss = forward_backward(rank, batch, zero1.forward, zero1.backward)
        reduce(rank)
        loss, factor = rank.agree(own_loss)
        for bucket in rank.layout.buckets() if factor is not None else []:
            rank.update(own(bucket), own(bucket), bucket.shard, times * factor)
        gather(rank)
        return returned(loss, own_loss, factor is not None)

    return step


def through_a_copy(rank, bucket):
    with rank.ledger.borrow("buffers", bucket.size, rank.precision.dtype) as room:
        room[:] = rank.gradients[bucket.full]
        rank.comm.reduce_scatter(room, out=rank.gradients[bucket.own])


def one_by_one(rank, batch):
    """Bucket by bucket, reduced and then updated and gathered, with copies instead of views, phases left out."""
    loss = forward_backward(rank, batch, zero0.forward, zero0.backward)
    for bucket in rank.layout.buckets():
        through_a_copy(rank, bucket)
    loss, factor = rank.agree(loss)
    if factor is None:
        return loss, np.False_
    for bucket in reversed(rank.layout.buckets()):
        rank.update(bucket.own, bucket.own, bucket.shard, factor)
        rank.comm.all_gather(rank.parameters[bucket.full])
    return loss, np.True_


@pytest.mark.parametrize("solution", [(zero1.allocate, zero1.step), (allocate("padded", "shard"), one_by_one)])
def test_stage_1_is_right(solution):
    assert check_stage_1(*solution), repr(check_stage_1(*solution))


def some_ranks_reduce(rank):
    if rank.comm.rank:
        rank.comm.reduce_scatter(*rank.buckets(rank.gradients))


def mean_again(rank):
    rank.comm.reduce_scatter(*rank.buckets(rank.gradients))
    rank.gradients /= rank.comm.size


def nothing(rank):
    pass


def halved_again(rank):
    """Right but for rounding: the loss is divided otherwise."""
    rank.comm.reduce_scatter(*rank.buckets(rank.gradients))
    rank.gradients *= np.float32(1 + 1e-3)


def without_agree(rank, batch):
    loss = forward_backward(rank, batch, zero1.forward, zero1.backward)
    rank.comm.reduce_scatter(*rank.buckets(rank.gradients))
    for bucket in rank.layout.buckets():
        rank.update(bucket.own, bucket.own, bucket.shard, 1.0)
    rank.comm.all_gather(*rank.buckets(rank.parameters))
    return loss, True


def regardless(rank, batch):
    """Nobody asks whether there is a factor; and by name."""
    loss = forward_backward(rank, batch, zero1.forward, zero1.backward)
    rank.comm.reduce_scatter(*rank.buckets(rank.gradients))
    loss, factor = rank.agree(loss, alone=False)
    for bucket in rank.layout.buckets():
        rank.update(parameters=bucket.own, gradients=bucket.own, states=bucket.shard, factor=factor)
    rank.comm.all_gather(*rank.buckets(rank.parameters))
    return loss, factor is not None


def nothing_done(rank, batch):
    return forward_backward(rank, batch, zero1.forward, zero1.backward), False


def asks_twice(rank):
    rank.comm.reduce_scatter(*rank.buckets(rank.gradients))
    rank.agree(0.0)


def into_itself(rank, batch):
    return zero1.step(rank, batch)


def through_a_copy_that_stays(rank):
    for bucket in rank.layout.buckets():
        with rank.ledger.borrow("buffers", bucket.size, rank.precision.dtype) as room:
            room[:] = rank.gradients[bucket.full]
            rank.comm.reduce_scatter(room, out=rank.gradients[bucket.own])


def through_an_array_of_its_own(rank):
    for bucket in rank.layout.buckets():
        room = np.array(rank.gradients[bucket.full])
        rank.comm.reduce_scatter(room, out=rank.gradients[bucket.own])


def leaves(rank):
    raise SystemExit(1)


def for_ever(rank):
    while True:
        pass


right_1 = allocate("padded", "shard")


@pytest.mark.parametrize(
    ("allocate", "step", "says"),
    [
        (
            zero0.allocate,
            zero1.step,
            r"rank 0 holds 41,616 bytes of optimizer states at rest, stage 1's share is 10,404",
        ),
        (
            right_1,
            stage_1(lambda rank: rank.comm.all_reduce(*rank.buckets(rank.gradients))),
            r"the bits are right, but rank 0 has sent 15,606 bytes in a step, 1.5 times the 10,404 of stage 1. "
            r"Passes over the parameters: all_gather 1, all_reduce 1; needed: reduce_scatter 1, all_gather 1. An all_r",
        ),
        (
            right_1,
            stage_1(gather=nothing),
            r"after step 1, rank 0's copy of slice 1 of layer 0 is not rank 1's: it is as before the step",
        ),
        (
            right_1,
            stage_1(reduce=nothing),
            r"slice 0 of layer 0's parameters, rank 0's own, .* no gradient has been sent",
        ),
        (right_1, stage_1(reduce=mean_again), r"its gradient is 0.25 times stage 0's. The loss is divided"),
        (right_1, stage_1(reduce=halved_again), r"its gradient is stage 0's but for rounding"),
        (right_1, without_agree, r"rank.update comes before rank.agree\(loss\)"),
        (
            right_1,
            regardless,
            r"rank.agree has given None for the factor: a gradient has overflowed, all ranks",
        ),
        (right_1, nothing_done, r"step calls rank.agree\(loss\) never; once is right"),
        (right_1, stage_1(asks_twice), r"step calls rank.agree\(loss\) 2 times; once is right"),
        (
            right_1,
            into_itself,
            r"calls itself without end. While it is checked it stands in for zero1's own: what calls",
        ),
        (
            right_1,
            stage_1(through_a_copy_that_stays),
            r"the name `room` still refers to [\d,]+ bytes that were borrowed, after their `with` block has ended",
        ),
        (
            right_1,
            stage_1(through_an_array_of_its_own),
            r"2 ranks \(fp16, adam\) an array of 4,160 bytes that no book shows is held when rank.comm.reduce_"
            r"scatter is called; line \d+ of yours has made it: room = np.array\(",
        ),
        (right_1, stage_1(leaves), r"it leaves the program \(exit\); it must return, in line \d+ of yours: raise Sys"),
        (right_1, stage_1(returned=lambda loss, own, updated: (None, updated)), r"the loss that step returns: it re"),
        (right_1, stage_1(times=0.0), r"its gradient is right, but it has not been updated"),
        (right_1, stage_1(times=-1.0), r"its gradient is right; which slices does rank.update take"),
        (
            right_1,
            stage_1(own=lambda bucket: bucket.full),
            r"slice 1 of layer 0's parameters, .* its gradient is right, but it has not been upd",
        ),
        (right_1, stage_1(returned=lambda loss, own, updated: loss), r"it must return \(loss, whether"),
        (
            right_1,
            stage_1(returned=lambda loss, own, updated: (own, updated)),
            r"rank 0 returns the loss .*; summed over",
        ),
        (right_1, stage_1(returned=lambda loss, own, updated: (loss, True)), r"overflows, and the update is skipped"),
        (
            allocate("padded", "shard", nothing),
            stage_1(),
            r"after allocate, slice 0 .* must end with initial.fill\(rank\)",
        ),
        (nothing, stage_1(), r"allocate has not set rank.parameters on rank 0"),
        (
            allocate("padded", "shard", cls="parameters"),
            stage_1(),
            r"rank \d has 6,936 bytes of parameters, and its book shows 13,872",
        ),
        (right_1, stage_1(some_ranks_reduce), r"Stuck: after 0.5 s rank \d still waits .*, in line \d+ of yours"),
        (right_1, stage_1(for_ever), r"Stuck: rank \d has not ended after 0.5 s"),
        (right_1, lambda rank: None, r"<lambda>\(rank\) must take \(rank, batch\)"),
    ],
)
def test_stage_1_is_wrong(allocate, step, says):
    verdict = check_stage_1(allocate, step, seconds=0.5 if "after 0.5 s" in says else 20)
    assert not verdict
    assert re.search(says, repr(verdict)), repr(verdict)


# stage 2 -------------------------------------------------------------------------------------------------------------


def stage_2(reduce):
    def backward(rank, k, x, dy, add):
        for bucket in rank.layout.buckets(k):
            reduce(rank, bucket, x, dy, add)
        rank.model.input_gradient(k, rank.parameters[rank.layout.layer(k)], dy, x)

    return backward


def into_a_copy(rank, bucket, x, dy, add):
    """Always through the buffer, and added by NumPy."""
    with rank.ledger.borrow("buffers", bucket.size, rank.precision.dtype) as room:
        rank.model.parameter_gradient(x, dy, bucket.start, bucket.stop, room)
        rank.comm.reduce_scatter(room)
        rank.gradients[bucket.shard] = room[bucket.part] + (rank.gradients[bucket.shard] if add else 0)


def without_add(rank, bucket, x, dy, add):
    zero2.reduce(rank, bucket, x, dy, False)


def all_of_it(rank, bucket, x, dy, add):
    """A whole gradient is borrowed, though only a bucket of it is used."""
    with rank.ledger.borrow("buffers", rank.layout.padded, rank.precision.dtype) as room:
        gradient = room[bucket.full]
        rank.model.parameter_gradient(x, dy, bucket.start, bucket.stop, gradient)
        rank.comm.reduce_scatter(gradient)
        rank.accumulate(rank.gradients[bucket.shard], gradient[bucket.part]) if add else None
        rank.gradients[bucket.shard] = rank.gradients[bucket.shard] if add else gradient[bucket.part]
        del gradient


def all_reduced(rank, bucket, x, dy, add):
    with rank.ledger.borrow("buffers", bucket.size, rank.precision.dtype) as room:
        rank.model.parameter_gradient(x, dy, bucket.start, bucket.stop, room)
        rank.comm.all_reduce(room)
        rank.gradients[bucket.shard] = room[bucket.part] + (rank.gradients[bucket.shard] if add else 0)


def the_left_ones_slice(rank, bucket, x, dy, add):
    with rank.ledger.borrow("buffers", bucket.size, rank.precision.dtype) as room:
        rank.model.parameter_gradient(x, dy, bucket.start, bucket.stop, room)
        rank.comm.reduce_scatter(room)
        rank.gradients[bucket.shard] = np.roll(room, bucket.part.stop - bucket.part.start)[bucket.part]


def input_first(rank, k, x, dy, add):
    rank.model.input_gradient(k, rank.parameters[rank.layout.layer(k)], dy, x)
    for bucket in rank.layout.buckets(k):
        zero2.reduce(rank, bucket, x, dy, add)


def kept_aside(rank, k, x, dy, add):
    rank.whole = np.zeros(rank.layout.padded, rank.precision.dtype)
    backward_2(rank, k, x, dy, add)


def in_a_list(rank, k, x, dy, add):
    rank.kept = [np.zeros(rank.layout.padded, rank.precision.dtype)]
    backward_2(rank, k, x, dy, add)


def in_an_array_of_its_own(rank, bucket, x, dy, add):
    room = np.zeros(bucket.size, rank.precision.dtype)
    rank.model.parameter_gradient(x, dy, bucket.start, bucket.stop, room)
    rank.comm.reduce_scatter(room)
    rank.gradients[bucket.shard] = room[bucket.part] + (rank.gradients[bucket.shard] if add else 0)


backward_2 = zero2.backward  # while another stands in for it, that name is the other's


@pytest.mark.parametrize("backward", [zero2.backward, stage_2(into_a_copy)])
def test_stage_2_is_right(backward):
    def step(rank, batch):
        loss, factor = rank.agree(forward_backward(rank, batch, zero0.forward, backward))
        for bucket in rank.layout.buckets():
            if factor is not None:
                rank.update(bucket.own, bucket.shard, bucket.shard, factor)
            rank.comm.all_gather(rank.parameters[bucket.full])
        return float(loss), factor is not None

    verdict = check_stage_2(allocate("shard", "shard"), backward, step)
    assert verdict, repr(verdict)


@pytest.mark.parametrize(
    ("allocate", "backward", "says"),
    [
        (zero1.allocate, zero2.backward, "rank 0 holds 6,936 bytes of gradients at rest, stage 2's share is 1,734"),
        (
            zero2.allocate,
            stage_2(all_of_it),
            r"14,472 bytes of buffers within the step, and a vector of all parameters has 13,872: a layer at a time",
        ),
        (
            zero2.allocate,
            stage_2(without_add),
            r"2 micro-steps, clipped\): .* where `add` is true, add to what is there",
        ),
        (zero2.allocate, stage_2(all_reduced), r"1.5 times the 10,404 of stage 2.*all_gather 1, all_reduce 1; needed"),
        (zero2.allocate, stage_2(the_left_ones_slice), "its gradient is not the sum over all ranks"),
        (zero2.allocate, input_first, "its gradient is right, but layer 2's is not the sum over all ranks"),
        (
            zero2.allocate,
            in_a_list,
            r"bits and books are right, but on 2 ranks .* an array of 6,932 bytes that no book shows is held when "
            r"rank.comm.reduce_scatter is called; line \d+ of yours has made it: rank.kept = \[np.zeros\(.*borrow",
        ),
        (
            zero2.allocate,
            stage_2(in_an_array_of_its_own),
            r"an array of 660 bytes that no book shows .*: room = np.zeros\(",
        ),
        (zero2.allocate, kept_aside, r"rank \d keeps 6,936 bytes from step to step as rank.whole"),
    ],
)
def test_stage_2_is_wrong(allocate, backward, says):
    verdict = check_stage_2(allocate, backward, zero2.step)
    assert not verdict
    assert re.search(says, repr(verdict)), repr(verdict)


# stage 3 -------------------------------------------------------------------------------------------------------------


def gather(place=lambda bucket: bucket, room="buffers", elements=lambda rank, k: rank.layout.layer_size(k), at=0):
    """Stage 3's `gathered` with something changed."""

    @contextmanager
    def gathered(rank, k):
        with rank.ledger.borrow(room, elements(rank, k), rank.precision.dtype) as full:
            weights = full[at : at + rank.layout.layer_size(k)]
            for bucket in rank.layout.buckets(k):
                piece = weights[bucket.within]
                weights[place(bucket).within][bucket.part] = rank.parameters[bucket.shard]
                rank.comm.all_gather(piece)
                del piece
            yield weights
            del weights

    return gathered


def three_times(rank, k, x, dy, add):
    with zero3.gathered(rank, k):
        for bucket in rank.layout.buckets(k):
            zero3.reduce(rank, bucket, x, dy, add)
    with zero3.gathered(rank, k) as weights:
        rank.model.input_gradient(k, weights, dy, x)


def only_where_needed(rank, k, x, dy, add):
    """The first layer's parameters are not gathered in backward: fewer bytes than the formula's."""
    for bucket in rank.layout.buckets(k):
        zero3.reduce(rank, bucket, x, dy, add)
    if k > 0:
        with zero3.gathered(rank, k) as weights:
            rank.model.input_gradient(k, weights, dy, x)


@contextmanager
def first_bucket_only(rank, k):
    with rank.ledger.borrow("buffers", rank.layout.layer_size(k), rank.precision.dtype) as weights:
        weights[:] = 0
        for bucket in rank.layout.buckets(k):
            weights[bucket.part] = rank.parameters[bucket.shard]
        rank.comm.all_gather(*(weights[bucket.within] for bucket in rank.layout.buckets(k)))
        yield weights


@contextmanager
def kept(rank, k):
    """Gathered once, and kept."""
    known = rank.__dict__.setdefault("known", {})
    if k not in known:
        known[k] = rank.zeros("parameters", rank.layout.layer_size(k))
        for bucket in rank.layout.buckets(k):
            known[k][bucket.within][bucket.part] = rank.parameters[bucket.shard]
        rank.comm.all_gather(*(known[k][bucket.within] for bucket in rank.layout.buckets(k)))
    yield known[k]


KNOWN = {}


@contextmanager
def kept_in_a_global(rank, k):
    """Gathered in the first step only: it would be seen by the bits of the next. So the owners' slices are copied."""
    key = id(rank), k
    if key not in KNOWN or rank.optimizer.t > KNOWN[key][0]:
        KNOWN[key] = rank.optimizer.t, np.zeros(rank.layout.layer_size(k), rank.precision.dtype)
        weights = KNOWN[key][1]
        for bucket in rank.layout.buckets(k):
            weights[bucket.within][bucket.part] = rank.parameters[bucket.shard]
        rank.comm.all_gather(*(weights[bucket.within] for bucket in rank.layout.buckets(k)))
    yield KNOWN[key][1]


@contextmanager
def in_a_global_each_time(rank, k):
    """It sends what it must, and keeps the layers besides."""
    weights = KNOWN[id(rank), k] = np.zeros(rank.layout.layer_size(k), rank.precision.dtype)
    for bucket in rank.layout.buckets(k):
        weights[bucket.within][bucket.part] = rank.parameters[bucket.shard]
    rank.comm.all_gather(*(weights[bucket.within] for bucket in rank.layout.buckets(k)))
    yield weights


@pytest.mark.parametrize(("gathered", "backward"), [(gather(), only_where_needed), (zero3.gathered, zero3.backward)])
def test_stage_3_is_right(gathered, backward):
    verdict = check_stage_3(gathered, backward)
    assert verdict, repr(verdict)


@pytest.mark.parametrize(
    ("gathered", "backward", "says"),
    [
        (
            zero3.gathered,
            three_times,
            r"1.33 times the 15,606 of stage 3.*all_gather 3; needed: reduce_scatter 1, all_gather 2",
        ),
        (
            first_bucket_only,
            zero3.backward,
            r"buckets\): .* nor is its loss \(.*forward has computed with other parameters",
        ),
        (
            kept_in_a_global,
            zero3.backward,
            r"the bits are right, but rank \d has sent only [\d,]+ bytes in a step, and stage 3 needs 15,606",
        ),
        (
            in_a_global_each_time,
            zero3.backward,
            r"array of [\d,]+ bytes that no book shows is held when rank.comm.all_gather is called; line \d+ of yours "
            r"has made it: weights = KNOWN",
        ),
        (
            first_bucket_only.__wrapped__,
            zero3.backward,
            r"gathered returns <generator .*; it must be a context manager: @contextmanager above it, yield in it",
        ),
        (
            contextmanager(lambda rank, k: (None for _ in "1")),
            zero3.backward,
            r"gathered yields nothing \(None\); layer 0 is a vector of 2080 elements, padding included",
        ),
        (
            contextmanager(lambda rank, k: (rank.parameters for _ in "1")),
            zero3.backward,
            r"gathered yields an array of shape \(867,\); layer 0 is a vector of 2080 elements",
        ),
        (kept, zero3.backward, r"rank \d has 1,734 bytes of parameters, and its book shows 8,670"),
        (
            gather(elements=lambda rank, k: rank.layout.padded),
            zero3.backward,
            r"buckets\): .* bytes of buffers within the step, and a vector of all parameters has 13,872",
        ),
        (
            gather(room="parameter"),
            zero3.backward,
            r"KeyError: 'parameter', in line \d+ of yours: with rank.ledger.borrow",
        ),
    ],
)
def test_stage_3_is_wrong(gathered, backward, says):
    verdict = check_stage_3(gathered, backward)
    assert not verdict
    assert re.search(says, repr(verdict)), repr(verdict)


def test_the_stages_are_as_before():
    """What stood in for a function is gone, also where it failed."""
    before = zero2.backward
    check_stage_2(zero2.allocate, kept_aside, zero2.step)
    assert zero2.backward is before
